//! When the rows of one side of a join can be forgotten: what its condition says of time.
//!
//! A row of one side is of no use any more when no row that can still come to the other side can match it.
//! Rows come there whose event time is above the watermark; so it is enough that the condition bounds that
//! time from above by columns of the row, or that a time has to be equal.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, NullEquality};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{BinaryExpr, Cast, Expr, ExprSchemable, Join, Operator, lit, when};
use datafusion::scalar::ScalarValue;

use crate::functions::{Finality, Span, final_at, interval, literal, reached, tag_of, within_reach};
use crate::plan::barrier::may_change;
use crate::plan::event_time::finality_of;

/// When rows of one side are forgotten, and what follows from it.
#[derive(Debug, Default)]
pub(super) struct Forgetting {
    /// From which watermark on a row can be forgotten, by each of the bounds, over its columns: `i64::MIN`
    /// for a row that nothing can match.
    pub(super) finals: Vec<Expr>,
    /// Over the columns of a row: what it has to fulfil so that anything can match it.
    possible: Vec<Expr>,
    /// Over the columns of the other side: from which watermark on a row is late, because what it might
    /// match is forgotten.
    pub(super) late: Vec<Expr>,
    /// How much longer than until its event time has passed a row is remembered at most, if that is known;
    /// microseconds.
    pub(super) behind: Option<i64>,
}

impl Forgetting {
    /// When a row can be forgotten; `None` if it never can.
    pub(super) fn expiry(&self) -> Option<Expr> {
        let expiry = least(&self.finals)?;
        let Some(possible) = conjunction(self.possible.clone()) else { return Some(expiry) };
        // A CASE with an ELSE can always be made.
        Some(when(possible, expiry.clone()).otherwise(lit(i64::MIN)).unwrap_or(expiry))
    }

    /// When a row of the other side is late; `None` if none ever is.
    pub(super) fn late(&self) -> Option<Expr> {
        least(&self.late)
    }

    /// Forgets rows `ttl` after their event time if nothing else does, although others may still match them. `own` are
    /// their columns, and `delay` is how far behind the watermark their event times may be. Whether that is so.
    pub(super) fn forget_after(&mut self, ttl: i64, own: &DFSchema, delay: i64) -> bool {
        let times = own.columns().into_iter().map(Expr::Column);
        let mut times = times.filter_map(|time| match finality_of(&time, own)? {
            finality @ Finality::After(_) => Some((time, finality)),
            Finality::Window { .. } | Finality::Session { .. } => None,
        });
        match times.next() {
            Some((time, finality)) if self.finals.is_empty() => {
                self.finals.push(final_at(time, &finality, delay.saturating_add(ttl)));
                self.behind = Some(delay.saturating_add(ttl));
                true
            }
            _ => false,
        }
    }

    fn add(&mut self, expiry: Expr, late: Expr, behind: Option<i64>) {
        self.finals.push(expiry);
        if !self.late.contains(&late) {
            self.late.push(late);
        }
        self.behind = match (self.behind, behind) {
            (Some(known), Some(more)) => Some(known.min(more)),
            (known, more) => known.or(more),
        };
    }
}

fn least(times: &[Expr]) -> Option<Expr> {
    match times {
        [] => None,
        [only] => Some(only.clone()),
        several => Some(datafusion::functions::core::expr_fn::least(several.to_vec())),
    }
}

/// One side of a join, as the other sees it.
struct Other<'a> {
    schema: &'a DFSchema,
    /// How far behind the watermark its event times may be.
    delay: i64,
}

/// When the rows of the left side, or of the right, are forgotten. `delays` says how far behind the
/// watermark the event times of each side may be.
pub(super) fn forgetting(join: &Join, of_left: bool, delays: [i64; 2]) -> Forgetting {
    let (own, other, delay) = match of_left {
        true => (join.left.schema(), join.right.schema(), delays[1]),
        false => (join.right.schema(), join.left.schema(), delays[0]),
    };
    let other = Other { schema: other, delay };
    let mut found = Forgetting::default();
    for (left, right) in &join.on {
        let (mine, theirs) = if of_left { (left, right) } else { (right, left) };
        let is_merged = |finality: &Finality| !matches!(finality, Finality::Session { .. });
        let Some(finality) = finality_of(theirs, other.schema).filter(is_merged) else {
            // Such as a time and a length of time. Null is equal to nothing that has a bound.
            if join.null_equality == NullEquality::NullEqualsNothing {
                let bound = Bound { low: theirs.clone(), high: mine.clone(), offset: 0 };
                add_bound(&mut found, bound, own, &other);
            }
            continue;
        };
        let null = match join.null_equality {
            NullEquality::NullEqualsNothing => i64::MIN,
            NullEquality::NullEqualsNull => i64::MAX,
        };
        let when_final = |key: &Expr| final_at(key.clone(), &finality, other.delay);
        let waits = if is_only_time(mine, own) { 0 } else { longest(&finality).max(ahead(mine, own)) };
        let behind = Some(other.delay.saturating_add(waits));
        found.add(known(mine, when_final(mine), null), when_final(theirs), behind);
    }
    for condition in join.filter.iter().flat_map(split_conjunction) {
        if is_of(condition, own) && !may_change(condition) {
            found.possible.push(condition.clone());
        }
        for (low, high) in orders(condition) {
            add_bound(&mut found, Bound { low, high, offset: 0 }, own, &other);
        }
    }
    found
}

/// What `condition` says of which of two is at most the other, loosely.
fn orders(condition: &Expr) -> Vec<(Expr, Expr)> {
    match condition {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (left, right) = (left.as_ref().clone(), right.as_ref().clone());
            match op {
                Operator::Lt | Operator::LtEq => vec![(left, right)],
                Operator::Gt | Operator::GtEq => vec![(right, left)],
                Operator::Eq => vec![(left.clone(), right.clone()), (right, left)],
                _ => Vec::new(),
            }
        }
        Expr::Between(between) if !between.negated => {
            let value = between.expr.as_ref();
            vec![
                (between.low.as_ref().clone(), value.clone()),
                (value.clone(), between.high.as_ref().clone()),
            ]
        }
        _ => Vec::new(),
    }
}

/// `low <= high + offset`, in nanoseconds.
#[derive(Debug)]
struct Bound {
    low: Expr,
    high: Expr,
    offset: i128,
}

/// Adds what `bound` says of the other side's time: that it is at most something of this side.
fn add_bound(found: &mut Forgetting, bound: Bound, own: &DFSchema, other: &Other<'_>) {
    if bound.low.is_volatile() || bound.high.is_volatile() {
        return;
    }
    let Some(Bound { low, high, offset }) = alone(bound, own, other.schema) else { return };
    if !is_of(&low, other.schema) || !is_of(&high, own) {
        return;
    }
    let same_type = match (low.get_type(other.schema), high.get_type(own)) {
        (Ok(DataType::Timestamp(_, low)), Ok(DataType::Timestamp(_, high))) => {
            low.is_some() == high.is_some()
        }
        (Ok(low), Ok(high)) => low == high && offset == 0,
        _ => false,
    };
    let Some(Finality::After(span)) = finality_of(&low, other.schema).filter(|_| same_type) else { return };
    // Rounded up: a row that is remembered for too long does no harm.
    let Ok(offset) = i64::try_from((offset + 999).div_euclid(1_000)) else { return };
    let Some(micros) = span.micros.checked_add(offset).and_then(|sum| sum.checked_add(other.delay)) else {
        return;
    };
    let waits = longest(&Finality::After(Span { micros, ..span.clone() })).saturating_add(ahead(&high, own));
    let behind = finality_of(&high, own).map(|mine| match mine {
        Finality::After(mine) if is_only_time(&high, own) && (mine.months, mine.days) == (0, 0) => {
            waits.saturating_sub(mine.micros)
        }
        _ => waits,
    });
    let late = final_at(low, &Finality::After(span.clone()), other.delay);
    let expiry = final_at(high.clone(), &Finality::After(Span { micros, ..span }), 0);
    found.add(known(&high, expiry, i64::MIN), late, behind);
}

/// Whether `expr` is a column, and there is no other that holds event times in `schema`: its rows have no
/// earlier time that something above could wait for.
fn is_only_time(expr: &Expr, schema: &DFSchema) -> bool {
    let times = schema.fields().iter().filter(|field| tag_of(field).is_some()).count();
    matches!(expr, Expr::Column(_)) && times == 1
}

/// How much later than the earliest time of a row the end of a window in `expr` may be.
fn ahead(expr: &Expr, schema: &DFSchema) -> i64 {
    let mut most = 0;
    // Nothing in it fails.
    let _ = expr.apply(|part| {
        if let Some(Finality::Window { size: Some(size) }) = finality_of(part, schema)
            && !is_only_time(part, schema)
        {
            most = most.max(size);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    most
}

/// How long after the earliest time that it stands for a value is final, in microseconds, at most. Windows
/// of unlike sizes are taken to be final at the times of their rows.
fn longest(finality: &Finality) -> i64 {
    match finality {
        Finality::After(span) => {
            let days = i64::from(span.months) * 31 + i64::from(span.days);
            // A day may have 25 hours.
            days.saturating_mul(25 * 3_600_000_000).saturating_add(span.micros)
        }
        Finality::Window { size } => size.unwrap_or(0),
        Finality::Session { .. } => 0,
    }
}

/// `time`, or `null` where `value` is null.
fn known(value: &Expr, time: Expr, null: i64) -> Expr {
    // A CASE with an ELSE can always be made.
    when(value.clone().is_null(), lit(null)).otherwise(time.clone()).unwrap_or(time)
}

/// Whether all columns of `expr` are of `schema`, and there are some.
fn is_of(expr: &Expr, schema: &DFSchema) -> bool {
    let columns = expr.column_refs();
    !columns.is_empty() && columns.into_iter().all(|column| schema.has_column(column))
}

/// The bound with a time of the other side alone on its lower side, as far as that can be.
fn alone(bound: Bound, own: &DFSchema, other: &DFSchema) -> Option<Bound> {
    let Bound { low, high, offset } = bound;
    let both = Arc::new(own.join(other).ok()?);
    let (low, low_offset) = without_offset(low, &both);
    let (high, high_offset) = without_offset(high, &both);
    let offset = offset.checked_add(high_offset)?.checked_sub(low_offset)?;
    let again = |low, high, offset| alone(Bound { low, high, offset }, own, other);
    // A difference of times on one side, a length on the other.
    match (difference(&low), fixed(&high)) {
        (Some((time, from)), Some(length)) => return again(time, from, offset.checked_add(length)?),
        (Some(_), None) if !is_of(&high, own) && !is_of(&high, other) => return None,
        _ => {}
    }
    if let (Some(length), Some((time, from))) = (fixed(&low), difference(&high)) {
        return again(from, time, offset.checked_sub(length)?);
    }
    Some(Bound { low, high, offset })
}

/// The two times whose difference `expr` is.
fn difference(expr: &Expr) -> Option<(Expr, Expr)> {
    match expr {
        Expr::Cast(Cast { expr, field })
            if matches!(field.data_type(), DataType::Interval(_) | DataType::Duration(_)) =>
        {
            difference(expr)
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Minus, right }) if fixed(right).is_none() => {
            Some((left.as_ref().clone(), right.as_ref().clone()))
        }
        _ => None,
    }
}

/// A time without the lengths of time that are added to it, and their sum in nanoseconds.
fn without_offset(expr: Expr, schema: &DFSchema) -> (Expr, i128) {
    match &expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (time, length) = match (op, fixed(left), fixed(right)) {
                (Operator::Plus, _, Some(length)) => (left, length),
                (Operator::Plus, Some(length), None) => (right, length),
                (Operator::Minus, _, Some(length)) => (left, -length),
                _ => return (expr, 0),
            };
            if !adds_exactly(time, if fixed(right).is_some() { right } else { left }, schema) {
                return (expr, 0);
            }
            let (time, more) = without_offset(time.as_ref().clone(), schema);
            (time, more + length)
        }
        // A cast to a finer unit is exact, before the sum as after it.
        Expr::Cast(Cast { expr: inner, field }) if is_finer(inner, field.data_type(), schema) => {
            let (time, length) = without_offset(inner.as_ref().clone(), schema);
            (Expr::Cast(Cast { expr: Box::new(time), field: Arc::clone(field) }), length)
        }
        Expr::ScalarFunction(call) => match reached(call) {
            Some(inner) => {
                let (time, length) = without_offset(inner.clone(), schema);
                (within_reach(time), length)
            }
            None => (expr, 0),
        },
        _ => (expr, 0),
    }
}

/// Whether `length` added to `time` is always the same length: days are not where clocks change.
fn adds_exactly(time: &Expr, length: &Expr, schema: &DFSchema) -> bool {
    let has_days = match literal(length) {
        Some(ScalarValue::IntervalMonthDayNano(Some(length))) => length.days != 0,
        Some(ScalarValue::IntervalDayTime(Some(length))) => length.days != 0,
        _ => false,
    };
    match time.get_type(schema) {
        Ok(DataType::Timestamp(_, zone)) => {
            let is_utc = zone.is_none_or(|zone| matches!(zone.as_ref(), "UTC" | "+00:00" | "Z"));
            is_utc || !has_days
        }
        _ => false,
    }
}

fn is_finer(inner: &Expr, to: &DataType, schema: &DFSchema) -> bool {
    match (inner.get_type(schema), to) {
        (Ok(DataType::Timestamp(from, zone)), DataType::Timestamp(to, to_zone)) => {
            zone == *to_zone && from <= *to
        }
        _ => false,
    }
}

/// The length of time that a literal says, in nanoseconds, if it is the same wherever it is added.
fn fixed(expr: &Expr) -> Option<i128> {
    let value = literal(expr)?;
    match value {
        ScalarValue::DurationSecond(Some(length)) => Some(i128::from(length) * 1_000_000_000),
        ScalarValue::DurationMillisecond(Some(length)) => Some(i128::from(length) * 1_000_000),
        ScalarValue::DurationMicrosecond(Some(length)) => Some(i128::from(length) * 1_000),
        ScalarValue::DurationNanosecond(Some(length)) => Some(i128::from(length)),
        value => match interval(&value)? {
            (0, nanos) => Some(nanos),
            _ => None,
        },
    }
}
