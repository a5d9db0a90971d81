//! The rows of a key that have subkeys: a chain of records whose ends meet, in the order in which they came.

use super::recent::At;
use super::{GROUP, MemoryTable, Name};
use crate::error::Result;
use crate::state::arena::{Links, Record};
use crate::state::bytes::RowBytes;
use crate::state::hash::{hash_key, hash_row};
use crate::state::index::Place;
use crate::state::table::VisitKeys;

/// On the way from one row of a key to the next.
struct Walk {
    /// The position of the key.
    key: usize,
    first: Place,
    at: Place,
}

impl MemoryTable {
    /// The first row with a subkey of a key.
    fn first_of(&self, key: &[u8], hash: u64) -> Option<Place> {
        self.index.find(self.index.probe(hash), |place| {
            self.arena.links(place).is_some_and(|links| links.is_first) && self.arena.get(place).key == key
        })
    }

    /// Links a new record to those of its key: the hash by which the index is to have it.
    pub(super) fn link(&mut self, name: Name<'_>, place: Place) -> u64 {
        let Some(first) = self.first_of(name.key, name.hash) else {
            self.arena.link(place, Links { before: place, after: place, is_first: true });
            return name.hash;
        };
        let last = self.arena.links(first).map_or(first, |links| links.before);
        self.arena.link(place, Links { before: last, after: first, is_first: false });
        self.join(last, place);
        self.join(place, first);
        hash_row(name.hash, name.subkey)
    }

    /// Makes `after` follow `before`.
    fn join(&mut self, before: Place, after: Place) {
        if let Some(links) = self.arena.links(before) {
            self.arena.link(before, Links { after, ..links });
        }
        if let Some(links) = self.arena.links(after) {
            self.arena.link(after, Links { before, ..links });
        }
    }

    /// Links others to a record where it is now.
    pub(super) fn relink(&mut self, old: Place, new: Place) {
        let Some(Links { before, after, .. }) = self.arena.links(new) else { return };
        if after == old {
            self.join(new, new);
        } else {
            self.join(before, new);
            self.join(new, after);
        }
    }

    /// Takes a record out of the chain that it may be in.
    pub(super) fn unlink(&mut self, place: Place) {
        let Some(Links { before, after, is_first }) = self.arena.links(place) else { return };
        if after == place {
            return;
        }
        self.join(before, after);
        if is_first {
            self.begin_with(after);
        }
    }

    /// Lets the chain of a record begin with it.
    fn begin_with(&mut self, place: Place) {
        let by_name = self.slot(place);
        if let Some(links) = self.arena.links(place) {
            self.arena.link(place, Links { is_first: true, ..links });
        }
        self.index.remove(self.index.probe(by_name), place);
        self.index.insert(self.index.probe(self.slot(place)), place);
    }

    pub(super) fn visit_keys(&self, keys: &dyn RowBytes, visit: &mut VisitKeys<'_>) -> Result<()> {
        let mut start = 0;
        while start < keys.len() {
            let end = (start + GROUP).min(keys.len());
            let names: Vec<Name<'_>> = (start..end)
                .map(|row| Name { key: keys.row(row), subkey: &[], hash: hash_key(keys.row(row)) })
                .collect();
            self.prepare(&names);
            let mut rows = self.chains_of(&names);
            // The rows of a key have come one after the other, but in between those of others.
            rows.sort_by_key(|(key, _)| *key);
            let recent = self.recent.of_keys(&names);
            for (key, name) in names.iter().enumerate() {
                if let Some(place) = self.place_of(*name) {
                    let record = self.arena.get(place);
                    visit(start + key, &[], record.value, record.expiry())?;
                }
                let from = rows.partition_point(|(of, _)| *of < key);
                let to = rows.partition_point(|(of, _)| *of <= key);
                let recent = &recent[recent.partition_point(|(of, _)| *of < key)..];
                let recent = &recent[..recent.partition_point(|(of, _)| *of <= key)];
                if recent.is_empty() {
                    self.visit_chain(start + key, &mut rows[from..to], visit)?;
                } else {
                    self.visit_all(start + key, &rows[from..to], recent, visit)?;
                }
            }
            start = end;
        }
        Ok(())
    }

    /// Where the rows with subkeys are, and of which of the keys they are. All chains are walked along at the same
    /// time: memory answers several questions as fast as one.
    fn chains_of(&self, names: &[Name<'_>]) -> Vec<(usize, Place)> {
        let first = |(key, name): (usize, &Name<'_>)| {
            self.first_of(name.key, name.hash).map(|first| Walk { key, first, at: first })
        };
        let mut walks: Vec<Walk> = names.iter().enumerate().filter_map(first).collect();
        let mut rows = Vec::new();
        while !walks.is_empty() {
            walks.retain_mut(|walk| {
                rows.push((walk.key, walk.at));
                walk.at = self.arena.links(walk.at).map_or(walk.first, |links| links.after);
                walk.at != walk.first
            });
        }
        rows
    }

    /// Shows the rows of one key by subkey, which they mostly came in the order of.
    fn visit_chain(&self, key: usize, rows: &mut [(usize, Place)], visit: &mut VisitKeys<'_>) -> Result<()> {
        let subkey = |place: Place| self.arena.get(place).subkey;
        if !rows.is_sorted_by(|(_, one), (_, other)| subkey(*one) < subkey(*other)) {
            rows.sort_unstable_by(|(_, one), (_, other)| subkey(*one).cmp(subkey(*other)));
        }
        for (_, place) in rows {
            let record = self.arena.get(*place);
            visit(key, record.subkey, record.value, record.expiry())?;
        }
        Ok(())
    }

    /// The same, with rows of the key that are recent, which mostly came after the others.
    fn visit_all(
        &self,
        key: usize,
        rows: &[(usize, Place)],
        recent: &[(usize, At)],
        visit: &mut VisitKeys<'_>,
    ) -> Result<()> {
        let rows = rows.iter().map(|(_, place)| self.arena.get(*place));
        let mut all: Vec<Record<'_>> =
            rows.chain(recent.iter().map(|(_, at)| self.recent.record(*at))).collect();
        if !all.is_sorted_by(|one, other| one.subkey < other.subkey) {
            all.sort_unstable_by(|one, other| one.subkey.cmp(other.subkey));
        }
        for record in all {
            visit(key, record.subkey, record.value, record.expiry())?;
        }
        Ok(())
    }
}
