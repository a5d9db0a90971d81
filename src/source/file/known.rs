//! Columns that were inferred once, and need not be inferred again.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use datafusion::arrow::datatypes::{DataType, SchemaRef};
use url::Url;

use crate::checkpoint::records::{QueryDefinition, SourceDefinition};
use crate::checkpoint::{location_of, same_place};
use crate::error::Result;
use crate::types;

/// The columns that checkpoints have pinned where they were found, as far as the session has been told of them.
#[derive(Debug, Default)]
pub(crate) struct KnownColumns(RwLock<Vec<(Url, SourceDefinition)>>);

/// What is known of a table.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) columns: SchemaRef,
    /// Whether they were inferred, rather than given but for those of directories.
    pub(super) is_inferred: bool,
    /// Those of them that directories give.
    pub(super) partitions: Vec<(String, DataType)>,
    pub(super) options: BTreeMap<String, String>,
}

impl KnownColumns {
    /// The checkpoint at `checkpoint` says this of its query.
    pub(crate) fn add(&self, checkpoint: &Url, definition: &QueryDefinition) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(other, _)| other != checkpoint);
        let found = definition.sources.iter().filter(|source| source.is_found());
        known.extend(found.map(|source| (checkpoint.clone(), source.clone())));
    }

    /// What is known of the table of `format` at `base`: its columns, and the options that decide what its rows
    /// are.
    pub(super) fn find(&self, format: &str, base: &Url) -> Result<Option<Known>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().find(|(checkpoint, source)| {
            let here = location_of(base, checkpoint);
            source.format == format
                && source.location.as_ref().is_some_and(|recorded| same_place(recorded, &here))
        });
        let known = |(_, source): &(Url, SourceDefinition)| {
            let columns = types::schema(&source.columns)?;
            let given = source.partitions();
            let given = given.iter().filter_map(|name| columns.field_with_name(name).ok());
            let partitions = given.map(|field| (field.name().clone(), field.data_type().clone())).collect();
            Ok(Known { columns, is_inferred: source.inferred, partitions, options: source.options.clone() })
        };
        found.map(known).transpose()
    }
}
