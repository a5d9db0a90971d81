//! `tidemill check`

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use tidemill::Session;
use tidemill::checkpoint::{Report, verify};
use tidemill::storage::resolve_location;

use super::ProgressMode;
use super::exit::Exit;
use super::monitor::Monitor;
use super::output::{Format, PrintError, Printer};

/// Verifies the checkpoint and prints the report.
pub(super) async fn run(checkpoint: &str, format: Format) -> Result<(), Exit> {
    let storage = Session::new().open_storage(&resolve_location(checkpoint)?)?;
    let report = verify(storage.as_ref()).await?;
    let printer = Printer::new(Monitor::new(ProgressMode::None), format);
    match format {
        Format::Table => {
            printer.text(&format!("{checkpoint}: {report}\n")).map_err(|error| Exit::output(&error))?;
        }
        _ => {
            printer.batches(&[rows(checkpoint, &report)?])?;
        }
    }
    let is_good = report.files > 0 && report.findings.is_empty();
    if is_good { Ok(()) } else { Err(Exit::failed_silently()) }
}

/// A row per problem; if there is none one without a problem.
fn rows(checkpoint: &str, report: &Report) -> Result<RecordBatch, PrintError> {
    let rows = report.findings.len().max(1);
    let of_all = |number: u64| -> ArrayRef { Arc::new(UInt64Array::from_value(number, rows)) };
    let text = |of: fn(&tidemill::checkpoint::Finding) -> &str| -> ArrayRef {
        Arc::new((0..rows).map(|row| report.findings.get(row).map(of)).collect::<StringArray>())
    };
    let columns: [(&str, ArrayRef); 6] = [
        ("checkpoint", Arc::new(StringArray::from(vec![checkpoint; rows]))),
        ("files", of_all(report.files)),
        ("batches", of_all(report.batches)),
        ("problems", of_all(report.findings.len() as u64)),
        ("path", text(|finding| &finding.path)),
        ("problem", text(|finding| &finding.problem)),
    ];
    Ok(RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))?)
}
