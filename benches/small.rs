//! What a trigger costs that has next to nothing to do but must remember it.

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use tidemill::prelude::*;

use crate::Settings;
use crate::support::data::{FIRST_TIME, SplitMix64};
use crate::support::feed::Feed;
use crate::support::report::{Report, Table, number, verdict};
use crate::support::stateful::{Case, Input, Run, measure};
use crate::support::statistics::{median, percentile};
use crate::support::{Result, Workspace};

/// Triggers of each case, and rows of each trigger.
const TRIGGERS: u64 = 300;
const ROWS: u64 = 100;
/// The engine's milliseconds per trigger, beside fsyncs.
const BAR: f64 = 2.0;
/// Files that a trigger may write.
const BAR_OBJECTS: f64 = 4.0;

const COUNT: &str = "SELECT k, count(*) AS n FROM events GROUP BY k";
const WINDOW: &str =
    "SELECT date_bin(INTERVAL '10 seconds', ts) AS w, k, count(*) AS n FROM events GROUP BY 1, 2";

/// Measures counting by key and by window.
pub async fn run(settings: &Settings, workspace: &Workspace, report: &Report) -> Result<()> {
    let feed = Feed::generate(TRIGGERS * ROWS, TRIGGERS, rows)?;
    let case = |name: &str, sql, watermark, mode, digest| Case {
        name: name.to_string(),
        input: Input::Feed(&feed),
        watermark,
        stream: None,
        table: None,
        sql,
        sql_of_datafusion: None,
        mode,
        options: match mode {
            OutputMode::Append => vec![("flushOnEnd", "true")],
            _ => Vec::new(),
        },
        digest,
    };
    let cases = [
        case(
            "count by key, update",
            COUNT,
            None,
            OutputMode::Update,
            "SELECT count(*), sum(n) FROM (SELECT k, max(n) AS n FROM output GROUP BY k)",
        ),
        case(
            "count by window and key, append",
            WINDOW,
            Some(("ts", "5 seconds")),
            OutputMode::Append,
            "SELECT count(*), sum(n) FROM output",
        ),
    ];
    let title = format!(
        "ms per trigger of {ROWS} rows, {TRIGGERS} triggers in each of {} runs, bars {BAR} ms and {BAR_OBJECTS} objects, without fsync",
        settings.runs
    );
    let columns = ["p50", "p99", "mean", "bar", "objects", "bar of objects", "bytes", "bytes of state"];
    let mut table = Table::new("small", title, &columns);
    for (case, runs) in cases.iter().zip(measure(settings, workspace, &cases).await?) {
        // The first trigger also starts.
        let times: Vec<f64> =
            runs.streaming.iter().flat_map(|run| run.triggers.iter().skip(1).copied()).collect();
        let median_of = |of: fn(&Run) -> f64| median(&runs.streaming.iter().map(of).collect::<Vec<_>>());
        let (p50, objects) = (median(&times), median_of(objects));
        table.row(
            &case.name,
            [
                number(p50, 3),
                number(percentile(&times, 99.0), 3),
                number(times.iter().sum::<f64>() / times.len() as f64, 3),
                verdict(p50, BAR),
                number(objects, 2),
                verdict(objects, BAR_OBJECTS),
                number(median_of(bytes), 0),
                number(median_of(state_bytes), 0),
            ],
        );
    }
    report.show(&table);
    Ok(())
}

fn per_trigger(run: &Run, of: impl Fn(&str, &crate::support::metered::Usage) -> u64) -> f64 {
    let last = run.ends.last();
    let sum: u64 = last.iter().flat_map(|end| &end.usage).map(|(kind, usage)| of(kind, usage)).sum();
    sum as f64 / run.ends.len() as f64
}

fn objects(run: &Run) -> f64 {
    per_trigger(run, |_, usage| usage.objects)
}

fn bytes(run: &Run) -> f64 {
    per_trigger(run, |_, usage| usage.bytes)
}

fn state_bytes(run: &Run) -> f64 {
    per_trigger(run, |kind, usage| if kind == "state" { usage.bytes } else { 0 })
}

/// Rows of 10,000 keys, a second of event time for each 100.
fn rows(range: Range<u64>) -> Result<RecordBatch> {
    let key = |number: u64| SplitMix64(number.wrapping_mul(0xA076_1D64_78BD_642F)).below(10_000);
    let keys = Int64Array::from_iter_values(range.clone().map(key));
    let times = range.map(|number| FIRST_TIME + number as i64 * 10_000);
    let columns: [(&str, ArrayRef); 2] =
        [("k", Arc::new(keys)), ("ts", Arc::new(TimestampMicrosecondArray::from_iter_values(times)))];
    Ok(RecordBatch::try_from_iter(columns)?)
}
