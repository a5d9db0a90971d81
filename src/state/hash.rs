//! The hash that spreads keys over partitions and finds them in tables.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;

/// The hash of a key. The same in every process of one build; never stored.
///
/// That of the empty key is 0. Operators without a key (an aggregation over everything, a limit) have
/// their one row under it, and work in the first partition, where a restart must find it.
pub fn hash_key(key: &[u8]) -> u64 {
    if key.is_empty() {
        return 0;
    }
    let mut hasher = FixedState::with_seed(0x7469_6465).build_hasher();
    hasher.write(key);
    hasher.finish()
}

/// The partition, of `partitions`, that a key with this hash belongs to. Uses the high bits, so that
/// tables can use the low ones.
pub fn partition_of(hash: u64, partitions: usize) -> usize {
    let high = hash >> 32;
    usize::try_from((high * partitions as u64) >> 32).unwrap_or(0)
}
