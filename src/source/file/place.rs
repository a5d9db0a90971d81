//! What can be told of a place without a table: whether it is a pattern, and whether any file is there.

use datafusion::execution::session_state::SessionState;
use futures::TryStreamExt;

use super::location::{FileLocation, GLOB};
use super::pattern::FilePattern;
use super::walk::LocalWalk;
use crate::error::{Error, Result};

/// Whether `place` is a glob pattern, rather than the name of a file or directory.
pub(crate) fn is_pattern(place: &str) -> bool {
    place.contains(GLOB) && !std::path::Path::new(place).exists()
}

/// Whether there is any file at `place`, a path or URL of a file, a directory or a glob pattern, or below it.
///
/// # Errors
/// If it cannot be looked at. That there is no such place is none.
pub(crate) async fn has_files(place: &str, session: &SessionState) -> Result<bool> {
    let location = FileLocation::parse(place)?;
    let store = location.store(session.runtime_env())?;
    let location = location.tell_file_from_directory(store.as_ref()).await?;
    let pattern = FilePattern::new(location.selection(), None, true)?;
    if let Some(mut walk) = LocalWalk::of(store.as_ref(), &location) {
        loop {
            let names = walk.next().await?;
            if names.is_empty() {
                return Ok(false);
            }
            if names.files.iter().any(|path| pattern.selects(path)) {
                return Ok(true);
            }
        }
    }
    let failed = |error| Error::storage("list", location.base_url().as_str(), error);
    let mut files = store.list(Some(location.base()));
    while let Some(file) = files.try_next().await.map_err(failed)? {
        if location.relative(&file.location).is_some_and(|path| pattern.selects(path)) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    #[tokio::test]
    async fn patterns_and_files_are_told() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a/1.json", "a/deep/2.json", "b/_3.json", "c {1}/4.json"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{}").unwrap();
        }
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        let session = SessionContext::new().state();
        for (place, is_a_pattern, expected) in [
            ("a", false, true),
            ("a/", false, true),
            ("a/1.json", false, true),
            ("a/deep", false, true),
            ("*", true, true),
            ("a/{1,9}.json", true, true),
            ("a/{8,9}.json", true, false),
            ("a/*.jsn", true, false),
            ("b/", false, false),
            ("empty/", false, false),
            ("missing/", false, false),
            ("missing.csv", false, false),
            ("c {1}", false, true),
        ] {
            let path = format!("{}/{place}", dir.path().display());
            assert_eq!(is_pattern(&path), is_a_pattern, "{place}");
            assert_eq!(has_files(&path, &session).await.unwrap(), expected, "{place}");
        }
    }
}
