//! Several sorted sources of rows as one.

use std::cmp::Ordering;
use std::sync::Arc;

use datafusion::execution::DiskManager;

use super::row::{Mark, Row, Sorted, compare, is_expired};
use super::run::{Run, RunRows};
use super::writer::RunWriter;
use crate::error::Result;
use crate::state::NEVER;

/// What is known of all rows with one name.
#[derive(Debug, Clone, Copy)]
pub(super) struct History {
    /// Whether some of them hide older ones.
    hides: bool,
    /// How the oldest of them stands to older ones.
    oldest: Mark,
}

/// Calls `each` with the newest row of every name, in order; `sources` are newest first.
pub(super) fn merge(
    sources: &mut [Box<dyn Sorted + '_>],
    each: &mut dyn FnMut(u64, &Row<'_>, History) -> Result<()>,
) -> Result<()> {
    let mut same = Vec::new();
    loop {
        same.clear();
        for (index, source) in sources.iter().enumerate() {
            let Some(row) = source.row() else { continue };
            let first = same.first().and_then(|first: &usize| sources[*first].row());
            match first.map_or(Ordering::Less, |first| compare(&row, &first)) {
                Ordering::Less => {
                    same.clear();
                    same.push(index);
                }
                Ordering::Equal => same.push(index),
                Ordering::Greater => {}
            }
        }
        let Some((hash, newest)) = same.first().and_then(|first| sources[*first].row()) else {
            return Ok(());
        };
        let mut history = History { hides: false, oldest: newest.mark };
        for index in &same {
            if let Some((_, row)) = sources[*index].row() {
                history.hides |= row.mark.hides();
                history.oldest = row.mark;
            }
        }
        each(hash, &newest, history)?;
        for index in &same {
            sources[*index].advance()?;
        }
    }
}

/// One run of `runs`, newest first. Rows that expired by `expired` are left out, unless they hide
/// others; if there is nothing older than these runs, nothing needs to be hidden.
pub(super) fn merge_runs(
    runs: &[Arc<Run>],
    expired: Option<i64>,
    is_oldest: bool,
    disk: &Arc<DiskManager>,
    chunk_size: usize,
) -> Result<Run> {
    let count: u64 = runs.iter().map(|run| run.count).sum();
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let mut writer = RunWriter::new(disk, count, chunk_size)?;
    let mut sources: Vec<Box<dyn Sorted>> = Vec::with_capacity(runs.len());
    for run in runs {
        sources.push(Box::new(RunRows::new(Arc::clone(run))?));
    }
    merge(&mut sources, &mut |hash, row, history| {
        let has_older = !is_oldest && history.oldest != Mark::New;
        let is_gone = row.mark == Mark::Removed || is_expired(row.expiry, expired);
        let mark = match (is_gone, has_older, history.hides) {
            (true, false, _) | (true, true, false) => return Ok(()),
            (true, true, true) => Mark::Removed,
            (false, false, _) => Mark::New,
            (false, true, hides) => {
                if hides {
                    Mark::Outlived
                } else {
                    Mark::Covers
                }
            }
        };
        match mark {
            Mark::Removed => writer.push(hash, &Row { value: &[], expiry: NEVER, mark, ..*row }),
            _ => writer.push(hash, &Row { mark, ..*row }),
        }
    })?;
    writer.finish()
}
