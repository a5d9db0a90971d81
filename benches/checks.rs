//! What the checks of values cost: the same work with and without them, and as plain DataFusion does it.

use std::path::Path;

use datafusion::prelude::SessionContext;
use tidemill::prelude::*;

use crate::Settings;
use crate::etl::{SQL, copy};
use crate::support::data::{self, Format};
use crate::support::report::{Report, Table, number, verdict};
use crate::support::statistics::median;
use crate::support::stream::Job;
use crate::support::{Result, Workspace};

/// The time with checks may be at most this much of that without.
const BAR: f64 = 1.03;

/// Integers and decimals, each of which could overflow.
const ARITHMETIC: &str = "SELECT auction * 7 + bidder AS a, price * 100 - auction AS b, \
                          CAST(price AS DECIMAL(18, 2)) * 1.19 AS gross, url FROM bids WHERE price % 2 = 0";

/// One way to do the work.
#[derive(Debug, Clone, Copy)]
enum Way {
    Checked,
    Unchecked,
    DataFusion,
}

/// Measures all formats.
pub async fn run(settings: &Settings, workspace: &Workspace, report: &Report) -> Result<()> {
    let title = format!("checks of values, one batch, medians of {} runs, bar {BAR}", settings.runs);
    let columns = ["seconds", "unchecked s", "ratio", "bar", "DataFusion s", "ratio"];
    let mut table = Table::new("checks", title, &columns);
    for (format, rows) in [
        (Format::Json, settings.text_rows),
        (Format::Csv, settings.text_rows),
        (Format::Parquet, settings.parquet_rows),
    ] {
        let input = workspace.empty(&format!("checks-{}", format.name()))?;
        data::write_files(&input, format, rows, settings.input_files)?;
        for (name, sql) in [("casts", SQL), ("arithmetic", ARITHMETIC)] {
            let [checked, unchecked, plain] = measure(settings, workspace, format, &input, sql).await?;
            let (ratio, beside) = (checked / unchecked, checked / plain);
            let cells = [
                number(checked, 3),
                number(unchecked, 3),
                number(ratio, 3),
                verdict(ratio, BAR),
                number(plain, 3),
                number(beside, 3),
            ];
            table.row(format!("{}: {name}", format.name()), cells);
        }
    }
    report.show(&table);
    Ok(())
}

/// The median seconds of each way. They take turns, so that they see the same machine; the first round warms up.
async fn measure(
    settings: &Settings,
    workspace: &Workspace,
    format: Format,
    input: &Path,
    sql: &str,
) -> Result<[f64; 3]> {
    let mut seconds = [Way::Checked, Way::Unchecked, Way::DataFusion].map(|way| (way, Vec::new()));
    for round in 0..=settings.runs {
        for (way, seconds) in &mut seconds {
            let work = workspace.empty("checks-work")?;
            let took = way.run(format, input, &work, sql).await?;
            if round > 0 {
                seconds.push(took);
            }
        }
    }
    workspace.remove("checks-work")?;
    Ok(seconds.map(|(_, seconds)| median(&seconds)))
}

impl Way {
    async fn run(self, format: Format, input: &Path, work: &Path, sql: &str) -> Result<f64> {
        let (output, checkpoint) = (work.join("output"), work.join("checkpoint"));
        let took = match self {
            Way::DataFusion => {
                let context = SessionContext::new();
                context.sql("SET datafusion.sql_parser.parse_float_as_decimal = true").await?;
                copy(&context, format, input, &output, sql).await?
            }
            Way::Checked | Way::Unchecked => {
                let session = Session::new();
                if let Way::Unchecked = self {
                    session.context().sql("SET tidemill.ansi_mode = false").await?;
                }
                let job = Job {
                    format,
                    input,
                    files_per_trigger: None,
                    sql,
                    sink: "parquet",
                    output: &output,
                    checkpoint: &checkpoint,
                    durability: "process",
                    trigger: Trigger::AvailableNow,
                };
                job.run(&session).await?
            }
        };
        Ok(took.as_secs_f64())
    }
}
