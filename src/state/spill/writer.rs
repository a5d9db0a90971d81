//! Writes runs.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::bloom::Bloom;
use super::row::Row;
use super::run::{Chunk, Run, bloom_hash, failed_in};
use crate::error::Result;
use crate::state::NEVER;

/// How large a block becomes: what one look-up reads.
const BLOCK: u64 = 4096;
const BUFFER: usize = 1 << 18;

/// Writes one run.
#[derive(Debug)]
pub(super) struct RunWriter<'a> {
    directory: &'a Path,
    rows: BufWriter<File>,
    scratch: Vec<u8>,
    at: u64,
    run: Parts,
    /// Rows that expire, and where each begins, until there are so many that they make a chunk.
    expiring: Vec<u8>,
    order: Vec<(i64, usize)>,
    chunk_size: usize,
    by_expiry: Option<BufWriter<File>>,
    by_expiry_at: u64,
}

#[derive(Debug)]
struct Parts {
    first_hashes: Vec<u64>,
    offsets: Vec<u64>,
    bloom: Bloom,
    chunks: Vec<Chunk>,
    count: u64,
    last_expiry: i64,
    hides: bool,
    last_key: u64,
}

fn temporary(directory: &Path) -> Result<BufWriter<File>> {
    let file =
        tempfile::tempfile_in(directory).map_err(|error| failed_in(directory, "create a file in", error))?;
    Ok(BufWriter::with_capacity(BUFFER, file))
}

fn finished(directory: &Path, file: BufWriter<File>) -> Result<File> {
    file.into_inner().map_err(|error| failed_in(directory, "write a file in", error.into_error()))
}

impl<'a> RunWriter<'a> {
    /// For at most `rows` rows. Up to `chunk_size` bytes of memory are used to sort rows by expiry.
    pub(super) fn new(directory: &'a Path, rows: usize, chunk_size: usize) -> Result<Self> {
        let run = Parts {
            first_hashes: Vec::new(),
            offsets: Vec::new(),
            bloom: Bloom::new(rows),
            chunks: Vec::new(),
            count: 0,
            last_expiry: i64::MIN,
            hides: false,
            last_key: 0,
        };
        Ok(Self {
            directory,
            rows: temporary(directory)?,
            scratch: Vec::new(),
            at: 0,
            run,
            expiring: Vec::new(),
            order: Vec::new(),
            chunk_size,
            by_expiry: None,
            by_expiry_at: 0,
        })
    }

    /// Appends a row; rows come in their order.
    pub(super) fn push(&mut self, hash: u64, row: &Row<'_>) -> Result<()> {
        let run = &mut self.run;
        if run.offsets.last().is_none_or(|start| self.at - start >= BLOCK) {
            run.first_hashes.push(hash);
            run.offsets.push(self.at);
        }
        if run.count == 0 || run.last_key != hash {
            run.bloom.add(hash);
        }
        if !row.subkey.is_empty() {
            run.bloom.add(bloom_hash(hash, row.subkey));
        }
        run.last_key = hash;
        run.count += 1;
        run.last_expiry = run.last_expiry.max(row.expiry);
        run.hides |= row.mark.hides();
        self.scratch.clear();
        row.encode(&mut self.scratch);
        self.rows
            .write_all(&self.scratch)
            .map_err(|error| failed_in(self.directory, "write a file in", error))?;
        self.at += self.scratch.len() as u64;
        if row.expiry != NEVER {
            self.order.push((row.expiry, self.expiring.len()));
            self.expiring.extend_from_slice(&self.scratch);
            if self.expiring.len() + self.order.len() * 16 >= self.chunk_size {
                self.end_chunk()?;
            }
        }
        Ok(())
    }

    fn end_chunk(&mut self) -> Result<()> {
        self.order.sort_unstable();
        let Some((next, _)) = self.order.first().copied() else { return Ok(()) };
        let file = match &mut self.by_expiry {
            Some(file) => file,
            empty => empty.insert(temporary(self.directory)?),
        };
        let start = self.by_expiry_at;
        for (_, at) in self.order.drain(..) {
            let length = Row::decode(&self.expiring[at..]).map_or(0, |row| row.encoded_len());
            file.write_all(&self.expiring[at..at + length])
                .map_err(|error| failed_in(self.directory, "write a file in", error))?;
            self.by_expiry_at += length as u64;
        }
        self.expiring.clear();
        self.run.chunks.push(Chunk { start, end: self.by_expiry_at, next });
        Ok(())
    }

    /// The run of all rows.
    pub(super) fn finish(mut self) -> Result<Run> {
        self.end_chunk()?;
        let Parts { first_hashes, mut offsets, bloom, chunks, count, last_expiry, hides, .. } = self.run;
        offsets.push(self.at);
        Ok(Run {
            rows: finished(self.directory, self.rows)?,
            first_hashes,
            offsets,
            bloom,
            by_expiry: self.by_expiry.map(|file| finished(self.directory, file)).transpose()?,
            chunks,
            count,
            last_expiry,
            hides,
        })
    }
}
