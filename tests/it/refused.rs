//! Queries that cannot run incrementally: refused before anything is written, with the operator,
//! the reason and the way out.

use datafusion::arrow::datatypes::DataType;
use tidemill::Error;
use tidemill::prelude::*;

use crate::support::harness::{Input, Job, Place, id_lines, schema, session};

/// Query, and the operator and a part of the advice that it is refused with.
const REFUSED: [(&str, &str, &str); 22] = [
    ("SELECT input_file_name() FROM a", "input_file_name()", "Set the option includeMetadata"),
    ("SELECT count(*) FROM a", "an aggregation over an unbounded table", "output mode update or complete"),
    ("SELECT id, max(v) FROM a GROUP BY id", "an aggregation over an unbounded table", "Define a watermark"),
    (
        "SELECT id FROM a GROUP BY id HAVING count(*) > 1",
        "an aggregation over an unbounded table",
        "Define a watermark",
    ),
    (
        "SELECT DISTINCT ON (id) id FROM a ORDER BY id, v",
        "the first ranks of an unbounded table, in output mode append",
        "Use output mode update or complete",
    ),
    ("SELECT id FROM a ORDER BY id", "ORDER BY over an unbounded table", "sort when reading"),
    ("SELECT id FROM a ORDER BY id LIMIT 3", "ORDER BY over an unbounded table", "sort when reading"),
    (
        "SELECT id, row_number() OVER (ORDER BY id) FROM a",
        "a window function (OVER)",
        "Order by the event time of a watermark",
    ),
    (
        "SELECT a.id FROM a LEFT JOIN b ON a.id = b.id",
        "a Left join of two streams without a bound of time",
        "Give the right side a watermark",
    ),
    (
        "SELECT a.id FROM a FULL JOIN b ON a.id = b.id",
        "a Full join of two streams without a bound of time",
        "join by equal windows",
    ),
    (
        "SELECT a.id FROM a FULL JOIN t ON a.id = t.id",
        "a Full join that keeps rows of the bounded table",
        "inner join",
    ),
    (
        "SELECT a.id FROM t LEFT JOIN a ON a.id = t.id",
        "a Left join that keeps rows of the bounded table",
        "inner join",
    ),
    (
        "SELECT a.id FROM a RIGHT JOIN t ON a.id = t.id",
        "a Right join that keeps rows of the bounded table",
        "inner join",
    ),
    (
        "SELECT id FROM t WHERE id IN (SELECT id FROM a)",
        "a subquery expression over an unbounded table",
        "IN and scalar",
    ),
    (
        "SELECT id, (SELECT max(id) FROM b) FROM a",
        "a subquery expression over an unbounded table",
        "Use output mode complete",
    ),
    (
        "SELECT id FROM a WHERE NOT EXISTS (SELECT 1 FROM b WHERE b.id = a.id)",
        "a LeftAnti join of two streams without a bound of time",
        "use an inner join",
    ),
    (
        "SELECT id FROM a UNION ALL SELECT id FROM t",
        "UNION of an unbounded and a bounded table",
        "with a batch query",
    ),
    ("SELECT id FROM t EXCEPT SELECT id FROM a", "keeps rows of the bounded table", ""),
    ("SELECT id FROM a EXCEPT SELECT id FROM b", "a LeftAnti join of two streams", ""),
    ("SELECT id FROM a INTERSECT ALL SELECT id FROM t", "INTERSECT ALL or EXCEPT ALL", "Leave ALL out"),
    ("SELECT id FROM t", "a query without an unbounded table", "Run it as a batch query"),
    ("SELECT 1 AS id", "a query without an unbounded table", "Run it as a batch query"),
];

#[tokio::test]
async fn queries_with_state_are_refused_by_name() {
    let place = Place::new();
    for table in ["a", "b"] {
        place.put(&format!("in/{table}/0.json"), id_lines([1]));
    }
    let session = session();
    session.context().sql("CREATE TABLE t AS SELECT 1 AS id, 2 AS v").await.unwrap();
    let input = |table: &str| {
        Input::new(table, "json", place.text(&format!("in/{table}")))
            .schema(schema(&[("id", DataType::Int64), ("v", DataType::Int64)]))
    };
    let job = Job::new(&place).inputs([input("a"), input("b")]);
    for (sql, operator, advice) in REFUSED {
        let error = job.clone().sql(sql).start(&session).await.unwrap_err();
        let Error::UnsupportedQuery { operator: found, reason, advice: way_out } = &error else {
            panic!("{sql}: {error:?}");
        };
        assert!(found.contains(operator), "{sql}: {error}");
        assert!(!reason.is_empty() && way_out.contains(advice), "{sql}: {error}");
        assert!(error.to_string().contains(" cannot run as a streaming query: "), "{error}");
    }
    assert!(!place.path("checkpoint").exists() && !place.path("out").exists());
}

#[tokio::test]
async fn output_modes_that_need_state_are_refused() {
    let place = Place::new();
    place.put("in/0.json", id_lines([1]));
    let session = session();
    let error = Job::new(&place).mode(OutputMode::Complete).start(&session).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "output mode complete cannot run as a streaming query: the query has no aggregation, so its whole \
         result would have to be kept and written again with every batch. Use output mode append"
    );
    let error = Job::new(&place).mode(OutputMode::Update).start(&session).await.unwrap_err();
    assert!(error.to_string().contains("does not take output mode update"), "{error}");
    // To a sink that takes changed rows, a query without state gives each row once in either mode.
    Job::new(&place).mode(OutputMode::Update).format("noop").out(None).run(&session).await.unwrap();
}

#[tokio::test]
async fn what_is_missing_is_asked_for() {
    let place = Place::new();
    place.put("in/0.json", id_lines([1]));
    let session = session();
    let mut job = Job::new(&place);
    job.options.clear();
    let error = job.start(&session).await.unwrap_err().to_string();
    assert!(error.contains("needs the option 'checkpointLocation'"), "{error}");
    let error = Job::new(&place).out(None).start(&session).await.unwrap_err().to_string();
    assert!(error.contains("the parquet sink needs a path"), "{error}");
    let error = Job::new(&place).format("memory").out(None).start(&session).await.unwrap_err().to_string();
    assert!(error.contains("the memory sink needs a query name"), "{error}");
    let error = Job::new(&place).format("parqet").start(&session).await.unwrap_err().to_string();
    assert!(error.contains("did you mean 'parquet'?"), "{error}");
    let error =
        Job::new(&place).option("minBatchesToRetain", 0).start(&session).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "option 'minBatchesToRetain' = '0' is not valid: expected a whole number of at least 1"
    );
    let error = Job::new(&place).option("durability", "no").start(&session).await.unwrap_err().to_string();
    assert!(error.contains("expected disk (survives a power cut) or process"), "{error}");
    let error =
        Job::new(&place).option("checkpointLocatoin", "x").start(&session).await.unwrap_err().to_string();
    assert!(error.contains("unknown option 'checkpointLocatoin'"), "{error}");
}
