//! A topic that is deleted and created again: the same name, other messages, at offsets that go on where a query is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tidemill::prelude::*;

use crate::support::{Broker, Gathered, batches_until_now, producer, send, session, table, until_now};

const PATIENCE: Duration = Duration::from_secs(60);

fn named(name: &str, range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("{name}{number:04}")).collect()
}

/// The values of a topic; whether what is lost is an error.
async fn values(session: &Session, broker: &Broker, topic: &str, fails: bool) -> DataFrame {
    let fails = fails.to_string();
    let options = [("subscribe", topic), ("failOnDataLoss", fails.as_str())];
    let frame = table(session, broker, &options).await.unwrap();
    frame.select_exprs(&["arrow_cast(value, 'Utf8') AS v"]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_noticed_although_it_has_grown_past_where_the_query_was() {
    let Some(broker) = Broker::shared() else { return };
    let (topic, other) = (broker.topic("again", 2, &[]).await, broker.topic("again-not", 1, &[]).await);
    let old = producer(broker, None);
    for partition in 0..2 {
        send(&old, &topic, partition, named("old", 0..10));
    }
    send(&old, &other, 0, named("kept", 0..10));
    let (session, checkpoint) = (session(), tempfile::tempdir().unwrap());
    let checkpoint = checkpoint.path().to_str().unwrap();
    let both = format!("{topic},{other}");
    let read = async |fails| until_now(values(&session, broker, &both, fails).await, checkpoint).await;
    assert_eq!(read(true).await.unwrap().len(), 30);

    broker.recreate(&topic, 3).await;
    let new = producer(broker, None);
    for partition in 0..3 {
        send(&new, &topic, partition, named("new", 0..25));
    }
    send(&new, &other, 0, named("kept", 10..12));
    let error = read(true).await.unwrap_err().to_string();
    let expected = format!("the topic was deleted and created again: of topic '{topic}', partition 0");
    assert!(error.contains(&expected) && error.contains("failOnDataLoss"), "{error}");
    let mut expected: Vec<String> =
        [named("kept", 10..12), named("new", 0..25), named("new", 0..25), named("new", 0..25)].concat();
    expected.sort_unstable();
    assert_eq!(read(false).await.unwrap(), expected, "all of the new one, from its beginning");
    assert!(read(true).await.unwrap().is_empty(), "it is known from now on");
    send(&new, &topic, 1, named("more", 0..3));
    assert_eq!(read(true).await.unwrap(), named("more", 0..3));
}

/// Whose rows these are does not depend on when the query sees what has happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_runs_reads_the_new_one_from_its_beginning_or_ends() {
    let Some(broker) = Broker::shared() else { return };
    for fails in [false, true] {
        let topic = broker.topic("again-running", 1, &[]).await;
        send(&producer(broker, None), &topic, 0, named("old", 0..10));
        let (session, checkpoint) = (session(), tempfile::tempdir().unwrap());
        let found = Gathered::default();
        let start =
            async || found.start(values(&session, broker, &topic, fails).await, checkpoint.path()).await;
        let mut query = start().await;
        found.wait_for(&query, 10).await;
        let began = Instant::now();
        broker.recreate(&topic, 1).await;
        send(&producer(broker, None), &topic, 0, named("new", 0..25));
        loop {
            assert!(began.elapsed() < PATIENCE, "{:?}", found.rows());
            tokio::time::sleep(Duration::from_millis(20)).await;
            match query.exception().map(|error| error.to_string()) {
                None if found.rows().len() < 35 => {}
                None => break,
                // Which of the two it is depends on the moment.
                Some(error) if error.contains("while its messages were read") => query = start().await,
                Some(error) => {
                    let is_gone = error.contains("is gone") || error.contains("does not exist any more");
                    assert!(fails && (is_gone || error.contains("created again")), "{error}");
                    break;
                }
            }
        }
        let expected =
            if fails { named("old", 0..10) } else { [named("old", 0..10), named("new", 0..25)].concat() };
        assert_eq!(found.rows(), expected);
        let _ = query.stop(StopMode::Finish).await;
    }
}

/// A batch that was planned is run again after a failure: of the topic that it was planned for, or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_run_again_has_no_messages_of_the_new_one() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("again-rerun", 1, &[]).await;
    send(&producer(broker, None), &topic, 0, named("old", 0..10));
    let (session, checkpoint) = (session(), tempfile::tempdir().unwrap());
    let checkpoint = checkpoint.path().to_str().unwrap();
    let frame = async |fails| values(&session, broker, &topic, fails).await;
    assert_eq!(until_now(frame(true).await, checkpoint).await.unwrap().len(), 10);
    send(&producer(broker, None), &topic, 0, named("old", 10..20));
    let query = frame(true).await.write_stream().foreach_batch(|_, batch| async move {
        Err(tidemill::Error::Invalid(format!("batch {batch} is interrupted")))
    });
    let query = query.trigger(Trigger::AvailableNow).option("checkpointLocation", checkpoint);
    let error = query.start(None).await.unwrap().await_termination().await.unwrap_err().to_string();
    assert!(error.contains("is interrupted"), "{error}");

    broker.recreate(&topic, 1).await;
    send(&producer(broker, None), &topic, 0, named("new", 0..30));
    let error = until_now(frame(true).await, checkpoint).await.unwrap_err().to_string();
    assert!(error.contains("created again") && error.contains("offsets 10 to 19 are lost"), "{error}");
    let batches = batches_until_now(frame(false).await, checkpoint).await.unwrap();
    let rows: Vec<String> = batches.values().flatten().cloned().collect();
    assert_eq!(rows, named("new", 0..30), "{batches:?}");
}

/// Between the moment at which a batch is planned and the one at which it is read, everything may happen.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_does_not_count_if_it_was_read_of_either() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("again-meanwhile", 1, &[]).await;
    send(&producer(broker, None), &topic, 0, named("old", 0..10));
    let (session, checkpoint) = (session(), tempfile::tempdir().unwrap());
    let checkpoint = checkpoint.path().to_str().unwrap();
    let is_first = Arc::new(AtomicBool::new(true));
    let name = topic.clone();
    let query = values(&session, broker, &topic, false).await.write_stream().foreach_batch(move |rows, _| {
        let (is_first, name) = (Arc::clone(&is_first), name.clone());
        async move {
            rows.collect().await?;
            if is_first.swap(false, Ordering::SeqCst) {
                broker.recreate(&name, 1).await;
                send(&producer(broker, None), &name, 0, named("new", 0..30));
            }
            Ok(())
        }
    });
    let query = query.trigger(Trigger::AvailableNow).option("checkpointLocation", checkpoint);
    let error = query.start(None).await.unwrap().await_termination().await.unwrap_err().to_string();
    let expected = format!("topic '{topic}' was deleted and created again while its messages were read");
    assert!(error.contains(&expected), "{error}");
    let rows = until_now(values(&session, broker, &topic, false).await, checkpoint).await.unwrap();
    assert_eq!(rows, named("new", 0..30));
}
