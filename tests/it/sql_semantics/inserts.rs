//! What the columns of a target promise holds for streaming queries, too.

use super::Place;

const INPUT: &str = "CREATE UNBOUNDED EXTERNAL TABLE t (a INT, b VARCHAR) STORED AS JSON LOCATION '$/in/';";
const QUERY: &str =
    "CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW CHECKPOINT LOCATION '$/cp' AS INSERT INTO";

#[tokio::test]
async fn columns_that_are_not_given_have_their_default() {
    for target in ["STORED AS JSON LOCATION '$/out/'", "STORED AS MEMORY"] {
        let place = Place::new();
        place.put("in/a.json", "{\"a\":1}\n{\"a\":2,\"b\":\"x\"}\n");
        let rows = place
            .rows(&format!(
                "{INPUT} CREATE EXTERNAL TABLE o (a INT, b VARCHAR DEFAULT 'none', c INT NOT NULL DEFAULT 1 + 6, d INT) \
                 {target}; {QUERY} o (a) SELECT a FROM t; SELECT a, b, c, d IS NULL FROM o"
            ))
            .await;
        assert_eq!(rows, ["1 none 7 true", "2 none 7 true"], "{target}");
    }
}

#[tokio::test]
async fn nulls_do_not_go_into_columns_that_are_not_null() {
    for target in [
        "STORED AS PARQUET LOCATION '$/out/'",
        "STORED AS JSON LOCATION '$/out/'",
        "STORED AS CSV LOCATION '$/out/'",
        "STORED AS MEMORY",
        "STORED AS NOOP",
    ] {
        let place = Place::new();
        place.put("in/a.json", "{\"a\":1,\"b\":\"x\"}\n{\"b\":\"y\"}\n");
        let table = format!("CREATE EXTERNAL TABLE o (a INT NOT NULL, b VARCHAR) {target};");
        let error = place.error(&format!("{INPUT} {table} {QUERY} o SELECT a, b FROM t")).await;
        assert!(error.contains("column 'a' of the target is NOT NULL"), "{target}: {error}");
        let rest = "SELECT a, b FROM t WHERE a IS NOT NULL";
        place.run(&format!("{QUERY} o {rest}").replace("QUERY q", "QUERY r").replace("/cp", "/cp2")).await;
    }
}
