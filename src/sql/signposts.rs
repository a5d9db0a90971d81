//! What to write here for what other systems say.

use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};

use super::tokens::{is_significant, is_word};

/// A spelling of another system: words that follow one another, where they stand, whose they are, and
/// what to write instead; `{}` is the word behind them.
struct Foreign {
    words: &'static [&'static str],
    at_the_start: bool,
    of: &'static str,
    instead: &'static str,
}

const fn statement(words: &'static [&'static str], of: &'static str, instead: &'static str) -> Foreign {
    Foreign { words, at_the_start: true, of, instead }
}

const fn clause(words: &'static [&'static str], of: &'static str, instead: &'static str) -> Foreign {
    Foreign { words, at_the_start: false, of, instead }
}

const QUERY_INTO_FILES: &str = "CREATE EXTERNAL TABLE {} STORED AS PARQUET LOCATION 'out/{}/'; CREATE STREAMING QUERY fill_{} CHECKPOINT \
     LOCATION 'checkpoint/{}' AS INSERT INTO {} SELECT …";
const QUERY_IN_MEMORY: &str = "CREATE EXTERNAL TABLE {} STORED AS MEMORY; CREATE STREAMING QUERY keep_{} OUTPUT MODE COMPLETE AS \
     INSERT INTO {} SELECT … (or a plain CREATE VIEW over bounded tables)";
const SOURCE: &str = "CREATE UNBOUNDED EXTERNAL TABLE {} (column type, …, WATERMARK FOR time AS time - INTERVAL '10' SECOND) \
     STORED AS JSON LOCATION 'in/{}/'";
const WINDOW: &str = "SELECT window.start, count(*) FROM t GROUP BY window(time, '1 minute'), with a slide \
     window(time, '10 minutes', '1 minute')";
const SESSIONS: &str = "SELECT session_window(time, '10 minutes'), count(*) FROM t GROUP BY 1";
const EMIT: &str = "OUTPUT MODE UPDATE in CREATE STREAMING QUERY, which gives groups as they change, or OUTPUT MODE \
     APPEND, which gives them when they are final";

const FOREIGN: &[Foreign] = &[
    statement(&["CREATE", "STREAMING", "TABLE"], "Databricks", QUERY_INTO_FILES),
    statement(&["CREATE", "OR", "REFRESH", "STREAMING", "TABLE"], "Databricks", QUERY_INTO_FILES),
    statement(&["CREATE", "STREAMING", "LIVE", "TABLE"], "Databricks", QUERY_INTO_FILES),
    statement(&["CREATE", "OR", "REFRESH", "STREAMING", "LIVE", "TABLE"], "Databricks", QUERY_INTO_FILES),
    statement(
        &["CREATE", "FLOW"],
        "Spark",
        "CREATE STREAMING QUERY {} CHECKPOINT LOCATION 'checkpoint/{}' AS INSERT INTO t SELECT …",
    ),
    statement(
        &["APPLY", "CHANGES", "INTO"],
        "Databricks",
        "SELECT DISTINCT ON (key) … for the first row of each key, or an aggregation with OUTPUT MODE UPDATE",
    ),
    statement(
        &["REFRESH", "STREAMING", "TABLE"],
        "Databricks",
        "the same CREATE STREAMING QUERY … TRIGGER AVAILABLE NOW again: it goes on where it ended",
    ),
    statement(&["CREATE", "MATERIALIZED", "VIEW"], "other systems", QUERY_IN_MEMORY),
    statement(&["CREATE", "OR", "REPLACE", "MATERIALIZED", "VIEW"], "other systems", QUERY_IN_MEMORY),
    statement(&["CREATE", "OR", "REFRESH", "MATERIALIZED", "VIEW"], "Databricks", QUERY_IN_MEMORY),
    statement(&["CREATE", "DYNAMIC", "TABLE"], "Snowflake", QUERY_IN_MEMORY),
    statement(&["CREATE", "STREAM"], "ksqlDB", SOURCE),
    statement(&["CREATE", "OR", "REPLACE", "STREAM"], "ksqlDB", SOURCE),
    statement(&["CREATE", "SOURCE"], "RisingWave and Materialize", SOURCE),
    statement(&["CREATE", "SINK"], "RisingWave and Materialize", QUERY_INTO_FILES),
    statement(&["CREATE", "PIPE"], "Snowflake", QUERY_INTO_FILES),
    statement(
        &["COPY", "INTO"],
        "Databricks and Snowflake",
        "CREATE STREAMING QUERY copy_{} TRIGGER AVAILABLE NOW CHECKPOINT LOCATION 'checkpoint/{}' AS INSERT INTO {} SELECT …, which copies each file once",
    ),
    statement(
        &["INSERT", "OVERWRITE"],
        "Spark and Flink",
        "INSERT INTO; a streaming query replaces what it gave before with OUTPUT MODE COMPLETE",
    ),
    statement(&["DROP", "STREAMING", "QUERY"], "other systems", "STOP STREAMING QUERY {}"),
    statement(&["STOP", "QUERY"], "other systems", "STOP STREAMING QUERY {}"),
    statement(&["TERMINATE"], "ksqlDB", "STOP STREAMING QUERY {}"),
    statement(&["SHOW", "QUERIES"], "ksqlDB", "SHOW STREAMING QUERIES"),
    statement(&["LIST", "QUERIES"], "ksqlDB", "SHOW STREAMING QUERIES"),
    statement(&["SHOW", "CATALOGS"], "Flink", "SHOW TABLES, which has catalogs and schemas"),
    statement(&["SHOW", "STREAMS"], "ksqlDB", "SHOW TABLES"),
    statement(&["SHOW", "DATABASES"], "Spark and Flink", "SHOW TABLES, which has catalogs and schemas"),
    statement(&["SHOW", "JOBS"], "Flink and RisingWave", "SHOW STREAMING QUERIES"),
    statement(
        &["EXECUTE", "STATEMENT", "SET"],
        "Flink",
        "one CREATE STREAMING QUERY for each INSERT INTO: they run side by side",
    ),
    statement(
        &["BEGIN", "STATEMENT", "SET"],
        "Flink",
        "one CREATE STREAMING QUERY for each INSERT INTO: they run side by side",
    ),
    statement(&["PRAGMA"], "DuckDB", "SHOW ALL and SET, which show and change settings, or DESCRIBE t"),
    statement(
        &["SUMMARIZE"],
        "DuckDB",
        "DESCRIBE {} for the columns, and SELECT count(*), min(c), max(c), approx_distinct(c) FROM {} for what they hold",
    ),
    statement(
        &["VACUUM"],
        "other systems",
        "tidemill compact DIRECTORY on the command line, which merges small files",
    ),
    statement(
        &["OPTIMIZE"],
        "Databricks",
        "tidemill compact DIRECTORY on the command line, which merges small files",
    ),
    statement(
        &["ALTER", "TABLE"],
        "other systems",
        "DROP TABLE {} and CREATE it anew with the other columns: files stay as they are",
    ),
    statement(
        &["ALTER", "STREAMING", "QUERY"],
        "other systems",
        "STOP STREAMING QUERY {} and then CREATE STREAMING QUERY {} … anew with the same CHECKPOINT LOCATION: it goes on where \
         it ended",
    ),
    statement(&["CREATE", "INDEX"], "other systems", "nothing: there are no indexes, and none are needed"),
    statement(&["CREATE", "UNIQUE", "INDEX"], "other systems", "nothing: there are no indexes"),
    statement(
        &["EXPLAIN", "PLAN", "FOR"],
        "Flink",
        "EXPLAIN SELECT …, or EXPLAIN STREAMING QUERY AS INSERT INTO t SELECT …",
    ),
    statement(
        &["SET", "TIME", "ZONE"],
        "PostgreSQL and Spark",
        "SET datafusion.execution.time_zone = '…', with the name of the zone",
    ),
    statement(&["CACHE", "TABLE"], "Spark", "CREATE TABLE {} AS SELECT …, whose rows are kept in memory"),
    statement(
        &["MERGE", "INTO"],
        "other systems",
        "a streaming query with OUTPUT MODE UPDATE into a table of PostgreSQL",
    ),
    clause(
        &["WITH", "ORDINALITY"],
        "PostgreSQL",
        "unnest(items), unnest(range(1, array_length(items) + 1)) AS n in SELECT",
    ),
    clause(&["EMIT", "CHANGES"], "ksqlDB", EMIT),
    clause(&["EMIT", "FINAL"], "ksqlDB", EMIT),
    clause(&["EMIT", "ON", "WINDOW", "CLOSE"], "RisingWave", EMIT),
    clause(&["WINDOW", "TUMBLING"], "ksqlDB", WINDOW),
    clause(&["WINDOW", "HOPPING"], "ksqlDB", WINDOW),
    clause(&["WINDOW", "SESSION"], "ksqlDB", SESSIONS),
    clause(
        &["MATCH_RECOGNIZE"],
        "Flink and Snowflake",
        "lag(…) OVER (PARTITION BY key ORDER BY time) and conditions on what it gives, or transform_with_state in Rust, \
         which sees the rows of each key",
    ),
    clause(&["LATERAL", "VIEW"], "Spark", "unnest: SELECT id, unnest(items) AS item FROM t"),
    clause(
        &["FOR", "SYSTEM_TIME", "AS", "OF"],
        "Flink",
        "a JOIN b FOR SYSTEM_TIME AS OF a.time ON a.key = b.key, with a column for the time; or a plain JOIN with a bounded \
         table, which is read again when its files change",
    ),
];

/// What to write for `tokens`, one statement, if it is another system's; and where that shows.
pub(super) fn signpost(tokens: &[TokenWithSpan]) -> Option<(String, Location)> {
    let words: Vec<&TokenWithSpan> = tokens.iter().filter(|token| is_significant(token)).collect();
    let starts = |from: usize, sought: &[&str]| {
        let mut found = words.iter().skip(from);
        sought.iter().all(|word| found.next().is_some_and(|token| is(&token.token, word)))
    };
    let is_create = starts(0, &["CREATE"]);
    for foreign in FOREIGN {
        let places = if foreign.at_the_start { 0..1 } else { 1..words.len() };
        if let Some(place) = places.into_iter().find(|place| starts(*place, foreign.words)) {
            // Names of columns and the like are words, too.
            let before = place.checked_sub(1).map(|before| &words[before].token);
            if matches!(before, Some(Token::Comma | Token::Period)) {
                continue;
            }
            let name = words.get(place + foreign.words.len()).map_or_else(
                || "t".to_string(),
                |token| {
                    let text = token.token.to_string();
                    if text.chars().all(|letter| letter.is_alphanumeric() || letter == '_') {
                        text
                    } else {
                        "t".into()
                    }
                },
            );
            let written = foreign.words.join(" ").replace(" ( ", "(");
            let of = if foreign.of.ends_with('s') { "'" } else { "'s" };
            let instead = foreign.instead.replace("{}", &name);
            let message = format!("{written} is {}{of}; write {instead}", foreign.of);
            return Some((message, words[place].span.start));
        }
    }
    if is_create {
        return table_of_others(&words);
    }
    if starts(0, &["COPY"]) { copy_of_others(&words) } else { None }
}

/// `COPY … TO 'x' (FORMAT …)`.
fn copy_of_others(words: &[&TokenWithSpan]) -> Option<(String, Location)> {
    let follows = |at: usize| {
        let token = |at: usize| words.get(at).map(|token| &token.token);
        is_word(token(at)?, "TO").then_some(())?;
        matches!((token(at + 1)?, token(at + 2)?), (Token::SingleQuotedString(_), Token::LParen))
            .then_some(at + 2)
    };
    let at = (1..words.len()).find_map(follows)?;
    let message = "COPY … TO … (FORMAT …) is DuckDB's and PostgreSQL's; write COPY … TO '…' STORED AS PARQUET OPTIONS ('option' \
                   'value')";
    Some((message.to_string(), words[at].span.start))
}

/// Whether `token` is the word or sign `written`.
fn is(token: &Token, written: &str) -> bool {
    match token {
        Token::Word(_) => is_word(token, written),
        Token::LParen => written == "(",
        Token::RArrow => written == "=>",
        _ => false,
    }
}

/// `CREATE TABLE … WITH ('connector' = …)` and `CREATE TABLE … USING format`.
fn table_of_others(words: &[&TokenWithSpan]) -> Option<(String, Location)> {
    let table = words.iter().take(6).position(|token| is_word(&token.token, "TABLE"))?;
    let is_external = words[..table].iter().any(|token| is_word(&token.token, "EXTERNAL"));
    let name = words[table + 1..].iter().map(|token| token.token.to_string());
    let name =
        name.into_iter().find(|word| !["IF", "NOT", "EXISTS"].contains(&word.to_uppercase().as_str()))?;
    let mut depth = 0;
    for (index, token) in words.iter().enumerate().skip(table) {
        let next = words.get(index + 1).map(|token| &token.token);
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            // The query of CREATE TABLE AS may say USING in a join.
            token if depth == 0 && is_word(token, "AS") => return None,
            word if depth == 0 && is_word(word, "WITH") && next == Some(&Token::LParen) => {
                let key = words.get(index + 2).map(|token| token.token.to_string()).unwrap_or_default();
                let is_connector =
                    ["connector", "kafka_topic"].contains(&key.trim_matches('\'').to_lowercase().as_str());
                let message = "WITH ('connector' = …) is Flink's";
                return is_connector
                    .then(|| (format!("{message}; write {}", source(&name)), token.span.start));
            }
            word if depth == 0 && is_word(word, "USING") && !is_external => {
                let format = next.map(|format| format.to_string().to_uppercase()).unwrap_or_default();
                let message = format!(
                    "USING {format} is Spark's; write CREATE EXTERNAL TABLE {name} STORED AS {format} LOCATION '…', or \
                     CREATE UNBOUNDED EXTERNAL TABLE for the input of streaming queries"
                );
                return Some((message, token.span.start));
            }
            _ => {}
        }
    }
    None
}

/// The table of a stream called `name`, as it is written here.
pub(super) fn source(name: &str) -> String {
    SOURCE.replace("{}", name)
}
