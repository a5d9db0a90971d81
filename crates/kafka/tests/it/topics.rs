//! Kinds of topics, and which are read.

use std::time::{Duration, Instant};

use rdkafka::producer::{BaseRecord, Producer};
use tidemill::prelude::*;

use crate::support::{Broker, Gathered, batches_until_now, producer, send, session, table, until_now};

const PATIENCE: Duration = Duration::from_secs(30);

async fn values(session: &Session, broker: &Broker, options: &[(&str, &str)]) -> DataFrame {
    let frame = table(session, broker, options).await.unwrap();
    frame.select_exprs(&["arrow_cast(value, 'Utf8') AS v"]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_assigned_are_read_and_no_others() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("assigned", 3, &[]).await;
    let producer = producer(broker, None);
    for partition in 0..3 {
        send(&producer, &topic, partition, [format!("p{partition}")]);
    }
    let session = session();
    let assigned = format!("{{\"{topic}\":[2,0]}}");
    let offsets = format!("{{\"{topic}\":{{\"0\":0,\"2\":-1}}}}");
    for (options, expected) in [
        (&[("assign", assigned.as_str())][..], &["p0", "p2"][..]),
        (&[("assign", assigned.as_str()), ("startingOffsets", offsets.as_str())], &["p0"]),
    ] {
        let checkpoint = tempfile::tempdir().unwrap();
        let rows =
            until_now(values(&session, broker, options).await, checkpoint.path().to_str().unwrap()).await;
        assert_eq!(rows.unwrap(), expected);
    }
    let missing = format!("{{\"{topic}\":[7]}}");
    let checkpoint = tempfile::tempdir().unwrap();
    let frame = values(&session, broker, &[("assign", &missing)]).await;
    let error = until_now(frame, checkpoint.path().to_str().unwrap()).await.unwrap_err().to_string();
    assert!(error.contains(&format!("topic '{topic}', partition 7 does not exist")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_runs_finds_topics_and_partitions_that_come() {
    let Some(broker) = Broker::shared() else { return };
    let first = broker.topic("comes", 1, &[]).await;
    let (session, checkpoint) = (session(), tempfile::tempdir().unwrap());
    let pattern = format!("{first}.*");
    let frame =
        values(&session, broker, &[("subscribePattern", &pattern), ("startingOffsets", "latest")]).await;
    let found = Gathered::default();
    let query = found.start(frame, checkpoint.path()).await;
    let began = Instant::now();
    while query.recent_progress().is_empty() {
        assert!(began.elapsed() < PATIENCE, "{:?}", query.exception());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let second = format!("{first}-more");
    broker.create(&second, 1, &[]).await;
    send(&producer(broker, None), &second, 0, ["a".to_string(), "b".to_string()]);
    found.wait_for(&query, 2).await;
    broker.grow(&first, 2).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    send(&producer(broker, None), &first, 1, ["c".to_string()]);
    found.wait_for(&query, 3).await;
    query.stop(StopMode::Finish).await.unwrap();
    assert_eq!(found.rows(), ["a", "b", "c"], "from their beginning");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_may_be_empty() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("empty", 2, &[]).await;
    let session = session();
    for starting in ["earliest", "latest"] {
        let checkpoint = tempfile::tempdir().unwrap();
        let checkpoint = checkpoint.path().to_str().unwrap();
        let options = [("subscribe", topic.as_str()), ("startingOffsets", starting)];
        let read = async || until_now(values(&session, broker, &options).await, checkpoint).await.unwrap();
        assert!(read().await.is_empty() && read().await.is_empty());
        send(&producer(broker, None), &topic, 1, [starting.to_string()]);
        assert_eq!(read().await.last().map(String::as_str), Some(starting));
        assert!(read().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn times_of_the_broker_are_told_from_those_of_producers() {
    let Some(broker) = Broker::shared() else { return };
    let config = [("message.timestamp.type", "LogAppendTime")];
    let topic = broker.topic("append-time", 1, &config).await;
    let producer = producer(broker, None);
    let record = BaseRecord::<str, str>::to(&topic).payload("v").timestamp(7);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(PATIENCE).unwrap();
    let (session, checkpoint) = (session(), tempfile::tempdir().unwrap());
    let frame = table(&session, broker, &[("subscribe", &topic)]).await.unwrap();
    let frame =
        frame.select_exprs(&["\"timestampType\"", "timestamp > TIMESTAMP '2020-01-01' AS is_now"]).unwrap();
    let rows = until_now(frame, checkpoint.path().to_str().unwrap()).await.unwrap();
    assert_eq!(rows, ["1|true"]);
}

/// A compacted topic has gaps; batches have what is left between their offsets, also where a query was in the midst.
#[tokio::test(flavor = "multi_thread")]
async fn compacted_topics_are_read_over_their_gaps() {
    let Some(broker) = Broker::shared() else { return };
    let config = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("segment.ms", "200"),
        ("min.compaction.lag.ms", "0"),
        ("delete.retention.ms", "0"),
    ];
    let topic = broker.topic("compacted", 1, &config).await;
    let producer = producer(broker, None);
    let write = |round: usize, keys: usize| {
        for key in 0..keys {
            let (key, value) = (format!("k{key}"), format!("k{key} r{round:03}"));
            let record = BaseRecord::<str, str>::to(&topic).key(&key).payload(&value);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
    };
    let session = session();
    let frame = async |most: &str| {
        values(&session, broker, &[("subscribe", &topic), ("maxOffsetsPerTrigger", most)]).await
    };
    write(0, 10);
    let (midst, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert_eq!(until_now(frame("1000").await, midst.path().to_str().unwrap()).await.unwrap().len(), 10);
    (1..40).for_each(|round| write(round, if round % 4 == 0 { 10 } else { 7 }));
    // What is written last is not compacted, and lets the rest be.
    let began = Instant::now();
    let mut last = 40;
    while broker.read(&topic).len() > 100 {
        assert!(began.elapsed() < PATIENCE, "it is not compacted");
        tokio::time::sleep(Duration::from_millis(400)).await;
        write(last, 1);
        last += 1;
    }
    // Another compaction between two of these would be none of the query's.
    let mut rows = Vec::new();
    for attempt in 0.. {
        let before = broker.values(&topic);
        let checkpoint = fresh.path().join(attempt.to_string());
        let batches = batches_until_now(frame("7").await, checkpoint.to_str().unwrap()).await.unwrap();
        rows = batches.values().flatten().cloned().collect();
        rows.sort_unstable();
        if broker.values(&topic) == before {
            assert_eq!(rows, before);
            assert!(batches.len() > 20, "offsets count, not messages: {}", batches.len());
            break;
        }
        assert!(attempt < 5, "it is compacted again and again");
    }
    let mut rest = until_now(frame("7").await, midst.path().to_str().unwrap()).await.unwrap();
    rest.sort_unstable();
    let expected: Vec<String> = rows.into_iter().filter(|row| !row.ends_with("r000")).collect();
    assert_eq!(rest, expected, "from the midst of what is gone on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_deleted_is_an_error_or_a_warning() {
    let Some(broker) = Broker::shared() else { return };
    for fails in ["false", "true"] {
        let (goes, stays) = (broker.topic("goes", 1, &[]).await, broker.topic("stays", 1, &[]).await);
        let producer = producer(broker, None);
        send(&producer, &goes, 0, ["a".to_string()]);
        send(&producer, &stays, 0, ["b".to_string()]);
        let (session, checkpoint) = (session(), tempfile::tempdir().unwrap());
        let both = format!("{goes},{stays}");
        let frame = values(&session, broker, &[("subscribe", &both), ("failOnDataLoss", fails)]).await;
        let found = Gathered::default();
        let query = found.start(frame, checkpoint.path()).await;
        found.wait_for(&query, 2).await;
        broker.delete(&goes).await;
        if fails == "true" {
            let error = query.await_termination().await.unwrap_err().to_string();
            assert!(error.contains(&goes) && error.contains("failOnDataLoss"), "{error}");
            continue;
        }
        for number in 0..10 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            send(&producer, &stays, 0, [format!("c{number}")]);
            found.wait_for(&query, 3 + number).await;
        }
        query.stop(StopMode::Finish).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_there_is_named() {
    let session = session();
    let reader = session.read_stream().format("kafka").option("subscribe", "t");
    let reader =
        reader.option("kafka.bootstrap.servers", "127.0.0.1:1").option("fetchOffset.numRetries", "0");
    let (frame, checkpoint) = (reader.load(None).await.unwrap(), tempfile::tempdir().unwrap());
    let error = until_now(frame, checkpoint.path().to_str().unwrap()).await.unwrap_err().to_string();
    assert!(error.contains("list the topics of 'Kafka at 127.0.0.1:1'"), "{error}");
}
