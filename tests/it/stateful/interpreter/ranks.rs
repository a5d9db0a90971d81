//! Ranks and window functions.

use std::collections::BTreeMap;

use tidemill::OutputMode;

use super::super::model::{Frame, Over, Top, WindowFunction};
use super::super::values::{Row, Value};
use super::expressions::compute;
use super::{Batch, Op, positions};

impl Op {
    /// The ranks of rows, in their order.
    pub(super) fn ranks(&self, top: &Top, rows: &[Row]) -> Vec<(i64, Row)> {
        let columns: Vec<(usize, bool)> = top
            .order
            .iter()
            .map(|(name, descending)| (positions(std::slice::from_ref(name), &self.names)[0], *descending))
            .collect();
        let compare = |a: &Row, b: &Row| {
            let by = columns.iter().map(|(column, descending)| {
                match (a[*column].is_null(), b[*column].is_null()) {
                    (true, true) => std::cmp::Ordering::Equal,
                    (true, false) => std::cmp::Ordering::Greater,
                    (false, true) => std::cmp::Ordering::Less,
                    _ if *descending => b[*column].cmp(&a[*column]),
                    _ => a[*column].cmp(&b[*column]),
                }
            });
            by.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
        };
        let mut sorted = rows.to_vec();
        sorted.sort_by(compare);
        let mut ranks: Vec<(i64, Row)> = Vec::new();
        for (index, row) in sorted.into_iter().enumerate() {
            let rank = match ranks.last() {
                None => 1,
                Some((last, before)) if top.function != "row_number" && compare(before, &row).is_eq() => {
                    *last
                }
                Some((last, _)) if top.function == "dense_rank" => last + 1,
                Some(_) => index as i64 + 1,
            };
            ranks.push((rank, row));
        }
        ranks.retain(|(rank, _)| *rank <= top.limit);
        ranks
    }

    pub(super) fn top(&mut self, top: &Top, rows: Vec<Row>, batch: &Batch) -> Vec<Row> {
        let (names, later) = (self.names.clone(), self.later());
        let keys = positions(&top.keys, &names);
        let complete = batch.mode == OutputMode::Complete;
        let final_at = |key: &Row| {
            let values = keys.iter().zip(key).filter_map(|(column, value)| names[*column].1.of(value));
            values.min().filter(|_| !complete).map(|at| at + later)
        };
        let mut before: BTreeMap<Row, Vec<(i64, Row)>> = BTreeMap::new();
        for row in rows {
            let key: Row = keys.iter().map(|column| row[*column].clone()).collect();
            if self.is_late(final_at(&key), batch) {
                continue;
            }
            let known = self.groups.get(&(0, key.clone())).cloned().unwrap_or_default();
            before.entry(key.clone()).or_insert_with(|| self.ranks(top, &known));
            self.groups.entry((0, key)).or_default().push(row);
        }
        let is_final =
            |key: &(usize, Row)| matches!((final_at(&key.1), batch.now), (Some(at), Some(now)) if at <= now);
        let mut out = Vec::new();
        for (key, rows) in &self.groups {
            for (rank, row) in self.ranks(top, rows) {
                let gives = match batch.mode {
                    OutputMode::Complete => true,
                    OutputMode::Append => is_final(key),
                    OutputMode::Update => {
                        before.get(&key.1).is_some_and(|known| !known.contains(&(rank, row.clone())))
                    }
                };
                if gives {
                    out.push(row.into_iter().chain([Value::Int(rank)]).collect());
                }
            }
        }
        self.groups.retain(|key, _| !is_final(key));
        out
    }

    /// When the place of a row is final.
    fn place_final(&self, over: &Over, row: &Row) -> Option<i64> {
        let (time, _) = over.time(true);
        let column = positions(&[time], &self.names)[0];
        self.names[column].1.of(&row[column]).map(|at| at + self.later())
    }

    /// How rows compare by the order of window functions.
    fn compare(&self, over: &Over, a: &Row, b: &Row) -> std::cmp::Ordering {
        let columns = positions(&over.order, &self.names).into_iter();
        let by = columns.map(|column| match (a[column].is_null(), b[column].is_null()) {
            (true, true) => std::cmp::Ordering::Equal,
            (true, false) => std::cmp::Ordering::Greater,
            (false, true) => std::cmp::Ordering::Less,
            _ => a[column].cmp(&b[column]),
        });
        by.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
    }

    pub(super) fn over(&mut self, over: &Over, rows: Vec<Row>, batch: &Batch) -> Vec<Row> {
        let keys = positions(&over.keys, &self.names);
        let [_, rows_after, _, micros_after] = over.reach();
        let is_whole = over.time(true).1;
        for row in rows {
            if self.is_late(self.place_final(over, &row), batch) {
                continue;
            }
            let key: Row = keys.iter().map(|key| row[*key].clone()).collect();
            self.over.entry(key).or_default().push((row, false));
        }
        let mut all = std::mem::take(&mut self.over);
        let mut out = Vec::new();
        for rows in all.values_mut() {
            rows.sort_by(|(a, _), (b, _)| self.compare(over, a, b));
            let is_known = |row: &Row| {
                let after = if is_whole { 0 } else { micros_after };
                let at = self.place_final(over, row).map(|at| at + after);
                matches!((at, batch.now), (Some(at), Some(now)) if at <= now)
            };
            let known = match batch.mode {
                // All rows are there at once.
                OutputMode::Complete => rows.len(),
                _ => rows.iter().take_while(|(row, _)| is_known(row)).count(),
            };
            let waits = !is_whole && batch.mode != OutputMode::Complete;
            let mut end = known.saturating_sub(if waits { rows_after as usize } else { 0 });
            while end > 0 && end < known && self.compare(over, &rows[end - 1].0, &rows[end].0).is_eq() {
                end -= 1;
            }
            let sorted: Vec<Row> = rows.iter().map(|(row, _)| row.clone()).collect();
            for index in 0..end {
                if !std::mem::replace(&mut rows[index].1, true) {
                    let values = over
                        .functions
                        .iter()
                        .map(|(function, _)| self.window_function(over, function, &sorted, index));
                    out.push(sorted[index].iter().cloned().chain(values).collect());
                }
            }
        }
        if is_whole {
            all.values_mut().for_each(|rows| rows.retain(|(_, given)| !given));
        }
        self.over = all;
        self.now = batch.now;
        out
    }

    fn window_function(&self, over: &Over, function: &WindowFunction, rows: &[Row], index: usize) -> Value {
        let is_peer = |other: &Row| self.compare(over, other, &rows[index]).is_eq();
        let argument = |row: &Row| row[positions(&["v".to_string()], &self.names)[0]].clone();
        let at = |index: Option<usize>| index.and_then(|index| rows.get(index)).map_or(Value::Null, argument);
        let first_peer = rows.iter().position(is_peer).unwrap();
        match function {
            WindowFunction::Rank("row_number") => Value::Int(index as i64 + 1),
            WindowFunction::Rank("rank") => Value::Int(first_peer as i64 + 1),
            WindowFunction::Rank("dense_rank") => {
                let before = &rows[..=index];
                let steps = before.windows(2).filter(|pair| self.compare(over, &pair[0], &pair[1]).is_ne());
                Value::Int(steps.count() as i64 + 1)
            }
            WindowFunction::Rank("cume_dist") => {
                let up_to = rows.iter().filter(|row| self.compare(over, row, &rows[index]).is_le()).count();
                Value::Float(up_to as f64 / rows.len() as f64)
            }
            WindowFunction::Rank(other) => panic!("no rank {other}"),
            WindowFunction::Shift("lag", steps) => at(index.checked_sub(*steps as usize)),
            WindowFunction::Shift(_, steps) => at(Some(index + *steps as usize)),
            WindowFunction::Aggregate(agg, frame) => {
                let time = |row: &Row| row[positions(&over.order, &self.names)[0]].int();
                let is_in = |other: usize| match frame {
                    Frame::RunningRows => other <= index,
                    Frame::Running => other <= index || is_peer(&rows[other]),
                    Frame::Rows(before, after) => {
                        (index as i64 - before..=index as i64 + after).contains(&(other as i64))
                    }
                    Frame::Range(before, after) => match (time(&rows[other]), time(&rows[index])) {
                        (Some(other), Some(own)) => own - before <= other && other <= own + after,
                        (other, own) => other.is_none() && own.is_none(),
                    },
                };
                let framed: Vec<Row> =
                    (0..rows.len()).filter(|other| is_in(*other)).map(|other| rows[other].clone()).collect();
                compute(agg, &framed, &self.names)
            }
        }
    }

    /// How many rows window functions have to remember.
    pub(super) fn remembered_by_window_functions(&self, over: &Over) -> usize {
        let [rows_before, _, micros_before, micros_after] = over.reach();
        let mut count = 0;
        for rows in self.over.values() {
            let given = rows.iter().filter(|(_, given)| *given).count();
            count += rows.len() - given;
            if over.time(true).1 {
                continue;
            }
            count += usize::from(given > 0 && over.counts());
            let is_over = |at: i64| self.now.is_some_and(|now| at + micros_after <= now);
            // The first that waits for rows behind it only.
            let pending = rows.get(given).and_then(|(row, _)| self.place_final(over, row));
            let pending = pending.filter(|at| is_over(*at));
            for (index, (row, _)) in rows[..given].iter().enumerate() {
                let is_near = given - index <= rows_before as usize;
                let last = self.place_final(over, row).map(|at| at + micros_before);
                let is_looked_back_to = |last: i64| !is_over(last) || pending.is_some_and(|at| at <= last);
                count += usize::from(is_near || micros_before > 0 && last.is_some_and(is_looked_back_to));
            }
        }
        count
    }
}
