//! What a source has to keep.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::physical_plan::collect;
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::expect;
use super::rows::texts;
use crate::clock::SystemClock;
use crate::error::{Error, Result};
use crate::source::{Admission, Source, SourceBatch, SourceContext, SourceProvider};

/// How long rows may take to be noticed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A source that is to be tried, and a way to give it rows.
#[async_trait]
pub trait SourceCase: Send + Sync {
    /// The table, as each start of a query describes it.
    async fn provider(&self) -> Result<Arc<dyn SourceProvider>>;

    /// Adds `rows` rows, numbered from `first` on: no two rows that are ever added may be equal. When it
    /// returns they are there.
    async fn add(&self, first: i64, rows: usize) -> Result<()>;
}

/// Tries a source that has no rows yet.
///
/// # Errors
/// The first promise that it breaks, or an error that it gives where it may not.
pub async fn check_source(case: &dyn SourceCase) -> Result<()> {
    let mut trial = Trial { case, state: SessionStateBuilder::new_with_default_features().build(), added: 0 };
    let source = trial.open(&Taken::default()).await?;
    let first = source.plan(Admission::Limited).await?;
    expect("a source without rows gives an empty batch", &true, &first.is_empty())?;
    let mut taken = Taken::default();
    for rows in [1, 7, 3] {
        trial.add(rows).await?;
        trial.take_all(&*source, &mut taken).await?;
        expect("all rows that were added are read", &trial.added, &taken.rows.len())?;
    }
    trial.rows_are_distinct(&taken)?;
    trial.reads_again(&taken).await?;
    trial.stops_at_now(&mut taken).await?;
    trial.tells_of_arrivals(&mut taken).await
}

/// What was read so far.
#[derive(Default)]
struct Taken {
    /// The batches, with the rows of each.
    batches: Vec<(SourceBatch, Vec<String>)>,
    rows: Vec<String>,
}

impl Taken {
    fn end(&self) -> Value {
        self.batches.last().map_or(Value::Null, |(batch, _)| batch.end.clone())
    }

    fn entries(&self) -> Vec<Box<RawValue>> {
        self.batches.iter().flat_map(|(batch, _)| batch.entries.clone()).collect()
    }
}

struct Trial<'a> {
    case: &'a dyn SourceCase,
    state: SessionState,
    /// How many rows there are.
    added: usize,
}

impl Trial<'_> {
    async fn add(&mut self, rows: usize) -> Result<()> {
        self.case.add(i64::try_from(self.added).unwrap_or(i64::MAX), rows).await?;
        self.added += rows;
        Ok(())
    }

    /// A run's reader that goes on after what was `taken`.
    async fn open(&self, taken: &Taken) -> Result<Arc<dyn Source>> {
        self.restore(taken, taken.entries()).await
    }

    /// The same, of which the checkpoint remembers `entries`.
    async fn restore(&self, taken: &Taken, entries: Vec<Box<RawValue>>) -> Result<Arc<dyn Source>> {
        let context = SourceContext {
            query_id: Uuid::new_v4(),
            runtime: Arc::clone(self.state.runtime_env()),
            clock: Arc::new(SystemClock),
        };
        let source = self.case.provider().await?.create(context)?;
        source.restore(recorded(&taken.end())?, entries).await?;
        Ok(source)
    }

    /// The rows of a batch, of one column or of all.
    async fn read(
        &self,
        source: &dyn Source,
        batch: &SourceBatch,
        column: Option<usize>,
    ) -> Result<Vec<RecordBatch>> {
        let projection = column.map(|column| vec![column]);
        let scan = source.scan(&self.state, projection.as_ref(), &[], 2)?;
        let context = self.state.task_ctx();
        Ok(collect(scan.read(batch, &context)?, context).await?)
    }

    /// Takes batches until there is nothing more.
    async fn take_all(&self, source: &dyn Source, taken: &mut Taken) -> Result<()> {
        loop {
            let batch = source.plan(Admission::Limited).await?;
            expect("a batch starts where the one before it ended", &taken.end(), &batch.start)?;
            if batch.is_empty() {
                return Ok(());
            }
            let rows = texts(&self.read(source, &batch, None).await?)?;
            source.commit(&batch).await?;
            source.commit(&batch).await?;
            taken.rows.extend(rows.iter().cloned());
            taken.batches.push((batch, rows));
        }
    }

    fn rows_are_distinct(&self, taken: &Taken) -> Result<()> {
        let mut rows = taken.rows.clone();
        rows.sort_unstable();
        rows.dedup();
        expect("no row is read twice", &self.added, &rows.len())
    }

    /// A run that comes later reads the same from the same offsets, whatever it is asked for first.
    async fn reads_again(&self, taken: &Taken) -> Result<()> {
        for done in 0..=taken.batches.len() {
            let before = Taken { batches: taken.batches[..done].to_vec(), rows: Vec::new() };
            let source = self.open(&before).await?;
            for (batch, rows) in taken.batches.iter().rev() {
                let again = SourceBatch {
                    start: recorded(&batch.start)?,
                    end: recorded(&batch.end)?,
                    ..batch.clone()
                };
                let found = texts(&self.read(&*source, &again, None).await?)?;
                expect("the rows between two offsets are always the same", rows, &found)?;
                let width = self.case.provider().await?.schema().fields().len();
                for column in 0..width {
                    let found = self.read(&*source, batch, Some(column)).await?;
                    let count: usize = found.iter().map(RecordBatch::num_rows).sum();
                    expect("a projection gives as many rows", &rows.len(), &count)?;
                    let columns = found.iter().all(|rows| rows.num_columns() == 1);
                    expect("a projection gives the columns that are asked for", &true, &columns)?;
                }
            }
            let mut rest = before;
            self.take_all(&*source, &mut rest).await?;
            let rows = rest.rows.len();
            let expected: usize = taken.batches[done..].iter().map(|(_, rows)| rows.len()).sum();
            expect("a restart goes on where the offsets say", &expected, &rows)?;
        }
        let source = self.open(taken).await?;
        let kept = source.forget(taken.entries());
        let source = self.restore(taken, kept).await?;
        let batch = source.plan(Admission::Limited).await?;
        expect("what a source lets go of is not read again", &true, &batch.is_empty())
    }

    /// With `Trigger::AvailableNow`, what comes after the beginning is for the next run.
    async fn stops_at_now(&mut self, taken: &mut Taken) -> Result<()> {
        self.add(4).await?;
        let source = self.open(taken).await?;
        source.prepare_available_now().await?;
        let now = self.added;
        self.add(2).await?;
        self.take_all(&*source, taken).await?;
        expect("rows that come after prepare_available_now are left", &now, &taken.rows.len())?;
        let source = self.open(taken).await?;
        self.take_all(&*source, taken).await?;
        expect("the next run reads them", &self.added, &taken.rows.len())
    }

    async fn tells_of_arrivals(&mut self, taken: &mut Taken) -> Result<()> {
        let source = self.open(taken).await?;
        self.take_all(&*source, taken).await?;
        let Some(dropped) = source.arrivals() else { return Ok(()) };
        drop(dropped);
        for rows in [1, 2] {
            self.add(rows).await?;
            // It may complete for nothing, so that one is not enough.
            let before = taken.rows.len();
            let arrive = async {
                while taken.rows.len() < before + rows {
                    if let Some(arrivals) = source.arrivals() {
                        arrivals.await;
                    }
                    self.take_all(&*source, taken).await?;
                }
                Ok::<_, Error>(())
            };
            match tokio::time::timeout(PATIENCE, arrive).await {
                Ok(arrived) => arrived?,
                Err(_) => return Err(Error::Invalid("arrivals does not tell of rows that have come".into())),
            }
        }
        Ok(())
    }
}

/// An offset as it comes back from the checkpoint.
fn recorded(offset: &Value) -> Result<Value> {
    serde_json::from_str(&offset.to_string()).map_err(|error| Error::Invalid(error.to_string()))
}
