//! Files to Parquet: filter, projection and casts, beside DataFusion's `COPY` of the same `SELECT`
//! over the same files, in the same process, with the same settings and writer properties.

use std::path::Path;
use std::time::{Duration, Instant};

use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::{CsvReadOptions, JsonReadOptions, ParquetReadOptions, SessionContext};
use tidemill::prelude::*;

use crate::Settings;
use crate::support::data::{self, Format};
use crate::support::report::{Cell, Report, Table, number, verdict};
use crate::support::statistics::median;
use crate::support::stream::{Job, text};
use crate::support::{Result, Workspace};

/// Tidemill's time may be at most this much of DataFusion's.
const BAR: f64 = 1.15;

/// Half of the bids pass the filter.
pub const SQL: &str = "SELECT auction, bidder, CAST(price AS DOUBLE) / 100 AS amount, upper(channel) AS channel, \
                   url, CAST(date_time AS DATE) AS day, date_time FROM bids WHERE price >= 5100";

/// What tells two outputs apart, in whatever order their rows are.
const DIGEST: &str = "SELECT count(*), sum(auction), sum(bidder), sum(CAST(amount * 100 AS BIGINT)), \
                      sum(length(channel)), max(url), min(day), max(date_time) FROM output";

/// One way to do the work.
#[derive(Debug, Clone, Copy)]
enum Contender {
    DataFusion,
    Tidemill { files_per_trigger: Option<u64>, durability: &'static str },
}

/// Measures all formats.
pub async fn run(settings: &Settings, workspace: &Workspace, report: &Report) -> Result<()> {
    let title = format!(
        "files to Parquet, {} files, medians of {} runs, bar {BAR} for one batch",
        settings.input_files, settings.runs
    );
    let mut table = Table::new("etl", title, &["seconds", "rows/s", "DataFusion s", "ratio", "bar"]);
    for (format, rows) in [
        (Format::Json, settings.text_rows),
        (Format::Csv, settings.text_rows),
        (Format::Parquet, settings.parquet_rows),
    ] {
        let input = workspace.empty(&format!("etl-{}", format.name()))?;
        let bytes = data::write_files(&input, format, rows, settings.input_files)?;
        eprintln!("{}: {rows} rows, {} MB", format.name(), bytes / 1_000_000);
        measure(settings, workspace, format, &input, rows, &mut table).await?;
    }
    report.show(&table);
    Ok(())
}

async fn measure(
    settings: &Settings,
    workspace: &Workspace,
    format: Format,
    input: &Path,
    rows: u64,
    table: &mut Table,
) -> Result<()> {
    let tidemill = |files_per_trigger, durability| Contender::Tidemill { files_per_trigger, durability };
    let quarter = settings.input_files.div_ceil(4);
    let contenders = [
        ("DataFusion COPY".to_string(), Contender::DataFusion),
        ("one batch".into(), tidemill(None, "process")),
        (format!("{quarter} files a trigger"), tidemill(Some(quarter), "process")),
        ("1 file a trigger".into(), tidemill(Some(1), "process")),
        ("one batch, with fsync".into(), tidemill(None, "disk")),
        ("1 file a trigger, with fsync".into(), tidemill(Some(1), "disk")),
    ];
    let mut seconds = vec![Vec::new(); contenders.len()];
    let mut expected = None;
    // The first round warms up and compares the results; in the others all take turns, so that
    // they see the same machine.
    for round in 0..=settings.runs {
        for ((name, contender), seconds) in contenders.iter().zip(&mut seconds) {
            let work = workspace.empty("etl-work")?;
            let took = contender.run(format, input, &work).await?;
            if round > 0 {
                seconds.push(took.as_secs_f64());
                continue;
            }
            let digest = digest(&work.join("output")).await?;
            if *expected.get_or_insert_with(|| digest.clone()) != digest {
                return Err(format!("{name} gave other rows than DataFusion:\n{digest}").into());
            }
        }
    }
    workspace.remove("etl-work")?;
    let batch = seconds.first().map_or(f64::NAN, |seconds| median(seconds));
    for (index, ((name, _), seconds)) in contenders.iter().zip(&seconds).enumerate() {
        let median = median(seconds);
        let ratio = median / batch;
        let judged = if index == 1 { verdict(ratio, BAR) } else { Cell::Empty };
        let cells =
            [number(median, 3), number(rows as f64 / median, 0), number(batch, 3), number(ratio, 3), judged];
        table.row(format!("{}: {name}", format.name()), cells);
    }
    Ok(())
}

impl Contender {
    /// From an empty session to the end of the query.
    async fn run(self, format: Format, input: &Path, work: &Path) -> Result<Duration> {
        let (output, checkpoint) = (work.join("output"), work.join("checkpoint"));
        let session = Session::new();
        match self {
            Contender::DataFusion => copy(session.context(), format, input, &output, SQL).await,
            Contender::Tidemill { files_per_trigger, durability } => {
                let job = Job {
                    format,
                    input,
                    files_per_trigger,
                    sql: SQL,
                    sink: "parquet",
                    output: &output,
                    checkpoint: &checkpoint,
                    durability,
                    trigger: Trigger::AvailableNow,
                };
                job.run(&session).await
            }
        }
    }
}

/// The same as one batch.
pub async fn copy(
    context: &SessionContext,
    format: Format,
    input: &Path,
    output: &Path,
    sql: &str,
) -> Result<Duration> {
    let started = Instant::now();
    let (input, schema) = (text(input)?, data::schema());
    match format {
        Format::Json => {
            context.register_json("bids", input, JsonReadOptions::default().schema(&schema)).await?;
        }
        Format::Csv => {
            context.register_csv("bids", input, CsvReadOptions::default().schema(&schema)).await?;
        }
        Format::Parquet => {
            context.register_parquet("bids", input, ParquetReadOptions::default().schema(&schema)).await?;
        }
    }
    let copy = format!("COPY ({sql}) TO '{}/' STORED AS PARQUET", text(output)?);
    context.sql(&copy).await?.collect().await?;
    Ok(started.elapsed())
}

async fn digest(output: &Path) -> Result<String> {
    let context = SessionContext::new();
    context.register_parquet("output", text(output)?, ParquetReadOptions::default()).await?;
    let rows = context.sql(DIGEST).await?.collect().await?;
    Ok(pretty_format_batches(&rows)?.to_string())
}
