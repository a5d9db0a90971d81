//! The tables of a query, and their files in the checkpoint.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::execution::DiskManager;
use datafusion::execution::memory_pool::MemoryPool;
use serde_json::Value;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::budget::{Account, MemoryPart, SharedMemory, in_proportion, shares};
use super::changing_table::LiveTable;
use super::manifest::{Manifest, OperatorState, Segment, mergeable};
use super::merge::{merge, off_thread};
use super::moved::MovedChanges;
use super::pace::Pace;
use super::restore::{MakeTable, restore};
use super::segment::{self, NewBlock};
use super::segment_file::SegmentFile;
use super::segment_writer::{PART, SegmentWriter, Written};
use super::spill::SpillTable;
use super::table::StateTable;
use crate::error::{Error, Result};
use crate::storage::Storage;

/// The directory of the files below the checkpoint's root.
const DIRECTORY: &str = "state";

/// From how many changed rows on several threads write them.
const PARALLEL_FROM: usize = 1 << 14;

/// So many files are merged even at the end of a run, which may have been too short for it, as those
/// before.
const TOO_MANY: usize = 64;

/// How a query keeps its state.
#[derive(Debug, Clone)]
pub struct StateOptions {
    /// How many stateful operators the query has.
    pub operators: usize,
    /// How many partitions each of them has in this run; another run may have another number.
    pub partitions: usize,
    /// How many bytes of memory all tables may use together (`stateMemoryLimit`); beyond it, cold
    /// rows move to the disk.
    pub memory_limit: Option<usize>,
    /// Where rows move to.
    pub disk: Arc<DiskManager>,
    /// This run, for names that no other run uses.
    pub run_id: Uuid,
}

/// How large the state of an operator is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateUsage {
    /// How many rows there are.
    pub rows: u64,
    /// How many bytes of memory they take.
    pub memory: u64,
    /// How many bytes on the local disk those take that were moved there.
    pub disk: u64,
}

/// The state of a query: the tables of its operators, and their files in the checkpoint.
///
/// Per batch the operators change the tables; [`StateStore::write_changes`] then makes the changes
/// durable, and gives what the commit record has to say. A batch that fails leaves the tables
/// changed, and the store says so ([`StateStore::poison`]): the run ends, and the next one restores them
/// from the checkpoint.
#[derive(Debug)]
pub struct StateStore {
    storage: Arc<dyn Storage>,
    operators: usize,
    partitions: usize,
    run_id: Uuid,
    memory_limit: Option<usize>,
    account: Option<Mutex<Account>>,
    /// If the limit is for several queries together.
    part: Option<MemoryPart>,
    /// By operator, then partition.
    tables: Vec<Arc<Mutex<LiveTable>>>,
    files: Mutex<Files>,
    pace: Pace,
    /// Whether the tables may hold a part of a batch that failed, and nothing may become of them.
    poisoned: AtomicBool,
    /// Whether no batch has been committed.
    is_new: AtomicBool,
}

/// Which files there are.
#[derive(Debug, Default)]
struct Files {
    manifest: Manifest,
    /// Files that the newest manifests do not name, with the first batch whose manifest does not;
    /// `None` until that batch is written.
    retired: Vec<(Option<u64>, String)>,
}

impl StateStore {
    /// The state after the last committed batch: `manifest` is what its commit record says, `null`
    /// if there is none yet.
    ///
    /// # Errors
    /// [`Error::CheckpointDamaged`] if a file that the manifest names is missing or damaged.
    pub async fn open(storage: Arc<dyn Storage>, manifest: &Value, options: StateOptions) -> Result<Self> {
        let StateOptions { operators, partitions, memory_limit, disk, run_id } = options;
        let is_new = AtomicBool::new(manifest.is_null());
        let manifest = Manifest::from_record(manifest)?;
        // As they will be when the rows are there: how many bytes those take is not known yet.
        let rows = |operator: usize| manifest.operators.get(operator).map_or(0, |known| known.rows as usize);
        let expected: Vec<usize> =
            (0..operators * partitions).map(|table| rows(table / partitions) / partitions).collect();
        let limits = match memory_limit {
            Some(limit) => in_proportion(limit, &expected),
            None => vec![usize::MAX; expected.len()],
        };
        let make: MakeTable =
            Arc::new(move |table| Box::new(SpillTable::new(limits[table], Arc::clone(&disk))));
        let restored = restore(&storage, &manifest, operators, partitions, make).await?;
        let mut tables = Vec::with_capacity(restored.len());
        for (index, table) in restored.into_iter().enumerate() {
            let expired = manifest.operators.get(index / partitions.max(1)).and_then(|known| known.expired);
            tables.push(Arc::new(Mutex::new(LiveTable { rows: table, expired })));
        }
        let mut retired = Vec::new();
        if operators > 0 {
            let listed = storage.list(DIRECTORY).await?;
            let unknown = listed.into_iter().map(|file| file.path);
            let named = |path: &String| manifest.segments.iter().any(|segment| segment.file == *path);
            // Those of older manifests, and of batches that were never committed.
            retired.extend(unknown.filter(|path| !named(path)).map(|path| (None, path)));
        }
        let files = Mutex::new(Files { manifest, retired });
        let pace = Pace::default();
        Ok(Self {
            storage,
            operators,
            partitions,
            run_id,
            memory_limit,
            account: None,
            part: None,
            tables,
            files,
            pace,
            poisoned: AtomicBool::new(false),
            is_new,
        })
    }

    /// Accounts the memory of all tables in `pool` from now on, anew after every batch.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the pool has not so much left; then and later.
    pub fn account_in(&mut self, pool: &Arc<dyn MemoryPool>) -> Result<()> {
        if self.operators > 0 {
            self.account = Some(Mutex::new(Account::open(pool)));
        }
        self.share_memory()
    }

    /// Has the limit of memory be one for the state of all queries that share `memory`.
    ///
    /// # Errors
    /// As [`account_in`](Self::account_in).
    pub fn share_with(&mut self, memory: &Arc<SharedMemory>) -> Result<()> {
        if self.operators > 0 {
            self.part = Some(memory.join());
        }
        self.share_memory()
    }

    /// Divides the memory among the tables by what they take, and accounts it.
    fn share_memory(&self) -> Result<()> {
        if self.memory_limit.is_none() && self.account.is_none() {
            return Ok(());
        }
        let used: Vec<usize> = self.tables.iter().map(|table| locked(table).memory()).collect();
        if let Some(limit) = self.memory_limit {
            let limit = self.part.as_ref().map_or(limit, |part| part.of(limit, used.iter().sum()));
            for (table, share) in self.tables.iter().zip(shares(limit, &used)) {
                locked(table).set_memory_limit(share);
            }
        }
        match &self.account {
            Some(account) => account.lock().unwrap_or_else(PoisonError::into_inner).set(used.iter().sum()),
            None => Ok(()),
        }
    }

    /// How many partitions each operator has.
    pub fn partitions(&self) -> usize {
        self.partitions
    }

    /// Whether there are no operators, and so nothing to remember.
    pub fn is_empty(&self) -> bool {
        self.operators == 0
    }

    /// The table of one operator in one partition.
    pub fn table(&self, operator: usize, partition: usize) -> TableGuard<'_> {
        TableGuard(self.live(operator, partition))
    }

    fn live(&self, operator: usize, partition: usize) -> MutexGuard<'_, LiveTable> {
        locked(&self.tables[operator * self.partitions + partition])
    }

    /// Says that the tables may hold a part of a batch that is not going to be committed.
    pub fn poison(&self) {
        self.poisoned.store(true, Ordering::Relaxed);
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How large the state of one operator is.
    pub fn usage(&self, operator: usize) -> StateUsage {
        let mut usage = StateUsage::default();
        for partition in 0..self.partitions {
            let table = self.live(operator, partition);
            usage.rows += table.len();
            usage.memory += table.memory() as u64;
            usage.disk += table.disk();
        }
        usage
    }

    /// The smallest expiry of any row of these operators, in microseconds since the epoch; may be lower than the
    /// truth.
    pub fn first_expiry(&self, operators: &[usize]) -> Option<i64> {
        self.expiries(operators, |table| table.first_expiry()).min()
    }

    /// The smallest expiry of any row of these operators, in microseconds since the epoch; lower than the truth at
    /// most for rows on the disk.
    pub fn next_expiry(&self, operators: &[usize]) -> Option<i64> {
        self.expiries(operators, |table| table.next_expiry()).min()
    }

    /// The largest expiry of any row there ever was of these operators, in microseconds since the epoch.
    pub fn last_expiry(&self, operators: &[usize]) -> Option<i64> {
        self.expiries(operators, |table| table.last_expiry()).max()
    }

    /// Whether no batch has been made durable yet.
    pub fn is_new(&self) -> bool {
        self.is_new.load(Ordering::Relaxed)
    }

    /// Whether there is anything in state.
    pub fn has_rows(&self) -> bool {
        self.tables.iter().any(|table| !locked(table).is_empty())
    }

    fn expiries(
        &self,
        operators: &[usize],
        of: impl Fn(&LiveTable) -> Option<i64>,
    ) -> impl Iterator<Item = i64> {
        let tables = operators.iter().flat_map(|operator| {
            let from = operator * self.partitions;
            &self.tables[from..from + self.partitions]
        });
        tables.filter_map(move |table| of(&locked(table)))
    }

    /// Makes what the batch changed durable, in one object or, if nothing changed, in none, and gives
    /// the manifest for its commit record.
    ///
    /// # Errors
    /// Those of the storage, and [`Error::Invalid`] if the tables take more memory than there is
    /// (see [`StateStore::account_in`]), or if an earlier batch failed. The store is poisoned then.
    pub async fn write_changes(&self, batch_id: u64) -> Result<Value> {
        if self.operators == 0 {
            return Ok(Value::Null);
        }
        if self.poisoned.swap(true, Ordering::Relaxed) {
            return Err(Error::Invalid(
                "the state holds a part of a batch that failed; start the query again: it goes on from its checkpoint"
                    .into(),
            ));
        }
        let record = self.make_durable(batch_id).await?;
        self.is_new.store(false, Ordering::Relaxed);
        self.poisoned.store(false, Ordering::Relaxed);
        Ok(record)
    }

    async fn make_durable(&self, batch_id: u64) -> Result<Value> {
        self.share_memory()?;
        let mut changed = Vec::new();
        let mut rows = 0;
        let mut operators = Vec::with_capacity(self.operators);
        for operator in 0..self.operators {
            let mut state = OperatorState::default();
            for partition in 0..self.partitions {
                let table = self.live(operator, partition);
                state.rows += table.len();
                state.expired = state.expired.max(table.expired);
                if table.rows.changed() > 0 {
                    rows += table.rows.changed();
                    let table = Arc::clone(&self.tables[operator * self.partitions + partition]);
                    changed.push((operator as u32, table));
                }
            }
            operators.push(state);
        }
        let encoded = encode(&changed, rows >= PARALLEL_FROM).await?;
        let segment = match encoded.iter().all(Encoded::is_empty) {
            true => None,
            false => Some(self.create(batch_id, encoded).await?),
        };
        changed.iter().for_each(|(_, table)| locked(table).rows.forget_changes());
        let mut files = self.files();
        files.manifest.operators = operators;
        if let Some(segment) = segment {
            // A run that takes up anew writes a batch that it did not commit once more, under the same name.
            files.retired.retain(|(_, path)| *path != segment.file);
            files.manifest.segments.push(segment);
            self.pace.file_added();
        }
        for (since, _) in &mut files.retired {
            since.get_or_insert(batch_id);
        }
        serde_json::to_value(&files.manifest)
            .map_err(|error| Error::Invalid(format!("the state's manifest has no JSON form: {error}")))
    }

    /// A name that no other run uses.
    fn path(&self, first_batch: u64, last_batch: u64) -> String {
        format!("{DIRECTORY}/{first_batch}-{last_batch}-{}", self.run_id.simple())
    }

    async fn create(&self, batch_id: u64, encoded: Vec<Encoded>) -> Result<Segment> {
        let file_name = self.path(batch_id, batch_id);
        let mut file = SegmentWriter::new(&*self.storage, &file_name);
        for Encoded { operator, moved, blocks } in encoded {
            if let Some(mut moved) = moved {
                loop {
                    let next = if moved.is_small() {
                        moved.next(PART)?
                    } else {
                        let next;
                        (moved, next) =
                            off_thread(move || moved.next(PART).map(|next| (moved, next))).await?;
                        next
                    };
                    if next.is_empty() {
                        break;
                    }
                    for block in next {
                        file.push(operator, block).await?;
                    }
                }
            }
            for block in blocks {
                file.push(operator, block).await?;
            }
        }
        let Written { rows, bytes } = file.finish().await?;
        Ok(Segment { file: file_name, first_batch: batch_id, last_batch: batch_id, rows, bytes })
    }

    /// Says that there are no more batches: merging need not leave the processor to them, and what is not
    /// urgent is left to the next run.
    pub fn end(&self) {
        self.pace.end();
    }

    /// Merges files as far as that is due, and removes those that only commit records before that of batch
    /// `oldest` name, the first that is kept. May run beside batches, but only once at a time. May be
    /// interrupted.
    ///
    /// # Errors
    /// Those of the storage, and damaged files. The next call goes on where this one stopped.
    pub async fn maintain(&self, oldest: u64) -> Result<()> {
        while let Some(merging) = self.next_merge() {
            if !self.merge(merging).await? {
                break;
            }
        }
        let removable: Vec<String> = {
            let is_old = |since: &Option<u64>| since.is_some_and(|since| since <= oldest);
            let files = self.files();
            files.retired.iter().filter(|(since, _)| is_old(since)).map(|(_, path)| path.clone()).collect()
        };
        for path in removable {
            self.storage.delete(&path).await?;
            self.files().retired.retain(|(_, retired)| *retired != path);
        }
        Ok(())
    }

    fn next_merge(&self) -> Option<Merging> {
        let files = self.files();
        let live = files.manifest.operators.iter().map(|operator| operator.rows).sum();
        let range = mergeable(&files.manifest.segments, live)?;
        Some(Merging {
            is_oldest: range.start == 0,
            segments: files.manifest.segments[range].to_vec(),
            expired: files.manifest.operators.iter().map(|operator| operator.expired).collect(),
        })
    }

    /// Whether it was not given up.
    async fn merge(&self, merging: Merging) -> Result<bool> {
        let Merging { segments, expired, is_oldest } = merging;
        let (Some(first), Some(last)) = (segments.first(), segments.last()) else { return Ok(true) };
        self.pace.begin();
        let mut files = Vec::with_capacity(segments.len());
        for segment in &segments {
            files.push(SegmentFile::open(&self.storage, segment).await?);
        }
        let (first_batch, last_batch) = (first.first_batch, last.last_batch);
        let file = self.path(first_batch, last_batch);
        let pace = (&self.pace, segments.len() >= TOO_MANY);
        let Some(merged) = merge(&*self.storage, &files, (&expired, is_oldest), &file, pace).await? else {
            return Ok(false);
        };
        let merged = Segment { file, first_batch, last_batch, rows: merged.rows, bytes: merged.bytes };
        let mut files = self.files();
        let at = files.manifest.segments.iter().position(|segment| segment.file == first.file);
        if let Some(at) = at {
            let end = at + segments.len();
            let old: Vec<Segment> = files.manifest.segments.splice(at..end, [merged]).collect();
            files.retired.extend(old.into_iter().map(|segment| (None, segment.file)));
        }
        Ok(true)
    }
}

/// Files that are to become one.
#[derive(Debug)]
struct Merging {
    segments: Vec<Segment>,
    is_oldest: bool,
    /// By operator.
    expired: Vec<Option<i64>>,
}

/// What was changed in one table.
#[derive(Debug)]
struct Encoded {
    operator: u32,
    /// Older than what is in `blocks`.
    moved: Option<MovedChanges>,
    blocks: Vec<NewBlock>,
}

impl Encoded {
    fn of(operator: u32, table: &Mutex<LiveTable>) -> Result<Self> {
        let mut table = locked(table);
        let moved = table.rows.take_moved()?;
        let changes = table.rows.changes();
        let blocks = if changes.len() > 0 { segment::encode(&*changes)? } else { Vec::new() };
        drop(changes);
        Ok(Self { operator, moved, blocks })
    }

    fn is_empty(&self) -> bool {
        self.moved.is_none() && self.blocks.is_empty()
    }
}

/// What was changed in tables, by operator. On several threads, away from those that wait for others, if it
/// is much.
async fn encode(changed: &[(u32, Arc<Mutex<LiveTable>>)], parallel: bool) -> Result<Vec<Encoded>> {
    if !parallel {
        return changed.iter().map(|(operator, table)| Encoded::of(*operator, table)).collect();
    }
    let mut encoded = Vec::with_capacity(changed.len());
    let mut tasks = JoinSet::new();
    for (index, (operator, table)) in changed.iter().enumerate() {
        let (operator, table) = (*operator, Arc::clone(table));
        tasks.spawn_blocking(move || (index, Encoded::of(operator, &table)));
    }
    while let Some(finished) = tasks.join_next().await {
        let (index, table) =
            finished.map_err(|error| Error::Invalid(format!("writing state failed: {error}")))?;
        encoded.push((index, table?));
    }
    // The same bytes whoever is faster.
    encoded.sort_by_key(|(index, _)| *index);
    Ok(encoded.into_iter().map(|(_, table)| table).collect())
}

fn locked(table: &Mutex<LiveTable>) -> MutexGuard<'_, LiveTable> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A table that nobody else is using.
#[derive(Debug)]
pub struct TableGuard<'a>(MutexGuard<'a, LiveTable>);

impl std::ops::Deref for TableGuard<'_> {
    type Target = dyn StateTable;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl std::ops::DerefMut for TableGuard<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut *self.0
    }
}
