//! From bytes of a connection to lines.

use std::sync::Arc;

use bytes::BytesMut;
use datafusion::arrow::array::{Array, ArrayRef, StringBuilder, TimestampNanosecondArray};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::lines::{Ended, Lines};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::source::generated::nanos;

/// How much is received at once.
const READ_BYTES: usize = 64 << 10;
/// The longest line, so that a sender without line ends does not fill the memory.
const LONGEST_LINE: usize = 16 << 20;

/// Receives lines into a buffer until there are no more.
#[derive(Debug)]
pub(super) struct LineReader {
    lines: Arc<Lines>,
    schema: SchemaRef,
    clock: Arc<dyn Clock>,
    /// Where they come from, for messages.
    address: String,
    /// The number of complete lines so far.
    count: u64,
    is_done: bool,
}

impl Drop for LineReader {
    fn drop(&mut self) {
        if !self.is_done {
            // Otherwise the query would wait for ever. If it was the query that ended, nobody looks.
            let error = Error::Invalid("receiving lines ended unexpectedly, which is a bug".into());
            self.lines.end(Ended::Failed(error));
        }
    }
}

impl LineReader {
    pub(super) fn new(lines: Arc<Lines>, schema: SchemaRef, clock: Arc<dyn Clock>, address: String) -> Self {
        Self { lines, schema, clock, address, count: 0, is_done: false }
    }

    /// Receives from `connection` until its end.
    pub(super) async fn run<R: AsyncRead + Unpin>(mut self, connection: R) {
        let ended = self.receive(connection).await;
        self.is_done = true;
        self.lines.end(ended.map_or_else(Ended::Failed, |()| Ended::Closed));
    }

    async fn receive<R: AsyncRead + Unpin>(&mut self, mut connection: R) -> Result<()> {
        let mut received = BytesMut::new();
        loop {
            self.lines.wait_for_room().await;
            let seen = received.len();
            received.reserve(READ_BYTES);
            if connection.read_buf(&mut received).await.map_err(|error| self.broken(&error))? == 0 {
                // The last line needs no line end.
                return self.add(&received);
            }
            if let Some(end) = memchr::memrchr(b'\n', &received[seen..]) {
                let complete = received.split_to(seen + end + 1);
                self.add(&complete)?;
            }
            if received.len() > LONGEST_LINE {
                return Err(self.bad_line(0, format!("it is longer than {LONGEST_LINE} bytes")));
            }
        }
    }

    /// Adds complete lines. Those before one that is not UTF-8 are added, that one is an error.
    fn add(&mut self, bytes: &[u8]) -> Result<()> {
        let (text, bad) = match str::from_utf8(bytes) {
            Ok(text) => (text, None),
            Err(error) => {
                let valid = &bytes[..error.valid_up_to()];
                let line = memchr::memrchr(b'\n', valid).map_or(0, |end| end + 1);
                // A part of what was just found to be valid.
                (str::from_utf8(&valid[..line]).unwrap_or_default(), Some(valid.len() - line))
            }
        };
        let line_ends = memchr::memchr_iter(b'\n', text.as_bytes()).count();
        let mut values = StringBuilder::with_capacity(line_ends + 1, text.len());
        text.lines().for_each(|line| values.append_value(line));
        let values = values.finish();
        let count = values.len();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(values)];
        if self.schema.fields().len() > 1 {
            let now = nanos(self.clock.now_ms()).unwrap_or(i64::MAX);
            columns.push(Arc::new(TimestampNanosecondArray::from_value(now, count)));
        }
        self.lines.push(RecordBatch::try_new(Arc::clone(&self.schema), columns)?);
        self.count = self.count.saturating_add(count as u64);
        match bad {
            Some(byte) => Err(self.bad_line(byte, "it is not UTF-8".into())),
            None => Ok(()),
        }
    }

    fn bad_line(&self, byte: usize, what: String) -> Error {
        let at = if byte == 0 { String::new() } else { format!(" from byte {byte} on") };
        Error::BadRecord {
            file: self.address.clone(),
            line: self.count.saturating_add(1),
            column: None,
            reason: format!("{what}{at}. The lines before it were processed"),
        }
    }

    fn broken(&self, error: &std::io::Error) -> Error {
        let reason = format!("{error}. The {} lines that had arrived were processed", self.count);
        Error::storage("read from", &self.address, reason)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error as IoError, ErrorKind};

    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::{DataType, Field, Schema, TimestampNanosecondType};
    use tokio_test_io::Pieces;

    use super::*;
    use crate::clock::ManualClock;

    /// A connection that gives what it is told to, piece by piece.
    mod tokio_test_io {
        use std::collections::VecDeque;
        use std::io::Result;
        use std::pin::Pin;
        use std::task::{Context, Poll};

        use tokio::io::{AsyncRead, ReadBuf};

        pub(super) struct Pieces(pub(super) VecDeque<Result<Vec<u8>>>);

        impl AsyncRead for Pieces {
            fn poll_read(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<Result<()>> {
                match self.0.pop_front() {
                    None => Poll::Ready(Ok(())),
                    Some(Ok(mut piece)) => {
                        let rest = piece.split_off(piece.len().min(buffer.remaining()));
                        if !rest.is_empty() {
                            self.0.push_front(Ok(rest));
                        }
                        buffer.put_slice(&piece);
                        Poll::Ready(Ok(()))
                    }
                    Some(Err(error)) => Poll::Ready(Err(error)),
                }
            }
        }
    }

    /// The lines of each piece, and how it ended.
    async fn read(pieces: Vec<std::io::Result<Vec<u8>>>) -> (Vec<Vec<String>>, Ended) {
        let schema = Arc::new(Schema::new(vec![Field::new("value", DataType::Utf8, false)]));
        let lines = Arc::new(Lines::default());
        let clock = Arc::new(ManualClock::new(0));
        let reader = LineReader::new(Arc::clone(&lines), schema, clock, "host:1".into());
        reader.run(Pieces(pieces.into())).await;
        let texts = |rows: &RecordBatch| {
            rows.column(0).as_string::<i32>().iter().map(|line| line.unwrap().to_string()).collect()
        };
        let chunks = lines.between(0, lines.received()).unwrap();
        (chunks.iter().map(texts).collect(), lines.take_end(lines.received()).unwrap())
    }

    fn pieces(pieces: &[&[u8]]) -> Vec<std::io::Result<Vec<u8>>> {
        pieces.iter().map(|piece| Ok(piece.to_vec())).collect()
    }

    #[tokio::test]
    async fn lines_are_put_together_from_pieces() {
        let (lines, ended) =
            read(pieces(&[b"on", b"e\r\ntwo\n\nth", b"r", "ee \u{e4}".as_bytes(), b"\r", b"\nlast"])).await;
        assert_eq!(lines, [vec!["one", "two", ""], vec!["three \u{e4}"], vec!["last"]]);
        assert!(matches!(ended, Ended::Closed));
        let (lines, _) = read(pieces(&[])).await;
        assert!(lines.is_empty());
        // A character may come in two pieces.
        let (lines, ended) = read(pieces(&[b"\xc3", b"\xa4\n"])).await;
        assert_eq!(lines, [["\u{e4}"]]);
        assert!(matches!(ended, Ended::Closed));
    }

    #[tokio::test]
    async fn a_line_that_is_not_utf8_is_named() {
        let (lines, ended) = read(pieces(&[b"a\nb\n", b"c\nd \xff\ne\n"])).await;
        assert_eq!(lines, [vec!["a", "b"], vec!["c"]]);
        let Ended::Failed(error) = ended else { panic!("{ended:?}") };
        let expected = "malformed record in 'host:1' at line 4: it is not UTF-8 from byte 2 on. The lines \
                        before it were processed";
        assert_eq!(error.to_string(), expected);
    }

    #[tokio::test]
    async fn a_broken_connection_is_an_error_after_the_complete_lines() {
        let mut pieces = pieces(&[b"a\nhal"]);
        pieces.push(Err(IoError::new(ErrorKind::ConnectionReset, "reset")));
        let (lines, ended) = read(pieces).await;
        assert_eq!(lines, [["a"]]);
        let Ended::Failed(error) = ended else { panic!("{ended:?}") };
        assert!(matches!(error, Error::Storage { operation: "read from", .. }), "{error:?}");
    }

    #[tokio::test]
    async fn an_endless_line_is_an_error() {
        let endless: Vec<_> = (0..=LONGEST_LINE / READ_BYTES).map(|_| Ok(vec![b'x'; READ_BYTES])).collect();
        let (lines, ended) = read(endless).await;
        assert!(lines.is_empty());
        let Ended::Failed(error) = ended else { panic!("{ended:?}") };
        assert!(error.to_string().contains("at line 1: it is longer than 16777216 bytes"), "{error}");
    }

    #[tokio::test]
    async fn lines_have_the_time_of_their_arrival() {
        let table = super::super::SocketTable::try_new(
            &[("host", "h"), ("port", "1"), ("includeTimestamp", "true")].into_iter().collect(),
        );
        let lines = Arc::new(Lines::default());
        let clock = Arc::new(ManualClock::new(1_500));
        let reader = LineReader::new(Arc::clone(&lines), table.unwrap().schema, clock, "h:1".into());
        reader.run(Pieces(pieces(&[b"a\nb\n"]).into())).await;
        let rows = lines.between(0, 2).unwrap().remove(0);
        let times = rows.column(1).as_primitive::<TimestampNanosecondType>();
        assert_eq!(times.values().to_vec(), [1_500_000_000, 1_500_000_000]);
    }
}
