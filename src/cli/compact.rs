//! `tidemill compact`: few large files in the place of many small ones.
//!
//! The new content of a directory takes the place of the old in one step, and the old stays a moment longer, for those
//! that are listing it: see [`NewContent`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::config::TableParquetOptions;
use datafusion::dataframe::DataFrameWriteOptions;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext};
use tidemill::storage::{
    NewContent, REPLACED_STAYS, Replaced, directories, entries, resolve_location, settle,
};
use tidemill::{Error, Session, parse_bytes};
use url::Url;
use uuid::Uuid;

use super::ProgressMode;
use super::exit::Exit;
use super::monitor::Monitor;
use super::output::{Format, Printer};
use super::text::count;

/// What the names of merged files begin with.
pub(super) const MERGED: &str = "part-compacted-";
/// What the sink stages files in.
const STAGING: &str = ".tidemill";

/// What is merged.
pub(super) struct Options {
    pub(super) directory: String,
    /// Files smaller than this are merged, up to this.
    pub(super) target: String,
    /// Whether CSV files begin with the names of the columns.
    pub(super) csv_header: bool,
    pub(super) dry_run: bool,
}

pub(super) async fn run(options: &Options) -> Result<(), Exit> {
    let target = parse_bytes(&options.target)
        .ok_or_else(|| Exit::usage(format!("'{}' is no size: expected one such as 128mb", options.target)))?;
    let url = resolve_location(&options.directory)?;
    let root = url.to_file_path().map_err(|()| {
        Exit::usage(format!("{url} is not on a local disk: only there can directories change places at once"))
    })?;
    let root = root.canonicalize().map_err(|error| failed("find", &root, error))?;
    refuse_writers(&root)?;
    settle(&root)?;
    let mut done = Done::default();
    let merged = merge_all(&root, target, options, &mut done).await;
    // Whoever began to list one of these before goes on in it.
    if !done.replaced.is_empty() {
        tokio::time::sleep(REPLACED_STAYS).await;
    }
    let removed: tidemill::Result<Vec<()>> = done.replaced.iter().map(Replaced::remove).collect();
    let mut told = merged?;
    removed?;
    for note in done.left {
        told += &format!("{note}\n");
    }
    if told.is_empty() {
        told = format!("there is nothing to merge in {}\n", root.display());
    }
    let printer = Printer::new(Monitor::new(ProgressMode::None), Format::Table);
    printer.text(&told).map_err(|error| Exit::output(&error))
}

/// What was done, in words.
async fn merge_all(root: &Path, target: u64, options: &Options, done: &mut Done) -> Result<String, Exit> {
    let mut told = String::new();
    for directory in directories(root)? {
        told += &Compaction { root, directory: &directory, target, options }.run(done).await?;
    }
    Ok(told)
}

fn failed(
    operation: &'static str,
    path: &Path,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Exit {
    Error::storage(operation, path.display().to_string(), error).into()
}

/// Fails if a query writes to `root`: it would look for its files where they are not any more.
fn refuse_writers(root: &Path) -> Result<(), Exit> {
    match root.join(STAGING).exists() {
        true => Err(Exit::failed(format!(
            "a query writes to {0}, or was interrupted: {0}/{STAGING} is there. Compact when it has ended, or start it \
             again to let it clean up",
            root.display()
        ))),
        false => Ok(()),
    }
}

/// A file of a directory.
#[derive(Debug, Clone)]
struct Small {
    name: String,
    bytes: u64,
}

/// What has come of it so far.
#[derive(Default)]
struct Done {
    /// What was not done, in words.
    left: Vec<String>,
    /// The directories that were replaced, which are still there.
    replaced: Vec<Replaced>,
}

/// The merging of the files in one directory.
struct Compaction<'a> {
    /// What was asked for, which the directory is or is in.
    root: &'a Path,
    directory: &'a Path,
    target: u64,
    options: &'a Options,
}

impl Compaction<'_> {
    /// What was done, in words; `done` is told what was not.
    async fn run(&self, done: &mut Done) -> Result<String, Exit> {
        let all = entries(self.directory)?;
        let groups = self.groups(&all);
        let shown = self.directory.display();
        if groups.is_empty() {
            return Ok(String::new());
        }
        if all.values().any(fs::Metadata::is_dir) {
            done.left.push(format!(
                "{shown} has directories beside its files: these were left alone, for it cannot be replaced at once"
            ));
            return Ok(String::new());
        }
        let files: usize = groups.iter().map(|(_, group)| group.len()).sum();
        let what = format!("{} into {}", count(files as u64, "file"), groups.len());
        if self.options.dry_run {
            return Ok(format!("{shown}: would merge {what}\n"));
        }
        done.replaced.push(self.replace(&groups).await?);
        Ok(format!("{shown}: merged {what}\n"))
    }

    /// The files that are to be one, by extension.
    fn groups(&self, all: &BTreeMap<String, fs::Metadata>) -> Vec<(String, Vec<Small>)> {
        let mut small = BTreeMap::<&str, Vec<Small>>::new();
        for (name, known) in all {
            if known.is_file() && !name.starts_with(['.', '_']) && known.len() < self.target {
                small
                    .entry(extension(name))
                    .or_default()
                    .push(Small { name: name.clone(), bytes: known.len() });
            }
        }
        let small = small.into_iter().filter(|(extension, _)| can_merge(extension));
        small
            .flat_map(|(extension, files)| {
                grouped(files, self.target).into_iter().map(move |group| (extension.to_string(), group))
            })
            .collect()
    }

    /// Puts the new content together, and lets it take the directory's place.
    async fn replace(&self, groups: &[(String, Vec<Small>)]) -> Result<Replaced, Exit> {
        let new = NewContent::begin(self.root, self.directory)?;
        let merged: BTreeSet<&str> =
            groups.iter().flat_map(|(_, group)| group.iter().map(|file| file.name.as_str())).collect();
        for (extension, group) in groups {
            let to = new.place().join(format!("{MERGED}{}.{extension}", Uuid::new_v4().simple()));
            let from: Vec<PathBuf> = group.iter().map(|file| self.directory.join(&file.name)).collect();
            if extension.ends_with("parquet") {
                merge_parquet(&from, &to).await?;
            } else {
                let header = self.options.csv_header && extension.ends_with("csv");
                if header {
                    check_headers(&from)?;
                }
                if extension == "json" {
                    check_lines(&from)?;
                }
                append(&from, &to, header).map_err(|error| failed("merge into", &to, error))?;
            }
            let synced = fs::File::open(&to).and_then(|file| file.sync_all());
            synced.map_err(|error| failed("sync", &to, error))?;
        }
        // Merging takes a while, in which others may have come.
        refuse_writers(self.root)?;
        Ok(new.show(&merged)?)
    }
}

/// `.zstd.parquet`: what comes after the first point.
fn extension(name: &str) -> &str {
    name.split_once('.').map_or("", |(_, extension)| extension)
}

fn can_merge(extension: &str) -> bool {
    let mut parts = extension.rsplit('.');
    match parts.next() {
        Some("parquet" | "json" | "csv" | "txt") => true,
        // Compressed files that stand one behind the other are one.
        Some("gz" | "zst" | "xz" | "bz2") => matches!(parts.next(), Some("json" | "txt")),
        _ => false,
    }
}

/// Files in the order of their names, together up to `target` bytes; what stays alone is no group.
fn grouped(mut files: Vec<Small>, target: u64) -> Vec<Vec<Small>> {
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let (mut groups, mut bytes) = (vec![Vec::new()], 0);
    for file in files {
        if bytes > 0 && bytes + file.bytes > target {
            groups.push(Vec::new());
            bytes = 0;
        }
        bytes += file.bytes;
        if let Some(group) = groups.last_mut() {
            group.push(file);
        }
    }
    groups.retain(|group| group.len() > 1);
    groups
}

/// The first line of a CSV file, with its end.
fn header_of(content: &[u8]) -> &[u8] {
    let end = content.iter().position(|byte| *byte == b'\n').map_or(content.len(), |end| end + 1);
    &content[..end]
}

/// Fails unless the files have the same header: the values of one would come under the names of another.
fn check_headers(files: &[PathBuf]) -> Result<(), Exit> {
    let header = |path: &PathBuf| {
        let content = fs::read(path).map_err(|error| failed("read", path, error))?;
        Ok::<_, Exit>(String::from_utf8_lossy(header_of(without_mark(&content))).trim_end().to_string())
    };
    let Some((first, others)) = files.split_first() else { return Ok(()) };
    let expected = header(first)?;
    for other in others {
        let found = header(other)?;
        if found != expected {
            return Err(Exit::failed(format!(
                "'{}' begins with '{found}' and '{}' with '{expected}', so they cannot be one file: nothing was \
                 changed in that directory",
                other.display(),
                first.display()
            )));
        }
    }
    Ok(())
}

/// Fails unless the files of JSON have a record a line: documents that stand one behind the other are none.
fn check_lines(files: &[PathBuf]) -> Result<(), Exit> {
    for path in files {
        let content = fs::read(path).map_err(|error| failed("read", path, error))?;
        let mut lines = without_mark(&content).split(|byte| *byte == b'\n');
        let first = lines.find(|line| !line.trim_ascii().is_empty());
        let is_record = |line: &[u8]| {
            line.trim_ascii().starts_with(b"{")
                && serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok()
        };
        if first.is_some_and(|first| !is_record(first)) {
            return Err(Exit::failed(format!(
                "'{}' does not begin with a JSON object on a line of its own, as in lines of UTF-8, so it cannot be one \
                 file with others: nothing was changed in that directory",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Without the mark that some writers begin text in UTF-8 with.
fn without_mark(content: &[u8]) -> &[u8] {
    content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content)
}

/// The files one behind the other; of headers only the first, and no marks of UTF-8.
fn append(from: &[PathBuf], to: &Path, header: bool) -> std::io::Result<()> {
    let mut out = fs::File::create(to)?;
    for (index, path) in from.iter().enumerate() {
        // Compressed files end where they end.
        let is_text = to
            .extension()
            .is_some_and(|extension| extension == "json" || extension == "csv" || extension == "txt");
        let content = fs::read(path)?;
        let content = if is_text { without_mark(&content) } else { content.as_slice() };
        let skipped = match header && index > 0 {
            true => header_of(content).len(),
            false => 0,
        };
        out.write_all(&content[skipped..])?;
        if is_text && content.last().is_some_and(|last| *last != b'\n') {
            out.write_all(b"\n")?;
        }
    }
    Ok(())
}

async fn merge_parquet(from: &[PathBuf], to: &Path) -> Result<(), Exit> {
    // One partition, so that rows stay in their order.
    let mut config = SessionConfig::new().with_target_partitions(1);
    // Columns stay what they are.
    config.options_mut().execution.parquet.schema_force_view_types = false;
    config.options_mut().execution.parquet.coerce_int96 = Some("us".into());
    let session = Session::from(SessionContext::new_with_config(config));
    let read = async || {
        let frame = parquet_rows(session.context(), from).await?;
        let rows = frame.clone().count().await?;
        let mut parquet = TableParquetOptions::default();
        parquet.global.compression = Some("zstd(3)".into());
        let write = DataFrameWriteOptions::new().with_single_file_output(true);
        let path = to.display().to_string();
        frame.write_parquet(&path, write, Some(parquet)).await?;
        let written = parquet_rows(session.context(), &[to.to_path_buf()]).await?.count().await?;
        Ok::<_, DataFusionError>((rows, written))
    };
    let (rows, written) = read().await.map_err(Error::from)?;
    if rows != written {
        return Err(Exit::failed(format!(
            "{written} of {rows} rows were written to {}: nothing was changed",
            to.display()
        )));
    }
    Ok(())
}

/// The rows of `files`, which are looked over as those of streams are. (`SessionContext::read_parquet` does not ask the
/// session how.)
async fn parquet_rows(context: &SessionContext, files: &[PathBuf]) -> DataFusionResult<DataFrame> {
    let state = context.state();
    let no_url = |path: &PathBuf| DataFusionError::Execution(format!("'{}' is no path", path.display()));
    let urls = files
        .iter()
        .map(|path| ListingTableUrl::try_new(Url::from_file_path(path).map_err(|()| no_url(path))?, None));
    let urls = urls.collect::<DataFusionResult<Vec<_>>>()?;
    let format =
        state.get_file_format_factory("parquet").map(|parquet| parquet.create(&state, &HashMap::new()));
    let format =
        format.ok_or_else(|| DataFusionError::Execution("this build reads no Parquet files".into()))??;
    let table = ListingTableConfig::new_with_multi_paths(urls)
        .with_listing_options(ListingOptions::new(format))
        .infer_schema(&state)
        .await?;
    context.read_table(Arc::new(ListingTable::try_new(table)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_grouped_up_to_the_target() {
        let file = |name: &str, bytes| Small { name: name.into(), bytes };
        let files = vec![file("d", 5), file("a", 4), file("b", 4), file("c", 3), file("e", 9), file("f", 1)];
        let groups = grouped(files, 10);
        let names: Vec<String> =
            groups.iter().map(|group| group.iter().map(|file| file.name.as_str()).collect()).collect();
        assert_eq!(names, ["ab", "cd", "ef"]);
        assert!(grouped(vec![file("a", 9), file("b", 9)], 10).is_empty());
    }

    #[test]
    fn only_what_can_be_put_together_is() {
        for (name, can) in [
            ("a.zstd.parquet", true),
            ("a.json", true),
            ("a.json.gz", true),
            ("a.csv.gz", false),
            ("a.lz4.arrow", false),
            ("a", false),
        ] {
            assert_eq!(can_merge(extension(name)), can, "{name}");
        }
    }
}
