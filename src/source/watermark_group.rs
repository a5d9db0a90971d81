//! Parts of a stream whose event times are watched apart.

use std::collections::HashMap;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{Schema, SchemaRef};

use crate::error::Result;

/// Says of the schema of a batch of rows in which group they are.
const KEY: &str = "tidemill.watermark_group";

/// `rows`, which all belong to the part `group` of the stream: one that has an order of its own, as a partition of a
/// topic has. For what [`SourceScan::read`](super::SourceScan::read) gives of a scan that
/// [has such parts](super::SourceScan::has_watermark_groups).
pub fn in_watermark_group(rows: &RecordBatch, group: &str) -> Result<RecordBatch> {
    let schema = rows.schema();
    let mut metadata: HashMap<String, String> = schema.metadata().clone();
    metadata.insert(KEY.into(), group.into());
    let schema = Schema::new_with_metadata(schema.fields().clone(), metadata);
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(SchemaRef::new(schema), rows.columns().to_vec(), &options)?)
}

/// In which group the rows are, if the source says so.
pub(crate) fn watermark_group(rows: &RecordBatch) -> Option<&str> {
    rows.schema_ref().metadata().get(KEY).map(String::as_str)
}
