//! `a JOIN b FOR SYSTEM_TIME AS OF a.time ON a.key = b.key`: each row of `a` with the newest row of `b` that has its key
//! and is not newer than itself.
//!
//! Both tables become one, in the order of time, in which the last version up to a row is what a window function
//! remembers.

use std::cmp::Ordering;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{
    Column, DFSchema, DFSchemaRef, ExprSchema, JoinType, ScalarValue, internal_err, plan_err,
};
use datafusion::error::Result as DataFusionResult;
use datafusion::functions::core::expr_fn::{get_field, named_struct};
use datafusion::functions_aggregate::first_last::last_value_udaf;
use datafusion::logical_expr::binary::comparison_coercion;
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, Extension, Join, LogicalPlan, LogicalPlanBuilder, Operator, Projection,
    SubqueryAlias, UserDefinedLogicalNodeCore, WindowFrame, lit, when,
};

use super::bind::reads_stream;
use super::event_time::event_time_key;
use crate::functions::described;

/// The rows of a table as of the time of another's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct AsOf {
    input: LogicalPlan,
    /// A column of the other table.
    time: Column,
}

impl AsOf {
    pub(crate) fn over(input: LogicalPlan, time: Column) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(Self { input, time }) })
    }

    /// What `plan` is of, if it is one under whatever name.
    fn of(plan: &LogicalPlan) -> Option<&Self> {
        match plan {
            LogicalPlan::SubqueryAlias(alias) => Self::of(&alias.input),
            LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref(),
            _ => None,
        }
    }
}

/// `plan` with joins by time in the place of those with tables as of a time.
pub(crate) fn with_as_of_joins(plan: LogicalPlan) -> DataFusionResult<LogicalPlan> {
    let replaced = plan.transform_up_with_subqueries(|node| match &node {
        LogicalPlan::Join(join) => match AsOf::of(&join.right) {
            Some(versions) => newest_versions(join, versions).map(Transformed::yes),
            None => Ok(Transformed::no(node)),
        },
        _ => Ok(Transformed::no(node)),
    })?;
    let plan = replaced.data;
    let remains =
        plan.exists(|node| Ok(!matches!(node, LogicalPlan::SubqueryAlias(_)) && AsOf::of(node).is_some()))?;
    match remains {
        true => plan_err!("FOR SYSTEM_TIME AS OF is for the right table of a JOIN or LEFT JOIN. {USAGE}"),
        false => Ok(plan),
    }
}

const USAGE: &str = "Write a JOIN b FOR SYSTEM_TIME AS OF a.time ON a.key = b.key";

/// The table whose rows `plan` has as of a time, under its name.
fn table_of(plan: &LogicalPlan) -> DataFusionResult<LogicalPlan> {
    match (plan, AsOf::of(plan)) {
        (LogicalPlan::SubqueryAlias(alias), Some(_)) => {
            let table = Arc::new(table_of(&alias.input)?);
            Ok(LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(table, alias.alias.clone())?))
        }
        (_, Some(versions)) => Ok(versions.input.clone()),
        (plan, None) => Ok(plan.clone()),
    }
}

/// The columns of the one table: when, of which side, and a row of the right side as one value.
const TIME: &str = "__as_of_time";
const IS_LEFT: &str = "__as_of_left";
pub(super) const VERSION: &str = "__as_of_version";

/// Whether `projection` gives rows to such a join, below which those are left out that nothing is joined with. They
/// move the watermark all the same: the filter is no one's who wrote the query.
pub(super) fn leaves_rows_out(projection: &Projection) -> bool {
    projection.schema.has_column_with_unqualified_name(IS_LEFT)
}

fn newest_versions(join: &Join, versions: &AsOf) -> DataFusionResult<LogicalPlan> {
    if !matches!(join.join_type, JoinType::Inner | JoinType::Left) {
        return plan_err!("a {} join FOR SYSTEM_TIME AS OF. {USAGE}, or LEFT JOIN", join.join_type);
    }
    let right = table_of(&join.right)?;
    if reads_stream(&join.left) != reads_stream(&right) {
        return plan_err!(
            "FOR SYSTEM_TIME AS OF joins two unbounded tables, or two bounded ones: when the versions in a bounded \
             table have come cannot be told apart from when rows of a stream do. Read both by CREATE UNBOUNDED EXTERNAL \
             TABLE; or leave FOR SYSTEM_TIME AS OF out, and each batch is joined with the rows that the table has then"
        );
    }
    let both = Both::of(join, &right, versions)?;
    let version_type = both.version().get_type(both.right.schema())?;
    let rows = LogicalPlanBuilder::from(both.rows_of_left(&version_type, join.join_type)?)
        .union(both.rows_of_right()?)?;

    let mut newest = WindowFunction::new(last_value_udaf(), vec![column(VERSION)]);
    newest.params.partition_by = (0..both.keys.len()).map(|index| column(&key_name(index))).collect();
    newest.params.order_by = vec![column(TIME).sort(true, false), column(IS_LEFT).sort(true, false)];
    newest.params.window_frame = WindowFrame::new(Some(false));
    newest.params.null_treatment = Some(NullTreatment::IgnoreNulls);
    let newest = Expr::from(newest);
    let found = column(&newest.schema_name().to_string());
    let (kept, found) = match join.join_type {
        JoinType::Inner => (column(IS_LEFT).and(found.clone().is_not_null()), found),
        // A row without a time comes last, and is as of none.
        _ => (column(IS_LEFT), when(column(TIME).is_not_null(), found).end()?),
    };
    rows.window(vec![newest])?.filter(kept)?.project(both.results(&found))?.build()
}

/// The sides of a join.
struct Both<'a> {
    left: &'a LogicalPlan,
    right: &'a LogicalPlan,
    /// The time of the left side, and since when versions are there.
    time: Column,
    since: Column,
    keys: Vec<(Expr, Expr)>,
    /// What the columns of the left side are called in the one table, and those of the right in a version.
    own: Vec<String>,
    fields: Vec<String>,
}

fn column(name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

/// A key of the one table.
fn key_name(index: usize) -> String {
    format!("__as_of_k{index}")
}

/// The names of the columns of `schema`, each once: state tells by them what is kept.
fn names_of(schema: &DFSchema) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let (mut name, mut number) = (field.name().clone(), 1);
        while names.contains(&name) {
            number += 1;
            name = format!("{}_{number}", field.name());
        }
        names.push(name);
    }
    names
}

impl<'a> Both<'a> {
    fn of(join: &'a Join, right: &'a LogicalPlan, versions: &AsOf) -> DataFusionResult<Self> {
        let left = join.left.as_ref();
        let time = left.schema().columns().into_iter().find(|column| names(&versions.time, column));
        let Some(time) = time else {
            return plan_err!("'{}' is no column of the table to the left. {USAGE}", versions.time);
        };
        let since = version_time(right.schema())?;
        let type_of = |schema: &DFSchema, column: &Column| -> DataFusionResult<DataType> {
            Ok(schema.field_from_column(column)?.data_type().clone())
        };
        if type_of(left.schema(), &time)? != type_of(right.schema(), &since)? {
            return plan_err!(
                "the times '{time}' and '{since}' are of different types. Cast one in a subquery"
            );
        }
        let (own, fields) = (names_of(left.schema()), names_of(right.schema()));
        Ok(Self { left, right, time, since, keys: keys(join)?, own, fields })
    }

    /// One side of the key `index`, whose name does not say what has to be equal.
    fn key(&self, index: usize, side: &Expr) -> Expr {
        let (left, right) = &self.keys[index];
        described(side.clone(), format!("{left} = {right}")).alias(key_name(index))
    }

    /// The time of either side, whose name does not say what it is as of.
    fn time(&self, side: &Column) -> Expr {
        described(Expr::Column(side.clone()), format!("{} as of {}", self.since, self.time)).alias(TIME)
    }

    /// A row of the right side as one value.
    fn version(&self) -> Expr {
        let fields = self.fields.iter().zip(self.right.schema().columns());
        named_struct(fields.flat_map(|(name, column)| [lit(name.as_str()), Expr::Column(column)]).collect())
    }

    /// The rows that are joined, but for those that nothing matches and that are not kept.
    fn rows_of_left(&self, version_type: &DataType, join_type: JoinType) -> DataFusionResult<LogicalPlan> {
        let keys = self.keys.iter().enumerate().map(|(index, (key, _))| self.key(index, key));
        let own = self.left.schema().columns().into_iter().zip(&self.own);
        let own = own.map(|(column, name)| Expr::Column(column).alias(name));
        let added = [
            self.time(&self.time),
            lit(true).alias(IS_LEFT),
            lit(ScalarValue::try_from(version_type)?).alias(VERSION),
        ];
        let columns: Vec<Expr> = keys.chain(own).chain(added).collect();
        let rows = LogicalPlanBuilder::from(self.left.clone());
        let rows = match join_type {
            JoinType::Inner => {
                let known = self.keys.iter().map(|(key, _)| key.clone().is_not_null());
                rows.filter(known.fold(Expr::Column(self.time.clone()).is_not_null(), Expr::and))?
            }
            _ => rows,
        };
        rows.project(columns)?.build()
    }

    /// The versions, but for those that nothing is joined with.
    fn rows_of_right(&self) -> DataFusionResult<LogicalPlan> {
        let keys = self.keys.iter().enumerate().map(|(index, (_, key))| self.key(index, key));
        let others = self.left.schema().fields().iter().zip(&self.own);
        let others = others
            .map(|(field, name)| Ok(lit(ScalarValue::try_from(field.data_type())?).alias(name)))
            .collect::<DataFusionResult<Vec<_>>>()?;
        let since = Expr::Column(self.since.clone());
        let added = [self.time(&self.since), lit(false).alias(IS_LEFT), self.version().alias(VERSION)];
        let columns: Vec<Expr> = keys.chain(others).chain(added).collect();
        let known = self.keys.iter().map(|(_, key)| key.clone().is_not_null());
        let known = known.fold(since.is_not_null(), Expr::and);
        LogicalPlanBuilder::from(self.right.clone()).filter(known)?.project(columns)?.build()
    }

    /// The columns of the join, where `found` is the version.
    fn results(&self, found: &Expr) -> Vec<Expr> {
        let own = self.left.schema().iter().zip(&self.own).map(|((qualifier, field), name)| {
            // This one is still an event time.
            let is_time = Column::from((qualifier, field)) == self.time;
            let value = if is_time { column(TIME) } else { column(name) };
            value.alias_qualified(qualifier.cloned(), field.name())
        });
        let versions = self.right.schema().iter().zip(&self.fields).map(|((qualifier, field), name)| {
            get_field(found.clone(), name.as_str()).alias_qualified(qualifier.cloned(), field.name())
        });
        own.chain(versions).collect()
    }
}

/// Whether `column` is what `name` says, with its table or without.
fn names(name: &Column, column: &Column) -> bool {
    name.name == column.name
        && match (&name.relation, &column.relation) {
            (None, _) => true,
            (Some(name), Some(table)) => table.resolved_eq(name) || table.table() == name.table(),
            (Some(_), None) => false,
        }
}

/// The column that says since when a version is there: the event time, or the only time.
fn version_time(schema: &DFSchema) -> DataFusionResult<Column> {
    let columns = schema.columns();
    let is_event_time = |column: &&Column| event_time_key(&Expr::Column((*column).clone()), schema).is_some();
    if let Some(column) = columns.iter().find(is_event_time) {
        return Ok(column.clone());
    }
    let is_time = |column: &&Column| {
        schema
            .field_from_column(column)
            .is_ok_and(|field| matches!(field.data_type(), DataType::Timestamp(..)))
    };
    match columns.iter().filter(is_time).collect::<Vec<_>>().as_slice() {
        [only] => Ok((*only).clone()),
        _ => plan_err!(
            "since when the rows of the right table are valid must be told by a WATERMARK, or by its only TIMESTAMP"
        ),
    }
}

/// The columns that are equal, of the left and the right side.
fn keys(join: &Join) -> DataFusionResult<Vec<(Expr, Expr)>> {
    let mut keys = join.on.clone();
    let (left, right) = (join.left.schema(), join.right.schema());
    let is_of = |schema: &DFSchema, expr: &Expr| {
        let columns = expr.column_refs();
        !columns.is_empty() && columns.into_iter().all(|column| schema.has_column(column))
    };
    for condition in join.filter.iter().flat_map(split_conjunction) {
        match condition {
            Expr::BinaryExpr(BinaryExpr { left: a, op: Operator::Eq, right: b })
                if is_of(left, a) && is_of(right, b) =>
            {
                keys.push((a.as_ref().clone(), b.as_ref().clone()));
            }
            Expr::BinaryExpr(BinaryExpr { left: a, op: Operator::Eq, right: b })
                if is_of(right, a) && is_of(left, b) =>
            {
                keys.push((b.as_ref().clone(), a.as_ref().clone()));
            }
            other => {
                return plan_err!("FOR SYSTEM_TIME AS OF joins by equal columns, not by {other}. {USAGE}");
            }
        }
    }
    let mut coerced = Vec::with_capacity(keys.len());
    for (a, b) in keys {
        let (to_left, to_right) = (a.get_type(left)?, b.get_type(right)?);
        let common = comparison_coercion(&to_left, &to_right);
        let Some(common) = common else {
            return plan_err!("{a} ({to_left}) and {b} ({to_right}) cannot be equal. {USAGE}");
        };
        coerced.push((a.cast_to(&common, left)?, b.cast_to(&common, right)?));
    }
    match coerced.is_empty() {
        true => plan_err!("FOR SYSTEM_TIME AS OF joins by equal columns, and there are none. {USAGE}"),
        false => Ok(coerced),
    }
}

impl PartialOrd for AsOf {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for AsOf {
    fn name(&self) -> &str {
        "AsOf"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AsOf: {}", self.time)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DataFusionResult<Self> {
        match (inputs.pop(), inputs.pop()) {
            (Some(input), None) => Ok(Self { input, time: self.time.clone() }),
            _ => internal_err!("AsOf needs one input"),
        }
    }
}
