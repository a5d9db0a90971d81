//! Two runs on one checkpoint: never two commits of a batch, and the older one finds out.

use object_store::memory::InMemory;
use tidemill::checkpoint::{Checkpoint, verify};
use tidemill::{Error, Result};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{Run, SharedJournal, checkpoint_with, storage, verify_finds_nothing};
use crate::support::faults::Faults;
use crate::support::sim_disk::Dice;

/// A run that stops before some call, or has ended before it came there.
struct Held {
    faults: Faults,
    run: JoinHandle<Result<()>>,
    is_held: bool,
}

impl Held {
    async fn start(run: Run, call: usize, store: &InMemory) -> Result<Self> {
        Self::start_in(Faults::holding_at(call), run, store).await
    }

    async fn start_in(faults: Faults, run: Run, store: &InMemory) -> Result<Self> {
        let storage = faults.storage(storage(store)?);
        Ok(Self::spawn(faults, run.go(storage)).await)
    }

    async fn spawn(faults: Faults, work: impl Future<Output = Result<()>> + Send + 'static) -> Self {
        let mut held = Self { faults, run: tokio::spawn(work), is_held: false };
        held.wait().await;
        held
    }

    /// Waits until the run stands at a call or has ended.
    async fn wait(&mut self) {
        self.is_held = tokio::select! {
            biased;
            () = self.faults.held() => true,
            () = ended(&self.run) => false,
        };
    }

    /// Lets it make one call.
    async fn step(&mut self) {
        self.faults.release();
        self.wait().await;
    }

    /// Lets it go on; whether it came to its end, or was told that it is not alone.
    async fn finish(self) -> bool {
        self.faults.release();
        match self.run.await {
            Ok(Ok(())) => true,
            Ok(Err(Error::ConcurrentQuery { checkpoint, .. })) => {
                assert_eq!(checkpoint, "memory:///checkpoint/");
                false
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn ended(run: &JoinHandle<Result<()>>) {
    while !run.is_finished() {
        tokio::task::yield_now().await;
    }
}

/// The call at which a run is stopped, as text.
fn last_call(held: &Held) -> String {
    held.faults.calls().last().map(ToString::to_string).unwrap_or_default()
}

/// One run sleeps at every point in turn while another lives its whole life: long enough to purge
/// what the sleeper is about to write.
#[tokio::test]
async fn a_run_wakes_up_after_another() -> Result<()> {
    let (base, base_journal) = checkpoint_with(8, 1).await?;
    let mut fenced = Vec::new();
    for call in 0.. {
        let (store, journal) = (base.fork(), base_journal.fork());
        let older = Held::start(Run::new(2, 12, 1, &journal), call, &store).await?;
        if !older.is_held {
            assert!(older.finish().await);
            break;
        }
        let at = last_call(&older);
        let has_claimed = older.faults.calls().iter().any(|call| call.path == "metadata");
        Run::new(3, 35, 1, &journal).go(storage(&store)?).await?;
        let came_through = older.finish().await;
        if has_claimed && (at.contains("offsets/") || at.contains("commits/")) && at.starts_with("create") {
            assert!(!came_through, "{at} went through");
            fenced.push(at.clone());
        }
        journal.has_one_commit_per_batch();
        verify_finds_nothing(&*storage(&store)?, &at).await?;
        Run::new(4, 37, 1, &journal).go(storage(&store)?).await?;
        verify_finds_nothing(&*storage(&store)?, &at).await?;
    }
    let expected =
        (8..12).flat_map(|batch| [format!("create offsets/{batch}"), format!("create commits/{batch}")]);
    assert_eq!(fenced, expected.collect::<Vec<_>>());
    Ok(())
}

/// Both sleep, each at every point, and the older one wakes up first.
#[tokio::test]
async fn two_runs_interleave_at_every_pair_of_points() -> Result<()> {
    let (base, base_journal) = checkpoint_with(8, 1).await?;
    'older: for older_call in 0.. {
        for younger_call in 0.. {
            let (store, journal) = (base.fork(), base_journal.fork());
            let older = Held::start(Run::new(2, 10, 1, &journal), older_call, &store).await?;
            if !older.is_held {
                break 'older;
            }
            let younger = Held::start(Run::new(3, 11, 1, &journal), younger_call, &store).await?;
            let ended = !younger.is_held;
            let when = format!("{} | {}", last_call(&older), last_call(&younger));
            older.finish().await;
            younger.finish().await;
            and_another_run(&store, &journal, &when).await?;
            if ended {
                break;
            }
        }
    }
    Ok(())
}

/// Three runs, of which any makes the next call at any time.
#[tokio::test]
async fn three_runs_take_turns_at_random() -> Result<()> {
    let (base, base_journal) = checkpoint_with(7, 1).await?;
    for seed in 0..300 {
        let mut dice = Dice(seed);
        let (store, journal) = (base.fork(), base_journal.fork());
        let mut runs = Vec::new();
        for (id, batches) in [(2, 11), (3, 12), (4, 13)] {
            runs.push(Held::start_in(Faults::stepping(), Run::new(id, batches, 1, &journal), &store).await?);
        }
        while runs.iter().any(|run| run.is_held) {
            let next = dice.roll(runs.len());
            // Sometimes one call, sometimes a stretch of them.
            for _ in 0..[1, 1, 5, 30][dice.roll(4)] {
                if runs[next].is_held {
                    runs[next].step().await;
                }
            }
        }
        for run in runs {
            run.finish().await;
        }
        and_another_run(&store, &journal, &format!("seed {seed}")).await?;
    }
    Ok(())
}

/// A check beside running queries sees files come and go, and none of that is a finding.
#[tokio::test]
async fn a_check_beside_running_queries_finds_nothing() -> Result<()> {
    for seed in 0..300 {
        let mut dice = Dice(seed);
        let (store, journal) = checkpoint_with(seed % 12, 1).await?;
        let checker = Faults::stepping();
        let checked = checker.storage(storage(&store)?);
        let check = async move {
            let report = verify(&*checked).await?;
            if report.findings.is_empty() { Ok(()) } else { Err(Error::Invalid(report.to_string())) }
        };
        let mut all = vec![Held::spawn(checker, check).await];
        for (id, batches) in [(2, 31), (3, 32)] {
            all.push(Held::start_in(Faults::stepping(), Run::new(id, batches, 1, &journal), &store).await?);
        }
        while all[0].is_held {
            // The check is slow: most of the time the queries go on.
            let next = dice.roll(all.len());
            for _ in 0..if next == 0 { 1 } else { dice.roll(30) } {
                if all[next].is_held {
                    all[next].step().await;
                }
            }
        }
        assert!(all.remove(0).finish().await, "seed {seed}");
        for run in all {
            run.faults.release_all();
            run.finish().await;
        }
    }
    Ok(())
}

/// Whatever happened before, all is well and the query goes on.
async fn and_another_run(store: &InMemory, journal: &SharedJournal, when: &str) -> Result<()> {
    journal.has_one_commit_per_batch();
    verify_finds_nothing(&*storage(store)?, when).await?;
    Run::new(9, 15, 1, journal).go(storage(store)?).await?;
    verify_finds_nothing(&*storage(store)?, when).await?;
    journal.has_one_commit_per_batch();
    Ok(())
}

/// The usual case: both are awake, and the older one writes next.
#[tokio::test]
async fn the_younger_run_goes_on_and_the_older_one_stops() -> Result<()> {
    let (store, _) = checkpoint_with(3, 10).await?;
    let (older, _) = Checkpoint::open(storage(&store)?, Uuid::from_u128(2)).await?;
    older.write_offsets(&super::offsets(2, 3)).await?;
    let (younger, _) = Checkpoint::open(storage(&store)?, Uuid::from_u128(3)).await?;
    for refused in [
        older.write_commit(&super::commit(2, 3)).await,
        older.maintain(10, &|_, entries| entries).await,
        older.create_metadata(&super::metadata()).await,
    ] {
        assert!(matches!(&refused, Err(Error::ConcurrentQuery { .. })), "{refused:?}");
        let text = refused.map_err(|error| error.to_string());
        assert!(text.is_err_and(|text| text.contains("memory:///checkpoint/") && text.contains("fence/2 is gone")));
    }
    younger.write_commit(&super::commit(3, 3)).await?;
    younger.write_offsets(&super::offsets(3, 4)).await?;
    younger.write_commit(&super::commit(3, 4)).await
}

/// An older run that was waiting for data plans nothing that a younger one would stumble over.
#[tokio::test]
async fn an_overtaken_run_plans_nothing() -> Result<()> {
    let (store, _) = checkpoint_with(3, 10).await?;
    let (older, _) = Checkpoint::open(storage(&store)?, Uuid::from_u128(2)).await?;
    let (younger, _) = Checkpoint::open(storage(&store)?, Uuid::from_u128(3)).await?;
    let refused = older.write_offsets(&super::offsets(2, 3)).await;
    assert!(matches!(refused, Err(Error::ConcurrentQuery { .. })));
    younger.write_offsets(&super::offsets(3, 3)).await?;
    younger.write_commit(&super::commit(3, 3)).await
}

/// Batches are written in their order, and each write may be repeated.
#[tokio::test]
async fn writes_come_in_order_and_may_be_repeated() -> Result<()> {
    let store = InMemory::new();
    let (checkpoint, _) = Checkpoint::open(storage(&store)?, Uuid::from_u128(1)).await?;
    let refused = |result: Result<()>| matches!(result, Err(Error::Invalid(_)));
    assert!(refused(checkpoint.write_offsets(&super::offsets(1, 0)).await), "before the metadata");
    checkpoint.create_metadata(&super::metadata()).await?;
    checkpoint.create_metadata(&super::metadata()).await?;
    assert!(refused(checkpoint.write_commit(&super::commit(1, 0)).await));
    assert!(refused(checkpoint.write_offsets(&super::offsets(1, 1)).await));
    for batch in 0..3 {
        checkpoint.write_offsets(&super::offsets(1, batch)).await?;
        checkpoint.write_offsets(&super::offsets(1, batch)).await?;
        assert!(refused(checkpoint.write_commit(&super::commit(1, batch + 1)).await));
        checkpoint.write_commit(&super::commit(1, batch)).await?;
        checkpoint.write_commit(&super::commit(1, batch)).await?;
        assert!(refused(checkpoint.write_offsets(&super::offsets(1, batch)).await));
    }
    let other = checkpoint.write_commit(&super::commit(2, 2)).await;
    assert!(matches!(other, Err(Error::ConcurrentQuery { .. })));
    Ok(())
}
