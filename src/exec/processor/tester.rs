//! Running a processor without a query.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::execution::runtime_env::RuntimeEnv;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::given::to_batches;
use super::keyed_state::{Due, KeyedState, Moment, SmallRow, TimeMode};
use super::rows::Source;
use super::stateful_processor::{AnyProcessor, StatefulProcessor, Typed};
use super::timestamp::Timestamp;
use super::work::StatefulTransform;
use crate::error::{Error, Result};
use crate::exec::batch::Batch;
use crate::exec::codec::RowCodec;
use crate::exec::event_time::Watermarks;
use crate::exec::keyed_rows::{Gathered, KeyedRows};
use crate::exec::operator::OperatorCounters;
use crate::exec::room::Space;
use crate::exec::row_buffer::RowBuffer;
use crate::exec::stateful::{StatefulWork, Tables};
use crate::sink::{OutputMode, SinkBatch};
use crate::state::{ByteRows, Found, MemoryTable, NEVER, RowBytes, StateTable, hash_key};

/// Runs a [`StatefulProcessor`] in a test, with the operator that a query runs it with, but without a query: the
/// test says which rows come and what time it is, and looks at what is given and at what is in state.
///
/// ```
/// # use std::sync::Arc;
/// # use serde::{Deserialize, Serialize};
/// # use tidemill::Result;
/// use tidemill::arrow::datatypes::{DataType, Field, Schema};
/// use tidemill::processor::{Call, ProcessorTester, Rows, StateVariables, StatefulProcessor, TimeMode, ValueState};
///
/// #[derive(Serialize, Deserialize)]
/// struct Payment {
///     card: String,
///     amount: i64,
/// }
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// struct Total {
///     total: i64,
/// }
///
/// struct Totals;
///
/// impl StatefulProcessor for Totals {
/// #   type Key = String;
/// #   type Input = Payment;
/// #   type Output = Total;
/// #   type State = ValueState<i64>;
/// #   fn init(&self, variables: &mut StateVariables) -> Result<ValueState<i64>> {
/// #       variables.value("total")
/// #   }
/// #   fn handle_input_rows(
/// #       &self,
/// #       total: &ValueState<i64>,
/// #       rows: Rows<'_, Payment>,
/// #       call: &mut Call<'_, Self>,
/// #   ) -> Result<()> {
/// #       let mut sum = total.get(call)?.unwrap_or(0);
/// #       for payment in rows {
/// #           sum += payment?.amount;
/// #       }
/// #       total.update(call, &sum)?;
/// #       call.emit(&Total { total: sum })
/// #   }
///     // …
/// }
///
/// # fn main() -> Result<()> {
/// let input = Arc::new(Schema::new(vec![
///     Field::new("card", DataType::Utf8, false),
///     Field::new("amount", DataType::Int64, false),
/// ]));
/// let output = Arc::new(Schema::new(vec![Field::new("total", DataType::Int64, false)]));
/// let mut tester = ProcessorTester::new(Totals, input, &["card"], output, TimeMode::None)?;
/// let payment = |card: &str, amount| Payment { card: card.into(), amount };
/// assert_eq!(tester.process(&[payment("a", 1), payment("a", 2)])?, [Total { total: 3 }]);
/// assert_eq!(tester.process(&[payment("a", 4)])?, [Total { total: 7 }]);
/// let total = tester.inspect(&"a", |total, state| total.get(state))?;
/// assert_eq!(total, Some(7));
/// # Ok(())
/// # }
/// ```
pub struct ProcessorTester<P: StatefulProcessor> {
    processor: Arc<Typed<P>>,
    work: StatefulTransform,
    keys: Vec<String>,
    table: MemoryTable,
    timers: MemoryTable,
    initial: Vec<RecordBatch>,
    now: Timestamp,
    watermark: Option<Timestamp>,
    batch_id: u64,
}

impl<P: StatefulProcessor> fmt::Debug for ProcessorTester<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessorTester").field("batch_id", &self.batch_id).finish_non_exhaustive()
    }
}

/// A row of state: key, subkey, value, and when it expires.
type StoredRow = (Vec<u8>, Vec<u8>, Vec<u8>, i64);

/// What a [`ProcessorTester`] had in state, and what time it was.
#[derive(Debug, Clone, PartialEq)]
pub struct StateSnapshot {
    table: Vec<StoredRow>,
    timers: Vec<StoredRow>,
    now: Timestamp,
    watermark: Option<Timestamp>,
    batch_id: u64,
}

impl<P: StatefulProcessor> ProcessorTester<P> {
    /// With nothing in state, at the beginning of 1970, over rows of these columns with these keys among them.
    ///
    /// # Errors
    /// If there is no such key column, or one has a type that cannot be kept in state; those of
    /// [`StatefulProcessor::init`].
    pub fn new(
        processor: P,
        input: SchemaRef,
        keys: &[&str],
        output: SchemaRef,
        mode: TimeMode,
    ) -> Result<Self> {
        let indices = keys.iter().map(|key| Ok(input.index_of(key)?)).collect::<Result<Vec<usize>>>()?;
        let key_schema = Arc::new(input.project(&indices)?);
        let codec = RowCodec::keys(key_schema.fields().iter().map(AsRef::as_ref))?;
        let processor = Arc::new(Typed::new(processor, None)?);
        let work = StatefulTransform {
            processor: Arc::clone(&processor) as Arc<dyn AnyProcessor>,
            inputs: vec![input, Arc::new(Schema::empty())],
            key_schema,
            keys: codec,
            schema: output,
            mode,
            delay: 0,
        };
        Ok(Self {
            processor,
            work,
            keys: keys.iter().map(|key| (*key).to_string()).collect(),
            table: MemoryTable::default(),
            timers: MemoryTable::default(),
            initial: Vec::new(),
            now: Timestamp::default(),
            watermark: None,
            batch_id: 0,
        })
    }

    /// Gives rows of an initial state to the first batch.
    pub fn initial_state(&mut self, rows: RecordBatch) {
        self.work.inputs[1] = rows.schema();
        self.initial.push(rows);
    }

    /// Runs a batch with these rows, and gives what the processor gives.
    ///
    /// # Errors
    /// Those of the processor, which name the key. The state may hold a part of the batch then.
    pub fn process<I: Serialize>(&mut self, rows: &[I]) -> Result<Vec<P::Output>>
    where
        P::Output: DeserializeOwned,
    {
        let batches = to_batches(&self.work.inputs[0], rows)?;
        values(self.process_batches(batches)?)
    }

    /// Runs a batch with these rows, as columns.
    ///
    /// # Errors
    /// As for [`process`](Self::process).
    pub fn process_batches(&mut self, rows: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
        let mut keyed = Vec::new();
        for rows in std::mem::take(&mut self.initial) {
            keyed.push(self.keyed(1, rows)?);
        }
        for rows in rows {
            keyed.push(self.keyed(0, rows)?);
        }
        let millis = self.watermark.map_or(0, |time| time.as_micros().div_euclid(1000));
        let batch = Batch {
            identity: SinkBatch {
                query_id: Uuid::nil(),
                run_id: Uuid::nil(),
                batch_id: self.batch_id,
                output_mode: OutputMode::Append,
            },
            inputs: Vec::new(),
            watermarks: Watermarks { late_ms: 0, final_ms: millis, nulls_final: false },
            keeps_late_rows: false,
            measures: false,
            time_ms: self.now.as_micros().div_euclid(1000),
            is_first: self.batch_id == 0,
        };
        let tables = Tables { first: &mut self.table, second: Some(&mut self.timers) };
        let space = Space::of(&RuntimeEnv::default());
        let mut results = RowBuffer::new(&space, 1);
        self.work.run(Gathered::here(keyed, space.share(1)), tables, &batch, &mut results)?;
        self.batch_id += 1;
        Ok(results.finish()?.collect()?)
    }

    /// Lets the time go on by whole milliseconds, and runs a batch without rows.
    ///
    /// # Errors
    /// As for [`process`](Self::process).
    pub fn advance_time(&mut self, by: Duration) -> Result<Vec<P::Output>>
    where
        P::Output: DeserializeOwned,
    {
        self.now = self.now + by;
        values(self.process_batches(Vec::new())?)
    }

    /// Moves the watermark on, in whole milliseconds, and runs a batch without rows.
    ///
    /// # Errors
    /// If it would go back; as for [`process`](Self::process).
    pub fn advance_watermark(&mut self, to: Timestamp) -> Result<Vec<P::Output>>
    where
        P::Output: DeserializeOwned,
    {
        if let Some(watermark) = self.watermark.filter(|watermark| to < *watermark) {
            return Err(Error::Invalid(format!(
                "the watermark is at {watermark}, and never goes back to {to}"
            )));
        }
        self.watermark = Some(to);
        values(self.process_batches(Vec::new())?)
    }

    /// Calls `look` with the state of a key: the value of the key's column; of several, a struct with their names.
    ///
    /// # Errors
    /// If the key is none; those of `look`.
    pub fn inspect<K: Serialize, R>(
        &mut self,
        key: &K,
        look: impl FnOnce(&P::State, &mut KeyedState<'_>) -> Result<R>,
    ) -> Result<R> {
        let keys = match self.keys.as_slice() {
            [only] => to_batches(&self.work.key_schema, &[BTreeMap::from([(only, key)])])?,
            _ => to_batches(&self.work.key_schema, &[key])?,
        };
        let columns: Vec<ArrayRef> = keys.iter().flat_map(|keys| keys.columns().to_vec()).collect();
        let keys = self.work.keys.encode(&columns, 1)?;
        let mut found = Found::default();
        self.table.get(&keys, None, &mut found)?;
        let stored = (!found.positions.is_empty()).then(|| found.values.row(0));
        let moment = self.moment();
        let mut row = SmallRow::decode(stored.unwrap_or_default(), moment.now)?;
        // To look is not to change.
        let (table, timers) = (copy(&rows_of(&mut self.table)?)?, copy(&rows_of(&mut self.timers)?)?);
        let (mut table, mut timers) = (table, timers);
        let mut state = KeyedState {
            key: keys.row(0),
            moment,
            row: &mut row,
            table: &mut table,
            timers: &mut timers,
            due: &mut Due::default(),
            counters: &mut [OperatorCounters::default(); 2],
            touched: &mut false,
        };
        look(self.processor.state(), &mut state)
    }

    /// What is in state, to go on from later.
    ///
    /// # Errors
    /// None that could be helped.
    pub fn snapshot(&mut self) -> Result<StateSnapshot> {
        Ok(StateSnapshot {
            table: rows_of(&mut self.table)?,
            timers: rows_of(&mut self.timers)?,
            now: self.now,
            watermark: self.watermark,
            batch_id: self.batch_id,
        })
    }

    /// Goes on from a snapshot, as a query does from its checkpoint: of this tester, or of another one, whose
    /// processor may have had fewer state variables.
    ///
    /// # Errors
    /// None that could be helped.
    pub fn restore(&mut self, snapshot: &StateSnapshot) -> Result<()> {
        self.table = copy(&snapshot.table)?;
        self.timers = copy(&snapshot.timers)?;
        (self.now, self.watermark, self.batch_id) = (snapshot.now, snapshot.watermark, snapshot.batch_id);
        Ok(())
    }

    fn moment(&self) -> Moment {
        Moment {
            batch_id: self.batch_id,
            now: self.now.as_micros(),
            watermark: self.watermark.map(Timestamp::as_micros),
            mode: self.work.mode,
        }
    }

    fn keyed(&self, input: usize, rows: RecordBatch) -> Result<KeyedRows> {
        let column = |key: &String| {
            rows.column_by_name(key).cloned().ok_or_else(|| {
                Error::Invalid(format!("rows without the key column '{key}': {}", rows.schema_ref()))
            })
        };
        let columns = self.keys.iter().map(column).collect::<Result<Vec<ArrayRef>>>()?;
        let keys = self.work.keys.encode(&columns, rows.num_rows())?;
        let hashes = keys.iter().map(hash_key).collect();
        Ok(KeyedRows { input, rows, keys: Box::new(keys), hashes })
    }
}

fn values<T: DeserializeOwned>(batches: Vec<RecordBatch>) -> Result<Vec<T>> {
    let mut values = Vec::new();
    for batch in batches {
        let rows = batch.num_rows();
        let source = Source::new(batch);
        for row in 0..rows {
            values.push(source.read(row)?);
        }
    }
    Ok(values)
}

fn rows_of(table: &mut MemoryTable) -> Result<Vec<StoredRow>> {
    let mut rows: Vec<StoredRow> = Vec::new();
    table.scan(&mut |key, subkey, value, expiry| {
        rows.push((key.to_vec(), subkey.to_vec(), value.to_vec(), expiry.unwrap_or(NEVER)));
        Ok(())
    })?;
    rows.sort_unstable();
    Ok(rows)
}

fn copy(rows: &[StoredRow]) -> Result<MemoryTable> {
    let mut table = MemoryTable::default();
    let keys: ByteRows = rows.iter().map(|row| &row.0).collect();
    let subkeys: ByteRows = rows.iter().map(|row| &row.1).collect();
    let values: ByteRows = rows.iter().map(|row| &row.2).collect();
    let expiries: Vec<i64> = rows.iter().map(|row| row.3).collect();
    table.put(&keys, Some(&subkeys), &values, Some(&expiries))?;
    Ok(table)
}
