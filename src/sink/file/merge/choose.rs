//! Which files of a directory are merged.

use uuid::Uuid;

use crate::sink::file::names::PublishedName;
use crate::storage::StoredFile;

/// A file that may be merged.
#[derive(Debug, Clone)]
pub(super) struct Small {
    /// Below the output directory.
    pub path: String,
    pub bytes: u64,
    pub name: PublishedName,
}

/// When files are merged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    /// So many are.
    pub after: usize,
    /// A file of this size is not small any more.
    pub target: u64,
}

impl Policy {
    /// Of some files the small ones of a query whose batches are all before `oldest`, in their order.
    pub(super) fn small(
        &self,
        files: Vec<StoredFile>,
        query_id: Uuid,
        oldest: u64,
        extension: &str,
    ) -> Vec<Small> {
        let small = |StoredFile { path, size }: StoredFile| {
            let name = PublishedName::of(&path)?;
            let is_meant = name.query_id == query_id
                && *name.batches.end() < oldest
                && name.extension == extension
                && size < self.target;
            is_meant.then_some(Small { path, bytes: size, name })
        };
        let mut small: Vec<Small> = files.into_iter().filter_map(small).collect();
        small.sort_by_key(|file| {
            let PublishedName { level, batches, partition, sequence, .. } = &file.name;
            (*level, *batches.start(), *partition, *sequence)
        });
        small
    }

    /// The first files that are to be one: so many whose rows were merged equally often, which therefore are of about
    /// one size, that no row is merged more often than the logarithm of how many there are; or those that fill one.
    pub(super) fn next_group(&self, small: &[Small]) -> Option<Vec<Small>> {
        for level in small.chunk_by(|one, other| one.name.level == other.name.level) {
            let mut group: Vec<Small> = Vec::new();
            let mut bytes = 0;
            for file in level {
                if bytes + file.bytes > self.target {
                    if group.len() > 1 {
                        return Some(group);
                    }
                    group.clear();
                    bytes = 0;
                }
                bytes += file.bytes;
                group.push(file.clone());
            }
            if group.len() >= self.after {
                return Some(group);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: Uuid = Uuid::from_u128(7);

    fn file(batch: u64, rest: &str, size: u64) -> StoredFile {
        StoredFile { path: format!("k=1/part-00000-{batch:010}-{}{rest}.json", QUERY.simple()), size }
    }

    fn chosen(files: &[StoredFile]) -> Option<Vec<u64>> {
        let policy = Policy { after: 3, target: 100 };
        let group = policy.next_group(&policy.small(files.to_vec(), QUERY, 10, ".json"))?;
        Some(group.iter().map(|file| *file.name.batches.end()).collect())
    }

    #[test]
    fn so_many_small_files_of_old_batches_are_one() {
        let renamed = |from: &str, to: &str| {
            let StoredFile { path, size } = file(4, "", 10);
            StoredFile { path: path.replace(from, to), size }
        };
        let [a, b, c] = [3, 1, 2].map(|batch| file(batch, "", 10));
        assert_eq!(chosen(&[a.clone(), b.clone()]), None);
        assert_eq!(chosen(&[a.clone(), b.clone(), c.clone()]), Some(vec![1, 2, 3]));
        // What is not yet old, large, of another query, another format, or no file of a query.
        for other in [
            file(10, "", 10),
            file(4, "", 100),
            renamed(&QUERY.simple().to_string(), &Uuid::nil().simple().to_string()),
            renamed(".json", ".json.gz"),
            renamed("part-", "mine-"),
        ] {
            assert_eq!(chosen(&[a.clone(), b.clone(), other.clone()]), None, "{other:?}");
        }
    }

    #[test]
    fn what_was_merged_is_merged_with_its_like() {
        let merged = |last: u64| file(last, &format!("-merged1-{}-0", last - 1), 30);
        let files = [merged(2), merged(4), file(5, "", 10)];
        assert_eq!(chosen(&files), None);
        let new = [file(6, "", 10), file(7, "", 10)];
        assert_eq!(chosen(&[&files[..], &new[..]].concat()), Some(vec![5, 6, 7]));
        assert_eq!(chosen(&[&files[..], &[merged(9)]].concat()), Some(vec![2, 4, 9]));
    }

    #[test]
    fn what_fills_a_file_is_one() {
        let sized = |sizes: &[u64]| {
            let files = sizes.iter().zip(1..).map(|(size, batch)| file(batch, "", *size));
            chosen(&files.collect::<Vec<_>>())
        };
        assert_eq!(sized(&[60, 30, 20]), Some(vec![1, 2]));
        assert_eq!(sized(&[90, 60, 30]), None);
        assert_eq!(sized(&[90, 60, 30, 5, 5]), Some(vec![2, 3, 4, 5]));
    }
}
