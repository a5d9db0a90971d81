//! The columns that rows are sorted by, as bytes.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_plan::PhysicalExpr;
use serde_json::{Value, json};

use super::batch::Batch;
use super::codec::RowCodec;
use crate::functions::ordered_values;
use crate::state::{ByteRows, RowBytes};

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
    fn encode(&self, rows: &RecordBatch) -> DataFusionResult<Encoded> {
        let column = ordered_values(&self.expr.evaluate(rows)?.into_array(rows.num_rows())?)?;
        let nulls = column.logical_nulls();
        let end: ArrayRef = Arc::new(BooleanArray::from(vec![false; rows.num_rows()]));
        let plain = self.codec.encode(&[column, end], rows.num_rows())?;
        let null = if self.nulls_first { 0 } else { 2 };
        Ok(Encoded { plain, nulls, null, turn: if self.descending { 0xff } else { 0 } })
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

/// A column that rows are sorted by, as bytes.
struct Encoded {
    /// They sort as the values do, one way.
    plain: ByteRows,
    nulls: Option<NullBuffer>,
    /// What stands before a null; before a value it is 1.
    null: u8,
    /// What turns bytes to the other way.
    turn: u8,
}

impl Encoded {
    fn append(&self, row: usize, to: &mut Vec<u8>) {
        let is_null = self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
        to.push(if is_null { self.null } else { 1 });
        to.extend(self.plain.row(row).iter().map(|byte| byte ^ self.turn));
    }
}

/// For each row `first`, then bytes that sort as `order` does, and when the row came: no two of a key are the same.
pub(super) fn subkeys(
    first: &[u8],
    order: &[SortColumn],
    rows: &RecordBatch,
    batch: &Batch,
) -> DataFusionResult<ByteRows> {
    let columns: Vec<Encoded> =
        order.iter().map(|column| column.encode(rows)).collect::<DataFusionResult<_>>()?;
    let mut subkey = Vec::new();
    let mut subkeys = ByteRows::default();
    for row in 0..rows.num_rows() {
        subkey.clear();
        subkey.extend_from_slice(first);
        columns.iter().for_each(|column| column.append(row, &mut subkey));
        subkey.extend_from_slice(&arrival(batch, row));
        subkeys.push(&subkey);
    }
    Ok(subkeys)
}

/// How long what [`arrival`] gives is.
pub(super) const ARRIVAL: usize = 12;

/// When a row came: the batch, and its number in it. So rows that are equal otherwise are sorted.
fn arrival(batch: &Batch, row: usize) -> [u8; ARRIVAL] {
    let mut arrival = [0; ARRIVAL];
    arrival[..8].copy_from_slice(&batch.identity.batch_id.to_be_bytes());
    arrival[8..].copy_from_slice(&(row as u32).to_be_bytes());
    arrival
}
