//! Which keys a run may have.

/// Bits of memory per key: one key in a hundred that is not there seems to be.
const BITS_PER_KEY: usize = 10;
/// Bits per key that are set, all in one line of the processor's cache.
const PROBES: u32 = 6;
const LINE: usize = 8;

/// A Bloom filter whose every question looks at one cache line only.
#[derive(Debug)]
pub(super) struct Bloom {
    lines: Vec<[u64; LINE]>,
}

impl Bloom {
    /// For up to `keys` keys.
    pub(super) fn new(keys: usize) -> Self {
        Self { lines: vec![[0; LINE]; (keys * BITS_PER_KEY).div_ceil(LINE * 64).max(1)] }
    }

    fn line_of(&self, hash: u64) -> usize {
        // The high bits say in which partition a key is: within one they are all alike.
        let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        ((mixed * self.lines.len() as u64) >> 32) as usize
    }

    fn bits(hash: u64) -> impl Iterator<Item = usize> {
        let mixed = (hash ^ hash >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (0..PROBES).map(move |probe| (mixed >> (10 + probe * 9)) as usize & (LINE * 64 - 1))
    }

    pub(super) fn add(&mut self, hash: u64) {
        let line = self.line_of(hash);
        for bit in Self::bits(hash) {
            self.lines[line][bit / 64] |= 1 << (bit % 64);
        }
    }

    pub(super) fn may_have(&self, hash: u64) -> bool {
        let line = &self.lines[self.line_of(hash)];
        Self::bits(hash).all(|bit| line[bit / 64] & 1 << (bit % 64) != 0)
    }

    pub(super) fn memory(&self) -> usize {
        self.lines.len() * LINE * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::hash_key;

    #[test]
    fn it_forgets_nothing_and_invents_little() {
        let mut bloom = Bloom::new(100_000);
        let hash = |key: u32| hash_key(&key.to_be_bytes());
        (0..100_000).for_each(|key| bloom.add(hash(key)));
        assert!((0..100_000).all(|key| bloom.may_have(hash(key))));
        let invented = (100_000..200_000).filter(|key| bloom.may_have(hash(*key))).count();
        assert!(invented < 3_000, "{invented} of 100,000");
    }
}
