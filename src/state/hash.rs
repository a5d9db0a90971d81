//! The hash that spreads keys over partitions and finds them in tables.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;

/// The hash of a key. The same in every process of one build; never stored. That of the empty key,
/// of operators without key columns, is 0: its partition is the first, however many there are.
pub fn hash_key(key: &[u8]) -> u64 {
    if key.is_empty() {
        return 0;
    }
    let mut hasher = FixedState::with_seed(0x7469_6465).build_hasher();
    hasher.write(key);
    hasher.finish()
}

/// The hash of a row, from that of its key.
pub(super) fn hash_row(hash: u64, subkey: &[u8]) -> u64 {
    if subkey.is_empty() { hash } else { hash ^ hash_key(subkey).rotate_left(17) }
}

/// The partition, of `partitions`, that a key with this hash belongs to. Uses the high bits, so that
/// tables can use the low ones.
pub fn partition_of(hash: u64, partitions: usize) -> usize {
    let high = hash >> 32;
    usize::try_from((high * partitions as u64) >> 32).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_spread_and_the_empty_one_is_in_the_first_partition() {
        let mut counts = [0; 7];
        for key in 0..7000u32 {
            counts[partition_of(hash_key(&key.to_be_bytes()), counts.len())] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        assert!((1..100).all(|partitions| partition_of(hash_key(b""), partitions) == 0));
    }
}
