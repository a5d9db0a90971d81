//! The local disk, where `object_store` does not go: files called `name#1`, which it takes for unfinished
//! ones of its own. It neither lists nor opens them.

use std::fs::File;
use std::path::{MAIN_SEPARATOR, PathBuf};

use chrono::{DateTime, Utc};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Attributes, GetOptions, GetResult, GetResultPayload, ObjectMeta, ObjectStore};

use super::entry::Version;

/// Whether `store` is the local disk itself. Another store may stand in its place, and has to be asked.
pub(super) fn is_read_by(store: &dyn ObjectStore) -> bool {
    MAIN_SEPARATOR == '/' && store.to_string() == LocalFileSystem::new().to_string()
}

/// Where the local disk has what `object_store` calls `location`.
pub(super) fn path_of(location: &Path) -> PathBuf {
    std::path::Path::new("/").join(location.as_ref())
}

/// Whether `object_store` passes over the file at `path`: `name#1`.
pub(super) fn is_shunned(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.split_once('#')
        .is_some_and(|(_, suffix)| !suffix.is_empty() && suffix.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Opens a file as `object_store` would. It understands no preconditions.
pub(super) async fn open(location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
    let path = path_of(location);
    let opened = tokio::task::spawn_blocking(move || {
        let file = File::open(&path)?;
        let metadata = file.metadata()?;
        let modified = metadata.modified()?;
        Ok((file, path, metadata.len(), modified))
    });
    let (file, path, size, modified) = opened.await?.map_err(|error| failed(location, error))?;
    let range = match &options.range {
        None => 0..size,
        Some(range) => {
            range.as_range(size).map_err(|error| failed(location, std::io::Error::other(error)))?
        }
    };
    Ok(GetResult {
        payload: GetResultPayload::File(file, path),
        meta: ObjectMeta {
            location: location.clone(),
            last_modified: modified.into(),
            size,
            e_tag: None,
            version: None,
        },
        range,
        attributes: Attributes::default(),
    })
}

/// The inode of a file, and when that was changed, in nanoseconds since 1970.
#[cfg(unix)]
pub(super) fn inode(metadata: &std::fs::Metadata) -> Option<(u64, i64)> {
    use std::os::unix::fs::MetadataExt;
    let changed_ns = metadata.ctime().checked_mul(1_000_000_000)?.checked_add(metadata.ctime_nsec())?;
    Some((metadata.ino(), changed_ns))
}

#[cfg(not(unix))]
pub(super) fn inode(_: &std::fs::Metadata) -> Option<(u64, i64)> {
    None
}

/// What tells the file that is there now from others.
pub(super) fn version_on_disk(path: &std::path::Path) -> std::io::Result<Version> {
    let metadata = std::fs::metadata(path)?;
    let modified_ms = DateTime::<Utc>::from(metadata.modified()?).timestamp_millis();
    let inode = inode(&metadata);
    Ok(Version {
        size: metadata.len(),
        modified_ms: Some(modified_ms),
        etag: None,
        inode: inode.map(|(number, _)| number),
        changed_ns: inode.map(|(_, changed_ns)| changed_ns),
    })
}

fn failed(location: &Path, error: std::io::Error) -> object_store::Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            object_store::Error::NotFound { path: location.to_string(), source: Box::new(error) }
        }
        std::io::ErrorKind::PermissionDenied => {
            object_store::Error::PermissionDenied { path: location.to_string(), source: Box::new(error) }
        }
        _ => object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(error) },
    }
}

#[cfg(test)]
mod tests {
    use object_store::{GetRange, ObjectStoreExt};

    use super::*;

    #[tokio::test]
    async fn files_that_object_store_shuns_are_opened_as_it_opens_others() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a#12"), "0123456789").unwrap();
        let location = Path::parse(dir.path().join("a#12").to_str().unwrap()).unwrap();
        let store = LocalFileSystem::new();
        assert!(is_read_by(&store) && is_shunned(location.as_ref()));
        assert!(store.get(&location).await.is_err(), "or this module is not needed any more");
        for (range, expected) in [
            (None, "0123456789"),
            (Some(GetRange::Bounded(2..4)), "23"),
            (Some(GetRange::Offset(8)), "89"),
            (Some(GetRange::Suffix(3)), "789"),
        ] {
            let result = open(&location, GetOptions { range, ..GetOptions::default() }).await.unwrap();
            assert_eq!(result.meta.size, 10);
            assert_eq!(result.bytes().await.unwrap(), expected);
        }
        let missing = Path::from("no/such#1");
        let error = open(&missing, GetOptions::default()).await.unwrap_err();
        assert!(matches!(error, object_store::Error::NotFound { .. }), "{error}");
        assert!(!is_shunned("a#b/c") && !is_shunned("a#") && !is_shunned("#12/x"));
    }
}
