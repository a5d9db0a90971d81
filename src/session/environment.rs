//! What the engine takes from outside: time, ids and storage.

use std::sync::Arc;

use crate::clock::{Clock, SystemClock};
use crate::id::{IdGenerator, RandomIds};
use crate::storage::StorageProvider;

/// Time, ids and storage of a session. The default is the machine's; tests put their own here.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Batch times and triggers.
    pub clock: Arc<dyn Clock>,
    /// Query ids and run ids.
    pub ids: Arc<dyn IdGenerator>,
    /// Where checkpoints and file sinks live; `None` is local disks and the object stores that the
    /// session knows.
    pub storages: Option<Arc<dyn StorageProvider>>,
}

impl Default for Environment {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock), ids: Arc::new(RandomIds), storages: None }
    }
}
