//! Reading a part of a file.

use std::fmt;
use std::sync::Arc;

use datafusion::datasource::physical_plan::parquet::ParquetRowSelection;
use datafusion::error::Result;
use datafusion::parquet::file::metadata::PageIndexPolicy;
use datafusion_datasource::PartitionedFile;
use datafusion_datasource::morsel::{MorselPlan, MorselPlanner, Morselizer};

use super::files::CheckedFiles;
use super::part::rows_of;

/// Plans the work on a part of a file when its footer has said how many rows it has.
pub(in crate::source::file) struct PartPlanner {
    files: CheckedFiles,
    file: PartitionedFile,
    hint: Option<usize>,
    morselizer: Arc<dyn Morselizer>,
}

impl PartPlanner {
    /// Plans the work on `file` with `morselizer`, which finds its footer where `files` keep it. `hint`: how many
    /// bytes from its end are asked for first.
    pub(in crate::source::file) fn new(
        files: CheckedFiles,
        file: PartitionedFile,
        hint: Option<usize>,
        morselizer: Arc<dyn Morselizer>,
    ) -> Self {
        Self { files, file, hint, morselizer }
    }

    async fn planned(self) -> Result<Box<dyn MorselPlanner>> {
        let mut file = self.file;
        let Some(part) = file.range.take() else { return self.morselizer.plan_file(file) };
        let metadata = self.files.metadata(&file.object_meta, self.hint, PageIndexPolicy::Optional).await?;
        let bytes = part.start.max(0) as u64..part.end.max(0) as u64;
        self.morselizer.plan_file(match rows_of(&metadata, bytes, file.object_meta.size) {
            Some(rows) => file.with_extension(ParquetRowSelection::new(rows)),
            None => PartitionedFile { range: Some(part), ..file },
        })
    }
}

impl fmt::Debug for PartPlanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartPlanner").field("file", &self.file).finish_non_exhaustive()
    }
}

impl MorselPlanner for PartPlanner {
    fn plan(self: Box<Self>) -> Result<Option<MorselPlan>> {
        let mut plan = MorselPlan::new();
        plan.set_pending_planner(self.planned());
        Ok(Some(plan))
    }
}
