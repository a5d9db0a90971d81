//! The real binary, killed again and again at random moments until its work is done: every row is
//! there once.
//!
//! About ten seconds by default; `TIDEMILL_KILL_LOOP_SECONDS` makes it last longer.

use std::fmt::Write as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::support::harness::{Place, eventually, id_lines, ids};
use crate::support::oracle;
use crate::support::sim_disk::Dice;

const DEFAULT_SECONDS: u64 = 10;
const FILES: i64 = 40;
const ROWS_PER_FILE: i64 = 50;

/// A job over `FILES` files, in the way that `dice` choose.
fn place(dice: &mut Dice) -> (Place, &'static str) {
    let place = Place::new();
    for file in 0..FILES {
        let first = file * ROWS_PER_FILE;
        place.put(&format!("in/{file:02}.json"), id_lines(first..first + ROWS_PER_FILE));
    }
    let format = ["parquet", "json", "csv"][dice.roll(3)];
    let directories = ["", "PARTITIONED BY (bucket)"][dice.roll(2)];
    let mut sql = String::new();
    let _ = write!(
        sql,
        "CREATE UNBOUNDED EXTERNAL TABLE input (id BIGINT) STORED AS JSON LOCATION '{}'
             OPTIONS ('maxFilesPerTrigger' '{}');
         CREATE EXTERNAL TABLE output STORED AS {format} {directories} LOCATION '{}';
         CREATE STREAMING QUERY etl CHECKPOINT LOCATION '{}'
             OPTIONS ('minBatchesToRetain' '{}', 'durability' '{}')
         AS INSERT INTO output SELECT id, id % 3 AS bucket FROM input WHERE id % 7 <> 0;",
        place.text("in"),
        1 + dice.roll(4),
        place.text("out"),
        place.text("checkpoint"),
        1 + dice.roll(5),
        ["disk", "process"][dice.roll(2)],
    );
    place.put("job.sql", sql);
    (place, format)
}

fn start(place: &Place, trigger: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.arg("run").arg(place.path("job.sql")).args(["--trigger", trigger, "--progress", "none"]);
    command.stderr(Stdio::piped()).spawn().unwrap()
}

/// How the process ends within `patience`; `None` if it has to be killed.
fn end_within(process: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            return Some(status);
        }
        if started.elapsed() >= patience {
            process.kill().unwrap();
            process.wait().unwrap();
            return None;
        }
        thread::sleep(Duration::from_micros(500));
    }
}

#[test]
fn a_binary_that_is_killed_all_the_time_loses_and_doubles_nothing() {
    let seconds = std::env::var("TIDEMILL_KILL_LOOP_SECONDS").ok().and_then(|text| text.parse().ok());
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(DEFAULT_SECONDS));
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
    let seed =
        std::env::var("TIDEMILL_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(u64::from(nanos));
    println!("TIDEMILL_SEED={seed}");
    let mut dice = Dice(seed);
    let (mut jobs, mut kills) = (0, 0);
    while jobs < 2 || Instant::now() < until {
        let (place, format) = place(&mut dice);
        // The whole job takes a few times ten milliseconds once it is optimised. Killed during start-up
        // nothing gets done, so the patience grows until something is.
        let mut patience = Duration::from_millis(10);
        loop {
            let wait = Duration::from_micros(dice.roll(patience.as_micros() as usize) as u64);
            let mut process = start(&place, "available-now");
            match end_within(&mut process, wait) {
                None => {
                    kills += 1;
                    patience += Duration::from_millis(5);
                }
                Some(status) => {
                    let stderr = std::io::read_to_string(process.stderr.take().unwrap()).unwrap();
                    assert!(status.success(), "seed {seed}, after {kills} kills: {status}: {stderr}");
                    break;
                }
            }
            check_nothing_twice(&place, format, seed);
        }
        let columns = [("id", oracle::Kind::Int), ("bucket", oracle::Kind::Int)];
        let expected: Vec<i64> = (0..FILES * ROWS_PER_FILE).filter(|id| id % 7 != 0).collect();
        assert_eq!(ids(place.rows(format, &columns)), expected, "seed {seed}, after {kills} kills");
        assert_eq!(oracle::hidden(&place.path("out")), Vec::<String>::new(), "seed {seed}");
        jobs += 1;
    }
    println!("{jobs} jobs, {kills} kills");
    assert!(kills > jobs, "{kills} kills in {jobs} jobs are too few");
}

/// Also between kills a plain reader sees each row at most once, in whole files.
fn check_nothing_twice(place: &Place, format: &str, seed: u64) {
    let visible = ids(place.rows(format, &[("id", oracle::Kind::Int), ("bucket", oracle::Kind::Int)]));
    assert!(visible.windows(2).all(|pair| pair[0] < pair[1]), "seed {seed}: rows are there twice");
}

#[tokio::test]
async fn a_polite_signal_ends_the_binary_with_success() {
    for name in ["TERM", "INT"] {
        let mut dice = Dice(0);
        let (place, format) = place(&mut dice);
        let mut process = start(&place, "default");
        eventually(|| !oracle::visible(&place.path("out")).is_empty()).await;
        let id = process.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
        let status = process.wait().unwrap();
        let stderr = std::io::read_to_string(process.stderr.take().unwrap()).unwrap();
        assert_eq!(status.code(), Some(0), "SIG{name}: {stderr}");
        // The batch in flight was finished: nothing staged, and every batch that was planned is done.
        assert_eq!(oracle::hidden(&place.path("out")), Vec::<String>::new(), "SIG{name}");
        let numbers = |directory: &str| {
            crate::support::committed::numbers(&place.path("checkpoint").join(directory)).last().copied()
        };
        assert_eq!(numbers("offsets"), numbers("commits"), "SIG{name}");
        check_nothing_twice(&place, format, 0);

        let mut rest = start(&place, "available-now");
        assert!(rest.wait().unwrap().success());
        let expected: Vec<i64> = (0..FILES * ROWS_PER_FILE).filter(|id| id % 7 != 0).collect();
        let columns = [("id", oracle::Kind::Int), ("bucket", oracle::Kind::Int)];
        assert_eq!(ids(place.rows(format, &columns)), expected);
    }
}
