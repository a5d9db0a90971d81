//! What a start finds in a checkpoint, and what follows from it. No I/O here.
//!
//! A batch goes through three states: planned (`offsets/N`), committed (`commits/N`), and later
//! *covered*, when what its sources must remember is merged into `history/`. Files of covered
//! batches may be gone, all or some: deletions are not durable and can come back one by one. All
//! other files must be there: a gap means that a file was lost, and guessing would lose rows or
//! write them twice.

use std::collections::BTreeSet;

use super::layout;

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file, below the checkpoint's root.
    pub path: String,
    /// What is wrong with it, and what to do.
    pub problem: String,
}

/// Which files a checkpoint has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// Whether there is a `metadata`.
    pub(crate) metadata: bool,
    /// The batches in `offsets/`.
    pub(crate) offsets: BTreeSet<u64>,
    /// The batches in `commits/`.
    pub(crate) commits: BTreeSet<u64>,
    /// The last batch that is covered by the history of every source, as all before it are.
    pub(crate) covered: Option<u64>,
}

/// How a start goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// No batch was ever planned.
    Fresh,
    /// Every planned batch is committed.
    Next {
        /// The last of them.
        last: u64,
    },
    /// The latest batch was planned and is not committed.
    Rerun {
        /// That batch.
        batch: u64,
    },
}

/// How a start goes on, or the first of its [`problems`].
pub(crate) fn decide(facts: &Facts) -> Result<Decision, Finding> {
    if let Some(problem) = problems(facts).into_iter().next() {
        return Err(problem);
    }
    Ok(match facts.latest() {
        None => Decision::Fresh,
        Some(last) if facts.commits.contains(&last) => Decision::Next { last },
        Some(batch) => Decision::Rerun { batch },
    })
}

/// Everything that is missing.
pub(crate) fn problems(facts: &Facts) -> Vec<Finding> {
    let Some(latest) = facts.latest() else { return Vec::new() };
    let uncovered = facts.covered.map_or(0, |covered| covered + 1);
    let is_committed = facts.commits.contains(&latest) || uncovered > latest;
    let mut problems = Vec::new();
    if !facts.metadata {
        problems.push(missing(
            layout::METADATA.to_string(),
            "without it the query would get a new id, and its sink could not tell repeated batches",
        ));
    }

    // A rerun begins where the batch before it ended.
    let first_needed = uncovered.min(if is_committed { latest } else { latest.saturating_sub(1) });
    for (first, last) in gaps(&facts.offsets, first_needed, latest) {
        problems.push(missing(
            files(layout::OFFSETS, first, last),
            "the batch was planned, and no history segment covers it",
        ));
    }

    if is_committed && !facts.commits.contains(&latest) {
        problems
            .push(missing(layout::commit(latest), "the batch is part of the history, so it was committed"));
    }
    if latest > 0 {
        let first_needed = if is_committed { uncovered } else { uncovered.min(latest - 1) };
        for (first, last) in gaps(&facts.commits, first_needed, latest - 1) {
            problems.push(missing(
                files(layout::COMMITS, first, last),
                "a later batch was planned, and only the latest batch may be without a commit",
            ));
        }
    }
    problems
}

impl Facts {
    /// The latest batch of which there is any trace.
    pub(crate) fn latest(&self) -> Option<u64> {
        let listed = self.offsets.last().max(self.commits.last());
        listed.copied().max(self.covered)
    }
}

fn missing(path: String, why: &str) -> Finding {
    let problem = format!(
        "it is missing: {why}. Restore it from a copy of the checkpoint, or start with a new checkpoint"
    );
    Finding { path, problem }
}

/// `offsets/3` or, for several, `offsets/3 to offsets/7`.
fn files(dir: &str, first: u64, last: u64) -> String {
    if first == last { format!("{dir}/{first}") } else { format!("{dir}/{first} to {dir}/{last}") }
}

/// The stretches of `first..=last` that are not in `present`. Costs as much as `present` is long,
/// however wide the range.
fn gaps(present: &BTreeSet<u64>, first: u64, last: u64) -> Vec<(u64, u64)> {
    let mut gaps = Vec::new();
    if first > last {
        return gaps;
    }
    let mut expected = first;
    for &batch in present.range(first..=last) {
        if batch > expected {
            gaps.push((expected, batch - 1));
        }
        expected = batch + 1;
    }
    if expected <= last {
        gaps.push((expected, last));
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `offsets`, `commits`, covered -> decision or the files that are missing.
    fn outcome(offsets: &[u64], commits: &[u64], covered: Option<u64>) -> Result<Decision, Vec<String>> {
        let facts = Facts {
            metadata: true,
            offsets: offsets.iter().copied().collect(),
            commits: commits.iter().copied().collect(),
            covered,
        };
        decide(&facts).map_err(|first| {
            let all: Vec<String> = problems(&facts).into_iter().map(|problem| problem.path).collect();
            assert_eq!(all.first(), Some(&first.path));
            all
        })
    }

    #[test]
    fn whole_checkpoints() {
        use Decision::{Fresh, Next, Rerun};
        for (offsets, commits, covered, decision) in [
            (&[][..], &[][..], None, Fresh),
            (&[0], &[], None, Rerun { batch: 0 }),
            (&[0], &[0], None, Next { last: 0 }),
            (&[0, 1], &[0], None, Rerun { batch: 1 }),
            (&[0, 1, 2], &[0, 1, 2], None, Next { last: 2 }),
            // Purged up to what is covered.
            (&[8, 9, 10], &[8, 9, 10], Some(9), Next { last: 10 }),
            (&[9, 10], &[9], Some(9), Rerun { batch: 10 }),
            (&[10], &[10], Some(9), Next { last: 10 }),
            (&[9], &[9], Some(9), Next { last: 9 }),
            // Deletions that came back one by one.
            (&[2, 5, 9, 10, 11], &[0, 7, 10], Some(9), Rerun { batch: 11 }),
            (&[2, 9], &[9], Some(9), Next { last: 9 }),
            // Covered, and nothing deleted yet.
            (&[0, 1, 2, 3], &[0, 1, 2, 3], Some(1), Next { last: 3 }),
        ] {
            assert_eq!(
                outcome(offsets, commits, covered),
                Ok(decision),
                "{offsets:?} {commits:?} {covered:?}"
            );
        }
    }

    #[test]
    fn lost_files_are_named() {
        for (offsets, commits, covered, missing) in [
            (&[][..], &[0][..], None, &["offsets/0"][..]),
            (&[0], &[0, 1], None, &["offsets/1"]),
            (&[0, 2], &[0, 1], None, &["offsets/1"]),
            (&[0, 1, 5], &[0, 1, 2, 3, 4], None, &["offsets/2 to offsets/4"]),
            (&[1], &[1], None, &["offsets/0", "commits/0"]),
            (&[0, 1, 2], &[0, 2], None, &["commits/1"]),
            (&[0, 1, 2], &[0], None, &["commits/1"]),
            (&[0, 1, 2, 3], &[], None, &["commits/0 to commits/2"]),
            (&[10], &[9], Some(9), &["offsets/9"]),
            (&[9, 10], &[], Some(9), &["commits/9"]),
            (&[9, 11], &[9, 10, 11], Some(9), &["offsets/10"]),
            (&[], &[], Some(9), &["offsets/9", "commits/9"]),
            (&[9], &[], Some(9), &["commits/9"]),
            (&[8, 9], &[8], Some(9), &["commits/9"]),
            (
                &[0, u64::MAX >> 1],
                &[0],
                None,
                &["offsets/1 to offsets/9223372036854775806", "commits/1 to commits/9223372036854775806"],
            ),
        ] {
            let missing = missing.iter().map(|path| (*path).to_string()).collect();
            assert_eq!(
                outcome(offsets, commits, covered),
                Err(missing),
                "{offsets:?} {commits:?} {covered:?}"
            );
        }
    }

    #[test]
    fn metadata_may_be_missing_only_before_the_first_batch() {
        let mut facts = Facts::default();
        assert_eq!(decide(&facts), Ok(Decision::Fresh));
        facts.offsets.insert(0);
        let refusal = decide(&facts).map_err(|problem| (problem.path, problem.problem));
        assert!(refusal.is_err_and(|(path, problem)| path == "metadata" && problem.contains("new id")));
    }
}
