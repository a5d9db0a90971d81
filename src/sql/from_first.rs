//! `FROM t WHERE …` without `SELECT`, which is all of its columns, as in DuckDB.
//!
//! The parser reads `FROM t` and `FROM t SELECT …`, and nothing behind them. So `SELECT *` is put before it.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan, Word};

use super::tokens::{is_significant, is_word};

/// `tokens` with `SELECT *` before each `FROM` that a query begins with, unless its `SELECT` comes behind.
pub(super) fn with_select(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let places: Vec<usize> = (0..tokens.len()).filter(|index| is_significant(&tokens[*index])).collect();
    let words: Vec<&Token> = places.iter().map(|index| &tokens[*index].token).collect();
    let is_start =
        |at: &usize| is_word(words[*at], "FROM") && begins_query(&words, *at) && !selects(&words, *at);
    let starts: Vec<usize> = (0..words.len()).filter(is_start).map(|at| places[at]).collect();
    if starts.is_empty() {
        return tokens;
    }
    let mut with_select = Vec::with_capacity(tokens.len() + 2 * starts.len());
    for (index, token) in tokens.into_iter().enumerate() {
        if starts.contains(&index) {
            let span = Span::new(token.span.start, token.span.start);
            let select = Word { value: "SELECT".into(), quote_style: None, keyword: Keyword::SELECT };
            with_select.push(TokenWithSpan::new(Token::Word(select), span));
            with_select.push(TokenWithSpan::new(Token::Mul, span));
        }
        with_select.push(token);
    }
    with_select
}

/// Whether a query may begin at `at`, to go by what stands before.
fn begins_query(words: &[&Token], at: usize) -> bool {
    let Some(before) = at.checked_sub(1) else { return true };
    let is = |at: usize, any: &[&str]| any.iter().any(|word| is_word(words[at], word));
    let is_set_operator = |at: usize| is(at, &["UNION", "EXCEPT", "INTERSECT"]);
    match words[before] {
        Token::LParen => true,
        // Behind the queries of WITH, or the columns of INSERT INTO t (a, b).
        Token::RParen => match opening(words, before).and_then(|open| open.checked_sub(1)) {
            Some(name) => is(name, &["AS", "MATERIALIZED"]) || is_target(words, name),
            None => false,
        },
        _ if is(before, &["ALL", "DISTINCT"]) => before.checked_sub(1).is_some_and(is_set_operator),
        _ if is(before, &["AS", "EXPLAIN", "ANALYZE", "VERBOSE"]) => true,
        _ => is_set_operator(before) || is_target(words, before),
    }
}

/// Whether the word at `end` is the last of the name in `INSERT INTO name`.
fn is_target(words: &[&Token], end: usize) -> bool {
    let mut at = end;
    while at >= 2 && matches!(words[at], Token::Word(_)) && words[at - 1] == &Token::Period {
        at -= 2;
    }
    at >= 2
        && matches!(words[at], Token::Word(_))
        && is_word(words[at - 1], "INTO")
        && is_word(words[at - 2], "INSERT")
}

/// Where the parenthesis was opened that is closed at `close`.
fn opening(words: &[&Token], close: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for at in (0..=close).rev() {
        match words[at] {
            Token::RParen => depth += 1,
            Token::LParen => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// Whether the query that begins with the `FROM` at `from` has a `SELECT` of its own.
fn selects(words: &[&Token], from: usize) -> bool {
    let mut depth = 0_usize;
    for word in &words[from..] {
        match word {
            Token::LParen => depth += 1,
            Token::RParen if depth == 0 => return false,
            Token::RParen => depth -= 1,
            Token::SemiColon => return false,
            word if depth == 0 && ["UNION", "EXCEPT", "INTERSECT"].iter().any(|it| is_word(word, it)) => {
                return false;
            }
            word if depth == 0 && is_word(word, "SELECT") => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    use super::*;
    use crate::sql::tokens::tokenize;

    #[test]
    fn select_is_put_before_from() {
        for (text, expected) in [
            ("FROM t", "SELECT*FROM t"),
            ("from t WHERE a = 1", "SELECT*from t WHERE a = 1"),
            ("FROM t SELECT a", "FROM t SELECT a"),
            ("FROM (FROM t WHERE a) u LIMIT 1", "SELECT*FROM (SELECT*FROM t WHERE a) u LIMIT 1"),
            ("WITH a AS (FROM t) FROM a ORDER BY b", "WITH a AS (SELECT*FROM t) SELECT*FROM a ORDER BY b"),
            ("FROM a UNION ALL FROM b SELECT c", "SELECT*FROM a UNION ALL FROM b SELECT c"),
            ("INSERT INTO s.o FROM t WHERE a", "INSERT INTO s.o SELECT*FROM t WHERE a"),
            ("INSERT INTO o (a, b) FROM t", "INSERT INTO o (a, b) SELECT*FROM t"),
            ("CREATE VIEW v AS FROM t", "CREATE VIEW v AS SELECT*FROM t"),
            ("EXPLAIN FROM t", "EXPLAIN SELECT*FROM t"),
            ("SELECT a FROM t", "SELECT a FROM t"),
            (
                "SELECT extract(year FROM a), b IS DISTINCT FROM c FROM t",
                "SELECT extract(year FROM a), b IS DISTINCT FROM c FROM t",
            ),
            ("DELETE FROM t", "DELETE FROM t"),
            ("SELECT count(*) FROM t", "SELECT count(*) FROM t"),
            ("SHOW COLUMNS FROM t", "SHOW COLUMNS FROM t"),
            ("SELECT a INTO u FROM t", "SELECT a INTO u FROM t"),
        ] {
            let written = with_select(tokenize(text, &GenericDialect {}).unwrap());
            let written: String = written.iter().map(|token| token.token.to_string()).collect();
            assert_eq!(written, expected, "{text}");
        }
    }
}
