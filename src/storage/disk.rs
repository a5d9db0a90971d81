//! The handful of file-system calls that [`LocalStorage`](super::LocalStorage) is made of.
//!
//! They form a trait only so that tests can put a disk under the real storage code that loses
//! whatever was not fsynced. Every call blocks; none of them retries or hides an error.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::time::SystemTime;

/// What a directory holds under one name.
#[derive(Debug, Clone)]
pub struct DiskEntry {
    /// The name in its directory.
    pub name: String,
    /// Whether it is a regular file, itself or behind a symbolic link.
    pub is_file: bool,
    /// Its length in bytes; without meaning for directories.
    pub len: u64,
    /// When it was last written to.
    pub modified: SystemTime,
}

/// An open file that is written from start to end.
pub trait DiskFile: Send {
    /// Appends all of `data`.
    fn write(&mut self, data: &[u8]) -> io::Result<()>;

    /// fsync: data and length survive a power cut. The file's name may still be lost.
    fn sync(&mut self) -> io::Result<()>;
}

/// A POSIX file system, as far as it is needed here.
pub trait Disk: Debug + Send + Sync {
    /// Creates `path` and opens it; fails if it exists.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens `path` empty, whether it existed or not.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// The whole of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// A part of a file, less if it ends before.
    fn read_range(&self, path: &Path, range: Range<u64>) -> io::Result<Vec<u8>>;

    /// stat.
    fn entry(&self, path: &Path) -> io::Result<DiskEntry>;

    /// All entries of a directory whose names are UTF-8, in any order.
    fn list(&self, dir: &Path) -> io::Result<Vec<DiskEntry>>;

    /// Gives a file a second name; fails if that name exists.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Renames; fails if the new name exists. `Unsupported` or `InvalidInput` where the file
    /// system cannot promise that.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Renames; a file of the new name is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a name.
    fn unlink(&self, path: &Path) -> io::Result<()>;

    /// Makes a directory; its parent must exist.
    fn mkdir(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    fn rmdir(&self, path: &Path) -> io::Result<()>;

    /// fsync of a directory: the names in it survive a power cut.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// The machine's own file system.
#[derive(Debug, Default, Clone, Copy)]
pub struct StdDisk;

impl DiskFile for File {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.write_all(data)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Disk for StdDisk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().write(true).create_new(true).open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::create(path)?))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn read_range(&self, path: &Path, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(range.start))?;
        let mut bytes = Vec::new();
        file.take(range.end.saturating_sub(range.start)).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn entry(&self, path: &Path) -> io::Result<DiskEntry> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_string();
        entry(name, &fs::metadata(path)?)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DiskEntry>> {
        let mut entries = Vec::new();
        for found in fs::read_dir(dir)? {
            let found = found?;
            let Ok(name) = found.file_name().into_string() else { continue };
            match fs::metadata(found.path()) {
                Ok(metadata) => entries.push(entry(name, &metadata)?),
                // Removed since the directory was read, or a link to nowhere: not a file either way.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        rename_new(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn mkdir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn rmdir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    #[cfg(unix)]
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    /// Directories cannot be opened for syncing here; NTFS journals their changes in order.
    #[cfg(not(unix))]
    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}

fn entry(name: String, metadata: &fs::Metadata) -> io::Result<DiskEntry> {
    Ok(DiskEntry {
        name,
        is_file: metadata.is_file(),
        len: metadata.len(),
        modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
    })
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn rename_new(_from: &Path, _to: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rename_that_must_not_replace_does_not() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let [a, b, c] = ["a", "b", "c"].map(|name| dir.path().join(name));
        fs::write(&a, "a")?;
        fs::write(&b, "b")?;
        let refused = StdDisk.rename_new(&a, &b).map_err(|error| error.kind());
        assert_eq!(refused, Err(io::ErrorKind::AlreadyExists));
        StdDisk.rename_new(&a, &c)?;
        assert_eq!((fs::read(&b)?, fs::read(&c)?), (b"b".to_vec(), b"a".to_vec()));
        Ok(())
    }
}
