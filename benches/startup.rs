//! The `tidemill` binary from outside: how soon its first batch is committed, how much memory a large
//! file costs, and how large the binary is.

use std::path::Path;

use crate::Settings;
use crate::support::data::{self, Format};
use crate::support::process::{self, ProcessRun, TIDEMILL};
use crate::support::report::{Report, Table, number, verdict};
use crate::support::statistics::{median, millis, percentile};
use crate::support::{Result, Workspace};

/// Milliseconds to the first committed batch.
const STARTUP_BAR: f64 = 150.0;
/// Megabytes of memory for a file of any size.
const MEMORY_BAR: f64 = 300.0;
/// Rows that the small job reads.
const ROWS: u64 = 1_000;
/// Starts for each run of the other benchmarks: they are short.
const STARTS: usize = 4;
/// What the first line of progress holds.
const PROGRESS: &str = "\"batchId\"";

/// Measures the start, then the memory.
pub fn run(settings: &Settings, workspace: &Workspace, report: &Report) -> Result<()> {
    report.show(&start(settings, workspace)?);
    report.show(&memory(settings, workspace)?);
    Ok(())
}

/// A job that reads `in/` and writes `out/`, as a script.
fn write_script(directory: &Path, format: Format) -> Result<()> {
    let script = format!(
        "CREATE UNBOUNDED EXTERNAL TABLE bids (
             auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, date_time TIMESTAMP
         ) STORED AS {} LOCATION 'in/' {};
         CREATE EXTERNAL TABLE dear STORED AS PARQUET LOCATION 'out/';
         CREATE STREAMING QUERY etl TRIGGER AVAILABLE NOW CHECKPOINT LOCATION 'checkpoint'
         AS INSERT INTO dear
         SELECT auction, bidder, CAST(price AS DOUBLE) / 100 AS amount, channel, url, date_time
         FROM bids WHERE price >= 5100;",
        format.name().to_uppercase(),
        if format == Format::Csv { "OPTIONS ('header' 'true')" } else { "" },
    );
    Ok(std::fs::write(directory.join("job.sql"), script)?)
}

/// Runs the job from nothing.
fn run_job(directory: &Path) -> Result<ProcessRun> {
    for left in ["out", "checkpoint"] {
        let path = directory.join(left);
        if path.exists() {
            std::fs::remove_dir_all(path)?;
        }
    }
    process::run(&["run", "job.sql", "--progress", "json"], directory, PROGRESS)
}

fn start(settings: &Settings, workspace: &Workspace) -> Result<Table> {
    let directory = workspace.empty("startup")?;
    std::fs::create_dir(directory.join("in"))?;
    data::write_files(&directory.join("in"), Format::Json, ROWS, 1)?;
    write_script(&directory, Format::Json)?;
    let starts = settings.runs * STARTS;
    let (mut version, mut first, mut whole, mut memory) = (vec![], vec![], vec![], 0.0_f64);
    for _ in 0..starts {
        version.push(millis(process::run(&["--version"], &directory, PROGRESS)?.whole));
        let job = run_job(&directory)?;
        first.push(millis(job.until_line.ok_or("no progress was reported")?));
        whole.push(millis(job.whole));
        memory = memory.max(job.peak_rss as f64 / 1e6);
    }
    let mut table = Table::new(
        "startup",
        format!("the release binary, {starts} starts, a job over {ROWS} rows, bar {STARTUP_BAR} ms"),
        &["p50", "p99", "bar"],
    );
    let quantiles = |values: &[f64]| [number(median(values), 1), number(percentile(values, 99.0), 1)];
    table.row("tidemill --version: start to end, ms", quantiles(&version));
    let judged = [verdict(median(&first), STARTUP_BAR)];
    table
        .row("tidemill run: start to first committed batch, ms", quantiles(&first).into_iter().chain(judged));
    table.row("tidemill run: start to end, ms", quantiles(&whole));
    table.row("peak resident memory, MB", [number(memory, 1)]);
    let size = std::fs::metadata(TIDEMILL)?.len() as f64 / 1e6;
    table.row("size of the binary, MB", [number(size, 1)]);
    workspace.remove("startup")?;
    Ok(table)
}

fn memory(settings: &Settings, workspace: &Workspace) -> Result<Table> {
    let mut table = Table::new(
        "startup",
        format!("one file of {} MB to Parquet, bar {MEMORY_BAR} MB", settings.megabytes),
        &["peak MB", "seconds", "rows/s", "bar"],
    );
    for format in [Format::Json, Format::Csv] {
        let directory = workspace.empty("startup")?;
        std::fs::create_dir(directory.join("in"))?;
        let file = directory.join("in").join(format!("bids.{}", format.name()));
        let (rows, _) = data::write_large_file(&file, format, settings.megabytes * 1_000_000)?;
        write_script(&directory, format)?;
        let job = run_job(&directory)?;
        let (peak, seconds) = (job.peak_rss as f64 / 1e6, job.whole.as_secs_f64());
        let judged = verdict(peak, MEMORY_BAR);
        let cells = [number(peak, 0), number(seconds, 2), number(rows as f64 / seconds, 0), judged];
        table.row(format.name(), cells);
        workspace.remove("startup")?;
    }
    Ok(table)
}
