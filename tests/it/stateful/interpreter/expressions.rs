//! What expressions and aggregates are of rows.

use std::collections::BTreeSet;

use super::super::model::{Agg, Expr, unit};
use super::super::values::{Row, Value};
use super::Names;

/// Floor division, for times before 1970.
pub(super) fn floor(value: i64, length: i64) -> i64 {
    value - value.rem_euclid(length)
}

pub fn eval(expr: &Expr, row: &[Value], names: &Names) -> Value {
    match expr {
        Expr::Col(name) => {
            let position = names.iter().position(|(column, _)| column == name);
            row[position.unwrap_or_else(|| panic!("no column {name} in {names:?}"))].clone()
        }
        Expr::Int(value) => Value::Int(*value),
        Expr::Text(text) => Value::Text(text.clone()),
        Expr::IsNull(inner) => Value::Bool(eval(inner, row, names).is_null()),
        Expr::Op(left, operator, right) => {
            let (left, right) = (eval(left, row, names), eval(right, row, names));
            if left.is_null() || right.is_null() {
                // `FALSE AND NULL` is false, which a filter takes as null, too.
                return Value::Null;
            }
            match (*operator, &left, &right) {
                ("+", Value::Int(a), Value::Int(b)) => Value::Int(a + b),
                ("%", Value::Int(a), Value::Int(b)) => Value::Int(a % b),
                ("AND", Value::Bool(a), Value::Bool(b)) => Value::Bool(*a && *b),
                (">", a, b) => Value::Bool(a > b),
                ("<", a, b) => Value::Bool(a < b),
                ("=", a, b) => Value::Bool(a == b),
                ("<>", a, b) => Value::Bool(a != b),
                other => panic!("no operator {other:?}"),
            }
        }
        Expr::Bin(length, time) => match eval(time, row, names) {
            Value::Time(time) => Value::Time(floor(time, *length)),
            _ => Value::Null,
        },
        Expr::Trunc(name, time) => match eval(time, row, names) {
            Value::Time(time) => Value::Time(floor(time, unit(name))),
            _ => Value::Null,
        },
        Expr::Part(window, part) => match eval(window, row, names) {
            Value::List(ends) => ends[usize::from(*part == "end")].clone(),
            _ => Value::Null,
        },
        Expr::WindowTime(window) => match eval(window, row, names) {
            Value::List(ends) => Value::Time(ends[1].int().unwrap() - 1),
            _ => Value::Null,
        },
    }
}

pub(super) fn is_true(expr: &Expr, row: &[Value], names: &Names) -> bool {
    eval(expr, row, names) == Value::Bool(true)
}

/// The windows of a time, as (start, end).
pub fn windows(time: i64, size: i64, slide: i64, start: i64) -> Vec<(i64, i64)> {
    let last = start + floor(time - start, slide);
    let starts = (0..).map(|back| last - back * slide).take_while(|start| start + size > time);
    starts.map(|start| (start, start + size)).collect()
}

/// The value of an aggregate over `rows`, in the order in which they came.
pub(super) fn compute(agg: &Agg, rows: &[Row], names: &Names) -> Value {
    let rows = rows.iter().filter(|row| agg.filter.as_ref().is_none_or(|f| is_true(f, row, names)));
    let Some(argument) = &agg.argument else { return Value::Int(rows.count() as i64) };
    let mut all: Vec<Value> = rows.map(|row| eval(argument, row, names)).collect();
    if agg.distinct {
        let mut seen = BTreeSet::new();
        all.retain(|value| seen.insert(value.clone()));
    }
    let values: Vec<Value> = all.iter().filter(|value| !value.is_null()).cloned().collect();
    let floats: Vec<f64> = values.iter().filter_map(Value::float).collect();
    let number = floats.len() as f64;
    let mean = floats.iter().sum::<f64>() / number;
    let squares = floats.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    let bools = || values.iter().map(|value| *value == Value::Bool(true));
    match agg.function {
        "count" => Value::Int(values.len() as i64),
        "min" => values.into_iter().min().unwrap_or(Value::Null),
        "max" => values.into_iter().max().unwrap_or(Value::Null),
        "first_value" => all.first().cloned().unwrap_or(Value::Null),
        "last_value" => all.last().cloned().unwrap_or(Value::Null),
        "array_agg" if all.is_empty() => Value::Null,
        "array_agg" => Value::List(all),
        _ if values.is_empty() => Value::Null,
        "sum" => match values[0] {
            Value::Int(_) => Value::Int(values.iter().filter_map(Value::int).sum()),
            _ => Value::Float(floats.iter().sum()),
        },
        "avg" => Value::Float(mean),
        "stddev" if floats.len() < 2 => Value::Null,
        "stddev" => Value::Float((squares / (number - 1.0)).sqrt()),
        "var_pop" => Value::Float(squares / number),
        "median" => {
            let mut floats = floats;
            floats.sort_by(f64::total_cmp);
            let middle = floats.len() / 2;
            let low = if floats.len().is_multiple_of(2) { floats[middle - 1] } else { floats[middle] };
            Value::Float((low + floats[middle]) / 2.0)
        }
        "bool_and" => Value::Bool(bools().all(|value| value)),
        "bool_or" => Value::Bool(bools().any(|value| value)),
        "string_agg" => {
            let texts = values.iter().map(|value| match value {
                Value::Text(text) => text.as_str(),
                other => panic!("{other:?} is no text"),
            });
            Value::Text(texts.collect::<Vec<_>>().join("-"))
        }
        other => panic!("no aggregate {other}"),
    }
}
