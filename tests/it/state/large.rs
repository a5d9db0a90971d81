//! A query whose state is larger than the memory that it may use.

use std::path::Path;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use tidemill::StreamingQueryProgress;
use tidemill::prelude::*;
use tidemill::sql::SqlOutcome;

use crate::support::harness::eventually;

/// How much of everything there is.
#[derive(Debug, Clone, Copy)]
struct Size {
    keys: i64,
    rows_per_trigger: i64,
    limit: u64,
    /// Undoes [`SCATTER`].
    inverse: i64,
}

/// Scatters the keys, so that every batch touches everything. It has no divisor in common with their number,
/// so that all of them are there.
const SCATTER: i64 = 7_368_787;

/// Starts the query and ends it when it has read up to `rows`.
async fn run(checkpoint: &Path, rows: i64, size: Size) -> Vec<StreamingQueryProgress> {
    let session = Session::new();
    let reader =
        session.read_stream().format("rate-micro-batch").option("rowsPerBatch", size.rows_per_trigger);
    let events = reader.load(None).await.unwrap();
    session.context().register_table("events", events.into_view()).unwrap();
    let key = format!("value * {SCATTER} % {}", size.keys);
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
        .option("stateMemoryLimit", size.limit)
        .start(None)
        .await
        .unwrap();
    let is_over = || {
        let read = query.last_progress().map_or(0, |progress| progress.batch_id + 1);
        !query.is_active() || read >= u64::try_from(rows / size.rows_per_trigger).unwrap()
    };
    eventually(is_over).await;
    query.stop(StopMode::Finish).await.unwrap();
    query.recent_progress()
}

/// What is right for every key follows from the key: `first` is the first row that had it.
fn check(rows: i64, size: Size) -> String {
    let Size { keys, inverse, .. } = size;
    let again = rows - keys;
    format!(
        "SELECT count(*), sum(first), sum(n),
                count(*) FILTER (WHERE n = CASE WHEN first < {again} THEN 2 ELSE 1 END),
                count(*) FILTER (WHERE total = CASE WHEN first < {again} THEN 2 * first + {keys} ELSE first END)
         FROM (SELECT k * {inverse} % {keys} AS first, n, total FROM state('CHECKPOINT', 0) AS t(k, n, total, carry, expires))"
    )
}

async fn is_right(size: Size) {
    let Size { keys, rows_per_trigger, limit, inverse } = size;
    assert_eq!(SCATTER * inverse % keys, 1);
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("checkpoint");
    let mut progress = run(&checkpoint, keys + 2 * rows_per_trigger, size).await;
    // What one run has on the local disk, the next one reads from the checkpoint.
    progress.extend(run(&checkpoint, keys + 5 * rows_per_trigger, size).await);
    let rows = (progress.last().unwrap().batch_id + 1) as i64 * rows_per_trigger;
    assert!((keys + 5 * rows_per_trigger..2 * keys).contains(&rows), "{rows} rows");

    let memory = progress.iter().map(|batch| batch.state_operators[0]["memoryUsedBytes"].as_u64().unwrap());
    assert!(memory.max().unwrap() <= limit);
    let disk = &progress.last().unwrap().state_operators[0]["customMetrics"]["localDiskBytes"];
    assert!(disk.as_u64().unwrap() > limit, "{disk} bytes on the disk");

    let sql = check(rows, size).replace("CHECKPOINT", &checkpoint.display().to_string());
    let Some(SqlOutcome::Rows(found)) = Session::new().sql(&sql).await.unwrap().pop() else {
        panic!("{sql}")
    };
    let found = found.collect().await.unwrap();
    let found: Vec<i64> =
        found[0].columns().iter().map(|column| column.as_primitive::<Int64Type>().value(0)).collect();
    assert_eq!(found, [keys, keys * (keys - 1) / 2, rows, keys, keys]);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(debug_assertions, ignore = "millions of keys: for release builds")]
async fn a_query_with_5_million_keys_is_right_in_64_mb() {
    is_right(Size { keys: 5_000_000, rows_per_trigger: 250_000, limit: 64 << 20, inverse: 3341723 }).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_query_with_20_million_keys_is_right_in_256_mb() {
    is_right(Size { keys: 20_000_000, rows_per_trigger: 1_000_000, limit: 256 << 20, inverse: 8_341_723 })
        .await;
}
