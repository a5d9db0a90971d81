//! How much room there is for rows that wait for the next stage of their batch.

use std::fmt;
use std::sync::Arc;

use datafusion::execution::DiskManager;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnv;

use crate::memory;

/// Where the rows of a batch wait: in memory, which is accounted in the session's pool, and beyond that on the
/// local disk.
#[derive(Clone)]
pub(crate) struct Space {
    pool: Arc<dyn MemoryPool>,
    pub(super) disk: Arc<DiskManager>,
    /// How many bytes may wait in memory, all together.
    bytes: usize,
}

/// The exchange has a part of it, what operators gave has one, and late rows have one.
const USES: usize = 3;
/// What an operator takes to work on rows is so many times as much as these, about.
const WORK: usize = 8;

impl Space {
    /// What a session has.
    pub(crate) fn of(session: &RuntimeEnv) -> Self {
        let pool = Arc::clone(&session.memory_pool);
        Self { bytes: memory::for_rows(pool.as_ref()), pool, disk: Arc::clone(&session.disk_manager) }
    }

    /// The room of one of `many` that take as much each. What one has does not depend on what the others take:
    /// a batch that is run again moves the same rows, as far as the pool lets it.
    pub(crate) fn share(&self, many: usize) -> Room {
        let memory = MemoryConsumer::new("tidemill rows").with_can_spill(true).register(&self.pool);
        Room { limit: self.bytes / USES / many.max(1), memory }
    }

    /// How many bytes of rows may be worked on at once, when `many` do.
    pub(crate) fn for_work(&self, many: usize) -> usize {
        (self.bytes / WORK / many.max(1)).max(1)
    }

    /// Whether batches may be larger than one that took `bytes` of rows through an exchange.
    pub(crate) fn is_roomy_for(&self, bytes: u64) -> bool {
        bytes < (self.bytes / USES / 4) as u64
    }
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// Memory for rows that wait. What was taken is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    limit: usize,
    memory: MemoryReservation,
}

impl Room {
    /// Takes `bytes` more, if there are so many.
    pub(crate) fn take(&self, bytes: usize) -> bool {
        self.memory.size().saturating_add(bytes) <= self.limit && self.memory.try_grow(bytes).is_ok()
    }

    /// Gives all back.
    pub(crate) fn clear(&self) {
        self.memory.free();
    }
}
