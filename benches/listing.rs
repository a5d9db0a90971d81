//! Directories with very many files, and queries with very many batches: neither may make a trigger
//! dearer than the one listing of the directory that it cannot do without.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use tidemill::prelude::*;

use crate::Settings;
use crate::support::data::{self, Format};
use crate::support::report::{Cell, Report, Table, number};
use crate::support::statistics::{median, millis};
use crate::support::stream::{BatchEnd, Job, Watch, watched_session};
use crate::support::{Result, Workspace};

const SQL: &str = "SELECT auction, price FROM bids WHERE price >= 5100";
/// Files that arrive one after the other in the large directory.
const ARRIVALS: u64 = 20;
/// How long a batch may take to come.
const PATIENCE: Duration = Duration::from_secs(600);

/// Measures the large directory, then the long query.
pub async fn run(settings: &Settings, workspace: &Workspace, report: &Report) -> Result<()> {
    report.show(&large_directory(settings, workspace).await?);
    report.show(&long_query(settings, workspace).await?);
    Ok(())
}

fn job<'a>(input: &'a Path, checkpoint: &'a Path) -> Job<'a> {
    Job {
        format: Format::Json,
        input,
        files_per_trigger: None,
        sql: SQL,
        sink: "noop",
        output: checkpoint,
        checkpoint,
        durability: "process",
        trigger: Trigger::AtOnce,
    }
}

/// Puts one more file into `input`, whole at once.
fn arrive(workspace: &Workspace, input: &Path, file: u64) -> Result<()> {
    let staged = workspace.path("arriving.json");
    data::write_file(&staged, Format::Json, file, 1)?;
    Ok(std::fs::rename(staged, input.join(format!("new-{file:06}.json")))?)
}

async fn large_directory(settings: &Settings, workspace: &Workspace) -> Result<Table> {
    let input = workspace.empty("listing-input")?;
    let checkpoint = workspace.empty("listing-checkpoint")?;
    data::write_files(&input, Format::Json, settings.files, settings.files)?;
    let job = job(&input, &checkpoint);
    let mut table = Table::new(
        "listing",
        format!(
            "a directory of {} files of one row, {ARRIVALS} arrivals; written per arrival",
            settings.files
        ),
        &["ms", "objects written", "bytes written", "bytes merged"],
    );

    let (session, watch) = watched_session();
    let query = job.start(&session).await?;
    query.process_all_available().await?;
    let first = batch_after(&watch, 0).await?;
    table.row("first listing (latestOffset of the first batch)", [number(phase(&first, "latestOffset"), 0)]);
    table.row("first batch, reading every file", [number(phase(&first, "triggerExecution"), 0)]);

    let mut bare = Vec::new();
    let mut stored = Vec::new();
    let mut ends = vec![first];
    for arrival in 0..ARRIVALS {
        bare.push(list_with_std(&input)?);
        stored.push(list_with_object_store(&input).await?);
        arrive(workspace, &input, arrival)?;
        query.process_all_available().await?;
        ends.push(batch_after(&watch, ends.len()).await?);
    }
    query.stop(StopMode::Finish).await?;
    let arrivals = &ends[1..];
    let phases = |name: &str| median(&arrivals.iter().map(|end| phase(end, name)).collect::<Vec<_>>());
    table.row("one bare listing: read_dir and metadata", [number(median(&bare), 0)]);
    table.row("one bare listing: object_store", [number(median(&stored), 0)]);
    table.row("listing when one file has arrived (latestOffset)", [number(phases("latestOffset"), 0)]);
    let written = written(&ends[0], &ends[ends.len() - 1]).per(ARRIVALS as f64);
    let whole = [number(phases("triggerExecution"), 0)];
    table.row("whole trigger when one file has arrived", whole.into_iter().chain(written.cells()));

    arrive(workspace, &input, ARRIVALS)?;
    let (session, watch) = watched_session();
    let started = Instant::now();
    let query = job.start(&session).await?;
    table.row("restart: start() returns", [number(millis(started.elapsed()), 0)]);
    query.process_all_available().await?;
    let end = batch_after(&watch, 0).await?;
    query.stop(StopMode::Finish).await?;
    table.row("restart: first batch committed", [number(millis(end.at - started), 0)]);
    workspace.remove("listing-input")?;
    Ok(table)
}

/// The end of batch number `seen` of the session, waiting for it if need be.
async fn batch_after(watch: &Watch, seen: usize) -> Result<BatchEnd> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if let Some(end) = watch.ends().get(seen) {
            return Ok(end.clone());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Err(format!("batch {seen} did not end within {} s", PATIENCE.as_secs()).into())
}

fn phase(end: &BatchEnd, name: &str) -> f64 {
    end.progress.duration_ms.get(name).map_or(f64::NAN, |millis| *millis as f64)
}

/// What was written to the checkpoint.
#[derive(Debug, Default, Clone, Copy)]
struct Written {
    /// Files of all kinds.
    objects: f64,
    /// Bytes in those that batches write themselves.
    bytes: f64,
    /// Bytes in those that older entries are merged into, in the background.
    merged: f64,
}

impl Written {
    fn per(self, count: f64) -> Self {
        Self { objects: self.objects / count, bytes: self.bytes / count, merged: self.merged / count }
    }

    fn cells(self) -> [Cell; 3] {
        [number(self.objects, 2), number(self.bytes, 0), number(self.merged, 0)]
    }
}

/// What was written between two ends.
fn written(from: &BatchEnd, to: &BatchEnd) -> Written {
    let mut written = Written::default();
    for (kind, after) in &to.usage {
        let before = from.usage.get(kind).copied().unwrap_or_default();
        let bytes = (after.bytes - before.bytes) as f64;
        written.objects += (after.objects - before.objects) as f64;
        if kind == "history" {
            written.merged += bytes;
        } else {
            written.bytes += bytes;
        }
    }
    written
}

fn list_with_std(directory: &Path) -> Result<f64> {
    let started = Instant::now();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        files.push((entry.file_name(), metadata.len(), metadata.modified()?));
    }
    let took = millis(started.elapsed());
    drop(files);
    Ok(took)
}

async fn list_with_object_store(directory: &Path) -> Result<f64> {
    let started = Instant::now();
    let store = LocalFileSystem::new_with_prefix(directory)?;
    let files: Vec<_> = store.list(None).try_collect().await?;
    let took = millis(started.elapsed());
    drop(files);
    Ok(took)
}

async fn long_query(settings: &Settings, workspace: &Workspace) -> Result<Table> {
    /// Batches that are compared at both ends.
    const SPAN: usize = 100;
    let input = workspace.empty("listing-input")?;
    data::write_files(&input, Format::Json, settings.batches, settings.batches)?;
    let mut table = Table::new(
        "listing",
        format!(
            "{} batches of one file and one row, {} runs; figures per trigger",
            settings.batches, settings.runs
        ),
        &["p50 ms a trigger", "objects written", "bytes written", "bytes merged"],
    );
    let (mut first, mut last) = (Vec::new(), Vec::new());
    let (mut first_written, mut last_written) = (Written::default(), Written::default());
    let mut restarts = Vec::new();
    for _ in 0..settings.runs {
        let checkpoint = workspace.empty("listing-checkpoint")?;
        let job =
            Job { files_per_trigger: Some(1), trigger: Trigger::AvailableNow, ..job(&input, &checkpoint) };
        let (session, watch) = watched_session();
        job.run(&session).await?;
        let ends = watch.ends();
        if ends.len() < 2 * SPAN + 1 {
            return Err(format!("growth shows only over more than {} batches", 2 * SPAN).into());
        }
        let walls = |ends: &[BatchEnd]| -> Vec<f64> {
            ends.windows(2).map(|ends| millis(ends[1].at - ends[0].at)).collect()
        };
        let (head, tail) = (&ends[..=SPAN], &ends[ends.len() - SPAN - 1..]);
        first.extend(walls(head));
        last.extend(walls(tail));
        first_written = written(&head[0], &head[SPAN]).per(SPAN as f64);
        last_written = written(&tail[0], &tail[SPAN]).per(SPAN as f64);
        restarts.push(millis(restart(&job).await?));
    }
    for (name, walls, written) in [("first", &first, first_written), ("last", &last, last_written)] {
        let cells = [number(median(walls), 3)].into_iter().chain(written.cells());
        table.row(format!("{name} {SPAN} batches"), cells);
    }
    table.row("last / first", [number(median(&last) / median(&first), 3)]);
    table.row("restart: start() returns", [number(median(&restarts), 1)]);
    workspace.remove("listing-input")?;
    workspace.remove("listing-checkpoint")?;
    Ok(table)
}

/// How long a start on an old checkpoint takes.
async fn restart(job: &Job<'_>) -> Result<Duration> {
    let (session, _) = watched_session();
    let started = Instant::now();
    let query = job.start(&session).await?;
    let took = started.elapsed();
    query.await_termination().await?;
    Ok(took)
}
