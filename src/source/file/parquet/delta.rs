//! Numbers in DELTA_BINARY_PACKED, and the encodings of texts that begin with such numbers: the lengths of the texts,
//! which a reader makes room for.

use super::thrift::Reader;
use super::{Result, damaged};

/// What is encoded as differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delta {
    /// Numbers: DELTA_BINARY_PACKED.
    Numbers,
    /// Texts with their lengths before them: DELTA_LENGTH_BYTE_ARRAY.
    Texts,
    /// Texts without what they have in common with the one before: DELTA_BYTE_ARRAY.
    Suffixes,
}

/// Fails if `values` speak of more than `most` values, or of more bytes than there are: of those of numbers, or of a
/// text before another. Readers do not notice, and take others.
pub(super) fn check(values: &[u8], kind: Delta, most: u64) -> Result<()> {
    let mut reader = Reader::new(values);
    let numbers = Numbers::read(&mut reader, most)?;
    match kind {
        Delta::Numbers => numbers.parts(&mut reader, |_, _, _, _| Ok(())),
        Delta::Texts => Ok(()),
        Delta::Suffixes => {
            let repeated = numbers.lengths(&mut reader)?;
            let added = Numbers::read(&mut reader, most)?.lengths(&mut reader)?;
            check_suffixes(repeated, added)
        }
    }
}

fn check_suffixes(repeated: Vec<i32>, added: Vec<i32>) -> Result<()> {
    let mut before = 0_i64;
    for (repeated, added) in repeated.into_iter().zip(added).map(|(a, b)| (i64::from(a), i64::from(b))) {
        if !(0..=before).contains(&repeated) || added < 0 {
            return Err(damaged(format!("a text repeats {repeated} of the {before} bytes before it")));
        }
        before = repeated + added;
    }
    Ok(())
}

/// The head of numbers in DELTA_BINARY_PACKED.
struct Numbers {
    per_block: u64,
    parts: u64,
    count: u64,
    first: i64,
}

impl Numbers {
    fn read(reader: &mut Reader<'_>, most: u64) -> Result<Self> {
        let (per_block, parts, count) = (reader.varint()?, reader.varint()?, reader.varint()?);
        let first = reader.integer()?;
        if count > most {
            return Err(damaged(format!("a page of {most} values has {count} lengths")));
        }
        let is_possible = parts > 0
            && per_block > 0
            && per_block.is_multiple_of(128)
            && per_block.is_multiple_of(parts)
            && (per_block / parts).is_multiple_of(32);
        if !is_possible {
            return Err(damaged("a page has lengths in blocks of an impossible size"));
        }
        Ok(Self { per_block, parts, count, first })
    }

    /// Gives the parts of the blocks, which come behind it: the least of the differences, their bits, how many
    /// bits each has, and how many of them there are.
    fn parts(
        &self,
        reader: &mut Reader<'_>,
        mut part: impl FnMut(i64, &[u8], u32, u64) -> Result<()>,
    ) -> Result<()> {
        let per_part = self.per_block / self.parts;
        // The first is in the head.
        let mut remaining = self.count.saturating_sub(1);
        while remaining > 0 {
            let least = reader.integer()?;
            for width in reader.take(self.parts)? {
                // The last block may end before its parts do.
                let count = per_part.min(remaining);
                if count > 0 {
                    let bits = u32::from(*width);
                    let bytes = per_part.checked_mul(u64::from(bits)).filter(|_| bits <= u64::BITS);
                    let bytes = bytes.ok_or_else(|| damaged("a number has too many bits"))? / 8;
                    part(least, reader.take(bytes)?, bits, count)?;
                    remaining -= count;
                }
            }
        }
        Ok(())
    }

    /// The numbers, which are lengths.
    fn lengths(&self, reader: &mut Reader<'_>) -> Result<Vec<i32>> {
        let mut values = Vec::with_capacity(self.count as usize);
        let mut last = length(self.first)?;
        values.extend((self.count > 0).then_some(last));
        self.parts(reader, |least, packed, bits, count| {
            if bits > i32::BITS {
                return Err(damaged("a length has too many bits"));
            }
            let least = length(least)?;
            values.extend((0..count).map(|index| {
                last = last.wrapping_add(least).wrapping_add(unpacked(packed, index, bits));
                last
            }));
            Ok(())
        })?;
        Ok(values)
    }
}

fn length(value: i64) -> Result<i32> {
    value.try_into().map_err(|_| damaged(format!("{value} is no length")))
}

/// The number at `index` of those of `bits` bits, of which the lowest come first.
fn unpacked(packed: &[u8], index: u64, bits: u32) -> i32 {
    let start = index * u64::from(bits);
    let (at, shift) = ((start / 8) as usize, start % 8);
    let mut window = [0; 8];
    let rest = packed.get(at..).unwrap_or_default();
    let known = rest.len().min(window.len());
    window[..known].copy_from_slice(&rest[..known]);
    ((u64::from_le_bytes(window) >> shift) & ((1 << bits) - 1)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `numbers` in DELTA_BINARY_PACKED, in blocks of 128 in parts of 32.
    fn packed(numbers: &[i32]) -> Vec<u8> {
        let varint = |mut value: u64| {
            let mut bytes = Vec::new();
            while value > 0x7f {
                bytes.push(value as u8 | 0x80);
                value >>= 7;
            }
            bytes.push(value as u8);
            bytes
        };
        let zigzag = |value: i32| varint(((value << 1) ^ (value >> 31)) as u32 as u64);
        let head = [varint(128), varint(4), varint(numbers.len() as u64)].concat();
        let mut bytes = [head, zigzag(numbers.first().copied().unwrap_or_default())].concat();
        let steps: Vec<i32> = numbers.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
        for block in steps.chunks(128) {
            let least = *block.iter().min().unwrap();
            bytes.extend(zigzag(least));
            let parts: Vec<&[i32]> = block.chunks(32).collect();
            let bits = |part: &&[i32]| {
                let most = part.iter().map(|step| step.wrapping_sub(least) as u32).max().unwrap_or_default();
                (u32::BITS - most.leading_zeros()) as u8
            };
            let mut widths: Vec<u8> = parts.iter().map(bits).collect();
            widths.resize(4, 0);
            bytes.extend(&widths);
            for (part, width) in parts.iter().zip(&widths) {
                let mut set = vec![0_u8; usize::from(*width) * 4];
                for (index, step) in part.iter().enumerate() {
                    let value = step.wrapping_sub(least) as u32;
                    for bit in (0..usize::from(*width)).filter(|bit| value >> bit & 1 == 1) {
                        let at = index * usize::from(*width) + bit;
                        set[at / 8] |= 1 << (at % 8);
                    }
                }
                bytes.extend(set);
            }
        }
        bytes
    }

    #[test]
    fn numbers_come_back() {
        let wide = [0, i32::MAX, i32::MIN, -1, 7];
        let many: Vec<i32> = (0..400).map(|number| number * number % 97).collect();
        for numbers in [&wide[..], &many, &many[..1], &many[..129], &[]] {
            let bytes = packed(numbers);
            let mut reader = Reader::new(&bytes);
            let found = Numbers::read(&mut reader, 400).unwrap().lengths(&mut reader).unwrap();
            assert_eq!(found, numbers);
            assert!(reader.rest().is_empty());
        }
    }

    #[test]
    fn numbers_have_all_their_bits() {
        let many: Vec<i32> = (0..200).map(|number| number * number % 97).collect();
        let bytes = packed(&many);
        super::check(&bytes, Delta::Numbers, 200).unwrap();
        assert!(super::check(&bytes, Delta::Numbers, 199).is_err());
        assert!(super::check(&bytes[..bytes.len() - 1], Delta::Numbers, 200).is_err());
    }

    #[test]
    fn texts_repeat_no_more_than_there_is() {
        let check = |repeated: &[i32], added: &[i32]| {
            super::check(&[packed(repeated), packed(added)].concat(), Delta::Suffixes, 400)
                .map_err(|error| error.to_string())
        };
        check(&[0, 3, 4, 0], &[3, 1, 0, 9]).unwrap();
        check(&[], &[]).unwrap();
        for (repeated, added) in
            [(&[1][..], &[3][..]), (&[0, 4], &[3, 0]), (&[0, -1], &[3, 0]), (&[0, 3], &[3, -1])]
        {
            let error = check(repeated, added).unwrap_err();
            assert!(error.contains("bytes before it"), "{error}");
        }
    }
}
