//! From a row's arrival to its effect, and what a query costs that waits.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidemill::arrow::array::{AsArray, Int64Array, RecordBatch};
use tidemill::arrow::datatypes::{Int64Type, SchemaRef};
use tidemill::prelude::*;
use tidemill::source::memory::MemoryStream;
use tidemill::{DataStreamWriter, StreamTable};

use crate::Settings;
use crate::support::report::{Cell, Report, Table, number, verdict};
use crate::support::statistics::{median, millis, percentile};
use crate::support::{Result, Workspace};

/// Milliseconds for half of the rows from memory to a function…
const MEMORY_BAR: f64 = 1.0;
/// …and of the files to Parquet.
const FILE_BAR: f64 = 5.0;
/// The part of a core, in percent, that a waiting query may take.
const IDLE_BAR: f64 = 0.1;
/// One row each.
const PACE: Duration = Duration::from_millis(1);
/// How long a waiting query is watched.
const IDLE: Duration = Duration::from_secs(20);

pub async fn run(settings: &Settings, workspace: &Workspace, report: &Report) -> Result<()> {
    let mut table = Table::new(
        "latency",
        format!("{} rows, 1,000 a second; half as many files, 100 a second", settings.triggers * 10),
        &["p50 ms", "p99 ms", "bar"],
    );
    for durability in ["process", "disk"] {
        let took = memory(settings.triggers * 10, workspace, durability).await?;
        let judged = if durability == "process" { verdict(median(&took), MEMORY_BAR) } else { Cell::Empty };
        let cells = [number(median(&took), 2), number(percentile(&took, 99.0), 2), judged];
        table.row(format!("memory to foreach_batch, durability={durability}"), cells);
        let took = files(settings.triggers / 2, workspace, durability).await?;
        let judged = if durability == "process" { verdict(median(&took), FILE_BAR) } else { Cell::Empty };
        let cells = [number(median(&took), 2), number(percentile(&took, 99.0), 2), judged];
        table.row(format!("file renamed in to Parquet, durability={durability}"), cells);
    }
    report.show(&table);
    let mut table = Table::new("latency", "a query that waits for files", &["% of a core", "bar"]);
    let percent = idle(workspace).await?;
    table.row(format!("watched for {} s", IDLE.as_secs()), [number(percent, 4), verdict(percent, IDLE_BAR)]);
    report.show(&table);
    Ok(())
}

fn row(id: i64) -> Result<RecordBatch> {
    Ok(RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(vec![id])) as _)])?)
}

fn stored(writer: DataStreamWriter, directory: &Path, durability: &str) -> DataStreamWriter {
    let checkpoint = directory.join("checkpoint").display().to_string();
    writer.option("checkpointLocation", checkpoint).option("durability", durability)
}

/// Milliseconds from adding each row to the call of the function that has it.
async fn memory(rows: u64, workspace: &Workspace, durability: &str) -> Result<Vec<f64>> {
    let directory = workspace.empty("latency")?;
    let schema: SchemaRef = row(0)?.schema();
    let stream = MemoryStream::new(schema);
    let session = Session::new();
    let frame = session.context().read_table(Arc::new(StreamTable::new(Arc::new(stream.clone()))))?;
    let seen: Arc<Mutex<Vec<(i64, Instant)>>> = Arc::default();
    let see = Arc::clone(&seen);
    let writer = frame.write_stream().foreach_batch(move |rows, _| {
        let see = Arc::clone(&see);
        async move {
            let rows = rows.collect().await?;
            let now = Instant::now();
            let ids =
                rows.iter().flat_map(|rows| rows.column(0).as_primitive::<Int64Type>().values().to_vec());
            see.lock().expect("nothing panics here").extend(ids.map(|id| (id, now)));
            Ok(())
        }
    });
    let query = stored(writer, &directory, durability).start(None).await?;
    let mut added = Vec::new();
    let mut pace = tokio::time::interval(PACE);
    for id in 0..i64::try_from(rows)? {
        pace.tick().await;
        added.push(Instant::now());
        stream.add_data(row(id)?)?;
    }
    query.process_all_available().await?;
    query.stop(StopMode::Finish).await?;
    let seen = seen.lock().expect("nothing panics here");
    let took = seen.iter().map(|(id, at)| millis(*at - added[usize::try_from(*id).unwrap_or(0)]));
    Ok(took.collect())
}

/// Milliseconds from the rename of each file into the input to its rows' in the output.
async fn files(files: u64, workspace: &Workspace, durability: &str) -> Result<Vec<f64>> {
    let directory = workspace.empty("latency")?;
    for name in ["in", "out"] {
        std::fs::create_dir(directory.join(name))?;
    }
    let session = Session::new();
    let query = watch(&session, &directory, durability).await?;
    let shown = || -> Result<u64> {
        let names = std::fs::read_dir(directory.join("out"))?.flatten().map(|entry| entry.file_name());
        Ok(names.filter(|name| name.to_string_lossy().ends_with(".parquet")).count() as u64)
    };
    let mut took = Vec::new();
    for file in 0..files {
        tokio::time::sleep(PACE * 10).await;
        let hidden = directory.join("in/.staged");
        std::fs::write(&hidden, format!("{{\"id\":{file}}}\n"))?;
        let started = Instant::now();
        std::fs::rename(&hidden, directory.join(format!("in/{file}.json")))?;
        while shown()? <= file {
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        took.push(millis(started.elapsed()));
    }
    query.stop(StopMode::Finish).await?;
    Ok(took)
}

async fn watch(session: &Session, directory: &Path, durability: &str) -> Result<StreamingQuery> {
    let path = |name: &str| directory.join(name).display().to_string();
    let schema = row(0)?.schema();
    let frame = session.read_stream().format("json").schema(schema).load(path("in")).await?;
    Ok(stored(frame.write_stream().format("parquet"), directory, durability).start(path("out")).await?)
}

/// The part of a core, in percent, that this process takes while its query waits.
async fn idle(workspace: &Workspace) -> Result<f64> {
    let directory = workspace.empty("latency")?;
    std::fs::create_dir(directory.join("in"))?;
    let session = Session::new();
    let query = watch(&session, &directory, "process").await?;
    query.process_all_available().await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (before, started) = (processor_times()?, Instant::now());
    tokio::time::sleep(IDLE).await;
    let since = |(thread, nanos): (String, u64)| nanos - before.get(&thread).copied().unwrap_or(0).min(nanos);
    let nanos: u64 = processor_times()?.into_iter().map(since).sum();
    let percent = Duration::from_nanos(nanos).as_secs_f64() / started.elapsed().as_secs_f64() * 100.0;
    query.stop(StopMode::Finish).await?;
    Ok(percent)
}

/// For how many nanoseconds each thread of this process has run. Some end while others are looked at.
fn processor_times() -> Result<BTreeMap<String, u64>> {
    let mut times = BTreeMap::new();
    for thread in std::fs::read_dir("/proc/self/task")? {
        let thread = thread?;
        let found = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        let nanos = found.split_whitespace().next().and_then(|time| time.parse().ok()).unwrap_or(0);
        times.insert(thread.file_name().to_string_lossy().into_owned(), nanos);
    }
    Ok(times)
}
