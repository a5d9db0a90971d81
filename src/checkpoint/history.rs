//! How the entries of a source are merged into ever wider segments. No I/O here.
//!
//! A segment covers ten batches, or ten segments of the next narrower width, always beginning at a
//! multiple of its own width. So the names of all segments that there can ever be are fixed, any
//! two of them are nested or apart, and a repeated or interrupted merge does no harm. Ten segments
//! that hold more than [`MAX_ENTRIES`] together stay as they are: no entry is rewritten more than a
//! handful of times, however long the query lives.

use std::collections::BTreeSet;
use std::ops::Range;

/// Batches in the narrowest segment, and segments in the next wider one.
pub(crate) const FAN_IN: u64 = 10;

/// Segments are merged only into segments of at most this many entries.
pub(crate) const MAX_ENTRIES: u64 = 65_536;

/// A segment that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The first batch it covers.
    pub(crate) first: u64,
    /// The last batch it covers.
    pub(crate) last: u64,
    /// How many entries it holds.
    pub(crate) entries: u64,
}

impl Segment {
    fn width(self) -> u64 {
        self.last - self.first + 1
    }
}

/// What the segments of one source amount to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Cover {
    /// The widest segments, which cover all batches from 0 up to the last of them.
    pub(crate) used: Vec<(u64, u64)>,
    /// Narrower ones, whose entries are all in a used one.
    pub(crate) redundant: Vec<(u64, u64)>,
    /// Batches before the last used or unused segment that no segment covers.
    pub(crate) gap: Option<(u64, u64)>,
}

impl Cover {
    /// The last batch covered.
    pub(crate) fn last(&self) -> Option<u64> {
        self.used.last().map(|(_, last)| *last)
    }
}

/// Sorts the segments of one source into those that count and those that do not.
pub(crate) fn cover(segments: &BTreeSet<(u64, u64)>) -> Cover {
    let mut sorted: Vec<(u64, u64)> = segments.iter().copied().collect();
    sorted.sort_by_key(|(first, last)| (*first, std::cmp::Reverse(*last)));
    let mut cover = Cover::default();
    let mut next = 0;
    for (first, last) in sorted {
        if first == next {
            cover.used.push((first, last));
            next = last + 1;
        } else if last < next {
            cover.redundant.push((first, last));
        } else {
            cover.gap = Some((next, last.min(first.max(next + 1) - 1)));
            break;
        }
    }
    cover
}

/// Whether a segment of this range can have been written by a merge.
pub(crate) fn is_regular((first, last): (u64, u64)) -> bool {
    let width = last - first + 1;
    let mut regular = FAN_IN;
    while regular < width {
        regular = regular.saturating_mul(FAN_IN);
    }
    width == regular && first % width == 0
}

/// The groups of neighbours that make up exactly one wider segment, as ranges of indices.
fn groups(segments: &[Segment]) -> impl Iterator<Item = Range<usize>> {
    segments.windows(FAN_IN as usize).enumerate().filter_map(|(index, group)| {
        let width = group[0].width();
        let fits = group[0].first % width.saturating_mul(FAN_IN) == 0
            && group.iter().all(|segment| segment.width() == width);
        fits.then_some(index..index + group.len())
    })
}

fn entries(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| segment.entries).sum()
}

/// The next segments to merge into one.
pub(crate) fn mergeable(segments: &[Segment]) -> Option<Range<usize>> {
    groups(segments).find(|group| entries(&segments[group.clone()]) <= MAX_ENTRIES)
}

/// The groups that are too large to merge, unless their sources no longer need all of their
/// entries; oldest first.
pub(crate) fn full_groups(segments: &[Segment]) -> Vec<Range<usize>> {
    groups(segments).filter(|group| entries(&segments[group.clone()]) > MAX_ENTRIES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widest_segments_count() {
        let segments = |ranges: &[(u64, u64)]| cover(&ranges.iter().copied().collect());
        assert_eq!(segments(&[]), Cover::default());
        let whole = segments(&[(0, 9), (0, 99), (10, 19), (90, 99), (100, 109)]);
        assert_eq!(whole.used, [(0, 99), (100, 109)]);
        assert_eq!(whole.redundant, [(0, 9), (10, 19), (90, 99)]);
        assert_eq!((whole.last(), whole.gap), (Some(109), None));
        assert_eq!(segments(&[(10, 19)]).gap, Some((0, 9)));
        assert_eq!(segments(&[(0, 9), (30, 39)]).gap, Some((10, 29)));
        assert_eq!(segments(&[(0, 9), (5, 14)]).gap, Some((10, 10)));
    }

    #[test]
    fn regular_segments_are_aligned_powers() {
        for range in [(0, 9), (20, 29), (0, 99), (300, 399), (0, 9999)] {
            assert!(is_regular(range), "{range:?}");
        }
        for range in [(0, 0), (0, 10), (1, 10), (10, 109), (0, 19)] {
            assert!(!is_regular(range), "{range:?}");
        }
    }

    /// Merges as maintenance does, for a source with `per_batch` entries in each of `batches`, and
    /// gives the segments and how many entries were written per entry that exists.
    fn merged(batches: u64, per_batch: u64) -> (Vec<Segment>, f64) {
        let mut segments = Vec::new();
        let mut written = 0;
        for first in (0..batches).step_by(FAN_IN as usize) {
            segments.push(Segment { first, last: first + FAN_IN - 1, entries: per_batch * FAN_IN });
            written += per_batch * FAN_IN;
            while let Some(group) = mergeable(&segments) {
                let parts = &segments[group.clone()];
                let whole = Segment { first: parts[0].first, last: parts[9].last, entries: entries(parts) };
                assert!(is_regular((whole.first, whole.last)));
                written += whole.entries;
                segments.splice(group, [whole]);
            }
        }
        (segments, written as f64 / (batches * per_batch) as f64)
    }

    #[test]
    fn neither_files_nor_rewriting_grow_with_the_history() {
        // (batches, entries per batch, most segments, most copies of an entry)
        for (batches, per_batch, segments, copies) in [
            (1_000_000, 1, 110, 4.1),
            (10_000, 100, 1_000, 3.1),
            (1_000, 1_000, 100, 1.1),
            (1_000, 100_000, 100, 1.1),
            (99_990, 0, 40, f64::NAN),
        ] {
            let (found, written) = merged(batches, per_batch);
            assert!(found.len() <= segments, "{} segments of {per_batch} per batch", found.len());
            assert!(written.is_nan() || written <= copies, "{written} copies of {per_batch} per batch");
            assert_eq!(entries(&found), batches * per_batch);
            assert!(found.windows(2).all(|pair| pair[0].last + 1 == pair[1].first));
        }
    }

    #[test]
    fn full_groups_wait() {
        let mut segments: Vec<Segment> = (0..20)
            .map(|index| Segment { first: index * 10, last: index * 10 + 9, entries: 10_000 })
            .collect();
        assert_eq!((mergeable(&segments), full_groups(&segments)), (None, vec![0..10, 10..20]));
        segments[12..16].iter_mut().for_each(|segment| segment.entries = 0);
        assert_eq!(mergeable(&segments), Some(10..20));
        assert_eq!(full_groups(&segments).first(), Some(&(0..10)));
        assert_eq!(full_groups(&segments).len(), 1);
    }
}
