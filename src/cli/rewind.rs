//! `tidemill checkpoint rewind`: going back to a batch, and what the sink has of the later ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use datafusion::execution::runtime_env::RuntimeEnv;
use tidemill::checkpoint::records::{QueryDefinition, SourceDefinition};
use tidemill::checkpoint::{
    Checkpoint, RemoveOutput, Rewinding, UndoneBatch, batches, place_of, rewind_with, rewinding,
};
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
    let Some(metadata) = Checkpoint::read_metadata(&*storage).await? else {
        return Ok("there is no checkpoint\n".to_string());
    };
    let QueryDefinition { sources, sink, .. } = metadata.definition;
    refuse_without_input(&plan, &sources, &storage).await?;
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
    let advice = match (dry_run, remove_output) {
        (_, true) => "",
        (true, false) => ": remove them (--remove-output), or readers see those rows twice",
        (false, false) => ": remove them by hand, or readers see those rows twice",
    };
    let has = output.describe(&sink.format, place.as_ref().map(Url::as_str), advice);
    let undone = match plan.undone.as_slice() {
        [one] => format!("batch {}", one.batch_id),
        _ => format!("the batches {} to {last}", to + 1),
    };
    let removes = remove_output && !output.files.is_empty();
    if dry_run {
        let also = if removes { " These files would be removed" } else { "" };
        return Ok(format!("would go back to batch {to}: {undone} would be done again. {has}{also}\n"));
    }
    if removes && directory.is_none() {
        return Err(Exit::usage(
            "the checkpoint does not say where the output is, so it cannot be removed".to_string(),
        ));
    }
    let published = Published { directory: directory.filter(|_| removes), files: &output.files };
    rewind_with(storage, RandomIds.next_id(), to, &published).await?;
    let removed = if removes { " These files were removed" } else { "" };
    Ok(format!("went back to batch {to}: the next start does {undone} again. {has}{removed}\n"))
}

/// Fails if files that the batches have read are not there any more: their rows would be missing then.
async fn refuse_without_input(
    plan: &Rewinding,
    sources: &[SourceDefinition],
    checkpoint: &Arc<dyn Storage>,
) -> Result<(), Exit> {
    let storages = DefaultStorageProvider::new(Arc::new(RuntimeEnv::default()));
    let (mut gone, mut first) = (0, None);
    for (index, source) in sources.iter().enumerate() {
        let place = source.location.as_ref().and_then(|place| place_of(place, checkpoint.url()));
        let Some(place) = place else { continue };
        let files = plan.undone.iter().flat_map(|batch| {
            let entries = batch.inputs.get(index).into_iter().flatten();
            let read = entries.filter(|entry| entry["o"] != true);
            read.filter_map(|entry| Some((batch.batch_id, entry["p"].as_str()?)))
        });
        let files: Vec<(u64, &str)> = files.collect();
        if files.is_empty() {
            continue;
        }
        // A store that this command knows nothing of cannot be asked.
        let Ok(directory) = storages.open(&place, Durability::Process) else { continue };
        let folder = |path: &str| path.rsplit_once('/').map_or("", |(folder, _)| folder).to_string();
        let mut there = BTreeSet::new();
        for folder in files.iter().map(|(_, path)| folder(path)).collect::<BTreeSet<_>>() {
            there.extend(directory.list(&folder).await?.into_iter().map(|file| file.path));
        }
        for (batch, path) in files.into_iter().filter(|(_, path)| !there.contains(*path)) {
            gone += 1;
            first.get_or_insert_with(|| format!("'{path}' of batch {batch} in {place}"));
        }
    }
    match first {
        None => Ok(()),
        Some(first) => Err(Exit::failed(format!(
            "batch {} cannot be gone back to: {} that later batches have read {} not there any more, {first} the first, \
             and their rows would be missing (cleanSource deletes or archives what was read). Put them back first",
            plan.to,
            count(gone, "input file"),
            if gone == 1 { "is" } else { "are" },
        ))),
    }
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

/// The files that are removed, and where they are.
struct Published<'a> {
    directory: Option<Arc<dyn Storage>>,
    files: &'a [OutputFile],
}

#[async_trait]
impl RemoveOutput for Published<'_> {
    async fn remove(&self, batch: &UndoneBatch) -> tidemill::Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        for file in self.files.iter().filter(|file| file.batch_id == batch.batch_id) {
            directory.delete(&file.path).await?;
        }
        Ok(())
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

    /// In words. `advice`: what is to become of the files that are there.
    fn describe(&self, format: &str, place: Option<&str>, advice: &str) -> String {
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
                "{has}, in {}, {} the first{advice}.{gone}",
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
