//! Malformed messages that are put aside.

use tidemill::arrow::datatypes::{DataType, Field, Schema};
use tidemill::prelude::*;

use crate::support::{Broker, batches_until_now, producer, send, session};

async fn numbers(
    session: &Session,
    broker: &Broker,
    options: &[(&str, &str)],
) -> tidemill::Result<DataFrame> {
    let columns = Schema::new(vec![Field::new("n", DataType::Int64, true)]);
    let mut reader = session.read_stream().format("kafka").schema(std::sync::Arc::new(columns));
    reader = reader.option("kafka.bootstrap.servers", broker.servers()).option("startingOffsets", "earliest");
    for (name, value) in options {
        reader = reader.option(*name, value);
    }
    reader.load(None).await
}

/// The records that were put aside below `directory`, by batch and file.
fn aside(directory: &std::path::Path) -> Vec<(String, tidemill::serde_json::Value)> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let name = path.strip_prefix(directory).unwrap().components().skip(1);
        let name: Vec<_> = name.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let record: tidemill::serde_json::Value = tidemill::serde_json::from_str(line).unwrap();
            found.push((name.join("/"), record));
        }
    }
    found.sort_by_key(|(name, record)| (name.clone(), record["offset"].as_i64()));
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_messages_are_written_elsewhere_with_their_offsets() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("aside", 2, &[]).await;
    let (session, producer) = (session(), producer(broker, None));
    let text = |number: usize| match number % 10 {
        3 => "{\"n\":oops".to_string(),
        number => format!("{{\"n\":{number}}}"),
    };
    send(&producer, &topic, 0, (0..40).map(text));
    send(&producer, &topic, 1, ["{\"n\":\"x\"}".to_string(), "{\"n\":1}".to_string()]);
    let place = tempfile::tempdir().unwrap();
    let bad = place.path().join("bad");
    let checkpoint = place.path().join("checkpoint").display().to_string();
    let options = [
        ("subscribe", topic.as_str()),
        ("value.format", "json"),
        ("badRecordsPath", bad.to_str().unwrap()),
        ("maxOffsetsPerTrigger", "20"),
    ];
    let batches =
        batches_until_now(numbers(&session, broker, &options).await.unwrap(), &checkpoint).await.unwrap();
    assert_eq!(batches.values().map(Vec::len).sum::<usize>(), 37);
    let found = aside(&bad);
    let offsets: Vec<_> = found
        .iter()
        .map(|(name, record)| {
            let name = name.split_once('/').unwrap().1.to_string();
            (name, record["offset"].as_i64().unwrap(), record["record"].as_str().unwrap().to_string())
        })
        .collect();
    let (zero, one) = (format!("{topic}-0.json"), format!("{topic}-1.json"));
    let mut expected: Vec<_> =
        [3, 13, 23, 33].map(|at| (zero.clone(), at, "{\"n\":oops".to_string())).to_vec();
    expected.push((one, 0, "{\"n\":\"x\"}".to_string()));
    let mut sorted = offsets.clone();
    sorted.sort();
    assert_eq!(sorted, expected);
    let first = found.iter().find(|(name, _)| name.ends_with("-1.json")).unwrap();
    assert_eq!(first.1["path"], format!("kafka:{topic}/1"));
    assert!(first.1["reason"].as_str().unwrap().starts_with("column 'n': "), "{}", first.1);

    // What is put aside stays so over restarts, and is told of once.
    let again =
        batches_until_now(numbers(&session, broker, &options).await.unwrap(), &checkpoint).await.unwrap();
    assert!(again.is_empty() && aside(&bad).len() == 5);
    let strict = [("subscribe", topic.as_str()), ("value.format", "json")];
    let error =
        batches_until_now(numbers(&session, broker, &strict).await.unwrap(), &checkpoint).await.unwrap_err();
    assert!(error.to_string().contains("badRecordsPath"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_text_is_told_in_digits_and_keys_are_named() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("aside-bytes", 1, &[]).await;
    let (session, producer) = (session(), producer(broker, None));
    // The key is the text k.
    send(&producer, &topic, 0, ["{\"n\":1}".to_string()]);
    let place = tempfile::tempdir().unwrap();
    let bad = place.path().join("bad");
    let checkpoint = |name: &str| place.path().join(name).display().to_string();
    let base = [("subscribe", topic.as_str()), ("badRecordsPath", bad.to_str().unwrap())];
    let key = [base[0], base[1], ("key.format", "json"), ("key.fields", "n")];
    let rows =
        batches_until_now(numbers(&session, broker, &key).await.unwrap(), &checkpoint("a")).await.unwrap();
    assert!(rows.into_values().flatten().next().is_none());
    assert!(aside(&bad)[0].1["reason"].as_str().unwrap().starts_with("key, "), "{:?}", aside(&bad));
    std::fs::remove_dir_all(&bad).unwrap();

    use rdkafka::producer::{BaseRecord, Producer};
    let record = BaseRecord::<str, [u8]>::to(&topic).payload(&[0xff, 0x00]);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(std::time::Duration::from_secs(20)).unwrap();
    let value = [base[0], base[1], ("value.format", "json")];
    let rows =
        batches_until_now(numbers(&session, broker, &value).await.unwrap(), &checkpoint("b")).await.unwrap();
    assert_eq!(rows.into_values().flatten().collect::<Vec<_>>(), ["1"]);
    let found = aside(&bad);
    assert_eq!(
        (found.len(), found[0].1["record"].as_str(), found[0].1["encoding"].as_str()),
        (1, Some("ff00"), Some("hex"))
    );

    // Nothing is malformed without a format.
    let error = numbers(&session, broker, &base).await.unwrap_err().to_string();
    assert!(error.contains("badRecordsPath"), "{error}");
}
