//! Columns as the byte strings that tables of state are made of.
//!
//! The bytes are on disk in checkpoints, so the format is this module's own and frozen: what is
//! written below holds for every release that reads `tidemill-state 2`, whatever becomes of Arrow's
//! formats in memory. The tests keep an example of each type.
//!
//! A row is the bytes of its columns, one after the other. A column begins with a byte that says
//! whether it has a value, `1`, or is null, `0`, and nothing follows. The value is
//!
//! | type | bytes |
//! |---|---|
//! | boolean | none; instead of `1`, the first byte is `1` for false and `2` for true |
//! | signed integers, decimals, dates, times, timestamps, durations | big-endian, the sign bit turned over |
//! | unsigned integers | big-endian |
//! | floats | the bits, big-endian: all turned over if negative, otherwise the sign bit |
//! | intervals | their parts, from months to nanoseconds, each as a signed integer |
//! | text, binary | as below |
//! | binary of a fixed size | as it is |
//! | struct | its columns |
//! | list, map | `1` before each element, and `0` behind the last; an element, or an entry of a map, is like a column |
//! | list of a fixed size | its elements |
//! | union | the type's number as a signed integer of one byte, then the value like a column |
//! | dictionary, run-end encoded, views | as the values that they stand for |
//! | null | none, for there is no value |
//!
//! Text and binary: if it is the last column of the row, as it is. Otherwise, in keys, `0 255` for every
//! byte `0` in it, and `0` behind it; in values, its length before it, 7 bits a byte, the lowest first, with
//! the highest bit set in all but the last byte.
//!
//! **Keys** are compared as bytes: two rows are equal if and only if their bytes are, and rows are in
//! the order of their bytes, nulls first. What SQL takes for equal has the same bytes: `-0.0` is `0.0`.
//! NaNs of other bits are other keys, as in DataFusion's groups. **Values** give back what was put in to the bit.

mod decode;
mod encode;
mod native;
#[cfg(test)]
mod tests;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::plan_err;
use datafusion::error::Result as DataFusionResult;

use crate::state::{ByteRows, RowBytes};

/// What rows are encoded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Keys,
    Values,
}

/// Turns rows of some columns into byte strings and back.
#[derive(Debug, Clone)]
pub(crate) struct RowCodec {
    types: Vec<DataType>,
    purpose: Purpose,
}

impl RowCodec {
    /// For keys: equal rows, and only those, give equal bytes, and the order of the bytes is that of
    /// the rows.
    ///
    /// # Errors
    /// If there are no bytes for one of the types.
    pub(crate) fn keys<'a>(fields: impl IntoIterator<Item = &'a Field>) -> DataFusionResult<Self> {
        Self::try_new(fields, Purpose::Keys)
    }

    /// For values: what was encoded is what is decoded.
    ///
    /// # Errors
    /// If there are no bytes for one of the types.
    pub(crate) fn values<'a>(fields: impl IntoIterator<Item = &'a Field>) -> DataFusionResult<Self> {
        Self::try_new(fields, Purpose::Values)
    }

    fn try_new<'a>(fields: impl IntoIterator<Item = &'a Field>, purpose: Purpose) -> DataFusionResult<Self> {
        let types: Vec<DataType> = fields.into_iter().map(|field| field.data_type().clone()).collect();
        match types.iter().find(|data_type| !Self::supports(data_type)) {
            Some(data_type) => plan_err!("values of type {data_type} cannot be kept in state"),
            None => Ok(Self { types, purpose }),
        }
    }

    /// Whether there are bytes for values of this type.
    pub(crate) fn supports(data_type: &DataType) -> bool {
        encode::supports(data_type)
    }

    /// The rows of `columns`; `rows` says how many there are.
    pub(crate) fn encode(&self, columns: &[ArrayRef], rows: usize) -> DataFusionResult<ByteRows> {
        encode::rows(columns, rows, self.purpose)
    }

    /// The columns of rows that were encoded.
    pub(crate) fn decode<'a>(
        &self,
        rows: impl IntoIterator<Item = &'a [u8]>,
    ) -> DataFusionResult<Vec<ArrayRef>> {
        decode::columns(&self.types, &mut rows.into_iter().collect::<Vec<_>>(), self.purpose)
    }

    /// All rows of `rows`, decoded.
    pub(crate) fn decode_all(&self, rows: &dyn RowBytes) -> DataFusionResult<Vec<ArrayRef>> {
        self.decode((0..rows.len()).map(|index| rows.row(index)))
    }
}
