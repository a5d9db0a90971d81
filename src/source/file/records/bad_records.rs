//! Malformed records, written aside (`badRecordsPath`).

use std::sync::Arc;

use datafusion::execution::object_store::ObjectStoreUrl;
use object_store::ObjectStore;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;

use crate::error::{Error, Result};
use crate::source::file::format::{Format, FormatSpec};
use crate::source::file::location::Selection;
use crate::source::file::pattern::FilePattern;

/// The name of the file that takes records of the input file `name` again which a batch of a query put aside: the same
/// again for the same batch.
///
/// ```
/// # use tidemill::source::retried_name;
/// assert_eq!(retried_name("a.csv.gz", "6f0c8a52-94f5-4b6e-9d0b-3f6a2d1c7e10", 3), "a-retried-6f0c8a52-3.csv.gz");
/// ```
pub fn retried_name(name: &str, query: &str, batch: u64) -> String {
    let (stem, rest) = name.split_at(name.find('.').filter(|dot| *dot > 0).unwrap_or(name.len()));
    let query: String = query.chars().take(8).collect();
    format!("{stem}-retried-{query}-{batch}{rest}")
}

/// How a source reads its files, as far as that is not told by their names: what files have to be like that records
/// are fed back in. Noted with each record that is put aside.
#[derive(Debug, Clone)]
pub(in crate::source::file) struct ReadAs {
    rules: Map<String, Value>,
    pattern: FilePattern,
    /// What the user called the files, if not all of the directory are read.
    only: Option<String>,
}

impl ReadAs {
    /// The rules of a source that reads what `selection`, `filter` (`pathGlobFilter`) and hence `pattern` say.
    pub(in crate::source::file) fn new(
        spec: &FormatSpec,
        pattern: &FilePattern,
        selection: &Selection,
        filter: Option<&str>,
    ) -> Self {
        let mut rules = Map::new();
        let mut note = |name: &str, value: Value| drop(rules.insert(name.into(), value));
        if let Some(encoding) = spec.encoding {
            note("encoding", encoding.name().into());
        }
        if let Some(compression) = spec.row_options.get("compression") {
            note("compression", compression.as_str().into());
        }
        match &spec.format {
            Format::JsonDocument(_) => note("multiLine", true.into()),
            Format::Csv(_, dialect) => {
                if dialect.has_header() {
                    note("header", true.into());
                }
                if dialect.terminator() != b'\n' {
                    note("lineSep", char::from(dialect.terminator()).to_string().into());
                }
            }
            _ => {}
        }
        let only = match (selection, filter) {
            (_, Some(filter)) => Some(format!("'{filter}' (pathGlobFilter)")),
            (Selection::Glob(name) | Selection::File(name), None) => Some(format!("'{name}'")),
            (Selection::Directory, None) => None,
        };
        Self { rules, pattern: pattern.clone(), only }
    }

    /// What is noted with the records of the file at `relative`.
    fn of(&self, relative: &str, (query, batch): (&str, u64)) -> Value {
        let (directory, name) = relative.rsplit_once('/').map_or(("", relative), |(all, name)| (all, name));
        let retried = retried_name(name, query, batch);
        let path = if directory.is_empty() { retried } else { format!("{directory}/{retried}") };
        let mut rules = self.rules.clone();
        if let Some(only) = self.only.as_ref().filter(|_| !self.pattern.selects(&path)) {
            rules.insert("only".into(), only.as_str().into());
        }
        Value::Object(rules)
    }
}

/// Where the malformed records of one batch go: one file of JSON lines per input file that has any,
/// named after batch and input file, so that a batch that runs again writes the same files again.
#[derive(Debug, Clone)]
pub(in crate::source::file) struct BadRecordFiles {
    /// The store, as DataFusion's registry knows it.
    pub(in crate::source::file) store: ObjectStoreUrl,
    /// The batch's directory.
    pub(in crate::source::file) directory: Path,
    /// The query and the batch.
    pub(in crate::source::file) batch: (String, u64),
    /// How the input files are read, if it is files.
    pub(in crate::source::file) read: Option<ReadAs>,
}

impl BadRecordFiles {
    /// The writer for the malformed records of the input file at `relative` below its base.
    pub(in crate::source::file) fn writer(
        &self,
        store: Arc<dyn ObjectStore>,
        relative: &str,
    ) -> Result<BadRecordWriter> {
        let path = format!("{}/{relative}.json", self.directory);
        let path = Path::parse(&path)
            .map_err(|error| Error::option("badRecordsPath", &path, format!("it is no path: {error}")))?;
        let read =
            self.read.as_ref().map_or(Value::Null, |read| read.of(relative, (&self.batch.0, self.batch.1)));
        Ok(BadRecordWriter { name: format!("{}{path}", self.store.as_str()), store, path, read, file: None })
    }
}

/// Where a record is in its file, from 1.
#[derive(Debug, Clone, Copy)]
pub(in crate::source::file) enum Place {
    /// Of a file of text.
    Line(u64),
    /// Of a binary file, which has no text: the record is told as a JSON object.
    Row(u64),
    /// Of a queue.
    Offset(i64),
    /// Of a queue, and told as hexadecimal digits because it is no text.
    BinaryOffset(i64),
}

/// Writes the malformed records of one input file. The file appears, whole, with
/// [`BadRecordWriter::finish`], and only if there was a record.
pub(in crate::source::file) struct BadRecordWriter {
    name: String,
    store: Arc<dyn ObjectStore>,
    path: Path,
    read: Value,
    file: Option<BufWriter>,
}

impl BadRecordWriter {
    /// Writes one record: the input file's URL, where the record is in it, its text and what is wrong with it.
    pub(in crate::source::file) async fn write(
        &mut self,
        file: &str,
        place: Place,
        record: &str,
        reason: &str,
    ) -> Result<()> {
        let (unit, number) = match place {
            Place::Line(number) => ("line", Value::from(number)),
            Place::Row(number) => ("row", number.into()),
            Place::Offset(number) | Place::BinaryOffset(number) => ("offset", number.into()),
        };
        let mut text = json!({"path": file, unit: number, "record": record, "reason": reason});
        if self.read.as_object().is_some_and(|rules| !rules.is_empty()) {
            text["read"] = self.read.clone();
        }
        if matches!(place, Place::BinaryOffset(_)) {
            text["encoding"] = "hex".into();
        }
        let mut text = text.to_string();
        text.push('\n');
        let (store, path) = (&self.store, &self.path);
        let out = self.file.get_or_insert_with(|| BufWriter::new(Arc::clone(store), path.clone()));
        out.write_all(text.as_bytes()).await.map_err(|error| Error::storage("write", &self.name, error))
    }

    /// Makes the file appear, in place of one that an earlier run of the batch wrote.
    pub(in crate::source::file) async fn finish(mut self) -> Result<()> {
        match self.file.take() {
            Some(mut file) => {
                file.shutdown().await.map_err(|error| Error::storage("write", &self.name, error))
            }
            None => Ok(()),
        }
    }
}
