//! Records of keys, subkeys and values, one after the other in pages of memory.
//!
//! A record is a header, the key, the subkey, and the value:
//!
//! | bytes | content |
//! |---|---|
//! | 1 | the key's length (5 bits), [`LONG`] if it is longer, [`LINKED`] if there is a subkey; [`CHANGED`]; [`EXPIRES`]; [`DEAD`] |
//! | 1 | the value's length, [`u8::MAX`] if it is longer |
//! | 0 or 2 | with a subkey: the key's length, [`u8::MAX`] if it is longer; the subkey's (7 bits), [`LONG_SUBKEY`] if it is longer; [`FIRST`] |
//! | 0, 4, 8 or 12 | the lengths (u32) that do not fit there: key, subkey, value |
//! | 0 or 10 | with a subkey: the records before and after it in the chain of its key (40 bits each) |
//! | 0 or 8 | the expiry (i64) |

use super::index::{PLACE_BITS, Place};
use super::table::NEVER;
use crate::error::{Error, Result};

/// How large a page becomes; a larger record has a page of its own.
const PAGE: usize = 1 << OFFSET_BITS;
const OFFSET_BITS: u32 = 20;
/// How large a page is at first.
const SMALLEST: usize = 1 << 10;
/// A page that never held so much is not worth emptying.
const SMALL: usize = 1 << 14;

/// The length in the first byte, or what stands for one.
const LENGTH: u8 = 0x1f;
const LONG: u8 = 0x1f;
const LINKED: u8 = 0x1e;
/// Somebody asked to have it marked.
const CHANGED: u8 = 0x20;
const EXPIRES: u8 = 0x40;
const DEAD: u8 = 0x80;

const LONG_SUBKEY: u8 = 0x7f;
/// The chain of its key begins here.
const FIRST: u8 = 0x80;
/// How many bytes a place has in a header.
const LINK: usize = 5;
/// So far behind its start, most records have ended or have another line of the processor's cache.
const NEAR: usize = 48;
/// The most bytes that a header has.
const HEADER: usize = 2 + 2 + 3 * 4 + 2 * LINK + 8;

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
    /// How many marked records died.
    lost_marks: usize,
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
    /// Without one, it is in no chain.
    pub(super) subkey: &'a [u8],
    pub(super) value: &'a [u8],
    /// [`NEVER`] if it has none.
    pub(super) expiry: i64,
}

/// The records of a key that have subkeys are a chain, whose ends meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Links {
    pub(super) before: Place,
    pub(super) after: Place,
    /// Whether it is the first of the chain.
    pub(super) is_first: bool,
}

/// A place, and which of all records that were ever there is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp(u64);

const GENERATION_BITS: u32 = u64::BITS - PLACE_BITS;
const LAST_GENERATION: u32 = (1 << GENERATION_BITS) - 1;

impl Stamp {
    /// Where the record was then.
    pub(super) fn place(self) -> Place {
        self.0 >> GENERATION_BITS
    }

    fn generation(self) -> u32 {
        self.0 as u32 & LAST_GENERATION
    }
}

/// Where the parts of a record are, from the start of its page.
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// Where the links are, if it has a subkey.
    links: Option<usize>,
    /// Where the expiry is, if it has one.
    expiry: Option<usize>,
    key: usize,
    subkey: usize,
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

fn place_at(bytes: &[u8], at: usize) -> Place {
    let mut place = [0; 8];
    place[..LINK].copy_from_slice(&bytes[at..at + LINK]);
    Place::from_le_bytes(place)
}

fn layout(bytes: &[u8], start: usize) -> Layout {
    let mut at = start + 2;
    let long = |short: u8, long: u8, at: &mut usize| {
        if short != long {
            return usize::from(short);
        }
        *at += 4;
        u32_at(bytes, *at - 4)
    };
    let (first, is_linked) = (bytes[start] & LENGTH, bytes[start] & LENGTH == LINKED);
    let (key, subkey) = if is_linked {
        at += 2;
        let key = long(bytes[start + 2], u8::MAX, &mut at);
        (key, long(bytes[start + 3] & !FIRST, LONG_SUBKEY, &mut at))
    } else {
        (long(first, LONG, &mut at), 0)
    };
    let value = long(bytes[start + 1], u8::MAX, &mut at);
    let links = is_linked.then_some(at);
    if is_linked {
        at += 2 * LINK;
    }
    let expiry = (bytes[start] & EXPIRES != 0).then_some(at);
    if expiry.is_some() {
        at += 8;
    }
    Layout {
        links,
        expiry,
        key: at,
        subkey: at + key,
        value: at + key + subkey,
        end: at + key + subkey + value,
    }
}

/// The header of a record that is being made.
struct Header {
    bytes: [u8; HEADER],
    length: usize,
}

impl Header {
    /// That of a record that is linked to nothing yet.
    fn of(record: Record<'_>) -> Result<Self> {
        let mut header = Self { bytes: [0; HEADER], length: 2 };
        let is_linked = !record.subkey.is_empty();
        if is_linked {
            header.bytes[0] = LINKED;
            header.length += 2;
            header.put_length(record.key, 2, u8::MAX, u8::MAX)?;
            header.put_length(record.subkey, 3, LONG_SUBKEY, LONG_SUBKEY)?;
        } else {
            header.put_length(record.key, 0, LINKED, LONG)?;
        }
        header.put_length(record.value, 1, u8::MAX, u8::MAX)?;
        if is_linked {
            header.length += 2 * LINK;
        }
        if record.expiry != NEVER {
            header.bytes[0] |= EXPIRES;
            header.put(&record.expiry.to_le_bytes());
        }
        Ok(header)
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// Puts a length below `end` into the byte `at`, and `long` for any other, which follows.
    fn put_length(&mut self, part: &[u8], at: usize, end: u8, long: u8) -> Result<()> {
        let length = u32::try_from(part.len()).map_err(|_| {
            Error::Invalid(format!(
                "a row of state has {} bytes in its key or value; 4 GiB is the most: keep less in one group",
                part.len()
            ))
        })?;
        match u8::try_from(length) {
            Ok(short) if short < end => self.bytes[at] = short,
            _ => {
                self.bytes[at] = long;
                self.put(&length.to_le_bytes());
            }
        }
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Arena {
    /// Adds a record. One with a subkey has still to be linked.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a part of it has more than 4 GiB.
    pub(super) fn add(&mut self, record: Record<'_>) -> Result<Place> {
        let Record { key, subkey, value, .. } = record;
        let header = Header::of(record)?;
        let length = header.length + key.len() + subkey.len() + value.len();
        let page = self.page_for(self.fresh, length);
        self.fresh = Some(page);
        let place = self.append(page, length);
        let (_, mut at) = split(place);
        let bytes = &mut self.pages[page].bytes;
        for part in [header.bytes(), key, subkey, value] {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        Ok(place)
    }

    /// Where the record is in the chain of its key, if it has a subkey.
    pub(super) fn links(&self, place: Place) -> Option<Links> {
        let (page, at) = split(place);
        let bytes = &self.pages[page].bytes;
        let links = layout(bytes, at).links?;
        let (before, after) = (place_at(bytes, links), place_at(bytes, links + LINK));
        Some(Links { before, after, is_first: bytes[at + 3] & FIRST != 0 })
    }

    /// Links a record that has a subkey.
    pub(super) fn link(&mut self, place: Place, links: Links) {
        let (page, at) = split(place);
        let bytes = &mut self.pages[page].bytes;
        let Some(start) = layout(bytes, at).links else { return };
        bytes[start..start + LINK].copy_from_slice(&links.before.to_le_bytes()[..LINK]);
        bytes[start + LINK..start + 2 * LINK].copy_from_slice(&links.after.to_le_bytes()[..LINK]);
        bytes[at + 3] = bytes[at + 3] & !FIRST | if links.is_first { FIRST } else { 0 };
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
        let Layout { expiry, key, subkey, value, end, .. } = layout(bytes, at);
        let expiry = expiry.map_or(NEVER, |at| i64_at(bytes, at));
        Record { key: &bytes[key..subkey], subkey: &bytes[subkey..value], value: &bytes[value..end], expiry }
    }

    /// Says which record is meant that is at `place` now.
    pub(super) fn stamp(&self, place: Place) -> Stamp {
        Stamp(place << GENERATION_BITS | u64::from(self.pages[split(place).0].generation))
    }

    /// Where the record is that was meant, unless it is dead.
    pub(super) fn alive(&self, stamp: Stamp) -> Option<Place> {
        let (page, at) = split(stamp.place());
        let page = &self.pages[page];
        (page.generation == stamp.generation() && page.bytes[at] & DEAD == 0).then(|| stamp.place())
    }

    /// The first byte where the record was that is meant, to have it in the processor's cache.
    pub(super) fn peek(&self, stamp: Stamp) -> u8 {
        let (page, at) = split(stamp.place());
        self.pages[page].bytes.get(at).copied().unwrap_or_default()
    }

    /// Bytes of the record, to have it in the processor's cache: all of it if it is as small as most are.
    pub(super) fn touch(&self, place: Place) -> u8 {
        let (page, at) = split(place);
        let bytes = &self.pages[page].bytes;
        bytes[at] ^ bytes[(at + NEAR).min(bytes.len() - 1)]
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

    /// How many records that were marked have died or moved since this was last asked to begin anew.
    pub(super) fn lost_marks(&self) -> usize {
        self.lost_marks
    }

    /// Begins to count lost marks anew.
    pub(super) fn forget_lost_marks(&mut self) {
        self.lost_marks = 0;
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
        self.lost_marks += usize::from(found.bytes[at] & CHANGED != 0);
        found.bytes[at] |= DEAD;
        self.judge(page);
    }

    /// Gives back the memory of a page without live records.
    fn release(&mut self, page: usize) {
        let generation = self.pages[page].generation + 1;
        let emptied = std::mem::replace(&mut self.pages[page], Page { generation, ..Page::default() });
        self.bytes -= emptied.bytes.capacity();
        self.sparse.retain(|sparse| *sparse != page);
        // One more time, and old stamps would mean something again.
        if generation < LAST_GENERATION {
            self.free.push(page);
        }
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
