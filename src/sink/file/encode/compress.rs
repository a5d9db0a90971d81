//! Compression of whole files of lines, with the codecs that DataFusion reads.

use std::io::{self, Write};

use bytes::Bytes;
use datafusion::common::parsers::CompressionTypeVariant;

use super::chunks::Chunks;
use crate::error::{Error, Result};

/// A codec and its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sink::file) struct Compression {
    codec: CompressionTypeVariant,
    level: u32,
}

impl Compression {
    /// Fails if the codec has no such level. Without a level it is the codec's own default, the
    /// same as DataFusion's.
    pub fn try_new(codec: CompressionTypeVariant, level: Option<u32>) -> Result<Self> {
        let (name, least, most, default) = match codec {
            CompressionTypeVariant::UNCOMPRESSED => return Ok(Self { codec, level: 0 }),
            CompressionTypeVariant::GZIP => ("gzip", 0, 9, 6),
            CompressionTypeVariant::BZIP2 => ("bzip2", 1, 9, 6),
            CompressionTypeVariant::XZ => ("xz", 0, 9, 6),
            CompressionTypeVariant::ZSTD => ("zstd", 1, 22, 3),
        };
        let level = level.unwrap_or(default);
        if !(least..=most).contains(&level) {
            let reason = format!("{name} has the levels {least} to {most}");
            return Err(Error::option("compression_level", level, reason));
        }
        Ok(Self { codec, level })
    }

    /// The codec.
    pub fn codec(&self) -> CompressionTypeVariant {
        self.codec
    }

    /// `.gz`, …; empty without compression.
    pub fn extension(&self) -> &'static str {
        match self.codec {
            CompressionTypeVariant::UNCOMPRESSED => "",
            CompressionTypeVariant::GZIP => ".gz",
            CompressionTypeVariant::BZIP2 => ".bz2",
            CompressionTypeVariant::XZ => ".xz",
            CompressionTypeVariant::ZSTD => ".zst",
        }
    }

    /// What one encoder holds, in bytes, from the codecs' manuals: it is what limits how many
    /// files may be open at once.
    fn working_memory(&self) -> usize {
        const MIB: usize = 1 << 20;
        let level = self.level as usize;
        match self.codec {
            CompressionTypeVariant::UNCOMPRESSED => 0,
            CompressionTypeVariant::GZIP => MIB / 4,
            CompressionTypeVariant::BZIP2 => (400 + 800 * level) << 10,
            CompressionTypeVariant::XZ => [3, 9, 17, 32, 48, 94, 94, 186, 370, 674][level.min(9)] * MIB,
            CompressionTypeVariant::ZSTD => match level {
                0..=5 => 4 * MIB,
                6..=12 => 24 * MIB,
                13..=18 => 64 * MIB,
                _ => 800 * MIB,
            },
        }
    }
}

/// Where the lines of one file go: straight or through a codec into [`Chunks`].
pub(in crate::sink::file) struct LineOutput {
    codec: Codec,
    working_memory: usize,
}

enum Codec {
    Plain(Chunks),
    Gzip(flate2::write::GzEncoder<Chunks>),
    Bzip2(bzip2::write::BzEncoder<Chunks>),
    Xz(liblzma::write::XzEncoder<Chunks>),
    Zstd(zstd::Encoder<'static, Chunks>),
}

impl LineOutput {
    /// The output of one new file.
    pub fn try_new(compression: Compression) -> io::Result<Self> {
        let chunks = Chunks::default();
        let level = compression.level;
        let codec = match compression.codec {
            CompressionTypeVariant::UNCOMPRESSED => Codec::Plain(chunks),
            CompressionTypeVariant::GZIP => {
                Codec::Gzip(flate2::write::GzEncoder::new(chunks, flate2::Compression::new(level)))
            }
            CompressionTypeVariant::BZIP2 => {
                let level = bzip2::Compression::try_new(level).unwrap_or_default();
                Codec::Bzip2(bzip2::write::BzEncoder::new(chunks, level))
            }
            CompressionTypeVariant::XZ => {
                let check = liblzma::stream::Check::Crc64;
                let stream = liblzma::stream::Stream::new_easy_encoder(level, check)?;
                Codec::Xz(liblzma::write::XzEncoder::new_stream(chunks, stream))
            }
            CompressionTypeVariant::ZSTD => Codec::Zstd(zstd::Encoder::new(chunks, level as i32)?),
        };
        Ok(Self { codec, working_memory: compression.working_memory() })
    }

    fn chunks(&self) -> &Chunks {
        match &self.codec {
            Codec::Plain(chunks) => chunks,
            Codec::Gzip(encoder) => encoder.get_ref(),
            Codec::Bzip2(encoder) => encoder.get_ref(),
            Codec::Xz(encoder) => encoder.get_ref(),
            Codec::Zstd(encoder) => encoder.get_ref(),
        }
    }

    /// The bytes that came out so far; a codec holds more back.
    pub fn total(&self) -> u64 {
        self.chunks().total()
    }

    /// The memory in use, in bytes.
    pub fn memory(&self) -> usize {
        self.working_memory + self.chunks().held()
    }

    /// The chunks that are ready for storage.
    pub fn take(&mut self) -> Vec<Bytes> {
        match &mut self.codec {
            Codec::Plain(chunks) => chunks,
            Codec::Gzip(encoder) => encoder.get_mut(),
            Codec::Bzip2(encoder) => encoder.get_mut(),
            Codec::Xz(encoder) => encoder.get_mut(),
            Codec::Zstd(encoder) => encoder.get_mut(),
        }
        .take()
    }

    /// Ends the compressed stream and gives what is left.
    pub fn finish(self) -> io::Result<Vec<Bytes>> {
        let chunks = match self.codec {
            Codec::Plain(chunks) => chunks,
            Codec::Gzip(encoder) => encoder.finish()?,
            Codec::Bzip2(encoder) => encoder.finish()?,
            Codec::Xz(encoder) => encoder.finish()?,
            Codec::Zstd(encoder) => encoder.finish()?,
        };
        Ok(chunks.finish())
    }
}

impl Write for LineOutput {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match &mut self.codec {
            Codec::Plain(chunks) => chunks.write(data),
            Codec::Gzip(encoder) => encoder.write(data),
            Codec::Bzip2(encoder) => encoder.write(data),
            Codec::Xz(encoder) => encoder.write(data),
            Codec::Zstd(encoder) => encoder.write(data),
        }
    }

    /// Does nothing: a flush would end a block of the codec after every batch and spoil the
    /// compression, and the bytes do not leave memory here anyway.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_checked() {
        let good = [
            (CompressionTypeVariant::GZIP, Some(9)),
            (CompressionTypeVariant::ZSTD, Some(22)),
            (CompressionTypeVariant::XZ, None),
            (CompressionTypeVariant::UNCOMPRESSED, Some(99)),
        ];
        for (codec, level) in good {
            assert!(Compression::try_new(codec, level).is_ok(), "{codec:?} {level:?}");
        }
        let bad = [
            (CompressionTypeVariant::BZIP2, 0),
            (CompressionTypeVariant::GZIP, 10),
            (CompressionTypeVariant::XZ, 10),
            (CompressionTypeVariant::ZSTD, 0),
        ];
        for (codec, level) in bad {
            let error = Compression::try_new(codec, Some(level)).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("has the levels"), "{error}");
        }
    }
}
