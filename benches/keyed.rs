//! Millions of keys, most of them new: what the state of a key costs, and whether it costs more
//! when there is more of it.

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use tidemill::prelude::*;

use crate::Settings;
use crate::support::data::SplitMix64;
use crate::support::feed::Feed;
use crate::support::report::{Report, Table, number, verdict};
use crate::support::stateful::{Case, Input, Runs, measure};
use crate::support::statistics::median;
use crate::support::{Result, Workspace};

/// Rows, keys and triggers of each case.
const ROWS: u64 = 8_000_000;
const TRIGGERS: u64 = 32;
/// As many distinct keys among [`ROWS`] random ones are 6 million.
const KEYS: u64 = 13_000_000;
/// At least so many rows a second.
const BAR_ROWS: f64 = 2e6;
/// The last triggers may cost so much of what the first do.
const BAR_GROWTH: f64 = 1.3;

const AGGREGATE: &str =
    "SELECT k, count(*) AS n, sum(v) AS total, avg(v) AS average, max(v) AS top FROM events GROUP BY k";
const AGGREGATE_DIGEST: &str = "SELECT count(*), sum(n), sum(total), sum(top), sum(average) FROM \
    (SELECT k, max(n) AS n, last_value(total ORDER BY n) AS total, max(top) AS top, \
     round(last_value(average ORDER BY n) * 16) AS average FROM output GROUP BY k)";
const DISTINCT: &str = "SELECT DISTINCT k FROM events";
const DISTINCT_DIGEST: &str = "SELECT count(*), count(DISTINCT k), min(k), max(k) FROM output";

/// Measures aggregation and deduplication by numbers and by text.
pub async fn run(settings: &Settings, workspace: &Workspace, report: &Report) -> Result<()> {
    let mut table = Table::new(
        "keyed",
        format!(
            "{} M rows, {TRIGGERS} triggers, medians of {} runs, bars {} M rows/s and growth {BAR_GROWTH}",
            ROWS / settings.divide / 1_000_000,
            settings.runs,
            BAR_ROWS / 1e6
        ),
        &[
            "seconds",
            "rows/s",
            "bar",
            "ms of triggers 2-5",
            "of the last 4",
            "slowest",
            "growth",
            "bar of growth",
            "DataFusion s",
        ],
    );
    for (key, make) in [("Int64", numbers as fn(Range<u64>) -> Result<RecordBatch>), ("Utf8View", texts)] {
        let feed = Feed::generate(ROWS / settings.divide, TRIGGERS, make)?;
        let cases: Vec<Case<'_>> = [
            ("count, sum, avg, max", AGGREGATE, OutputMode::Update, AGGREGATE_DIGEST),
            ("DISTINCT", DISTINCT, OutputMode::Append, DISTINCT_DIGEST),
        ]
        .into_iter()
        .map(|(name, sql, mode, digest)| Case {
            name: format!("{name} by {key}"),
            input: Input::Feed(&feed),
            watermark: None,
            stream: None,
            table: None,
            sql,
            sql_of_datafusion: None,
            mode,
            options: Vec::new(),
            digest,
        })
        .filter(|case| case.name.contains(&settings.case))
        .collect();
        for (case, runs) in cases.iter().zip(measure(settings, workspace, &cases).await?) {
            add_row(&mut table, case, &runs, feed.rows());
        }
    }
    report.show(&table);
    Ok(())
}

fn add_row(table: &mut Table, case: &Case<'_>, runs: &Runs, rows: u64) {
    let triggers = runs.triggers();
    let listed: Vec<String> = triggers.iter().map(|ms| format!("{ms:.0}")).collect();
    eprintln!("{}: ms of each trigger: {}", case.name, listed.join(" "));
    let first = median(triggers.get(1..5).unwrap_or_default());
    let last = median(triggers.rchunks(4).next().unwrap_or_default());
    let slowest = triggers.iter().copied().fold(0.0, f64::max);
    let (seconds, growth) = (runs.seconds(), last / first);
    let per_second = rows as f64 / seconds;
    table.row(
        &case.name,
        [
            number(seconds, 3),
            number(per_second, 0),
            verdict(BAR_ROWS, per_second),
            number(first, 1),
            number(last, 1),
            number(slowest, 1),
            number(growth, 2),
            verdict(growth, BAR_GROWTH),
            number(runs.batch_seconds(), 3),
        ],
    );
}

fn key(number: u64) -> i64 {
    SplitMix64(number.wrapping_mul(0xA076_1D64_78BD_642F)).below(KEYS)
}

fn numbers(range: Range<u64>) -> Result<RecordBatch> {
    let keys = Int64Array::from_iter_values(range.clone().map(key));
    with_values(range, Arc::new(keys))
}

/// As long as a hyphenless identifier.
fn texts(range: Range<u64>) -> Result<RecordBatch> {
    let keys =
        StringViewArray::from_iter_values(range.clone().map(|number| format!("user-{:016x}", key(number))));
    with_values(range, Arc::new(keys))
}

fn with_values(range: Range<u64>, keys: ArrayRef) -> Result<RecordBatch> {
    let values = Int64Array::from_iter_values(range.map(|number| (number % 1_000) as i64));
    Ok(RecordBatch::try_from_iter([("k", keys), ("v", Arc::new(values) as ArrayRef)])?)
}
