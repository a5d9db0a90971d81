//! `tidemill etl`: one query from files to files, without a script.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use datafusion::arrow::datatypes::SchemaRef;
use tidemill::sql::{SqlSession, StartedQuery};
use tidemill::{Trigger, WriteStream};

use super::exit::Exit;
use super::job::Job;
use super::text::Script;
use super::{JobOptions, ProgressMode, parse_pair, settings};

/// Extensions and the formats they stand for.
const EXTENSIONS: [(&str, &str); 12] = [
    ("json", "json"),
    ("jsonl", "json"),
    ("ndjson", "json"),
    ("csv", "csv"),
    ("tsv", "csv"),
    ("parquet", "parquet"),
    ("txt", "text"),
    ("log", "text"),
    ("text", "text"),
    ("arrow", "arrow"),
    ("arrows", "arrow"),
    ("avro", "avro"),
];
const COMPRESSIONS: [&str; 5] = ["gz", "bz2", "xz", "zst", "zstd"];
/// How deep below the input a file is looked for to tell the format by: partitions are directories.
const LOOK_DEPTH: usize = 4;

/// What `tidemill etl` is told.
#[derive(Debug, Args)]
pub(super) struct EtlOptions {
    /// The directory, glob pattern or URL that new files appear in; the table `input` of the query
    input: String,
    /// The directory or URL to write to
    output: String,
    /// The directory that remembers what has been done; keep it with the output
    #[arg(long, value_name = "DIR")]
    checkpoint: String,
    /// The format of the input; by default told by the extension of its files
    #[arg(long, value_name = "FORMAT")]
    from: Option<String>,
    /// The format of the output; by default told by its extension, else parquet
    #[arg(long, value_name = "FORMAT")]
    to: Option<String>,
    /// What to write
    #[arg(long, value_name = "SELECT", default_value = "SELECT * FROM input")]
    query: String,
    /// The columns of the input, such as 'a BIGINT, b VARCHAR'; by default found out
    #[arg(long, value_name = "COLUMNS")]
    schema: Option<String>,
    /// Columns of the output that become directories
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    partition_by: Vec<String>,
    /// An option of the input, such as header=true
    #[arg(long = "option", value_name = "KEY=VALUE", value_parser = parse_pair)]
    options: Vec<(String, String)>,
    /// An option of the output, such as compression=zstd
    #[arg(long = "sink-option", value_name = "KEY=VALUE", value_parser = parse_pair)]
    sink_options: Vec<(String, String)>,
    /// once, available-now, or a length of time such as '2 seconds'
    #[arg(long, value_parser = super::parse_trigger, default_value = "available-now")]
    trigger: Trigger,
    /// A setting: `datafusion.…`, or durability or minBatchesToRetain
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_pair)]
    settings: Vec<(String, String)>,
    /// How progress is told on standard error
    #[arg(long, value_enum, default_value_t = ProgressMode::Bar)]
    progress: ProgressMode,
}

/// Runs the query until it ends.
pub(super) async fn run(options: &EtlOptions) -> Result<(), Exit> {
    let job = JobOptions {
        trigger: Some(options.trigger),
        settings: options.settings.clone(),
        progress: options.progress,
    };
    let sql = settings::session(&job).await?;
    let mut job = Job::new(Arc::clone(&sql), options.progress)?;
    let query = start(&sql, options).await?;
    job.add(query);
    job.finish().await
}

async fn start(sql: &SqlSession, options: &EtlOptions) -> Result<StartedQuery, Exit> {
    let session = sql.session();
    let from = input_format(options)?;
    let mut reader = session.read_stream().format(from).options(options.options.clone());
    if let Some(text) = &options.schema {
        reader = reader.schema(schema(sql, text).await?);
    }
    let table = reader.table(options.input.as_str()).await?;
    session.context().register_table("input", table).map_err(tidemill::Error::from)?;

    let script = Script { name: "--query".into(), text: options.query.clone() };
    let frame = sql
        .streaming_query(&options.query, Some(&options.checkpoint))
        .await
        .map_err(|error| Exit::of(&error, script.describe(&error, (1, 1))))?;
    let format = output_format(options);
    let query = frame
        .write_stream()
        .format(&format)
        .trigger(options.trigger)
        .query_name("etl")
        .partition_by(&options.partition_by)
        .options(sql.options().iter())
        .options(options.sink_options.clone())
        .option("checkpointLocation", &options.checkpoint)
        .start(options.output.as_str())
        .await?;
    let location = Some(options.output.clone());
    Ok(StartedQuery { query, trigger: options.trigger, target: "output".into(), format, location })
}

async fn schema(sql: &SqlSession, text: &str) -> Result<SchemaRef, Exit> {
    let script = Script { name: "--schema".into(), text: text.to_string() };
    let schema = sql.schema(text).await;
    schema.map_err(|error| Exit::of(&error, script.describe(&error, (1, 1))))
}

fn input_format(options: &EtlOptions) -> Result<String, Exit> {
    if let Some(format) = &options.from {
        return Ok(format.to_lowercase());
    }
    let path = Path::new(&options.input);
    let known = format_of(path).or_else(|| first_file(path, LOOK_DEPTH).and_then(|file| format_of(&file)));
    known.map(str::to_string).ok_or_else(|| {
        Exit::usage(format!(
            "cannot tell the format of '{}': say --from json, csv, parquet, text, arrow or avro",
            options.input
        ))
    })
}

fn output_format(options: &EtlOptions) -> String {
    let told = || format_of(Path::new(&options.output)).unwrap_or("parquet").to_string();
    options.to.as_ref().map_or_else(told, |format| format.to_lowercase())
}

/// The format that the extension of `path` stands for, below one of a compression.
fn format_of(path: &Path) -> Option<&'static str> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    if COMPRESSIONS.contains(&extension.as_str()) {
        return format_of(Path::new(path.file_stem()?));
    }
    EXTENSIONS.iter().find(|(known, _)| *known == extension).map(|(_, format)| *format)
}

/// The first file below `directory` that is not hidden, by name.
fn first_file(directory: &Path, depth: usize) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(directory).ok()?.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    entries.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| !name.starts_with(['.', '_']))
    });
    entries.sort();
    let (files, directories): (Vec<PathBuf>, Vec<PathBuf>) =
        entries.into_iter().partition(|path| path.is_file());
    let deeper = || directories.iter().find_map(|path| first_file(path, depth.checked_sub(1)?));
    files.into_iter().next().or_else(deeper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_tell_the_format() {
        for (path, format) in [
            ("a/b.json", Some("json")),
            ("a/b.JSONL.gz", Some("json")),
            ("data/*.csv", Some("csv")),
            ("access.log", Some("text")),
            ("a/b", None),
            ("a.gz", None),
            ("a.b/c", None),
        ] {
            assert_eq!(format_of(Path::new(path)), format, "{path}");
        }
    }

    #[test]
    fn the_first_file_of_a_directory_tells_the_format() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(first_file(folder.path(), 1), None);
        std::fs::create_dir_all(folder.path().join("day=1")).unwrap();
        for name in ["_SUCCESS", ".hidden.json", "day=1/a.csv"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(first_file(folder.path(), 1), Some(folder.path().join("day=1/a.csv")));
        assert_eq!(first_file(folder.path(), 0), None);
    }
}
