//! Archiving on another file system, where no renaming reaches.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::disk::version_on_disk;
use super::entry::Version;
use crate::storage::disk::Disk;

/// What became of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cleaned {
    /// It is not in the directory any more.
    Done,
    /// Another file has come under its name; says how that is told.
    Replaced(String),
    /// All its names in the archive are taken by other files.
    NoRoom,
}

/// Moves `from`, if it is the file that was `read`, to the first of `targets` that is free.
///
/// It is put aside first, in one step and under a hidden name, so that nothing is touched that comes under its own
/// name meanwhile. What an interruption leaves there [`finish`] archives.
pub(super) fn move_across(
    disk: &impl Disk,
    read: &Version,
    from: &Path,
    targets: &[PathBuf],
) -> io::Result<Cleaned> {
    let aside = aside(from);
    disk.rename_new(from, &aside)?;
    // The move is a change, too.
    let moved = Version { changed_ns: None, ..version_on_disk(&aside)? };
    if let Some(how) = read.difference(&moved) {
        disk.rename_new(&aside, from)?;
        return Ok(Cleaned::Replaced(how));
    }
    archive(disk, from, targets)
}

/// Archives what an interrupted [`move_across`] has put aside, if it is the file that was `read`. What is another one,
/// because it came under the name at the last moment, gets its name back, if that is still free.
pub(super) fn finish(disk: &impl Disk, read: &Version, from: &Path, targets: &[PathBuf]) -> io::Result<()> {
    let aside = aside(from);
    if !aside.try_exists()? {
        return Ok(());
    }
    let moved = Version { changed_ns: None, ..version_on_disk(&aside)? };
    match read.difference(&moved) {
        None => archive(disk, from, targets).map(drop),
        Some(_) if from.try_exists()? => Ok(()),
        Some(_) => disk.rename_new(&aside, from),
    }
}

/// Archives what was put aside of `from`.
fn archive(disk: &impl Disk, from: &Path, targets: &[PathBuf]) -> io::Result<Cleaned> {
    let aside = aside(from);
    for target in targets {
        if copy_to_free(disk, &aside, target)? {
            return match fs::remove_file(&aside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(Cleaned::Done),
            };
        }
    }
    disk.rename_new(&aside, from)?;
    Ok(Cleaned::NoRoom)
}

fn aside(from: &Path) -> PathBuf {
    hidden(from, "archiving")
}

fn hidden(path: &Path, what: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{what}"))
}

/// Whether the content of `from` is durable under `to` afterwards; not if there is another.
fn copy_to_free(disk: &impl Disk, from: &Path, to: &Path) -> io::Result<bool> {
    if to.try_exists()? {
        return is_same_content(from, to);
    }
    let directory = to.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    // Another process may be about the same.
    let part = hidden(to, &format!("{}.part", std::process::id()));
    fs::copy(from, &part)?;
    let copied = File::options().write(true).open(&part).and_then(|file| {
        file.set_modified(fs::metadata(from)?.modified()?)?;
        file.sync_all()?;
        disk.rename_new(&part, to)?;
        File::open(directory)?.sync_all()
    });
    match copied {
        Ok(()) => Ok(true),
        Err(error) => {
            // It may be the rename that failed, or what follows it.
            let _ = fs::remove_file(&part);
            match error.kind() {
                io::ErrorKind::AlreadyExists => is_same_content(from, to),
                _ => Err(error),
            }
        }
    }
}

fn is_same_content(a: &Path, b: &Path) -> io::Result<bool> {
    let (a, b) = (File::open(a)?, File::open(b)?);
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (BufReader::new(a), BufReader::new(b));
    loop {
        let (left, right) = (a.fill_buf()?, b.fill_buf()?);
        let length = left.len().min(right.len());
        if left[..length] != right[..length] {
            return Ok(false);
        }
        if length == 0 {
            return Ok(true);
        }
        a.consume(length);
        b.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::StdDisk;

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn only_the_file_that_was_read_is_moved_to_a_free_name() {
        let dir = tempfile::tempdir().unwrap();
        let [from, first, second] =
            ["a.json", "old/x/a.json", "old/x/a-1.json"].map(|name| dir.path().join(name));
        let targets = [first.clone(), second.clone()];
        let moved = |read: &Version| move_across(&StdDisk, read, &from, &targets).unwrap();
        for (content, at) in [("one", &first), ("two", &second)] {
            fs::write(&from, content).unwrap();
            let read = version_on_disk(&from).unwrap();
            let modified = fs::metadata(&from).unwrap().modified().unwrap();
            assert_eq!(moved(&read), Cleaned::Done);
            assert_eq!(text(at), content);
            assert_eq!(fs::metadata(at).unwrap().modified().unwrap(), modified);
            assert!(!from.exists() && !aside(&from).exists());
        }
        fs::write(&from, "three").unwrap();
        let read = version_on_disk(&from).unwrap();
        assert_eq!(moved(&read), Cleaned::NoRoom);
        fs::write(&from, "another").unwrap();
        assert!(matches!(moved(&read), Cleaned::Replaced(_)));
        assert_eq!(
            (text(&from), text(&first), text(&second)),
            ("another".into(), "one".into(), "two".into())
        );
        let left = fs::read_dir(dir.path().join("old/x")).unwrap().count();
        assert_eq!((left, aside(&from).exists()), (2, false), "nothing half done stays");
    }

    #[test]
    fn what_an_interruption_left_is_archived_once() {
        for is_copied in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let [from, first, second] = ["a", "old/a", "old/a-1"].map(|name| dir.path().join(name));
            let targets = [first.clone(), second.clone()];
            fs::write(&from, "one").unwrap();
            let read = version_on_disk(&from).unwrap();
            finish(&StdDisk, &read, &from, &targets).unwrap();
            assert_eq!(text(&from), "one", "nothing was put aside");
            fs::rename(&from, aside(&from)).unwrap();
            fs::write(&from, "new").unwrap();
            if is_copied {
                fs::create_dir_all(first.parent().unwrap()).unwrap();
                fs::write(&first, "one").unwrap();
            }
            finish(&StdDisk, &read, &from, &targets).unwrap();
            assert_eq!((text(&from), text(&first)), ("new".into(), "one".into()));
            assert!(!second.exists() && !aside(&from).exists());
        }
    }
    /// It came under the name just before it was put aside, and nobody has read it.
    #[test]
    fn what_was_not_read_gets_its_name_back() {
        let dir = tempfile::tempdir().unwrap();
        let [from, target] = ["a", "old/a"].map(|name| dir.path().join(name));
        fs::write(&from, "one").unwrap();
        let read = version_on_disk(&from).unwrap();
        fs::write(aside(&from), "another").unwrap();
        fs::remove_file(&from).unwrap();
        finish(&StdDisk, &read, &from, std::slice::from_ref(&target)).unwrap();
        assert_eq!((text(&from), target.exists()), ("another".into(), false));
        fs::write(aside(&from), "a third").unwrap();
        finish(&StdDisk, &read, &from, std::slice::from_ref(&target)).unwrap();
        assert_eq!((text(&from), text(&aside(&from))), ("another".into(), "a third".into()));
    }
}
