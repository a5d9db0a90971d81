//! `tidemill state`

use tidemill::Session;

use super::ProgressMode;
use super::exit::Exit;
use super::monitor::Monitor;
use super::output::{PrintError, print, print_rows, print_table};

/// Prints what the query of a checkpoint remembered after `batch`, or after the last one: of
/// `operator` its rows, or of all how many there are.
pub(super) async fn run(checkpoint: &str, operator: Option<usize>, batch: Option<u64>) -> Result<(), Exit> {
    let session = Session::new();
    let monitor = Monitor::new(ProgressMode::None);
    let state = session.stored_state(checkpoint, batch).await?;
    let Some(operator) = operator else {
        print_table(&[state.operators()?], &monitor).map_err(exit)?;
        let (batch, files, bytes) = (state.batch_id(), state.files(), state.bytes());
        return print(&format!("after batch {batch}: {files} files, {bytes} bytes\n"), &monitor)
            .map_err(|error| Exit::output(&error));
    };
    let rows = session.context().read_table(state.table(operator)?).map_err(tidemill::Error::from)?;
    print_rows(rows, &monitor).await.map(|_| ()).map_err(exit)
}

fn exit(error: PrintError) -> Exit {
    match error {
        PrintError::Query(error) => error.into(),
        PrintError::Output(error) => Exit::output(&error),
    }
}
