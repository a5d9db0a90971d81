//! What readers of binary files of batches work with.

use std::io::{BufRead, Seek};

use datafusion::arrow::datatypes::Schema;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion_datasource::PartitionedFile;

/// The bytes of a file.
pub(super) type Input = Box<dyn ReadSeek>;

/// What can be read from any place.
pub(super) trait ReadSeek: BufRead + Seek + Send {}

impl<T: BufRead + Seek + Send> ReadSeek for T {}

/// The batches of a file.
pub(super) type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

/// The part of a file that is to be read: batch `i` of `n` counts as lying at `i / n` of its bytes,
/// so that adjoining ranges share the batches without looking at the footer together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    size: u128,
    start: u128,
    end: u128,
}

impl Part {
    pub(super) fn of(file: &PartitionedFile) -> Self {
        let (start, end) = file.range();
        Self { size: u128::from(file.object_meta.size), start: start.into(), end: end.into() }
    }

    /// Whether the part begins where the file does.
    pub(super) fn is_first(self) -> bool {
        self.start == 0
    }

    /// The batches, of `count`, in this part.
    pub(super) fn batches(self, count: usize) -> std::ops::Range<usize> {
        let first_at = |at: u128| (at * count as u128).div_ceil(self.size.max(1)) as usize;
        let end = if self.end >= self.size { count } else { first_at(self.end) };
        first_at(self.start).min(end)..end
    }
}

/// Gives the positions in a file's schema of the columns that are to be read, ascending.
pub(super) type Choose<'a> = &'a dyn Fn(&Schema) -> Result<Vec<usize>, ArrowError>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_share_the_batches() {
        for count in [0, 1, 2, 7, 100] {
            for cuts in [vec![0, 10], vec![0, 1, 10], vec![0, 3, 6, 10], (0..=10).collect::<Vec<u128>>()] {
                let read: Vec<usize> = cuts
                    .windows(2)
                    .flat_map(|cut| Part { size: 10, start: cut[0], end: cut[1] }.batches(count))
                    .collect();
                assert_eq!(read, (0..count).collect::<Vec<_>>(), "{count} batches cut at {cuts:?}");
            }
        }
    }
}
