//! What DataFusion says, without what its errors are wrapped in.

use datafusion::arrow::error::ArrowError;
use datafusion::error::DataFusionError;

/// How many functions are listed that take other arguments.
const MOST_CANDIDATES: usize = 6;

/// What went wrong first in `error`, as a sentence of its own: not which rule of which optimiser met with it, nor that
/// it may be a bug of DataFusion's. What we say of it ourselves comes before.
pub(crate) fn in_words(error: &DataFusionError) -> String {
    let first = error.iter().next().unwrap_or(error);
    let mut parts = said_of(first);
    parts.push(of_root(first.find_root()));
    parts.join(": ")
}

/// What was said of `error` on its way, without the names of rules.
fn said_of(mut error: &DataFusionError) -> Vec<String> {
    let mut said = Vec::new();
    loop {
        error = match error {
            DataFusionError::Context(text, inner) => {
                let is_of_a_program =
                    text.contains(" rule '") || text.starts_with("Invalid (non-executable) plan");
                if text.contains(' ') && !is_of_a_program {
                    said.push(text.clone());
                }
                inner
            }
            DataFusionError::Diagnostic(_, inner) => inner,
            DataFusionError::Shared(inner) => inner,
            _ => return said,
        };
    }
}

fn of_root(root: &DataFusionError) -> String {
    let text = match root {
        DataFusionError::Plan(text)
        | DataFusionError::Execution(text)
        | DataFusionError::NotImplemented(text)
        | DataFusionError::Configuration(text) => text.clone(),
        DataFusionError::Internal(text) => {
            return of_call(text).unwrap_or(format!("internal error: {}", front(text)));
        }
        DataFusionError::SchemaError(error, _) => error.to_string(),
        DataFusionError::ArrowError(error, _) => of_arrow(error),
        DataFusionError::ParquetError(error) => {
            let text = error.to_string();
            text.split_once(": ").map_or(text.clone(), |(_, text)| text.to_string())
        }
        DataFusionError::ObjectStore(error) => of_store(&error.to_string()),
        other => other.strip_backtrace(),
    };
    let text = front(&text);
    of_call(text).or_else(|| of_plan(text)).or_else(|| of_syntax(text)).unwrap_or_else(|| text.to_string())
}

/// `text` without the places in the program that it comes from.
fn front(text: &str) -> &str {
    text.split(DataFusionError::BACK_TRACE_SEP).next().unwrap_or_default()
}

fn of_arrow(error: &ArrowError) -> String {
    match error {
        ArrowError::CastError(text)
        | ArrowError::ParseError(text)
        | ArrowError::CsvError(text)
        | ArrowError::JsonError(text)
        | ArrowError::SchemaError(text)
        | ArrowError::ComputeError(text)
        | ArrowError::InvalidArgumentError(text)
        | ArrowError::NotYetImplemented(text) => text.clone(),
        ArrowError::ExternalError(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// What a store says, without its own name and the numbers of files that it writes at first.
fn of_store(text: &str) -> String {
    let said = match text.split_once(" error: ") {
        Some((store, said)) if store.starts_with("Generic ") => said,
        _ => text,
    };
    let Some((path, reason)) =
        said.strip_prefix("Unable to open file ").and_then(|rest| rest.rsplit_once(": "))
    else {
        return said.to_string();
    };
    let path = match path.rsplit_once('#') {
        Some((path, number)) if number.bytes().all(|digit| digit.is_ascii_digit()) => path,
        _ => path,
    };
    let reason = reason.split_once(" (os error").map_or(reason, |(reason, _)| reason);
    format!("'{path}' cannot be opened: {reason}")
}

/// A call whose arguments are of other types than any function of the name takes.
fn of_call(text: &str) -> Option<String> {
    let (before, rest) = text.split_once("No function matches the given name and argument types '")?;
    if let Some((_, own)) = before.split_once(COERCION_FAILED) {
        return Some(of_function(own));
    }
    let (call, rest) = rest.split_once('\'')?;
    let listed = rest.split_once("Candidate functions:").map_or("", |(_, listed)| front(listed));
    let mut candidates: Vec<&str> = listed.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    candidates.dedup();
    let more = if candidates.len() > MOST_CANDIDATES { ", …" } else { "" };
    candidates.truncate(MOST_CANDIDATES);
    Some(match candidates.as_slice() {
        [] => format!("no function takes these arguments: {call}"),
        some => format!("no function takes these arguments: {call}; there are {}{more}", some.join(", ")),
    })
}

/// What stands before what a function says itself of its arguments.
const COERCION_FAILED: &str = "user-defined coercion failed with: ";

/// What a function says itself of its arguments, as a sentence.
fn of_function(said: &str) -> String {
    let said = said.trim();
    let kinds = ["Error during planning: ", "Execution error: ", "This feature is not implemented: "];
    let said = kinds.iter().find_map(|kind| said.strip_prefix(kind)).unwrap_or(said);
    said.trim_end_matches('.').to_string()
}

/// An expression that is where there is no plan for it, whose text is that of a program.
fn of_plan(text: &str) -> Option<String> {
    let expr = text.strip_prefix("Physical plan does not support logical expression ")?;
    Some(format!("there is no plan for this query: {} stands where there can be none", words(expr)))
}

/// A part of a statement that there is no plan for, whose text is that of a program.
fn of_syntax(text: &str) -> Option<String> {
    const SEVERAL_ROWS: &str = "Correlated scalar subquery must be aggregated to return at most one row";
    if text.ends_with(SEVERAL_ROWS) {
        return Some(
            "a subquery that stands for one value, and asks for the row outside of it, may give several: aggregate in \
             it, as in (SELECT max(x) FROM …)"
                .into(),
        );
    }
    let unsupported =
        ["Unsupported ast node in sqltorel: ", "Unsupported ast node ", "Unsupported JOIN operator "];
    let node = unsupported.iter().find_map(|start| text.strip_prefix(start))?;
    let join = if text.starts_with(unsupported[2]) { " JOIN" } else { "" };
    Some(format!("{}{join} is not supported", words(node).to_uppercase()))
}

/// The words of the first name of a program in `text`.
fn words(text: &str) -> String {
    let name = text.chars().take_while(|letter| letter.is_alphanumeric());
    let mut words = String::new();
    for letter in name {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappings_are_taken_off() {
        let cast = || ArrowError::CastError("Cannot cast string 'x' to value of Int32 type".into());
        let call = "Function 'f' failed to match any signature, errors: a,b. No function matches the given name and \
                    argument types 'f(Utf8)'. You might need to add explicit type casts.\n\tCandidate functions:\n\tf(A)\n\tf(B)";
        for (error, expected) in [
            (DataFusionError::from(cast()), "Cannot cast string 'x' to value of Int32 type"),
            (
                DataFusionError::from(cast()).context("Optimizer rule 'simplify_expressions' failed"),
                "Cannot cast string 'x' to value of Int32 type",
            ),
            (DataFusionError::Execution("division by zero".into()), "division by zero"),
            (
                DataFusionError::Execution("gone".into())
                    .context("the table t cannot be read")
                    .context("type_coercion"),
                "the table t cannot be read: gone",
            ),
            (
                DataFusionError::Internal(call.into()),
                "no function takes these arguments: f(Utf8); there are f(A), f(B)",
            ),
            (
                DataFusionError::Plan(call.into()),
                "no function takes these arguments: f(Utf8); there are f(A), f(B)",
            ),
            (
                DataFusionError::Plan(
                    "Function 'f' user-defined coercion failed with: Error during planning: f() needs a time No function \
                     matches the given name and argument types 'f(Int64)'. You might need to add explicit type casts."
                        .into(),
                ),
                "f() needs a time",
            ),
            (DataFusionError::Internal("lost".into()), "internal error: lost"),
            (
                DataFusionError::NotImplemented(
                    "Physical plan does not support logical expression OuterReferenceColumn(Field { name"
                        .into(),
                ),
                "there is no plan for this query: outer reference column stands where there can be none",
            ),
            (
                DataFusionError::NotImplemented("Unsupported ast node in sqltorel: AtSign { expr: Value(".into()),
                "AT SIGN is not supported",
            ),
            (
                DataFusionError::NotImplemented("Unsupported JOIN operator RightArray(On(".into()),
                "RIGHT ARRAY JOIN is not supported",
            ),
        ] {
            assert_eq!(in_words(&error), expected);
        }
    }
}
