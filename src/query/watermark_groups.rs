//! The parts of a stream that hold its watermark back, such as partitions of a topic.

use std::collections::BTreeMap;

use crate::checkpoint::records::GroupTime;

/// Those that are read, or are to be read: a part that is read to its end and has had no rows for a while has none to
/// wait for, and is forgotten until it has some again.
#[derive(Debug, Default)]
pub(super) struct Groups {
    held: BTreeMap<String, Group>,
}

#[derive(Debug)]
struct Group {
    /// The largest event time; `None` before the first row.
    newest_ms: Option<i64>,
    /// When there was last a row, or some were known to be unread.
    active_ms: i64,
    /// Whether there are rows that no batch has had yet.
    is_behind: bool,
}

impl Groups {
    /// Goes on from what the checkpoint says, at the time `now_ms`.
    pub(super) fn resume(recorded: &BTreeMap<String, GroupTime>, now_ms: i64) -> Self {
        let group = |known: &GroupTime| Group {
            newest_ms: known.newest_ms,
            active_ms: now_ms.saturating_sub(known.idle_ms),
            is_behind: known.behind,
        };
        Self { held: recorded.iter().map(|(name, known)| (name.clone(), group(known))).collect() }
    }

    /// What a later run has to know.
    pub(super) fn record(&self, now_ms: i64) -> BTreeMap<String, GroupTime> {
        let record = |group: &Group| GroupTime {
            newest_ms: group.newest_ms,
            idle_ms: now_ms.saturating_sub(group.active_ms),
            behind: group.is_behind,
        };
        self.held.iter().map(|(name, group)| (name.clone(), record(group))).collect()
    }

    /// Takes in which of them have rows that no batch has had yet.
    pub(super) fn note_behind(&mut self, behind: &[String], now_ms: i64) {
        for group in self.held.values_mut().filter(|group| group.is_behind) {
            (group.is_behind, group.active_ms) = (false, now_ms);
        }
        for name in behind {
            let group = self.group(name, now_ms);
            (group.is_behind, group.active_ms) = (true, now_ms);
        }
    }

    /// Takes in the newest event times of a batch.
    pub(super) fn advance(&mut self, seen_ms: &BTreeMap<String, i64>, now_ms: i64) {
        for (name, newest_ms) in seen_ms {
            let group = self.group(name, now_ms);
            group.newest_ms = group.newest_ms.max(Some(*newest_ms));
            group.active_ms = now_ms;
        }
    }

    fn group(&mut self, name: &str, now_ms: i64) -> &mut Group {
        let new = || Group { newest_ms: None, active_ms: now_ms, is_behind: false };
        self.held.entry(name.to_string()).or_insert_with(new)
    }

    /// Forgets those that have had nothing for so long; whether there were any.
    pub(super) fn leave_idle_behind(&mut self, idle_after_ms: i64, now_ms: i64) -> bool {
        let before = self.held.len();
        self.held
            .retain(|_, group| group.is_behind || now_ms.saturating_sub(group.active_ms) < idle_after_ms);
        self.held.len() < before
    }

    /// The newest event time of the one that is furthest back, if any has to be waited for: `Some(None)` if that one
    /// has had no row.
    pub(super) fn furthest_back(&self) -> Option<Option<i64>> {
        self.held.values().map(|group| group.newest_ms).min()
    }

    /// In how long the next one is forgotten, if it gets no row.
    pub(super) fn until_idle_ms(&self, idle_after_ms: i64, now_ms: i64) -> Option<i64> {
        let waited_for = self.held.values().filter(|group| !group.is_behind);
        waited_for.map(|group| idle_after_ms.saturating_sub(now_ms.saturating_sub(group.active_ms))).min()
    }
}
