//! Columns that files have and the table has not: which of them come to it, and who hears of the others.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::{SessionConfig, SessionContext};
use object_store::ObjectStore;

use super::FileTable;
use super::entry::files;
use super::infer::Inference;
use super::nested::{cannot_come, column_of, grown, shown};
use super::options::Evolution;
use super::partitions::partitions_of;
use super::report::Report;
use super::scan::object;
use crate::error::Result;
use crate::source::SourceBatch;

/// What a batch has brought besides what the table has.
pub(super) struct News<'a> {
    pub(super) table: &'a FileTable,
    pub(super) report: &'a Report,
    pub(super) store: &'a Arc<dyn ObjectStore>,
    pub(super) runtime: &'a Arc<RuntimeEnv>,
}

/// Why columns are not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Because {
    /// Nobody has asked for new ones.
    NotAsked,
    /// The columns are given. Whether new ones were asked for.
    Given { asked: bool },
    /// Whoever shows the results keeps their columns.
    Kept,
    /// Their names stand for columns that there are, or for none.
    OfTheirNames,
    /// They are named by directories.
    OfDirectories,
}

impl Because {
    /// What can be done about it.
    fn advice(self) -> &'static str {
        match self {
            Self::NotAsked => {
                "To take new columns in, set schemaEvolution to addNewColumns (or to rescue, to keep them as JSON in one \
                 column; to none, to hear no more of it)"
            }
            Self::Given { asked: false } => {
                "To take new columns in, set schemaEvolution to addNewColumns and add them, with their types, to the \
                 columns that are given (or set it to rescue, to keep them as JSON in one column; to none, to hear no \
                 more of it)"
            }
            Self::Given { asked: true } => {
                "Columns that are given are not added to by themselves: add new ones, with their types, to those that are \
                 given, at the next start"
            }
            Self::Kept => {
                "The results of the query are a table in memory, which keeps its columns: to have new ones in it, start the \
                 query with a new checkpoint"
            }
            Self::OfTheirNames => {
                "A column whose name differs from another one in the case of letters alone, or is empty, never comes to \
                 the table: set schemaEvolution to rescue to keep its values as JSON in one column (or to none, to hear no \
                 more of it)"
            }
            Self::OfDirectories => {
                "A query keeps the columns of directories that it began with: to have new ones, start it with a new \
                 checkpoint; to hear no more of it, set schemaEvolution to none"
            }
        }
    }
}

impl News<'_> {
    /// Columns that come to the table, and columns of it with fields that come to these.
    pub(super) async fn columns(&self, batch: &SourceBatch) -> Result<Vec<FieldRef>> {
        if self.table.evolution() != Evolution::AddNewColumns || !self.table.is_inferred() {
            return Ok(Vec::new());
        }
        let (_, names) = self.names();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let found = self.schema_of(batch).await?;
        let type_of = |name: &str| found.field_with_name(name).ok().map(Field::data_type);
        let (inner, new): (Vec<_>, Vec<_>) = names.into_iter().partition(|path| column_of(path).is_some());
        let new = new.into_iter().map(|name| {
            let data_type = type_of(&name).unwrap_or(&DataType::Utf8).clone();
            Arc::new(Field::new(name, data_type, true))
        });
        let columns: BTreeSet<&str> = inner.iter().filter_map(|path| column_of(path)).collect();
        let wider = columns.into_iter().filter_map(|column| {
            let schema = self.table.layout().schema();
            let known = schema.fields().iter().find(|field| field.name() == column)?;
            let lower = column.to_lowercase();
            let inferred = found.fields().iter().filter(|field| field.name().to_lowercase() == lower);
            let data_type = inferred.fold(known.data_type().clone(), |all, it| grown(&all, it.data_type()));
            let is_wider = data_type != *known.data_type();
            is_wider.then(|| Arc::new(known.as_ref().clone().with_data_type(data_type)))
        });
        Ok(wider.chain(new).collect())
    }

    /// Counts and warns of what was not read.
    pub(super) fn tell(&self) {
        let asked = match self.table.evolution() {
            Evolution::Warn => false,
            Evolution::AddNewColumns => true,
            Evolution::None | Evolution::Rescue => return,
        };
        let (odd, new) = self.names();
        let because = match (self.table.is_inferred(), asked) {
            (false, asked) => Because::Given { asked },
            (true, true) => Because::Kept,
            (true, false) => Because::NotAsked,
        };
        self.tell_of(&new, because);
        self.tell_of(&odd, Because::OfTheirNames);
    }

    /// The same of columns that the directories of these files name, also where columns are given: they were not before.
    pub(super) fn tell_directories<'p>(&self, paths: impl Iterator<Item = &'p str>) {
        let (options, known) = (self.table.options(), self.table.layout().partitions().len());
        if options.recursive || options.evolution == Some(Evolution::None) {
            return;
        }
        let names = paths.flat_map(|path| partitions_of(path).skip(known)).map(|(name, _)| name.into_owned());
        self.tell_of(&names.collect(), Because::OfDirectories);
    }

    fn tell_of(&self, columns: &BTreeSet<String>, because: Because) {
        let source = self.table.location();
        let untold = self.report.untold(columns);
        let (word, are) = match untold.as_slice() {
            [] => return,
            [path] if column_of(path).is_some() => ("a field", "is"),
            [_] => ("a column", "is"),
            _ => ("columns", "are"),
        };
        let have = if because == Because::OfDirectories { "lie in directories that name" } else { "have" };
        let names: Vec<String> = untold.into_iter().map(|path| shown(path)).collect();
        tracing::warn!(
            "files in '{source}' {have} {word} that the table does not have, and that {are} not read: '{}'. {}",
            names.join("', '"),
            because.advice()
        );
    }

    /// The paths of columns and fields that files of the batch have and the table has not: those that can never come to it,
    /// and the others.
    fn names(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let fields = self.table.layout().schema().fields();
        let found = self.report.new_columns().into_iter();
        let (odd, others): (BTreeSet<_>, BTreeSet<_>) = found.partition(|path| cannot_come(fields, path));
        (odd, others.into_iter().filter(|path| self.table.lacks(path)).collect())
    }

    /// The columns of all files of the batch. What is wrong with a file was said when it was read.
    async fn schema_of(&self, batch: &SourceBatch) -> Result<Schema> {
        let session =
            SessionContext::new_with_config_rt(SessionConfig::new(), Arc::clone(self.runtime)).state();
        let (location, options) = (self.table.location(), self.table.options());
        let inference = Inference {
            session: &session,
            store: Arc::clone(self.store),
            location,
            pattern: self.table.pattern(),
            spec: self.table.spec(),
            tolerant: true,
            ignores_corrupt: options.ignore_corrupt_files || options.ignore_missing_files,
        };
        let entries = files(&batch.entries)?;
        let objects = entries.iter().map(|entry| object(&location.object_path(&entry.path)?, entry));
        let inferred = inference.schema_of_all(objects.collect::<Result<_>>()?, usize::MAX).await;
        match inferred {
            Err(_) if options.ignore_corrupt_files || options.ignore_missing_files => Ok(Schema::empty()),
            inferred => inferred,
        }
    }
}
