//! A set without keys among grouping sets has its group where there are no rows, too.

use super::Place;

const COLUMNS: &str = "k VARCHAR, n BIGINT";

/// Functions of all kinds of state: numbers, texts, lists, and those that are only given distinct values.
const FUNCTIONS: &str = "count(DISTINCT n) AS d, count(*) AS c, sum(n) AS s, sum(DISTINCT n) AS sd, avg(n) AS a, min(k) AS m, \
                         string_agg(k, ',' ORDER BY n) AS t, length(string_agg(k, ',')) AS lt, first_value(k ORDER BY n) AS f, approx_distinct(k) AS ad, \
                         array_length(array_agg(DISTINCT n)) AS l, array_agg(n ORDER BY n) AS al, median(n) AS md, bool_and(n > 1) AS b, \
                         stddev(n) AS sdv, count(DISTINCT n) FILTER (WHERE n > 1) AS df";

/// The rows of `select` over lines, in batches of a file each, as the table holds them in the end.
async fn streamed(place: &Place, name: &str, mode: &str, select: &str) -> Vec<String> {
    place
        .rows(&format!(
            "CREATE OR REPLACE UNBOUNDED EXTERNAL TABLE t ({COLUMNS}) STORED AS JSON LOCATION '$/in/'
                 OPTIONS ('maxFilesPerTrigger' '1');
             CREATE EXTERNAL TABLE {name} STORED AS MEMORY;
             CREATE STREAMING QUERY q_{name} OUTPUT MODE {mode} TRIGGER AVAILABLE NOW
             AS INSERT INTO {name} {select};
             SELECT * FROM {name}"
        ))
        .await
}

async fn at_once(place: &Place, select: &str) -> Vec<String> {
    place
        .rows(&format!(
            "CREATE OR REPLACE EXTERNAL TABLE t ({COLUMNS}) STORED AS JSON LOCATION '$/in/'; {select}"
        ))
        .await
}

#[tokio::test]
async fn filtered_rows_leave_the_grand_total() {
    let place = Place::new();
    place.put("in/a.json", "{\"k\":\"a\",\"n\":1}\n{\"k\":\"b\",\"n\":2}\n");
    for (number, sets) in [
        "ROLLUP (k)",
        "CUBE (k, n)",
        "GROUPING SETS ((), (k))",
        "GROUPING SETS ((k), (), (n), ())",
        "GROUPING SETS ((k), (n))",
        "k, ROLLUP (n)",
    ]
    .into_iter()
    .enumerate()
    {
        let select = format!("SELECT grouping(k) AS g, {FUNCTIONS} FROM t WHERE n > 10 GROUP BY {sets}");
        let expected = at_once(&place, &select).await;
        let totals =
            sets.matches("()").count() + sets.matches("ROLLUP (k").count() + sets.matches("CUBE").count();
        assert_eq!(expected.len(), totals, "{sets}");
        for mode in ["COMPLETE", "UPDATE"] {
            let found = streamed(&place, &format!("r{number}{mode}"), mode, &select).await;
            assert_eq!(found, expected, "{mode}: {sets}");
        }
    }
}

/// It is the group of the rows that come later, and there is one of it.
#[tokio::test]
async fn rows_that_come_later_are_in_the_grand_total() {
    let place = Place::new();
    place.put("in/a.json", "{\"k\":\"z\",\"n\":0}\n");
    let select = format!("SELECT k, {FUNCTIONS} FROM t WHERE n > 0 GROUP BY ROLLUP (k)");
    place.run("CREATE EXTERNAL TABLE o STORED AS MEMORY").await;
    let batches = [
        "",
        "{\"k\":\"y\",\"n\":0}\n",
        "{\"k\":\"a\",\"n\":1}\n{\"k\":\"b\",\"n\":2}\n",
        "{\"k\":\"a\",\"n\":3}\n",
    ];
    for (number, lines) in batches.into_iter().enumerate() {
        if !lines.is_empty() {
            place.put(&format!("in/{number}.json"), lines);
        }
        let query = format!(
            "CREATE OR REPLACE UNBOUNDED EXTERNAL TABLE t ({COLUMNS}) STORED AS JSON LOCATION '$/in/';
             CREATE STREAMING QUERY q{number} OUTPUT MODE COMPLETE TRIGGER AVAILABLE NOW CHECKPOINT LOCATION '$/cp'
             AS INSERT INTO o {select}"
        );
        place.run(&query).await;
        let found = place.rows("SELECT * FROM o").await;
        assert_eq!(found, at_once(&place, &select).await, "after {lines}");
    }
}

/// Above an aggregation that gives its whole result, groups are those of a batch.
#[tokio::test]
async fn sets_over_groups_have_their_grand_total() {
    let place = Place::new();
    place.put("in/a.json", "{\"k\":\"a\",\"n\":1}\n{\"k\":\"b\",\"n\":2}\n{\"k\":\"b\",\"n\":3}\n");
    for (number, (least, rows)) in [(10, 1), (2, 3), (0, 3)].into_iter().enumerate() {
        let select = format!(
            "SELECT c, count(DISTINCT s) AS d, count(*) AS n, max(s) AS m FROM (SELECT k, count(*) AS c, sum(n) AS s \
             FROM t WHERE n >= {least} GROUP BY k) GROUP BY ROLLUP (c)"
        );
        let expected = at_once(&place, &select).await;
        assert_eq!(expected.len(), if least == 2 { 2 } else { rows }, "{select}");
        assert_eq!(streamed(&place, &format!("r{number}"), "COMPLETE", &select).await, expected, "{select}");
    }
}
