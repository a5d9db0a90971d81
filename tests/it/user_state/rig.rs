//! A processor that uses everything there is, and queries with it.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::Deserialize;
use tempfile::TempDir;
use tidemill::clock::{Clock, ManualClock};
use tidemill::prelude::*;
use tidemill::processor::{
    Call, KeyedState, ListState, MapState, Rows, StateVariables, Timestamp, ValueState,
};
use tidemill::source::memory::MemoryStream;
use tidemill::{Environment, Result, SourceFactory};

use super::oracle::{Fed, Out, simulate};
use crate::stateful::rig::{Capture, CaptureFactory, FeedFactory};
use crate::stateful::values::Value;
use crate::stateful::wide::Wide;
use crate::support::committed::{commits, record};
use crate::support::sim_disk::Dice;

pub const TIMER_MS: i64 = 7_000;
pub const VALUE_TTL_MS: i64 = 20_000;
pub const MAP_TTL_MS: i64 = 15_000;
/// The delay of the watermark.
const DELAY_MS: i64 = 5_000;

/// A row that comes in.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub id: i64,
    pub k: Option<i64>,
    pub v: i64,
    /// Microseconds.
    pub ts: Option<i64>,
}

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

pub fn input_schema() -> SchemaRef {
    let int = |name: &str| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![int("id"), int("k"), int("v"), Field::new("ts", time_type(), true)]))
}

pub fn output_schema() -> SchemaRef {
    let int = |name: &str| Field::new(name, DataType::Int64, true);
    let what = Field::new("what", DataType::Utf8, false);
    Arc::new(Schema::new(vec![int("k"), what, int("a"), int("b"), int("c")]))
}

pub fn batch_of(rows: &[Row]) -> RecordBatch {
    let int = |value: fn(&Row) -> Option<i64>| -> ArrayRef {
        Arc::new(rows.iter().map(value).collect::<Int64Array>())
    };
    let times: TimestampMicrosecondArray = rows.iter().map(|row| row.ts).collect();
    let columns =
        vec![int(|row| Some(row.id)), int(|row| row.k), int(|row| Some(row.v)), Arc::new(times) as ArrayRef];
    RecordBatch::try_new(input_schema(), columns).unwrap()
}

/// Rows that were given, as they came.
pub fn outs(batches: &[RecordBatch]) -> Vec<Out> {
    crate::stateful::values::rows_of(batches).iter().map(out_of).collect()
}

fn out_of(row: &crate::stateful::values::Row) -> Out {
    let Value::Text(what) = &row[1] else { panic!("{row:?}") };
    let int = |column: usize| row[column].int();
    Out { k: int(0), what: what.clone(), a: int(2).unwrap(), b: int(3).unwrap(), c: int(4).unwrap() }
}

/// Values, lists, maps, timers and times to live.
#[derive(Debug, Clone, Copy)]
pub struct Everything {
    pub mode: TimeMode,
}

#[derive(Debug)]
pub struct Variables {
    pub total: ValueState<i64>,
    pub list: ListState<i64>,
    map: MapState<i64, (i64, String)>,
    recent: ValueState<Recent>,
}

#[derive(Debug, serde::Serialize, Deserialize)]
struct Recent {
    id: i64,
}

#[derive(Debug, Deserialize)]
pub struct In {
    id: i64,
    v: i64,
    ts: Option<Timestamp>,
}

impl Variables {
    fn sums(&self, state: &mut KeyedState<'_>) -> Result<(i64, i64)> {
        let list = self.list.get(state)?;
        let map: i64 = self.map.entries(state)?.iter().map(|(key, (count, _))| (key + 1) * 100 * count).sum();
        Ok((list.iter().sum::<i64>() * 1000 + list.len() as i64, map))
    }
}

impl StatefulProcessor for Everything {
    type Key = Option<i64>;
    type Input = In;
    type Output = Out;
    type State = Variables;

    fn init(&self, variables: &mut StateVariables) -> Result<Variables> {
        Ok(Variables {
            total: variables.value("total")?,
            list: variables.list("list")?,
            map: variables.map("map")?.with_ttl(Duration::from_millis(MAP_TTL_MS as u64)),
            recent: variables.value("recent")?.with_ttl(Duration::from_millis(VALUE_TTL_MS as u64)),
        })
    }

    fn handle_input_rows(
        &self,
        state: &Variables,
        rows: Rows<'_, In>,
        call: &mut Call<'_, Self>,
    ) -> Result<()> {
        let recent = state.recent.get(call)?.map_or(-1, |recent| recent.id);
        let mut total = state.total.get(call)?.unwrap_or(0);
        for row in rows {
            let row = row?;
            total += row.v;
            state.list.append(call, &row.v)?;
            let third = row.v.rem_euclid(3);
            let known = state.map.get(call, &third)?.map_or(0, |(count, _)| count);
            state.map.put(call, &third, &(known + 1, "x".into()))?;
            let from = match self.mode {
                TimeMode::None => None,
                TimeMode::ProcessingTime => Some(call.processing_time()),
                TimeMode::EventTime => row.ts,
            };
            if let Some(from) = from {
                let length = TIMER_MS * 1000 + row.v * 1_000_000;
                let time = Timestamp::from_micros(from.as_micros() + length);
                if row.v % 5 == 0 {
                    call.register_timer(time)?;
                    assert!(call.list_timers()?.contains(&time));
                }
                if row.v % 7 == 0 {
                    call.delete_timer(time)?;
                    assert!(!call.list_timers()?.contains(&time));
                }
            }
            if row.v % 11 == 0 {
                state.list.clear(call)?;
            }
            if row.v % 13 == 0 {
                state.map.remove(call, &third)?;
            }
            state.recent.update(call, &Recent { id: row.id })?;
        }
        state.total.update(call, &total)?;
        let (list, map) = state.sums(call)?;
        let k = *call.key();
        call.emit(&Out { k, what: "rows".into(), a: total, b: list, c: recent * 100_000 + map })
    }

    fn handle_expired_timer(
        &self,
        state: &Variables,
        time: Timestamp,
        call: &mut Call<'_, Self>,
    ) -> Result<()> {
        state.list.retain(call, |v| v % 2 == 0)?;
        let (list, map) = state.sums(call)?;
        let total = state.total.get(call)?.unwrap_or(0);
        let (k, a) = (*call.key(), time.as_micros());
        call.emit(&Out { k, what: "timer".into(), a, b: list, c: total * 1_000 + map })?;
        if total % 2 != 0 && call.list_timers()?.len() < 3 {
            call.register_timer(time + Duration::from_secs(10))?;
        }
        if total % 4 == 0 {
            state.total.clear(call);
            state.list.clear(call)?;
            state.map.clear(call)?;
            state.recent.clear(call);
        }
        Ok(())
    }
}

/// Rows that come, so long after those before.
#[derive(Debug, Clone)]
pub struct Step {
    pub rows: Vec<Row>,
    pub wait_ms: i64,
}

/// Random rows, whose times go forward on the whole.
pub struct History {
    dice: Dice,
    next_id: i64,
    base: i64,
}

impl History {
    pub fn new(seed: u64) -> Self {
        Self { dice: Dice(seed), next_id: 0, base: 100 }
    }

    pub fn next(&mut self) -> Step {
        self.base += self.dice.roll(12) as i64;
        let count = self.dice.roll(14);
        let rows = (0..count).map(|_| self.row()).collect();
        Step { rows, wait_ms: self.dice.roll(12_000) as i64 }
    }

    fn row(&mut self) -> Row {
        self.next_id += 1;
        let k = self.dice.roll(5) as i64;
        let time = (self.base - 12 + self.dice.roll(16) as i64) * 1_000_000 + self.dice.roll(3) as i64;
        Row {
            id: self.next_id,
            k: Some(k).filter(|k| *k > 0),
            v: self.dice.roll(30) as i64,
            ts: Some(time).filter(|_| self.dice.roll(12) > 0),
        }
    }
}

/// How a run is set up; nothing of it may change a result.
#[derive(Debug, Clone)]
pub struct Setting {
    pub partitions: usize,
    pub state_partitions: usize,
    pub memory_limit: Option<&'static str>,
    /// Whether even the smallest batch is read in parallel.
    pub wide: bool,
}

impl Default for Setting {
    fn default() -> Self {
        Self { partitions: 2, state_partitions: 3, memory_limit: None, wide: false }
    }
}

/// The world around a query, which stays when the query dies.
pub struct World {
    pub mode: TimeMode,
    pub stream: MemoryStream,
    pub sink: Capture,
    pub folder: TempDir,
    pub clock: Arc<ManualClock>,
    fed: Vec<Vec<Row>>,
}

impl World {
    pub fn new(mode: TimeMode) -> Self {
        Self {
            mode,
            stream: MemoryStream::new(input_schema()),
            sink: Capture::default(),
            folder: crate::support::harness::scratch(),
            clock: Arc::new(ManualClock::new(1_000)),
            fed: Vec::new(),
        }
    }

    pub fn environment(&self) -> Environment {
        Environment { clock: Arc::clone(&self.clock) as Arc<dyn Clock>, ..Environment::default() }
    }

    /// Lets time go by, and adds rows.
    pub fn feed(&mut self, step: Step) {
        self.clock.advance(Duration::from_millis(step.wait_ms as u64));
        if !step.rows.is_empty() {
            self.stream.add_data(batch_of(&step.rows)).unwrap();
            self.fed.push(step.rows);
        }
    }

    pub fn checkpoint(&self) -> String {
        self.folder.path().join("checkpoint").to_str().unwrap().to_string()
    }

    pub fn session(&self, environment: Environment, setting: &Setting) -> Session {
        let config = SessionConfig::new().with_target_partitions(setting.partitions);
        let session = Session::with_environment(SessionContext::new_with_config(config), environment);
        session.register_sink("capture", Arc::new(CaptureFactory(self.sink.clone())));
        session
    }

    /// The rows that come in.
    pub async fn frame(&self, session: &Session, setting: &Setting) -> Result<DataFrame> {
        let factory: Arc<dyn SourceFactory> = match setting.wide {
            true => Arc::new(Wide(self.stream.clone())),
            false => Arc::new(FeedFactory(self.stream.clone())),
        };
        session.register_source("feed", factory);
        let frame = session.read_stream().format("feed").load(None).await?;
        match self.mode {
            TimeMode::EventTime => frame.with_watermark("ts", Duration::from_millis(DELAY_MS as u64)),
            _ => Ok(frame),
        }
    }

    pub fn transform(&self, frame: DataFrame, output_mode: OutputMode) -> Result<DataFrame> {
        let processor = Everything { mode: self.mode };
        frame.transform_with_state(&["k"], output_schema(), processor, self.mode, output_mode)
    }

    pub async fn start(
        &self,
        environment: Environment,
        setting: &Setting,
        trigger: Option<Trigger>,
    ) -> Result<(Session, StreamingQuery)> {
        let session = self.session(environment, setting);
        let frame = self.transform(self.frame(&session, setting).await?, OutputMode::Append)?;
        let mut writer = frame
            .write_stream()
            .format("capture")
            .option("checkpointLocation", self.checkpoint())
            .option("durability", "process")
            .option("statePartitions", setting.state_partitions);
        if let Some(trigger) = trigger {
            writer = writer.trigger(trigger);
        }
        if let Some(limit) = setting.memory_limit {
            writer = writer.option("stateMemoryLimit", limit);
        }
        Ok((session, writer.start(None).await?))
    }

    /// Runs the query until there is nothing more to do.
    pub async fn run(&self, environment: Environment, setting: &Setting) -> Result<()> {
        let (_session, query) = self.start(environment, setting, Some(Trigger::AvailableNow)).await?;
        query.await_termination().await
    }

    /// What each batch has given.
    pub fn outputs(&self) -> Vec<Vec<Out>> {
        let published = self.sink.published();
        published.values().map(|(_, rows)| rows.iter().map(out_of).collect()).collect()
    }

    /// The batches as the checkpoint has planned them.
    fn planned(&self) -> Vec<Fed> {
        let checkpoint = self.folder.path().join("checkpoint");
        let mut batches = Vec::new();
        let (mut read, mut newest, mut late) = (0, None, None);
        for batch in commits(&checkpoint) {
            let offsets = record(&checkpoint.join(format!("offsets/{batch}")));
            let end = offsets["sources"][0]["end"].as_u64().map_or(read, |end| end as usize);
            let rows: Vec<Row> = self.fed[read..end].iter().flatten().cloned().collect();
            // Not as the checkpoint says it: from the rows of the batches before.
            let watermark = newest.map(|newest: i64| newest.div_euclid(1000) - DELAY_MS);
            let watermark = watermark.filter(|millis| *millis > 0).map(|millis| millis * 1000);
            let watermark = watermark.filter(|_| self.mode == TimeMode::EventTime);
            let now_ms = offsets["batchTimestampMs"].as_i64().unwrap();
            newest = newest.max(rows.iter().filter_map(|row| row.ts).max());
            batches.push(Fed { rows, now_ms, late, watermark });
            (read, late) = (end, watermark);
        }
        assert_eq!(read, self.fed.len(), "not all rows were read");
        batches
    }

    /// Compares all that was given with what the oracle says.
    pub fn check(&self, context: &str) {
        self.check_as_planned(context);
        // Nothing is left that is due.
        let now = self.clock.now_ms();
        let planned = self.planned();
        let mut more = planned.clone();
        let last = planned.last().cloned().unwrap_or_default();
        let newest = planned.iter().flat_map(|batch| &batch.rows).filter_map(|row| row.ts).max();
        let watermark =
            newest.map(|newest| (newest.div_euclid(1000) - DELAY_MS) * 1000).filter(|time| *time > 0);
        let watermark = watermark.filter(|_| self.mode == TimeMode::EventTime);
        more.push(Fed { rows: vec![], now_ms: now.max(last.now_ms), late: None, watermark });
        assert_eq!(simulate(self.mode, &more).pop().unwrap(), [], "{context}: due and not done");
    }

    pub fn check_as_planned(&self, context: &str) {
        let (found, expected) = (self.outputs(), simulate(self.mode, &self.planned()));
        assert_eq!(found.len(), expected.len(), "{context}");
        for (batch, (mut found, mut expected)) in found.into_iter().zip(expected).enumerate() {
            found.sort();
            expected.sort();
            assert_eq!(found, expected, "{context}, batch {batch}");
        }
    }
}
