//! Columns that were inferred at the first start of a query, and stay as they were.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::TableReference;
use datafusion::logical_expr::LogicalPlan;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::records::{ColumnDefinition, Metadata, SourceDefinition};
use crate::error::{Error, Result};
use crate::plan::bind;
use crate::source::SourceProvider;
use crate::storage::Storage;
use crate::types::data_type;

/// The plan and its sources with every inferred schema replaced by the one the checkpoint pinned.
pub(super) fn pin_inferred_schemas(
    plan: &LogicalPlan,
    known: Option<&Metadata>,
) -> Result<(LogicalPlan, Vec<Arc<dyn SourceProvider>>)> {
    let providers = bind::sources_of(plan);
    let Some(known) = known else {
        return Ok((plan.clone(), providers));
    };
    let pinned = providers
        .iter()
        .enumerate()
        .map(|(index, provider)| pin(provider, known.definition.sources.get(index)))
        .collect::<Result<Vec<_>>>()?;
    if pinned.iter().zip(&providers).all(|(pinned, provider)| Arc::ptr_eq(pinned, provider)) {
        return Ok((plan.clone(), providers));
    }
    match bind::pin_schemas(plan.clone(), &providers, &pinned) {
        Ok(plan) => Ok((plan, pinned)),
        Err(error) => Err(Error::Invalid(format!(
            "the query does not fit the columns that its checkpoint pinned when they were inferred at the \
             first start: {error}. To use columns that were added since, give the schema explicitly and \
             start with a new checkpoint"
        ))),
    }
}

/// The unbounded tables that `plan` reads whose inferred columns are not those that the checkpoint
/// in `storage` pinned, each with the pinned columns. A text that says `SELECT *` has to be planned
/// over these.
pub(crate) async fn pinned_tables(
    plan: &LogicalPlan,
    storage: &dyn Storage,
) -> Result<Vec<(TableReference, Arc<dyn SourceProvider>)>> {
    let Some(known) = Checkpoint::read_metadata(storage).await? else {
        return Ok(Vec::new());
    };
    // Until a batch is committed nothing is pinned.
    if Checkpoint::committed_batches(storage).await?.is_empty() {
        return Ok(Vec::new());
    }
    let mut tables = Vec::new();
    for (index, provider) in bind::sources_of(plan).iter().enumerate() {
        let pinned = pin(provider, known.definition.sources.get(index))?;
        if !Arc::ptr_eq(&pinned, provider) {
            tables.extend(bind::names_of(plan, provider).into_iter().map(|name| (name, Arc::clone(&pinned))));
        }
    }
    Ok(tables)
}

fn pin(
    provider: &Arc<dyn SourceProvider>,
    known: Option<&SourceDefinition>,
) -> Result<Arc<dyn SourceProvider>> {
    let Some(known) = known else { return Ok(Arc::clone(provider)) };
    if !provider.schema_is_inferred() || !known.inferred {
        return Ok(Arc::clone(provider));
    }
    let schema = schema_of(&known.columns)?;
    if *provider.schema() == *schema {
        return Ok(Arc::clone(provider));
    }
    provider.with_schema(schema)
}

/// The Arrow schema that recorded columns describe.
fn schema_of(columns: &[ColumnDefinition]) -> Result<SchemaRef> {
    let fields = columns
        .iter()
        .map(|column| Ok(Field::new(&column.name, data_type(&column.data_type)?, column.nullable)))
        .collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(Schema::new(fields)))
}
