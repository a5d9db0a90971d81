//! Columns that were inferred at the first start of a query, and stay as they were.

use std::sync::Arc;

use datafusion::arrow::datatypes::FieldRef;
use datafusion::common::TableReference;
use datafusion::logical_expr::LogicalPlan;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::records::{Metadata, SourceDefinition};
use crate::error::{Error, Result};
use crate::plan::bind;
use crate::source::SourceProvider;
use crate::storage::Storage;
use crate::types;

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
    let Some(known) = pinned_definition(storage).await? else { return Ok(Vec::new()) };
    let mut tables = Vec::new();
    for (index, provider) in bind::sources_of(plan).iter().enumerate() {
        let pinned = pin(provider, known.definition.sources.get(index))?;
        if !Arc::ptr_eq(&pinned, provider) {
            tables.extend(bind::names_of(plan, provider).into_iter().map(|name| (name, Arc::clone(&pinned))));
        }
    }
    Ok(tables)
}

/// Who the query of the checkpoint in `storage` is, if its columns are pinned: until a batch is committed, or
/// columns were taken in, it may become another.
pub(crate) async fn pinned_definition(storage: &dyn Storage) -> Result<Option<Metadata>> {
    let Some(known) = Checkpoint::read_metadata(storage).await? else { return Ok(None) };
    Ok(is_pinned(storage).await?.then_some(known))
}

/// Whether a batch was committed, or columns taken in.
pub(super) async fn is_pinned(storage: &dyn Storage) -> Result<bool> {
    let has_committed = !Checkpoint::committed_batches(storage).await?.is_empty();
    Ok(has_committed || Checkpoint::has_grown(storage).await?)
}

fn pin(
    provider: &Arc<dyn SourceProvider>,
    known: Option<&SourceDefinition>,
) -> Result<Arc<dyn SourceProvider>> {
    let Some(known) = known else { return Ok(Arc::clone(provider)) };
    let schema = types::schema(&known.columns)?;
    let named = known.partitions();
    let is_partition = |field: &&FieldRef| named.contains(field.name());
    let partitions: Vec<FieldRef> = schema.fields().iter().filter(is_partition).cloned().collect();
    let provider = match known.has_directories() {
        true => provider.with_partitions(&partitions)?.unwrap_or_else(|| Arc::clone(provider)),
        false => Arc::clone(provider),
    };
    if !provider.schema_is_inferred() || !known.inferred || *provider.schema() == *schema {
        return Ok(provider);
    }
    provider.with_schema(schema)
}
