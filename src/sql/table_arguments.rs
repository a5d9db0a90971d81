//! Tables as arguments, which sqlparser does not know: `TUMBLE(TABLE t, …)` is given to it as
//! `TUMBLE((SELECT * FROM t), …)`, and Spark's `FROM t WATERMARK c DELAY OF …` and `FROM t FOR SYSTEM_TIME AS OF c` as
//! table functions.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::tokens::{is_significant, is_word, table_places};

/// The table functions whose first argument is a table.
const FUNCTIONS: [&str; 7] =
    ["TUMBLE", "HOP", "CUMULATE", "SESSION", "GAP_FILL", "WITH_WATERMARK", "OBSERVE"];

/// A part of the significant tokens, from and to, and what takes its place.
struct Replacement {
    from: usize,
    to: usize,
    tokens: Vec<Token>,
}

/// `tokens` with subqueries in place of the tables that are arguments.
pub(super) fn with_subqueries(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let significant: Vec<usize> = (0..tokens.len()).filter(|i| is_significant(&tokens[*i])).collect();
    let words: Vec<&Token> = significant.iter().map(|i| &tokens[*i].token).collect();
    let mut replacements: Vec<Replacement> = Vec::new();
    for place in table_places(&words) {
        // Flink writes the call inside of TABLE( ).
        let is_wrapped = is_word(words[place], "TABLE") && words.get(place + 1) == Some(&&Token::LParen);
        let place = if is_wrapped { place + 2 } else { place };
        let replacement = table_argument(&words, place).or_else(|| watermark_clause(&words, place));
        replacements.extend(replacement.or_else(|| as_of_clause(&words, place)));
    }
    let mut replaced = Vec::with_capacity(tokens.len());
    let mut next = 0;
    for Replacement { from, to, tokens: new } in replacements {
        let (first, last) = (significant[from], significant[to]);
        if first < next {
            continue;
        }
        replaced.extend_from_slice(&tokens[next..first]);
        let span = tokens[first].span;
        replaced.extend(new.into_iter().map(|token| TokenWithSpan::new(token, span)));
        next = last + 1;
    }
    replaced.extend_from_slice(&tokens[next..]);
    replaced
}

/// The table in a call of one of the functions at `place`: after `TABLE`, or the first argument.
fn table_argument(words: &[&Token], place: usize) -> Option<Replacement> {
    let is_call = FUNCTIONS.iter().any(|name| words.get(place).is_some_and(|word| is_word(word, name)));
    if !is_call || words.get(place + 1) != Some(&&Token::LParen) {
        return None;
    }
    let is_end = |at: usize| matches!(words.get(at), Some(Token::Comma | Token::RParen));
    let mut depth = 0;
    for at in place + 1..words.len() {
        match words[at] {
            Token::LParen => depth += 1,
            Token::RParen if depth == 1 => return None,
            Token::RParen => depth -= 1,
            _ => {}
        }
        let starts = depth == 1 && matches!(words[at], Token::LParen | Token::Comma | Token::RArrow);
        if !starts {
            continue;
        }
        let is_first = at == place + 1;
        let has_keyword = words.get(at + 1).is_some_and(|word| is_word(word, "TABLE"));
        let from = at + 1;
        let name = if has_keyword { from + 1 } else { from };
        if has_keyword && words.get(name) == Some(&&Token::LParen) {
            // TABLE (SELECT …) is a subquery as it stands.
            return Some(Replacement { from, to: from, tokens: vec![] });
        }
        let to = name_end(words, name);
        if let Some(last) = to.filter(|_| has_keyword || is_first)
            && let Some(replacement) = partitioned(words, place, from, last)
        {
            return Some(replacement);
        }
        if let Some(to) = to.filter(|to| is_end(*to + 1) && (has_keyword || is_first)) {
            return Some(Replacement { from, to, tokens: subquery(&words[name..=to], &[]) });
        }
    }
    None
}

/// `TABLE t PARTITION BY key, …` of `SESSION`, whose keys become an argument of their own. The table's name ends at
/// `last`.
fn partitioned(words: &[&Token], place: usize, from: usize, last: usize) -> Option<Replacement> {
    let is = |at: usize, word: &str| words.get(at).is_some_and(|token| is_word(token, word));
    if !is(place, "SESSION") || !is(last + 1, "PARTITION") || !is(last + 2, "BY") {
        return None;
    }
    let first = last + 3;
    let ends = |at: usize| {
        words.get(at) == Some(&&Token::Comma)
            && (is(at + 1, "DESCRIPTOR") || words.get(at + 2) == Some(&&Token::RArrow))
    };
    let end = (first..words.len()).find(|at| ends(*at))?;
    let name = if is(from, "TABLE") { from + 1 } else { from };
    let mut tokens = subquery(&words[name..=last], &[]);
    tokens.extend([Token::Comma, word("KEYS"), Token::RArrow, word("DESCRIPTOR"), Token::LParen]);
    tokens.extend(words[first..end].iter().map(|token| (*token).clone()));
    tokens.push(Token::RParen);
    Some(Replacement { from, to: end - 1, tokens })
}

/// `t WATERMARK c DELAY OF INTERVAL …` at `place`; the time may be an expression with a name.
fn watermark_clause(words: &[&Token], place: usize) -> Option<Replacement> {
    let name = name_end(words, place)?;
    let is = |at: usize, word: &str| words.get(at).is_some_and(|token| is_word(token, word));
    if !is(name + 1, "WATERMARK") {
        return None;
    }
    let start = name + 2;
    let delay =
        (start..words.len()).find(|at| is(*at, "DELAY") && is(*at + 1, "OF") && is(*at + 2, "INTERVAL"))?;
    let time = &words[start..delay];
    let (column, computed) = match time {
        [column @ Token::Word(_)] => (vec![(*column).clone()], None),
        [expression @ .., keyword, name @ Token::Word(_)]
            if is_word(keyword, "AS") && !expression.is_empty() =>
        {
            (vec![(*name).clone()], Some(time))
        }
        _ => return None,
    };
    // The text of the interval, and its unit if that stands outside.
    let text = delay + 3;
    let unit = ["YEAR", "MONTH", "WEEK", "DAY", "HOUR", "MINUTE", "SECOND", "MILLISECOND", "MICROSECOND"];
    let has_unit = unit.iter().any(|unit| is(text + 1, unit) || is(text + 1, &format!("{unit}S")));
    let to = if has_unit { text + 1 } else { text };
    words.get(to)?;
    let mut tokens = vec![word("WITH_WATERMARK"), Token::LParen];
    tokens.extend(subquery(&words[place..=name], computed.unwrap_or_default()));
    tokens.extend([Token::Comma, word("DESCRIPTOR"), Token::LParen]);
    tokens.extend(column);
    tokens.extend([Token::RParen, Token::Comma]);
    tokens.extend(words[delay + 2..=to].iter().flat_map(|token| [(*token).clone(), space()]));
    tokens.push(Token::RParen);
    Some(Replacement { from: place, to, tokens })
}

/// `t FOR SYSTEM_TIME AS OF a.c` at `place`, which is called `t` unless it has another name.
fn as_of_clause(words: &[&Token], place: usize) -> Option<Replacement> {
    let name = name_end(words, place)?;
    let is = |at: usize, word: &str| words.get(at).is_some_and(|token| is_word(token, word));
    let clause = ["FOR", "SYSTEM_TIME", "AS", "OF"];
    if !clause.iter().enumerate().all(|(index, word)| is(name + 1 + index, word)) {
        return None;
    }
    let time = name + 1 + clause.len();
    let to = name_end(words, time)?;
    let is_named = match words.get(to + 1) {
        Some(Token::Word(next)) => {
            next.quote_style.is_some() || next.keyword == Keyword::NoKeyword || is(to + 1, "AS")
        }
        _ => false,
    };
    let mut tokens = vec![word("AS_OF"), Token::LParen];
    tokens.extend(subquery(&words[place..=name], &[]));
    tokens.push(Token::Comma);
    tokens.extend(words[time..=to].iter().map(|token| (*token).clone()));
    tokens.push(Token::RParen);
    if !is_named {
        tokens.extend([space(), word("AS"), space(), words[name].clone()]);
    }
    Some(Replacement { from: place, to, tokens })
}

/// The last word of the name that starts at `at`, if one does.
fn name_end(words: &[&Token], at: usize) -> Option<usize> {
    let mut end = at;
    loop {
        match words.get(end)? {
            Token::Word(_) if words.get(end + 1) == Some(&&Token::Period) => end += 2,
            Token::Word(_) => return Some(end),
            _ => return None,
        }
    }
}

/// `(SELECT * FROM table)`, with one column more if there is one.
fn subquery(table: &[&Token], column: &[&Token]) -> Vec<Token> {
    let mut tokens = vec![Token::LParen, word("SELECT"), space(), Token::Mul];
    if !column.is_empty() {
        tokens.push(Token::Comma);
        tokens.extend(column.iter().flat_map(|token| [(*token).clone(), space()]));
    }
    tokens.extend([space(), word("FROM"), space()]);
    tokens.extend(table.iter().map(|token| (*token).clone()));
    tokens.push(Token::RParen);
    tokens
}

fn word(text: &str) -> Token {
    Token::make_word(text, None)
}

fn space() -> Token {
    Token::Whitespace(datafusion::sql::sqlparser::tokenizer::Whitespace::Space)
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    use super::super::script::statements;
    use super::*;

    fn replaced(sql: &str) -> String {
        let statements = statements(sql, &GenericDialect {}).unwrap();
        let tokens = statements.into_iter().flatten().filter(|token| token.token != Token::EOF);
        tokens.map(|token| token.token.to_string()).collect()
    }

    #[test]
    fn tables_become_subqueries() {
        for (sql, expected) in [
            ("SELECT * FROM TUMBLE(TABLE t, x)", "SELECT * FROM TUMBLE((SELECT * FROM t), x)"),
            ("SELECT * FROM a, hop(a.\"B\", x) h", "SELECT * FROM a, hop((SELECT * FROM a.\"B\"), x) h"),
            (
                "SELECT * FROM SESSION(TABLE t PARTITION BY k, t.l, DESCRIPTOR(ts), g)",
                "SELECT * FROM SESSION((SELECT * FROM t),KEYS=>DESCRIPTOR(k,t.l), DESCRIPTOR(ts), g)",
            ),
            (
                "SELECT * FROM TABLE(TUMBLE(SIZE => f(1, 2), DATA => TABLE t))",
                "SELECT * FROM TABLE(TUMBLE(SIZE => f(1, 2), DATA => (SELECT * FROM t)))",
            ),
            (
                "SELECT * FROM TUMBLE(DATA => TABLE (SELECT a FROM HOP(TABLE t, x)), y)",
                "SELECT * FROM TUMBLE(DATA =>  (SELECT a FROM HOP((SELECT * FROM t), x)), y)",
            ),
            (
                "SELECT * FROM STREAM t WATERMARK ts DELAY OF INTERVAL '5' MINUTES AS x WHERE a",
                "SELECT * FROM  WITH_WATERMARK((SELECT * FROM t),DESCRIPTOR(ts),INTERVAL '5' MINUTES ) AS x WHERE a",
            ),
            (
                "SELECT * FROM a JOIN s.b FOR SYSTEM_TIME AS OF a.ts ON x = y LEFT JOIN c FOR SYSTEM_TIME AS OF ts AS d ON z",
                "SELECT * FROM a JOIN AS_OF((SELECT * FROM s.b),a.ts) AS b ON x = y LEFT JOIN AS_OF((SELECT * FROM c),ts) AS d ON z",
            ),
            (
                "SELECT * FROM s.t WATERMARK f(a, b) AS ts DELAY OF INTERVAL '5 s' JOIN u ON a = b",
                "SELECT * FROM WITH_WATERMARK((SELECT *,f ( a , b ) AS ts  FROM s.t),DESCRIPTOR(ts),INTERVAL '5 s' \
                 ) JOIN u ON a = b",
            ),
        ] {
            assert_eq!(replaced(sql), expected);
        }
    }

    #[test]
    fn everything_else_stays() {
        for sql in [
            "SELECT tumble(a, b) FROM t",
            "SELECT * FROM TUMBLE((SELECT * FROM t), x)",
            "SELECT * FROM tumble",
            "SELECT * FROM tumble(",
            "SELECT * FROM hop AS h, u",
            "SELECT * FROM t watermark WHERE delay = 1",
            "SELECT * FROM t watermark JOIN u ON delay",
            "SELECT * FROM t WATERMARK x DELAY OF INTERVAL",
            "SELECT * FROM generate_series(a, b)",
        ] {
            assert_eq!(replaced(sql), sql);
        }
    }
}
