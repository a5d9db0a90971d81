//! With the default trigger, arriving rows wake a query that waits. The clock of these tests never ends a
//! long wait, so that nothing else can.

use std::fs;
use std::future::pending;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use tidemill::clock::{Clock, SystemClock};
use tidemill::prelude::*;
use tidemill::source::memory::MemoryStream;
use tidemill::source::{OffsetSource, OffsetTable};
use tidemill::{Environment, StreamTable};

use crate::support::harness::{Input, Job, Place, eventually, id_lines, put, schema, session_in};
use crate::support::probe::Probe;

/// What the engine waits for at least when it is asked to be woken.
const LONG: Duration = Duration::from_secs(10);

/// A clock on which long waits never end.
#[derive(Debug, Default)]
struct Still {
    last: Mutex<Duration>,
}

#[async_trait]
impl Clock for Still {
    fn now_ms(&self) -> i64 {
        SystemClock.now_ms()
    }

    fn elapsed(&self) -> Duration {
        SystemClock.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        *self.last.lock().unwrap() = duration;
        if duration >= LONG {
            return pending().await;
        }
        SystemClock.sleep(duration).await;
    }
}

impl Still {
    /// Returns when the query waits for nothing but rows.
    async fn is_waited_on(&self) {
        eventually(|| *self.last.lock().unwrap() >= LONG).await;
        *self.last.lock().unwrap() = Duration::ZERO;
    }
}

fn still_session() -> (Session, Arc<Still>) {
    let clock = Arc::new(Still::default());
    let environment = Environment { clock: Arc::clone(&clock) as Arc<dyn Clock>, ..Environment::default() };
    (session_in(1, environment), clock)
}

fn ids_of(probe: &Probe) -> Vec<i64> {
    crate::support::harness::ids(probe.batches().into_values().flatten().collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_stream_wakes_its_query() {
    let (session, clock) = still_session();
    let stream = MemoryStream::new(schema(&[("id", DataType::Int64)]));
    let frame = session.context().read_table(Arc::new(StreamTable::new(Arc::new(stream.clone())))).unwrap();
    let query = frame.write_stream().format("memory").query_name("rows").start(None).await.unwrap();
    for id in 0..20 {
        clock.is_waited_on().await;
        let rows = RecordBatch::try_new(
            schema(&[("id", DataType::Int64)]),
            vec![Arc::new(Int64Array::from(vec![id]))],
        );
        stream.add_data(rows.unwrap()).unwrap();
        let batches = usize::try_from(id).unwrap() + 1;
        eventually(|| query.recent_progress().len() == batches).await;
    }
    assert_eq!(session.context().table("rows").await.unwrap().count().await.unwrap(), 20);
    query.stop(StopMode::Finish).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_on_a_socket_wakes_its_query_and_so_does_the_end_of_the_connection() {
    let (session, clock) = still_session();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let lines = session.read_stream().format("socket").option("host", "127.0.0.1").option("port", port);
    let query = lines.load(None).await.unwrap().write_stream().format("noop").start(None).await.unwrap();
    let (mut connection, _) = listener.accept().unwrap();
    clock.is_waited_on().await;
    connection.write_all(b"half a line").unwrap();
    connection.write_all(b" and the rest\n").unwrap();
    eventually(|| query.recent_progress().iter().map(|batch| batch.num_input_rows).sum::<u64>() == 1).await;
    clock.is_waited_on().await;
    drop(connection);
    let error = query.await_termination().await.unwrap_err().to_string();
    assert!(error.contains("closed the connection after 1 lines"), "{error}");
}

/// Rows that a test adds, and how often it was asked for their number.
#[derive(Debug, Default)]
struct Numbers {
    rows: AtomicU64,
    asked: AtomicU64,
    added: tokio::sync::Notify,
}

#[async_trait]
impl OffsetSource for Numbers {
    fn name(&self) -> &str {
        "numbers"
    }

    fn schema(&self) -> SchemaRef {
        schema(&[("id", DataType::Int64)])
    }

    async fn end(&self) -> tidemill::Result<u64> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Ok(self.rows.load(Ordering::SeqCst))
    }

    async fn read(&self, from: u64, to: u64) -> tidemill::Result<Vec<RecordBatch>> {
        let ids = Int64Array::from_iter_values((from..to).map(|id| i64::try_from(id).unwrap()));
        Ok(vec![RecordBatch::try_new(OffsetSource::schema(self), vec![Arc::new(ids)])?])
    }

    fn arrivals(&self, end: u64) -> Option<std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>>> {
        Some(Box::pin(async move {
            while self.rows.load(Ordering::SeqCst) <= end {
                self.added.notified().await;
            }
        }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_of_a_program_that_tells_of_arrivals_is_not_asked_in_vain() {
    let (session, clock) = still_session();
    let numbers = Arc::new(Numbers::default());
    let table = StreamTable::new(Arc::new(OffsetTable::new(Arc::clone(&numbers))));
    let frame = session.context().read_table(Arc::new(table)).unwrap();
    let query = frame.write_stream().format("noop").start(None).await.unwrap();
    clock.is_waited_on().await;
    let asked = numbers.asked.load(Ordering::SeqCst);
    for _ in 0..5 {
        numbers.rows.fetch_add(10, Ordering::SeqCst);
        numbers.added.notify_one();
        clock.is_waited_on().await;
    }
    assert_eq!(query.totals().input_rows, 50);
    // Once with rows and once without, for each of the five.
    assert_eq!(numbers.asked.load(Ordering::SeqCst) - asked, 10);
    query.stop(StopMode::Finish).await.unwrap();
}

/// Puts a file in place of which the disk says that writing was not the last that happened to it.
fn complete(path: &Path, id: i64) {
    let hidden = path.with_file_name(".staged");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&hidden, id_lines([id])).unwrap();
    let file = fs::File::options().write(true).open(&hidden).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
    fs::rename(hidden, path).unwrap();
}

/// Files reach a directory in many ways.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn files_wake_their_query_however_they_come() {
    let (session, clock) = still_session();
    let place = Place::new();
    let probe = Probe::of(&session);
    fs::create_dir_all(place.path("in/k=0")).unwrap();
    let input = Input::new("input", "json", place.text("in"))
        .schema(schema(&[("id", DataType::Int64), ("k", DataType::Int64)]))
        .partition_by(&["k"])
        // Age never makes a file complete here.
        .option("minFileAge", "1 hour");
    let job = Job::new(&place).inputs([input]).sql("SELECT id FROM input");
    let job = job.format("probe").out(None).trigger(Trigger::AtOnce);
    let query = job.start(&session).await.unwrap();
    let at = |name: &str| place.path(&format!("in/k=0/{name}"));
    let come: [&dyn Fn(); 6] = [
        &|| put(&at("0.json"), id_lines([0])),
        &|| fs::write(at("1.json"), id_lines([1])).unwrap(),
        &|| {
            complete(&place.path("outside.json"), 2);
            fs::hard_link(place.path("outside.json"), at("2.json")).unwrap();
        },
        &|| complete(&place.path("in/k=1/3.json"), 3),
        &|| {
            complete(&place.path("staged/4.json"), 4);
            fs::rename(place.path("staged"), place.path("in/k=2")).unwrap();
        },
        &|| {
            let mut file = fs::File::create(at("5.json")).unwrap();
            for byte in id_lines([5]).as_bytes() {
                file.write_all(&[*byte]).unwrap();
                file.sync_all().unwrap();
            }
        },
    ];
    for (id, come) in (0..).zip(come) {
        clock.is_waited_on().await;
        come();
        eventually(|| ids_of(&probe).last() == Some(&id)).await;
    }
    assert_eq!(ids_of(&probe), [0, 1, 2, 3, 4, 5]);
    query.stop(StopMode::Finish).await.unwrap();
}

/// A file that nobody closes is taken when it has stayed as it is, without looking until then.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_stays_open_is_taken_when_it_is_of_age() {
    let (session, clock) = still_session();
    let place = Place::new();
    let probe = Probe::of(&session);
    fs::create_dir_all(place.path("in")).unwrap();
    let input = Input::new("input", "json", place.text("in"))
        .schema(schema(&[("id", DataType::Int64)]))
        .option("minFileAge", "300 milliseconds");
    let job = Job::new(&place).inputs([input]).format("probe").out(None).trigger(Trigger::AtOnce);
    let query = job.start(&session).await.unwrap();
    clock.is_waited_on().await;
    let mut file = fs::File::create(place.path("in/0.json")).unwrap();
    file.write_all(id_lines([7]).as_bytes()).unwrap();
    eventually(|| ids_of(&probe) == [7]).await;
    query.stop(StopMode::Finish).await.unwrap();
}
