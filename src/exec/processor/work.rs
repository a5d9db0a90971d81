//! The operator that calls a processor.

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_plan::PhysicalExpr;
use serde_json::Value;

use super::encoding::ENCODING;
use super::given::GivenRows;
use super::keyed_state::{Due, KeyedState, Moment, SmallRow, TimeMode};
use super::rows::{AnyRows, Source};
use super::stateful_processor::{AnyProcessor, Event};
use crate::checkpoint::records::OperatorDefinition;
use crate::error::{Error, Result};
use crate::exec::batch::Batch;
use crate::exec::codec::RowCodec;
use crate::exec::groups::Groups;
use crate::exec::keyed_rows::{Gathered, KeyedRows};
use crate::exec::operator::{OperatorCounters, columns, computed_by, window_times};
use crate::exec::row_buffer::RowBuffer;
use crate::exec::stateful::{Counters, Expires, StatefulWork, Tables};
use crate::state::{ByteRows, Found, NEVER, RowBytes, StateTable};

/// How many keys are looked up together.
const CHUNK: usize = 1024;

/// The name of its first table in checkpoints, and of its second.
pub(crate) const TRANSFORM: &str = "transformWithState";
const TIMERS: &str = "timers";

/// Microseconds per millisecond.
const MICROS: i64 = 1000;

/// Calls a processor for every key that has rows, and for every timer that has expired.
pub(crate) struct StatefulTransform {
    pub(crate) processor: Arc<dyn AnyProcessor>,
    /// The columns of the rows that come in, and of those of the initial state.
    pub(crate) inputs: Vec<SchemaRef>,
    pub(crate) key_schema: SchemaRef,
    pub(crate) keys: RowCodec,
    /// The columns of the rows that are given.
    pub(crate) schema: SchemaRef,
    pub(crate) mode: TimeMode,
    /// How long after the watermark has passed their event time rows may come, in microseconds.
    pub(crate) delay: i64,
}

impl fmt::Debug for StatefulTransform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatefulTransform").field("processor", &self.processor.name()).finish_non_exhaustive()
    }
}

impl StatefulWork for StatefulTransform {
    fn name(&self) -> &'static str {
        "TransformWithStateExec"
    }

    fn describe(&self) -> String {
        format!(", processor={}, timeMode={}", self.processor.name(), self.mode.name())
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        Vec::new()
    }

    fn definitions(&self) -> Vec<OperatorDefinition> {
        // What comes in and what is given is the processor's.
        let Self { processor, inputs: _, key_schema, keys: _, schema: _, mode, delay: _ } = self;
        let fields = || key_schema.fields().iter().map(AsRef::as_ref);
        let keys = || ("keys".to_string(), columns(fields()));
        let computed = || ("definitions".to_string(), computed_by(fields()));
        let times = || ("windowTimes".to_string(), window_times(fields()));
        let mode = || ("timeMode".to_string(), Value::from(mode.name()));
        let variables = processor.variables().iter().map(|variable| variable.definition.clone()).collect();
        let state = [
            keys(),
            computed(),
            times(),
            mode(),
            ("encoding".into(), ENCODING.into()),
            ("variables".into(), variables),
        ];
        vec![
            OperatorDefinition { name: TRANSFORM.into(), details: state.into() },
            OperatorDefinition { name: TIMERS.into(), details: [keys(), computed(), mode()].into() },
        ]
    }

    fn expires(&self) -> Vec<Expires> {
        let timers = match self.mode {
            TimeMode::ProcessingTime => Expires::WakingByBatchTime,
            TimeMode::EventTime => Expires::WakingByWatermark,
            TimeMode::None => Expires::ByBatchTime,
        };
        vec![Expires::ByBatchTime, timers]
    }

    fn run(
        &self,
        rows: Gathered,
        tables: Tables<'_>,
        batch: &Batch,
        results: &mut RowBuffer,
    ) -> DataFusionResult<Counters> {
        let Some(timers) = tables.second else {
            return datafusion::common::internal_err!("a processor without a table for its timers");
        };
        let watermark = batch.watermarks.finals().map(|time| time.saturating_sub(self.delay));
        let moment = Moment {
            batch_id: batch.identity.batch_id,
            now: batch.time_ms.saturating_mul(MICROS),
            watermark,
            mode: self.mode,
        };
        let mut run = Run::begin(self, tables.first, timers, moment)?;
        for part in rows.in_parts() {
            let (initial, rows): (Vec<_>, Vec<_>) = part?.into_iter().partition(|keyed| keyed.input == 1);
            if batch.is_first {
                run.rows(initial, true)?;
            }
            run.rows(rows, false)?;
        }
        run.timers()?;
        let [first, second] = run.counters;
        run.given.finish()?.into_iter().try_for_each(|rows| results.push(rows))?;
        Ok(Counters { first, second })
    }
}

/// One batch in one state partition.
struct Run<'a> {
    work: &'a StatefulTransform,
    table: &'a mut (dyn StateTable + 'static),
    timers: &'a mut (dyn StateTable + 'static),
    moment: Moment,
    due: Due,
    given: GivenRows,
    counters: [OperatorCounters; 2],
}

/// Rows by their keys.
struct Grouped {
    groups: Groups,
    sources: Vec<Source>,
    /// Of each row, in the order of the groups, which source has it, and where.
    places: Vec<(usize, usize)>,
    /// Where the rows of each group end.
    ends: Vec<usize>,
}

impl Grouped {
    fn of(rows: Vec<KeyedRows>) -> Self {
        let mut groups = Groups::of_rows(rows.iter().map(|keyed| keyed.hashes.len()).sum());
        let mut numbers = Vec::new();
        let mut sources = Vec::with_capacity(rows.len());
        let mut all = Vec::new();
        for (source, keyed) in rows.into_iter().enumerate() {
            numbers.extend(groups.add(&*keyed.keys, &keyed.hashes));
            all.extend((0..keyed.hashes.len()).map(|row| (source, row)));
            sources.push(Source::new(keyed.rows));
        }
        // Where the rows of each group begin, moved on to their end.
        let mut ends = vec![0; groups.len() + 1];
        numbers.iter().for_each(|group| ends[group + 1] += 1);
        for group in 0..groups.len() {
            ends[group + 1] += ends[group];
        }
        let mut places = vec![(0, 0); all.len()];
        for (group, place) in numbers.into_iter().zip(all) {
            places[ends[group]] = place;
            ends[group] += 1;
        }
        ends.truncate(groups.len());
        Self { groups, sources, places, ends }
    }

    fn rows_of(&self, group: usize) -> &[(usize, usize)] {
        let start = if group == 0 { 0 } else { self.ends[group - 1] };
        &self.places[start..self.ends[group]]
    }
}

impl<'a> Run<'a> {
    /// Forgets what is to be forgotten, and takes out the timers that are due.
    fn begin(
        work: &'a StatefulTransform,
        table: &'a mut (dyn StateTable + 'static),
        timers: &'a mut (dyn StateTable + 'static),
        moment: Moment,
    ) -> Result<Self> {
        let mut counters = [OperatorCounters::default(); 2];
        table.expire(moment.now, &mut |_, _, _, _| {
            counters[0].removed += 1;
            Ok(())
        })?;
        let mut due = Due::default();
        if let Some(clock) = moment.clock() {
            timers.expire(clock, &mut |key, _, _, time| {
                counters[1].removed += 1;
                due.timers.insert((time.unwrap_or(clock), key.to_vec()));
                Ok(())
            })?;
        }
        let given = GivenRows::new(Arc::clone(&work.schema));
        Ok(Self { work, table, timers, moment, due, given, counters })
    }

    /// Has the processor called for all rows, key by key in the order in which they come.
    fn rows(&mut self, rows: Vec<KeyedRows>, is_initial: bool) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let grouped = Grouped::of(rows);
        let keys = Source::new(self.keys(&grouped.groups.keys)?);
        let all = grouped.groups.len();
        for from in (0..all).step_by(CHUNK) {
            let chunk = from..all.min(from + CHUNK);
            self.chunk(&grouped, chunk, &keys, is_initial)?;
        }
        Ok(())
    }

    fn keys(&self, keys: &dyn RowBytes) -> Result<RecordBatch> {
        let columns = self.work.keys.decode_all(keys)?;
        let options = RecordBatchOptions::new().with_row_count(Some(keys.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.work.key_schema), columns, &options)?)
    }

    fn chunk(
        &mut self,
        grouped: &Grouped,
        chunk: Range<usize>,
        keys: &Source,
        is_initial: bool,
    ) -> Result<()> {
        let names: ByteRows = chunk.clone().map(|group| grouped.groups.keys.row(group)).collect();
        let hashes = &grouped.groups.hashes[chunk.clone()];
        let mut found = Found::default();
        self.table.find(&names, hashes, &mut found)?;
        let mut changes = Changes::default();
        let mut known = found.positions.iter().copied().enumerate().peekable();
        for (position, group) in chunk.enumerate() {
            let stored = known.next_if(|(_, found)| *found == position);
            let stored = stored.map(|(value, _)| found.values.row(value));
            let mut row = SmallRow::decode(stored.unwrap_or_default(), self.moment.now)?;
            let schema = &self.work.inputs[usize::from(is_initial)];
            let rows = AnyRows::new(&grouped.sources, grouped.rows_of(group), schema);
            let event = if is_initial { Event::InitialRows(rows) } else { Event::Rows(rows) };
            self.call(event, (keys, group), names.row(position), &mut row, &mut changes.touched)?;
            changes.note(position, &row, stored.is_some());
        }
        changes.write(self, (&names, hashes), found)
    }

    /// Calls for the timers that are due, and for those that these register and that are due as well.
    fn timers(&mut self) -> Result<()> {
        while let Some((time, key)) = self.due.timers.pop_first() {
            self.due.firing = Some(time);
            let names: ByteRows = [&key].into_iter().collect();
            let keys = Source::new(self.keys(&names)?);
            let mut found = Found::default();
            self.table.get(&names, None, &mut found)?;
            let stored = (!found.positions.is_empty()).then(|| found.values.row(0));
            let mut row = SmallRow::decode(stored.unwrap_or_default(), self.moment.now)?;
            let mut changes = Changes { touched: true, ..Changes::default() };
            self.call(Event::Timer(time), (&keys, 0), &key, &mut row, &mut changes.touched)?;
            changes.touched = true;
            changes.note(0, &row, stored.is_some());
            changes.write(self, (&names, &[]), found)?;
        }
        Ok(())
    }

    fn call(
        &mut self,
        event: Event<'_>,
        (keys, number): (&Source, usize),
        key: &[u8],
        row: &mut SmallRow,
        touched: &mut bool,
    ) -> Result<()> {
        let processor = &self.work.processor;
        let state = KeyedState {
            key,
            moment: self.moment,
            row,
            table: &mut *self.table,
            timers: &mut *self.timers,
            due: &mut self.due,
            counters: &mut self.counters,
            touched,
        };
        let (handler, given) = (event.handler(), &mut self.given);
        // What it leaves behind is not looked at after a panic: the batch fails.
        let called = catch_unwind(AssertUnwindSafe(|| processor.call(event, (keys, number), state, given)));
        let failed = match called {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(panic) => Error::Invalid(format!("it panicked: {}", message(&*panic))),
        };
        Err(Error::Processor {
            processor: processor.name().to_string(),
            handler,
            key: key_text(keys.batch(), number),
            source: Box::new(failed),
        })
    }
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

/// A key for people.
fn key_text(keys: &RecordBatch, row: usize) -> String {
    let columns = keys.schema_ref().fields().iter().zip(keys.columns());
    let text = |column| array_value_to_string(column, row).unwrap_or_else(|error| error.to_string());
    let values: Vec<String> = columns
        .map(|(field, column)| match column.is_null(row) {
            true => format!("{} = NULL", field.name()),
            false => format!("{} = '{}'", field.name(), text(column)),
        })
        .collect();
    if values.is_empty() { "all rows".into() } else { values.join(", ") }
}

/// What calls have changed of the rows without subkeys.
#[derive(Default)]
struct Changes {
    /// Which keys have a row now that is to be written, and which have none any more.
    put: Vec<usize>,
    gone: Vec<usize>,
    values: Vec<u8>,
    ends: Vec<usize>,
    expiries: Vec<i64>,
    /// Whether the table was changed besides.
    touched: bool,
}

impl Changes {
    fn note(&mut self, position: usize, row: &SmallRow, was_there: bool) {
        if !row.changed {
            return;
        }
        if row.is_empty() {
            if was_there {
                self.gone.push(position);
            }
            return;
        }
        self.put.push(position);
        row.encode(&mut self.values);
        self.ends.push(self.values.len());
        self.expiries.push(row.expiry());
    }

    fn write(self, run: &mut Run<'_>, (names, hashes): (&ByteRows, &[u64]), mut found: Found) -> Result<()> {
        let some =
            |positions: &[usize]| -> ByteRows { positions.iter().map(|row| names.row(*row)).collect() };
        if !self.put.is_empty() {
            run.counters[0].updated += self.put.len() as u64;
            let values = ByteRows::of_parts(self.values, self.ends);
            let expires = self.expiries.iter().any(|expiry| *expiry != NEVER);
            let expiries = expires.then_some(self.expiries.as_slice());
            let keys = some(&self.put);
            if self.touched {
                run.table.put(&keys, None, &values, expiries)?;
            } else {
                let hashes: Vec<u64> = self.put.iter().map(|row| hashes[*row]).collect();
                found.reorder(&self.put);
                run.table.replace(&keys, &hashes, &found, &values, expiries)?;
            }
        }
        if !self.gone.is_empty() {
            run.counters[0].removed += self.gone.len() as u64;
            run.table.remove(&some(&self.gone), None)?;
        }
        Ok(())
    }
}
