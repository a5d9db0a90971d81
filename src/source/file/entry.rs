//! What the checkpoint remembers of the files of a batch.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Error, Result};

/// A file as it was listed. With it a batch can be read again, and a file that has changed since is
/// noticed. One compact JSON object: `{"p":"y=1/a.json","s":17,"m":1700000000000}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileEntry<'a> {
    /// The path below the source's base directory.
    #[serde(rename = "p", borrow)]
    pub(super) path: Cow<'a, str>,
    /// The length in bytes.
    #[serde(rename = "s")]
    pub(super) size: u64,
    /// When it was modified, in milliseconds since 1970.
    #[serde(rename = "m")]
    pub(super) modified_ms: i64,
    /// What the store identifies this content by, on stores whose tags survive copying.
    #[serde(rename = "e", borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) etag: Option<Cow<'a, str>>,
    /// Whether it was listed by the log of a Spark file sink, whose modification times are not the
    /// files' own once the directory was copied.
    #[serde(rename = "l", default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) from_log: bool,
}

/// Stands for all files up to a modification time that were forgotten because of their age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Forgotten {
    /// No file modified before this, in milliseconds since 1970, is new.
    #[serde(rename = "forgottenBefore")]
    pub(super) before_ms: i64,
}

/// One element of [`SourceBatch::entries`](crate::source::SourceBatch) or of the merged history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry<'a> {
    /// A file.
    File(FileEntry<'a>),
    /// Files that were forgotten.
    Forgotten(Forgotten),
}

impl<'a> Entry<'a> {
    /// Reads what [`to_raw`] wrote.
    pub(super) fn parse(raw: &'a RawValue) -> Result<Self> {
        // Nearly all entries are files.
        if let Ok(file) = serde_json::from_str::<FileEntry<'a>>(raw.get()) {
            return Ok(Entry::File(file));
        }
        serde_json::from_str::<Forgotten>(raw.get()).map(Entry::Forgotten).map_err(|error| {
            Error::damaged(
                "offsets",
                format!("the file source remembered '{}', which it cannot read: {error}", raw.get()),
            )
        })
    }
}

/// The files among `entries`.
pub(super) fn files(entries: &[Box<RawValue>]) -> Result<Vec<FileEntry<'_>>> {
    let mut files = Vec::with_capacity(entries.len());
    for raw in entries {
        if let Entry::File(file) = Entry::parse(raw)? {
            files.push(file);
        }
    }
    Ok(files)
}

/// An entry as JSON.
pub(super) fn to_raw<T: Serialize>(entry: &T) -> Result<Box<RawValue>> {
    serde_json::value::to_raw_value(entry)
        .map_err(|error| Error::Invalid(format!("an entry of the file source is no JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_compact_and_come_back() {
        let plain = FileEntry {
            path: "y=1/a.json".into(),
            size: 17,
            modified_ms: 1_700_000_000_000,
            etag: None,
            from_log: false,
        };
        let raw = to_raw(&plain).unwrap();
        assert_eq!(raw.get(), r#"{"p":"y=1/a.json","s":17,"m":1700000000000}"#);
        assert_eq!(Entry::parse(&raw).unwrap(), Entry::File(plain.clone()));

        let odd =
            FileEntry { path: "ü \"q\"\n".into(), etag: Some("\"x\"".into()), from_log: true, ..plain };
        let raw = to_raw(&odd).unwrap();
        assert_eq!(Entry::parse(&raw).unwrap(), Entry::File(odd));

        let forgotten = Forgotten { before_ms: -1 };
        let raw = to_raw(&forgotten).unwrap();
        assert_eq!(Entry::parse(&raw).unwrap(), Entry::Forgotten(forgotten));
    }

    #[test]
    fn a_damaged_entry_is_an_error() {
        for text in ["{}", "1", r#"{"p":"a","s":-1,"m":0}"#, r#"{"p":"a","s":1,"m":0,"x":1}"#] {
            let raw = RawValue::from_string(text.to_string()).unwrap();
            assert!(matches!(Entry::parse(&raw), Err(Error::CheckpointDamaged { .. })), "{text}");
        }
    }
}
