//! Files of state: that those which the last commit names are there and whole. What is in them is the
//! state store's business.

use serde::Deserialize;
use serde_json::Value;

use super::Verifier;
use crate::checkpoint::layout;
use crate::checkpoint::read::numbers;
use crate::checkpoint::records::CommitRecord;
use crate::error::Result;
use crate::storage::Storage;

/// As much of the state's manifest as matters here.
#[derive(Debug, Deserialize)]
struct Manifest {
    segments: Vec<Segment>,
}

#[derive(Debug, Deserialize)]
struct Segment {
    file: String,
    bytes: u64,
}

impl Verifier<'_> {
    /// Checks the state of the newest of the `committed` batches.
    pub(super) async fn state(&mut self, newest: Option<&CommitRecord>) -> Result<()> {
        let files = self.storage.list(layout::STATE).await?;
        self.foreign(&files, is_segment);
        let Some(commit) = newest.filter(|commit| !commit.state.is_null()) else { return Ok(()) };
        let Some(manifest) = self.manifest(commit) else { return Ok(()) };
        for segment in manifest.segments {
            match problem(self.storage, &segment.file, segment.bytes).await {
                Ok(Some(problem)) => {
                    self.report.files += 1;
                    if let Some(problem) = problem {
                        self.finding(segment.file, problem);
                    }
                }
                Ok(None) if self.is_newest(commit.batch_id).await? => {
                    let batch = commit.batch_id;
                    self.finding(
                        segment.file,
                        format!("it is missing, and the commit of batch {batch} names it"),
                    );
                }
                // A running query has merged it into another by now.
                Ok(None) => {}
                Err(error) => self.finding(segment.file, error.to_string()),
            }
        }
        Ok(())
    }

    fn manifest(&mut self, commit: &CommitRecord) -> Option<Manifest> {
        let manifest: Result<Manifest, _> = serde_json::from_value(Value::clone(&commit.state));
        match manifest {
            Ok(manifest) => Some(manifest),
            Err(error) => {
                let path = layout::commit(commit.batch_id);
                self.finding(path, format!("it does not say where the state is: {error}"));
                None
            }
        }
    }

    async fn is_newest(&self, batch: u64) -> Result<bool> {
        Ok(numbers(&self.storage.list(layout::COMMITS).await?).last() == Some(&batch))
    }
}

/// `<first>-<last>-<32 hex digits>`
fn is_segment(name: &str) -> bool {
    name.rsplit_once('-').is_some_and(|(range, run)| {
        let is_run = run.len() == 32 && run.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_run && layout::range(range).is_some()
    })
}

/// What is wrong with a file, if it is there; it may be large, and is read part by part.
async fn problem(storage: &dyn Storage, path: &str, expected: u64) -> Result<Option<Option<String>>> {
    const PART: u64 = 8 << 20;
    /// The length and the checksum of all before it.
    const TRAILER: u64 = 8 + 4;
    let Some(length) = storage.size(path).await? else { return Ok(None) };
    if length != expected {
        return Ok(Some(Some(format!("it has {length} bytes, and the commit says {expected}"))));
    }
    let (mut checksum, mut end, mut at) = (0, Vec::new(), 0);
    let content = length.saturating_sub(4);
    let mut is_whole = length >= TRAILER;
    while at < length && is_whole {
        // The checksum is a part of its own.
        let until = if at < content { (at + PART).min(content) } else { length };
        let Some(part) = storage.read_range(path, at..until).await? else { return Ok(None) };
        is_whole = part.len() as u64 == until - at && (at > 0 || part.starts_with(b"tidemill-state "));
        if at < content {
            checksum = crc32c::crc32c_append(checksum, &part);
        }
        end.extend_from_slice(&part[part.len().saturating_sub(8)..]);
        end.drain(..end.len().saturating_sub(12));
        at = until;
    }
    is_whole =
        is_whole && end.ends_with(&u32::to_le_bytes(checksum)) && end.starts_with(&length.to_le_bytes());
    Ok(Some((!is_whole).then(|| "its length or checksum is wrong".to_string())))
}
