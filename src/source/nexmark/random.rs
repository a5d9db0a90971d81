//! Numbers and texts by chance, the same whenever and wherever they are computed.

use std::sync::LazyLock;

/// A sequence of numbers that follows from a seed (SplitMix64).
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// The sequence of event `id` in the world of `seed`.
    pub(super) fn of(seed: u64, id: u64) -> Self {
        let mut seeds = Self(seed);
        Self(seeds.next() ^ id.wrapping_mul(0xA076_1D64_78BD_642F))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to, and not including, `end`; 0 if that is 0.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// One of `items`, which are not none.
    pub(super) fn one_of<'a>(&mut self, items: &[&'a str]) -> &'a str {
        items[self.below(items.len() as u64) as usize]
    }

    /// From 100 to 100,000,000, all orders of magnitude alike.
    pub(super) fn price(&mut self) -> i64 {
        let exponent = (self.next() >> 32) as u32;
        let powers = exponent.to_be_bytes().into_iter().zip(POWERS.iter());
        let price: f64 = powers.map(|(byte, powers)| powers[usize::from(byte)]).product();
        (price * 100.0).round() as i64
    }

    /// 3 to `longest` letters, one in 13 of which is `special`, less spaces at the ends.
    pub(super) fn text(&mut self, longest: u64, special: char) -> String {
        let length = 3 + self.below(longest - 3);
        let mut letter = || match self.below(13) {
            0 => special,
            _ => char::from(b'a' + self.below(26) as u8),
        };
        let text: String = (0..length).map(|_| letter()).collect();
        text.trim().to_string()
    }

    /// Where a text of `average` characters, or up to a fifth more or less, is in [`PADDING`].
    pub(super) fn padding(&mut self, average: u64) -> Padding {
        let around = (average + 2) / 5;
        let length = (average - around + self.below(2 * around)) as usize;
        Padding { start: self.below((PADDING.len() - length) as u64) as usize, length }
    }
}

/// A part of a long text that has been made before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Padding {
    start: usize,
    length: usize,
}

impl Padding {
    pub(super) fn text(self) -> &'static str {
        &PADDING[self.start..self.start + self.length]
    }
}

/// A million letters.
static PADDING: LazyLock<String> = LazyLock::new(|| {
    let mut random = Random(0);
    (0..1 << 20).map(|_| char::from(b'a' + random.below(26) as u8)).collect()
});

/// For each byte of a number of 32 bits, what it adds to the exponent of a price that has 6 decades. Made of
/// multiplications and roots, which are the same on all machines; powers are not.
static POWERS: LazyLock<[[f64; 256]; 4]> = LazyLock::new(|| {
    let mut base = 1e6_f64;
    std::array::from_fn(|_| {
        for _ in 0..8 {
            base = base.sqrt();
        }
        let mut power = 1.0;
        std::array::from_fn(|_| {
            let next = power * base;
            std::mem::replace(&mut power, next)
        })
    })
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_spread_over_six_orders_of_magnitude() {
        let mut random = Random::of(0, 0);
        let mut decades = [0_u32; 6];
        for _ in 0..60_000 {
            let price = random.price();
            assert!((100..=100_000_000).contains(&price), "{price}");
            decades[((price as f64 / 100.0).log10() as usize).min(5)] += 1;
        }
        assert!(decades.iter().all(|count| (9_500..10_500).contains(count)), "{decades:?}");
    }

    #[test]
    fn texts_have_the_lengths_they_are_to_have() {
        let mut random = Random::of(1, 1);
        for _ in 0..1_000 {
            assert!(random.text(20, ' ').len() < 20);
            let padding = random.padding(100).text();
            assert!((80..120).contains(&padding.len()), "{padding}");
        }
        assert_eq!(random.padding(0).text(), "");
    }
}
