//! `tidemill check`

use datafusion::execution::runtime_env::RuntimeEnv;
use std::sync::Arc;
use tidemill::checkpoint::verify;
use tidemill::storage::{DefaultStorageProvider, Durability, StorageProvider, resolve_location};

use super::ProgressMode;
use super::exit::Exit;
use super::monitor::Monitor;
use super::output::print;

/// Verifies the checkpoint and prints the report.
pub(super) async fn run(checkpoint: &str) -> Result<(), Exit> {
    let url = resolve_location(checkpoint)?;
    let storages = DefaultStorageProvider::new(Arc::new(RuntimeEnv::default()));
    let storage = storages.open(&url, Durability::Process)?;
    let report = verify(storage.as_ref()).await?;
    print(&format!("{checkpoint}: {report}\n"), &Monitor::new(ProgressMode::None))
        .map_err(|error| Exit::output(&error))?;
    let is_good = report.files > 0 && report.findings.is_empty();
    if is_good { Ok(()) } else { Err(Exit::failed_silently()) }
}
