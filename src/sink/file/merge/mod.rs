//! Small files of old batches become large ones, while the query goes on (`compactAfter`).
//!
//! Only files of batches that the checkpoint does not have any more are touched. So whatever a batch can still be asked
//! for – to be published again, gone back over, compared with – finds its files where it put them.
//!
//! A merged file is written beside the batches, staged as theirs are. It takes the place of the others at once
//! ([`Replacing`]), between two batches: directories change places for that, and the one of what is staged may be in
//! the one that is exchanged. If the process dies, there are the old files or the new one.

mod choose;
mod rewrite;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use datafusion::execution::memory_pool::MemoryConsumer;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;
use url::Url;
use uuid::Uuid;

use self::choose::{Policy, Small};
use self::rewrite::Rewrite;
use super::manifest::Manifest;
use super::names::{self, PublishedName};
use super::writer::Shared;
use super::{listing, options};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::storage::{REPLACED_STAYS, Replaced, Replacing, Storage, StoredFile};

/// The size of files that are not small, unless `targetFileSize` says otherwise.
const TARGET_BYTES: u64 = 128 << 20;

/// How long a run that ends goes on merging: one that is started again and again has no other time for it.
const GO_ON: Duration = Duration::from_secs(5);

/// The option.
const OPTION: &str = "compactAfter";

/// The most directories whose content is known not to be further than the checkpoint.
const KNOWN_DIRECTORIES: usize = 10_000;

/// Merges the files of one sink.
#[derive(Debug)]
pub(super) struct Merging {
    policy: Policy,
    state: Mutex<Merges>,
    /// When the run ended.
    ended: OnceLock<Instant>,
}

/// What is there to be done. Whoever holds it may move published files.
#[derive(Debug, Default)]
pub(super) struct Merges {
    /// Whether files are staged: between the first writer of a batch and its publication.
    is_writing: bool,
    /// Merged files that are shown when the batch is published.
    ready: Vec<Merged>,
    /// Directories that were replaced, and when.
    replaced: Vec<(Replaced, Instant)>,
    /// The directories that batches published to which the checkpoint still has.
    published: BTreeMap<u64, BTreeSet<String>>,
    /// The directories to look at.
    due: BTreeSet<String>,
    /// Below what batch files were looked for.
    looked: Option<u64>,
    /// Directories without files of batches that the checkpoint does not know yet.
    checked: HashSet<String>,
    /// Files that have other columns.
    left_alone: HashSet<String>,
    /// Directories in which it has failed in this run.
    failed: HashSet<String>,
    /// Whether it has failed otherwise.
    has_failed: bool,
}

/// A merged file that is staged, and what it stands for.
#[derive(Debug)]
struct Merged {
    files: Vec<String>,
    from: String,
    to: String,
}

impl Merging {
    /// Takes the option out of `options`; `None` if it is not set. Fails if `storage` cannot do it.
    pub(super) fn take(options: &mut Options, storage: &dyn Storage) -> Result<Option<Self>> {
        let Some(after) = options.positive(OPTION)? else { return Ok(None) };
        let limits = options::limits(options)?;
        let target = limits.bytes.unwrap_or(TARGET_BYTES);
        options.take(OPTION);
        let reason = match (after, limits.rows, storage.replacing()) {
            (1, ..) => "expected a number of files of at least 2",
            (_, Some(_), _) => {
                "merged files would have more rows than maxRecordsPerFile allows; set targetFileSize instead"
            }
            (.., None) => {
                "files can be replaced at once only on local disks of Linux and macOS; leave the option out, and let \
                 the trigger take more rows into a batch, so that its files are larger"
            }
            _ => {
                let after = usize::try_from(after).unwrap_or(usize::MAX);
                return Ok(Some(Self {
                    policy: Policy { after, target },
                    state: Mutex::default(),
                    ended: OnceLock::new(),
                }));
            }
        };
        Err(Error::option(OPTION, after, reason))
    }

    /// A batch is about to be staged.
    pub(super) async fn begin_batch(&self) {
        self.state.lock().await.is_writing = true;
    }

    /// The run ends: what is begun is brought to its end, and for a while more is.
    pub(super) fn end(&self) {
        self.ended.get_or_init(Instant::now);
    }

    fn is_over(&self) -> bool {
        self.ended.get().is_some_and(|ended| ended.elapsed() > GO_ON)
    }

    /// Nothing is moved that is published until this is dropped.
    pub(super) async fn hold(&self) -> MutexGuard<'_, Merges> {
        self.state.lock().await
    }
}

/// What a merge works with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output<'a> {
    pub shared: &'a Shared,
    pub url: &'a Url,
}

impl Output<'_> {
    /// Fails only if the storage has changed since the option was read.
    fn replacing(&self) -> Result<&dyn Replacing> {
        let storage = &self.shared.storage;
        storage.replacing().ok_or_else(|| Error::Invalid(format!("{} cannot replace files", storage.url())))
    }

    /// Finishes what processes began that died, if there is anything of them.
    pub(super) async fn settle(&self) -> Result<()> {
        if let Some(replacing) = self.shared.storage.replacing()
            && !replacing.is_settled().await?
        {
            replacing.settle().await?;
            listing::forget(&self.shared.runtime, self.url);
        }
        Ok(())
    }

    /// Whether other queries write to the same directory. What is staged is below the root: when that changes places, what
    /// others are about to publish would be away for a moment.
    async fn is_shared(&self, files: &[StoredFile], query_id: Uuid) -> Result<bool> {
        let is_others =
            |file: &StoredFile| PublishedName::of(&file.path).is_some_and(|name| name.query_id != query_id);
        let is_staged_by_others = |file: &StoredFile| {
            !file.path.starts_with(&names::query_prefix(query_id))
                && !names::is_staged_merge(&file.path, query_id)
        };
        Ok(files.iter().any(is_others)
            || self.shared.storage.list(names::STAGING).await?.iter().any(is_staged_by_others))
    }

    /// Finishes what processes began that died, and removes the merged files that they had staged.
    pub(super) async fn recover(&self, state: &mut Merges, query_id: Uuid) -> Result<()> {
        self.replacing()?.settle().await?;
        listing::forget(&self.shared.runtime, self.url);
        for file in self.shared.storage.list(names::STAGING).await? {
            if names::is_staged_merge(&file.path, query_id) {
                self.shared.storage.delete(&file.path).await?;
            }
        }
        state.is_writing = false;
        state.replaced.clear();
        Ok(())
    }

    /// Fails if there is output of batches from `batch_id` on already, merged with others, where that batch is about to
    /// publish: other than a file of its own, the rows in it cannot be told.
    pub(super) async fn refuse_later(
        &self,
        state: &mut Merges,
        batch_id: u64,
        manifest: &Manifest,
    ) -> Result<()> {
        if state.checked.len() > KNOWN_DIRECTORIES {
            state.checked.clear();
        }
        let query_id =
            manifest.files.iter().find_map(|file| PublishedName::of(&file.to)).map(|name| name.query_id);
        for directory in directories_of(manifest) {
            if state.checked.contains(&directory) {
                continue;
            }
            let files = self.replacing()?.files(&directory).await?;
            let is_later = |path: &str| {
                let name = PublishedName::of(path);
                name.is_some_and(|name| {
                    Some(name.query_id) == query_id && name.level > 0 && *name.batches.end() >= batch_id
                })
            };
            if let Some(path) = files.into_iter().map(|file| file.path).find(|path| is_later(path)) {
                return Err(Error::storage(
                    "publish",
                    path,
                    format!(
                        "this file holds rows of later batches than {batch_id}, so this output is further than the \
                         checkpoint: perhaps the checkpoint was restored from a backup, or copied. Restore both as they \
                         were at the same time, or start with a new checkpointLocation and another directory"
                    ),
                ));
            }
            state.checked.insert(directory);
        }
        Ok(())
    }

    /// A batch was published: what was merged beside it can be shown now.
    pub(super) async fn batch_published(&self, state: &mut Merges, batch_id: u64, manifest: &Manifest) {
        state.published.insert(batch_id, directories_of(manifest));
        state.is_writing = false;
        self.show_all(state).await;
    }

    /// A batch was given up.
    pub(super) async fn batch_aborted(&self, state: &mut Merges) {
        state.is_writing = false;
        self.show_all(state).await;
    }

    /// Merges what there is to merge of batches before `oldest`. A failure is worth only a warning, and this run tries
    /// no more.
    pub(super) async fn merge(&self, merging: &Merging, query_id: Uuid, oldest: u64) {
        let due = {
            let mut state = merging.hold().await;
            self.remove_replaced(&mut state).await;
            if state.has_failed || !state.ready.is_empty() {
                return;
            }
            match self.take_due(&mut state, oldest).await {
                Ok(due) => due,
                Err(error) => return give_up(&mut state, &error),
            }
        };
        for directory in due {
            let has_failed = merging.hold().await.failed.contains(&directory);
            if has_failed {
                continue;
            }
            if let Err(error) = self.merge_in(merging, query_id, oldest, &directory).await {
                // Others may be as they should.
                tracing::warn!(%directory, %error, "could not merge small files ({OPTION}); the next start tries again");
                merging.hold().await.failed.insert(directory);
            }
        }
    }

    /// The directories that have files of batches before `oldest` which nobody has looked at. Those of earlier runs may be
    /// anywhere.
    async fn take_due(&self, state: &mut Merges, oldest: u64) -> Result<BTreeSet<String>> {
        if state.looked.is_none() {
            state.due.extend(self.replacing()?.directories().await?);
        }
        if state.looked.is_none_or(|looked| looked < oldest) {
            let later = state.published.split_off(&oldest);
            let old = std::mem::replace(&mut state.published, later);
            state.due.extend(old.into_values().flatten());
            state.looked = Some(oldest);
        }
        Ok(std::mem::take(&mut state.due))
    }

    /// Merges the files of one directory until there is nothing left to merge, or it has to be shown later.
    async fn merge_in(&self, merging: &Merging, query_id: Uuid, oldest: u64, directory: &str) -> Result<()> {
        let extension = self.shared.encoding.extension();
        while !merging.is_over() {
            let files = self.replacing()?.files(directory).await?;
            if directory.is_empty() && self.is_shared(&files, query_id).await? {
                let reason = format!(
                    "other queries write to '{}', and what they are about to publish would be away for a moment; give each \
                     query a directory of its own",
                    self.url
                );
                return Err(Error::Invalid(reason));
            }
            let mut small = merging.policy.small(files, query_id, oldest, &extension);
            {
                let state = merging.hold().await;
                small.retain(|file| !state.left_alone.contains(&file.path));
            }
            let Some(group) = merging.policy.next_group(&small) else { return Ok(()) };
            let from = names::staged_merge(query_id);
            let rewritten = self.rewrite(group, &from).await;
            if rewritten.is_err() {
                // What stays is removed by the next start.
                let _ = self.shared.storage.delete(&from).await;
            }
            let (merged, others) = rewritten?;
            let mut state = merging.hold().await;
            state.left_alone.extend(others);
            let Some(merged) = merged else { continue };
            if state.is_writing {
                state.due.insert(directory.to_string());
                state.ready.push(merged);
                return Ok(());
            }
            self.show(&mut state, merged).await?;
        }
        Ok(())
    }

    /// Writes the rows of a group into one file, which is staged, unless nothing is left of it: files with other columns
    /// are left out and given back.
    async fn rewrite(&self, group: Vec<Small>, from: &str) -> Result<(Option<Merged>, Vec<String>)> {
        let mut out = self.shared.storage.writer(from).await?;
        let mut rewrite = Rewrite::new(&self.shared.encoding)?;
        let (mut merged, mut others) = (Vec::new(), Vec::new());
        let memory = MemoryConsumer::new("FileSink[merge]").register(&self.shared.runtime.memory_pool);
        for file in group {
            memory.try_resize(usize::try_from(file.bytes).unwrap_or(usize::MAX))?;
            let about = |error: Error| Error::storage("merge", file.path.clone(), error);
            let Some(content) = self.shared.storage.read(&file.path).await? else {
                return Err(about(Error::Invalid("it is not there any more".into())));
            };
            let (is_added, chunks);
            (rewrite, is_added, chunks) = off_thread(rewrite, content).await.map_err(about)?;
            for chunk in chunks {
                out.write(chunk).await?;
            }
            match is_added {
                true => merged.push(file),
                false => others.push(file.path),
            }
        }
        let (Some(first), true) = (merged.first(), merged.len() > 1) else {
            out.abort().await?;
            return Ok((None, others));
        };
        for chunk in rewrite.finish()? {
            out.write(chunk).await?;
        }
        out.finish().await?;
        let last = merged.iter().map(|file| *file.name.batches.end()).max().unwrap_or_default();
        let name = first.name.merged(last);
        let to = match first.path.rsplit_once('/') {
            Some((directory, _)) => format!("{directory}/{name}"),
            None => name,
        };
        let files = merged.into_iter().map(|file| file.path).collect();
        Ok((Some(Merged { files, from: from.to_string(), to }), others))
    }

    async fn show(&self, state: &mut Merges, merged: Merged) -> Result<()> {
        let Merged { files, from, to } = merged;
        let replaced = self.replacing()?.replace(&files, &from, &to).await;
        // Also after an error, because it may have been done.
        listing::forget(&self.shared.runtime, self.url);
        state.replaced.push((replaced?, Instant::now()));
        tracing::debug!(sink = %self.url, files = files.len(), merged = %to, "merged small files");
        Ok(())
    }

    /// Shows what is ready. The batch is there already, so a failure must not fail it.
    async fn show_all(&self, state: &mut Merges) {
        for merged in std::mem::take(&mut state.ready) {
            if let Err(error) = self.show(state, merged).await {
                give_up(state, &error);
            }
        }
    }

    /// Removes what was replaced long enough ago.
    async fn remove_replaced(&self, state: &mut Merges) {
        let (old, young) = std::mem::take(&mut state.replaced)
            .into_iter()
            .partition(|(_, since): &(Replaced, Instant)| since.elapsed() >= REPLACED_STAYS);
        state.replaced = young;
        for (replaced, _) in old {
            let removed = match self.replacing() {
                Ok(replacing) => replacing.remove(&replaced).await,
                Err(error) => Err(error),
            };
            if let Err(error) = removed {
                tracing::warn!(sink = %self.url, %error, "could not remove files that were merged");
            }
        }
    }

    /// The query has ended: shows what is ready, and leaves nothing behind.
    pub(super) async fn close(&self, state: &mut Merges) {
        state.is_writing = false;
        self.show_all(state).await;
        if let Some(youngest) = state.replaced.iter().map(|(_, since)| *since).max() {
            tokio::time::sleep_until(youngest + REPLACED_STAYS).await;
        }
        self.remove_replaced(state).await;
    }
}

/// Adds a file where computing may take a while.
async fn off_thread(mut rewrite: Rewrite, content: Bytes) -> Result<(Rewrite, bool, Vec<Bytes>)> {
    let work = move || {
        let is_added = rewrite.add(content)?;
        let chunks = rewrite.take();
        Ok((rewrite, is_added, chunks))
    };
    tokio::task::spawn_blocking(work).await.map_err(Error::other)?
}

fn give_up(state: &mut Merges, error: &Error) {
    if !std::mem::replace(&mut state.has_failed, true) {
        tracing::warn!(%error, "could not merge small files ({OPTION}); the next start tries again");
    }
}

/// The directories that a batch publishes to.
fn directories_of(manifest: &Manifest) -> BTreeSet<String> {
    let directory = |path: &str| path.rsplit_once('/').map_or("", |(directory, _)| directory).to_string();
    manifest.files.iter().map(|file| directory(&file.to)).collect()
}
