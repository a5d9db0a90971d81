//! Dealing the files of a batch out to partitions.
//!
//! The order of the files is the order of their rows, in every width of the plan: `DISTINCT ON`,
//! `first_value` and `LIMIT` keep the first row to come. So a partition gets files, or parts of files,
//! that follow one another, and what follows them is the next partition's.

use datafusion::datasource::physical_plan::FileGroup;
use datafusion_datasource::PartitionedFile;

/// Deals `files` out to at most `partitions` groups of about the same size. Where whole files do not make
/// that possible, those that `can_be_cut` are cut; if all are smaller than `min_split_bytes` together, or
/// that is `None`, none are.
pub(super) fn deal(
    files: Vec<PartitionedFile>,
    partitions: usize,
    min_split_bytes: Option<usize>,
    can_be_cut: impl Fn(&PartitionedFile) -> bool,
) -> Vec<FileGroup> {
    let total: u64 = files.iter().map(|file| file.object_meta.size).sum();
    let is_worth_cutting = min_split_bytes.is_some_and(|bytes| total >= bytes as u64);
    let whole = whole_files(&files, partitions);
    if !is_worth_cutting || is_even(&whole, &files, partitions) || !files.iter().any(&can_be_cut) {
        let mut files = files.into_iter();
        return whole.into_iter().map(|count| FileGroup::new(files.by_ref().take(count).collect())).collect();
    }
    cut_files(files, partitions, total, can_be_cut)
}

/// How many files each of at most `partitions` groups gets, so that the largest is as small as can be.
fn whole_files(files: &[PartitionedFile], partitions: usize) -> Vec<usize> {
    let costs: Vec<u64> = files.iter().map(cost).collect();
    let mut too_small = costs.iter().max().map_or(0, |largest| largest - 1);
    let mut enough = costs.iter().sum();
    while too_small + 1 < enough {
        let middle = too_small + (enough - too_small) / 2;
        if runs(&costs, middle).len() <= partitions {
            enough = middle;
        } else {
            too_small = middle;
        }
    }
    runs(&costs, enough)
}

/// Opening a file costs something even if it is empty.
fn cost(file: &PartitionedFile) -> u64 {
    file.object_meta.size.saturating_add(1)
}

/// The lengths of the runs of `costs` that `capacity` has room for.
fn runs(costs: &[u64], capacity: u64) -> Vec<usize> {
    let mut runs: Vec<usize> = Vec::new();
    let mut room = 0;
    for cost in costs {
        match runs.last_mut() {
            Some(run) if *cost <= room => {
                *run += 1;
                room -= cost;
            }
            _ => {
                runs.push(1);
                room = capacity.saturating_sub(*cost);
            }
        }
    }
    runs
}

/// Whether all partitions have about the same to read. Then nothing is gained by cutting files, and a cut a
/// few bytes behind a file's beginning would give all of its first row group to one partition.
fn is_even(runs: &[usize], files: &[PartitionedFile], partitions: usize) -> bool {
    let mut sizes = files.iter().map(|file| file.object_meta.size);
    let bytes: Vec<u64> = runs.iter().map(|count| sizes.by_ref().take(*count).sum()).collect();
    let most = bytes.iter().max().copied().unwrap_or(0);
    let all: u64 = bytes.iter().sum();
    most.saturating_mul(partitions as u64).saturating_mul(4) <= all.saturating_mul(5)
}

fn cut_files(
    files: Vec<PartitionedFile>,
    partitions: usize,
    total: u64,
    can_be_cut: impl Fn(&PartitionedFile) -> bool,
) -> Vec<FileGroup> {
    let mut groups = Groups { done: Vec::new(), current: Vec::new(), room: 0, partitions, left: total };
    groups.room = groups.share();
    for file in files {
        let size = file.object_meta.size;
        if !can_be_cut(&file) {
            // Where the greater part of it belongs.
            if size / 2 > groups.room && !groups.current.is_empty() {
                groups.next();
            }
            groups.push(file, size);
            continue;
        }
        let mut start = 0;
        while start < size {
            if groups.room == 0 {
                groups.next();
            }
            let end = if groups.is_last() { size } else { size.min(start + groups.room) };
            let part = if (start, end) == (0, size) {
                file.clone()
            } else {
                file.clone().with_range(start as i64, end as i64)
            };
            groups.push(part, end - start);
            start = end;
        }
    }
    groups.done.push(groups.current);
    groups.done.into_iter().filter(|group| !group.is_empty()).map(FileGroup::new).collect()
}

struct Groups {
    done: Vec<Vec<PartitionedFile>>,
    current: Vec<PartitionedFile>,
    /// How many bytes more the current group should get.
    room: u64,
    partitions: usize,
    /// How many bytes are not dealt out.
    left: u64,
}

impl Groups {
    fn is_last(&self) -> bool {
        self.done.len() + 1 >= self.partitions
    }

    /// What each of the groups that are not done should get.
    fn share(&self) -> u64 {
        let groups = self.partitions.saturating_sub(self.done.len()).max(1);
        self.left.div_ceil(groups as u64)
    }

    fn next(&mut self) {
        if !self.is_last() {
            self.done.push(std::mem::take(&mut self.current));
        }
        self.room = self.share();
    }

    fn push(&mut self, file: PartitionedFile, bytes: u64) {
        self.room = self.room.saturating_sub(bytes);
        self.left = self.left.saturating_sub(bytes);
        self.current.push(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Per group its pieces: file, start, end.
    fn dealt(
        sizes: &[u64],
        partitions: usize,
        min: Option<usize>,
        cut: &[usize],
    ) -> Vec<Vec<(usize, u64, u64)>> {
        let files =
            sizes.iter().enumerate().map(|(i, size)| PartitionedFile::new(i.to_string(), *size)).collect();
        let number = |file: &PartitionedFile| file.path().as_ref().parse::<usize>().unwrap();
        let groups = deal(files, partitions, min, |file| cut.contains(&number(file)));
        let piece = |file: &PartitionedFile| {
            let (start, end) = file.range();
            (number(file), start, end)
        };
        groups.iter().map(|group| group.iter().map(piece).collect()).collect()
    }

    #[test]
    fn files_that_can_be_dealt_out_evenly_stay_whole() {
        let all = [0, 1, 2, 3];
        assert_eq!(
            dealt(&[4_346_197, 4_346_347], 2, Some(0), &all),
            [[(0, 0, 4_346_197)], [(1, 0, 4_346_347)]]
        );
        assert_eq!(
            dealt(&[50, 30, 40, 60], 2, Some(0), &all),
            [vec![(0, 0, 50), (1, 0, 30)], vec![(2, 0, 40), (3, 0, 60)]]
        );
        assert_eq!(dealt(&[100, 10], 2, Some(0), &all), [vec![(0, 0, 55)], vec![(0, 55, 100), (1, 0, 10)]]);
        assert_eq!(dealt(&[100, 10], 2, Some(111), &all), [[(0, 0, 100)], [(1, 0, 10)]]);
        assert_eq!(dealt(&[100, 10], 2, None, &all), [[(0, 0, 100)], [(1, 0, 10)]]);
        assert_eq!(dealt(&[0, 0, 0], 2, None, &all).len(), 2);
        assert!(dealt(&[], 3, Some(0), &all).is_empty());
    }

    #[test]
    fn every_byte_is_dealt_out_once_and_in_order() {
        let mut state: u64 = 7;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for round in 0..2000 {
            let sizes: Vec<u64> = (0..random(30)).map(|_| 1 + random(1000)).collect();
            let cut: Vec<usize> = (0..sizes.len()).filter(|_| random(3) > 0).collect();
            let partitions = 1 + random(8) as usize;
            let min = (round % 2 == 0).then_some(0);
            let groups = dealt(&sizes, partitions, min, &cut);
            assert!(groups.len() <= partitions && groups.iter().all(|group| !group.is_empty()));
            let mut next = (0, 0);
            for (file, start, end) in groups.iter().flatten().copied() {
                assert_eq!((file, start), next);
                assert!(start < end && (cut.contains(&file) || end - start == sizes[file]));
                next = if end == sizes[file] { (file + 1, 0) } else { (file, end) };
            }
            assert_eq!(next, (sizes.len(), 0), "{sizes:?} to {partitions}");
            if cut.len() == sizes.len() && min.is_some() && !sizes.is_empty() {
                let most: u64 = groups
                    .iter()
                    .map(|group| group.iter().map(|(_, start, end)| end - start).sum())
                    .max()
                    .unwrap_or(0);
                let total: u64 = sizes.iter().sum();
                assert!(most * partitions as u64 * 4 <= total * 5 + 8 * partitions as u64, "{groups:?}");
            }
        }
    }
}
