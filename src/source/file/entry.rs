//! What the checkpoint remembers of the files of a batch.

use std::borrow::Cow;

use object_store::ObjectMeta;
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
    /// Which file of the local disk it is, where files are cleaned up: its inode, and when that was changed, in
    /// nanoseconds since 1970.
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub(super) inode: Option<(u64, i64)>,
    /// Whether it was listed by the log of a Spark file sink, whose modification times are not the
    /// files' own once the directory was copied.
    #[serde(rename = "l", default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) from_log: bool,
    /// Whether it is not read, because it was there before the first batch (`startingFrom latest`).
    #[serde(rename = "o", default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) passed_over: bool,
}

impl FileEntry<'_> {
    /// What tells this file from another one under its name.
    pub(super) fn version(&self) -> Version {
        Version {
            size: self.size,
            modified_ms: (!self.from_log).then_some(self.modified_ms),
            etag: self.etag.as_ref().map(ToString::to_string),
            inode: self.inode.map(|(number, _)| number),
            changed_ns: self.inode.map(|(_, changed_ns)| changed_ns),
        }
    }
}

/// What tells a file from another one under the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) size: u64,
    /// `None` if the time that was listed is not the file's own.
    pub(super) modified_ms: Option<i64>,
    pub(super) etag: Option<String>,
    /// The file of the local disk, if it is to be told from others with its size and time.
    pub(super) inode: Option<u64>,
    /// When anything about that file was changed last, its content, its name or its rights.
    pub(super) changed_ns: Option<i64>,
}

impl Version {
    /// How the file that is there `now` is not this one; `None` if it is, as far as can be told.
    pub(super) fn difference(&self, now: &Version) -> Option<String> {
        let times = self.modified_ms.zip(now.modified_ms);
        let differs = |a: Option<i128>, b: Option<i128>| a.zip(b).is_some_and(|(a, b)| a != b);
        if self.size != now.size {
            Some(format!("it had {} bytes and has {}", self.size, now.size))
        } else if self.etag.is_some() && now.etag.is_some() && self.etag != now.etag {
            Some("its content is another one".to_string())
        } else if times.is_some_and(|(listed_ms, now_ms)| !same_time(listed_ms, now_ms)) {
            Some("it was written again".to_string())
        } else if differs(self.inode.map(Into::into), now.inode.map(Into::into)) {
            Some("it is another file of the same size and time".to_string())
        } else if differs(self.changed_ns.map(Into::into), now.changed_ns.map(Into::into)) {
            Some("it was written, renamed or given other rights meanwhile".to_string())
        } else {
            None
        }
    }
}

impl From<&ObjectMeta> for Version {
    fn from(object: &ObjectMeta) -> Self {
        Self {
            size: object.size,
            modified_ms: Some(object.last_modified.timestamp_millis()),
            etag: object.e_tag.clone(),
            inode: None,
            changed_ns: None,
        }
    }
}

/// Some stores list with milliseconds and answer with whole seconds.
fn same_time(listed_ms: i64, now_ms: i64) -> bool {
    listed_ms == now_ms || (now_ms % 1000 == 0 && listed_ms.div_euclid(1000) == now_ms / 1000)
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

/// The files among `entries` that are read.
pub(super) fn files(entries: &[Box<RawValue>]) -> Result<Vec<FileEntry<'_>>> {
    let mut files = Vec::with_capacity(entries.len());
    for raw in entries {
        match Entry::parse(raw)? {
            Entry::File(file) if !file.passed_over => files.push(file),
            Entry::File(_) | Entry::Forgotten(_) => {}
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
            inode: None,
            from_log: false,
            passed_over: false,
        };
        let raw = to_raw(&plain).unwrap();
        assert_eq!(raw.get(), r#"{"p":"y=1/a.json","s":17,"m":1700000000000}"#);
        assert_eq!(Entry::parse(&raw).unwrap(), Entry::File(plain.clone()));

        let odd = FileEntry {
            path: "ü \"q\"\n".into(),
            etag: Some("\"x\"".into()),
            inode: Some((u64::MAX, -1)),
            from_log: true,
            ..plain
        };
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

    #[test]
    fn times_of_stores_that_answer_in_seconds() {
        assert!(same_time(1_234, 1_234));
        assert!(same_time(1_234, 1_000));
        assert!(!same_time(1_000, 1_234));
        assert!(!same_time(2_234, 1_000));
        assert!(same_time(-1_500, -2_000));
    }

    #[test]
    fn another_file_is_told_by_size_tag_or_time() {
        let version = |size, modified_ms, etag: Option<&str>| Version {
            size,
            modified_ms,
            etag: etag.map(str::to_string),
            inode: None,
            changed_ns: None,
        };
        let read = version(5, Some(1000), None);
        assert_eq!(read.difference(&version(5, Some(1000), Some("a"))), None);
        assert!(read.difference(&version(6, Some(1000), None)).is_some_and(|how| how.contains("6")));
        assert!(read.difference(&version(5, Some(1001), None)).is_some());
        let tagged = version(5, None, Some("a"));
        assert_eq!(tagged.difference(&version(5, Some(7), Some("a"))), None);
        assert!(tagged.difference(&version(5, Some(7), Some("b"))).is_some());
        let on_disk = |inode, changed_ns| Version { inode, changed_ns, ..version(5, Some(7), None) };
        let read = on_disk(Some(1), Some(2));
        for same in [(Some(1), Some(2)), (Some(1), None), (None, None)] {
            assert_eq!(read.difference(&on_disk(same.0, same.1)), None);
        }
        assert!(read.difference(&on_disk(Some(2), Some(2))).is_some());
        assert!(read.difference(&on_disk(Some(1), Some(3))).is_some());
    }
}
