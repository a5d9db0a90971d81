//! The grammar: what parses to what, and what errors say and where they point.

use std::time::Duration;

use proptest::prelude::*;
use tidemill::OutputMode;
use tidemill::Trigger;
use tidemill::sql::{Located, Statement, is_complete, parse_column_list, parse_script};

fn parse(sql: &str) -> Vec<Statement> {
    let statements = parse_script(sql).unwrap_or_else(|error| panic!("{error}\nin: {sql}"));
    statements.into_iter().map(|statement| statement.value).collect()
}

fn one(sql: &str) -> Statement {
    let mut statements = parse(sql);
    assert_eq!(statements.len(), 1, "{sql}");
    statements.remove(0)
}

const JOB: &str = "\
-- Dear bids.
CREATE UNBOUNDED EXTERNAL TABLE bids (
    auction BIGINT, price BIGINT NOT NULL, date_time TIMESTAMP,
    WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds'
) STORED AS JSON LOCATION 'data/Bids/' OPTIONS ('maxFilesPerTrigger' 4, header TRUE, 'x.y' -1.5);

  /* A sink. */ CREATE EXTERNAL TABLE dear_bids STORED AS PARQUET LOCATION 'out/dear_bids/';

CREATE STREAMING QUERY etl
    OUTPUT MODE APPEND TRIGGER PROCESSING TIME '2 seconds'
    CHECKPOINT LOCATION 'checkpoint/etl'
AS INSERT INTO dear_bids (auction, price) SELECT auction, price FROM STREAM bids WHERE price > 1000;
SHOW STREAMING QUERIES;;
STOP STREAMING QUERY etl
";

#[test]
fn a_whole_script() {
    let statements = parse_script(JOB).unwrap();
    let places: Vec<(u64, u64)> = statements.iter().map(|s| (s.line, s.column)).collect();
    assert_eq!(places, [(2, 1), (7, 17), (9, 1), (13, 1), (14, 1)]);

    let [bids, sink, query, show, stop] = statements.as_slice() else { panic!("{statements:?}") };
    let Statement::CreateExternalTable(bids) = &bids.value else { panic!("{bids:?}") };
    assert!(bids.unbounded && !bids.or_replace && !bids.if_not_exists);
    assert_eq!(bids.name.to_string(), "bids");
    assert_eq!(bids.format, "json");
    assert_eq!(bids.locations, ["data/Bids/"]);
    let columns: Vec<String> = bids.columns.iter().map(ToString::to_string).collect();
    assert_eq!(columns, ["auction BIGINT", "price BIGINT NOT NULL", "date_time TIMESTAMP"]);
    let watermark = bids.watermark.as_ref().unwrap();
    assert_eq!(watermark.column.value, "date_time");
    assert_eq!(watermark.delay, Duration::from_secs(4));
    let options: Vec<(&str, &str)> = bids.options.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(options, [("maxFilesPerTrigger", "4"), ("header", "TRUE"), ("x.y", "-1.5")]);

    let Statement::CreateExternalTable(sink) = &sink.value else { panic!("{sink:?}") };
    assert!(!sink.unbounded && sink.columns.is_empty() && sink.watermark.is_none());

    let Statement::CreateStreamingQuery(query) = &query.value else { panic!("{query:?}") };
    assert_eq!(query.name.value, "etl");
    assert_eq!(query.plan.clauses.output_mode, Some(OutputMode::Append));
    assert_eq!(query.plan.clauses.trigger, Some(Trigger::ProcessingTime(Duration::from_secs(2))));
    assert_eq!(query.plan.clauses.checkpoint.as_deref(), Some("checkpoint/etl"));
    assert_eq!(query.plan.insert.target.to_string(), "dear_bids");
    let columns: Vec<&str> = query.plan.insert.columns.iter().map(|name| name.value.as_str()).collect();
    assert_eq!(columns, ["auction", "price"]);
    assert_eq!(query.plan.insert.query.to_string(), "SELECT auction, price FROM bids WHERE price > 1000");

    assert_eq!(show.value, Statement::ShowStreamingQueries);
    assert!(matches!(&stop.value, Statement::StopStreamingQuery { name } if name.value == "etl"));
}

#[test]
fn empty_scripts_have_no_statements() {
    for sql in ["", " \n\t", ";", ";;\n;", "-- nothing", "/* nothing */;", "-- a\n;-- b"] {
        assert_eq!(parse_script(sql).unwrap(), [], "{sql}");
    }
}

#[test]
fn clauses_of_a_query_in_every_order_are_the_same_query() {
    let clauses = [
        "OUTPUT MODE complete",
        "TRIGGER AVAILABLE NOW",
        "CHECKPOINT LOCATION 'c'",
        "OPTIONS ('a' 'b', 'c' 3)",
    ];
    let parse_in = |order: &[&str]| {
        one(&format!("create streaming query q {} as insert into t select 1", order.join("\n")))
    };
    let expected = parse_in(&clauses);
    let mut count = 0;
    permutations(&mut clauses.to_vec(), 0, &mut |order| {
        count += 1;
        assert_eq!(parse_in(order), expected, "{order:?}");
    });
    assert_eq!(count, 24);
}

#[test]
fn clauses_of_a_table_in_every_order_are_the_same_table() {
    let clauses = [
        "STORED AS csv",
        "LOCATION 'In/put'",
        "PARTITIONED BY (d DATE, h INT)",
        "WITH ORDER (a ASC, b DESC NULLS LAST)",
        "OPTIONS (format.has_header true)",
    ];
    let parse_in =
        |order: &[&str]| one(&format!("CREATE EXTERNAL TABLE t (a INT, b INT) {}", order.join(" ")));
    let expected = parse_in(&clauses);
    let mut count = 0;
    permutations(&mut clauses.to_vec(), 0, &mut |order| {
        count += 1;
        assert_eq!(parse_in(order), expected, "{order:?}");
    });
    assert_eq!(count, 120);
    let Statement::CreateExternalTable(table) = expected else { panic!("{expected:?}") };
    let columns: Vec<String> = table.columns.iter().map(ToString::to_string).collect();
    assert_eq!(columns, ["a INT", "b INT", "d DATE", "h INT"]);
    let partitions: Vec<&str> = table.partitioned_by.iter().map(|name| name.value.as_str()).collect();
    assert_eq!(partitions, ["d", "h"]);
}

fn permutations<'a>(items: &mut Vec<&'a str>, from: usize, visit: &mut impl FnMut(&[&'a str])) {
    if from == items.len() {
        return visit(items);
    }
    for i in from..items.len() {
        items.swap(from, i);
        permutations(items, from + 1, visit);
        items.swap(from, i);
    }
}

/// Statements of every kind, in the forms that [`Statement`]'s `Display` gives.
const CANONICAL: [&str; 24] = [
    "SELECT 1",
    "CREATE VIEW v AS SELECT a, count(*) FROM t GROUP BY a",
    "INSERT INTO t SELECT * FROM u",
    "EXPLAIN SELECT 1",
    "SHOW STREAMING QUERIES",
    "STOP STREAMING QUERY etl",
    "STOP STREAMING QUERY \"My Query\"",
    "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'a/b'",
    "CREATE EXTERNAL TABLE IF NOT EXISTS a.b.t STORED AS PARQUET LOCATION 'a/b'",
    "CREATE OR REPLACE EXTERNAL TABLE t (a INT, PRIMARY KEY (a)) STORED AS CSV LOCATION ('a', 'b')",
    "CREATE EXTERNAL TABLE t (a INT DEFAULT 3) STORED AS CSV WITH ORDER (a ASC) LOCATION 'it''s'",
    "CREATE EXTERNAL TABLE out STORED AS CONSOLE OPTIONS ('format' 'json')",
    "CREATE EXTERNAL TABLE t STORED AS PARQUET PARTITIONED BY (a, \"B\") LOCATION 'x'",
    "CREATE UNBOUNDED EXTERNAL TABLE r STORED AS RATE OPTIONS ('rowsPerSecond' '5')",
    "CREATE OR REPLACE UNBOUNDED EXTERNAL TABLE t (\"A b\" BIGINT NOT NULL, c VARCHAR) STORED AS JSON LOCATION 'x'",
    "CREATE UNBOUNDED EXTERNAL TABLE t (c TIMESTAMP, WATERMARK FOR c AS c) STORED AS JSON LOCATION 'x'",
    "CREATE UNBOUNDED EXTERNAL TABLE t (c TIMESTAMP, WATERMARK FOR c AS c - INTERVAL '10' MINUTE) STORED AS JSON LOCATION 'x'",
    "CREATE UNBOUNDED EXTERNAL TABLE t (watermark TIMESTAMP) STORED AS JSON LOCATION 'x'",
    "CREATE STREAMING QUERY q AS INSERT INTO t SELECT * FROM u",
    "CREATE STREAMING QUERY q OUTPUT MODE UPDATE TRIGGER ONCE AS INSERT INTO t (a, b) (SELECT 1, 2)",
    "CREATE STREAMING QUERY q TRIGGER PROCESSING TIME '1500000 us' AS INSERT INTO t WITH c AS (SELECT 1) SELECT * FROM c",
    "CREATE STREAMING QUERY \"Q\" TRIGGER AVAILABLE NOW CHECKPOINT LOCATION 's3://b/c' OPTIONS ('a' 'b') AS INSERT INTO s.t VALUES (1)",
    "EXPLAIN STREAMING QUERY AS INSERT INTO t SELECT 1",
    "EXPLAIN STREAMING QUERY q OUTPUT MODE APPEND AS INSERT INTO t SELECT 1",
];

#[test]
fn statements_print_as_sql() {
    for sql in CANONICAL {
        assert_eq!(one(sql).to_string(), sql);
    }
}

#[test]
fn from_stream_means_the_table() {
    for (sql, plain) in [
        ("SELECT * FROM STREAM t", "SELECT * FROM t"),
        ("SELECT * FROM STREAM(t) AS x", "SELECT * FROM t AS x"),
        ("SELECT * FROM STREAM a.t x JOIN STREAM(u) ON x.a = u.a", "SELECT * FROM a.t x JOIN u ON x.a = u.a"),
        ("CREATE VIEW v AS SELECT * FROM a, STREAM b", "CREATE VIEW v AS SELECT * FROM a, b"),
        (
            "CREATE STREAMING QUERY q AS INSERT INTO o SELECT * FROM STREAM t",
            "CREATE STREAMING QUERY q AS INSERT INTO o SELECT * FROM t",
        ),
    ] {
        assert_eq!(one(sql), one(plain), "{sql}");
    }
    assert_eq!(one("SELECT * FROM stream").to_string(), "SELECT * FROM stream");
    assert_eq!(one("SELECT * FROM stream AS s").to_string(), "SELECT * FROM stream AS s");
    assert_eq!(one("SELECT * FROM \"stream\" s").to_string(), "SELECT * FROM \"stream\" s");
}

/// A script, the line and column that the error must point to, and what it must say.
const ERRORS: [(&str, u64, u64, &str); 51] = [
    // The streaming query.
    (
        "CREATE STREAMING QUREY q",
        1,
        18,
        "expected QUERY after CREATE STREAMING, found 'QUREY'; did you mean QUERY?",
    ),
    ("CREATE STREAMING QUERY", 1, 23, "expected the name of the query, found the end of the statement"),
    ("CREATE STREAMING QUERY OUTPUT MODE APPEND AS", 1, 24, "expected the name of the query, found 'OUTPUT'"),
    ("CREATE STREAMING QUERY 'q' AS", 1, 24, "expected the name of the query, found the string 'q'"),
    (
        "CREATE STREAMING QUERY q\n  TRIGER ONCE\nAS INSERT INTO t SELECT 1",
        2,
        3,
        "expected OUTPUT MODE, TRIGGER, CHECKPOINT LOCATION, OPTIONS or AS INSERT INTO …, found 'TRIGER'; did you mean TRIGGER?",
    ),
    (
        "SELECT 1;\n\nCREATE STREAMING QUERY q\n  TRIGGER AVAILABLE NWO\nAS INSERT INTO t SELECT 1",
        4,
        21,
        "expected ONCE, AVAILABLE NOW or PROCESSING TIME '…' after TRIGGER, found 'NWO'; did you mean NOW?",
    ),
    (
        "CREATE STREAMING QUERY q TRIGGER AVIALABLE NOW",
        1,
        34,
        "expected ONCE, AVAILABLE NOW or PROCESSING TIME '…' after TRIGGER, found 'AVIALABLE'; did you mean AVAILABLE?",
    ),
    (
        "CREATE STREAMING QUERY q TRIGGER PROCESSING TIME '2 fortnights' AS",
        1,
        50,
        "'2 fortnights' is not a length of time; write one as '2 seconds' or '500 ms'",
    ),
    (
        "CREATE STREAMING QUERY q TRIGGER PROCESSING TIME 2 AS",
        1,
        50,
        "expected a length of time in quotes, such as '2 seconds', after PROCESSING TIME, found '2'",
    ),
    (
        "CREATE STREAMING QUERY q OUTPUT MODE UPSERT AS",
        1,
        38,
        "expected APPEND, UPDATE or COMPLETE after OUTPUT MODE, found 'UPSERT'",
    ),
    (
        "CREATE STREAMING QUERY q OUTPUT MODE APEND AS",
        1,
        38,
        "expected APPEND, UPDATE or COMPLETE after OUTPUT MODE, found 'APEND'; did you mean APPEND?",
    ),
    ("CREATE STREAMING QUERY q OUTPUT APPEND", 1, 33, "expected MODE after OUTPUT, found 'APPEND'"),
    (
        "CREATE STREAMING QUERY q CHECKPOINT 'c' AS",
        1,
        37,
        "expected LOCATION after CHECKPOINT, found the string 'c'",
    ),
    (
        "CREATE STREAMING QUERY q CHECKPOINT LOCATION c AS",
        1,
        46,
        "expected a path in quotes after CHECKPOINT LOCATION, found 'c'",
    ),
    ("CREATE STREAMING QUERY q TRIGGER ONCE\nTRIGGER ONCE AS", 2, 1, "TRIGGER is given twice"),
    (
        "CREATE STREAMING QUERY q OPTIONS () OPTIONS () AS INSERT INTO t SELECT 1",
        1,
        37,
        "OPTIONS is given twice",
    ),
    ("CREATE STREAMING QUERY q OPTIONS ('a' 'b', 'A' 'c') AS", 1, 44, "option 'A' is given twice"),
    (
        "CREATE STREAMING QUERY q OPTIONS ('a' = 'b') AS",
        1,
        39,
        "expected a string, a number or a boolean as the value of option 'a' (options are written 'name' 'value'), found '='",
    ),
    (
        "CREATE STREAMING QUERY q OPTIONS ('a' 'b' 'c') AS",
        1,
        43,
        "expected ',' or ')' after an option, found the string 'c'",
    ),
    ("CREATE STREAMING QUERY q OPTIONS 'a'", 1, 34, "expected '(' after OPTIONS, found the string 'a'"),
    (
        "CREATE STREAMING QUERY q AS SELECT 1",
        1,
        29,
        "expected INSERT INTO table SELECT … after AS, found 'SELECT'",
    ),
    (
        "CREATE STREAMING QUERY q AS INSERT OVERWRITE t SELECT 1",
        1,
        36,
        "expected INTO after INSERT (a streaming query adds to its table), found 'OVERWRITE'",
    ),
    (
        "CREATE STREAMING QUERY q AS INSERT INTO",
        1,
        40,
        "expected the table to write to, found the end of the statement",
    ),
    (
        "CREATE STREAMING QUERY q AS INSERT INTO t SELCT 1",
        1,
        43,
        "expected a query such as SELECT …, found 'SELCT'; did you mean SELECT?",
    ),
    (
        "CREATE STREAMING QUERY q AS INSERT INTO t (a, 1) SELECT 1",
        1,
        47,
        "expected the columns to write to, found '1'",
    ),
    (
        "CREATE STREAMING QUERY q AS INSERT INTO t SELECT 1 CHECKPOINT LOCATION 'c'",
        1,
        63,
        "expected the end of the statement, found 'LOCATION'",
    ),
    (
        "CREATE OR REPLACE STREAMING QUERY q",
        1,
        8,
        "a streaming query cannot be replaced while it runs: use STOP STREAMING QUERY, then CREATE STREAMING QUERY",
    ),
    (
        "SHOW STREAMING QUERY",
        1,
        16,
        "expected QUERIES after SHOW STREAMING, found 'QUERY'; did you mean QUERIES?",
    ),
    ("SHOW STREAMING QUERIES now", 1, 24, "expected the end of the statement, found 'now'"),
    ("STOP etl", 1, 6, "expected STREAMING after STOP, found 'etl'"),
    ("STOP STREAMING QUERY", 1, 21, "expected the name of the query, found the end of the statement"),
    ("EXPLAIN STREAMING QUERY", 1, 24, "expected the name of the query, found the end of the statement"),
    // Tables.
    ("CREATE UNBOUNDED TABLE t (a INT)", 1, 18, "expected EXTERNAL after UNBOUNDED, found 'TABLE'"),
    ("CREATE EXTERNAL t STORED AS CSV", 1, 17, "expected TABLE after EXTERNAL, found 't'"),
    ("CREATE EXTERNAL TABLE t LOCATION 'x'", 1, 37, "CREATE EXTERNAL TABLE needs STORED AS and a format"),
    (
        "CREATE EXTERNAL TABLE t STORED AS CSV\nLOCATOIN 'x'",
        2,
        1,
        "expected STORED AS, LOCATION, PARTITIONED BY, WITH ORDER, OPTIONS or the end of the statement, found 'LOCATOIN'; did you mean LOCATION?",
    ),
    (
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION x",
        1,
        48,
        "expected a path in quotes after LOCATION, found 'x'",
    ),
    (
        "CREATE EXTERNAL TABLE t STORED AS 'csv'",
        1,
        35,
        "expected a format such as PARQUET, JSON or CSV after STORED AS, found the string 'csv'",
    ),
    ("CREATE EXTERNAL TABLE t STORED AS CSV STORED AS CSV", 1, 39, "STORED AS is given twice"),
    (
        "CREATE EXTERNAL TABLE t (a INT b INT) STORED AS CSV",
        1,
        32,
        "expected ',' or ')' after a column, found 'b'",
    ),
    (
        "CREATE OR REPLACE EXTERNAL TABLE IF NOT EXISTS t",
        1,
        34,
        "IF NOT EXISTS and OR REPLACE exclude each other",
    ),
    (
        "CREATE EXTERNAL TABLE t (a TIMESTAMP, WATERMARK FOR a AS a) STORED AS CSV",
        1,
        39,
        "WATERMARK is for CREATE UNBOUNDED EXTERNAL TABLE: the rows of this table do not arrive over time",
    ),
    (
        "CREATE UNBOUNDED EXTERNAL TABLE t (a TIMESTAMP, WATERMARK FOR a AS b - INTERVAL '1 s') STORED AS CSV",
        1,
        68,
        "a watermark is written a - INTERVAL '…', or a if rows come in order; found b - INTERVAL '1 s'",
    ),
    (
        "CREATE UNBOUNDED EXTERNAL TABLE t (a TIMESTAMP, WATERMARK FOR a AS a - INTERVAL '1' MOON) STORED AS CSV",
        1,
        68,
        "'1': expected a length of time such as '10 minutes', '1 hour 30 seconds' or '2 months'",
    ),
    (
        "CREATE UNBOUNDED EXTERNAL TABLE t (a INT PRIMARY KEY) STORED AS CSV",
        1,
        36,
        "'PRIMARY KEY' cannot be given for an unbounded table",
    ),
    (
        "CREATE UNBOUNDED EXTERNAL TABLE t (a INT) STORED AS CSV WITH ORDER (a)",
        1,
        57,
        "WITH ORDER cannot be given for an unbounded table",
    ),
    // DataFusion's statements.
    ("SELECT 1;\nSELCT 2", 2, 1, "expected an SQL statement, found 'SELCT'; did you mean SELECT?"),
    (
        "CREATE STREAMNG QUERY q",
        1,
        8,
        "expected an object type after CREATE, found 'STREAMNG'; did you mean STREAMING?",
    ),
    ("SELECT 'abc", 1, 8, "unterminated string literal"),
    ("SELECT (1", 1, 8, "this '(' is not closed"),
    ("SELECT * FROM (SELECT 1", 1, 15, "this '(' is not closed"),
];

#[test]
fn errors_say_what_was_expected_and_where() {
    let mut wrong = Vec::new();
    for (sql, line, column, message) in ERRORS {
        let error = parse_script(sql).expect_err(sql).to_string();
        if error != format!("{message} at line {line}, column {column}") {
            wrong.push(format!(
                "{sql}\n  gives:     {error}\n  should be: {message} at line {line}, column {column}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn completeness_is_a_semicolon_at_the_end() {
    for sql in ["", "-- a", "SELECT 1;", "SELECT 1; -- done", "SELECT ';';", "\\ ;"] {
        assert!(is_complete(sql), "{sql}");
    }
    for sql in ["SELECT 1", "SELECT ';", "SELECT 1; SELECT", "SELECT /* ;", "SELECT \"a;"] {
        assert!(!is_complete(sql), "{sql}");
    }
}

#[test]
fn column_lists() {
    let columns = parse_column_list("a BIGINT, \"B c\" VARCHAR NOT NULL, d DECIMAL(10, 2)").unwrap();
    let columns: Vec<String> = columns.iter().map(ToString::to_string).collect();
    assert_eq!(columns, ["a BIGINT", "\"B c\" VARCHAR NOT NULL", "d DECIMAL(10,2)"]);
    let error = parse_column_list("a BIGINT,\n b").unwrap_err().to_string();
    assert_eq!(error, "expected a data type name, found the end of the statement at line 2, column 3");
    let error = parse_column_list("a INT b INT").unwrap_err().to_string();
    assert_eq!(error, "expected ',' or the end of the columns, found 'b' at line 1, column 7");
    for (text, parsed) in [
        ("s MAP<VARCHAR, ARRAY<INT>>, n INT", vec!["s Map(VARCHAR, ARRAY<INT>)", "n INT"]),
        ("s STRUCT<m MAP<VARCHAR, STRUCT<a INT>>>", vec!["s STRUCT<m Map(VARCHAR, STRUCT<a INT>)>"]),
    ] {
        let columns: Vec<String> = parse_column_list(text).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(columns, parsed);
    }
    let error = parse_column_list("s MAP(VARCHAR, BIGINT)").unwrap_err().to_string();
    assert_eq!(error, "expected <, found '(' at line 1, column 6");
    let error = parse_column_list("map").unwrap_err().to_string();
    assert!(error.starts_with("expected a data type name"), "{error}");
    let error = parse_column_list("").unwrap_err().to_string();
    assert_eq!(error, "expected the name of a column, found the end of the statement at line 1, column 1");
}

#[test]
fn examples_in_the_documents_parse() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut examples = 0;
    for document in ["README.md", "docs/sql.md"] {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        for block in text.split("```sql\n").skip(1) {
            let sql = block.split("```").next().unwrap();
            examples += parse(sql).len();
        }
    }
    assert!(examples > 10, "{examples} statements found");
    assert_eq!(parse(&std::fs::read_to_string(root.join("sql/quickstart.sql")).unwrap()).len(), 3);
}

#[test]
fn deep_nesting_is_an_error() {
    let sql = format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000));
    let error = parse_script(&sql).unwrap_err().to_string();
    assert!(error.starts_with("the statement is nested too deeply at line 1"), "{error}");
}

/// Words of the grammar and things that upset parsers.
const WORDS: [&str; 64] = [
    "CREATE",
    "OR",
    "REPLACE",
    "UNBOUNDED",
    "EXTERNAL",
    "TABLE",
    "IF",
    "NOT",
    "EXISTS",
    "t",
    "\"T\"",
    "a.b",
    "(",
    ")",
    ",",
    "a INT",
    "b TIMESTAMP",
    "WATERMARK",
    "FOR",
    "AS",
    "b - INTERVAL '1 s'",
    "STORED",
    "JSON",
    "LOCATION",
    "'x'",
    "PARTITIONED",
    "BY",
    "WITH",
    "ORDER",
    "OPTIONS",
    "'k' 'v'",
    "STREAMING",
    "QUERY",
    "QUERIES",
    "OUTPUT",
    "MODE",
    "APPEND",
    "TRIGGER",
    "ONCE",
    "AVAILABLE",
    "NOW",
    "PROCESSING",
    "TIME",
    "CHECKPOINT",
    "INSERT",
    "INTO",
    "SELECT",
    "*",
    "FROM",
    "STREAM",
    "JOIN",
    "ON",
    "SHOW",
    "STOP",
    "EXPLAIN",
    ";",
    "-",
    "1.5",
    "'open",
    "/*",
    "\n",
    "é",
    "$1",
    "E'\\x'",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = parse_script(&text);
        let _ = parse_column_list(&text);
        let _ = is_complete(&text);
    }

    #[test]
    fn no_words_panic_and_what_parses_prints_as_itself(
        words in prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..30),
        start in prop::sample::select(CANONICAL.to_vec()),
        cut in 0usize..200,
    ) {
        let start: String = start.chars().take(cut).collect();
        let text = format!("{start} {}", words.join(" "));
        match parse_script(&text) {
            Ok(statements) => {
                for Located { value, .. } in statements {
                    let printed = value.to_string();
                    if !matches!(value, Statement::DataFusion(_)) {
                        prop_assert_eq!(one(&printed), value, "{}", printed);
                    }
                }
            }
            Err(tidemill::Error::Sql { message, line, column }) => {
                let lines: Vec<&str> = text.split('\n').collect();
                let line_text = lines.get((line as usize).wrapping_sub(1));
                prop_assert!(line_text.is_some(), "{message} at line {line} of {text}");
                let length = line_text.map_or(0, |text| text.chars().count()) as u64;
                prop_assert!(column >= 1 && column <= length + 1, "{message} at column {column} of {text}");
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}
