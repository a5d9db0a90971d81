//! What every storage must do, and what the local one must still have done after the power went.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use proptest::prelude::*;
use tidemill::storage::{
    Created, Durability, LocalStorage, ObjectStorage, Storage, StorageProvider, StoredFile,
};
use tidemill::{Error, Result};
use url::Url;

use crate::support::counting_store::CountingStore;
use crate::support::sim_disk::{Dice, DiskFault, Links, SimDisk};

fn url(text: &str) -> Url {
    match Url::parse(text) {
        Ok(url) => url,
        Err(error) => panic!("{text}: {error}"),
    }
}

fn directory(dir: &tempfile::TempDir) -> Url {
    match Url::from_directory_path(dir.path()) {
        Ok(url) => url,
        Err(()) => panic!("{dir:?} is not absolute"),
    }
}

fn sim(disk: &SimDisk) -> Result<Arc<dyn Storage>> {
    disk.open(&url("file:///data/root/"), Durability::Disk)
}

async fn read(storage: &dyn Storage, path: &str) -> Result<Option<String>> {
    Ok(storage.read(path).await?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

async fn paths(storage: &dyn Storage, dir: &str) -> Result<Vec<String>> {
    Ok(storage.list(dir).await?.into_iter().map(|file| file.path).collect())
}

async fn write(storage: &dyn Storage, path: &str, parts: &[Bytes]) -> Result<u64> {
    let mut writer = storage.writer(path).await?;
    for part in parts {
        writer.write(part.clone()).await?;
    }
    writer.finish().await
}

fn moves(moves: &[(&str, &str)]) -> Vec<(String, String)> {
    moves.iter().map(|(from, to)| ((*from).to_string(), (*to).to_string())).collect()
}

async fn contract(storage: Arc<dyn Storage>) -> Result<()> {
    creating(&storage).await?;
    listing(&*storage).await?;
    writing(&*storage).await?;
    moving(&*storage).await?;
    refusing(&*storage).await
}

async fn creating(storage: &Arc<dyn Storage>) -> Result<()> {
    let s = &**storage;
    assert_eq!((read(s, "a/b/c").await?, s.size("a/b/c").await?), (None, None));
    assert_eq!(s.create("a/b/c", "one".into()).await?, Created::New);
    assert_eq!(s.create("a/b/c", "two".into()).await?, Created::Exists);
    assert_eq!((read(s, "a/b/c").await?, s.size("a/b/c").await?), (Some("one".into()), Some(3)));
    assert_eq!(s.create("empty", Bytes::new()).await?, Created::New);
    assert_eq!((read(s, "empty").await?, s.size("empty").await?), (Some(String::new()), Some(0)));

    let racers = (0..8).map(|racer| {
        let storage = Arc::clone(storage);
        tokio::spawn(async move { (racer, storage.create("raced", format!("{racer}").into()).await) })
    });
    let mut winners = Vec::new();
    for racer in racers.collect::<Vec<_>>() {
        if let Ok((racer, Ok(Created::New))) = racer.await {
            winners.push(racer.to_string());
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(read(s, "raced").await?, winners.pop());

    s.delete("empty").await?;
    s.delete("empty").await?;
    s.delete("no/such/directory").await?;
    assert_eq!(s.create("empty", "again".into()).await?, Created::New);
    Ok(())
}

async fn listing(s: &dyn Storage) -> Result<()> {
    let names = ["k=1", "k=a b", "100%", "%20", "größe", "a#b", "10", "9", ".hidden", "x.tmp"];
    for name in names {
        assert_eq!(
            s.create(&format!("names/{name}"), name.to_string().into()).await?,
            Created::New,
            "{name}"
        );
    }
    s.create("names/below/deeper", "".into()).await?;
    let mut expected: Vec<StoredFile> = names
        .iter()
        .map(|name| StoredFile { path: format!("names/{name}"), size: name.len() as u64 })
        .collect();
    expected.sort_by(|a, b| a.path.cmp(&b.path));
    assert_eq!(s.list("names").await?, expected);
    for name in names {
        assert_eq!(read(s, &format!("names/{name}")).await?.as_deref(), Some(name));
    }
    assert_eq!(s.list("no/such/directory").await?, []);
    assert_eq!(paths(s, "").await?, ["empty", "raced"]);
    assert_eq!((s.size("names").await?, read(s, "names/nothing").await?), (None, None));
    Ok(())
}

async fn writing(s: &dyn Storage) -> Result<()> {
    assert_eq!(write(s, "w/none", &[]).await?, 0);
    assert_eq!(s.size("w/none").await?, Some(0));
    assert_eq!(write(s, "w/small", &["ab".into(), "".into(), "c".into()]).await?, 3);
    assert_eq!(read(s, "w/small").await?.as_deref(), Some("abc"));
    assert_eq!(write(s, "w/small", &["z".into()]).await?, 1);
    assert_eq!(read(s, "w/small").await?.as_deref(), Some("z"));

    // Sizes around the buffers and parts of all storages, with content that shows any mix-up.
    let parts: Vec<Bytes> = [1, 700_000, 600_000, 3_000_000, 9_000_000, 5, 8 * 1024 * 1024, 13]
        .iter()
        .scan(Dice(7), |dice, size| Some((0..*size).map(|_| dice.roll(256) as u8).collect()))
        .collect();
    let whole = Bytes::from(parts.concat());
    assert_eq!(write(s, "w/large", &parts).await?, whole.len() as u64);
    assert_eq!(s.size("w/large").await?, Some(whole.len() as u64));
    assert!(s.read("w/large").await? == Some(whole.clone()), "the large file differs");
    let length = whole.len() as u64;
    for (start, end) in [(0, 1), (5, 5), (700_000, 1_300_000), (length - 3, length), (length - 3, length + 9)]
    {
        let expected = whole.slice(start as usize..end.min(length) as usize);
        assert!(s.read_range("w/large", start..end).await? == Some(expected), "bytes {start} to {end}");
    }
    assert_eq!(s.read_range("w/nothing", 0..1).await?, None);
    assert_eq!(s.read_range("w/nothing", 0..0).await?, None);

    let mut writer = s.writer("w/aborted").await?;
    writer.write(whole).await?;
    writer.abort().await?;
    assert_eq!(paths(s, "w").await?, ["w/large", "w/none", "w/small"]);
    Ok(())
}

async fn moving(s: &dyn Storage) -> Result<()> {
    for name in ["x", "y", "z"] {
        write(s, &format!("staging/{name}"), &[name.into()]).await?;
    }
    s.create("out/z", "z".into()).await?;
    let all = moves(&[("staging/x", "out/k=1/x"), ("staging/y", "out/k=2/deep/y"), ("staging/z", "out/z")]);
    s.rename(&all[..1]).await?;
    // Repeated with one done already, and again with all done.
    s.rename(&all).await?;
    s.rename(&all).await?;
    s.rename(&[]).await?;
    for (path, content) in [("out/k=1/x", "x"), ("out/k=2/deep/y", "y"), ("out/z", "z")] {
        assert_eq!(read(s, path).await?.as_deref(), Some(content), "{path}");
    }
    assert_eq!(s.list("staging").await?, []);
    // A name that holds something else is never replaced, nor is what was to have it lost.
    for other in ["other", "Z", ""] {
        write(s, "staging/taken", &[other.to_string().into()]).await?;
        let taken = s.rename(&moves(&[("staging/taken", "out/z")])).await;
        assert!(taken.is_err_and(|error| error.to_string().contains("further than the checkpoint")));
        assert_eq!(read(s, "out/z").await?.as_deref(), Some("z"));
        assert_eq!(read(s, "staging/taken").await?.as_deref(), Some(other));
    }
    s.delete("staging/taken").await?;
    let missing = s.rename(&moves(&[("staging/x", "nowhere/x")])).await;
    assert!(missing.is_err_and(|error| error.to_string().contains("staging/x")));

    s.create("staging/kept", "".into()).await?;
    s.remove_empty_dir("staging").await?;
    assert_eq!(paths(s, "staging").await?, ["staging/kept"]);
    s.delete("staging/kept").await?;
    s.remove_empty_dir("staging").await?;
    s.remove_empty_dir("staging").await?;
    s.create("staging/again", "".into()).await?;
    assert_eq!(paths(s, "staging").await?, ["staging/again"]);
    Ok(())
}

async fn refusing(s: &dyn Storage) -> Result<()> {
    for path in ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/", "a\0b"] {
        for refused in [
            s.create(path, "".into()).await.map(drop),
            s.read(path).await.map(drop),
            s.delete(path).await,
            s.writer(path).await.map(drop),
            s.rename(&moves(&[("raced", path)])).await,
        ] {
            assert!(matches!(refused, Err(Error::Invalid(_))), "{path:?}: {refused:?}");
        }
    }
    assert!(s.list("..").await.is_err());
    assert!(s.url().as_str().ends_with('/'));
    Ok(())
}

#[tokio::test]
async fn local_disk() -> Result<()> {
    for durability in [Durability::Disk, Durability::Process] {
        let dir = tempfile::tempdir().map_err(|error| Error::Invalid(error.to_string()))?;
        let root =
            directory(&dir).join("not/there yet").map_err(|error| Error::Invalid(error.to_string()))?;
        contract(Arc::new(LocalStorage::new(&root, durability)?)).await?;
        let stray = std::process::Command::new("find").arg(dir.path()).args(["-name", ".*.tmp"]).output();
        assert!(stray.is_ok_and(|found| found.status.success() && found.stdout.is_empty()));
    }
    Ok(())
}

#[tokio::test]
async fn simulated_disk() -> Result<()> {
    for links in [Links::Hard, Links::ExclusiveRename] {
        let disk = SimDisk::with_links(links);
        contract(sim(&disk)?).await?;
        assert_eq!(disk.files().into_iter().find(|file| file.contains("/.raced")), None);
    }
    Ok(())
}

#[tokio::test]
async fn object_store_in_memory() -> Result<()> {
    let store = Arc::new(InMemory::new());
    contract(Arc::new(ObjectStorage::new(store.clone(), &url("memory:///some/prefix"))?)).await?;
    // Another prefix of the same store, and the root.
    contract(Arc::new(ObjectStorage::new(store, &url("memory:///some/prefix2/"))?)).await?;
    contract(Arc::new(ObjectStorage::new(Arc::new(InMemory::new()), &url("memory:///"))?)).await
}

#[tokio::test]
async fn objects_that_a_store_does_not_copy_are_moved_in_parts() -> Result<()> {
    const MOST: u64 = 1000;
    let store = Arc::new(CountingStore::copying_at_most(MOST));
    let storage = ObjectStorage::new(store, &url("memory:///output"))?.copying_at_most(MOST);
    // More than two parts, the last of which is small.
    let large: Vec<Bytes> = (0..17u8).map(|part| vec![part; 1 << 20].into()).collect();
    write(&storage, "staged/large", &large).await?;
    write(&storage, "staged/small", &["text".into()]).await?;
    let both = moves(&[("staged/large", "large"), ("staged/small", "small")]);
    // Again, as after a crash behind the last move.
    for _ in 0..2 {
        storage.rename(&both).await?;
        assert_eq!(storage.read("large").await?, Some(large.concat().into()));
        assert_eq!(read(&storage, "small").await?.as_deref(), Some("text"));
        assert_eq!(paths(&storage, "staged").await?, [""; 0]);
    }
    // After a crash between the two halves of a move, and where somebody else's file is.
    write(&storage, "staged/large", &large).await?;
    storage.rename(&both[..1]).await?;
    assert_eq!(storage.size("staged/large").await?, None);
    write(&storage, "staged/large", &large[1..]).await?;
    let refused = storage.rename(&both[..1]).await.map_err(|error| error.to_string());
    assert!(refused.is_err_and(|error| error.contains("holds something else")));
    assert_eq!(storage.read("large").await?, Some(large.concat().into()));
    // What goes wrong otherwise is told as it is.
    let storage = storage.copying_at_most(u64::MAX);
    let failed =
        storage.rename(&moves(&[("staged/large", "other")])).await.map_err(|error| error.to_string());
    assert!(failed.is_err_and(|error| error.contains("maximum allowable size")));
    Ok(())
}

#[tokio::test]
async fn object_store_on_files() -> Result<()> {
    let dir = tempfile::tempdir().map_err(|error| Error::Invalid(error.to_string()))?;
    let store =
        LocalFileSystem::new_with_prefix(dir.path()).map_err(|error| Error::Invalid(error.to_string()))?;
    contract(Arc::new(ObjectStorage::new(Arc::new(store), &url("memory:///prefix/"))?)).await
}

#[tokio::test]
async fn a_disk_that_cannot_create_exclusively_is_refused() -> Result<()> {
    let disk = SimDisk::with_links(Links::None);
    let storage = sim(&disk)?;
    let refused = storage.create("offsets/0", "x".into()).await.map_err(|error| error.to_string());
    assert!(
        refused.is_err_and(|error| error.contains("/data/root/offsets/0") && error.contains("another disk"))
    );
    assert_eq!(disk.files(), [""; 0]);
    Ok(())
}

#[tokio::test]
async fn errors_name_the_operation_and_the_path() -> Result<()> {
    // The steps of the first create: make two directories and sync their parents, make the file, …
    for (code, text) in
        [(28, "No space left on device"), (5, "Input/output error"), (13, "Permission denied")]
    {
        let mut failed = Vec::new();
        for step in 0.. {
            let disk = SimDisk::new();
            disk.fail_at(step, DiskFault::Error(code));
            let Err(error) = sim(&disk)?.create("offsets/0", "x".into()).await else {
                if disk.steps() <= step {
                    break;
                }
                continue;
            };
            let error = error.to_string();
            assert!(error.contains("'/") && error.contains(text), "step {step}: {error}");
            failed.push(error.split(' ').next().unwrap_or_default().to_string());
        }
        for operation in ["make", "sync", "create", "write"] {
            assert!(failed.iter().any(|failed| failed == operation), "{operation} in {failed:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn after_a_failed_fsync_of_a_directory_nothing_is_promised() -> Result<()> {
    let disk = SimDisk::new();
    let storage = sim(&disk)?;
    storage.create("a", "".into()).await?;
    // Make, write and sync the file, link it, unlink the temporary name, sync the directory.
    disk.fail_at(disk.steps() + 5, DiskFault::Error(5));
    assert!(
        storage.create("b", "".into()).await.is_err_and(|error| error.to_string().contains("sync directory"))
    );
    for refused in [
        storage.create("b", "".into()).await.map(drop),
        storage.writer("c").await.map(drop),
        storage.rename(&moves(&[("a", "d")])).await,
    ] {
        assert!(refused.is_err_and(|error| error.to_string().contains("start the query again")));
    }
    assert_eq!(paths(&*storage, "").await?, ["a", "b"]);
    assert_eq!(sim(&disk)?.create("b", "".into()).await?, Created::Exists);
    Ok(())
}

#[tokio::test]
async fn only_temporary_files_of_the_long_dead_are_swept() -> Result<()> {
    let temp = |name: &str, id: u8| format!("offsets/.{name}.{id:032x}.tmp");
    let disk = SimDisk::new();
    let storage = sim(&disk)?;
    write(&*storage, &temp("3", 1), &["torn".into()]).await?;
    write(&*storage, "offsets/.3.tmp", &["not ours".into()]).await?;
    disk.advance(Duration::from_secs(30 * 60));
    write(&*storage, &temp("3", 2), &["torn".into()]).await?;
    assert_eq!(paths(&*storage, "offsets").await?, ["offsets/.3.tmp"]);
    disk.advance(Duration::from_secs(31 * 60));
    assert_eq!(disk.files().len(), 3, "reading removes nothing");
    sim(&disk)?.create("offsets/3", "whole".into()).await?;
    let root = |path: &str| format!("/data/root/{path}");
    assert_eq!(disk.files(), [root(&temp("3", 2)), root("offsets/.3.tmp"), root("offsets/3")]);
    Ok(())
}

/// One call on a storage, on a handful of names so that calls meet.
#[derive(Debug, Clone)]
enum Action {
    Create(usize, usize),
    Write(usize, usize),
    Rename(usize, usize),
    Delete(usize),
    /// A new process on the same disk, without a power cut in between.
    Restart,
}

const NAMES: [&str; 6] = ["a", "b", "d/a", "d/b", "d/e/a", "f/a"];

fn action() -> impl Strategy<Value = Action> {
    let name = 0..NAMES.len();
    prop_oneof![
        3 => (name.clone(), 0..2000usize).prop_map(|(name, size)| Action::Create(name, size)),
        2 => (name.clone(), 0..2000usize).prop_map(|(name, size)| Action::Write(name, size)),
        3 => (name.clone(), name.clone()).prop_map(|(from, to)| Action::Rename(from, to)),
        1 => name.prop_map(Action::Delete),
        1 => Just(Action::Restart),
    ]
}

/// What each name may hold: `None` is that there is no such file.
#[derive(Debug, Default)]
struct Allowed {
    names: BTreeMap<&'static str, Vec<Option<Bytes>>>,
    /// A file that was being written, which may hold anything.
    anything: Option<&'static str>,
}

impl Allowed {
    fn of(&self, name: &str) -> Vec<Option<Bytes>> {
        self.names.get(name).cloned().unwrap_or_else(|| vec![None])
    }

    fn set(&mut self, name: &'static str, held: Vec<Option<Bytes>>) {
        self.names.insert(name, held);
    }

    fn also(&mut self, name: &'static str, held: impl IntoIterator<Item = Option<Bytes>>) {
        let mut all = self.of(name);
        all.extend(held);
        self.set(name, all);
    }
}

/// Runs the actions until the disk's process dies, and says what may be found afterwards.
async fn act(disk: &SimDisk, actions: &[Action]) -> Result<Allowed> {
    let mut storage = sim(disk)?;
    let mut allowed = Allowed::default();
    for (index, action) in actions.iter().enumerate() {
        let body = |size: usize| Bytes::from(format!("{index} ").repeat(size / 2));
        match *action {
            Action::Create(name, size) => {
                let name = NAMES[name];
                match storage.create(name, body(size)).await {
                    Ok(Created::New) => allowed.set(name, vec![Some(body(size))]),
                    // Whatever is there by now is there to stay.
                    Ok(Created::Exists) => {
                        let there = allowed.of(name).into_iter().filter(Option::is_some).collect();
                        allowed.set(name, there);
                    }
                    Err(_) => {
                        allowed.also(name, [Some(body(size))]);
                        return Ok(allowed);
                    }
                }
            }
            Action::Write(name, size) => {
                let name = NAMES[name];
                if write(&*storage, name, &[body(size)]).await.is_err() {
                    allowed.anything = Some(name);
                    return Ok(allowed);
                }
                allowed.set(name, vec![Some(body(size))]);
            }
            Action::Rename(from, to) => {
                let (from, to) = (NAMES[from], NAMES[to]);
                let moved: Vec<_> = storage.read(from).await?.into_iter().map(Some).collect();
                if from == to || moved.is_empty() {
                    continue;
                }
                let there = storage.read(to).await?.map(Some);
                let renamed = storage.rename(&moves(&[(from, to)])).await;
                if there.is_some_and(|there| !moved.contains(&there)) {
                    match renamed {
                        Ok(()) => return Err(Error::Invalid(format!("{to} was replaced by {from}"))),
                        Err(error) if error.to_string().contains("further than the checkpoint") => continue,
                        Err(_) => return Ok(allowed),
                    }
                }
                if renamed.is_err() {
                    allowed.also(to, moved);
                    allowed.also(from, [None]);
                    return Ok(allowed);
                }
                allowed.set(to, moved);
                allowed.set(from, vec![None]);
            }
            Action::Delete(name) => {
                let result = storage.delete(NAMES[name]).await;
                allowed.also(NAMES[name], [None]);
                if result.is_err() {
                    return Ok(allowed);
                }
            }
            Action::Restart => storage = sim(disk)?,
        }
    }
    Ok(allowed)
}

async fn survivors_are_allowed(disk: &SimDisk, allowed: &Allowed) -> Result<(), String> {
    for seed in 0..8 {
        let survivor = sim(&disk.after_power_cut(seed)).map_err(|error| error.to_string())?;
        for name in NAMES {
            let held = survivor.read(name).await.map_err(|error| error.to_string())?;
            let may = allowed.of(name);
            if allowed.anything != Some(name) && !may.contains(&held) {
                return Err(format!("seed {seed}: '{name}' holds {held:?} and not one of {may:?}"));
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn what_returned_ok_survives_every_power_cut(
        actions in prop::collection::vec(action(), 1..12),
        points in prop::collection::vec((any::<prop::sample::Index>(), 0..3usize), 12),
        links in prop_oneof![Just(Links::Hard), Just(Links::ExclusiveRename)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        runtime.block_on(async {
            let whole = SimDisk::with_links(links);
            let allowed = act(&whole, &actions).await.map_err(|error| error.to_string())?;
            survivors_are_allowed(&whole, &allowed).await?;
            for (point, fault) in points {
                let disk = SimDisk::with_links(links);
                let fault = [DiskFault::DieBefore, DiskFault::DieAfter, DiskFault::Tear][fault];
                disk.fail_at(point.index(whole.steps().max(1)), fault);
                let allowed = act(&disk, &actions).await.map_err(|error| error.to_string())?;
                survivors_are_allowed(&disk, &allowed).await?;
            }
            Ok(())
        }).map_err(|error: String| TestCaseError::fail(error))?;
    }
}

/// A process is killed anywhere, the next one lists what it left and builds on it, and then the
/// power goes: what was listed must still be there.
#[tokio::test]
async fn what_is_listed_survives_too() -> Result<()> {
    for links in [Links::Hard, Links::ExclusiveRename] {
        for step in 0.. {
            let disk = SimDisk::with_links(links);
            disk.fail_at(step, DiskFault::DieAfter);
            let killed = sim(&disk)?.create("d/e/a", "a".into()).await.is_err();
            let disk = disk.after_kill();
            let storage = sim(&disk)?;
            let listed = paths(&*storage, "d/e").await?;
            for seed in 0..8 {
                let survivor = sim(&disk.after_power_cut(seed))?;
                assert_eq!(paths(&*survivor, "d/e").await?, listed, "step {step}, seed {seed}");
            }
            // The directories that the dead process made carry what the next one creates.
            storage.create("d/e/b", "b".into()).await?;
            for seed in 0..8 {
                let survivor = sim(&disk.after_power_cut(seed))?;
                assert_eq!(
                    read(&*survivor, "d/e/b").await?.as_deref(),
                    Some("b"),
                    "step {step}, seed {seed}"
                );
            }
            if !killed {
                break;
            }
        }
    }
    Ok(())
}

/// A process is killed anywhere in a create; the next one does the same and may rely on it,
/// whether it was first or not.
#[tokio::test]
async fn what_exists_already_survives_too() -> Result<()> {
    for step in 0.. {
        let disk = SimDisk::new();
        disk.fail_at(step, DiskFault::DieAfter);
        let killed = sim(&disk)?.create("d/a", "a".into()).await.is_err();
        let disk = disk.after_kill();
        sim(&disk)?.create("d/a", "a".into()).await?;
        for seed in 0..8 {
            let survivor = sim(&disk.after_power_cut(seed))?;
            assert_eq!(read(&*survivor, "d/a").await?.as_deref(), Some("a"), "step {step}, seed {seed}");
        }
        if !killed {
            break;
        }
    }
    Ok(())
}

/// At every moment of a move the file has one of its names, with all of its content, and a
/// repeated move ends well.
#[tokio::test]
async fn a_move_never_loses_the_file() -> Result<()> {
    let all = moves(&[("staging/a", "out/a"), ("staging/b", "out/new/b")]);
    for step in 0.. {
        let disk = SimDisk::new();
        let storage = sim(&disk)?;
        for name in ["a", "b"] {
            write(&*storage, &format!("staging/{name}"), &[name.into()]).await?;
        }
        disk.fail_at(disk.steps() + step, DiskFault::DieAfter);
        let killed = storage.rename(&all).await.is_err();
        for seed in 0..16 {
            let survivor = sim(&disk.after_power_cut(seed))?;
            for (from, to) in &all {
                let held = [read(&*survivor, from).await?, read(&*survivor, to).await?];
                let whole = Some(from.replace("staging/", ""));
                assert!(held.contains(&whole), "step {step}, seed {seed}: {held:?}");
                assert!(held.iter().all(|held| held.is_none() || *held == whole), "{held:?}");
            }
            survivor.rename(&all).await?;
            assert_eq!(read(&*survivor, "out/new/b").await?.as_deref(), Some("b"));
        }
        if !killed {
            break;
        }
    }
    Ok(())
}

/// The simulation itself must lose what is not synced, or the tests above could not fail.
#[tokio::test]
async fn without_fsync_a_power_cut_loses_files() -> Result<()> {
    let disk = SimDisk::new();
    let storage = disk.open(&url("file:///data/root/"), Durability::Process)?;
    storage.create("a", "whole".into()).await?;
    let mut found = Vec::new();
    for seed in 0..2000 {
        let survivor = sim(&disk.after_power_cut(seed))?;
        found.push(read(&*survivor, "a").await?);
    }
    for possible in [None, Some("whole"), Some(""), Some("wh"), Some("\0\0\0\0\0"), Some("wh\0\0\0")] {
        assert!(found.iter().any(|found| found.as_deref() == possible), "{possible:?} never happened");
    }
    Ok(())
}
