//! Times with a zone beside times with another one, or with none; and dates beside times.
//!
//! DataFusion casts what is compared to a common type (apache/datafusion,
//! `expr-common/src/type_coercion/binary.rs`). A time without zone becomes one in the zone of the other
//! side, whichever that is, where SQL means the session's zone. This rule comes before DataFusion's own
//! and casts such times itself; zones that differ are made one, which keeps the instants.
//!
//! Dates and times that are compared with times of nanoseconds become such, too, and DataFusion ends the query over those
//! that cannot, such as `DATE '9999-12-31'`, the usual "for ever". Here they are as far away as can be.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::{Between, Cast, InList};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, Projection, Union};
use datafusion::optimizer::AnalyzerRule;

use crate::functions::within_reach;

/// The zone of a session that has none set.
pub(crate) const DEFAULT_ZONE: &str = "UTC";

/// Functions whose arguments become one type.
const UNIFYING: [&str; 6] = ["coalesce", "nullif", "greatest", "least", "nvl", "ifnull"];

/// Gives times one zone where they are compared or become one column.
#[derive(Debug)]
pub(crate) struct TimeZones;

impl AnalyzerRule for TimeZones {
    fn name(&self) -> &str {
        "tidemill_time_zones"
    }

    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> DataFusionResult<LogicalPlan> {
        let zone: Arc<str> = config.execution.time_zone.as_deref().unwrap_or(DEFAULT_ZONE).into();
        plan.transform_up_with_subqueries(|node| unify(node, &zone)).data()
    }
}

fn unify(node: LogicalPlan, zone: &Arc<str>) -> DataFusionResult<Transformed<LogicalPlan>> {
    match node {
        LogicalPlan::Union(union) => unify_union(union, zone),
        LogicalPlan::Join(mut join) => {
            let (left, right) = (Arc::clone(join.left.schema()), Arc::clone(join.right.schema()));
            for (key, other) in &mut join.on {
                let types = [key.get_type(&left), other.get_type(&right)];
                let [Ok(a), Ok(b)] = types else { continue };
                let types = [a, b];
                let mut conversions = common_zone(&types, zone, true);
                add_units(&types, &[false, false], &mut conversions);
                for (side, conversions) in [key, other].into_iter().zip(conversions) {
                    apply(side, conversions);
                }
            }
            expressions(LogicalPlan::Join(join), zone)
        }
        node => expressions(node, zone),
    }
}

/// `node` with one zone wherever its expressions compare times.
fn expressions(node: LogicalPlan, zone: &Arc<str>) -> DataFusionResult<Transformed<LogicalPlan>> {
    let mut schema = merge_schema(&node.inputs());
    if let LogicalPlan::TableScan(scan) = &node {
        schema.merge(&DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?);
    }
    let names = NamePreserver::new(&node);
    node.map_expressions(|expr| {
        let name = names.save(&expr);
        let unified = expr.transform_up(|expr| Ok(unify_expr(expr, &schema, zone)))?;
        Ok(if unified.transformed { unified.update_data(|expr| name.restore(expr)) } else { unified })
    })
}

fn unify_expr(mut expr: Expr, schema: &DFSchema, zone: &Arc<str>) -> Transformed<Expr> {
    let mut is_comparison = true;
    let parts: Vec<&mut Expr> = match &mut expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(*op) => {
            vec![left.as_mut(), right.as_mut()]
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Minus, right }) => {
            is_comparison = false;
            vec![left.as_mut(), right.as_mut()]
        }
        Expr::Between(Between { expr, low, high, .. }) => vec![expr.as_mut(), low.as_mut(), high.as_mut()],
        Expr::InList(InList { expr, list, .. }) => std::iter::once(expr.as_mut()).chain(list).collect(),
        Expr::Case(case) => {
            let mut results: Vec<&mut Expr> = Vec::new();
            let mut compared: Vec<&mut Expr> = Vec::new();
            let is_simple = case.expr.is_some();
            compared.extend(case.expr.as_deref_mut());
            for (when, then) in &mut case.when_then_expr {
                if is_simple {
                    compared.push(when);
                }
                results.push(then);
            }
            results.extend(case.else_expr.as_deref_mut());
            let changed = cast_all(compared, schema, zone, true) | cast_all(results, schema, zone, false);
            return if changed { Transformed::yes(expr) } else { Transformed::no(expr) };
        }
        Expr::ScalarFunction(call) if UNIFYING.contains(&call.func.name()) => {
            is_comparison = call.func.name() == "nullif";
            call.args.iter_mut().collect()
        }
        _ => return Transformed::no(expr),
    };
    if cast_all(parts, schema, zone, is_comparison) { Transformed::yes(expr) } else { Transformed::no(expr) }
}

fn compares(op: Operator) -> bool {
    matches!(
        op,
        Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
    )
}

/// Casts those of `exprs` that have to be; whether there were any.
fn cast_all(exprs: Vec<&mut Expr>, schema: &DFSchema, zone: &Arc<str>, is_comparison: bool) -> bool {
    // What has no type is an error that DataFusion words.
    let Ok(types) = exprs.iter().map(|expr| expr.get_type(schema)).collect::<DataFusionResult<Vec<_>>>()
    else {
        return false;
    };
    let mut conversions = common_zone(&types, zone, is_comparison);
    if is_comparison {
        let is_written: Vec<bool> = exprs.iter().map(|expr| is_written(expr)).collect();
        add_units(&types, &is_written, &mut conversions);
    }
    let mut changed = false;
    for (expr, conversions) in exprs.into_iter().zip(conversions) {
        changed |= apply(expr, conversions);
    }
    changed
}

/// What has to be done with a value before it is compared or becomes one column with others.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Conversion {
    To(DataType),
    /// To nanoseconds, or as near as these come.
    WithinReach,
}

/// The conversions that values of each of `types` need to be compared with the others; none if no time among
/// them has a zone.
fn common_zone(types: &[DataType], zone: &Arc<str>, is_comparison: bool) -> Vec<Vec<Conversion>> {
    let zoned = types.iter().find_map(|data_type| match data_type {
        DataType::Timestamp(unit, Some(zone)) => Some((*unit, zone)),
        _ => None,
    });
    let Some((unit, first)) = zoned else { return vec![vec![]; types.len()] };
    let local = |unit: TimeUnit| Conversion::To(DataType::Timestamp(unit, Some(Arc::clone(zone))));
    let conversions = |data_type: &DataType| match data_type {
        DataType::Timestamp(unit, None) => vec![local(*unit)],
        DataType::Timestamp(unit, Some(other)) if other != first => {
            vec![Conversion::To(DataType::Timestamp(*unit, Some(Arc::clone(first))))]
        }
        DataType::Date32 | DataType::Date64 => {
            // All dates are times of microseconds.
            let unit = if is_comparison { unit.min(TimeUnit::Microsecond) } else { unit };
            vec![Conversion::To(DataType::Timestamp(unit, None)), local(unit)]
        }
        // Text without an offset is a time in the session's zone, too.
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View if is_comparison => {
            vec![local(TimeUnit::Nanosecond)]
        }
        _ => vec![],
    };
    types.iter().map(conversions).collect()
}

/// Adds to the `conversions` of `types` that are compared what dates and times need to be of one unit. DataFusion makes
/// them nanoseconds, which not all can be. It does so rightly with what `is_written` in the query, by making that
/// of the other's unit.
fn add_units(types: &[DataType], is_written: &[bool], conversions: &mut [Vec<Conversion>]) {
    let unit_of = |data_type: &DataType| match data_type {
        DataType::Timestamp(unit, _) => Some(*unit),
        _ => None,
    };
    let Some(finest) = types.iter().filter_map(unit_of).max() else { return };
    let is_beside_nanos = types
        .iter()
        .zip(is_written)
        .any(|(data_type, is_written)| !is_written && unit_of(data_type) == Some(TimeUnit::Nanosecond));
    for (data_type, conversions) in types.iter().zip(conversions) {
        let is_date = matches!(data_type, DataType::Date32 | DataType::Date64);
        match unit_of(data_type) {
            Some(unit) if unit < TimeUnit::Nanosecond && is_beside_nanos => {
                conversions.push(Conversion::WithinReach);
            }
            None if is_date && finest == TimeUnit::Nanosecond => conversions.push(Conversion::WithinReach),
            None if is_date && conversions.is_empty() => {
                conversions.push(Conversion::To(DataType::Timestamp(finest, None)));
            }
            _ => {}
        }
    }
}

/// Whether `expr` is a value that stands in the query.
fn is_written(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(..) => true,
        Expr::Cast(cast) => is_written(&cast.expr),
        _ => false,
    }
}

fn apply(expr: &mut Expr, conversions: Vec<Conversion>) -> bool {
    let changed = !conversions.is_empty();
    for conversion in conversions {
        let value = std::mem::take(expr);
        *expr = match conversion {
            Conversion::To(data_type) => Expr::Cast(Cast::new(Box::new(value), data_type)),
            Conversion::WithinReach => within_reach(value),
        };
    }
    changed
}

fn unify_union(union: Union, zone: &Arc<str>) -> DataFusionResult<Transformed<LogicalPlan>> {
    let columns = union.schema.fields().len();
    if union.inputs.iter().any(|input| input.schema().fields().len() != columns) {
        return Ok(Transformed::no(LogicalPlan::Union(union)));
    }
    let casts: Vec<Vec<Vec<Conversion>>> = (0..columns)
        .map(|column| {
            let types = union.inputs.iter().map(|input| input.schema().field(column).data_type().clone());
            common_zone(&types.collect::<Vec<_>>(), zone, false)
        })
        .collect();
    if casts.iter().flatten().all(Vec::is_empty) {
        return Ok(Transformed::no(LogicalPlan::Union(union)));
    }
    let input = |(index, input): (usize, &Arc<LogicalPlan>)| {
        let exprs = input.schema().iter().enumerate().map(|(column, (qualifier, field))| {
            let mut expr = Expr::Column(Column::from((qualifier, field)));
            match apply(&mut expr, casts[column][index].clone()) {
                true => expr.alias_qualified(qualifier.cloned(), field.name()),
                false => expr,
            }
        });
        let exprs: Vec<Expr> = exprs.collect();
        let projection = Projection::try_new(exprs, Arc::clone(input))?;
        Ok(Arc::new(LogicalPlan::Projection(projection)))
    };
    let inputs = union.inputs.iter().enumerate().map(input).collect::<DataFusionResult<Vec<_>>>()?;
    Ok(Transformed::yes(LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?)))
}
