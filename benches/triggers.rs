//! What a trigger costs when it has next to nothing to do: files of 100 rows, one a trigger.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use tidemill::prelude::*;

use crate::Settings;
use crate::support::data::{self, Format};
use crate::support::report::{Cell, Report, Table, number, verdict};
use crate::support::statistics::{median, millis, percentile};
use crate::support::stream::{BatchEnd, Job, watched_session};
use crate::support::{Result, Workspace};

/// The engine's milliseconds per trigger, beside fsyncs.
const BAR: f64 = 1.0;
/// Rows in a file.
const ROWS: u64 = 100;

const SQL: &str = "SELECT auction, bidder, CAST(price AS DOUBLE) / 100 AS amount, channel, url FROM bids WHERE price >= 5100";

/// The figures of one trigger, in milliseconds.
#[derive(Debug, Default, Clone, Copy)]
struct Times {
    wall: f64,
    offsets: f64,
    commits: f64,
    output: f64,
}

/// Measures the sinks, with and without fsync.
pub async fn run(settings: &Settings, workspace: &Workspace, report: &Report) -> Result<()> {
    let mut table = Table::new(
        "triggers",
        format!(
            "ms per trigger of {ROWS} rows, {} triggers in each of {} runs, bar {BAR} without fsync",
            settings.triggers, settings.runs
        ),
        &["p50", "p99", "mean", "writing offsets", "writing commits", "writing output", "rest", "bar"],
    );
    let input = workspace.empty("triggers-input")?;
    data::write_files(&input, Format::Json, ROWS * settings.triggers, settings.triggers)?;
    let cases = [
        ("noop", "process", Trigger::AvailableNow),
        ("parquet", "process", Trigger::AvailableNow),
        ("noop", "disk", Trigger::AvailableNow),
        ("parquet", "disk", Trigger::AvailableNow),
        ("noop", "process", Trigger::AtOnce),
        ("parquet", "process", Trigger::AtOnce),
    ];
    let mut times = vec![Vec::new(); cases.len()];
    for _ in 0..settings.runs {
        for ((sink, durability, trigger), times) in cases.iter().zip(&mut times) {
            let work = workspace.empty("triggers-work")?;
            times.extend(measure(&input, &work, sink, durability, *trigger).await?);
        }
    }
    for ((sink, durability, trigger), times) in cases.iter().zip(&times) {
        let fsync = if *durability == "disk" { ", with fsync" } else { "" };
        add_row(&mut table, format!("{sink}, {trigger}{fsync}"), times, *durability == "process");
    }
    let work = workspace.empty("triggers-work")?;
    let fsync = probe_fsync(&work)?;
    table.row(
        "write and fsync a file of 200 bytes, fsync its directory",
        [number(median(&fsync), 3), number(percentile(&fsync, 99.0), 3)],
    );
    workspace.remove("triggers-work")?;
    report.show(&table);
    Ok(())
}

fn add_row(table: &mut Table, case: String, times: &[Times], judged: bool) {
    let column = |of: fn(&Times) -> f64| -> Vec<f64> { times.iter().map(of).collect() };
    let mean = |of: fn(&Times) -> f64| column(of).iter().sum::<f64>() / times.len() as f64;
    let walls = column(|times| times.wall);
    let p50 = median(&walls);
    table.row(
        case,
        [
            number(p50, 3),
            number(percentile(&walls, 99.0), 3),
            number(mean(|times| times.wall), 3),
            number(mean(|times| times.offsets), 3),
            number(mean(|times| times.commits), 3),
            number(mean(|times| times.output), 3),
            number(mean(|times| times.wall - times.offsets - times.commits - times.output), 3),
            if judged { verdict(p50, BAR) } else { Cell::Empty },
        ],
    );
}

/// One run over all files; gives the times of its triggers but the first, which also starts.
async fn measure(
    input: &Path,
    work: &Path,
    sink: &str,
    durability: &str,
    trigger: Trigger,
) -> Result<Vec<Times>> {
    let (session, watch) = watched_session();
    let job = Job {
        format: Format::Json,
        input,
        files_per_trigger: Some(1),
        sql: SQL,
        sink,
        output: &work.join("output"),
        checkpoint: &work.join("checkpoint"),
        durability,
        trigger,
    };
    let query = job.start(&session).await?;
    if trigger.ends() {
        query.await_termination().await?;
    } else {
        query.process_all_available().await?;
        query.stop(StopMode::Finish).await?;
    }
    Ok(watch.ends().windows(2).map(|ends| times_between(&ends[0], &ends[1])).collect())
}

fn times_between(before: &BatchEnd, after: &BatchEnd) -> Times {
    let spent = |kind: &str| {
        let time = |end: &BatchEnd| end.usage.get(kind).map_or(0.0, |usage| millis(usage.time));
        time(after) - time(before)
    };
    Times {
        wall: millis(after.at - before.at),
        offsets: spent("offsets"),
        commits: spent("commits"),
        output: spent("output"),
    }
}

/// What one durable small file costs on this disk, in milliseconds.
fn probe_fsync(directory: &Path) -> Result<Vec<f64>> {
    let handle = File::open(directory)?;
    (0..200)
        .map(|number| {
            let started = Instant::now();
            let mut file = File::create(directory.join(number.to_string()))?;
            file.write_all(&[b'x'; 200])?;
            file.sync_all()?;
            handle.sync_all()?;
            Ok(millis(started.elapsed()))
        })
        .collect()
}
