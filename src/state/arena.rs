//! Records of keys and values, one after the other in pages of memory.

use super::index::Place;
use super::table::NEVER;

/// How large a page becomes; a larger record has a page of its own.
const PAGE: usize = 1 << OFFSET_BITS;
const OFFSET_BITS: u32 = 20;
/// Length of the key and of the value (u32 each), expiry (i64).
const HEADER: usize = 16;
/// The length of the key of a record that is dead.
const DEAD: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(super) struct Arena {
    pages: Vec<Page>,
    /// The page that records are added to.
    current: usize,
    /// Pages without bytes.
    free: Vec<usize>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Page {
    bytes: Vec<u8>,
    /// How often its memory was given back: places of earlier times mean nothing any more.
    generation: u32,
    /// How many of the bytes belong to records that are alive.
    live: usize,
}

/// A record that is alive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    /// [`NEVER`] if it has none.
    pub(super) expiry: i64,
}

fn split(place: Place) -> (usize, usize) {
    ((place >> OFFSET_BITS) as usize, place as usize & (PAGE - 1))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    i64::from_le_bytes(number)
}

impl Arena {
    /// Adds a record. Keys and values are shorter than 4 GiB, as Arrow's rows are.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8], expiry: i64) -> Place {
        let length = HEADER + key.len() + value.len();
        let page = self.page_for(length);
        let before = self.pages[page].bytes.capacity();
        let bytes = &mut self.pages[page].bytes;
        let offset = bytes.len();
        bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&expiry.to_le_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
        self.bytes += bytes.capacity() - before;
        self.pages[page].live += length;
        (page << OFFSET_BITS | offset) as Place
    }

    fn page_for(&mut self, length: usize) -> usize {
        let fits = self.pages.get(self.current).is_some_and(|page| {
            page.bytes.is_empty() || (page.bytes.len() + length <= PAGE && page.bytes.len() < PAGE)
        });
        if !fits {
            self.current = self.free.pop().unwrap_or_else(|| {
                self.pages.push(Page::default());
                self.pages.len() - 1
            });
        }
        self.current
    }

    /// The record at a place where one is alive.
    pub(super) fn get(&self, place: Place) -> Record<'_> {
        let (page, at) = split(place);
        let bytes = &self.pages[page].bytes;
        let key_end = at + HEADER + u32_at(bytes, at) as usize;
        let value_end = key_end + u32_at(bytes, at + 4) as usize;
        Record {
            key: &bytes[at + HEADER..key_end],
            value: &bytes[key_end..value_end],
            expiry: i64_at(bytes, at + 8),
        }
    }

    /// Which record of all that were ever at `place` is there now.
    pub(super) fn generation(&self, place: Place) -> u32 {
        self.pages[split(place).0].generation
    }

    /// The record that was added at a place in a generation, unless it is dead.
    pub(super) fn alive(&self, place: Place, generation: u32) -> Option<Record<'_>> {
        let (page, at) = split(place);
        let page = &self.pages[page];
        (page.generation == generation && u32_at(&page.bytes, at) != DEAD).then(|| self.get(place))
    }

    /// The first bytes of the record, to have them in the processor's cache.
    pub(super) fn touch(&self, place: Place) -> u32 {
        let (page, at) = split(place);
        u32_at(&self.pages[page].bytes, at)
    }

    /// Overwrites the value and expiry of a record whose value is as long. Whether it was.
    pub(super) fn overwrite(&mut self, place: Place, value: &[u8], expiry: i64) -> bool {
        let (page, at) = split(place);
        let bytes = &mut self.pages[page].bytes;
        if u32_at(bytes, at + 4) as usize != value.len() {
            return false;
        }
        let start = at + HEADER + u32_at(bytes, at) as usize;
        bytes[at + 8..at + 16].copy_from_slice(&expiry.to_le_bytes());
        bytes[start..start + value.len()].copy_from_slice(value);
        true
    }

    /// The record is dead from now on. Gives its page if most of that is dead.
    pub(super) fn kill(&mut self, place: Place) -> Option<usize> {
        let (page, at) = split(place);
        let record = self.get(place);
        let length = HEADER + record.key.len() + record.value.len();
        // The key's length gives way to the mark; the record's length is kept in the expiry, for walks.
        let bytes = &mut self.pages[page].bytes;
        bytes[at..at + 4].copy_from_slice(&DEAD.to_le_bytes());
        bytes[at + 8..at + 16].copy_from_slice(&(length as i64).to_le_bytes());
        let found = &mut self.pages[page];
        let was_sparse = found.live * 4 < found.bytes.len();
        found.live -= length;
        if page == self.current {
            return None;
        }
        if found.live == 0 {
            self.release(page);
            return None;
        }
        (!was_sparse && found.live * 4 < found.bytes.len()).then_some(page)
    }

    /// Gives back the memory of a page without live records.
    fn release(&mut self, page: usize) {
        let generation = self.pages[page].generation.wrapping_add(1);
        let emptied = std::mem::replace(&mut self.pages[page], Page { generation, ..Page::default() });
        self.bytes -= emptied.bytes.capacity();
        self.free.push(page);
    }

    /// The places of the live records of a page.
    pub(super) fn live_in(&self, page: usize) -> Vec<Place> {
        let bytes = &self.pages[page].bytes;
        let mut places = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let place = (page << OFFSET_BITS | at) as Place;
            if u32_at(bytes, at) == DEAD {
                at += i64_at(bytes, at + 8) as usize;
            } else {
                places.push(place);
                let record = self.get(place);
                at += HEADER + record.key.len() + record.value.len();
            }
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
}

impl Record<'_> {
    /// The expiry as tables give it.
    pub(super) fn expiry(&self) -> Option<i64> {
        Some(self.expiry).filter(|expiry| *expiry != NEVER)
    }
}
