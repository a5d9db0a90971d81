//! A disk in memory that forgets, when the power goes, whatever POSIX lets it forget.
//!
//! - The data of a file that was not fsynced may be old, new, cut off, or zeros.
//! - Each name in a directory that was not fsynced may stand for anything it stood for since the
//!   last fsync, independently of the other names. Only a rename that takes effect by itself never
//!   loses the file.
//!
//! The real [`LocalStorage`] runs on it: the disk is a [`StorageProvider`].

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tidemill::storage::disk::{Disk, DiskEntry, DiskFile};
use tidemill::storage::{Durability, LocalStorage, Storage, StorageProvider};
use url::Url;

/// What happens at a call that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    /// The process dies before the call takes effect.
    DieBefore,
    /// The process dies after it.
    DieAfter,
    /// The process dies while the call writes; half of the data is written.
    Tear,
    /// The call fails with this error code and has no effect; the process lives.
    Error(i32),
}

/// Which operations the file system has, besides plain renames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Hard links.
    Hard,
    /// Renames that refuse to replace.
    ExclusiveRename,
    /// Neither.
    None,
}

/// A small generator of random numbers (SplitMix64), so that a seed names one outcome.
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    /// A number below `sides`; 0 if there are none.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % (sides.max(1) as u64)).unwrap_or_default()
    }
}

/// The disk. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug, Clone)]
struct State {
    inodes: Vec<Inode>,
    links: Links,
    now: SystemTime,
    /// Calls so far that change or sync something.
    steps: usize,
    fault: Option<(usize, DiskFault)>,
    dead: bool,
}

#[derive(Debug, Clone)]
enum Inode {
    File { data: Vec<u8>, synced: Vec<u8>, modified: SystemTime },
    Dir { synced: BTreeMap<String, usize>, changes: BTreeMap<String, Vec<Change>> },
}

/// What a name stands for from some moment on.
#[derive(Debug, Clone)]
struct Change {
    inode: Option<usize>,
    /// For the old name of a rename: directory and name that it goes to.
    moved_to: Option<(usize, String)>,
}

const ROOT: usize = 0;

fn error(kind: io::ErrorKind) -> io::Error {
    kind.into()
}

fn killed() -> io::Error {
    io::Error::other("the process was killed")
}

impl SimDisk {
    pub fn new() -> Self {
        Self::with_links(Links::Hard)
    }

    pub fn with_links(links: Links) -> Self {
        let root = Inode::Dir { synced: BTreeMap::new(), changes: BTreeMap::new() };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        Self::from(State { inodes: vec![root], links, now, steps: 0, fault: None, dead: false })
    }

    fn from(state: State) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the given call, counted from 0 among those that change or sync something, go wrong.
    pub fn fail_at(&self, step: usize, fault: DiskFault) {
        self.state().fault = Some((step, fault));
    }

    /// How many such calls there were.
    pub fn steps(&self) -> usize {
        self.state().steps
    }

    pub fn advance(&self, by: Duration) {
        self.state().now += by;
    }

    /// The disk as a new process finds it after the old one was killed: everything is there.
    pub fn after_kill(&self) -> Self {
        let state = self.state().clone();
        Self::from(State { steps: 0, fault: None, dead: false, ..state })
    }

    /// The disk as the machine finds it after a power cut. Seed 0 loses all that can be lost, seed
    /// 1 nothing; others something in between.
    pub fn after_power_cut(&self, seed: u64) -> Self {
        let state = self.state().clone();
        let kept = state.surviving_changes(seed);
        let mut dice = Dice(seed);
        let mut inodes = Vec::with_capacity(state.inodes.len());
        for (index, inode) in state.inodes.into_iter().enumerate() {
            inodes.push(match inode {
                Inode::File { data, synced, modified } => {
                    let data = surviving_data(&data, &synced, seed, &mut dice);
                    Inode::File { synced: data.clone(), data, modified }
                }
                Inode::Dir { mut synced, changes } => {
                    for (name, changes) in changes {
                        let kept = kept.get(&(index, name.clone())).copied().unwrap_or_default();
                        let Some(last) = kept.checked_sub(1) else { continue };
                        match changes[last].inode {
                            Some(inode) => synced.insert(name, inode),
                            None => synced.remove(&name),
                        };
                    }
                    Inode::Dir { synced, changes: BTreeMap::new() }
                }
            });
        }
        Self::from(State { inodes, links: state.links, now: state.now, steps: 0, fault: None, dead: false })
    }

    /// The paths of all files, hidden ones included, sorted.
    pub fn files(&self) -> Vec<String> {
        let state = self.state();
        let mut files = Vec::new();
        let mut open = vec![(ROOT, String::new())];
        while let Some((dir, path)) = open.pop() {
            for (name, inode) in state.names(dir) {
                let path = format!("{path}/{name}");
                match state.inodes[inode] {
                    Inode::File { .. } => files.push(path),
                    Inode::Dir { .. } => open.push((inode, path)),
                }
            }
        }
        files.sort();
        files
    }

    /// Runs a call that changes or syncs something.
    fn step<T>(&self, call: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state();
        state.alive()?;
        let step = state.steps;
        state.steps += 1;
        let Some((_, fault)) = state.fault.filter(|(at, _)| *at == step) else {
            return call(&mut state);
        };
        match fault {
            DiskFault::Error(code) => return Err(io::Error::from_raw_os_error(code)),
            DiskFault::DieAfter => drop(call(&mut state)),
            DiskFault::DieBefore | DiskFault::Tear => {}
        }
        state.dead = true;
        Err(killed())
    }
}

impl State {
    fn alive(&self) -> io::Result<()> {
        if self.dead { Err(killed()) } else { Ok(()) }
    }

    /// How many of its changes each changed name keeps.
    fn surviving_changes(&self, seed: u64) -> BTreeMap<(usize, String), usize> {
        let mut dice = Dice(seed.wrapping_mul(3));
        let mut kept = BTreeMap::new();
        let mut moves = Vec::new();
        for (dir, inode) in self.inodes.iter().enumerate() {
            let Inode::Dir { changes, .. } = inode else { continue };
            for (name, changes) in changes {
                let keep = match seed {
                    0 => 0,
                    1 => changes.len(),
                    _ => dice.roll(changes.len() + 1),
                };
                kept.insert((dir, name.clone()), keep);
                for (index, change) in changes.iter().enumerate() {
                    if let Some(to) = &change.moved_to {
                        moves.push(((dir, name.clone(), index), to.clone()));
                    }
                }
            }
        }
        // A rename that loses the old name keeps the new one.
        loop {
            let mut stable = true;
            for ((dir, name, index), to) in &moves {
                if kept[&(*dir, name.clone())] <= *index {
                    continue;
                }
                let Inode::Dir { changes, .. } = &self.inodes[to.0] else { continue };
                let moved = match &self.inodes[*dir] {
                    Inode::Dir { synced, changes } => match index.checked_sub(1) {
                        Some(before) => changes[name][before].inode,
                        None => synced.get(name).copied(),
                    },
                    Inode::File { .. } => None,
                };
                let arrival =
                    changes.get(&to.1).and_then(|changes| changes.iter().position(|c| c.inode == moved));
                if let (Some(arrival), Some(keep)) = (arrival, kept.get_mut(to))
                    && *keep <= arrival
                {
                    *keep = arrival + 1;
                    stable = false;
                }
            }
            if stable {
                return kept;
            }
        }
    }

    fn lookup(&self, dir: usize, name: &str) -> io::Result<Option<usize>> {
        match &self.inodes[dir] {
            Inode::File { .. } => Err(error(io::ErrorKind::NotADirectory)),
            Inode::Dir { synced, changes } => {
                Ok(match changes.get(name).and_then(|changes| changes.last()) {
                    Some(change) => change.inode,
                    None => synced.get(name).copied(),
                })
            }
        }
    }

    fn names(&self, dir: usize) -> BTreeMap<String, usize> {
        let Inode::Dir { synced, changes } = &self.inodes[dir] else { return BTreeMap::new() };
        let mut names = synced.clone();
        for (name, changes) in changes {
            match changes.last().and_then(|change| change.inode) {
                Some(inode) => names.insert(name.clone(), inode),
                None => names.remove(name),
            };
        }
        names
    }

    fn change(&mut self, dir: usize, name: &str, inode: Option<usize>, moved_to: Option<(usize, String)>) {
        if let Inode::Dir { changes, .. } = &mut self.inodes[dir] {
            changes.entry(name.to_string()).or_default().push(Change { inode, moved_to });
        }
    }

    fn add(&mut self, dir: usize, name: &str, inode: Inode) -> usize {
        self.inodes.push(inode);
        let index = self.inodes.len() - 1;
        self.change(dir, name, Some(index), None);
        index
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        let mut inode = ROOT;
        for component in path.components() {
            if let Component::Normal(name) = component {
                let name = name.to_str().ok_or_else(|| error(io::ErrorKind::InvalidInput))?;
                inode = self.lookup(inode, name)?.ok_or_else(|| error(io::ErrorKind::NotFound))?;
            }
        }
        Ok(inode)
    }

    /// The directory of `path`, and its name there.
    fn place<'a>(&self, path: &'a Path) -> io::Result<(usize, &'a str)> {
        let invalid = || error(io::ErrorKind::InvalidInput);
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(invalid)?;
        Ok((self.find(path.parent().ok_or_else(invalid)?)?, name))
    }

    fn free_place<'a>(&self, path: &'a Path) -> io::Result<(usize, &'a str)> {
        let (dir, name) = self.place(path)?;
        match self.lookup(dir, name)? {
            None => Ok((dir, name)),
            Some(_) => Err(error(io::ErrorKind::AlreadyExists)),
        }
    }

    fn entry(&self, name: &str, inode: usize) -> DiskEntry {
        let (is_file, len, modified) = match &self.inodes[inode] {
            Inode::File { data, modified, .. } => (true, data.len() as u64, *modified),
            Inode::Dir { .. } => (false, 0, self.now),
        };
        DiskEntry { name: name.to_string(), is_file, len, modified }
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_dir, from_name) = self.place(from)?;
        let inode = self.lookup(from_dir, from_name)?.ok_or_else(|| error(io::ErrorKind::NotFound))?;
        let (to_dir, to_name) = self.place(to)?;
        if self.lookup(to_dir, to_name)? == Some(inode) {
            // Two names of one file: POSIX says that nothing happens.
            return Ok(());
        }
        self.change(to_dir, to_name, Some(inode), None);
        self.change(from_dir, from_name, None, Some((to_dir, to_name.to_string())));
        Ok(())
    }
}

/// One of the many things that data can be after a power cut.
fn surviving_data(data: &[u8], synced: &[u8], seed: u64, dice: &mut Dice) -> Vec<u8> {
    if data == synced || seed == 1 {
        return data.to_vec();
    }
    let cut = dice.roll(data.len() + 1);
    match if seed == 0 { 0 } else { dice.roll(6) } {
        0 => synced.to_vec(),
        1 => data.to_vec(),
        2 => data[..cut].to_vec(),
        3 => data[..cut / 512 * 512].to_vec(),
        4 => vec![0; data.len()],
        _ => {
            let mut zeroed = data.to_vec();
            zeroed[cut..].fill(0);
            zeroed
        }
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl DiskFile for SimFile {
    fn write(&mut self, new: &[u8]) -> io::Result<()> {
        let append = |state: &mut State, new: &[u8]| {
            let now = state.now;
            if let Inode::File { data, modified, .. } = &mut state.inodes[self.inode] {
                data.extend_from_slice(new);
                *modified = now;
            }
        };
        {
            let mut state = self.disk.state();
            if !state.dead && state.fault == Some((state.steps, DiskFault::Tear)) {
                append(&mut state, &new[..new.len() / 2]);
            }
        }
        self.disk.step(|state| {
            append(state, new);
            Ok(())
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.step(|state| {
            if let Inode::File { data, synced, .. } = &mut state.inodes[self.inode] {
                synced.clone_from(data);
            }
            Ok(())
        })
    }
}

impl Disk for SimDisk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let inode = self.step(|state| {
            let (dir, name) = state.free_place(path)?;
            let modified = state.now;
            Ok(state.add(dir, name, Inode::File { data: Vec::new(), synced: Vec::new(), modified }))
        })?;
        Ok(Box::new(SimFile { disk: self.clone(), inode }))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let exists = self.state().find(path).is_ok();
        if !exists {
            return self.create_new(path);
        }
        let inode = self.step(|state| {
            let inode = state.find(path)?;
            match &mut state.inodes[inode] {
                Inode::File { data, .. } => data.clear(),
                Inode::Dir { .. } => return Err(error(io::ErrorKind::IsADirectory)),
            }
            Ok(inode)
        })?;
        Ok(Box::new(SimFile { disk: self.clone(), inode }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.state();
        state.alive()?;
        match &state.inodes[state.find(path)?] {
            Inode::File { data, .. } => Ok(data.clone()),
            Inode::Dir { .. } => Err(error(io::ErrorKind::IsADirectory)),
        }
    }

    fn read_range(&self, path: &Path, range: Range<u64>) -> io::Result<Vec<u8>> {
        let whole = self.read(path)?;
        let end = whole.len().min(usize::try_from(range.end).unwrap_or(usize::MAX));
        let start = end.min(usize::try_from(range.start).unwrap_or(usize::MAX));
        Ok(whole[start..end].to_vec())
    }

    fn entry(&self, path: &Path) -> io::Result<DiskEntry> {
        let state = self.state();
        state.alive()?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        Ok(state.entry(name, state.find(path)?))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DiskEntry>> {
        let state = self.state();
        state.alive()?;
        let dir = state.find(dir)?;
        match &state.inodes[dir] {
            Inode::File { .. } => Err(error(io::ErrorKind::NotADirectory)),
            Inode::Dir { .. } => {
                Ok(state.names(dir).iter().map(|(name, inode)| state.entry(name, *inode)).collect())
            }
        }
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(|state| {
            if state.links != Links::Hard {
                return Err(error(io::ErrorKind::PermissionDenied));
            }
            let inode = state.find(from)?;
            let (dir, name) = state.free_place(to)?;
            state.change(dir, name, Some(inode), None);
            Ok(())
        })
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(|state| {
            if state.links == Links::None {
                return Err(error(io::ErrorKind::InvalidInput));
            }
            state.free_place(to)?;
            state.rename(from, to)
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(|state| state.rename(from, to))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.step(|state| {
            let (dir, name) = state.place(path)?;
            state.lookup(dir, name)?.ok_or_else(|| error(io::ErrorKind::NotFound))?;
            state.change(dir, name, None, None);
            Ok(())
        })
    }

    fn mkdir(&self, path: &Path) -> io::Result<()> {
        self.step(|state| {
            let (dir, name) = state.free_place(path)?;
            state.add(dir, name, Inode::Dir { synced: BTreeMap::new(), changes: BTreeMap::new() });
            Ok(())
        })
    }

    fn rmdir(&self, path: &Path) -> io::Result<()> {
        self.step(|state| {
            let inode = state.find(path)?;
            if !state.names(inode).is_empty() {
                return Err(error(io::ErrorKind::DirectoryNotEmpty));
            }
            let (dir, name) = state.place(path)?;
            state.change(dir, name, None, None);
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.step(|state| {
            let inode = state.find(dir)?;
            let names = state.names(inode);
            match &mut state.inodes[inode] {
                Inode::File { .. } => return Err(error(io::ErrorKind::NotADirectory)),
                Inode::Dir { synced, changes } => {
                    *synced = names;
                    changes.clear();
                }
            }
            Ok(())
        })
    }
}

impl StorageProvider for SimDisk {
    fn open(&self, url: &Url, durability: Durability) -> tidemill::Result<Arc<dyn Storage>> {
        Ok(Arc::new(LocalStorage::on_disk(Arc::new(self.clone()), url, durability)?))
    }
}
