//! Who acts in a story: the query in all its lives, a second process that takes it over, a feeder, a
//! killer, and readers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidemill::checkpoint::records::CommitRecord;
use tidemill::checkpoint::{frame, verify};
use tidemill::prelude::*;
use tidemill::state::{Manifest, RowBytes, read_state};
use tidemill::storage::{Durability, Storage, StorageProvider};
use tidemill::{Environment, Error, Result};
use tokio::task::JoinSet;

use super::disk::Process;
use super::story::{Story, fed, read_files};
use crate::stateful::rig::{self, CaptureFactory};
use crate::stateful::run::History;
use crate::support::harness::cause;
use crate::support::outcome::directory_url;
use crate::support::sim_disk::Dice;

const MILLI: usize = 1000;

/// The whole story, up to where the query has read everything in peace.
pub async fn play(story: &Arc<Story>) -> std::result::Result<(), String> {
    let over = Arc::new(AtomicBool::new(false));
    let mut actors = JoinSet::new();
    actors.spawn(live(Arc::clone(story), Arc::clone(&over)));
    actors.spawn(take_over(Arc::clone(story), Arc::clone(&over)));
    actors.spawn(kill(Arc::clone(story), Arc::clone(&over)));
    actors.spawn(read(Arc::clone(story), Arc::clone(&over)));
    actors.spawn(set_the_clock(Arc::clone(story), Arc::clone(&over)));
    let mut history = History::new(story.seed);
    let mut dice = dice(story, 1);
    for _ in 0..8 + dice.roll(16) {
        wait(story, &mut dice, 700, "feeder").await;
        story.world().feed(&history.next());
    }
    over.store(true, Ordering::SeqCst);
    while let Some(ended) = actors.join_next().await {
        ended.map_err(|error| error.to_string())?;
    }
    story.machine.calm();
    for round in 0..2 {
        // Nothing new comes: what is due is due nevertheless. But what is left in files of the runs
        // before is removed only when a batch has run.
        if round == 1 && story.to_files {
            story.world().feed(&history.next());
        }
        let process = story.machine.process("last", true);
        let ended = run(story, &process, "checkpoint", Trigger::AvailableNow, &mut dice).await;
        process.exit();
        ended.map_err(|error| format!("the last runs: {error}"))?;
    }
    Ok(())
}

fn dice(story: &Story, actor: u64) -> Dice {
    Dice(story.seed * 100 + actor)
}

async fn wait(story: &Story, dice: &mut Dice, most_ms: usize, who: &str) {
    story.time.wait(1 + dice.roll(most_ms * MILLI) as u64, who).await;
}

/// Runs the query once, as a process.
async fn run(
    story: &Story,
    process: &Process,
    checkpoint: &str,
    trigger: Trigger,
    dice: &mut Dice,
) -> Result<()> {
    let environment = Environment {
        clock: Arc::new(story.time.clone()),
        ids: Arc::clone(&story.ids),
        storages: Some(Arc::new(process.clone())),
    };
    // Which rows come first must not depend on partitions where it matters.
    let partitions = if story.spec.rel.is_ordered() { 1 } else { [1, 2, 4][dice.roll(3)] };
    let is_wide = partitions > 1 && dice.roll(3) == 0;
    let config =
        SessionConfig::new().with_target_partitions(partitions).with_batch_size([8192, 1, 3][dice.roll(3)]);
    let session = Session::with_environment(SessionContext::new_with_config(config), environment);
    let (streams, sink) = {
        let world = story.world();
        (world.streams.clone(), world.sink.clone())
    };
    session.register_sink("capture", Arc::new(CaptureFactory(sink)));
    let frame = rig::frame(&session, &story.spec, &streams, is_wide).await?;
    let mut writer = frame
        .write_stream()
        .format(if story.to_files { "json" } else { "capture" })
        .output_mode(story.spec.mode)
        .trigger(trigger)
        .option("checkpointLocation", format!("{}/{checkpoint}", story.root))
        .option("statePartitions", [1, 2, 5][dice.roll(3)])
        .option("minBatchesToRetain", 1 + dice.roll(3));
    if dice.roll(3) == 0 {
        writer = writer.option("stateMemoryLimit", ["1B", "2KB"][dice.roll(2)]);
    }
    let longest = 100 + dice.roll(4000 * MILLI) as u64;
    let ending = if dice.roll(2) == 0 { StopMode::Finish } else { StopMode::Abandon };
    let out = format!("{}/out", story.root);
    let query = writer.start(story.to_files.then_some(out.as_str())).await?;
    tokio::select! {
        biased;
        () = process.death.cancelled() => query.stop(StopMode::Abandon).await,
        ended = query.await_termination() => ended,
        () = story.time.wait(longest, "stopper"), if !trigger.ends() => query.stop(ending).await,
    }
}

fn trigger(dice: &mut Dice) -> Trigger {
    match dice.roll(3) {
        0 => Trigger::AvailableNow,
        _ => Trigger::ProcessingTime(Duration::from_millis(50 + dice.roll(200) as u64)),
    }
}

/// Judges how a run ended: it may fail only if something happened to it, or if another took over.
fn judge(story: &Story, process: &Process, ended: &Result<()>) {
    let was_disturbed = process.exit();
    let Err(error) = ended else { return };
    let is_fenced = matches!(cause(error), Error::ConcurrentQuery { .. });
    if is_fenced && process.is_overlapped() && !process.is_owner() {
        story.facts().takeovers += 1;
    } else if !was_disturbed {
        story.problem(format!("process {} failed: {error}", process.id));
    }
}

/// The query, again and again.
async fn live(story: Arc<Story>, over: Arc<AtomicBool>) {
    let mut dice = dice(&story, 2);
    while !over.load(Ordering::SeqCst) {
        let process = story.machine.process("first", true);
        let trigger = trigger(&mut dice);
        let ended = run(&story, &process, "checkpoint", trigger, &mut dice).await;
        judge(&story, &process, &ended);
        wait(&story, &mut dice, 50, "first").await;
    }
}

/// The same query, as another process that may be started while the first one runs.
async fn take_over(story: Arc<Story>, over: Arc<AtomicBool>) {
    let mut dice = dice(&story, 3);
    loop {
        wait(&story, &mut dice, 6000, "second").await;
        if over.load(Ordering::SeqCst) {
            return;
        }
        let process = story.machine.process("second", true);
        let trigger = trigger(&mut dice);
        let ended = run(&story, &process, "checkpoint-2", trigger, &mut dice).await;
        judge(&story, &process, &ended);
    }
}

async fn kill(story: Arc<Story>, over: Arc<AtomicBool>) {
    let mut dice = dice(&story, 4);
    loop {
        wait(&story, &mut dice, 4000, "killer").await;
        if over.load(Ordering::SeqCst) {
            return;
        }
        match dice.roll(4) {
            0 => story.machine.cut_power(),
            _ => story.machine.kill_newest(),
        }
    }
}

/// Somebody who sets the machine's clock, forth and back.
async fn set_the_clock(story: Arc<Story>, over: Arc<AtomicBool>) {
    let mut dice = dice(&story, 6);
    while !over.load(Ordering::SeqCst) {
        wait(&story, &mut dice, 2000, "clock setter").await;
        let within_ms = [50, 5_000, 7_200_000][dice.roll(3)];
        story.time.set_clock(dice.roll(2 * within_ms) as i64 - within_ms as i64);
    }
}

/// Somebody who looks at everything.
async fn read(story: Arc<Story>, over: Arc<AtomicBool>) {
    let mut dice = dice(&story, 5);
    while !over.load(Ordering::SeqCst) {
        wait(&story, &mut dice, 1500, "reader").await;
        let process = story.machine.process("reader", false);
        let looked = match dice.roll(3) {
            0 if story.to_files => look_at_files(&story, &process).await,
            1 if !story.to_files => look_at_state(&story, &process).await,
            _ => look_at_checkpoint(&story, &process).await,
        };
        // Its disk went with the power.
        let was_disturbed = process.exit();
        if let (Err(problem), false) = (looked, was_disturbed) {
            story.problem(problem);
        }
    }
}

fn open(story: &Story, process: &Process) -> Arc<dyn Storage> {
    let checkpoint = directory_url(&format!("{}/checkpoint", story.root));
    process.open(&checkpoint, Durability::Process).unwrap()
}

async fn look_at_checkpoint(story: &Story, process: &Process) -> std::result::Result<(), String> {
    let report = verify(&*open(story, process)).await.map_err(|error| error.to_string())?;
    story.facts().verified += 1;
    if report.findings.is_empty() { Ok(()) } else { Err(report.to_string()) }
}

async fn newest(storage: &dyn Storage) -> Result<Option<u64>> {
    let files = storage.list("commits").await?;
    Ok(files.iter().filter_map(|file| file.path.strip_prefix("commits/")?.parse().ok()).max())
}

/// Reads the state of the newest batch: all of it is there, unless a newer batch has come meanwhile.
async fn look_at_state(story: &Story, process: &Process) -> std::result::Result<(), String> {
    let text = |error: Error| error.to_string();
    let storage = open(story, process);
    let Some(batch) = newest(&*storage).await.map_err(text)? else { return Ok(()) };
    let path = format!("commits/{batch}");
    let Some(body) = storage.read(&path).await.map_err(text)? else {
        let now = newest(&*storage).await.map_err(text)?;
        return if now > Some(batch) {
            Ok(())
        } else {
            Err(format!("{path} is gone, and {now:?} the newest"))
        };
    };
    let commit: CommitRecord = frame::decode(&path, &body).map_err(text)?;
    let manifest = Manifest::from_record(&commit.state).map_err(text)?;
    for (operator, known) in manifest.operators.iter().enumerate() {
        let mut rows = 0;
        let read = read_state(&storage, &manifest, operator, |some| {
            rows += some.keys.len() as u64;
            std::future::ready(Ok(()))
        });
        match read.await {
            Ok(()) if rows != known.rows => {
                return Err(format!(
                    "{rows} rows of operator {operator} after batch {batch}, not {}",
                    known.rows
                ));
            }
            Ok(()) => {}
            Err(error) => {
                let now = newest(&*storage).await.map_err(text)?;
                let is_old = now > Some(batch);
                return if is_old {
                    Ok(())
                } else {
                    Err(format!("state of batch {batch}, of {now:?}: {error}"))
                };
            }
        }
        let mut facts = story.facts();
        facts.states += 1;
        if operator == 0 {
            facts.rows_after.push((batch, rows));
        }
    }
    Ok(())
}

async fn look_at_files(story: &Story, process: &Process) -> std::result::Result<(), String> {
    let found = read_files(story, process).await?;
    story.facts().outputs += 1;
    let fed = fed(story, usize::MAX);
    match found.iter().find(|(id, value)| fed.get(id) != Some(value)) {
        Some(row) => Err(format!("nobody has fed {row:?}")),
        None => Ok(()),
    }
}
