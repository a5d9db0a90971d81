//! Queries over keys whose hashes are the same as far as tables look at them.

use tidemill::prelude::*;
use tidemill::state::hash_key;
use tidemill::{Environment, OutputMode};

use super::check::Checker;
use super::model::{Rel, agg, bin, col};
use super::queries::{Spec, timed, untimed};
use super::rig::World;
use super::run::{History, setting};
use crate::support::sim_disk::Dice;

/// How many of the low bits of a hash say where a key is in a table: which part of it, and the tag.
const BITS: u32 = 36;

/// Numbers that collide as keys: each with one or more of the others.
fn colliding_numbers() -> Vec<i64> {
    let mut dice = Dice(36);
    let numbers: Vec<i64> = (0..1 << 20).map(|_| dice.roll(1 << 40) as i64).collect();
    // A number as a key (`docs/checkpoint-format.md`).
    let key = |number: i64| [&[1][..], &(number ^ i64::MIN).to_be_bytes()].concat();
    let hash = |number: i64| hash_key(&key(number)) & ((1 << BITS) - 1);
    let mut hashes: Vec<(u64, i64)> = numbers.iter().map(|number| (hash(*number), *number)).collect();
    hashes.sort_unstable();
    hashes.dedup();
    let pairs = hashes.windows(2).filter(|pair| pair[0].0 == pair[1].0);
    pairs.flat_map(|pair| [pair[0].1, pair[1].1]).collect()
}

fn specs() -> Vec<Spec> {
    let stream = || Rel::Stream(0);
    let some = || vec![agg("count", "*"), agg("sum", "v"), agg("array_agg", "v")];
    let distinct = || vec![agg("count", "k").distinct(), agg("sum", "k").distinct()];
    vec![
        untimed(stream().group(vec![(col("k"), "k")], some()), OutputMode::Update),
        untimed(stream().group(vec![(col("k"), "k")], some()), OutputMode::Complete),
        untimed(stream().group(vec![(col("name"), "name")], distinct()), OutputMode::Update),
        untimed(stream().distinct_on(&["k"]), OutputMode::Append),
        timed(stream().group(vec![(bin(10), "t")], distinct()), OutputMode::Append),
        timed(Rel::Within(0, vec!["k".into()]), OutputMode::Append),
    ]
}

#[tokio::test]
async fn keys_that_collide_are_told_apart() {
    let keys = colliding_numbers();
    assert!(keys.len() >= 6, "{keys:?}");
    for (index, spec) in specs().into_iter().enumerate() {
        for round in 0..4 {
            let seed = (index * 10 + round) as u64;
            let (mut dice, mut history) = (Dice(seed), History::new(seed));
            history.keys.clone_from(&keys);
            let (mut world, mut checker) = (World::new(spec.clone()), Checker::new(&spec));
            for start in 0..3 {
                let mut setting = setting(&mut dice, !spec.rel.is_ordered() && round == 3);
                // At first all keys are in one table.
                setting.state_partitions = 1 + start;
                setting.memory_limit = [None, Some("1B")][round % 2];
                let (session, query) = world.start(Environment::default(), &setting).await.unwrap();
                for _ in 0..2 {
                    world.feed(&history.next());
                    query.process_all_available().await.unwrap();
                    let checked = checker.check_all(&world);
                    checked.unwrap_or_else(|problem| panic!("{}, seed {seed}: {problem}", spec.rel.sql()));
                }
                query.stop(StopMode::Finish).await.unwrap();
                drop(session);
            }
        }
    }
}
