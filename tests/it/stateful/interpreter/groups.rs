//! Groups by keys and by sessions.

use std::collections::BTreeSet;

use tidemill::OutputMode;

use super::super::model::{Final, Group, SECOND, Sessions};
use super::super::values::{Row, Value};
use super::expressions::{compute, eval};
use super::{Batch, Op, positions};

impl Op {
    pub(super) fn group(&mut self, group: &Group, rows: Vec<Row>, batch: &Batch) -> Vec<Row> {
        let names = self.names.clone();
        let complete = batch.mode == OutputMode::Complete;
        let later = self.later();
        let finality: Vec<Final> = group.keys.iter().map(|(key, _)| group.input.part(key, &names)).collect();
        let all: Vec<usize> = (0..group.keys.len()).collect();
        let sets = group.sets.clone().unwrap_or_else(|| vec![all]);
        let final_at = |key: &Row| {
            if complete {
                return None;
            }
            let at = finality.iter().zip(key).filter_map(|(finality, value)| finality.of(value)).min();
            at.map(|at| at + later)
        };
        let mut changed = BTreeSet::new();
        if group.keys.is_empty() {
            self.groups.entry((0, vec![])).or_default();
            changed.insert((0, vec![]));
        }
        for row in rows {
            let values: Row = group.keys.iter().map(|(key, _)| eval(key, &row, &names)).collect();
            if self.is_late(final_at(&values), batch) {
                continue;
            }
            for (index, set) in sets.iter().enumerate() {
                let mut key = values.clone();
                (0..key.len())
                    .filter(|column| !set.contains(column))
                    .for_each(|column| key[column] = Value::Null);
                self.groups.entry((index, key.clone())).or_default().push(row.clone());
                changed.insert((index, key));
            }
        }
        let is_final =
            |key: &(usize, Row)| matches!((final_at(&key.1), batch.now), (Some(at), Some(now)) if at <= now);
        let given = self.groups.iter().filter(|(key, _)| match batch.mode {
            OutputMode::Append => is_final(key),
            OutputMode::Update => changed.contains(key),
            OutputMode::Complete => true,
        });
        let holds = |rows: &[Row]| match &group.having {
            None => true,
            Some((agg, operator, limit)) => match (compute(agg, rows, &names).int(), *operator) {
                (Some(value), ">") => value > *limit,
                (Some(value), "<") => value < *limit,
                _ => false,
            },
        };
        let out = given.filter(|(_, rows)| holds(rows)).map(|((_, key), rows)| {
            let values = group.aggregates.iter().map(|(agg, _)| compute(agg, rows, &names));
            key.iter().cloned().chain(values).collect()
        });
        let out = out.collect();
        self.groups.retain(|key, _| !is_final(key));
        out
    }

    pub(super) fn group_by_session(
        &mut self,
        sessions: &Sessions,
        rows: Vec<Row>,
        batch: &Batch,
    ) -> Vec<Row> {
        let names = self.names.clone();
        let later = self.later();
        let time = positions(&["ts".to_string()], &names)[0];
        let is_timed = names[time].1 != Final::Never && batch.mode != OutputMode::Complete;
        let keys = positions(&sessions.keys, &names);
        for row in rows {
            let gap = match sessions.by_row {
                true => row[positions(&["v".to_string()], &names)[0]].int().map(|seconds| seconds * SECOND),
                false => Some(sessions.gap),
            };
            let (Some(start), Some(gap)) = (row[time].int(), gap.filter(|gap| *gap > 0)) else { continue };
            let (mut start, mut end) = (start, start + gap);
            if self.is_late(is_timed.then_some(end + later), batch) {
                continue;
            }
            let key: Row = keys.iter().map(|key| row[*key].clone()).collect();
            let mut all = vec![];
            // Every session of the key that it touches becomes one with it.
            let mut rest = vec![];
            for (other, times, rows) in std::mem::take(&mut self.sessions) {
                if other == key && times.0 <= end && start <= times.1 {
                    (start, end) = (start.min(times.0), end.max(times.1));
                    all.extend(rows);
                } else {
                    rest.push((other, times, rows));
                }
            }
            all.push(row);
            rest.push((key, (start, end), all));
            self.sessions = rest;
        }
        let is_final = |end: i64| is_timed && batch.now.is_some_and(|now| end + later <= now);
        let given = self
            .sessions
            .iter()
            .filter(|(_, (_, end), _)| batch.mode == OutputMode::Complete || is_final(*end));
        let out = given.map(|(key, (start, end), rows)| {
            let window = Value::List(vec![Value::Time(*start), Value::Time(*end)]);
            let values = sessions.aggregates.iter().map(|(agg, _)| compute(agg, rows, &names));
            std::iter::once(window).chain(key.iter().cloned()).chain(values).collect()
        });
        let out = out.collect();
        self.sessions.retain(|(_, (_, end), _)| !is_final(*end));
        out
    }
}
