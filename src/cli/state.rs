//! `tidemill state`

use tidemill::Session;

use super::ProgressMode;
use super::exit::Exit;
use super::monitor::Monitor;
use super::output::{Format, Printer};

/// Prints what the query of a checkpoint remembered after `batch`, or after the last one: of
/// `operator` its rows, or of all how many there are.
pub(super) async fn run(
    checkpoint: &str,
    operator: Option<usize>,
    batch: Option<u64>,
    format: Format,
) -> Result<(), Exit> {
    let session = Session::new();
    let printer = Printer::new(Monitor::new(ProgressMode::None), format);
    let state = session.stored_state(checkpoint, batch).await?;
    if let Some(operator) = operator {
        let rows = session.context().read_table(state.table(operator)?).map_err(tidemill::Error::from)?;
        printer.rows(rows).await?;
        return Ok(());
    }
    printer.batches(&[state.operators()?])?;
    if format != Format::Table {
        return Ok(());
    }
    let (batch, files, bytes) = (state.batch_id(), state.files(), state.bytes());
    let total = format!("after batch {batch}: {files} files, {bytes} bytes\n");
    printer.text(&total).map_err(|error| Exit::output(&error))
}
