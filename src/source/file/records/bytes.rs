//! The decompressed bytes of a file, or of the lines in a part of it.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion_datasource::PartitionedFile;
use datafusion_datasource::boundary_stream::AlignedBoundaryStream;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectStore, ObjectStoreExt};

/// How a file's bytes come in.
pub(super) enum ByteSource {
    /// From a local file, read where it is polled, as DataFusion's readers do.
    Local(Box<dyn Read + Send>),
    /// From a store.
    Stream(BoxStream<'static, DataFusionResult<Bytes>>),
}

impl ByteSource {
    /// Opens `file`. If it is only a part, the bytes are those of the lines that begin in the part;
    /// lines end in `terminator`.
    pub(super) async fn open(
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
            return Ok(Self::Stream(lines.map_err(DataFusionError::from).boxed()));
        }
        match store.get(file.path()).await?.payload {
            GetResultPayload::File(file, _) => Ok(Self::Local(compression.convert_read(file)?)),
            GetResultPayload::Stream(stream) => {
                let stream = stream.map_err(DataFusionError::from).boxed();
                Ok(Self::Stream(compression.convert_stream(stream)?))
            }
        }
    }

    /// Appends at least `wanted` bytes to `buffer`, or all there are; tells whether that was the
    /// end. After an error, `buffer` holds everything before it.
    pub(super) async fn read(&mut self, buffer: &mut Vec<u8>, wanted: usize) -> DataFusionResult<bool> {
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
