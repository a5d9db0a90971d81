//! State larger than the memory it may use.

use std::time::Instant;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use tidemill::prelude::*;

use crate::Settings;
use crate::support::report::{Report, Table, number};
use crate::support::statistics::{median, millis};
use crate::support::stream::{text, watched_session};
use crate::support::{Result, Workspace, process};

/// Keys and rows of a trigger.
const KEYS: u64 = 20_000_000;
const ROWS_PER_TRIGGER: u64 = 500_000;
const LIMIT: &str = "256mb";

/// A quarter of the keys come twice, far apart: the second time they must still be known. Some of those
/// are given and checked; all would take more memory than the state. Which ones follows from the sum: a
/// condition on the key would keep the other keys out of the state.
const SQL: &str = "SELECT value % KEYS AS k, count(*) AS n, sum(value) AS total FROM events GROUP BY value % KEYS \
                   HAVING count(*) = 2 AND (sum(value) - KEYS) % 8 = 0";

/// Measures one run and checks its results.
pub async fn run(settings: &Settings, workspace: &Workspace, report: &Report) -> Result<()> {
    let keys = KEYS / settings.divide;
    let batches = (keys + keys / 4) / ROWS_PER_TRIGGER;
    let work = workspace.empty("large-work")?;
    let (session, watch) = watched_session();
    let reader = session.read_stream().format("rate-micro-batch").option("rowsPerBatch", ROWS_PER_TRIGGER);
    let events = reader.load(None).await?;
    session.context().register_table("events", events.into_view())?;
    let started = Instant::now();
    let query = session
        .context()
        .sql(&SQL.replace("KEYS", &keys.to_string()))
        .await?
        .write_stream()
        .format("memory")
        .query_name("output")
        .output_mode(OutputMode::Update)
        .option("checkpointLocation", text(&work.join("checkpoint"))?)
        .option("durability", "process")
        .option("stateMemoryLimit", LIMIT)
        .start(None)
        .await?;
    while (watch.ends().len() as u64) < batches {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        if let Some(error) = query.exception() {
            return Err(error.to_string().into());
        }
    }
    query.stop(StopMode::Finish).await?;
    let ends = watch.ends();
    let mut before = started;
    let triggers: Vec<f64> =
        ends.iter().map(|end| millis(end.at - std::mem::replace(&mut before, end.at))).collect();
    let peak = process::own_peak_rss().unwrap_or(0);
    let sql = "SELECT count(*), count(DISTINCT k), sum(total - 2 * k) FROM output";
    let found = session.context().sql(sql).await?.collect().await?;
    let value = |column: usize| found[0].column(column).as_primitive::<Int64Type>().value(0);
    let rows = ends.len() as u64 * ROWS_PER_TRIGGER;
    let remembered =
        ends.last().and_then(|end| end.progress.state_operators.first()?.get("numRowsTotal")?.as_u64());
    // Each key that came a second time was given with its two numbers, the second larger by `keys`.
    let again = ((rows - keys) / 4) as i64;
    let expected = (again, again, again * keys as i64, Some(keys));
    let found = (value(0), value(1), value(2), remembered);
    if found != expected {
        return Err(format!("got {found:?} instead of {expected:?}").into());
    }
    let listed: Vec<String> = triggers.iter().map(|ms| format!("{ms:.0}")).collect();
    eprintln!("ms of each trigger: {}", listed.join(" "));
    let first = median(triggers.get(1..6).unwrap_or_default());
    let last = median(triggers.rchunks(5).next().unwrap_or_default());
    let seconds = triggers.iter().sum::<f64>() / 1000.0;
    let title = format!("{keys} keys, stateMemoryLimit {LIMIT}");
    let columns = ["seconds", "rows/s", "ms of triggers 2-6", "of the last 5", "growth", "peak MB"];
    let mut table = Table::new("large", title, &columns);
    let growth = last / first;
    table.row(
        "count, sum",
        [
            number(seconds, 1),
            number(rows as f64 / seconds, 0),
            number(first, 0),
            number(last, 0),
            number(growth, 2),
            number(peak as f64 / 1e6, 0),
        ],
    );
    report.show(&table);
    workspace.remove("large-work")
}
