//! A hash index from keys to the places of their records.
//!
//! Open addressing over slots of 8 bytes: 24 bits of the hash, and the record's place. The 24 bits
//! say where the slot belongs, too, so that growing and removing look at no record.
//!
//! A table grows by a quarter, which is cheap because slots are in the order of their tags in tables of any
//! size, and leaves little of it empty.
//!
//! The index is divided into parts that hold unequal shares of the keys, so that they grow one after
//! the other: no batch pays for all of them.

/// Where a record is: below `1 << 40`.
pub(super) type Place = u64;

pub(super) const PLACE_BITS: u32 = 40;
const PLACE_MASK: u64 = (1 << PLACE_BITS) - 1;
const TAG_BITS: u32 = 24;
const EMPTY: u64 = u64::MAX;

const PARTS: usize = 64;
/// How many different values of a hash's low bits are dealt out to the parts.
const SHARES: usize = 4096;
const INITIAL_SLOTS: usize = 16;

/// Which part a key belongs to, by the low bits of its hash: the last part has twice as many as the
/// first.
fn shares() -> Vec<u8> {
    let weight = |part: usize| (part as f64 / PARTS as f64).exp2();
    let total: f64 = (0..PARTS).map(weight).sum();
    let mut shares = Vec::with_capacity(SHARES);
    let mut end = 0.0;
    for part in 0..PARTS {
        end += weight(part) / total * SHARES as f64;
        shares.resize((end.round() as usize).min(SHARES), part as u8);
    }
    shares.resize(SHARES, (PARTS - 1) as u8);
    shares
}

#[derive(Debug)]
pub(super) struct Index {
    shares: Vec<u8>,
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
struct Part {
    /// By the tags that belong there, about.
    slots: Vec<u64>,
    used: usize,
}

/// Where a key's slot begins to be looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probe {
    part: u8,
    tag: u32,
}

impl Index {
    pub(super) fn new() -> Self {
        let part = Part { slots: vec![EMPTY; INITIAL_SLOTS], used: 0 };
        Self { shares: shares(), parts: vec![part; PARTS] }
    }

    pub(super) fn probe(&self, hash: u64) -> Probe {
        let part = self.shares[hash as usize % SHARES];
        let tag = (hash >> 12) as u32 & ((1 << TAG_BITS) - 1);
        Probe { part, tag }
    }

    /// The first place to look at, if its tag is the right one. The record there is most likely the
    /// one that is looked for; whoever has many to look for can ask for all of them at the same time.
    pub(super) fn guess(&self, probe: Probe) -> Option<Place> {
        let part = &self.parts[usize::from(probe.part)];
        let slot = part.slots[part.home(probe.tag)];
        (slot != EMPTY && tag_of(slot) == probe.tag).then_some(slot & PLACE_MASK)
    }

    /// The first slot that is looked at, to have it in the processor's cache.
    pub(super) fn touch(&self, probe: Probe) -> u64 {
        let part = &self.parts[usize::from(probe.part)];
        part.slots[part.home(probe.tag)]
    }

    /// The place for which `is_it` holds.
    pub(super) fn find(&self, probe: Probe, mut is_it: impl FnMut(Place) -> bool) -> Option<Place> {
        let part = &self.parts[usize::from(probe.part)];
        part.find(probe.tag, &mut is_it).map(|at| part.slots[at] & PLACE_MASK)
    }

    /// Adds a place that is not there yet.
    pub(super) fn insert(&mut self, probe: Probe, place: Place) {
        let part = &mut self.parts[usize::from(probe.part)];
        if (part.used + 1) * 5 > part.slots.len() * 4 {
            part.grow();
        }
        part.insert(u64::from(probe.tag) << PLACE_BITS | place);
        part.used += 1;
    }

    /// Puts `new` in the place of `old`, which is there.
    pub(super) fn replace(&mut self, probe: Probe, old: Place, new: Place) {
        let part = &mut self.parts[usize::from(probe.part)];
        if let Some(at) = part.find(probe.tag, &mut |place| place == old) {
            part.slots[at] = u64::from(probe.tag) << PLACE_BITS | new;
        }
    }

    /// Removes a place.
    pub(super) fn remove(&mut self, probe: Probe, place: Place) {
        let part = &mut self.parts[usize::from(probe.part)];
        if let Some(at) = part.find(probe.tag, &mut |found| found == place) {
            part.remove(at);
        }
    }

    /// How many bytes of memory it takes.
    pub(super) fn memory(&self) -> usize {
        self.parts.iter().map(|part| part.slots.len() * 8).sum::<usize>() + SHARES
    }
}

fn tag_of(slot: u64) -> u32 {
    (slot >> PLACE_BITS) as u32
}

impl Part {
    /// Where the slot of a tag is, if nothing else is there.
    fn home(&self, tag: u32) -> usize {
        ((u64::from(tag) * self.slots.len() as u64) >> TAG_BITS) as usize
    }

    /// The slot behind this one.
    fn next(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() { 0 } else { at + 1 }
    }

    /// How many slots behind `from` this one is.
    fn distance(&self, at: usize, from: usize) -> usize {
        if at >= from { at - from } else { at + self.slots.len() - from }
    }

    fn find(&self, tag: u32, is_it: &mut impl FnMut(Place) -> bool) -> Option<usize> {
        let mut at = self.home(tag);
        loop {
            let slot = self.slots[at];
            if slot == EMPTY {
                return None;
            }
            if tag_of(slot) == tag && is_it(slot & PLACE_MASK) {
                return Some(at);
            }
            at = self.next(at);
        }
    }

    fn insert(&mut self, slot: u64) {
        let mut at = self.home(tag_of(slot));
        while self.slots[at] != EMPTY {
            at = self.next(at);
        }
        self.slots[at] = slot;
    }

    fn grow(&mut self) {
        let larger = vec![EMPTY; self.slots.len() / 4 * 5];
        let slots = std::mem::replace(&mut self.slots, larger);
        slots.into_iter().filter(|slot| *slot != EMPTY).for_each(|slot| self.insert(slot));
    }

    /// Closes the gap, so that no search ends too early.
    fn remove(&mut self, mut at: usize) {
        let mut next = at;
        loop {
            next = self.next(next);
            let slot = self.slots[next];
            if slot == EMPTY {
                break;
            }
            let home = self.home(tag_of(slot));
            // It may move back if its home is not after the gap.
            if self.distance(next, home) >= self.distance(next, at) {
                self.slots[at] = slot;
                at = next;
            }
        }
        self.slots[at] = EMPTY;
        self.used -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_have_unequal_shares() {
        let shares = shares();
        let size = |part: u8| shares.iter().filter(|share| **share == part).count();
        assert_eq!(shares.len(), SHARES);
        assert!((40..50).contains(&size(0)) && (85..95).contains(&size(63)), "{} {}", size(0), size(63));
    }

    proptest! {
        /// Few different tags, so that there are many collisions.
        #[test]
        fn it_is_a_set_of_places(calls in prop::collection::vec((any::<bool>(), 0u64..200), 1..400)) {
            let mut index = Index::new();
            let mut places = BTreeSet::new();
            let hash = |place: u64| (place % 7) << 12 | (place % 3) << 15;
            for (insert, place) in calls {
                let probe = index.probe(hash(place));
                let known = index.find(probe, |found| found == place);
                prop_assert_eq!(known.is_some(), places.contains(&place));
                if insert && known.is_none() {
                    index.insert(probe, place);
                    places.insert(place);
                } else if !insert {
                    index.remove(probe, place);
                    places.remove(&place);
                }
            }
            for place in 0..200 {
                let found = index.find(index.probe(hash(place)), |found| found == place);
                prop_assert_eq!(found.is_some(), places.contains(&place));
            }
        }
    }
}
