//! JSON: one object per line, or a document per file.
//!
//! The text is read straight into columns by rules of our own (`values`), because Arrow's reader cuts
//! fractions off, passes over missing commas, and knows keys by their very name only.

mod columns;
mod document;
mod infer;
mod lines;
mod rows;
mod text;
mod value;

pub(super) use self::document::DocumentDecoder;
pub(in crate::source::file) use self::infer::{Object, infer};
pub(super) use self::lines::JsonDecoder;
pub(crate) use self::value::JsonValues;

use datafusion::arrow::datatypes::DataType;

use crate::source::file::values::ValueRules;

/// Whether JSON values can be read as `data_type`.
pub(in crate::source::file) fn can_be_read(data_type: &DataType) -> bool {
    columns::Column::new(data_type, &ValueRules::default()).is_some()
}
