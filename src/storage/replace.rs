//! A directory whose content is replaced at once, while others list it.
//!
//! Files that are listed by name cannot be replaced by others at once: between two renames a reader would see rows
//! twice, or not at all. A directory can: the new content is put together beside it, and the two change places in one
//! step. So a reader that lists the directory sees the old files or the new ones. One that has listed it before
//! and opens a file after is told that there is no such file, and has to list again. One that is in the middle of
//! listing goes on in the old directory, which therefore stays for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use super::exchange::exchange_directories;
use crate::error::{Error, Result};

/// Lists, in a directory that has taken the place of another, which files of that one it stands for.
const STANDS_FOR: &str = ".compacted";

/// How long a directory that was replaced has to stay for those that are listing it.
pub const REPLACED_STAYS: Duration = Duration::from_secs(1);

/// What is to be the content of a directory, in the making. If it is dropped before it is shown, nothing has happened.
#[derive(Debug)]
pub struct NewContent {
    directory: PathBuf,
    /// What is removed in the end.
    work: PathBuf,
    /// The directory in it that takes the other's place.
    place: PathBuf,
    is_kept: bool,
    /// Of the root, and of a directory that is to take its place.
    locks: [fs::File; 2],
}

impl NewContent {
    /// Begins new content for `directory`, which is `root` or is in it. It is put together beside `root`: a reader of
    /// that who does not pass over hidden directories does not see it either.
    ///
    /// # Errors
    /// [`Error::Storage`] if the directory is a link, if it has directories that are not hidden, or if a new one cannot
    /// be made as it is: of the same owner and with the same permissions. While another process is at it, this waits.
    pub fn begin(root: &Path, directory: &Path) -> Result<Self> {
        let lock = lock_root(root)?;
        let is_real = fs::symlink_metadata(directory).map_err(failed("find", directory))?.is_dir();
        let has_others = entries(directory)?.iter().any(|(name, known)| known.is_dir() && !is_hidden(name));
        let place_of = || Some((Beside::of(root)?, directory.strip_prefix(root).ok()?));
        let (true, false, Some((beside, path))) = (is_real, has_others, place_of()) else {
            let reason = "it is a link, or has directories besides files, and cannot be replaced at once";
            return Err(Error::storage("replace", directory.display().to_string(), reason));
        };
        let work = beside.parent.join(format!("{}{}{}", beside.start, Uuid::new_v4().simple(), beside.end));
        let place = if path.as_os_str().is_empty() { work.clone() } else { work.join(path) };
        fs::create_dir_all(&place).map_err(failed("create", &place))?;
        let its_lock = fs::File::open(&place).map_err(failed("open", &place))?;
        let new =
            Self { directory: directory.to_path_buf(), work, place, is_kept: false, locks: [lock, its_lock] };
        // Whoever opens the root after the exchange waits for this one.
        new.locks[1].lock().map_err(failed("lock", &new.place))?;
        make_alike(directory, &new.place).map_err(failed("make a directory as", directory))?;
        Ok(new)
    }

    /// Where the files go that are new.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Shows the new content: the files that were put into [`NewContent::place`], which have to be durable, and all of
    /// the directory but those that they stand for.
    ///
    /// # Errors
    /// [`Error::Storage`] if the file system cannot do it.
    pub fn show(mut self, stand_for: &BTreeSet<&str>) -> Result<Replaced> {
        let is_file = |(name, known): (String, fs::Metadata)| (!known.is_dir()).then_some(name);
        let all: Vec<String> = entries(&self.directory)?.into_iter().filter_map(is_file).collect();
        for name in all.iter().filter(|name| !stand_for.contains(name.as_str())) {
            let from = self.directory.join(name);
            fs::hard_link(&from, self.place.join(name)).map_err(failed("link", &from))?;
        }
        let list = self.place.join(STANDS_FOR);
        fs::write(&list, all.join("\n")).map_err(failed("write", &list))?;
        let synced = fs::File::open(&self.place).and_then(|place| place.sync_all());
        synced.map_err(failed("sync", &self.place))?;
        let exchanged = exchange_directories(&self.directory, &self.place);
        // From here on the place has the old content, and what has come to it since.
        let list = self.directory.join(STANDS_FOR);
        self.is_kept = exchanged.is_ok() || list.exists();
        exchanged?;
        bring_over(&self.place, &self.directory)?;
        fs::remove_file(&list).map_err(failed("remove", &list))?;
        Ok(Replaced { work: self.work.clone() })
    }
}

impl Drop for NewContent {
    fn drop(&mut self) {
        if !self.is_kept {
            // What stays is removed by `settle`.
            let _ = fs::remove_dir_all(&self.work);
        }
    }
}

/// A directory that was replaced; nobody needs it any more who did not begin to list it before.
#[derive(Debug, Clone)]
pub struct Replaced {
    work: PathBuf,
}

impl Replaced {
    /// Removes it, [`REPLACED_STAYS`] after it was replaced.
    ///
    /// # Errors
    /// [`Error::Storage`] if that does not work.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.work) {
            // Another process has settled what there was.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(failed("remove", &self.work)),
        }
    }
}

/// Whether there is nothing that [`settle`] would have to finish in `root`. Looks only beside it.
///
/// # Errors
/// [`Error::Storage`] if that cannot be listed.
pub fn is_settled(root: &Path) -> Result<bool> {
    Ok(Beside::of(root).map_or_else(|| Ok(Vec::new()), |beside| beside.works())?.is_empty())
}

/// Finishes what processes began in `root` that died: directories that have not taken the place of another are removed;
/// of those that were replaced, what they have that the new one does not stand for is brought there first.
///
/// # Errors
/// [`Error::Storage`] as it comes.
pub fn settle(root: &Path) -> Result<()> {
    // What a process is at that lives is not touched.
    let _lock = lock_root(root)?;
    let Some(beside) = Beside::of(root) else { return Ok(()) };
    for work in beside.works()? {
        for old in directories(&work)? {
            let Ok(path) = old.strip_prefix(&work) else { continue };
            let place = root.join(path);
            // The one that stands for others has the list.
            if !old.join(STANDS_FOR).exists() && place.join(STANDS_FOR).exists() {
                bring_over(&old, &place)?;
            }
        }
        fs::remove_dir_all(&work).map_err(failed("remove", &work))?;
    }
    for directory in directories(root)? {
        let list = directory.join(STANDS_FOR);
        if list.exists() {
            fs::remove_file(&list).map_err(failed("remove", &list))?;
        }
    }
    Ok(())
}

/// Keeps other processes from replacing anything in `root`, until it is dropped.
fn lock_root(root: &Path) -> Result<fs::File> {
    loop {
        let file = fs::File::open(root).map_err(failed("open", root))?;
        file.lock().map_err(failed("lock", root))?;
        // It may have been replaced while this waited.
        if is_at(&file, root).map_err(failed("find", root))? {
            return Ok(file);
        }
    }
}

#[cfg(unix)]
fn is_at(file: &fs::File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (opened, there) = (file.metadata()?, fs::metadata(path)?);
    Ok((opened.dev(), opened.ino()) == (there.dev(), there.ino()))
}

#[cfg(not(unix))]
fn is_at(_: &fs::File, _: &Path) -> io::Result<bool> {
    Ok(true)
}

/// `root` and the directories below it, but for hidden ones and links.
///
/// # Errors
/// [`Error::Storage`] if one cannot be listed.
pub fn directories(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for (name, known) in entries(&directory)? {
            if known.is_dir() && !is_hidden(&name) {
                open.push(directory.join(name));
            }
        }
        found.push(directory);
    }
    found.sort();
    Ok(found)
}

/// The names in `directory`, and what they are of.
///
/// # Errors
/// [`Error::Storage`] if it cannot be listed.
pub fn entries(directory: &Path) -> Result<BTreeMap<String, fs::Metadata>> {
    let listed = fs::read_dir(directory).and_then(|entries| {
        let entry = |entry: io::Result<fs::DirEntry>| {
            let entry = entry?;
            match entry.metadata() {
                Ok(known) => Ok(Some((entry.file_name().to_string_lossy().into_owned(), known))),
                // Removed since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        };
        entries.filter_map(|one| entry(one).transpose()).collect()
    });
    listed.map_err(failed("list", directory))
}

fn is_hidden(name: &str) -> bool {
    name.starts_with('.')
}

/// What the names of the directories beside a root begin and end with, in which new content is put together.
struct Beside {
    parent: PathBuf,
    start: String,
    end: &'static str,
}

impl Beside {
    /// `None` for what has nothing beside it.
    fn of(root: &Path) -> Option<Self> {
        let name = root.file_name()?.to_string_lossy();
        Some(Self { parent: root.parent()?.to_path_buf(), start: format!(".{name}."), end: ".compact" })
    }

    /// Those that are there.
    fn works(&self) -> Result<Vec<PathBuf>> {
        let is_one = |name: &str| {
            let id = name.strip_prefix(&self.start).and_then(|rest| rest.strip_suffix(self.end));
            // As this gives them, and nobody else.
            id.is_some_and(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
        };
        let found = entries(&self.parent)?.into_iter().filter(|(name, known)| known.is_dir() && is_one(name));
        Ok(found.map(|(name, _)| self.parent.join(name)).collect())
    }
}

/// Gives `place` what came to `old` after it was looked at, and its hidden directories.
fn bring_over(old: &Path, place: &Path) -> Result<()> {
    let list = place.join(STANDS_FOR);
    let known = fs::read_to_string(&list).map_err(failed("read", &list))?;
    let known: BTreeSet<&str> = known.lines().collect();
    for (name, is) in entries(old)? {
        let (from, to) = (old.join(&name), place.join(&name));
        if known.contains(name.as_str()) {
            continue;
        }
        match (is.is_dir(), to.exists()) {
            (true, true) => move_entries(&from, &to)?,
            (true, false) => fs::rename(&from, &to).map_err(failed("move", &from))?,
            (false, true) => {}
            (false, false) => fs::hard_link(&from, &to).map_err(failed("move", &from))?,
        }
    }
    Ok(())
}

/// Moves what is in one directory to another that somebody has made meanwhile.
fn move_entries(from: &Path, to: &Path) -> Result<()> {
    for name in entries(from)?.into_keys().filter(|name| !to.join(name).exists()) {
        let from = from.join(&name);
        fs::rename(&from, to.join(&name)).map_err(failed("move", &from))?;
    }
    Ok(())
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.display().to_string();
    move |error| Error::storage(operation, path, error)
}

/// Gives `new` the owner and the permissions of `old`: whoever may read the one may read the other.
#[cfg(unix)]
fn make_alike(old: &Path, new: &Path) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, chown};
    let (is, made) = (fs::metadata(old)?, fs::metadata(new)?);
    if (is.uid(), is.gid()) != (made.uid(), made.gid()) {
        chown(new, Some(is.uid()), Some(is.gid()))?;
    }
    fs::set_permissions(new, is.permissions())?;
    copy_access_lists(old, new)
}

#[cfg(not(unix))]
fn make_alike(_: &Path, _: &Path) -> io::Result<()> {
    Ok(())
}

/// The access control lists, which Linux keeps in attributes of these names.
#[cfg(target_os = "linux")]
fn copy_access_lists(old: &Path, new: &Path) -> io::Result<()> {
    use rustix::fs::{XattrFlags, getxattr, setxattr};
    use rustix::io::Errno;
    for name in ["system.posix_acl_access", "system.posix_acl_default"] {
        let mut list = vec![0; 1 << 16];
        match getxattr(old, name, list.as_mut_slice()) {
            Ok(length) => setxattr(new, name, &list[..length], XattrFlags::empty())?,
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(all(unix, not(target_os = "linux")))]
fn copy_access_lists(_: &Path, _: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        entries(directory).unwrap().into_keys().collect()
    }

    #[test]
    fn a_directory_gets_new_content_and_stays_what_it_is() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("out");
        fs::create_dir_all(root.join(".staging")).unwrap();
        for name in ["a", "b", "c", ".staging/x"] {
            fs::write(root.join(name), name).unwrap();
        }
        fs::set_permissions(&root, fs::Permissions::from_mode(0o2751)).unwrap();
        let new = NewContent::begin(&root, &root).unwrap();
        fs::write(new.place().join("ab"), "ab").unwrap();
        let replaced = new.show(&BTreeSet::from(["a", "b"])).unwrap();
        assert_eq!(names(&root), [".staging", "ab", "c"]);
        assert_eq!(names(&root.join(".staging")), ["x"]);
        assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o7777, 0o2751);
        replaced.remove().unwrap();
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn who_lists_while_it_is_replaced_finds_all_of_the_old_files() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("out");
        fs::create_dir(&root).unwrap();
        (0..100).for_each(|number| fs::write(root.join(number.to_string()), "x").unwrap());
        let listing = fs::read_dir(&root).unwrap();
        let new = NewContent::begin(&root, &root).unwrap();
        fs::write(new.place().join("all"), "x").unwrap();
        let names: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        let replaced = new.show(&names.iter().map(String::as_str).collect()).unwrap();
        assert_eq!(listing.count(), 100);
        replaced.remove().unwrap();
    }

    #[test]
    fn what_cannot_be_replaced_at_once_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (root, link) = (folder.path().join("out"), folder.path().join("link"));
        fs::create_dir_all(root.join("k=1")).unwrap();
        std::os::unix::fs::symlink(&root, &link).unwrap();
        for directory in [&root, &link] {
            let refused = NewContent::begin(directory, directory).unwrap_err().to_string();
            assert!(refused.contains("cannot be replaced at once"), "{refused}");
        }
        assert_eq!(names(folder.path()), ["link", "out"]);
    }

    #[test]
    fn new_content_that_is_not_shown_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("out");
        fs::create_dir_all(root.join("k=1")).unwrap();
        drop(NewContent::begin(&root, &root.join("k=1")).unwrap());
        assert_eq!(names(folder.path()), ["out"]);
    }
}
