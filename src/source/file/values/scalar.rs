//! Single values, and what is said of those that do not fit.

use std::fmt;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::DataType;

use crate::types::sql_type_name;

/// A value as a file holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::source::file) enum Scalar<'a> {
    /// A truth value.
    Bool(bool),
    /// A number, as it is written.
    Number(&'a str),
    /// A text.
    Text(&'a str),
}

impl fmt::Display for Scalar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Bool(value) => write!(f, "{value}"),
            Scalar::Number(text) => f.write_str(text),
            Scalar::Text(text) => write!(f, "'{text}'"),
        }
    }
}

/// A column that grows by one value at a time, and can be cut back when a record turns out to be
/// malformed.
pub(in crate::source::file) trait Leaf: Send {
    /// How many values there are.
    fn len(&self) -> usize;

    /// Adds a value; the error says what is wrong with it, and nothing was added.
    fn push(&mut self, value: Scalar<'_>) -> Result<(), &'static str>;

    /// Adds a null.
    fn push_null(&mut self);

    /// Takes all values from the one numbered `len` on away.
    fn truncate(&mut self, len: usize);

    /// The values so far, leaving none.
    fn finish(&mut self) -> ArrayRef;
}

/// What is wrong with `value` in a column of `data_type`.
pub(in crate::source::file) fn cannot_be_read(value: Scalar<'_>, data_type: &DataType, why: &str) -> String {
    let name = sql_type_name(data_type);
    if why.is_empty() {
        format!("{value} cannot be read as {name}")
    } else {
        format!("{value} cannot be read as {name}: {why}")
    }
}
