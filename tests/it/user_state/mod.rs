//! Stateful logic of a program's own, checked after every batch by plain Rust that keeps all batches so far and
//! computes everything anew.

mod forms;
mod oracle;
mod rig;
mod schema;
mod timers;

use tidemill::processor::{ProcessorTester, TimeMode};
use tidemill::{Environment, OutputMode};

use self::oracle::{Fed, Out};
use self::rig::{Everything, History, Setting, World, input_schema, output_schema};
use crate::support::faults::{Fault, Faults, Plan};
use crate::support::outcome::{disks, environment};

const MODES: [TimeMode; 3] = [TimeMode::None, TimeMode::ProcessingTime, TimeMode::EventTime];

/// Runs some batches with a start of the query for each, and checks all that were given after each. Gives how many
/// timers have expired.
async fn run(mode: TimeMode, seed: u64, settings: &[Setting]) -> usize {
    let mut world = World::new(mode);
    let mut history = History::new(seed);
    for (number, setting) in settings.iter().enumerate() {
        world.feed(history.next());
        let environment = world.environment();
        world.run(environment, setting).await.unwrap();
        let context = format!("{mode:?}, seed {seed}, start {number}, {setting:?}");
        world.check(&context);
    }
    let outputs = world.outputs().into_iter().flatten();
    let (timers, rows): (Vec<Out>, Vec<Out>) = outputs.partition(|out| out.what == "timer");
    assert!(!rows.is_empty());
    timers.len()
}

#[tokio::test]
async fn a_processor_gives_what_plain_rust_gives_after_every_start() {
    for mode in MODES {
        let mut timers = 0;
        for seed in 0..4 {
            let setting = |state_partitions| Setting { state_partitions, ..Setting::default() };
            let settings: Vec<Setting> = [1, 2, 5, 2, 1, 5, 1, 2].map(setting).into();
            timers += run(mode, seed, &settings).await;
        }
        assert_eq!(timers > 3, mode != TimeMode::None, "{mode:?}: {timers} timers");
    }
}

#[tokio::test]
async fn a_processor_gives_the_same_when_it_runs_in_parallel_and_when_its_state_is_on_disk() {
    for mode in MODES {
        for seed in 10..12 {
            let spilling =
                Setting { memory_limit: Some("1B"), state_partitions: 2, wide: seed % 2 == 0, partitions: 3 };
            let wide = Setting { wide: true, state_partitions: 5, ..Setting::default() };
            let settings =
                [spilling.clone(), wide.clone(), spilling.clone(), spilling, wide, Setting::default()];
            run(mode, seed, &settings).await;
        }
    }
}

/// One run of a query that dies at a call, and its next lives. Gives the number of calls.
async fn crash(mode: TimeMode, seed: u64, plan: Option<Plan>) -> usize {
    let mut world = World::new(mode);
    let mut history = History::new(seed);
    let mut faults = Faults::new(plan);
    let mut calls = 0;
    for _ in 0..4 {
        world.feed(history.next());
        for life in 0.. {
            assert!(life < 4, "{mode:?} {plan:?}");
            let setting = Setting { state_partitions: 1 + life % 3, ..Setting::default() };
            let storages = environment(faults.provider(disks())).storages;
            let ended = world.run(Environment { storages, ..world.environment() }, &setting).await;
            calls = faults.calls().len();
            let Err(error) = ended else { break };
            assert!(faults.fired(), "{mode:?} {plan:?}: {error}");
            faults = Faults::new(None);
        }
        world.check(&format!("{mode:?} {plan:?}"));
    }
    for (batch, attempts) in world.sink.attempts() {
        let sorted = |rows: &Vec<_>| {
            let mut rows = rows.clone();
            rows.sort();
            rows
        };
        assert!(attempts.iter().all(|rows| sorted(rows) == sorted(&attempts[0])), "batch {batch}, {plan:?}");
    }
    calls
}

#[tokio::test]
async fn a_crash_at_any_storage_call_changes_nothing() {
    let every = std::env::var("STATEFUL_CRASH_EVERY").map_or(23, |text| text.parse().unwrap());
    for (index, mode) in MODES.into_iter().enumerate() {
        let seed = 20 + index as u64;
        let calls = crash(mode, seed, None).await;
        assert!(calls > 20);
        let all = (0..calls).flat_map(|call| Fault::ALL.map(|fault| Plan { call, fault }));
        for plan in all.skip(index).step_by(every) {
            crash(mode, seed, Some(plan)).await;
        }
    }
}

#[tokio::test]
async fn one_run_gives_what_many_starts_give() {
    for mode in [TimeMode::None, TimeMode::EventTime] {
        let mut world = World::new(mode);
        let mut history = History::new(31);
        let (_session, query) = world.start(world.environment(), &Setting::default(), None).await.unwrap();
        for _ in 0..6 {
            world.feed(history.next());
            query.process_all_available().await.unwrap();
        }
        query.stop(tidemill::StopMode::Finish).await.unwrap();
        // The clock goes on by itself when a query waits, so that its batches are looked up.
        world.check_as_planned(&format!("{mode:?}"));
    }
}

/// The tester runs a processor as a query does.
#[test]
fn the_tester_gives_what_plain_rust_gives() {
    for mode in MODES {
        let processor = Everything { mode };
        let make = || ProcessorTester::new(processor, input_schema(), &["k"], output_schema(), mode).unwrap();
        let mut tester = make();
        let mut history = History::new(40);
        let mut batches: Vec<Fed> = Vec::new();
        let mut now = 0;
        for step in 0..8 {
            let rows = history.next();
            now += rows.wait_ms;
            let moved = std::time::Duration::from_millis(rows.wait_ms as u64);
            batches.push(Fed { rows: Vec::new(), now_ms: now, late: None, watermark: None });
            let mut found = vec![tester.advance_time(moved).unwrap()];
            batches.push(Fed { rows: rows.rows.clone(), now_ms: now, late: None, watermark: None });
            found.push(
                tester.process_batches(vec![rig::batch_of(&rows.rows)]).map(|all| rig::outs(&all)).unwrap(),
            );
            let expected = oracle::simulate(mode, &batches);
            for (found, expected) in found.into_iter().zip(&expected[expected.len() - 2..]) {
                let (mut found, mut expected): (Vec<Out>, Vec<Out>) = (found, expected.clone());
                found.sort();
                expected.sort();
                assert_eq!(found, expected, "{mode:?} step {step}");
            }
            if step == 4 {
                let snapshot = tester.snapshot().unwrap();
                tester = make();
                tester.restore(&snapshot).unwrap();
                assert_eq!(tester.snapshot().unwrap(), snapshot);
            }
        }
    }
}

#[tokio::test]
async fn with_the_output_mode_update_a_row_takes_the_place_of_the_one_before() {
    let world = World::new(TimeMode::None);
    let session = world.session(world.environment(), &Setting::default());
    let frame = world.frame(&session, &Setting::default()).await.unwrap();
    let refused = |frame: tidemill::prelude::DataFrame, mode| async move {
        use tidemill::prelude::*;
        let ended = frame.write_stream().format("noop").output_mode(mode).start(None).await;
        ended.map(drop).unwrap_err().to_string()
    };
    let error = refused(world.transform(frame, OutputMode::Update).unwrap(), OutputMode::Append).await;
    assert!(error.contains("a processor with OutputMode::Update, in output mode append"), "{error}");
    let frame = world.frame(&session, &Setting::default()).await.unwrap();
    let error = refused(world.transform(frame, OutputMode::Append).unwrap(), OutputMode::Complete).await;
    assert!(error.contains("output mode complete"), "{error}");
    let frame = world.frame(&session, &Setting::default()).await.unwrap();
    let error = world.transform(frame, OutputMode::Complete).unwrap_err().to_string();
    assert!(error.contains("not all rows with every batch"), "{error}");
}
