//! Running a shape step by step.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::datasource::MemTable;
use tidemill::clock::Clock;
use tidemill::prelude::*;
use tidemill::source::memory::MemoryStream;
use tidemill::sql::SqlOutcome;
use tidemill::{Environment, Error, SourceFactory};

use super::plans::{DELAY, Fed, stream_batch, stream_schema, table_batch};
use super::reference::texts;
use crate::stateful::rig::FeedFactory;
use crate::stateful::wide::Wide;
use crate::support::probe::Probe;

/// How a shape is run; nothing of it may change a result.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub partitions: usize,
    pub state_partitions: usize,
    /// Whether even the smallest batch is read in parallel.
    pub wide: bool,
    /// Whether the query is ended and started again between two steps.
    pub restarts: bool,
    /// Whether the user's settings prefer joins that sort.
    pub sorts: bool,
}

impl Setting {
    pub fn plain() -> Self {
        Self { partitions: 1, state_partitions: 1, wide: false, restarts: true, sorts: false }
    }

    /// Another for each number.
    pub fn of(number: usize) -> Self {
        Self {
            partitions: 1 + number % 4,
            state_partitions: 1 + number / 3 % 4,
            wide: (number / 2).is_multiple_of(2),
            restarts: (number / 5).is_multiple_of(2),
            sorts: (number / 7).is_multiple_of(3),
        }
    }
}

/// What a shape gave, by step.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Whether there was a batch.
    pub ran: Vec<bool>,
    /// The rows of all batches of the step.
    pub rows: Vec<Vec<String>>,
    /// Those of the last batch there was.
    pub last: Vec<Vec<String>>,
    /// The state after it, by operator.
    pub state: Vec<Vec<Vec<String>>>,
}

/// A clock that stands where it was set.
#[derive(Debug, Default)]
struct SetClock(AtomicI64);

#[async_trait]
impl Clock for SetClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst).max(0).unsigned_abs())
    }

    async fn sleep(&self, _: Duration) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

struct World {
    folder: tempfile::TempDir,
    streams: [MemoryStream; 2],
    table: Arc<MemTable>,
    clock: Arc<SetClock>,
    probe: Probe,
}

/// Runs `sql` in all steps with a table; `None` if it is refused.
pub async fn run(
    sql: &str,
    table: usize,
    mode: OutputMode,
    setting: Setting,
) -> Result<Option<Outcome>, String> {
    let steps = Fed::steps(table);
    let first = table_batch(steps[0].table);
    let world = World {
        folder: crate::support::harness::scratch(),
        streams: [MemoryStream::new(stream_schema()), MemoryStream::new(stream_schema())],
        table: Arc::new(MemTable::try_new(first.schema(), vec![vec![first]]).unwrap()),
        clock: Arc::default(),
        probe: Probe::default(),
    };
    let mut outcome = Outcome::default();
    let mut running: Option<(Session, StreamingQuery)> = None;
    let mut batches = 0;
    for (number, fed) in steps.into_iter().enumerate() {
        world.clock.0.store(fed.now_ms, Ordering::SeqCst);
        *world.table.batches[0].write().await = vec![table_batch(fed.table)];
        for (stream, rows) in world.streams.iter().zip([fed.new_rows(0), fed.new_rows(1)]) {
            if !rows.is_empty() {
                stream.add_data(stream_batch(rows)).unwrap();
            }
        }
        if running.is_none() {
            let setting = if setting.restarts {
                Setting { partitions: 1 + (setting.partitions + number) % 4, ..setting }
            } else {
                setting
            };
            running = match world.start(sql, mode, setting).await {
                Ok(started) => Some(started),
                Err(Error::UnsupportedQuery { .. }) => return Ok(None),
                Err(error) => return Err(error.to_string()),
            };
        }
        if let Some((_, query)) = &running {
            query.process_all_available().await.map_err(|error| error.to_string())?;
        }
        if setting.restarts
            && let Some((_, query)) = running.take()
        {
            query.stop(StopMode::Finish).await.map_err(|error| error.to_string())?;
        }
        let all = world.probe.record_batches();
        let new = all.range(batches..).flat_map(|(_, rows)| texts(rows)).collect();
        outcome.ran.push(all.range(batches..).next().is_some());
        batches = all.keys().next_back().map_or(0, |last| last + 1);
        outcome.rows.push(new);
        outcome.last.push(all.values().next_back().map(|rows| texts(rows)).unwrap_or_default());
        outcome.state.push(world.state().await);
    }
    if let Some((_, query)) = running {
        query.stop(StopMode::Finish).await.map_err(|error| error.to_string())?;
    }
    Ok(Some(outcome))
}

impl World {
    fn checkpoint(&self) -> String {
        self.folder.path().join("checkpoint").to_str().unwrap().to_string()
    }

    async fn start(
        &self,
        sql: &str,
        mode: OutputMode,
        setting: Setting,
    ) -> tidemill::Result<(Session, StreamingQuery)> {
        let mut config = SessionConfig::new().with_target_partitions(setting.partitions);
        config.options_mut().optimizer.prefer_hash_join = !setting.sorts;
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let environment = Environment { clock, ..Environment::default() };
        let session = Session::with_environment(SessionContext::new_with_config(config), environment);
        self.probe.register(&session);
        let context = session.context();
        for (name, stream) in ["s", "u"].into_iter().zip(&self.streams) {
            let factory: Arc<dyn SourceFactory> = match setting.wide {
                true => Arc::new(Wide(stream.clone())),
                false => Arc::new(FeedFactory(stream.clone())),
            };
            session.register_source(name, factory);
            let table = session.read_stream().format(name).load(None).await?;
            let table = table.with_watermark("ts", format!("{DELAY} seconds"))?;
            context.register_table(name, table.into_view())?;
        }
        context.register_table("t", Arc::clone(&self.table) as _)?;
        let writer = context.sql(sql).await?.write_stream().format("probe").output_mode(mode);
        let query = writer
            .trigger(Trigger::AtOnce)
            .option("checkpointLocation", self.checkpoint())
            .option("durability", "process")
            .option("statePartitions", setting.state_partitions)
            .start(None)
            .await?;
        Ok((session, query))
    }

    /// The rows of each stateful operator.
    async fn state(&self) -> Vec<Vec<String>> {
        let session = Session::new();
        let mut operators = Vec::new();
        loop {
            let sql = format!("SELECT * FROM state('{}', {})", self.checkpoint(), operators.len());
            match session.sql(&sql).await {
                Ok(mut found) => match found.pop() {
                    Some(SqlOutcome::Rows(frame)) => operators.push(texts(&frame.collect().await.unwrap())),
                    _ => panic!("{sql} gives no rows"),
                },
                Err(_) => return operators,
            }
        }
    }
}
