//! What the libraries below still get wrong, and what works round it. If one of these tests fails, a library has
//! mended its fault, and the file that is named beside it can go.
//!
//! The table in `docs/development.md` has the same rows.

use std::process::Command;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Date32Array, Float64Array, RecordBatch};
use datafusion::arrow::json::LineDelimitedWriter;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::lines;

/// Where the fault is told of upstream (or the file it is in, if nobody has), what works round it, and a query
/// with what DataFusion gives for it.
const FAULTS: [(&str, &str, &str, &str); 11] = [
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
