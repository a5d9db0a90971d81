//! Columns as the byte strings that tables of state are made of.

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::arrow::row::{RowConverter, Rows, SortField};
use datafusion::error::Result as DataFusionResult;

use crate::state::RowBytes;

/// Turns rows of some columns into byte strings, in Arrow's row format, and back. Equal rows give
/// equal bytes.
#[derive(Debug)]
pub(crate) struct RowCodec {
    types: Vec<DataType>,
    /// `None` if there are no columns: every row is the empty string.
    converter: Option<RowConverter>,
}

impl RowCodec {
    /// # Errors
    /// If the row format has no bytes for one of the types.
    pub(crate) fn try_new<'a>(fields: impl IntoIterator<Item = &'a Field>) -> DataFusionResult<Self> {
        let types: Vec<DataType> = fields.into_iter().map(|field| field.data_type().clone()).collect();
        let converter = match types.as_slice() {
            [] => None,
            types => Some(RowConverter::new(types.iter().cloned().map(SortField::new).collect())?),
        };
        Ok(Self { types, converter })
    }

    /// The rows of `columns`; `rows` says how many there are.
    pub(crate) fn encode(&self, columns: &[ArrayRef], rows: usize) -> DataFusionResult<EncodedRows> {
        match &self.converter {
            Some(converter) => Ok(EncodedRows::Rows(converter.convert_columns(columns)?)),
            None => Ok(EncodedRows::Empty(rows)),
        }
    }

    /// The columns of rows that were encoded.
    pub(crate) fn decode<'a>(
        &self,
        rows: impl IntoIterator<Item = &'a [u8]>,
    ) -> DataFusionResult<Vec<ArrayRef>> {
        let Some(converter) = &self.converter else { return Ok(Vec::new()) };
        let parser = converter.parser();
        let columns = converter.convert_rows(rows.into_iter().map(|row| parser.parse(row)))?;
        // Dictionaries come back as their values.
        columns
            .into_iter()
            .zip(&self.types)
            .map(|(column, data_type)| match column.data_type() == data_type {
                true => Ok(column),
                false => Ok(cast(&column, data_type)?),
            })
            .collect()
    }

    /// All rows of `rows`, decoded.
    pub(crate) fn decode_all(&self, rows: &dyn RowBytes) -> DataFusionResult<Vec<ArrayRef>> {
        self.decode((0..rows.len()).map(|index| rows.row(index)))
    }
}

/// What [`RowCodec::encode`] gives.
#[derive(Debug)]
pub(crate) enum EncodedRows {
    Rows(Rows),
    Empty(usize),
}

impl RowBytes for EncodedRows {
    fn len(&self) -> usize {
        match self {
            EncodedRows::Rows(rows) => rows.num_rows(),
            EncodedRows::Empty(rows) => *rows,
        }
    }

    fn row(&self, index: usize) -> &[u8] {
        match self {
            EncodedRows::Rows(rows) => RowBytes::row(rows, index),
            EncodedRows::Empty(_) => &[],
        }
    }
}
