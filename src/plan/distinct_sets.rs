//! Aggregates over distinct values with grouping sets, each set on its own copy of the rows.
//!
//! What is distinct is another thing in every set. So a row becomes one for each set, with the keys of the others null
//! and the number of the set beside them, and the sets become one group by all of these. The set without keys is a
//! group where there are no rows, too; the column of numbers says which that is.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, JoinType, ScalarValue, UnnestOptions, internal_err, plan_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    Aggregate, EmptyRelation, Expr, ExprSchemable, GroupingSet, LogicalPlan, LogicalPlanBuilder, Projection,
    lit, when,
};

use super::window_calls::unused_name;
use crate::functions::{described, totals_of, with_totals};

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
    if !is(&is_distinct) {
        return Ok(LogicalPlan::Aggregate(aggregate));
    }
    let all: Vec<Expr> = sets.distinct_expr().into_iter().cloned().collect();
    let sets = members(sets, &all);
    let listed: Vec<String> = sets
        .iter()
        .map(|set| {
            let keys: Vec<String> = set.iter().map(|key| all[*key].to_string()).collect();
            format!("({})", keys.join(", "))
        })
        .collect();
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
    for (index, key) in all.iter().cloned().enumerate() {
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
    let definition = format!("grouping sets {}", listed.join(", "));
    let totals: Vec<i32> =
        (0_i32..).zip(&sets).filter(|(_, set)| set.is_empty()).map(|(number, _)| number).collect();
    let of_set = match totals.is_empty() {
        true => Expr::Column(number.clone()),
        false => with_totals(Expr::Column(number.clone()), &totals),
    };
    keys.push(described(of_set, definition).alias(&number.name));
    let asked: Vec<Option<Expr>> = aggregate
        .aggr_expr
        .iter()
        .map(|function| grouping(function, &all, &sets, &number))
        .collect::<DataFusionResult<_>>()?;
    let functions = aggregate.aggr_expr.into_iter().zip(&asked).filter(|(_, asked)| asked.is_none());
    let functions = functions.map(|(function, _)| function).collect();
    let plain = Aggregate::try_new(Arc::new(input), keys, functions)?;
    let mut results = plain.schema.columns().split_off(names.len() + 1).into_iter();
    // The keys, which of them are of the set, which nobody has asked for, and the results.
    let width = names.len();
    let columns = schema.iter().enumerate().map(|(index, (qualifier, field))| {
        let column = match index {
            key if key < width => Expr::Column(Column::new_unqualified(&names[key])),
            id if id == width => lit(ScalarValue::UInt64(Some(0))).cast_to(field.data_type(), &schema)?,
            result => match &asked[result - width - 1] {
                Some(grouping) => grouping.clone().cast_to(field.data_type(), &plain.schema)?,
                None => match results.next() {
                    Some(result) => Expr::Column(result),
                    None => return internal_err!("a function of grouping sets without a result"),
                },
            },
        };
        Ok(column.alias_qualified(qualifier.cloned(), field.name()))
    });
    let columns = columns.collect::<DataFusionResult<Vec<_>>>()?;
    Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(LogicalPlan::Aggregate(plain)))?))
}

/// `aggregate`, as a batch query over all rows at once, with the groups of sets without keys where there are no rows;
/// `None` if it has no such set.
pub(super) fn with_grand_totals(aggregate: &Aggregate) -> DataFusionResult<Option<LogicalPlan>> {
    let fields = aggregate.schema.iter();
    let found = fields.map(|(qualifier, field)| (Column::from((qualifier, field)), totals_of(field)));
    let Some((number, totals)) = found.into_iter().find(|(_, totals)| !totals.is_empty()) else {
        return Ok(None);
    };
    let mut plan = LogicalPlan::Aggregate(aggregate.clone());
    for total in totals {
        plan = with_grand_total(plan, aggregate, &number, total)?;
    }
    Ok(Some(plan))
}

/// `plan`, which has the columns of `aggregate`, with a row of the set `total` if there is none.
fn with_grand_total(
    plan: LogicalPlan,
    aggregate: &Aggregate,
    number: &Column,
    total: i32,
) -> DataFusionResult<LogicalPlan> {
    let none = EmptyRelation { produce_one_row: false, schema: Arc::clone(aggregate.input.schema()) };
    let none = LogicalPlanBuilder::from(LogicalPlan::EmptyRelation(none))
        .aggregate(Vec::<Expr>::new(), aggregate.aggr_expr.clone())?
        .build()?;
    let name = |index: usize| format!("__of_no_rows_{index}");
    let results = none.schema().columns().into_iter().enumerate();
    let results = results.map(|(index, column)| Expr::Column(column).alias(name(index)));
    let columns: Vec<Expr> = results.chain([lit(total).alias(TOTAL)]).collect();
    let none = LogicalPlanBuilder::from(none).project(columns)?.build()?;
    let of_total = Expr::Column(Column::new_unqualified(TOTAL));
    let keys = aggregate.schema.fields().len() - aggregate.aggr_expr.len();
    let columns = aggregate.schema.iter().enumerate().map(|(index, (qualifier, field))| {
        let column = Column::from((qualifier, field));
        let given = Expr::Column(column.clone());
        let is_missing = || Expr::Column(number.clone()).is_null();
        let value = match index.checked_sub(keys) {
            None if column == *number => when(is_missing(), of_total.clone()).otherwise(given)?,
            None => return Ok(given),
            Some(result) => {
                when(is_missing(), Expr::Column(Column::new_unqualified(name(result)))).otherwise(given)?
            }
        };
        Ok(value.alias_qualified(qualifier.cloned(), field.name()))
    });
    let columns = columns.collect::<DataFusionResult<Vec<_>>>()?;
    LogicalPlanBuilder::from(plan)
        .join_on(none, JoinType::Full, [Expr::Column(number.clone()).eq(of_total)])?
        .project(columns)?
        .build()
}

const TOTAL: &str = "__total";

/// What `function` gives if it is `grouping(key, …)`: a bit for each key, which is set where the key is not in the set
/// of that `number`.
fn grouping(
    function: &Expr,
    all: &[Expr],
    sets: &[Vec<usize>],
    number: &Column,
) -> DataFusionResult<Option<Expr>> {
    let Expr::AggregateFunction(call) = function.clone().unalias() else { return Ok(None) };
    if call.func.name() != "grouping" {
        return Ok(None);
    }
    let mut of_sets = vec![0_i64; sets.len()];
    for argument in &call.params.args {
        let Some(key) = all.iter().position(|key| key.clone().unalias() == *argument) else {
            return plan_err!("grouping({argument}): that is no key of GROUP BY");
        };
        for (bits, set) in of_sets.iter_mut().zip(sets) {
            *bits = *bits << 1 | i64::from(!set.contains(&key));
        }
    }
    let mut numbered =
        (0_i32..).zip(of_sets).map(|(set, bits)| (Expr::Column(number.clone()).eq(lit(set)), lit(bits)));
    let Some((first, bits)) = numbered.next() else { return Ok(None) };
    let mut cases = when(first, bits);
    for (is_set, bits) in numbered {
        cases = cases.when(is_set, bits);
    }
    cases.end().map(Some)
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
