//! What the libraries below still get wrong, and what works round it. If one of these tests fails, a library has
//! mended its fault, and the file that is named beside it can go.
//!
//! The table in `docs/development.md` has the same rows.

use std::process::Command;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Date32Array, Float64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::json::LineDelimitedWriter;
use datafusion::common::ScalarValue;
use datafusion::functions_aggregate;
use datafusion::logical_expr::{Accumulator, AggregateUDF};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateExprBuilder;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext, col, lit};

use super::lines;
use crate::support::harness::Place;

/// Where the fault is told of upstream (or the file it is in, if nobody has), what works round it, and a query
/// with what DataFusion gives for it.
const FAULTS: [(&str, &str, &str, &str); 15] = [
    (
        "https://github.com/apache/datafusion/issues/25120",
        "src/functions/fields.rs",
        "SELECT get_field(nullif(named_struct('x', column1), named_struct('x', 1)), 'x') FROM (VALUES (1))",
        "1",
    ),
    (
        "https://github.com/apache/datafusion/issues/25293",
        "src/functions/fields.rs",
        "SELECT unnest(nullif(named_struct('x', column1), named_struct('x', 1))) FROM (VALUES (1))",
        "1",
    ),
    (
        "https://github.com/apache/datafusion/issues/12955",
        "src/plan/set_operations.rs",
        "SELECT * FROM (VALUES (1), (1), (2)) EXCEPT ALL SELECT * FROM (VALUES (1))",
        "2",
    ),
    (
        "https://github.com/apache/datafusion-sqlparser-rs/pull/2436",
        "src/sql/dialect.rs",
        "SELECT NULL IS DISTINCT FROM true AND false",
        "true",
    ),
    (
        "https://github.com/apache/datafusion/issues/13212",
        "src/plan/time_zones.rs",
        "SELECT arrow_cast('2024-07-01T00:00:00-06:00', 'Timestamp(Nanosecond, Some(\"America/Denver\"))') \
         = TIMESTAMP '2024-07-01T15:00:00'",
        "false",
    ),
    (
        "arrow-cast/src/parse.rs",
        "src/functions/local_date.rs",
        "SELECT CAST('2024-01-01T23:30:00-06:00' AS DATE)",
        "2024-01-02",
    ),
    (
        "https://github.com/apache/datafusion/issues/17539",
        "src/functions/checked.rs",
        "SELECT a + 1 FROM (VALUES (9223372036854775807)) AS t(a)",
        "-9223372036854775808",
    ),
    (
        "https://github.com/apache/datafusion/issues/17539",
        "src/functions/aggregates/sum.rs",
        "SELECT sum(a) FROM (VALUES (9223372036854775807), (1)) AS t(a)",
        "-9223372036854775808",
    ),
    (
        "datafusion/expr-common/src/type_coercion/binary.rs",
        "src/functions/decimal_division.rs",
        "SELECT CAST(2.0 AS DECIMAL(2, 1)) / CAST(3.0 AS DECIMAL(2, 1))",
        "0.66666",
    ),
    (
        "https://github.com/apache/datafusion/issues/25446",
        "src/functions/fields.rs",
        "SELECT b, a, s['x'] FROM (SELECT t.a AS b, t.b AS a, s FROM (SELECT column1 AS a, column2 AS b, \
         named_struct('x', column1) AS s FROM (VALUES (1, 10))) AS t) WHERE a > 0",
        "push_down_leaf_projections",
    ),
    (
        "datafusion/sql/src/expr/value.rs",
        "src/sql/exponents.rs",
        "SELECT arrow_typeof(1e3)",
        "Decimal128(1, -3)",
    ),
    (
        "https://github.com/apache/datafusion/issues/25135",
        "src/functions/date_part.rs",
        "SELECT EXTRACT(YEAR FROM t) < 9999 FROM (VALUES (TIMESTAMP '2020-06-01T12:00:00')) AS v(t)",
        "NULL",
    ),
    (
        "https://github.com/apache/datafusion/issues/25432",
        "src/functions/date_trunc.rs",
        "SELECT date_trunc('year', arrow_cast('9999-12-31T00:00:00', 'Timestamp(Microsecond, None)'))",
        "out of range",
    ),
    (
        "https://github.com/apache/datafusion/pull/22610",
        "src/functions/date_bin.rs",
        "SELECT date_bin(INTERVAL '1 day', arrow_cast('9999-12-31T00:00:00', 'Timestamp(Microsecond, None)'))",
        "NULL",
    ),
    (
        "datafusion/functions-aggregate-common/src/aggregate/groups_accumulator/prim_op.rs",
        "src/functions/aggregates/extremes.rs",
        "SELECT max(x) FROM (VALUES (1, CAST('NaN' AS DOUBLE)), (1, CAST(1 AS DOUBLE))) AS t(k, x) GROUP BY k",
        "1.0",
    ),
];

/// A session of DataFusion's own, with the settings that ours have.
fn plain() -> SessionContext {
    let mut config = SessionConfig::new();
    config.options_mut().execution.time_zone = Some("Asia/Tokyo".into());
    config.options_mut().sql_parser.parse_float_as_decimal = true;
    SessionContext::new_with_config(config)
}

async fn given(sql: &str) -> String {
    let frame = match plain().sql(sql).await {
        Ok(frame) => frame,
        Err(error) => return error.to_string(),
    };
    match frame.collect().await {
        Ok(batches) => lines(&batches).join("|"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn faults_that_are_worked_round_are_still_there() {
    let mut mended = Vec::new();
    for (told, file, sql, wrong) in FAULTS {
        let given = given(sql).await;
        let is_there = given == wrong || (wrong.parse::<f64>().is_err() && given.contains(wrong));
        if !is_there {
            mended.push(format!("{told}: {file} may go: {sql} gives {given}"));
        }
    }
    assert!(mended.is_empty(), "{mended:#?}");
}

/// Whoever wants to know what may go after an upgrade finds it there.
#[test]
fn the_documents_list_them() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/development.md")).unwrap();
    for (told, file, ..) in FAULTS {
        assert!(root.join(file).exists(), "{file}");
        let row =
            text.lines().find(|line| line.starts_with('|') && line.contains(told) && line.contains(file));
        assert!(row.is_some(), "docs/development.md has no row of {told} and {file}");
    }
}

/// `src/sql/partitioned.rs`, https://github.com/apache/datafusion/issues/18083
#[tokio::test]
async fn datafusion_reads_directories_of_nulls_as_text() {
    let place = Place::new();
    place.put("t/k=__HIVE_DEFAULT_PARTITION__/a.csv", "1\n");
    let context = plain();
    let table = format!(
        "CREATE EXTERNAL TABLE t (a INT, k VARCHAR) STORED AS CSV PARTITIONED BY (k) LOCATION '{}' \
         OPTIONS ('format.has_header' 'false')",
        place.text("t/")
    );
    context.sql(&table).await.unwrap().collect().await.unwrap();
    let rows = context.sql("SELECT a, k FROM t").await.unwrap().collect().await.unwrap();
    assert_eq!(lines(&rows), ["1 __HIVE_DEFAULT_PARTITION__"]);
}

fn accumulator(function: Arc<AggregateUDF>, args: Vec<Arc<dyn PhysicalExpr>>) -> Box<dyn Accumulator> {
    let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Float64, true)]));
    let call = AggregateExprBuilder::new(function, args).schema(schema).alias("call").build().unwrap();
    call.create_accumulator().unwrap()
}

fn x() -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new("x", 0))
}

/// The states of accumulators, one row each, as columns.
fn states(parts: Vec<Box<dyn Accumulator>>) -> Vec<ArrayRef> {
    let states: Vec<Vec<ScalarValue>> = parts.into_iter().map(|mut part| part.state().unwrap()).collect();
    let columns = (0..states[0].len()).map(|column| states.iter().map(move |state| state[column].clone()));
    columns.map(|values| ScalarValue::iter_to_array(values).unwrap()).collect()
}

/// `src/functions/aggregates/moments.rs`, datafusion/functions-aggregate/src/variance.rs
#[test]
fn datafusion_merges_means_of_constants_to_another_one() {
    let variance = || accumulator(functions_aggregate::variance::var_pop_udaf(), vec![x()]);
    let parts = [3, 7, 10, 5].map(|rows| {
        let mut part = variance();
        part.update_batch(&[Arc::new(Float64Array::from(vec![1e15 + 0.3; rows])) as ArrayRef]).unwrap();
        part
    });
    let mut whole = variance();
    whole.merge_batch(&states(parts.into_iter().collect())).unwrap();
    assert_ne!(whole.evaluate().unwrap(), ScalarValue::Float64(Some(0.0)));
}

/// `src/functions/aggregates/percentile.rs`, datafusion/functions-aggregate/src/percentile_cont.rs
#[test]
fn datafusion_merges_the_first_of_several_parts_of_a_percentile() {
    let percentile = || {
        let half: Arc<dyn PhysicalExpr> = Arc::new(Literal::new(ScalarValue::Float64(Some(0.5))));
        accumulator(functions_aggregate::percentile_cont::percentile_cont_udaf(), vec![x(), half])
    };
    let parts = [1.0, 5.0, 9.0].map(|value| {
        let mut part = percentile();
        part.update_batch(&[Arc::new(Float64Array::from(vec![value])) as ArrayRef]).unwrap();
        part
    });
    let mut whole = percentile();
    whole.merge_batch(&states(parts.into_iter().collect())).unwrap();
    assert_eq!(whole.evaluate().unwrap(), ScalarValue::Float64(Some(1.0)), "the median of 1, 5 and 9");
}

/// `src/plan/windows.rs`, datafusion/expr/src/logical_plan/builder.rs
#[tokio::test]
async fn datafusion_takes_a_key_for_the_column_that_it_is_called_like() {
    let context = plain();
    let counts = "SELECT column1 AS a, count(*) AS n FROM (VALUES (1), (1), (2)) GROUP BY column1";
    let counts = context.sql(counts).await.unwrap();
    let key = (col("a") / lit(10)).alias("a");
    let rows = counts.aggregate(vec![key], vec![functions_aggregate::expr_fn::sum(col("n"))]).unwrap();
    let rows = rows.collect().await.unwrap();
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 2, "they are of one group");
}

/// `src/source/file/parquet/`, parquet/src/arrow/array_reader/byte_array.rs: in a process of its own, which it ends.
#[cfg(unix)]
#[test]
fn parquet_makes_room_for_as_many_lengths_as_a_page_says() {
    use std::os::unix::process::ExitStatusExt;
    const CHILD: &str = "TIDEMILL_BELIEVES";
    const SIGABRT: i32 = 6;
    if let Ok(path) = std::env::var(CHILD) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _ = runtime.block_on(async {
            plain().read_parquet(path, ParquetReadOptions::default()).await.unwrap().collect().await
        });
        return;
    }
    let place = Place::new();
    let path = place.text("f.parquet");
    std::fs::write(&path, crate::file_source::with_many_lengths()).unwrap();
    let name = "values::upstream::parquet_makes_room_for_as_many_lengths_as_a_page_says";
    let mut child = Command::new(std::env::current_exe().unwrap());
    let child = child.args(["--exact", name, "--nocapture"]).env(CHILD, path).output().unwrap();
    assert_eq!(child.status.signal(), Some(SIGABRT), "src/source/file/parquet/ may check less");
}

/// `src/text/mod.rs`
#[test]
fn arrow_writes_errors_and_nulls_for_values_into_json() {
    let date: ArrayRef = Arc::new(Date32Array::from(vec![i32::MAX]));
    let float: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN]));
    let rows = RecordBatch::try_from_iter([("d", date), ("f", float)]).unwrap();
    let mut writer = LineDelimitedWriter::new(Vec::new());
    writer.write(&rows).unwrap();
    let text = String::from_utf8(writer.into_inner()).unwrap();
    assert!(text.contains("ERROR") && text.contains("\"f\":null"), "{text}");
}

/// `src/sql/chains.rs`, https://github.com/apache/datafusion/issues/22936: in a process of its own, which it ends.
#[test]
fn datafusion_overflows_the_stack_on_long_chains() {
    const CHILD: &str = "TIDEMILL_OVERFLOWS";
    if std::env::var_os(CHILD).is_some() {
        let chain = (0..50_000).map(|n| format!("a = {n}")).collect::<Vec<_>>().join(" OR ");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let sql = format!("SELECT count(*) FROM (VALUES (1)) AS t(a) WHERE {chain}");
        let _ = runtime.block_on(given(&sql));
        return;
    }
    let name = "values::upstream::datafusion_overflows_the_stack_on_long_chains";
    let mut child = Command::new(std::env::current_exe().unwrap());
    let child = child.args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().unwrap();
    assert!(!child.status.success(), "DataFusion plans long chains: src/sql/chains.rs may go");
}
