//! One story: a query, what happens to it, and whether its result is right in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidemill::OutputMode;
use tidemill::checkpoint::verify;
use tidemill::id::{IdGenerator, SequentialIds};
use tidemill::storage::{Durability, StorageProvider};

use super::actors;
use super::disk::{Machine, Seen};
use super::time::{Time, simulate};
use crate::stateful::check::Checker;
use crate::stateful::model::{Expr, Rel, agg, bin, col, op};
use crate::stateful::queries::{Spec, timed, untimed};
use crate::stateful::rig::World;
use crate::stateful::values::{Row, Value};
use crate::support::oracle;
use crate::support::outcome::directory_url;

/// What actors saw.
#[derive(Debug, Default, Clone)]
pub struct Facts {
    /// Runs that another one took over from.
    pub takeovers: usize,
    /// Checks of the checkpoint.
    pub verified: usize,
    /// Reads of the state, and those whose number of rows the interpreter knows.
    pub states: usize,
    pub states_compared: usize,
    /// Reads of the output.
    pub outputs: usize,
    /// Rows of the first operator that were read after a batch.
    pub rows_after: Vec<(u64, u64)>,
    /// What must not be.
    pub problems: Vec<String>,
}

impl Facts {
    pub fn add(&mut self, other: &Facts) {
        self.takeovers += other.takeovers;
        self.verified += other.verified;
        self.states += other.states;
        self.states_compared += other.states_compared;
        self.outputs += other.outputs;
    }
}

/// What all actors share.
#[derive(Debug)]
pub struct Story {
    pub seed: u64,
    pub time: Time,
    pub machine: Machine,
    pub world: Mutex<World>,
    pub spec: Spec,
    /// Whether the rows go to files.
    pub to_files: bool,
    /// Where output and checkpoint are; of no other query that runs at the same time.
    pub root: String,
    pub ids: Arc<dyn IdGenerator>,
    pub facts: Mutex<Facts>,
}

impl Story {
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn problem(&self, problem: String) {
        let text = format!("at {} us: {problem}", self.time.now_us());
        self.facts().problems.push(text);
    }
}

/// The query of a story, and whether its rows go to files.
fn query(seed: u64) -> (Spec, bool) {
    let stream = || Rel::Stream(0);
    let both = || Rel::Union(Box::new(Rel::Stream(0)), Box::new(Rel::Stream(1)));
    let some = || vec![agg("count", "*"), agg("sum", "f"), agg("min", "name"), agg("array_agg", "v")];
    let few = || vec![agg("count", "*"), agg("sum", "v")];
    let distinct = || vec![agg("count", "v").distinct(), agg("sum", "v"), agg("max", "name")];
    let columns = vec![(col("id"), "id"), (col("v"), "v")];
    let spec = match seed % 8 {
        0 => untimed(stream().project(columns), OutputMode::Append),
        1 => timed(stream().windowed(10, 10, 0).group(vec![(col("w"), "w")], few()), OutputMode::Append),
        2 => untimed(stream().group(vec![(col("k"), "k")], distinct()), OutputMode::Update),
        3 => untimed(stream().group(vec![(col("k"), "k")], some()), OutputMode::Update),
        4 => timed(Rel::Within(0, vec!["v".into()]), OutputMode::Append),
        5 => {
            timed(both().distinct_on(&["ts", "name"]).group(vec![(bin(10), "t")], few()), OutputMode::Append)
        }
        6 => timed(both().group(vec![(bin(10), "t"), (col("k"), "k")], distinct()), OutputMode::Append),
        _ => untimed(
            stream().filter(op(col("v"), ">", Expr::Int(0))).group(vec![(col("name"), "name")], few()),
            OutputMode::Complete,
        ),
    };
    (spec, seed.is_multiple_of(8))
}

/// Tells the story of a seed. `place` keeps stories apart that are told at the same time.
pub fn tell(place: &str, seed: u64) -> (Seen, Facts, Result<(), String>) {
    let (spec, to_files) = query(seed);
    let root = format!("/simulation/{place}/{seed}");
    simulate(|time| async move {
        let story = Arc::new(Story {
            seed,
            machine: Machine::new(time.clone(), seed),
            time,
            world: Mutex::new(World::new(spec.clone())),
            spec,
            to_files,
            root,
            ids: Arc::new(SequentialIds::default()),
            facts: Mutex::default(),
        });
        let ended = match actors::play(&story).await {
            Ok(()) => check(&story).await,
            failed => failed,
        };
        let facts = story.facts().clone();
        let problems = facts.problems.iter().cloned().chain(ended.err()).collect::<Vec<_>>();
        let ended = if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) };
        (story.machine.seen(), facts, ended)
    })
}

/// Checks what is there when everything is over.
async fn check(story: &Story) -> Result<(), String> {
    let text = |error: tidemill::Error| error.to_string();
    let seen = story.machine.seen();
    if !seen.violations.is_empty() {
        return Err(seen.violations.join(", "));
    }
    let batches: Vec<u64> = seen.commits.keys().copied().collect();
    if batches != (0..batches.len() as u64).collect::<Vec<_>>() {
        return Err(format!("commits {batches:?}"));
    }
    let checkpoint = directory_url(&format!("{}/checkpoint", story.root));
    let storage = story.machine.disk().open(&checkpoint, Durability::Disk).map_err(text)?;
    let report = verify(&*storage).await.map_err(text)?;
    if !report.findings.is_empty() || report.batches != batches.len() as u64 {
        return Err(format!("{} batches: {report}", batches.len()));
    }
    match story.to_files {
        true => check_files(story).await,
        false => check_batches(story, &seen),
    }
}

fn check_batches(story: &Story, seen: &Seen) -> Result<(), String> {
    let world = story.world();
    let mut checker = Checker::new(&story.spec);
    let rows_after: BTreeSet<(u64, u64)> = story.facts().rows_after.iter().copied().collect();
    for batch in seen.commits.keys() {
        checker.check_next(&world, &seen.offsets[batch])?;
        let Some(expected) = checker.interpreter.remembered() else { continue };
        for (_, rows) in rows_after.range((*batch, 0)..(*batch + 1, 0)) {
            if *rows != expected as u64 {
                return Err(format!("{rows} rows of state were read after batch {batch}, not {expected}"));
            }
            story.facts().states_compared += 1;
        }
    }
    checker.check_done(&world)
}

/// The rows of files of which readers see the names: each at most once, and each from the stream.
pub async fn read_files(
    story: &Story,
    storages: &dyn StorageProvider,
) -> Result<BTreeMap<i64, Value>, String> {
    let text = |error: tidemill::Error| error.to_string();
    let out = directory_url(&format!("{}/out", story.root));
    let storage = storages.open(&out, Durability::Disk).map_err(text)?;
    let mut found = BTreeMap::new();
    for file in storage.list("").await.map_err(text)? {
        if oracle::is_hidden(&file.path) {
            continue;
        }
        let Some(body) = storage.read(&file.path).await.map_err(text)? else { continue };
        for row in oracle::read_bytes(body.to_vec(), &file.path, "json", &[]) {
            let id = row["id"].as_i64().unwrap();
            let value = row.get("v").and_then(|v| v.as_i64()).map_or(Value::Null, Value::Int);
            if found.insert(id, value).is_some() {
                return Err(format!("the row {id} is there twice"));
            }
        }
    }
    Ok(found)
}

/// The rows that were fed, up to this offset.
pub fn fed(story: &Story, end: usize) -> BTreeMap<i64, Value> {
    let world = story.world();
    let rows: Vec<Row> = world.fed[0][..end.min(world.fed[0].len())].concat();
    rows.iter().map(|row| (row[0].int().unwrap(), row[4].clone())).collect()
}

async fn check_files(story: &Story) -> Result<(), String> {
    let disk = story.machine.disk();
    let found = read_files(story, &disk).await?;
    let expected = fed(story, usize::MAX);
    if found != expected {
        return Err(format!("found {found:?}, not {expected:?}"));
    }
    let out = directory_url(&format!("{}/out", story.root));
    let staged = disk.open(&out, Durability::Disk).unwrap().list(".tidemill").await.unwrap();
    if staged.is_empty() { Ok(()) } else { Err(format!("left behind: {staged:?}")) }
}
