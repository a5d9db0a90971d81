//! Writing to topics.

use std::time::Duration;

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer};
use tidemill::datafusion::functions_aggregate::expr_fn::count;
use tidemill::prelude::*;

use crate::support::{Broker, producer, send, session, sql, table, until_now};

/// Copies what there is, with `options` of the sink.
async fn copy(
    broker: &Broker,
    frame: DataFrame,
    checkpoint: &str,
    options: &[(&str, &str)],
) -> tidemill::Result<()> {
    let mut writer = frame
        .write_stream()
        .format("kafka")
        .option("kafka.bootstrap.servers", broker.servers())
        .option("checkpointLocation", checkpoint)
        .option("durability", "process")
        .trigger(Trigger::AvailableNow);
    for (name, value) in options {
        writer = writer.option(*name, value);
    }
    writer.start(None).await?.await_termination().await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_where_sparks_columns_say() {
    let Some(broker) = Broker::shared() else { return };
    let (from, one, two) = (
        broker.topic("from", 1, &[]).await,
        broker.topic("one", 3, &[]).await,
        broker.topic("two", 1, &[]).await,
    );
    send(&producer(broker, None), &from, 0, (0..6).map(|number| number.to_string()));
    let session = session();
    let options = [("subscribe", from.as_str()), ("maxOffsetsPerTrigger", "4")];
    let frame = table(&session, broker, &options).await.unwrap();
    let number = "CAST(arrow_cast(value, 'Utf8') AS INT)";
    let frame = frame
        .select_exprs(&[
            &format!("CASE WHEN {number} % 2 = 0 THEN '{one}' ELSE '{two}' END AS topic"),
            &format!("CASE WHEN {number} % 2 = 0 THEN 2 ELSE 0 END AS partition"),
            &format!("CASE WHEN {number} = 4 THEN NULL ELSE arrow_cast(value, 'Utf8') END AS value"),
            "key",
        ])
        .unwrap();
    let checkpoint = tempfile::tempdir().unwrap();
    copy(broker, frame, checkpoint.path().to_str().unwrap(), &[]).await.unwrap();
    assert_eq!(broker.values(&two), ["1", "3", "5"]);
    let read = broker.read(&one);
    assert!(read.iter().all(|read| read.partition == 2 && read.key.as_deref() == Some("k")), "{read:?}");
    let values: Vec<_> = read.iter().map(|read| read.value.as_deref()).collect();
    assert_eq!(values, [Some("0"), Some("2"), None], "a null is a tombstone");
    assert!(
        std::fs::read_dir(checkpoint.path().join("staged")).map_or(true, |mut left| left.next().is_none())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_reads_and_writes_typed_columns() {
    let Some(broker) = Broker::shared() else { return };
    let (from, to) = (broker.topic("sql-from", 2, &[]).await, broker.topic("sql-to", 1, &[]).await);
    let lines = ["{\"page\":\"a\",\"ms\":5}", "{\"page\":\"b\",\"ms\":7}", "{\"page\":\"a\",\"ms\":1}"];
    send(&producer(broker, None), &from, 1, lines.map(String::from));
    let (directory, sql, servers) = (tempfile::tempdir().unwrap(), sql(), broker.servers());
    let script = format!(
        "CREATE UNBOUNDED EXTERNAL TABLE clicks (page VARCHAR, ms BIGINT) STORED AS KAFKA OPTIONS (
             'kafka.bootstrap.servers' '{servers}', 'subscribe' '{from}', 'startingOffsets' 'earliest',
             'value.format' 'json');
         CREATE EXTERNAL TABLE pages STORED AS KAFKA OPTIONS (
             'kafka.bootstrap.servers' '{servers}', 'topic' '{to}', 'value.format' 'json', 'key.format' 'csv');
         CREATE STREAMING QUERY per_page TRIGGER AVAILABLE NOW OUTPUT MODE UPDATE
             CHECKPOINT LOCATION '{}' AS INSERT INTO pages SELECT page, count(*) AS n, sum(ms) AS ms FROM clicks GROUP BY page",
        directory.path().join("c").display()
    );
    for statement in sql.parse(&script).unwrap() {
        if let tidemill::sql::SqlOutcome::Query(started) = sql.execute(&statement).await.unwrap() {
            started.query.await_termination().await.unwrap();
        }
    }
    let read: Vec<_> =
        broker.read(&to).into_iter().map(|read| (read.key.unwrap(), read.value.unwrap())).collect();
    let mut read = read;
    read.sort();
    let expected = [("a", "{\"page\":\"a\",\"n\":2,\"ms\":6}"), ("b", "{\"page\":\"b\",\"n\":1,\"ms\":7}")];
    assert_eq!(read, expected.map(|(key, value)| (key.to_string(), value.to_string())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_written_ends_the_query_and_nothing_of_its_batch_is_seen() {
    let Some(broker) = Broker::shared() else { return };
    let (from, to) = (
        broker.topic("large", 1, &[]).await,
        broker.topic("small", 1, &[("max.message.bytes", "1000")]).await,
    );
    send(&producer(broker, None), &from, 0, ["fine".to_string(), "x".repeat(5000)]);
    let session = session();
    let frame =
        table(&session, broker, &[("subscribe", &from)]).await.unwrap().select_columns(&["value"]).unwrap();
    let checkpoint = tempfile::tempdir().unwrap();
    let options = [("topic", to.as_str())];
    let error = copy(broker, frame.clone(), checkpoint.path().to_str().unwrap(), &options)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains(&to) && error.contains("larger than"), "{error}");
    assert!(broker.values(&to).is_empty());
    let error =
        copy(broker, frame.clone(), checkpoint.path().to_str().unwrap(), &[("topic", "no-such-topic")]).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("topic 'no-such-topic' does not exist"), "{error}");
    for (options, expected) in [
        (&[][..], "does not know where rows go"),
        (&[("topic", "t"), ("value.format", "xml")], "cannot be written as 'xml'"),
        (&[("topic", "t"), ("deliveryGuarantee", "once")], "expected exactly-once or at-least-once"),
        (&[("topic", "t"), ("kafka.transactional.id", "x")], "each query has its own"),
        (&[("topic", "t"), ("topics", "x")], "unknown option 'topics'"),
    ] {
        let error =
            copy(broker, frame.clone(), checkpoint.path().to_str().unwrap(), options).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_takes_too_long_ends_the_query_and_the_next_start_writes_its_batch() {
    let Some(broker) = Broker::shared() else { return };
    let (from, to) = (broker.topic("slow", 1, &[]).await, broker.topic("slow-to", 1, &[]).await);
    send(&producer(broker, None), &from, 0, (0..3).map(|number| number.to_string()));
    let session = session();
    // Each row takes longer than a transaction may.
    let slow = create_udf(
        "slowly",
        vec![tidemill::arrow::datatypes::DataType::Utf8],
        tidemill::arrow::datatypes::DataType::Utf8,
        tidemill::datafusion::logical_expr::Volatility::Volatile,
        std::sync::Arc::new(|values| {
            std::thread::sleep(Duration::from_secs(4));
            Ok(values[0].clone())
        }),
    );
    session.context().register_udf(slow);
    let options = [("subscribe", from.as_str())];
    let frame = table(&session, broker, &options).await.unwrap();
    // The first part is sent before the second is computed.
    let first = frame.clone().filter(col("offset").eq(lit(0_i64))).unwrap();
    let first = first.select_exprs(&["arrow_cast(value, 'Utf8') AS value"]).unwrap();
    let rest = frame.filter(col("offset").gt(lit(0_i64))).unwrap();
    let rest = rest.select_exprs(&["slowly(arrow_cast(value, 'Utf8')) AS value"]).unwrap();
    let frame = first.union(rest).unwrap();
    let checkpoint = tempfile::tempdir().unwrap();
    let options = [
        ("topic", to.as_str()),
        ("kafka.transaction.timeout.ms", "1500"),
        ("kafka.message.timeout.ms", "1500"),
    ];
    let copied = copy(broker, frame.clone(), checkpoint.path().to_str().unwrap(), &options).await;
    let error = copied.unwrap_err().to_string();
    assert!(error.contains("kafka.transaction.timeout.ms"), "{error}");
    assert!(broker.values(&to).is_empty());
    let longer = [options[0], ("kafka.transaction.timeout.ms", "60000")];
    copy(broker, frame, checkpoint.path().to_str().unwrap(), &longer).await.unwrap();
    assert_eq!(broker.values(&to), ["0", "1", "2"]);
}

/// What a message has beside its value goes the whole way, also names of headers that come twice, and nulls.
#[tokio::test(flavor = "multi_thread")]
async fn keys_headers_and_long_values_are_written_as_they_were_read() {
    let Some(broker) = Broker::shared() else { return };
    let large = [("max.message.bytes", "15000000")];
    let (from, to) = (broker.topic("whole", 1, &large).await, broker.topic("whole-to", 1, &large).await);
    let producer = producer(broker, None);
    let headers = OwnedHeaders::new()
        .insert(Header { key: "a", value: Some("1") })
        .insert(Header { key: "a", value: Some("") })
        .insert(Header::<&str> { key: "b", value: None });
    let long = "x".repeat(10 << 20);
    for record in [
        BaseRecord::<str, str>::to(&from).key("k").payload("v").headers(headers),
        BaseRecord::<str, str>::to(&from).payload(&long),
        BaseRecord::<str, str>::to(&from).key("").payload(""),
    ] {
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(Duration::from_secs(20)).unwrap();
    let session = session();
    let read = async |topic: &str| {
        let options = [("subscribe", topic), ("includeHeaders", "true")];
        table(&session, broker, &options).await.unwrap()
    };
    let copied = read(&from).await.select_columns(&["key", "value", "headers"]).unwrap();
    let checkpoint = tempfile::tempdir().unwrap();
    let options = [("topic", to.as_str()), ("kafka.message.max.bytes", "15000000")];
    copy(broker, copied, checkpoint.path().to_str().unwrap(), &options).await.unwrap();
    let mut all = Vec::new();
    for topic in [&from, &to] {
        let checkpoint = tempfile::tempdir().unwrap();
        let columns = ["key", "octet_length(arrow_cast(value, 'Utf8')) AS len", "headers", "partition"];
        let frame = read(topic).await.select_exprs(&columns).unwrap();
        all.push(until_now(frame, checkpoint.path().to_str().unwrap()).await.unwrap());
    }
    assert_eq!(all[0], all[1]);
    let headers = "[{key: a, value: 31}, {key: a, value: }, {key: b, value: null}]";
    assert_eq!(all[1], [format!("6b|1|{headers}|0"), "null|10485760|null|0".into(), "|0|null|0".into()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn complete_mode_writes_the_whole_result_each_time() {
    let Some(broker) = Broker::shared() else { return };
    let (from, to) = (broker.topic("complete", 1, &[]).await, broker.topic("complete-to", 1, &[]).await);
    let session = session();
    let checkpoint = tempfile::tempdir().unwrap();
    for (sent, expected) in [
        (&["a", "b", "a"][..], &["{\"v\":\"a\",\"n\":2}", "{\"v\":\"b\",\"n\":1}"][..]),
        (
            &["b"],
            &[
                "{\"v\":\"a\",\"n\":2}",
                "{\"v\":\"a\",\"n\":2}",
                "{\"v\":\"b\",\"n\":1}",
                "{\"v\":\"b\",\"n\":2}",
            ],
        ),
    ] {
        send(&producer(broker, None), &from, 0, sent.iter().map(ToString::to_string));
        let frame = table(&session, broker, &[("subscribe", &from)]).await.unwrap();
        let frame = frame.select_exprs(&["arrow_cast(value, 'Utf8') AS v"]).unwrap();
        let frame = frame.aggregate(vec![col("v")], vec![count(lit(1)).alias("n")]).unwrap();
        let writer = frame.write_stream().output_mode(OutputMode::Complete).format("kafka");
        let writer = writer
            .option("kafka.bootstrap.servers", broker.servers())
            .option("topic", &to)
            .option("value.format", "json")
            .option("checkpointLocation", checkpoint.path().display())
            .trigger(Trigger::AvailableNow);
        writer.start(None).await.unwrap().await_termination().await.unwrap();
        assert_eq!(broker.values(&to), expected);
    }
}

/// Without transactions rows are seen at once, those of a batch that fails too; none is lost.
#[tokio::test(flavor = "multi_thread")]
async fn at_least_once_writes_a_batch_again_that_has_failed() {
    let Some(broker) = Broker::shared() else { return };
    let (from, to) = (broker.topic("least-once", 1, &[]).await, broker.topic("least-once-to", 1, &[]).await);
    send(&producer(broker, None), &from, 0, (0..6).map(|number| number.to_string()));
    let session = session();
    let fails = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let breaks = std::sync::Arc::clone(&fails);
    let text = tidemill::arrow::datatypes::DataType::Utf8;
    let udf = create_udf(
        "sometimes",
        vec![text.clone()],
        text,
        tidemill::datafusion::logical_expr::Volatility::Volatile,
        std::sync::Arc::new(move |values| {
            // What goes before is on its way.
            std::thread::sleep(Duration::from_secs(2));
            match breaks.load(std::sync::atomic::Ordering::SeqCst) {
                true => tidemill::datafusion::common::exec_err!("it does not work today"),
                false => Ok(values[0].clone()),
            }
        }),
    );
    session.context().register_udf(udf);
    let frame = table(&session, broker, &[("subscribe", &from)]).await.unwrap();
    let first = frame.clone().filter(col("offset").lt(lit(3_i64))).unwrap();
    let first = first.select_exprs(&["arrow_cast(value, 'Utf8') AS value"]).unwrap();
    let rest = frame.filter(col("offset").gt_eq(lit(3_i64))).unwrap();
    let rest = rest.select_exprs(&["sometimes(arrow_cast(value, 'Utf8')) AS value"]).unwrap();
    let frame = first.union(rest).unwrap();
    let checkpoint = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint.path().to_str().unwrap();
    let options = [("topic", to.as_str()), ("deliveryGuarantee", "at-least-once")];
    let error = copy(broker, frame.clone(), checkpoint, &options).await.unwrap_err().to_string();
    assert!(error.contains("does not work today"), "{error}");
    assert!(broker.values(&to).iter().all(|value| ["0", "1", "2"].contains(&value.as_str())));
    fails.store(false, std::sync::atomic::Ordering::SeqCst);
    copy(broker, frame, checkpoint, &options).await.unwrap();
    let mut values = broker.values(&to);
    values.dedup();
    assert_eq!(values, ["0", "1", "2", "3", "4", "5"]);
}
