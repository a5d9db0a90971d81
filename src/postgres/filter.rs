//! Conditions that the server evaluates: those that give the same there as here.

use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Operator};

use super::server::{literal, quoted};

/// What a column is, as far as conditions are concerned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Comparable {
    /// Values are in the same order there and here.
    Ordered,
    /// Only whether two are the same is: texts, whose order is a matter of their collation.
    Same,
    /// Neither: floating-point numbers, of which two zeros are one there, and what is sent in another form.
    Not,
}

/// `expr` as the server understands it, if it gives the same there. `comparable` knows the columns of the table.
pub(super) fn condition(expr: &Expr, comparable: &impl Fn(&str) -> Option<Comparable>) -> Option<String> {
    let both =
        |left: &Expr, right: &Expr| Some((condition(left, comparable)?, condition(right, comparable)?));
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let (left, right) = both(left, right)?;
            Some(format!("({left} {op} {right})"))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            compared(left, *op, right, comparable).or_else(|| compared(right, op.swap()?, left, comparable))
        }
        Expr::Not(inner) => Some(format!("(NOT {})", condition(inner, comparable)?)),
        Expr::IsNull(inner) => Some(format!("({} IS NULL)", column(inner, comparable)?.0)),
        Expr::IsNotNull(inner) => Some(format!("({} IS NOT NULL)", column(inner, comparable)?.0)),
        Expr::Column(Column { name, .. }) => {
            // A truth value by itself.
            (comparable(name)? == Comparable::Ordered).then(|| quoted(name))
        }
        Expr::InList(InList { expr, list, negated }) => {
            let (name, of) = column(expr, comparable)?;
            let list = list.iter().map(value).collect::<Option<Vec<_>>>()?;
            let is_in = if *negated { "NOT IN" } else { "IN" };
            (of != Comparable::Not && !list.is_empty())
                .then(|| format!("({name} {is_in} ({}))", list.join(", ")))
        }
        Expr::Between(Between { expr, negated, low, high }) => {
            let (name, of) = column(expr, comparable)?;
            let (low, high) = (value(low)?, value(high)?);
            let between = if *negated { "NOT BETWEEN" } else { "BETWEEN" };
            (of == Comparable::Ordered).then(|| format!("({name} {between} {low} AND {high})"))
        }
        _ => None,
    }
}

fn compared(
    left: &Expr,
    op: Operator,
    right: &Expr,
    comparable: &impl Fn(&str) -> Option<Comparable>,
) -> Option<String> {
    let (name, of) = column(left, comparable)?;
    let needs = match op {
        Operator::Eq | Operator::NotEq | Operator::IsDistinctFrom | Operator::IsNotDistinctFrom => {
            Comparable::Same
        }
        Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => Comparable::Ordered,
        _ => return None,
    };
    let op = if op == Operator::NotEq { "<>".to_string() } else { op.to_string() };
    let is_known = of == Comparable::Ordered || (of == needs && of == Comparable::Same);
    let value = value(right)?;
    is_known.then(|| format!("({name} {op} {value})"))
}

fn column(expr: &Expr, comparable: &impl Fn(&str) -> Option<Comparable>) -> Option<(String, Comparable)> {
    match expr {
        Expr::Column(Column { name, .. }) => Some((quoted(name), comparable(name)?)),
        _ => None,
    }
}

/// A constant, with its type where that matters.
fn value(expr: &Expr) -> Option<String> {
    let Expr::Literal(value, _) = expr else { return None };
    let text = |value: &ScalarValue| value.cast_to(&datafusion::arrow::datatypes::DataType::Utf8).ok();
    Some(match value {
        value if value.is_null() => return None,
        ScalarValue::Boolean(Some(value)) => value.to_string(),
        ScalarValue::Int8(_)
        | ScalarValue::Int16(_)
        | ScalarValue::Int32(_)
        | ScalarValue::Int64(_)
        | ScalarValue::UInt8(_)
        | ScalarValue::UInt16(_)
        | ScalarValue::UInt32(_)
        | ScalarValue::UInt64(_)
        | ScalarValue::Decimal128(..) => format!("({})", plain(&text(value)?)?),
        ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) | ScalarValue::Utf8View(Some(text))
            // The server has no text with a zero byte in it.
            if !text.contains('\0') =>
        {
            literal(text)
        }
        ScalarValue::Date32(_) => format!("DATE {}", literal(&time(plain(&text(value)?)?)?)),
        ScalarValue::TimestampMicrosecond(_, None) => {
            format!("TIMESTAMP {}", literal(&time(plain(&text(value)?)?)?))
        }
        _ => return None,
    })
}

fn plain(text: &ScalarValue) -> Option<String> {
    match text {
        ScalarValue::Utf8(text) => text.clone(),
        _ => None,
    }
}

/// A time of the years that are written with four digits in both places.
fn time(text: String) -> Option<String> {
    let (year, _) = text.split_once('-')?;
    (year.len() == 4 && year != "0000").then_some(text)
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{col, lit};

    use super::*;

    #[test]
    fn only_what_gives_the_same_is_left_to_the_server() {
        let known = |name: &str| {
            Some(match name {
                "n" | "day" | "flag" => Comparable::Ordered,
                "t" => Comparable::Same,
                "f" => Comparable::Not,
                _ => return None,
            })
        };
        let day = ScalarValue::Date32(Some(-1));
        for (expr, sql) in [
            (col("n").gt(lit(5_i64)), Some(r#"("n" > (5))"#)),
            (lit(-5_i64).lt_eq(col("n")), Some(r#"("n" >= (-5))"#)),
            (col("t").eq(lit("it's")), Some(r#"("t" = 'it''s')"#)),
            (col("t").not_eq(lit("x")), Some(r#"("t" <> 'x')"#)),
            (col("t").gt(lit("x")), None),
            (col("t").eq(lit("a\0b")), None),
            (col("f").eq(lit(0.0)), None),
            (col("f").is_not_null(), Some(r#"("f" IS NOT NULL)"#)),
            (col("day").eq(lit(day)), Some(r#"("day" = DATE '1969-12-31')"#)),
            (col("day").eq(lit(ScalarValue::Date32(Some(3_000_000)))), None),
            (col("n").in_list(vec![lit(1), lit(2)], true), Some(r#"("n" NOT IN ((1), (2)))"#)),
            (col("n").between(lit(1), lit(2)), Some(r#"("n" BETWEEN (1) AND (2))"#)),
            (col("flag").and(col("n").is_null()), Some(r#"("flag" AND ("n" IS NULL))"#)),
            (col("n").eq(lit(1)).or(col("f").gt(lit(1.0))), None),
            ((col("n") + lit(1)).gt(lit(5_i64)), None),
            (col("other").eq(lit(1)), None),
        ] {
            assert_eq!(condition(&expr, &known).as_deref(), sql, "{expr}");
        }
    }
}
