//! Protobuf's encoding: fields with numbers, one after the other.

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Raw<'a> {
    /// Of as many bytes as it needs.
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    /// Text, bytes, a message, or several numbers.
    Bytes(&'a [u8]),
}

/// Groups within one another, at most.
const MAX_DEPTH: usize = 100;

const ENDS: &str = "it ends inside of a field";

/// The next number, and what follows.
pub(crate) fn varint(data: &[u8]) -> Result<(u64, &[u8]), &'static str> {
    let mut value = 0;
    for (index, byte) in data.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((value, &data[index + 1..]));
        }
    }
    Err(if data.len() < 10 { ENDS } else { "a number is too long" })
}

/// Eight or four bytes, the lowest first.
pub(crate) fn fixed64(data: &[u8]) -> Result<(u64, &[u8]), &'static str> {
    let (bytes, rest) = data.split_first_chunk().ok_or(ENDS)?;
    Ok((u64::from_le_bytes(*bytes), rest))
}

pub(crate) fn fixed32(data: &[u8]) -> Result<(u32, &[u8]), &'static str> {
    let (bytes, rest) = data.split_first_chunk().ok_or(ENDS)?;
    Ok((u32::from_le_bytes(*bytes), rest))
}

/// The fields of a message, in the order in which they come; a number may come again.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn field(&mut self, depth: usize) -> Result<(u64, Field<'a>), &'static str> {
        if depth > MAX_DEPTH {
            return Err("groups are too deep");
        }
        let (tag, rest) = varint(self.rest)?;
        self.rest = rest;
        let number = tag >> 3;
        if number == 0 || number > u64::from(u32::MAX >> 3) {
            return Err("a field has a number that there is not");
        }
        let value = match tag & 7 {
            0 => Raw::Varint(self.take(varint)?),
            1 => Raw::Fixed64(self.take(fixed64)?),
            2 => {
                let length = self.take(varint)?;
                let length = usize::try_from(length).map_err(|_| ENDS)?;
                let (bytes, rest) = self.rest.split_at_checked(length).ok_or(ENDS)?;
                self.rest = rest;
                Raw::Bytes(bytes)
            }
            3 => {
                // What is in a group nobody asks for: they are long out of use.
                while !matches!(self.field(depth + 1)?, (end, Field::EndOfGroup) if end == number) {}
                return Ok((number, Field::Group));
            }
            4 => return Ok((number, Field::EndOfGroup)),
            5 => Raw::Fixed32(self.take(fixed32)?),
            _ => return Err("a field is of a kind that there is not"),
        };
        Ok((number, Field::Value(value)))
    }

    fn take<T>(
        &mut self,
        read: impl Fn(&'a [u8]) -> Result<(T, &'a [u8]), &'static str>,
    ) -> Result<T, &'static str> {
        let (value, rest) = read(self.rest)?;
        self.rest = rest;
        Ok(value)
    }
}

enum Field<'a> {
    Value(Raw<'a>),
    Group,
    EndOfGroup,
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Raw<'a>), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            match self.field(0) {
                Ok((number, Field::Value(value))) => {
                    return Some(u32::try_from(number).map(|number| (number, value)).map_err(|_| ENDS));
                }
                Ok((_, Field::Group)) => {}
                Ok((_, Field::EndOfGroup)) => return self.stop("a group ends that did not begin"),
                Err(reason) => return self.stop(reason),
            }
        }
        None
    }
}

impl Fields<'_> {
    fn stop<T>(&mut self, reason: &'static str) -> Option<Result<T, &'static str>> {
        self.rest = &[];
        Some(Err(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_and_what_is_none_is_refused() {
        fn read(data: &[u8]) -> Vec<Option<(u32, Raw<'_>)>> {
            Fields::new(data).map(Result::ok).collect()
        }
        assert_eq!(read(&[8, 0x96, 1]), [Some((1, Raw::Varint(150)))]);
        assert_eq!(
            read(&[0x12, 1, b'a', 0x1d, 1, 0, 0, 0, 0x21, 2, 0, 0, 0, 0, 0, 0, 0]),
            [Some((2, Raw::Bytes(b"a"))), Some((3, Raw::Fixed32(1))), Some((4, Raw::Fixed64(2)))]
        );
        // A group around a field, and one behind it.
        assert_eq!(read(&[0x0b, 0x10, 1, 0x0c, 0x18, 1]), [Some((3, Raw::Varint(1)))]);
        for bad in [
            &[8][..],
            &[8, 0x80],
            &[0x12, 2, b'a'],
            &[0x0b, 0x10, 1],
            &[0x0c],
            &[0, 0],
            &[0x0f],
            &[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
        ] {
            assert_eq!(read(bad), [None], "{bad:?}");
        }
        assert_eq!(read(&[0x0b; 300]), [None], "not for ever");
    }
}
