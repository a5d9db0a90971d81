//! Every aggregate of the session, of every type that it takes: over 1, 2 and 40 batches, with a restart,
//! it gives what it gives over one batch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, Float64Type};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::datasource::MemTable;
use tidemill::Session;
use tidemill::prelude::*;

use super::write_parquet;
use crate::support::harness::{Input, Job, Place, session};

const ROWS: usize = 80;

/// The columns, as SQL over `id`. A seventh of the values is null, but for constants.
const COLUMNS: [(&str, &str); 23] = [
    ("i8", "CAST(v AS TINYINT)"),
    ("i32", "CAST(v * 1000 AS INT)"),
    ("i64", "v * 1000000007"),
    ("ends", "CASE id % 3 WHEN 0 THEN 9223372036854775807 WHEN 1 THEN -9223372036854775808 ELSE v END"),
    ("u8", "CAST(v + 60 AS TINYINT UNSIGNED)"),
    ("u64", "CAST(v + 60 AS BIGINT UNSIGNED)"),
    ("f32", "CAST(v AS FLOAT) / 4"),
    ("f64", "CAST(v AS DOUBLE) / 7"),
    ("large", "CAST(v AS DOUBLE) / 7 + 1e9"),
    (
        "odd",
        "CASE id % 5 WHEN 0 THEN CAST('NaN' AS DOUBLE) WHEN 1 THEN CAST('inf' AS DOUBLE) ELSE CAST(v AS DOUBLE) END",
    ),
    ("constant", "CAST(id * 0 AS DOUBLE) + 1234567890.1"),
    ("decimal", "CAST(v AS DECIMAL(10, 2)) / 8"),
    ("digits", "CAST(v AS DECIMAL(38, 4)) * CAST(99999999999999999999 AS DECIMAL(20, 0))"),
    ("text", "CAST(v AS VARCHAR)"),
    ("flag", "v > 10"),
    ("date", "CAST(CAST(v AS INT) AS DATE)"),
    ("time", "arrow_cast(v + 100, 'Time64(Microsecond)')"),
    ("ts", "arrow_cast(v * 1000003, 'Timestamp(Microsecond, None)')"),
    ("zoned", "arrow_cast(v * 1000003, 'Timestamp(Millisecond, Some(\"+02:00\"))')"),
    ("duration", "arrow_cast(v * 1000003, 'Duration(Microsecond)')"),
    ("bytes", "arrow_cast(CAST(v AS VARCHAR), 'Binary')"),
    ("list", "[v, NULL, v + 1]"),
    ("struct", "named_struct('a', v, 'b', CAST(v AS VARCHAR))"),
];

/// How `function` is called on a column `X`; `y` is another one, of doubles. `None` if nobody has thought
/// about it yet.
fn calls(function: &str) -> Option<Vec<&'static str>> {
    Some(match function {
        // Which of the grouping sets a row belongs to: nothing is accumulated.
        "grouping" => vec![],
        "avg" | "sum" | "count" | "min" | "max" | "median" | "stddev" | "stddev_pop" | "var" | "var_pop"
        | "bit_and" | "bit_or" | "bit_xor" | "bool_and" | "bool_or" | "approx_distinct" | "approx_median" => {
            vec!["f(X)", "f(X) FILTER (WHERE id % 3 = 0)", "f(DISTINCT X)"]
        }
        "corr" | "covar_pop" | "covar_samp" | "regr_avgx" | "regr_avgy" | "regr_count" | "regr_intercept"
        | "regr_r2" | "regr_slope" | "regr_sxx" | "regr_sxy" | "regr_syy" => {
            vec!["f(X, y)", "f(y, X)", "f(X, X) FILTER (WHERE id > 20)"]
        }
        "approx_percentile_cont" => vec!["f(X, 0.5)", "f(0.9) WITHIN GROUP (ORDER BY X)"],
        "approx_percentile_cont_with_weight" => vec!["f(X, 1, 0.5)"],
        "percentile_cont" => vec![
            "f(X, 0.25)",
            "f(0.75) WITHIN GROUP (ORDER BY X DESC)",
            "f(0.5) WITHIN GROUP (ORDER BY X) FILTER (WHERE id > 3)",
        ],
        "nth_value" => vec!["f(X, 2 ORDER BY id)", "f(X, 3 ORDER BY id DESC)"],
        "string_agg" => vec!["f(X, ',')", "f(X, ',' ORDER BY id DESC)"],
        "first_value" | "last_value" | "any_value" => {
            vec!["f(X)", "f(X ORDER BY id)", "f(X ORDER BY id DESC)"]
        }
        "array_agg" => vec!["f(X)", "f(X ORDER BY id DESC)", "f(X) FILTER (WHERE id % 3 = 0)"],
        _ => return None,
    })
}

/// The rows from which every query is made.
async fn rows() -> RecordBatch {
    let columns = COLUMNS.iter().map(|(name, sql)| match *name {
        "constant" => format!("{sql} AS constant"),
        name => format!("CASE WHEN id % 7 = 3 THEN NULL ELSE {sql} END AS {name}"),
    });
    let columns: Vec<String> = columns.collect();
    let sql = format!(
        "SELECT id, CAST(id AS DOUBLE) * 3 AS y, {} FROM (SELECT value AS id, value * 7919 % 101 - 50 AS v FROM \
         generate_series(0, {})) ORDER BY id",
        columns.join(", "),
        ROWS - 1,
    );
    let rows = Session::new().context().sql(&sql).await.unwrap().collect().await.unwrap();
    concat_batches(&rows[0].schema(), &rows).unwrap()
}

/// Whether `sql` has a result.
async fn gives(session: &Session, sql: &str) -> bool {
    match session.context().sql(sql).await {
        Ok(frame) => frame.collect().await.is_ok(),
        Err(_) => false,
    }
}

/// The calls of all functions of which one batch has a result, by column.
async fn applicable(session: &Session) -> Vec<String> {
    let mut applicable = Vec::new();
    let functions = session.context().state().aggregate_functions().clone();
    let names: BTreeSet<String> = functions.values().map(|function| function.name().to_string()).collect();
    let mut used = BTreeMap::new();
    for name in &names {
        let calls = calls(name);
        let calls =
            calls.unwrap_or_else(|| panic!("{name} is new: how is it called, and is it right over batches?"));
        for (column, _) in COLUMNS {
            for call in &calls {
                let call = call.replacen('f', name, 1).replace('X', column);
                let all = gives(session, &format!("SELECT {call} AS a FROM one")).await;
                if all && gives(session, &format!("SELECT {call} AS a FROM one GROUP BY id % 3")).await {
                    applicable.push(call);
                    *used.entry(name.clone()).or_insert(0) += 1;
                }
            }
        }
    }
    let unused: Vec<&String> =
        names.iter().filter(|name| *name != "grouping" && !used.contains_key(*name)).collect();
    assert!(unused.is_empty(), "no type was found for {unused:?}");
    applicable
}

/// The result of `sql` over `files` files, one a batch, with a new session after the first `pause`.
async fn streamed(
    sql: &str,
    rows: &RecordBatch,
    files: usize,
    pause: usize,
) -> Result<RecordBatch, tidemill::Error> {
    let place = Place::new();
    let input = Input::new("one", "parquet", place.text("in")).option("maxFilesPerTrigger", 1);
    let job = Job::new(&place).inputs([input]).sql(sql).format("memory").name("out").out(None);
    let job = job.mode(OutputMode::Complete);
    let length = rows.num_rows() / files;
    let mut found = None;
    for run in [0..pause, pause..files] {
        if run.is_empty() {
            continue;
        }
        for file in run {
            write_parquet(&place.path(&format!("in/{file:03}.parquet")), &rows.slice(file * length, length));
        }
        let session = session();
        job.run(&session).await?;
        let batches =
            session.context().sql("SELECT * FROM out ORDER BY g").await.unwrap().collect().await.unwrap();
        found = Some(concat_batches(&batches[0].schema(), &batches).unwrap());
    }
    Ok(found.unwrap())
}

/// How far the results of `call` may differ: relatively, and absolutely.
fn tolerance(call: &str) -> (f64, f64) {
    match call {
        call if call.starts_with("approx_") => (0.05, 0.0),
        // A double near 2^63 has no digits below 2^10, and these are sums and averages of such.
        call if call.contains("ends") => (1e-9, 4096.0),
        call if call.contains("f32") => (1e-5, 1e-11),
        // What the values differ by has nine digits less than the values.
        call if call.contains("large") => (1e-5, 1e-4),
        _ => (1e-9, 1e-15),
    }
}

/// Whether two values are the same, but for the last digits of floats that were added up in another order.
fn same(found: &ArrayRef, expected: &ArrayRef, row: usize, (relative, absolute): (f64, f64)) -> bool {
    if found.is_null(row) || expected.is_null(row) {
        return found.is_null(row) == expected.is_null(row);
    }
    if !found.data_type().is_floating() {
        return array_value_to_string(found, row).unwrap() == array_value_to_string(expected, row).unwrap();
    }
    let value =
        |array: &ArrayRef| cast(array, &DataType::Float64).unwrap().as_primitive::<Float64Type>().value(row);
    let (found, expected) = (value(found), value(expected));
    found == expected
        || (found.is_nan() && expected.is_nan())
        || (found - expected).abs() <= relative * expected.abs() + absolute
}

#[tokio::test]
async fn every_aggregate_gives_over_many_batches_what_it_gives_over_one() {
    let rows = rows().await;
    let oracle = crate::support::harness::session_in(1, tidemill::Environment::default());
    let table = MemTable::try_new(rows.schema(), vec![vec![rows.clone()]]).unwrap();
    oracle.context().register_table("one", Arc::new(table)).unwrap();
    let calls = applicable(&oracle).await;
    let mut failures = Vec::new();
    let mut refused = Vec::new();
    // Where one call asks for an order, DataFusion may sort the rows for all; beside one over distinct values,
    // the others see the rows in another order (docs/guarantees.md).
    let (ordered, others): (Vec<_>, Vec<_>) =
        calls.iter().cloned().partition(|call| call.contains("ORDER BY"));
    let (distinct, others): (Vec<_>, Vec<_>) = others.into_iter().partition(|call| call.contains("DISTINCT"));
    let mut pending: Vec<Vec<String>> =
        [ordered, distinct, others].iter().flat_map(|calls| calls.chunks(90)).map(<[_]>::to_vec).collect();
    while let Some(chunk) = pending.pop() {
        for key in ["0", "id % 3"] {
            let columns: Vec<String> =
                chunk.iter().enumerate().map(|(index, call)| format!("{call} AS c{index}")).collect();
            let (keyed, group) = match key {
                "0" => ("max(id * 0) AS g".to_string(), String::new()),
                key => (format!("{key} AS g"), format!("GROUP BY {key}")),
            };
            let sql = format!("SELECT {keyed}, {} FROM one {group}", columns.join(", "));
            let sorted = format!("SELECT * FROM ({sql}) ORDER BY g");
            let expected = match oracle.context().sql(&sorted).await.unwrap().collect().await {
                Ok(expected) => expected,
                // DataFusion cannot compute one of them over groups: which?
                Err(_) => {
                    let (left, right) = chunk.split_at(chunk.len() / 2);
                    pending.extend([left, right].into_iter().filter(|_| chunk.len() > 1).map(<[_]>::to_vec));
                    break;
                }
            };
            let expected = concat_batches(&expected[0].schema(), &expected).unwrap();
            let mut divided = false;
            for (files, pause) in [(1, 0), (2, 1), (40, 13)] {
                let found = match streamed(&sql, &rows, files, pause).await {
                    Ok(found) => found,
                    Err(error) if chunk.len() == 1 => {
                        refused.push(format!("{}: {error}", chunk[0]));
                        divided = true;
                        break;
                    }
                    Err(_) => {
                        // One of them is refused: which?
                        let half = chunk.len() / 2;
                        pending.push(chunk[..half].to_vec());
                        pending.push(chunk[half..].to_vec());
                        divided = true;
                        break;
                    }
                };
                assert_eq!(found.num_rows(), expected.num_rows(), "{sql}");
                for (index, call) in chunk.iter().enumerate() {
                    let tolerance = tolerance(call);
                    let (found, expected) = (found.column(index + 1), expected.column(index + 1));
                    if call.starts_with("any_value(") {
                        // Any will do, but not none.
                        assert_eq!(found.logical_null_count(), expected.logical_null_count(), "{call}");
                        continue;
                    }
                    if let Some(row) = (0..expected.len()).find(|row| !same(found, expected, *row, tolerance))
                    {
                        let text = |array: &ArrayRef| array_value_to_string(array, row).unwrap();
                        failures.push(format!(
                            "{call}, {files} files, {group}: {} instead of {}",
                            text(found),
                            text(expected)
                        ));
                    }
                }
            }
            if divided {
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), calls.len(), failures.join("\n"));
    let unexplained: Vec<&String> =
        refused.iter().filter(|line| !line.contains("cannot be kept in state")).collect();
    assert!(unexplained.is_empty(), "{unexplained:#?}");
    assert!(
        calls.len() > 500 && refused.len() < 20,
        "{} calls, {} refused: {refused:#?}",
        calls.len(),
        refused.len()
    );
}
