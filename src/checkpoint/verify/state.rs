//! Files of state: that those which the last commit names are there and whole. What is in them is the
//! state store's business.

use serde::Deserialize;
use serde_json::Value;

use super::Verifier;
use crate::checkpoint::layout;
use crate::checkpoint::read::numbers;
use crate::checkpoint::records::CommitRecord;
use crate::error::Result;

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
            match self.storage.read(&segment.file).await {
                Ok(Some(file)) => {
                    self.report.files += 1;
                    if let Some(problem) = problem(&file, segment.bytes) {
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

/// What is wrong with the bytes of a file.
fn problem(file: &[u8], expected: u64) -> Option<String> {
    const TRAILER: usize = 12;
    let length = file.len() as u64;
    if length != expected {
        return Some(format!("it has {length} bytes, and the commit says {expected}"));
    }
    let content = file.len().checked_sub(4).filter(|_| file.len() >= TRAILER);
    let is_whole = content.is_some_and(|content| {
        file[content..] == crc32c::crc32c(&file[..content]).to_le_bytes()
            && file[content - 8..content] == length.to_le_bytes()
            && file.starts_with(b"tidemill-state ")
    });
    (!is_whole).then(|| "its length or checksum is wrong".to_string())
}
