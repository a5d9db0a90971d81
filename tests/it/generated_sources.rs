//! The sources without files: `rate`, `rate-micro-batch` and `socket`.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::{Int64Type, TimestampNanosecondType};
use serde_json::{Value, json};
use tidemill::clock::ManualClock;
use tidemill::prelude::*;
use tidemill::{Environment, Error, StreamingQueryProgress};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::harness::{Input, Job, Place, Recorder, cause, eventually, session, session_in};
use crate::support::probe::Probe;

/// A query over one generated table, into a probe.
fn job(place: &Place, format: &str, options: &[(&str, &str)]) -> Job {
    let input = Input::new("input", format, "");
    let input = options.iter().fold(input, |input, (name, value)| input.option(name, value));
    Job::new(place).inputs([input]).format("probe").out(None)
}

/// A session whose time is `clock`'s, and what its queries write.
fn session_at(clock: &Arc<ManualClock>, partitions: usize) -> (Session, Probe) {
    let clock = Arc::clone(clock);
    let session = session_in(partitions, Environment { clock, ..Environment::default() });
    let probe = Probe::of(&session);
    (session, probe)
}

/// The `(timestamp in ms, value)` of one batch, by value.
fn numbers(probe: &Probe, batch: u64) -> Vec<(i64, i64)> {
    let mut rows: Vec<(i64, i64)> = probe.record_batches()[&batch].iter().flat_map(pairs).collect();
    rows.sort_unstable_by_key(|(_, value)| *value);
    rows
}

fn pairs(rows: &RecordBatch) -> Vec<(i64, i64)> {
    let timestamps = rows.column_by_name("timestamp").unwrap().as_primitive::<TimestampNanosecondType>();
    let values = rows.column_by_name("value").unwrap().as_primitive::<Int64Type>();
    let millis = timestamps.values().iter().map(|nanos| nanos / 1_000_000);
    millis.zip(values.values().iter().copied()).collect()
}

fn end_offsets(progress: &[StreamingQueryProgress]) -> Vec<Value> {
    progress.iter().map(|progress| progress.sources[0].end_offset.clone()).collect()
}

#[tokio::test]
async fn rate_follows_the_clock_with_sparks_ramp_up() {
    let place = Place::new();
    let clock = Arc::new(ManualClock::new(10_000));
    let (session, probe) = session_at(&clock, 2);
    let recorder = Recorder::of(&session);
    let job = job(&place, "rate", &[("rowsPerSecond", "10"), ("rampUpTime", "4s")])
        .trigger(Trigger::ProcessingTime(Duration::from_secs(2)));
    let query = job.start(&session).await.unwrap();
    eventually(|| recorder.progress().len() >= 4).await;
    query.stop(StopMode::Finish).await.unwrap();

    let offsets = end_offsets(&recorder.progress()[..4]);
    let expected = [0, 2, 4, 6].map(|seconds| json!({"offset": seconds, "startTime": 10_000}));
    assert_eq!(offsets, expected);
    // Rows until second 0, 2, 4, 6, at Spark's RateStreamProvider: 0, 6, 20, 40.
    assert_eq!(numbers(&probe, 0), []);
    let spread = [(10_000, 0), (10_333, 1), (10_667, 2), (11_000, 3), (11_333, 4), (11_667, 5)];
    assert_eq!(numbers(&probe, 1), spread);
    let values = |batch| numbers(&probe, batch).into_iter().map(|(_, value)| value).collect::<Vec<_>>();
    assert_eq!(values(2), (6..20).collect::<Vec<_>>());
    assert_eq!(values(3), (20..40).collect::<Vec<_>>());
    assert_eq!(numbers(&probe, 3)[1], (14_100, 21));
}

#[tokio::test]
async fn rate_goes_on_after_a_restart_where_it_was() {
    let place = Place::new();
    let clock = Arc::new(ManualClock::new(1_234_567));
    let job = job(&place, "rate", &[("rowsPerSecond", "5")]);
    let (first, probe) = session_at(&clock, 1);
    // Nothing has come yet, but the start is recorded.
    job.run(&first).await.unwrap();
    for (batch, seconds) in [(1, 3), (2, 40)] {
        clock.advance(Duration::from_secs(seconds));
        let (session, _) = session_at(&clock, 1);
        probe.register(&session);
        let query = job.run(&session).await.unwrap();
        assert_eq!(query.last_progress().unwrap().batch_id, batch);
    }
    assert_eq!(numbers(&probe, 0), []);
    let all: Vec<(i64, i64)> = [numbers(&probe, 1), numbers(&probe, 2)].concat();
    let expected: Vec<(i64, i64)> = (0..43 * 5).map(|value| (1_234_567 + value * 200, value)).collect();
    assert_eq!(all, expected);
}

#[tokio::test]
async fn a_batch_that_was_interrupted_has_the_same_rows_when_it_runs_again() {
    let rate = [("rowsPerSecond", "7"), ("rampUpTime", "1s")];
    let micro = [("rowsPerBatch", "7"), ("startTimestamp", "99")];
    for (format, options, changed) in [
        ("rate", &rate, ("numPartitions", "2")),
        // Offsets say everything, so this may change too.
        ("rate-micro-batch", &micro, ("rowsPerBatch", "1000")),
    ] {
        let mut rows = Vec::new();
        for is_interrupted in [false, true] {
            let place = Place::new();
            let clock = Arc::new(ManualClock::new(50_000));
            let (session, probe) = session_at(&clock, 2);
            let mut job = job(&place, format, options);
            job.run(&session).await.unwrap();
            clock.advance(Duration::from_millis(4_321));
            if is_interrupted {
                probe.on_prepare(|_| Err(Error::Invalid("interrupted".into())));
                let error = job.run(&session).await.unwrap_err();
                assert_eq!(cause(&error).to_string(), "interrupted");
                probe.on_prepare(|_| Ok(()));
                clock.advance(Duration::from_secs(1000));
                job.inputs[0].options.push((changed.0.into(), changed.1.into()));
            }
            job.run(&session).await.unwrap();
            rows.push((numbers(&probe, 0), numbers(&probe, 1)));
        }
        assert!(rows[0].1.len() >= 7, "{format}");
        assert_eq!(rows[0], rows[1], "{format}");
    }
}

#[tokio::test]
async fn options_that_rows_depend_on_cannot_change() {
    for (format, options, changed, expected) in [
        ("rate", &[][..], ("rowsPerSecond", "2"), "option 'rowspersecond' of source 0 was '1' and is '2'"),
        (
            "rate_micro_batch",
            &[("rowsPerBatch", "1")][..],
            ("startTimestamp", "5"),
            "option 'starttimestamp' of source 0 was '0' and is '5'",
        ),
    ] {
        let place = Place::new();
        let session = session();
        Probe::of(&session);
        job(&place, format, options).run(&session).await.unwrap();
        let error = job(&place, format, &[options, &[changed]].concat()).start(&session).await.unwrap_err();
        assert!(matches!(error, Error::QueryChanged { .. }), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn micro_batches_are_the_same_whenever_they_run() {
    let place = Place::new();
    let options = [("rowsPerBatch", "4"), ("startTimestamp", "1000"), ("advanceMillisPerBatch", "50")];
    let session = session();
    let probe = Probe::of(&session);
    let recorder = Recorder::of(&session);
    // One batch per run.
    job(&place, "rate-micro-batch", &options).run(&session).await.unwrap();
    job(&place, "rate_micro_batch", &options).trigger(Trigger::Once).run(&session).await.unwrap();
    assert_eq!(recorder.progress().len(), 2);
    let query = job(&place, "rate-micro-batch", &options).trigger(Trigger::AtOnce);
    let query = query.start(&session).await.unwrap();
    eventually(|| recorder.progress().len() >= 5).await;
    query.stop(StopMode::Finish).await.unwrap();

    let progress = recorder.progress();
    for (batch, progress) in (0..).zip(&progress) {
        let (first, time) = (batch * 4, 1000 + batch * 50);
        let rows: Vec<(i64, i64)> = (first..first + 4).map(|value| (time, value)).collect();
        assert_eq!(numbers(&probe, progress.batch_id), rows);
        assert_eq!(progress.sources[0].end_offset, json!({"offset": first + 4, "timestamp": time + 50}));
    }
}

#[tokio::test]
async fn partitions_are_those_that_were_asked_for() {
    for (asked, sizes) in
        [(None, vec![100]), (Some("3"), vec![33, 33, 34]), (Some("99"), vec![25, 25, 25, 25])]
    {
        let place = Place::new();
        let session = session_in(4, Environment::default());
        let probe = Probe::of(&session);
        let mut options = vec![("rowsPerBatch", "100")];
        options.extend(asked.map(|asked| ("numPartitions", asked)));
        let query = job(&place, "rate-micro-batch", &options).run(&session).await.unwrap();
        let mut found: Vec<usize> = probe.record_batches()[&0].iter().map(RecordBatch::num_rows).collect();
        found.sort_unstable();
        assert_eq!(found, sizes, "{asked:?}");
        let values: Vec<i64> = numbers(&probe, 0).into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, (0..100).collect::<Vec<_>>());
        let partitions = asked.map_or(4, |asked| asked.parse::<usize>().unwrap().min(4));
        assert!(query.explain().contains(&format!("numPartitions={partitions}")), "{}", query.explain());
    }
}

#[tokio::test]
async fn sql_needs_no_location() {
    let session = session();
    let script = "
        CREATE UNBOUNDED EXTERNAL TABLE numbers STORED AS RATE_MICRO_BATCH OPTIONS ('rowsPerBatch' '6');
        CREATE UNBOUNDED EXTERNAL TABLE r1 STORED AS RATE LOCATION 'ignored';
        CREATE UNBOUNDED EXTERNAL TABLE r2 (timestamp TIMESTAMP, value BIGINT) STORED AS RATE;
        CREATE UNBOUNDED EXTERNAL TABLE lines (value VARCHAR, timestamp TIMESTAMP)
            STORED AS SOCKET OPTIONS ('host' 'localhost', 'port' '9999', 'includeTimestamp' 'true');
        CREATE EXTERNAL TABLE results STORED AS MEMORY;
        CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW
            AS INSERT INTO results SELECT value * 2 AS twice FROM numbers WHERE value > 3;";
    session.sql(script).await.unwrap();
    let query = session.streams().active().into_iter().next();
    if let Some(query) = query {
        query.await_termination().await.unwrap();
    }
    let rows =
        session.context().sql("SELECT twice FROM q ORDER BY 1").await.unwrap().collect().await.unwrap();
    assert_eq!(rows[0].column(0).as_primitive::<Int64Type>().values().to_vec(), [8, 10]);

    let explain = "EXPLAIN STREAMING QUERY AS INSERT INTO results SELECT value FROM r1";
    let Some(tidemill::sql::SqlOutcome::Table(plan)) = session.sql(explain).await.unwrap().pop() else {
        panic!("no plan")
    };
    let plan = datafusion::arrow::util::pretty::pretty_format_batches(&plan).unwrap().to_string();
    let expected = "StreamScanExec: source=RateSource[rowsPerSecond=1, rampUpTimeSeconds=0, \
                    numPartitions=default], columns=[value], numPartitions=2";
    assert!(plan.contains(expected), "{plan}");
}

#[tokio::test]
async fn columns_and_options_that_do_not_fit_are_refused() {
    let session = session();
    for (clauses, expected) in [
        (
            "(value BIGINT) STORED AS RATE",
            "cannot be chosen: they are (timestamp Timestamp(ns), value Int64)",
        ),
        (
            "(value BIGINT) STORED AS SOCKET OPTIONS ('host' 'h', 'port' '1')",
            "the columns of the socket source cannot be chosen: they are (value Utf8)",
        ),
        (
            "(timestamp TIMESTAMP, value BIGINT) STORED AS RATE PARTITIONED BY (value)",
            "has no partition columns",
        ),
        ("STORED AS RATE OPTIONS ('rowsPerSeconds' '1')", "did you mean 'rowsPerSecond'?"),
        ("STORED AS RATE_MICRO_BATCH", "needs the option 'rowsPerBatch'"),
        ("STORED AS SOCKET OPTIONS ('host' 'h')", "needs the option 'port'"),
    ] {
        let error = session.sql(&format!("CREATE UNBOUNDED EXTERNAL TABLE t {clauses}")).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn counting_reads_no_columns() {
    let place = Place::new();
    let session = session();
    let probe = Probe::of(&session);
    let job = job(&place, "rate-micro-batch", &[("rowsPerBatch", "20000")]).sql("SELECT 1 AS one FROM input");
    let query = job.run(&session).await.unwrap();
    assert_eq!(probe.record_batches()[&0].iter().map(RecordBatch::num_rows).sum::<usize>(), 20_000);
    assert!(query.explain().contains("columns=[]"), "{}", query.explain());
}

/// A server on a free port of this machine, and the options of a table that reads from it.
async fn server() -> (TcpListener, [(&'static str, String); 2]) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, [("host", "127.0.0.1".into()), ("port", port.to_string())])
}

/// A query over a socket that has been started, and the server's end of its connection.
struct Connected {
    place: Place,
    session: Session,
    probe: Probe,
    query: StreamingQuery,
    connection: TcpStream,
    job: Job,
}

impl Connected {
    async fn start(trigger: Trigger, sql: &str, more: &[(&str, &str)]) -> Self {
        let place = Place::new();
        let session = session();
        let probe = Probe::of(&session);
        let (listener, options) = server().await;
        let mut options: Vec<(&str, &str)> =
            options.iter().map(|(name, value)| (*name, value.as_str())).collect();
        options.extend(more);
        let job = job(&place, "socket", &options).sql(sql).trigger(trigger);
        let query = job.start(&session).await.unwrap();
        let (connection, _) = listener.accept().await.unwrap();
        Self { place, session, probe, query, connection, job }
    }

    async fn at_once() -> Self {
        Self::start(Trigger::AtOnce, "SELECT value FROM input", &[]).await
    }

    /// The lines of every batch, in order.
    fn batches(&self) -> Vec<Vec<String>> {
        let lines = |rows: &RecordBatch| {
            let column = rows.column(0).as_string::<i32>();
            column.iter().map(|line| line.unwrap_or_default().to_string()).collect::<Vec<_>>()
        };
        self.probe.record_batches().values().map(|rows| rows.iter().flat_map(lines).collect()).collect()
    }

    fn lines(&self) -> Vec<String> {
        self.batches().concat()
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.connection.write_all(bytes).await.unwrap();
    }

    /// Waits until this many lines were written.
    async fn arrived(&self, lines: usize) {
        eventually(|| self.lines().len() >= lines || !self.query.is_active()).await;
    }
}

#[tokio::test]
async fn lines_come_in_order_when_they_are_complete() {
    let mut socket = Connected::at_once().await;
    socket.send("one\r\ntwo\n\nthr".as_bytes()).await;
    socket.arrived(3).await;
    socket.send("ee ü\n".as_bytes()).await;
    socket.arrived(4).await;
    socket.send(b"four\n").await;
    socket.arrived(5).await;
    assert_eq!(socket.lines(), ["one", "two", "", "three ü", "four"]);
    assert!(socket.batches().len() >= 3, "{:?}", socket.batches());
    let progress = socket.query.last_progress().unwrap();
    assert_eq!(progress.sources[0].end_offset, json!(4));
    assert!(progress.sources[0].description.starts_with("SocketSource[127.0.0.1:"));
    assert!(socket.query.explain().contains("not replayable"));

    // The end of the query closes the connection.
    socket.query.stop(StopMode::Finish).await.unwrap();
    assert_eq!(socket.connection.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn giving_a_query_up_closes_its_connection() {
    let mut socket = Connected::at_once().await;
    socket.query.stop(StopMode::Abandon).await.unwrap();
    assert_eq!(socket.connection.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_closed_connection_is_an_error_after_the_last_line() {
    let mut socket = Connected::at_once().await;
    socket.send(b"a\nb\nlast").await;
    socket.connection.shutdown().await.unwrap();
    let error = socket.query.await_termination().await.unwrap_err();
    assert!(matches!(cause(&error), Error::Storage { operation: "read from", .. }), "{error:?}");
    assert!(error.to_string().contains("closed the connection after 3 lines"), "{error}");
    assert_eq!(socket.lines(), ["a", "b", "last"]);

    // What was sent meanwhile is lost, so going on would be wrong.
    let error = socket.job.start(&socket.session).await.unwrap_err().to_string();
    assert!(error.contains("had read 3 lines") && error.contains("new checkpointLocation"), "{error}");
    assert_eq!(
        crate::support::committed::commits(&socket.place.path("checkpoint")).len(),
        socket.batches().len()
    );
}

#[tokio::test]
async fn a_line_that_is_not_utf8_ends_the_query() {
    let mut socket = Connected::at_once().await;
    socket.send(b"good\nbad \xff\nlater\n").await;
    let error = socket.query.await_termination().await.unwrap_err();
    let Error::BadRecord { line: 2, file, .. } = cause(&error) else { panic!("{error:?}") };
    assert!(file.starts_with("127.0.0.1:"), "{file}");
    assert_eq!(socket.lines(), ["good"]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_at_the_start() {
    let (listener, options) = server().await;
    drop(listener);
    let options: Vec<(&str, &str)> = options.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (place, session) = (Place::new(), session());
    Probe::of(&session);
    let error = job(&place, "socket", &options).start(&session).await.unwrap_err();
    assert!(matches!(error, Error::Storage { operation: "connect to", .. }), "{error:?}");
    assert!(session.streams().active().is_empty());
}

#[tokio::test]
async fn lines_can_have_their_time() {
    let before = now_ms();
    let mut socket = Connected::start(
        Trigger::AtOnce,
        "SELECT upper(value) AS shout, timestamp FROM input",
        &[("includeTimestamp", "true")],
    )
    .await;
    socket.send(b"a\n").await;
    eventually(|| !socket.probe.record_batches().is_empty()).await;
    let rows = socket.probe.record_batches()[&0][0].clone();
    assert_eq!(rows.column(0).as_string::<i32>().value(0), "A");
    let time = rows.column(1).as_primitive::<TimestampNanosecondType>().value(0) / 1_000_000;
    assert!((before..=now_ms()).contains(&time), "{time}");
    socket.query.stop(StopMode::Finish).await.unwrap();
}

fn now_ms() -> i64 {
    use tidemill::clock::{Clock, SystemClock};
    SystemClock.now_ms()
}

#[tokio::test]
async fn a_bounded_run_over_a_closed_connection_just_ends() {
    let mut socket = Connected::start(Trigger::AvailableNow, "SELECT value FROM input", &[]).await;
    // The run may be over already.
    let _ = socket.connection.write_all(b"a\n").await;
    drop(socket.connection);
    socket.query.await_termination().await.unwrap();
    assert!(socket.probe.batches().len() <= 1);
}

const LINE: &[u8; 1024] = &{
    let mut line = [b'x'; 1024];
    line[1023] = b'\n';
    line
};

#[tokio::test]
async fn a_sender_that_is_too_fast_is_held_back() {
    let mut socket = Connected::start(
        Trigger::ProcessingTime(Duration::from_secs(24 * 60 * 60)),
        "SELECT value FROM input",
        &[],
    )
    .await;
    let block = LINE.repeat(1024);
    let mut sent = 0;
    // 16 MiB in the query, and what the system's own buffers hold.
    while sent < 256
        && tokio::time::timeout(Duration::from_millis(500), socket.connection.write_all(&block)).await.is_ok()
    {
        sent += 1;
    }
    assert!((10..256).contains(&sent), "{sent} MiB were taken");
    socket.query.stop(StopMode::Finish).await.unwrap();
}

#[tokio::test]
async fn more_than_fits_the_buffer_arrives_whole() {
    let socket = Connected::at_once().await;
    let mut connection = socket.connection;
    let sender = tokio::spawn(async move {
        let block = LINE.repeat(1024);
        for _ in 0..40 {
            connection.write_all(&block).await.unwrap();
        }
        connection
    });
    let probe = socket.probe.clone();
    let count =
        move || -> usize { probe.record_batches().values().flatten().map(RecordBatch::num_rows).sum() };
    eventually(|| count() >= 40 * 1024 || !socket.query.is_active()).await;
    assert_eq!(count(), 40 * 1024);
    drop(sender.await.unwrap());
    socket.query.await_termination().await.unwrap_err();
}
