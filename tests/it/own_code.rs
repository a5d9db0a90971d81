//! Results to code of the program: `foreach_batch` and `foreach`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::datatypes::Int64Type;
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use tidemill::prelude::*;
use tidemill::sink::{ForeachWriter, MemorySink};
use tidemill::{Error, Result, SinkFactory, SinkRequest};

use crate::support::committed::commits;
use crate::support::harness::{Job, Place, cause, id_lines, session};

/// Files `0.json` … with the ids 10 n and 10 n + 1.
fn place_of(files: i64) -> Place {
    let place = Place::new();
    (0..files).for_each(|file| place.put(&format!("in/{file}.json"), id_lines([10 * file, 10 * file + 1])));
    place
}

async fn writer(place: &Place, session: &Session, sql: &str) -> tidemill::DataStreamWriter {
    let job = Job::new(place).files_per_trigger(1).sql(sql);
    let frame = job.frame(session).await.unwrap();
    let writer = frame.write_stream().trigger(Trigger::AvailableNow);
    writer.option("checkpointLocation", place.text("checkpoint")).option("durability", "process")
}

fn ids_of(rows: &[RecordBatch]) -> Vec<i64> {
    rows.iter().flat_map(|rows| rows.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

#[tokio::test]
async fn a_batch_is_a_dataframe_that_can_be_used_again_without_computing_it_again() {
    let place = place_of(3);
    let session = session();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let count = create_udf(
        "counted",
        vec![DataType::Int64],
        DataType::Int64,
        Volatility::Volatile,
        Arc::new(move |values: &[ColumnarValue]| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(values[0].clone())
        }),
    );
    session.context().register_udf(count);
    let seen = Arc::new(Mutex::new(BTreeMap::new()));
    let batches = Arc::clone(&seen);
    let query = writer(&place, &session, "SELECT counted(id) AS id FROM input")
        .await
        .foreach_batch(move |rows, batch| {
            let batches = Arc::clone(&batches);
            async move {
                let odd = rows.clone().filter((col("id") % lit(2)).eq(lit(1)))?.collect().await?;
                let all = rows.clone().collect().await?;
                let count = rows.clone().count().await?;
                let joined = rows.clone().join(
                    rows.select([col("id").alias("other")])?,
                    JoinType::Inner,
                    &["id"],
                    &["other"],
                    None,
                )?;
                assert_eq!((count, joined.count().await?), (2, 2));
                batches.lock().unwrap().insert(batch, (ids_of(&all), ids_of(&odd)));
                Ok(())
            }
        })
        .start(None)
        .await
        .unwrap();
    query.await_termination().await.unwrap();
    let expected = (0..3).map(|n| (u64::try_from(n).unwrap(), (vec![10 * n, 10 * n + 1], vec![10 * n + 1])));
    assert_eq!(*seen.lock().unwrap(), expected.collect());
    assert_eq!(calls.load(Ordering::SeqCst), 3, "once per batch");
    assert_eq!(query.totals().output_rows, Some(6));
}

#[tokio::test]
async fn what_fails_or_panics_is_not_committed_and_comes_again_with_its_number() {
    let place = place_of(3);
    for (round, expected) in
        ["the table is locked", "foreach_batch panicked: no 10 please"].iter().enumerate()
    {
        let session = session();
        let writer = writer(&place, &session, "SELECT * FROM input").await;
        let query = writer
            .foreach_batch(move |_, batch| async move {
                match (batch, round) {
                    (1, 0) => Err(Error::other("the table is locked")),
                    (1, _) => panic!("no {} please", 10),
                    _ => Ok(()),
                }
            })
            .start(None)
            .await
            .unwrap();
        let error = query.await_termination().await.unwrap_err();
        assert!(error.to_string().contains("failed in batch 1: "), "{error}");
        assert!(cause(&error).to_string().contains(expected), "{error}");
        assert_eq!(commits(&place.path("checkpoint")), [0]);
    }
    let seen = Arc::new(Mutex::new(Vec::new()));
    let batches = Arc::clone(&seen);
    let session = session();
    let writer = writer(&place, &session, "SELECT * FROM input").await;
    let query = writer
        .foreach_batch(move |rows, batch| {
            let batches = Arc::clone(&batches);
            async move {
                let rows = rows.collect().await?;
                batches.lock().unwrap().push((batch, ids_of(&rows)));
                Ok(())
            }
        })
        .start(None)
        .await
        .unwrap();
    query.await_termination().await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [(1, vec![10, 11]), (2, vec![20, 21])]);
}

#[tokio::test]
async fn options_and_directories_mean_nothing_to_code() {
    let place = place_of(1);
    let session = session();
    let start = async |writer: tidemill::DataStreamWriter| {
        writer.foreach_batch(|_, _| async { Ok(()) }).start(None).await.unwrap_err().to_string()
    };
    let error =
        start(writer(&place, &session, "SELECT * FROM input").await.option("compression", "none")).await;
    assert!(error.contains("unknown option 'compression' for a query with foreach_batch"), "{error}");
    let error = start(writer(&place, &session, "SELECT * FROM input").await.partition_by(["id"])).await;
    assert!(error.contains("has no directories to partition by"), "{error}");
}

/// What the writers of a query were told.
#[derive(Debug, Default)]
struct Told {
    events: Mutex<Vec<String>>,
    ids: Mutex<Vec<i64>>,
}

struct Teller {
    told: Arc<Told>,
    /// When it fails or panics, and which batch it does not want.
    plan: &'static str,
    at: (usize, u64),
}

impl Teller {
    fn tell(&self, event: &str) {
        self.told.events.lock().unwrap().push(format!("{}: {event}", self.at.1));
    }
}

#[async_trait::async_trait]
impl ForeachWriter for Teller {
    async fn open(&mut self, partition: usize, epoch: u64) -> Result<bool> {
        self.at = (partition, epoch);
        self.tell("open");
        match self.plan {
            "open fails" => Err(Error::other("no")),
            "open panics" => panic!("no"),
            plan => Ok(plan != "skip" || epoch != 1),
        }
    }

    async fn process(&mut self, rows: &RecordBatch) -> Result<()> {
        let ids = ids_of(std::slice::from_ref(rows));
        match self.plan {
            "process fails" => return Err(Error::other(format!("no {}", ids[0]))),
            "process panics" => panic!("no {}", ids[0]),
            _ => {}
        }
        self.told.ids.lock().unwrap().extend(ids);
        Ok(())
    }

    async fn close(&mut self, error: Option<&Error>) -> Result<()> {
        self.tell(&error.map_or("close".to_string(), |error| format!("close after: {error}")));
        if self.plan == "close fails" { Err(Error::other("no")) } else { Ok(()) }
    }
}

/// Runs a query with such writers: what they were told, and the error if it failed.
async fn tell(plan: &'static str) -> (Vec<String>, Vec<i64>, Option<Error>, Vec<u64>) {
    let place = place_of(2);
    let session = session();
    let told = Arc::new(Told::default());
    let tell = Arc::clone(&told);
    let query = writer(&place, &session, "SELECT * FROM input")
        .await
        .foreach(move || Teller { told: Arc::clone(&tell), plan, at: (0, 0) })
        .start(None)
        .await
        .unwrap();
    let ended = query.await_termination().await.err();
    let events = told.events.lock().unwrap().clone();
    let mut ids = told.ids.lock().unwrap().clone();
    ids.sort_unstable();
    (events, ids, ended, commits(&place.path("checkpoint")))
}

#[tokio::test]
async fn a_writer_per_partition_is_opened_fed_and_closed() {
    let (events, ids, error, committed) = tell("all well").await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(events, ["0: open", "0: close", "1: open", "1: close"]);
    assert_eq!((ids, committed), (vec![0, 1, 10, 11], vec![0, 1]));
    let (events, ids, error, committed) = tell("skip").await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(events, ["0: open", "0: close", "1: open", "1: close"]);
    assert_eq!((ids, committed), (vec![0, 1], vec![0, 1]));
}

#[tokio::test]
async fn a_writer_that_fails_or_panics_fails_the_query_and_nothing_is_committed() {
    for (plan, events, reason) in [
        ("open fails", &["0: open"][..], "no"),
        ("open panics", &["0: open"], "the code given to foreach panicked: no"),
        ("process fails", &["0: open", "0: close after: no 0"], "no 0"),
        (
            "process panics",
            &["0: open", "0: close after: the code given to foreach panicked: no 0"],
            "the code given to foreach panicked: no 0",
        ),
        ("close fails", &["0: open", "0: close"], "no"),
    ] {
        let (told, _, error, committed) = tell(plan).await;
        let error = error.unwrap();
        assert_eq!(
            (told.as_slice(), cause(&error).to_string().as_str()),
            (&events.iter().map(|event| event.to_string()).collect::<Vec<_>>()[..], reason),
            "{plan}"
        );
        assert!(error.to_string().contains("failed in batch 0: "), "{error}");
        assert!(committed.is_empty(), "{plan}: {committed:?}");
    }
}

/// Remembers what its sinks were asked for.
#[derive(Default)]
struct Requests(Mutex<Vec<(Vec<String>, Option<String>)>>);

impl SinkFactory for Requests {
    fn create(&self, request: SinkRequest) -> Result<Arc<dyn tidemill::sink::Sink>> {
        let limit = request.options.get("rowLimit").map(ToString::to_string);
        self.0.lock().unwrap().push((request.keys.clone(), limit));
        Ok(Arc::new(MemorySink::try_new(request.schema)?))
    }
}

#[tokio::test]
async fn sinks_learn_the_keys_of_the_result_and_take_options_of_their_own() {
    let place = place_of(1);
    let session = session();
    let requests = Arc::new(Requests::default());
    session.register_sink("upsert", Arc::clone(&requests) as Arc<dyn SinkFactory>);
    let sql = "SELECT count(*) AS n, id % 2 AS odd FROM input GROUP BY id % 2";
    let writer = writer(&place, &session, sql).await.format("upsert").option("rowLimit", 5);
    let query = writer.output_mode(OutputMode::Update).query_name("q").start(None).await.unwrap();
    query.await_termination().await.unwrap();
    let requests = requests.0.lock().unwrap();
    assert!(!requests.is_empty());
    for request in requests.iter() {
        assert_eq!(*request, (vec!["odd".to_string()], Some("5".to_string())));
    }
}
