//! The frame around every file of a checkpoint: what tells a whole file from a damaged one.
//!
//! ```text
//! tidemill-checkpoint 1\n
//! {"batchId":3,…}\n
//! 152 9ab31f07\n
//! ```
//!
//! The first line names the format version, the second is the body, one line of JSON, and the third
//! the body's length in bytes and the CRC32C of both lines before it. There is exactly one way to
//! write each part, so that no bit can change unseen.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::records::FORMAT_VERSION;
use crate::error::{Error, Result};

const MAGIC: &str = "tidemill-checkpoint ";

/// The bytes of a file whose body is `record`.
///
/// # Errors
/// [`Error::Invalid`] if `record` has no JSON form.
pub fn encode<T: Serialize>(record: &T) -> Result<Bytes> {
    let body = serde_json::to_vec(record)
        .map_err(|error| Error::Invalid(format!("a checkpoint record cannot be written as JSON: {error}")))?;
    Ok(wrap(body))
}

/// The record in the bytes of the file `path`.
///
/// # Errors
/// [`Error::CheckpointDamaged`] if anything is not exactly as [`encode`] writes it, or if the file
/// is of another format version.
pub fn decode<T: DeserializeOwned>(path: &str, file: &[u8]) -> Result<T> {
    let body = unwrap(file).map_err(|reason| Error::damaged(path, reason))?;
    serde_json::from_slice(body).map_err(|error| {
        Error::damaged(path, format!("it is whole, but not the record that belongs there: {error}"))
    })
}

fn wrap(mut body: Vec<u8>) -> Bytes {
    // JSON has line breaks only between tokens, where a space says the same.
    for byte in body.iter_mut().filter(|byte| **byte == b'\n') {
        *byte = b' ';
    }
    let length = body.len();
    let mut file = format!("{MAGIC}{FORMAT_VERSION}\n").into_bytes();
    file.append(&mut body);
    file.push(b'\n');
    let trailer = trailer(length, &file);
    file.extend_from_slice(trailer.as_bytes());
    Bytes::from(file)
}

fn trailer(body_length: usize, before: &[u8]) -> String {
    format!("{body_length} {:08x}\n", crc32c::crc32c(before))
}

/// The body of a whole file, or what is wrong with the file.
fn unwrap(file: &[u8]) -> Result<&[u8], String> {
    const RESTORE: &str = "restore it from a copy of the checkpoint, or start with a new checkpoint";
    if file.is_empty() {
        return Err(format!("it is empty; {RESTORE}"));
    }
    let mut lines = file.split_inclusive(|byte| *byte == b'\n');
    let header = lines.next().unwrap_or_default();
    let version = header
        .strip_prefix(MAGIC.as_bytes())
        .and_then(|version| version.strip_suffix(b"\n"))
        .ok_or_else(|| format!("it does not begin as a checkpoint file of Tidemill; {RESTORE}"))?;
    let is_current = version == FORMAT_VERSION.to_string().as_bytes();
    let body_line = lines.next().unwrap_or_default();
    let body = body_line.strip_suffix(b"\n");
    let last = lines.next().unwrap_or_default();
    let expected = body.map(|body| trailer(body.len(), &file[..header.len() + body_line.len()]));
    let is_whole = lines.next().is_none() && expected.is_some_and(|expected| expected.as_bytes() == last);
    match body {
        Some(body) if is_current && is_whole => Ok(body),
        _ if is_current => Err(format!("its length or checksum is wrong ({} bytes); {RESTORE}", file.len())),
        _ => {
            let version = String::from_utf8_lossy(version);
            let doubt =
                if is_whole { "" } else { ", if it is not damaged: its checksum is not as in that version" };
            Err(format!(
                "it has format version {version} and this build of Tidemill reads version {FORMAT_VERSION}; \
                 use the build that wrote it{doubt}"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;
    use serde_json::value::RawValue;

    use super::*;
    use crate::checkpoint::records::CommitRecord;

    fn commit() -> CommitRecord {
        let sink = serde_json::json!({"files": ["part-0.parquet", "größe\n"]});
        CommitRecord {
            batch_id: 12,
            query_id: None,
            next_batch_watermark_ms: -1,
            streams: Vec::new(),
            sink,
            late: Vec::new(),
            state: Value::Null,
            copied: false,
            let_go: None,
        }
    }

    #[test]
    fn the_bytes_are_these() -> Result<()> {
        let body = r#"{"batchId":12,"nextBatchWatermarkMs":-1,"sink":{"files":["part-0.parquet","größe\n"]},"state":null}"#;
        let file = encode(&commit())?;
        assert_eq!(file, format!("tidemill-checkpoint 1\n{body}\n101 6ff4dbcc\n"));
        assert_eq!(decode::<CommitRecord>("commits/12", &file)?, commit());
        Ok(())
    }

    #[test]
    fn every_flipped_bit_is_found() -> Result<()> {
        let file = encode(&commit())?;
        for bit in 0..file.len() * 8 {
            let mut flipped = file.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let error = decode::<CommitRecord>("commits/12", &flipped).map_err(|error| error.to_string());
            assert!(error.is_err_and(|error| error.contains("'commits/12' is damaged")), "bit {bit}");
        }
        Ok(())
    }

    #[test]
    fn every_truncation_and_extension_is_found() -> Result<()> {
        let file = encode(&commit())?;
        for length in 0..file.len() {
            assert!(decode::<CommitRecord>("f", &file[..length]).is_err(), "{length} bytes");
            assert!(
                decode::<CommitRecord>("f", &file[file.len() - length..]).is_err(),
                "the last {length} bytes"
            );
        }
        for byte in 0..=u8::MAX {
            assert!(decode::<CommitRecord>("f", &[&file[..], &[byte]].concat()).is_err(), "byte {byte} more");
        }
        assert!(decode::<CommitRecord>("f", &[&file[..], &file[..]].concat()).is_err());
        Ok(())
    }

    #[test]
    fn another_version_is_told_from_damage() -> Result<()> {
        let newer = |file: &[u8]| String::from_utf8_lossy(file).replacen("checkpoint 1", "checkpoint 2", 1);
        let file = newer(&encode(&commit())?);
        let (before, _) = file.trim_end().rsplit_once('\n').unwrap_or_default();
        let before = format!("{before}\n");
        let whole = format!("{before}{}", trailer(101, before.as_bytes()));
        for (file, ending) in
            [(whole, "use the build that wrote it"), (file, "its checksum is not as in that version")]
        {
            let error = decode::<CommitRecord>("f", file.as_bytes()).map_err(|error| error.to_string());
            let Err(error) = error else { panic!("version 2 was read") };
            assert!(error.contains("format version 2 and this build of Tidemill reads version 1"), "{error}");
            assert!(error.ends_with(ending), "{error}");
        }
        Ok(())
    }

    #[test]
    fn a_whole_file_of_another_kind_is_refused() -> Result<()> {
        let file = encode(&serde_json::json!({"runId": "x"}))?;
        let error = decode::<CommitRecord>("commits/1", &file).map_err(|error| error.to_string());
        assert!(error.is_err_and(|error| error.contains("unknown field `runId`")));
        Ok(())
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(body in any::<String>(), pretty in any::<bool>()) {
            let value = serde_json::json!({ "text": body, "list": [1, {"a": null}] });
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let raw = RawValue::from_string(text.unwrap_or_default()).map_err(|error| TestCaseError::fail(error.to_string()))?;
            let file = encode(&raw).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(file.iter().filter(|byte| **byte == b'\n').count(), 3);
            let read = decode::<Value>("f", &file).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(read, value);
        }

        #[test]
        fn no_other_bytes_are_read(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            framed in any::<bool>(),
        ) {
            if framed {
                let body = serde_json::to_vec(&bytes).unwrap_or_default();
                bytes = wrap(body).to_vec();
                let at = at.index(bytes.len());
                prop_assume!(bytes[at] != byte);
                bytes[at] = byte;
            }
            prop_assert!(unwrap(&bytes).is_err());
        }
    }
}
