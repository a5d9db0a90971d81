//! Running statements.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::datasource::MemTable;
use datafusion::logical_expr::{
    CreateExternalTable as Command, DdlStatement, LogicalPlan, Statement as PlanStatement,
};
use datafusion::prelude::DataFrame;
use datafusion::sql::parser::{
    CreateExternalTable as DataFusionCreateExternalTable, Statement as DataFusionStatement,
};
use datafusion::sql::sqlparser::ast::{Ident, ObjectName, Statement as SqlStatement};
use datafusion::sql::sqlparser::dialect::dialect_from_str;
use datafusion::sql::sqlparser::tokenizer::Location;

use super::ast::{CreateExternalTable, Located, Statement};
use super::described::described;
use super::diagnostics::error_at;
use super::external::ExternalTable;
use super::names::Names;
use super::parser::{parse_column_list, parse_script_with_dialect};
use super::planning::{Planner, conform, refuse_unbounded};
use super::prepared;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::options::mask_secrets;
use crate::plan::StreamTable;
use crate::query::{Replan, StreamingQuery, Trigger};
use crate::session::{DataStreamWriter, Session, WriteStream};
use crate::sink::MemoryTable;

/// The option of a streaming query that says where its checkpoint is.
pub(super) const CHECKPOINT_LOCATION: &str = "checkpointLocation";

/// Runs SQL on a [`Session`]: DataFusion's statements and the streaming ones.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> tidemill::Result<()> {
/// use tidemill::prelude::*;
/// use tidemill::sql::{SqlOutcome, SqlSession};
///
/// let sql = SqlSession::new(Session::new());
/// let mut outcomes = sql.run("CREATE TABLE t AS VALUES (1), (2); SELECT sum(column1) FROM t").await?;
/// let Some(SqlOutcome::Rows(rows)) = outcomes.pop() else { unreachable!() };
/// assert_eq!(rows.count().await?, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SqlSession {
    pub(super) session: Session,
    /// Takes the place of every `TRIGGER` clause.
    pub(super) trigger: Option<Trigger>,
    /// Options of every streaming query, unless it has its own.
    pub(super) options: Options,
    /// The checkpoint and the batch that streaming queries are run over instead of being started.
    replay: Option<(String, u64)>,
    /// The newest run of each query that was started here, and the statement that started it.
    started: Mutex<Vec<(StartedQuery, Located<Statement>)>>,
    /// The tables in whose place there is what a query of their name keeps in memory.
    pub(super) covered: Mutex<HashMap<TableReference, Arc<dyn TableProvider>>>,
    /// Tables that streaming queries of a script write to.
    targets: Mutex<HashSet<TableReference>>,
}

/// What a statement has come to.
#[derive(Debug)]
pub enum SqlOutcome {
    /// It is done; in words.
    Done(String),
    /// A query, which runs when its rows are asked for.
    Rows(DataFrame),
    /// It has run, with these rows as its result.
    Table(Vec<RecordBatch>),
    /// A streaming query has started.
    Query(StartedQuery),
}

/// A streaming query that a statement started.
#[derive(Debug, Clone)]
pub struct StartedQuery {
    /// The query.
    pub query: StreamingQuery,
    /// When its batches run.
    pub trigger: Trigger,
    /// The table it writes to.
    pub target: String,
    /// The format of that table, lower case.
    pub format: String,
    /// Where that table is, if it is in a place.
    pub location: Option<String>,
    /// The statement that started it, without secrets; empty if none did.
    pub definition: String,
}

impl SqlSession {
    /// Runs SQL on `session`.
    pub fn new(session: Session) -> Self {
        Self {
            session,
            trigger: None,
            options: Options::default(),
            replay: None,
            started: Mutex::default(),
            covered: Mutex::default(),
            targets: Mutex::default(),
        }
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Has all streaming queries run with `trigger`, whatever their statements say.
    #[must_use]
    pub fn with_trigger(self, trigger: Option<Trigger>) -> Self {
        Self { trigger, ..self }
    }

    /// Gives all streaming queries that do not set them themselves these options.
    #[must_use]
    pub fn with_options(self, options: Options) -> Self {
        Self { options, ..self }
    }

    /// Has streaming queries not started: each gives the rows that it has for `batch` of `checkpoint` instead, see
    /// [`DataStreamWriter::replay`](crate::DataStreamWriter::replay).
    #[must_use]
    pub fn replaying(self, checkpoint: impl Into<String>, batch: u64) -> Self {
        Self { replay: Some((checkpoint.into(), batch)), ..self }
    }

    /// The options of all streaming queries that do not set them themselves.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Plans `text`, which is one `SELECT`, for a streaming query with its checkpoint at
    /// `checkpoint`: columns that were inferred at its first start are what they were then.
    ///
    /// # Errors
    /// [`Error::Sql`] with the line and column in `text`; or if the checkpoint cannot be read.
    pub async fn streaming_query(&self, text: &str, checkpoint: Option<&str>) -> Result<DataFrame> {
        Ok(self.plan_query(text, checkpoint).await?.0)
    }

    /// Describes the streaming query that [`SqlSession::streaming_query`] plans, with its checkpoint. Unlike that
    /// of a data frame, its text is planned anew when files bring columns that are to be taken in.
    ///
    /// # Errors
    /// As [`SqlSession::streaming_query`].
    pub async fn write_stream(&self, text: &str, checkpoint: &str) -> Result<DataStreamWriter> {
        let (frame, replan) = self.plan_query(text, Some(checkpoint)).await?;
        Ok(frame.write_stream().replanned_by(replan).option(CHECKPOINT_LOCATION, checkpoint))
    }

    async fn plan_query(&self, text: &str, checkpoint: Option<&str>) -> Result<(DataFrame, Replan)> {
        let statements = self.parse(text)?;
        let not_a_query = |at: Location| error_at("expected one query such as SELECT …", at);
        let [Located { value, line, column }] = statements.as_slice() else {
            let second = statements.get(1).map_or(Location::new(1, 1), |s| Location::new(s.line, s.column));
            return Err(not_a_query(second));
        };
        let at = Location::new(*line, *column);
        let planner = Planner::new(&self.session, at);
        let query = match value {
            Statement::DataFusion(statement) => match statement.as_ref() {
                DataFusionStatement::Statement(statement) => match statement.as_ref() {
                    SqlStatement::Query(query) => query,
                    _ => return Err(not_a_query(at)),
                },
                _ => return Err(not_a_query(at)),
            },
            _ => return Err(not_a_query(at)),
        };
        let frame = planner.plan_streaming(query, Names::ForFiles, checkpoint).await?;
        let frame = conform(frame, &[], None, &|_| None).map_err(|message| planner.error(message))?;
        Ok((frame, planner.replan(query, Names::ForFiles, Vec::new(), None)))
    }

    /// Has tables whose columns are not given take them from the checkpoints of the streaming queries among
    /// `statements`, where those have pinned any. What is wrong with a checkpoint is said when its query starts.
    /// And has nobody look into what these queries have written, but who reads it.
    pub async fn use_pinned_columns(&self, statements: &[Located<Statement>]) {
        for statement in statements {
            let Statement::CreateStreamingQuery(query) = &statement.value else { continue };
            let planner = Planner::new(&self.session, Location::new(statement.line, statement.column));
            if let Ok(target) = planner.table_reference(&query.plan.insert.target) {
                self.targets.lock().unwrap_or_else(PoisonError::into_inner).insert(target);
            }
            let clauses = &query.plan.clauses;
            let is_checkpoint = |name: &str| name.eq_ignore_ascii_case(CHECKPOINT_LOCATION);
            let option = clauses.options.iter().find(|(name, _)| is_checkpoint(name));
            if let Some(checkpoint) = clauses.checkpoint.as_ref().or(option.map(|(_, value)| value))
                && let Err(error) = self.session.use_columns_of(checkpoint).await
            {
                tracing::debug!(%error, checkpoint, "its columns cannot be told");
            }
        }
    }

    /// The schema of a list of columns such as `a BIGINT, b VARCHAR NOT NULL`.
    ///
    /// # Errors
    /// [`Error::Sql`] with the line and column in `columns`.
    pub async fn schema(&self, columns: &str) -> Result<SchemaRef> {
        let planner = Planner::new(&self.session, Location::new(1, 1));
        let table = DataFusionCreateExternalTable {
            name: ObjectName::from(vec![Ident::new("columns")]),
            columns: parse_column_list(columns)?,
            file_type: String::new(),
            locations: vec![String::new()],
            table_partition_cols: vec![],
            order_exprs: vec![],
            if_not_exists: false,
            or_replace: false,
            temporary: false,
            unbounded: true,
            options: vec![],
            constraints: vec![],
        };
        Ok(Arc::clone(planner.plan_table(table).await?.schema.inner()))
    }

    /// The statements of `text`, in the session's dialect.
    ///
    /// # Errors
    /// [`Error::Sql`] with the line and column in `text`.
    pub fn parse(&self, text: &str) -> Result<Vec<Located<Statement>>> {
        let config = self.session.context().copied_config();
        let dialect = &config.options().sql_parser.dialect;
        match dialect_from_str(dialect) {
            Some(dialect) => parse_script_with_dialect(text, dialect),
            None => Err(Error::option(
                "datafusion.sql_parser.dialect",
                dialect,
                "expected the name of a dialect, such as generic or postgresql",
            )),
        }
    }

    /// Runs the statements of `text` in order; streaming queries that it starts keep running.
    ///
    /// # Errors
    /// As [`SqlSession::execute`]. Statements before the one that failed have taken effect, unless
    /// `text` does not parse.
    pub async fn run(&self, text: &str) -> Result<Vec<SqlOutcome>> {
        let mut outcomes = Vec::new();
        let statements = self.parse(text)?;
        self.use_pinned_columns(&statements).await;
        for statement in statements {
            outcomes.push(self.execute(&statement).await?);
        }
        Ok(outcomes)
    }

    /// Runs one statement.
    ///
    /// # Errors
    /// [`Error::Sql`] with the place in the script if it cannot be planned, [`Error::UnsupportedQuery`]
    /// if it would need rows that never end, and whatever goes wrong in running it.
    pub async fn execute(&self, statement: &Located<Statement>) -> Result<SqlOutcome> {
        let planner = Planner::new(&self.session, Location::new(statement.line, statement.column));
        match &statement.value {
            Statement::DataFusion(statement) => self.batch(&planner, statement.as_ref().clone()).await,
            Statement::CreateExternalTable(table) => self.create_table(&planner, table).await,
            Statement::CreateStreamingQuery(query) => {
                if let Some((checkpoint, batch)) = &self.replay {
                    return self.replay_query(&planner, query, (checkpoint, *batch)).await;
                }
                let mut started = self.start_query(&planner, query).await?;
                started.definition = statement.value.masked().to_string();
                self.remember(&started, statement);
                Ok(SqlOutcome::Query(started))
            }
            Statement::ExplainStreamingQuery(query) => self.explain_query(&planner, query).await,
            Statement::ShowStreamingQueries => Ok(SqlOutcome::Table(vec![self.show_queries()?])),
            Statement::StopStreamingQuery { name } => self.stop_query(&planner, name).await,
        }
    }

    /// The newest run of each query that was started here, and all others that are running.
    pub(super) fn queries(&self) -> Vec<StreamingQuery> {
        let mut queries: Vec<StreamingQuery> =
            self.started().iter().map(|(started, _)| started.query.clone()).collect();
        for query in self.session.streams().active() {
            if !queries.iter().any(|known| known.run_id() == query.run_id()) {
                queries.push(query);
            }
        }
        queries
    }

    /// The running query, other than `name`, that was started here and writes to `target`.
    pub(super) fn writer_of(&self, target: &str, name: &str) -> Option<String> {
        let started = self.started();
        let started = started.iter().map(|(started, _)| started);
        let mut others = started.filter(|other| other.target == target && other.query.is_active());
        others.find_map(|other| other.query.name().filter(|other| *other != name).map(str::to_string))
    }

    /// The table `name` as it is now, for a statement that is about to be planned: the files that there are, and
    /// what a query keeps in memory as of its last committed batch, however often the statement reads it.
    /// `None` if there is no such table.
    ///
    /// # Errors
    /// If it holds nothing yet, or its files cannot be looked at.
    pub async fn current_table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let planner = Planner::new(&self.session, Location::new(1, 1));
        let Some(table) = planner.table(&TableReference::bare(name)).await? else { return Ok(None) };
        let read = match table.downcast_ref::<ExternalTable>() {
            Some(external) => {
                external.refresh(&planner.state()).await?;
                external.check_readable()?;
                external.readable().unwrap_or(table)
            }
            None => table,
        };
        match read.downcast_ref::<MemoryTable>() {
            Some(memory) => Ok(Some(Arc::new(MemTable::try_new(memory.schema(), vec![memory.rows()])?))),
            None => Ok(Some(read)),
        }
    }

    /// The newest run of each query that was started here, in the order in which the queries came.
    pub fn started_queries(&self) -> Vec<StartedQuery> {
        self.started().iter().map(|(started, _)| started.clone()).collect()
    }

    /// Starts the query `name` again, which was started here and has ended, with the same statement.
    ///
    /// # Errors
    /// If there is no such query, if it still runs, and as [`SqlSession::execute`].
    pub async fn restart(&self, name: &str) -> Result<StartedQuery> {
        let known = self.started().iter().find(|(started, _)| started.query.name() == Some(name)).cloned();
        let Some((started, statement)) = known else {
            return Err(Error::Invalid(format!("there is no streaming query '{name}'")));
        };
        if started.query.is_active() {
            return Err(Error::Invalid(format!("the streaming query '{name}' is running")));
        }
        match self.execute(&statement).await? {
            SqlOutcome::Query(started) => Ok(started),
            _ => Err(Error::Invalid(format!("the statement of '{name}' starts no query"))),
        }
    }

    fn remember(&self, query: &StartedQuery, statement: &Located<Statement>) {
        let mut started = self.started();
        let new = (query.clone(), statement.clone());
        match started.iter_mut().find(|(known, _)| known.query.name() == query.query.name()) {
            Some(known) => *known = new,
            None => started.push(new),
        }
    }

    fn started(&self) -> MutexGuard<'_, Vec<(StartedQuery, Located<Statement>)>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn batch(&self, planner: &Planner<'_>, statement: DataFusionStatement) -> Result<SqlOutcome> {
        let plan = planner.plan(statement).await?;
        refuse_unbounded(&plan)?;
        let plan = match plan {
            LogicalPlan::DescribeTable(table) => described(&table)?,
            plan => plan,
        };
        let done = done_message(&plan);
        let runs_now = matches!(plan, LogicalPlan::Dml(_) | LogicalPlan::Copy(_));
        let plan = prepared::keep(plan).map_err(|error| planner.planning_error(error))?;
        let frame = self.session.context().execute_logical_plan(plan).await.and_then(prepared::restore);
        let frame = frame.map_err(|error| planner.planning_error(error))?;
        match done {
            Some(message) => Ok(SqlOutcome::Done(message)),
            None if runs_now => Ok(SqlOutcome::Table(frame.collect().await?)),
            None => Ok(SqlOutcome::Rows(frame)),
        }
    }

    async fn create_table(&self, planner: &Planner<'_>, table: &CreateExternalTable) -> Result<SqlOutcome> {
        let name = planner.table_reference(&table.name)?;
        let exists = planner.table(&name).await?.is_some();
        if exists && table.if_not_exists {
            return Ok(SqlOutcome::Done(format!("table '{name}' exists already")));
        }
        if exists && !table.or_replace {
            return Err(planner.error(format!(
                "table '{name}' exists already; use CREATE OR REPLACE or IF NOT EXISTS, or drop it first"
            )));
        }
        let command = planner.resolve(table).await?;
        let (kind, provider) = if table.unbounded {
            ("unbounded table", self.unbounded_table(planner, table, &command).await?)
        } else {
            ("table", self.bounded_table(planner, table, command).await?)
        };
        self.register(planner, &name, provider)?;
        Ok(SqlOutcome::Done(format!("{kind} '{name}' created")))
    }

    fn register(
        &self,
        planner: &Planner<'_>,
        name: &TableReference,
        provider: Arc<dyn TableProvider>,
    ) -> Result<()> {
        let context = self.session.context();
        let register = || {
            context.deregister_table(name.clone())?;
            context.register_table(name.clone(), provider).map(|_| ())
        };
        register().map_err(|error| planner.planning_error(error))
    }

    async fn unbounded_table(
        &self,
        planner: &Planner<'_>,
        table: &CreateExternalTable,
        command: &Command,
    ) -> Result<Arc<dyn TableProvider>> {
        let options = table.options.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut reader = self
            .session
            .read_stream()
            .format(&table.format)
            .partition_by(&command.table_partition_cols)
            .options(options);
        if !table.columns.is_empty() {
            reader = reader.schema(Arc::clone(command.schema.inner()));
        }
        let provider = reader.table(table.locations.first().map(String::as_str)).await?;
        let Some(stream) = provider.downcast_ref::<StreamTable>() else { return Ok(provider) };
        let stream = stream.clone().with_definition(&mask_secrets(&table.masked().to_string()));
        let Some(watermark) = &table.watermark else { return Ok(Arc::new(stream)) };
        let column = planner.name(&watermark.column);
        let with_watermark = stream.with_watermark(command.name.clone(), &column, watermark.delay);
        let provider = with_watermark.map_err(|error| planner.error(format!("WATERMARK: {error}")))?;
        Ok(Arc::new(provider))
    }

    async fn bounded_table(
        &self,
        planner: &Planner<'_>,
        table: &CreateExternalTable,
        command: Command,
    ) -> Result<Arc<dyn TableProvider>> {
        let state = planner.state();
        let is_read = state.table_factories().contains_key(&command.file_type);
        if !is_read && !self.session.writes_format(&table.format) {
            return Err(planner.error(format!(
                "format {} is not known; files are stored as PARQUET, JSON, CSV, ARROW, AVRO or TEXT",
                command.file_type
            )));
        }
        let external = ExternalTable::new(table, command, is_read);
        let is_target = self.targets.lock().unwrap_or_else(PoisonError::into_inner).contains(external.name());
        let checked = match is_target && external.declared().is_none() {
            // What its columns are is found out when it is read. Streaming queries may have written very many
            // files to it, and need none of them.
            true => external.check_location(),
            false => external.refresh(&state).await,
        };
        checked.map_err(|error| planner.planning_error(error.into()))?;
        Ok(Arc::new(external))
    }
}

impl Session {
    /// Runs the statements of `script` in order, DataFusion's and the streaming ones; see
    /// [`SqlSession`], which has more to set.
    ///
    /// # Errors
    /// As [`SqlSession::run`].
    pub async fn sql(&self, script: &str) -> Result<Vec<SqlOutcome>> {
        SqlSession::new(self.clone()).run(script).await
    }
}

impl Session {
    /// The rows of one `SELECT` as a data frame; over unbounded tables it can be written with
    /// [`write_stream`](crate::WriteStream::write_stream).
    ///
    /// # Errors
    /// [`Error::Sql`] if it is no query, or cannot be planned.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> tidemill::Result<()> {
    /// use tidemill::prelude::*;
    ///
    /// let session = Session::new();
    /// session.sql("CREATE UNBOUNDED EXTERNAL TABLE numbers STORED AS RATE").await?;
    /// let odd = session.query("SELECT value FROM numbers WHERE value % 2 = 1").await?;
    /// let query = odd.write_stream().format("noop").start(None).await?;
    /// query.stop(StopMode::Finish).await
    /// # }
    /// ```
    pub async fn query(&self, select: &str) -> Result<DataFrame> {
        SqlSession::new(self.clone()).streaming_query(select, None).await
    }
}

/// What to say about a statement that has no rows to give.
fn done_message(plan: &LogicalPlan) -> Option<String> {
    let message = match plan {
        LogicalPlan::Ddl(ddl) => match ddl {
            DdlStatement::CreateMemoryTable(table) => format!("table '{}' created", table.name),
            DdlStatement::CreateView(view) => format!("view '{}' created", view.name),
            DdlStatement::DropTable(table) => format!("table '{}' dropped", table.name),
            DdlStatement::DropView(view) => format!("view '{}' dropped", view.name),
            _ => "done".to_string(),
        },
        LogicalPlan::Statement(statement) => match statement {
            PlanStatement::Execute(_) => return None,
            PlanStatement::SetVariable(set) => {
                format!("{} = {}", set.variable, set.value)
            }
            _ => "done".to_string(),
        },
        _ => return None,
    };
    Some(message)
}
