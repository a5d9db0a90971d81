//! Records of keys and values, one after the other in pages of memory.
//!
//! A record is two bytes of header, longer lengths and an expiry where there are any, the key, and the
//! value:
//!
//! | bytes | content |
//! |---|---|
//! | 1 | the key's length (5 bits), [`LONG`] if it is longer; [`CHANGED`]; [`EXPIRES`]; [`DEAD`] |
//! | 1 | the value's length, [`u8::MAX`] if it is longer |
//! | 0, 4 or 8 | the lengths (u32) that the first two bytes do not say |
//! | 0 or 8 | the expiry (i64) |

use super::index::Place;
use super::table::NEVER;
use crate::error::{Error, Result};

/// How large a page becomes; a larger record has a page of its own.
const PAGE: usize = 1 << OFFSET_BITS;
const OFFSET_BITS: u32 = 20;
/// How large a page is at first.
const SMALLEST: usize = 1 << 10;
/// A page that never held so much is not worth emptying.
const SMALL: usize = 1 << 14;

const LONG: u8 = 0x1f;
/// Somebody asked to have it marked.
const CHANGED: u8 = 0x20;
const EXPIRES: u8 = 0x40;
const DEAD: u8 = 0x80;

#[derive(Debug, Default)]
pub(super) struct Arena {
    pages: Vec<Page>,
    /// The page that new records are added to.
    fresh: Option<usize>,
    /// The page that records move to that were left in a sparse one: those that last are together, and
    /// need not move again for those that do not.
    settled: Option<usize>,
    /// Pages without bytes.
    free: Vec<usize>,
    /// Pages that are mostly dead.
    sparse: Vec<usize>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Page {
    bytes: Vec<u8>,
    /// How often its memory was given back: places of earlier times mean nothing any more.
    generation: u32,
    /// How many of the bytes belong to records that are alive.
    live: usize,
    /// Whether it is, or was, among the sparse ones.
    is_sparse: bool,
}

/// A record that is alive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    /// [`NEVER`] if it has none.
    pub(super) expiry: i64,
}

/// Where the parts of a record are, from the start of its page.
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// Where the expiry is, if it has one.
    expiry: Option<usize>,
    key: usize,
    value: usize,
    end: usize,
}

fn split(place: Place) -> (usize, usize) {
    ((place >> OFFSET_BITS) as usize, place as usize & (PAGE - 1))
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number) as usize
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    i64::from_le_bytes(number)
}

fn layout(bytes: &[u8], start: usize) -> Layout {
    let (first, second) = (bytes[start], bytes[start + 1]);
    let mut at = start + 2;
    let mut key_length = usize::from(first & LONG);
    if key_length == usize::from(LONG) {
        key_length = u32_at(bytes, at);
        at += 4;
    }
    let mut value_length = usize::from(second);
    if second == u8::MAX {
        value_length = u32_at(bytes, at);
        at += 4;
    }
    let expiry = (first & EXPIRES != 0).then_some(at);
    let key = if expiry.is_some() { at + 8 } else { at };
    Layout { expiry, key, value: key + key_length, end: key + key_length + value_length }
}

/// The header of a record, and how long that is.
fn header(key: &[u8], value: &[u8], expiry: i64) -> Result<([u8; 18], usize)> {
    let length = |bytes: &[u8]| {
        u32::try_from(bytes.len()).map_err(|_| {
            Error::Invalid(format!(
                "a row of state has {} bytes in its key or value; 4 GiB is the most: keep less in one group",
                bytes.len()
            ))
        })
    };
    let (mut header, mut at) = ([0; 18], 2);
    let mut put = |header: &mut [u8; 18], bytes: &[u8]| {
        header[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    let (key_length, value_length) = (length(key)?, length(value)?);
    header[0] = LONG;
    match u8::try_from(key_length) {
        Ok(short) if short < LONG => header[0] = short,
        _ => put(&mut header, &key_length.to_le_bytes()),
    }
    header[1] = u8::MAX;
    match u8::try_from(value_length) {
        Ok(short) if short < u8::MAX => header[1] = short,
        _ => put(&mut header, &value_length.to_le_bytes()),
    }
    if expiry != NEVER {
        header[0] |= EXPIRES;
        put(&mut header, &expiry.to_le_bytes());
    }
    Ok((header, at))
}

impl Arena {
    /// Adds a record.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the key or the value has more than 4 GiB.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8], expiry: i64) -> Result<Place> {
        let (header, header_length) = header(key, value, expiry)?;
        let length = header_length + key.len() + value.len();
        let page = self.page_for(self.fresh, length);
        self.fresh = Some(page);
        let place = self.append(page, length);
        let (_, at) = split(place);
        let bytes = &mut self.pages[page].bytes;
        let (start, rest) = bytes[at..].split_at_mut(header_length);
        start.copy_from_slice(&header[..header_length]);
        rest[..key.len()].copy_from_slice(key);
        rest[key.len()..].copy_from_slice(value);
        Ok(place)
    }

    /// Moves a record out of its sparse page, which is given back with the last one: where it is now.
    pub(super) fn settle(&mut self, place: Place) -> Place {
        let (from, at) = split(place);
        let length = layout(&self.pages[from].bytes, at).end - at;
        let page = self.page_for(self.settled, length);
        self.settled = Some(page);
        let new = self.append(page, length);
        let (_, to) = split(new);
        if let Ok([from, page]) = self.pages.get_disjoint_mut([from, page]) {
            page.bytes[to..to + length].copy_from_slice(&from.bytes[at..at + length]);
        }
        self.kill(place);
        new
    }

    /// Room for a record of this length in a page that has it.
    fn append(&mut self, page: usize, length: usize) -> Place {
        let found = &mut self.pages[page];
        let (before, offset) = (found.bytes.capacity(), found.bytes.len());
        if offset + length > before {
            // Twice as much, but no more than will be used.
            let wanted = (before * 2).clamp(SMALLEST, PAGE).max(offset + length);
            found.bytes.reserve_exact(wanted - offset);
        }
        found.bytes.resize(offset + length, 0);
        found.live += length;
        self.bytes += found.bytes.capacity() - before;
        (page << OFFSET_BITS | offset) as Place
    }

    /// A page with room for `length` bytes: `current`, if that has it.
    fn page_for(&mut self, current: Option<usize>, length: usize) -> usize {
        if let Some(page) = current {
            let filled = self.pages[page].bytes.len();
            if filled == 0 || (filled + length <= PAGE && filled < PAGE) {
                return page;
            }
            self.leave(page);
            self.judge(page);
        }
        self.free.pop().unwrap_or_else(|| {
            self.pages.push(Page::default());
            self.pages.len() - 1
        })
    }

    /// Nothing is added to a page any more.
    fn leave(&mut self, page: usize) {
        for current in [&mut self.fresh, &mut self.settled] {
            *current = current.filter(|current| *current != page);
        }
    }

    /// Gives back a page that is dead, and notes one that is mostly dead.
    fn judge(&mut self, page: usize) {
        let found = &self.pages[page];
        if found.live == 0 {
            self.leave(page);
            self.release(page);
            return;
        }
        let is_current = self.fresh == Some(page) || self.settled == Some(page);
        let is_sparse = found.live * 2 < found.bytes.len() && !(is_current && found.bytes.len() < SMALL);
        if is_sparse && !found.is_sparse {
            self.leave(page);
            self.pages[page].is_sparse = true;
            self.sparse.push(page);
        }
    }

    /// The places of what is alive in a page that is mostly dead, for each of such pages once.
    pub(super) fn next_sparse(&mut self) -> Option<Vec<Place>> {
        let page = self.sparse.pop()?;
        Some(self.live_in(page))
    }

    /// The record at a place where one is alive.
    pub(super) fn get(&self, place: Place) -> Record<'_> {
        let (page, at) = split(place);
        let bytes = &self.pages[page].bytes;
        let Layout { expiry, key, value, end } = layout(bytes, at);
        let expiry = expiry.map_or(NEVER, |at| i64_at(bytes, at));
        Record { key: &bytes[key..value], value: &bytes[value..end], expiry }
    }

    /// Which record of all that were ever at `place` is there now.
    pub(super) fn generation(&self, place: Place) -> u32 {
        self.pages[split(place).0].generation
    }

    /// The record that was added at a place in a generation, unless it is dead.
    pub(super) fn alive(&self, place: Place, generation: u32) -> Option<Record<'_>> {
        let (page, at) = split(place);
        let page = &self.pages[page];
        (page.generation == generation && page.bytes[at] & DEAD == 0).then(|| self.get(place))
    }

    /// The first byte of the record, to have it in the processor's cache.
    pub(super) fn touch(&self, place: Place) -> u8 {
        let (page, at) = split(place);
        self.pages[page].bytes[at]
    }

    /// Overwrites the value and expiry of a record that has room for just these. Whether it was.
    pub(super) fn overwrite(&mut self, place: Place, value: &[u8], expiry: i64) -> bool {
        let (page, at) = split(place);
        let bytes = &mut self.pages[page].bytes;
        let layout = layout(bytes, at);
        if layout.end - layout.value != value.len() || layout.expiry.is_some() != (expiry != NEVER) {
            return false;
        }
        if let Some(at) = layout.expiry {
            bytes[at..at + 8].copy_from_slice(&expiry.to_le_bytes());
        }
        bytes[layout.value..layout.end].copy_from_slice(value);
        true
    }

    /// Marks a record as changed. Whether it was not marked yet.
    pub(super) fn mark(&mut self, place: Place) -> bool {
        let (page, at) = split(place);
        let first = &mut self.pages[page].bytes[at];
        let is_new = *first & CHANGED == 0;
        *first |= CHANGED;
        is_new
    }

    /// Takes the mark off.
    pub(super) fn unmark(&mut self, place: Place) {
        let (page, at) = split(place);
        self.pages[page].bytes[at] &= !CHANGED;
    }

    pub(super) fn is_marked(&self, place: Place) -> bool {
        let (page, at) = split(place);
        self.pages[page].bytes[at] & CHANGED != 0
    }

    /// The record is dead from now on.
    pub(super) fn kill(&mut self, place: Place) {
        let (page, at) = split(place);
        let found = &mut self.pages[page];
        found.live -= layout(&found.bytes, at).end - at;
        found.bytes[at] |= DEAD;
        self.judge(page);
    }

    /// Gives back the memory of a page without live records.
    fn release(&mut self, page: usize) {
        let generation = self.pages[page].generation.wrapping_add(1);
        let emptied = std::mem::replace(&mut self.pages[page], Page { generation, ..Page::default() });
        self.bytes -= emptied.bytes.capacity();
        self.sparse.retain(|sparse| *sparse != page);
        self.free.push(page);
    }

    /// The places of the live records of a page.
    pub(super) fn live_in(&self, page: usize) -> Vec<Place> {
        let bytes = &self.pages[page].bytes;
        let mut places = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at] & DEAD == 0 {
                places.push((page << OFFSET_BITS | at) as Place);
            }
            at = layout(bytes, at).end;
        }
        places
    }

    /// How many pages there are, empty ones included.
    pub(super) fn pages(&self) -> usize {
        self.pages.len()
    }

    /// How many bytes of memory it takes.
    pub(super) fn memory(&self) -> usize {
        self.bytes
    }

    /// How many bytes the records that are alive take.
    #[cfg(test)]
    pub(super) fn live(&self) -> usize {
        self.pages.iter().map(|page| page.live).sum()
    }
}

impl Record<'_> {
    /// The expiry as tables give it.
    pub(super) fn expiry(&self) -> Option<i64> {
        Some(self.expiry).filter(|expiry| *expiry != NEVER)
    }
}
