//! Moving times by a constant.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, IntervalMonthDayNano, Schema, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Literal};
use datafusion::physical_plan::PhysicalExpr;

const NANOS_PER_DAY: i64 = 86_400_000_000_000;

/// `expr` over the columns of `schema`, with durations for constant intervals that move times by as much always.
/// Arrow takes a time apart into year, month and day to add an interval to it, and adds two numbers for a duration.
pub(crate) fn with_durations(
    expr: Arc<dyn PhysicalExpr>,
    schema: &Schema,
) -> DataFusionResult<Arc<dyn PhysicalExpr>> {
    expr.transform(|node| {
        let moved = match node.downcast_ref::<BinaryExpr>() {
            Some(binary) => moved_by_duration(binary, schema)?,
            None => None,
        };
        Ok(moved.map_or_else(|| Transformed::no(node), Transformed::yes))
    })
    .data()
}

fn moved_by_duration(
    binary: &BinaryExpr,
    schema: &Schema,
) -> DataFusionResult<Option<Arc<dyn PhysicalExpr>>> {
    if !matches!(binary.op(), Operator::Plus | Operator::Minus) {
        return Ok(None);
    }
    let Some(ScalarValue::IntervalMonthDayNano(Some(interval))) =
        binary.right().downcast_ref::<Literal>().map(Literal::value)
    else {
        return Ok(None);
    };
    let DataType::Timestamp(unit, zone) = binary.left().data_type(schema)? else { return Ok(None) };
    let Some(duration) = duration(interval, unit, zone.is_some()) else { return Ok(None) };
    let duration = Arc::new(Literal::new(duration));
    Ok(Some(Arc::new(BinaryExpr::new(Arc::clone(binary.left()), *binary.op(), duration))))
}

/// What `interval` always is in `unit`, if it is always the same: months differ, and so do days where clocks are set.
fn duration(interval: &IntervalMonthDayNano, unit: TimeUnit, has_zone: bool) -> Option<ScalarValue> {
    let IntervalMonthDayNano { months, days, nanoseconds } = *interval;
    if months != 0 || (days != 0 && has_zone) {
        return None;
    }
    let nanos = i64::from(days).checked_mul(NANOS_PER_DAY)?.checked_add(nanoseconds)?;
    let whole = |size: i64| (nanos % size == 0).then_some(Some(nanos / size));
    Some(match unit {
        TimeUnit::Second => ScalarValue::DurationSecond(whole(1_000_000_000)?),
        TimeUnit::Millisecond => ScalarValue::DurationMillisecond(whole(1_000_000)?),
        TimeUnit::Microsecond => ScalarValue::DurationMicrosecond(whole(1_000)?),
        TimeUnit::Nanosecond => ScalarValue::DurationNanosecond(whole(1)?),
    })
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use datafusion::arrow::compute::cast;
    use datafusion::arrow::datatypes::Field;
    use datafusion::physical_expr::expressions::Column;
    use proptest::prelude::*;

    use super::*;

    fn moved(time: i64, kind: &DataType, op: Operator, interval: IntervalMonthDayNano) -> [ArrayRef; 2] {
        let schema = Arc::new(Schema::new(vec![Field::new("t", kind.clone(), true)]));
        let times = cast(&Int64Array::from(vec![Some(time), None]), kind).unwrap();
        let rows = RecordBatch::try_new(Arc::clone(&schema), vec![times]).unwrap();
        let interval = Arc::new(Literal::new(ScalarValue::IntervalMonthDayNano(Some(interval))));
        let plain: Arc<dyn PhysicalExpr> =
            Arc::new(BinaryExpr::new(Arc::new(Column::new("t", 0)), op, interval));
        let changed = with_durations(Arc::clone(&plain), &schema).unwrap();
        assert_eq!(changed.data_type(&schema).unwrap(), *kind);
        [plain, changed].map(|expr| expr.evaluate(&rows).unwrap().into_array(2).unwrap())
    }

    proptest! {
        /// With zones that set their clocks, units that an interval has no whole number of, and months.
        #[test]
        fn times_are_moved_as_arrow_moves_them(
            time in -4_000_000_000i64..4_000_000_000,
            (months, days) in prop_oneof![3 => Just((0, 0)), 2 => (Just(0), -40i32..40), 1 => (-30i32..30, -3i32..3)],
            nanoseconds in prop_oneof![any::<i32>().prop_map(i64::from), (-9_000i64..9_000).prop_map(|s| s * 1_000_000_000)],
            unit in prop_oneof![
                Just(TimeUnit::Second), Just(TimeUnit::Millisecond), Just(TimeUnit::Microsecond), Just(TimeUnit::Nanosecond)
            ],
            zone in prop_oneof![Just(None), Just(Some("+00:00")), Just(Some("Europe/Berlin"))],
            op in prop_oneof![Just(Operator::Plus), Just(Operator::Minus)],
        ) {
            let kind = DataType::Timestamp(unit, zone.map(Into::into));
            let interval = IntervalMonthDayNano { months, days, nanoseconds };
            let [plain, changed] = moved(time, &kind, op, interval);
            prop_assert_eq!(&plain, &changed);
        }
    }

    #[test]
    fn seconds_are_added_as_numbers() {
        let schema =
            Schema::new(vec![Field::new("t", DataType::Timestamp(TimeUnit::Microsecond, None), true)]);
        let interval = IntervalMonthDayNano { months: 0, days: 1, nanoseconds: 10_000 };
        let interval = Arc::new(Literal::new(ScalarValue::IntervalMonthDayNano(Some(interval))));
        let plain = Arc::new(BinaryExpr::new(Arc::new(Column::new("t", 0)), Operator::Plus, interval));
        let changed = with_durations(plain, &schema).unwrap();
        let literal = changed.children()[1].downcast_ref::<Literal>().unwrap().value().clone();
        assert_eq!(literal, ScalarValue::DurationMicrosecond(Some(86_400_000_010)));
    }
}
