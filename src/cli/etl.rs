//! `tidemill etl`: one query from files to files, without a script.

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use datafusion::arrow::datatypes::SchemaRef;
use tidemill::checkpoint::inspect;
use tidemill::sql::{SqlSession, StartedQuery};
use tidemill::storage::resolve_location;
use tidemill::{Session, Trigger, guess_format};
use url::Url;

use super::exit::Exit;
use super::job::Job;
use super::output::Format;
use super::text::Script;
use super::{IfRunning, JobOptions, ProgressMode, parse_pair, settings};

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
    #[arg(long, value_name = "SELECT", default_value = "SELECT * FROM input", allow_hyphen_values = true)]
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
    /// An option of the query, such as flushOnEnd=true
    #[arg(long = "query-option", value_name = "KEY=VALUE", value_parser = parse_pair)]
    query_options: Vec<(String, String)>,
    /// once, available-now, or a length of time such as '2 seconds'
    #[arg(long, value_parser = super::parse_trigger, default_value = "available-now")]
    trigger: Trigger,
    /// A setting: `datafusion.…`, or durability or minBatchesToRetain
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_pair)]
    settings: Vec<(String, String)>,
    /// How progress is told on standard error
    #[arg(long, value_enum, default_value_t = ProgressMode::Bar)]
    progress: ProgressMode,
    /// What to do if another process, started with this option too, runs the same query
    #[arg(long, value_enum)]
    if_running: Option<IfRunning>,
}

/// Runs the query until it ends.
pub(super) async fn run(options: &EtlOptions) -> Result<(), Exit> {
    let job = JobOptions {
        config: None,
        trigger: Some(options.trigger),
        settings: options.settings.clone(),
        progress: options.progress,
        format: Format::default(),
        if_running: options.if_running,
        listen: None,
        pg: None,
    };
    let sql = settings::session(&job).await?;
    let mut job = Job::new(Arc::clone(&sql), options.progress, Format::default())?;
    // It may wait for another run to end.
    let query = job.unless_asked_to_leave(start(&sql, options)).await?;
    if let Some(query) = query {
        job.add(query);
    }
    job.finish().await
}

async fn start(sql: &SqlSession, options: &EtlOptions) -> Result<StartedQuery, Exit> {
    let session = sql.session();
    let from = match input_format(session, options) {
        Ok(format) => format,
        // All files may have been cleaned up since the first start.
        Err(exit) => recorded_format(session, options).await.ok_or(exit)?,
    };
    let mut reader = session.read_stream().format(from).options(options.options.clone());
    if let Some(text) = &options.schema {
        reader = reader.schema(schema(sql, text).await?);
    }
    session.use_columns_of(&options.checkpoint).await?;
    let table = reader.table(options.input.as_str()).await?;
    session.context().register_table("input", table).map_err(tidemill::Error::from)?;

    let script = Script { name: "--query".into(), text: options.query.clone() };
    let writer = sql
        .write_stream(&options.query, &options.checkpoint)
        .await
        .map_err(|error| Exit::of(&error, script.describe(&error, (1, 1))))?;
    let format = output_format(options);
    let query = writer
        .format(&format)
        .trigger(options.trigger)
        .query_name("etl")
        .partition_by(&options.partition_by)
        .options(sql.options().iter())
        .options(options.query_options.clone())
        .options(options.sink_options.clone())
        .start(options.output.as_str())
        .await?;
    let location = Some(options.output.clone());
    Ok(StartedQuery {
        query,
        trigger: options.trigger,
        target: "output".into(),
        format,
        location,
        definition: String::new(),
    })
}

async fn schema(sql: &SqlSession, text: &str) -> Result<SchemaRef, Exit> {
    let script = Script { name: "--schema".into(), text: text.to_string() };
    let schema = sql.schema(text).await;
    schema.map_err(|error| Exit::of(&error, script.describe(&error, (1, 1))))
}

fn input_format(session: &Session, options: &EtlOptions) -> Result<String, Exit> {
    if let Some(format) = &options.from {
        return Ok(format.to_lowercase());
    }
    let path = Path::new(&options.input);
    let is_plain = !options.input.contains("://") && !options.input.contains(['*', '?', '[', '{']);
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Exit::usage(format!("there is no directory or file '{}'", options.input))
        }
        _ => Exit::failed(format!("cannot read '{}': {error}", options.input)),
    };
    if is_plain {
        let found = std::fs::metadata(path).map_err(unreadable)?;
        if found.is_dir() && std::fs::read_dir(path).map_err(unreadable)?.next().is_none() {
            return Err(Exit::usage(format!(
                "the directory '{}' is empty, so that its format cannot be told: say --from json, csv, parquet, \
                 text, arrow or avro",
                options.input
            )));
        }
    }
    guess_format(&options.input).map(str::to_string).ok_or_else(|| {
        if !is_plain && let Some(reason) = unknown_store(session, &options.input) {
            return Exit::usage(reason);
        }
        Exit::usage(format!(
            "cannot tell the format of '{}': say --from json, csv, parquet, text, arrow or avro",
            options.input
        ))
    })
}

/// The format of the input at the first start, if there was one.
async fn recorded_format(session: &Session, options: &EtlOptions) -> Option<String> {
    let storage = session.open_storage(&resolve_location(&options.checkpoint).ok()?).ok()?;
    let found = inspect(storage.as_ref()).await.ok()??;
    Some(found.definition.sources.first()?.format.clone()).filter(|format| !format.is_empty())
}

/// Why there is no object store for `location`, if there is none.
fn unknown_store(session: &Session, location: &str) -> Option<String> {
    let url = Url::parse(location).ok()?;
    session.open_storage(&url).err().map(|error| error.to_string())
}

fn output_format(options: &EtlOptions) -> String {
    // A directory of other files says nothing about what is to be written.
    let told = || match Path::new(&options.output).is_dir() {
        true => "parquet".to_string(),
        false => guess_format(&options.output).unwrap_or("parquet").to_string(),
    };
    options.to.as_ref().map_or_else(told, |format| format.to_lowercase())
}
