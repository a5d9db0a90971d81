//! Results into a table of PostgreSQL, exactly once.
//!
//! A batch is one transaction: its rows, and its number in the table `tidemill_batches` beside the target. The
//! transaction ends before the batch is committed in the checkpoint. If the process dies in between, the batch
//! comes again with the same rows and number, and is passed over because the number is there. So readers see all
//! of a batch or nothing, and each batch once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use super::catalog::TableName;
use super::server::{Failure, Server};
use super::target::{Fitted, Target};
use super::transfer::{Place, Transfer};
use super::{FORMAT, OPTIONS};
use crate::checkpoint::records::SinkDefinition;
use crate::checkpoint::{is_planned, origin};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::sink::{OutputMode, Sink, SinkBatch, SinkDistribution, SinkWriter};
use crate::storage::Storage;

/// The last batch that the table has, in what [`Sink::prepare`] gives; null if there is none.
const BATCH: &str = "batch";

/// A table of PostgreSQL that results are written to.
///
/// Append adds rows. Update replaces the row with the same keys, those columns that the query groups by, over
/// which there is a unique index. Complete replaces all rows. The columns of the result are found in the table by
/// name, and their types compared, when the query starts.
#[derive(Debug)]
pub struct PostgresSink {
    place: Arc<Place>,
    mode: OutputMode,
    shared: Arc<Mutex<Shared>>,
}

/// What changes while the query runs.
#[derive(Default)]
struct Shared {
    /// What the table takes, once it was looked at.
    fitted: Option<Fitted>,
    /// A connection that nobody uses.
    idle: Option<Client>,
    /// The last batch in the table that was committed.
    last: Option<u64>,
    /// The checkpoint.
    checkpoint: Option<Arc<dyn Storage>>,
    /// A batch that is in the table, and was not committed when this run began.
    ahead: Option<u64>,
    /// A batch whose rows are all written, in a transaction that is open.
    written: Option<Transfer>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("fitted", &self.fitted)
            .field("ahead", &self.ahead)
            .finish_non_exhaustive()
    }
}

impl PostgresSink {
    /// The table that `options` describe: `url` (or `location`), `table`, `createTable` and `retryTimeout`.
    /// `keys` are the columns of `schema` that tell the rows of the result apart, which are given in `mode`.
    /// Nothing is connected to yet.
    ///
    /// # Errors
    /// If an option is missing or unknown, its value is not valid, or a column has no type in PostgreSQL.
    pub fn try_new(
        location: Option<&str>,
        schema: SchemaRef,
        keys: Vec<String>,
        mode: OutputMode,
        options: &Options,
    ) -> Result<Self> {
        options.deny_unknown("the postgres sink", OPTIONS)?;
        let server = Server::try_new(location, options)?;
        let name = TableName::parse(options.get("table"))?;
        let target = Target::try_new(name, schema, keys, options.flag("createTable", false)?)?;
        Ok(Self { place: Arc::new(Place { server, target }), mode, shared: Arc::default() })
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }

    /// Looks at the table, and at which batch of the query it has.
    async fn begin(&self, client: &Client, query_id: Uuid) -> Result<(Fitted, Option<u64>), Failure> {
        let target = &self.place.target;
        let fitted = target.fit(client, self.mode).await?;
        Ok((fitted, target.begin_query(client, query_id).await?))
    }

    /// Whether the checkpoint has the plan of `batch`, so that it comes again as it was.
    async fn was_planned(&self, batch: u64) -> Result<bool> {
        let checkpoint = self.shared().checkpoint.clone();
        match checkpoint {
            Some(checkpoint) => is_planned(&*checkpoint, batch).await,
            None => Ok(true),
        }
    }

    /// Refuses the table of the query that this one is a copy of: the same input would be there twice.
    async fn check_origin(&self, client: &Client) -> Result<()> {
        let checkpoint = self.shared().checkpoint.clone();
        let Some(checkpoint) = checkpoint else { return Ok(()) };
        let Some(id) = origin(&*checkpoint).await? else { return Ok(()) };
        let target = &self.place.target;
        if !target.knows(client, id).await.map_err(|failure| failure.error)? {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "the checkpoint is a copy, and the query that it was copied from writes to the table {target} of PostgreSQL: the \
             same input would be there twice. Name another table. If the original is gone for good, take its place with \
             a backup (tidemill checkpoint copy --backup), or remove it from {}: query_id '{id}'",
            target.batches()
        )))
    }

    /// That the table has other batches than the checkpoint says.
    fn differs(&self, written: Option<u64>, known: Option<u64>, why: &str) -> Error {
        let name = |batch: Option<u64>| batch.map_or("none".to_string(), |batch| format!("batch {batch}"));
        Error::Invalid(format!(
            "of this query the table {} of PostgreSQL has {} as the last one, and the checkpoint says {}: {why}. Make the \
             table's rows those of the batches that the checkpoint has, then set batch_id in {} to {}",
            self.place.target,
            name(written),
            name(known),
            self.place.target.batches(),
            known.map_or("-1".to_string(), |batch| batch.to_string())
        ))
    }

    fn transfer(&self, batch: SinkBatch) -> Result<Transfer> {
        let mut shared = self.shared();
        if let Some(ahead) = shared.ahead.filter(|ahead| *ahead < batch.batch_id) {
            return Err(Error::Invalid(format!(
                "batch {ahead} was written to the table {} and then let go (tidemill checkpoint replan), so that its \
                 rows would be written again with batch {}. Remove them, then set batch_id in {} to one less",
                self.place.target,
                batch.batch_id,
                self.place.target.batches()
            )));
        }
        let Some(fitted) = shared.fitted.clone() else {
            return Err(Error::Invalid("a sink is told to recover before it is written to".into()));
        };
        Ok(Transfer::new(Arc::clone(&self.place), fitted, batch, shared.idle.take()))
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Every change is complete in itself.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Sink for PostgresSink {
    fn description(&self) -> String {
        format!("PostgresSink[{}/{}]", self.place.server, self.place.target)
    }

    fn definition(&self, _checkpoint: &dyn Storage) -> SinkDefinition {
        SinkDefinition {
            format: FORMAT.to_string(),
            location: None,
            columns: Vec::new(),
            partition_by: Vec::new(),
            options: BTreeMap::from([("table".to_string(), self.place.target.to_string())]),
        }
    }

    fn check_output_mode(&self, mode: OutputMode) -> Result<()> {
        if mode == OutputMode::Update && self.place.target.keys().is_empty() {
            return Err(Error::Invalid(
                "the postgres sink replaces rows by key in update mode, and the result of this query has no key: \
                 group by columns and keep them in the result (of a window its start or end), number the first rows of each key \
                 and keep key and number, or use append or complete mode"
                    .into(),
            ));
        }
        Ok(())
    }

    fn distribution(&self) -> SinkDistribution {
        SinkDistribution::Single
    }

    fn stage_in(&self, checkpoint: &Arc<dyn Storage>) {
        self.shared().checkpoint = Some(Arc::clone(checkpoint));
    }

    async fn recover(&self, query_id: Uuid, last: Option<(u64, &Value)>) -> Result<()> {
        // Asked a second time after the first batch: nothing is left of other runs, for the server undoes what
        // they have not committed.
        if self.shared().fitted.is_some() {
            return Ok(());
        }
        let mut backoff = self.place.server.backoff();
        let (client, (fitted, written)) = loop {
            let client = self.place.server.connect().await?;
            match self.begin(&client, query_id).await {
                Ok(found) => break (client, found),
                Err(failure) if failure.passes && backoff.wait(&failure.error).await => {}
                Err(failure) => return Err(failure.error),
            }
        };
        // The last batch with rows: a batch without any leaves the table alone, and so does one that was let go.
        let known = last.and_then(|(_, prepared)| prepared[BATCH].as_u64());
        if written.is_none() {
            self.check_origin(&client).await?;
        }
        if written < known {
            return Err(self.differs(
                written,
                known,
                "the table was restored from a copy, or is that of another database",
            ));
        }
        let mut ahead = None;
        if let Some(batch) = written.filter(|written| Some(*written) > known) {
            // A batch that is not planned any more would come again with other rows.
            if !self.was_planned(batch).await? {
                return Err(self.differs(
                    written,
                    known,
                    "the checkpoint was rewound, or restored from a copy",
                ));
            }
            ahead = Some(batch);
        }
        let mut shared = self.shared();
        (shared.last, shared.ahead) = (known, ahead);
        (shared.fitted, shared.idle) = (Some(fitted), Some(client));
        Ok(())
    }

    async fn writer(&self, batch: SinkBatch, _partition: usize) -> Result<Box<dyn SinkWriter>> {
        Ok(Box::new(Writer { transfer: self.transfer(batch)?, shared: Arc::clone(&self.shared) }))
    }

    async fn prepare(&self, batch: SinkBatch, _reports: Vec<Value>) -> Result<Value> {
        let written = self.shared().written.take();
        let mut transfer = match written {
            Some(transfer) => transfer,
            None => self.transfer(batch)?,
        };
        let rows = transfer.rows();
        // A batch without rows changes nothing, unless it is the whole result.
        let is_written = rows > 0 || batch.output_mode == OutputMode::Complete;
        let idle = if is_written { transfer.commit().await? } else { transfer.unused() };
        let last = {
            let mut shared = self.shared();
            if is_written {
                shared.last = Some(batch.batch_id);
            }
            shared.idle = idle;
            shared.last
        };
        let retries = self.place.server.take_retries();
        Ok(match retries {
            0 => json!({ BATCH: last, "numRows": rows }),
            retries => json!({ BATCH: last, "numRows": rows, "metrics": { "numRetries": retries } }),
        })
    }

    async fn publish(&self, _batch_id: u64, _prepared: &Value) -> Result<()> {
        // From here on a batch that is ahead is an ordinary one.
        self.shared().ahead = None;
        Ok(())
    }

    async fn abort(&self, _batch: SinkBatch) -> Result<()> {
        // With its connection the server undoes the transaction.
        self.shared().written = None;
        Ok(())
    }
}

struct Writer {
    transfer: Transfer,
    shared: Arc<Mutex<Shared>>,
}

#[async_trait]
impl SinkWriter for Writer {
    async fn write(&mut self, rows: RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        self.transfer.write(&rows).await
    }

    async fn close(self: Box<Self>) -> Result<Value> {
        let rows = self.transfer.rows();
        lock(&self.shared).written = Some(self.transfer);
        Ok(json!({ "numRows": rows }))
    }
}
