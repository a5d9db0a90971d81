//! `DESCRIBE`: the columns of a table, with the types that `CREATE TABLE` takes.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{DescribeTable, LogicalPlan, LogicalPlanBuilder};

use crate::types::sql_type_name;

/// DataFusion's columns, `column_name`, `data_type` and `is_nullable`, of which it gives the second as Arrow's.
pub(super) fn described(table: &DescribeTable) -> DataFusionResult<LogicalPlan> {
    let fields = table.schema.fields();
    let text = |texts: Vec<String>| -> ArrayRef { Arc::new(StringArray::from(texts)) };
    let columns = vec![
        text(fields.iter().map(|field| field.name().clone()).collect()),
        text(fields.iter().map(|field| sql_type_name(field.data_type())).collect()),
        text(fields.iter().map(|field| if field.is_nullable() { "YES" } else { "NO" }.to_string()).collect()),
    ];
    let schema = Arc::clone(table.output_schema.inner());
    let rows = RecordBatch::try_new(Arc::clone(&schema), columns)?;
    let table = MemTable::try_new(schema, vec![vec![rows]])?;
    LogicalPlanBuilder::scan("described", provider_as_source(Arc::new(table)), None)?.build()
}
