//! Joins of streams, which remember the rows of both sides.
//!
//! A batch brings new rows to both sides. Each new row is compared with what the other side remembers and
//! with what is new there; so every two rows meet once, whichever comes first and however far apart.
//!
//! **State**: two tables, one for each side; key: the columns that have to be equal; subkey: the batch and
//! the row's number in it; value: the row, in an outer join with whether it has had a match; expiry: when no
//! row that can still come to the other side can match it, if that is ever known. Semi, anti and mark joins
//! forget a row of the side that they give as soon as it has a match.

mod pairs;
mod rows;
mod work;

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::JoinType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_plan::PhysicalExpr;
use serde_json::json;

use self::work::JoinWork;
use super::batch::Batch;
use super::codec::RowCodec;
use super::keyed_rows::Gathered;
use super::operator::{columns, computed_by, window_times};
use super::row_buffer::RowBuffer;
use super::stateful::{Counters, Expires, StatefulWork, Tables};
use super::time_shifts::with_durations;
use crate::checkpoint::records::OperatorDefinition;

/// What becomes of the rows of one side, beside the pairs that they are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// They are given in pairs only.
    Pairs,
    /// They are given in pairs, or with nulls for the other side when nothing can match them any more.
    Outer,
    /// Each is given once, as soon as it has a match.
    Semi,
    /// Each is given when nothing can match it any more, unless it had a match.
    Anti,
    /// Each is given once, with whether it has a match: as soon as it has one, or when none can come.
    Mark,
    /// They are not given.
    Witness,
}

impl Role {
    /// Those of the left and the right side.
    pub(crate) fn of(join_type: JoinType) -> [Self; 2] {
        use Role::{Anti, Mark, Outer, Pairs, Semi, Witness};
        match join_type {
            JoinType::Inner => [Pairs, Pairs],
            JoinType::Left => [Outer, Pairs],
            JoinType::Right => [Pairs, Outer],
            JoinType::Full => [Outer, Outer],
            JoinType::LeftSemi => [Semi, Witness],
            JoinType::RightSemi => [Witness, Semi],
            JoinType::LeftAnti => [Anti, Witness],
            JoinType::RightAnti => [Witness, Anti],
            JoinType::LeftMark => [Mark, Witness],
            JoinType::RightMark => [Witness, Mark],
        }
    }

    /// Whether a row that has no match is given when none can come any more.
    pub(crate) fn waits(self) -> bool {
        matches!(self, Role::Outer | Role::Anti | Role::Mark)
    }

    /// Whether a row that has a match is of no further use.
    fn is_decided_by_a_match(self) -> bool {
        matches!(self, Role::Semi | Role::Anti | Role::Mark)
    }

    /// Whether the rows are given in pairs.
    fn is_paired(self) -> bool {
        matches!(self, Role::Pairs | Role::Outer)
    }
}

/// One side of a join.
#[derive(Debug)]
pub(crate) struct JoinSide {
    role: Role,
    schema: SchemaRef,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    /// When a row can be forgotten: Int64 over its columns, in microseconds since the epoch; `i64::MIN` for
    /// one that nothing can match, `i64::MAX` for one that is never forgotten. `None` if none ever is.
    expiry: Option<Arc<dyn PhysicalExpr>>,
    /// The columns of a value.
    values: Schema,
    codec: RowCodec,
}

/// The column that says whether a row that is remembered has had a match.
const MATCHED: &str = "matched";

impl JoinSide {
    pub(crate) fn new(
        role: Role,
        schema: SchemaRef,
        keys: Vec<Arc<dyn PhysicalExpr>>,
        expiry: Option<Arc<dyn PhysicalExpr>>,
    ) -> DataFusionResult<Self> {
        let mut fields: Vec<Arc<Field>> = Vec::with_capacity(schema.fields().len() + 1);
        if role == Role::Outer {
            fields.push(Arc::new(Field::new(MATCHED, DataType::Boolean, false)));
        }
        fields.extend(schema.fields().iter().cloned());
        let values = Schema::new(fields);
        let codec = RowCodec::values(values.fields().iter().map(AsRef::as_ref))?;
        Ok(Self { role, schema, keys, expiry, values, codec })
    }

    fn definition(&self, side: &str, join: &StatefulJoin) -> DataFusionResult<OperatorDefinition> {
        // The role follows from the type of the join, the codec from the values, and when a row is forgotten from the
        // condition, or from a time to live, which is for rows that come after it.
        let Self { role: _, schema, keys, expiry, values, codec: _ } = self;
        let StatefulJoin { join_type, sides: _, condition: _, condition_text, nulls_equal, schema: _ } = join;
        let keys = keys.iter().map(|key| key.return_field(schema)).collect::<DataFusionResult<Vec<_>>>()?;
        let condition: Vec<_> = condition_text.iter().map(|text| json!({ "name": text })).collect();
        let stored = || values.fields().iter().map(AsRef::as_ref);
        let details = [
            ("keys".to_string(), columns(keys.iter().map(AsRef::as_ref))),
            ("columns".to_string(), columns(stored())),
            ("joinType".to_string(), join_type.to_string().into()),
            ("condition".to_string(), condition.into()),
            ("forgotten".to_string(), if expiry.is_some() { "by time" } else { "never" }.into()),
            ("nullsEqual".to_string(), (*nulls_equal).into()),
            ("definitions".to_string(), computed_by(stored())),
            ("windowTimes".to_string(), window_times(stored())),
        ];
        Ok(OperatorDefinition { name: format!("join{side}"), details: details.into() })
    }
}

/// The part of a join's condition beside equal keys.
#[derive(Debug)]
pub(crate) struct Condition {
    /// Over the columns that it needs, and these.
    expr: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
    /// Which columns of each side they are, those of the left first.
    columns: [Vec<usize>; 2],
}

impl Condition {
    /// `expr` is over the columns of both sides, of which the left has `left`.
    pub(crate) fn new(expr: Arc<dyn PhysicalExpr>, both: &Schema, left: usize) -> DataFusionResult<Self> {
        let expr = with_durations(expr, both)?;
        let mut used: Vec<usize> = collect_columns(&expr).into_iter().map(|column| column.index()).collect();
        used.sort_unstable();
        used.dedup();
        let expr = expr
            .transform(|node| {
                let Some(column) = node.downcast_ref::<Column>() else { return Ok(Transformed::no(node)) };
                let place = used.binary_search(&column.index()).unwrap_or_default();
                Ok(Transformed::yes(Arc::new(Column::new(column.name(), place)) as Arc<dyn PhysicalExpr>))
            })
            .data()?;
        let schema = Arc::new(Schema::new(
            used.iter().map(|column| Arc::clone(&both.fields()[*column])).collect::<Vec<_>>(),
        ));
        let (of_left, of_right): (Vec<usize>, Vec<usize>) =
            used.into_iter().partition(|column| *column < left);
        let of_right = of_right.into_iter().map(|column| column - left).collect();
        Ok(Self { expr, schema, columns: [of_left, of_right] })
    }
}

/// Joins two streams.
#[derive(Debug)]
pub(crate) struct StatefulJoin {
    pub(crate) join_type: JoinType,
    pub(crate) sides: [JoinSide; 2],
    pub(crate) condition: Option<Condition>,
    /// The condition as it is recorded.
    pub(crate) condition_text: Option<String>,
    /// Whether a key of nulls equals another.
    pub(crate) nulls_equal: bool,
    /// The columns of the results.
    pub(crate) schema: SchemaRef,
}

impl StatefulWork for StatefulJoin {
    fn name(&self) -> &'static str {
        "StatefulJoinExec"
    }

    fn describe(&self) -> String {
        let condition = self
            .condition
            .as_ref()
            .map_or_else(String::new, |condition| format!(", filter={}", condition.expr));
        let finals = ["left", "right"].into_iter().zip(&self.sides).map(|(name, side)| match &side.expiry {
            Some(expiry) => format!(", {name}_final={expiry}"),
            None => format!(", {name}_final=never (its state grows)"),
        });
        format!(", join_type={}{condition}{}", self.join_type, finals.collect::<String>())
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        let finals = self.sides.iter().filter_map(|side| side.expiry.as_ref());
        finals.chain(self.condition.iter().map(|condition| &condition.expr)).collect()
    }

    fn definitions(&self) -> Vec<OperatorDefinition> {
        let [left, right] = &self.sides;
        // The types of the keys were asked for when the sides were planned.
        [left.definition("Left", self), right.definition("Right", self)].into_iter().flatten().collect()
    }

    fn expires(&self) -> Vec<Expires> {
        let expires =
            |side: &JoinSide| if side.role.waits() { Expires::ByWatermark } else { Expires::Unseen };
        self.sides.iter().map(expires).collect()
    }

    fn run(
        &self,
        rows: Gathered,
        tables: Tables<'_>,
        batch: &Batch,
        results: &mut RowBuffer,
    ) -> DataFusionResult<Counters> {
        JoinWork::run(self, rows, tables, batch, results)
    }
}
