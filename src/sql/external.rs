//! Bounded external tables: read as batch tables, and written to by streaming queries.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::{Column, Constraints, DFSchema, TableReference, ToDFSchema, plan_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{
    CreateExternalTable as Command, Expr, TableProviderFilterPushDown, TableType,
};
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use super::ast::CreateExternalTable;
use super::partitioned;
use crate::error::{Error, Result, in_words};
use crate::functions::required;
use crate::options::Options;
use crate::options::mask_secrets;
use crate::plan::SnapshotTable;
#[cfg(feature = "postgres")]
use crate::postgres::PostgresTable;
use crate::sink::OutputFormat;
use crate::sink::file::{BoundedWrites, writer_options};
use crate::source::file::{FileTable, has_files, is_pattern};

/// A table of `CREATE EXTERNAL TABLE`, as it stands in the catalog.
///
/// What DataFusion makes of its files is found out anew by [`ExternalTable::refresh`], because
/// streaming queries write to it meanwhile: at first there may be neither files nor columns.
#[derive(Debug)]
pub(super) struct ExternalTable {
    /// What the user wrote, in DataFusion's terms.
    command: Command,
    /// Lower case.
    pub(super) format: String,
    /// `OPTIONS`, as written.
    pub(super) options: Vec<(String, String)>,
    /// Whether DataFusion has a reader for the format.
    is_read: bool,
    /// What is read; nothing while there is nothing to read.
    readable: RwLock<Option<Arc<dyn TableProvider>>>,
    /// Whether there was no file when it was last looked, and nobody has been told.
    has_no_files: AtomicBool,
    empty: SchemaRef,
}

impl ExternalTable {
    /// The table of `statement`, whose names and types `command` has resolved. `is_read` says whether
    /// DataFusion has a reader for the format.
    pub(super) fn new(statement: &CreateExternalTable, mut command: Command, is_read: bool) -> Self {
        command.locations = match is_of_files(&statement.format) {
            true => statement.locations.iter().map(|location| directory(location)).collect(),
            false => statement.locations.clone(),
        };
        command.options = read_options(&statement.format, &statement.options);
        command.definition = Some(mask_secrets(&statement.masked().to_string()).into_owned());
        Self {
            command,
            format: statement.format.clone(),
            options: statement.options.clone(),
            is_read,
            readable: RwLock::default(),
            has_no_files: AtomicBool::new(false),
            empty: Arc::new(Schema::empty()),
        }
    }

    pub(super) fn name(&self) -> &TableReference {
        &self.command.name
    }

    /// Where a streaming query writes to.
    pub(super) fn location(&self) -> Option<&str> {
        self.command.locations.first().map(String::as_str)
    }

    /// Whether it is made of files.
    pub(super) fn is_of_files(&self) -> bool {
        self.is_read || self.format.parse::<OutputFormat>().is_ok()
    }

    /// Whether its rows outlive the session, so that its columns have to have proper names.
    pub(super) fn is_kept(&self) -> bool {
        !is_shown_only(&self.format)
    }

    /// The columns that are directories.
    pub(super) fn partitioned_by(&self) -> &[String] {
        &self.command.table_partition_cols
    }

    /// The columns, if the user gave them.
    pub(super) fn declared(&self) -> Option<SchemaRef> {
        let schema = self.command.schema.inner();
        (!schema.fields().is_empty()).then(|| Arc::clone(schema))
    }

    /// Looks at the files again.
    pub(super) async fn refresh(&self, state: &SessionState) -> Result<()> {
        #[cfg(feature = "postgres")]
        if self.format == crate::postgres::FORMAT {
            let options = self.options.iter().cloned().collect();
            let table = PostgresTable::open_if_exists(self.location(), self.declared(), &options).await?;
            self.set_readable(table.map(|table| Arc::new(table) as Arc<dyn TableProvider>));
            return Ok(());
        }
        let own = self.is_read_as_a_stream();
        let factory = state.table_factories().get(&self.command.file_type);
        if !own && factory.is_none() {
            return Ok(());
        }
        self.check_location()?;
        let has_files = self.has_files(state).await?;
        self.has_no_files.store(!has_files, Ordering::Relaxed);
        let readable = match factory {
            _ if self.declared().is_none() && !has_files => None,
            _ if own => Some(self.snapshot(state).await?),
            Some(factory) => match self.found_by(factory.as_ref(), state).await {
                // Files whose columns have other types are read as streams read them: as the wider of two.
                Err(error) if self.format == "parquet" => {
                    Some(self.snapshot(state).await.map_err(|_| error)?)
                }
                found => Some(found?),
            },
            None => None,
        };
        self.set_readable(readable);
        Ok(())
    }

    /// What DataFusion's reader makes of the files.
    async fn found_by(
        &self,
        factory: &dyn TableProviderFactory,
        state: &SessionState,
    ) -> Result<Arc<dyn TableProvider>> {
        let found = partitioned::readable(factory, state, &self.command).await;
        found.map_err(|error| match error {
            Error::DataFusion(error) if in_words(&error).starts_with("No files found at ") => {
                let location = self.location().unwrap_or_default();
                Error::Invalid(format!("there are no files called .{} in '{location}'", self.format))
            }
            Error::DataFusion(error) => Error::InputFile {
                file: self.location().unwrap_or_default().to_string(),
                reason: format!("it is not what {} files are: {}", self.format, in_words(&error)),
            },
            error => error,
        })
    }

    /// Fails if it is made of files and nothing says where they are.
    pub(super) fn check_location(&self) -> Result<()> {
        if !self.is_read || !self.command.locations.is_empty() {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "table '{}' needs LOCATION '…': {} tables are made of files",
            self.name(),
            self.command.file_type
        )))
    }

    /// Whether a streaming query's reader gives its rows. DataFusion's readers change values without a word
    /// where those do not fit the columns, find columns by exact name only, or by position. They have nothing to
    /// change where the columns are those of the files, but do not know what becomes of malformed records.
    fn is_read_as_a_stream(&self) -> bool {
        let has = |option: &str| self.options.iter().any(|(name, _)| name.eq_ignore_ascii_case(option));
        let converts = match self.format.as_str() {
            "json" | "csv" | "avro" | "arrow" => true,
            // DataFusion's patterns have no alternatives.
            "parquet" => {
                self.declared().is_some() || has("mode") || has("schemaEvolution") || self.has_alternatives()
            }
            _ => false,
        };
        converts && !self.command.locations.is_empty()
    }

    fn has_alternatives(&self) -> bool {
        self.command.locations.iter().any(|location| location.contains('{'))
    }

    async fn snapshot(&self, state: &SessionState) -> Result<Arc<dyn TableProvider>> {
        let mut options = Options::default();
        // Files of other formats say themselves how they are to be read; the rest is for their writer.
        let is_text = matches!(self.format.as_str(), "json" | "csv");
        let is_read = |name: &str| !is_of_the_sink(name) && (is_text || FileTable::has_option(name));
        for (name, value) in self.options.iter().filter(|(name, _)| is_read(name)) {
            if name.eq_ignore_ascii_case("badRecordsPath") {
                return Err(Error::option(
                    name,
                    value,
                    "records are put aside by streaming queries only: leave it out, or set mode",
                ));
            }
            if name.eq_ignore_ascii_case("startingFrom") && value.eq_ignore_ascii_case("latest") {
                return Err(Error::option(
                    name,
                    value,
                    "it is for streaming queries: of a bounded table all rows are read. Leave it out",
                ));
            }
            if name.eq_ignore_ascii_case("schemaEvolution") && value.eq_ignore_ascii_case("addNewColumns") {
                return Err(Error::option(
                    name,
                    value,
                    "columns are added by streaming queries only: leave it out, or set it to rescue",
                ));
            }
            options.set(name, value);
        }
        // Nobody waits for a file that is being written, nor for the first one.
        for (name, value) in [("minFileAge", "0 seconds"), ("allowMissingPath", "true")] {
            options.set(name, value);
        }
        let mut tables = Vec::with_capacity(self.command.locations.len());
        for location in &self.command.locations {
            let partitions = self.partitioned_by().to_vec();
            let (declared, options) = (self.declared(), options.clone());
            let table =
                FileTable::resolve(&self.format, location, declared, partitions, options, state).await?;
            tables.push(table);
        }
        Ok(Arc::new(SnapshotTable::try_new(tables)?))
    }

    /// Has `table` read in place of files.
    pub(super) fn set_readable(&self, table: Option<Arc<dyn TableProvider>>) {
        *self.readable.write().unwrap_or_else(PoisonError::into_inner) = table;
    }

    /// Fails, with what to do, while there is nothing to read.
    pub(super) fn check_readable(&self) -> Result<()> {
        if self.readable().is_some() {
            return Ok(());
        }
        let name = self.name();
        Err(Error::Invalid(match (self.format.as_str(), self.location()) {
            ("memory", _) => {
                format!("table '{name}' holds nothing yet: no streaming query has inserted into it")
            }
            ("postgres", _) => format!(
                "table {} of '{name}' is not in the database yet: a streaming query that writes to it creates it if it \
                 has the option createTable",
                self.options
                    .iter()
                    .find(|(option, _)| option.eq_ignore_ascii_case("table"))
                    .map_or("", |(_, table)| table.as_str())
            ),
            (format, Some(location)) if self.is_read => format!(
                "table '{name}' has no columns yet: there are no {format} files in '{location}'. Write to it \
                 with a streaming query first, or give the columns in CREATE EXTERNAL TABLE"
            ),
            (format, _) => format!(
                "table '{name}' cannot be read: {} is only written to, by streaming queries",
                format.to_uppercase()
            ),
        }))
    }

    /// What is read, if there is anything.
    pub(super) fn readable(&self) -> Option<Arc<dyn TableProvider>> {
        self.readable.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The table as its writer has to know it: its columns are not found out anew.
    fn writer_command(&self) -> Result<Command> {
        let mut command = self.command.clone();
        command.schema = Arc::new(self.schema().to_dfschema()?);
        if let Ok(format) = self.format.parse() {
            command.options = writer_options(format, &self.options)?;
        }
        Ok(command)
    }

    /// `input`, which fails where a column that is NOT NULL has no value. Files that are read may lack values, so
    /// DataFusion does not know of it.
    fn with_required_values(
        &self,
        state: &dyn Session,
        input: Arc<dyn ExecutionPlan>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let Some(declared) = self.declared().filter(|_| self.is_of_files()) else { return Ok(input) };
        let is_required = |name: &str| declared.field_with_name(name).is_ok_and(|field| !field.is_nullable());
        let given = input.schema();
        if !given.fields().iter().any(|field| is_required(field.name())) {
            return Ok(input);
        }
        let columns = DFSchema::try_from(Arc::clone(&given))?;
        let values = given.fields().iter().enumerate().map(|(index, field)| {
            let name = field.name();
            let value: Arc<dyn PhysicalExpr> = match is_required(name) {
                true => {
                    let value = Expr::Column(Column::new_unqualified(name));
                    state.create_physical_expr(required(value, name), &columns)?
                }
                false => Arc::new(PhysicalColumn::new(name, index)),
            };
            Ok((value, name.clone()))
        });
        let values = values.collect::<DataFusionResult<Vec<_>>>()?;
        Ok(Arc::new(ProjectionExec::try_new(values, input)?))
    }

    /// Whether JSON objects have fields that are null.
    fn has_explicit_nulls(&self) -> Result<bool> {
        Ok(!Options::from_iter(self.options.clone()).flag("ignoreNullFields", true)?)
    }

    async fn has_files(&self, state: &SessionState) -> Result<bool> {
        self.forget_listings(state)?;
        for location in &self.command.locations {
            if has_files(location, state).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// DataFusion may remember which files there were; streaming queries add some behind its back.
    fn forget_listings(&self, state: &dyn Session) -> DataFusionResult<()> {
        match state.runtime_env().cache_manager.get_list_files_cache() {
            Some(cache) => cache.drop_table_entries(self.name()),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl TableProvider for ExternalTable {
    fn schema(&self) -> SchemaRef {
        let declared = || self.declared().unwrap_or_else(|| Arc::clone(&self.empty));
        self.readable().map_or_else(declared, |table| table.schema())
    }

    fn constraints(&self) -> Option<&Constraints> {
        Some(&self.command.constraints)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn get_table_definition(&self) -> Option<&str> {
        self.command.definition.as_deref()
    }

    fn get_column_default(&self, column: &str) -> Option<&Expr> {
        self.command.column_defaults.get(column)
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        match self.readable() {
            Some(table) => table.supports_filters_pushdown(filters),
            None => Ok(vec![TableProviderFilterPushDown::Unsupported; filters.len()]),
        }
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        self.check_readable()?;
        self.forget_listings(state)?;
        if self.has_no_files.swap(false, Ordering::Relaxed) {
            tracing::warn!(
                "table '{}' has no rows: there are no {} files in '{}'",
                self.name(),
                self.format,
                self.command.locations.join("', '")
            );
        }
        match self.readable() {
            Some(table) => table.scan(state, projection, filters, limit).await,
            None => plan_err!("table '{}' holds nothing yet", self.name()),
        }
    }

    async fn insert_into(
        &self,
        state: &dyn Session,
        input: Arc<dyn ExecutionPlan>,
        operation: InsertOp,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        self.check_readable()?;
        let input = self.with_required_values(state, input)?;
        match self.readable() {
            Some(_) if self.is_of_files() => {
                let factories =
                    state.as_any().downcast_ref::<SessionState>().map(SessionState::table_factories);
                let factory = factories.and_then(|factories| factories.get(&self.command.file_type));
                let Some(factory) = factory else { return plan_err!("table '{}' is only read", self.name()) };
                let table = factory.create(state, &self.writer_command()?).await?;
                let plan = table.insert_into(state, input, operation).await?;
                let table = Some(self.schema());
                BoundedWrites { explicit_nulls: self.has_explicit_nulls()?, table }.apply(plan)
            }
            Some(table) => table.insert_into(state, input, operation).await,
            None => plan_err!("table '{}' holds nothing yet", self.name()),
        }
    }
}

/// Whether tables of `format` are made of files.
fn is_of_files(format: &str) -> bool {
    !is_shown_only(format) && format != "postgres"
}

/// Whether nothing is left of what is written to tables of `format`.
fn is_shown_only(format: &str) -> bool {
    matches!(format, "console" | "memory" | "noop")
}

/// A location without an extension is a directory, also before anything has been written to it.
fn directory(location: &str) -> String {
    let is_file = Path::new(location).extension().is_some() || Path::new(location).is_file();
    if location.ends_with('/') || is_pattern(location) || is_file {
        location.into()
    } else {
        format!("{location}/")
    }
}

/// Whether an option is the file sink's alone.
fn is_of_the_sink(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let name = name.strip_prefix("format.").unwrap_or(&name);
    name.contains("::")
        || FileTable::is_for_writers(name)
        || matches!(
            name,
            "maxrecordsperfile"
                | "targetfilesize"
                | "ignorenullfields"
                | "existingoutput"
                | "compactafter"
                | "quoteall"
                | "ignoreleadingwhitespace"
                | "ignoretrailingwhitespace"
        )
}

/// What DataFusion's readers have to know of the options of a table; those of the file sink alone
/// are left out.
fn read_options(format: &str, options: &[(String, String)]) -> HashMap<String, String> {
    options.iter().filter_map(|(name, value)| read_option(format, name, value)).collect()
}

fn read_option(format: &str, name: &str, value: &str) -> Option<(String, String)> {
    let lower = name.to_ascii_lowercase();
    let key = lower.strip_prefix("format.").unwrap_or(&lower);
    let is_text = matches!(format, "csv" | "json");
    let (key, value) = match (key, format) {
        _ if is_of_the_sink(name) => return None,
        // Parquet and Arrow files say themselves how they are compressed.
        ("compression", _) if !is_text => return None,
        ("compression", _) if value.eq_ignore_ascii_case("none") => ("compression", "uncompressed".into()),
        ("header", "csv") => ("has_header", value.to_ascii_lowercase()),
        ("sep" | "delimiter", "csv") => ("delimiter", value.replace("\\t", "\t")),
        ("nullvalue", "csv") => ("null_regex", format!("^{}$", escape_regex(value))),
        (key, _) => (key, value.to_string()),
    };
    Some((format!("format.{key}"), value))
}

fn escape_regex(text: &str) -> String {
    text.chars().flat_map(|c| (!c.is_alphanumeric()).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_sink_are_translated_for_the_reader() {
        let read = |format, name, value| read_option(format, name, value);
        let some = |key: &str, value: &str| Some((key.to_string(), value.to_string()));
        assert_eq!(read("csv", "Header", "TRUE"), some("format.has_header", "true"));
        assert_eq!(read("csv", "sep", "\\t"), some("format.delimiter", "\t"));
        assert_eq!(read("csv", "nullValue", "N/A"), some("format.null_regex", "^N\\/A$"));
        assert_eq!(read("csv", "format.has_header", "false"), some("format.has_header", "false"));
        assert_eq!(read("json", "compression", "gzip"), some("format.compression", "gzip"));
        assert_eq!(read("json", "compression", "None"), some("format.compression", "uncompressed"));
        assert_eq!(read("parquet", "compression", "zstd"), None);
        assert_eq!(read("parquet", "maxRecordsPerFile", "5"), None);
        assert_eq!(read("json", "compactAfter", "5"), None);
        assert_eq!(read("parquet", "format.compression::a", "zstd"), None);
        assert_eq!(read("csv", "haeder", "true"), some("format.haeder", "true"));
    }

    #[test]
    fn locations_without_an_extension_are_directories() {
        for (location, expected) in [
            ("out/t", "out/t/"),
            ("out/t/", "out/t/"),
            ("out/t.parquet", "out/t.parquet"),
            ("in/*", "in/*"),
            ("in/{a,b}", "in/{a,b}"),
            ("s3://bucket/t", "s3://bucket/t/"),
        ] {
            assert_eq!(directory(location), expected);
        }
    }
}
