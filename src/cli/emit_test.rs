//! Writing a batch out as a test: the job, what it remembered, the rows that it read, and what it gave for them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use chrono::{DateTime, SecondsFormat};
use datafusion::arrow::array::{Array, RecordBatch, UInt32Array};
use datafusion::arrow::compute::take_record_batch;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::sql::sqlparser::ast::Ident;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tidemill::checkpoint::records::{OffsetsRecord, SourceDefinition, SourceOffset};
use tidemill::checkpoint::{Checkpoint, place_of, stage_test};
use tidemill::prelude::WriteStream;
use tidemill::sql::{Located, SqlSession, Statement};
use tidemill::storage::{Storage, resolve_location};
use tidemill::{Error, uuid};

use super::exit::Exit;
use super::test::{self, AS_WRITTEN, compare};
use super::text::to_stderr;

/// A batch that becomes a test.
#[derive(Debug)]
pub(super) struct Case<'a> {
    pub(super) checkpoint: &'a str,
    pub(super) batch: u64,
    /// The text of the script.
    pub(super) job: &'a str,
    pub(super) session: &'a SqlSession,
    /// The script's statements, and the streaming query among them.
    pub(super) statements: &'a [Located<Statement>],
    pub(super) query: &'a Located<Statement>,
}

/// Rows that arrive together.
struct Input {
    directory: Option<String>,
    /// In lines.
    rows: String,
}

/// As much of what a source of files notes of one as matters here.
#[derive(Deserialize)]
struct FileRead {
    #[serde(rename = "p")]
    path: Option<String>,
    #[serde(rename = "o", default)]
    passed_over: bool,
}

/// What names of directories have of values as they are.
const PLAIN: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b':').remove(b' ');
/// The directory of null.
const NULL_DIRECTORY: &str = "__HIVE_DEFAULT_PARTITION__";

impl Case<'_> {
    /// Writes the test into `directory`, which is made, and has to be empty if it is there. It expects what the batch
    /// gave, or why it failed; then it is run, and from then on expects what it gave itself.
    pub(super) async fn emit(
        &self,
        directory: &str,
        given: Result<&[RecordBatch], &Error>,
    ) -> Result<(), Exit> {
        let folder = Path::new(directory);
        let io = |error: std::io::Error| Exit::failed(format!("cannot write to '{directory}': {error}"));
        if folder.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Exit::usage(format!(
                "'{directory}' is not empty: name a new directory for the test"
            )));
        }
        std::fs::create_dir_all(folder).map_err(io)?;
        let name = self.query_name()?;
        let url = resolve_location(self.checkpoint)?;
        let storage = self.session.session().open_storage(&url)?;
        let state = folder.join("checkpoint");
        let staged = self.session.session().open_storage(&resolve_location(&state.display().to_string())?)?;
        let (time_ms, remembers) =
            stage_test(storage.as_ref(), staged.as_ref(), self.batch, uuid::Uuid::new_v4()).await?;
        std::fs::write(folder.join("job.sql"), self.job).map_err(io)?;

        let mut text = format!(
            "-- Batch {} of the query {name}, with the rows that it read.\n--- job job.sql\n",
            self.batch
        );
        if remembers {
            let _ = writeln!(text, "--- checkpoint {name} checkpoint");
        }
        let time = DateTime::from_timestamp_millis(time_ms).unwrap_or_default();
        let _ = writeln!(text, "--- time {}", time.to_rfc3339_opts(SecondsFormat::Millis, true));
        self.write_inputs(storage.as_ref(), &mut text).await?;
        match given {
            Ok(rows) => {
                let _ = writeln!(text, "--- output {name}");
                compare::lines(rows, true)?.iter().for_each(|row| text += &format!("{row}\n"));
            }
            Err(error) => {
                let message = error.to_string();
                let _ = writeln!(text, "--- error {name}: {}", message.lines().next().unwrap_or_default());
            }
        }
        let file_name = |c: char| if c.is_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' };
        let file = format!("{}-{}.test.sql", name.chars().map(file_name).collect::<String>(), self.batch);
        let path = folder.join(file).display().to_string();
        std::fs::write(&path, &text).map_err(io)?;
        let ran = test::run(std::slice::from_ref(&path), true).await;
        if std::fs::read_to_string(&path).map_err(io)? != text {
            let note = format!(
                "note: in a test a query runs until there is nothing more to do, so what is expected is what batch {} \
                 gave and what follows from it",
                self.batch
            );
            to_stderr(&note);
        }
        ran
    }

    /// The query's name as a test has it.
    fn query_name(&self) -> Result<String, Exit> {
        let Statement::CreateStreamingQuery(query) = &self.query.value else {
            return Err(Exit::usage("only a streaming query can be tested"));
        };
        let name = as_typed(&query.name);
        match name.contains(char::is_whitespace) {
            true => Err(Exit::usage(format!("a test cannot name a query with spaces in its name, '{name}'"))),
            false => Ok(name),
        }
    }

    async fn write_inputs(&self, storage: &dyn Storage, text: &mut String) -> Result<(), Exit> {
        let metadata = Checkpoint::read_metadata(storage).await?;
        let planned = Checkpoint::read_offsets(storage, self.batch).await?;
        let (Some(metadata), Some(planned)) = (metadata, planned) else {
            return Err(Exit::failed(format!("batch {} is not there any more", self.batch)));
        };
        let tables = self.session.sources_of(self.query).await?;
        let OffsetsRecord { sources: offsets, .. } = planned;
        for (index, (table, source)) in tables.iter().zip(&metadata.definition.sources).enumerate() {
            let inputs = match offsets.get(index) {
                Some(offset) if AS_WRITTEN.contains(&source.format.as_str()) => {
                    self.files(storage, source, offset).await?
                }
                _ => self.rows(table, index).await?,
            };
            for Input { directory, rows } in inputs {
                if rows.lines().any(|line| line.starts_with("--- ")) {
                    return Err(Exit::failed(format!(
                        "a row of '{table}' begins with '--- ', which a test would take for a line of its own"
                    )));
                }
                let directory = directory.map_or_else(String::new, |directory| format!(" {directory}"));
                let _ = write!(text, "--- input {table}{directory}\n{rows}");
                if !rows.ends_with('\n') && !rows.is_empty() {
                    text.push('\n');
                }
            }
        }
        Ok(())
    }

    /// The files that the batch read of a source, as they are.
    async fn files(
        &self,
        storage: &dyn Storage,
        source: &SourceDefinition,
        offset: &SourceOffset,
    ) -> Result<Vec<Input>, Exit> {
        let place = source.location.as_ref().and_then(|place| place_of(place, storage.url()));
        let place = place.ok_or_else(|| Exit::failed("a source of files does not say where they are"))?;
        let files = self.session.session().open_storage(&place)?;
        let mut inputs = Vec::new();
        for entry in &offset.entries {
            let Ok(FileRead { path: Some(path), passed_over: false }) = serde_json::from_str(entry.get())
            else {
                continue;
            };
            let Some(content) = files.read(&path).await? else {
                return Err(Exit::failed(format!("'{path}' of {place}, which the batch read, is gone")));
            };
            let Ok(rows) = String::from_utf8(content.to_vec()) else {
                return Err(Exit::failed(format!(
                    "'{path}' of {place} is not text in UTF-8, or is compressed, and cannot stand in a test"
                )));
            };
            let directory = path.rsplit_once('/').map(|(directory, _)| directory.to_string());
            inputs.push(Input { directory, rows });
        }
        Ok(inputs)
    }

    /// The rows that the batch read of a source, as JSON.
    async fn rows(&self, table: &str, source: usize) -> Result<Vec<Input>, Exit> {
        let frame = self.session.session().context().table(table).await.map_err(Error::from)?;
        let rows = frame.write_stream().replay_source(self.checkpoint, self.batch, source).await?;
        let mut inputs = Vec::new();
        for (directory, rows) in by_directory(&rows, &self.partitions_of(table)).map_err(Error::from)? {
            let rows: String = compare::lines(&rows, true)?.iter().flat_map(|row| [row, "\n"]).collect();
            if !rows.is_empty() {
                inputs.push(Input { directory, rows });
            }
        }
        Ok(inputs)
    }

    /// The columns of a table that are directories.
    fn partitions_of(&self, table: &str) -> Vec<String> {
        let created = self.statements.iter().find_map(|statement| match &statement.value {
            Statement::CreateExternalTable(created) if test::plain(&created.name) == table => Some(created),
            _ => None,
        });
        created.map_or_else(Vec::new, |created| created.partitioned_by.iter().map(as_typed).collect())
    }
}

/// `rows` by the directories that the columns `partitions` are, without these columns.
fn by_directory(
    rows: &[RecordBatch],
    partitions: &[String],
) -> Result<BTreeMap<Option<String>, Vec<RecordBatch>>, ArrowError> {
    let mut found: BTreeMap<Option<String>, Vec<RecordBatch>> = BTreeMap::new();
    if partitions.is_empty() {
        found.insert(None, rows.to_vec());
        return Ok(found);
    }
    for batch in rows {
        let schema = batch.schema();
        let columns = partitions.iter().map(|name| schema.index_of(name)).collect::<Result<Vec<_>, _>>()?;
        let options = FormatOptions::default();
        let values = columns.iter().map(|column| ArrayFormatter::try_new(batch.column(*column), &options));
        let values = values.collect::<Result<Vec<_>, _>>()?;
        let mut rows_of: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for row in 0..batch.num_rows() {
            let mut parts = Vec::with_capacity(columns.len());
            for ((name, column), value) in partitions.iter().zip(&columns).zip(&values) {
                let value = match batch.column(*column).is_null(row) {
                    true => NULL_DIRECTORY.to_string(),
                    false => utf8_percent_encode(&value.value(row).try_to_string()?, &PLAIN).to_string(),
                };
                parts.push(format!("{name}={value}"));
            }
            rows_of.entry(parts.join("/")).or_default().push(row as u32);
        }
        let rest: Vec<usize> = (0..batch.num_columns()).filter(|index| !columns.contains(index)).collect();
        let rest = batch.project(&rest)?;
        for (directory, rows) in rows_of {
            found
                .entry(Some(directory))
                .or_default()
                .push(take_record_batch(&rest, &UInt32Array::from(rows))?);
        }
    }
    Ok(found)
}

/// The name that is written, in lower case unless it is quoted.
fn as_typed(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{Int64Array, StringArray};

    use super::*;

    #[test]
    fn rows_are_put_into_the_directories_that_their_columns_are() {
        let days = StringArray::from(vec![Some("a/b"), None, Some("a/b")]);
        let rows = RecordBatch::try_from_iter([
            ("day", Arc::new(days) as _),
            ("id", Arc::new(Int64Array::from(vec![1, 2, 3])) as _),
        ]);
        let found = by_directory(&[rows.unwrap()], &["day".to_string()]).unwrap();
        let lines = |directory: &str| compare::lines(&found[&Some(directory.to_string())], true).unwrap();
        assert_eq!(lines("day=a%2Fb"), [r#"{"id":1}"#, r#"{"id":3}"#]);
        assert_eq!(lines("day=__HIVE_DEFAULT_PARTITION__"), [r#"{"id":2}"#]);
    }
}
