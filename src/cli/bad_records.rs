//! `tidemill bad-records`: what sources put aside (`badRecordsPath`), and feeding it back.

use std::sync::Arc;

use bytes::Bytes;
use clap::Subcommand;
use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use datafusion::datasource::listing::ListingTableUrl;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use serde::Deserialize;
use tidemill::source::retried_name;
use tidemill::storage::{
    Created, DefaultStorageProvider, Durability, Storage, StorageProvider, resolve_location,
};
use tidemill::{Error, Session};
use url::Url;

use super::ProgressMode;
use super::bad_records_form::ReadAs;
use super::exit::Exit;
use super::monitor::Monitor;
use super::output::{Format, Printer};

/// Where files of records go that were fed back, below the place of all.
const RETRIED: &str = "retried";

#[derive(Debug, Subcommand)]
pub(super) enum BadRecordsCommand {
    /// Show the records that a query has put aside, and why
    List {
        /// The query's badRecordsPath
        path: String,
        /// How they are printed
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Feed records back into the query that has put them aside, once
    ///
    /// Mend them first: the files below PATH are lines of JSON, whose "record" is the text that was read. Lines
    /// that are removed are left out for good. The records of each input file become a new file beside it, in the
    /// same encoding, compression and form, which the query reads like any other; what is still malformed is put aside again. A file of records that was fed
    /// back is moved to PATH/retried, so that it is fed back once, however often the command runs or dies.
    Retry {
        /// The query's badRecordsPath
        path: String,
        /// Begin each new file with this line: the header of CSV files that have one, which is then needed
        #[arg(long, value_name = "LINE")]
        header: Option<String>,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

/// A record that was put aside.
#[derive(Debug, Deserialize)]
struct BadRecord {
    /// The URL of its input file.
    path: String,
    /// Where it is in a file of text…
    line: Option<u64>,
    /// …or of another format, where the record is told as JSON.
    row: Option<u64>,
    /// …or in a partition of a topic.
    offset: Option<u64>,
    record: String,
    reason: String,
    /// How its file is read.
    #[serde(default)]
    read: ReadAs,
}

/// The directory, name and content of the new input file for the records of `file`; `None` if there are none.
fn target(file: &BadFile, header: Option<&str>) -> Result<Option<(Url, String, Bytes)>, Exit> {
    let Some(BadRecord { path, read, .. }) = file.records.first() else { return Ok(None) };
    let (directory, name) = beside(path, file)?;
    let records: Vec<&str> = file.records.iter().map(|record| record.record.as_str()).collect();
    let body = read.file(&name, header, &records);
    let body = body.map_err(|reason| Exit::failed(format!("'{}': {reason}", file.name)))?;
    Ok(Some((directory, name, body)))
}

/// The records of one input file that one batch put aside.
struct BadFile {
    /// Below the place of all: query, batch, input file.
    name: String,
    query: String,
    batch: u64,
    records: Vec<BadRecord>,
}

pub(super) async fn run(command: &BadRecordsCommand) -> Result<(), Exit> {
    let printer = |format| Printer::new(Monitor::new(ProgressMode::None), format);
    match command {
        BadRecordsCommand::List { path, format } => {
            let place = Place::open(path)?;
            let (files, left) = place.files().await?;
            printer(*format).batches(&[table(&files)?])?;
            all_of(left)
        }
        BadRecordsCommand::Retry { path, header, dry_run } => {
            let place = Place::open(path)?;
            let (files, mut left) = place.files().await?;
            let mut text = String::new();
            for file in &files {
                // What is wrong with one does not keep the others.
                match place.retry(file, header.as_deref(), *dry_run).await {
                    Ok(done) => text += &done,
                    Err(exit) => left.push(exit),
                }
            }
            if text.is_empty() && left.is_empty() {
                text = format!("there are no records in {path} that were not fed back\n");
            }
            printer(Format::Table).text(&text).map_err(|error| Exit::output(&error))?;
            all_of(left)
        }
    }
}

/// One end for all of `left`, which are files that something is wrong with.
fn all_of(left: Vec<Exit>) -> Result<(), Exit> {
    match left.len() {
        0 => Ok(()),
        1 => left.into_iter().next().map_or(Ok(()), Err),
        _ => Err(Exit::failed(left.iter().map(Exit::text).collect::<Vec<_>>().join("\n"))),
    }
}

/// The directory that holds records which were put aside.
struct Place {
    session: Session,
    url: Url,
    storage: Arc<dyn Storage>,
}

impl Place {
    fn open(path: &str) -> Result<Self, Exit> {
        let session = Session::new();
        let url = resolve_location(path)?;
        if let Ok(directory) = url.to_file_path()
            && !directory.is_dir()
        {
            return Err(Exit::usage(format!("'{path}' is no directory: give the badRecordsPath of a query")));
        }
        let storage = open(&session, &url)?;
        Ok(Self { session, url, storage })
    }

    /// What was not fed back yet, in the order of queries, batches and input files, and what is wrong with the others.
    async fn files(&self) -> Result<(Vec<BadFile>, Vec<Exit>), Error> {
        let place = ListingTableUrl::parse(self.url.as_str())?;
        let store = self.session.context().runtime_env().object_store(&place)?;
        let failed = |error| Error::storage("list", self.url.as_str(), error);
        let found: Vec<_> = store.list(Some(place.prefix())).try_collect().await.map_err(failed)?;
        let (mut files, mut left) = (Vec::new(), Vec::new());
        for object in found {
            let Some(parts) = object.location.prefix_match(place.prefix()) else { continue };
            let parts: Vec<String> = parts.map(|part| part.as_ref().to_string()).collect();
            let [query, batch, ..] = parts.as_slice() else { continue };
            let (true, Ok(batch)) = (query != RETRIED && parts.len() > 2, batch.parse()) else { continue };
            let failed = |error| Error::storage("read", object.location.to_string(), error);
            let content = store.get(&object.location).await.map_err(failed)?;
            let content = content.bytes().await.map_err(failed)?;
            let name = parts.join("/");
            match records(&name, &content) {
                Ok(records) => files.push(BadFile { query: query.clone(), batch, name, records }),
                Err(error) => left.push(error.into()),
            }
        }
        files.sort_by(|a, b| (&a.query, a.batch, &a.name).cmp(&(&b.query, b.batch, &b.name)));
        Ok((files, left))
    }

    /// Feeds the records of a file back, and says what was done.
    async fn retry(&self, file: &BadFile, header: Option<&str>, dry_run: bool) -> Result<String, Exit> {
        check_is_text(file)?;
        let Some((directory, name, body)) = target(file, header)? else {
            self.put_away(file, dry_run).await?;
            return Ok(format!("{}: nothing is left in it\n", file.name));
        };
        let (count, target) = (file.records.len(), format!("{directory}{name}"));
        if dry_run {
            return Ok(format!("would feed {count} records back as {target}\n"));
        }
        let inputs = open(&self.session, &directory)?;
        let known = match inputs.create(&name, body.clone()).await? {
            Created::New => false,
            // An earlier command has made it, and died before it could say so.
            _ if inputs.read(&name).await?.is_some_and(|there| there == body) => true,
            _ => {
                return Err(Exit::failed(format!(
                    "the records of {} were fed back already, as {target}, and were changed since: move what is new \
                     to a file of its own there, and remove {0}",
                    file.name
                )));
            }
        };
        self.put_away(file, false).await?;
        let again = if known { " (that was there already)" } else { "" };
        Ok(format!("fed {count} records back as {target}{again}\n"))
    }

    /// Moves the file to where nothing is fed back from.
    async fn put_away(&self, file: &BadFile, dry_run: bool) -> Result<(), Exit> {
        if !dry_run {
            self.storage.rename(&[(file.name.clone(), format!("{RETRIED}/{}", file.name))]).await?;
        }
        Ok(())
    }
}

/// Fails if the records of `file` were of no file, or no text, which alone can be put into a file again as it is.
fn check_is_text(file: &BadFile) -> Result<(), Exit> {
    if let Some((record, offset)) = file.records.iter().find_map(|record| Some((record, record.offset?))) {
        return Err(Exit::failed(format!(
            "the records in '{}' are messages of {}, which are there at their offsets ({offset} and others) as long as the \
             topic keeps them, and cannot be fed back from here. Send them to the topic again, mended, or read them there \
             by another query, and remove '{0}'; nothing of it was fed back",
            file.name, record.path
        )));
    }
    match file.records.iter().find(|record| record.row.is_some()) {
        None => Ok(()),
        Some(record) => Err(Exit::failed(format!(
            "the records in '{}' are of '{}', which is no file of text, so they cannot be fed back as they are. Write \
             them into a file of its format beside it, with the columns of the table, and remove '{0}' and whatever else \
             was no text; nothing of it was fed back",
            file.name, record.path
        ))),
    }
}

fn open(session: &Session, url: &Url) -> Result<Arc<dyn Storage>, Error> {
    DefaultStorageProvider::new(session.context().runtime_env()).open(url, Durability::Disk)
}

fn records(name: &str, content: &[u8]) -> Result<Vec<BadRecord>, Error> {
    let text = String::from_utf8_lossy(content);
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let record = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| {
            Error::Invalid(format!(
                "line {} of '{name}' is not a record that was put aside ({error}): each is a JSON object with path, line, \
                 record and reason",
                index + 1
            ))
        })
    };
    lines.map(record).collect()
}

/// The directory of the input file at `url`, and the name of the file that is fed back.
fn beside(url: &str, file: &BadFile) -> Result<(Url, String), Exit> {
    let wrong =
        |reason: String| Exit::failed(format!("'{url}' in '{}' is no input file: {reason}", file.name));
    let url = Url::parse(url).map_err(|error| wrong(error.to_string()))?;
    let directory = url.join(".").map_err(|error| wrong(error.to_string()))?;
    let encoded = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
    let name = percent_encoding::percent_decode_str(encoded).decode_utf8_lossy();
    if name.is_empty() {
        return Err(wrong("it has no name".into()));
    }
    Ok((directory, retried_name(&name, &file.query, file.batch)))
}

fn table(files: &[BadFile]) -> Result<RecordBatch, Error> {
    let records: Vec<(&BadFile, &BadRecord)> =
        files.iter().flat_map(|file| file.records.iter().map(move |record| (file, record))).collect();
    let text = |of: &dyn Fn(&BadFile, &BadRecord) -> String| -> ArrayRef {
        Arc::new(records.iter().map(|(file, record)| Some(of(file, record))).collect::<StringArray>())
    };
    let number = |of: &dyn Fn(&BadFile, &BadRecord) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(records.iter().map(|(file, record)| of(file, record))))
    };
    Ok(RecordBatch::try_from_iter([
        ("query", text(&|file, _| file.query.clone())),
        ("batch", number(&|file, _| file.batch)),
        ("path", text(&|_, record| record.path.clone())),
        ("line", number(&|_, record| record.line.or(record.row).or(record.offset).unwrap_or_default())),
        ("record", text(&|_, record| record.record.clone())),
        ("reason", text(&|_, record| record.reason.clone())),
    ])?)
}
