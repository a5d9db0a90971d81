//! Rows into a table of PostgreSQL, beside `psql \copy` of the same rows as CSV.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use tidemill::StreamTable;
use tidemill::arrow::array::{Float64Array, Int64Array, RecordBatch, StringArray};
use tidemill::prelude::*;
use tidemill::source::memory::MemoryStream;

use crate::Settings;
use crate::support::report::{Report, Table, number, verdict};
use crate::support::statistics::median;
use crate::support::{Result, Workspace};

#[allow(dead_code)]
#[path = "../tests/services/postgres.rs"]
mod server;

/// How much longer than `\copy` it may take.
const BAR: f64 = 1.2;
const BATCH: i64 = 100_000;
const BATCHES: i64 = 50;
const TABLE: &str = "(id bigint, name text, value double precision)";

pub async fn run(settings: &Settings, workspace: &Workspace, report: &Report) -> Result<()> {
    let Some(server) = server::Server::start() else { return Ok(()) };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for run in 0..settings.runs {
        let table = format!("rows_{run}");
        server.psql(
            "postgres",
            &format!("CREATE TABLE {table} {TABLE}; CREATE TABLE {table}_copied {TABLE}"),
        )?;
        ours.push(write(&server.url("postgres"), &table, workspace).await?);
        theirs.push(copy(&server, &format!("{table}_copied"), workspace)?);
        let count = format!("SELECT count(*) FROM {table} NATURAL JOIN {table}_copied");
        if server.psql("postgres", &count)? != [(BATCH * BATCHES).to_string()] {
            return Err("the tables differ".into());
        }
    }
    let (ours, theirs) = (median(&ours), median(&theirs));
    let mut table = Table::new(
        "postgres",
        format!("{} rows in batches of {BATCH}", BATCH * BATCHES),
        &["seconds", "psql \\copy", "bar"],
    );
    table.row("postgres sink", [number(ours, 2), number(theirs, 2), verdict(ours / theirs, BAR)]);
    report.show(&table);
    Ok(())
}

fn rows(batch: i64) -> Result<RecordBatch> {
    let ids = batch * BATCH..(batch + 1) * BATCH;
    let names = StringArray::from_iter_values(ids.clone().map(|id| format!("name {id}")));
    let values = Float64Array::from_iter_values(ids.clone().map(|id| id as f64 / 8.0));
    Ok(RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from_iter_values(ids)) as _),
        ("name", Arc::new(names) as _),
        ("value", Arc::new(values) as _),
    ])?)
}

/// Seconds for the sink.
async fn write(url: &str, table: &str, workspace: &Workspace) -> Result<f64> {
    let directory = workspace.empty("postgres")?;
    let stream = MemoryStream::new(rows(0)?.schema());
    let session = Session::new();
    let frame = session.context().read_table(Arc::new(StreamTable::new(Arc::new(stream.clone()))))?;
    let query = frame
        .write_stream()
        .format("postgres")
        .option("url", url)
        .option("table", table)
        .option("checkpointLocation", directory.join("checkpoint").display())
        .start(None)
        .await?;
    let batches = (0..BATCHES).map(rows).collect::<Result<Vec<_>>>()?;
    let started = Instant::now();
    for batch in batches {
        stream.add_data(batch)?;
        query.process_all_available().await?;
    }
    let took = started.elapsed().as_secs_f64();
    query.stop(StopMode::Finish).await?;
    Ok(took)
}

/// Seconds for `psql`.
fn copy(server: &server::Server, table: &str, workspace: &Workspace) -> Result<f64> {
    let path = workspace.empty("postgres")?.join("rows.csv");
    let mut text = String::new();
    for id in 0..BATCH * BATCHES {
        writeln!(text, "{id},name {id},{}", id as f64 / 8.0)?;
    }
    std::fs::write(&path, text)?;
    let started = Instant::now();
    server.psql("postgres", &format!("\\copy {table} FROM '{}' CSV", path.display()))?;
    Ok(started.elapsed().as_secs_f64())
}
