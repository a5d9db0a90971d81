//! Joins of two streams.

use super::super::model::{Expr, Streams};
use super::super::values::{Row, Value};
use super::expressions::is_true;
use super::{Batch, Kept, Names, Op, positions};

impl Op {
    /// When nothing can match a row of a side any more, if that is ever so; before all time if nothing can
    /// ever.
    pub(super) fn hopeless_at(&self, join: &Streams, side: usize, row: &Row) -> Option<i64> {
        let names = |side: usize| join.sides[side].columns(true);
        let key = |(left, right): &(String, String)| {
            positions(&[if side == 0 { left } else { right }.clone()], &names(side))[0]
        };
        let is_null = |column: usize| row[column].is_null();
        if join.on.iter().map(key).any(is_null) {
            return Some(i64::MIN);
        }
        if join.within.is_some() && is_null(positions(&["ts".to_string()], &names(side))[0]) {
            return Some(i64::MIN);
        }
        let suffix = if side == 0 { "" } else { "2" };
        let own = names(side).into_iter();
        let own: Names = own.map(|(name, finality)| (format!("{name}{suffix}"), finality)).collect();
        let mut parts = join.condition.iter().flat_map(Expr::parts);
        if parts.any(|part| part.is_over(&own) && !is_true(part, row, &own)) {
            return Some(i64::MIN);
        }
        let later = self.delays[1 - side];
        self.bounds[side]
            .iter()
            .filter_map(|bound| Some(bound.finality.of(&row[bound.own])? + bound.offset + later))
            .min()
    }

    pub(super) fn join(&mut self, join: &Streams, rows: [Vec<Row>; 2], batch: &Batch) -> Vec<Row> {
        for (side, rows) in rows.into_iter().enumerate() {
            self.sides[side].iter_mut().for_each(|kept| kept.is_new = false);
            for row in rows {
                // By what makes rows of the other side hopeless.
                let later = self.delays[side];
                let others = self.bounds[1 - side].iter();
                let final_at =
                    others.filter_map(|bound| Some(bound.finality.of(&row[bound.other])? + later)).min();
                if !self.is_late(final_at, batch) {
                    self.sides[side].push(Kept { row, is_new: true, matched: false, given: false });
                }
            }
        }
        self.now = batch.now;
        let widths = [0, 1].map(|side| join.sides[side].columns(true).len());
        let mut out = Vec::new();
        let places: Vec<(usize, usize)> = join
            .on
            .iter()
            .map(|(left, right)| {
                let place = |side: usize, name: &String| {
                    positions(std::slice::from_ref(name), &join.sides[side].columns(true))[0]
                };
                (place(0, left), place(1, right))
            })
            .collect();
        let times = join.within.map(|within| {
            (within, [0, 1].map(|side| positions(&["ts".to_string()], &join.sides[side].columns(true))[0]))
        });
        let both: Names = {
            let right = join.sides[1]
                .columns(true)
                .into_iter()
                .map(|(name, finality)| (format!("{name}2"), finality));
            join.sides[0].columns(true).into_iter().chain(right).collect()
        };
        let [left, right] = &mut self.sides;
        for one in left.iter_mut() {
            for other in right.iter_mut().filter(|other| one.is_new || other.is_new) {
                let equal =
                    places.iter().all(|(a, b)| !one.row[*a].is_null() && one.row[*a] == other.row[*b]);
                let in_time = times.is_none_or(|((before, after), [a, b])| {
                    match (one.row[a].int(), other.row[b].int()) {
                        (Some(a), Some(b)) => a - before <= b && b <= a + after,
                        _ => false,
                    }
                });
                let pair: Row = one.row.iter().chain(&other.row).cloned().collect();
                if equal && in_time && join.condition.as_ref().is_none_or(|more| is_true(more, &pair, &both))
                {
                    (one.matched, other.matched) = (true, true);
                    if join.kind.only().is_none() {
                        out.push(pair);
                    }
                }
            }
        }
        for side in [0, 1] {
            let nulls: Row = vec![Value::Null; widths[1 - side]];
            for index in 0..self.sides[side].len() {
                let kept = &self.sides[side][index];
                let hopeless = self.hopeless_at(join, side, &kept.row);
                let is_hopeless =
                    hopeless.is_some_and(|at| at == i64::MIN || batch.now.is_some_and(|now| at <= now));
                let gives = match join.kind.only() == Some(side) && join.kind.is_semi() {
                    true => kept.matched,
                    false => join.kind.waits()[side] && !kept.matched && is_hopeless,
                };
                if gives && !kept.given {
                    let row = kept.row.clone();
                    out.push(match (join.kind.only(), side) {
                        (Some(_), _) => row,
                        (None, 0) => row.into_iter().chain(nulls.clone()).collect(),
                        (None, _) => nulls.iter().cloned().chain(row).collect(),
                    });
                    self.sides[side][index].given = true;
                }
            }
        }
        out
    }

    /// How many rows a join needs to remember.
    pub(super) fn still_matching(&self, join: &Streams) -> usize {
        let is_needed = |side: usize, kept: &Kept| {
            let decided = join.kind.only() == Some(side) && kept.matched;
            let hopeless = self.hopeless_at(join, side, &kept.row);
            !decided && hopeless.is_none_or(|at| at != i64::MIN && self.now.is_none_or(|now| at > now))
        };
        [0, 1].map(|side| self.sides[side].iter().filter(|kept| is_needed(side, kept)).count()).iter().sum()
    }
}
