//! Results as messages of topics, exactly once.
//!
//! Rows are sent while a batch runs, in a transaction that stays open, and are staged in the checkpoint at the same
//! time. When the commit record is durable the transaction is committed. If it cannot be any more, because the process
//! died or it took too long, the staged rows are sent again in another one; whether that is needed Kafka itself says,
//! by the number of the batch that each transaction notes.

mod options;
mod records;
mod staged;
mod transactions;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidemill::arrow::array::RecordBatch;
use tidemill::checkpoint::records::SinkDefinition;
use tidemill::serde_json::{Value, json};
use tidemill::sink::{Sink, SinkBatch, SinkWriter};
use tidemill::storage::Storage;
use tidemill::uuid::Uuid;
use tidemill::{Error, OutputMode, Result, SinkFactory, SinkRequest, async_trait};
use tokio::sync::Mutex;

use self::options::{IfUnknown, SinkOptions};
use self::records::{RecordEncoder, Records};
use self::staged::StagedWriter;
use self::transactions::{Transactions, Trouble};
use super::FORMAT;

/// How long Kafka remembers the number of a batch at least: brokers forget offsets of groups without members after
/// offsets.retention.minutes, seven days unless they are set up otherwise.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes sinks that write to topics; see [`register`](super::register).
#[derive(Debug)]
pub struct KafkaSinkFactory;

impl SinkFactory for KafkaSinkFactory {
    fn create(&self, request: SinkRequest) -> Result<Arc<dyn Sink>> {
        if !request.partition_by.is_empty() {
            return Err(Error::Invalid(
                "the kafka sink writes no directories, so it cannot be partitioned. Leave PARTITIONED BY out; the key \
                 or the column 'partition' says which partition of the topic a row goes to"
                    .into(),
            ));
        }
        if let Some(path) = request.path.as_deref().filter(|path| !path.is_empty()) {
            return Err(Error::Invalid(format!(
                "the kafka sink writes to no path ('{path}'): the topic is named by the option topic"
            )));
        }
        let options = SinkOptions::parse(&request.options)?;
        let records = RecordEncoder::new(
            &request.schema,
            &request.options,
            options.topic.as_deref(),
            &request.keys,
            &request.state,
        )?;
        Ok(Arc::new(KafkaSink { shared: Arc::new(Shared::new(options, records)) }))
    }
}

#[derive(Debug)]
struct KafkaSink {
    shared: Arc<Shared>,
}

/// What the sink and its writers share.
#[derive(Debug)]
struct Shared {
    options: SinkOptions,
    records: RecordEncoder,
    checkpoint: OnceLock<Arc<dyn Storage>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    transactions: Option<Arc<Transactions>>,
    /// The batch whose transaction is open.
    open: Option<u64>,
    /// Whether it is over already, so that the rows have to be sent again.
    is_broken: bool,
    /// The last batch that is in Kafka.
    published: Option<u64>,
}

impl Shared {
    fn new(options: SinkOptions, records: RecordEncoder) -> Self {
        Self { options, records, checkpoint: OnceLock::new(), state: Mutex::default() }
    }

    fn checkpoint(&self) -> Result<&Arc<dyn Storage>> {
        self.checkpoint.get().ok_or_else(|| {
            Error::Invalid("the kafka sink was given no checkpoint to stage rows in; it needs one".into())
        })
    }

    /// Opens the transaction of `batch_id`, if it is not open.
    async fn begin(&self, batch_id: u64) -> Result<Arc<Transactions>> {
        let mut state = self.state.lock().await;
        let closed = || Error::Invalid("the kafka sink was not opened".into());
        let transactions = Arc::clone(state.transactions.as_ref().ok_or_else(closed)?);
        if state.open != Some(batch_id) {
            if state.open.take().is_some() {
                transactions.abort().await?;
            }
            transactions.begin().map_err(|trouble| trouble.into_error(&self.options))?;
            (state.open, state.is_broken) = (Some(batch_id), false);
        }
        Ok(transactions)
    }

    async fn note_broken(&self, batch_id: u64) {
        let mut state = self.state.lock().await;
        if state.open == Some(batch_id) {
            state.is_broken = true;
        }
    }

    /// Sends what was staged, in a transaction that is left open.
    async fn send_again(
        &self,
        transactions: &Transactions,
        batch_id: u64,
        prepared: &Prepared,
    ) -> Result<(), Trouble> {
        transactions.begin()?;
        let checkpoint = self.checkpoint().map_err(Trouble::Failed)?;
        for path in &prepared.files {
            for records in staged::read(checkpoint, path).await.map_err(Trouble::Failed)? {
                transactions.send(&records).await?;
            }
        }
        transactions.flush().await?;
        match &prepared.topic {
            Some(topic) => transactions.note(topic, batch_id).await,
            None => Ok(()),
        }
    }

    /// The same until it succeeds, and shows it.
    async fn publish_again(
        &self,
        transactions: &Transactions,
        batch_id: u64,
        prepared: &Prepared,
    ) -> Result<()> {
        for attempt in 1.. {
            let sent = async {
                self.send_again(transactions, batch_id, prepared).await?;
                transactions.commit().await
            };
            match sent.await {
                Ok(()) => break,
                Err(Trouble::Aborted(error)) if attempt < 5 => {
                    tracing::warn!(%error, batch = batch_id, "a transaction of Kafka was aborted; it is tried again");
                    transactions.abort().await?;
                }
                Err(trouble) => return Err(trouble.into_error(&self.options)),
            }
        }
        Ok(())
    }

    /// Whether the last committed batch, of which nothing is known yet, has to be sent.
    async fn is_missing(
        &self,
        transactions: &Transactions,
        batch_id: u64,
        prepared: &Prepared,
    ) -> Result<bool> {
        let Some(topic) = &prepared.topic else { return Ok(false) };
        match (transactions.noted(topic).await?, self.options.if_unknown) {
            (Some(noted), _) => Ok(noted < batch_id),
            (None, _) if prepared.age() < REMEMBERED => Ok(true),
            (None, IfUnknown::Publish) => Ok(true),
            (None, IfUnknown::Skip) => Ok(false),
            (None, IfUnknown::Fail) => Err(Error::Invalid(format!(
                "batch {batch_id} was written {} hours ago, and Kafka does not say any more whether it has its rows \
                 (brokers forget that after offsets.retention.minutes). Look into topic '{topic}', and set the option \
                 ifBatchUnknown to skip if the rows are there, or to publish if they are not",
                prepared.age().as_secs() / 3600
            ))),
        }
    }
}

impl Trouble {
    fn into_error(self, options: &SinkOptions) -> Error {
        match self {
            Trouble::Aborted(error) => super::control::failed("write to", &options.client.servers, error),
            Trouble::Failed(error) => error,
        }
    }
}

/// What the commit record says of a batch.
#[derive(Debug, Default)]
struct Prepared {
    rows: u64,
    files: Vec<String>,
    /// Beside which topic the batch is noted; nothing if there are no rows.
    topic: Option<String>,
    /// Milliseconds since the epoch.
    time: u64,
}

impl Prepared {
    fn parse(value: &Value) -> Self {
        let files = value["files"].as_array().into_iter().flatten();
        Self {
            rows: value["numRows"].as_u64().unwrap_or(0),
            files: files.filter_map(|file| file.as_str().map(str::to_string)).collect(),
            topic: value["topic"].as_str().map(str::to_string),
            time: value["time"].as_u64().unwrap_or(0),
        }
    }

    fn to_value(&self) -> Value {
        json!({ "numRows": self.rows, "files": self.files, "topic": self.topic, "time": self.time })
    }

    fn age(&self) -> Duration {
        Duration::from_millis(now_ms().saturating_sub(self.time))
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[async_trait]
impl Sink for KafkaSink {
    fn description(&self) -> String {
        match &self.shared.options.topic {
            Some(topic) => format!("KafkaSink[{topic}]"),
            None => "KafkaSink".into(),
        }
    }

    fn definition(&self, _: &dyn Storage) -> SinkDefinition {
        let topic = self.shared.options.topic.iter().map(|topic| ("topic".to_string(), topic.clone()));
        SinkDefinition {
            format: FORMAT.into(),
            location: None,
            columns: Vec::new(),
            partition_by: Vec::new(),
            options: topic.collect(),
        }
    }

    fn check_output_mode(&self, _: OutputMode) -> Result<()> {
        Ok(())
    }

    fn shows_only_published(&self) -> bool {
        self.shared.options.is_exactly_once
    }

    fn stage_in(&self, checkpoint: &Arc<dyn Storage>) {
        // The same one whenever it is called.
        let _ = self.shared.checkpoint.set(Arc::clone(checkpoint));
    }

    async fn recover(&self, query_id: Uuid, last: Option<(u64, &Value)>) -> Result<()> {
        let shared = &self.shared;
        shared.records.open().await?;
        let transactions = {
            let mut state = shared.state.lock().await;
            match &state.transactions {
                Some(transactions) => Arc::clone(transactions),
                None => {
                    let id = shared.options.transactional_id(query_id);
                    let opened = Arc::new(Transactions::open(&shared.options, &id).await?);
                    Arc::clone(state.transactions.insert(opened))
                }
            }
        };
        let Some((batch_id, prepared)) = last.filter(|_| shared.options.is_exactly_once) else {
            return Ok(());
        };
        let mut state = shared.state.lock().await;
        if state.published.is_none_or(|published| published < batch_id) {
            let prepared = Prepared::parse(prepared);
            if prepared.rows > 0 && shared.is_missing(&transactions, batch_id, &prepared).await? {
                tracing::info!(batch = batch_id, "the rows of the last batch are sent to Kafka");
                shared.publish_again(&transactions, batch_id, &prepared).await?;
            }
            state.published = Some(batch_id);
        }
        staged::clean(shared.checkpoint()?, batch_id).await
    }

    async fn writer(&self, batch: SinkBatch, partition: usize) -> Result<Box<dyn SinkWriter>> {
        Ok(Box::new(KafkaWriter {
            shared: Arc::clone(&self.shared),
            batch,
            partition,
            transactions: None,
            staged: None,
            is_broken: false,
            rows: 0,
            topic: None,
        }))
    }

    async fn prepare(&self, batch: SinkBatch, reports: Vec<Value>) -> Result<Value> {
        let parts: Vec<Prepared> = reports.iter().map(Prepared::parse).collect();
        let topics: BTreeSet<String> = parts.iter().filter_map(|part| part.topic.clone()).collect();
        let prepared = Prepared {
            rows: parts.iter().map(|part| part.rows).sum(),
            files: parts.into_iter().flat_map(|part| part.files).collect(),
            topic: topics.into_iter().next(),
            time: now_ms(),
        };
        let mut state = self.shared.state.lock().await;
        if let (Some(batch_id), Some(transactions)) = (state.open, state.transactions.clone())
            && prepared.rows > 0
        {
            // What is wrong with a record shows before the batch is committed.
            let sent = async {
                if state.is_broken {
                    return Err(None);
                }
                transactions.flush().await.map_err(Some)?;
                match &prepared.topic {
                    Some(topic) => transactions.note(topic, batch_id).await.map_err(Some),
                    None => Ok(()),
                }
            };
            match sent.await {
                Ok(()) => {}
                Err(Some(Trouble::Failed(error))) => return Err(error),
                Err(_) if self.shared.options.is_exactly_once => {
                    transactions.abort().await?;
                    let again = self.shared.send_again(&transactions, batch_id, &prepared).await;
                    again.map_err(|trouble| trouble.into_error(&self.shared.options))?;
                    state.is_broken = false;
                }
                Err(trouble) => {
                    let error = trouble.map(|trouble| trouble.into_error(&self.shared.options));
                    return Err(error.unwrap_or_else(|| Error::Invalid("records were not delivered".into())));
                }
            }
        }
        let _ = batch;
        Ok(prepared.to_value())
    }

    async fn publish(&self, batch_id: u64, prepared: &Value) -> Result<()> {
        let shared = &self.shared;
        if !shared.options.is_exactly_once {
            return Ok(());
        }
        let prepared = Prepared::parse(prepared);
        let mut state = shared.state.lock().await;
        if state.published.is_some_and(|published| published >= batch_id) {
            return Ok(());
        }
        let closed = || Error::Invalid("the kafka sink was not opened".into());
        let transactions = Arc::clone(state.transactions.as_ref().ok_or_else(closed)?);
        if prepared.rows > 0 {
            let is_open = state.open.take() == Some(batch_id);
            let committed = match is_open {
                true => transactions.commit().await,
                false => Err(Trouble::Aborted(rdkafka::error::KafkaError::Canceled)),
            };
            match committed {
                Ok(()) => {}
                Err(Trouble::Aborted(error)) => {
                    tracing::warn!(%error, batch = batch_id, "the transaction of a batch is over; its rows are sent again");
                    if is_open {
                        transactions.abort().await?;
                    }
                    if shared.is_missing(&transactions, batch_id, &prepared).await? {
                        shared.publish_again(&transactions, batch_id, &prepared).await?;
                    }
                }
                Err(trouble) => return Err(trouble.into_error(&shared.options)),
            }
        }
        state.published = Some(batch_id);
        for path in &prepared.files {
            shared.checkpoint()?.delete(path).await?;
        }
        Ok(())
    }

    async fn abort(&self, batch: SinkBatch) -> Result<()> {
        let mut state = self.shared.state.lock().await;
        let Some(transactions) = state.transactions.clone() else { return Ok(()) };
        if state.open.take().is_some() {
            transactions.abort().await?;
        }
        let Some(checkpoint) = self.shared.checkpoint.get() else { return Ok(()) };
        let own = format!("{}/{}-{}-", tidemill::sink::STAGED, batch.batch_id, batch.run_id);
        for file in checkpoint.list(tidemill::sink::STAGED).await? {
            if file.path.starts_with(&own) {
                checkpoint.delete(&file.path).await?;
            }
        }
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        let mut state = self.shared.state.lock().await;
        if let (Some(_), Some(transactions)) = (state.open.take(), state.transactions.clone()) {
            transactions.abort().await?;
        }
        // It ends with its last user: its threads may still be busy.
        state.transactions = None;
        Ok(())
    }
}

/// Sends and stages the rows of one partition.
struct KafkaWriter {
    shared: Arc<Shared>,
    batch: SinkBatch,
    partition: usize,
    transactions: Option<Arc<Transactions>>,
    staged: Option<StagedWriter>,
    /// The transaction is over before its time: rows are only staged.
    is_broken: bool,
    rows: u64,
    topic: Option<String>,
}

#[async_trait]
impl SinkWriter for KafkaWriter {
    async fn write(&mut self, rows: RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let records = self.shared.records.encode(&rows)?;
        let transactions = match &self.transactions {
            Some(transactions) => Arc::clone(transactions),
            None => Arc::clone(self.transactions.insert(self.shared.begin(self.batch.batch_id).await?)),
        };
        if self.topic.is_none() {
            let of_row = || Records::new(&records).get(0).topic.map(str::to_string);
            self.topic = self.shared.options.topic.clone().or_else(of_row);
        }
        if self.shared.options.is_exactly_once {
            let staged = match &mut self.staged {
                Some(staged) => staged,
                None => {
                    let checkpoint = self.shared.checkpoint()?;
                    self.staged.insert(StagedWriter::create(checkpoint, self.batch, self.partition).await?)
                }
            };
            staged.write(&records).await?;
        }
        if !self.is_broken {
            match transactions.send(&records).await {
                Ok(()) => {}
                Err(Trouble::Aborted(error)) if self.shared.options.is_exactly_once => {
                    tracing::warn!(%error, "a transaction of Kafka is over before its time; its rows are sent again");
                    self.is_broken = true;
                    self.shared.note_broken(self.batch.batch_id).await;
                }
                Err(trouble) => return Err(trouble.into_error(&self.shared.options)),
            }
        }
        self.rows += records.num_rows() as u64;
        Ok(())
    }

    async fn close(self: Box<Self>) -> Result<Value> {
        let files = match self.staged {
            Some(staged) => vec![staged.finish().await?],
            None => Vec::new(),
        };
        Ok(Prepared { rows: self.rows, files, topic: self.topic, time: 0 }.to_value())
    }
}
