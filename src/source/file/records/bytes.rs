//! The decompressed bytes of a file, or of the lines in a part of it.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion_datasource::PartitionedFile;
use datafusion_datasource::boundary_stream::AlignedBoundaryStream;
use encoding_rs::{Decoder, DecoderResult, Encoding};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectStore, ObjectStoreExt};

use crate::source::file::steady::SteadyFile;

/// The bytes of a file as they come in, in UTF-8.
pub(in crate::source::file) struct ByteSource {
    raw: RawBytes,
    /// What makes UTF-8 of them, and room for what is to be.
    decoder: Option<(Decoder, Vec<u8>)>,
}

/// How a file's bytes come in.
enum RawBytes {
    /// From a local file, read where it is polled, as DataFusion's readers do.
    Local(Box<dyn Read + Send>),
    /// From a store.
    Stream(BoxStream<'static, DataFusionResult<Bytes>>),
}

impl ByteSource {
    /// Opens `file`. If it is only a part, the bytes are those of the lines that begin in the part;
    /// lines end in `terminator`.
    pub(in crate::source::file) async fn open(
        store: &Arc<dyn ObjectStore>,
        file: &PartitionedFile,
        compression: FileCompressionType,
        terminator: u8,
    ) -> DataFusionResult<Self> {
        if file.range.is_some() {
            let (start, end) = file.range();
            let (store, path) = (Arc::clone(store), file.path().clone());
            let lines =
                AlignedBoundaryStream::new(store, path, start, end, file.object_meta.size, terminator)
                    .await?;
            let raw = RawBytes::Stream(lines.map_err(DataFusionError::from).boxed());
            return Ok(Self { raw, decoder: None });
        }
        let opened = store.get(file.path()).await?;
        let raw = match opened.payload {
            GetResultPayload::File(file, _) => {
                RawBytes::Local(compression.convert_read(SteadyFile::new(file, &opened.meta))?)
            }
            GetResultPayload::Stream(stream) => {
                let stream = stream.map_err(DataFusionError::from).boxed();
                RawBytes::Stream(compression.convert_stream(stream)?)
            }
        };
        Ok(Self { raw, decoder: None })
    }

    /// The same bytes, written in `encoding`; as they are without one.
    pub(in crate::source::file) fn written_in(self, encoding: Option<&'static Encoding>) -> Self {
        Self { decoder: encoding.map(|encoding| (encoding.new_decoder(), Vec::new())), ..self }
    }

    /// Appends at least `wanted` bytes to `buffer`, or all there are; tells whether that was the
    /// end. After an error, `buffer` holds everything before it.
    pub(in crate::source::file) async fn read(
        &mut self,
        buffer: &mut Vec<u8>,
        wanted: usize,
    ) -> DataFusionResult<bool> {
        let Some((decoder, raw)) = &mut self.decoder else { return self.raw.read(buffer, wanted).await };
        let target = buffer.len().saturating_add(wanted);
        while buffer.len() < target {
            raw.clear();
            let end = self.raw.read(raw, wanted).await?;
            decode(decoder, raw, buffer, end);
            if end {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Stands for bytes that are no text in their encoding. It is none in UTF-8 either, so that the record that has it
/// is malformed, and not all that follows.
const NO_TEXT: u8 = 0xff;

/// Appends `raw` to `buffer` in UTF-8.
fn decode(decoder: &mut Decoder, raw: &[u8], buffer: &mut Vec<u8>, end: bool) {
    let mut next = 0;
    loop {
        let room = decoder.max_utf8_buffer_length_without_replacement(raw.len() - next).unwrap_or(1 << 20);
        let before = buffer.len();
        buffer.resize(before + room, 0);
        let (result, read, written) =
            decoder.decode_to_utf8_without_replacement(&raw[next..], &mut buffer[before..], end);
        buffer.truncate(before + written);
        next += read;
        match result {
            DecoderResult::InputEmpty => return,
            DecoderResult::OutputFull => {}
            DecoderResult::Malformed(..) => buffer.push(NO_TEXT),
        }
    }
}

impl RawBytes {
    /// As [`ByteSource::read`].
    async fn read(&mut self, buffer: &mut Vec<u8>, wanted: usize) -> DataFusionResult<bool> {
        match self {
            Self::Local(file) => {
                buffer.reserve(wanted);
                let read = file.take(wanted as u64).read_to_end(buffer)?;
                Ok(read < wanted)
            }
            Self::Stream(stream) => {
                let target = buffer.len().saturating_add(wanted);
                while buffer.len() < target {
                    match stream.next().await.transpose()? {
                        Some(bytes) => buffer.extend_from_slice(&bytes),
                        None => return Ok(true),
                    }
                }
                Ok(false)
            }
        }
    }
}

/// How many `terminator`s the file has before the first line that begins at or after `start`.
pub(super) async fn terminators_before(
    store: &Arc<dyn ObjectStore>,
    file: &PartitionedFile,
    start: u64,
    terminator: u8,
) -> DataFusionResult<u64> {
    let Some(skipped) = start.checked_sub(1) else { return Ok(0) };
    // The one that ends the line which holds the byte before `start`.
    let mut count = 1;
    if skipped > 0 {
        let options = GetOptions { range: Some(GetRange::Bounded(0..skipped)), ..GetOptions::default() };
        let mut stream = store.get_opts(file.path(), options).await?.into_stream();
        while let Some(bytes) = stream.next().await.transpose()? {
            count += memchr::memchr_iter(terminator, &bytes).count() as u64;
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use object_store::PutPayload;
    use object_store::memory::InMemory;

    use super::*;

    async fn stored(content: &'static str) -> (Arc<dyn ObjectStore>, PartitionedFile) {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let file = PartitionedFile::new("a", content.len() as u64);
        store.put(file.path(), PutPayload::from_static(content.as_bytes())).await.unwrap();
        (store, file)
    }

    #[tokio::test]
    async fn other_encodings_become_utf_8_however_the_bytes_come() {
        for (label, content) in [
            ("latin1", &b"na\xefve \xa3\n"[..]),
            ("utf-16", b"\xff\xfen\0a\0\xef\0v\0e\0 \0\xa3\0\n\0"),
            ("utf-16be", b"\0n\0a\0\xef\0v\0e\0 \0\xa3\0\n"),
        ] {
            for step in 1..8 {
                let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
                let file = PartitionedFile::new("a", content.len() as u64);
                store.put(file.path(), PutPayload::from_static(content)).await.unwrap();
                let bytes = ByteSource::open(&store, &file, FileCompressionType::UNCOMPRESSED, b'\n').await;
                let mut bytes = bytes.unwrap().written_in(Encoding::for_label(label.as_bytes()));
                let mut text = Vec::new();
                while !bytes.read(&mut text, step).await.unwrap() {}
                assert_eq!(String::from_utf8(text).unwrap(), "na\u{ef}ve \u{a3}\n", "{label} {step}");
            }
        }
        let mut decoder = Encoding::for_label(b"shift_jis").unwrap().new_decoder();
        let mut text = Vec::new();
        decode(&mut decoder, b"a\x81\xff\nb\x81", &mut text, true);
        assert_eq!(text, b"a\xff\nb\xff");
    }

    #[tokio::test]
    async fn every_cut_gives_every_line_once_with_its_number() {
        const LINES: &str = "one\ntwo\n\nfour is longer\nfive";
        let (store, file) = stored(LINES).await;
        let length = LINES.len() as i64;
        for cut in 1..length {
            let mut whole = Vec::new();
            for (start, end) in [(0, cut), (cut, length)] {
                let part = file.clone().with_range(start, end);
                let mut bytes =
                    ByteSource::open(&store, &part, FileCompressionType::UNCOMPRESSED, b'\n').await.unwrap();
                let before = whole.len();
                while !bytes.read(&mut whole, 3).await.unwrap() {}
                if whole.len() > before {
                    let counted = terminators_before(&store, &part, start as u64, b'\n').await.unwrap();
                    let expected = memchr::memchr_iter(b'\n', &whole[..before]).count() as u64;
                    assert_eq!(counted, expected, "cut at {cut}");
                }
            }
            assert_eq!(String::from_utf8(whole).unwrap(), LINES, "cut at {cut}");
        }
    }
}
