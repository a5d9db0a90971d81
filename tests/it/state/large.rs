//! A query whose state is larger than the memory that it may use.

use std::path::Path;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use tidemill::StreamingQueryProgress;
use tidemill::prelude::*;
use tidemill::sql::SqlOutcome;

use crate::support::harness::eventually;

const KEYS: i64 = 20_000_000;
const ROWS_PER_TRIGGER: i64 = 1_000_000;
const LIMIT: u64 = 256 << 20;
/// Scatters the keys, so that every batch touches everything. It has no divisor in common with [`KEYS`],
/// so that all of them are there.
const SCATTER: i64 = 7_368_787;
/// Undoes it.
const INVERSE: i64 = 8_341_723;

/// Starts the query and ends it when it has read up to `rows`.
async fn run(checkpoint: &Path, rows: i64) -> Vec<StreamingQueryProgress> {
    let session = Session::new();
    let reader = session.read_stream().format("rate-micro-batch").option("rowsPerBatch", ROWS_PER_TRIGGER);
    let events = reader.load(None).await.unwrap();
    session.context().register_table("events", events.into_view()).unwrap();
    let key = format!("value * {SCATTER} % {KEYS}");
    let sql = format!("SELECT {key} AS k, count(*) AS n, sum(value) AS total FROM events GROUP BY {key}");
    let query = session
        .context()
        .sql(&sql)
        .await
        .unwrap()
        .write_stream()
        .format("noop")
        .output_mode(OutputMode::Update)
        .option("checkpointLocation", checkpoint.display())
        .option("durability", "process")
        .option("stateMemoryLimit", LIMIT)
        .start(None)
        .await
        .unwrap();
    let is_over = || {
        let read = query.last_progress().map_or(0, |progress| progress.batch_id + 1);
        !query.is_active() || read >= u64::try_from(rows / ROWS_PER_TRIGGER).unwrap()
    };
    eventually(is_over).await;
    query.stop(StopMode::Finish).await.unwrap();
    query.recent_progress()
}

/// What is right for every key follows from the key: `first` is the first row that had it.
fn check(rows: i64) -> String {
    let again = rows - KEYS;
    format!(
        "SELECT count(*), sum(first), sum(n),
                count(*) FILTER (WHERE n = CASE WHEN first < {again} THEN 2 ELSE 1 END),
                count(*) FILTER (WHERE total = CASE WHEN first < {again} THEN 2 * first + {KEYS} ELSE first END)
         FROM (SELECT k * {INVERSE} % {KEYS} AS first, n, total FROM state('CHECKPOINT', 0) AS t(k, n, total, carry, expires))"
    )
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(debug_assertions, ignore = "20 million keys: for release builds")]
async fn a_query_with_20_million_keys_is_right_in_256_mb() {
    assert_eq!(SCATTER * INVERSE % KEYS, 1);
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("checkpoint");
    let mut progress = run(&checkpoint, KEYS + 2 * ROWS_PER_TRIGGER).await;
    // What one run has on the local disk, the next one reads from the checkpoint.
    progress.extend(run(&checkpoint, KEYS + 5 * ROWS_PER_TRIGGER).await);
    let rows = (progress.last().unwrap().batch_id + 1) as i64 * ROWS_PER_TRIGGER;
    assert!((KEYS + 5 * ROWS_PER_TRIGGER..2 * KEYS).contains(&rows), "{rows} rows");

    let memory = progress.iter().map(|batch| batch.state_operators[0]["memoryUsedBytes"].as_u64().unwrap());
    assert!(memory.max().unwrap() <= LIMIT);
    let disk = &progress.last().unwrap().state_operators[0]["customMetrics"]["localDiskBytes"];
    assert!(disk.as_u64().unwrap() > LIMIT, "{disk} bytes on the disk");

    let sql = check(rows).replace("CHECKPOINT", &checkpoint.display().to_string());
    let Some(SqlOutcome::Rows(found)) = Session::new().sql(&sql).await.unwrap().pop() else {
        panic!("{sql}")
    };
    let found = found.collect().await.unwrap();
    let found: Vec<i64> =
        found[0].columns().iter().map(|column| column.as_primitive::<Int64Type>().value(0)).collect();
    assert_eq!(found, [KEYS, KEYS * (KEYS - 1) / 2, rows, KEYS, KEYS]);
}
