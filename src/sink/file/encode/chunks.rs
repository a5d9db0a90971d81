use std::io::{self, Write};
use std::mem;

use bytes::Bytes;

/// The size at which encoded bytes are handed on to storage.
const CHUNK_BYTES: usize = 1 << 20;

/// Where encoders write to: collects bytes in memory until a chunk is worth an I/O call, so that
/// encoding stays synchronous and free of copies and of errors.
#[derive(Debug, Default)]
pub(in crate::sink::file) struct Chunks {
    full: Vec<Bytes>,
    tail: Vec<u8>,
    total: u64,
}

impl Chunks {
    /// All bytes ever written here.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The bytes that are held in memory.
    pub fn held(&self) -> usize {
        self.tail.capacity() + self.full.iter().map(Bytes::len).sum::<usize>()
    }

    /// The full chunks, oldest first.
    pub fn take(&mut self) -> Vec<Bytes> {
        mem::take(&mut self.full)
    }

    /// Everything that is left, oldest first.
    pub fn finish(mut self) -> Vec<Bytes> {
        if !self.tail.is_empty() {
            self.full.push(Bytes::from(self.tail));
        }
        self.full
    }
}

impl Write for Chunks {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.tail.extend_from_slice(data);
        self.total += data.len() as u64;
        if self.tail.len() >= CHUNK_BYTES {
            // A file that filled one chunk will most likely fill the next.
            let full = mem::replace(&mut self.tail, Vec::with_capacity(CHUNK_BYTES));
            self.full.push(Bytes::from(full));
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_every_byte_in_order() -> io::Result<()> {
        let data: Vec<u8> = (0..3 * CHUNK_BYTES + 7).map(|i| (i % 251) as u8).collect();
        let mut chunks = Chunks::default();
        let mut seen = Vec::new();
        for piece in data.chunks(300_001) {
            chunks.write_all(piece)?;
            for chunk in chunks.take() {
                assert!(chunk.len() >= CHUNK_BYTES);
                seen.extend_from_slice(&chunk);
            }
        }
        assert_eq!(chunks.total(), data.len() as u64);
        assert!(!seen.is_empty());
        for chunk in chunks.finish() {
            seen.extend_from_slice(&chunk);
        }
        assert_eq!(seen, data);
        Ok(())
    }
}
