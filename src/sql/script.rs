//! A script cut into statements.

use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use super::table_arguments::with_subqueries;
use super::tokens::{is_significant, tokenize, without_stream_keyword};
use crate::error::Result;

/// The tokens of each statement of `text`. Each list ends with an end-of-file token that stands
/// where the statement ends, so that errors about it have a place; empty statements are left out.
pub(super) fn statements(text: &str, dialect: &dyn Dialect) -> Result<Vec<Vec<TokenWithSpan>>> {
    let tokens = tokenize(text, dialect)?;
    let mut statements = Vec::new();
    let mut statement = Vec::new();
    let mut end = Span::empty();
    for token in tokens {
        if token.token == Token::SemiColon {
            finish(&mut statements, std::mem::take(&mut statement), token.span);
            continue;
        }
        if is_significant(&token) {
            end = Span::new(token.span.end, token.span.end);
        }
        statement.push(token);
    }
    finish(&mut statements, statement, end);
    Ok(statements)
}

fn finish(statements: &mut Vec<Vec<TokenWithSpan>>, statement: Vec<TokenWithSpan>, end: Span) {
    if statement.iter().any(is_significant) {
        let mut statement = with_subqueries(without_stream_keyword(statement));
        statement.push(TokenWithSpan::new(Token::EOF, end));
        statements.push(statement);
    }
}
