//! `tidemill test`: a job tried on rows that stand beside what it should give for them.

mod clock;
pub(super) mod compare;
mod script;
mod stage;

pub(super) use stage::{AS_WRITTEN, plain};

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::TableReference;
use tidemill::sink::memory::MemoryTable;
use tidemill::sql::{Located, SqlOutcome, SqlSession, Statement};
use tidemill::{Environment, Error, OutputMode, Session, Trigger};

use super::exit::Exit;
use super::text::Script;
use clock::TestClock;
use script::{Action, Step, TestFile};
use stage::Stage;

/// What the clock shows at first: the beginning of 2000.
const START_MS: i64 = 946_684_800_000;

/// `tidemill test FILE…`
pub(super) async fn run(names: &[String], update: bool) -> Result<(), Exit> {
    let mut failed = 0;
    for name in names {
        let text = fs::read_to_string(name);
        let text = text.map_err(|error| Exit::usage(format!("cannot read '{name}': {error}")))?;
        let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
        let file = TestFile::parse(&text)
            .map_err(|(line, reason)| Exit::usage(format!("{name}:{line}: {reason}")))?;
        let mut test = Test::new(name, &file)?;
        let outcome = test.run(&file.steps, update).await?;
        if update && !test.corrections.is_empty() {
            let corrected = corrected(&text, &test.corrections);
            fs::write(name, corrected)
                .map_err(|error| Exit::failed(format!("cannot write '{name}': {error}")))?;
        }
        failed += usize::from(outcome.differences > if update { test.corrections.len() } else { 0 });
        say(&outcome.to_string(name, update.then_some(test.corrections.len())))?;
    }
    if failed > 0 { Err(Exit::failed_silently()) } else { Ok(()) }
}

fn say(line: &str) -> Result<(), Exit> {
    writeln!(std::io::stdout().lock(), "{line}").map_err(|error| Exit::output(&error))
}

/// How a test ended.
#[derive(Debug, Default)]
struct Outcome {
    expectations: usize,
    differences: usize,
}

impl Outcome {
    /// What is said of it, if so many expectations were `updated`.
    fn to_string(&self, name: &str, updated: Option<usize>) -> String {
        let Self { expectations, differences } = self;
        match updated.unwrap_or(0) {
            0 if *differences == 0 => format!("{name}: as expected ({expectations} of {expectations})"),
            updated if updated == *differences => {
                format!("{name}: updated ({updated} of {expectations} changed)")
            }
            0 => format!("{name}: FAILED ({differences} of {expectations} are not as expected)"),
            updated => format!(
                "{name}: FAILED ({updated} of {expectations} changed, {} are not as expected and cannot be)",
                differences - updated
            ),
        }
    }
}

/// New rows for lines of the file, from an index to another.
type Correction = (std::ops::Range<usize>, Vec<String>);

/// `text` with other rows where they were not as expected.
fn corrected(text: &str, corrections: &[Correction]) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    for (range, rows) in corrections.iter().rev() {
        lines.splice(range.clone(), rows.iter().map(String::as_str));
    }
    lines.into_iter().flat_map(|line| [line, "\n"]).collect()
}

/// What the batches of a query gave since the expectation before, or why it failed.
type Given = Result<Vec<RecordBatch>, String>;

/// A test file that is being run, in a folder of its own.
struct Test {
    name: String,
    /// The scripts of the job, and last the test file itself.
    scripts: Vec<Script>,
    stage: Stage,
    /// For each statement, which script it is of.
    script_of: Vec<usize>,
    sql: SqlSession,
    clock: Arc<TestClock>,
    /// Queries of which the file expects an error somewhere.
    may_fail: Vec<String>,
    files: usize,
    corrections: Vec<Correction>,
    _folder: tempfile::TempDir,
}

impl Test {
    fn new(name: &str, file: &TestFile) -> Result<Self, Exit> {
        let folder = tempfile::tempdir();
        let folder =
            folder.map_err(|error| Exit::failed(format!("cannot make a temporary folder: {error}")))?;
        let clock = Arc::new(TestClock::new(START_MS));
        let environment = Environment { clock: Arc::clone(&clock) as _, ..Environment::default() };
        let session = Session::in_environment(environment);
        let sql = SqlSession::new(session).with_trigger(Some(Trigger::AvailableNow));
        let scripts = scripts(name, file)?;
        let (mut statements, mut script_of) = (Vec::new(), Vec::new());
        for (index, script) in scripts.iter().enumerate() {
            let parsed = sql.parse(&script.text);
            let parsed = parsed.map_err(|error| Exit::of(&error, script.describe(&error, (1, 1))))?;
            script_of.extend(parsed.iter().map(|_| index));
            statements.extend(parsed);
        }
        let fed = file.steps.iter().filter_map(|step| match &step.action {
            Action::Input { table, .. } => Some(table.clone()),
            _ => None,
        });
        let stage = Stage::set(statements, &fed.collect::<Vec<_>>(), folder.path());
        let stage = stage.map_err(|((line, column), reason)| {
            Exit::usage(format!("{name}: {reason} (line {line}, column {column} of the statements)"))
        })?;
        for (line, remembered) in &file.checkpoints {
            let place =
                || Exit::usage(format!("{name}:{line}: there is no streaming query '{}'", remembered.query));
            let known = stage.queries.iter().any(|(query, _)| *query == remembered.query);
            known.then_some(()).ok_or_else(place)?;
            let from = beside(name).join(&remembered.directory);
            copy_all(&from, &stage::checkpoint_of(&remembered.query, folder.path())).map_err(|error| {
                Exit::usage(format!("{name}:{line}: cannot copy '{}': {error}", from.display()))
            })?;
        }
        for table in &stage.tables {
            fs::create_dir_all(&table.directory).map_err(|error| Exit::failed(error.to_string()))?;
        }
        let failing = file.steps.iter().filter_map(|step| match &step.action {
            Action::Failure { query, .. } => Some(query.clone()),
            _ => None,
        });
        let (files, corrections, may_fail) = (0, Vec::new(), failing.collect());
        Ok(Self {
            name: name.into(),
            scripts,
            stage,
            script_of,
            sql,
            clock,
            may_fail,
            files,
            corrections,
            _folder: folder,
        })
    }

    async fn run(&mut self, steps: &[Step], update: bool) -> Result<Outcome, Exit> {
        let mut outcome = Outcome::default();
        let mut given: HashMap<String, Given> = HashMap::new();
        let (mut is_begun, mut is_new) = (false, true);
        for step in steps {
            match &step.action {
                Action::Input { table, directory, rows } => {
                    self.arrive(step.line, table, directory.as_deref(), rows)?;
                    is_new = true;
                    continue;
                }
                Action::Time { now_ms } => {
                    self.clock.set(*now_ms);
                    is_new = true;
                    continue;
                }
                Action::Output { .. } | Action::Failure { .. } => {}
            }
            if std::mem::take(&mut is_new) {
                self.batches(!is_begun, &mut given).await?;
                is_begun = true;
            }
            outcome.expectations += 1;
            let difference = self.compare(step, &given)?;
            if !difference.is_empty() {
                outcome.differences += 1;
                if !update || matches!(step.action, Action::Failure { .. }) {
                    say(&format!("{}:{}: {difference}", self.name, step.line))?;
                }
            }
        }
        Ok(outcome)
    }

    /// Puts a file of rows in place, by a rename.
    fn arrive(&mut self, line: u64, table: &str, directory: Option<&str>, rows: &str) -> Result<(), Exit> {
        let known: Vec<&str> = self.stage.tables.iter().map(|table| table.name.as_str()).collect();
        let Some(fed) = self.stage.tables.iter().find(|fed| fed.name == table) else {
            let known = known.join(", ");
            return Err(Exit::usage(format!(
                "{}:{line}: there is no external table '{table}'; there are: {known}",
                self.name
            )));
        };
        self.files += 1;
        let directory = directory.map_or(fed.directory.clone(), |name| fed.directory.join(name));
        let file = format!("{:06}.{}", self.files, fed.extension);
        let put = || {
            fs::create_dir_all(&directory)?;
            let hidden = directory.join(format!(".{file}"));
            fs::write(&hidden, rows)?;
            fs::rename(&hidden, directory.join(&file))
        };
        put().map_err(|error| Exit::failed(format!("{}:{line}: {error}", self.name)))
    }

    /// Runs the queries over what has arrived; the first time all other statements, too.
    async fn batches(&self, is_first: bool, given: &mut HashMap<String, Given>) -> Result<(), Exit> {
        let mut started = Vec::new();
        for (statement, script) in self.stage.statements.iter().zip(&self.script_of) {
            let query = match &statement.value {
                Statement::CreateStreamingQuery(query) => {
                    Some(query.name.value.trim_end_matches(stage::TESTED).to_string())
                }
                _ if !is_first => continue,
                _ => None,
            };
            match (self.sql.execute(statement).await, query) {
                (Ok(SqlOutcome::Query(query)), Some(name)) => started.push((name, query.query)),
                (Ok(_), _) => {}
                (Err(error), Some(name)) if self.may_fail.contains(&name) => {
                    given.insert(name, Err(error.to_string()));
                }
                (Err(error), _) => return Err(self.exit(*script, statement, &error)),
            }
        }
        for (name, query) in started {
            let rows = match query.await_termination().await {
                Ok(()) => Ok(self.rows(&name).await?),
                Err(error) => Err(error.to_string()),
            };
            let mode = self.stage.queries.iter().find(|(query, _)| *query == name).map(|(_, mode)| *mode);
            // Without a batch the whole result is what it was.
            let stays = mode == Some(OutputMode::Complete)
                && rows.as_ref().is_ok_and(|rows| rows.iter().all(|batch| batch.num_rows() == 0));
            if !stays || !given.contains_key(&name) {
                given.insert(name, rows);
            }
        }
        Ok(())
    }

    fn exit(&self, script: usize, statement: &Located<Statement>, error: &Error) -> Exit {
        Exit::of(error, self.scripts[script].describe(error, (statement.line, statement.column)))
    }

    /// What the newest run of `query` has put into its table.
    async fn rows(&self, query: &str) -> Result<Vec<RecordBatch>, Exit> {
        let name = TableReference::bare(format!("{query}{}", stage::TESTED));
        let table = self.sql.session().context().table_provider(name).await;
        let table = table.map_err(|error| Exit::from(Error::from(error)))?;
        Ok(table.downcast_ref::<MemoryTable>().map(MemoryTable::rows).unwrap_or_default())
    }

    /// What is not as expected, in lines; empty if all is.
    fn compare(&mut self, step: &Step, given: &HashMap<String, Given>) -> Result<String, Exit> {
        let (Action::Output { query, .. } | Action::Failure { query, .. }) = &step.action else {
            return Ok(String::new());
        };
        let Some(given) = given.get(query) else {
            let known: Vec<&str> = self.stage.queries.iter().map(|(name, _)| name.as_str()).collect();
            let (name, line, known) = (&self.name, step.line, known.join(", "));
            return Err(Exit::usage(format!(
                "{name}:{line}: there is no streaming query '{query}'; there are: {known}"
            )));
        };
        Ok(match (&step.action, given) {
            (Action::Output { in_order, rows, lines, .. }, Ok(batches)) => {
                let new = compare::lines(batches, compare::is_json(rows));
                let new =
                    new.map_err(|error| Exit::failed(format!("{query} gave what cannot be shown: {error}")))?;
                let difference = compare::differences(rows, &new, *in_order);
                if difference.is_empty() {
                    return Ok(difference);
                }
                self.corrections.push((lines.clone(), new));
                format!("{query} gave other rows (- expected, + given)\n{}", difference.trim_end())
            }
            (Action::Output { .. }, Err(error)) => format!("{query} failed: {error}"),
            (Action::Failure { text, .. }, Err(error)) if error.contains(text.as_str()) => String::new(),
            (Action::Failure { text, .. }, Err(error)) => {
                format!("{query} failed, but not with '{text}': {error}")
            }
            (Action::Failure { .. }, Ok(_)) => format!("{query} was expected to fail, and did not"),
            (Action::Input { .. } | Action::Time { .. }, _) => String::new(),
        })
    }
}

/// Where what a test file names is looked for.
fn beside(name: &str) -> &Path {
    Path::new(name).parent().unwrap_or(Path::new(""))
}

/// Copies a directory with all that is in it.
fn copy_all(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_all(&source, &target)?;
        } else {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

/// The scripts of the job, and last the file's own statements. Jobs are beside the test file.
fn scripts(name: &str, file: &TestFile) -> Result<Vec<Script>, Exit> {
    let mut scripts = Vec::new();
    for (line, job) in &file.jobs {
        let path = beside(name).join(job);
        let text = fs::read_to_string(&path);
        let text = text.map_err(|error| {
            Exit::usage(format!("{name}:{line}: cannot read '{}': {error}", path.display()))
        })?;
        scripts.push(Script {
            name: path.display().to_string(),
            text: text.trim_start_matches('\u{feff}').into(),
        });
    }
    scripts.push(Script { name: name.to_string(), text: file.statements.clone() });
    Ok(scripts)
}
