//! Jobs between topics, killed at any moment. `TIDEMILL_KILLS` says how often (8 otherwise; 200 come with a million
//! records); with `TIDEMILL_BIN` it is the command that is killed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Broker, producer, send};

const PARTITIONS: i32 = 4;
const KEYS: usize = 50;
/// So many numbers a minute of event time.
const A_MINUTE: usize = 600;
/// So many numbers for each time that something is killed, at least.
const A_KILL: usize = 5000;

/// What runs a script as a process of its own: the command that `TIDEMILL_BIN` names, or this test binary, which has
/// all of it but the command line.
fn command(script: &Path, until_now: bool) -> Command {
    let Some(binary) = std::env::var_os("TIDEMILL_BIN") else {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "kills::job", "--ignored", "--nocapture"]).env(SCRIPT, script);
        if until_now {
            command.env(UNTIL_NOW, "1");
        }
        return command;
    };
    let mut command = Command::new(binary);
    command.args(["run".as_ref(), script.as_os_str(), "--progress".as_ref(), "none".as_ref()]);
    if until_now {
        command.args(["--trigger", "available-now"]);
    }
    command
}

const PATIENCE: Duration = Duration::from_secs(90);

const SCRIPT: &str = "TIDEMILL_TEST_SCRIPT";
const UNTIL_NOW: &str = "TIDEMILL_TEST_UNTIL_NOW";

/// The process that is killed; see [`command`].
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of the tests below"]
async fn job() {
    let Some(script) = std::env::var_os(SCRIPT) else { return };
    let script = std::fs::read_to_string(script).unwrap();
    let trigger = std::env::var_os(UNTIL_NOW).map(|_| tidemill::Trigger::AvailableNow);
    let sql = crate::support::sql().with_trigger(trigger);
    let mut queries = Vec::new();
    for statement in sql.parse(&script).unwrap() {
        if let tidemill::sql::SqlOutcome::Query(started) = sql.execute(&statement).await.unwrap() {
            queries.push(started.query);
        }
    }
    for query in queries {
        query.await_termination().await.unwrap();
    }
}

struct Job {
    script: PathBuf,
    _directory: tempfile::TempDir,
}

impl Job {
    /// Copies the topic `from` to `copies`, counts by key into `counts`, and by minute into `minutes`.
    fn new(servers: &str, [from, copies, counts, minutes]: [&str; 4]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("job.sql");
        let checkpoint = |name: &str| directory.path().join(name).display().to_string();
        let sink = |topic: &str| {
            format!(
                "STORED AS KAFKA OPTIONS ('kafka.bootstrap.servers' '{servers}', 'topic' '{topic}', 'value.format' 'json'"
            )
        };
        let text = format!(
            "CREATE UNBOUNDED EXTERNAL TABLE numbers (n BIGINT, at TIMESTAMP, WATERMARK FOR at AS at - INTERVAL '1 second')
             STORED AS KAFKA OPTIONS (
                 'kafka.bootstrap.servers' '{servers}', 'subscribe' '{from}', 'startingOffsets' 'earliest',
                 'value.format' 'json', 'maxOffsetsPerTrigger' '3000');
             CREATE EXTERNAL TABLE copies {});
             CREATE EXTERNAL TABLE counts {}, 'key.format' 'json');
             CREATE EXTERNAL TABLE minutes {});
             CREATE STREAMING QUERY copy CHECKPOINT LOCATION '{}' AS INSERT INTO copies SELECT n FROM numbers;
             CREATE STREAMING QUERY count OUTPUT MODE UPDATE CHECKPOINT LOCATION '{}'
                 AS INSERT INTO counts SELECT n % {KEYS} AS k, count(*) AS c FROM numbers GROUP BY n % {KEYS};
             CREATE STREAMING QUERY minute CHECKPOINT LOCATION '{}'
                 AS INSERT INTO minutes SELECT min(n) AS first, count(*) AS c FROM numbers GROUP BY window(at, '1 minute');",
            sink(copies),
            sink(counts),
            sink(minutes),
            checkpoint("copy"),
            checkpoint("count"),
            checkpoint("minute")
        );
        std::fs::write(&script, text).unwrap();
        Self { script, _directory: directory }
    }

    fn start(&self) -> Child {
        let mut command = command(&self.script, false);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Runs to the end of what there is.
    fn finish(&self) {
        let output = command(&self.script, true).stdin(Stdio::null()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    }
}

fn kills() -> u32 {
    std::env::var("TIDEMILL_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(8)
}

fn message(number: usize) -> String {
    let seconds = number * 60 / A_MINUTE;
    let (day, rest) = (seconds / 86_400 + 1, seconds % 86_400);
    format!(
        "{{\"n\":{number},\"at\":\"2026-01-{day:02}T{:02}:{:02}:{:02}\"}}",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// Numbers from 0 on, `least` at least, until it is told to stop; gives how many.
fn feed(broker: &Broker, topic: &str, least: usize, is_over: &AtomicBool) -> usize {
    let producer = producer(broker, None);
    let mut sent = 0;
    while !is_over.load(Ordering::Relaxed) || sent < least {
        let partition = (sent / 500) as i32 % PARTITIONS;
        send(&producer, topic, partition, (sent..sent + 500).map(message));
        sent += 500;
        std::thread::sleep(Duration::from_millis(40));
    }
    sent
}

/// Every number once in `copies`, the last count of every key right, and every minute that is over once in `minutes`.
fn check(broker: &Broker, [copies, counts, minutes]: [&str; 3], sent: usize) {
    let value = |text: Option<String>| -> tidemill::serde_json::Value {
        tidemill::serde_json::from_str(&text.unwrap()).unwrap()
    };
    let mut copied: Vec<u64> =
        broker.read(copies).into_iter().map(|read| value(read.value)["n"].as_u64().unwrap()).collect();
    copied.sort_unstable();
    let twice = copied.windows(2).filter(|pair| pair[0] == pair[1]).count();
    copied.dedup();
    assert_eq!((twice, sent - copied.len()), (0, 0), "(twice, lost) of {sent}");
    let mut last = BTreeMap::new();
    for read in broker.read(counts) {
        let row = value(read.value);
        let (key, count) = (row["k"].as_u64().unwrap(), row["c"].as_u64().unwrap());
        let before = last.insert(key, count);
        assert!(before.is_none_or(|before| before < count), "counts only grow: {before:?}, {count} of {key}");
    }
    let expected: BTreeMap<u64, u64> = (0..KEYS as u64).map(|key| (key, (sent / KEYS) as u64)).collect();
    assert_eq!(last, expected);
    let mut found: Vec<(u64, u64)> = broker
        .read(minutes)
        .into_iter()
        .map(|read| value(read.value))
        .map(|row| (row["first"].as_u64().unwrap(), row["c"].as_u64().unwrap()))
        .collect();
    found.sort_unstable();
    // The watermark is a second behind the last number.
    let over = (sent - 1 - A_MINUTE / 60) / A_MINUTE;
    let expected: Vec<_> = (0..over).map(|minute| ((minute * A_MINUTE) as u64, A_MINUTE as u64)).collect();
    assert_eq!(found, expected, "minutes of {sent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_nothing_is_twice_when_the_command_is_killed() {
    let Some(broker) = Broker::shared() else { return };
    let from = broker.topic("kill-from", PARTITIONS, &[]).await;
    let (copies, counts) =
        (broker.topic("kill-copies", 2, &[]).await, broker.topic("kill-counts", 1, &[]).await);
    let minutes = broker.topic("kill-minutes", 2, &[]).await;
    let job = Job::new(&broker.servers(), [&from, &copies, &counts, &minutes]);
    let is_over = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let feeding = scope.spawn(|| feed(broker, &from, kills() as usize * A_KILL, &is_over));
        for kill in 0..kills() {
            let mut child = job.start();
            // From the start on to the middle of the tenth batch or so.
            std::thread::sleep(Duration::from_millis(150 + u64::from(kill * 7919 % 1700)));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
        feeding.join().unwrap()
    });
    let copied = broker.peek(&copies, 2).len();
    eprintln!("killed {} times; {copied} of {sent} records were copied by then", kills());
    job.finish();
    check(broker, [&copies, &counts, &minutes], sent);
}

/// A process that stands still, as after a long pause of its machine, while another one has taken over, can write
/// nothing when it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_nothing_is_twice_when_a_process_stands_still_and_goes_on() {
    let Some(broker) = Broker::shared() else { return };
    let from = broker.topic("still-from", PARTITIONS, &[]).await;
    let (copies, counts) =
        (broker.topic("still-copies", 2, &[]).await, broker.topic("still-counts", 1, &[]).await);
    let minutes = broker.topic("still-minutes", 2, &[]).await;
    let job = Job::new(&broker.servers(), [&from, &copies, &counts, &minutes]);
    let is_over = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let feeding = scope.spawn(|| feed(broker, &from, 2000, &is_over));
        let grows = |process: &mut Child| {
            let (began, before) = (Instant::now(), broker.peek(&copies, 2).len());
            while broker.peek(&copies, 2).len() == before {
                assert!(began.elapsed() < PATIENCE, "nothing is written");
                assert!(process.try_wait().unwrap().is_none(), "it has ended");
                std::thread::sleep(Duration::from_millis(50));
            }
        };
        let mut running = job.start();
        grows(&mut running);
        for round in 0..kills().div_ceil(4) {
            // Anywhere in a batch.
            std::thread::sleep(Duration::from_millis(u64::from(round * 37 % 200)));
            signal(&running, "-STOP");
            let mut next = job.start();
            grows(&mut next);
            signal(&running, "-CONT");
            let began = Instant::now();
            let ended = loop {
                if let Some(status) = running.try_wait().unwrap() {
                    break status;
                }
                assert!(began.elapsed() < PATIENCE, "it goes on beside the one that has taken over");
                std::thread::sleep(Duration::from_millis(50));
            };
            assert!(!ended.success());
            grows(&mut next);
            running = next;
        }
        running.kill().unwrap();
        running.wait().unwrap();
        is_over.store(true, Ordering::Relaxed);
        feeding.join().unwrap()
    });
    job.finish();
    check(broker, [&copies, &counts, &minutes], sent);
}

fn signal(process: &Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &process.id().to_string()]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_nothing_is_twice_when_the_broker_is_killed() {
    let Some(mut broker) = Broker::start() else { return };
    let from = broker.topic("from", PARTITIONS, &[]).await;
    let (copies, counts) = (broker.topic("copies", 2, &[]).await, broker.topic("counts", 1, &[]).await);
    let minutes = broker.topic("minutes", 2, &[]).await;
    let job = Job::new(&broker.servers(), [&from, &copies, &counts, &minutes]);
    let sent = feed(&broker, &from, 2000, &AtomicBool::new(true));
    let mut more = sent;
    for kill in 0..kills().div_ceil(4) {
        let mut child = job.start();
        std::thread::sleep(Duration::from_millis(1500 + u64::from(kill * 619 % 1500)));
        broker.restart();
        let producer = producer(&broker, None);
        send(&producer, &from, 0, (more..more + 1000).map(message));
        more += 1000;
        std::thread::sleep(Duration::from_millis(1000));
        // It goes on by itself, or ended with an error.
        let _ = child.kill();
        child.wait().unwrap();
    }
    job.finish();
    check(&broker, [&copies, &counts, &minutes], more);
}
