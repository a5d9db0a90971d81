//! `socket`: lines of text from a TCP connection, for trying things out.

mod lines;
mod reader;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::Session;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use self::lines::{Ended, Lines};
use self::reader::LineReader;
use super::generated::no_offset;
use super::{Admission, Source, SourceBatch, SourceContext, SourceProvider, SourceScan};
use crate::checkpoint::records::SourceDefinition;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::storage::Storage;
use crate::types::columns;

const OPTIONS: &[&str] = &["host", "port", "includeTimestamp"];

/// How long a start waits for the other side to accept the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Below this many lines one partition is enough.
const SMALL_BATCH_LINES: u64 = 10_000;

/// An unbounded table `(value VARCHAR)` of the lines that a TCP server sends, in their order: what
/// `nc -lk 9999` is typed into. With `includeTimestamp` there is a second column, `timestamp
/// TIMESTAMP`: when the line arrived.
///
/// Lines end with a line feed, with or without a carriage return before it, and are UTF-8. A line
/// becomes a row when it is complete; what has no line end is complete when the other side closes the
/// connection.
///
/// **Not for production:** what was sent cannot be read again. A query that was interrupted has lost
/// lines, and one that has read any cannot be started again on its checkpoint: that is an error, as
/// it is in Spark. Each run of a query has a connection of its own, which its end closes.
///
/// When the other side closes the connection, lines that arrived are processed, and then the query
/// fails. (Spark logs a warning and waits for ever.) It also fails if the connection breaks, at a line
/// that is not UTF-8, and at a line of more than 16 MiB. While about 16 MiB of lines wait for their
/// batch nothing more is received, so that a sender that is too fast is held back.
///
/// ```no_run
/// # async fn example() -> tidemill::Result<()> {
/// use tidemill::prelude::*;
///
/// let session = Session::new();
/// let lines = session
///     .read_stream()
///     .format("socket")
///     .option("host", "localhost")
///     .option("port", 9999)
///     .load(None)
///     .await?;
/// let query = lines.write_stream().format("console").start(None).await?;
/// query.await_termination().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SocketTable {
    host: String,
    port: u16,
    schema: SchemaRef,
}

impl SocketTable {
    /// The format's name.
    pub const FORMAT: &str = "socket";

    /// The table that `options` describe: `host`, `port` (both required) and `includeTimestamp`
    /// (`false`). It is connected to when a query starts.
    ///
    /// # Errors
    /// If an option is missing or unknown, or its value is not valid.
    pub fn try_new(options: &Options) -> Result<Self> {
        options.deny_unknown("the socket source", OPTIONS)?;
        let missing = |option: &str, what: &str| {
            Error::Invalid(format!("the socket source needs the option '{option}': {what}"))
        };
        let Some(host) = options
            .get("host")
            .map(|host| host.trim().trim_matches(['[', ']']))
            .filter(|host| !host.is_empty())
        else {
            return Err(missing("host", "the name or address of the server that sends the lines"));
        };
        let expected = "a port from 1 to 65535";
        let port = match options.parse::<u16>("port", expected)? {
            None => return Err(missing("port", expected)),
            Some(0) => return Err(Error::option("port", 0, format!("expected {expected}"))),
            Some(port) => port,
        };
        let mut fields = vec![Field::new("value", DataType::Utf8, false)];
        if options.flag("includeTimestamp", false)? {
            fields.push(Field::new("timestamp", DataType::Timestamp(TimeUnit::Nanosecond, None), false));
        }
        Ok(Self { host: host.to_string(), port, schema: Arc::new(Schema::new(fields)) })
    }

    /// `host:port`, as messages show it.
    fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    async fn connect(&self) -> Result<TcpStream> {
        let failed = |reason: String| {
            let advice = "The server has to be there first: nc -lk 9999, say";
            Error::storage("connect to", self.address(), format!("{reason}. {advice}"))
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((self.host.as_str(), self.port))).await
        {
            Ok(connected) => connected.map_err(|error| failed(error.to_string())),
            Err(_) => Err(failed(format!("no answer within {} seconds", CONNECT_TIMEOUT.as_secs()))),
        }
    }
}

impl SourceProvider for SocketTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn schema_is_inferred(&self) -> bool {
        false
    }

    fn with_schema(&self, _: SchemaRef) -> Result<Arc<dyn SourceProvider>> {
        Err(Error::Invalid("the columns of the socket source are fixed".into()))
    }

    fn format(&self) -> &str {
        Self::FORMAT
    }

    fn description(&self) -> String {
        format!("SocketSource[{}]", self.address())
    }

    fn definition(&self, _: &dyn Storage) -> SourceDefinition {
        SourceDefinition {
            format: Self::FORMAT.into(),
            location: None,
            columns: columns(self.schema.fields()),
            inferred: false,
            options: BTreeMap::new(),
        }
    }

    fn create(&self, context: SourceContext) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(SocketSource {
            table: self.clone(),
            clock: context.clock,
            lines: Arc::default(),
            run: Mutex::default(),
        }))
    }
}

/// One run's connection. Dropping it closes the connection.
#[derive(Debug)]
struct SocketSource {
    table: SocketTable,
    clock: Arc<dyn Clock>,
    lines: Arc<Lines>,
    run: Mutex<Run>,
}

#[derive(Debug, Default)]
struct Run {
    /// How many lines were planned.
    taken: u64,
    /// After how many lines the run ends, if it is to end.
    last: Option<u64>,
    /// The task that receives; nothing before the start.
    reader: Option<AbortOnDropHandle<()>>,
}

impl SocketSource {
    fn run(&self) -> MutexGuard<'_, Run> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why there will be no more lines, if that is a reason to fail.
    fn failure(&self, ends_anyway: bool, taken: u64) -> Option<Error> {
        match self.lines.take_end(taken)? {
            Ended::Failed(error) => Some(error),
            Ended::Closed if ends_anyway => None,
            Ended::Closed => Some(Error::storage(
                "read from",
                self.table.address(),
                format!(
                    "the other side closed the connection after {taken} lines, all of which were \
                     processed. To read from a new one, start the query with a new checkpoint"
                ),
            )),
        }
    }
}

/// The number of lines up to a recorded offset, which is the number of the last line, from 0, as in
/// Spark; `null` before the first.
fn line_count(value: &Value) -> Result<u64> {
    match value {
        Value::Null => Ok(0),
        value => value
            .as_u64()
            .and_then(|offset| offset.checked_add(1))
            .ok_or_else(|| no_offset(value, "socket source")),
    }
}

/// See [`line_count`].
fn recorded(lines: u64) -> Value {
    lines.checked_sub(1).map_or(Value::Null, Value::from)
}

#[async_trait]
impl Source for SocketSource {
    async fn restore(&self, end: Value, _: Vec<Box<RawValue>>) -> Result<()> {
        let before = line_count(&end)?;
        if before > 0 {
            return Err(Error::Invalid(format!(
                "the query had read {before} lines from {}, and a socket cannot be read again: what an \
                 interrupted batch had taken and what was sent since is lost. Start with a new \
                 checkpointLocation",
                self.table.address()
            )));
        }
        let connection = self.table.connect().await?;
        tracing::warn!(
            "lines from {} cannot be read again: the socket source is for trying things out, and loses lines \
             when the query is interrupted",
            self.table.address()
        );
        let reader = LineReader::new(
            Arc::clone(&self.lines),
            Arc::clone(&self.table.schema),
            Arc::clone(&self.clock),
            self.table.address(),
        );
        self.run().reader = Some(AbortOnDropHandle::new(tokio::spawn(reader.run(connection))));
        Ok(())
    }

    async fn prepare_available_now(&self) -> Result<()> {
        self.run().last = Some(self.lines.received());
        Ok(())
    }

    async fn plan(&self, admission: Admission) -> Result<SourceBatch> {
        let mut run = self.run();
        let end = run.last.unwrap_or_else(|| self.lines.received());
        let ends_anyway = run.last.is_some() || admission == Admission::Everything;
        if run.taken == end
            && let Some(error) = self.failure(ends_anyway, end)
        {
            return Err(error);
        }
        let batch = SourceBatch { start: recorded(run.taken), end: recorded(end), entries: Vec::new() };
        run.taken = end;
        Ok(batch)
    }

    fn arrivals(&self) -> Option<BoxFuture<'_, ()>> {
        let taken = self.run().taken;
        Some(async move { self.lines.wait_for_more(taken).await }.boxed())
    }

    fn latest_offset(&self) -> Value {
        recorded(self.lines.received())
    }

    fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        partitions: usize,
    ) -> Result<Arc<dyn SourceScan>> {
        let table = Arc::clone(&self.table.schema);
        let schema = match projection {
            Some(columns) => Arc::new(table.project(columns)?),
            None => Arc::clone(&table),
        };
        Ok(Arc::new(SocketScan {
            lines: Arc::clone(&self.lines),
            table,
            schema,
            projection: projection.cloned(),
            partitions: partitions.max(1),
        }))
    }

    async fn commit(&self, batch: &SourceBatch) -> Result<()> {
        self.lines.release(line_count(&batch.end)?);
        Ok(())
    }
}

#[derive(Debug)]
struct SocketScan {
    lines: Arc<Lines>,
    table: SchemaRef,
    schema: SchemaRef,
    projection: Option<Vec<usize>>,
    partitions: usize,
}

impl SourceScan for SocketScan {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn read(&self, batch: &SourceBatch, _: &TaskContext) -> Result<Arc<dyn ExecutionPlan>> {
        let chunks = self.lines.between(line_count(&batch.start)?, line_count(&batch.end)?)?;
        // Typed lines arrive one by one: as they come they would be batches of one row.
        let rows = concat_batches(&self.table, &chunks)?;
        let share = rows.num_rows().div_ceil(self.partitions).max(1);
        let part = |start: usize| vec![rows.slice(start, share.min(rows.num_rows() - start))];
        let mut partitions: Vec<Vec<RecordBatch>> = (0..rows.num_rows()).step_by(share).map(part).collect();
        partitions.resize(self.partitions, Vec::new());
        Ok(MemorySourceConfig::try_new_exec(&partitions, Arc::clone(&self.table), self.projection.clone())?)
    }

    fn is_small(&self, batch: &SourceBatch) -> bool {
        let lines = || Ok::<_, Error>(line_count(&batch.end)?.saturating_sub(line_count(&batch.start)?));
        lines().is_ok_and(|lines| lines <= SMALL_BATCH_LINES)
    }

    fn details(&self) -> String {
        "not replayable".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(options: &[(&str, &str)]) -> Result<SocketTable> {
        SocketTable::try_new(&options.iter().copied().collect())
    }

    fn source(table: &SocketTable) -> Arc<dyn Source> {
        let context = SourceContext {
            query_id: uuid::Uuid::nil(),
            runtime: Default::default(),
            clock: Arc::new(crate::clock::SystemClock),
        };
        table.create(context).unwrap()
    }

    #[test]
    fn options_are_checked() {
        for (options, expected) in [
            (&[][..], "needs the option 'host'"),
            (&[("host", " ")], "needs the option 'host'"),
            (&[("host", "localhost")], "needs the option 'port'"),
            (&[("host", "localhost"), ("port", "0")], "from 1 to 65535"),
            (&[("host", "localhost"), ("port", "65536")], "from 1 to 65535"),
            (&[("hots", "localhost"), ("port", "1")], "did you mean 'host'?"),
            (&[("host", "h"), ("port", "1"), ("includeTimestamp", "yes")], "expected true or false"),
        ] {
            let error = table(options).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let table = table(&[("host", "::1"), ("port", "9999")]).unwrap();
        assert_eq!(table.description(), "SocketSource[[::1]:9999]");
    }

    #[tokio::test]
    async fn a_refused_connection_says_what_to_do() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        drop(listener);
        let table = table(&[("host", "127.0.0.1"), ("port", &port)]).unwrap();
        let error = source(&table).restore(Value::Null, vec![]).await.unwrap_err();
        assert!(matches!(error, Error::Storage { operation: "connect to", .. }), "{error:?}");
        let error = error.to_string();
        assert!(error.contains(&format!("'127.0.0.1:{port}'")) && error.contains("nc -lk"), "{error}");
    }

    #[tokio::test]
    async fn what_was_read_before_is_lost() {
        let table = table(&[("host", "127.0.0.1"), ("port", "9")]).unwrap();
        let error = source(&table).restore(Value::from(4), vec![]).await.unwrap_err().to_string();
        assert!(error.contains("had read 5 lines from 127.0.0.1:9"), "{error}");
        for damaged in [Value::from(-1), Value::from("4"), Value::from(u64::MAX)] {
            let error = source(&table).restore(damaged, vec![]).await.unwrap_err().to_string();
            assert!(error.contains("is no offset of a socket source"), "{error}");
        }
    }
}
