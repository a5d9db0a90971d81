//! What window functions do in one state partition in one batch.

use std::ops::Range;

use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{concat_batches, take};
use datafusion::arrow::datatypes::{Int64Type, UInt64Type};
use datafusion::arrow::record_batch::RecordBatchOptions;
use datafusion::common::ScalarValue;
use datafusion::error::Result as DataFusionResult;

use super::functions::{Sequence, Total, Values};
use super::{StatefulOver, Totals};
use crate::exec::batch::Batch;
use crate::exec::keyed_rows::{Gathered, KeyedRows};
use crate::exec::operator::OperatorCounters;
use crate::exec::row_buffer::RowBuffer;
use crate::exec::sort_column::{ARRIVAL, subkeys};
use crate::exec::stateful::{Counters, Tables};
use crate::state::{ByteRows, Found, NEVER, RowBytes, StateTable};

/// After how many rows that are given the keys that follow are done by themselves.
const ROWS_TOGETHER: usize = 8192;

/// What a row waits for that is remembered.
fn place_of(subkey: &[u8]) -> Place {
    match subkey.first() {
        Some(0) => Place::Given,
        Some(1) => Place::Pending,
        _ => Place::Waiting,
    }
}

/// What a row that is remembered waits for, as its subkey begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Place {
    /// Nothing: it was given, and later rows look back to it.
    Given = 0,
    /// Rows behind it.
    Pending = 1,
    /// The time.
    Waiting = 2,
}

pub(super) fn run(
    over: &StatefulOver,
    rows: Gathered,
    tables: Tables<'_>,
    batch: &Batch,
    results: &mut RowBuffer,
) -> DataFusionResult<Counters> {
    let Tables { first: table, second: totals } = tables;
    let mut counters = Counters::default();
    for part in rows.in_parts() {
        remember(over, part?, table, batch, &mut counters.first)?;
    }
    let due = Due::take(table, batch, &mut counters.first)?;
    let mut work = Work { over, table, totals, batch, results, counters };
    for keys in due.chunks() {
        work.give(&due, keys)?;
    }
    Ok(work.counters)
}

/// Lets new rows wait until their place is final.
fn remember(
    over: &StatefulOver,
    rows: Vec<KeyedRows>,
    table: &mut dyn StateTable,
    batch: &Batch,
    counters: &mut OperatorCounters,
) -> DataFusionResult<()> {
    let keys: ByteRows = rows
        .iter()
        .flat_map(|keyed| (0..keyed.rows.num_rows()).map(move |row| keyed.keys.row(row)))
        .collect();
    let new = concat_batches(&over.input, rows.iter().map(|keyed| &keyed.rows))?;
    let subkeys = subkeys(&[Place::Waiting as u8], &over.order, &new, batch)?;
    let values = over.values.encode(new.columns(), new.num_rows())?;
    let later = |time: i64| if time == NEVER { NEVER } else { time.saturating_add(over.reach.micros_after) };
    let expiries: Vec<i64> = places_final(over, &new)?.into_iter().map(later).collect();
    table.add(&keys, &subkeys, &values, Some(&expiries))?;
    counters.updated += new.num_rows() as u64;
    Ok(())
}

/// When the place of each row is final.
fn places_final(over: &StatefulOver, rows: &RecordBatch) -> DataFusionResult<Vec<i64>> {
    let times = over.expiry.evaluate(rows)?.into_array(rows.num_rows())?;
    Ok(times.as_primitive::<Int64Type>().iter().map(|time| time.unwrap_or(NEVER)).collect())
}

/// Rows for which it is time, by key and in their order, and those that nothing looks back to but these.
#[derive(Default)]
struct Due {
    keys: ByteRows,
    subkeys: ByteRows,
    values: ByteRows,
    /// Which row comes at each place.
    order: Vec<usize>,
    /// Of each key of which a row is due: which places.
    ranges: Vec<Range<usize>>,
}

impl Due {
    fn take(
        table: &mut dyn StateTable,
        batch: &Batch,
        counters: &mut OperatorCounters,
    ) -> DataFusionResult<Self> {
        let mut due = Self::default();
        let mut removed = 0;
        if let Some(upto) = batch.watermarks.finals() {
            table.expire(upto, &mut |key, subkey, value, _| {
                removed += 1;
                due.push(key, subkey, value);
                Ok(())
            })?;
        }
        counters.removed += removed;
        if batch.watermarks.nulls_final {
            let known = due.keys.len();
            table.scan(&mut |key, subkey, value, _| {
                if place_of(subkey) != Place::Given {
                    due.push(key, subkey, value);
                }
                Ok(())
            })?;
            let rest = known..due.keys.len();
            let keys: ByteRows = rest.clone().map(|row| due.keys.row(row)).collect();
            let subkeys: ByteRows = rest.map(|row| due.subkeys.row(row)).collect();
            table.remove(&keys, Some(&subkeys))?;
            counters.removed += keys.len() as u64;
        }
        due.sort();
        Ok(due)
    }

    fn push(&mut self, key: &[u8], subkey: &[u8], value: &[u8]) {
        self.keys.push(key);
        self.subkeys.push(subkey);
        self.values.push(value);
    }

    fn sort(&mut self) {
        let mut order: Vec<usize> = (0..self.keys.len()).collect();
        order.sort_unstable_by_key(|row| (self.keys.row(*row), &self.subkeys.row(*row)[1..]));
        for place in 0..order.len() {
            let key = self.keys.row(order[place]);
            match self.ranges.last_mut() {
                Some(last) if self.keys.row(order[last.start]) == key => last.end = place + 1,
                _ => self.ranges.push(place..place + 1),
            }
        }
        let is_due = |place: usize| place_of(self.subkeys.row(order[place])) != Place::Given;
        self.ranges.retain(|places| places.clone().any(is_due));
        self.order = order;
    }

    /// Some keys at a time.
    fn chunks(&self) -> Vec<Range<usize>> {
        let mut chunks: Vec<Range<usize>> = Vec::new();
        let mut rows = ROWS_TOGETHER;
        for (index, places) in self.ranges.iter().enumerate() {
            match chunks.last_mut().filter(|_| rows < ROWS_TOGETHER) {
                Some(last) => last.end = index + 1,
                None => {
                    chunks.push(index..index + 1);
                    rows = 0;
                }
            }
            rows += places.len();
        }
        chunks
    }
}

/// A row that is looked at.
struct Row {
    place: Place,
    /// Whether it is one of the table.
    is_stored: bool,
    expiry: i64,
}

/// The rows of some keys, in their order.
#[derive(Default)]
struct Rows {
    rows: Vec<Row>,
    subkeys: ByteRows,
    values: ByteRows,
}

impl Rows {
    fn push(&mut self, row: Row, subkey: &[u8], value: &[u8]) {
        self.rows.push(row);
        self.subkeys.push(subkey);
        self.values.push(value);
    }

    /// The first of a key that waits for rows behind it.
    fn first_pending(&self, sequence: &Sequence) -> Option<usize> {
        (sequence.given.end..sequence.rows.end).find(|row| self.rows[*row].place == Place::Pending)
    }

    /// What the row is sorted by.
    fn sorted_by(&self, row: usize) -> &[u8] {
        let subkey = self.subkeys.row(row);
        &subkey[1..subkey.len().saturating_sub(ARRIVAL).max(1)]
    }
}

struct Work<'a> {
    over: &'a StatefulOver,
    table: &'a mut dyn StateTable,
    totals: Option<&'a mut (dyn StateTable + 'static)>,
    batch: &'a Batch,
    results: &'a mut RowBuffer,
    counters: Counters,
}

impl Work<'_> {
    /// Gives the rows of some keys that can be given, and remembers what is to be remembered of them.
    fn give(&mut self, due: &Due, keys: Range<usize>) -> DataFusionResult<()> {
        let names: ByteRows =
            due.ranges[keys.clone()].iter().map(|places| due.keys.row(due.order[places.start])).collect();
        let (rows, ranges) = self.rows(due, &names, keys)?;
        let sequences: Vec<Sequence> = ranges.into_iter().map(|range| self.sequence(&rows, range)).collect();
        let columns = self.over.values.decode_all(&rows.values)?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.rows.len()));
        let all = RecordBatch::try_new_with_options(self.over.input.clone(), columns, &options)?;
        self.evaluate(&all, &sequences, &names)?;
        self.keep(&all, &rows, &sequences, &names)
    }

    /// The rows of the keys, each key's in their order, and which are whose.
    fn rows(
        &mut self,
        due: &Due,
        names: &ByteRows,
        keys: Range<usize>,
    ) -> DataFusionResult<(Rows, Vec<Range<usize>>)> {
        let mut stored = Rows::default();
        let mut of_key: Vec<Vec<usize>> = vec![Vec::new(); names.len()];
        if self.over.reach.needs_others() {
            let waiting_too = self.over.reach.micros_after > 0;
            self.table.get_all(names, &mut |key, subkey, value, expiry| {
                let place = place_of(subkey);
                if place != Place::Waiting || waiting_too {
                    of_key[key].push(stored.rows.len());
                    let expiry = expiry.unwrap_or(NEVER);
                    stored.push(Row { place, is_stored: true, expiry }, subkey, value);
                }
                Ok(())
            })?;
        }
        let mut rows = Rows::default();
        let mut ranges = Vec::with_capacity(names.len());
        for (stored_rows, places) in of_key.into_iter().zip(&due.ranges[keys]) {
            let first = rows.rows.len();
            let new = due.order[places.clone()].iter().map(|row| (false, *row));
            let mut both: Vec<(bool, usize)> =
                stored_rows.into_iter().map(|row| (true, row)).chain(new).collect();
            let subkey = |(is_stored, row): (bool, usize)| match is_stored {
                true => stored.subkeys.row(row),
                false => due.subkeys.row(row),
            };
            both.sort_by(|a, b| subkey(*a)[1..].cmp(&subkey(*b)[1..]));
            for (is_stored, row) in both {
                let value = if is_stored { stored.values.row(row) } else { due.values.row(row) };
                let subkey = subkey((is_stored, row));
                let (place, expiry) = match (is_stored, place_of(subkey)) {
                    (true, place) => (place, stored.rows[row].expiry),
                    (false, Place::Given) => (Place::Given, NEVER),
                    (false, _) => (Place::Pending, NEVER),
                };
                rows.push(Row { place, is_stored, expiry }, subkey, value);
            }
            ranges.push(first..rows.rows.len());
        }
        Ok((rows, ranges))
    }

    /// Which of the rows of a key are given.
    fn sequence(&self, rows: &Rows, range: Range<usize>) -> Sequence {
        let count = |place: Place| rows.rows[range.clone()].iter().filter(|row| row.place == place).count();
        let start = range.start + count(Place::Given);
        let known = start + count(Place::Pending);
        let mut end = match self.batch.watermarks.nulls_final {
            true => known,
            false => known.saturating_sub(self.over.reach.rows_after).max(start),
        };
        // Rows that are equal by the order are given together.
        while end > start && end < known && rows.sorted_by(end - 1) == rows.sorted_by(end) {
            end -= 1;
        }
        let mut peers: Vec<Range<usize>> = Vec::new();
        for row in start..end {
            match peers.last_mut() {
                Some(last) if rows.sorted_by(last.start) == rows.sorted_by(row) => last.end = row + 1,
                _ => peers.push(row..row + 1),
            }
        }
        Sequence { rows: range, given: start..end, peers }
    }

    /// Gives the rows with the values of the functions.
    fn evaluate(
        &mut self,
        all: &RecordBatch,
        sequences: &[Sequence],
        names: &ByteRows,
    ) -> DataFusionResult<()> {
        let totals = self.over.totals.as_ref();
        let known = match (totals, self.totals.as_deref_mut()) {
            (Some(totals), Some(table)) => Known::of(totals, names, table)?,
            _ => Known::default(),
        };
        let mut values = Values::new(&self.over.functions, all)?;
        let (mut given, mut states) = (Vec::new(), Vec::new());
        for (key, sequence) in sequences.iter().enumerate().filter(|(_, sequence)| !sequence.given.is_empty())
        {
            let total = known.total(key);
            let state = values.add(sequence, &total)?;
            if totals.is_some() {
                let counts =
                    [total.rows + sequence.given.len() as u64, total.different + sequence.peers.len() as u64];
                let counts = counts.map(|count| ScalarValue::UInt64(Some(count)));
                states.push((key, counts.into_iter().chain(state).collect::<Vec<_>>()));
            }
            given.extend(sequence.given.clone().map(|row| row as u32));
        }
        if given.is_empty() {
            return Ok(());
        }
        if let (Some(totals), Some(table)) = (totals, self.totals.as_deref_mut()) {
            let columns = (0..totals.fields.len()).map(|column| {
                ScalarValue::iter_to_array(states.iter().map(|(_, state)| state[column].clone()))
            });
            let columns = columns.collect::<DataFusionResult<Vec<_>>>()?;
            let keys: ByteRows = states.iter().map(|(key, _)| names.row(*key)).collect();
            table.put(&keys, None, &totals.codec.encode(&columns, keys.len())?, None)?;
            self.counters.second.updated += keys.len() as u64;
        }
        let given = UInt32Array::from(given);
        let columns = all.columns().iter().map(|column| Ok(take(column, &given, None)?));
        let mut columns = columns.collect::<DataFusionResult<Vec<ArrayRef>>>()?;
        columns.extend(values.finish()?);
        self.results.push(RecordBatch::try_new(self.over.schema.clone(), columns)?)?;
        Ok(())
    }

    /// Remembers those rows that later ones look back to, and those that wait for others behind them.
    fn keep(
        &mut self,
        all: &RecordBatch,
        rows: &Rows,
        sequences: &[Sequence],
        names: &ByteRows,
    ) -> DataFusionResult<()> {
        if !self.over.reach.needs_others() {
            return Ok(());
        }
        let finals = places_final(self.over, all)?;
        let mut gone = (ByteRows::default(), ByteRows::default());
        let mut kept = (ByteRows::default(), ByteRows::default(), ByteRows::default(), Vec::new());
        for (key, sequence) in sequences.iter().enumerate() {
            let pending = rows.first_pending(sequence).map(|row| finals[row]);
            for row in sequence.rows.clone() {
                let Row { place, is_stored, expiry } = rows.rows[row];
                let (to, until) = match place {
                    Place::Waiting => continue,
                    Place::Pending if row >= sequence.given.end => (Place::Pending, Some(NEVER)),
                    _ => (Place::Given, self.looked_back_to(sequence.given.end - row, finals[row], pending)),
                };
                if is_stored && until == Some(expiry) && to == place {
                    continue;
                }
                let subkey = rows.subkeys.row(row);
                if is_stored && (until.is_none() || to != place) {
                    gone.0.push(names.row(key));
                    gone.1.push(subkey);
                }
                let Some(until) = until else { continue };
                let moved: Vec<u8> = std::iter::once(to as u8).chain(subkey[1..].iter().copied()).collect();
                kept.0.push(names.row(key));
                kept.1.push(&moved);
                kept.2.push(rows.values.row(row));
                kept.3.push(until);
            }
        }
        if !gone.0.is_empty() {
            self.table.remove(&gone.0, Some(&gone.1))?;
            self.counters.first.removed += gone.0.len() as u64;
        }
        if !kept.0.is_empty() {
            self.table.put(&kept.0, Some(&kept.1), &kept.2, Some(&kept.3))?;
            self.counters.first.updated += kept.0.len() as u64;
        }
        Ok(())
    }

    /// Until when later rows look back to a row that was given, as the `from_last`th before them; `pending` is when
    /// the place of the first is final that waits for rows behind it.
    fn looked_back_to(&self, from_last: usize, place_final: i64, pending: Option<i64>) -> Option<i64> {
        let reach = self.over.reach;
        if from_last <= reach.rows_before {
            return Some(NEVER);
        }
        if reach.micros_before == 0 || place_final == NEVER {
            return None;
        }
        let last = place_final.saturating_add(reach.micros_before);
        if pending.is_some_and(|pending| pending <= last) {
            return Some(NEVER);
        }
        // The last that looks back to it waits for what it looks ahead to.
        let until = last.saturating_add(reach.micros_after);
        let is_over = self.batch.watermarks.finals().is_some_and(|finals| until <= finals);
        (!is_over).then_some(until)
    }
}

/// What the second table says of some keys.
#[derive(Default)]
struct Known {
    columns: Vec<ArrayRef>,
    /// Of each key: which row.
    rows: Vec<Option<usize>>,
}

impl Known {
    fn of(totals: &Totals, names: &ByteRows, table: &mut dyn StateTable) -> DataFusionResult<Self> {
        let mut found = Found::default();
        table.get(names, None, &mut found)?;
        let mut rows = vec![None; names.len()];
        found.positions.iter().enumerate().for_each(|(row, key)| rows[*key] = Some(row));
        Ok(Self { columns: totals.codec.decode_all(&found.values)?, rows })
    }

    fn total(&self, key: usize) -> Total {
        let Some(row) = self.rows.get(key).copied().flatten() else {
            return Total { rows: 0, different: 0, states: None };
        };
        let count = |column: usize| self.columns[column].as_primitive::<UInt64Type>().value(row);
        let states = self.columns[2..].iter().map(|column| column.slice(row, 1)).collect();
        Total { rows: count(0), different: count(1), states: Some(states) }
    }
}
