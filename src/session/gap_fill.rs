//! `GAP_FILL(TABLE t, DESCRIPTOR(time), step, DESCRIPTOR(key, …) [, LOCF => DESCRIPTOR(column, …)])`: the rows of a table,
//! and between two of one key a row for each step that is missing.
//!
//! A row is followed by those that fill the gap to the next one, so that it is known when that is there: the next row's
//! time is its `lead`, and the times up to it are a `range`.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, IntervalUnit};
use datafusion::common::{Column, ScalarValue, UnnestOptions, plan_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::planner::RelationPlannerContext;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, cast, when};
use datafusion::sql::sqlparser::ast::{Expr as SqlExpr, Value};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use crate::functions::literal;

/// What a call says.
pub(super) struct GapFill<'a> {
    pub(super) time: Expr,
    pub(super) step: &'a SqlExpr,
    /// Rows of which columns are filled between.
    pub(super) keys: Vec<Column>,
    /// Which other columns have the values of the row before in rows that fill gaps; the rest are null.
    pub(super) carried: Vec<Column>,
}

/// The column of a row's successor, and that of the times up to it.
const NEXT: &str = "__gap_next";
const TIMES: &str = "__gap_times";

impl GapFill<'_> {
    /// The rows of `input` and those that are missing between them.
    pub(super) fn over(
        self,
        input: LogicalPlan,
        context: &mut dyn RelationPlannerContext,
    ) -> DataFusionResult<LogicalPlan> {
        let Expr::Column(time) = &self.time else {
            return plan_err!("the time of GAP_FILL is to be a column, not {}", self.time);
        };
        let time_type = self.time.get_type(input.schema())?;
        if !matches!(time_type, DataType::Timestamp(..) | DataType::Date32) {
            return plan_err!(
                "the time of GAP_FILL is to be a TIMESTAMP or a DATE, and '{time}' is {time_type}"
            );
        }
        let step = interval_text(self.step);
        check_step(&context.sql_to_expr(parsed(&step)?, input.schema())?, self.step, &time_type)?;
        let columns = input.schema().columns();
        let partition = match self.keys.as_slice() {
            [] => String::new(),
            keys => format!("PARTITION BY {} ", keys.iter().map(written).collect::<Vec<_>>().join(", ")),
        };
        let next = format!("lead({0}) OVER ({partition}ORDER BY {0})", written(time));
        let next = context.sql_to_expr(parsed(&next)?, input.schema())?;
        let called = next.schema_name().to_string();
        let rows = LogicalPlanBuilder::from(input).window(vec![next])?;
        let own = columns.iter().cloned().map(Expr::Column);
        let next = Expr::Column(Column::new_unqualified(called)).alias(NEXT);
        let rows = rows.project(own.clone().chain([next]).collect::<Vec<_>>())?;

        let time_text = written(time);
        let times = format!(
            "range({time_text}, CASE WHEN {NEXT} > {time_text} THEN {NEXT} ELSE {time_text} + {step} END, {step})"
        );
        let times = context.sql_to_expr(parsed(&times)?, rows.schema())?.alias(TIMES);
        let rows = rows
            .project(own.chain([times]).collect::<Vec<_>>())?
            .unnest_column_with_options(TIMES, UnnestOptions::new().with_preserve_nulls(true))?;

        let schema = Arc::clone(rows.schema());
        let filled = Expr::Column(Column::new_unqualified(TIMES));
        let filled = cast(filled, self.time.get_type(&schema)?);
        // A row without a time is followed by none.
        let is_own = Expr::IsNotFalse(Box::new(Expr::Column(time.clone()).eq(filled.clone())));
        let columns = columns.into_iter().map(|column| {
            if column == *time {
                return Ok(filled.clone().alias_qualified(column.relation.clone(), &column.name));
            }
            if self.keys.contains(&column) || self.carried.contains(&column) {
                return Ok(Expr::Column(column));
            }
            let value = when(is_own.clone(), Expr::Column(column.clone())).end()?;
            Ok(value.alias_qualified(column.relation.clone(), &column.name))
        });
        let columns = columns.collect::<DataFusionResult<Vec<_>>>()?;
        rows.project(columns)?.build()
    }
}

/// Fails if times would not become later by `step`, each time.
fn check_step(step: &Expr, written: &SqlExpr, time_type: &DataType) -> DataFusionResult<()> {
    let length =
        literal(step).and_then(|step| step.cast_to(&DataType::Interval(IntervalUnit::MonthDayNano)).ok());
    let Some(ScalarValue::IntervalMonthDayNano(Some(length))) = length else {
        return plan_err!(
            "the step of GAP_FILL is to be a length of time such as INTERVAL '1' MINUTE, not {written}"
        );
    };
    let parts = [i64::from(length.months), i64::from(length.days), length.nanoseconds];
    if parts.iter().any(|part| *part < 0) || parts == [0; 3] {
        return plan_err!("the step of GAP_FILL must be greater than 0, not {written}");
    }
    if *time_type == DataType::Date32 && length.nanoseconds != 0 {
        return plan_err!(
            "the step of GAP_FILL between dates is to be of whole days or months, not {written}"
        );
    }
    Ok(())
}

/// A length of time, which may be text, as SQL has it.
fn interval_text(step: &SqlExpr) -> String {
    match step {
        SqlExpr::Value(value) if matches!(value.value, Value::SingleQuotedString(_)) => {
            format!("INTERVAL {step}")
        }
        step => step.to_string(),
    }
}

/// A column as SQL has it.
fn written(column: &Column) -> String {
    column.quoted_flat_name()
}

fn parsed(text: &str) -> DataFusionResult<SqlExpr> {
    Ok(Parser::new(&GenericDialect {}).try_with_sql(text)?.parse_expr()?)
}
