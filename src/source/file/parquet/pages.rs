//! What the pages of a column say of themselves.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::parquet::basic::{Compression, Encoding};
use datafusion::parquet::column::page::{Page, PageReader};
use datafusion::parquet::file::metadata::ColumnChunkMetaData;
use datafusion::parquet::file::serialized_reader::SerializedPageReader;

use super::delta::{self, Delta};
use super::thrift::{Kind, Reader};
use super::{Result, damaged};

/// Fails if the pages `bytes` of `column` cannot be what their heads say; `is_whole`: they are all of them.
pub(super) fn check(column: &ColumnChunkMetaData, bytes: &Bytes, is_whole: bool) -> Result<()> {
    let expected = column.num_values();
    let mut values = 0_i64;
    let mut rest = &bytes[..];
    // What comes behind the last value is never read.
    while !rest.is_empty() && values < expected {
        let mut reader = Reader::new(rest);
        let head = Head::read(&mut reader)?;
        let content = reader.take(head.compressed()?)?;
        let length = rest.len() - reader.rest().len();
        head.check_size(column.compression(), content.len())?;
        head.check_sum(content)?;
        if head.is_dictionary {
            head.check_dictionary()?;
        } else if head.is_data {
            values = values.saturating_add(head.values);
            if head.values < 0 || values > expected {
                return Err(contradiction(column, values));
            }
            if let Some(kind) = head.delta() {
                let start = bytes.len() - rest.len();
                check_differences(column, bytes.slice(start..start + length), kind)?;
            }
        }
        rest = reader.rest();
    }
    if is_whole && values != expected {
        return Err(contradiction(column, values));
    }
    Ok(())
}

fn contradiction(column: &ColumnChunkMetaData, values: i64) -> super::ParquetError {
    let (name, expected) = (column.column_path().string(), column.num_values());
    damaged(format!("the pages of column '{name}' have {values} values, and its footer says {expected}"))
}

/// The head of a page.
#[derive(Debug, Default)]
struct Head {
    uncompressed: i64,
    compressed: i64,
    /// The CRC32 of what comes behind the head, if it says one.
    checksum: Option<i64>,
    is_dictionary: bool,
    is_data: bool,
    values: i64,
    encoding: i64,
}

impl Head {
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        const DICTIONARY: i64 = 7;
        let mut head = Self::default();
        reader.structure(|number, kind, reader| {
            match number {
                2 => head.uncompressed = reader.integer_of(kind)?,
                3 => head.compressed = reader.integer_of(kind)?,
                4 => head.checksum = Some(reader.integer_of(kind)?),
                5 | DICTIONARY | 8 if kind == Kind::STRUCT => {
                    head.is_dictionary |= number == DICTIONARY;
                    head.is_data |= number != DICTIONARY;
                    // Only pages of version 2 have nulls and rows before the encoding.
                    let encoding_at = if number == 8 { 4 } else { 2 };
                    reader.structure(|number, kind, reader| {
                        match number {
                            1 => head.values = reader.integer_of(kind)?,
                            number if number == encoding_at => head.encoding = reader.integer_of(kind)?,
                            _ => return Ok(false),
                        }
                        Ok(true)
                    })?;
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(head)
    }

    fn compressed(&self) -> Result<u64> {
        u64::try_from(self.compressed).map_err(|_| damaged("a page has a negative size"))
    }

    /// Fails if so many bytes cannot become as many as it says.
    fn check_size(&self, compression: Compression, content: usize) -> Result<()> {
        /// What an empty page may have become.
        const SLACK: u64 = 64;
        // How many bytes one byte can stand for, at most.
        let ratio = match compression {
            // What is said is not used.
            Compression::UNCOMPRESSED => return Ok(()),
            Compression::SNAPPY => 64,
            Compression::LZ4 | Compression::LZ4_RAW => 256,
            Compression::GZIP(_) => 1100,
            Compression::ZSTD(_) => 1 << 16,
            Compression::BROTLI(_) | Compression::LZO => 1 << 20,
        };
        let most = (content as u64).saturating_mul(ratio).saturating_add(SLACK);
        match u64::try_from(self.uncompressed) {
            Ok(size) if size <= most => Ok(()),
            _ => Err(damaged(format!(
                "a page of {content} bytes is said to be compressed from {}",
                self.uncompressed
            ))),
        }
    }

    /// Fails if `content` is not what was written.
    fn check_sum(&self, content: &[u8]) -> Result<()> {
        match self.checksum {
            // It is written as a signed number.
            Some(checksum) if crc32fast::hash(content) != checksum as u32 => Err(damaged(format!(
                "a page of {} bytes does not have the checksum that it says",
                content.len()
            ))),
            _ => Ok(()),
        }
    }

    /// Fails if a dictionary is said to have more entries than bytes.
    fn check_dictionary(&self) -> Result<()> {
        if (0..=self.uncompressed).contains(&self.values) {
            return Ok(());
        }
        let (values, bytes) = (self.values, self.uncompressed);
        Err(damaged(format!("a dictionary of {bytes} bytes is said to have {values} entries")))
    }

    /// What its values are, if they are encoded as differences.
    fn delta(&self) -> Option<Delta> {
        let encodings = [
            (Encoding::DELTA_BINARY_PACKED, Delta::Numbers),
            (Encoding::DELTA_LENGTH_BYTE_ARRAY, Delta::Texts),
            (Encoding::DELTA_BYTE_ARRAY, Delta::Suffixes),
        ];
        encodings.into_iter().find(|(encoding, _)| *encoding as i64 == self.encoding).map(|(_, kind)| kind)
    }
}

/// Fails if the page, the first of `bytes`, has more differences than values, or fewer bytes than they take.
fn check_differences(column: &ColumnChunkMetaData, bytes: Bytes, kind: Delta) -> Result<()> {
    let alone = column
        .clone()
        .into_builder()
        .set_dictionary_page_offset(None)
        .set_data_page_offset(0)
        .set_total_compressed_size(bytes.len() as i64)
        .build()?;
    let page = SerializedPageReader::new(Arc::new(bytes), &alone, 0, None)?.get_next_page()?;
    let column = column.column_descr();
    let (most, values) = match &page {
        Some(Page::DataPage { buf, num_values, def_level_encoding, rep_level_encoding, .. }) => {
            let mut reader = Reader::new(buf);
            let levels =
                [(column.max_rep_level(), rep_level_encoding), (column.max_def_level(), def_level_encoding)];
            for (max, encoding) in levels {
                pass_levels(&mut reader, max, *encoding, *num_values)?;
            }
            (*num_values, reader.rest())
        }
        Some(Page::DataPageV2 { buf, num_values, def_levels_byte_len, rep_levels_byte_len, .. }) => {
            let levels = u64::from(*def_levels_byte_len) + u64::from(*rep_levels_byte_len);
            let mut reader = Reader::new(buf);
            reader.take(levels)?;
            (*num_values, reader.rest())
        }
        Some(Page::DictionaryPage { .. }) | None => return Ok(()),
    };
    // Without values there may be nothing at all.
    if values.is_empty() { Ok(()) } else { delta::check(values, kind, u64::from(most)) }
}

/// Passes over levels up to `max` in a page of version 1.
fn pass_levels(reader: &mut Reader<'_>, max: i16, encoding: Encoding, values: u32) -> Result<()> {
    if max <= 0 {
        return Ok(());
    }
    #[expect(deprecated, reason = "there are files that have it")]
    let is_packed = encoding == Encoding::BIT_PACKED;
    let length = match reader.rest().first_chunk::<4>() {
        _ if is_packed => {
            let bits = u64::from(i16::BITS - max.leading_zeros());
            (u64::from(values) * bits).div_ceil(8)
        }
        Some(length) => 4 + u64::from(u32::from_le_bytes(*length)),
        None => return Err(damaged("a page ends before its values")),
    };
    reader.take(length).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_was_written() {
        let content = b"values";
        let checksum = crc32fast::hash(content) as i32;
        let mut head = vec![0x15, 0, 0x15, 12, 0x15, 12, 0x15];
        // Zigzag, in groups of seven bits.
        let mut rest = (checksum << 1 ^ checksum >> 31) as u32;
        while rest > 0x7f {
            head.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        head.extend([rest as u8, 0]);
        let head = Head::read(&mut Reader::new(&head)).unwrap();
        assert!(head.check_sum(content).is_ok());
        assert!(head.check_sum(b"valuez").unwrap_err().to_string().contains("checksum"));
        assert!(Head::default().check_sum(content).is_ok(), "most files have none");
    }
}
