//! A batch on its way into the table: one transaction, that is begun anew if the connection breaks.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{Array, RecordBatch};
use futures::SinkExt;
use tokio_postgres::{Client, CopyInSink};

use super::encode::Encoder;
use super::server::{Failure, Server};
use super::target::{Fitted, Target};
use crate::error::Result;
use crate::sink::SinkBatch;

/// How many bytes of rows are kept to be sent again. A larger batch fails with its connection.
const MAX_KEPT: usize = 64 << 20;

/// Where batches go.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) server: Server,
    pub(super) target: Target,
}

impl Place {
    pub(super) async fn run(
        &self,
        client: &Client,
        operation: &'static str,
        sql: &str,
    ) -> Result<(), Failure> {
        client.batch_execute(sql).await.map_err(|error| self.failure(operation, &error))
    }

    fn failure(&self, operation: &'static str, error: &tokio_postgres::Error) -> Failure {
        Failure::new(operation, self.target.as_str(), error)
    }
}

/// A batch that is being written.
pub(super) struct Transfer {
    place: Arc<Place>,
    fitted: Fitted,
    batch: SinkBatch,
    rows: u64,
    has_null_keys: bool,
    /// All rows, as they are sent; `None` if they are too many.
    kept: Option<Vec<RecordBatch>>,
    kept_bytes: usize,
    /// A connection that nobody uses.
    idle: Option<Client>,
    transaction: Option<Transaction>,
}

/// A transaction that is open on a connection.
struct Transaction {
    client: Client,
    /// `None` if the table has the batch already.
    copy: Option<(Pin<Box<CopyInSink<Bytes>>>, Encoder)>,
}

impl Transfer {
    pub(super) fn new(place: Arc<Place>, fitted: Fitted, batch: SinkBatch, idle: Option<Client>) -> Self {
        Self {
            place,
            fitted,
            batch,
            rows: 0,
            has_null_keys: false,
            kept: Some(Vec::new()),
            kept_bytes: 0,
            idle: idle.filter(|client| !client.is_closed()),
            transaction: None,
        }
    }

    /// How many rows were written.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Gives the connection back of a batch without rows.
    pub(super) fn unused(&mut self) -> Option<Client> {
        self.idle.take()
    }

    /// Sends `rows`.
    pub(super) async fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.place.target.check_keys(self.batch.output_mode, rows)?;
        let rows = self.fitted.rows.convert(rows)?;
        self.rows += rows.num_rows() as u64;
        let keys = self.place.target.keys().iter().filter_map(|key| rows.column_by_name(key));
        self.has_null_keys |= keys.into_iter().any(|column| column.null_count() > 0);
        self.kept_bytes += rows.get_array_memory_size();
        match &mut self.kept {
            Some(kept) if self.kept_bytes <= MAX_KEPT => kept.push(rows.clone()),
            _ => self.kept = None,
        }
        let sent = self.send(&rows).await;
        self.persist(sent, false).await
    }

    /// Ends the transaction, so that the batch is in the table; gives the connection back.
    pub(super) async fn commit(&mut self) -> Result<Option<Client>> {
        let ended = self.end().await;
        self.persist(ended, true).await?;
        Ok(self.idle.take())
    }

    /// After a failure that passes, does everything again, until it goes well or there is no more patience.
    async fn persist(&mut self, mut outcome: Result<(), Failure>, to_the_end: bool) -> Result<()> {
        let place = Arc::clone(&self.place);
        let mut backoff = place.server.backoff();
        while let Err(failure) = outcome {
            // What there was of the transaction, the server undoes.
            self.transaction = None;
            let again = failure.passes && self.kept.is_some();
            if !again || !backoff.wait(&failure.error).await {
                return Err(failure.error);
            }
            outcome = self.again(to_the_end).await;
        }
        Ok(())
    }

    async fn again(&mut self, to_the_end: bool) -> Result<(), Failure> {
        for rows in self.kept.clone().unwrap_or_default() {
            self.send(&rows).await?;
        }
        if to_the_end { self.end().await } else { Ok(()) }
    }

    async fn send(&mut self, rows: &RecordBatch) -> Result<(), Failure> {
        let place = Arc::clone(&self.place);
        let Some((copy, encoder)) = &mut self.transaction().await?.copy else { return Ok(()) };
        for piece in Encoder::pieces(rows) {
            let bytes = encoder.encode(&piece)?;
            copy.send(bytes).await.map_err(|error| place.failure("write to", &error))?;
        }
        Ok(())
    }

    /// The open transaction; begins one if there is none.
    async fn transaction(&mut self) -> Result<&mut Transaction, Failure> {
        let transaction = match self.transaction.take() {
            Some(transaction) => transaction,
            None => self.begin().await?,
        };
        Ok(self.transaction.insert(transaction))
    }

    async fn begin(&mut self) -> Result<Transaction, Failure> {
        let (place, batch) = (&self.place, self.batch);
        let client = match self.idle.take() {
            Some(client) => client,
            None => place.server.connect().await?,
        };
        place.run(&client, "begin a transaction on", &Target::begin(batch)).await?;
        let last = place.target.lock_query(&client, batch.query_id).await?;
        if let Some((written, rows)) = last.filter(|(written, _)| *written >= batch.batch_id) {
            tracing::info!(table = %place.target, batch = batch.batch_id, written, rows, "the table has the batch already");
            return Ok(Transaction { client, copy: None });
        }
        if let Some(statement) = place.target.before(batch.output_mode) {
            place.run(&client, "write to", &statement).await?;
        }
        let statement = place.target.copy(batch.output_mode);
        let copy = client.copy_in::<_, Bytes>(statement.as_str()).await;
        let copy = copy.map_err(|error| place.failure("write to", &error))?;
        Ok(Transaction { client, copy: Some((Box::pin(copy), self.fitted.rows.encoder()?)) })
    }

    async fn end(&mut self) -> Result<(), Failure> {
        let place = Arc::clone(&self.place);
        self.transaction().await?;
        let Some(Transaction { client, copy }) = self.transaction.take() else { return Ok(()) };
        let failed = |error| place.failure("write to", &error);
        if let Some((mut copy, encoder)) = copy {
            copy.send(encoder.end()?).await.map_err(failed)?;
            copy.as_mut().finish().await.map_err(failed)?;
            let target = &place.target;
            for statement in target.after(self.batch.output_mode, &self.fitted, self.has_null_keys) {
                place.run(&client, "write to", &statement).await?;
            }
            target.check_types(&client, &self.fitted).await?;
            place.run(&client, "write to", &target.note(self.batch, self.rows)).await?;
            place.run(&client, "commit a batch to", "COMMIT").await?;
        } else {
            place.run(&client, "end a transaction on", "ROLLBACK").await?;
        }
        self.idle = Some(client);
        Ok(())
    }
}
