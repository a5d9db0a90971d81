//! Starting again on a checkpoint with much state, and with little.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use tidemill::prelude::*;

use crate::Settings;
use crate::support::feed::Feed;
use crate::support::report::{Report, Table, number, verdict};
use crate::support::stateful::{Case, Input};
use crate::support::statistics::median;
use crate::support::stream::watched_session;
use crate::support::{Result, Workspace};

const SQL: &str = "SELECT k, count(*) AS n, sum(v) AS total FROM events GROUP BY k";

/// Measures both sizes.
pub async fn run(settings: &Settings, workspace: &Workspace, report: &Report) -> Result<()> {
    let title = format!("seconds until start() returns, medians of {} runs", settings.runs);
    let mut table = Table::new("restore", title, &["seconds", "keys/s", "MB of state", "bar"]);
    for (keys, triggers, bar) in [(10_000_000 / settings.divide, 20, 3.0), (1_000, 20, 0.02)] {
        let feed = Feed::generate(keys, triggers, rows)?;
        let case = Case {
            name: format!("{keys} keys"),
            input: Input::Feed(&feed),
            watermark: None,
            stream: None,
            table: None,
            sql: SQL,
            sql_of_datafusion: None,
            mode: OutputMode::Update,
            options: Vec::new(),
            digest: "",
        };
        let work = workspace.empty("restore-work")?;
        let (session, watch) = watched_session();
        case.run(&session, &watch, &work, "noop").await?;
        let mut seconds = Vec::new();
        for _ in 0..settings.runs {
            let (session, _) = watched_session();
            let started = Instant::now();
            let query = case.start(&session, &work, "noop").await?;
            seconds.push(started.elapsed().as_secs_f64());
            query.await_termination().await?;
        }
        let mut bytes = 0;
        for file in std::fs::read_dir(work.join("checkpoint").join("state"))? {
            bytes += file?.metadata()?.len();
        }
        let median = median(&seconds);
        let megabytes = number(bytes as f64 / 1e6, 1);
        table.row(
            case.name,
            [number(median, 4), number(keys as f64 / median, 0), megabytes, verdict(median, bar)],
        );
        workspace.remove("restore-work")?;
    }
    report.show(&table);
    Ok(())
}

/// Every row has a key of its own.
fn rows(range: Range<u64>) -> Result<RecordBatch> {
    // Odd factors permute the numbers: neighbours in time are not neighbours in value.
    let keys = range.clone().map(|number| number.wrapping_mul(0x9E37_79B9_7F4A_7C15) as i64);
    let columns: [(&str, ArrayRef); 2] = [
        ("k", Arc::new(Int64Array::from_iter_values(keys))),
        ("v", Arc::new(Int64Array::from_iter_values(range.map(|number| (number % 1_000) as i64)))),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}
