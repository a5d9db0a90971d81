//! Identifiers, injected, so that tests can predict every name a query writes.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

/// Where query ids and run ids come from. No two calls return the same id, in any process.
pub trait IdGenerator: Debug + Send + Sync {
    /// A new id.
    fn next_id(&self) -> Uuid;
}

/// Random version-4 UUIDs.
#[derive(Debug, Default, Clone, Copy)]
pub struct RandomIds;

impl IdGenerator for RandomIds {
    fn next_id(&self) -> Uuid {
        Uuid::new_v4()
    }
}

/// `00000000-0000-0000-0000-000000000001` and so on; unique only within one generator.
#[derive(Debug, Default)]
pub struct SequentialIds {
    last: AtomicU64,
}

impl IdGenerator for SequentialIds {
    fn next_id(&self) -> Uuid {
        Uuid::from_u128(u128::from(self.last.fetch_add(1, Ordering::SeqCst)) + 1)
    }
}
