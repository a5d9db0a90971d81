//! Which columns of a table `FOR SYSTEM_TIME AS OF` keeps in the versions of its rows.
//!
//! A version is one value, a struct of all columns ([`as_of`](super::as_of)), and to the optimiser a column is read as
//! a whole or not at all. So a plan is optimised once with a mark on every field of a version: a field whose mark is
//! gone then is read by nobody, and any value may stand in its place.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Fields};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result as DataFusionResult;
use datafusion::functions::core::expr_fn::named_struct;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, Projection, Union};

use super::as_of::VERSION;
use super::bind::reads_stream;
use crate::error::Result;
use crate::functions::{definition_by, described};

/// `plan`, in which versions have those fields only that are read above, and those that are `recorded`, by join in the
/// order of the plan. `optimize` gives the plan as it is run.
pub(super) fn with_read_fields(
    plan: LogicalPlan,
    recorded: &[&[String]],
    optimize: impl FnOnce(LogicalPlan) -> Result<LogicalPlan>,
) -> Result<LogicalPlan> {
    let mut joins = 0;
    let marked = with_results(plan.clone(), |projection| {
        joins += 1;
        with_marks(projection, joins - 1)
    })?;
    if joins == 0 {
        return Ok(plan);
    }
    let read = marks_in(&optimize(marked)?)?;
    let mut join = 0;
    let narrow = with_results(plan, |projection| {
        // Unless there is one for each join, it is not known which is of which.
        let recorded = recorded.get(join).copied().filter(|_| recorded.len() == joins).unwrap_or_default();
        let all = fields_of_versions(projection.input.schema());
        let kept = kept(&all, |field| read.contains(&mark(join, field)), recorded);
        join += 1;
        if kept == all { Ok(projection) } else { with_fields(projection, &kept) }
    })?;
    Ok(narrow)
}

/// `plan` with what `change` makes of every projection that gives the results of such a join of streams.
fn with_results(
    plan: LogicalPlan,
    mut change: impl FnMut(Projection) -> DataFusionResult<Projection>,
) -> DataFusionResult<LogicalPlan> {
    let changed = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Projection(projection)
            if projection.expr.iter().any(reads_field) && reads_stream(&projection.input) =>
        {
            Ok(Transformed::yes(LogicalPlan::Projection(change(projection)?)))
        }
        node if node.inputs().is_empty() => Ok(Transformed::no(node)),
        node => node.recompute_schema().map(Transformed::yes),
    })?;
    Ok(changed.data)
}

/// The field of a version that `expr` gives, if it gives one.
fn field_of(expr: &Expr) -> Option<&str> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else { return None };
    let ("get_field", [version, Expr::Literal(name, _)]) = (func.name(), args.as_slice()) else {
        return None;
    };
    let is_version = version.column_refs().iter().any(|column| column.name.contains(VERSION));
    name.try_as_str().flatten().filter(|_| is_version)
}

fn reads_field(expr: &Expr) -> bool {
    expr.exists(|part| Ok(field_of(part).is_some())).unwrap_or(false)
}

/// `projection` with what `replace` makes of the fields of versions that it gives.
fn replace_fields(
    projection: Projection,
    replace: impl Fn(Expr, &str) -> DataFusionResult<Expr>,
) -> DataFusionResult<Vec<Expr>> {
    let in_place = |expr: Expr| -> DataFusionResult<Expr> {
        let replaced = expr.transform_down(|part| match field_of(&part).map(str::to_string) {
            Some(field) => Ok(Transformed::new(replace(part, &field)?, true, TreeNodeRecursion::Jump)),
            None => Ok(Transformed::no(part)),
        })?;
        Ok(replaced.data)
    };
    projection.expr.into_iter().map(in_place).collect()
}

/// What marks a field of the versions of the join with that number.
fn mark(join: usize, field: &str) -> String {
    format!("{VERSION} {join}.{field}")
}

fn with_marks(projection: Projection, join: usize) -> DataFusionResult<Projection> {
    let input = Arc::clone(&projection.input);
    let exprs = replace_fields(projection, |expr, field| Ok(described(expr, mark(join, field))))?;
    Projection::try_new(exprs, input)
}

/// The marks that are in `plan`, among others.
fn marks_in(plan: &LogicalPlan) -> DataFusionResult<HashSet<String>> {
    let mut found = HashSet::new();
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let Expr::ScalarFunction(function) = part {
                    found.extend(definition_by(function).map(str::to_string));
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(found)
}

/// The names of the fields of versions that are a column of `schema`.
fn fields_of_versions(schema: &DFSchema) -> Vec<String> {
    let version = schema.fields().iter().find(|field| field.name() == VERSION);
    match version.map(|field| field.data_type()) {
        Some(DataType::Struct(fields)) => fields.iter().map(|field| field.name().clone()).collect(),
        _ => Vec::new(),
    }
}

/// Those of `all` that are `recorded`, in their order there, and then those that are read. There is one at least, for
/// whether there is a version is read, too.
fn kept(all: &[String], is_read: impl Fn(&str) -> bool, recorded: &[String]) -> Vec<String> {
    let known = recorded.iter().filter(|field| all.contains(field));
    let others = all.iter().filter(|field| is_read(field) && !recorded.contains(field));
    let kept: Vec<String> = known.chain(others).cloned().collect();
    if kept.is_empty() { all.iter().take(1).cloned().collect() } else { kept }
}

/// `projection` over versions of which only the fields `kept` are there. It gives nulls for the others.
fn with_fields(projection: Projection, kept: &[String]) -> DataFusionResult<Projection> {
    let before = Arc::clone(projection.input.schema());
    let input = Arc::new(narrowed(projection.input.as_ref().clone(), kept)?);
    let exprs = replace_fields(projection, |part, field| match kept.iter().any(|kept| kept == field) {
        true => Ok(part),
        false => Ok(Expr::Literal(ScalarValue::try_from(&part.get_type(&before)?)?, None)),
    })?;
    Projection::try_new(exprs, input)
}

fn has_versions(plan: &LogicalPlan) -> bool {
    plan.schema().fields().iter().any(|field| field.name() == VERSION)
}

/// `plan`, which has versions as a column, with the fields `kept` of them.
fn narrowed(plan: LogicalPlan, kept: &[String]) -> DataFusionResult<LogicalPlan> {
    let narrow = |plan: LogicalPlan| match has_versions(&plan) {
        true => narrowed(plan, kept).map(Transformed::yes),
        false => Ok(Transformed::no(plan)),
    };
    match plan.map_children(narrow)?.data {
        LogicalPlan::Projection(Projection { expr, input, .. }) if !has_versions(&input) => {
            let is_version = |expr: &Expr| expr.qualified_name().1 == VERSION;
            let narrow = |expr| if is_version(&expr) { made_of(expr, kept) } else { Ok(expr) };
            let exprs = expr.into_iter().map(narrow);
            let exprs = exprs.collect::<DataFusionResult<_>>()?;
            Projection::try_new(exprs, input).map(LogicalPlan::Projection)
        }
        // By itself it does not find that types have changed.
        LogicalPlan::Union(Union { inputs, schema }) => {
            let fields = schema.iter().zip(inputs[0].schema().fields()).map(|((qualifier, field), input)| {
                let field = field.as_ref().clone().with_data_type(input.data_type().clone());
                (qualifier.cloned(), Arc::new(field))
            });
            let schema = DFSchema::new_with_metadata(fields.collect(), schema.metadata().clone())?;
            Ok(LogicalPlan::Union(Union { inputs, schema: Arc::new(schema) }))
        }
        plan => plan.recompute_schema(),
    }
}

/// `expr`, which makes versions, or stands for none, with the fields `kept`.
fn made_of(expr: Expr, kept: &[String]) -> DataFusionResult<Expr> {
    let made = expr.transform_down(|part| match part {
        Expr::ScalarFunction(ScalarFunction { func, args }) if func.name() == "named_struct" => {
            let name = |pair: &[Expr]| match &pair[0] {
                Expr::Literal(name, _) => name.try_as_str().flatten().map(str::to_string),
                _ => None,
            };
            let pair = |field: &String| args.chunks_exact(2).find(|pair| name(pair).as_ref() == Some(field));
            let pairs: Vec<Expr> = kept.iter().filter_map(pair).flatten().cloned().collect();
            Ok(Transformed::new(named_struct(pairs), true, TreeNodeRecursion::Jump))
        }
        Expr::Literal(value, metadata) => match value.data_type() {
            DataType::Struct(fields) => {
                let field = |name: &String| fields.iter().find(|field| field.name() == name).cloned();
                let fields: Fields = kept.iter().filter_map(field).collect();
                let nothing = ScalarValue::try_from(&DataType::Struct(fields))?;
                Ok(Transformed::yes(Expr::Literal(nothing, metadata)))
            }
            _ => Ok(Transformed::no(Expr::Literal(value, metadata))),
        },
        part => Ok(Transformed::no(part)),
    })?;
    Ok(made.data)
}
