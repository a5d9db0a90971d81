//! A broker, topics in it, and what is in those.

mod broker;
mod gathered;
mod registry;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tidemill::arrow::array::RecordBatch;
use tidemill::arrow::util::display::{ArrayFormatter, FormatOptions};
use tidemill::prelude::*;
use tidemill::sql::SqlSession;

pub use broker::Broker;
pub use gathered::Gathered;
pub use registry::Registry;

/// A session that knows Kafka.
pub fn session() -> Session {
    let session = Session::new();
    tidemill_kafka::register(&session);
    session
}

/// A session for SQL that knows Kafka.
pub fn sql() -> SqlSession {
    SqlSession::new(session())
}

/// A producer; with `id`, one of transactions.
pub fn producer(broker: &Broker, id: Option<&str>) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.servers()).set("linger.ms", "1");
    // Partitions that come later are known soon.
    config.set("message.max.bytes", "15000000").set("topic.metadata.refresh.interval.ms", "500");
    if let Some(id) = id {
        config.set("transactional.id", id);
    }
    let producer: BaseProducer = config.create().unwrap();
    if id.is_some() {
        producer.init_transactions(Duration::from_secs(20)).unwrap();
    }
    producer
}

/// Sends texts to a partition; they are there when it returns.
pub fn send(producer: &BaseProducer, topic: &str, partition: i32, texts: impl IntoIterator<Item = String>) {
    for text in texts {
        let record = || BaseRecord::<str, str>::to(topic).partition(partition).payload(&text).key("k");
        while producer.send(record()).is_err() {
            producer.poll(Duration::from_millis(10));
        }
    }
    producer.flush(Duration::from_secs(20)).unwrap();
}

/// The rows of some batches as texts, columns separated by `|`, sorted.
pub fn texts(batches: &[RecordBatch]) -> Vec<String> {
    let mut rows = Vec::new();
    for batch in batches {
        let options = FormatOptions::default().with_null("null");
        let columns: Vec<_> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            rows.push(
                columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join("|"),
            );
        }
    }
    rows.sort_unstable();
    rows
}

/// A table of a topic, read from its beginning unless `options` say otherwise.
pub async fn table(
    session: &Session,
    broker: &Broker,
    options: &[(&str, &str)],
) -> tidemill::Result<DataFrame> {
    let mut reader = session
        .read_stream()
        .format("kafka")
        .option("kafka.bootstrap.servers", broker.servers())
        .option("startingOffsets", "earliest");
    for (name, value) in options {
        reader = reader.option(*name, value);
    }
    reader.load(None).await
}

/// What a query over `frame` gives from where `checkpoint` says up to now, by batch.
pub async fn batches_until_now(
    frame: DataFrame,
    checkpoint: &str,
) -> tidemill::Result<BTreeMap<u64, Vec<String>>> {
    let found: Arc<std::sync::Mutex<BTreeMap<u64, Vec<String>>>> = Arc::default();
    let into = Arc::clone(&found);
    let query = frame
        .write_stream()
        .foreach_batch(move |rows, batch| {
            let into = Arc::clone(&into);
            async move {
                let rows = texts(&rows.collect().await?);
                into.lock().unwrap().insert(batch, rows);
                Ok(())
            }
        })
        .trigger(Trigger::AvailableNow)
        .option("checkpointLocation", checkpoint)
        .option("durability", "process")
        .start(None)
        .await?;
    query.await_termination().await?;
    let found = found.lock().unwrap().clone();
    Ok(found)
}

/// The rows of [`batches_until_now`], of all batches together, sorted.
pub async fn until_now(frame: DataFrame, checkpoint: &str) -> tidemill::Result<Vec<String>> {
    let mut rows: Vec<String> = batches_until_now(frame, checkpoint).await?.into_values().flatten().collect();
    rows.sort_unstable();
    Ok(rows)
}
