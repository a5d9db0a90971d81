//! From statements to DataFusion's plans.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{
    CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
    TableProvider,
};
use datafusion::common::{Column, ScalarValue, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{
    CreateExternalTable as Command, DdlStatement, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder,
    Statement as PlanStatement,
};
use datafusion::prelude::DataFrame;
use datafusion::sql::parser::{
    CreateExternalTable as DataFusionCreateExternalTable, Statement as DataFusionStatement,
};
use datafusion::sql::planner::object_name_to_table_reference;
use datafusion::sql::sqlparser::ast::{Ident, ObjectName, Query, Statement as SqlStatement};
use datafusion::sql::sqlparser::tokenizer::Location;

use super::diagnostics::error_at;
use super::exponents::with_doubles;
use super::external::ExternalTable;
use super::names::{Names, name_columns, name_results};
use super::set_operations::wrong_operation;
use super::signposts::for_functions;
use super::window_column::with_calls;
use crate::error::{Error, Result};
use crate::functions::required;
use crate::options::nearest;
use crate::plan::{DEFAULT_ZONE, StreamTable, unbounded_tables};
use crate::session::Session;

/// Plans the parts of one statement, which starts at `at` in its script.
pub(super) struct Planner<'a> {
    session: &'a Session,
    at: Location,
}

impl<'a> Planner<'a> {
    pub(super) fn new(session: &'a Session, at: Location) -> Self {
        Self { session, at }
    }

    /// An error about the whole statement.
    pub(super) fn error(&self, message: impl Into<String>) -> Error {
        error_at(message, self.at)
    }

    /// The session's state, with columns that remember their place in the script.
    pub(super) fn state(&self) -> SessionState {
        let mut state = self.session.context().state();
        let options = state.config_mut().options_mut();
        options.sql_parser.collect_spans = true;
        // Without a zone, DataFusion takes TIMESTAMP WITH TIME ZONE for one without.
        options.execution.time_zone.get_or_insert_with(|| DEFAULT_ZONE.into());
        state
    }

    pub(super) fn table_reference(&self, name: &ObjectName) -> Result<TableReference> {
        let normalize =
            self.session.context().copied_config().options().sql_parser.enable_ident_normalization;
        Ok(object_name_to_table_reference(name.clone(), normalize)?)
    }

    /// A name as DataFusion understands it: in lower case unless quoted.
    pub(super) fn name(&self, ident: &Ident) -> String {
        let normalize =
            self.session.context().copied_config().options().sql_parser.enable_ident_normalization;
        match ident.quote_style {
            None if normalize => ident.value.to_lowercase(),
            _ => ident.value.clone(),
        }
    }

    /// The table of this name, if there is one.
    pub(super) async fn table(&self, name: &TableReference) -> Result<Option<Arc<dyn TableProvider>>> {
        let state = self.session.context().state();
        match state.schema_for_ref(name.clone()) {
            Ok(schema) => Ok(schema.table(name.table()).await?),
            Err(_) => Ok(None),
        }
    }

    /// Plans a statement over the tables as they are now: external tables are looked at again.
    pub(super) async fn plan(&self, mut statement: DataFusionStatement) -> Result<LogicalPlan> {
        let state = self.state();
        name_results(&mut statement, Names::AsWritten);
        let names = if only_names_tables(&statement) { vec![] } else { self.references(&state, &statement)? };
        for name in names {
            if let Some(table) = self.table(&name).await?
                && let Some(table) = table.downcast_ref::<ExternalTable>()
            {
                table.refresh(&state).await.map_err(|error| self.planning_error(error.into()))?;
                table.check_readable().map_err(|error| self.error(error.to_string()))?;
            }
        }
        self.plan_in(&state, statement).await
    }

    /// Plans `query` for a streaming query with its checkpoint at `checkpoint`: columns that were
    /// inferred at its first start are what they were then.
    /// Columns of the result that have no name are given one for files, or as it is written.
    pub(super) async fn plan_streaming(
        &self,
        query: &Query,
        names: Names,
        checkpoint: Option<&str>,
    ) -> Result<DataFrame> {
        let mut query = query.clone();
        name_columns(&mut query, names);
        let statement = DataFusionStatement::Statement(Box::new(SqlStatement::Query(Box::new(query))));
        let planned = self.plan(statement.clone()).await;
        if let Some(checkpoint) = checkpoint {
            // Over what is inferred today the query may not even have a plan.
            let sources = match &planned {
                Ok(plan) => Some(plan.clone()),
                Err(_) => self.only_unbounded_table(&statement).await?,
            };
            let mut pinned = match &sources {
                Some(sources) => self.session.pinned_tables(sources, checkpoint).await?,
                None => vec![],
            };
            for (name, table) in &mut pinned {
                if let (Some(declared), Some(stream)) =
                    (self.table(name).await?, table.downcast_ref::<StreamTable>())
                    && let Some(declared) = declared.downcast_ref::<StreamTable>()
                {
                    *table = Arc::new(declared.give_watermark_to(stream.clone())?);
                }
            }
            if !pinned.is_empty() {
                let state = self.state_with(&statement, pinned).await?;
                let plan = self.plan_in(&state, statement).await?;
                return Ok(DataFrame::new(self.session.context().state(), plan));
            }
        }
        Ok(DataFrame::new(self.session.context().state(), planned?))
    }

    /// A scan of the one unbounded table that `statement` names; nothing if it names more or none.
    async fn only_unbounded_table(&self, statement: &DataFusionStatement) -> Result<Option<LogicalPlan>> {
        let mut scans = Vec::new();
        for name in self.references(&self.state(), statement)? {
            if let Some(table) = self.table(&name).await?
                && table.is::<StreamTable>()
            {
                scans.push(LogicalPlanBuilder::scan(name, provider_as_source(table), None)?.build()?);
            }
        }
        Ok(scans.pop().filter(|_| scans.is_empty()))
    }

    /// Has DataFusion resolve the names and types in `table`.
    pub(super) async fn plan_table(&self, table: DataFusionCreateExternalTable) -> Result<Command> {
        let statement = DataFusionStatement::CreateExternalTable(table);
        match self.plan_in(&self.state(), statement).await? {
            LogicalPlan::Ddl(DdlStatement::CreateExternalTable(command)) => Ok(*command),
            other => Err(self.error(format!("expected a table, found {}", other.display()))),
        }
    }

    async fn plan_in(&self, state: &SessionState, mut statement: DataFusionStatement) -> Result<LogicalPlan> {
        if let Some((message, at)) = wrong_operation(&mut statement) {
            return Err(error_at(message, at));
        }
        let is_aggregate = |name: &str| state.aggregate_functions().contains_key(&name.to_lowercase());
        let statement = with_doubles(with_calls(statement, &is_aggregate));
        state.statement_to_plan(statement).await.map_err(|error| self.planning_error(error))
    }

    fn references(
        &self,
        state: &SessionState,
        statement: &DataFusionStatement,
    ) -> Result<Vec<TableReference>> {
        state.resolve_table_references(statement).map_err(|error| self.planning_error(error))
    }

    /// The state with a catalog of just the tables that `statement` names, `replaced` among them.
    async fn state_with(
        &self,
        statement: &DataFusionStatement,
        replaced: Vec<(TableReference, Arc<dyn TableProvider>)>,
    ) -> Result<SessionState> {
        let state = self.state();
        let defaults = &state.config_options().catalog;
        let resolve =
            |name: TableReference| name.resolve(&defaults.default_catalog, &defaults.default_schema);
        let mut tables = Vec::new();
        for name in self.references(&state, statement)? {
            if let Some(table) = self.table(&name).await? {
                tables.push((resolve(name), table));
            }
        }
        tables.extend(replaced.into_iter().map(|(name, table)| (resolve(name), table)));
        let catalogs = MemoryCatalogProviderList::new();
        for (name, table) in tables {
            let catalog = catalogs.catalog(&name.catalog).unwrap_or_else(|| {
                let catalog = Arc::new(MemoryCatalogProvider::new());
                catalogs.register_catalog(name.catalog.to_string(), Arc::clone(&catalog) as _);
                catalog
            });
            let schema = match catalog.schema(&name.schema) {
                Some(schema) => schema,
                None => {
                    let schema = Arc::new(MemorySchemaProvider::new());
                    catalog.register_schema(&name.schema, Arc::clone(&schema) as _)?;
                    schema
                }
            };
            schema.deregister_table(&name.table)?;
            schema.register_table(name.table.to_string(), table)?;
        }
        Ok(SessionStateBuilder::new_from_existing(state).with_catalog_list(Arc::new(catalogs)).build())
    }

    /// An error of planning at its place in the script. Our own errors stay what they are.
    pub(super) fn planning_error(&self, error: DataFusionError) -> Error {
        let span = error.iter().next().and_then(|first| first.diagnostic()).and_then(|found| found.span);
        let at = span.map_or(self.at, |span| Location::new(span.start.line, span.start.column));
        match Error::from(error) {
            Error::DataFusion(error) => {
                let root = error.iter().next().map_or(&error, DataFusionError::find_root);
                let message = root.message();
                let message = message.split(DataFusionError::BACK_TRACE_SEP).next().unwrap_or_default();
                match for_functions(message) {
                    Some(instead) => error_at(instead, at),
                    None => error_at(message.to_string() + &self.table_suggestion(message), at),
                }
            }
            error => error,
        }
    }

    /// The table that was probably meant, if `message` is that there is none of that name.
    fn table_suggestion(&self, message: &str) -> String {
        let missing = message.strip_prefix("table '").and_then(|rest| rest.strip_suffix("' not found"));
        let Some(missing) = missing.map(TableReference::from) else { return String::new() };
        let state = self.session.context().state();
        let Ok(schema) = state.schema_for_ref(missing.clone()) else { return String::new() };
        let names = schema.table_names();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        nearest(missing.table(), &names).map_or_else(String::new, |name| format!("; did you mean '{name}'?"))
    }
}

/// Whether `statement` says something about tables without looking into them.
fn only_names_tables(statement: &DataFusionStatement) -> bool {
    let DataFusionStatement::Statement(statement) = statement else { return false };
    matches!(
        statement.as_ref(),
        SqlStatement::Drop { .. } | SqlStatement::ExplainTable { .. } | SqlStatement::ShowCreate { .. }
    )
}

/// Fails if `plan`, which is not that of a streaming query, would read rows that never end.
pub(super) fn refuse_unbounded(plan: &LogicalPlan) -> Result<()> {
    let reads_nothing = match plan {
        LogicalPlan::Ddl(ddl) => !matches!(ddl, DdlStatement::CreateMemoryTable(_)),
        LogicalPlan::Statement(PlanStatement::Prepare(_)) | LogicalPlan::DescribeTable(_) => true,
        _ => false,
    };
    let tables = if reads_nothing { vec![] } else { unbounded_tables(plan) };
    if tables.is_empty() {
        return Ok(());
    }
    let advice = match plan {
        LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) => {
            "To see the plan of a streaming query, use EXPLAIN STREAMING QUERY AS INSERT INTO … SELECT …"
        }
        _ => "Use CREATE STREAMING QUERY name AS INSERT INTO … SELECT …",
    };
    Err(Error::UnsupportedQuery {
        operator: format!("a batch statement over the unbounded table {}", list(&tables)),
        reason: "its rows never end".into(),
        advice: advice.into(),
    })
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}

/// The rows of `frame` as rows of a table: with the names and types of `declared`, if the table has
/// declared columns, of which `columns` are given, by position; all if `columns` is empty. Columns
/// that are not given have their default, or are null.
pub(super) fn conform(
    frame: DataFrame,
    columns: &[String],
    declared: Option<SchemaRef>,
    default: &dyn Fn(&str) -> Option<Expr>,
) -> Result<DataFrame, String> {
    let given: Vec<(Expr, String)> = frame
        .schema()
        .iter()
        .map(|(qualifier, field)| {
            let column = Column::from((qualifier, field));
            (Expr::Column(column), field.name().clone())
        })
        .collect();
    let declared_names = || declared.iter().flat_map(|schema| schema.fields()).map(|f| f.name().clone());
    let mut names: Vec<String> = columns.to_vec();
    if names.is_empty() {
        names.extend(declared_names());
    }
    if !names.is_empty() && names.len() != given.len() {
        return Err(format!(
            "the query gives {} columns ({}), but {} are to be inserted ({})",
            given.len(),
            given.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(", "),
            names.len(),
            names.join(", ")
        ));
    }
    if names.is_empty() {
        names.extend(given.iter().map(|(_, name)| name.clone()));
    }
    if let Some(twice) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
        return Err(format!(
            "two columns of the result are called '{}': give one of them another name with AS",
            twice.1
        ));
    }
    let by_name: Vec<(String, Expr)> =
        names.into_iter().zip(given.into_iter().map(|(expr, _)| expr)).collect();
    let expressions = match &declared {
        None => by_name.into_iter().map(|(name, expr)| expr.alias(name)).collect(),
        Some(schema) => as_declared(&frame, by_name, schema, default)?,
    };
    frame.select(expressions).map_err(|error| error.strip_backtrace())
}

fn as_declared(
    frame: &DataFrame,
    mut given: Vec<(String, Expr)>,
    declared: &SchemaRef,
    default: &dyn Fn(&str) -> Option<Expr>,
) -> Result<Vec<Expr>, String> {
    let mut expressions = Vec::with_capacity(declared.fields().len());
    for field in declared.fields() {
        let position = given.iter().position(|(name, _)| name == field.name());
        let expr = match (position, default(field.name())) {
            (Some(position), _) => given.swap_remove(position).1,
            (None, Some(default)) => default,
            (None, None) if field.is_nullable() => Expr::Literal(ScalarValue::Null, None),
            (None, None) => {
                return Err(format!("column '{}' is NOT NULL and must be inserted", field.name()));
            }
        };
        let expr = expr.cast_to(field.data_type(), frame.schema()).map_err(|error| {
            format!("column '{}' cannot be inserted: {}", field.name(), error.strip_backtrace())
        })?;
        let may_be_null = !field.is_nullable() && expr.nullable(frame.schema()).unwrap_or(true);
        let expr = if may_be_null { required(expr, field.name()) } else { expr };
        expressions.push(expr.alias(field.name()));
    }
    match given.first() {
        Some((name, _)) => Err(format!("the table has no column '{name}'")),
        None => Ok(expressions),
    }
}
