//! Errors with their place in the script.

use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, TokenizerError};

use strsim::osa_distance;

use crate::error::{Error, in_words};
use crate::options::nearest;

/// `message` about the script at `location`.
pub(super) fn error_at(message: impl Into<String>, location: Location) -> Error {
    Error::Sql { message: message.into(), line: location.line, column: location.column }
}

/// `found` stands where `what` should. `candidates` are the words that may be meant by it.
pub(super) fn expected(what: &str, found: &TokenWithSpan, candidates: &[&str]) -> Error {
    let message = format!("expected {what}, found {}", describe(&found.token));
    let word = match &found.token {
        Token::Word(word) if word.quote_style.is_none() => word.value.as_str(),
        _ => "",
    };
    error_at(message + &suggestion(word, candidates), found.span.start)
}

/// `; did you mean X?` if one of `candidates` is near to `word`, else nothing.
pub(super) fn suggestion(word: &str, candidates: &[&str]) -> String {
    if word.is_empty() || candidates.iter().any(|name| name.eq_ignore_ascii_case(word)) {
        return String::new();
    }
    // Short words with two letters swapped are far apart by `nearest`'s measure, but one edit here.
    let swapped = |name: &&&str| osa_distance(&word.to_uppercase(), name) == 1;
    match nearest(word, candidates).or_else(|| candidates.iter().find(swapped).copied()) {
        Some(name) => format!("; did you mean {name}?"),
        None => String::new(),
    }
}

fn describe(token: &Token) -> String {
    match token {
        Token::EOF => "the end of the statement".to_string(),
        Token::SingleQuotedString(text) => format!("the string '{text}'"),
        token => format!("'{token}'"),
    }
}

pub(super) fn from_tokenizer(error: TokenizerError) -> Error {
    error_at(lower_first(&error.message), error.location)
}

/// sqlparser writes the place into the message's text; it is taken out again. `fallback` is the
/// place if there is none.
pub(super) fn from_parser(error: ParserError, fallback: Location) -> Error {
    let message = match error {
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => message,
        ParserError::RecursionLimitExceeded => {
            return error_at("the statement is nested too deeply", fallback);
        }
    };
    let (message, location) = split_location(&message);
    error_at(rephrase(message), location.unwrap_or(fallback))
}

/// The same for the errors that DataFusion's own parser wraps.
pub(super) fn from_datafusion_parser(error: DataFusionError, fallback: Location) -> Error {
    match error {
        DataFusionError::SQL(error, _) => from_parser(*error, fallback),
        DataFusionError::Diagnostic(_, inner) => from_datafusion_parser(*inner, fallback),
        DataFusionError::Context(_, inner) => from_datafusion_parser(*inner, fallback),
        other => error_at(lower_first(&in_words(&other)), fallback),
    }
}

fn split_location(message: &str) -> (&str, Option<Location>) {
    let parsed = message.rsplit_once(" at Line: ").and_then(|(text, place)| {
        let (line, column) = place.split_once(", Column: ")?;
        Some((text, Location::new(line.parse().ok()?, column.parse().ok()?)))
    });
    match parsed {
        Some((text, location)) => (text, Some(location)),
        None => (message, None),
    }
}

/// sqlparser's `Expected: X, found: Y` in our words.
fn rephrase(message: &str) -> String {
    let Some((what, found)) =
        message.strip_prefix("Expected: ").and_then(|rest| rest.rsplit_once(", found: "))
    else {
        return lower_first(message);
    };
    match found {
        "EOF" => format!("expected {what}, found the end of the statement"),
        found => format!("expected {what}, found '{found}'"),
    }
}

/// Error messages start in lower case, unless they start with a word in capitals.
fn lower_first(message: &str) -> String {
    let mut chars = message.chars();
    match (chars.next(), chars.next()) {
        (Some(first), second) if second.is_none_or(|c| !c.is_uppercase()) => {
            first.to_lowercase().collect::<String>() + &message[first.len_utf8()..]
        }
        _ => message.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_out_of_messages() {
        let nowhere = Location::new(7, 7);
        let text = "Expected: end of statement, found: foo at Line: 2, Column: 13";
        let error = from_parser(ParserError::ParserError(text.into()), nowhere);
        assert_eq!(error.to_string(), "expected end of statement, found 'foo' at line 2, column 13");
        let error = from_parser(ParserError::ParserError("Something is off".into()), nowhere);
        assert_eq!(error.to_string(), "something is off at line 7, column 7");
        let odd = "Weird at Line: x, Column: 13";
        let error = from_parser(ParserError::ParserError(odd.into()), nowhere);
        assert_eq!(error.to_string(), "weird at Line: x, Column: 13 at line 7, column 7");
    }
}
