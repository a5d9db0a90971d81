//! Lines that were received and wait for their batch to be done.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use datafusion::arrow::record_batch::RecordBatch;
use tokio::sync::Notify;

use crate::error::{Error, Result};

/// How much memory lines may take before nothing more is received.
const MOST_BYTES: usize = 16 << 20;

/// Why no more lines come.
#[derive(Debug)]
pub(super) enum Ended {
    /// The other side has closed the connection.
    Closed,
    /// The connection broke, or a line cannot be read.
    Failed(Error),
}

/// Shared by the task that receives, the source and its scans.
#[derive(Debug, Default)]
pub(super) struct Lines {
    buffer: Mutex<Buffer>,
    /// Tells the task that receives that there may be room again.
    room: Notify,
    /// Tells the source that there are more lines, or will be no more.
    news: Notify,
}

#[derive(Debug, Default)]
struct Buffer {
    /// Oldest first. A batch always ends where a chunk does.
    chunks: VecDeque<Chunk>,
    /// How many lines were received in all.
    received: u64,
    /// The size of all chunks in memory.
    bytes: usize,
    ended: Option<Ended>,
}

#[derive(Debug)]
struct Chunk {
    /// The number of its first line, from 0.
    first: u64,
    rows: RecordBatch,
    bytes: usize,
}

impl Chunk {
    /// The number of the line after its last.
    fn end(&self) -> u64 {
        self.first.saturating_add(self.rows.num_rows() as u64)
    }
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when there is room for more lines.
    pub(super) async fn wait_for_room(&self) {
        // A notification that comes before the wait is kept, so none is lost.
        while self.lock().bytes >= MOST_BYTES {
            self.room.notified().await;
        }
    }

    /// Returns when more than `count` lines were received, or no more will be.
    pub(super) async fn wait_for_more(&self, count: u64) {
        let is_there = || {
            let buffer = self.lock();
            buffer.received > count || buffer.ended.is_some()
        };
        // As above.
        while !is_there() {
            self.news.notified().await;
        }
    }

    /// Adds lines that were received.
    pub(super) fn push(&self, rows: RecordBatch) {
        if rows.num_rows() == 0 {
            return;
        }
        let mut buffer = self.lock();
        let chunk = Chunk { first: buffer.received, bytes: rows.get_array_memory_size(), rows };
        buffer.received = chunk.end();
        buffer.bytes = buffer.bytes.saturating_add(chunk.bytes);
        buffer.chunks.push_back(chunk);
        self.news.notify_one();
    }

    /// No more lines come, after those that were added.
    pub(super) fn end(&self, ended: Ended) {
        self.lock().ended = Some(ended);
        self.news.notify_one();
    }

    /// Why no more lines come after the first `count`, if that is so; once.
    pub(super) fn take_end(&self, count: u64) -> Option<Ended> {
        let mut buffer = self.lock();
        if buffer.received == count { buffer.ended.take() } else { None }
    }

    /// How many lines were received in all.
    pub(super) fn received(&self) -> u64 {
        self.lock().received
    }

    /// The lines from number `start` until before number `end`.
    pub(super) fn between(&self, start: u64, end: u64) -> Result<Vec<RecordBatch>> {
        let buffer = self.lock();
        let chosen = buffer.chunks.iter().filter(|chunk| chunk.first >= start && chunk.end() <= end);
        let rows: Vec<RecordBatch> = chosen.map(|chunk| chunk.rows.clone()).collect();
        let found: u64 = rows.iter().map(|rows| rows.num_rows() as u64).sum();
        if end.checked_sub(start) != Some(found) {
            return Err(Error::Invalid(format!(
                "lines {start} to {end} were received from a socket by another run of the query and are lost. \
                 Start with a new checkpoint"
            )));
        }
        Ok(rows)
    }

    /// Lets go of the first `count` lines: their batch is done.
    pub(super) fn release(&self, count: u64) {
        let mut buffer = self.lock();
        while let Some(chunk) = buffer.chunks.pop_front_if(|chunk| chunk.end() <= count) {
            buffer.bytes = buffer.bytes.saturating_sub(chunk.bytes);
        }
        drop(buffer);
        self.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use datafusion::arrow::array::{ArrayRef, StringArray};

    use super::*;

    fn rows(lines: &[&str]) -> RecordBatch {
        let lines: ArrayRef = Arc::new(StringArray::from(lines.to_vec()));
        RecordBatch::try_from_iter([("value", lines)]).unwrap()
    }

    #[test]
    fn lines_are_kept_until_they_are_released() {
        let lines = Lines::default();
        lines.push(rows(&[]));
        lines.push(rows(&["a", "b"]));
        lines.push(rows(&["c"]));
        assert_eq!(lines.received(), 3);
        assert_eq!(lines.between(0, 3).unwrap(), [rows(&["a", "b"]), rows(&["c"])]);
        assert_eq!(lines.between(2, 3).unwrap(), [rows(&["c"])]);
        lines.release(2);
        assert_eq!(lines.between(2, 3).unwrap(), [rows(&["c"])]);
        for (start, end) in [(0, 3), (2, 4), (3, 2)] {
            assert!(lines.between(start, end).unwrap_err().to_string().contains("are lost"));
        }
        lines.release(3);
        assert_eq!(lines.lock().bytes, 0);
    }

    #[test]
    fn the_end_comes_after_the_last_line() {
        let lines = Lines::default();
        lines.push(rows(&["a"]));
        assert!(lines.take_end(1).is_none());
        lines.end(Ended::Closed);
        assert!(lines.take_end(0).is_none());
        assert!(matches!(lines.take_end(1), Some(Ended::Closed)));
    }

    #[tokio::test]
    async fn a_full_buffer_waits_for_a_release() {
        let lines = Arc::new(Lines::default());
        lines.wait_for_room().await;
        lines.push(rows(&["x".repeat(MOST_BYTES).as_str()]));
        let waiting = Arc::clone(&lines);
        let mut waiter = tokio::spawn(async move { waiting.wait_for_room().await });
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut waiter).await.is_err());
        lines.release(1);
        waiter.await.unwrap();
    }
}
