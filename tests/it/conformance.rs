//! The public suite for sources and sinks: our own pass it, and faults are found.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::prelude::SessionContext;
use serde_json::Value;
use tidemill::checkpoint::records::SinkDefinition;
use tidemill::conformance::{SinkCase, SourceCase, check_sink, check_source};
use tidemill::sink::{FileSink, MemorySink, OutputFormat, OutputMode, Sink, SinkBatch, SinkWriter};
use tidemill::source::file::FileTable;
use tidemill::source::memory::MemoryStream;
use tidemill::source::{OffsetSource, OffsetTable, SourceProvider};
use tidemill::storage::{Durability, Storage};
use tidemill::{Options, Result};
use uuid::Uuid;

use crate::support::harness::{Place, put, schema};
use crate::support::outcome::{directory_url, disks};

struct Files {
    place: Place,
    format: OutputFormat,
    partition_by: Vec<String>,
}

#[async_trait]
impl SinkCase for Files {
    async fn sink(&self, schema: SchemaRef) -> Result<Arc<dyn Sink>> {
        let url = directory_url(&self.place.text("out"));
        let storage = disks().open(&url, Durability::Process)?;
        let session = SessionContext::new().state();
        let (by, options) = (self.partition_by.clone(), Options::default());
        Ok(Arc::new(FileSink::try_new(self.format, url, storage, schema, by, options, &session)?))
    }

    async fn visible(&self) -> Result<Vec<RecordBatch>> {
        let columns: &[(&str, DataType)] =
            if self.partition_by.is_empty() { &[] } else { &[("id", DataType::Int64)] };
        let session = SessionContext::new();
        if !self.place.path("out").exists() {
            return Ok(Vec::new());
        }
        let options = datafusion::datasource::listing::ListingOptions::new(match self.format {
            OutputFormat::Json => Arc::new(datafusion::datasource::file_format::json::JsonFormat::default()),
            _ => Arc::new(datafusion::datasource::file_format::parquet::ParquetFormat::default()) as _,
        })
        .with_file_extension(self.format.name())
        .with_table_partition_cols(columns.iter().map(|(name, of)| (name.to_string(), of.clone())).collect());
        let names = if columns.is_empty() {
            schema(&[("id", DataType::Int64), ("name", DataType::Utf8)])
        } else {
            schema(&[("name", DataType::Utf8)])
        };
        session.register_listing_table("out", self.place.text("out"), options, Some(names), None).await?;
        Ok(session.table("out").await?.collect().await?)
    }
}

struct Memory(Mutex<Option<Arc<MemorySink>>>);

#[async_trait]
impl SinkCase for Memory {
    async fn sink(&self, schema: SchemaRef) -> Result<Arc<dyn Sink>> {
        let mut sink = self.0.lock().unwrap();
        let sink = match &*sink {
            Some(sink) => Arc::clone(sink),
            None => Arc::clone(sink.insert(Arc::new(MemorySink::try_new(schema)?))),
        };
        Ok(sink)
    }

    async fn visible(&self) -> Result<Vec<RecordBatch>> {
        let table = self.0.lock().unwrap().as_ref().unwrap().results().unwrap();
        Ok(SessionContext::new().read_table(table)?.collect().await?)
    }
}

#[tokio::test]
async fn the_sinks_keep_what_is_asked_of_sinks() {
    for (format, partition_by) in
        [(OutputFormat::Parquet, &[][..]), (OutputFormat::Json, &[]), (OutputFormat::Parquet, &["id"])]
    {
        let partition_by = partition_by.iter().map(|column: &&str| column.to_string()).collect();
        check_sink(&Files { place: Place::new(), format, partition_by }).await.unwrap();
    }
    check_sink(&Memory(Mutex::default())).await.unwrap();
}

/// A sink with a fault.
#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn Sink>,
    fault: &'static str,
}

#[async_trait]
impl Sink for Faulty {
    fn description(&self) -> String {
        self.inner.description()
    }

    fn definition(&self, checkpoint: &dyn Storage) -> SinkDefinition {
        self.inner.definition(checkpoint)
    }

    fn check_output_mode(&self, mode: OutputMode) -> Result<()> {
        self.inner.check_output_mode(mode)
    }

    fn shows_only_published(&self) -> bool {
        self.inner.shows_only_published()
    }

    async fn recover(&self, query_id: Uuid, last: Option<(u64, &Value)>) -> Result<()> {
        match self.fault {
            "does not complete" => Ok(()),
            _ => self.inner.recover(query_id, last).await,
        }
    }

    async fn writer(&self, batch: SinkBatch, partition: usize) -> Result<Box<dyn SinkWriter>> {
        self.inner.writer(batch, partition).await
    }

    async fn prepare(&self, batch: SinkBatch, reports: Vec<Value>) -> Result<Value> {
        let prepared = self.inner.prepare(batch, reports).await?;
        if self.fault == "shows too early" {
            self.inner.publish(batch.batch_id, &prepared).await?;
        }
        Ok(prepared)
    }

    async fn publish(&self, batch_id: u64, prepared: &Value) -> Result<()> {
        self.inner.publish(batch_id, prepared).await
    }

    async fn abort(&self, batch: SinkBatch) -> Result<()> {
        self.inner.abort(batch).await
    }
}

struct FaultyFiles(Files, &'static str);

#[async_trait]
impl SinkCase for FaultyFiles {
    async fn sink(&self, schema: SchemaRef) -> Result<Arc<dyn Sink>> {
        Ok(Arc::new(Faulty { inner: self.0.sink(schema).await?, fault: self.1 }))
    }

    async fn visible(&self) -> Result<Vec<RecordBatch>> {
        self.0.visible().await
    }
}

#[tokio::test]
async fn faults_of_sinks_are_named() {
    for (fault, promise) in [
        ("shows too early", "nothing is shown before the batch is committed"),
        ("does not complete", "a batch that was committed and not published is shown after a restart"),
    ] {
        let files = Files { place: Place::new(), format: OutputFormat::Parquet, partition_by: vec![] };
        let error = check_sink(&FaultyFiles(files, fault)).await.unwrap_err().to_string();
        assert!(error.contains(promise), "{fault}: {error}");
    }
}

struct MemoryRows(MemoryStream);

fn ids(first: i64, rows: usize) -> RecordBatch {
    let ids = Int64Array::from_iter_values((first..).take(rows));
    RecordBatch::try_new(schema(&[("id", DataType::Int64)]), vec![Arc::new(ids)]).unwrap()
}

#[async_trait]
impl SourceCase for MemoryRows {
    async fn provider(&self) -> Result<Arc<dyn SourceProvider>> {
        Ok(Arc::new(self.0.clone()))
    }

    async fn add(&self, first: i64, rows: usize) -> Result<()> {
        self.0.add_data(ids(first, rows)).map(drop)
    }
}

/// JSON files of two rows.
struct JsonFiles {
    place: Place,
    files_per_trigger: &'static str,
}

#[async_trait]
impl SourceCase for JsonFiles {
    async fn provider(&self) -> Result<Arc<dyn SourceProvider>> {
        let state = SessionContext::new().state();
        let columns = Some(schema(&[("id", DataType::Int64), ("name", DataType::Utf8)]));
        let options = [("maxFilesPerTrigger", self.files_per_trigger)].into_iter().collect();
        FileTable::resolve("json", &format!("{}/", self.place.text("in")), columns, vec![], options, &state)
            .await
    }

    async fn add(&self, first: i64, rows: usize) -> Result<()> {
        let ids: Vec<i64> = (first..).take(rows).collect();
        for ids in ids.chunks(2) {
            let lines = ids.iter().map(|id| format!("{{\"id\":{id},\"name\":\"row {id}\"}}\n"));
            put(&self.place.path(&format!("in/{:05}.json", ids[0])), lines.collect::<String>());
        }
        Ok(())
    }
}

/// Numbers without arrivals, and with a fault.
#[derive(Debug)]
struct Numbers {
    rows: AtomicI64,
    fault: &'static str,
}

#[async_trait]
impl OffsetSource for Numbers {
    fn name(&self) -> &str {
        "numbers"
    }

    fn schema(&self) -> SchemaRef {
        schema(&[("id", DataType::Int64)])
    }

    async fn end(&self) -> Result<u64> {
        Ok(self.rows.load(Ordering::SeqCst).unsigned_abs())
    }

    async fn read(&self, from: u64, to: u64) -> Result<Vec<RecordBatch>> {
        let first = match self.fault {
            // What was read is gone, and other rows are in its place.
            "moves on" => self.rows.load(Ordering::SeqCst) - i64::try_from(to - from).unwrap(),
            _ => i64::try_from(from).unwrap(),
        };
        Ok(vec![ids(first, usize::try_from(to - from).unwrap())])
    }

    fn most_rows(&self) -> u64 {
        if self.fault == "none" { 3 } else { u64::MAX }
    }
}

struct NumbersCase(Arc<Numbers>);

#[async_trait]
impl SourceCase for NumbersCase {
    async fn provider(&self) -> Result<Arc<dyn SourceProvider>> {
        Ok(Arc::new(OffsetTable::new(Arc::clone(&self.0))))
    }

    async fn add(&self, _: i64, rows: usize) -> Result<()> {
        self.0.rows.fetch_add(i64::try_from(rows).unwrap(), Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sources_keep_what_is_asked_of_sources() {
    let columns = schema(&[("id", DataType::Int64)]);
    check_source(&MemoryRows(MemoryStream::new(columns))).await.unwrap();
    for files_per_trigger in ["1", "100"] {
        let place = Place::new();
        check_source(&JsonFiles { place, files_per_trigger }).await.unwrap();
    }
    let numbers = |fault| NumbersCase(Arc::new(Numbers { rows: AtomicI64::new(0), fault }));
    check_source(&numbers("none")).await.unwrap();
    let error = check_source(&numbers("moves on")).await.unwrap_err().to_string();
    assert!(error.contains("the rows between two offsets are always the same"), "{error}");
}
