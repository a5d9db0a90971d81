//! What a checkpoint says of the columns that state keeps.
//!
//! The first rows of a key, and versions of rows, are kept with those columns that the query reads. A checkpoint may
//! have more of them: it is of an earlier version, which kept all, or of a query that read more. The rows in it are as
//! they are, so a query goes on with these columns, as far as the table has them, and with those of all rows in their
//! order.

use datafusion::common::tree_node::Transformed;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::LogicalPlan;
use serde::Deserialize;
use serde_json::Value;

use super::as_of::VERSION;
use super::bind::reads_stream;
use super::top_n::TopN;
use crate::checkpoint::records::OperatorDefinition;
use crate::checkpoint::types::ColumnType;

/// The columns of rows that stateful operators keep, in the order of the plan.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeptColumns {
    operators: Vec<Kept>,
}

/// What one operator keeps.
#[derive(Debug, Clone)]
struct Kept {
    is_of_first_rows: bool,
    columns: Vec<String>,
    /// The fields of a version, if that is one of the columns.
    version: Option<Vec<String>>,
}

impl Kept {
    fn of(operator: &OperatorDefinition) -> Self {
        let columns =
            operator.details.get("columns").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let version = columns.iter().find(|column| column["name"] == VERSION);
        let version =
            version.and_then(|version| match ColumnType::deserialize(&version["dataType"]).ok()? {
                ColumnType::Struct(parts) => Some(parts.into_iter().map(|part| part.name).collect()),
                _ => None,
            });
        let names = columns.iter().filter_map(|column| column["name"].as_str().map(str::to_string));
        Self { is_of_first_rows: operator.name == "topN", columns: names.collect(), version }
    }
}

impl KeptColumns {
    /// Those of `operators`, as a checkpoint has them.
    pub(crate) fn of(operators: &[OperatorDefinition]) -> Self {
        Self { operators: operators.iter().map(Kept::of).collect() }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.operators.iter().all(|operator| operator.columns.is_empty())
    }

    /// The names of those of the operator with that number.
    pub(super) fn columns(&self, operator: usize) -> &[String] {
        self.operators.get(operator).map_or(&[], |operator| &operator.columns)
    }

    /// The fields of versions, by join.
    pub(super) fn versions(&self) -> Vec<&[String]> {
        self.operators.iter().filter_map(|operator| operator.version.as_deref()).collect()
    }

    /// `plan`, whose first rows of keys keep these columns.
    pub(super) fn in_first_rows(&self, plan: LogicalPlan) -> DataFusionResult<LogicalPlan> {
        let mut operators = self.operators.iter().filter(|operator| operator.is_of_first_rows);
        let plan = plan.transform_up_with_subqueries(|node| {
            let first = TopN::of(&node).filter(|first| reads_stream(&first.input));
            let keeping = first.and_then(|first| Some(first.keeping(&operators.next()?.columns)));
            Ok(keeping.map_or_else(|| Transformed::no(node), Transformed::yes))
        })?;
        Ok(plan.data)
    }
}
