//! Asks brokers what there is. On connections of its own: answers would wait behind long fetches otherwise.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use tidemill::{Error, Result};

use super::offsets::{Offsets, Partition};
use super::options::{Begin, Selection, SourceOptions};
use super::topic_ids::{TopicIds, topic_ids};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Kafka's own topics, which patterns do not mean.
const INTERNAL: &str = "__";

/// See the module.
pub(super) struct Control {
    consumer: Arc<BaseConsumer>,
    servers: String,
    retries: u64,
    retry_interval: Duration,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("servers", &self.servers).finish_non_exhaustive()
    }
}

impl Control {
    /// Asks for the query whose consumer group is `group`. Connects when it is asked.
    pub(super) fn new(options: &SourceOptions, group: &str) -> Result<Self> {
        let defaults = super::scan::CONSUMER_DEFAULTS;
        let fixed = [("group.id", group), ("enable.auto.commit", "false")];
        let consumer = options.client.config(defaults, &fixed).create::<BaseConsumer>();
        let servers = options.client.servers.clone();
        let consumer = consumer.map_err(|error| failed("connect to", &servers, error))?;
        Ok(Self {
            consumer: Arc::new(consumer),
            servers,
            retries: options.retries,
            retry_interval: options.retry_interval,
        })
    }

    /// The partitions that there are of those selected.
    ///
    /// # Errors
    /// If a topic that is named does not exist, unless it `may_be_gone`.
    pub(super) async fn partitions(
        &self,
        selection: &Selection,
        may_be_gone: bool,
    ) -> Result<BTreeSet<Partition>> {
        let topics: Vec<Option<String>> = match selection {
            Selection::Assign(partitions) => {
                let topics: BTreeSet<&String> = partitions.iter().map(|partition| &partition.topic).collect();
                topics.into_iter().cloned().map(Some).collect()
            }
            Selection::Subscribe(topics) => topics.iter().cloned().map(Some).collect(),
            Selection::Pattern(_) => vec![None],
        };
        let mut found = BTreeSet::new();
        for topic in topics {
            let there = self.partitions_of(topic.clone()).await?;
            if let Some(topic) = &topic
                && there.is_empty()
                && !may_be_gone
            {
                return Err(Error::Invalid(format!(
                    "topic '{topic}' does not exist at '{}'. Create it first, or name topics that may come later \
                     by subscribePattern",
                    self.servers
                )));
            }
            found.extend(there);
        }
        match selection {
            Selection::Assign(wanted) => {
                if let Some(missing) = wanted.difference(&found).next()
                    && !may_be_gone
                {
                    return Err(Error::Invalid(format!("{missing} does not exist at '{}'", self.servers)));
                }
                Ok(wanted.intersection(&found).cloned().collect())
            }
            Selection::Subscribe(_) => Ok(found),
            Selection::Pattern(pattern) => {
                let is_meant = |partition: &Partition| {
                    !partition.topic.starts_with(INTERNAL) && pattern.is_match(&partition.topic)
                };
                Ok(found.into_iter().filter(is_meant).collect())
            }
        }
    }

    /// The partitions of `topic`, or of all topics; none if it does not exist.
    async fn partitions_of(&self, topic: Option<String>) -> Result<Vec<Partition>> {
        self.ask("list the topics of", move |consumer| {
            let metadata = consumer.fetch_metadata(topic.as_deref(), PATIENCE)?;
            let mut found = Vec::new();
            for there in metadata.topics() {
                if let Some(error) = there.error() {
                    let code = RDKafkaErrorCode::from(error);
                    match code {
                        RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
                            continue;
                        }
                        _ if topic.is_none() => continue,
                        code => return Err(KafkaError::MetadataFetch(code)),
                    }
                }
                let partitions = there.partitions().iter();
                found.extend(
                    partitions
                        .map(|partition| Partition { topic: there.name().to_string(), id: partition.id() }),
                );
            }
            Ok(found)
        })
        .await
    }

    /// For each partition the offset that is asked for; none for a time after its last message, and for a partition
    /// that does not exist any more. Offsets that are given come back as they are.
    pub(super) async fn offsets(&self, asked: Vec<(Partition, Begin)>) -> Result<Offsets> {
        if asked.is_empty() {
            return Ok(Offsets::default());
        }
        self.ask("ask for the offsets of", move |consumer| {
            let mut list = TopicPartitionList::new();
            let mut offsets = Offsets::default();
            for (partition, begin) in &asked {
                // What a time is in the protocol, where some have a meaning of their own.
                let time = match begin {
                    Begin::At(offset) => {
                        offsets.0.insert(partition.clone(), *offset);
                        continue;
                    }
                    Begin::Earliest => Offset::Beginning,
                    Begin::Latest => Offset::End,
                    Begin::Since(time) => Offset::Offset((*time).max(0)),
                };
                list.add_partition_offset(&partition.topic, partition.id, time)?;
            }
            if list.count() > 0 {
                for found in consumer.offsets_for_times(list, PATIENCE)?.elements() {
                    match found.error() {
                        Err(error) if is_gone(&error) => continue,
                        found => found?,
                    }
                    if let Offset::Offset(offset) = found.offset() {
                        let partition = Partition { topic: found.topic().to_string(), id: found.partition() };
                        offsets.0.insert(partition, offset);
                    }
                }
            }
            Ok(offsets)
        })
        .await
    }

    /// The ids of those of `topics` that there are, as far as brokers give them any.
    pub(super) async fn topic_ids(&self, topics: BTreeSet<String>) -> Result<TopicIds> {
        self.ask("ask for the topics of", move |consumer| {
            // SAFETY: the client is the consumer's, which lives longer.
            unsafe { topic_ids(consumer.client().native_ptr(), &topics, PATIENCE) }
        })
        .await
    }

    /// Tells Kafka how far the query has read, for people to see. Nobody waits for it, and nothing depends on it.
    pub(super) fn tell(&self, offsets: &Offsets) {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in &offsets.0 {
            if list.add_partition_offset(&partition.topic, partition.id, Offset::Offset(*offset)).is_err() {
                return;
            }
        }
        if list.count() > 0
            && let Err(error) = self.consumer.commit(&list, CommitMode::Async)
        {
            tracing::debug!(%error, "the offsets of the consumer group are not told");
        }
        // What has become of those before.
        while self.consumer.poll(Duration::ZERO).is_some() {}
    }

    /// Asks on a thread that may wait, and again if there is no answer.
    async fn ask<T: Send + 'static>(
        &self,
        operation: &'static str,
        question: impl Fn(&BaseConsumer) -> Result<T, KafkaError> + Send + Sync + 'static,
    ) -> Result<T> {
        let question = Arc::new(question);
        let mut attempt = 0;
        loop {
            let (consumer, question) = (Arc::clone(&self.consumer), Arc::clone(&question));
            let answer = tokio::task::spawn_blocking(move || question(&consumer)).await;
            match answer.map_err(Error::other)? {
                Ok(answer) => return Ok(answer),
                Err(error) if attempt < self.retries && is_transient(&error) => {
                    tracing::warn!(%error, "Kafka does not answer; it is asked again");
                    attempt += 1;
                    tokio::time::sleep(self.retry_interval).await;
                }
                Err(error) => return Err(failed(operation, &self.servers, error)),
            }
        }
    }
}

/// Whether a topic or a partition does not exist.
fn is_gone(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
        )
    )
}

fn is_transient(error: &KafkaError) -> bool {
    !matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::Authentication
        )
    )
}

/// An error of the client, with what was tried and where.
pub(super) fn failed(operation: &'static str, servers: &str, error: KafkaError) -> Error {
    Error::storage(operation, format!("Kafka at {servers}"), error)
}
