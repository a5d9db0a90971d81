//! Writes records, in transactions that say which batch they are.
//!
//! A transaction has the records of one batch and, as an offset that a consumer group commits in it, the number of
//! the batch. So the batch is in Kafka if and only if its number is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig, ThreadedProducer,
};
use rdkafka::{ClientContext, Message, Offset, TopicPartitionList};
use tidemill::arrow::array::RecordBatch;
use tidemill::{Error, Result};

use super::super::control::failed;
use super::options::SinkOptions;
use super::records::{Record, Records};

/// How long one call may take; calls that can be repeated are, for [`PERSISTENCE`].
const PATIENCE: Duration = Duration::from_secs(30);
const PERSISTENCE: Duration = Duration::from_secs(300);

/// How long a writer waits when there is no room for its record.
const ROOM: Duration = Duration::from_millis(2);

const PRODUCER_DEFAULTS: &[(&str, &str)] = &[
    ("acks", "all"),
    // As Kafka's own client does it, so that a key is in the same partition whoever writes it.
    ("partitioner", "murmur2_random"),
    ("socket.nagle.disable", "true"),
    // A batch may take a while. What a process has left open that died, the next start of its query ends at once.
    ("transaction.timeout.ms", "600000"),
    ("queue.buffering.max.messages", "500000"),
    ("queue.buffering.max.kbytes", "131072"),
    ("retry.backoff.ms", "20"),
    ("reconnect.backoff.max.ms", "1000"),
];

/// What became of a call.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The transaction is over, and nothing of it is seen. Another one may succeed.
    Aborted(KafkaError),
    /// Nothing can be done about it here.
    Failed(Error),
}

/// Remembers the first record that could not be delivered.
#[derive(Default)]
struct Deliveries {
    failed: Mutex<Option<(String, KafkaError)>>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, delivered: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = delivered {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert_with(|| (message.topic().to_string(), error.clone()));
        }
    }
}

/// A producer of one query.
pub(super) struct Transactions {
    producer: Arc<ThreadedProducer<Deliveries>>,
    /// Asks which batch is there. It is in no group, and reads nothing.
    notes: Arc<BaseConsumer>,
    group: Option<Arc<ConsumerGroupMetadata>>,
    topic: Option<String>,
    servers: String,
    is_exactly_once: bool,
}

impl std::fmt::Debug for Transactions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transactions").field("servers", &self.servers).finish_non_exhaustive()
    }
}

impl Transactions {
    /// Takes over from whoever has written under the name `id` before: its transaction ends, and it writes no more.
    pub(super) async fn open(options: &SinkOptions, id: &str) -> Result<Self> {
        let mut fixed = vec![("enable.idempotence", "true")];
        if options.is_exactly_once {
            fixed.push(("transactional.id", id));
        }
        let servers = options.client.servers.clone();
        let connect = |error| failed("connect to", &options.client.servers, error);
        let producer = options.client.config(PRODUCER_DEFAULTS, &fixed);
        let producer = producer.create_with_context(Deliveries::default()).map_err(connect)?;
        // Of a consumer there is only what both know.
        let notes = options.client.consumer_config(&[("group.id", id), ("enable.auto.commit", "false")]);
        let notes: BaseConsumer = notes.create().map_err(connect)?;
        let group = notes.group_metadata().map(Arc::new);
        let opened = Self {
            producer: Arc::new(producer),
            notes: Arc::new(notes),
            group,
            topic: options.topic.clone(),
            servers,
            is_exactly_once: options.is_exactly_once,
        };
        opened.check_topic().await?;
        if opened.is_exactly_once {
            opened.call("begin to write to", |producer| producer.init_transactions(PATIENCE)).await.map_err(
                |trouble| match trouble {
                    Trouble::Aborted(error) => failed("begin to write to", &opened.servers, error),
                    Trouble::Failed(error) => error,
                },
            )?;
        }
        Ok(opened)
    }

    /// Fails if the topic that all records go to does not exist.
    async fn check_topic(&self) -> Result<()> {
        let Some(topic) = self.topic.clone() else { return Ok(()) };
        let producer = Arc::clone(&self.producer);
        let asked = topic.clone();
        let known = tokio::task::spawn_blocking(move || {
            let metadata = producer.client().fetch_metadata(Some(&asked), PATIENCE)?;
            Ok::<_, KafkaError>(metadata.topics().iter().any(|topic| topic.error().is_none()))
        });
        match known.await.map_err(Error::other)? {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Invalid(format!(
                "topic '{topic}' does not exist at '{}', and the broker does not create it. Create it first",
                self.servers
            ))),
            Err(error) => Err(failed("ask for the topic of", &self.servers, error)),
        }
    }

    pub(super) fn begin(&self) -> Result<(), Trouble> {
        self.producer.context().failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        if !self.is_exactly_once {
            return Ok(());
        }
        self.producer.begin_transaction().map_err(|error| self.judge("begin to write to", error))
    }

    /// Sends records. They are delivered when [`Transactions::flush`] says so.
    pub(super) async fn send(&self, records: &RecordBatch) -> Result<(), Trouble> {
        let all = Records::new(records);
        for row in 0..records.num_rows() {
            let record = all.get(row);
            let topic = match (&self.topic, record.topic) {
                (Some(topic), _) => topic,
                (None, Some(topic)) => topic,
                (None, None) => return Err(Trouble::Failed(Error::Invalid("a row names no topic".into()))),
            };
            let mut sending = base_record(topic, &record);
            loop {
                match self.producer.send(sending) {
                    Ok(()) => break,
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                        sending = back;
                        tokio::time::sleep(ROOM).await;
                    }
                    Err((error, _)) => return Err(self.judge_record(topic, error)),
                }
            }
        }
        Ok(())
    }

    /// Waits until all records are with the brokers.
    pub(super) async fn flush(&self) -> Result<(), Trouble> {
        self.call("write to", |producer| producer.flush(PATIENCE)).await?;
        let lost = self.producer.context().failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        match lost {
            Some((topic, error)) => Err(self.judge_record(&topic, error)),
            None => Ok(()),
        }
    }

    /// Notes in the transaction that it is batch `batch_id`; see [`Transactions::noted`].
    pub(super) async fn note(&self, topic: &str, batch_id: u64) -> Result<(), Trouble> {
        if !self.is_exactly_once {
            return Ok(());
        }
        let list = note(topic, batch_id).map_err(|error| self.judge("write to", error))?;
        let no_group =
            || Trouble::Failed(Error::Invalid("the consumer for the numbers of batches has no group".into()));
        let group = Arc::clone(self.group.as_ref().ok_or_else(no_group)?);
        self.call("write to", move |producer| producer.send_offsets_to_transaction(&list, &group, PATIENCE))
            .await
    }

    /// Shows the records.
    pub(super) async fn commit(&self) -> Result<(), Trouble> {
        if !self.is_exactly_once {
            return Ok(());
        }
        self.call("commit a transaction of", |producer| producer.commit_transaction(PATIENCE)).await
    }

    /// Takes the records back that were sent since [`Transactions::begin`].
    pub(super) async fn abort(&self) -> Result<()> {
        self.producer.purge(PurgeConfig::default().queue());
        if !self.is_exactly_once {
            return Ok(());
        }
        match self.call("abort a transaction of", |producer| producer.abort_transaction(PATIENCE)).await {
            Ok(()) => Ok(()),
            Err(Trouble::Aborted(_)) => Ok(()),
            Err(Trouble::Failed(error)) => Err(error),
        }
    }

    /// The last batch that is in Kafka, as far as is known there. `topic` is one that it was noted beside.
    pub(super) async fn noted(&self, topic: &str) -> Result<Option<u64>> {
        let notes = Arc::clone(&self.notes);
        let list =
            note(topic, 0).map_err(|error| failed("ask for the last batch in", &self.servers, error))?;
        let asked = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            loop {
                match notes.committed_offsets(list.clone(), PATIENCE) {
                    Err(error) if began.elapsed() < PERSISTENCE => {
                        tracing::warn!(%error, "Kafka does not say which batch it has; it is asked again");
                        std::thread::sleep(Duration::from_millis(200));
                    }
                    answer => return answer,
                }
            }
        });
        let answer = asked.await.map_err(Error::other)?;
        let answer = answer.map_err(|error| failed("ask for the last batch in", &self.servers, error))?;
        Ok(answer.elements().first().and_then(|found| match found.offset() {
            Offset::Offset(batch) => u64::try_from(batch).ok(),
            _ => None,
        }))
    }

    /// Calls on a thread that may wait, again if that may help.
    async fn call(
        &self,
        operation: &'static str,
        work: impl Fn(&ThreadedProducer<Deliveries>) -> Result<(), KafkaError> + Send + 'static,
    ) -> Result<(), Trouble> {
        let producer = Arc::clone(&self.producer);
        let called = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            loop {
                match work(&producer) {
                    Err(error) if is_retriable(&error) && began.elapsed() < PERSISTENCE => {
                        tracing::warn!(%error, "Kafka did not {operation}; it is tried again");
                        std::thread::sleep(Duration::from_millis(50));
                    }
                    done => return done,
                }
            }
        });
        match called.await {
            Ok(done) => done.map_err(|error| self.judge(operation, error)),
            Err(error) => Err(Trouble::Failed(Error::other(error))),
        }
    }

    fn judge(&self, operation: &'static str, error: KafkaError) -> Trouble {
        match &error {
            KafkaError::Transaction(inner) if inner.txn_requires_abort() => Trouble::Aborted(error),
            _ if is_fenced(&error) => Trouble::Failed(Error::storage(
                operation,
                format!("Kafka at {}", self.servers),
                "this process writes no more, because another one has begun to write for the same query, or because \
                 a transaction took longer than kafka.transaction.timeout.ms. What is committed is there once; a \
                 start goes on behind it",
            )),
            _ => Trouble::Failed(failed(operation, &self.servers, error)),
        }
    }

    /// A record that was not taken: for its own sake, or because its transaction is over.
    fn judge_record(&self, topic: &str, error: KafkaError) -> Trouble {
        use RDKafkaErrorCode as Code;
        let advice = match error.rdkafka_error_code() {
            Some(
                Code::PurgeQueue
                | Code::PurgeInflight
                | Code::State
                | Code::InvalidProducerEpoch
                | Code::MessageTimedOut
                | Code::OperationTimedOut,
            ) => {
                return Trouble::Aborted(error);
            }
            Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize) => {
                ". A record is larger than the client (kafka.message.max.bytes) or the topic (max.message.bytes) allows"
            }
            Some(Code::UnknownTopic | Code::UnknownTopicOrPartition) => ". Create the topic first",
            Some(Code::UnknownPartition) => {
                ". The column 'partition' names a partition that the topic does not have"
            }
            _ if is_fenced(&error) => return self.judge("write to", error),
            // What went wrong is with the transaction, and told when that ends.
            Some(Code::Fatal) if self.is_exactly_once => return Trouble::Aborted(error),
            _ => "",
        };
        Trouble::Failed(Error::storage(
            "write to",
            format!("topic '{topic}' of Kafka at {}", self.servers),
            format!("{error}{advice}"),
        ))
    }
}

fn base_record<'a>(topic: &'a str, record: &Record<'a>) -> BaseRecord<'a, [u8], [u8]> {
    let mut base = BaseRecord::to(topic);
    if let Some(key) = record.key {
        base = base.key(key);
    }
    if let Some(value) = record.value {
        base = base.payload(value);
    }
    if let Some(partition) = record.partition {
        base = base.partition(partition);
    }
    if let Some(headers) = &record.headers {
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: *value }));
        base = base.headers(headers);
    }
    base
}

fn note(topic: &str, batch_id: u64) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(i64::try_from(batch_id).unwrap_or(i64::MAX)))?;
    Ok(list)
}

fn is_retriable(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => error.is_retriable(),
        KafkaError::Flush(code) => *code == RDKafkaErrorCode::OperationTimedOut,
        _ => false,
    }
}

fn is_fenced(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::Fenced
                | RDKafkaErrorCode::InvalidProducerEpoch
                | RDKafkaErrorCode::ProducerFenced
        )
    )
}
