//! The encodings of texts that begin with numbers: the lengths of the texts, which a reader makes room for.

use super::thrift::Reader;
use super::{Result, damaged};

/// Fails if `values`, in DELTA_LENGTH_BYTE_ARRAY or, with `prefixed`, in DELTA_BYTE_ARRAY, speak of more than
/// `most` values.
pub(super) fn check(values: &[u8], prefixed: bool, most: u64) -> Result<()> {
    let mut reader = Reader::new(values);
    let numbers = Numbers::read(&mut reader, most)?;
    if prefixed {
        numbers.pass(&mut reader)?;
        Numbers::read(&mut reader, most)?;
    }
    Ok(())
}

/// The head of numbers in DELTA_BINARY_PACKED.
struct Numbers {
    per_block: u64,
    parts: u64,
    count: u64,
}

impl Numbers {
    fn read(reader: &mut Reader<'_>, most: u64) -> Result<Self> {
        let (per_block, parts, count) = (reader.varint()?, reader.varint()?, reader.varint()?);
        reader.integer()?;
        if count > most {
            return Err(damaged(format!("a page of {most} values has {count} lengths")));
        }
        let is_possible = parts > 0
            && per_block.is_multiple_of(128)
            && per_block.is_multiple_of(parts)
            && (per_block / parts).is_multiple_of(32);
        if !is_possible {
            return Err(damaged("a page has lengths in blocks of an impossible size"));
        }
        Ok(Self { per_block, parts, count })
    }

    /// Passes over the blocks.
    fn pass(&self, reader: &mut Reader<'_>) -> Result<()> {
        let per_part = self.per_block / self.parts;
        // The first is in the head.
        let mut remaining = self.count.saturating_sub(1);
        while remaining > 0 {
            reader.integer()?;
            for width in reader.take(self.parts)? {
                // The last block may end before its parts do.
                if remaining > 0 {
                    let bytes = u64::from(*width).checked_mul(per_part).map(|bits| bits / 8);
                    reader.take(bytes.ok_or_else(|| damaged("a block of lengths has no end"))?)?;
                }
                remaining = remaining.saturating_sub(per_part);
            }
            if per_part == 0 {
                return Err(damaged("a page has lengths in blocks of an impossible size"));
            }
        }
        Ok(())
    }
}
