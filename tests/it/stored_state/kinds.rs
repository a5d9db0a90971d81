//! The state of every kind of stateful operator, and of every type.

use tidemill::prelude::*;

use super::{Job, rows};

/// With a watermark of 10 seconds behind the newest time.
const ROWS: [&[(Option<&str>, i64, i64)]; 2] =
    [&[(Some("a"), 1, 1), (Some("b"), 2, 2), (Some("a"), 1, 12)], &[(Some("a"), 5, 13), (None, 2, 33)]];

/// The operators of a query that has read [`ROWS`], and the rows of each.
async fn expect(sql: &str, mode: OutputMode, operators: &[&str], state: &[&[&str]]) {
    let mut job = Job::new(sql, mode);
    for rows in ROWS {
        job.run(rows).await;
    }
    expect_state(&job, operators, state).await;
}

async fn expect_state(job: &Job, operators: &[&str], state: &[&[&str]]) {
    assert_eq!(job.select("SELECT * FROM state()").await, operators, "{}", job.sql);
    for (number, expected) in state.iter().enumerate() {
        let sql = format!("SELECT * FROM state(, {number})");
        assert_eq!(job.select(&sql).await, *expected, "operator {number} of {}", job.sql);
    }
}

/// The columns of the table of an operator.
async fn columns(job: &Job, operator: usize) -> Vec<String> {
    let state = Session::new().stored_state(job.checkpoint().to_str().unwrap(), None).await.unwrap();
    let schema = state.table(operator).unwrap().schema();
    schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect()
}

#[tokio::test]
async fn aggregation() {
    let sql = "SELECT k, avg(v), count(*) FROM s GROUP BY k";
    expect(
        sql,
        OutputMode::Complete,
        &["0 aggregate 3 -"],
        &[&["- 1 2.0 1 -", "a 3 7.0 3 -", "b 1 2.0 1 -"]],
    )
    .await;
    expect("SELECT count(*), max(v) FROM s", OutputMode::Update, &["0 aggregate 1 -"], &[&["5 5 -"]]).await;
    let sets = "SELECT k, v, count(*) FROM s GROUP BY GROUPING SETS ((k), (v))";
    let groups = ["- - 1 1 -", "- 1 2 2 -", "- 2 2 2 -", "- 5 2 1 -", "a - 1 3 -", "b - 1 1 -"];
    expect(sets, OutputMode::Update, &["0 aggregate 6 -"], &[&groups]).await;
}

/// Only the windows that are not over are remembered.
#[tokio::test]
async fn windows() {
    let open = ["2026-01-01T00:00:30 - 2 - 2026-01-01T00:00:40"];
    let sql = "SELECT window(ts, '10 seconds') AS w, k, sum(v) FROM s GROUP BY w, k";
    for mode in [OutputMode::Append, OutputMode::Update] {
        expect(sql, mode, &["0 aggregate 1 2026-01-01T00:00:23"], &[&open]).await;
    }
    let mut job = Job::new(sql, OutputMode::Append);
    job.run(ROWS[0]).await;
    // The watermark is 2 seconds.
    let all = [
        "2026-01-01T00:00:00 a 1 - 2026-01-01T00:00:10",
        "2026-01-01T00:00:00 b 2 - 2026-01-01T00:00:10",
        "2026-01-01T00:00:10 a 1 - 2026-01-01T00:00:20",
    ];
    expect_state(&job, &["0 aggregate 3 2026-01-01T00:00:02"], &[&all]).await;
    assert_eq!(
        columns(&job, 0).await,
        [
            "window_start Timestamp(ns)",
            "k Utf8View",
            "sum(s.v)[sum] Int64",
            "sum(s.v)[carry] Int32",
            "expires Timestamp(µs)"
        ]
    );
}

#[tokio::test]
async fn distinct_aggregates() {
    expect(
        "SELECT k, count(DISTINCT v), sum(v) FROM s GROUP BY k",
        OutputMode::Update,
        &["0 distinct 4 -", "1 aggregate 3 -"],
        &[&["- 2 -", "a 1 -", "a 5 -", "b 2 -"], &["- 1 2 - -", "a 2 7 - -", "b 1 2 - -"]],
    )
    .await;
    let open = "2026-01-01T00:00:30 -";
    expect(
        "SELECT date_bin(INTERVAL '10 seconds', ts), k, count(DISTINCT v) FROM s GROUP BY 1, 2",
        OutputMode::Append,
        &["0 distinct 1 2026-01-01T00:00:23", "1 aggregate 1 2026-01-01T00:00:23"],
        &[&[&format!("{open} 2 2026-01-01T00:00:40")], &[&format!("{open} 1 2026-01-01T00:00:40")]],
    )
    .await;
}

/// A row for each batch in which the group had rows.
#[tokio::test]
async fn aggregates_that_keep_every_value() {
    expect(
        "SELECT k, array_agg(v), median(v), string_agg(k, ',') FROM s GROUP BY k",
        OutputMode::Update,
        &["0 aggregate 4 -"],
        &[&["- [2] [2.0] - -", "a [1, 1] [1.0, 1.0] a,a -", "a [5] [5.0] a -", "b [2] [2.0] b -"]],
    )
    .await;
}

#[tokio::test]
async fn deduplication() {
    let first = ["- 2 -", "a 1 -", "a 5 -", "b 2 -"];
    expect("SELECT DISTINCT k, v FROM s", OutputMode::Append, &["0 deduplicate 4 -"], &[&first]).await;
    expect(
        "SELECT DISTINCT ON (ts) k, v FROM s",
        OutputMode::Append,
        &["0 deduplicate 1 2026-01-01T00:00:23"],
        &[&["2026-01-01T00:00:33 2026-01-01T00:00:33"]],
    )
    .await;
}

#[tokio::test]
async fn deduplication_within_the_watermark() {
    let mut job = Job::new("", OutputMode::Append);
    for rows in ROWS {
        let session = Session::new();
        let frame = job.table(&session, rows).await.drop_duplicates_within_watermark(&["k", "v"]).unwrap();
        job.writer(frame).start(None).await.unwrap().await_termination().await.unwrap();
    }
    // Those of the first batch and of 13 s are forgotten 10 seconds later.
    let rest = ["- 2 2026-01-01T00:00:43"];
    expect_state(&job, &["0 deduplicate 1 2026-01-01T00:00:23"], &[&rest]).await;
    let before = ["a 1 2026-01-01T00:00:11", "b 2 2026-01-01T00:00:12"];
    assert_eq!(job.select("SELECT * FROM state(, 0, 0)").await, before);
}

#[tokio::test]
async fn limit() {
    let sql = "SELECT * FROM s LIMIT 3 OFFSET 1";
    expect(sql, OutputMode::Append, &["0 limit 1 -"], &[&["4 -"]]).await;
    let mut job = Job::new(sql, OutputMode::Append);
    job.run(&[]).await;
    job.run(ROWS[0]).await;
    assert_eq!(columns(&job, 0).await, ["rows_seen Int64", "expires Timestamp(µs)"]);
    assert_eq!(job.select("SELECT rows_seen FROM state(, 0)").await, ["3"]);
}

#[tokio::test]
async fn operators_behind_one_another() {
    expect(
        "SELECT w, count(*) FROM (SELECT DISTINCT window(ts, '10 seconds') AS w, k FROM s) GROUP BY w",
        OutputMode::Append,
        &["0 deduplicate 1 2026-01-01T00:00:23", "1 aggregate 1 2026-01-01T00:00:23"],
        &[
            &["{start: 2026-01-01T00:00:30, end: 2026-01-01T00:00:40} - 2026-01-01T00:00:40"],
            &["2026-01-01T00:00:30 1 2026-01-01T00:00:40"],
        ],
    )
    .await;
}

#[tokio::test]
async fn columns_of_one_name_get_different_ones() {
    let sql = "SELECT a.k, b.k, count(*) FROM s a JOIN (VALUES ('a')) AS b(k) ON a.k = b.k GROUP BY a.k, b.k";
    let mut job = Job::new(sql, OutputMode::Update);
    job.run(ROWS[0]).await;
    assert_eq!(job.select("SELECT k, k_2 FROM state(, 0)").await, ["a a"]);
}

/// Keys come back as they were, whatever their type.
#[tokio::test]
async fn keys_of_every_type() {
    let bounded = "(SELECT arrow_cast(column1, 'Utf8View') AS k, column2 AS v, arrow_cast(column3, 'Timestamp(ns)') AS ts
                    FROM (VALUES ('a', 1, TIMESTAMP '2026-01-01 00:00:01'), ('b', 2, TIMESTAMP '2026-01-01 00:00:02'))) AS s";
    for key in [
        "arrow_cast(k, 'Utf8')",
        "arrow_cast(k, 'LargeUtf8')",
        "arrow_cast(k, 'Utf8View')",
        "arrow_cast(k, 'Binary')",
        "arrow_cast(arrow_cast(k, 'Binary'), 'FixedSizeBinary(1)')",
        "arrow_cast(k, 'Dictionary(Int32, Utf8)')",
        "v > 1",
        "arrow_cast(v, 'UInt8')",
        "arrow_cast(v, 'Float32')",
        "arrow_cast(v, 'Decimal128(10, 2)')",
        "arrow_cast(arrow_cast(v, 'Int32'), 'Date32')",
        "arrow_cast(ts, 'Time64(ns)')",
        "arrow_cast(ts, 'Timestamp(ms)')",
        "arrow_cast(ts, 'Timestamp(ns, \"+02:00\")')",
        "arrow_cast(v, 'Duration(s)')",
        "ts - TIMESTAMP '2026-01-01'",
        "named_struct('x', k, 'y, z', v)",
        "make_array(k, 'c')",
        "make_array(make_array(v))",
        "arrow_cast(make_array(v), 'FixedSizeList(1, Int64)')",
        "map(make_array(k), make_array(v))",
    ] {
        let mut job = Job::new(&format!("SELECT {key} AS x, count(*) FROM s GROUP BY 1"), OutputMode::Update);
        job.run(ROWS[0].split_at(2).0).await;
        let remembered = "SELECT arrow_typeof(x), x FROM state(, 0) AS t(x, n, e)";
        let expected = format!("SELECT arrow_typeof(x), x FROM (SELECT {key} AS x FROM {bounded})");
        let expected = rows(&Session::new(), &expected).await.unwrap();
        assert_eq!(job.select(remembered).await, expected, "{key}");
    }
}

/// The partial results of aggregate functions, whatever they are made of.
#[tokio::test]
async fn states_of_every_type() {
    for (call, expected) in [
        ("first_value(v ORDER BY ts)", "a 1 2026-01-01T00:00:01 true -"),
        ("array_agg(v ORDER BY ts)", "a [1] [{ts@2: 2026-01-01T00:00:01}] -"),
        ("array_agg(named_struct('a', v))", "a [{a: 1}] -"),
        ("array_agg(DISTINCT v)", "a [1] -"),
        ("nth_value(v, 2 ORDER BY ts)", "a [1] [{ts@2: 2026-01-01T00:00:01}] -"),
        ("max(named_struct('a', v))", "a {a: 1} -"),
        ("min(ts)", "a 2026-01-01T00:00:01 -"),
        ("approx_distinct(k)", "a 7a16ac59ba5ebfa6 -"),
        ("approx_median(v)", "a 100 1.0 1.0 1.0 1.0 [1.0, 1.0] -"),
        ("percentile_cont(0.5) WITHIN GROUP (ORDER BY v)", "a [1.0] -"),
        ("stddev(v)", "a 1 1.0 0.0 -"),
        ("bool_or(v > 1)", "a false -"),
        ("sum(v) FILTER (WHERE v > 1)", "a - - -"),
        ("avg(arrow_cast(v, 'Decimal128(10, 2)'))", "a 1 1.00 - -"),
        ("sum(arrow_cast(v, 'Float32'))", "a 1.0 -"),
    ] {
        let mut job = Job::new(&format!("SELECT k, {call} FROM s GROUP BY k"), OutputMode::Update);
        job.run(&[(Some("a"), 1, 1)]).await;
        let last = job.select("SELECT name FROM state()").await.len() - 1;
        assert_eq!(job.select(&format!("SELECT * FROM state(, {last})")).await, [expected], "{call}");
    }
}
