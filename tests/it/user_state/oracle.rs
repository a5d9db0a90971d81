//! What `rig::Everything` does, in plain Rust: from all batches so far, without the engine.

use std::collections::{BTreeMap, BTreeSet};

use tidemill::processor::TimeMode;

use super::rig::{MAP_TTL_MS, Row, TIMER_MS, VALUE_TTL_MS};

const MICROS: i64 = 1000;

/// A batch: its rows and what time it is.
#[derive(Debug, Clone, Default)]
pub struct Fed {
    pub rows: Vec<Row>,
    pub now_ms: i64,
    /// Up to when rows are late, and up to when they are all there; microseconds.
    pub late: Option<i64>,
    pub watermark: Option<i64>,
}

/// A row that was given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Out {
    pub k: Option<i64>,
    pub what: String,
    pub a: i64,
    pub b: i64,
    pub c: i64,
}

#[derive(Debug, Default)]
struct Key {
    total: Option<i64>,
    list: Vec<i64>,
    map: BTreeMap<i64, (i64, i64)>,
    recent: Option<(i64, i64)>,
    timers: BTreeSet<i64>,
}

impl Key {
    fn sums(&self, now: i64) -> (i64, i64) {
        let list = self.list.iter().sum::<i64>() * 1000 + self.list.len() as i64;
        let map = self.map.iter().filter(|(_, (_, until))| *until > now);
        (list, map.map(|(key, (count, _))| (key + 1) * 100 * count).sum())
    }

    fn rows(&mut self, k: Option<i64>, rows: &[&Row], now: i64, mode: TimeMode) -> Out {
        let recent = self.recent.filter(|(_, until)| *until > now).map_or(-1, |(id, _)| id);
        for row in rows {
            self.total = Some(self.total.unwrap_or(0) + row.v);
            self.list.push(row.v);
            let third = row.v.rem_euclid(3);
            let known = self.map.get(&third).filter(|(_, until)| *until > now).map_or(0, |(count, _)| *count);
            self.map.insert(third, (known + 1, now + MAP_TTL_MS * MICROS));
            let from = match mode {
                TimeMode::None => None,
                TimeMode::ProcessingTime => Some(now),
                TimeMode::EventTime => row.ts,
            };
            if let Some(time) = from.map(|from| from + TIMER_MS * MICROS + row.v * 1_000_000) {
                if row.v % 5 == 0 {
                    self.timers.insert(time);
                }
                if row.v % 7 == 0 {
                    self.timers.remove(&time);
                }
            }
            if row.v % 11 == 0 {
                self.list.clear();
            }
            if row.v % 13 == 0 {
                self.map.remove(&third);
            }
            self.recent = Some((row.id, now + VALUE_TTL_MS * MICROS));
        }
        let (list, map) = self.sums(now);
        Out { k, what: "rows".into(), a: self.total.unwrap_or(0), b: list, c: recent * 100_000 + map }
    }

    fn timer(&mut self, k: Option<i64>, time: i64, now: i64) -> Out {
        self.list.retain(|v| v % 2 == 0);
        let (list, map) = self.sums(now);
        let total = self.total.unwrap_or(0);
        let out = Out { k, what: "timer".into(), a: time, b: list, c: total * 1_000 + map };
        if total % 2 != 0 && self.timers.len() < 3 {
            self.timers.insert(time + 10_000 * MICROS);
        }
        if total % 4 == 0 {
            self.total = None;
            self.list.clear();
            self.map.clear();
            self.recent = None;
        }
        out
    }
}

/// What each of the batches gives.
pub fn simulate(mode: TimeMode, batches: &[Fed]) -> Vec<Vec<Out>> {
    let mut keys: BTreeMap<Option<i64>, Key> = BTreeMap::new();
    let mut all = Vec::new();
    for batch in batches {
        let now = batch.now_ms * MICROS;
        let is_late = |row: &Row| {
            mode == TimeMode::EventTime && row.ts.is_some_and(|ts| batch.late.is_some_and(|late| ts <= late))
        };
        let mut by_key: BTreeMap<Option<i64>, Vec<&Row>> = BTreeMap::new();
        for row in batch.rows.iter().filter(|row| !is_late(row)) {
            by_key.entry(row.k).or_default().push(row);
        }
        let mut given = Vec::new();
        for (k, rows) in by_key {
            given.push(keys.entry(k).or_default().rows(k, &rows, now, mode));
        }
        let clock = match mode {
            TimeMode::None => None,
            TimeMode::ProcessingTime => Some(now),
            TimeMode::EventTime => batch.watermark,
        };
        for (k, key) in &mut keys {
            while let Some(time) = key.timers.first().copied().filter(|time| clock >= Some(*time)) {
                key.timers.remove(&time);
                given.push(key.timer(*k, time, now));
            }
        }
        all.push(given);
    }
    all
}
