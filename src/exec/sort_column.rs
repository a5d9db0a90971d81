//! The columns that rows are sorted by, as bytes.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_plan::PhysicalExpr;
use serde_json::{Value, json};

use super::batch::Batch;
use super::codec::RowCodec;
use crate::functions::ordered_values;
use crate::state::RowBytes;

/// A column that rows are sorted by.
#[derive(Debug)]
pub(crate) struct SortColumn {
    pub(crate) expr: Arc<dyn PhysicalExpr>,
    codec: RowCodec,
    field: Arc<Field>,
    descending: bool,
    nulls_first: bool,
}

impl SortColumn {
    pub(crate) fn new(
        expr: Arc<dyn PhysicalExpr>,
        field: Arc<Field>,
        descending: bool,
        nulls_first: bool,
    ) -> DataFusionResult<Self> {
        // Text that nothing follows has no end, and would sort by what comes behind it here.
        let codec = RowCodec::keys([field.as_ref(), &Field::new("end", DataType::Boolean, false)])?;
        Ok(Self { expr, codec, field, descending, nulls_first })
    }

    /// Bytes that sort as the column does.
    pub(super) fn encode(&self, rows: &RecordBatch) -> DataFusionResult<Vec<Vec<u8>>> {
        let column = ordered_values(&self.expr.evaluate(rows)?.into_array(rows.num_rows())?)?;
        let nulls = column.logical_nulls();
        let end: ArrayRef = Arc::new(BooleanArray::from(vec![false; rows.num_rows()]));
        let plain = self.codec.encode(&[column, end], rows.num_rows())?;
        let encoded = (0..rows.num_rows()).map(|row| {
            let is_null = nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
            let mark = match (is_null, self.nulls_first) {
                (false, _) => 1,
                (true, true) => 0,
                (true, false) => 2,
            };
            let turn = if self.descending { 0xff } else { 0 };
            std::iter::once(mark).chain(plain.row(row).iter().map(|byte| byte ^ turn)).collect()
        });
        Ok(encoded.collect())
    }

    /// What the state depends on.
    pub(super) fn definition(&self) -> Value {
        json!({"name": self.field.name(), "descending": self.descending, "nullsFirst": self.nulls_first})
    }
}

impl fmt::Display for SortColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.fmt(f)
    }
}

/// How long what [`arrival`] gives is.
pub(super) const ARRIVAL: usize = 12;

/// When a row came: the batch, and its number in it. So rows that are equal otherwise are sorted.
pub(super) fn arrival(batch: &Batch, row: usize) -> [u8; ARRIVAL] {
    let mut arrival = [0; ARRIVAL];
    arrival[..8].copy_from_slice(&batch.identity.batch_id.to_be_bytes());
    arrival[8..].copy_from_slice(&(row as u32).to_be_bytes());
    arrival
}
