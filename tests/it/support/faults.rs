//! Storages that die, tear and lie at a chosen call.
//!
//! One [`Faults`] stands for one process: it counts the calls of all storages that were opened
//! through it, and when it dies, all of them are dead for good. [`Faults::revive`] is the next
//! process; storages must be opened anew through it.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tidemill::storage::{
    Created, Durability, Replaced, Replacing, Storage, StorageProvider, StorageWriter, StoredFile,
};
use tidemill::{Error, Result};
use tokio::sync::Semaphore;
use url::Url;

/// What happens at the chosen call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process dies before the call takes effect.
    DieBefore,
    /// The process dies after it took effect.
    DieAfter,
    /// The process dies in the middle: a part is written to where nobody looks for it, or some of
    /// several moves are done.
    Tear,
    /// The call fails without effect, and the process lives.
    ErrorBefore,
    /// The call fails although it took effect, and the process lives.
    ErrorAfter,
}

impl Fault {
    pub const ALL: [Fault; 5] =
        [Fault::DieBefore, Fault::DieAfter, Fault::Tear, Fault::ErrorBefore, Fault::ErrorAfter];

    fn is_deadly(self) -> bool {
        matches!(self, Fault::DieBefore | Fault::DieAfter | Fault::Tear)
    }
}

/// Which call goes wrong, counted from 0, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub call: usize,
    pub fault: Fault,
}

/// One call, as the census has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub operation: &'static str,
    /// Below the storage's root; of several moves the first.
    pub path: String,
}

impl Call {
    /// What the call does, without the parts of its path that differ from batch to batch.
    pub fn kind(&self) -> String {
        let directory = self.path.split('/').next().unwrap_or_default();
        format!("{} {directory}", self.operation).trim_end().to_string()
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.operation, self.path)
    }
}

/// The process whose storages can go wrong. Clones are the same process.
#[derive(Debug, Clone)]
pub struct Faults(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// A permit each time a call is held.
    held: Semaphore,
    /// A permit for each held call that may go on.
    released: Semaphore,
}

/// A call by what it does, wherever it comes among others: the first of its kind is number 0.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub kind: String,
    pub number: usize,
}

/// A call that goes wrong.
#[derive(Debug)]
enum Which {
    Call(usize),
    Of(Target),
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<Call>,
    plan: Option<(Which, Fault)>,
    hold: Hold,
    fired: bool,
    dead: bool,
    /// Counts lives; storages of earlier lives stay dead.
    life: usize,
}

/// Which calls wait to be released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Hold {
    #[default]
    None,
    At(usize),
    Every,
}

impl State {
    /// What goes wrong at a call that has just come.
    fn fault_at(&self, index: usize) -> Option<Fault> {
        let (which, fault) = self.plan.as_ref()?;
        let is_meant = match which {
            Which::Call(call) => *call == index,
            Which::Of(target) => {
                let kinds = self.calls.iter().map(Call::kind).filter(|kind| *kind == target.kind);
                self.calls[index].kind() == target.kind && kinds.count() == target.number + 1
            }
        };
        is_meant.then_some(*fault)
    }
}

enum Step {
    Run,
    /// Without effect.
    Fail(Error),
    /// With all of its effect.
    FailAfter(Error),
    /// With a part of its effect.
    FailTorn(Error),
}

impl Faults {
    /// A process in which `plan` happens, if any.
    pub fn new(plan: Option<Plan>) -> Self {
        let plan = plan.map(|Plan { call, fault }| (Which::Call(call), fault));
        Self::with(State { plan, ..State::default() })
    }

    /// A process in which a call of some kind goes wrong.
    pub fn of(target: Target, fault: Fault) -> Self {
        Self::with(State { plan: Some((Which::Of(target), fault)), ..State::default() })
    }

    /// A process that stops before the given call until [`Faults::release`].
    pub fn holding_at(call: usize) -> Self {
        Self::with(State { hold: Hold::At(call), ..State::default() })
    }

    /// A process that stops before every call until [`Faults::release`].
    pub fn stepping() -> Self {
        Self::with(State { hold: Hold::Every, ..State::default() })
    }

    fn with(state: State) -> Self {
        let state = Mutex::new(state);
        Self(Arc::new(Shared { state, held: Semaphore::new(0), released: Semaphore::new(0) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `inner`, as this process sees it.
    pub fn storage(&self, inner: Arc<dyn Storage>) -> Arc<dyn Storage> {
        let process = Process { faults: self.clone(), life: self.state().life };
        Arc::new(FaultStorage { inner, process })
    }

    /// `inner`, as this process sees it.
    pub fn provider(&self, inner: Arc<dyn StorageProvider>) -> Arc<dyn StorageProvider> {
        Arc::new(FaultProvider { inner, faults: self.clone() })
    }

    /// All calls so far, those of dead storages excepted.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// Whether the plan has happened.
    pub fn fired(&self) -> bool {
        self.state().fired
    }

    /// Whether the process died of it.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Starts the next process. What was opened before stays dead.
    pub fn revive(&self) {
        let mut state = self.state();
        state.life += 1;
        state.dead = false;
    }

    /// Returns when the process stands at a call that it is held at.
    pub async fn held(&self) {
        if let Ok(permit) = self.0.held.acquire().await {
            permit.forget();
        }
    }

    /// Lets it go on.
    pub fn release(&self) {
        self.0.released.add_permits(1);
    }

    /// Lets it go on without further stops, wherever it stands; there may be several calls at once.
    pub fn release_all(&self) {
        self.state().hold = Hold::None;
        self.0.released.close();
    }
}

#[derive(Debug, Clone)]
struct Process {
    faults: Faults,
    life: usize,
}

impl Process {
    async fn enter(&self, operation: &'static str, path: &str) -> Step {
        let is_held = {
            let mut state = self.faults.state();
            let failed = |reason: &str| Error::storage(operation, path, reason);
            if state.dead || state.life != self.life {
                return Step::Fail(failed("the process was killed"));
            }
            let index = state.calls.len();
            state.calls.push(Call { operation, path: path.to_string() });
            if let Some(fault) = state.fault_at(index) {
                state.fired = true;
                state.dead = fault.is_deadly();
                let error = failed("injected fault");
                return match fault {
                    Fault::DieBefore | Fault::ErrorBefore => Step::Fail(error),
                    Fault::DieAfter | Fault::ErrorAfter => Step::FailAfter(error),
                    Fault::Tear => Step::FailTorn(error),
                };
            }
            state.hold == Hold::Every || state.hold == Hold::At(index)
        };
        if is_held {
            self.faults.0.held.add_permits(1);
            if let Ok(permit) = self.faults.0.released.acquire().await {
                permit.forget();
            }
        }
        Step::Run
    }

    async fn call<T>(
        &self,
        operation: &'static str,
        path: &str,
        run: impl Future<Output = Result<T>> + Send,
        tear: impl Future<Output = Result<()>> + Send,
    ) -> Result<T> {
        match self.enter(operation, path).await {
            Step::Run => run.await,
            Step::Fail(error) => Err(error),
            Step::FailAfter(error) => {
                run.await?;
                Err(error)
            }
            Step::FailTorn(error) => {
                tear.await?;
                Err(error)
            }
        }
    }
}

/// The torn form of calls that have no halves.
async fn nothing() -> Result<()> {
    Ok(())
}

#[derive(Debug)]
struct FaultProvider {
    inner: Arc<dyn StorageProvider>,
    faults: Faults,
}

impl StorageProvider for FaultProvider {
    fn open(&self, url: &Url, durability: Durability) -> Result<Arc<dyn Storage>> {
        Ok(self.faults.storage(self.inner.open(url, durability)?))
    }
}

#[derive(Debug)]
struct FaultStorage {
    inner: Arc<dyn Storage>,
    process: Process,
}

impl FaultStorage {
    fn replacing_inner(&self) -> Result<&dyn Replacing> {
        self.inner.replacing().ok_or_else(|| Error::Invalid("nothing can be replaced here".into()))
    }

    /// What a local `create` leaves behind that does not come to its end.
    async fn tear_create(&self, path: &str, body: &Bytes) -> Result<()> {
        if self.inner.url().scheme() != "file" {
            return Ok(());
        }
        let (dir, name) = path.rsplit_once('/').map_or(("", path), |(dir, name)| (dir, name));
        let temp = format!(".{name}.{:032x}.tmp", self.process.faults.calls().len());
        let temp = if dir.is_empty() { temp } else { format!("{dir}/{temp}") };
        let mut writer = self.inner.writer(&temp).await?;
        writer.write(body.slice(..body.len() / 2)).await?;
        writer.finish().await.map(drop)
    }
}

#[async_trait]
impl Storage for FaultStorage {
    fn url(&self) -> &Url {
        self.inner.url()
    }

    async fn create(&self, path: &str, body: Bytes) -> Result<Created> {
        let torn = self.tear_create(path, &body);
        self.process.call("create", path, self.inner.create(path, body.clone()), torn).await
    }

    async fn read(&self, path: &str) -> Result<Option<Bytes>> {
        self.process.call("read", path, self.inner.read(path), nothing()).await
    }

    async fn read_range(&self, path: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        self.process.call("read_range", path, self.inner.read_range(path, range), nothing()).await
    }

    async fn size(&self, path: &str) -> Result<Option<u64>> {
        self.process.call("size", path, self.inner.size(path), nothing()).await
    }

    async fn list(&self, dir: &str) -> Result<Vec<StoredFile>> {
        self.process.call("list", dir, self.inner.list(dir), nothing()).await
    }

    async fn delete(&self, path: &str) -> Result<()> {
        self.process.call("delete", path, self.inner.delete(path), nothing()).await
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn StorageWriter>> {
        let inner = self.process.call("writer", path, self.inner.writer(path), nothing()).await?;
        Ok(Box::new(FaultWriter { inner, path: path.to_string(), process: self.process.clone() }))
    }

    async fn rename(&self, moves: &[(String, String)]) -> Result<()> {
        let path = moves.first().map_or("", |(from, _)| from);
        let half = self.inner.rename(&moves[..moves.len() / 2]);
        self.process.call("rename", path, self.inner.rename(moves), half).await
    }

    async fn remove_empty_dir(&self, dir: &str) -> Result<()> {
        self.process.call("remove_empty_dir", dir, self.inner.remove_empty_dir(dir), nothing()).await
    }

    fn replacing(&self) -> Option<&dyn Replacing> {
        self.inner.replacing().is_some().then_some(self)
    }
}

#[async_trait]
impl Replacing for FaultStorage {
    async fn directories(&self) -> Result<Vec<String>> {
        self.process.call("directories", "", self.replacing_inner()?.directories(), nothing()).await
    }

    async fn files(&self, dir: &str) -> Result<Vec<StoredFile>> {
        self.process.call("files", dir, self.replacing_inner()?.files(dir), nothing()).await
    }

    async fn replace(&self, files: &[String], from: &str, to: &str) -> Result<Replaced> {
        self.process.call("replace", from, self.replacing_inner()?.replace(files, from, to), nothing()).await
    }

    async fn remove(&self, replaced: &Replaced) -> Result<()> {
        self.process.call("remove", "", self.replacing_inner()?.remove(replaced), nothing()).await
    }

    async fn is_settled(&self) -> Result<bool> {
        self.process.call("is_settled", "", self.replacing_inner()?.is_settled(), nothing()).await
    }

    async fn settle(&self) -> Result<()> {
        self.process.call("settle", "", self.replacing_inner()?.settle(), nothing()).await
    }
}

struct FaultWriter {
    inner: Box<dyn StorageWriter>,
    path: String,
    process: Process,
}

#[async_trait]
impl StorageWriter for FaultWriter {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        match self.process.enter("write", &self.path).await {
            Step::Run => self.inner.write(data).await,
            Step::Fail(error) => Err(error),
            Step::FailAfter(error) => {
                self.inner.write(data).await?;
                Err(error)
            }
            Step::FailTorn(error) => {
                self.inner.write(data.slice(..data.len() / 2)).await?;
                Err(error)
            }
        }
    }

    async fn finish(self: Box<Self>) -> Result<u64> {
        let Self { inner, path, process } = *self;
        process.call("finish", &path, inner.finish(), nothing()).await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let Self { inner, path, process } = *self;
        process.call("abort", &path, inner.abort(), nothing()).await
    }
}
