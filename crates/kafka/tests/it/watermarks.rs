//! Event time by partition.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidemill::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use tidemill::datafusion::functions_aggregate::expr_fn::count;
use tidemill::prelude::*;

use crate::support::{Broker, batches_until_now, producer, send, session, texts};

/// Times of a message per second, from a minute on.
fn minute(from: usize, count: usize) -> impl Iterator<Item = String> {
    (from * 60..from * 60 + count).map(|second| {
        format!("{{\"at\":\"2026-01-01T{:02}:{:02}:{:02}\"}}", second / 3600, second / 60 % 60, second % 60)
    })
}

/// Counts by minute of a topic whose rows may be a second late, as a table called `minutes`; every partition gives a
/// batch a few rows.
async fn minutes(session: &Session, broker: &Broker, topic: &str, (most, filter): (&str, &str)) -> DataFrame {
    let script = format!(
        "CREATE UNBOUNDED EXTERNAL TABLE t (at TIMESTAMP, WATERMARK FOR at AS at - INTERVAL '1 second')
         STORED AS KAFKA OPTIONS ('kafka.bootstrap.servers' '{}', 'subscribe' '{topic}', 'startingOffsets' 'earliest',
             'value.format' 'json', 'maxOffsetsPerTrigger' '{most}')",
        broker.servers()
    );
    session.sql(&script).await.unwrap();
    let query = format!(
        "SELECT window.start AS minute, count(*) AS hits FROM t {filter}
         GROUP BY window(at, '1 minute')"
    );
    session.query(&query).await.unwrap()
}

/// One partition is an hour ahead of the other, and read at the same pace: without watermarks of their own all rows of
/// the other would be late.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_partition_that_is_behind_are_not_late() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("watermarks", 3, &[]).await;
    let producer = producer(broker, None);
    send(&producer, &topic, 0, minute(60, 300));
    send(&producer, &topic, 1, minute(0, 300));
    for filter in ["", "WHERE at IS NOT NULL AND extract(second FROM at) < 60"] {
        let (session, checkpoint) = (session(), tempfile::tempdir().unwrap());
        let frame = minutes(&session, broker, &topic, ("50", filter)).await;
        let batches = batches_until_now(frame, checkpoint.path().to_str().unwrap()).await.unwrap();
        assert!(batches.len() >= 12, "{}", batches.len());
        let mut rows: Vec<String> = batches.into_values().flatten().collect();
        rows.sort_unstable();
        // The last minute of all is not final.
        let expected: Vec<String> = (0..5)
            .map(|minute| format!("2026-01-01T00:{minute:02}:00|60"))
            .chain((0..4).map(|minute| format!("2026-01-01T01:{minute:02}:00|60")))
            .collect();
        assert_eq!(rows, expected, "{filter}");
    }
}

/// What a data frame does between a topic and a watermark over it leaves the partitions apart.
#[tokio::test(flavor = "multi_thread")]
async fn watermarks_over_what_is_made_of_a_topic_wait_for_its_partitions() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("watermarks-above", 3, &[]).await;
    let producer = producer(broker, None);
    send(&producer, &topic, 0, minute(60, 300));
    send(&producer, &topic, 1, minute(0, 300));
    let session = session();
    let columns = Schema::new(vec![Field::new("at", DataType::Timestamp(TimeUnit::Nanosecond, None), true)]);
    let reader = session.read_stream().format("kafka").schema(Arc::new(columns));
    let reader = reader
        .option("kafka.bootstrap.servers", broker.servers())
        .option("subscribe", &topic)
        .option("startingOffsets", "earliest")
        .option("value.format", "json")
        .option("maxOffsetsPerTrigger", "50");
    let table = reader.load(None).await.unwrap();
    let rows = || vec![count(lit(1)).alias("rows")];
    for (what, frame) in [
        ("observe", table.clone().observe("seen", rows()).unwrap()),
        ("filter", table.clone().filter(col("at").is_not_null()).unwrap()),
        ("select", table.clone().select_exprs(&["1 AS one", "at + INTERVAL '0 seconds' AS at"]).unwrap()),
        ("alias", table.clone().alias("a").unwrap()),
        (
            "all of them, twice observed",
            table
                .clone()
                .observe("seen", rows())
                .unwrap()
                .filter(col("at").is_not_null())
                .unwrap()
                .select_exprs(&["1 AS one", "at"])
                .unwrap()
                .observe("left", rows())
                .unwrap()
                .alias("a")
                .unwrap(),
        ),
        (
            "lists as rows",
            table
                .clone()
                .select_exprs(&["[at, at] AS at", "1 AS one"])
                .unwrap()
                .unnest_columns(&["at"])
                .unwrap()
                .filter(col("one").eq(lit(1)))
                .unwrap(),
        ),
    ] {
        let frame = frame.with_watermark("at", "1 second").unwrap();
        let minutes = frame
            .aggregate(vec![window(col("at"), "1 minute").alias("w")], vec![count(lit(1)).alias("hits")]);
        let minutes = minutes.unwrap().select_exprs(&["w['start'] AS minute", "hits"]).unwrap();
        let checkpoint = tempfile::tempdir().unwrap();
        let batches = batches_until_now(minutes, checkpoint.path().to_str().unwrap()).await.unwrap();
        let mut rows: Vec<String> = batches.into_values().flatten().collect();
        rows.sort_unstable();
        let hits = if what == "lists as rows" { 120 } else { 60 };
        let expected: Vec<String> = (0..5)
            .map(|minute| format!("2026-01-01T00:{minute:02}:00|{hits}"))
            .chain((0..4).map(|minute| format!("2026-01-01T01:{minute:02}:00|{hits}")))
            .collect();
        assert_eq!(rows, expected, "{what}");
    }
}

/// A run that ends after any batch, and goes on in another one, gives what one run gives.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_does_not_forget_which_partition_is_behind() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("watermarks-again", 2, &[]).await;
    let producer = producer(broker, None);
    send(&producer, &topic, 0, minute(60, 300));
    send(&producer, &topic, 1, minute(0, 300));
    let checkpoint = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint.path().to_str().unwrap();
    let found: Arc<Mutex<Vec<String>>> = Arc::default();
    // Each run fails behind a batch that has given nothing yet, until one comes to the end.
    let mut runs = 0;
    loop {
        runs += 1;
        let session = session();
        let (into, left) = (Arc::clone(&found), AtomicUsize::new(3));
        let query = minutes(&session, broker, &topic, ("50", "")).await.write_stream().foreach_batch(
            move |rows, batch| {
                let (into, stop) = (Arc::clone(&into), left.fetch_sub(1, Ordering::SeqCst) == 1);
                async move {
                    if stop {
                        return Err(tidemill::Error::Invalid(format!("batch {batch} is interrupted")));
                    }
                    let rows = texts(&rows.collect().await?);
                    into.lock().unwrap().extend(rows);
                    Ok(())
                }
            },
        );
        let query = query.trigger(Trigger::AvailableNow).option("checkpointLocation", checkpoint);
        if query.start(None).await.unwrap().await_termination().await.is_ok() {
            break;
        }
        assert!(runs < 30, "it comes to no end");
    }
    assert!(runs > 3, "{runs}");
    let mut rows = found.lock().unwrap().clone();
    rows.sort_unstable();
    rows.dedup();
    assert_eq!(rows.len(), 9, "{rows:?}");
    assert!(rows.iter().all(|row| row.ends_with("|60")), "{rows:?}");
}

/// A partition that has dried up is waited for as long as `watermarkIdleTimeout` says, and not for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_has_dried_up_does_not_stall_the_others() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("watermarks-idle", 3, &[]).await;
    let producer = producer(broker, None);
    send(&producer, &topic, 0, minute(60, 130));
    send(&producer, &topic, 1, minute(0, 10));
    let checkpoint = tempfile::tempdir().unwrap();
    let found: Arc<Mutex<Vec<(Instant, String)>>> = Arc::default();
    let into = Arc::clone(&found);
    let (session, began) = (session(), Instant::now());
    let query = minutes(&session, broker, &topic, ("100000", "")).await.write_stream().foreach_batch(
        move |rows, _| {
            let into = Arc::clone(&into);
            async move {
                let rows = texts(&rows.collect().await?);
                into.lock().unwrap().extend(rows.into_iter().map(|row| (Instant::now(), row)));
                Ok(())
            }
        },
    );
    let query = query.option("checkpointLocation", checkpoint.path().to_str().unwrap());
    let query = query.option("watermarkIdleTimeout", "3 seconds").start(None).await.unwrap();
    let mut rows = Vec::new();
    while rows.len() < 3 && began.elapsed() < Duration::from_secs(60) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        rows = found.lock().unwrap().clone();
    }
    query.stop(StopMode::Finish).await.unwrap();
    let texts: Vec<&str> = rows.iter().map(|(_, row)| row.as_str()).collect();
    assert_eq!(texts, ["2026-01-01T00:00:00|10", "2026-01-01T01:00:00|60", "2026-01-01T01:01:00|60"]);
    assert!(rows[0].0 - began >= Duration::from_secs(3), "it was waited for");
}
