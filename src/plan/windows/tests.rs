//! What tags are left on the keys of a plan when DataFusion has optimised it.

use std::time::Duration;

use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::catalog::view::ViewTable;
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::prelude::{SessionContext, ident};

use super::*;
use crate::functions::all_functions;
use crate::plan::event_time::event_time_key;
use crate::plan::session_state::streaming_state;
use crate::plan::{BatchEventTime, Deduplicate, StreamTable, Watermark};
use crate::source::SourceProvider;
use crate::source::memory::MemoryStream;

/// A context with the unbounded table `s` of event times, `plain`, without, `tumbled` and `hopped`,
/// with windows of five minutes as columns, and the bounded table `b`.
fn context() -> SessionContext {
    let time = DataType::Timestamp(TimeUnit::Millisecond, None);
    let fields = vec![
        Field::new("id", DataType::Int64, true),
        Field::new("ts", time.clone(), true),
        Field::new("other", time, true),
    ];
    let stream = MemoryStream::new(Arc::new(Schema::new(fields)));
    let table = || StreamTable::new(Arc::new(stream.clone()));
    let context = SessionContext::new();
    for function in all_functions() {
        context.register_udf(function.as_ref().clone());
    }
    context.add_analyzer_rule(Arc::new(BatchEventTime));
    let delay = Duration::from_secs(10);
    let watermarked = Arc::new(table().with_watermark("s".into(), "ts", delay).unwrap());
    context.register_table("s", Arc::clone(&watermarked) as _).unwrap();
    context.register_table("plain", Arc::new(table())).unwrap();
    let bounded = MemTable::try_new(stream.schema(), vec![vec![]]).unwrap();
    context.register_table("b", Arc::new(bounded)).unwrap();
    for (name, slide) in [("tumbled", 300_000_000), ("hopped", 60_000_000)] {
        let rows = LogicalPlanBuilder::scan("s", provider_as_source(Arc::clone(&watermarked) as _), None);
        let windows = Windows { size: 300_000_000, slide, start: 0 };
        let rows = with_window_columns(rows.unwrap().build().unwrap(), ident("ts"), windows).unwrap();
        context.register_table(name, Arc::new(ViewTable::new(rows, None))).unwrap();
    }
    context
}

/// The plan of `sql`, expanded and optimised as a streaming query's is.
async fn optimized(sql: &str) -> LogicalPlan {
    let context = context();
    let frame = context.sql(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let before = frame.logical_plan().schema().field_names();
    let plan = expand_windows(frame.into_unoptimized_plan()).unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert_eq!(plan.schema().field_names(), before, "{sql}");
    streaming_state(&context.state(), 2, 2).unwrap().optimize(&plan).unwrap()
}

/// The tags of all keys of aggregations and deduplications in `plan`, from the top.
fn key_tags(plan: &LogicalPlan) -> Vec<String> {
    let mut tags = Vec::new();
    plan.apply(|node| {
        let keys = match (node, Deduplicate::of(node)) {
            (LogicalPlan::Aggregate(aggregate), _) => aggregate.group_expr.clone(),
            (_, Some(node)) => node.columns().iter().cloned().map(Expr::Column).collect(),
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        let schema = node.inputs()[0].schema();
        tags.extend(keys.iter().filter_map(|key| Some(event_time_key(key, schema)?.tag().to_string())));
        Ok(TreeNodeRecursion::Continue)
    })
    .unwrap();
    tags
}

#[tokio::test]
async fn keys_are_tagged_after_optimisation() {
    for (sql, expected) in [
        ("SELECT id, count(*) FROM s GROUP BY id", vec![]),
        ("SELECT ts, count(*) FROM plain GROUP BY ts", vec![]),
        ("SELECT other, count(*) FROM s GROUP BY other", vec![]),
        ("SELECT max(ts) AS m, count(*) FROM s GROUP BY ts + INTERVAL '1 hour'", vec![]),
        ("SELECT ts, count(*) FROM s GROUP BY ts", vec!["0"]),
        ("SELECT t, count(*) FROM (SELECT ts AS t, id FROM s WHERE id > 1) GROUP BY t", vec!["0"]),
        ("SELECT window(ts, '5 minutes') AS w, count(*) FROM s GROUP BY w", vec!["+300000000us"]),
        ("SELECT id, window(ts, '5 minutes') AS w, count(*) FROM s GROUP BY id, w", vec!["+300000000us"]),
        ("SELECT count(*) FROM s GROUP BY window(ts, '5 minutes', '1 minute')", vec!["+300000000us"]),
        (
            "SELECT w, count(*) FROM (SELECT window(ts, '5 minutes') AS w FROM s) GROUP BY w",
            vec!["+300000000us"],
        ),
        (
            "SELECT w, count(*) FROM (SELECT window(ts, '5 minutes', '1 minute') AS w FROM s) GROUP BY w",
            vec!["+300000000us"],
        ),
        ("SELECT count(*) FROM s GROUP BY window(ts, '5 minutes')['end']", vec!["0"]),
        ("SELECT count(*) FROM s GROUP BY window_time(window(ts, '5 minutes'))", vec!["0"]),
        ("SELECT count(*) FROM plain GROUP BY window(ts, '5 minutes')", vec![]),
        ("SELECT count(*) FROM s GROUP BY window(other, '5 minutes')", vec![]),
        (
            "SELECT window(w, '1 hour') AS h, sum(n) FROM \
             (SELECT window(ts, '5 minutes') AS w, id, count(*) AS n FROM s GROUP BY w, id) GROUP BY h",
            vec!["+3600000000us", "+300000000us"],
        ),
        (
            "SELECT window(window_time(w), '1 hour', '30 minutes') AS h, max(n) FROM \
             (SELECT window(ts, '5 minutes') AS w, id, count(*) AS n FROM s GROUP BY w, id) GROUP BY h",
            vec!["+3600000000us", "+300000000us"],
        ),
        ("SELECT date_bin(INTERVAL '1 hour', ts) AS h, count(*) FROM s GROUP BY h", vec!["+3600000000us"]),
        (
            "SELECT h, min(h), count(*) FROM (SELECT date_trunc('day', ts) AS h FROM s) GROUP BY h",
            vec!["+1day"],
        ),
        (
            "SELECT h, n + 1 FROM (SELECT date_trunc('month', ts) AS h, count(*) AS n FROM s GROUP BY 1) \
             GROUP BY h, n",
            vec!["+1mon", "+1mon"],
        ),
        ("SELECT CAST(ts AS DATE) AS d, count(*) FROM s GROUP BY d", vec!["+1day@UTC"]),
        ("SELECT d, count(*) FROM (SELECT CAST(ts AS DATE) AS d FROM s) GROUP BY d", vec!["+1day@UTC"]),
        ("SELECT d, count(*) FROM (SELECT CAST(ts AS VARCHAR) AS d FROM s) GROUP BY d", vec![]),
        (
            "SELECT d, count(*) FROM (SELECT arrow_cast(ts, 'Timestamp(Second, None)') AS d FROM s) GROUP BY d",
            vec!["+1000000us"],
        ),
        (
            "SELECT d, count(*) FROM (SELECT CAST(ts AS TIMESTAMP(0)) AS d FROM s) GROUP BY d",
            vec!["+1000000us"],
        ),
        ("SELECT t, count(*) FROM (SELECT ts AS t FROM s UNION ALL SELECT ts FROM s) GROUP BY t", vec!["0"]),
        (
            "SELECT d, count(*) FROM (SELECT CAST(ts AS DATE) AS d FROM s UNION ALL SELECT CAST(ts AS DATE) FROM s) \
             GROUP BY d",
            vec!["+1day@UTC"],
        ),
        // Of columns that are final at different times, the later one counts, in either order.
        (
            "SELECT t, count(*) FROM (SELECT ts AS t FROM s UNION ALL SELECT window_start FROM tumbled) GROUP BY t",
            vec!["+300000000us"],
        ),
        (
            "SELECT t, count(*) FROM (SELECT window_start AS t FROM tumbled UNION ALL SELECT ts FROM s) GROUP BY t",
            vec!["+300000000us"],
        ),
        (
            "SELECT t, count(*) FROM (SELECT date_trunc('minute', ts) AS t FROM s UNION ALL SELECT ts FROM plain \
             UNION ALL SELECT date_bin(INTERVAL '1 hour', ts) FROM s) GROUP BY t",
            vec!["+3600000000us"],
        ),
        (
            "SELECT t, count(*) FROM (SELECT date_trunc('month', ts) AS t FROM s \
             UNION ALL SELECT window_start FROM tumbled) GROUP BY t",
            vec![],
        ),
        (
            "SELECT w, count(*) FROM (SELECT window(ts, '1 minute') AS w FROM s \
             UNION ALL SELECT window(ts, '1 hour') FROM s) GROUP BY w",
            vec!["window"],
        ),
        (
            "SELECT t, count(*) FROM (SELECT to_timestamp(ts) AS t FROM s UNION ALL SELECT ts FROM s) GROUP BY t",
            vec![],
        ),
        ("SELECT to_timestamp_seconds(ts) AS d, count(*) FROM s GROUP BY d", vec![]),
        ("SELECT d, count(*) FROM (SELECT to_date(ts) AS d FROM s) GROUP BY d", vec![]),
        ("SELECT d, count(*) FROM (SELECT to_timestamp(ts) AS d FROM s) GROUP BY d", vec![]),
        ("SELECT DISTINCT id, window(ts, '5 minutes') FROM s", vec!["window+300000000us"]),
        (
            "SELECT t, count(*) FROM (SELECT s.ts AS t, b.id FROM s JOIN b ON s.id = b.id) GROUP BY t",
            vec!["0"],
        ),
        (
            "SELECT h, count(*) FROM (SELECT date_trunc('hour', s.ts) AS h FROM b RIGHT JOIN s ON s.id = b.id) \
             GROUP BY h",
            vec!["+3600000000us"],
        ),
        ("SELECT t, count(*) FROM (SELECT id, first_value(ts) AS t FROM s GROUP BY id) GROUP BY t", vec![]),
        (
            "SELECT t, count(*) FROM (SELECT window(ts, '5 minutes') AS w, first_value(ts) AS t FROM s GROUP BY w) \
             GROUP BY t",
            vec!["+300000000us"],
        ),
        ("SELECT t, count(*) FROM (SELECT coalesce(ts, other) AS t FROM s) GROUP BY t", vec![]),
        ("SELECT t, count(*) FROM (SELECT nullif(ts, other) AS t FROM s) GROUP BY t", vec![]),
        ("SELECT t, count(*) FROM (SELECT greatest(ts, other) AS t FROM s) GROUP BY t", vec![]),
        ("SELECT t, count(*) FROM (SELECT CASE WHEN id > 1 THEN ts END AS t FROM s) GROUP BY t", vec![]),
        ("SELECT DISTINCT ON (id, ts) * FROM s", vec!["0"]),
        ("SELECT DISTINCT ON (id, date_trunc('hour', ts)) id, other FROM s", vec!["+3600000000us"]),
    ] {
        let plan = optimized(sql).await;
        assert_eq!(key_tags(&plan), expected, "{sql}\n{}", plan.display_indent());
    }
    for table in ["tumbled", "hopped"] {
        for (key, expected) in [
            ("window_start", vec!["+300000000us"]),
            ("window_end", vec!["0"]),
            ("window_time, id", vec!["0"]),
            ("window_start, window_end", vec!["+300000000us", "0"]),
            ("id", vec![]),
        ] {
            let plan = optimized(&format!("SELECT {key}, count(*) FROM {table} GROUP BY {key}")).await;
            assert_eq!(key_tags(&plan), expected, "{table} {key}\n{}", plan.display_indent());
        }
    }
}

#[tokio::test]
async fn groups_by_windows_are_groups_by_times() {
    for sql in [
        "SELECT window(ts, '5 minutes') AS w, id, count(*) FROM s GROUP BY w, id",
        "SELECT window(ts, '5 minutes', '1 minute') AS w, count(*) FROM s GROUP BY w",
        "SELECT w, count(*) FROM (SELECT window(ts, '5 minutes') AS w FROM s) GROUP BY w",
        "SELECT window(w, '1 hour') AS h, sum(n) FROM \
         (SELECT window(ts, '5 minutes') AS w, count(*) AS n FROM s GROUP BY w) GROUP BY h",
    ] {
        let plan = optimized(sql).await;
        plan.apply(|node| {
            if let LogicalPlan::Aggregate(aggregate) = node {
                for key in &aggregate.group_expr {
                    let data_type = key.get_type(aggregate.input.schema())?;
                    assert!(!data_type.is_nested(), "{}", plan.display_indent());
                }
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .unwrap();
    }
}

#[tokio::test]
async fn filters_and_projections_pass_a_watermark() {
    let plan =
        optimized("SELECT id FROM s WHERE id > 5 AND other > to_timestamp(0) AND ts > to_timestamp(0)").await;
    let text = plan.display_indent().to_string();
    let (above, below) = text.split_once("EventTimeWatermark").unwrap();
    assert!(above.contains("s.ts >") && !above.contains("s.id >"), "{text}");
    assert!(below.contains("s.id >") && below.contains("s.other >") && !below.contains("s.ts >"), "{text}");
    let plan = optimized("SELECT id FROM s").await;
    assert!(plan.display_indent().to_string().contains("projection=[id, ts]"), "{}", plan.display_indent());
}

#[tokio::test]
async fn filters_pass_a_deduplication_only_by_its_key() {
    let plan =
        optimized("SELECT id FROM (SELECT DISTINCT ON (id) * FROM s) WHERE id > 5 AND other IS NOT NULL")
            .await;
    let text = plan.display_indent().to_string();
    let (above, below) = text.split_once("Deduplicate: [id]").unwrap();
    assert!(above.contains("other IS NOT NULL") && !above.contains("id >"), "{text}");
    assert!(below.contains("id >") && !below.contains("other IS NOT NULL"), "{text}");
    assert!(below.contains("projection=[id, ts, other]"), "{text}");
}

#[tokio::test]
async fn bounded_tables_have_no_watermarks_and_keep_first_rows() {
    let bounded = context().sql("SELECT 1 AS id, to_timestamp(5) AS ts").await.unwrap();
    let plan = bounded.into_unoptimized_plan();
    let plan = Watermark::try_new(plan, "ts", Duration::ZERO).unwrap().into_plan();
    let plan = Deduplicate::try_new(plan, &["id"], true).unwrap().into_plan();
    let plan = expand_windows(plan).unwrap().display_indent().to_string();
    assert!(plan.starts_with("DistinctOn: on_expr=[[id]]"), "{plan}");
    assert!(!plan.contains("EventTimeWatermark"), "{plan}");
}
