//! The public suite for sources and sinks.

use std::sync::Arc;

use tidemill::arrow::array::{Int64Array, RecordBatch, StringArray};
use tidemill::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill::conformance::{SinkCase, SourceCase, check_sink, check_source};
use tidemill::sink::Sink;
use tidemill::source::SourceProvider;
use tidemill::storage::{DefaultStorageProvider, Durability, Storage, StorageProvider, resolve_location};
use tidemill::{
    Options, OutputMode, Result, SinkFactory, SinkRequest, SourceFactory, SourceRequest, async_trait,
};
use tidemill_kafka::{KafkaSinkFactory, KafkaSourceFactory};

use crate::support::{Broker, producer, send, session};

struct Topic {
    broker: &'static Broker,
    topic: String,
    /// With columns of JSON instead of bytes.
    is_typed: bool,
}

#[async_trait]
impl SourceCase for Topic {
    async fn provider(&self) -> Result<Arc<dyn SourceProvider>> {
        let servers = self.broker.servers();
        let mut options: Options = [
            ("subscribe", self.topic.as_str()),
            ("kafka.bootstrap.servers", &servers),
            ("startingOffsets", "earliest"),
        ]
        .into_iter()
        .collect();
        let mut schema = None;
        if self.is_typed {
            options.set("value.format", "json");
            options.set("includeMetadata", "true");
            schema = Some(Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)])));
        }
        let (format, state) = ("kafka".to_string(), session().context().state());
        KafkaSourceFactory
            .create(SourceRequest { format, path: None, schema, partition_by: vec![], options, state })
            .await
    }

    async fn add(&self, first: i64, rows: usize) -> Result<()> {
        let producer = producer(self.broker, None);
        for id in (first..).take(rows) {
            send(&producer, &self.topic, (id % 3) as i32, [format!("{{\"id\":{id}}}")]);
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_source_keeps_what_sources_promise() {
    let Some(broker) = Broker::shared() else { return };
    for is_typed in [false, true] {
        let topic = broker.topic("source", 3, &[]).await;
        check_source(&Topic { broker, topic, is_typed }).await.unwrap();
    }
}

struct Written {
    broker: &'static Broker,
    topic: String,
    checkpoint: Arc<dyn Storage>,
}

#[async_trait]
impl SinkCase for Written {
    async fn sink(&self, schema: SchemaRef) -> Result<Arc<dyn Sink>> {
        let servers = self.broker.servers();
        let options =
            [("topic", self.topic.as_str()), ("kafka.bootstrap.servers", &servers), ("value.format", "json")];
        let sink = KafkaSinkFactory.create(SinkRequest {
            format: "kafka".into(),
            path: None,
            schema,
            keys: vec![],
            output_mode: OutputMode::Append,
            partition_by: vec![],
            options: options.into_iter().collect(),
            query_name: None,
            state: session().context().state(),
            storages: Arc::new(DefaultStorageProvider::new(Arc::default())),
            durability: Durability::Process,
        })?;
        sink.stage_in(&self.checkpoint);
        Ok(sink)
    }

    async fn visible(&self) -> Result<Vec<RecordBatch>> {
        let rows: Vec<tidemill::serde_json::Value> = self
            .broker
            .peek(&self.topic, 2)
            .iter()
            .map(|text| tidemill::serde_json::from_str(text).unwrap())
            .collect();
        let ids: Int64Array = rows.iter().map(|row| row["id"].as_i64()).collect();
        let names: StringArray = rows.iter().map(|row| row["name"].as_str()).collect();
        Ok(vec![RecordBatch::try_from_iter([("id", Arc::new(ids) as _), ("name", Arc::new(names) as _)])?])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sink_keeps_what_sinks_promise() {
    let Some(broker) = Broker::shared() else { return };
    let directory = tempfile::tempdir().unwrap();
    let url = resolve_location(directory.path().to_str().unwrap()).unwrap();
    let checkpoint = DefaultStorageProvider::new(Arc::default()).open(&url, Durability::Process).unwrap();
    let topic = broker.topic("sink", 2, &[]).await;
    check_sink(&Written { broker, topic, checkpoint }).await.unwrap();
}
