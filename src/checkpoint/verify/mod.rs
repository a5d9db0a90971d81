//! Checks a whole checkpoint, file by file, and says everything that is wrong with it.
//!
//! Works beside a running query: files that come or go meanwhile are no findings. To that end the
//! listings are made in an order in which each can be judged by one that is older or younger.

mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use futures::{StreamExt, stream};
use serde::de::DeserializeOwned;

use crate::checkpoint::history::{Cover, cover, is_regular};
use crate::checkpoint::read::{CONCURRENT_READS, check_id, check_offsets, covered, numbers, ranges};
use crate::checkpoint::records::{
    CommitRecord, FenceRecord, HistoryRecord, Metadata, OffsetsRecord, QueryDefinition, later,
};
use crate::checkpoint::recovery::{Facts, Finding, problems};
use crate::checkpoint::{frame, layout};
use crate::error::{Error, Result};
use crate::storage::{Storage, StoredFile};

/// What [`verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// How many files were read.
    pub files: u64,
    /// How many batches the query has committed since its beginning.
    pub batches: u64,
    /// Everything that is wrong; empty for a good checkpoint.
    pub findings: Vec<Finding>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.files == 0 && self.findings.is_empty() {
            return f.write_str("there is no checkpoint here");
        }
        let Self { files, batches, findings } = self;
        let files = count(*files, "file");
        let batches = count(*batches, "committed batch");
        let problems = match findings.len() as u64 {
            0 => "no problem".to_string(),
            some => count(some, "problem"),
        };
        write!(f, "{files}, {batches}: {problems} found")?;
        for Finding { path, problem } in findings {
            write!(f, "\n  {path}: {problem}")?;
        }
        Ok(())
    }
}

fn count(number: u64, what: &str) -> String {
    match (number, what.ends_with("ch")) {
        (1, _) => format!("1 {what}"),
        (_, true) => format!("{number} {what}es"),
        (_, false) => format!("{number} {what}s"),
    }
}

/// Reads every file of a checkpoint and checks all that must hold, alone and together.
///
/// # Errors
/// Only if a directory cannot be listed. Everything else that is wrong, files that cannot be read
/// included, is a [`Finding`].
pub async fn verify(storage: &dyn Storage) -> Result<Report> {
    let mut verifier = Verifier { storage, report: Report::default(), gone: Vec::new() };
    verifier.run().await?;
    verifier.report.findings.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(verifier.report)
}

struct Verifier<'a> {
    storage: &'a dyn Storage,
    report: Report,
    /// Files that were listed and were not there any more when they were read.
    gone: Vec<String>,
}

/// What is listed, so that it can be judged.
struct Listed {
    facts: Facts,
    /// The commits that can be read, of whichever moment.
    committed: BTreeSet<u64>,
    histories: Vec<BTreeSet<(u64, u64)>>,
}

impl Verifier<'_> {
    async fn run(&mut self) -> Result<()> {
        let is_metadata = |file: &StoredFile| file.path == layout::METADATA;
        let mut root = self.storage.list("").await?;
        let has_batches = self.has_batches().await?;
        if has_batches && !root.iter().any(is_metadata) {
            // It is older than any batch: if it is there at all, it is there by now.
            root = self.storage.list("").await?;
        }
        self.foreign(&root, |name| name == layout::METADATA);
        self.foreign(&self.storage.list(layout::HISTORY).await?, |_| false);
        let has_metadata = root.iter().any(is_metadata);
        let metadata = if has_metadata { vec![layout::METADATA.to_string()] } else { Vec::new() };
        let metadata: Option<Metadata> = self.read_all(metadata).await.pop().flatten();
        let sources = metadata.as_ref().map(|metadata| metadata.definition.sources.len());
        self.definitions(metadata.as_ref()).await?;
        self.fences().await?;
        if !has_metadata && !has_batches {
            return Ok(());
        }
        let histories = match sources {
            Some(sources) => sources,
            None => self.count_histories().await?,
        };
        let listed = self.list(has_metadata, histories).await?;
        let facts = &listed.facts;
        self.report.batches = facts.commits.last().copied().max(facts.covered).map_or(0, |last| last + 1);
        self.report.findings.extend(problems(facts));

        let mut planned = self.planned(&facts.offsets, sources).await;
        let (committed, let_go, newest) = self.committed(&listed.committed).await;
        for commit in &let_go {
            if let Some(plan) = planned.remove(&commit.batch_id) {
                planned.insert(commit.batch_id, plan.committed_by(commit));
            }
        }
        let let_go = let_go.iter().map(|commit| commit.batch_id).collect();
        self.compare(&planned, &committed, &let_go);
        self.state(newest.as_ref()).await?;
        for (source, ranges) in listed.histories.iter().enumerate() {
            self.segments(source, ranges).await;
        }
        self.settle_gone(histories).await
    }

    async fn has_batches(&self) -> Result<bool> {
        for dir in [layout::OFFSETS, layout::COMMITS, &layout::history(0)] {
            if !self.storage.list(dir).await?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How many sources have a history, for checkpoints whose metadata cannot tell.
    async fn count_histories(&self) -> Result<usize> {
        let mut sources = 0;
        while !self.storage.list(&layout::history(sources)).await?.is_empty() {
            sources += 1;
        }
        Ok(sources)
    }

    /// Lists the batches, as of the moment at which the plans are listed: what is listed before must
    /// fit them, and what they lack may have been purged and then be in a history listed after.
    async fn list(&mut self, metadata: bool, sources: usize) -> Result<Listed> {
        let covered_before = last_covered(&self.histories(sources).await?);
        let committed_before = numbers(&self.storage.list(layout::COMMITS).await?);
        let offsets = self.storage.list(layout::OFFSETS).await?;
        let committed = self.storage.list(layout::COMMITS).await?;
        let histories = self.histories(sources).await?;
        let committed_after = numbers(&self.storage.list(layout::COMMITS).await?);
        self.foreign(&offsets, |name| layout::number(name).is_some());
        self.foreign(&committed, |name| layout::number(name).is_some());

        let (offsets, committed) = (numbers(&offsets), numbers(&committed));
        let latest = offsets.last().copied();
        let mut commits = committed.clone();
        commits.retain(|batch| Some(*batch) <= latest || committed_before.contains(batch));
        // The commit of a later batch says the same, and this one's may be purged by now.
        let newest = committed.last().max(committed_after.last());
        commits.extend(latest.filter(|latest| newest >= Some(latest)));
        let covered = covered_before.max(last_covered(&histories).min(latest));
        Ok(Listed { facts: Facts { metadata, offsets, commits, covered }, committed, histories })
    }

    async fn histories(&mut self, sources: usize) -> Result<Vec<BTreeSet<(u64, u64)>>> {
        let mut histories = Vec::with_capacity(sources);
        for source in 0..sources {
            histories.push(ranges(&self.storage.list(&layout::history(source)).await?));
        }
        Ok(histories)
    }

    async fn fences(&mut self) -> Result<()> {
        let files = self.storage.list(layout::FENCE).await?;
        self.foreign(&files, |name| layout::number(name).is_some());
        let paths = numbers(&files).into_iter().map(layout::fence).collect();
        let _: Vec<Option<FenceRecord>> = self.read_all(paths).await;
        Ok(())
    }

    /// The files that say which columns have come.
    async fn definitions(&mut self, metadata: Option<&Metadata>) -> Result<()> {
        let files = self.storage.list(layout::DEFINITION).await?;
        self.foreign(&files, |name| layout::number(name).is_some());
        let paths: Vec<String> = numbers(&files).into_iter().map(layout::definition).collect();
        let records: Vec<Option<QueryDefinition>> = self.read_all(paths.clone()).await;
        for (path, record) in paths.into_iter().zip(records) {
            let sources = metadata.map(|metadata| metadata.definition.sources.len());
            if let (Some(record), Some(sources)) = (record, sources)
                && record.sources.len() != sources
            {
                let found = record.sources.len();
                let problem = format!("it is of {found} sources, and the query has {sources}");
                self.report.findings.push(Finding { path, problem });
            }
        }
        Ok(())
    }

    async fn planned(
        &mut self,
        batches: &BTreeSet<u64>,
        sources: Option<usize>,
    ) -> BTreeMap<u64, OffsetsRecord> {
        let paths = batches.iter().copied().map(layout::offsets).collect();
        let records: Vec<Option<OffsetsRecord>> = self.read_all(paths).await;
        let mut planned = BTreeMap::new();
        for (batch, record) in batches.iter().copied().zip(records) {
            let Some(record) = record else { continue };
            let path = layout::offsets(batch);
            let sources = sources.unwrap_or(record.sources.len());
            if let Some(mut record) = self.checked(&path, check_offsets(&path, record, batch, sources)) {
                // Only whether there are entries matters here; there may be very many.
                record.sources.iter_mut().for_each(|source| source.entries.truncate(1));
                planned.insert(batch, record);
            }
        }
        planned
    }

    /// The watermarks after the batches, the records of those that were let go, and the newest record.
    async fn committed(
        &mut self,
        batches: &BTreeSet<u64>,
    ) -> (BTreeMap<u64, i64>, Vec<CommitRecord>, Option<CommitRecord>) {
        let paths = batches.iter().copied().map(layout::commit).collect();
        let records: Vec<Option<CommitRecord>> = self.read_all(paths).await;
        let mut committed = BTreeMap::new();
        let (mut let_go, mut newest) = (Vec::new(), None);
        for (batch, record) in batches.iter().copied().zip(records) {
            let Some(record) = record else { continue };
            let path = layout::commit(batch);
            if self.checked(&path, check_id(&path, "batch", record.batch_id, batch)).is_some() {
                committed.insert(batch, record.next_batch_watermark_ms);
                if record.let_go.is_some() {
                    let_go.push(record.clone());
                }
                newest = Some(record);
            }
        }
        (committed, let_go, newest)
    }

    /// Checks each batch against the one before it.
    fn compare(
        &mut self,
        planned: &BTreeMap<u64, OffsetsRecord>,
        committed: &BTreeMap<u64, i64>,
        let_go: &BTreeSet<u64>,
    ) {
        for (batch, watermark) in committed {
            let Some(plan) = planned.get(batch) else { continue };
            if later(*watermark, plan.batch_watermark_ms) != *watermark {
                let before = plan.batch_watermark_ms;
                self.finding(
                    layout::commit(*batch),
                    format!("the watermark goes back from {before} to {watermark} ms"),
                );
            }
        }
        for (batch, plan) in planned {
            let Some(previous) = batch.checked_sub(1) else { continue };
            let before = planned.get(&previous).map(|plan| plan.batch_watermark_ms);
            // A batch that was let go has the watermark of the one before it, not the one that came after that.
            let after = committed.get(&previous).copied().filter(|_| !let_go.contains(batch));
            let before = later(before.unwrap_or_default(), after.unwrap_or_default());
            if later(before, plan.batch_watermark_ms) != plan.batch_watermark_ms {
                let watermark = plan.batch_watermark_ms;
                self.finding(
                    layout::offsets(*batch),
                    format!("the watermark goes back from {before} to {watermark} ms"),
                );
            }
            let Some(previous) = planned.get(&previous) else { continue };
            for (index, (source, before)) in plan.sources.iter().zip(&previous.sources).enumerate() {
                if source.end.is_null() && !before.end.is_null() {
                    self.finding(
                        layout::offsets(*batch),
                        format!("source {index} has no end offset, and had one before"),
                    );
                }
                if source.end == before.end && !source.entries.is_empty() {
                    self.finding(
                        layout::offsets(*batch),
                        format!("source {index} has entries, and its end offset stays"),
                    );
                }
            }
        }
    }

    async fn segments(&mut self, source: usize, listed: &BTreeSet<(u64, u64)>) {
        let Cover { used, redundant, gap } = cover(listed);
        if let Some((first, last)) = gap {
            self.finding(
                layout::segment(source, first, last),
                "it is missing, or the segments that it was made of",
            );
        }
        for range in listed.iter().filter(|range| !is_regular(**range)) {
            let path = layout::segment(source, range.0, range.1);
            self.finding(path, "no segment begins and ends at these batches; move the file elsewhere");
        }
        let segments: Vec<(u64, u64)> = used.into_iter().chain(redundant).collect();
        let paths = segments.iter().map(|(first, last)| layout::segment(source, *first, *last)).collect();
        let records: Vec<Option<HistoryRecord>> = self.read_all(paths).await;
        for ((first, last), record) in segments.into_iter().zip(records) {
            let Some(record) = record else { continue };
            let path = layout::segment(source, first, last);
            let same = check_id(&path, "first batch", record.first_batch, first)
                .and_then(|()| check_id(&path, "last batch", record.last_batch, last));
            self.checked(&path, same);
        }
    }

    /// Files may go while the query runs: old fences, and what the history has by now.
    async fn settle_gone(&mut self, sources: usize) -> Result<()> {
        if self.gone.is_empty() {
            return Ok(());
        }
        let histories = self.histories(sources).await?;
        let covered = last_covered(&histories);
        let newest_fence = numbers(&self.storage.list(layout::FENCE).await?).last().copied();
        for path in std::mem::take(&mut self.gone) {
            let name = layout::name(&path);
            let may_go = match (path.split('/').next(), layout::number(name), layout::range(name)) {
                (Some(layout::FENCE), Some(generation), _) => Some(generation) < newest_fence,
                (Some(layout::OFFSETS | layout::COMMITS), Some(batch), _) => Some(batch) <= covered,
                (Some(layout::HISTORY), _, Some((_, last))) => Some(last) <= covered,
                _ => false,
            };
            if !may_go {
                self.finding(path, "the directory lists it, and reading says that it does not exist");
            }
        }
        Ok(())
    }

    fn finding(&mut self, path: impl Into<String>, problem: impl Into<String>) {
        self.report.findings.push(Finding { path: path.into(), problem: problem.into() });
    }

    fn foreign(&mut self, files: &[StoredFile], belongs: impl Fn(&str) -> bool) {
        for file in files.iter().filter(|file| !belongs(layout::name(&file.path))) {
            self.finding(&file.path, "this file is not part of a checkpoint; move it elsewhere");
        }
    }

    /// The records in `paths`, `None` for those that are damaged or gone.
    async fn read_all<T: DeserializeOwned>(&mut self, paths: Vec<String>) -> Vec<Option<T>> {
        let storage = self.storage;
        let mut records = Vec::with_capacity(paths.len());
        let mut files = stream::iter(paths)
            .map(|path| async move {
                let file = storage.read(&path).await;
                (path, file)
            })
            .buffered(CONCURRENT_READS);
        while let Some((path, file)) = files.next().await {
            let record = match file.transpose() {
                Some(file) => {
                    self.report.files += 1;
                    self.checked(&path, file.and_then(|file| frame::decode(&path, &file)))
                }
                None => {
                    self.gone.push(path);
                    None
                }
            };
            records.push(record);
        }
        records
    }

    /// Makes a finding of an error.
    fn checked<T>(&mut self, path: &str, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => return Some(value),
            Err(Error::CheckpointDamaged { path, reason }) => self.finding(path, reason),
            Err(error) => self.finding(path, error.to_string()),
        }
        None
    }
}

fn last_covered(histories: &[BTreeSet<(u64, u64)>]) -> Option<u64> {
    let covers: Vec<Cover> = histories.iter().map(cover).collect();
    covered(&covers)
}
