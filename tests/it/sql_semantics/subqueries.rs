//! Subqueries over streams: as conditions, and as values where these can be given for good or anew with every batch.

use super::Place;

/// A table of a query: its name, its columns, and its lines of JSON, round by round.
struct Table {
    name: &'static str,
    columns: &'static str,
    rounds: [&'static str; 3],
}

const TABLES: [Table; 2] = [
    Table {
        name: "t",
        columns: "k INT, a BIGINT",
        rounds: [
            "{\"k\":1,\"a\":4}\n{\"k\":2,\"a\":5}\n{\"k\":null,\"a\":1}\n",
            "{\"k\":1,\"a\":9}\n{\"k\":3,\"a\":2}\n",
            "{\"k\":2,\"a\":7}\n{\"k\":4,\"a\":null}\n{\"k\":null,\"a\":3}\n",
        ],
    },
    Table {
        name: "u",
        columns: "k INT, v BIGINT",
        rounds: [
            "{\"k\":2,\"v\":10}\n",
            "{\"k\":1,\"v\":20}\n{\"k\":2,\"v\":4}\n",
            "{\"k\":null,\"v\":1}\n{\"k\":4,\"v\":6}\n",
        ],
    },
];

fn definitions(kind: &str) -> String {
    let define = |Table { name, columns, .. }: &Table| {
        format!(
            "CREATE OR REPLACE {kind} EXTERNAL TABLE {name} ({columns}) STORED AS JSON LOCATION '$/{name}/'; "
        )
    };
    TABLES.iter().map(define).collect()
}

/// Whether `select`, in complete mode and started again before each batch, gives after each what it gives at once over
/// what is there.
async fn is_always_whole(select: &str) {
    let place = Place::new();
    place.put("b.csv", "k,v\n1,10\n,20\n3,5\n");
    place
        .run("CREATE EXTERNAL TABLE b (k INT, v BIGINT) STORED AS CSV LOCATION '$/b.csv' OPTIONS ('format.has_header' 'true')")
        .await;
    for round in 0..3 {
        for Table { name, rounds, .. } in &TABLES {
            place.put(&format!("{name}/{round}.json"), rounds[round]);
        }
        let at_once = place.rows(&format!("{}{select}", definitions(""))).await;
        let streamed = place
            .rows(&format!(
                "{} CREATE OR REPLACE EXTERNAL TABLE result STORED AS MEMORY;
                 CREATE STREAMING QUERY q OUTPUT MODE COMPLETE TRIGGER AVAILABLE NOW CHECKPOINT LOCATION '$/c'
                 OPTIONS ('durability' 'process') AS INSERT INTO result {select};
                 SELECT * FROM result",
                definitions("UNBOUNDED")
            ))
            .await;
        assert_eq!(streamed, at_once, "round {round}: {select}");
    }
}

#[tokio::test]
async fn in_complete_mode_subqueries_have_the_values_of_all_rows() {
    for select in [
        "SELECT k, count(*) AS n, (SELECT count(*) FROM t) AS total FROM t GROUP BY k",
        "SELECT k, sum(a) * 1.0 / (SELECT sum(a) FROM t) AS part FROM t GROUP BY k",
        "SELECT k, sum(a) AS s FROM t GROUP BY k HAVING sum(a) > (SELECT avg(s) FROM (SELECT sum(a) AS s FROM t GROUP BY k))",
        "SELECT (SELECT max(a) FROM t) - (SELECT min(v) FROM u) AS d, count(*) AS n FROM t",
        "SELECT k, count(*) + (SELECT max(v) FROM u) + (SELECT max(v) FROM b) AS n FROM t GROUP BY k",
        "SELECT k, count(*) AS n FROM t GROUP BY k HAVING count(*) = (SELECT count(*) FROM u WHERE v > 100)",
        // Correlated.
        "SELECT g.k, g.n, (SELECT max(v) FROM u WHERE u.k = g.k) AS m FROM (SELECT k, count(*) AS n FROM t GROUP BY k) AS g",
        "SELECT g.k, (SELECT count(*) FROM u WHERE u.k = g.k) AS m FROM (SELECT k, count(*) AS n FROM t GROUP BY k) AS g",
        "SELECT g.k FROM (SELECT k, count(*) AS n FROM t GROUP BY k) AS g WHERE g.n >= (SELECT count(*) FROM u WHERE u.k = g.k)",
    ] {
        is_always_whole(select).await;
    }
}

#[tokio::test]
async fn so_have_conditions() {
    for select in [
        "SELECT k, count(*) AS n FROM t GROUP BY k HAVING k IN (SELECT max(k) FROM u)",
        "SELECT k, count(*) AS n FROM t GROUP BY k HAVING k IN (SELECT k FROM u GROUP BY k)",
        "SELECT k, count(*) AS n FROM t GROUP BY k HAVING k NOT IN (SELECT max(k) FROM u)",
        "SELECT k, count(*) AS n FROM t GROUP BY k HAVING k NOT IN (SELECT k FROM u GROUP BY k)",
        "SELECT k, count(*) AS n FROM t GROUP BY k HAVING EXISTS (SELECT max(v) FROM u HAVING max(v) > 15)",
        "SELECT k, count(*) AS n FROM t GROUP BY k HAVING NOT EXISTS (SELECT max(v) FROM u HAVING max(v) > 15)",
        "SELECT k, count(*) AS n FROM t GROUP BY k HAVING count(*) > 1 OR k IN (SELECT k FROM u GROUP BY k)",
        "SELECT k, count(*) AS n FROM t GROUP BY k HAVING count(*) > 1 OR k NOT IN (SELECT k FROM u GROUP BY k)",
        "SELECT k, k IN (SELECT k FROM u GROUP BY k) AS x, count(*) AS n FROM t GROUP BY k",
        "SELECT g.k, EXISTS (SELECT k FROM u WHERE u.k = g.k GROUP BY k) AS x FROM (SELECT k FROM t GROUP BY k) AS g",
    ] {
        is_always_whole(select).await;
    }
}

const TIMED: &str = "k INT, v INT, ts TIMESTAMP(6)";

/// What `select` gives over streams `x`, `y` and `z` in append mode to their end, after it was found to be what it gives
/// at once. The streams come in two batches, with a restart between them.
async fn appended(select: &str) -> Vec<String> {
    let place = Place::new();
    let line = |(k, v, second): (&str, u32, u32)| {
        format!("{{\"k\":{k},\"v\":{v},\"ts\":\"2024-01-01T00:{:02}:{:02}\"}}\n", second / 60, second % 60)
    };
    let lines = |rows: &[(&'static str, u32, u32)]| rows.iter().copied().map(line).collect::<String>();
    let rounds = [
        ("x", [lines(&[("1", 1, 5), ("2", 2, 6), ("null", 3, 7)]), lines(&[("1", 4, 65), ("3", 5, 66)])]),
        ("y", [lines(&[("1", 10, 5), ("2", 20, 30)]), lines(&[("1", 30, 65), ("1", 40, 65), ("3", 50, 70)])]),
        ("z", [lines(&[("1", 10, 5)]), lines(&[("3", 50, 70), ("null", 7, 65)])]),
    ];
    let tables = |kind: &str, watermark: &str| -> String {
        let table = |(name, _): &(&str, [String; 2])| {
            format!(
                "CREATE OR REPLACE {kind} EXTERNAL TABLE {name} ({TIMED}{watermark}) STORED AS JSON LOCATION '$/{name}/'; "
            )
        };
        rounds.iter().map(table).collect()
    };
    let mut given = Vec::new();
    for (round, options) in
        ["'durability' 'process'", "'durability' 'process', 'flushOnEnd' 'true'"].iter().enumerate()
    {
        for (name, lines) in &rounds {
            place.put(&format!("{name}/{round}.json"), lines[round].as_str());
        }
        let rows = place
            .rows(&format!(
                "{} CREATE OR REPLACE EXTERNAL TABLE result STORED AS MEMORY;
                 CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW CHECKPOINT LOCATION '$/c' OPTIONS ({options})
                 AS INSERT INTO result {select};
                 SELECT * FROM result",
                tables("UNBOUNDED", ", WATERMARK FOR ts AS ts")
            ))
            .await;
        given.extend(rows);
    }
    given.sort();
    let at_once = place.rows(&format!("{}{select}", tables("", ""))).await;
    assert_eq!(given, at_once, "{select}");
    given
}

#[tokio::test]
async fn conditions_may_stand_inside_of_one_another() {
    for (select, rows) in [
        (
            "SELECT x.v FROM x WHERE EXISTS (SELECT 1 FROM y WHERE y.k = x.k AND EXISTS (SELECT 1 FROM z WHERE z.k = y.k))",
            &["1", "4", "5"][..],
        ),
        (
            "SELECT x.v FROM x WHERE EXISTS (SELECT 1 FROM y WHERE y.k = x.k AND y.k IN (SELECT z.k FROM z))",
            &["1", "4", "5"][..],
        ),
        (
            "SELECT x.v FROM x WHERE x.k IN (SELECT y.k FROM y WHERE y.k IN (SELECT z.k FROM z))",
            &["1", "4", "5"][..],
        ),
        (
            "SELECT x.v FROM x WHERE EXISTS (SELECT 1 FROM y WHERE y.k = x.k AND NOT EXISTS (SELECT 1 FROM z WHERE z.k = y.k \
             AND z.ts = y.ts))",
            &["1", "2", "4"][..],
        ),
        (
            "SELECT x.v FROM x WHERE x.v > 1 AND EXISTS (SELECT 1 FROM y WHERE y.k = x.k AND y.v > x.v AND y.k IN (SELECT z.k \
             FROM z WHERE z.v < 50 + y.v))",
            &["4", "5"][..],
        ),
    ] {
        assert_eq!(appended(select).await, rows, "{select}");
    }
}

#[tokio::test]
async fn not_in_is_bounded_by_equal_times_and_windows() {
    for (select, rows) in [
        ("SELECT x.v FROM x WHERE x.k NOT IN (SELECT y.k FROM y WHERE y.ts = x.ts)", &["2", "3", "5"][..]),
        (
            "SELECT x.v FROM x WHERE x.k NOT IN (SELECT y.k FROM y WHERE window(y.ts, '1 minute') = window(x.ts, '1 minute'))",
            &[][..],
        ),
        (
            "SELECT x.v FROM x WHERE x.k NOT IN (SELECT z.k FROM z WHERE window(z.ts, '1 minute') = window(x.ts, '1 minute'))",
            &["2"][..],
        ),
        (
            "SELECT x.v FROM x WHERE x.k NOT IN (SELECT y.k FROM y WHERE y.ts BETWEEN x.ts AND x.ts)",
            &["2", "3", "5"][..],
        ),
    ] {
        assert_eq!(appended(select).await, rows, "{select}");
    }
}

/// Where both sides become final together, a value is one for good.
#[tokio::test]
async fn in_append_mode_subqueries_have_values_within_a_time() {
    for (select, rows) in [
        (
            "SELECT x.v, (SELECT max(y.v) FROM y WHERE y.k = x.k AND y.ts = x.ts) AS m FROM x",
            &["1 10", "2", "3", "4 40", "5"][..],
        ),
        (
            "SELECT x.v, (SELECT count(*) FROM y WHERE y.k = x.k AND y.ts = x.ts) AS n FROM x",
            &["1 1", "2 0", "3 0", "4 2", "5 0"][..],
        ),
        (
            "SELECT x.v FROM x WHERE x.v < (SELECT max(w.v) FROM (SELECT *, window(ts, '1 minute') AS w FROM y) AS w \
             WHERE w.k = x.k AND w.w = window(x.ts, '1 minute'))",
            &["1", "2", "4", "5"][..],
        ),
    ] {
        assert_eq!(appended(select).await, rows, "{select}");
    }
}

#[tokio::test]
async fn others_are_refused_with_a_way_out() {
    let place = Place::new();
    place.put("t/0.json", TABLES[0].rounds[0]);
    place.put("u/0.json", TABLES[1].rounds[0]);
    for (mode, select, reasons) in [
        (
            "APPEND",
            "SELECT a, (SELECT max(v) FROM u) AS m FROM t",
            ["its value would change with every batch", "Use output mode complete"],
        ),
        (
            "APPEND",
            "SELECT a, k IN (SELECT k FROM u) AS x FROM t",
            ["its value would change with every batch", "in WHERE"],
        ),
        (
            "UPDATE",
            "SELECT k, count(*) AS n, (SELECT count(*) FROM t) AS total FROM t GROUP BY k",
            ["output mode update", "Use output mode complete"],
        ),
        (
            "COMPLETE",
            "SELECT count(*) AS n FROM t WHERE a > (SELECT avg(a) FROM t)",
            ["a join of a stream with an aggregation", "an aggregation in the query as in the subquery"],
        ),
        (
            "COMPLETE",
            "SELECT k, count(*) AS n, (SELECT v FROM u) AS m FROM t GROUP BY k",
            ["that is not aggregated", "SELECT max(x)"],
        ),
        (
            "COMPLETE",
            "SELECT sum(a - (SELECT avg(a) FROM t)) AS s FROM t",
            ["its value would change with every batch", "join the two"],
        ),
    ] {
        let error = place
            .error(&format!(
                "{} CREATE OR REPLACE EXTERNAL TABLE result STORED AS MEMORY;
                 CREATE STREAMING QUERY q OUTPUT MODE {mode} TRIGGER AVAILABLE NOW AS INSERT INTO result {select}",
                definitions("UNBOUNDED")
            ))
            .await;
        assert!(reasons.iter().all(|reason| error.contains(reason)), "{select}: {error}");
    }
}
