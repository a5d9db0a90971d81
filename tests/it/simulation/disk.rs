//! The disk of a simulation: every call takes some time, and some go wrong. What happens at a call
//! follows from the seed and from which call it is, not from who is faster.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value as Json;
use tidemill::checkpoint::frame;
use tidemill::storage::{Created, Durability, Storage, StorageProvider, StorageWriter, StoredFile};
use tidemill::{Error, Result};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::time::Time;
use crate::support::sim_disk::{Dice, DiskFault, SimDisk};

/// What goes wrong at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Toxic {
    ErrorBefore,
    ErrorAfter,
    DieBefore,
    DieAfter,
    /// The process dies in the middle.
    Tear,
    /// The machine loses its power in the middle.
    PowerCut,
}

/// One in so many calls goes wrong.
const CALLS_PER_TOXIC: usize = 130;

/// A disk, and the processes that use it. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct Machine(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    time: Time,
    seed: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    disk: SimDisk,
    /// The processes that live, and whether they may be killed.
    living: BTreeMap<usize, (CancellationToken, bool)>,
    /// Those to which something happened.
    disturbed: Vec<usize>,
    processes: usize,
    is_stormy: bool,
    /// How often each call was made.
    calls: HashMap<String, u64>,
    trace: Vec<String>,
    toxics: BTreeMap<Toxic, usize>,
    kills: usize,
    power_cuts: usize,
    /// Processes that lived at the same time as another one that may write.
    overlapped: BTreeSet<usize>,
    /// The process that has claimed the checkpoint last.
    claimed: Option<usize>,
    /// Processes that have seen their fences since they wrote a plan or a commit.
    owners: BTreeSet<usize>,
    /// What a process did that must not.
    violations: Vec<String>,
    /// Records of the checkpoint, from when they were written.
    offsets: BTreeMap<u64, Json>,
    commits: BTreeMap<u64, Json>,
}

/// What was seen of the calls.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    pub trace: Vec<String>,
    pub toxics: BTreeMap<Toxic, usize>,
    pub kills: usize,
    pub power_cuts: usize,
    pub processes: usize,
    pub offsets: BTreeMap<u64, Json>,
    pub commits: BTreeMap<u64, Json>,
    pub violations: Vec<String>,
}

impl Machine {
    pub fn new(time: Time, seed: u64) -> Self {
        let state = State {
            disk: SimDisk::new(),
            living: BTreeMap::new(),
            disturbed: vec![],
            processes: 0,
            is_stormy: true,
            calls: HashMap::new(),
            trace: vec![],
            toxics: BTreeMap::new(),
            kills: 0,
            power_cuts: 0,
            overlapped: BTreeSet::new(),
            claimed: None,
            owners: BTreeSet::new(),
            violations: vec![],
            offsets: BTreeMap::new(),
            commits: BTreeMap::new(),
        };
        Self(Arc::new(Shared { time, seed, state: Mutex::new(state) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk as it is now.
    pub fn disk(&self) -> SimDisk {
        self.state().disk.clone()
    }

    /// What happened so far.
    pub fn seen(&self) -> Seen {
        let state = self.state();
        Seen {
            trace: state.trace.clone(),
            toxics: state.toxics.clone(),
            kills: state.kills,
            power_cuts: state.power_cuts,
            processes: state.processes,
            offsets: state.offsets.clone(),
            commits: state.commits.clone(),
            violations: state.violations.clone(),
        }
    }

    /// From now on nothing goes wrong.
    pub fn calm(&self) {
        self.state().is_stormy = false;
    }

    /// A process that uses the disk. `toxic` says whether its calls may go wrong.
    pub fn process(&self, name: &'static str, toxic: bool) -> Process {
        let mut state = self.state();
        state.processes += 1;
        let (id, death) = (state.processes, CancellationToken::new());
        let writers: Vec<usize> =
            state.living.iter().filter(|(_, (_, is_mortal))| *is_mortal).map(|(id, _)| *id).collect();
        if toxic && !writers.is_empty() {
            state.overlapped.extend(writers.into_iter().chain([id]));
        }
        state.living.insert(id, (death.clone(), toxic));
        Process { machine: self.clone(), id, name, toxic, death }
    }

    /// Kills the process of a query that was started last, if one lives.
    pub fn kill_newest(&self) {
        let mut state = self.state();
        let newest = state.living.iter().rev().find(|(_, (_, is_mortal))| *is_mortal).map(|(id, _)| *id);
        if let Some(id) = newest {
            if let Some((death, _)) = state.living.remove(&id) {
                death.cancel();
            }
            state.kills += 1;
            state.disturbed.push(id);
            state.note(self.0.time.now_us(), format!("{id} is killed"));
        }
    }

    /// Cuts the power: all processes die, and of what was not synced some is lost.
    pub fn cut_power(&self) {
        let now = self.0.time.now_us();
        let mut state = self.state();
        let dead = std::mem::take(&mut state.living);
        for (id, (death, _)) in dead {
            death.cancel();
            state.disturbed.push(id);
        }
        state.power_cuts += 1;
        let seed = hash(&(self.0.seed, "power", state.power_cuts));
        // 0 and 1 are the extremes.
        let seed = if seed % 4 < 2 { seed % 4 } else { seed };
        state.disk = state.disk.after_power_cut(seed);
        state.note(now, "the power is cut".into());
    }
}

impl State {
    /// Keeps the records of batches.
    fn keep(&mut self, path: &str, body: &[u8]) {
        let number = |dir: &str| path.strip_prefix(dir).and_then(|name| name.parse::<u64>().ok());
        let record = || frame::decode::<Json>(path, body).unwrap();
        if let Some(batch) = number("offsets/") {
            self.offsets.entry(batch).or_insert_with(record);
        }
        if let Some(batch) = number("commits/") {
            self.commits.entry(batch).or_insert_with(record);
        }
    }

    fn note(&mut self, now_us: u64, event: String) {
        self.trace.push(format!("{now_us} {event}"));
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A process, as a provider of storages that die with it.
#[derive(Debug, Clone)]
pub struct Process {
    machine: Machine,
    pub id: usize,
    name: &'static str,
    toxic: bool,
    /// Cancelled when it dies.
    pub death: CancellationToken,
}

/// What will happen at a call.
struct Fate {
    call: String,
    /// How long it takes to take effect, and how long until the answer is there: microseconds.
    before: u64,
    after: u64,
    toxic: Option<Toxic>,
    dice: Dice,
}

impl Process {
    /// Whether there was another process at the same time.
    pub fn is_overlapped(&self) -> bool {
        self.machine.state().overlapped.contains(&self.id)
    }

    /// Whether no other process has claimed the checkpoint since it did.
    pub fn is_owner(&self) -> bool {
        self.machine.state().claimed == Some(self.id)
    }

    /// Ends it; whether something happened to it.
    pub fn exit(&self) -> bool {
        let mut state = self.machine.state();
        state.living.remove(&self.id);
        state.disturbed.contains(&self.id)
    }

    fn fate(&self, operation: &str, path: &str) -> Fate {
        let call = format!("{} {} {operation} {path}", self.name, self.id);
        let mut state = self.machine.state();
        let count = state.calls.entry(call.clone()).or_default();
        *count += 1;
        let mut dice = Dice(hash(&(self.machine.0.seed, &call, *count)));
        // Now and then a call takes long.
        let longest = if dice.roll(20) == 0 { 400_000 } else { 20_000 };
        let micros = 100 + dice.roll(longest);
        let before = dice.roll(micros) as u64;
        let after = micros as u64 - before;
        let may_fail = self.toxic && state.is_stormy;
        let toxic = (may_fail && dice.roll(CALLS_PER_TOXIC) == 0).then(|| {
            use Toxic::{DieAfter, DieBefore, ErrorAfter, ErrorBefore, PowerCut, Tear};
            [ErrorBefore, ErrorAfter, DieBefore, DieAfter, Tear, PowerCut][dice.roll(6)]
        });
        Fate { call, before, after, toxic, dice }
    }

    fn killed(&self, fate: &Fate) -> Result<()> {
        match self.death.is_cancelled() {
            true => Err(Error::storage("use", &fate.call, "the process was killed")),
            false => Ok(()),
        }
    }

    fn die(&self) {
        let mut state = self.machine.state();
        state.living.remove(&self.id);
        self.death.cancel();
    }

    /// One call. `run` and `tear` are its effects, whole and in part; `seen` describes its result.
    async fn call<T>(
        &self,
        operation: &str,
        path: &str,
        run: impl Future<Output = Result<T>> + Send,
        tear: impl Future<Output = Result<()>> + Send,
        seen: impl Fn(&T) -> String + Send,
    ) -> Result<T> {
        let mut fate = self.fate(operation, path);
        self.killed(&fate)?;
        let time = &self.machine.0.time;
        time.wait(fate.before, &fate.call).await;
        self.killed(&fate)?;
        let result = self.take_effect(&mut fate, run, tear).await;
        let outcome = match &result {
            Ok(value) => seen(value),
            Err(_) => "failed".into(),
        };
        let toxic = fate.toxic.map_or_else(String::new, |toxic| format!(" ({toxic:?})"));
        let event = format!("{}: {outcome}{toxic}", fate.call);
        self.machine.state().note(time.now_us(), event);
        time.wait(fate.after, &fate.call).await;
        self.killed(&fate)?;
        result
    }

    async fn take_effect<T>(
        &self,
        fate: &mut Fate,
        run: impl Future<Output = Result<T>> + Send,
        tear: impl Future<Output = Result<()>> + Send,
    ) -> Result<T> {
        let Some(toxic) = fate.toxic else { return run.await };
        {
            let mut state = self.machine.state();
            *state.toxics.entry(toxic).or_default() += 1;
            state.disturbed.push(self.id);
        }
        match toxic {
            Toxic::ErrorBefore | Toxic::DieBefore => {}
            Toxic::ErrorAfter | Toxic::DieAfter => drop(run.await?),
            Toxic::Tear => tear.await?,
            Toxic::PowerCut => {
                let disk = self.machine.disk();
                disk.fail_at(disk.steps() + fate.dice.roll(6), DiskFault::DieBefore);
                let _ = run.await;
                self.machine.cut_power();
            }
        }
        if !matches!(toxic, Toxic::ErrorBefore | Toxic::ErrorAfter) {
            self.die();
        }
        Err(Error::storage("use", &fate.call, "injected fault"))
    }
}

impl StorageProvider for Process {
    fn open(&self, url: &Url, durability: Durability) -> Result<Arc<dyn Storage>> {
        // Two names of one checkpoint: within one process, it is refused to a second query by its name.
        let url = Url::parse(&url.as_str().replace("/checkpoint-2", "/checkpoint")).unwrap();
        let inner = self.machine.disk().open(&url, durability)?;
        let root = url.path().trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_string();
        Ok(Arc::new(SimStorage { inner, root, process: self.clone() }))
    }
}

/// The torn form of calls that have no halves.
async fn nothing() -> Result<()> {
    Ok(())
}

struct SimStorage {
    inner: Arc<dyn Storage>,
    root: String,
    process: Process,
}

impl fmt::Debug for SimStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimStorage").field("root", &self.root).finish_non_exhaustive()
    }
}

impl SimStorage {
    fn at(&self, path: &str) -> String {
        format!("{}/{path}", self.root)
    }

    async fn create_seen(&self, path: &str, body: Bytes) -> Result<Created> {
        let created = self.inner.create(path, body.clone()).await?;
        if path.starts_with("fence/") && created == Created::New {
            self.process.machine.state().claimed = Some(self.process.id);
        }
        let is_fenced = path.starts_with("offsets/") || path.starts_with("commits/");
        if is_fenced && created == Created::New {
            let mut state = self.process.machine.state();
            if !state.owners.remove(&self.process.id) {
                let violation = format!("process {} wrote {path} without its fence", self.process.id);
                state.violations.push(violation);
            }
            state.keep(path, &body);
        }
        Ok(created)
    }

    /// What a create that ended with an error has written shows when it is read.
    async fn read_seen(&self, path: &str) -> Result<Option<Bytes>> {
        let body = self.inner.read(path).await?;
        if let Some(body) = &body {
            self.process.machine.state().keep(path, body);
        }
        Ok(body)
    }

    async fn size_seen(&self, path: &str) -> Result<Option<u64>> {
        let size = self.inner.size(path).await?;
        if path.starts_with("fence/") && size.is_some() {
            self.process.machine.state().owners.insert(self.process.id);
        }
        Ok(size)
    }

    /// What a local `create` leaves behind that does not come to its end.
    async fn tear_create(&self, path: &str, body: Bytes) -> Result<()> {
        let (dir, name) = path.rsplit_once('/').map_or(("", path), |(dir, name)| (dir, name));
        let temp = format!(".{name}.{:032x}.tmp", hash(&(path, body.len(), self.process.id)));
        let temp = if dir.is_empty() { temp } else { format!("{dir}/{temp}") };
        let mut writer = self.inner.writer(&temp).await?;
        writer.write(body.slice(..body.len() / 2)).await?;
        writer.finish().await.map(drop)
    }
}

fn checksum(bytes: &[u8]) -> String {
    format!("{} bytes {:016x}", bytes.len(), hash(&bytes))
}

#[async_trait]
impl Storage for SimStorage {
    fn url(&self) -> &Url {
        self.inner.url()
    }

    async fn create(&self, path: &str, body: Bytes) -> Result<Created> {
        let (run, torn) = (self.create_seen(path, body.clone()), self.tear_create(path, body.clone()));
        let seen = |created: &Created| format!("{created:?}, {}", checksum(&body));
        self.process.call("create", &self.at(path), run, torn, seen).await
    }

    async fn read(&self, path: &str) -> Result<Option<Bytes>> {
        let seen = |body: &Option<Bytes>| body.as_deref().map_or("none".into(), checksum);
        self.process.call("read", &self.at(path), self.read_seen(path), nothing(), seen).await
    }

    async fn read_range(&self, path: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        let at = format!("{} {range:?}", self.at(path));
        let seen = |body: &Option<Bytes>| body.as_deref().map_or("none".into(), checksum);
        self.process.call("read_range", &at, self.inner.read_range(path, range), nothing(), seen).await
    }

    async fn size(&self, path: &str) -> Result<Option<u64>> {
        let seen = |size: &Option<u64>| format!("{size:?}");
        self.process.call("size", &self.at(path), self.size_seen(path), nothing(), seen).await
    }

    async fn list(&self, dir: &str) -> Result<Vec<StoredFile>> {
        let seen = |files: &Vec<StoredFile>| {
            let names = files.iter().map(|file| format!("{}:{}", file.path, file.size));
            names.collect::<Vec<_>>().join(" ")
        };
        self.process.call("list", &self.at(dir), self.inner.list(dir), nothing(), seen).await
    }

    async fn delete(&self, path: &str) -> Result<()> {
        self.process.call("delete", &self.at(path), self.inner.delete(path), nothing(), done).await
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn StorageWriter>> {
        let at = self.at(path);
        let inner = self.process.call("writer", &at, self.inner.writer(path), nothing(), done).await?;
        Ok(Box::new(SimWriter { inner: Some(inner), path: at, process: self.process.clone() }))
    }

    async fn rename(&self, moves: &[(String, String)]) -> Result<()> {
        let path = self.at(moves.first().map_or("", |(from, _)| from));
        let half = self.inner.rename(&moves[..moves.len() / 2]);
        self.process.call("rename", &path, self.inner.rename(moves), half, done).await
    }

    async fn remove_empty_dir(&self, dir: &str) -> Result<()> {
        let run = self.inner.remove_empty_dir(dir);
        self.process.call("remove_empty_dir", &self.at(dir), run, nothing(), done).await
    }
}

fn done<T>(_: &T) -> String {
    "done".into()
}

struct SimWriter {
    inner: Option<Box<dyn StorageWriter>>,
    path: String,
    process: Process,
}

#[async_trait]
impl StorageWriter for SimWriter {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        let Self { inner, path, process } = self;
        let inner = inner.as_mut().unwrap();
        // Whole or half, but only one of them borrows the writer.
        let (whole, half) = (data.clone(), data.slice(..data.len() / 2));
        let mut fate = process.fate("write", path);
        process.killed(&fate)?;
        process.machine.0.time.wait(fate.before, &fate.call).await;
        process.killed(&fate)?;
        let event = format!("{}: {} ({:?})", fate.call, checksum(&data), fate.toxic);
        process.machine.state().note(process.machine.0.time.now_us(), event);
        match fate.toxic {
            None => inner.write(whole).await,
            Some(Toxic::Tear) => {
                inner.write(half).await?;
                process.take_effect(&mut fate, nothing(), nothing()).await
            }
            Some(_) => process.take_effect(&mut fate, inner.write(whole), nothing()).await,
        }
    }

    async fn finish(mut self: Box<Self>) -> Result<u64> {
        let inner = self.inner.take().unwrap();
        let seen = |length: &u64| length.to_string();
        self.process.call("finish", &self.path, inner.finish(), nothing(), seen).await
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        let inner = self.inner.take().unwrap();
        self.process.call("abort", &self.path, inner.abort(), nothing(), done).await
    }
}
