//! How much a batch takes, and how long it waits.

use std::time::{Duration, Instant};

use tidemill::prelude::*;

use crate::support::{Broker, Gathered, batches_until_now, producer, send, session, table, until_now};

fn numbers(range: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    range.map(|number| format!("m{number:04}"))
}

async fn values(session: &Session, broker: &Broker, options: &[(&str, &str)]) -> DataFrame {
    let frame = table(session, broker, options).await.unwrap();
    frame.select_exprs(&["arrow_cast(value, 'Utf8') AS v"]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_waits_for_enough_messages_but_not_for_ever() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("least", 2, &[]).await;
    let producer = producer(broker, None);
    let (session, checkpoint) = (session(), tempfile::tempdir().unwrap());
    let options =
        [("subscribe", topic.as_str()), ("minOffsetsPerTrigger", "10"), ("maxTriggerDelay", "6 seconds")];
    let found = Gathered::default();
    let query = found.start(values(&session, broker, &options).await, checkpoint.path()).await;
    let began = Instant::now();
    send(&producer, &topic, 0, numbers(0..4));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(found.rows().is_empty() && began.elapsed() < Duration::from_secs(5), "{:?}", found.rows());
    send(&producer, &topic, 1, numbers(4..10));
    found.wait_for(&query, 10).await;
    assert_eq!(found.sizes(), [10], "as soon as there are enough");
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    // The last batch is a moment old.
    let began = Instant::now();
    send(&producer, &topic, 0, numbers(10..13));
    found.wait_for(&query, 13).await;
    assert_eq!(found.sizes(), [10, 3]);
    let waited = began.elapsed();
    assert!(waited > Duration::from_secs(4) && waited < Duration::from_secs(20), "{waited:?}");
    query.stop(StopMode::Finish).await.unwrap();
    // A run that ends does not wait.
    send(&producer, &topic, 0, numbers(13..14));
    let began = Instant::now();
    let frame = values(&session, broker, &options).await;
    assert_eq!(until_now(frame, checkpoint.path().to_str().unwrap()).await.unwrap(), ["m0013"]);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_dealt_out_by_how_much_each_partition_is_behind() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("most", 3, &[]).await;
    let producer = producer(broker, None);
    send(&producer, &topic, 0, numbers(0..80));
    send(&producer, &topic, 1, numbers(0..20));
    let (session, checkpoint) = (session(), tempfile::tempdir().unwrap());
    let options = [("subscribe", topic.as_str()), ("maxOffsetsPerTrigger", "10"), ("minPartitions", "8")];
    let frame = table(&session, broker, &options).await.unwrap();
    let frame = frame.select_exprs(&["partition", "\"offset\""]).unwrap();
    let batches = batches_until_now(frame, checkpoint.path().to_str().unwrap()).await.unwrap();
    assert_eq!(batches.len(), 10, "{batches:?}");
    for (batch, rows) in batches {
        let of = |partition: &str| rows.iter().filter(|row| row.starts_with(partition)).count();
        assert_eq!((of("0|"), of("1|")), (8, 2), "batch {batch}: {rows:?}");
    }
}
