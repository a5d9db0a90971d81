//! The words of a script, and `STREAM` taken out of `FROM STREAM t`.

use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::keywords::{Keyword, RESERVED_FOR_TABLE_ALIAS};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Word};

use super::diagnostics::from_tokenizer;
use crate::error::Result;

/// All tokens of `text`, white space and comments included.
pub(super) fn tokenize(text: &str, dialect: &dyn Dialect) -> Result<Vec<TokenWithSpan>> {
    Tokenizer::new(dialect, text).tokenize_with_location().map_err(from_tokenizer)
}

pub(super) fn is_significant(token: &TokenWithSpan) -> bool {
    !matches!(token.token, Token::Whitespace(_) | Token::EOF)
}

/// Whether `token` is the unquoted word `word`.
pub(super) fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
}

/// Spark 4.3 reads `FROM STREAM t` and `FROM STREAM(t)` as "the table `t`, as a stream". Whether a
/// table is one is a property of the table here, so both mean `t`: the word is taken out. Left
/// alone it would be a table called `stream` with the alias `t`, silently the wrong one. Where a
/// table called `stream` is meant, it stands alone (`FROM stream`, `FROM stream AS s`) or quoted.
pub(super) fn without_stream_keyword(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let significant: Vec<usize> = (0..tokens.len()).filter(|i| is_significant(&tokens[*i])).collect();
    let words: Vec<&Token> = significant.iter().map(|i| &tokens[*i].token).collect();
    let mut dropped = Vec::new();
    for place in table_places(&words) {
        dropped.extend(stream_keyword_at(&words, place).into_iter().map(|word| significant[word]));
    }
    let mut index = 0;
    let mut tokens = tokens;
    tokens.retain(|_| {
        index += 1;
        // Places come in order, so `dropped` is sorted.
        dropped.binary_search(&(index - 1)).is_err()
    });
    tokens
}

/// The words to take out if a `STREAM` at `place` is the keyword.
fn stream_keyword_at(words: &[&Token], place: usize) -> Vec<usize> {
    if !is_word(words[place], "STREAM") {
        return vec![];
    }
    match words.get(place + 1) {
        Some(Token::LParen) => {
            let name: Vec<&&Token> =
                words[place + 2..].iter().take_while(|token| ***token != Token::RParen).collect();
            let closed = words.get(place + 2 + name.len()).is_some();
            let is_name = name.len() % 2 == 1
                && name.iter().enumerate().all(|(i, token)| match token {
                    Token::Word(_) => i % 2 == 0,
                    Token::Period => i % 2 == 1,
                    _ => false,
                });
            if is_name && closed { vec![place, place + 1, place + 2 + name.len()] } else { vec![] }
        }
        Some(Token::Word(next)) if may_name_a_table(next) => vec![place],
        _ => vec![],
    }
}

fn may_name_a_table(word: &Word) -> bool {
    word.quote_style.is_some()
        || (word.keyword != Keyword::AS && !RESERVED_FOR_TABLE_ALIAS.contains(&word.keyword))
}

/// What one pair of parentheses is about.
#[derive(Default)]
struct Level {
    /// Nothing but its opening parenthesis has been seen.
    is_empty: bool,
    /// It holds a query, so that `FROM` is the clause and not part of `EXTRACT(… FROM …)`.
    is_query: bool,
    /// A comma separates tables.
    in_from: bool,
}

/// The positions at which a table is named: after `FROM`, after `JOIN`, and after the commas
/// between tables.
pub(super) fn table_places(words: &[&Token]) -> Vec<usize> {
    let mut places = Vec::new();
    let mut levels: Vec<Level> = Vec::new();
    let mut level = Level { is_empty: true, ..Level::default() };
    let mut table_next = false;
    for (index, token) in words.iter().enumerate() {
        let is_table = std::mem::replace(&mut table_next, false);
        if is_table {
            places.push(index);
        }
        let was_empty = std::mem::replace(&mut level.is_empty, false);
        match token {
            Token::LParen => {
                let inner = Level { is_empty: true, in_from: is_table, is_query: false };
                levels.push(std::mem::replace(&mut level, inner));
                table_next = is_table;
            }
            Token::RParen => level = levels.pop().unwrap_or_default(),
            Token::Comma => table_next = level.in_from,
            Token::Word(word) if word.quote_style.is_none() => match word.keyword {
                Keyword::SELECT | Keyword::DELETE | Keyword::UPDATE => {
                    level.is_query = true;
                    level.in_from = false;
                }
                Keyword::FROM => {
                    let is_distinct_from = index > 0 && is_word(words[index - 1], "DISTINCT");
                    if (level.is_query || was_empty) && !is_distinct_from {
                        level.in_from = true;
                        table_next = true;
                    }
                }
                Keyword::JOIN => table_next = true,
                Keyword::LATERAL => table_next = is_table,
                keyword if ends_from(keyword) => level.in_from = false,
                _ => {}
            },
            _ => {}
        }
    }
    places
}

/// Whether `keyword` starts a clause after `FROM`.
fn ends_from(keyword: Keyword) -> bool {
    matches!(
        keyword,
        Keyword::WHERE
            | Keyword::GROUP
            | Keyword::HAVING
            | Keyword::WINDOW
            | Keyword::QUALIFY
            | Keyword::ORDER
            | Keyword::SORT
            | Keyword::LIMIT
            | Keyword::OFFSET
            | Keyword::FETCH
            | Keyword::UNION
            | Keyword::EXCEPT
            | Keyword::INTERSECT
            | Keyword::RETURNING
            | Keyword::SET
    )
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    use super::super::script::statements;
    use super::*;

    fn without(sql: &str) -> String {
        let statements = statements(sql, &GenericDialect {}).unwrap();
        let tokens = statements.into_iter().flatten().filter(|token| token.token != Token::EOF);
        tokens.map(|token| token.token.to_string()).collect()
    }

    #[test]
    fn stream_is_a_keyword_before_a_table() {
        for (sql, plain) in [
            ("SELECT * FROM STREAM t", "SELECT * FROM  t"),
            ("SELECT * FROM stream(a.t) AS x", "SELECT * FROM a.t AS x"),
            ("SELECT * FROM Stream \"T\" x", "SELECT * FROM  \"T\" x"),
            ("SELECT * FROM a JOIN STREAM b ON x = y, STREAM c", "SELECT * FROM a JOIN  b ON x = y,  c"),
            (
                "SELECT * FROM (STREAM t JOIN STREAM(u) USING (a, b))",
                "SELECT * FROM ( t JOIN u USING (a, b))",
            ),
            ("SELECT (SELECT max(x) FROM STREAM t)", "SELECT (SELECT max(x) FROM  t)"),
            ("WITH c AS (SELECT 1 FROM STREAM t) TABLE c", "WITH c AS (SELECT 1 FROM  t) TABLE c"),
            ("FROM STREAM t SELECT a", "FROM  t SELECT a"),
        ] {
            assert_eq!(without(sql), plain);
        }
    }

    #[test]
    fn stream_is_a_name_everywhere_else() {
        for sql in [
            "SELECT * FROM stream",
            "SELECT * FROM stream AS s",
            "SELECT * FROM \"stream\" s",
            "SELECT * FROM stream.t",
            "SELECT * FROM stream JOIN u ON a = b",
            "SELECT * FROM stream WHERE a = 1",
            "SELECT * FROM stream(5)",
            "SELECT * FROM stream(",
            "SELECT * FROM stream()",
            "SELECT a, stream b FROM t",
            "SELECT EXTRACT(DAY FROM stream AT TIME ZONE 'UTC') FROM t",
            "SELECT a IS DISTINCT FROM stream AND b FROM t",
            "SELECT stream (a) FROM t ORDER BY a, stream b",
            "CREATE TABLE stream (stream INT)",
        ] {
            assert_eq!(without(sql), sql);
        }
    }
}
