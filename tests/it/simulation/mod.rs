//! Queries in a simulated world: simulated time, a simulated disk on which calls take long or fail,
//! processes that are killed, power cuts, a second process that takes the checkpoint over, and readers
//! of everything meanwhile. One seed is one story, to the last call.
//!
//! `SIMULATION_SEEDS` is how many stories there are, `SIMULATION_FIRST` the seed of the first;
//! `SIMULATION_TRACE` is a file for the calls of the last one.

mod actors;
mod disk;
mod story;
mod time;

use std::collections::BTreeMap;

use disk::{Seen, Toxic};
use story::{Facts, tell};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// What happened in some stories.
#[derive(Debug, Default)]
struct Totals {
    batches: usize,
    processes: usize,
    kills: usize,
    power_cuts: usize,
    toxics: BTreeMap<Toxic, usize>,
    /// By parts of the lines of traces.
    events: BTreeMap<&'static str, usize>,
    facts: Facts,
}

/// Whether the line of a trace is one of a kind.
type IsOne = fn(&str) -> bool;

const EVENTS: [(&str, IsOne); 5] = [
    ("state merged", |line| {
        let (_, name) = line.split_once(" create checkpoint/state/").unwrap_or_default();
        let mut batches = name.split('-').map(|number| number.parse::<u64>().ok());
        name.contains("New") && batches.next() != batches.next()
    }),
    ("state removed", |line| line.contains(" delete checkpoint/state/")),
    ("history merged", |line| line.contains(" create checkpoint/history/")),
    ("plans purged", |line| line.contains(" delete checkpoint/offsets/")),
    ("files published", |line| line.contains(" rename out/.tidemill")),
];

impl Totals {
    fn add(&mut self, seen: &Seen, facts: &Facts) {
        self.batches += seen.commits.len();
        self.processes += seen.processes;
        self.kills += seen.kills;
        self.power_cuts += seen.power_cuts;
        for (toxic, count) in &seen.toxics {
            *self.toxics.entry(*toxic).or_default() += count;
        }
        for (name, is_one) in EVENTS {
            *self.events.entry(name).or_default() += seen.trace.iter().filter(|line| is_one(line)).count();
        }
        self.facts.add(facts);
    }
}

/// Enough for everything to happen often.
const SEEDS: u64 = 340;

#[test]
fn nothing_that_happens_to_a_query_changes_what_it_gives() {
    let (first, seeds) = (number("SIMULATION_FIRST", 1), number("SIMULATION_SEEDS", SEEDS));
    let mut totals = Totals::default();
    let mut problems = Vec::new();
    for seed in first..first + seeds {
        // A panic has said what it is about already.
        let told = std::panic::catch_unwind(|| tell("all", seed));
        let (seen, facts, ended) =
            told.unwrap_or_else(|_| (Seen::default(), Facts::default(), Err("it ended with a panic".into())));
        totals.add(&seen, &facts);
        if let Err(problem) = ended {
            problems.push(format!("SIMULATION_FIRST={seed} SIMULATION_SEEDS=1: {problem}"));
        }
        if let Ok(file) = std::env::var("SIMULATION_TRACE") {
            std::fs::write(file, seen.trace.join("\n")).unwrap();
        }
    }
    println!("{totals:#?}");
    let shown = problems.iter().take(5).cloned().collect::<Vec<_>>().join("\n\n");
    assert!(problems.is_empty(), "{} of {seeds} stories went wrong:\n{shown}", problems.len());
    if seeds >= SEEDS {
        totals.check();
    }
}

impl Totals {
    /// Fails if something did not happen at all.
    fn check(&self) {
        let Facts { takeovers, verified, states, states_compared, .. } = self.facts;
        let counts = [self.kills, self.power_cuts, takeovers, verified, states, states_compared];
        assert!(counts.iter().all(|count| *count >= 100), "{self:#?}");
        assert!(self.toxics.len() == 6 && self.toxics.values().all(|count| *count >= 20), "{self:#?}");
        assert!(self.events.values().all(|count| *count >= 50), "{self:#?}");
    }
}

#[test]
fn the_same_seed_is_the_same_story_to_the_last_call() {
    for seed in 1..=number("SIMULATION_TWICE", 8) {
        let ((once, ..), (again, ..)) = (tell("twice", seed), tell("twice", seed));
        let differs = once.trace.iter().zip(&again.trace).position(|(a, b)| a != b);
        if let Some(at) = differs {
            let around = |trace: &[String]| trace[at.saturating_sub(5)..(at + 5).min(trace.len())].join("\n");
            panic!("seed {seed}, call {at}:\n{}\n\nand\n{}", around(&once.trace), around(&again.trace));
        }
        assert_eq!(once.trace.len(), again.trace.len(), "seed {seed}");
        assert!(once.trace.len() > 100, "seed {seed}: {} calls", once.trace.len());
    }
}
