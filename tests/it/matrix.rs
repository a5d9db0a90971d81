//! Which queries run in which output mode: every cell of Spark's matrix is accepted, or refused before
//! the query starts, by name and with reason and advice.

mod runs;

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use tidemill::prelude::*;
use tidemill::source::SourceProvider;
use tidemill::source::memory::MemoryStream;
use tidemill::{Error, SourceFactory, SourceRequest};

struct FeedFactory(MemoryStream);

#[async_trait]
impl SourceFactory for FeedFactory {
    async fn create(&self, _: SourceRequest) -> tidemill::Result<Arc<dyn SourceProvider>> {
        Ok(Arc::new(self.0.clone()))
    }
}

/// The columns of all streams.
fn columns() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Utf8, true),
        Field::new("v", DataType::Int64, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("l", DataType::new_list(DataType::Int64, true), true),
    ]))
}

/// The streams `s` and `s2` with a watermark on `ts`, the stream `u` without one, and the table `t`.
async fn session() -> Session {
    let session = Session::new();
    let schema = columns();
    for (name, watermark) in [("s", true), ("s2", true), ("u", false)] {
        session.register_source("feed", Arc::new(FeedFactory(MemoryStream::new(Arc::clone(&schema)))));
        let mut table = session.read_stream().format("feed").load(None).await.unwrap();
        if watermark {
            table = table.with_watermark("ts", "10 seconds").unwrap();
        }
        session.context().register_table(name, table.into_view()).unwrap();
    }
    session.context().sql("CREATE TABLE t (k VARCHAR, c BIGINT) AS VALUES ('a', 1)").await.unwrap();
    session
}

/// How a query is refused: the operator that the message names.
pub type Cell = Result<(), &'static str>;

pub const MODES: [OutputMode; 3] = [OutputMode::Append, OutputMode::Update, OutputMode::Complete];

const OK: Cell = Ok(());
const NO_AGGREGATION: Cell = Err("output mode complete");
const NEVER_FINAL: Cell = Err("an aggregation over an unbounded table, in output mode append");
const NO_BOUND: Cell = Err("a LeftAnti join of two streams without a bound of time");
const JOIN_UPDATE: Cell = Err("a join of a stream with an aggregation, in output mode update");
const JOIN_COMPLETE: Cell = Err("a join of a stream with an aggregation, in output mode complete");
const SORTED: Cell = Err("ORDER BY over an unbounded table");
const OVER: Cell = Err("a window function (OVER) over an unbounded table");
const OVER_UPDATE: Cell = Err("a window function (OVER) over an aggregation, in output mode update");
const OVER_COMPLETE: Cell = Err("a window function (OVER) over an unbounded table, in output mode complete");
const AGAIN: Cell = Err("an aggregation over an aggregation, in output mode update");
const LIMITED: Cell = Err("LIMIT or OFFSET over an aggregation, in output mode update");
const MIXED: Cell = Err("UNION of an unbounded and a bounded table");
const SUBQUERIES: [Cell; 3] = [
    Err("a subquery expression over an unbounded table, in output mode append"),
    Err("a subquery expression over an unbounded table, in output mode update"),
    Err("a subquery expression over an unbounded table, in output mode complete"),
];
const SUBQUERY_OF_TABLE: Cell =
    Err("a subquery expression over an unbounded table, in a filter of a bounded one");

/// Query, then append, update, complete.
pub const MATRIX: &[(&str, [Cell; 3])] = &[
    // Without state.
    ("SELECT k, v + 1 FROM s WHERE v > 1", [OK, OK, NO_AGGREGATION]),
    ("SELECT unnest(l) FROM s", [OK, OK, NO_AGGREGATION]),
    ("SELECT k FROM s UNION ALL SELECT k FROM u", [OK, OK, NO_AGGREGATION]),
    ("SELECT k FROM s UNION ALL SELECT k FROM t", [MIXED, MIXED, MIXED]),
    ("SELECT * FROM s JOIN t ON s.k = t.k", [OK, OK, NO_AGGREGATION]),
    ("SELECT * FROM s LEFT JOIN t ON s.k = t.k", [OK, OK, NO_AGGREGATION]),
    ("SELECT * FROM t RIGHT JOIN s ON s.k = t.k", [OK, OK, NO_AGGREGATION]),
    ("SELECT * FROM s CROSS JOIN t", [OK, OK, NO_AGGREGATION]),
    ("SELECT * FROM s WHERE k IN (SELECT k FROM t)", [OK, OK, NO_AGGREGATION]),
    ("SELECT * FROM s WHERE k NOT IN (SELECT k FROM t)", [OK, OK, NO_AGGREGATION]),
    (
        "SELECT * FROM s FULL JOIN t ON s.k = t.k",
        [Err("a Full join that keeps rows of the bounded table"); 3],
    ),
    (
        "SELECT * FROM t LEFT ANTI JOIN s ON s.k = t.k",
        [Err("a LeftAnti join that keeps rows of the bounded table"); 3],
    ),
    ("SELECT * FROM s ORDER BY k", [SORTED, SORTED, SORTED]),
    ("SELECT row_number() OVER (ORDER BY v) FROM s", [OVER, OVER, OVER]),
    ("SELECT * FROM t WHERE k IN (SELECT k FROM s)", [SUBQUERY_OF_TABLE; 3]),
    ("SELECT k, (SELECT max(v) FROM s2) FROM s", SUBQUERIES),
    // Aggregations.
    ("SELECT count(*) FROM s", [NEVER_FINAL, OK, OK]),
    ("SELECT k, sum(v) FROM s GROUP BY k", [NEVER_FINAL, OK, OK]),
    ("SELECT k, sum(v) FROM u GROUP BY k", [NEVER_FINAL, OK, OK]),
    ("SELECT k, sum(v) FROM s GROUP BY k HAVING sum(v) > 3", [NEVER_FINAL, OK, OK]),
    ("SELECT window(ts, '10 seconds'), count(*) FROM s GROUP BY 1", [OK, OK, OK]),
    ("SELECT window(ts, '10 seconds', '5 seconds'), k, count(*) FROM s GROUP BY 1, 2", [OK, OK, OK]),
    ("SELECT window(ts, '10 seconds'), count(*) FROM u GROUP BY 1", [NEVER_FINAL, OK, OK]),
    ("SELECT date_bin(INTERVAL '1 hour', ts), count(*) FROM s GROUP BY 1", [OK, OK, OK]),
    ("SELECT date_trunc('month', ts), count(*) FROM s GROUP BY 1", [OK, OK, OK]),
    ("SELECT ts, count(*) FROM s GROUP BY ts", [OK, OK, OK]),
    ("SELECT ts, count(*) FROM u GROUP BY ts", [NEVER_FINAL, OK, OK]),
    ("SELECT extract(hour FROM ts), count(*) FROM s GROUP BY 1", [NEVER_FINAL, OK, OK]),
    ("SELECT count(DISTINCT k), sum(DISTINCT v) FROM s", [NEVER_FINAL, OK, OK]),
    ("SELECT ts, count(DISTINCT k) FILTER (WHERE v > 1) FROM s GROUP BY ts", [OK, OK, OK]),
    ("SELECT k, v, count(*) FROM s GROUP BY ROLLUP (k, v)", [NEVER_FINAL, OK, OK]),
    ("SELECT k, v, count(*) FROM s GROUP BY CUBE (k, v)", [NEVER_FINAL, OK, OK]),
    ("SELECT ts, k, count(*) FROM s GROUP BY GROUPING SETS ((ts, k), (ts))", [OK, OK, OK]),
    ("SELECT ts, k, count(*) FROM s GROUP BY GROUPING SETS ((ts, k), (k))", [NEVER_FINAL, OK, OK]),
    ("SELECT k, array_agg(v ORDER BY ts), median(v) FROM s GROUP BY k", [NEVER_FINAL, OK, OK]),
    ("SELECT t.c, count(*) FROM s JOIN t ON s.k = t.k GROUP BY t.c", [NEVER_FINAL, OK, OK]),
    (
        "SELECT a.n, t.c FROM (SELECT k, count(*) AS n FROM s GROUP BY k) a JOIN t ON a.k = t.k",
        [NEVER_FINAL, OK, OK],
    ),
    ("SELECT k, count(*) FROM (SELECT k FROM s UNION ALL SELECT k FROM u) GROUP BY k", [NEVER_FINAL, OK, OK]),
    // Deduplication.
    ("SELECT DISTINCT k FROM s", [OK, OK, OK]),
    ("SELECT DISTINCT k, ts FROM s", [OK, OK, OK]),
    ("SELECT DISTINCT k FROM u", [OK, OK, OK]),
    ("SELECT k FROM s GROUP BY k", [OK, OK, OK]),
    ("SELECT DISTINCT ON (k) k, v FROM s", [OK, OK, NO_AGGREGATION]),
    (
        "SELECT DISTINCT ON (k) k, v FROM s ORDER BY k, v",
        [Err("the first ranks of an unbounded table, in output mode append"), OK, OK],
    ),
    ("SELECT k FROM s UNION SELECT k FROM u", [OK, OK, OK]),
    ("SELECT k FROM s EXCEPT SELECT k FROM t", [OK, OK, OK]),
    ("SELECT k FROM s INTERSECT SELECT k FROM t", [OK, OK, OK]),
    ("SELECT k FROM s EXCEPT SELECT k FROM u", [NO_BOUND, NO_BOUND, JOIN_COMPLETE]),
    (
        "SELECT k FROM t EXCEPT SELECT k FROM s",
        [
            Err("a LeftAnti join that keeps rows of the bounded table"),
            Err("a LeftAnti join that keeps rows of the bounded table"),
            Err("a LeftAnti join that keeps rows of the bounded table"),
        ],
    ),
    // Chains.
    (
        "SELECT window(window_time(w), '1 minute'), sum(n) FROM \
         (SELECT window(ts, '10 seconds') AS w, count(*) AS n FROM s GROUP BY 1) GROUP BY 1",
        [OK, AGAIN, OK],
    ),
    (
        "SELECT n, count(*) FROM (SELECT k, count(*) AS n FROM s GROUP BY k) GROUP BY n",
        [NEVER_FINAL, AGAIN, OK],
    ),
    ("SELECT k, count(*) FROM (SELECT DISTINCT k, v FROM s) GROUP BY k", [NEVER_FINAL, OK, OK]),
    ("SELECT ts, count(*) FROM (SELECT DISTINCT k, ts FROM s) GROUP BY ts", [OK, OK, OK]),
    ("SELECT DISTINCT n FROM (SELECT ts, count(*) AS n FROM s GROUP BY ts)", [OK, AGAIN_DISTINCT, OK]),
    // Limits and order.
    ("SELECT k FROM s LIMIT 3", [OK, OK, NO_AGGREGATION]),
    ("SELECT k FROM s OFFSET 3", [OK, OK, NO_AGGREGATION]),
    ("SELECT k, count(*) FROM (SELECT k FROM s LIMIT 3) GROUP BY k", [NEVER_FINAL, OK, OK]),
    ("SELECT ts, count(*) AS n FROM s GROUP BY ts LIMIT 3", [OK, LIMITED, OK]),
    ("SELECT ts, count(*) AS n FROM s GROUP BY ts ORDER BY n", [SORTED, SORTED, OK]),
    ("SELECT k, count(*) AS n FROM s GROUP BY k ORDER BY n DESC LIMIT 3", [NEVER_FINAL, SORTED, OK]),
    (
        "SELECT k, n, rank() OVER (ORDER BY n) FROM (SELECT k, count(*) AS n FROM s GROUP BY k)",
        [NEVER_FINAL, OVER_UPDATE, OK],
    ),
    ("SELECT k, count(*) FROM s GROUP BY k UNION ALL SELECT k, c FROM t", [NEVER_FINAL, MIXED, OK]),
    ("SELECT k, count(*) FROM s GROUP BY k UNION ALL SELECT 'all', count(*) FROM s", [NEVER_FINAL, OK, OK]),
    (
        "SELECT k, count(*) FROM s GROUP BY k UNION ALL SELECT k, v FROM u",
        [NEVER_FINAL, OK, Err("UNION of an aggregation and a stream without one, in output mode complete")],
    ),
    ("SELECT k, v FROM s ORDER BY v LIMIT 3", [SORTED, OK, OK]),
    ("SELECT k, v FROM s ORDER BY v, k LIMIT 3 OFFSET 2", [SORTED, OK, OK]),
    ("SELECT k FROM s ORDER BY v LIMIT 3", [SORTED, OK, OK]),
    // ORDER BY in a subquery has no meaning, and is dropped.
    ("SELECT k, count(*) FROM (SELECT * FROM s ORDER BY v) GROUP BY k", [NEVER_FINAL, OK, OK]),
    ("SELECT k, sum(r) FROM (SELECT k, rank() OVER (ORDER BY v) AS r FROM s) GROUP BY k", [OVER; 3]),
    ("SELECT k, lag(v) OVER (PARTITION BY k ORDER BY ts) FROM s", [OK, OK, OVER_COMPLETE]),
    ("SELECT ts, k, rank() OVER (PARTITION BY ts ORDER BY k) FROM s", [OK, OK, OVER_COMPLETE]),
    ("SELECT k, lag(v) OVER (PARTITION BY k ORDER BY ts) FROM u", [OVER; 3]),
    ("SELECT k, lag(v) OVER (PARTITION BY k ORDER BY ts DESC) FROM s", [OVER; 3]),
    (
        "SELECT sum(v) OVER (PARTITION BY k ORDER BY ts ROWS BETWEEN 1 PRECEDING AND UNBOUNDED FOLLOWING) FROM s",
        [OVER; 3],
    ),
    ("SELECT ntile(4) OVER (PARTITION BY k ORDER BY ts) FROM s", [OVER; 3]),
    ("SELECT ntile(4) OVER (PARTITION BY window(ts, '1 hour') ORDER BY v) FROM s", [OK, OK, OVER_COMPLETE]),
    ("SELECT k, v, count(DISTINCT v) FROM s GROUP BY ROLLUP (k, v)", [NEVER_FINAL, OK, OK]),
    ("SELECT ts, k, count(DISTINCT v) FROM s GROUP BY ts, ROLLUP (k)", [OK, OK, OK]),
    ("SELECT DISTINCT k FROM s LIMIT 2", [OK, OK, OK]),
    ("SELECT ts, count(*) FROM (SELECT ts FROM s LIMIT 5) GROUP BY ts", [OK, OK, OK]),
    (
        "SELECT n, max(k) AS k FROM (SELECT k, count(*) AS n FROM s GROUP BY k) GROUP BY n ORDER BY n OFFSET 1",
        [NEVER_FINAL, AGAIN, OK],
    ),
    // More of aggregations.
    ("SELECT count(*), sum(v), min(k), max(ts), avg(v) FROM s WHERE v > 100", [NEVER_FINAL, OK, OK]),
    ("SELECT k, approx_distinct(v), stddev(v), bool_or(v > 1) FROM s GROUP BY k", [NEVER_FINAL, OK, OK]),
    (
        "SELECT k, first_value(v ORDER BY ts DESC), nth_value(v, 2 ORDER BY ts) FROM s GROUP BY k",
        [NEVER_FINAL, OK, OK],
    ),
    (
        "SELECT k, count(DISTINCT v), array_agg(DISTINCT v ORDER BY v) FROM s GROUP BY k",
        [NEVER_FINAL, OK, OK],
    ),
    ("SELECT l, count(*) FROM s GROUP BY l", [NEVER_FINAL, OK, OK]),
    ("SELECT k, max(l[1]) FROM s GROUP BY k HAVING count(*) > 1", [NEVER_FINAL, OK, OK]),
    ("SELECT v + 1, length(k), count(*) FROM s GROUP BY v + 1, length(k)", [NEVER_FINAL, OK, OK]),
    ("SELECT e, count(*) FROM (SELECT unnest(l) AS e FROM s) GROUP BY e", [NEVER_FINAL, OK, OK]),
    ("SELECT ts, k, count(*) FROM s GROUP BY ts, ROLLUP (k)", [OK, OK, OK]),
    ("SELECT ts, k, count(*) FROM s GROUP BY ROLLUP (ts, k)", [NEVER_FINAL, OK, OK]),
    (
        "SELECT window(ts, '10 seconds')['start'] AS w, k, sum(v) FROM s GROUP BY 1, 2 HAVING sum(v) > 1",
        [OK, OK, OK],
    ),
    ("SELECT window(ts, '25 seconds', '10 seconds')['end'] AS w, count(v) FROM s GROUP BY 1", [OK, OK, OK]),
    (
        "SELECT date_bin(INTERVAL '10 seconds', ts), count(*) FROM \
         (SELECT ts FROM s UNION ALL SELECT ts FROM s2) GROUP BY 1",
        [OK, OK, OK],
    ),
    (
        "SELECT w, n, t.c FROM (SELECT date_bin(INTERVAL '10 seconds', ts) AS w, k, count(*) AS n FROM s GROUP BY 1, 2) a \
         LEFT JOIN t ON a.k = t.k",
        [OK, OK, OK],
    ),
    ("SELECT count(*) AS n, t.c FROM s JOIN t ON s.k = t.k GROUP BY t.c, ts", [OK, OK, OK]),
    (
        "SELECT a.n, t.c FROM (SELECT k, count(*) AS n FROM s GROUP BY k) a FULL JOIN t ON a.k = t.k",
        [NEVER_FINAL, Err("a Full join that keeps rows of the bounded table"), OK],
    ),
    (
        "SELECT a.n, b.v FROM (SELECT k, count(*) AS n FROM s GROUP BY k) a JOIN s2 b ON a.k = b.k",
        [NEVER_FINAL, JOIN_UPDATE, JOIN_COMPLETE],
    ),
    (
        "SELECT k, n FROM (SELECT k, count(*) AS n FROM s GROUP BY k) WHERE n > (SELECT max(c) FROM t)",
        [NEVER_FINAL, OK, OK],
    ),
    ("SELECT arrow_cast(v, 'Int32') AS v FROM s UNION ALL SELECT v FROM u", [OK, OK, NO_AGGREGATION]),
    ("SELECT k FROM s INTERSECT SELECT k FROM u", [OK, OK, JOIN_COMPLETE]),
    (
        "SELECT k FROM s EXCEPT ALL SELECT k FROM t",
        [Err("INTERSECT ALL or EXCEPT ALL over an unbounded table"); 3],
    ),
    ("SELECT k FROM s UNION SELECT k FROM t", [MIXED; 3]),
    ("SELECT map {'a': v} AS m, count(*) FROM s GROUP BY 1", [NEVER_FINAL, OK, OK]),
    ("SELECT DISTINCT map {'a': v} AS m FROM s", [OK, OK, OK]),
    // The event time of one input is that of all rows, as in Spark; of two the later.
    ("SELECT ts, count(*) FROM (SELECT ts FROM s UNION ALL SELECT ts FROM u) GROUP BY ts", [OK, OK, OK]),
    ("SELECT ts, count(*) FROM (SELECT ts FROM u UNION ALL SELECT ts FROM s) GROUP BY ts", [OK, OK, OK]),
    (
        "SELECT ts, count(*) FROM \
         (SELECT ts FROM s UNION ALL SELECT window(ts, '10 seconds')['start'] AS ts FROM s2) GROUP BY ts",
        [OK, OK, OK],
    ),
    // Joins of streams.
    ("SELECT * FROM s JOIN s2 ON s.k = s2.k", [OK, OK, NO_AGGREGATION]),
    ("SELECT * FROM s LEFT JOIN s2 ON s.k = s2.k AND s.ts = s2.ts", [OK, OK, NO_AGGREGATION]),
    ("SELECT * FROM s LEFT SEMI JOIN s2 ON s.k = s2.k", [OK, OK, NO_AGGREGATION]),
    ("SELECT * FROM s LEFT ANTI JOIN s2 ON s.k = s2.k", [NO_BOUND, NO_BOUND, NO_AGGREGATION]),
    ("SELECT * FROM s JOIN s x ON s.k = x.k", [OK, OK, NO_AGGREGATION]),
    ("SELECT * FROM s CROSS JOIN s2", [OK, OK, NO_AGGREGATION]),
    ("SELECT * FROM s FULL JOIN s2 ON s.k = s2.k AND s.ts = s2.ts", [OK, OK, NO_AGGREGATION]),
    (
        "SELECT * FROM s LEFT JOIN s2 ON s.k = s2.k AND s2.ts BETWEEN s.ts - INTERVAL '5 seconds' AND s.ts",
        [OK, OK, NO_AGGREGATION],
    ),
    (
        "SELECT * FROM s WHERE NOT EXISTS \
         (SELECT 1 FROM s2 WHERE s2.k = s.k AND s2.ts < s.ts AND s2.ts >= s.ts - INTERVAL '1 minute')",
        [OK, OK, NO_AGGREGATION],
    ),
    ("SELECT * FROM s WHERE k IN (SELECT k FROM s2 WHERE s2.ts < s.ts)", [OK, OK, NO_AGGREGATION]),
    ("SELECT * FROM s WHERE k NOT IN (SELECT k FROM s2 WHERE s2.ts < s.ts)", [OK, OK, NO_AGGREGATION]),
    ("SELECT * FROM s WHERE v = 1 OR EXISTS (SELECT 1 FROM s2 WHERE s2.ts = s.ts)", [OK, OK, NO_AGGREGATION]),
    ("SELECT s.k, count(*) FROM s JOIN s2 ON s.k = s2.k GROUP BY s.k", [NEVER_FINAL, OK, OK]),
    ("SELECT s.ts, count(*) FROM s JOIN s2 ON s.ts = s2.ts GROUP BY s.ts", [OK, OK, OK]),
    (
        "SELECT a.k, a.n, b.n FROM (SELECT k, count(*) AS n FROM s GROUP BY k) a \
         FULL JOIN (SELECT k, count(*) AS n FROM s2 GROUP BY k) b ON a.k = b.k",
        [NEVER_FINAL, JOIN_UPDATE, OK],
    ),
];

const AGAIN_DISTINCT: Cell = Err("DISTINCT over an aggregation, in output mode update");

/// What is wrong with a cell.
async fn problem(frame: DataFrame, mode: OutputMode, expected: Cell) -> Option<String> {
    let found = frame.write_stream().format("noop").output_mode(mode).explain(None).await;
    match (expected, found) {
        (Ok(()), Ok(_)) => None,
        (Err(operator), Err(Error::UnsupportedQuery { operator: found, reason, advice }))
            if found == operator && reason.len() > 20 && advice.len() > 10 =>
        {
            None
        }
        (expected, found) => Some(format!("{mode}: expected {expected:?}, found {found:?}")),
    }
}

#[tokio::test]
async fn every_cell_is_as_documented() {
    let session = session().await;
    let mut problems = Vec::new();
    for (sql, cells) in MATRIX {
        for (mode, expected) in MODES.into_iter().zip(cells) {
            let frame = session.context().sql(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            let problem = problem(frame, mode, *expected).await;
            problems.extend(problem.map(|problem| format!("{sql}, {problem}")));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[tokio::test]
async fn deduplication_of_data_frames_is_in_the_matrix_too() {
    let session = session().await;
    let table = async |name| session.context().table(name).await.unwrap();
    for (mode, expected) in MODES.into_iter().zip([OK, OK, NO_AGGREGATION]) {
        let frame = table("s").await.drop_duplicates(&["k"]).unwrap();
        assert_eq!(problem(frame, mode, expected).await, None);
        let frame = table("u").await.drop_duplicates(&["k"]).unwrap();
        assert_eq!(problem(frame, mode, expected).await, None);
        let frame = table("s").await.drop_duplicates_within_watermark(&["k"]).unwrap();
        assert_eq!(problem(frame, mode, expected).await, None);
    }
    let error = table("u").await.drop_duplicates_within_watermark(&["k"]).unwrap_err().to_string();
    assert!(error.contains("its input has no watermark"), "{error}");
}
