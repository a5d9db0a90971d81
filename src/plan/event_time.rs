//! Which columns and expressions are event times, and when their values are final.
//!
//! A watermark tags its column in the schema; the tag survives whatever hands the column on. The
//! functions of DataFusion that round times down drop it, and casts keep it although they round, too:
//! both are understood here by looking at the expression.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ExprSchema, ScalarValue};
use datafusion::logical_expr::expr::{Cast, ScalarFunction, TryCast};
use datafusion::logical_expr::{Expr, ExprSchemable};

use crate::functions::{
    Finality, NANOS_PER_DAY, Span, WINDOW_END, WINDOW_START, described_value, final_at, interval,
    is_event_time_function, literal, reached, tag_of, unit_micros, unit_nanos,
};

/// Half-hour changes of its clocks make hours that last one and a half.
const ZONES_OF_UNEVEN_HOURS: [&str; 2] = ["Australia/Lord_Howe", "Australia/LHI"];

/// A key of a group, or of a deduplicated row, that becomes final as the watermark advances.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct EventTimeKey {
    raw: Expr,
    finality: Finality,
    /// How long after the watermark has passed their event time rows may come, in microseconds.
    delay: i64,
}

impl EventTimeKey {
    /// Over the raw input: the watermark in microseconds since the epoch (Int64) from which on a row
    /// is late, because its key is final. Null if the key is null.
    pub(crate) fn final_at_raw(&self) -> Expr {
        self.final_at_key(self.raw.clone())
    }

    /// The same, from the value of the key.
    pub(crate) fn final_at_key(&self, key: Expr) -> Expr {
        final_at(key, &self.finality, self.delay)
    }

    /// The same key of rows that may come so many microseconds after the watermark has passed their event
    /// time.
    pub(crate) fn delayed(self, delay: i64) -> Self {
        Self { delay, ..self }
    }

    /// What the column of the key is tagged with.
    #[cfg(test)]
    pub(crate) fn tag(&self) -> &Finality {
        &self.finality
    }
}

/// `expr`, a key over rows of `schema`, if it becomes final as the watermark advances.
pub(crate) fn event_time_key(expr: &Expr, schema: &DFSchema) -> Option<EventTimeKey> {
    let finality =
        finality_of(expr, schema).filter(|finality| *finality != Finality::Session { timed: false })?;
    Some(EventTimeKey { raw: expr.clone().unalias(), finality, delay: 0 })
}

/// When the values of `expr` over rows of `schema` are final, if they ever are.
pub(crate) fn finality_of(expr: &Expr, schema: &DFSchema) -> Option<Finality> {
    match expr {
        Expr::Column(column) => tag_of(schema.field_from_column(column).ok()?),
        Expr::Alias(alias) => match &alias.metadata {
            // The metadata of an alias is added to that of the expression.
            Some(metadata) if metadata.inner().contains_key(crate::functions::TAG) => {
                tag_of(&expr.to_field(schema).ok()?.1)
            }
            _ => finality_of(&alias.expr, schema),
        },
        Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field }) => {
            let from = expr.get_type(schema).ok()?;
            cast(finality_of(expr, schema)?, &from, field.data_type())
        }
        Expr::ScalarFunction(call) if described_value(call).is_some() => {
            finality_of(described_value(call)?, schema)
        }
        Expr::ScalarFunction(call) if reached(call).is_some() => {
            let (time, to) = (reached(call)?, expr.get_type(schema).ok()?);
            cast(finality_of(time, schema)?, &time.get_type(schema).ok()?, &to)
        }
        Expr::ScalarFunction(call) => match call.func.name() {
            "date_bin" => date_bin(call, schema),
            "date_trunc" => date_trunc(call, schema),
            "get_field" => get_field(call, schema),
            "arrow_cast" => {
                let [time, _] = call.args.as_slice() else { return None };
                let to = expr.get_type(schema).ok()?;
                cast(finality_of(time, schema)?, &time.get_type(schema).ok()?, &to)
            }
            _ if is_event_time_function(&call.func) => tag_of(&expr.to_field(schema).ok()?.1),
            _ => None,
        },
        _ => None,
    }
}

/// What remains of `finality` when values of type `from` are cast to `to`.
fn cast(finality: Finality, from: &DataType, to: &DataType) -> Option<Finality> {
    if from == to {
        return Some(finality);
    }
    let Finality::After(mut span) = finality else { return None };
    match (from, to) {
        (DataType::Timestamp(unit, zone), DataType::Timestamp(to_unit, to_zone)) => {
            if zone.is_none() && to_zone.as_deref().is_some_and(|zone| !is_utc(zone)) {
                // The cast takes times of no zone for times of that zone: other instants.
                return None;
            }
            // Days and months are still counted in the zone they were counted in.
            if zone != to_zone && (span.days, span.months) != (0, 0) && span.zone.is_none() {
                span.zone = Some(zone.as_deref().unwrap_or("UTC").to_string());
            }
            if unit_nanos(*to_unit) > unit_nanos(*unit) {
                span.micros = span.micros.checked_add(unit_micros(*to_unit))?;
            }
        }
        (DataType::Timestamp(_, zone), DataType::Date32) => {
            let zone = zone.as_deref().unwrap_or("UTC");
            if span.zone.as_deref().is_some_and(|counted| counted != zone) {
                return None;
            }
            span.zone = Some(zone.to_string());
            // A day or a month that began at midnight is still the same one.
            if span.micros != 0 || (span.days, span.months) == (0, 0) {
                span.days = span.days.checked_add(1)?;
            }
        }
        (DataType::Date32, DataType::Timestamp(_, None)) if span.zone.as_deref().is_some_and(is_utc) => {
            span.zone = None;
        }
        _ => return None,
    }
    Some(Finality::After(span))
}

fn is_utc(zone: &str) -> bool {
    matches!(zone, "UTC" | "+00:00" | "Z" | "utc" | "Etc/UTC")
}

/// `date_bin(interval, time[, origin])` gives the start of a bin, which is final one interval later.
fn date_bin(call: &ScalarFunction, schema: &DFSchema) -> Option<Finality> {
    let [stride, time, origin @ ..] = call.args.as_slice() else { return None };
    let DataType::Timestamp(unit, zone) = time.get_type(schema).ok()? else { return None };
    let origin = match origin.first() {
        None => 0,
        Some(origin) => match literal(origin)? {
            ScalarValue::TimestampNanosecond(Some(nanos), _) => nanos,
            _ => return None,
        },
    };
    let mut rounded = match interval(&literal(stride)?)? {
        (0, nanos) => {
            // Bins that do not start on a tick of the column are given a start they do not have.
            let tick = i128::from(unit_nanos(unit));
            if nanos <= 0 || nanos % tick != 0 || i128::from(origin) % tick != 0 {
                return None;
            }
            if nanos % NANOS_PER_DAY == 0 && i128::from(origin) % NANOS_PER_DAY == 0 {
                // Such bins start at midnight, which a cast to a date does not change.
                Span { days: i32::try_from(nanos / NANOS_PER_DAY).ok()?, ..Span::default() }
            } else {
                Span::micros(i64::try_from((nanos + 999) / 1_000).ok()?)
            }
        }
        (months, 0) if months > 0 && starts_in_every_month(origin) => Span { months, ..Span::default() },
        _ => return None,
    };
    if (rounded.months, rounded.days) != (0, 0) && zone.is_some_and(|zone| !is_utc(&zone)) {
        rounded.zone = Some("UTC".into());
    }
    round(finality_of(time, schema)?, rounded)
}

/// Whether there is such a day in every month, so that the bins of months lie side by side.
fn starts_in_every_month(origin: i64) -> bool {
    use chrono::Datelike;
    chrono::DateTime::from_timestamp_nanos(origin).day() <= 28
}

/// `date_trunc(unit, time)` gives the start of the unit, which is final one unit later.
fn date_trunc(call: &ScalarFunction, schema: &DFSchema) -> Option<Finality> {
    let [unit, time] = call.args.as_slice() else { return None };
    let DataType::Timestamp(column_unit, zone) = time.get_type(schema).ok()? else { return None };
    let finality = finality_of(time, schema)?;
    let unit = literal(unit)?.try_as_str()??.to_lowercase();
    let micros = |micros: i64| Span::micros(micros);
    let days = |days: i32| Span { days, ..Span::default() };
    let months = |months: i32| Span { months, ..Span::default() };
    let rounded = match unit.as_str() {
        "microsecond" => micros(1),
        "millisecond" => micros(1_000),
        "second" => micros(1_000_000),
        "minute" => micros(60_000_000),
        "hour" if zone.as_deref().is_some_and(|zone| ZONES_OF_UNEVEN_HOURS.contains(&zone)) => return None,
        "hour" => micros(3_600_000_000),
        "day" => days(1),
        "week" => days(7),
        "month" => months(1),
        "quarter" => months(3),
        "year" => months(12),
        _ => return None,
    };
    let changes_nothing = rounded.months == 0
        && rounded.days == 0
        && rounded
            .micros
            .checked_mul(1_000_000_000 / unit_nanos(column_unit))
            .is_some_and(|t| t <= 1_000_000);
    if changes_nothing { Some(finality) } else { round(finality, rounded) }
}

/// When times are final that are rounded down to multiples of `rounded`, from times of `finality`.
fn round(finality: Finality, rounded: Span) -> Option<Finality> {
    let Finality::After(span) = finality else { return None };
    if span == Span::default() {
        return Some(Finality::After(rounded));
    }
    // Only microseconds can be added without regard to what the others are relative to.
    let is_fixed = span == Span::micros(span.micros);
    let micros = rounded.micros.checked_add(span.micros)?;
    is_fixed.then_some(Finality::After(Span { micros, ..rounded }))
}

/// A field of a window.
fn get_field(call: &ScalarFunction, schema: &DFSchema) -> Option<Finality> {
    let [window, name] = call.args.as_slice() else { return None };
    let Finality::Window { size } = finality_of(window, schema)? else { return None };
    match literal(name)?.try_as_str()?? {
        WINDOW_END => Some(Finality::at_once()),
        WINDOW_START => Some(Finality::After(Span::micros(size?))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::{Field, Int64Type, TimeUnit};
    use datafusion::prelude::SessionContext;

    use super::*;

    const ZONES: [(&str, Option<&str>); 4] = [
        ("ts", None),
        ("utc", Some("+00:00")),
        ("berlin", Some("Europe/Berlin")),
        ("howe", Some("Australia/Lord_Howe")),
    ];

    /// Event times of every kind, and `plain`, which is none.
    fn schema() -> DFSchema {
        let tag = Finality::metadata(Some(&Finality::at_once()));
        let mut fields: Vec<Field> = ZONES
            .map(|(name, zone)| {
                let data_type = DataType::Timestamp(TimeUnit::Millisecond, zone.map(Into::into));
                Field::new(name, data_type, true).with_metadata(tag.clone())
            })
            .to_vec();
        let seconds = DataType::Timestamp(TimeUnit::Second, None);
        fields.push(Field::new("seconds", seconds.clone(), true).with_metadata(tag));
        fields.push(Field::new("plain", seconds.clone(), true));
        let window = vec![Field::new("start", seconds.clone(), true), Field::new("end", seconds, true)];
        let size = Finality::Window { size: Some(600_000_000) };
        fields.push(
            Field::new("w", DataType::Struct(window.into()), true)
                .with_metadata(Finality::metadata(Some(&size))),
        );
        DFSchema::from_unqualified_fields(fields.into(), HashMap::new()).unwrap()
    }

    fn tag(sql: &str) -> String {
        let schema = schema();
        let context = SessionContext::new();
        let expr = context.parse_sql_expr(sql, &schema).unwrap();
        finality_of(&expr, &schema).map_or_else(|| "none".into(), |finality| finality.to_string())
    }

    #[test]
    fn roundings_are_recognised() {
        for (sql, expected) in [
            ("ts", "0"),
            ("plain", "none"),
            ("date_bin(INTERVAL '10 minutes', plain)", "none"),
            ("date_bin(INTERVAL '10 minutes', ts)", "+600000000us"),
            ("date_bin(INTERVAL '10 minutes', berlin)", "+600000000us"),
            ("date_bin(INTERVAL '10 minutes', ts, TIMESTAMP '2024-01-01T00:05:00')", "+600000000us"),
            ("date_bin(INTERVAL '2 days', ts)", "+2day"),
            ("date_bin(INTERVAL '1 day', berlin)", "+1day@UTC"),
            ("date_bin(INTERVAL '1 day', ts, TIMESTAMP '2024-01-01T12:00:00')", "+86400000000us"),
            ("date_bin(INTERVAL '1 month', ts)", "+1mon"),
            ("date_bin(INTERVAL '1 year', berlin)", "+12mon@UTC"),
            // Bins of months from the 31st have ends of their own.
            ("date_bin(INTERVAL '1 month', ts, TIMESTAMP '2024-01-31T00:00:00')", "none"),
            // Starts that are no whole milliseconds, or no whole seconds, are cut off.
            ("date_bin(INTERVAL '1500 microseconds', ts)", "none"),
            ("date_bin(INTERVAL '1900 milliseconds', seconds)", "none"),
            ("date_bin(INTERVAL '10 seconds', seconds, TIMESTAMP '2024-01-01T00:00:00.5')", "none"),
            ("date_bin(INTERVAL '2 seconds', seconds)", "+2000000us"),
            ("date_trunc('hour', ts)", "+3600000000us"),
            ("date_trunc('HOUR', berlin)", "+3600000000us"),
            ("date_trunc('hour', howe)", "none"),
            ("date_trunc('week', ts)", "+7day"),
            ("date_trunc('day', berlin)", "+1day"),
            ("date_trunc('quarter', ts)", "+3mon"),
            ("date_trunc('second', seconds)", "0"),
            ("date_trunc('millisecond', ts)", "0"),
            ("date_trunc('second', ts)", "+1000000us"),
            ("date_trunc('hour', date_bin(INTERVAL '10 minutes', ts))", "+4200000000us"),
            ("date_trunc('hour', date_trunc('day', ts))", "none"),
            ("ts + INTERVAL '1 hour'", "none"),
            ("w", "window+600000000us"),
            ("w['end']", "0"),
            ("w['start']", "+600000000us"),
            ("date_trunc('hour', w['end'])", "+3600000000us"),
        ] {
            assert_eq!(tag(sql), expected, "{sql}");
        }
    }

    #[test]
    fn casts_round_too() {
        for (sql, expected) in [
            ("CAST(ts AS DATE)", "+1day@UTC"),
            ("CAST(berlin AS DATE)", "+1day@Europe/Berlin"),
            ("CAST(date_trunc('day', ts) AS DATE)", "+1day@UTC"),
            ("CAST(date_trunc('month', berlin) AS DATE)", "+1mon@Europe/Berlin"),
            ("CAST(date_bin(INTERVAL '1 day', berlin) AS DATE)", "none"),
            ("CAST(date_bin(INTERVAL '10 minutes', ts) AS DATE)", "+1day+600000000us@UTC"),
            ("CAST(CAST(ts AS DATE) AS TIMESTAMP)", "+1day"),
            ("CAST(CAST(berlin AS DATE) AS TIMESTAMP)", "none"),
            ("CAST(ts AS TIMESTAMP(9))", "0"),
            ("CAST(ts AS TIMESTAMP(0))", "+1000000us"),
            ("arrow_cast(ts, 'Timestamp(Second, None)')", "+1000000us"),
            ("arrow_cast(ts, 'Timestamp(Second, Some(\"Asia/Tokyo\"))')", "none"),
            ("to_timestamp_seconds(ts)", "none"),
            ("CAST(ts AS VARCHAR)", "none"),
            ("CAST(ts AS BIGINT)", "none"),
            ("TRY_CAST(ts AS DATE)", "+1day@UTC"),
        ] {
            assert_eq!(tag(sql), expected, "{sql}");
        }
    }

    #[test]
    fn casts_between_zones_keep_the_instant_or_are_unknown() {
        let schema = schema();
        let to = |zone: Option<&str>| DataType::Timestamp(TimeUnit::Millisecond, zone.map(Into::into));
        let trunc = |column: &str| {
            let context = SessionContext::new();
            context.parse_sql_expr(&format!("date_trunc('day', {column})"), &schema).unwrap()
        };
        let column = |name: &str| Expr::Column(name.into());
        for (expr, zone, expected) in [
            (column("ts"), Some("Europe/Berlin"), "none"),
            (column("ts"), Some("UTC"), "0"),
            (column("berlin"), None, "0"),
            (column("berlin"), Some("Asia/Tokyo"), "0"),
            (trunc("berlin"), Some("Asia/Tokyo"), "+1day@Europe/Berlin"),
            (trunc("ts"), Some("UTC"), "+1day@UTC"),
        ] {
            let cast = Expr::Cast(Cast::new(Box::new(expr), to(zone)));
            let found = finality_of(&cast, &schema).map_or_else(|| "none".into(), |tag| tag.to_string());
            assert_eq!(found, expected, "{cast}");
        }
    }

    /// The rule behind every tag: when a key is final, no time is still to come that has this key.
    #[tokio::test]
    async fn no_row_comes_after_its_key_is_final() {
        let context = SessionContext::new();
        for (name, zone) in ZONES {
            let zone = zone.map_or_else(|| "None".to_string(), |zone| format!("Some(\"{zone}\")"));
            let rows = format!(
                "SELECT ms * 1000 AS t, arrow_cast(ms, 'Timestamp(Millisecond, {zone})') AS {name} \
                 FROM (SELECT value * 17000051 - 900000000000 AS ms FROM generate_series(1, 50000))"
            );
            for key in [
                format!("date_bin(INTERVAL '7 hours', {name})"),
                format!("date_bin(INTERVAL '3 days', {name}, TIMESTAMP '2001-01-01T05:00:00')"),
                format!("date_bin(INTERVAL '2 months', {name})"),
                format!("date_trunc('hour', {name})"),
                format!("date_trunc('day', {name})"),
                format!("date_trunc('week', {name})"),
                format!("date_trunc('month', {name})"),
                format!("date_trunc('quarter', {name})"),
                format!("CAST({name} AS DATE)"),
                format!("CAST({name} AS TIMESTAMP(0))"),
                format!("CAST(date_trunc('month', {name}) AS DATE)"),
                format!("CAST(date_bin(INTERVAL '5 hours', {name}) AS DATE)"),
            ] {
                let expr = context.parse_sql_expr(&key, &schema()).unwrap();
                let Some(found) = event_time_key(&expr, &schema()) else {
                    let unknown =
                        ["date_trunc('hour', howe)", "CAST(date_bin(INTERVAL '5 hours', berlin) AS DATE)"];
                    assert!(unknown.contains(&key.as_str()) || name == "howe", "{key}");
                    continue;
                };
                let rows = context.sql(&rows).await.unwrap();
                let columns = vec![Expr::Column("t".into()), found.final_at_raw()];
                let mut checked = 0;
                for batch in rows.select(columns).unwrap().collect().await.unwrap() {
                    let [times, finals] =
                        [0, 1].map(|i| batch.column(i).as_primitive::<Int64Type>().values());
                    for (time, last) in times.iter().zip(finals) {
                        assert!(time <= last, "{key}: a row of {time} has a key that is final at {last}");
                        assert!(last - time <= 93 * 86_400_000_000, "{key}: {time} waits until {last}");
                        checked += 1;
                    }
                }
                assert_eq!(checked, 50_000);
            }
        }
    }
}
