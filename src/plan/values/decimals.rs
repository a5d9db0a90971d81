//! Literals with a point are decimals; beside floats they are floats.
//!
//! DataFusion gives a decimal and a float that meet in `coalesce`, `CASE` or `UNION` the type
//! DECIMAL(30, 15), which changes most floats and refuses large ones.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::{Between, Case, InList, InSubquery};
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator, Union, Values, cast,
};
use datafusion::optimizer::AnalyzerRule;

use super::equality::is_comparison;
use super::rewrite_expressions;
use crate::functions::decimal_division;

/// Functions whose arguments are given one type, which is also that of the result.
const OF_ONE_TYPE: [&str; 8] =
    ["coalesce", "greatest", "least", "nvl", "nvl2", "ifnull", "make_array", "nullif"];

/// `plan` of a view, which DataFusion gives its types when it is created.
pub(crate) fn of_view(plan: LogicalPlan) -> DataFusionResult<LogicalPlan> {
    DecimalLiterals.analyze(plan, &ConfigOptions::default())
}

/// Makes floats of decimals that meet floats, and of literals with an exponent. Runs before types are
/// found out.
#[derive(Debug)]
pub(super) struct DecimalLiterals;

impl DecimalLiterals {
    pub(super) const NAME: &'static str = "decimal_literals";
}

impl AnalyzerRule for DecimalLiterals {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DataFusionResult<LogicalPlan> {
        let mut changed = false;
        let rewritten = plan.transform_up_with_subqueries(|plan| {
            // From the leaves up, for the types of arguments decide.
            let plan = rewrite_expressions(plan, &|expr, schema| {
                expr.transform_up(|expr| with_floats(expr, schema))
            })?;
            let plan = plan.transform_data(union_with_floats)?.transform_data(values_with_floats)?;
            changed |= plan.transformed;
            // What is above looks at the types of these columns.
            if changed { plan.map_data(LogicalPlan::recompute_schema) } else { Ok(plan) }
        })?;
        Ok(rewritten.data)
    }
}

fn with_floats(expr: Expr, schema: &DFSchema) -> DataFusionResult<Transformed<Expr>> {
    Ok(match expr {
        Expr::Literal(value, metadata) => match exponent(&value) {
            Some(float) => Transformed::yes(Expr::Literal(float, metadata)),
            None => Transformed::no(Expr::Literal(value, metadata)),
        },
        Expr::BinaryExpr(binary) => with_float_operands(binary, schema),
        Expr::ScalarFunction(mut call) if OF_ONE_TYPE.contains(&call.func.name()) => {
            let arguments = call.args.iter_mut().collect();
            let changed = unify(arguments, schema);
            Transformed::new_transformed(Expr::ScalarFunction(call), changed)
        }
        Expr::Between(Between { mut expr, negated, mut low, mut high }) => {
            let changed = unify(vec![expr.as_mut(), low.as_mut(), high.as_mut()], schema);
            Transformed::new_transformed(Expr::Between(Between { expr, negated, low, high }), changed)
        }
        Expr::Case(Case { mut expr, mut when_then_expr, mut else_expr }) => {
            let compared = expr.iter_mut().map(AsMut::as_mut);
            let compared = compared.chain(when_then_expr.iter_mut().map(|(when, _)| when.as_mut())).collect();
            let changed = unify(compared, schema);
            let results = when_then_expr.iter_mut().map(|(_, then)| then.as_mut());
            let changed = unify(results.chain(else_expr.as_deref_mut()).collect(), schema) || changed;
            Transformed::new_transformed(Expr::Case(Case { expr, when_then_expr, else_expr }), changed)
        }
        Expr::InList(InList { mut expr, mut list, negated }) => {
            let all = std::iter::once(expr.as_mut()).chain(&mut list).collect();
            let changed = unify(all, schema);
            Transformed::new_transformed(Expr::InList(InList { expr, list, negated }), changed)
        }
        Expr::InSubquery(InSubquery { mut expr, mut subquery, negated }) => {
            let mut values = Arc::unwrap_or_clone(subquery.subquery);
            let types =
                (expr.get_type(schema), values.schema().fields().first().map(|f| f.data_type().clone()));
            let changed = match types {
                (Ok(left), Some(right)) if left.is_decimal() && right.is_floating() => {
                    *expr = cast(*expr, DataType::Float64);
                    true
                }
                (Ok(left), Some(right)) if left.is_floating() && right.is_decimal() => {
                    let columns = values.schema().columns().into_iter().map(|column| {
                        let (relation, name) = (column.relation.clone(), column.name.clone());
                        cast(Expr::Column(column), DataType::Float64).alias_qualified(relation, name)
                    });
                    let columns: Vec<Expr> = columns.collect();
                    values = LogicalPlanBuilder::from(values).project(columns)?.build()?;
                    true
                }
                _ => false,
            };
            subquery.subquery = Arc::new(values);
            Transformed::new_transformed(Expr::InSubquery(InSubquery { expr, subquery, negated }), changed)
        }
        other => Transformed::no(other),
    })
}

/// A decimal literal as a float if it was written with an exponent, which leaves a negative scale.
fn exponent(value: &ScalarValue) -> Option<ScalarValue> {
    let (ScalarValue::Decimal128(_, _, scale) | ScalarValue::Decimal256(_, _, scale)) = value else {
        return None;
    };
    (*scale < 0).then(|| float(value, &DataType::Float64)).flatten()
}

/// The decimal `value` as the float of `data_type` that is nearest to it.
fn float(value: &ScalarValue, data_type: &DataType) -> Option<ScalarValue> {
    if value.is_null() {
        return ScalarValue::try_from(data_type).ok();
    }
    let double: f64 = value.to_string().parse().ok()?;
    ScalarValue::Float64(Some(double)).cast_to(data_type).ok()
}

fn with_float_operands(binary: BinaryExpr, schema: &DFSchema) -> Transformed<Expr> {
    let BinaryExpr { mut left, op, mut right } = binary;
    let unchanged = |left, right| Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right }));
    let types = (left.get_type(schema), right.get_type(schema));
    let (Ok(left_type), Ok(right_type)) = types else { return unchanged(left, right) };
    if op == Operator::Divide
        && let Some(division) = decimal_division(&left, &right, (&left_type, &right_type))
    {
        return Transformed::yes(division);
    }
    if !left_type.is_decimal() && !right_type.is_decimal() {
        return unchanged(left, right);
    }
    let mut changed = false;
    for (operand, own, other) in [(&mut left, &left_type, &right_type), (&mut right, &right_type, &left_type)]
    {
        if !own.is_decimal() || !other.is_floating() {
            continue;
        }
        if let Expr::Literal(value, _) = operand.as_mut()
            && let Some(float) = float(value, other)
        {
            *value = float;
            changed = true;
        } else if is_comparison(op) {
            // DataFusion compares as DECIMAL(30, 15). In arithmetic it makes floats of decimals itself.
            **operand = cast(std::mem::take(operand.as_mut()), DataType::Float64);
            changed = true;
        }
    }
    Transformed::new_transformed(Expr::BinaryExpr(BinaryExpr { left, op, right }), changed)
}

/// Makes floats of the decimals among `arguments` if there are floats among them; whether there were.
fn unify(arguments: Vec<&mut Expr>, schema: &DFSchema) -> bool {
    let types: Vec<Option<DataType>> =
        arguments.iter().map(|argument| argument.get_type(schema).ok()).collect();
    let Some(data_type) = float_type(types.iter().flatten()) else { return false };
    for (argument, from) in arguments.into_iter().zip(types) {
        if from.is_some_and(|from| from.is_decimal()) {
            let decimal = std::mem::take(argument);
            *argument = match &decimal {
                Expr::Literal(value, metadata) => match float(value, &data_type) {
                    Some(float) => Expr::Literal(float, metadata.clone()),
                    None => cast(decimal, data_type.clone()),
                },
                _ => cast(decimal, data_type.clone()),
            };
        }
    }
    true
}

/// The float that all of `types` become, if there are floats and decimals among them.
fn float_type<'a>(types: impl Iterator<Item = &'a DataType> + Clone) -> Option<DataType> {
    let has_decimals = types.clone().any(DataType::is_decimal);
    let largest =
        types.filter(|data_type| data_type.is_floating()).max_by_key(|data_type| data_type.primitive_width());
    largest.filter(|_| has_decimals).cloned()
}

/// Rows of literals with floats in the columns where floats and decimals meet: DataFusion has cast them
/// already.
fn values_with_floats(plan: LogicalPlan) -> DataFusionResult<Transformed<LogicalPlan>> {
    let LogicalPlan::Values(Values { schema, mut values }) = plan else { return Ok(Transformed::no(plan)) };
    let mut changed = false;
    for (column, field) in
        schema.fields().iter().enumerate().filter(|(_, field)| field.data_type().is_decimal())
    {
        let uncast = |expr: &Expr| match expr {
            Expr::Cast(cast) if cast.field.data_type() == field.data_type() => cast.expr.as_ref().clone(),
            expr => expr.clone(),
        };
        let mut cells: Vec<Expr> = values.iter().map(|row| uncast(&row[column])).collect();
        if unify(cells.iter_mut().collect(), &schema) {
            changed = true;
            values.iter_mut().zip(cells).for_each(|(row, cell)| row[column] = cell);
        }
    }
    if changed {
        LogicalPlanBuilder::values(values)?.build().map(Transformed::yes)
    } else {
        Ok(Transformed::no(LogicalPlan::Values(Values { schema, values })))
    }
}

/// A union with casts below it, if floats meet decimals in one of its columns.
fn union_with_floats(plan: LogicalPlan) -> DataFusionResult<Transformed<LogicalPlan>> {
    let LogicalPlan::Union(Union { inputs, schema }) = plan else { return Ok(Transformed::no(plan)) };
    let columns = schema.fields().len();
    let types = |column: usize| {
        inputs.iter().filter_map(move |input| Some(input.schema().fields().get(column)?.data_type()))
    };
    let floats: Vec<Option<DataType>> = (0..columns).map(|column| float_type(types(column))).collect();
    if floats.iter().all(Option::is_none)
        || inputs.iter().any(|input| input.schema().fields().len() != columns)
    {
        return Ok(Transformed::no(LogicalPlan::Union(Union { inputs, schema })));
    }
    let inputs = inputs.iter().map(|input| {
        let columns = input.schema().columns().into_iter().zip(input.schema().fields()).zip(&floats);
        let exprs = columns.map(|((column, field), float)| match float {
            Some(float) if field.data_type().is_decimal() => {
                let (relation, name) = (column.relation.clone(), column.name.clone());
                cast(Expr::Column(column), float.clone()).alias_qualified(relation, name)
            }
            _ => Expr::Column(column),
        });
        Ok(Arc::new(LogicalPlanBuilder::from(input.clone()).project(exprs)?.build()?))
    });
    let inputs = inputs.collect::<DataFusionResult<Vec<_>>>()?;
    Ok(Transformed::yes(LogicalPlan::Union(Union { inputs, schema })))
}
