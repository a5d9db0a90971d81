//! How the memory for state is shared among tables.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};

use crate::error::{Error, Result};

/// The share of each table in `limit` bytes, given what each takes now.
///
/// Each gets as much as the others, but one that takes less than half of that leaves the rest to
/// the others. Depends on nothing but its arguments, so that a batch that is run again moves the
/// same rows.
pub(super) fn shares(limit: usize, used: &[usize]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..used.len()).collect();
    order.sort_by_key(|table| used[*table]);
    let mut shares = vec![0; used.len()];
    let mut left = limit;
    for (index, table) in order.iter().enumerate() {
        let fair = left / (used.len() - index);
        // Room to grow until the next batch: twice of what it has, and never less than an eighth.
        shares[*table] = used[*table].saturating_mul(2).clamp(fair / 8, fair);
        left -= shares[*table];
    }
    // What nobody needs now goes to all.
    let rest = left / used.len().max(1);
    shares.iter_mut().for_each(|share| *share += rest);
    shares
}

/// The share of each table in `limit` bytes when tables are made for these numbers of rows: in proportion to
/// them, and never less than half of an equal share.
pub(super) fn in_proportion(limit: usize, rows: &[usize]) -> Vec<usize> {
    let all = rows.iter().sum::<usize>().max(1) as f64;
    let equal = limit / 2 / rows.len().max(1);
    rows.iter().map(|rows| equal + ((limit / 2) as f64 * (*rows as f64 / all)) as usize).collect()
}

/// The memory that the state of all queries of a session shares: each gets as much as it needs, as long as the others
/// do not need it.
#[derive(Debug, Default)]
pub struct SharedMemory {
    /// What the state of each query takes.
    used: Mutex<BTreeMap<u64, usize>>,
}

impl SharedMemory {
    /// A part of it, for the state of one more query.
    pub(super) fn join(self: &Arc<Self>) -> MemoryPart {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let number = used.last_key_value().map_or(0, |(last, _)| last + 1);
        used.insert(number, 0);
        MemoryPart { shared: Arc::clone(self), number }
    }
}

/// The part of one query.
#[derive(Debug)]
pub(super) struct MemoryPart {
    shared: Arc<SharedMemory>,
    number: u64,
}

impl MemoryPart {
    /// How much of `limit` bytes the query may take, whose state takes `bytes` now.
    pub(super) fn of(&self, limit: usize, bytes: usize) -> usize {
        let mut used = self.shared.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.insert(self.number, bytes);
        let all: Vec<usize> = used.values().copied().collect();
        let index = used.keys().position(|number| *number == self.number);
        index.and_then(|index| shares(limit, &all).get(index).copied()).unwrap_or(limit)
    }
}

impl Drop for MemoryPart {
    fn drop(&mut self) {
        self.shared.used.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

/// The state's part of the memory of a DataFusion session.
#[derive(Debug)]
pub(super) struct Account(MemoryReservation);

impl Account {
    pub(super) fn open(pool: &Arc<dyn MemoryPool>) -> Self {
        Self(MemoryConsumer::new("tidemill state").register(pool))
    }

    /// Accounts `bytes` instead of what was accounted before.
    pub(super) fn set(&mut self, bytes: usize) -> Result<()> {
        self.0.try_resize(bytes).map_err(|error| {
            Error::Invalid(format!(
                "the state of the query needs {bytes} bytes of memory, and the session has not so much left: set \
                 stateMemoryLimit, so that rows beyond it move to the local disk, or give the session more memory ({})",
                error.strip_backtrace()
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_made_for_the_rows_that_come() {
        assert_eq!(in_proportion(1000, &[]), [0; 0]);
        assert_eq!(in_proportion(1000, &[0, 0]), [250, 250]);
        assert_eq!(in_proportion(1000, &[900, 100]), [700, 300]);
        assert!(in_proportion(1 << 30, &[699, 1]).iter().sum::<usize>() <= 1 << 30);
    }

    #[test]
    fn queries_share_one_limit() {
        let shared = Arc::<SharedMemory>::default();
        let (one, other) = (shared.join(), shared.join());
        assert!(one.of(1000, 900) >= 900);
        let small = other.of(1000, 10);
        assert!(small < 200, "{small}");
        // Both want all of it.
        assert!(one.of(1000, 900) >= 900);
        // Both want all of it.
        assert_eq!([other.of(1000, 900), one.of(1000, 900)], [500, 500]);
        drop(other);
        assert_eq!(one.of(1000, 900), 1000);
    }

    #[test]
    fn small_tables_leave_memory_to_large_ones() {
        assert_eq!(shares(1000, &[]), [0; 0]);
        for used in [vec![0, 0, 900], vec![900, 10, 500, 20], vec![0; 7], vec![5000, 5000]] {
            let shares = shares(1000, &used);
            assert!(shares.iter().sum::<usize>() <= 1000, "{shares:?}");
            let fair = 1000 / used.len();
            for (share, used) in shares.iter().zip(&used) {
                assert!(*share >= (used * 2).min(fair) && *share >= fair / 8, "{shares:?}");
            }
        }
        let alone = shares(1000, &[0, 0, 900]);
        assert!(alone[2] >= 900, "{alone:?}");
    }
}
