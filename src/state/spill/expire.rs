//! Taking rows out by expiry, and finding all rows of a key.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cover::Cover;
use super::row::{Mark, RowStream, is_expired};
use super::run::Chunk;
use super::table::{LiveRun, SpillTable};
use crate::error::Result;
use crate::state::bytes::{ByteRows, RowBytes};
use crate::state::hash_key;
use crate::state::table::{Found, NEVER, StateTable, Visit, VisitKeys};

/// How many expired rows are looked at together.
const GROUP: usize = 1024;

/// A value and its expiry.
type Kept = (Vec<u8>, i64);

/// Rows that were taken out of a run.
#[derive(Default)]
struct Expired {
    keys: ByteRows,
    subkeys: ByteRows,
    values: ByteRows,
    expiries: Vec<i64>,
}

impl LiveRun {
    /// Reads on in a chunk, up to `GROUP` rows that expire by `upto`.
    fn read(&mut self, chunk: usize, upto: i64) -> Result<Expired> {
        let mut expired = Expired::default();
        let Chunk { start, end, .. } = self.chunks[chunk];
        let mut stream = RowStream::new(start, end);
        while stream.advance(&self.run.file.file)? {
            let Some(row) = stream.row() else { break };
            if row.expiry > upto || expired.expiries.len() == GROUP {
                self.chunks[chunk] = Chunk { start: stream.position(), end, next: row.expiry };
                return Ok(expired);
            }
            expired.keys.push(row.key);
            expired.subkeys.push(row.subkey);
            expired.values.push(row.value);
            expired.expiries.push(row.expiry);
        }
        self.chunks[chunk] = Chunk { start: end, end, next: NEVER };
        Ok(expired)
    }

    /// Forgets what expired by `expired`.
    pub(super) fn skip(&mut self, expired: Option<i64>) -> Result<()> {
        let Some(upto) = expired else { return Ok(()) };
        for chunk in 0..self.chunks.len() {
            while self.chunks[chunk].next <= upto && self.chunks[chunk].start < self.chunks[chunk].end {
                self.read(chunk, upto)?;
            }
        }
        self.chunks.retain(|chunk| chunk.start < chunk.end);
        Ok(())
    }
}

impl SpillTable {
    /// Removes what expires by `upto`. Those in runs first: rows in memory that cover them still say so.
    pub(super) fn take_expired(&mut self, upto: i64, visit: &mut Visit<'_>) -> Result<()> {
        self.expired = self.expired.max(Some(upto));
        self.looked.clear();
        for run in 0..self.runs.len() {
            for chunk in 0..self.runs[run].chunks.len() {
                while {
                    let chunk = self.runs[run].chunks[chunk];
                    chunk.next <= upto && chunk.start < chunk.end
                } {
                    let expired = self.runs[run].read(chunk, upto)?;
                    self.visit_newest(run, &expired, visit)?;
                }
            }
            self.runs[run].chunks.retain(|chunk| chunk.start < chunk.end);
        }
        self.expire_in_memory(upto, visit)?;
        self.drop_dead_runs();
        Ok(())
    }

    /// Shows those of the rows, which are of a run, that no newer row replaces.
    fn visit_newest(&mut self, run: usize, expired: &Expired, visit: &mut Visit<'_>) -> Result<()> {
        let Expired { keys, subkeys, values, expiries } = expired;
        let mut is_newest = vec![true; keys.len()];
        let mut found = Found::default();
        self.memory.get(keys, Some(subkeys), &mut found)?;
        found.positions.iter().for_each(|position| is_newest[*position] = false);
        let open: Vec<usize> = (0..keys.len()).filter(|row| is_newest[*row]).collect();
        self.look_up(run, keys, Some(subkeys), open.into_iter(), &mut |row, _| is_newest[row] = false)?;
        for row in (0..keys.len()).filter(|row| is_newest[*row]) {
            visit(keys.row(row), subkeys.row(row), values.row(row), Some(expiries[row]))?;
            self.rows -= 1;
        }
        Ok(())
    }

    fn expire_in_memory(&mut self, upto: i64, visit: &mut Visit<'_>) -> Result<()> {
        let mut hidden = (ByteRows::default(), ByteRows::default());
        let (mut rows, is_raw) = (self.rows, self.is_raw);
        self.memory.expire(upto, &mut |key, subkey, value, expiry| {
            let (cover, value) = Cover::decode(value, is_raw);
            if cover == Cover::Outlived {
                hidden.0.push(key);
                hidden.1.push(subkey);
            }
            rows -= 1;
            visit(key, subkey, value, expiry)
        })?;
        self.rows = rows;
        if hidden.0.is_empty() { Ok(()) } else { self.hide(&hidden.0, &hidden.1) }
    }

    /// Gives back runs whose rows have all expired, unless they hide rows of older runs.
    fn drop_dead_runs(&mut self) {
        let expired = self.expired;
        let merging = self.merging.as_ref().map_or(&[][..], |merging| &merging.runs);
        self.runs.retain(|live| {
            let is_dead = is_expired(live.run.last_expiry, expired) && !live.run.hides;
            !is_dead || merging.iter().any(|run| Arc::ptr_eq(run, &live.run))
        });
    }

    /// Shows all rows of a key, which is at `position`, by subkey.
    pub(super) fn all_of(&mut self, position: usize, key: &[u8], visit: &mut VisitKeys<'_>) -> Result<()> {
        let only: ByteRows = [key].into_iter().collect();
        let is_raw = self.is_raw;
        if self.runs.is_empty() {
            return self.memory.get_all(&only, &mut |_, subkey, value, expiry| {
                let (cover, value) = Cover::decode(value, is_raw);
                if cover == Cover::Removed { Ok(()) } else { visit(position, subkey, value, expiry) }
            });
        }
        // The newest row of every subkey; none if that is gone.
        let mut newest: BTreeMap<Vec<u8>, Option<Kept>> = BTreeMap::new();
        self.memory.get_all(&only, &mut |_, subkey, value, expiry| {
            let (cover, value) = Cover::decode(value, is_raw);
            let row = (cover != Cover::Removed).then(|| (value.to_vec(), expiry.unwrap_or(NEVER)));
            newest.insert(subkey.to_vec(), row);
            Ok(())
        })?;
        let expired = self.expired;
        let hash = hash_key(key);
        for live in &self.runs {
            live.run.of_key(hash, key, &mut |row| {
                if !newest.contains_key(row.subkey) {
                    let is_gone = row.mark == Mark::Removed || is_expired(row.expiry, expired);
                    let kept = (!is_gone).then(|| (row.value.to_vec(), row.expiry));
                    newest.insert(row.subkey.to_vec(), kept);
                }
            })?;
        }
        for (subkey, row) in &newest {
            if let Some((value, expiry)) = row {
                visit(position, subkey, value, Some(*expiry).filter(|expiry| *expiry != NEVER))?;
            }
        }
        Ok(())
    }
}
