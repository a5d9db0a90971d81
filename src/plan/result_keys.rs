//! Which columns tell the rows of a result apart.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::Column;
use datafusion::logical_expr::expr::WindowFunctionDefinition;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Distinct, DistinctOn, Expr, LogicalPlan, Operator, Projection, Window,
};
use datafusion::scalar::ScalarValue;

use crate::functions::WindowCall;

/// The columns of the result of which no two rows have the same values in all: what the query groups by, if all of
/// it is in the result; the key and the number of the first rows of each key; all columns of `SELECT DISTINCT`. A
/// window is there with its start or its end, too. Empty if none are known.
pub(crate) fn result_keys(plan: &LogicalPlan) -> Vec<String> {
    let mut columns: Vec<usize> = keys(plan).unwrap_or_default().iter().flat_map(Part::columns).collect();
    columns.sort_unstable();
    columns.dedup();
    columns.into_iter().map(|column| plan.schema().field(column).name().clone()).collect()
}

/// A part of a key, and the columns that hold it: each of them by itself.
#[derive(Debug, Clone, Default)]
struct Part {
    whole: Vec<usize>,
    /// Of a window, its start or end: all windows of a query are of one size.
    bounds: Vec<usize>,
    is_window: bool,
}

impl Part {
    fn of(column: usize) -> Self {
        Self { whole: vec![column], ..Self::default() }
    }

    /// The columns that stand for it: one that is all of it, or the bounds that there are.
    fn columns(&self) -> Vec<usize> {
        self.whole.first().map_or_else(|| self.bounds.clone(), |whole| vec![*whole])
    }

    /// The same above a projection that gives `exprs`, whose columns are at the places that `place` says.
    fn projected(&self, exprs: &[Expr], place: &dyn Fn(&Column) -> Option<usize>) -> Option<Self> {
        let mut part = Self { is_window: self.is_window, ..Self::default() };
        for (index, expr) in exprs.iter().enumerate() {
            match bare(expr) {
                Expr::Column(column) => {
                    let column = place(column)?;
                    if self.whole.contains(&column) {
                        part.whole.push(index);
                    } else if self.bounds.contains(&column) {
                        part.bounds.push(index);
                    }
                }
                Expr::ScalarFunction(call) if self.is_window && is_bound(&call.args) => {
                    if let Some(Expr::Column(column)) = call.args.first().map(bare)
                        && place(column).is_some_and(|column| self.whole.contains(&column))
                        && call.func.name() == "get_field"
                    {
                        part.bounds.push(index);
                    }
                }
                _ => {}
            }
        }
        (!part.whole.is_empty() || !part.bounds.is_empty()).then_some(part)
    }
}

/// Whether a call asks for the start or the end of something.
fn is_bound(arguments: &[Expr]) -> bool {
    let [_, Expr::Literal(name, _)] = arguments else { return false };
    matches!(name.try_as_str(), Some(Some("start" | "end")))
}

fn bare(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => bare(&alias.expr),
        other => other,
    }
}

/// The parts of what tells the rows of `plan` apart; `None` if that is not known.
fn keys(plan: &LogicalPlan) -> Option<Vec<Part>> {
    match plan {
        LogicalPlan::Aggregate(aggregate) => grouped(aggregate),
        LogicalPlan::Distinct(Distinct::All(input)) => {
            let all = || (0..plan.schema().fields().len()).map(Part::of).collect();
            Some(keys(input).unwrap_or_else(all))
        }
        LogicalPlan::Distinct(Distinct::On(distinct)) => first_of_each(distinct),
        LogicalPlan::Projection(Projection { expr, input, .. }) => {
            let place = |column: &Column| input.schema().maybe_index_of_column(column);
            keys(input)?.iter().map(|part| part.projected(expr, &place)).collect()
        }
        LogicalPlan::Filter(filter) => {
            let single = singles(&filter.predicate, &filter.input);
            let kept = keys(&filter.input)?.into_iter();
            Some(kept.filter(|part| !part.whole.iter().any(|column| single.contains(column))).collect())
        }
        LogicalPlan::Window(window) => keys(&window.input).or_else(|| numbered(window)),
        LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Repartition(_) => keys(plan.inputs().first()?),
        LogicalPlan::Extension(extension)
            if matches!(extension.node.name(), "EventTimeWatermark" | "Observe") =>
        {
            keys(plan.inputs().first()?)
        }
        _ => None,
    }
}

fn grouped(aggregate: &Aggregate) -> Option<Vec<Part>> {
    let is_of_sets = matches!(aggregate.group_expr.as_slice(), [Expr::GroupingSet(_)]);
    if is_of_sets || aggregate.group_expr.is_empty() {
        return None;
    }
    let groups = aggregate.group_expr.iter().enumerate();
    Some(groups.map(|(index, expr)| Part { is_window: is_window(expr), ..Part::of(index) }).collect())
}

fn is_window(expr: &Expr) -> bool {
    matches!(WindowCall::of(bare(expr)), Ok(Some(_)))
}

fn first_of_each(distinct: &DistinctOn) -> Option<Vec<Part>> {
    let place = |on: &Expr| distinct.select_expr.iter().position(|expr| bare(expr) == bare(on));
    distinct.on_expr.iter().map(|on| place(on).map(Part::of)).collect()
}

/// Rows that are numbered for each key.
fn numbered(window: &Window) -> Option<Vec<Part>> {
    let below = window.input.schema();
    window.window_expr.iter().enumerate().find_map(|(index, expr)| {
        let Expr::WindowFunction(call) = bare(expr) else { return None };
        let WindowFunctionDefinition::WindowUDF(function) = &call.fun else { return None };
        if function.name() != "row_number" || call.params.partition_by.is_empty() {
            return None;
        }
        let place = |key: &Expr| match bare(key) {
            Expr::Column(column) => below.maybe_index_of_column(column),
            _ => None,
        };
        let keys = call.params.partition_by.iter().map(|key| place(key).map(Part::of));
        keys.chain([Some(Part::of(below.fields().len() + index))]).collect()
    })
}

/// The columns of `input` that have one value in all rows that meet `predicate`: numbers of rows begin with 1.
fn singles(predicate: &Expr, input: &LogicalPlan) -> Vec<usize> {
    let number = |expr: &Expr| match bare(expr) {
        Expr::Literal(value, _) => match value.cast_to(&DataType::Int64) {
            Ok(ScalarValue::Int64(number)) => number,
            _ => None,
        },
        _ => None,
    };
    let single = |expr: &&Expr| {
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = bare(expr) else { return None };
        let (column, number) = match (bare(left), op, bare(right)) {
            (Expr::Column(column), Operator::Eq | Operator::LtEq, right) => (column, number(right)?),
            (Expr::Column(column), Operator::Lt, right) => (column, number(right)? - 1),
            (left, Operator::Eq | Operator::GtEq, Expr::Column(column)) => (column, number(left)?),
            (left, Operator::Gt, Expr::Column(column)) => (column, number(left)? - 1),
            _ => return None,
        };
        let place = input.schema().maybe_index_of_column(column)?;
        (number == 1 && is_number(place, input)).then_some(place)
    };
    split_conjunction(predicate).iter().filter_map(single).collect()
}

/// Whether the column is the number of a row among those of its key.
fn is_number(column: usize, plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Window(window) => {
            let numbers = numbered(window).unwrap_or_default();
            numbers.last().is_some_and(|part| part.whole.contains(&column))
        }
        LogicalPlan::Projection(Projection { expr, input, .. }) => match expr.get(column).map(bare) {
            Some(Expr::Column(below)) => {
                input.schema().maybe_index_of_column(below).is_some_and(|below| is_number(below, input))
            }
            _ => false,
        },
        LogicalPlan::SubqueryAlias(_) | LogicalPlan::Filter(_) | LogicalPlan::Sort(_) => {
            plan.inputs().first().is_some_and(|input| is_number(column, input))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::functions::all_functions;

    #[tokio::test]
    async fn they_are_what_tells_rows_apart() {
        let context = SessionContext::new();
        for function in all_functions() {
            context.register_udf(function.as_ref().clone());
        }
        context.sql("CREATE TABLE t (a INT, b INT, c INT, at TIMESTAMP)").await.unwrap();
        let window = "window(at, '1 minute')";
        for (sql, keys) in [
            ("SELECT a, b, sum(c) AS total FROM t GROUP BY a, b", &["a", "b"][..]),
            ("SELECT sum(c), b AS key FROM t GROUP BY b HAVING sum(c) > 1", &["key"]),
            ("SELECT a % 2 AS odd, count(*) FROM t GROUP BY a % 2", &["odd"]),
            ("SELECT total, b FROM (SELECT b, max(c) AS total FROM t GROUP BY b)", &["b"]),
            // Of two groups with the same b, neither is told apart.
            ("SELECT b, sum(c) FROM t GROUP BY a, b", &[]),
            ("SELECT a, b FROM t", &[]),
            ("SELECT sum(c) FROM t", &[]),
            ("SELECT a, sum(c) FROM t GROUP BY a UNION ALL SELECT b, sum(c) FROM t GROUP BY b", &[]),
            ("SELECT a, unnest([1, 2]) AS u, count(*) FROM t GROUP BY a", &[]),
            ("SELECT a, b, count(*) FROM t GROUP BY GROUPING SETS ((a), (b))", &[]),
            // A window is known by its start, and by its end.
            (
                &format!(
                    "SELECT w.start AS s, w.end AS e, a, n FROM (SELECT {window} AS w, a, count(*) AS n FROM t GROUP BY {window}, a)"
                ),
                &["s", "e", "a"],
            ),
            (&format!("SELECT {window}['start'] AS s, count(*) AS n FROM t GROUP BY {window}"), &["s"]),
            (&format!("SELECT {window} AS w, count(*) AS n FROM t GROUP BY {window}"), &["w"]),
            (&format!("SELECT a, count(*) AS n FROM t GROUP BY {window}, a"), &[]),
            // Sets, and the first rows of each key.
            ("SELECT DISTINCT a, b FROM t", &["a", "b"]),
            ("SELECT DISTINCT ON (a) b, a FROM t ORDER BY a, c", &["a"]),
            ("SELECT DISTINCT ON (a) b FROM t ORDER BY a, c", &[]),
            (
                "SELECT a, c, n FROM (SELECT *, row_number() OVER (PARTITION BY a ORDER BY c) AS n FROM t) WHERE n <= 3",
                &["a", "n"],
            ),
            (
                "SELECT a, c FROM (SELECT *, row_number() OVER (PARTITION BY a ORDER BY c) AS n FROM t) WHERE n = 1",
                &["a"],
            ),
            ("SELECT a, c FROM t QUALIFY row_number() OVER (PARTITION BY a ORDER BY c) < 2", &["a"]),
            (
                "SELECT a, c FROM (SELECT *, row_number() OVER (PARTITION BY a ORDER BY c) AS n FROM t) WHERE n <= 3",
                &[],
            ),
            (
                "SELECT a, c, n FROM (SELECT *, rank() OVER (PARTITION BY a ORDER BY c) AS n FROM t) WHERE n <= 3",
                &[],
            ),
        ] {
            let plan = context.sql(sql).await.unwrap().logical_plan().clone();
            assert_eq!(result_keys(&plan), keys, "{sql}\n{}", plan.display_indent());
        }
    }
}
