//! From statements to DataFusion's plans.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::information_schema::INFORMATION_SCHEMA;
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
use datafusion::sql::sqlparser::ast::{Ident, ObjectName, Query, Statement as SqlStatement, TableObject};
use datafusion::sql::sqlparser::tokenizer::Location;

use super::ast::CreateExternalTable;
use super::cast_names::with_cast_names;
use super::clauses::Clauses;
use super::diagnostics::error_at;
use super::exponents::with_doubles;
use super::external::ExternalTable;
use super::file_tables::take_file_tables;
use super::group_windows::with_group_windows;
use super::letter_case::{correct_case, names_no_columns};
use super::named_windows::NamedWindows;
use super::names::{Names, name_columns, name_results};
use super::phrases::{Known, rephrase};
use super::row_values::RowValues;
use super::time_patterns::TimePatterns;
use super::unnested::name_elements;
use super::using::Using;
use super::visit::check_statement;
use super::window_column::with_calls;
use crate::error::{Error, Result, in_words};
use crate::functions::required;
use crate::options::nearest;
use crate::plan::{
    DEFAULT_ZONE, StreamTable, of_view, unbounded_tables, with_as_of_joins, with_lateral_unnest,
    without_misplaced,
};
use crate::query::{NamedTables, Replan};
use crate::session::Session;

/// A table and what it is called.
type Named = (TableReference, Arc<dyn TableProvider>);

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
        let files = self.file_tables(&mut statement).await?;
        self.plan_over(statement, files).await
    }

    /// Plans a statement in which `files` are called by their new names.
    async fn plan_over(&self, mut statement: DataFusionStatement, files: Vec<Named>) -> Result<LogicalPlan> {
        let state = self.state();
        name_results(&mut statement, Names::AsWritten);
        let names = if only_names_tables(&statement) { vec![] } else { self.references(&state, &statement)? };
        if let Some(target) = insert_target(&statement) {
            // Also if the target cannot be read, as a table for a console.
            let target = self.table_reference(target)?;
            let sources: Vec<_> = names.iter().filter(|name| **name != target).cloned().collect();
            self.refuse_unbounded_names(&sources).await?;
        }
        if names.iter().any(|name| name.schema() == Some(INFORMATION_SCHEMA)) {
            self.refresh_all(&state).await?;
        }
        for name in names {
            if let Some(table) = self.table(&name).await?
                && let Some(table) = table.downcast_ref::<ExternalTable>()
            {
                table.refresh(&state).await.map_err(|error| self.planning_error(error.into()))?;
                table.check_readable().map_err(|error| self.error(error.to_string()))?;
            }
        }
        if files.is_empty() {
            return self.plan_in(&state, statement).await;
        }
        let state = self.state_with(&statement, files).await?;
        self.plan_in(&state, statement).await
    }

    /// Has external tables know their columns. What is wrong with a table is said when that is read.
    async fn refresh_all(&self, state: &SessionState) -> Result<()> {
        let Ok(schema) = state.schema_for_ref("t") else { return Ok(()) };
        for name in schema.table_names() {
            let table = self.table(&TableReference::bare(name.as_str())).await?;
            if let Some(table) = table.as_ref().and_then(|table| table.downcast_ref::<ExternalTable>())
                && let Err(error) = table.refresh(state).await
            {
                tracing::debug!(%error, table = name, "its columns cannot be told");
            }
        }
        Ok(())
    }

    /// The tables that `statement` names by their files, under the names that they are given in it.
    async fn file_tables(&self, statement: &mut DataFusionStatement) -> Result<Vec<Named>> {
        let mut tables: Vec<Named> = Vec::new();
        for file in take_file_tables(statement)? {
            let command = self.resolve(&file.table).await?;
            let state = self.state();
            let is_read = state.table_factories().contains_key(&command.file_type);
            let table = ExternalTable::new(&file.table, command, is_read);
            table.refresh(&state).await.map_err(|error| self.planning_error(error.into()))?;
            table.check_readable().map_err(|error| self.error(error.to_string()))?;
            tables.push((file.name, Arc::new(table)));
        }
        Ok(tables)
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
        let mut statement = DataFusionStatement::Statement(Box::new(SqlStatement::Query(Box::new(query))));
        let files = self.file_tables(&mut statement).await?;
        let planned = self.plan_over(statement.clone(), files.clone()).await;
        if let Some(checkpoint) = checkpoint {
            // Over what is inferred today the query may not even have a plan.
            let sources = match &planned {
                Ok(plan) => Some(plan.clone()),
                Err(_) => self.only_unbounded_table(&statement).await?,
            };
            let pinned = match &sources {
                Some(sources) => self.session.pinned_tables(sources, checkpoint).await?,
                None => vec![],
            };
            if !pinned.is_empty() {
                return self.plan_with(statement, pinned, files).await;
            }
        }
        Ok(DataFrame::new(self.session.context().state(), planned?))
    }

    /// Plans `query` for a streaming query over `tables` in the place of those of their names.
    pub(super) async fn plan_streaming_over(
        &self,
        query: &Query,
        names: Names,
        tables: NamedTables,
    ) -> Result<DataFrame> {
        let mut query = query.clone();
        name_columns(&mut query, names);
        let mut statement = DataFusionStatement::Statement(Box::new(SqlStatement::Query(Box::new(query))));
        let files = self.file_tables(&mut statement).await?;
        self.plan_with(statement, tables, files).await
    }

    /// Plans `query` anew when its tables have got more columns, for a target with these columns of `table`.
    pub(super) fn replan(
        &self,
        query: &Query,
        names: Names,
        columns: Vec<String>,
        table: Option<&Arc<dyn TableProvider>>,
    ) -> Replan {
        let (session, at, query, table) = (self.session.clone(), self.at, query.clone(), table.cloned());
        Replan(Arc::new(move |tables| {
            let (session, query) = (session.clone(), query.clone());
            let (columns, table) = (columns.clone(), table.clone());
            Box::pin(async move {
                let planner = Planner::new(&session, at);
                let frame = planner.plan_streaming_over(&query, names, tables).await?;
                let table = table.as_ref().and_then(|table| table.downcast_ref::<ExternalTable>());
                let default =
                    |column: &str| table.and_then(|table| table.get_column_default(column).cloned());
                let declared = table.and_then(ExternalTable::declared);
                let frame = conform(frame, &columns, declared, &default);
                Ok(frame.map_err(|message| planner.error(message))?.into_unoptimized_plan())
            })
        }))
    }

    async fn plan_with(
        &self,
        statement: DataFusionStatement,
        mut tables: NamedTables,
        files: Vec<Named>,
    ) -> Result<DataFrame> {
        for (name, table) in &mut tables {
            if let (Some(declared), Some(stream)) =
                (self.table(name).await?, table.downcast_ref::<StreamTable>())
                && let Some(declared) = declared.downcast_ref::<StreamTable>()
            {
                *table = Arc::new(declared.give_watermark_to(stream.clone())?);
            }
        }
        tables.extend(files);
        let state = self.state_with(&statement, tables).await?;
        let plan = self.plan_in(&state, statement).await?;
        Ok(DataFrame::new(self.session.context().state(), plan))
    }

    /// Fails if one of the tables never ends.
    async fn refuse_unbounded_names(&self, names: &[TableReference]) -> Result<()> {
        for name in names {
            if self.table(name).await?.is_some_and(|table| table.is::<StreamTable>()) {
                return Err(batch_over(&[name.to_string()], INSTEAD));
            }
        }
        Ok(())
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

    /// Has DataFusion resolve the names and types in `table`.
    pub(super) async fn resolve(&self, table: &CreateExternalTable) -> Result<Command> {
        let partitions: Vec<String> = table.partitioned_by.iter().map(|column| self.name(column)).collect();
        let columns: Vec<String> = table.columns.iter().map(|column| self.name(&column.name)).collect();
        let unknown = partitions.iter().find(|name| !columns.is_empty() && !columns.contains(name));
        if let Some(unknown) = unknown {
            return Err(self.error(format!(
                "PARTITIONED BY names the column '{unknown}', which the table does not have"
            )));
        }
        let table = DataFusionCreateExternalTable {
            name: table.name.clone(),
            columns: table.columns.clone(),
            file_type: table.format.to_uppercase(),
            // DataFusion insists on one; what the table has is put there afterwards.
            locations: vec![String::new()],
            table_partition_cols: partitions,
            order_exprs: table.order.clone(),
            if_not_exists: false,
            or_replace: false,
            temporary: false,
            unbounded: table.unbounded,
            options: vec![],
            constraints: table.constraints.clone(),
        };
        self.plan_table(table).await
    }

    async fn plan_in(&self, state: &SessionState, mut statement: DataFusionStatement) -> Result<LogicalPlan> {
        check_statement(&mut statement, &mut Clauses { at: self.at })?;
        check_statement(&mut statement, &mut TimePatterns { at: self.at })?;
        let is_aggregate = |name: &str| state.aggregate_functions().contains_key(&name.to_lowercase());
        let statement = with_cast_names(statement, &is_aggregate);
        let mut statement =
            with_doubles(with_calls(with_group_windows(statement, &is_aggregate), &is_aggregate));
        check_statement(&mut statement, &mut Using { at: self.at })?;
        check_statement(&mut statement, &mut NamedWindows { at: self.at })?;
        check_statement(&mut statement, &mut RowValues { at: self.at })?;
        name_elements(&mut statement);
        let plan = loop {
            match state.statement_to_plan(statement.clone()).await {
                Ok(plan) => break plan,
                Err(error) => {
                    let others = match names_no_columns(&error) {
                        true => self.columns_of(state, &statement).await?,
                        false => Vec::new(),
                    };
                    // One name fewer is missing each time.
                    if !correct_case(&mut statement, &error, &others) {
                        return Err(self.planning_error(error));
                    }
                }
            }
        };
        let plan = with_lateral_unnest(plan).and_then(with_as_of_joins).and_then(without_misplaced);
        match plan.map_err(|error| self.planning_error(error))? {
            LogicalPlan::Ddl(DdlStatement::CreateView(mut view)) => {
                let values = of_view(Arc::unwrap_or_clone(view.input));
                view.input = Arc::new(values.map_err(|error| self.planning_error(error))?);
                Ok(LogicalPlan::Ddl(DdlStatement::CreateView(view)))
            }
            plan => Ok(plan),
        }
    }

    /// The columns of all tables that `statement` names.
    async fn columns_of(&self, state: &SessionState, statement: &DataFusionStatement) -> Result<Vec<Column>> {
        let mut columns = Vec::new();
        for name in self.references(state, statement)? {
            let Ok(schema) = state.schema_for_ref(name.clone()) else { continue };
            if let Some(table) = schema.table(name.table()).await? {
                let schema = table.schema();
                columns.extend(schema.fields().iter().map(|field| Column::new_unqualified(field.name())));
            }
        }
        Ok(columns)
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
        replaced: Vec<Named>,
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
                let state = self.session.context().state();
                let message = rephrase(in_words(&error), &Known::of(&state));
                error_at(message.clone() + &self.table_suggestion(&message) + metadata_hint(&message), at)
            }
            error => error,
        }
    }

    /// The table that was probably meant, if `message` is that there is none of that name.
    fn table_suggestion(&self, message: &str) -> String {
        let missing = message.strip_prefix("table '").and_then(|rest| rest.strip_suffix("' not found"));
        let Some(missing) = missing.map(TableReference::from) else { return String::new() };
        if let Some(files) = files_meant(&missing) {
            return files;
        }
        let state = self.session.context().state();
        let Ok(schema) = state.schema_for_ref(missing.clone()) else { return String::new() };
        let names = schema.table_names();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        nearest(missing.table(), &names).map_or_else(String::new, |name| format!("; did you mean '{name}'?"))
    }
}

/// How files are named, if it is files that are meant: Spark's json.`in`, or a name without its quotes.
fn files_meant(missing: &TableReference) -> Option<String> {
    let is_format = |word: &str| ["json", "csv", "parquet", "avro", "arrow"].contains(&word);
    let (schema, table) = (missing.schema()?, missing.table());
    if is_format(schema) {
        return Some(format!(
            ": files are read by FROM 'directory/', FROM 'file.{schema}' or read_{schema}('{table}')"
        ));
    }
    is_format(table).then(|| format!(": a file is named in quotes, FROM '{schema}.{table}'"))
}

/// How to come by the column of Spark that says which file a row comes from.
fn metadata_hint(message: &str) -> &'static str {
    match message.starts_with("No field named _metadata") {
        true => " The option includeMetadata = true of the table adds the column _metadata.",
        false => "",
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

/// The table that `statement` inserts rows into.
fn insert_target(statement: &DataFusionStatement) -> Option<&ObjectName> {
    let DataFusionStatement::Statement(statement) = statement else { return None };
    match statement.as_ref() {
        SqlStatement::Insert(insert) => match &insert.table {
            TableObject::TableName(name) => Some(name),
            _ => None,
        },
        _ => None,
    }
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
        _ => INSTEAD,
    };
    Err(batch_over(&tables, advice))
}

/// What to do instead of a batch statement over unbounded tables.
const INSTEAD: &str = "Use CREATE STREAMING QUERY name AS INSERT INTO … SELECT …";

fn batch_over(tables: &[String], advice: &str) -> Error {
    Error::UnsupportedQuery {
        operator: format!("a batch statement over the unbounded table {}", list(tables)),
        reason: "its rows never end".into(),
        advice: advice.into(),
    }
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
    frame.select(expressions).map_err(|error| in_words(&error))
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
        let expr = expr
            .cast_to(field.data_type(), frame.schema())
            .map_err(|error| format!("column '{}' cannot be inserted: {}", field.name(), in_words(&error)))?;
        let may_be_null = !field.is_nullable() && expr.nullable(frame.schema()).unwrap_or(true);
        let expr = if may_be_null { required(expr, field.name()) } else { expr };
        expressions.push(expr.alias(field.name()));
    }
    match given.first() {
        Some((name, _)) => Err(format!("the table has no column '{name}'")),
        None => Ok(expressions),
    }
}
