//! Thrift's compact protocol, in which Parquet files describe themselves, as far as it takes to look over it.

use super::{Result, damaged};

/// How deep structures may lie in one another.
const DEPTH: usize = 32;

/// What the type of a value is called in the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind(u8);

impl Kind {
    const TRUE: Self = Self(1);
    const FALSE: Self = Self(2);
    const BYTE: Self = Self(3);
    const DOUBLE: Self = Self(7);
    const BINARY: Self = Self(8);
    pub(super) const LIST: Self = Self(9);
    const SET: Self = Self(10);
    const MAP: Self = Self(11);
    pub(super) const STRUCT: Self = Self(12);
    const UUID: Self = Self(13);

    /// Whether it is an integer of 16, 32 or 64 bits.
    fn is_integer(self) -> bool {
        (4..=6).contains(&self.0)
    }
}

/// What is still to be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What comes behind that which was read.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next bytes, as many as `count`.
    pub(super) fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        let count = usize::try_from(count).ok().filter(|count| *count <= self.rest.len());
        let (taken, rest) = self.rest.split_at(count.ok_or_else(|| damaged("a length goes beyond its end"))?);
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// A number in groups of seven bits.
    pub(super) fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(damaged("a number does not end"))
    }

    /// A number with a sign.
    pub(super) fn integer(&mut self) -> Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// An integer that is the value of a field.
    pub(super) fn integer_of(&mut self, kind: Kind) -> Result<i64> {
        if kind.is_integer() { self.integer() } else { Err(damaged("a number is no number")) }
    }

    /// The type of the elements of a list, and how many there are: never more than there are bytes.
    pub(super) fn list(&mut self) -> Result<(Kind, u64)> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => self.varint()?,
            count => u64::from(count),
        };
        self.check_count(count)?;
        Ok((Kind(head & 0x0f), count))
    }

    fn check_count(&self, count: u64) -> Result<()> {
        if count > self.rest.len() as u64 {
            return Err(damaged(format!("a list of {count} elements goes beyond its end")));
        }
        Ok(())
    }

    /// Reads a structure: `field` is given the number and the type of each of its fields, and says whether it has
    /// read the value.
    pub(super) fn structure(
        &mut self,
        field: impl FnMut(i64, Kind, &mut Self) -> Result<bool>,
    ) -> Result<()> {
        self.structure_at(DEPTH, field)
    }

    fn structure_at(
        &mut self,
        depth: usize,
        mut field: impl FnMut(i64, Kind, &mut Self) -> Result<bool>,
    ) -> Result<()> {
        let mut number = 0_i64;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(());
            }
            number = match head >> 4 {
                0 => self.integer()?,
                step => number.saturating_add(i64::from(step)),
            };
            let kind = Kind(head & 0x0f);
            if !field(number, kind, self)? {
                self.skip(kind, false, depth)?;
            }
        }
    }

    /// Passes over a value.
    fn skip(&mut self, kind: Kind, is_element: bool, depth: usize) -> Result<()> {
        let depth = depth.checked_sub(1).ok_or_else(|| damaged("its description is nested too deeply"))?;
        match kind {
            // As a field it is in the type; as an element of a list it takes a byte.
            Kind::TRUE | Kind::FALSE if !is_element => {}
            Kind::TRUE | Kind::FALSE | Kind::BYTE => drop(self.byte()?),
            Kind::DOUBLE => drop(self.take(8)?),
            Kind::UUID => drop(self.take(16)?),
            Kind::BINARY => {
                let length = self.varint()?;
                self.take(length)?;
            }
            Kind::LIST | Kind::SET => {
                let (kind, count) = self.list()?;
                for _ in 0..count {
                    self.skip(kind, true, depth)?;
                }
            }
            Kind::MAP => {
                let count = self.varint()?;
                self.check_count(count)?;
                let kinds = if count == 0 { 0 } else { self.byte()? };
                for _ in 0..count {
                    self.skip(Kind(kinds >> 4), true, depth)?;
                    self.skip(Kind(kinds & 0x0f), true, depth)?;
                }
            }
            Kind::STRUCT => self.structure_at(depth, |_, _, _| Ok(false))?,
            kind if kind.is_integer() => drop(self.varint()?),
            Kind(other) => return Err(damaged(format!("{other} is no type of a value"))),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_passed_over() {
        // true, 300, "ab", [1.0 as bytes], {x: {}}, and a field whose number is written out.
        let bytes = [
            0x11, 0x15, 0xd8, 0x04, 0x18, 2, b'a', b'b', 0x19, 0x23, 7, 8, 0x1c, 0x00, 0x05, 0xc8, 0x01,
            0x02, 0x1b, 0x01, 0x85, 1, b'k', 0x06, 0x00, 0xaa,
        ];
        let mut reader = Reader::new(&bytes);
        let mut found = Vec::new();
        reader
            .structure(|number, kind, reader| {
                found.push(number);
                if number != 100 {
                    return Ok(false);
                }
                assert_eq!(reader.integer_of(kind).unwrap(), 1);
                Ok(true)
            })
            .unwrap();
        assert_eq!(found, [1, 2, 3, 4, 5, 100, 101]);
        assert_eq!(reader.rest(), [0xaa]);
    }

    #[test]
    fn lengths_that_go_beyond_the_end_are_errors() {
        for bytes in [
            &[0x18, 0xff, 0xff, 0xff, 0xff, 0x07][..],
            &[0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07],
            &[0x1b, 0xff, 0xff, 0xff, 0x07, 0x88],
            &[0x15, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x1e, 0x00],
            &[0x15],
            &[0x1c; 100],
        ] {
            assert!(Reader::new(bytes).structure(|_, _, _| Ok(false)).is_err(), "{bytes:?}");
        }
    }
}
