//! Rows as texts, to compare them in any order.

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::error::Result;

/// The rows of some batches, each as one text, sorted. Columns in the order of their names.
pub(super) fn texts(batches: &[RecordBatch]) -> Result<Vec<String>> {
    let mut rows = Vec::new();
    for batch in batches {
        let options = FormatOptions::default().with_null("null");
        let schema = batch.schema();
        let mut columns: Vec<usize> = (0..batch.num_columns()).collect();
        columns.sort_by_key(|column| schema.field(*column).name());
        let formatters = columns
            .iter()
            .map(|column| ArrayFormatter::try_new(batch.column(*column), &options))
            .collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            let values: Vec<String> = formatters.iter().map(|values| values.value(row).to_string()).collect();
            rows.push(values.join(", "));
        }
    }
    rows.sort_unstable();
    Ok(rows)
}
