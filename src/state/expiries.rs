//! Which rows expire when.

use std::collections::BTreeMap;

use super::arena::Stamp;
use super::table::NEVER;

/// How long a bucket is, in microseconds: ends of windows have buckets of their own, and the rows
/// of the one bucket that is looked through in vain are those of a second.
const BUCKET: i64 = 1_000_000;

/// So many places may be stale in any case.
const STALE_FROM: usize = 1 << 12;

/// The places of rows by expiry, in buckets. A place may be there although its row is gone or expires at another
/// time by now: whoever takes places out has a look at the rows.
#[derive(Debug, Default)]
pub(super) struct Expiries {
    buckets: BTreeMap<i64, Vec<Stamp>>,
    places: usize,
    /// How many there is room for.
    room: usize,
    last: Option<i64>,
}

impl Expiries {
    /// Whether rows with these two expiries are in the same bucket.
    pub(super) fn same(one: i64, other: i64) -> bool {
        one.div_euclid(BUCKET) == other.div_euclid(BUCKET)
    }

    pub(super) fn add(&mut self, expiry: i64, place: Stamp) {
        if expiry != NEVER {
            let bucket = self.buckets.entry(expiry.div_euclid(BUCKET)).or_default();
            let before = bucket.capacity();
            bucket.push(place);
            self.room += bucket.capacity() - before;
            self.places += 1;
        }
    }

    /// Whether it is worth gathering the places of `rows` rows anew: most of those here are of rows that are
    /// elsewhere by now.
    pub(super) fn are_stale(&self, rows: usize) -> bool {
        self.places > 2 * rows + STALE_FROM
    }

    /// Removes all places.
    pub(super) fn clear(&mut self) {
        self.buckets.clear();
        (self.places, self.room) = (0, 0);
    }

    /// Notes an expiry that a row has, or had.
    pub(super) fn note(&mut self, expiry: i64) {
        if expiry != NEVER {
            self.last = self.last.max(Some(expiry));
        }
    }

    /// Takes out the next bucket in which rows may expire by `upto`, with their places.
    pub(super) fn take(&mut self, upto: i64) -> Option<(i64, Vec<Stamp>)> {
        let entry = self.buckets.first_entry()?;
        if entry.key().saturating_mul(BUCKET) > upto {
            return None;
        }
        let (bucket, places) = entry.remove_entry();
        self.places -= places.len();
        self.room -= places.capacity();
        Some((bucket, places))
    }

    /// Puts places back that were taken out and have not expired.
    pub(super) fn put_back(&mut self, bucket: i64, places: Vec<Stamp>) {
        if !places.is_empty() {
            self.places += places.len();
            self.room += places.capacity();
            self.buckets.insert(bucket, places);
        }
    }

    /// The first expiry of a bucket.
    pub(super) fn start(bucket: i64) -> i64 {
        bucket.saturating_mul(BUCKET)
    }

    /// Whether every row of a bucket expires by `upto`.
    pub(super) fn is_past(bucket: i64, upto: i64) -> bool {
        bucket.saturating_add(1).saturating_mul(BUCKET) <= upto.saturating_add(1)
    }

    pub(super) fn first(&self) -> Option<i64> {
        self.buckets.keys().next().map(|bucket| Self::start(*bucket))
    }

    /// The buckets in their order: when each begins, and the places in it.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (i64, &[Stamp])> {
        self.buckets.iter().map(|(bucket, places)| (Self::start(*bucket), places.as_slice()))
    }

    pub(super) fn last(&self) -> Option<i64> {
        self.last
    }

    pub(super) fn memory(&self) -> usize {
        self.room * size_of::<Stamp>() + self.buckets.len() * size_of::<(i64, Vec<Stamp>)>()
    }
}
