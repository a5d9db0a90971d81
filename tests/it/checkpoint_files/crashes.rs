//! A crash at every call and at every step of the disk, and what the next run makes of it.

use std::sync::Arc;

use object_store::memory::InMemory;
use tidemill::storage::{Durability, Storage, StorageProvider};
use tidemill::{Error, Result};
use url::Url;

use super::{Run, SharedJournal, checkpoint_with, storage, verify_finds_nothing};
use crate::support::faults::{Fault, Faults, Plan};
use crate::support::sim_disk::{Dice, DiskFault, SimDisk};

/// Runs into the fault; gives the process if the fault came.
async fn run_into(plan: Plan, run: Run, store: &InMemory) -> Result<Option<Faults>> {
    let faults = Faults::new(Some(plan));
    let ended = run.go(faults.storage(storage(store)?)).await;
    if !faults.fired() {
        ended?;
        return Ok(None);
    }
    assert!(ended.is_err() || !faults.is_dead(), "{plan:?}: the dead went on");
    Ok(Some(faults))
}

/// Every call of a run from `from` to `to` batches, in every way in which it can go wrong.
async fn crash_at_every_call(from: u64, to: u64, retain: u64) -> Result<()> {
    let (base, base_journal) = checkpoint_with(from, retain).await?;
    for fault in Fault::ALL {
        for call in 0.. {
            let (store, journal) = (base.fork(), base_journal.fork());
            let plan = Plan { call, fault };
            let Some(faults) = run_into(plan, Run::new(2, to, retain, &journal), &store).await? else {
                assert!(call as u64 > to - from, "no call was counted");
                break;
            };
            let when = format!("{fault:?} at {}", faults.calls()[call]);
            verify_finds_nothing(&*storage(&store)?, &when).await?;
            faults.revive();
            Run::new(3, to + 2, retain, &journal).go(faults.storage(storage(&store)?)).await?;
            verify_finds_nothing(&*storage(&store)?, &format!("{when}, and a run")).await?;
            journal.has_one_commit_per_batch();
        }
    }
    Ok(())
}

#[tokio::test]
async fn in_the_first_batches() -> Result<()> {
    crash_at_every_call(0, 11, 2).await
}

/// Ten segments become one.
#[tokio::test]
async fn while_segments_are_merged() -> Result<()> {
    crash_at_every_call(98, 101, 5).await
}

/// The fault comes while the next run recovers from the first.
#[tokio::test]
async fn during_recovery() -> Result<()> {
    let (base, base_journal) = checkpoint_with(98, 3).await?;
    for (first, second) in [(Fault::DieBefore, Fault::DieAfter), (Fault::DieAfter, Fault::DieBefore)] {
        for call in (0..).step_by(3) {
            let (crashed, journal) = (base.fork(), base_journal.fork());
            let plan = Plan { call, fault: first };
            if run_into(plan, Run::new(2, 100, 3, &journal), &crashed).await?.is_none() {
                break;
            }
            for call in (0..40).step_by(2) {
                let (store, journal) = (crashed.fork(), journal.fork());
                let plan = Plan { call, fault: second };
                run_into(plan, Run::new(3, 100, 3, &journal), &store).await?;
                Run::new(4, 101, 3, &journal).go(storage(&store)?).await?;
                verify_finds_nothing(&*storage(&store)?, &format!("{first:?}, then {second:?} at {call}"))
                    .await?;
                journal.has_one_commit_per_batch();
            }
        }
    }
    Ok(())
}

fn open(disk: &SimDisk) -> Result<Arc<dyn Storage>> {
    let url = Url::parse("file:///data/checkpoint/").map_err(|error| Error::Invalid(error.to_string()))?;
    disk.open(&url, Durability::Disk)
}

async fn disk_with(batches: u64, retain: u64) -> Result<(SimDisk, SharedJournal)> {
    let (disk, journal) = (SimDisk::new(), SharedJournal::default());
    Run::new(1, batches, retain, &journal).go(open(&disk)?).await?;
    Ok((disk.after_kill(), journal))
}

/// Every step on the disk, with and without a power cut.
async fn crash_at_every_step(from: u64, to: u64, retain: u64) -> Result<()> {
    let (base, base_journal) = disk_with(from, retain).await?;
    for fault in [DiskFault::DieBefore, DiskFault::DieAfter, DiskFault::Tear, DiskFault::Error(5)] {
        for step in 0.. {
            let (disk, journal) = (base.after_kill(), base_journal.fork());
            disk.fail_at(step, fault);
            let ended = Run::new(2, to, retain, &journal).go(open(&disk)?).await;
            if disk.steps() <= step {
                ended?;
                break;
            }
            assert!(
                ended.is_err() || fault == DiskFault::Error(5),
                "{fault:?} at step {step} was not noticed"
            );
            let seed = step as u64;
            for (name, disk) in [
                ("killed", disk.after_kill()),
                ("nothing unsynced left", disk.after_power_cut(0)),
                ("something unsynced left", disk.after_power_cut(2 + seed)),
            ] {
                let when = format!("{fault:?} at step {step}, {name}");
                let journal = journal.fork();
                verify_finds_nothing(&*open(&disk)?, &when).await?;
                Run::new(3, to + 1, retain, &journal).go(open(&disk)?).await?;
                verify_finds_nothing(&*open(&disk)?, &format!("{when}, and a run")).await?;
                journal.has_one_commit_per_batch();
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn at_every_step_of_the_disk_in_the_first_batches() -> Result<()> {
    crash_at_every_step(0, 2, 1).await
}

#[tokio::test]
async fn at_every_step_of_the_disk_while_segments_are_merged() -> Result<()> {
    crash_at_every_step(99, 101, 2).await
}

/// The storage of a file sink and of a checkpoint may be two; a process takes both with it.
#[tokio::test]
async fn a_process_dies_with_all_of_its_storages() -> Result<()> {
    let plan = Plan { call: 1, fault: Fault::DieAfter };
    let faults = Faults::new(Some(plan));
    let provider = faults.provider(Arc::new(SimDisk::new()));
    let url = |text| Url::parse(text).map_err(|error| Error::Invalid(error.to_string()));
    let open = |text| provider.open(&url(text)?, Durability::Disk);
    let (checkpoint, sink) = (open("file:///checkpoint/")?, open("file:///out/")?);
    let mut writer = sink.writer("part-0").await?;
    assert!(writer.write("rows".into()).await.is_err());
    assert!(faults.is_dead() && checkpoint.list("").await.is_err() && writer.finish().await.is_err());
    faults.revive();
    assert!(checkpoint.list("").await.is_err() && sink.list("").await.is_err());
    assert_eq!(open("file:///out/")?.list("").await?.len(), 1);
    assert_eq!(
        faults.calls().iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["writer part-0", "write part-0", "list "]
    );
    Ok(())
}

/// What a torn create leaves on a local disk is not seen by anybody.
#[tokio::test]
async fn a_torn_create_shows_nothing() -> Result<()> {
    let disk = SimDisk::new();
    let faults = Faults::new(Some(Plan { call: 0, fault: Fault::Tear }));
    assert!(faults.storage(open(&disk)?).create("offsets/0", "whole".into()).await.is_err());
    assert_eq!(disk.files().len(), 1);
    let survivor = open(&disk.after_power_cut(1))?;
    assert_eq!(survivor.list("offsets").await?, []);
    verify_finds_nothing(&*survivor, "torn").await
}

/// Several processes die one after another at random steps, some of them with the whole machine.
#[tokio::test]
async fn one_crash_after_another() -> Result<()> {
    let (base, base_journal) = disk_with(8, 1).await?;
    for seed in 0..150 {
        let mut dice = Dice(seed);
        let (mut disk, journal) = (base.after_kill(), base_journal.fork());
        for run in 2..8 {
            let fault = [DiskFault::DieBefore, DiskFault::DieAfter, DiskFault::Tear][dice.roll(3)];
            disk.fail_at(dice.roll(120), fault);
            // Whether it came to the fault does not matter.
            let _ = Run::new(run, 8 + run as u64, 1, &journal).go(open(&disk)?).await;
            disk = match dice.roll(3) {
                0 => disk.after_kill(),
                _ => disk.after_power_cut(dice.roll(1_000) as u64),
            };
            verify_finds_nothing(&*open(&disk)?, &format!("seed {seed}, run {run}")).await?;
        }
        Run::new(9, 25, 1, &journal).go(open(&disk)?).await?;
        verify_finds_nothing(&*open(&disk)?, &format!("seed {seed}, at the end")).await?;
        journal.has_one_commit_per_batch();
    }
    Ok(())
}
