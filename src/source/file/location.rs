//! Where a file source reads from: an object store, a base directory, and what below it.

use std::sync::Arc;

use datafusion::datasource::listing::ListingTableUrl;
use datafusion::error::DataFusionError;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::StreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;

use crate::error::{Error, Result};
use crate::storage::object_store_of;

/// What only patterns have.
pub(super) const GLOB: [char; 4] = ['*', '?', '[', '{'];

/// What of the base directory is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selection {
    /// The directory itself.
    Directory,
    /// One file in it.
    File(String),
    /// The files and directories that a glob pattern, relative to it, matches.
    Glob(String),
}

/// A directory, a single file or a glob pattern in an object store.
///
/// The *base* is the longest prefix without a glob character. Everything that is remembered of a
/// file is its path below the base, so that input and checkpoint can move.
#[derive(Debug, Clone)]
pub(super) struct FileLocation {
    store: ObjectStoreUrl,
    base: Path,
    base_url: Url,
    selection: Selection,
}

impl FileLocation {
    /// Reads `text`, a path on the local disk (relative ones start at the working directory) or a
    /// URL, either with `*`, `?`, `[…]` and `{…}` in its last parts.
    ///
    /// A text without a trailing `/` may mean a file or a directory;
    /// [`FileLocation::tell_file_from_directory`] finds out.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let invalid = |reason: String| Error::Invalid(format!("'{text}' is no usable path: {reason}"));
        if text.is_empty() {
            return Err(invalid("it is empty".into()));
        }
        let (base, glob) = match split_glob(text) {
            // A name that exists as it is written is meant as it is written.
            Some(_) if std::path::Path::new(text).exists() => (text, None),
            Some((base, glob)) => (base, Some(glob.trim_end_matches('/'))),
            None => (text, None),
        };
        let listing = listing_url(if base.is_empty() { "./" } else { base }).map_err(invalid)?;
        let mut base_url: Url = listing.get_url().clone();
        let selection = match glob {
            Some(glob) => Selection::Glob(decode_if_url(base, glob)),
            None if listing.is_collection() => Selection::Directory,
            None => {
                let name = listing.prefix().filename().map(str::to_string);
                Selection::File(name.ok_or_else(|| invalid("it names no file or directory".into()))?)
            }
        };
        let store = listing.object_store();
        if matches!(selection, Selection::File(_)) {
            let parent: Vec<_> = listing.prefix().parts().collect();
            let base = Path::from_iter(parent[..parent.len() - 1].iter().cloned());
            if let Ok(mut segments) = base_url.path_segments_mut() {
                segments.pop().push("");
            }
            return Ok(Self { store, base, base_url, selection });
        }
        if !base_url.path().ends_with('/') {
            base_url.set_path(&format!("{}/", base_url.path()));
        }
        Ok(Self { store, base: listing.prefix().clone(), base_url, selection })
    }

    /// Asks the store whether a location without a trailing `/` is a file; anything else, also
    /// what does not exist yet, is a directory.
    pub(super) async fn tell_file_from_directory(self, store: &dyn ObjectStore) -> Result<Self> {
        let Selection::File(name) = &self.selection else { return Ok(self) };
        let location = self.object_path(name)?;
        match store.head(&location).await {
            Ok(_) => Ok(self),
            Err(object_store::Error::NotFound { .. }) => {
                let mut base_url = self.base_url.clone();
                if let Ok(mut segments) = base_url.path_segments_mut() {
                    segments.pop_if_empty().push(name).push("");
                }
                Ok(Self { base: location, base_url, selection: Selection::Directory, ..self })
            }
            Err(error) => Err(Error::storage("read", self.display(&location), error)),
        }
    }

    /// The store itself.
    ///
    /// # Errors
    /// If none is known for this kind of URL.
    pub(super) fn store(&self, runtime: &RuntimeEnv) -> Result<Arc<dyn ObjectStore>> {
        object_store_of(runtime, self.store.as_ref())
    }

    /// Fails if there is nothing at the location, not even an empty directory. Object stores have none of
    /// these.
    pub(super) async fn check_exists(&self, store: &dyn ObjectStore) -> Result<()> {
        let missing = |what: &str| {
            Error::Invalid(format!(
                "'{self}' cannot be read: {what}. Check the path, or set allowMissingPath to true to wait for it"
            ))
        };
        if let Ok(path) = self.base_url.to_file_path() {
            let shown = path.display();
            return match tokio::task::spawn_blocking({
                let path = path.clone();
                move || std::fs::read_dir(path).map(drop)
            })
            .await
            {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                    Err(missing(&format!("there is no directory '{shown}'")))
                }
                Ok(Err(error)) => Err(Error::storage("list", shown.to_string(), error)),
                Err(error) => Err(Error::storage("list", shown.to_string(), error)),
            };
        }
        let failed = |error| Error::storage("list", self.base_url.as_str(), error);
        match store.list(Some(&self.base)).next().await.transpose().map_err(failed)? {
            Some(_) => Ok(()),
            None => Err(missing(&format!("there is no object below '{}'", self.base_url))),
        }
    }

    /// The store, as DataFusion's registry knows it.
    pub(super) fn store_url(&self) -> &ObjectStoreUrl {
        &self.store
    }

    /// The base directory in the store.
    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    /// The base directory's URL, which ends in `/`.
    pub(super) fn base_url(&self) -> &Url {
        &self.base_url
    }

    /// What below the base is read.
    pub(super) fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Whether the files are on a local disk.
    pub(super) fn is_local(&self) -> bool {
        self.base_url.scheme() == "file"
    }

    /// The path of `location` below the base; `None` if it is not below.
    pub(super) fn relative<'a>(&self, location: &'a Path) -> Option<&'a str> {
        let base = self.base.as_ref();
        if base.is_empty() {
            return Some(location.as_ref());
        }
        location.as_ref().strip_prefix(base)?.strip_prefix('/')
    }

    /// The object at `relative` below the base. Fails on paths that leave the base.
    pub(super) fn object_path(&self, relative: &str) -> Result<Path> {
        let base = self.base.as_ref();
        let path = if base.is_empty() { relative.to_string() } else { format!("{base}/{relative}") };
        Path::parse(&path).map_err(|_| {
            Error::Invalid(format!(
                "{relative:?} cannot be the path of an input file: it holds a line break, another control character, \
                 or '..'. Rename it, or leave it out (pathGlobFilter)"
            ))
        })
    }

    /// The URL of the file at `relative` below the base.
    pub(super) fn file_url(&self, relative: &str) -> String {
        let mut url = self.base_url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(relative.split('/'));
        }
        url.to_string()
    }

    /// A file as messages name it: the path on local disks, else the URL.
    pub(super) fn display(&self, location: &Path) -> String {
        if self.is_local() { format!("/{location}") } else { format!("{}{location}", self.store.as_str()) }
    }
}

impl std::fmt::Display for FileLocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.selection {
            Selection::Directory => f.write_str(self.base_url.as_str().trim_end_matches('/')),
            Selection::File(name) | Selection::Glob(name) => write!(f, "{}{name}", self.base_url),
        }
    }
}

/// Splits before the first part that holds a glob character.
fn split_glob(text: &str) -> Option<(&str, &str)> {
    let path_start = match text.find("://") {
        Some(scheme_end) => text[scheme_end + 3..].find('/').map(|slash| scheme_end + 3 + slash + 1)?,
        None => 0,
    };
    let mut start = path_start;
    for part in text[path_start..].split_inclusive('/') {
        if part.contains(GLOB) {
            return Some(text.split_at(start));
        }
        start += part.len();
    }
    None
}

/// The URL of a path or URL without a pattern.
fn listing_url(text: &str) -> std::result::Result<ListingTableUrl, String> {
    let reason = |error: DataFusionError| error.strip_backtrace();
    if split_glob(text).is_none() {
        return ListingTableUrl::parse(text).map_err(reason);
    }
    // DataFusion would take the name for a pattern.
    let path = std::path::absolute(text).map_err(|error| error.to_string())?;
    let url = if path.is_dir() { Url::from_directory_path(&path) } else { Url::from_file_path(&path) };
    let url = url.map_err(|()| "it has no absolute path".to_string())?;
    ListingTableUrl::try_new(url, None).map_err(reason)
}

/// Paths are taken as they are written; URLs are percent-encoded.
fn decode_if_url(base: &str, glob: &str) -> String {
    if !base.contains("://") {
        return glob.to_string();
    }
    percent_encoding::percent_decode_str(glob).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, Selection) {
        let location = FileLocation::parse(text).unwrap();
        (location.base_url().to_string(), location.selection().clone())
    }

    #[test]
    fn directories_files_and_globs() {
        let cases = [
            ("s3://bucket/data/", "s3://bucket/data/", Selection::Directory),
            ("s3://bucket/data/x.json", "s3://bucket/data/", Selection::File("x.json".into())),
            ("s3://bucket/data/*.json", "s3://bucket/data/", Selection::Glob("*.json".into())),
            ("s3://bucket/data/y=20??/*/", "s3://bucket/data/", Selection::Glob("y=20??/*".into())),
            ("s3://bucket/{a,b}/x", "s3://bucket/", Selection::Glob("{a,b}/x".into())),
            ("s3://bucket/a%20b/c%20*", "s3://bucket/a%20b/", Selection::Glob("c *".into())),
            ("/no/such/dir/", "file:///no/such/dir/", Selection::Directory),
            ("/no/such/*/b", "file:///no/such/", Selection::Glob("*/b".into())),
        ];
        for (text, base, selection) in cases {
            assert_eq!(parsed(text), (base.to_string(), selection), "{text}");
        }
        let here = Url::from_directory_path(std::env::current_dir().unwrap()).unwrap();
        assert_eq!(parsed("*.csv"), (here.to_string(), Selection::Glob("*.csv".into())));
        assert_eq!(parsed("no-such/").0, format!("{here}no-such/"));
        assert!(FileLocation::parse("  ").is_err());
    }

    #[test]
    fn a_name_that_exists_is_no_pattern() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("data[1]");
        std::fs::create_dir(&odd).unwrap();
        let location = FileLocation::parse(odd.to_str().unwrap()).unwrap();
        assert_eq!(location.selection(), &Selection::Directory);
        assert_eq!(location.base().filename(), Some("data[1]"));
    }

    #[tokio::test]
    async fn a_missing_place_is_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.json"), "{}").unwrap();
        let store = object_store::local::LocalFileSystem::new();
        for (name, selection) in
            [("a.json", Selection::File("a.json".into())), ("later", Selection::Directory)]
        {
            let text = dir.path().join(name);
            let location = FileLocation::parse(text.to_str().unwrap()).unwrap();
            let location = location.tell_file_from_directory(&store).await.unwrap();
            assert_eq!(location.selection(), &selection, "{name}");
            assert!(location.base_url().as_str().ends_with('/'));
        }
        let url = format!("file://{}", dir.path().display());
        let location = FileLocation::parse(&url).unwrap().tell_file_from_directory(&store).await.unwrap();
        assert_eq!(location.selection(), &Selection::Directory);
        assert_eq!(location.base_url().as_str(), format!("{url}/"));
    }

    #[test]
    fn paths_below_the_base() {
        let location = FileLocation::parse("s3://bucket/data/").unwrap();
        let path = location.object_path("y=1/a b.json").unwrap();
        assert_eq!(location.relative(&path), Some("y=1/a b.json"));
        assert_eq!(location.relative(&Path::from("database/x")), None);
        assert_eq!(location.file_url("y=1/a b.json"), "s3://bucket/data/y=1/a%20b.json");
        assert_eq!(location.display(&path), "s3://bucket/data/y=1/a b.json");
        assert!(location.object_path("../secret").is_err());
    }
}
