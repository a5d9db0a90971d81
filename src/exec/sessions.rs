//! Groups by sessions, which grow together.
//!
//! Below it, DataFusion aggregates the new rows partially by their keys and by the session that each would be
//! alone: from its time to the gap after it. Here these are merged with one another, and with the sessions
//! that are remembered, wherever two of one key touch.
//!
//! **State**: key: the other keys of the group; subkey: the session's start; value: its start and end, and the
//! state columns of all functions; expiry: the end, unless nothing is ever forgotten.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StructArray, UInt32Array};
use datafusion::arrow::compute::{cast, concat_batches, take};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, SchemaRef, TimeUnit};
use datafusion::common::internal_datafusion_err;
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_plan::PhysicalExpr;

use super::aggregate::Partials;
use super::batch::Batch;
use super::codec::RowCodec;
use super::groups::Groups;
use super::keyed_rows::{Gathered, KeyedRows};
use super::operator::{OperatorCounters, columns, computed_by, window_times};
use super::row_buffer::RowBuffer;
use super::stateful::{Counters, StatefulWork, Tables};
use crate::checkpoint::records::OperatorDefinition;
use crate::sink::OutputMode;
use crate::state::{ByteRows, RowBytes, StateTable};

/// How many sessions are given together.
const OUTPUT_ROWS: usize = 8192;

/// Merges sessions, and gives them as the output mode has it: those that have become final, or all.
#[derive(Debug)]
pub(crate) struct StatefulSessions {
    partials: Partials,
    /// Which column of the key is the session.
    session: usize,
    /// The other keys of the group.
    keys: RowCodec,
    /// Start, end and state columns.
    values: RowCodec,
    value_fields: Vec<Arc<Field>>,
    schema: SchemaRef,
    mode: OutputMode,
    /// How long after its end a session is final, in microseconds; `None` if none ever is.
    delay: Option<i64>,
}

impl StatefulSessions {
    pub(crate) fn new(
        partials: Partials,
        session: usize,
        schema: SchemaRef,
        mode: OutputMode,
        delay: Option<i64>,
    ) -> DataFusionResult<Self> {
        let fields = partials.key_schema.fields();
        let DataType::Struct(window) = fields[session].data_type() else {
            return Err(internal_datafusion_err!("a session that is no window"));
        };
        let others = fields.iter().enumerate().filter(|(index, _)| *index != session);
        let keys = RowCodec::keys(others.map(|(_, field)| field.as_ref()))?;
        let value_fields: Vec<Arc<Field>> = window.iter().chain(&partials.state_fields).cloned().collect();
        let values = RowCodec::values(value_fields.iter().map(AsRef::as_ref))?;
        Ok(Self { partials, session, keys, values, value_fields, schema, mode, delay })
    }
}

impl StatefulWork for StatefulSessions {
    fn name(&self) -> &'static str {
        "StatefulSessionsExec"
    }

    fn describe(&self) -> String {
        let delay = self.delay.map_or_else(String::new, |delay| match delay {
            0 => ", final=end".into(),
            delay => format!(", final=end+{delay}us"),
        });
        format!(
            ", session={}, mode={}{delay}",
            self.partials.key_schema.field(self.session).name(),
            self.mode
        )
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        Vec::new()
    }

    fn definitions(&self) -> Vec<OperatorDefinition> {
        // Codecs follow from fields, and the output mode is the query's.
        let Self { partials, session, keys: _, values: _, value_fields, schema: _, mode: _, delay } = self;
        let fields = || partials.key_schema.fields().iter().map(AsRef::as_ref);
        let others = fields().enumerate().filter(|(index, _)| index != session).map(|(_, field)| field);
        let details = [
            ("keys".to_string(), columns(others)),
            ("columns".to_string(), columns(value_fields.iter().map(AsRef::as_ref))),
            ("functions".to_string(), partials.definition().unwrap_or_default()),
            ("definitions".to_string(), computed_by(fields())),
            ("windowTimes".to_string(), window_times(fields())),
            ("forgotten".to_string(), if delay.is_some() { "by time" } else { "never" }.into()),
        ];
        vec![OperatorDefinition { name: "sessions".into(), details: details.into() }]
    }

    fn run(
        &self,
        rows: Gathered,
        tables: Tables<'_>,
        batch: &Batch,
        results: &mut RowBuffer,
    ) -> DataFusionResult<Counters> {
        let table = tables.first;
        let mut counters = OperatorCounters::default();
        for part in rows.in_parts() {
            let (updated, removed) = self.merge(part?, table)?;
            counters.updated += updated as u64;
            counters.removed += removed as u64;
        }
        let mut finished = Finished::default();
        match (self.mode, batch.watermarks.finals(), self.delay) {
            (OutputMode::Complete, _, _) => {
                table.scan(&mut |key, _, value, _| finished.add(self, key, value, results))?;
            }
            (_, Some(upto), Some(_)) => {
                let removed = &mut counters.removed;
                table.expire(upto, &mut |key, _, value, _| {
                    *removed += 1;
                    finished.add(self, key, value, results)
                })?;
            }
            _ => {}
        }
        finished.give(self, results)?;
        Ok(counters.into())
    }
}

/// A session, or a part of one.
#[derive(Debug)]
struct Piece {
    group: usize,
    start: i64,
    end: i64,
    /// Which of the rows it is, of those that are remembered or of the new ones.
    row: usize,
    is_new: bool,
}

/// A session that a batch has touched.
#[derive(Debug)]
struct Session {
    group: usize,
    start: i64,
    end: i64,
    /// Which of the remembered sessions are in it.
    stored: Vec<usize>,
    new: Vec<usize>,
}

/// Sessions that are remembered, with keys that a batch touches.
struct Stored {
    groups: Vec<usize>,
    subkeys: ByteRows,
    /// Start, end and state.
    columns: Vec<ArrayRef>,
}

impl StatefulSessions {
    /// Merges the new rows with what is remembered. How many sessions were put, and how many are gone.
    fn merge(&self, rows: Vec<KeyedRows>, table: &mut dyn StateTable) -> DataFusionResult<(usize, usize)> {
        let mut groups = Groups::of_rows(rows.iter().map(|keyed| keyed.hashes.len()).sum());
        let mut numbers = Vec::new();
        for keyed in &rows {
            numbers.extend(groups.add(&*keyed.keys, &keyed.hashes));
        }
        let parts: Vec<&RecordBatch> = rows.iter().map(|keyed| &keyed.rows).collect();
        let new = concat_batches(&parts[0].schema(), parts)?;
        let width = self.partials.key_schema.fields().len();
        let stored = self.stored(&groups, table)?;
        let mut pieces = pieces(&numbers, window_columns(new.column(self.session))?, true)?;
        if !stored.groups.is_empty() {
            let times = [Arc::clone(&stored.columns[0]), Arc::clone(&stored.columns[1])];
            pieces.extend(self::pieces(&stored.groups, times, false)?);
        }
        let sessions = merged(pieces);

        // Those that were remembered come first: accumulators take a group below the total for one that has
        // had a value.
        let mut accumulators = self.partials.accumulators()?;
        let known = sessions.iter().filter(|session| !session.stored.is_empty()).count();
        if known > 0 {
            let (places, states) = chosen(&sessions, |session| &session.stored, &stored.columns[2..])?;
            accumulators.merge(&states, &places, known)?;
        }
        let (places, states) = chosen(&sessions, |session| &session.new, &new.columns()[width..])?;
        accumulators.merge(&states, &places, sessions.len())?;

        let gone: Vec<usize> = sessions
            .iter()
            .flat_map(|session| session.stored.iter().map(move |row| (row, session)))
            .filter(|(row, session)| stored.subkeys.row(**row) != subkey(session.start))
            .map(|(row, _)| *row)
            .collect();
        if !gone.is_empty() {
            let keys: ByteRows = gone.iter().map(|row| groups.keys.row(stored.groups[*row])).collect();
            let subkeys: ByteRows = gone.iter().map(|row| stored.subkeys.row(*row)).collect();
            table.remove(&keys, Some(&subkeys))?;
        }
        self.put(&sessions, &groups, accumulators.states()?, table)?;
        Ok((sessions.len(), gone.len()))
    }

    /// The sessions that are remembered of the groups.
    fn stored(&self, groups: &Groups, table: &mut dyn StateTable) -> DataFusionResult<Stored> {
        let mut stored = Stored { groups: Vec::new(), subkeys: ByteRows::default(), columns: Vec::new() };
        let mut values = ByteRows::default();
        table.get_all(&groups.keys, &mut |group, subkey, value, _| {
            stored.groups.push(group);
            stored.subkeys.push(subkey);
            values.push(value);
            Ok(())
        })?;
        stored.columns = self.values.decode_all(&values)?;
        Ok(stored)
    }

    fn put(
        &self,
        sessions: &[Session],
        groups: &Groups,
        states: Vec<ArrayRef>,
        table: &mut dyn StateTable,
    ) -> DataFusionResult<()> {
        let time_type = self.value_fields[0].data_type();
        let times = |pick: fn(&Session) -> i64| -> DataFusionResult<ArrayRef> {
            let times: Int64Array = sessions.iter().map(|session| Some(pick(session))).collect();
            Ok(cast(&times, time_type)?)
        };
        let mut columns = vec![times(|session| session.start)?, times(|session| session.end)?];
        columns.extend(states);
        let values = self.values.encode(&columns, sessions.len())?;
        let keys: ByteRows = sessions.iter().map(|session| groups.keys.row(session.group)).collect();
        let subkeys: ByteRows = sessions.iter().map(|session| subkey(session.start)).collect();
        let ticks = if matches!(time_type, DataType::Timestamp(TimeUnit::Nanosecond, _)) { 1_000 } else { 1 };
        let expiries = self.delay.map(|delay| {
            let micros =
                |end: i64| end.div_euclid(ticks).saturating_add(i64::from(end.rem_euclid(ticks) > 0));
            sessions.iter().map(|session| micros(session.end).saturating_add(delay)).collect::<Vec<_>>()
        });
        Ok(table.put(&keys, Some(&subkeys), &values, expiries.as_deref())?)
    }
}

/// Sorts as the start does.
fn subkey(start: i64) -> [u8; 8] {
    (start.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

/// The starts and ends of windows.
fn window_columns(windows: &ArrayRef) -> DataFusionResult<[ArrayRef; 2]> {
    match windows.as_struct_opt().map(StructArray::columns) {
        Some([start, end]) => Ok([Arc::clone(start), Arc::clone(end)]),
        _ => Err(internal_datafusion_err!("sessions that are no windows")),
    }
}

fn pieces(groups: &[usize], [starts, ends]: [ArrayRef; 2], is_new: bool) -> DataFusionResult<Vec<Piece>> {
    let (starts, ends) = (cast(&starts, &DataType::Int64)?, cast(&ends, &DataType::Int64)?);
    let (starts, ends) = (starts.as_primitive::<Int64Type>(), ends.as_primitive::<Int64Type>());
    let pieces = groups.iter().enumerate();
    let piece = |(row, group): (usize, &usize)| Piece {
        group: *group,
        start: starts.value(row),
        end: ends.value(row),
        row,
        is_new,
    };
    Ok(pieces.map(piece).collect())
}

/// The sessions of which a part is new; first those of which another is not.
fn merged(mut pieces: Vec<Piece>) -> Vec<Session> {
    pieces.sort_unstable_by_key(|piece| (piece.group, piece.start, piece.end, piece.is_new, piece.row));
    let mut sessions: Vec<Session> = Vec::new();
    for piece in pieces {
        let goes_on = |last: &&mut Session| last.group == piece.group && piece.start <= last.end;
        let session = match sessions.last_mut().filter(goes_on) {
            Some(session) => session,
            None => {
                let Piece { group, start, end, .. } = piece;
                sessions.push(Session { group, start, end, stored: Vec::new(), new: Vec::new() });
                let last = sessions.len() - 1;
                &mut sessions[last]
            }
        };
        session.end = session.end.max(piece.end);
        if piece.is_new { &mut session.new } else { &mut session.stored }.push(piece.row);
    }
    sessions.retain(|session| !session.new.is_empty());
    sessions.sort_by_key(|session| session.stored.is_empty());
    sessions
}

/// Rows of states that are in sessions, in the order of the rows, and which session each is in.
fn chosen(
    sessions: &[Session],
    rows: impl Fn(&Session) -> &Vec<usize>,
    states: &[ArrayRef],
) -> DataFusionResult<(Vec<usize>, Vec<ArrayRef>)> {
    let all = sessions.iter().enumerate();
    let mut places: Vec<(usize, usize)> =
        all.flat_map(|(number, session)| rows(session).iter().map(move |row| (*row, number))).collect();
    places.sort_unstable();
    let rows: UInt32Array = places.iter().map(|(row, _)| *row as u32).collect::<Vec<_>>().into();
    let states = states.iter().map(|state| Ok(take(state, &rows, None)?)).collect::<DataFusionResult<_>>()?;
    Ok((places.into_iter().map(|(_, number)| number).collect(), states))
}

/// Sessions that are to be given.
#[derive(Default)]
struct Finished {
    keys: ByteRows,
    values: ByteRows,
}

impl Finished {
    fn add(
        &mut self,
        work: &StatefulSessions,
        key: &[u8],
        value: &[u8],
        results: &mut RowBuffer,
    ) -> crate::error::Result<()> {
        self.keys.push(key);
        self.values.push(value);
        if self.keys.len() == OUTPUT_ROWS {
            self.give(work, results)?;
        }
        Ok(())
    }

    fn give(&mut self, work: &StatefulSessions, results: &mut RowBuffer) -> DataFusionResult<()> {
        let rows = self.keys.len();
        if rows == 0 {
            return Ok(());
        }
        let mut columns = work.keys.decode_all(&self.keys)?;
        let mut values = work.values.decode_all(&self.values)?;
        let states = values.split_off(2);
        let fields = work.value_fields[..2].to_vec().into();
        columns.insert(work.session, Arc::new(StructArray::try_new(fields, values, None)?));
        columns.extend(work.partials.results(&states, rows)?);
        results.push(RecordBatch::try_new(Arc::clone(&work.schema), columns)?)?;
        (self.keys, self.values) = Default::default();
        Ok(())
    }
}
