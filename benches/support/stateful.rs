//! Running queries that remember, beside DataFusion doing all of their work as one batch.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::functions::datetime::date_bin;
use datafusion::prelude::{DataFrame, JsonReadOptions, ParquetReadOptions, SessionContext};
use futures::StreamExt;
use tidemill::StreamTable;
use tidemill::prelude::*;

use super::data::Format;
use super::feed::Feed;
use super::statistics::{median, millis};
use super::stream::{BatchEnd, Watch, text, watched_session};
use super::{Result, Workspace};
use crate::Settings;

/// The unbounded table of a query.
#[derive(Debug, Clone)]
pub enum Input<'a> {
    /// Rows in memory.
    Feed(&'a Feed),
    /// Files in a directory.
    Files { directory: &'a Path, format: Format, schema: SchemaRef, files_per_trigger: u64 },
}

/// A query to be measured.
#[derive(Debug, Clone)]
pub struct Case<'a> {
    /// What it is called in the results.
    pub name: String,
    /// The unbounded table, which is called `events`.
    pub input: Input<'a>,
    /// Its event time and the watermark's delay.
    pub watermark: Option<(&'a str, &'a str)>,
    /// Another unbounded table: its name, rows, and event time with the watermark's delay.
    pub stream: Option<(&'a str, &'a Feed, (&'a str, &'a str))>,
    /// A bounded table of the query and its name.
    pub table: Option<(&'a str, Arc<MemTable>)>,
    /// The query.
    pub sql: &'a str,
    /// What DataFusion is asked for instead, if it does not know all of that.
    pub sql_of_datafusion: Option<&'a str>,
    /// What is given after each trigger.
    pub mode: OutputMode,
    /// Further options of the writer.
    pub options: Vec<(&'a str, &'a str)>,
    /// Over `output`, the rows that were given: the same for one batch as for many. Not compared if empty.
    pub digest: &'a str,
}

/// One run of a query.
#[derive(Debug, Clone)]
pub struct Run {
    /// From describing the query to its end.
    pub seconds: f64,
    /// Milliseconds of each trigger; of the first, from the start on.
    pub triggers: Vec<f64>,
    /// The ends of all batches.
    pub ends: Vec<BatchEnd>,
}

/// Several runs of a query, and of the same as one batch.
#[derive(Debug, Default)]
pub struct Runs {
    /// Seconds of DataFusion.
    pub batch: Vec<f64>,
    /// Runs of Tidemill.
    pub streaming: Vec<Run>,
}

impl Runs {
    /// The median of the seconds.
    pub fn seconds(&self) -> f64 {
        median(&self.streaming.iter().map(|run| run.seconds).collect::<Vec<_>>())
    }

    /// The median of DataFusion's seconds.
    pub fn batch_seconds(&self) -> f64 {
        median(&self.batch)
    }

    /// The most bytes of memory that state has taken after a trigger.
    pub fn most_state(&self) -> u64 {
        let bytes = |end: &BatchEnd| -> u64 {
            let operators = end.progress.state_operators.iter();
            operators.filter_map(|operator| operator["memoryUsedBytes"].as_u64()).sum()
        };
        self.streaming.iter().flat_map(|run| &run.ends).map(bytes).max().unwrap_or(0)
    }

    /// The median of each trigger's milliseconds.
    pub fn triggers(&self) -> Vec<f64> {
        let count = self.streaming.iter().map(|run| run.triggers.len()).min().unwrap_or(0);
        let of = |trigger| self.streaming.iter().map(|run: &Run| run.triggers[trigger]).collect::<Vec<_>>();
        (0..count).map(|trigger| median(&of(trigger))).collect()
    }
}

/// Measures `cases`, which take turns, after a round that warms up and compares the results.
pub async fn measure(settings: &Settings, workspace: &Workspace, cases: &[Case<'_>]) -> Result<Vec<Runs>> {
    let work = workspace.empty("stateful-work")?;
    let mut all: Vec<Runs> = cases.iter().map(|_| Runs::default()).collect();
    for round in usize::from(settings.unchecked)..=settings.runs {
        for (case, measured) in cases.iter().zip(&mut all) {
            workspace.empty("stateful-work")?;
            if round == 0 {
                case.compare(&work).await?;
                continue;
            }
            measured.batch.push(case.batch(None).await?);
            let (session, watch) = watched_session();
            measured.streaming.push(case.run(&session, &watch, &work, "noop").await?);
        }
    }
    workspace.remove("stateful-work")?;
    Ok(all)
}

impl Case<'_> {
    /// Runs the query to its end.
    pub async fn run(&self, session: &Session, watch: &Watch, work: &Path, sink: &str) -> Result<Run> {
        let started = Instant::now();
        self.start(session, work, sink).await?.await_termination().await?;
        let seconds = started.elapsed().as_secs_f64();
        let ends = watch.ends();
        let mut before = started;
        let triggers =
            ends.iter().map(|end| millis(end.at - std::mem::replace(&mut before, end.at))).collect();
        Ok(Run { seconds, triggers, ends })
    }

    /// Starts the query with its checkpoint in `work`.
    pub async fn start(&self, session: &Session, work: &Path, sink: &str) -> Result<StreamingQuery> {
        let context = session.context();
        if let Some((name, table)) = &self.table {
            context.register_table(*name, Arc::clone(table) as Arc<dyn TableProvider>)?;
        }
        let mut events = self.stream(session).await?;
        if let Some((column, delay)) = self.watermark {
            events = events.with_watermark(column, delay)?;
        }
        context.register_table("events", events.into_view())?;
        if let Some((name, feed, (column, delay))) = self.stream {
            let table = context.read_table(Arc::new(StreamTable::new(Arc::new(feed.clone()))))?;
            context.register_table(name, table.with_watermark(column, delay)?.into_view())?;
        }
        let checkpoint = work.join("checkpoint");
        let mut writer = context
            .sql(self.sql)
            .await?
            .write_stream()
            .format(sink)
            .query_name("output")
            .output_mode(self.mode)
            .trigger(Trigger::AvailableNow)
            .option("checkpointLocation", text(&checkpoint)?)
            .option("durability", "process");
        for (name, value) in &self.options {
            writer = writer.option(*name, *value);
        }
        Ok(writer.start(None).await?)
    }

    async fn stream(&self, session: &Session) -> Result<DataFrame> {
        Ok(match &self.input {
            Input::Feed(feed) => {
                let table = StreamTable::new(Arc::new((*feed).clone()));
                session.context().read_table(Arc::new(table))?
            }
            Input::Files { directory, format, schema, files_per_trigger } => {
                let reader = session.read_stream().format(format.name()).schema(Arc::clone(schema));
                reader.option("maxFilesPerTrigger", files_per_trigger).load(text(directory)?).await?
            }
        })
    }

    /// All at once with DataFusion; gives the seconds. The rows are registered as `output` in
    /// `keep`, if it is given.
    pub async fn batch(&self, keep: Option<&SessionContext>) -> Result<f64> {
        let started = Instant::now();
        let session = Session::new();
        let context = session.context();
        // DataFusion as it comes: without our quicker function of the same name.
        context.register_udf(date_bin().as_ref().clone());
        match &self.input {
            Input::Feed(feed) => {
                let table = feed.bounded(context.state().config().target_partitions())?;
                context.register_table("events", Arc::new(table))?;
            }
            Input::Files { directory, format: Format::Json, schema, .. } => {
                let options = JsonReadOptions::default().schema(schema);
                context.register_json("events", text(directory)?, options).await?;
            }
            Input::Files { directory, schema, .. } => {
                let options = ParquetReadOptions::default().schema(schema);
                context.register_parquet("events", text(directory)?, options).await?;
            }
        }
        if let Some((name, table)) = &self.table {
            context.register_table(*name, Arc::clone(table) as Arc<dyn TableProvider>)?;
        }
        if let Some((name, feed, _)) = self.stream {
            let table = feed.bounded(context.state().config().target_partitions())?;
            context.register_table(name, Arc::new(table))?;
        }
        let frame = context.sql(self.sql_of_datafusion.unwrap_or(self.sql)).await?;
        let Some(keep) = keep else {
            let mut rows = frame.execute_stream().await?;
            while rows.next().await.transpose()?.is_some() {}
            return Ok(started.elapsed().as_secs_f64());
        };
        let rows = frame.collect().await?;
        let schema = rows.first().ok_or("the batch gave no rows")?.schema();
        let table = MemTable::try_new(schema, vec![rows])?;
        keep.register_table("output", Arc::new(table))?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// Fails if the rows are others than those of one batch.
    async fn compare(&self, work: &Path) -> Result<()> {
        let (session, watch) = watched_session();
        self.run(&session, &watch, work, if self.digest.is_empty() { "noop" } else { "memory" }).await?;
        if self.digest.is_empty() {
            return Ok(());
        }
        let expected = SessionContext::new();
        self.batch(Some(&expected)).await?;
        let (found, expected) =
            (digest(session.context(), self.digest).await?, digest(&expected, self.digest).await?);
        if found != expected {
            return Err(format!("{}: got\n{found}\ninstead of\n{expected}", self.name).into());
        }
        Ok(())
    }
}

async fn digest(context: &SessionContext, sql: &str) -> Result<String> {
    let rows = context.sql(sql).await?.collect().await?;
    Ok(pretty_format_batches(&rows)?.to_string())
}
