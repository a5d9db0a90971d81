//! The real binary for a long time, killed every five seconds: what it gives stays right, and what it takes stays
//! the same.
//!
//! Twenty seconds by default, two minutes in CI (`TIDEMILL_SOAK_SECONDS`), thirty minutes with `--ignored`.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use walkdir::WalkDir;

use crate::support::harness::Place;
use crate::support::oracle::Kind;

const LIFE: Duration = Duration::from_secs(5);
/// Rows of a file, of which there are twenty a second.
const ROWS: i64 = 20;
/// A row each so many milliseconds of event time.
const STEP: i64 = 10;
const WINDOW: i64 = 1000;

fn job(place: &Place) -> String {
    format!(
        "CREATE UNBOUNDED EXTERNAL TABLE input (id BIGINT, ts TIMESTAMP) STORED AS JSON LOCATION '{}'
           OPTIONS ('cleanSource' 'delete', 'minFileAge' '0 seconds');
         CREATE EXTERNAL TABLE output STORED AS JSON LOCATION '{}';
         CREATE STREAMING QUERY soak CHECKPOINT LOCATION '{}'
           OPTIONS ('minBatchesToRetain' '5', 'durability' 'process')
         AS INSERT INTO output
         SELECT CAST(window.start AS VARCHAR) AS start, count(*) AS n, sum(id) AS total
         FROM STREAM input WATERMARK ts DELAY OF INTERVAL '2' SECOND GROUP BY window(ts, '1 second');",
        place.text("in"),
        place.text("out"),
        place.text("checkpoint"),
    )
}

fn time(id: i64) -> String {
    let time = chrono::DateTime::from_timestamp_millis(1_800_000_000_000 + id * STEP).unwrap();
    time.format("%Y-%m-%dT%H:%M:%S%.3f").to_string()
}

fn start(place: &Place, trigger: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.arg("run").arg(place.path("job.sql")).args(["--progress", "none"]).args(trigger);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What the process and its checkpoint take.
#[derive(Debug, Clone, Copy)]
struct Taken {
    seconds: f64,
    resident_kb: f64,
    descriptors: f64,
    objects: f64,
    bytes: f64,
}

fn taken(process: &Child, place: &Place, started: Instant) -> Taken {
    let folder = format!("/proc/{}", process.id());
    let status = std::fs::read_to_string(format!("{folder}/status")).unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    let files = WalkDir::new(place.path("checkpoint")).into_iter().flatten();
    let sizes: Vec<u64> = files
        .filter_map(|file| file.metadata().ok())
        .filter(|known| known.is_file())
        .map(|known| known.len())
        .collect();
    Taken {
        seconds: started.elapsed().as_secs_f64(),
        resident_kb: resident.trim().trim_end_matches("kB").trim().parse().unwrap_or(0.0),
        descriptors: std::fs::read_dir(format!("{folder}/fd")).map_or(0.0, |all| all.count() as f64),
        objects: sizes.len() as f64,
        bytes: sizes.iter().sum::<u64>() as f64,
    }
}

/// By how much something grows a second: the straight line that is nearest to what was seen.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(&|point| point.0), mean(&|point| point.1));
    let above: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let below: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if below == 0.0 { 0.0 } else { above / below }
}

fn soak(length: Duration) {
    let place = Place::new();
    place.put("job.sql", job(&place));
    let (ended, files, started) = (AtomicBool::new(false), AtomicI64::new(0), Instant::now());
    let mut samples: Vec<Taken> = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                let file = files.load(Ordering::SeqCst);
                let rows = (file * ROWS..(file + 1) * ROWS)
                    .map(|id| format!("{{\"id\":{id},\"ts\":\"{}\"}}\n", time(id)))
                    .collect::<String>();
                place.put(&format!("in/{file:08}.json"), rows);
                files.store(file + 1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(50));
            }
        });
        while started.elapsed() < length {
            let mut process = start(&place, &[]);
            thread::sleep(LIFE);
            samples.push(taken(&process, &place, started));
            let alive = process.try_wait().unwrap();
            if let Some(status) = alive {
                ended.store(true, Ordering::SeqCst);
                panic!("{status}: {}", std::io::read_to_string(process.stderr.take().unwrap()).unwrap());
            }
            process.kill().unwrap();
            process.wait().unwrap();
        }
        ended.store(true, Ordering::SeqCst);
    });
    let last = start(&place, &["--trigger", "available-now"]).wait_with_output().unwrap();
    assert!(last.status.success(), "{}", String::from_utf8_lossy(&last.stderr));
    check(&place, files.load(Ordering::SeqCst) * ROWS);

    // The first lives fill caches, and the checkpoint up to what it retains.
    let settled = &samples[(samples.len() / 3).min(samples.len() - 1)..];
    let seconds = settled.last().unwrap().seconds - settled[0].seconds;
    for (name, of, slack) in [
        ("resident kB", (|taken: &Taken| taken.resident_kb) as fn(&Taken) -> f64, 30_000.0),
        ("file descriptors", |taken| taken.descriptors, 10.0),
        ("objects of the checkpoint", |taken| taken.objects, 60.0),
        ("bytes of the checkpoint", |taken| taken.bytes, 300_000.0),
    ] {
        let points: Vec<(f64, f64)> = settled.iter().map(|taken| (taken.seconds, of(taken))).collect();
        let slope = slope(&points);
        println!("{name}: {:.0} to {:.0}, slope {slope:.3} a second", points[0].1, points.last().unwrap().1);
        assert!(slope * seconds < slack, "{name} grow by {slope:.3} a second: {points:?}");
    }
}

/// Every window that is over is there once, with all of its rows.
fn check(place: &Place, rows: i64) {
    let columns = [("start", Kind::Text), ("n", Kind::Int), ("total", Kind::Int)];
    let mut found: Vec<(String, i64, i64)> = place
        .rows("json", &columns)
        .iter()
        .map(|row| {
            let start = row["start"].as_str().unwrap().to_string();
            (start, row["n"].as_i64().unwrap(), row["total"].as_i64().unwrap())
        })
        .collect();
    found.sort();
    let each = WINDOW / STEP;
    let over = ((rows - 1) * STEP - 2000) / WINDOW;
    let expected: Vec<(String, i64, i64)> = (0..over)
        .map(|window| {
            let ids = window * each..(window + 1) * each;
            (time(window * each).trim_end_matches(".000").to_string(), each, ids.sum())
        })
        .collect();
    assert!(over > 5, "{rows} rows");
    assert_eq!(found, expected);
}

#[test]
fn what_a_query_takes_stays_the_same_however_often_it_is_killed() {
    let seconds = std::env::var("TIDEMILL_SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    soak(Duration::from_secs(seconds.unwrap_or(20)));
}

#[test]
#[ignore = "it takes half an hour"]
fn it_stays_the_same_for_half_an_hour() {
    soak(Duration::from_secs(1800));
}
