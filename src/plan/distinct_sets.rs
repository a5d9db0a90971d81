//! Aggregates over distinct values with grouping sets, each set on its own copy of the rows.
//!
//! What is distinct is another thing in every set. So a row becomes one for each set, with the keys of the others null
//! and the number of the set beside them, and the sets become one group by all of these.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, ScalarValue, UnnestOptions};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    Aggregate, Expr, ExprSchemable, GroupingSet, LogicalPlan, LogicalPlanBuilder, Projection, lit, when,
};

use super::window_calls::unused_name;

const SET: &str = "__set";

/// Rows that [`with_sets_apart`] copies for each set.
pub(super) struct Copied<'a> {
    /// The number of the set that a copy is for.
    pub(super) number: Column,
    /// The rows, with the numbers of all sets.
    pub(super) projection: &'a Projection,
}

impl<'a> Copied<'a> {
    pub(super) fn of(plan: &'a LogicalPlan) -> Option<Self> {
        let LogicalPlan::Unnest(unnest) = plan else { return None };
        let LogicalPlan::Projection(projection) = unnest.input.as_ref() else { return None };
        let [number] = unnest.exec_columns.as_slice() else { return None };
        number.name.starts_with(SET).then(|| Self { number: number.clone(), projection })
    }
}

/// `aggregate` as a plain group, if it has grouping sets and functions of distinct values.
pub(super) fn with_sets_apart(aggregate: Aggregate) -> DataFusionResult<LogicalPlan> {
    let [Expr::GroupingSet(sets)] = aggregate.group_expr.as_slice() else {
        return Ok(LogicalPlan::Aggregate(aggregate));
    };
    let is = |found: &dyn Fn(&Expr) -> bool| aggregate.aggr_expr.iter().any(found);
    let is_distinct = |expr: &Expr| match expr.clone().unalias() {
        Expr::AggregateFunction(function) => function.params.distinct,
        _ => false,
    };
    let asks_for_the_set = |expr: &Expr| match expr.clone().unalias() {
        Expr::AggregateFunction(function) => function.func.name() == "grouping",
        _ => false,
    };
    if !is(&is_distinct) || is(&asks_for_the_set) {
        return Ok(LogicalPlan::Aggregate(aggregate));
    }
    let all: Vec<Expr> = sets.distinct_expr().into_iter().cloned().collect();
    let sets = members(sets, &all);
    let schema = Arc::clone(&aggregate.schema);
    let mut taken = aggregate.input.schema().field_names();
    taken.extend(schema.field_names());
    let number = unused_name(SET, &mut taken);
    let numbers: Vec<ScalarValue> = (0..sets.len()).map(|set| ScalarValue::Int32(Some(set as i32))).collect();
    let numbers = lit(ScalarValue::List(ScalarValue::new_list_nullable(&numbers, &DataType::Int32)));
    let columns = aggregate.input.schema().columns().into_iter().map(Expr::Column);
    let columns: Vec<Expr> = columns.chain([numbers.alias(&number)]).collect();
    let number = Column::new_unqualified(number);
    let input = LogicalPlanBuilder::from(Arc::unwrap_or_clone(aggregate.input))
        .project(columns)?
        .unnest_column_with_options(number.clone(), UnnestOptions::new())?
        .build()?;
    let mut names = Vec::with_capacity(all.len());
    let mut keys = Vec::with_capacity(all.len() + 1);
    for (index, key) in all.into_iter().enumerate() {
        let with: Vec<Expr> = sets
            .iter()
            .enumerate()
            .filter(|(_, set)| set.contains(&index))
            .map(|(set, _)| lit(set as i32))
            .collect();
        let key = match with.len() == sets.len() {
            true => key.unalias(),
            false => when(Expr::Column(number.clone()).in_list(with, false), key.unalias()).end()?,
        };
        let name = unused_name("__key", &mut taken);
        keys.push(key.alias(&name));
        names.push(name);
    }
    keys.push(Expr::Column(number));
    let plain = Aggregate::try_new(Arc::new(input), keys, aggregate.aggr_expr)?;
    let results = plain.schema.columns().split_off(names.len() + 1);
    // The keys, which of them are of the set, which nobody has asked for, and the results.
    let width = names.len();
    let columns = schema.iter().enumerate().map(|(index, (qualifier, field))| {
        let column = match index {
            key if key < width => Expr::Column(Column::new_unqualified(&names[key])),
            id if id == width => lit(ScalarValue::UInt64(Some(0))).cast_to(field.data_type(), &schema)?,
            result => Expr::Column(results[result - width - 1].clone()),
        };
        Ok(column.alias_qualified(qualifier.cloned(), field.name()))
    });
    let columns = columns.collect::<DataFusionResult<Vec<_>>>()?;
    Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(LogicalPlan::Aggregate(plain)))?))
}

/// Which of the keys `all` are in each set.
fn members(sets: &GroupingSet, all: &[Expr]) -> Vec<Vec<usize>> {
    let place = |key: &Expr| all.iter().position(|known| known == key);
    let places = |keys: &[Expr]| keys.iter().filter_map(place).collect::<Vec<_>>();
    match sets {
        GroupingSet::GroupingSets(sets) => sets.iter().map(|set| places(set)).collect(),
        GroupingSet::Rollup(keys) => (0..=keys.len()).rev().map(|length| places(&keys[..length])).collect(),
        GroupingSet::Cube(keys) => (0..1_u64 << keys.len().min(20))
            .map(|chosen| {
                let of_set = keys.iter().enumerate().filter(|(index, _)| chosen >> index & 1 == 1);
                of_set.filter_map(|(_, key)| place(key)).collect()
            })
            .collect(),
    }
}
