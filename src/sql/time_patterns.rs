//! Patterns of times as Spark and Flink write them, for functions that take others: `to_char` gives letters as they are,
//! so that `date_format(time, 'yyyy-MM-dd')` would be the text `yyyy-MM-dd` in every row.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Spanned, Value, ValueWithSpan, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Location;

use super::diagnostics::error_at;
use crate::error::Error;

/// Refuses such patterns, and says how they are written here.
pub(super) struct TimePatterns {
    /// Where the statement begins.
    pub(super) at: Location,
}

impl VisitorMut for TimePatterns {
    type Break = Error;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        match foreign_pattern(expr) {
            Some((function, pattern)) => {
                let start = expr.span().start;
                let at = if start.line > 0 { start } else { self.at };
                let message = format!(
                    "{function} gives the letters of '{pattern}' as they are: write {function}(…, '{}')",
                    translated(&pattern)
                );
                ControlFlow::Break(error_at(message, at))
            }
            None => ControlFlow::Continue(()),
        }
    }
}

/// The function and the pattern, if that is nothing but letters to it.
fn foreign_pattern(expr: &Expr) -> Option<(String, String)> {
    let Expr::Function(call) = expr else { return None };
    let function = call.name.to_string().to_lowercase();
    if !matches!(function.as_str(), "date_format" | "to_char") {
        return None;
    }
    let FunctionArguments::List(list) = &call.args else { return None };
    let FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(ValueWithSpan { value, .. }))) =
        list.args.get(1)?
    else {
        return None;
    };
    let Value::SingleQuotedString(pattern) = value else { return None };
    let means_time = |pattern: &str| {
        ["yy", "MM", "dd", "HH", "hh", "mm", "ss"].iter().any(|letters| pattern.contains(letters))
    };
    (!pattern.contains('%') && means_time(pattern)).then(|| (function, pattern.clone()))
}

/// A pattern of Spark's as one of `to_char`.
fn translated(pattern: &str) -> String {
    let mut text = String::new();
    let mut rest = pattern;
    while let Some(letter) = rest.chars().next() {
        let length = rest.chars().take_while(|other| *other == letter).map(char::len_utf8).sum();
        let (run, behind) = rest.split_at(length);
        rest = behind;
        let written = match (letter, length) {
            ('\'', _) => {
                let (quoted, behind) = rest.split_once('\'').unwrap_or((rest, ""));
                rest = behind;
                quoted
            }
            ('y' | 'u', 2) => "%y",
            ('y' | 'u', _) => "%Y",
            ('M' | 'L', 1) => "%-m",
            ('M' | 'L', 2) => "%m",
            ('M' | 'L', 3) => "%b",
            ('M' | 'L', _) => "%B",
            ('d', 1) => "%-d",
            ('d', _) => "%d",
            ('D', _) => "%j",
            ('E', 1..=3) => "%a",
            ('E', _) => "%A",
            ('H', 1) => "%-H",
            ('H', _) => "%H",
            ('h', _) => "%I",
            ('a', _) => "%p",
            ('m', _) => "%M",
            ('s', _) => "%S",
            ('S', 1..=3) => "%3f",
            ('S', 4..=6) => "%6f",
            ('S', _) => "%9f",
            ('X' | 'x' | 'Z' | 'z' | 'V', _) => "%z",
            _ => run,
        };
        text.push_str(written);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_translated() {
        for (pattern, expected) in [
            ("yyyy-MM-dd", "%Y-%m-%d"),
            ("yyyy-MM-dd'T'HH:mm:ss.SSSXXX", "%Y-%m-%dT%H:%M:%S.%3f%z"),
            ("dd/MM/yy hh:mm a", "%d/%m/%y %I:%M %p"),
            ("d. MMMM yyyy, EEEE", "%-d. %B %Y, %A"),
        ] {
            assert_eq!(translated(pattern), expected, "{pattern}");
        }
    }
}
