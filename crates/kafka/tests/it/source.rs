//! Reading topics.

use std::time::Duration;

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer};
use tidemill::prelude::*;

use crate::support::{Broker, batches_until_now, producer, send, session, table, until_now};

const PATIENCE: Duration = Duration::from_secs(20);

fn numbers(range: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    range.map(|number| format!("m{number:04}"))
}

fn value_of(frame: DataFrame) -> DataFrame {
    frame.select_exprs(&["arrow_cast(value, 'Utf8') AS v"]).unwrap()
}

/// Committed, aborted and open transactions, plain messages and gaps, in several partitions and any batches.
#[tokio::test(flavor = "multi_thread")]
async fn batches_have_what_was_committed_whatever_lies_between() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("transactions", 2, &[]).await;
    let (plain, transactions) = (producer(broker, None), producer(broker, Some(&format!("x-{topic}"))));
    let mut expected = Vec::new();
    for round in 0..20 {
        let range = round * 10..round * 10 + 10;
        if round % 3 == 0 {
            send(&plain, &topic, (round % 2) as i32, numbers(range.clone()));
            expected.extend(numbers(range));
            continue;
        }
        transactions.begin_transaction().unwrap();
        send(&transactions, &topic, 0, numbers(range.start..range.start + 5));
        send(&transactions, &topic, 1, numbers(range.start + 5..range.end));
        if round % 3 == 1 {
            transactions.commit_transaction(PATIENCE).unwrap();
            expected.extend(numbers(range));
        } else {
            transactions.abort_transaction(PATIENCE).unwrap();
        }
    }
    // What is behind a transaction that is open is not there yet.
    transactions.begin_transaction().unwrap();
    send(&transactions, &topic, 0, ["open".to_string()]);
    send(&plain, &topic, 0, ["behind".to_string()]);
    let session = session();
    for most in ["7", "45", "100000"] {
        let checkpoint = tempfile::tempdir().unwrap();
        let options = [("subscribe", topic.as_str()), ("maxOffsetsPerTrigger", most)];
        let mut frame = value_of(table(&session, broker, &options).await.unwrap());
        let batches = batches_until_now(frame.clone(), checkpoint.path().to_str().unwrap()).await.unwrap();
        if most == "7" {
            assert!(batches.len() > 20, "{}", batches.len());
        }
        let mut rows: Vec<String> = batches.into_values().flatten().collect();
        rows.sort_unstable();
        assert_eq!(rows, expected, "{most}");
        frame = value_of(table(&session, broker, &options).await.unwrap());
        assert!(until_now(frame, checkpoint.path().to_str().unwrap()).await.unwrap().is_empty());
    }
    transactions.commit_transaction(PATIENCE).unwrap();
    let frame = value_of(table(&session, broker, &[("subscribe", &topic)]).await.unwrap());
    let all = tempfile::tempdir().unwrap();
    expected.extend(["open".to_string(), "behind".to_string()]);
    expected.sort_unstable();
    assert_eq!(until_now(frame, all.path().to_str().unwrap()).await.unwrap(), expected);
    let uncommitted = [("subscribe", topic.as_str()), ("kafka.isolation.level", "read_uncommitted")];
    let frame = value_of(table(&session, broker, &uncommitted).await.unwrap());
    let all = tempfile::tempdir().unwrap();
    let rows = until_now(frame, all.path().to_str().unwrap()).await.unwrap();
    assert_eq!(rows.len(), 202, "aborted messages too, if they are asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_have_sparks_columns() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("columns", 1, &[]).await;
    let producer = producer(broker, None);
    let headers = OwnedHeaders::new()
        .insert(Header { key: "a", value: Some("1") })
        .insert(Header { key: "a", value: Some("2") })
        .insert(Header::<&str> { key: "b", value: None });
    let record = BaseRecord::<str, str>::to(&topic)
        .key("k")
        .payload("v")
        .timestamp(1_700_000_000_123)
        .headers(headers);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer
        .send(BaseRecord::<str, str>::to(&topic).payload("").key("").timestamp(7))
        .map_err(|(e, _)| e)
        .unwrap();
    producer.send(BaseRecord::<str, str>::to(&topic).timestamp(5)).map_err(|(error, _)| error).unwrap();
    let long = "x".repeat(10 << 20);
    producer
        .send(BaseRecord::<str, str>::to(&topic).payload(&long).timestamp(9))
        .map_err(|(e, _)| e)
        .unwrap();
    producer.flush(PATIENCE).unwrap();
    let session = session();
    let options = [("subscribe", topic.as_str()), ("includeHeaders", "true")];
    let frame = table(&session, broker, &options).await.unwrap();
    let frame = frame
        .select_exprs(&[
            "arrow_cast(key, 'Utf8') AS k",
            "left(arrow_cast(value, 'Utf8'), 3) AS v",
            "octet_length(arrow_cast(value, 'Utf8')) AS len",
            "partition",
            "\"offset\"",
            "timestamp",
            "\"timestampType\"",
            "headers",
        ])
        .unwrap();
    let checkpoint = tempfile::tempdir().unwrap();
    let rows = until_now(frame, checkpoint.path().to_str().unwrap()).await.unwrap();
    assert_eq!(
        rows,
        [
            "k|v|1|0|0|2023-11-14T22:13:20.123|0|[{key: a, value: 31}, {key: a, value: 32}, {key: b, value: }]"
                .replace("value: }", "value: null}"),
            "null|null|null|0|2|1970-01-01T00:00:00.005|0|null".into(),
            "null|xxx|10485760|0|3|1970-01-01T00:00:00.009|0|null".into(),
            "||0|0|1|1970-01-01T00:00:00.007|0|null".into(),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_begins_where_it_is_told_to() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("begin", 2, &[]).await;
    let producer = producer(broker, None);
    for partition in 0..2 {
        for number in 0..10_i64 {
            let text = format!("p{partition}m{number}");
            let record = BaseRecord::<str, str>::to(&topic)
                .partition(partition)
                .payload(&text)
                .timestamp(1000 + number);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
    }
    producer.flush(PATIENCE).unwrap();
    let session = session();
    let at = |offsets: &str| format!("{{\"{topic}\":{offsets}}}");
    for (option, value, expected) in [
        ("startingOffsets", "earliest".to_string(), 20),
        ("startingOffsets", "latest".to_string(), 0),
        ("startingOffsets", at("{\"0\":4,\"1\":-2}"), 16),
        ("startingOffsets", at("{\"0\":-1,\"1\":9}"), 1),
        ("startingTimestamp", "1007".to_string(), 6),
        ("startingOffsetsByTimestamp", at("{\"0\":1005,\"1\":1009}"), 6),
    ] {
        let checkpoint = tempfile::tempdir().unwrap();
        let options = [("subscribe", topic.as_str()), (option, value.as_str())];
        let frame = value_of(table(&session, broker, &options).await.unwrap());
        let rows = until_now(frame, checkpoint.path().to_str().unwrap()).await.unwrap();
        assert_eq!(rows.len(), expected, "{option} = {value}: {rows:?}");
    }
    let checkpoint = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint.path().to_str().unwrap();
    let late = [("subscribe", topic.as_str()), ("startingTimestamp", "5000")];
    let frame = value_of(table(&session, broker, &late).await.unwrap());
    let error = until_now(frame, checkpoint).await.unwrap_err().to_string();
    assert!(error.contains("has no message that is as young"), "{error}");
    // The beginning is recorded, although there was nothing: what comes until the next start is read.
    let late = [late[0], late[1], ("startingOffsetsByTimestampStrategy", "latest")];
    let frame = || async { value_of(table(&session, broker, &late).await.unwrap()) };
    assert!(until_now(frame().await, checkpoint).await.unwrap().is_empty());
    send(&producer, &topic, 1, ["new".to_string()]);
    assert_eq!(until_now(frame().await, checkpoint).await.unwrap(), ["new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_and_topics_that_come_later_are_read() {
    let Some(broker) = Broker::shared() else { return };
    let first = broker.topic("grows", 1, &[]).await;
    let producer = producer(broker, None);
    send(&producer, &first, 0, ["a".to_string()]);
    let (session, checkpoint) = (session(), tempfile::tempdir().unwrap());
    let checkpoint = checkpoint.path().to_str().unwrap();
    let pattern = format!("{first}.*");
    let frame =
        || async { value_of(table(&session, broker, &[("subscribePattern", &pattern)]).await.unwrap()) };
    assert_eq!(until_now(frame().await, checkpoint).await.unwrap(), ["a"]);
    broker.grow(&first, 2).await;
    broker.create(&format!("{first}-more"), 1, &[]).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    send(&producer, &first, 1, ["b".to_string()]);
    send(&producer, &format!("{first}-more"), 0, ["c".to_string()]);
    send(&producer, &first, 0, ["d".to_string()]);
    assert_eq!(until_now(frame().await, checkpoint).await.unwrap(), ["b", "c", "d"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_has_removed_is_an_error_or_a_warning() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("retention", 1, &[]).await;
    let producer = producer(broker, None);
    send(&producer, &topic, 0, numbers(0..10));
    let (session, checkpoint) = (session(), tempfile::tempdir().unwrap());
    let checkpoint = checkpoint.path().to_str().unwrap();
    let frame = |fails: &'static str| {
        let (session, topic) = (session.clone(), topic.clone());
        async move {
            value_of(
                table(&session, broker, &[("subscribe", &topic), ("failOnDataLoss", fails)]).await.unwrap(),
            )
        }
    };
    assert_eq!(until_now(frame("true").await, checkpoint).await.unwrap().len(), 10);
    send(&producer, &topic, 0, numbers(10..20));
    broker.delete_before(&topic, 0, 15).await;
    let error = until_now(frame("true").await, checkpoint).await.unwrap_err().to_string();
    assert!(error.contains("the offsets 10 to 14 are lost (5 at most)"), "{error}");
    assert!(error.contains("failOnDataLoss") && error.contains(&topic), "{error}");
    let rest: Vec<String> = numbers(15..20).collect();
    assert_eq!(until_now(frame("false").await, checkpoint).await.unwrap(), rest);
    // The same name, another topic.
    broker.delete(&topic).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    broker.create(&topic, 1, &[]).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let producer = crate::support::producer(broker, None);
    send(&producer, &topic, 0, numbers(0..3));
    let error = until_now(frame("true").await, checkpoint).await.unwrap_err().to_string();
    assert!(error.contains("deleted and created again"), "{error}");
    let anew: Vec<String> = numbers(0..3).collect();
    assert_eq!(until_now(frame("false").await, checkpoint).await.unwrap(), anew);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_topic_is_said_at_the_start() {
    let Some(broker) = Broker::shared() else { return };
    let session = session();
    let frame = value_of(table(&session, broker, &[("subscribe", "no-such-topic")]).await.unwrap());
    let checkpoint = tempfile::tempdir().unwrap();
    let error = until_now(frame, checkpoint.path().to_str().unwrap()).await.unwrap_err().to_string();
    assert!(error.contains("topic 'no-such-topic' does not exist"), "{error}");
    let error =
        table(&session, broker, &[("subscribe", "t"), ("maxOffsetPerTrigger", "1")]).await.unwrap_err();
    assert!(error.to_string().contains("did you mean 'maxOffsetsPerTrigger'"), "{error}");
}

/// A message is read when it comes, without waiting for the next look.
#[tokio::test(flavor = "multi_thread")]
async fn messages_wake_a_query() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("wake", 2, &[]).await;
    let producer = producer(broker, None);
    let session = session();
    let frame = value_of(table(&session, broker, &[("subscribe", &topic)]).await.unwrap());
    let (into, mut found) = tokio::sync::mpsc::unbounded_channel();
    let checkpoint = tempfile::tempdir().unwrap();
    let query = frame
        .write_stream()
        .foreach_batch(move |rows, _| {
            let into = into.clone();
            async move {
                for row in crate::support::texts(&rows.collect().await?) {
                    let _ = into.send(row);
                }
                Ok(())
            }
        })
        .option("checkpointLocation", checkpoint.path().display())
        .start(None)
        .await
        .unwrap();
    for number in 0..10 {
        send(&producer, &topic, number % 2, [format!("m{number}")]);
        let row = tokio::time::timeout(PATIENCE, found.recv()).await.unwrap().unwrap();
        assert_eq!(row, format!("m{number}"));
    }
    let progress = query.last_progress().unwrap();
    assert!(progress.sources[0].metrics.contains_key("maxOffsetsBehindLatest"), "{progress:?}");
    query.stop(StopMode::Finish).await.unwrap();
}
