//! Queries in a temporary folder: input, job, output.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use tempfile::TempDir;
use tidemill::prelude::*;
use tidemill::{
    Environment, Error, QueryIdle, QueryStarted, QueryTerminated, Result, StreamingQueryException,
    StreamingQueryListener, StreamingQueryProgress,
};

use super::oracle::{self, Columns, Row};

/// A temporary folder with a query's input, output and checkpoint.
#[derive(Debug)]
pub struct Place {
    folder: TempDir,
}

impl Default for Place {
    fn default() -> Self {
        Self { folder: scratch() }
    }
}

/// A temporary folder in memory where the machine has room for it, for tests that sync files many
/// thousand times; what a disk keeps is tested elsewhere, on simulated disks that lose what was not
/// synced.
pub fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).map_or(0, |disk| disk.f_bavail * disk.f_frsize);
    let in_memory = if room >= 4 << 30 { tempfile::tempdir_in(memory).ok() } else { None };
    in_memory.unwrap_or_else(|| tempfile::tempdir().unwrap())
}

impl Place {
    /// An empty folder, with the directory `in` made.
    pub fn new() -> Self {
        let place = Self::default();
        fs::create_dir(place.path("in")).unwrap();
        place
    }

    /// The place of `name` in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As [`Place::path`], as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_string()
    }

    /// Puts a file in place as producers should: whole, by a rename.
    pub fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        put(&self.path(name), content);
    }

    /// The rows that a plain reader of the directory `out` sees.
    pub fn rows(&self, format: &str, columns: Columns<'_>) -> Vec<Row> {
        oracle::read_dir(&self.path("out"), format, columns)
    }

    /// The integers in column `id` that a plain reader of `out` sees in Parquet files, sorted.
    pub fn ids(&self) -> Vec<i64> {
        ids(self.rows("parquet", &[]))
    }
}

/// Puts a file at `path`, whole, by a rename, so that nobody waits for its writer.
pub fn put(path: &Path, content: impl AsRef<[u8]>) {
    let directory = path.parent().unwrap();
    fs::create_dir_all(directory).unwrap();
    let hidden = directory.join(format!(".{}.tmp", path.file_name().unwrap().to_str().unwrap()));
    fs::write(&hidden, content).unwrap();
    // The clock of the disk is coarse: the rename shows only if it is some ticks later than the writing.
    let before = SystemTime::now() - Duration::from_millis(50);
    fs::File::options().write(true).open(&hidden).unwrap().set_modified(before).unwrap();
    fs::rename(&hidden, path).unwrap();
}

/// The integers in column `id`, sorted.
pub fn ids(rows: Vec<Row>) -> Vec<i64> {
    let mut ids: Vec<i64> = rows.iter().map(|row| row["id"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    ids
}

/// JSON lines `{"id":…}`.
pub fn id_lines(ids: impl IntoIterator<Item = i64>) -> String {
    ids.into_iter().map(|id| format!("{{\"id\":{id}}}\n")).collect()
}

/// A schema of nullable columns.
pub fn schema(columns: &[(&str, DataType)]) -> SchemaRef {
    let fields = columns.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// A session with `partitions` partitions, in an environment of its own.
pub fn session_in(partitions: usize, environment: Environment) -> Session {
    let mut runtime = RuntimeEnvBuilder::new();
    runtime.cache_manager.list_files_cache_limit = 0;
    let config = SessionConfig::new().with_target_partitions(partitions).with_information_schema(true);
    let context = SessionContext::new_with_config_rt(config, runtime.build_arc().unwrap());
    Session::with_environment(context, environment)
}

/// A session with two partitions.
pub fn session() -> Session {
    session_in(2, Environment::default())
}

/// An unbounded table of a [`Job`].
#[derive(Debug, Clone)]
pub struct Input {
    pub name: String,
    pub format: String,
    pub path: String,
    pub schema: Option<SchemaRef>,
    pub partition_by: Vec<String>,
    pub options: Vec<(String, String)>,
    /// Event time and delay.
    pub watermark: Option<(String, String)>,
}

impl Input {
    /// The table `name`, of files in `path`, with inferred columns.
    pub fn new(name: &str, format: &str, path: impl Into<String>) -> Self {
        let (name, format) = (name.to_string(), format.to_string());
        let path = path.into();
        Self { name, format, path, schema: None, partition_by: vec![], options: vec![], watermark: None }
    }

    pub fn schema(mut self, schema: SchemaRef) -> Self {
        self.schema = Some(schema);
        self
    }

    pub fn partition_by(mut self, columns: &[&str]) -> Self {
        self.partition_by = columns.iter().map(|column| (*column).to_string()).collect();
        self
    }

    pub fn option(mut self, name: &str, value: impl ToString) -> Self {
        self.options.push((name.to_string(), value.to_string()));
        self
    }

    pub fn watermark(mut self, column: &str, delay: &str) -> Self {
        self.watermark = Some((column.to_string(), delay.to_string()));
        self
    }
}

/// A query as a user would write it: tables, SQL, and where the result goes.
#[derive(Debug, Clone)]
pub struct Job {
    pub inputs: Vec<Input>,
    pub sql: String,
    pub format: String,
    pub out: Option<String>,
    pub partition_by: Vec<String>,
    pub trigger: Trigger,
    pub name: Option<String>,
    pub mode: Option<OutputMode>,
    pub options: Vec<(String, String)>,
}

impl Job {
    /// Everything from JSON files `{"id":…}` in `in` to Parquet files in `out`, until there is
    /// nothing more to do, without fsync.
    pub fn new(place: &Place) -> Self {
        let input = Input::new("input", "json", place.text("in")).schema(schema(&[("id", DataType::Int64)]));
        Self {
            inputs: vec![input],
            sql: "SELECT * FROM input".into(),
            format: "parquet".into(),
            out: Some(place.text("out")),
            partition_by: vec![],
            trigger: Trigger::AvailableNow,
            name: None,
            mode: None,
            options: vec![
                ("checkpointLocation".into(), place.text("checkpoint")),
                ("durability".into(), "process".into()),
            ],
        }
    }

    pub fn inputs(mut self, inputs: impl IntoIterator<Item = Input>) -> Self {
        self.inputs = inputs.into_iter().collect();
        self
    }

    pub fn sql(mut self, sql: &str) -> Self {
        self.sql = sql.into();
        self
    }

    pub fn format(mut self, format: &str) -> Self {
        self.format = format.into();
        self
    }

    pub fn out(mut self, out: Option<String>) -> Self {
        self.out = out;
        self
    }

    pub fn partition_by(mut self, columns: &[&str]) -> Self {
        self.partition_by = columns.iter().map(|column| (*column).to_string()).collect();
        self
    }

    pub fn trigger(mut self, trigger: Trigger) -> Self {
        self.trigger = trigger;
        self
    }

    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    pub fn mode(mut self, mode: OutputMode) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Sets an option of the query or of its sink; a later value replaces an earlier one.
    pub fn option(mut self, name: &str, value: impl ToString) -> Self {
        self.options.push((name.to_string(), value.to_string()));
        self
    }

    /// Lets every input take `files` files per trigger.
    pub fn files_per_trigger(mut self, files: usize) -> Self {
        for input in &mut self.inputs {
            input.options.push(("maxFilesPerTrigger".into(), files.to_string()));
        }
        self
    }

    /// The query as a data frame of `session`, whose tables of the same names are replaced.
    pub async fn frame(&self, session: &Session) -> Result<DataFrame> {
        for input in &self.inputs {
            let mut reader = session
                .read_stream()
                .format(&input.format)
                .partition_by(input.partition_by.clone())
                .options(input.options.clone());
            if let Some(schema) = &input.schema {
                reader = reader.schema(Arc::clone(schema));
            }
            let table = match &input.watermark {
                None => reader.table(input.path.as_str()).await?,
                Some((column, delay)) => {
                    reader.load(input.path.as_str()).await?.with_watermark(column, delay)?.into_view()
                }
            };
            session.context().deregister_table(input.name.as_str())?;
            session.context().register_table(input.name.as_str(), table)?;
        }
        Ok(session.context().sql(&self.sql).await?)
    }

    /// Starts the query in `session`.
    pub async fn start(&self, session: &Session) -> Result<StreamingQuery> {
        let mut writer = self
            .frame(session)
            .await?
            .write_stream()
            .format(&self.format)
            .trigger(self.trigger)
            .partition_by(self.partition_by.clone())
            .options(self.options.clone());
        if let Some(name) = &self.name {
            writer = writer.query_name(name);
        }
        if let Some(mode) = self.mode {
            writer = writer.output_mode(mode);
        }
        writer.start(self.out.as_deref()).await
    }

    /// Starts the query in `session` and waits for its end.
    pub async fn run(&self, session: &Session) -> Result<StreamingQuery> {
        let query = self.start(session).await?;
        query.await_termination().await?;
        Ok(query)
    }
}

/// The error that ended a run, or `error` itself if it came before any run.
pub fn cause(error: &Error) -> &Error {
    match error {
        Error::StreamFailed(StreamingQueryException { cause, .. }) => cause,
        error => error,
    }
}

/// Keeps everything that listeners are told.
#[derive(Debug, Default)]
pub struct Recorder {
    events: Mutex<Vec<Event>>,
}

/// Something that a listener was told.
#[derive(Debug, Clone)]
pub enum Event {
    Started(QueryStarted),
    Progress(StreamingQueryProgress),
    Idle(QueryIdle),
    Terminated(QueryTerminated),
}

impl Recorder {
    /// A recorder that `session` tells everything from now on.
    pub fn of(session: &Session) -> Arc<Self> {
        let recorder = Arc::new(Self::default());
        session.streams().add_listener(Arc::clone(&recorder) as Arc<dyn StreamingQueryListener>);
        recorder
    }

    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The reports of all batches.
    pub fn progress(&self) -> Vec<StreamingQueryProgress> {
        let reports = self.events().into_iter().filter_map(|event| match event {
            Event::Progress(progress) => Some(progress),
            _ => None,
        });
        reports.collect()
    }

    fn add(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

impl StreamingQueryListener for Recorder {
    fn on_query_started(&self, event: &QueryStarted) {
        self.add(Event::Started(event.clone()));
    }

    fn on_query_progress(&self, progress: &StreamingQueryProgress) {
        self.add(Event::Progress(progress.clone()));
    }

    fn on_query_idle(&self, event: &QueryIdle) {
        self.add(Event::Idle(event.clone()));
    }

    fn on_query_terminated(&self, event: &QueryTerminated) {
        self.add(Event::Terminated(event.clone()));
    }
}

/// Waits until `condition` holds, as long as it takes: the test runner's own time limit ends a wait
/// that never would.
pub async fn eventually(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}
