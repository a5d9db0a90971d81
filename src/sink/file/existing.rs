//! What a query does that finds output of another one where it is to write.

use std::sync::Arc;

use datafusion::execution::runtime_env::RuntimeEnv;
use futures::StreamExt;
use url::Url;
use uuid::Uuid;

use super::names;
use crate::error::{Error, Result};
use crate::options::Options;

/// How many files of the output are looked at.
const LOOK_AT: usize = 1000;

/// The option `existingOutput`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum ExistingOutput {
    /// Says so, and writes.
    #[default]
    Warn,
    /// Writes.
    Allow,
    /// Does not start.
    Refuse,
}

impl ExistingOutput {
    const OPTION: &str = "existingOutput";

    /// Takes the option out of `options`.
    pub(super) fn take(options: &mut Options) -> Result<Self> {
        match options.take(Self::OPTION) {
            None => Ok(Self::default()),
            Some(text) => match text.to_ascii_lowercase().as_str() {
                "warn" => Ok(ExistingOutput::Warn),
                "allow" => Ok(ExistingOutput::Allow),
                "refuse" => Ok(ExistingOutput::Refuse),
                _ => Err(Error::option(Self::OPTION, text, "expected warn, allow or refuse")),
            },
        }
    }

    /// Looks for files of other queries in `output`, before the query `query_id` writes there first.
    pub(super) async fn check(self, output: &Url, query_id: Uuid, runtime: &Arc<RuntimeEnv>) -> Result<()> {
        if self == ExistingOutput::Allow {
            return Ok(());
        }
        let Some(example) = other_output(output, query_id, runtime).await else { return Ok(()) };
        let found = format!(
            "'{output}' holds output of another query, or of this one with a checkpoint that is gone, e.g. \
             '{example}': the same input would be there twice"
        );
        if self == ExistingOutput::Refuse {
            return Err(Error::Invalid(format!(
                "{found}. Write to another directory, or set {} to allow",
                Self::OPTION
            )));
        }
        tracing::warn!(
            "{found}. If that is as it should be, set the option {} of the sink to allow",
            Self::OPTION
        );
        Ok(())
    }
}

/// A file in `output` that another query has published. What cannot be listed is told by what writes there.
async fn other_output(output: &Url, query_id: Uuid, runtime: &Arc<RuntimeEnv>) -> Option<String> {
    let store = runtime.object_store_registry.get_store(output).ok()?;
    let prefix = object_store::path::Path::from_url_path(output.path()).ok()?;
    let mut files = store.list(Some(&prefix)).take(LOOK_AT);
    while let Some(file) = files.next().await {
        let Ok(file) = file else { return None };
        if file.location.filename().is_some_and(|name| names::is_of_another_query(name, query_id)) {
            return Some(file.location.filename()?.to_string());
        }
    }
    None
}
