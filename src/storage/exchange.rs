//! Two directories of the local disk that take each other's place at once.

use std::path::Path;

use crate::error::{Error, Result};

/// Lets the directories `one` and `other` of one file system change places: whoever lists either sees the old content
/// or the new, never both and never neither. Durable when it returns.
///
/// # Errors
/// [`Error::Storage`] if one of them is not there, or the file system cannot do it.
pub fn exchange_directories(one: &Path, other: &Path) -> Result<()> {
    let failed = |error: std::io::Error| Error::storage("exchange", one.display().to_string(), error);
    exchange(one, other).map_err(failed)?;
    for path in [one, other] {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
    }
    Ok(())
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn exchange(one: &Path, other: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn exchange(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::Error::from(std::io::ErrorKind::Unsupported))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_change_places() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        std::fs::create_dir(&one).unwrap();
        std::fs::write(one.join("a"), "a").unwrap();
        let missing = exchange_directories(&one, &other).unwrap_err().to_string();
        assert!(missing.contains("exchange"), "{missing}");
        std::fs::create_dir(&other).unwrap();
        exchange_directories(&one, &other).unwrap();
        assert!(other.join("a").exists() && !one.join("a").exists());
    }
}
