//! `tidemill checkpoint rewind`: going back to a batch, and what the sink has of the later ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use datafusion::execution::runtime_env::RuntimeEnv;
use tidemill::checkpoint::{Checkpoint, Rewinding, batches, place_of, rewind, rewinding};
use tidemill::id::{IdGenerator, RandomIds};
use tidemill::storage::{DefaultStorageProvider, Durability, Storage, StorageProvider};
use url::Url;

use super::compact::MERGED;
use super::exit::Exit;
use super::text::count;

/// Goes back to a batch, or says what that would mean.
pub(super) async fn run(
    storage: Arc<dyn Storage>,
    to: u64,
    remove_output: bool,
    dry_run: bool,
) -> Result<String, Exit> {
    let plan = rewinding(&*storage, to).await?;
    let Some(last) = plan.undone.last().map(|batch| batch.batch_id) else {
        return Ok(format!("batch {to} is the last one: there is nothing to go back over\n"));
    };
    let metadata = Checkpoint::read_metadata(&*storage).await?;
    let Some(sink) = metadata.map(|metadata| metadata.definition.sink) else {
        return Ok("there is no checkpoint\n".to_string());
    };
    let place = sink.location.as_ref().and_then(|place| place_of(place, storage.url()));
    let mut output = Output::of(&plan);
    let directory = match &place {
        Some(place) if !output.files.is_empty() => {
            let storages = DefaultStorageProvider::new(Arc::new(RuntimeEnv::default()));
            Some(storages.open(place, Durability::Disk)?)
        }
        _ => None,
    };
    if let (Some(place), Some(directory)) = (&place, &directory) {
        output.look(&**directory).await?;
        output.refuse_merged(place, &*storage, to).await?;
    }
    let has = output.describe(&sink.format, place.as_ref().map(Url::as_str));
    let undone = match plan.undone.as_slice() {
        [one] => format!("batch {}", one.batch_id),
        _ => format!("the batches {} to {last}", to + 1),
    };
    let removes = remove_output && !output.files.is_empty();
    if dry_run {
        let also = if removes { " These files would be removed" } else { "" };
        return Ok(format!("would go back to batch {to}: {undone} would be done again. {has}{also}\n"));
    }
    if removes {
        let Some(directory) = directory else {
            return Err(Exit::usage(
                "the checkpoint does not say where the output is, so it cannot be removed".to_string(),
            ));
        };
        for file in &output.files {
            directory.delete(&file.path).await?;
        }
    }
    rewind(storage, RandomIds.next_id(), to).await?;
    let removed = if removes { " These files were removed" } else { "" };
    Ok(format!("went back to batch {to}: the next start does {undone} again. {has}{removed}\n"))
}

/// A file that a file sink has published.
#[derive(Debug)]
struct OutputFile {
    batch_id: u64,
    /// Below the directory of the sink.
    path: String,
    rows: u64,
}

impl OutputFile {
    /// The directory that it is in, below that of the sink.
    fn directory(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(directory, _)| directory)
    }
}

/// What the sink has of the batches that are undone.
struct Output {
    /// How many rows, as far as the commits say.
    rows: u64,
    batches: usize,
    /// The files of a file sink.
    files: Vec<OutputFile>,
    /// Those of them that are not where they were published.
    gone: Vec<OutputFile>,
}

impl Output {
    fn of(plan: &Rewinding) -> Self {
        let mut output = Self { rows: 0, batches: 0, files: Vec::new(), gone: Vec::new() };
        for batch in &plan.undone {
            let Some(sink) = &batch.sink else { continue };
            output.batches += 1;
            output.rows += sink["numRows"].as_u64().unwrap_or_default();
            for file in sink["files"].as_array().into_iter().flatten() {
                if let Some(path) = file["to"].as_str() {
                    let rows = file["rows"].as_u64().unwrap_or_default();
                    output.files.push(OutputFile { batch_id: batch.batch_id, path: path.to_string(), rows });
                }
            }
        }
        output
    }

    /// Finds out which files are there: somebody may have removed or merged them since.
    async fn look(&mut self, directory: &dyn Storage) -> Result<(), Exit> {
        let mut there = BTreeSet::new();
        let folders: BTreeSet<&str> = self.files.iter().map(OutputFile::directory).collect();
        for folder in folders {
            there.extend(directory.list(folder).await?.into_iter().map(|file| file.path));
        }
        (self.files, self.gone) =
            std::mem::take(&mut self.files).into_iter().partition(|file| there.contains(&file.path));
        self.rows -= self.gone.iter().map(|file| file.rows).sum::<u64>().min(self.rows);
        Ok(())
    }

    /// Fails if rows of these batches are in files together with others': they would be there twice, for such a file
    /// cannot be removed. A file that was merged before a batch was planned has nothing of it.
    async fn refuse_merged(&self, place: &Url, checkpoint: &dyn Storage, to: u64) -> Result<(), Exit> {
        // Merged files are on local disks only.
        let Ok(root) = place.to_file_path() else { return Ok(()) };
        if self.gone.is_empty() {
            return Ok(());
        }
        let planned: BTreeMap<u64, i64> =
            batches(checkpoint).await?.iter().map(|batch| (batch.batch_id, batch.timestamp_ms)).collect();
        let mut newest: BTreeMap<&str, Option<(String, SystemTime)>> = BTreeMap::new();
        for gone in &self.gone {
            let folder = gone.directory();
            let merged = newest.entry(folder).or_insert_with(|| newest_merged(&root.join(folder)));
            let Some((name, when)) = merged else { continue };
            let began =
                planned.get(&gone.batch_id).and_then(|ms| u64::try_from(*ms).ok()).unwrap_or_default();
            if *when >= SystemTime::UNIX_EPOCH + Duration::from_millis(began) {
                return Err(Exit::failed(format!(
                    "batch {to} cannot be gone back to: '{}' of batch {} is not there any more, and '{name}' beside \
                     it was merged from others since (tidemill compact): its rows would be there twice. To do all \
                     again, start with a new checkpoint and a new output directory",
                    gone.path, gone.batch_id
                )));
            }
        }
        Ok(())
    }

    fn describe(&self, format: &str, place: Option<&str>) -> String {
        if self.batches == 0 {
            return "The sink has nothing of that.".to_string();
        }
        let place = place.map_or(String::new(), |place| format!(" in {place}"));
        let gone = match self.gone.as_slice() {
            [] => String::new(),
            [first, ..] => format!(
                " {} with {} not there any more, {} the first.",
                count(self.gone.len() as u64, "file"),
                match self.gone.iter().map(|file| file.rows).sum() {
                    1 => "1 row is".to_string(),
                    rows => format!("{} are", count(rows, "row")),
                },
                first.path
            ),
        };
        let has = format!("The sink ({format}{place}) has {} of that already", count(self.rows, "row"));
        match self.files.first() {
            Some(first) => format!(
                "{has}, in {}, {} the first: remove them (--remove-output), or readers see those rows twice.{gone}",
                count(self.files.len() as u64, "file"),
                first.path
            ),
            None if !self.gone.is_empty() => {
                format!("The sink ({format}{place}) has nothing of that any more:{gone}")
            }
            None if self.rows == 0 => format!("{has}."),
            None => {
                format!("{has}: unless it tells repeated batches by their number, it will have them twice.")
            }
        }
    }
}

/// The merged file in a directory that was written last, and when.
fn newest_merged(directory: &std::path::Path) -> Option<(String, SystemTime)> {
    let entries = std::fs::read_dir(directory).ok()?.flatten();
    let merged = entries.filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let when = name.starts_with(MERGED).then(|| entry.metadata().and_then(|known| known.modified()))?;
        Some((name, when.ok()?))
    });
    merged.max_by_key(|(_, when)| *when)
}
