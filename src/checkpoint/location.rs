//! Places, recorded so that a checkpoint can be moved, alone or together with its data.

use url::Url;

use super::records::Location;

/// How a checkpoint at `checkpoint` records the place `place`.
///
/// Credentials, queries and fragments are left out. A local place seen from a checkpoint on an
/// object store has no path that would mean anything elsewhere; only its fingerprint is recorded.
pub fn location_of(place: &Url, checkpoint: &Url) -> Location {
    let absolute = canonical(place);
    let path = if store(place) == store(checkpoint) {
        relative_path(place, checkpoint)
    } else if place.scheme() == "file" {
        String::new()
    } else {
        absolute.clone()
    };
    Location { path, fingerprint: format!("{:08x}", crc32c::crc32c(absolute.as_bytes())) }
}

/// Whether `recorded` is the place that is now described by `current`: the way there from the
/// checkpoint is the same, or its absolute URL is.
pub fn same_place(recorded: &Location, current: &Location) -> bool {
    let same_path = !recorded.path.is_empty() && recorded.path == current.path;
    same_path || recorded.fingerprint == current.fingerprint
}

/// Where `recorded` is, seen from a checkpoint at `checkpoint`; `None` for a local place seen from an
/// object store, of which only a fingerprint was recorded.
pub fn place_of(recorded: &Location, checkpoint: &Url) -> Option<Url> {
    if recorded.path.is_empty() {
        return None;
    }
    let mut root = checkpoint.clone();
    root.set_path(&format!("{}/", checkpoint.path().trim_end_matches('/')));
    root.join(&format!("{}/", recorded.path.trim_end_matches('/'))).ok()
}

/// Scheme, host and port.
fn store(url: &Url) -> (&str, Option<&str>, Option<u16>) {
    (url.scheme(), url.host_str(), url.port_or_known_default())
}

fn parts(url: &Url) -> Vec<&str> {
    url.path().split('/').filter(|part| !part.is_empty()).collect()
}

/// The URL without what may change while the place stays the same, and without a trailing slash.
fn canonical(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    format!("{}://{host}{port}/{}", url.scheme(), parts(url).join("/"))
}

/// The way from one directory to another, in the URLs' own percent-encoding.
fn relative_path(to: &Url, from: &Url) -> String {
    let (to, from) = (parts(to), parts(from));
    let common = to.iter().zip(&from).take_while(|(a, b)| a == b).count();
    let mut way = vec![".."; from.len() - common];
    way.extend_from_slice(&to[common..]);
    if way.is_empty() { ".".to_string() } else { way.join("/") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(place: &str, checkpoint: &str) -> Location {
        match (Url::parse(place), Url::parse(checkpoint)) {
            (Ok(place), Ok(checkpoint)) => location_of(&place, &checkpoint),
            _ => panic!("{place} or {checkpoint} is no URL"),
        }
    }

    #[test]
    fn paths_are_relative_to_the_checkpoint() {
        for (place, checkpoint, path) in [
            ("file:///w/data/bids/", "file:///w/checkpoint/etl/", "../../data/bids"),
            ("file:///w/data/bids", "file:///w/checkpoint/etl", "../../data/bids"),
            ("file:///w/my%20data/", "file:///w/c/", "../my%20data"),
            ("file:///w/c/out/", "file:///w/c/", "out"),
            ("file:///w/c/", "file:///w/c/", "."),
            ("file:///", "file:///w/c/", "../.."),
            ("file:///data/", "file:///", "data"),
            ("s3://lake/bids/", "s3://lake/checkpoints/etl/", "../../bids"),
            ("s3://other/bids/", "s3://lake/checkpoints/etl/", "s3://other/bids"),
            ("s3://lake/bids/", "file:///w/c/", "s3://lake/bids"),
            ("https://me:secret@host:8443/bids/?sig=x#y", "file:///w/c/", "https://host:8443/bids"),
            ("file:///home/me/bids/", "s3://lake/c/", ""),
        ] {
            let recorded = recorded(place, checkpoint);
            assert_eq!(recorded.path, path, "{place} from {checkpoint}");
            // And back, but for what is not recorded.
            let found = Url::parse(checkpoint).ok().and_then(|checkpoint| place_of(&recorded, &checkpoint));
            let found = found.map(|found| canonical(&found));
            let expected = Url::parse(place).ok().map(|place| canonical(&place)).filter(|_| !path.is_empty());
            assert_eq!(found, expected, "{path} from {checkpoint}");
        }
    }

    #[test]
    fn a_place_is_known_again_after_one_move_but_not_as_another() {
        let before = recorded("file:///w/data/", "file:///w/c/");
        assert_eq!(before.fingerprint.len(), 8);
        for (place, checkpoint, same) in [
            ("file:///w/data/", "file:///w/c/", true),
            ("file:///copy/data", "file:///copy/c", true),
            ("file:///w/data", "file:///elsewhere/deep/c/", true),
            ("file:///w/data", "s3://lake/c/", true),
            ("file:///w/data2/", "file:///w/c/", false),
            ("file:///copy/data/", "file:///elsewhere/deep/c/", false),
        ] {
            assert_eq!(same_place(&before, &recorded(place, checkpoint)), same, "{place} from {checkpoint}");
        }
        let local = recorded("file:///home/me/bids", "s3://lake/c/");
        assert!(same_place(&local, &recorded("file:///home/me/bids", "s3://moved/c/")));
        assert!(!same_place(&local, &recorded("file:///home/you/bids", "s3://lake/c/")));
    }
}
