//! Runs a case in this engine.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde_json::{Number, Value as Json, json};
use tempfile::TempDir;
use tidemill::Result;
use tidemill::prelude::*;
use tidemill::source::memory::MemoryStream;

use super::cases::{Added, Batch, Case, Step, View};
use crate::stateful::rig::{Capture, CaptureFactory, FeedFactory};
use crate::stateful::values::Value;

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let columns = [("k", DataType::Utf8), ("v", DataType::Int64), ("ts", time)];
    Arc::new(Schema::new(columns.map(|(name, kind)| Field::new(name, kind, true)).to_vec()))
}

type Line = (Option<String>, Option<i64>, Option<f64>);

fn batch_of(rows: &[Line]) -> RecordBatch {
    let micros = |seconds: f64| (seconds * 1e6).round() as i64;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter(rows.iter().map(|row| row.0.as_deref()))),
        Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.1))),
        Arc::new(TimestampMicrosecondArray::from_iter(rows.iter().map(|row| row.2.map(micros)))),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// The query's world; it stays over restarts.
struct Scene<'a> {
    case: &'a Case,
    streams: BTreeMap<String, MemoryStream>,
    sink: Capture,
    folder: TempDir,
    running: Option<(Session, StreamingQuery)>,
}

/// What a case gave.
pub struct Replayed {
    /// The batches of each step.
    pub steps: Vec<Vec<Batch>>,
    /// Whether it joins streams.
    pub joins: bool,
}

/// Runs `case`.
pub async fn replay(case: &Case) -> Result<Replayed> {
    let streams = case.streams.keys().map(|name| (name.clone(), MemoryStream::new(schema()))).collect();
    let folder = crate::support::harness::scratch();
    let mut scene = Scene { case, streams, sink: Capture::default(), folder, running: None };
    scene.start(Trigger::default()).await?;
    scene.running().process_all_available().await?;
    let mut steps = Vec::new();
    for step in &case.steps {
        steps.push(scene.step(step).await?);
    }
    let joins = scene.joins_streams();
    scene.stop().await?;
    Ok(Replayed { steps, joins })
}

impl Scene<'_> {
    fn running(&self) -> &StreamingQuery {
        &self.running.as_ref().unwrap().1
    }

    async fn start(&mut self, trigger: Trigger) -> Result<()> {
        let session = Session::new();
        session.register_sink("capture", Arc::new(CaptureFactory(self.sink.clone())));
        let frame = self.frame(&session).await?;
        let checkpoint = self.folder.path().join("checkpoint");
        let mut writer = frame
            .write_stream()
            .format("capture")
            .output_mode(self.case.mode.parse().unwrap())
            .trigger(trigger)
            .option("checkpointLocation", checkpoint.to_str().unwrap())
            .option("durability", "process");
        if let Some(policy) = &self.case.policy {
            writer = writer.option("multipleWatermarkPolicy", policy);
        }
        let query = writer.start(None).await?;
        self.running = Some((session, query));
        Ok(())
    }

    async fn stop(&mut self) -> Result<()> {
        match self.running.take() {
            Some((_session, query)) => query.stop(StopMode::Finish).await,
            None => Ok(()),
        }
    }

    async fn frame(&self, session: &Session) -> Result<DataFrame> {
        let context = session.context();
        for (name, delay) in &self.case.streams {
            session.register_source("feed", Arc::new(FeedFactory(self.streams[name].clone())));
            let mut table = session.read_stream().format("feed").load(None).await?;
            if let Some(delay) = delay {
                table = table.with_watermark("ts", delay)?;
            }
            context.register_table(name, table.into_view())?;
        }
        let names: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "b", "x"]));
        let counts: ArrayRef = Arc::new(Int64Array::from(vec![10, 20, 21, 90]));
        context.register_batch("t", RecordBatch::try_from_iter([("k", names), ("c", counts)])?)?;
        for (name, view) in &self.case.views {
            let table = match (&view.sql, &view.of) {
                (Some(sql), _) => context.sql(sql).await?,
                (None, of) => deduplicated(context.table(of.as_ref().unwrap()).await?, view)?,
            };
            context.register_table(name, table.into_view())?;
        }
        let sql = self.case.sql.as_ref().or(self.case.tidemill.as_ref()).unwrap();
        Ok(context.sql(sql).await?)
    }

    fn joins_streams(&self) -> bool {
        let is_join = |name: &Json| name.as_str().unwrap().starts_with("join");
        let reports = self.running().recent_progress();
        let operators = reports.iter().flat_map(|report| &report.state_operators);
        operators.into_iter().any(|operator| is_join(&operator["operatorName"]))
    }

    fn add(&self, rows: &Added) {
        for (stream, rows) in rows {
            self.streams[stream].add_data(batch_of(rows)).unwrap();
        }
    }

    async fn step(&mut self, step: &Step) -> Result<Vec<Batch>> {
        let known = self.sink.published().len();
        match step {
            Step::Command(command) => {
                assert_eq!(command, "restart");
                self.stop().await?;
                self.start(Trigger::default()).await?;
                self.running().process_all_available().await?;
            }
            Step::Triggered { trigger, add } => {
                self.stop().await?;
                self.add(add);
                let once = trigger == "once";
                self.start(if once { Trigger::Once } else { Trigger::AvailableNow }).await?;
                self.running().await_termination().await?;
            }
            Step::Added(rows) => {
                if !self.running().is_active() {
                    self.start(Trigger::default()).await?;
                }
                self.add(rows);
                self.running().process_all_available().await?;
            }
        }
        Ok(self.batches(known))
    }

    /// The batches from number `first` on.
    fn batches(&self, first: usize) -> Vec<Batch> {
        let published = self.sink.published();
        let reports = self.running().recent_progress();
        let batches = published.iter().skip(first).map(|(number, (_, rows))| {
            let report = reports.iter().find(|report| report.batch_id == *number).unwrap();
            let rows = rows.iter().map(|row| row.iter().map(json_of).collect::<Json>()).collect();
            let sum = |counter: &str| {
                let counts =
                    report.state_operators.iter().map(|operator| operator[counter].as_u64().unwrap());
                (!report.state_operators.is_empty()).then(|| counts.sum())
            };
            Batch {
                input: report.sources.iter().any(|source| source.start_offset != source.end_offset),
                rows,
                watermark: report.event_time.get("watermark").map(|text| seconds_of(text)),
                late: sum("numRowsDroppedByWatermark"),
                state: sum("numRowsTotal"),
            }
        });
        batches.collect()
    }
}

fn deduplicated(table: DataFrame, view: &View) -> Result<DataFrame> {
    let names = |columns: &'_ Option<Vec<String>>| columns.clone().unwrap_or_default();
    let (all, within) = (names(&view.drop_duplicates), names(&view.within_watermark));
    if within.is_empty() {
        table.drop_duplicates(&all.iter().map(String::as_str).collect::<Vec<_>>())
    } else {
        table.drop_duplicates_within_watermark(&within.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

/// Microseconds as seconds: whole if they are.
fn seconds(micros: i64) -> Json {
    if micros % 1_000_000 == 0 { json!(micros / 1_000_000) } else { json!(micros as f64 / 1e6) }
}

/// Seconds since 1970 of a time in ISO 8601.
fn seconds_of(text: &str) -> Json {
    let time = chrono::DateTime::parse_from_rfc3339(text).unwrap();
    seconds(time.timestamp_micros())
}

fn json_of(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(flag) => json!(flag),
        Value::Int(number) => json!(number),
        Value::Float(number) => Json::Number(Number::from_f64(*number).unwrap()),
        Value::Text(text) => json!(text),
        Value::Time(micros) => seconds(*micros),
        Value::List(values) => values.iter().map(json_of).collect(),
    }
}
