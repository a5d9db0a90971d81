//! The state of one key during one call of a processor.
//!
//! **State**, two tables. Of the first the key is that of the rows; the row without a subkey has what is small:
//! all `ValueState`s, and of each list where it goes on. Elements of lists and entries of maps have rows of their
//! own, whose subkey is the number of the variable, and the element's number or the entry's key. Rows expire by
//! the time of the batch. The second has the timers: the subkey and the expiry are the time, by the clock of
//! the processor's [`TimeMode`].

use std::collections::BTreeSet;

use super::timestamp::Timestamp;
use crate::error::{Error, Result};
use crate::exec::operator::OperatorCounters;
use crate::state::{ByteRows, Found, NEVER, RowBytes, StateTable};

/// What the timers of a processor go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimeMode {
    /// There are no timers.
    None,
    /// The time at which a batch was planned, which is the same when it is run again. A query with timers
    /// that are due runs a batch without new rows.
    ProcessingTime,
    /// The watermark. Rows that come after it has passed their event time are dropped, and counted.
    EventTime,
}

impl TimeMode {
    /// As checkpoints record it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            TimeMode::None => "none",
            TimeMode::ProcessingTime => "processingTime",
            TimeMode::EventTime => "eventTime",
        }
    }
}

/// A small thing in the row of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Small {
    pub(crate) variable: u32,
    pub(crate) expiry: i64,
    pub(crate) bytes: Vec<u8>,
}

/// The row of a key without a subkey.
///
/// One after the other, by the number of the variable: that number, the expiry in microseconds (8 bytes each
/// with the highest first, and 4 of the number), the length of the value in 4 bytes, and the value.
#[derive(Debug, Default)]
pub(crate) struct SmallRow {
    things: Vec<Small>,
    pub(crate) changed: bool,
}

const HEADER: usize = 16;

impl SmallRow {
    /// Reads a row, without what has expired by `now`.
    pub(crate) fn decode(mut bytes: &[u8], now: i64) -> Result<Self> {
        let damaged = || Error::damaged("state", "the state of a processor's key cannot be read");
        let mut row = Self::default();
        while !bytes.is_empty() {
            let (header, rest) = bytes.split_at_checked(HEADER).ok_or_else(damaged)?;
            let number = |from: usize| {
                u32::from_be_bytes([header[from], header[from + 1], header[from + 2], header[from + 3]])
            };
            let expiry = (i64::from(number(4) as i32) << 32) | i64::from(number(8));
            let (value, rest) = rest.split_at_checked(number(12) as usize).ok_or_else(damaged)?;
            if expiry > now {
                row.things.push(Small { variable: number(0), expiry, bytes: value.to_vec() });
            } else {
                row.changed = true;
            }
            bytes = rest;
        }
        Ok(row)
    }

    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        for Small { variable, expiry, bytes } in &self.things {
            into.extend_from_slice(&variable.to_be_bytes());
            into.extend_from_slice(&expiry.to_be_bytes());
            into.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
            into.extend_from_slice(bytes);
        }
    }

    /// When all of it has expired.
    pub(crate) fn expiry(&self) -> i64 {
        self.things.iter().map(|thing| thing.expiry).max().unwrap_or(NEVER)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.things.is_empty()
    }

    pub(crate) fn things(&self) -> &[Small] {
        &self.things
    }

    fn place(&self, variable: u32) -> std::result::Result<usize, usize> {
        self.things.binary_search_by_key(&variable, |thing| thing.variable)
    }

    fn get(&self, variable: u32) -> Option<&Small> {
        self.place(variable).ok().map(|place| &self.things[place])
    }

    fn put(&mut self, variable: u32, expiry: i64, bytes: Vec<u8>) {
        self.changed = true;
        let thing = Small { variable, expiry, bytes };
        match self.place(variable) {
            Ok(place) => self.things[place] = thing,
            Err(place) => self.things.insert(place, thing),
        }
    }

    fn remove(&mut self, variable: u32) {
        if let Ok(place) = self.place(variable) {
            self.things.remove(place);
            self.changed = true;
        }
    }
}

/// What calls have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) batch_id: u64,
    /// When the batch was planned, in microseconds.
    pub(crate) now: i64,
    /// Up to when rows are all there, in microseconds, if that is known.
    pub(crate) watermark: Option<i64>,
    pub(crate) mode: TimeMode,
}

impl Moment {
    /// What the clock of the timers says; `None` if there is no clock, or it does not go yet.
    pub(crate) fn clock(&self) -> Option<i64> {
        match self.mode {
            TimeMode::None => None,
            TimeMode::ProcessingTime => Some(self.now),
            TimeMode::EventTime => self.watermark,
        }
    }
}

/// Timers that are due in this batch.
#[derive(Debug, Default)]
pub(crate) struct Due {
    /// By time, then key.
    pub(crate) timers: BTreeSet<(i64, Vec<u8>)>,
    /// The time of the timer whose call it is.
    pub(crate) firing: Option<i64>,
}

/// The state of the key that a processor is called for, and what time it is.
///
/// What is in state is read and changed through the variables that
/// [`StatefulProcessor::init`](super::StatefulProcessor::init) has declared.
pub struct KeyedState<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) moment: Moment,
    pub(crate) row: &'a mut SmallRow,
    pub(crate) table: &'a mut (dyn StateTable + 'static),
    pub(crate) timers: &'a mut (dyn StateTable + 'static),
    pub(crate) due: &'a mut Due,
    pub(crate) counters: &'a mut [OperatorCounters; 2],
    /// Whether rows of elements were changed.
    pub(crate) touched: &'a mut bool,
}

impl std::fmt::Debug for KeyedState<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyedState").field("moment", &self.moment).finish_non_exhaustive()
    }
}

fn only(bytes: &[u8]) -> ByteRows {
    [bytes].into_iter().collect()
}

fn time_subkey(time: i64) -> [u8; 8] {
    (time ^ i64::MIN).to_be_bytes()
}

fn time_of(subkey: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(subkey.try_into().ok()?) ^ i64::MIN)
}

/// The subkey of an element.
fn subkey(variable: u32, element: &[u8]) -> Vec<u8> {
    [&variable.to_be_bytes(), element].concat()
}

/// An element of a variable: the end of its subkey, and its value.
pub(super) type Element = (Vec<u8>, Vec<u8>);

impl KeyedState<'_> {
    /// The batch's number, from 0.
    pub fn batch_id(&self) -> u64 {
        self.moment.batch_id
    }

    /// The time at which the batch was planned: the same for all its rows, and when it is run again.
    pub fn processing_time(&self) -> Timestamp {
        Timestamp::from_micros(self.moment.now)
    }

    /// The time up to which rows are all there; `None` before the first rows have moved it, and without a
    /// watermark.
    pub fn watermark(&self) -> Option<Timestamp> {
        self.moment.watermark.map(Timestamp::from_micros)
    }

    /// Has [`handle_expired_timer`](super::StatefulProcessor::handle_expired_timer) called for this key when the
    /// clock of the [`TimeMode`] reaches `time`: in this batch, after its rows, if it has done so already. A key
    /// may have any number of timers, and one for each time.
    ///
    /// # Errors
    /// With [`TimeMode::None`]; and while a timer expires, if `time` is not after it: it would never end.
    pub fn register_timer(&mut self, time: Timestamp) -> Result<()> {
        // The largest time stands for never.
        let time = time.as_micros().min(NEVER - 1);
        if self.moment.mode == TimeMode::None {
            return Err(Error::Invalid(
                "a timer was registered with TimeMode::None, which has no timers; use TimeMode::ProcessingTime or \
                 TimeMode::EventTime"
                    .into(),
            ));
        }
        if let Some(firing) = self.due.firing.filter(|firing| time <= *firing) {
            return Err(Error::Invalid(format!(
                "a timer for {} was registered while the one for {} expired, which would go on for ever; register a \
                 later one",
                Timestamp::from_micros(time),
                Timestamp::from_micros(firing)
            )));
        }
        if self.moment.clock().is_some_and(|clock| time <= clock) {
            self.due.timers.insert((time, self.key.to_vec()));
            return Ok(());
        }
        self.counters[1].updated += 1;
        let (key, subkey, value) = (only(self.key), only(&time_subkey(time)), only(&[]));
        self.timers.put(&key, Some(&subkey), &value, Some(&[time]))
    }

    /// Takes a timer back; nothing happens if there is none for that time.
    ///
    /// # Errors
    /// Those of the local disk that state was moved to.
    pub fn delete_timer(&mut self, time: Timestamp) -> Result<()> {
        let time = time.as_micros().min(NEVER - 1);
        if self.due.timers.remove(&(time, self.key.to_vec())) {
            return Ok(());
        }
        let before = self.timers.len();
        self.timers.remove(&only(self.key), Some(&only(&time_subkey(time))))?;
        self.counters[1].removed += before - self.timers.len();
        Ok(())
    }

    /// The timers of this key that have not expired, the earliest first.
    ///
    /// # Errors
    /// Those of the local disk that state was moved to.
    pub fn list_timers(&mut self) -> Result<Vec<Timestamp>> {
        let due = self.due.timers.iter().filter(|(_, key)| key == self.key).map(|(time, _)| *time);
        let mut times: Vec<i64> = due.collect();
        self.timers.get_all(&only(self.key), &mut |_, subkey, _, _| {
            times.extend(time_of(subkey));
            Ok(())
        })?;
        times.sort_unstable();
        Ok(times.into_iter().map(Timestamp::from_micros).collect())
    }

    fn expiry(&self, ttl: Option<i64>) -> i64 {
        ttl.map_or(NEVER, |ttl| self.moment.now.saturating_add(ttl).min(NEVER - 1))
    }

    pub(super) fn small(&self, variable: u32) -> Option<&[u8]> {
        self.row.get(variable).map(|thing| thing.bytes.as_slice())
    }

    pub(super) fn put_small(&mut self, variable: u32, bytes: Vec<u8>, ttl: Option<i64>) {
        let expiry = self.expiry(ttl);
        self.row.put(variable, expiry, bytes);
    }

    pub(super) fn remove_small(&mut self, variable: u32) {
        self.row.remove(variable);
    }

    pub(super) fn element(&mut self, variable: u32, element: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut found = Found::default();
        self.table.get(&only(self.key), Some(&only(&subkey(variable, element))), &mut found)?;
        Ok((!found.positions.is_empty()).then(|| found.values.row(0).to_vec()))
    }

    /// All elements of a variable, by the bytes of their subkeys.
    pub(super) fn elements(&mut self, variable: u32) -> Result<Vec<Element>> {
        let mut elements = Vec::new();
        self.table.get_all(&only(self.key), &mut |_, subkey, value, _| {
            if let Some(element) = subkey.strip_prefix(&variable.to_be_bytes()) {
                elements.push((element.to_vec(), value.to_vec()));
            }
            Ok(())
        })?;
        Ok(elements)
    }

    pub(super) fn put_elements(
        &mut self,
        variable: u32,
        elements: &[Element],
        ttl: Option<i64>,
    ) -> Result<()> {
        if elements.is_empty() {
            return Ok(());
        }
        *self.touched = true;
        self.counters[0].updated += elements.len() as u64;
        let keys: ByteRows = elements.iter().map(|_| self.key).collect();
        let subkeys: ByteRows = elements.iter().map(|(element, _)| subkey(variable, element)).collect();
        let values: ByteRows = elements.iter().map(|(_, value)| value).collect();
        let expiries = ttl.map(|_| vec![self.expiry(ttl); elements.len()]);
        self.table.put(&keys, Some(&subkeys), &values, expiries.as_deref())
    }

    pub(super) fn remove_elements<'e>(
        &mut self,
        variable: u32,
        elements: impl Iterator<Item = &'e [u8]>,
    ) -> Result<()> {
        let subkeys: ByteRows = elements.map(|element| subkey(variable, element)).collect();
        if subkeys.is_empty() {
            return Ok(());
        }
        *self.touched = true;
        let keys: ByteRows = (0..subkeys.len()).map(|_| self.key).collect();
        let before = self.table.len();
        self.table.remove(&keys, Some(&subkeys))?;
        self.counters[0].removed += before - self.table.len();
        Ok(())
    }

    /// Appends elements to a list, whose number says where it goes on.
    pub(super) fn append(&mut self, variable: u32, values: Vec<Vec<u8>>, ttl: Option<i64>) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        let next = self.small(variable).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
        let after = next + values.len() as u64;
        let elements: Vec<Element> =
            (next..after).map(|number| number.to_be_bytes().to_vec()).zip(values).collect();
        // It is needed for as long as there are elements, those of a longer time to live too.
        let known = self.row.get(variable).map_or(i64::MIN, |thing| thing.expiry);
        self.row.put(variable, self.expiry(ttl).max(known), after.to_be_bytes().to_vec());
        self.put_elements(variable, &elements, ttl)
    }

    /// Removes all elements of a variable.
    pub(super) fn clear_elements(&mut self, variable: u32) -> Result<()> {
        let elements = self.elements(variable)?;
        self.remove_elements(variable, elements.iter().map(|(element, _)| element.as_slice()))?;
        self.remove_small(variable);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The format is frozen.
    #[test]
    fn the_bytes_of_small_things_stay_what_they_are() {
        let mut row = SmallRow::default();
        row.put(7, NEVER, vec![1, 2]);
        row.put(3, -2, vec![]);
        let mut bytes = Vec::new();
        row.encode(&mut bytes);
        let never = [127, 255, 255, 255, 255, 255, 255, 255];
        let before = [255, 255, 255, 255, 255, 255, 255, 254];
        let expected =
            [&[0, 0, 0, 3][..], &before, &[0, 0, 0, 0], &[0, 0, 0, 7], &never, &[0, 0, 0, 2, 1, 2]];
        assert_eq!(bytes, expected.concat());
        let read = SmallRow::decode(&bytes, -3).unwrap();
        assert_eq!((read.things(), read.changed, read.expiry()), (row.things(), false, NEVER));
        let read = SmallRow::decode(&bytes, -2).unwrap();
        assert_eq!((read.things().len(), read.changed), (1, true));
        assert!(SmallRow::decode(&bytes[..30], 0).is_err());
    }
}
