//! A row in a run, and rows read one after the other.

use std::cmp::Ordering;
use std::fs::File;

use crate::error::Result;
use crate::memory::local_disk::{Moved, read_at};
use crate::state::NEVER;

/// How a row stands to older rows of the same key and subkey, which are in older runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// There are none.
    New,
    /// They do not expire later.
    Covers,
    /// There may be some that expire later.
    Outlived,
    /// This is no row, but says that the older ones are gone.
    Removed,
}

impl Mark {
    pub(super) fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::New,
            1 => Self::Covers,
            2 => Self::Outlived,
            _ => Self::Removed,
        }
    }

    /// Whether older rows would come to light if this one were not there.
    pub(super) fn hides(self) -> bool {
        matches!(self, Self::Outlived | Self::Removed)
    }
}

/// A row. Its expiry is [`NEVER`](crate::state::NEVER) if it has none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) key: &'a [u8],
    pub(super) subkey: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) expiry: i64,
    pub(super) mark: Mark,
}

/// Lengths of key, subkey and value (u32 each), expiry (i64), mark (u8).
const HEADER: usize = 21;

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut number = [0; N];
    number.copy_from_slice(&bytes[at..at + N]);
    number
}

impl<'a> Row<'a> {
    /// What a row needs in a run.
    pub(super) fn encoded_len(&self) -> usize {
        HEADER + self.key.len() + self.subkey.len() + self.value.len()
    }

    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        for part in [self.key, self.subkey, self.value] {
            into.extend_from_slice(&(part.len() as u32).to_le_bytes());
        }
        into.extend_from_slice(&self.expiry.to_le_bytes());
        into.push(self.mark as u8);
        for part in [self.key, self.subkey, self.value] {
            into.extend_from_slice(part);
        }
    }

    /// The row at the front of `bytes`, unless that is only a part of it.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() < HEADER {
            return None;
        }
        let length = |at| u32::from_le_bytes(number(bytes, at)) as usize;
        let expiry = i64::from_le_bytes(number(bytes, 12));
        let mark = Mark::from_byte(bytes[20]);
        let (key, rest) = bytes[HEADER..].split_at_checked(length(0))?;
        let (subkey, rest) = rest.split_at_checked(length(4))?;
        let value = rest.get(..length(8))?;
        Some(Self { key, subkey, value, expiry, mark })
    }

    /// Where the row is among those with the same hash.
    pub(super) fn name(&self) -> (&'a [u8], &'a [u8]) {
        (self.key, self.subkey)
    }
}

pub(super) fn is_expired(expiry: i64, expired: Option<i64>) -> bool {
    expiry != NEVER && Some(expiry) <= expired
}

/// Something that gives rows in the order of their hashes, keys and subkeys.
pub(super) trait Sorted {
    /// The row it is at.
    fn row(&self) -> Option<(u64, Row<'_>)>;

    /// Goes to the next one.
    fn advance(&mut self) -> Result<()>;
}

/// Compares rows by where they are in a run.
pub(super) fn compare(one: &(u64, Row<'_>), other: &(u64, Row<'_>)) -> Ordering {
    one.0.cmp(&other.0).then_with(|| one.1.name().cmp(&other.1.name()))
}

/// Rows of a file, one after the other.
#[derive(Debug)]
pub(super) struct RowStream {
    /// What of the file is not in the buffer yet.
    offset: u64,
    end: u64,
    buffer: Vec<u8>,
    /// Where in the buffer the row begins that it is at.
    at: usize,
    length: usize,
}

/// How much is read at a time.
const PIECE: usize = 1 << 17;

impl RowStream {
    /// The rows from `offset` to `end`; it is at none yet.
    pub(super) fn new(offset: u64, end: u64) -> Self {
        Self { offset, end, buffer: Vec::new(), at: 0, length: 0 }
    }

    /// Where in the file the row that it is at begins.
    pub(super) fn position(&self) -> u64 {
        self.offset - (self.buffer.len() - self.at) as u64
    }

    /// Goes to the next row; whether there is one.
    pub(super) fn advance(&mut self, file: &File) -> Result<bool> {
        self.at += self.length;
        self.length = 0;
        loop {
            if let Some(row) = Row::decode(&self.buffer[self.at..]) {
                self.length = row.encoded_len();
                return Ok(true);
            }
            if self.offset == self.end {
                return Ok(false);
            }
            self.buffer.drain(..self.at);
            self.at = 0;
            let kept = self.buffer.len();
            let more = usize::try_from(self.end - self.offset).unwrap_or(PIECE).min(PIECE);
            self.buffer.resize(kept + more, 0);
            read_at(file, self.offset, &mut self.buffer[kept..])
                .map_err(|error| Moved::State.failed("read", error))?;
            self.offset += more as u64;
        }
    }

    /// The row that it is at.
    pub(super) fn row(&self) -> Option<Row<'_>> {
        Row::decode(&self.buffer[self.at..self.at + self.length])
    }
}
