//! The table that results are written to, and the one beside it that says which batches it has.

use std::fmt;

use datafusion::arrow::array::{Array, ArrowPrimitiveType, AsArray, PrimitiveArray, RecordBatch};
use datafusion::arrow::datatypes::{
    DataType, Field, SchemaRef, Time64NanosecondType, TimeUnit, TimestampNanosecondType,
};
use tokio_postgres::Client;
use uuid::Uuid;

use super::catalog::{Column, TableName, columns, type_names, unique_keys};
use super::encode::Rows;
use super::server::{Failure, list, literal, quoted, texts};
use super::types::PgType;
use crate::error::{Error, Result};
use crate::sink::{OutputMode, SinkBatch};

/// Holds a batch of an update until its rows replace others.
const ROWS: &str = "pg_temp.tidemill_rows";
/// How many bytes names have at most.
const MAX_NAME: usize = 63;
/// Says which batches of which query are in the tables of its schema.
const BATCHES: &str = "tidemill_batches";

/// Where rows go, and what they are.
#[derive(Debug)]
pub(super) struct Target {
    name: TableName,
    batches: String,
    schema: SchemaRef,
    keys: Vec<String>,
    create: bool,
}

/// What a table that was looked at takes.
#[derive(Debug, Clone)]
pub(super) struct Fitted {
    pub(super) rows: Rows,
    /// What the types of the columns are called that the result goes into.
    types: Vec<String>,
    /// Whether the index over the keys takes two nulls for the same.
    nulls_are_same: bool,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

impl Target {
    pub(super) fn try_new(
        name: TableName,
        schema: SchemaRef,
        keys: Vec<String>,
        create: bool,
    ) -> Result<Self> {
        for field in schema.fields() {
            pg_type(field)?;
        }
        let batches = name.beside(BATCHES);
        Ok(Self { name, batches, schema, keys, create })
    }

    pub(super) fn keys(&self) -> &[String] {
        &self.keys
    }

    pub(super) fn as_str(&self) -> &str {
        self.name.as_str()
    }

    /// The table that says which batches there are.
    pub(super) fn batches(&self) -> &str {
        &self.batches
    }

    fn columns(&self) -> String {
        list(self.schema.fields().iter().map(|field| field.name()))
    }

    /// Creates the table if that is asked for, and compares it with the result.
    pub(super) async fn fit(&self, client: &Client, mode: OutputMode) -> Result<Fitted, Failure> {
        let mut found = columns(client, &self.name).await?;
        if found.is_empty() {
            if !self.create {
                return Err(Error::Invalid(format!(
                    "there is no table {} in PostgreSQL: create it, or set the option createTable to true",
                    self.name
                ))
                .into());
            }
            // The server would cut off what is longer.
            if let Some(field) = self.schema.fields().iter().find(|field| field.name().len() > MAX_NAME) {
                return Err(Error::Invalid(format!(
                    "the name of column '{}' is longer than the {MAX_NAME} bytes that names have in PostgreSQL: name it \
                     with AS, or rename it",
                    field.name()
                ))
                .into());
            }
            self.create(client, mode).await?;
            found = columns(client, &self.name).await?;
        }
        let (types, widths) = self.compare(&found, mode)?;
        let nulls_are_same = match mode {
            OutputMode::Update => self.unique(client).await?,
            OutputMode::Append | OutputMode::Complete => false,
        };
        let rows = Rows::new(&self.schema, types, widths);
        Ok(Fitted { rows, types: self.type_names(client).await?, nulls_are_same })
    }

    async fn type_names(&self, client: &Client) -> Result<Vec<String>, Failure> {
        let names = self.schema.fields().iter().map(|field| field.name().as_str());
        type_names(client, &self.name, names).await
    }

    /// Refuses what was written if a column has another type than it had when the query began: its bytes were taken
    /// for a value of that. Until the transaction ends columns keep the types that they had when rows came.
    pub(super) async fn check_types(&self, client: &Client, fitted: &Fitted) -> Result<(), Failure> {
        let now = self.type_names(client).await?;
        let columns = self.schema.fields().iter().zip(&fitted.types).zip(now);
        match columns.into_iter().find(|((_, before), now)| **before != *now) {
            Some(((field, before), now)) => Err(Error::Invalid(format!(
                "column {} of the table {} of PostgreSQL was {before} when the query began, and is {now} now: start \
                 the query again",
                quoted(field.name()),
                self.name
            ))
            .into()),
            None => Ok(()),
        }
    }

    async fn create(&self, client: &Client, mode: OutputMode) -> Result<(), Failure> {
        let column = |field: &Field| {
            let pg = match field.data_type() {
                DataType::Decimal32(precision, scale)
                | DataType::Decimal64(precision, scale)
                | DataType::Decimal128(precision, scale)
                    if *scale >= 0 =>
                {
                    format!("numeric({precision}, {scale})")
                }
                _ => pg_type(field)?.name(),
            };
            Ok(format!("{} {pg}", quoted(field.name())))
        };
        let mut parts =
            self.schema.fields().iter().map(|field| column(field)).collect::<Result<Vec<String>>>()?;
        if mode == OutputMode::Update {
            parts.push(format!("UNIQUE ({})", list(&self.keys)));
        }
        let statement = format!("CREATE TABLE IF NOT EXISTS {} ({})", self.name, parts.join(", "));
        self.run_twice(client, "create", &statement).await
    }

    /// Of two that create the same table at the same time, the server refuses one, `IF NOT EXISTS` or not.
    async fn run_twice(&self, client: &Client, operation: &'static str, sql: &str) -> Result<(), Failure> {
        if client.batch_execute(sql).await.is_ok() {
            return Ok(());
        }
        client.batch_execute(sql).await.map_err(|error| Failure::new(operation, self.as_str(), &error))
    }

    /// The types of the columns that the result goes into, and how many characters they take.
    fn compare(&self, found: &[Column], mode: OutputMode) -> Result<(Vec<PgType>, Vec<Option<usize>>)> {
        let (mut types, mut widths, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        for field in self.schema.fields() {
            match found.iter().find(|column| column.name == *field.name()) {
                Some(column) => match fits(field, column) {
                    Ok(pg) => {
                        let is_key = mode == OutputMode::Update && self.keys.contains(field.name());
                        problems.extend(tells_apart(field, column, &pg).err().filter(|_| is_key));
                        types.push(pg);
                        widths.push(column.most_characters());
                    }
                    Err(problem) => problems.push(problem),
                },
                None => problems.push(format!("it has no column {}", quoted(field.name()))),
            }
        }
        for column in found.iter().filter(|column| column.is_required) {
            if self.schema.field_with_name(&column.name).is_err() {
                let name = quoted(&column.name);
                problems
                    .push(format!("column {name} is NOT NULL without a default, and the result lacks it"));
            }
        }
        if problems.is_empty() {
            return Ok((types, widths));
        }
        Err(Error::Invalid(format!(
            "the table {} of PostgreSQL does not fit the result of the query: {}. Change the table, or the names and \
             types in the query's SELECT",
            self.name,
            problems.join("; ")
        )))
    }

    /// Whether two nulls are the same in the index over the keys, which there has to be.
    async fn unique(&self, client: &Client) -> Result<bool, Failure> {
        let mut keys = self.keys.clone();
        keys.sort();
        let same = |(mut columns, nulls): (Vec<String>, bool)| {
            columns.sort();
            (columns == keys).then_some(nulls)
        };
        match unique_keys(client, &self.name).await?.into_iter().filter_map(same).max() {
            Some(nulls_are_same) => Ok(nulls_are_same),
            None => Err(Error::Invalid(format!(
                "update mode replaces rows of the table {0} by their keys, and the table has no unique index over \
                 these: CREATE UNIQUE INDEX ON {0} ({1})",
                self.name,
                list(&self.keys)
            ))
            .into()),
        }
    }

    /// Makes the query known; gives the last batch of it that is in the table.
    pub(super) async fn begin_query(&self, client: &Client, query_id: Uuid) -> Result<Option<u64>, Failure> {
        let batches = &self.batches;
        let create = format!(
            "CREATE TABLE IF NOT EXISTS {batches} (query_id uuid, table_name text, batch_id bigint NOT NULL, \
             num_rows bigint NOT NULL, written_at timestamptz NOT NULL, PRIMARY KEY (query_id, table_name))"
        );
        // Not asked for where it is there: creating takes a right that writing does not.
        let exists = format!("SELECT to_regclass({})", literal(batches));
        let exists = texts(client, &exists, ("look at", batches)).await?;
        if exists.first().and_then(|row| row.first()).is_none_or(Option::is_none) {
            self.run_twice(client, "create", &create).await?;
        }
        let known = format!(
            "INSERT INTO {batches} VALUES ('{query_id}', {}, -1, 0, now()) ON CONFLICT DO NOTHING",
            self.literal()
        );
        client.batch_execute(&known).await.map_err(|error| Failure::new("write to", batches, &error))?;
        // An earlier run that hangs would hold its lock for ever, and has lost the checkpoint to this one.
        let others = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = {} AND \
             pid <> pg_backend_pid() AND usename = current_user",
            literal(&transaction_name(query_id))
        );
        texts(client, &others, ("take over", batches)).await?;
        Ok(self.batch_of(client, query_id, "").await?.and_then(|(batch, _)| batch))
    }

    /// Whether the query writes to the table.
    pub(super) async fn knows(&self, client: &Client, query_id: Uuid) -> Result<bool, Failure> {
        Ok(self.batch_of(client, query_id, "").await?.is_some())
    }

    fn literal(&self) -> String {
        literal(self.as_str())
    }

    /// Locks out other runs of the query until the transaction ends; gives the last batch of it that is in the
    /// table.
    pub(super) async fn lock_query(
        &self,
        client: &Client,
        query_id: Uuid,
    ) -> Result<Option<(u64, u64)>, Failure> {
        match self.batch_of(client, query_id, " FOR UPDATE").await? {
            Some((batch, rows)) => Ok(batch.map(|batch| (batch, rows))),
            None => Err(Error::Invalid(format!(
                "the table {} of PostgreSQL no longer knows this query: its row was removed while the query was \
                 running",
                self.batches
            ))
            .into()),
        }
    }

    /// The last batch, if there is one, and its rows; `None` if the query is not known.
    async fn batch_of(
        &self,
        client: &Client,
        query_id: Uuid,
        lock: &str,
    ) -> Result<Option<(Option<u64>, u64)>, Failure> {
        let sql = format!(
            "SELECT batch_id, num_rows FROM {} WHERE query_id = '{query_id}' AND table_name = {}{lock}",
            self.batches,
            self.literal()
        );
        let rows = texts(client, &sql, ("read", &self.batches)).await?;
        let number = |row: &[Option<String>], at: usize| row.get(at)?.as_ref()?.parse().ok();
        Ok(rows.first().map(|row| (number(row, 0), number(row, 1).unwrap_or(0))))
    }

    /// Begins a transaction that is known by the query.
    pub(super) fn begin(batch: SinkBatch) -> String {
        let name = literal(&transaction_name(batch.query_id));
        format!("BEGIN; SET LOCAL application_name = {name}")
    }

    /// What comes before the rows.
    pub(super) fn before(&self, mode: OutputMode) -> Option<String> {
        match mode {
            OutputMode::Append => None,
            // Readers go on seeing the old rows until the end, which they would not with TRUNCATE.
            OutputMode::Complete => Some(format!("DELETE FROM {}", self.name)),
            OutputMode::Update => Some(format!(
                "CREATE TEMPORARY TABLE tidemill_rows ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA",
                self.columns(),
                self.name
            )),
        }
    }

    /// Refuses rows whose keys would be the same in the table as those of others.
    pub(super) fn check_keys(&self, mode: OutputMode, rows: &RecordBatch) -> Result<()> {
        if mode != OutputMode::Update {
            return Ok(());
        }
        for key in &self.keys {
            let Some(column) = rows.column_by_name(key) else { continue };
            let is_finer = match column.data_type() {
                DataType::Timestamp(TimeUnit::Nanosecond, _) => {
                    is_finer(column.as_primitive::<TimestampNanosecondType>())
                }
                DataType::Time64(TimeUnit::Nanosecond) => {
                    is_finer(column.as_primitive::<Time64NanosecondType>())
                }
                _ => false,
            };
            if is_finer {
                return Err(Error::Invalid(format!(
                    "rows are replaced by '{key}' in the table {}, which keeps microseconds, and a value of it has \
                     digits below: two keys would become one. Group by date_trunc('microsecond', …)",
                    self.name
                )));
            }
        }
        Ok(())
    }

    /// Takes the rows.
    pub(super) fn copy(&self, mode: OutputMode) -> String {
        let into = if mode == OutputMode::Update { ROWS } else { self.as_str() };
        format!("COPY {into} ({}) FROM STDIN (FORMAT binary)", self.columns())
    }

    /// What comes after the rows, of which some may have keys that are null.
    pub(super) fn after(&self, mode: OutputMode, fitted: &Fitted, has_null_keys: bool) -> Vec<String> {
        if mode != OutputMode::Update {
            return Vec::new();
        }
        let (columns, keys) = (self.columns(), list(&self.keys));
        let mut statements = Vec::new();
        let each = |names: &[String], form: &dyn Fn(String) -> String, between: &str| {
            names.iter().map(|name| form(quoted(name))).collect::<Vec<_>>().join(between)
        };
        let values = self.schema.fields().iter().map(|field| field.name().clone());
        let values: Vec<String> = values.filter(|name| !self.keys.contains(name)).collect();
        let mut new = String::new();
        if has_null_keys && !fitted.nulls_are_same {
            // The index takes such a row for another one than that with the same keys.
            let has_null = each(&self.keys, &|key| format!("r.{key} IS NULL"), " OR ");
            let is_same = each(&self.keys, &|key| format!("t.{key} IS NOT DISTINCT FROM r.{key}"), " AND ");
            if !values.is_empty() {
                statements.push(format!(
                    "UPDATE {} AS t SET {} FROM {ROWS} AS r WHERE ({has_null}) AND {is_same}",
                    self.name,
                    each(&values, &|name| format!("{name} = r.{name}"), ", ")
                ));
            }
            new = format!(
                " WHERE NOT (({has_null}) AND EXISTS (SELECT FROM {} AS t WHERE {is_same}))",
                self.name
            );
        }
        let replace = match values.as_slice() {
            [] => "NOTHING".to_string(),
            values => {
                format!("UPDATE SET {}", each(values, &|name| format!("{name} = EXCLUDED.{name}"), ", "))
            }
        };
        statements.push(format!(
            "INSERT INTO {} ({columns}) SELECT {columns} FROM {ROWS} AS r{new} ON CONFLICT ({keys}) DO {replace}",
            self.name
        ));
        statements
    }

    /// Notes that the batch is in the table.
    pub(super) fn note(&self, batch: SinkBatch, rows: u64) -> String {
        format!(
            "UPDATE {} SET batch_id = {}, num_rows = {rows}, written_at = now() WHERE query_id = '{}' AND table_name = {}",
            self.batches,
            batch.batch_id,
            batch.query_id,
            self.literal()
        )
    }
}

/// What `pg_stat_activity` calls the transactions of a query.
fn transaction_name(query_id: Uuid) -> String {
    format!("tidemill {query_id}")
}

/// The type that a column of the result is created with.
fn pg_type(field: &Field) -> Result<PgType> {
    PgType::for_column(field.data_type()).ok_or_else(|| {
        if let DataType::Struct(fields) = field.data_type()
            && fields.iter().map(|field| field.name().as_str()).eq(["start", "end"])
        {
            return Error::Invalid(format!(
                "column '{0}' is a window, for which PostgreSQL has no type: write its bounds, \"{0}\".start AS \
                 {1}_start, \"{0}\".end AS {1}_end",
                field.name(),
                field.name().split('(').next().unwrap_or("window")
            ));
        }
        Error::Invalid(format!(
            "column '{0}' is {1}, which cannot be written to PostgreSQL: write it as text, with to_json({0}) for \
             structs, maps and nested lists, or cast it",
            field.name(),
            field.data_type()
        ))
    })
}

/// Whether a value has digits below a microsecond.
fn is_finer<T: ArrowPrimitiveType<Native = i64>>(nanos: &PrimitiveArray<T>) -> bool {
    nanos.iter().flatten().any(|nanos| nanos % 1000 != 0)
}

/// Why two values of `field` may be the same in `column`, which is of type `pg`; otherwise rows can be replaced by it.
fn tells_apart(field: &Field, column: &Column, pg: &PgType) -> Result<(), String> {
    let same = match (column.of.as_str(), pg) {
        ("citext", _) => "texts that differ in case",
        ("jsonb", _) => "texts that are the same JSON",
        (_, PgType::Uuid) if !matches!(field.data_type(), DataType::FixedSizeBinary(_)) => {
            "texts that are the same UUID"
        }
        (_, PgType::Text) if column.kind != "e" && !column.is_bytewise => {
            "texts that its collation does not tell apart"
        }
        _ => return Ok(()),
    };
    Err(format!(
        "column {} is {}, in which {same} are one key, and the query has them as several",
        quoted(&column.name),
        column.of
    ))
}

/// The type of `column`, or why values of `field` do not go into it.
fn fits(field: &Field, column: &Column) -> Result<PgType, String> {
    let (name, of) = (quoted(&column.name), &column.of);
    if column.is_generated {
        return Err(format!("column {name} is computed by the server, and cannot be written"));
    }
    let Some(pg) = PgType::named(of, &column.kind).filter(|pg| pg.takes(field.data_type())) else {
        let goes = PgType::for_column(field.data_type());
        let goes = goes.map_or(String::new(), |pg| format!(", which goes into {}", pg.name()));
        return Err(format!("column {name} is {of}, and the result's is {}{goes}", field.data_type()));
    };
    // What the server would round without a word.
    let value = match field.data_type() {
        DataType::List(of) | DataType::LargeList(of) | DataType::FixedSizeList(of, _) => of.data_type(),
        value => value,
    };
    let scale = match value {
        DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) | DataType::Decimal128(_, scale) => {
            *scale
        }
        _ => 0,
    };
    if let Some((precision, own)) = column.precision_and_scale().filter(|(_, own)| *own < scale) {
        return Err(format!(
            "column {name} is numeric({precision}, {own}), which keeps {own} decimals, and the result has {scale}"
        ));
    }
    if let Some(digits) = column.digits_of_seconds() {
        return Err(format!("column {name} keeps {digits} digits of a second, and times have 6"));
    }
    Ok(pg)
}
