//! How much of what is there goes into a batch. No I/O here.

use super::offsets::{Offsets, Range};

/// Of `there`, a batch of about `most` offsets: every partition gets a share by how much it is behind, as in Spark,
/// and each that is behind gets some.
pub(super) fn share_out(there: &[Range], most: u64) -> Vec<Range> {
    let total: u64 = there.iter().map(Range::len).fold(0, u64::saturating_add);
    if total <= most {
        return there.to_vec();
    }
    let shared = there.iter().map(|range| {
        let share = (u128::from(range.len()) * u128::from(most)) / u128::from(total.max(1));
        // No small partition starves.
        let share = u64::try_from(share).unwrap_or(u64::MAX).max(1).min(range.len());
        let until = range.from.saturating_add(i64::try_from(share).unwrap_or(i64::MAX));
        Range { until, ..range.clone() }
    });
    shared.collect()
}

/// Splits ranges so that there are about `parts`, none much larger than the others, in order of their offsets.
pub(super) fn split(ranges: Vec<Range>, parts: usize) -> Vec<Range> {
    let total: u64 = ranges.iter().map(Range::len).fold(0, u64::saturating_add);
    let parts = parts as u64;
    if ranges.len() as u64 >= parts || total == 0 {
        return ranges;
    }
    let piece = i64::try_from(total.div_ceil(parts)).unwrap_or(i64::MAX).max(1);
    let mut pieces = Vec::new();
    for range in ranges {
        let mut from = range.from;
        while from < range.until {
            let until = from.saturating_add(piece).min(range.until);
            pieces.push(Range { partition: range.partition.clone(), from, until });
            from = until;
        }
    }
    pieces
}

/// Deals ranges out to `parts` readers of about the same work, each of which reads its own one after the other.
pub(super) fn deal(mut ranges: Vec<Range>, parts: usize) -> Vec<Vec<Range>> {
    let mut dealt = vec![(0_u64, Vec::new()); parts.max(1)];
    // Large ones first; of the same size in order of their offsets, so that it is the same every time.
    ranges.sort_by(|a, b| {
        b.len().cmp(&a.len()).then_with(|| (&a.partition, a.from).cmp(&(&b.partition, b.from)))
    });
    for range in ranges {
        if let Some((load, ranges)) = dealt.iter_mut().min_by_key(|(load, _)| *load) {
            *load += range.len();
            ranges.push(range);
        }
    }
    let mut dealt: Vec<Vec<Range>> = dealt.into_iter().map(|(_, ranges)| ranges).collect();
    for ranges in &mut dealt {
        ranges.sort_by(|a, b| (&a.partition, a.from).cmp(&(&b.partition, b.from)));
    }
    dealt
}

/// What lies between two offsets, partition by partition.
pub(super) fn between(start: &Offsets, end: &Offsets) -> Vec<Range> {
    let ranges = end.0.iter().map(|(partition, until)| Range {
        partition: partition.clone(),
        from: start.get(partition).unwrap_or(*until),
        until: *until,
    });
    ranges.filter(|range| range.from < range.until).collect()
}

#[cfg(test)]
mod tests {
    use super::super::offsets::Partition;
    use super::*;

    fn range(id: i32, from: i64, until: i64) -> Range {
        Range { partition: Partition { topic: "t".into(), id }, from, until }
    }

    #[test]
    fn a_limit_is_shared_out_by_backlog() {
        let there = [range(0, 0, 900), range(1, 50, 150), range(2, 7, 8)];
        let shared = share_out(&there, 100);
        assert_eq!(shared, [range(0, 0, 89), range(1, 50, 59), range(2, 7, 8)]);
        assert_eq!(share_out(&there, 1001), there);
        assert_eq!(share_out(&[range(0, 0, i64::MAX)], u64::MAX), [range(0, 0, i64::MAX)]);
    }

    #[test]
    fn few_ranges_are_split_and_many_are_dealt_out() {
        let pieces = split(vec![range(0, 0, 10), range(1, 5, 7)], 4);
        assert_eq!(pieces, [range(0, 0, 3), range(0, 3, 6), range(0, 6, 9), range(0, 9, 10), range(1, 5, 7)]);
        assert_eq!(split(vec![range(0, 0, 10)], 1), [range(0, 0, 10)]);
        let dealt = deal(pieces, 2);
        assert_eq!(dealt[0], [range(0, 0, 3), range(0, 6, 9)]);
        assert_eq!(dealt[1], [range(0, 3, 6), range(0, 9, 10), range(1, 5, 7)]);
    }
}
