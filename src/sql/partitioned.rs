//! Reading back the values that are in directory names.
//!
//! DataFusion takes the text of a directory, without its escapes, for the value. To Hive, Spark and the
//! file sink one of the texts means null, and names of columns are escaped, too. So DataFusion reads texts,
//! and a projection makes values of them.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::catalog::{TableProvider, TableProviderFactory};
use datafusion::common::{Column, DFSchema};
use datafusion::datasource::listing::ListingTable;
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::execution::session_state::SessionState;
use datafusion::functions::core::expr_fn::nullif;
use datafusion::logical_expr::{CreateExternalTable as Command, Expr, LogicalPlanBuilder, cast, lit};

use crate::error::Result;
use crate::sink::file::{NULL_DIRECTORY, escape_directory};
use crate::source::file::FileTable;

/// The table of `command`, which `factory` makes of files.
pub(super) async fn readable(
    factory: &dyn TableProviderFactory,
    state: &SessionState,
    command: &Command,
) -> Result<Arc<dyn TableProvider>> {
    let texts = factory.create(state, &with_texts(command)?).await?;
    let Some(listing) = texts.downcast_ref::<ListingTable>() else { return Ok(texts) };
    // Without PARTITIONED BY, DataFusion may have found some.
    let partitions = listing.options().table_partition_cols.clone();
    if partitions.is_empty() {
        return Ok(texts);
    }
    let declared = command.schema.inner();
    let found = FileTable::directory_columns(&command.locations, state).await?;
    let value = |field: &Arc<Field>| {
        let column = Expr::Column(Column::new_unqualified(field.name()));
        if partitions.iter().all(|(name, _)| name != field.name()) {
            return column;
        }
        let name = percent_encoding::percent_decode_str(field.name()).decode_utf8_lossy().into_owned();
        let text = nullif(cast(column, DataType::Utf8), lit(NULL_DIRECTORY));
        match declared.field_with_name(&name) {
            Ok(field) => cast(text, field.data_type().clone()),
            // As a streaming query has them.
            Err(_) => match found.iter().find(|(found, _)| *found == name) {
                Some((_, data_type)) => cast(text, data_type.clone()),
                None => text,
            },
        }
        .alias(name)
    };
    let columns: Vec<Expr> = texts.schema().fields().iter().map(value).collect();
    let plan = LogicalPlanBuilder::scan(command.name.table(), provider_as_source(texts), None)?;
    Ok(Arc::new(ViewTable::new(plan.project(columns)?.build()?, None)))
}

/// `command` with texts for the values of directories, under the names that the directories have.
fn with_texts(command: &Command) -> Result<Command> {
    let mut texts = command.clone();
    let names = &command.table_partition_cols;
    texts.table_partition_cols = names.iter().map(|name| escape_directory(name)).collect();
    let fields = command.schema.inner().fields().iter().map(|field| {
        if names.contains(field.name()) {
            Arc::new(Field::new(escape_directory(field.name()), DataType::Utf8, true))
        } else {
            Arc::clone(field)
        }
    });
    let fields = fields.map(|field| (None, field)).collect();
    texts.schema = Arc::new(DFSchema::new_with_metadata(fields, command.schema.metadata().clone())?);
    Ok(texts)
}
