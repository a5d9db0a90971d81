//! From what users write to the URL of a directory.

use std::path::{Component, Path, PathBuf};

use url::Url;

use crate::error::{Error, Result};

/// The URL, with a trailing slash, of the directory that `text` names: a URL, or a local path that
/// is taken below `cwd` unless it is absolute.
///
/// Paths are literal: `~`, `%20` and `*` mean themselves. `.` and `..` are resolved without asking
/// the disk.
///
/// # Errors
/// [`Error::Invalid`] with advice if `text` is empty, is a URL that names no directory, or is a
/// relative path while `cwd` is not absolute.
pub fn parse_location(text: &str, cwd: &Path) -> Result<Url> {
    let invalid = |reason: &str| Error::Invalid(format!("'{text}' is not a location: {reason}"));
    if text.is_empty() {
        return Err(invalid("it is empty; write a path or a URL"));
    }
    if text.contains('\0') {
        return Err(invalid("it has a NUL character in it"));
    }
    if is_url(text) {
        return parse_url(text).map_err(|reason| invalid(&reason));
    }
    let path = normalize(&cwd.join(text));
    Url::from_directory_path(&path)
        .map_err(|()| invalid("it is a relative path, and the current directory is not known"))
}

/// A scheme and `://`, or Hadoop's `file:/path`.
fn is_url(text: &str) -> bool {
    if text.starts_with("file:/") {
        return true;
    }
    text.split_once("://").is_some_and(|(scheme, _)| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    })
}

fn parse_url(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|error| error.to_string())?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(
            "a URL with '?' or '#' names no directory; write %3F and %23 if they belong to a name".into()
        );
    }
    if url.scheme() == "file" {
        if let Some(host) = url.host_str() {
            return Err(format!("'{host}' is taken for a host name; write file:/// and an absolute path"));
        }
        // Brings spellings of the same path to the one that paths without a scheme get.
        let path = url.to_file_path().map_err(|()| "it names no local path".to_string())?;
        return Url::from_directory_path(path).map_err(|()| "it names no local path".to_string());
    }
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url)
}

/// The path of `inner` below `outer`, empty if they are the same directory; `None` if it is elsewhere. On the
/// local disk, links are followed as far as there is anything.
pub fn path_below(outer: &Url, inner: &Url) -> Option<String> {
    let (outer, inner) = (without_links(outer), without_links(inner));
    let place = |url: &Url| (url.scheme().to_string(), url.host_str().map(str::to_string), url.port());
    if place(&outer) != place(&inner) {
        return None;
    }
    let rest = inner.path().trim_end_matches('/').strip_prefix(outer.path().trim_end_matches('/'))?;
    let path = if rest.is_empty() { rest } else { rest.strip_prefix('/')? };
    Some(percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned())
}

fn without_links(url: &Url) -> Url {
    if url.scheme() != "file" {
        return url.clone();
    }
    let Ok(path) = url.to_file_path() else { return url.clone() };
    let there = path.ancestors().find_map(|there| Some((there, there.canonicalize().ok()?)));
    let resolved = there.map(|(there, resolved)| resolved.join(path.strip_prefix(there).unwrap_or(&path)));
    resolved.and_then(|path| Url::from_directory_path(path).ok()).unwrap_or_else(|| url.clone())
}

/// Resolves `.` and `..` by their names.
fn normalize(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            component => normal.push(component),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> String {
        match parse_location(text, Path::new("/work/dir")) {
            Ok(url) => url.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn paths_and_urls_name_directories() {
        for (text, url) in [
            ("out", "file:///work/dir/out/"),
            ("out/", "file:///work/dir/out/"),
            ("./a/../b", "file:///work/dir/b/"),
            ("../../../..", "file:///"),
            ("/", "file:///"),
            ("/data//bids/.", "file:///data/bids/"),
            ("~/bids", "file:///work/dir/~/bids/"),
            ("my data", "file:///work/dir/my%20data/"),
            ("50%20off", "file:///work/dir/50%2520off/"),
            ("a#b?c", "file:///work/dir/a%23b%3Fc/"),
            ("größe", "file:///work/dir/gr%C3%B6%C3%9Fe/"),
            ("time=12:30", "file:///work/dir/time=12:30/"),
            ("file:///data/my data", "file:///data/my%20data/"),
            ("file:///data/my%20data/", "file:///data/my%20data/"),
            ("file:/data/a/../b", "file:///data/b/"),
            ("file://localhost/data", "file:///data/"),
            ("s3://lake/a/b", "s3://lake/a/b/"),
            ("s3://lake", "s3://lake/"),
            ("memory:///", "memory:///"),
        ] {
            assert_eq!(parsed(text), url, "{text}");
        }
    }

    #[test]
    fn places_below_others() {
        let url = |text: &str| Url::parse(text).unwrap();
        for (outer, inner, path) in [
            ("s3://lake/a/", "s3://lake/a/b%20c/d/", Some("b c/d")),
            ("s3://lake/a/", "s3://lake/a", Some("")),
            ("s3://lake/", "s3://lake/a/", Some("a")),
            ("s3://lake/a/", "s3://lake/ab/", None),
            ("s3://lake/a/", "s3://other/a/", None),
            ("file:///no/such/a/", "file:///no/such/a/b/", Some("b")),
        ] {
            assert_eq!(path_below(&url(outer), &url(inner)).as_deref(), path, "{outer} {inner}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("in"), dir.path().join("out")).unwrap();
        let url = |name: &str| Url::from_directory_path(dir.path().join(name)).unwrap();
        assert_eq!(path_below(&url("in"), &url("out/later")).as_deref(), Some("later"));
        assert_eq!(path_below(&url("out"), &url("in")).as_deref(), Some(""));
    }

    #[test]
    fn refusals_say_what_to_write() {
        for (text, reason) in [
            ("", "it is empty"),
            ("a\0b", "NUL"),
            ("file://data/bids", "'data' is taken for a host name; write file:///"),
            ("s3://lake/a?b", "write %3F"),
            ("s3://lake/a#b", "%23"),
            ("http://[", "address"),
        ] {
            let refusal = parsed(text);
            assert!(refusal.contains("is not a location") && refusal.contains(reason), "{text}: {refusal}");
        }
        assert!(parse_location("a", Path::new("relative")).is_err());
    }
}
