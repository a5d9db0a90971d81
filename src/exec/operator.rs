//! What stateful operators have in common.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::Field;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_plan::PhysicalExpr;
use serde_json::{Value, json};

use crate::functions::{WINDOWS, definition_of, windows_by_of};
use crate::types::recorded;

/// What one stateful operator did in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct OperatorCounters {
    /// Rows of state that were inserted or replaced.
    pub(crate) updated: u64,
    /// Rows of state that were removed.
    pub(crate) removed: u64,
    /// Input rows that came too late.
    pub(crate) late: u64,
    /// Input rows that were there before.
    pub(crate) duplicates: u64,
}

impl OperatorCounters {
    /// Adds those of another partition.
    pub(crate) fn add(&mut self, other: &Self) {
        self.updated += other.updated;
        self.removed += other.removed;
        self.late += other.late;
        self.duplicates += other.duplicates;
    }
}

/// Which of a query's stateful operators it is, and over how many state partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OperatorId {
    /// From 0, in plan order.
    pub(crate) id: usize,
    /// How many partitions its state has, and its input must have.
    pub(crate) state_partitions: usize,
}

impl fmt::Display for OperatorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operator={}, statePartitions={}", self.id, self.state_partitions)
    }
}

/// What columns are computed by, of those that say so, as the definition of an operator records it.
pub(crate) fn computed_by<'a>(fields: impl IntoIterator<Item = &'a Field>) -> Value {
    described(fields, definition_of)
}

/// The times that rows are in windows by, of the columns that hold the windows, as the definition of an operator
/// records them.
pub(crate) fn window_times<'a>(fields: impl IntoIterator<Item = &'a Field>) -> Value {
    described(fields, windows_by_of)
}

fn described<'a>(
    fields: impl IntoIterator<Item = &'a Field>,
    described: impl Fn(&Field) -> Option<&str>,
) -> Value {
    let mut found: Vec<String> = Vec::new();
    for field in fields {
        let Some(definition) = described(field) else { continue };
        // Names that begin so are given here, and tell nobody anything.
        let text = match field.name().starts_with("__") {
            true => definition.to_string(),
            false => format!("{}: {definition}", field.name()),
        };
        if !found.contains(&text) {
            found.push(text);
        }
    }
    found.into_iter().map(|text| json!({ "name": text })).collect()
}

/// The columns of `input` that say when something is final, as the definition of an operator records them.
pub(crate) fn event_time(expiry: Option<&Arc<dyn PhysicalExpr>>) -> Value {
    let columns = expiry.map(collect_columns).unwrap_or_default();
    let mut names: Vec<&str> = columns.iter().map(Column::name).collect();
    names.sort_unstable();
    if names.is_empty() { Value::Null } else { names.join(", ").into() }
}

/// Columns as the definition of an operator records them.
pub(crate) fn columns<'a>(fields: impl IntoIterator<Item = &'a Field>) -> Value {
    let column = |field: &Field| {
        let mut column = json!({"name": field.name(), "dataType": recorded(field.data_type())});
        if let Some(windows) = field.metadata().get(WINDOWS) {
            column["windows"] = windows.as_str().into();
        }
        column
    };
    fields.into_iter().map(column).collect()
}
