//! What a script says, statement by statement.
//!
//! Every statement prints as SQL that parses to an equal statement.

use std::fmt;
use std::time::Duration;

use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast::{
    ColumnDef, Expr, Ident, ObjectName, OrderByExpr, Query, TableConstraint,
};

use crate::options::masked_value;
use crate::query::Trigger;
use crate::sink::OutputMode;

/// A part of a script and where it starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Located<T> {
    /// The part.
    pub value: T,
    /// Line in the script, from 1.
    pub line: u64,
    /// Column in the line, in characters, from 1.
    pub column: u64,
}

/// One statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    /// A statement that is DataFusion's own.
    DataFusion(Box<DataFusionStatement>),
    /// `CREATE [UNBOUNDED] EXTERNAL TABLE …`
    CreateExternalTable(Box<CreateExternalTable>),
    /// `CREATE STREAMING QUERY …`
    CreateStreamingQuery(Box<CreateStreamingQuery>),
    /// `EXPLAIN STREAMING QUERY …`
    ExplainStreamingQuery(Box<ExplainStreamingQuery>),
    /// `SHOW STREAMING QUERIES`
    ShowStreamingQueries,
    /// `STOP STREAMING QUERY name`
    StopStreamingQuery {
        /// The query's name.
        name: Ident,
    },
}

/// `CREATE [OR REPLACE] [UNBOUNDED] EXTERNAL TABLE [IF NOT EXISTS] name …`
#[derive(Debug, Clone, PartialEq)]
pub struct CreateExternalTable {
    /// The table's name.
    pub name: ObjectName,
    /// Whether rows keep arriving: an input of streaming queries.
    pub unbounded: bool,
    /// `OR REPLACE`
    pub or_replace: bool,
    /// `IF NOT EXISTS`
    pub if_not_exists: bool,
    /// The columns, those given in `PARTITIONED BY (name type, …)` last; empty if they are to be
    /// found out.
    pub columns: Vec<ColumnDef>,
    /// Constraints such as `PRIMARY KEY (…)`; only of bounded tables.
    pub constraints: Vec<TableConstraint>,
    /// The event time and how late it may be; only of unbounded tables.
    pub watermark: Option<Watermark>,
    /// `STORED AS`, in lower case.
    pub format: String,
    /// `LOCATION`; empty if it was left out.
    pub locations: Vec<String>,
    /// `PARTITIONED BY`: the columns that are directories.
    pub partitioned_by: Vec<Ident>,
    /// `WITH ORDER`: how the files are sorted; only of bounded tables.
    pub order: Vec<Vec<OrderByExpr>>,
    /// `OPTIONS`, as written.
    pub options: Vec<(String, String)>,
}

/// `WATERMARK FOR column AS column - INTERVAL '…'`
#[derive(Debug, Clone, PartialEq)]
pub struct Watermark {
    /// The event-time column.
    pub column: Ident,
    /// The expression as written.
    pub expression: Expr,
    /// How much later than the newest row a row may come.
    pub delay: Duration,
}

/// `CREATE STREAMING QUERY name clauses AS INSERT INTO …`
#[derive(Debug, Clone, PartialEq)]
pub struct CreateStreamingQuery {
    /// The query's name.
    pub name: Ident,
    /// What it computes, and how it runs.
    pub plan: StreamingQueryPlan,
}

/// `EXPLAIN STREAMING QUERY [name] clauses AS INSERT INTO …`
#[derive(Debug, Clone, PartialEq)]
pub struct ExplainStreamingQuery {
    /// The name, which has no influence on the plan.
    pub name: Option<Ident>,
    /// What it would compute, and how it would run.
    pub plan: StreamingQueryPlan,
}

/// What a streaming query computes, and how it runs.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamingQueryPlan {
    /// How it runs.
    pub clauses: QueryClauses,
    /// What it computes and where the rows go.
    pub insert: InsertInto,
}

/// The clauses of a streaming query, each of which may be left out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct QueryClauses {
    /// `OUTPUT MODE`
    pub output_mode: Option<OutputMode>,
    /// `TRIGGER`
    pub trigger: Option<Trigger>,
    /// `CHECKPOINT LOCATION`
    pub checkpoint: Option<String>,
    /// `OPTIONS`, as written.
    pub options: Vec<(String, String)>,
}

/// `INSERT INTO target [(columns)] query`
#[derive(Debug, Clone, PartialEq)]
pub struct InsertInto {
    /// The table to write to.
    pub target: ObjectName,
    /// The columns of the target that the query's columns are for, by position; empty if not given.
    pub columns: Vec<Ident>,
    /// Where the rows come from.
    pub query: Box<Query>,
}

impl Statement {
    /// The statement without what nobody is to see: the values of options called password, token, key, secret or
    /// the like, and passwords in URLs.
    #[must_use]
    pub fn masked(&self) -> Self {
        let mut masked = self.clone();
        match &mut masked {
            Statement::CreateExternalTable(table) => **table = table.masked(),
            Statement::CreateStreamingQuery(query) => mask(&mut query.plan.clauses.options),
            Statement::ExplainStreamingQuery(query) => mask(&mut query.plan.clauses.options),
            Statement::DataFusion(_)
            | Statement::ShowStreamingQueries
            | Statement::StopStreamingQuery { .. } => {}
        }
        masked
    }
}

impl CreateExternalTable {
    /// The statement without what nobody is to see, see [`Statement::masked`].
    #[must_use]
    pub fn masked(&self) -> Self {
        let mut masked = self.clone();
        mask(&mut masked.options);
        masked.locations.iter_mut().for_each(|location| *location = masked_value("", location));
        masked
    }
}

fn mask(options: &mut [(String, String)]) {
    for (name, value) in options {
        *value = masked_value(name, value);
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Statement::DataFusion(statement) => statement.fmt(f),
            Statement::CreateExternalTable(statement) => statement.fmt(f),
            Statement::CreateStreamingQuery(statement) => {
                write!(f, "CREATE STREAMING QUERY {}{}", statement.name, statement.plan)
            }
            Statement::ExplainStreamingQuery(statement) => {
                f.write_str("EXPLAIN STREAMING QUERY")?;
                if let Some(name) = &statement.name {
                    write!(f, " {name}")?;
                }
                statement.plan.fmt(f)
            }
            Statement::ShowStreamingQueries => f.write_str("SHOW STREAMING QUERIES"),
            Statement::StopStreamingQuery { name } => write!(f, "STOP STREAMING QUERY {name}"),
        }
    }
}

impl fmt::Display for CreateExternalTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CREATE")?;
        for (given, words) in [(self.or_replace, " OR REPLACE"), (self.unbounded, " UNBOUNDED")] {
            f.write_str(if given { words } else { "" })?;
        }
        f.write_str(" EXTERNAL TABLE")?;
        if self.if_not_exists {
            f.write_str(" IF NOT EXISTS")?;
        }
        write!(f, " {}", self.name)?;
        let items: Vec<String> = (self.columns.iter().map(ToString::to_string))
            .chain(self.constraints.iter().map(ToString::to_string))
            .chain(self.watermark.iter().map(ToString::to_string))
            .collect();
        if !items.is_empty() {
            write!(f, " ({})", items.join(", "))?;
        }
        write!(f, " STORED AS {}", self.format.to_uppercase())?;
        if !self.partitioned_by.is_empty() {
            write!(f, " PARTITIONED BY ({})", join(&self.partitioned_by))?;
        }
        for order in &self.order {
            write!(f, " WITH ORDER ({})", join(order))?;
        }
        match self.locations.as_slice() {
            [] => {}
            [location] => write!(f, " LOCATION {}", quote(location))?,
            several => {
                let several: Vec<String> = several.iter().map(|location| quote(location)).collect();
                write!(f, " LOCATION ({})", several.join(", "))?;
            }
        }
        write_options(f, &self.options)
    }
}

impl fmt::Display for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WATERMARK FOR {} AS {}", self.column, self.expression)
    }
}

impl fmt::Display for StreamingQueryPlan {
    /// With a leading space, to follow the name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { clauses, insert } = self;
        if let Some(mode) = clauses.output_mode {
            write!(f, " OUTPUT MODE {}", mode.name().to_uppercase())?;
        }
        match clauses.trigger {
            Some(Trigger::Once) => f.write_str(" TRIGGER ONCE")?,
            Some(Trigger::AvailableNow) => f.write_str(" TRIGGER AVAILABLE NOW")?,
            Some(Trigger::ProcessingTime(interval)) => {
                write!(f, " TRIGGER PROCESSING TIME '{} us'", interval.as_micros())?;
            }
            Some(Trigger::AtOnce) | None => {}
        }
        if let Some(checkpoint) = &clauses.checkpoint {
            write!(f, " CHECKPOINT LOCATION {}", quote(checkpoint))?;
        }
        write_options(f, &clauses.options)?;
        write!(f, " AS INSERT INTO {}", insert.target)?;
        if !insert.columns.is_empty() {
            write!(f, " ({})", join(&insert.columns))?;
        }
        write!(f, " {}", insert.query)
    }
}

fn write_options(f: &mut fmt::Formatter<'_>, options: &[(String, String)]) -> fmt::Result {
    if options.is_empty() {
        return Ok(());
    }
    let options: Vec<String> =
        options.iter().map(|(name, value)| format!("{} {}", quote(name), quote(value))).collect();
    write!(f, " OPTIONS ({})", options.join(", "))
}

fn join<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
