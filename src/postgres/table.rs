//! A table of PostgreSQL to read: the bounded side of joins.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::TableType;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::{Stream, StreamExt, TryStreamExt};
use tokio_postgres::binary_copy::BinaryCopyOutStream;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, CopyOutStream};

use super::OPTIONS;
use super::catalog::{Column, TableName, columns, type_names};
use super::decode::{Reading, Values};
use super::filter::{Comparable, condition};
use super::server::{Failure, Server};
use super::snapshot::Snapshot;
use crate::error::{Error, Result};
use crate::options::Options;

/// A table of PostgreSQL, or a view, as a bounded table: for joins with streams and for queries of its own. It is
/// read anew for every query, and for every batch of a streaming one.
///
/// Which columns are read, conditions that mean the same on the server, and limits are left to the server.
///
/// ```no_run
/// # async fn run() -> tidemill::Result<()> {
/// use std::sync::Arc;
/// use tidemill::postgres::PostgresTable;
/// use tidemill::{Options, prelude::*};
///
/// let session = Session::new();
/// let options: Options = [("url", "postgresql://app@localhost/shop"), ("table", "products")].into_iter().collect();
/// let products = PostgresTable::open(None, None, &options).await?;
/// session.context().register_table("products", Arc::new(products))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PostgresTable {
    server: Arc<Server>,
    name: TableName,
    schema: SchemaRef,
    columns: Arc<Vec<Readable>>,
}

/// A column that is read.
#[derive(Debug)]
struct Readable {
    /// As the server calls it.
    name: String,
    /// What its type is called.
    type_name: String,
    reading: Reading,
    comparable: Comparable,
}

impl PostgresTable {
    /// The table that `options` describe: `url` (or `location`) and `table`. Its columns are those of `declared`,
    /// if they are given: by name, with types that the table's can be cast to.
    ///
    /// # Errors
    /// If an option is missing or unknown, the server cannot be reached, or the table does not fit.
    pub async fn open(
        location: Option<&str>,
        declared: Option<SchemaRef>,
        options: &Options,
    ) -> Result<Self> {
        match Self::open_if_exists(location, declared, options).await? {
            Some(table) => Ok(table),
            None => Err(Error::Invalid(format!(
                "there is no table {} in PostgreSQL, or it may not be read",
                TableName::parse(options.get("table"))?
            ))),
        }
    }

    /// As [`open`](Self::open); `None` if there is no such table.
    pub(crate) async fn open_if_exists(
        location: Option<&str>,
        declared: Option<SchemaRef>,
        options: &Options,
    ) -> Result<Option<Self>> {
        options.deny_unknown("the postgres table", OPTIONS)?;
        let server = Arc::new(Server::try_new(location, options)?);
        let name = TableName::parse(options.get("table"))?;
        let mut backoff = server.backoff();
        let found = loop {
            let client = server.connect().await?;
            match described(&client, &name).await {
                Ok(found) => break found,
                Err(failure) if failure.passes && backoff.wait(&failure.error).await => {}
                Err(failure) => return Err(failure.error),
            }
        };
        let (found, types) = found;
        if found.is_empty() {
            return Ok(None);
        }
        let (schema, mut columns) = readable(&name, &found, declared)?;
        for column in &mut columns {
            let at = found.iter().position(|found| found.name == column.name);
            column.type_name = at.and_then(|at| types.get(at).cloned()).unwrap_or_default();
        }
        Ok(Some(Self { server, name, schema, columns: Arc::new(columns) }))
    }

    fn condition(&self, filter: &Expr) -> Option<String> {
        condition(filter, &|name| self.schema.index_of(name).ok().map(|index| self.columns[index].comparable))
    }

    /// The statement that gives the columns `projection` of the rows that meet `filters`.
    fn statement(&self, projection: &[usize], filters: &[Expr], limit: Option<usize>) -> String {
        let expressions: Vec<&str> =
            projection.iter().map(|index| self.columns[*index].reading.expression.as_str()).collect();
        // Rows without columns have nothing in them that could be counted.
        let expressions = if expressions.is_empty() { "true".to_string() } else { expressions.join(", ") };
        let filters: Vec<String> = filters.iter().filter_map(|filter| self.condition(filter)).collect();
        let filters =
            if filters.is_empty() { String::new() } else { format!(" WHERE {}", filters.join(" AND ")) };
        let limit = limit.map_or(String::new(), |limit| format!(" LIMIT {limit}"));
        format!("SELECT {expressions} FROM {}{filters}{limit}", self.name)
    }
}

/// The columns of a table, and what their types are called.
async fn described(client: &Client, name: &TableName) -> Result<(Vec<Column>, Vec<String>), Failure> {
    let found = columns(client, name).await?;
    let types = type_names(client, name, found.iter().map(|column| column.name.as_str())).await?;
    Ok((found, types))
}

/// The columns, and how each is read.
fn readable(
    table: &TableName,
    found: &[Column],
    declared: Option<SchemaRef>,
) -> Result<(SchemaRef, Vec<Readable>)> {
    let Some(declared) = declared else {
        let fields = found
            .iter()
            .map(|column| Field::new(&column.name, Reading::of(column).data_type, column.is_nullable));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        return Ok((schema, found.iter().map(|column| read(column, None)).collect()));
    };
    let mut columns = Vec::new();
    for field in declared.fields() {
        let Some(column) = found.iter().find(|column| column.name == *field.name()) else {
            return Err(Error::Invalid(format!(
                "the table {table} of PostgreSQL has no column \"{}\"",
                field.name()
            )));
        };
        let own = Reading::of(column).data_type;
        if !can_cast_types(&own, field.data_type()) {
            return Err(Error::Invalid(format!(
                "column \"{}\" of the table {table} of PostgreSQL is {}, and cannot be read as {}",
                field.name(),
                column.of,
                field.data_type()
            )));
        }
        columns.push(read(column, Some(field.data_type())));
    }
    Ok((declared, columns))
}

fn read(column: &Column, as_type: Option<&DataType>) -> Readable {
    let reading = Reading::of(column);
    let is_own = as_type.is_none_or(|as_type| *as_type == reading.data_type);
    let comparable = match (&reading.data_type, column.of.as_str()) {
        _ if !is_own => Comparable::Not,
        (DataType::Utf8, "text" | "character varying") if column.is_bytewise => Comparable::Same,
        (
            DataType::Boolean
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Decimal128(..)
            | DataType::Date32
            | DataType::Timestamp(_, None),
            _,
        ) => Comparable::Ordered,
        _ => Comparable::Not,
    };
    Readable { name: column.name.clone(), type_name: String::new(), reading, comparable }
}

#[async_trait]
impl TableProvider for PostgresTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| match self.condition(filter) {
            Some(_) => TableProviderFilterPushDown::Exact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize> = (0..self.columns.len()).collect();
        let projection = projection.unwrap_or(&all);
        let schema = Arc::new(self.schema.project(projection)?);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Arc::new(PostgresScan {
            server: Arc::clone(&self.server),
            table: self.name.clone(),
            statement: self.statement(projection, filters, limit),
            columns: Arc::clone(&self.columns),
            sent: projection.clone(),
            batch_size: state.config().batch_size(),
            properties: Arc::new(properties),
        }))
    }
}

/// Reads what a statement gives.
#[derive(Debug)]
struct PostgresScan {
    server: Arc<Server>,
    table: TableName,
    statement: String,
    columns: Arc<Vec<Readable>>,
    /// Which of the columns are sent.
    sent: Vec<usize>,
    batch_size: usize,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for PostgresScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresScan: {}", self.statement)
    }
}

impl ExecutionPlan for PostgresScan {
    fn name(&self) -> &str {
        "PostgresScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let schema = self.schema();
        let rows = Rows {
            server: Arc::clone(&self.server),
            snapshot: Snapshot::of(&context, &self.server),
            table: self.table.clone(),
            columns: Arc::clone(&self.columns),
            sent: self.sent.clone(),
            schema: Arc::clone(&schema),
            batch_size: self.batch_size.max(1),
        };
        let statement = format!("COPY ({}) TO STDOUT (FORMAT binary)", self.statement);
        let stream = futures::stream::once(async move { rows.read(&statement).await })
            .try_flatten()
            .map_err(DataFusionError::from);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }
}

/// What a scan needs while it reads.
struct Rows {
    server: Arc<Server>,
    snapshot: Arc<Snapshot>,
    table: TableName,
    columns: Arc<Vec<Readable>>,
    sent: Vec<usize>,
    schema: SchemaRef,
    batch_size: usize,
}

impl Rows {
    async fn read(self, statement: &str) -> Result<impl Stream<Item = Result<RecordBatch>> + use<>> {
        let mut backoff = self.server.backoff();
        let (client, copy) = loop {
            match self.begin(statement).await {
                Ok(begun) => break begun,
                Err(failure) if failure.passes && backoff.wait(&failure.error).await => {}
                Err(failure) => return Err(failure.error),
            }
        };
        self.snapshot.settle().await;
        // Not decoded: every value as its bytes.
        let rows = BinaryCopyOutStream::new(copy, &vec![Type::BYTEA; self.sent.len().max(1)]);
        let chunks = Box::pin(rows).chunks(self.batch_size);
        let rows = Arc::new(self);
        let all = Arc::clone(&rows);
        let checked = async move {
            all.check(&client).await?;
            Ok(RecordBatch::new_empty(Arc::clone(&all.schema)))
        };
        Ok(chunks.map(move |chunk| rows.batch(chunk)).chain(futures::stream::once(checked)))
    }

    async fn begin(&self, statement: &str) -> Result<(Arc<Client>, CopyOutStream), Failure> {
        let client = self.snapshot.connect().await?;
        match client.copy_out(statement).await {
            Ok(copy) => Ok((client, copy)),
            Err(error) => {
                self.snapshot.give_up(&client).await;
                Err(self.failure(&error))
            }
        }
    }

    /// Whether the columns had the types that their values were taken for. Until the transaction ends they keep the
    /// types that they had when it began to read.
    async fn check(&self, client: &Client) -> Result<()> {
        let columns = || self.sent.iter().map(|index| &self.columns[*index]);
        let names = columns().map(|column| column.name.as_str());
        let now = type_names(client, &self.table, names).await.map_err(|failure| failure.error)?;
        match columns().zip(now).find(|(column, now)| column.type_name != *now) {
            Some((column, now)) => Err(Error::Invalid(format!(
                "column \"{}\" of the table {} of PostgreSQL was {} when the query began, and is {now} now: start the \
                 query again",
                column.name, self.table, column.type_name
            ))),
            None => Ok(()),
        }
    }

    fn failure(&self, error: &tokio_postgres::Error) -> Failure {
        Failure::new("read", self.table.as_str(), error)
    }

    fn batch(
        &self,
        rows: Vec<Result<tokio_postgres::binary_copy::BinaryCopyOutRow, tokio_postgres::Error>>,
    ) -> Result<RecordBatch> {
        let count = rows.len();
        let types = self.sent.iter().map(|index| &self.columns[*index].reading.data_type);
        let mut columns: Vec<Values> = types.map(Values::new).collect();
        for row in rows {
            let row = row.map_err(|error| self.failure(&error).error)?;
            for (index, column) in columns.iter_mut().enumerate() {
                let value =
                    row.try_get::<Option<&[u8]>>(index).map_err(|error| self.failure(&error).error)?;
                column.append(value).map_err(|error| self.blame(index, &error))?;
            }
        }
        let columns = columns.into_iter().zip(self.schema.fields());
        let columns = columns.map(|(values, field)| cast_to(&values.finish(), field.data_type()));
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    fn blame(&self, index: usize, error: &Error) -> Error {
        Error::Invalid(format!(
            "column \"{}\" of the table {}: {error}",
            self.schema.field(index).name(),
            self.table
        ))
    }
}

fn cast_to(column: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    Ok(cast_with_options(column, to, &strict)?)
}
