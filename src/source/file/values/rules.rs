//! How values are read, by the options of a table.

use datafusion::arrow::datatypes::TimeUnit;

use super::pattern::Pattern;

/// How values are read.
#[derive(Debug, Clone, Default)]
pub(in crate::source::file) struct ValueRules {
    /// How times in text are written (`timestampFormat`); without it, as ISO 8601 says.
    pub(in crate::source::file) timestamp_format: Option<Pattern>,
    /// How dates in text are written (`dateFormat`); without it, as ISO 8601 says.
    pub(in crate::source::file) date_format: Option<Pattern>,
    /// What numbers in columns of times count, since 1970 (`epochUnit`); without it they are refused.
    pub(in crate::source::file) epoch_unit: Option<TimeUnit>,
}
