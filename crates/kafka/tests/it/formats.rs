//! Columns of keys and values.

use std::sync::Arc;

use rdkafka::producer::{BaseRecord, Producer};
use tidemill::arrow::datatypes::{DataType, Field, Schema};
use tidemill::prelude::*;

use crate::support::{Broker, producer, session, until_now};

async fn typed(
    session: &Session,
    broker: &Broker,
    schema: Schema,
    options: &[(&str, &str)],
) -> tidemill::Result<DataFrame> {
    let mut reader = session
        .read_stream()
        .format("kafka")
        .schema(Arc::new(schema))
        .option("kafka.bootstrap.servers", broker.servers())
        .option("startingOffsets", "earliest");
    for (name, value) in options {
        reader = reader.option(*name, value);
    }
    reader.load(None).await
}

fn fields(columns: &[(&str, DataType)]) -> Schema {
    Schema::new(columns.iter().map(|(name, of)| Field::new(*name, of.clone(), true)).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_values_have_formats_of_their_own() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("formats", 1, &[]).await;
    let producer = producer(broker, None);
    for (key, value) in [
        (Some("7;x"), Some("{\"price\": 1.5, \"name\": \"a\"}")),
        (Some("8;\"y;z\""), None),
        (None, Some("{\"name\":\"b\"}")),
        (Some("9;w"), Some("{\"price\": \"much\"}")),
    ] {
        let mut record = BaseRecord::<str, str>::to(&topic).timestamp(1000);
        record = key.map_or(record, |key| BaseRecord::<str, str>::to(&topic).timestamp(1000).key(key));
        if let Some(value) = value {
            record = record.payload(value);
        }
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(std::time::Duration::from_secs(20)).unwrap();
    let session = session();
    let columns = || {
        fields(&[
            ("price", DataType::Float64),
            ("id", DataType::Int64),
            ("name", DataType::Utf8),
            ("kind", DataType::Utf8),
            ("_metadata", DataType::Null),
        ])
    };
    let base = [
        ("subscribe", topic.as_str()),
        ("key.format", "csv"),
        ("key.sep", ";"),
        ("key.fields", "id,kind"),
        ("value.format", "json"),
    ];
    let read = async |mode: &str, exprs: &[&str]| {
        let options: Vec<_> = base.iter().copied().chain([("mode", mode)]).collect();
        let frame = typed(&session, broker, columns(), &options).await?.select_exprs(exprs)?;
        let checkpoint = tempfile::tempdir().unwrap();
        until_now(frame, checkpoint.path().to_str().unwrap()).await
    };
    let all = ["price", "id", "name", "kind", "_metadata['offset'] AS o"];
    let error = read("FAILFAST", &all).await.unwrap_err().to_string();
    let expected = format!("malformed message at topic '{topic}', partition 0, offset 3, column 'price'");
    assert!(error.contains(&expected), "{error}");
    let rows = read("PERMISSIVE", &all).await.unwrap();
    let good = ["1.5|7|a|x|0", "null|8|null|y;z|1", "null|null|b|null|2"];
    let kept: Vec<&str> = good.iter().copied().chain(["null|9|null|w|3"]).collect();
    let mut kept: Vec<String> = kept.into_iter().map(String::from).collect();
    kept.sort_unstable();
    assert_eq!(rows, kept);
    assert_eq!(read("DROPMALFORMED", &all).await.unwrap(), good);
    let few = ["kind", "_metadata['timestamp'] AS t"];
    let expected = ["null|1970-01-01T00:00:01", "x|1970-01-01T00:00:01", "y;z|1970-01-01T00:00:01"];
    assert_eq!(read("DROPMALFORMED", &few).await.unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_cannot_be_are_refused() {
    let Some(broker) = Broker::shared() else { return };
    let session = session();
    let columns = || fields(&[("a", DataType::Int64), ("b", DataType::Utf8)]);
    for (options, expected) in [
        (&[][..], "without the options value.format and key.format the columns of a kafka table are"),
        (
            &[("value.format", "json"), ("schema.registry.url", "http://r")],
            "a schema registry is for messages of Avro's",
        ),
        (&[("value.format", "xml")], "messages cannot be read as 'xml'"),
        (&[("value.format", "json"), ("mod", "x")], "unknown option 'mod'"),
        (&[("value.format", "json"), ("key.format", "json")], "key.fields"),
        (&[("value.format", "json"), ("key.fields", "a")], "say what the key is"),
        (&[("key.format", "json"), ("key.fields", "a")], "neither one of key.fields nor"),
        (&[("value.format", "json"), ("key.format", "json"), ("key.fields", "x")], "there is no such column"),
        (&[("value.format", "raw")], "gives one column, of type BYTEA"),
    ] {
        let options: Vec<_> = options.iter().copied().chain([("subscribe", "t")]).collect();
        let error = typed(&session, broker, columns(), &options).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_debezium_are_rows() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("debezium", 1, &[]).await;
    let producer = producer(broker, None);
    // As Debezium's connectors send them: with a schema around the envelope and without, and nothing behind a deletion.
    let schema =
        r#"{"type":"struct","fields":[{"field":"payload","type":"struct"}],"name":"shop.goods.Envelope"}"#;
    let source = r#""source":{"connector":"postgresql","lsn":7},"transaction":null,"ts_ms":1700000000123"#;
    let goods = |id: u32, name: &str| format!("{{\"id\":{id},\"name\":\"{name}\"}}");
    let change = |op: &str, before: &str, after: &str| {
        format!("{{\"before\":{before},\"after\":{after},{source},\"op\":\"{op}\"}}")
    };
    let wrapped = |payload: &str| format!("{{\"schema\":{schema},\"payload\":{payload}}}");
    for value in [
        Some(wrapped(&change("c", "null", &goods(1, "cup")))),
        Some(change("u", &goods(1, "cup"), &goods(1, "mug"))),
        Some(wrapped(&change("d", &goods(1, "mug"), "null"))),
        None,
        Some("{\"op\":7".into()),
        Some(change("r", "null", &goods(2, "jug"))),
    ] {
        let record = BaseRecord::<str, str>::to(&topic).key("{\"id\":1}");
        let record = match &value {
            Some(value) => record.payload(value),
            None => record,
        };
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(std::time::Duration::from_secs(20)).unwrap();
    let session = session();
    let row = DataType::Struct(fields(&[("id", DataType::Int64), ("name", DataType::Utf8)]).fields);
    let columns =
        [("op", DataType::Utf8), ("before", row.clone()), ("after", row), ("ts_ms", DataType::Int64)];
    let read = async |mode: &str, exprs: &[&str]| {
        let options = [("subscribe", topic.as_str()), ("value.format", "debezium-json"), ("mode", mode)];
        let frame = typed(&session, broker, fields(&columns), &options).await?.select_exprs(exprs)?;
        let checkpoint = tempfile::tempdir().unwrap();
        until_now(frame, checkpoint.path().to_str().unwrap()).await
    };
    let all = ["op", "before['name'] AS b", "after['id'] AS i", "after['name'] AS a", "ts_ms"];
    let time = 1_700_000_000_123_u64;
    let good = [
        format!("c|null|1|cup|{time}"),
        format!("d|mug|null|null|{time}"),
        format!("r|null|2|jug|{time}"),
        format!("u|cup|1|mug|{time}"),
    ];
    assert_eq!(read("DROPMALFORMED", &all).await.unwrap(), good);
    assert_eq!(read("PERMISSIVE", &all).await.unwrap().len(), 5, "nothing for the message without a value");
    assert_eq!(read("PERMISSIVE", &["1 AS one"]).await.unwrap().len(), 5, "whichever columns are wanted");
    let error = read("FAILFAST", &all).await.unwrap_err().to_string();
    assert!(
        error.contains(&format!("malformed message at topic '{topic}', partition 0, offset 4")),
        "{error}"
    );
    let flat = fields(&[("op", DataType::Utf8), ("name", DataType::Utf8)]);
    let error = typed(&session, broker, flat, &[("subscribe", "t"), ("value.format", "debezium-json")]).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("changes of another table") && error.contains("after['name']"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn text_and_bytes_are_one_column() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("text", 1, &[]).await;
    let producer = producer(broker, None);
    for value in [Some("two\nlines"), Some(""), None] {
        let record = BaseRecord::<str, str>::to(&topic);
        let record = value.into_iter().fold(record, BaseRecord::payload);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(std::time::Duration::from_secs(20)).unwrap();
    let session = session();
    for (format, of, expected) in [
        ("text", DataType::Utf8, ["two\nlines|0", "null|2", "|1"]),
        ("raw", DataType::Binary, ["74776f0a6c696e6573|0", "null|2", "|1"]),
    ] {
        let options = [("subscribe", topic.as_str()), ("value.format", format)];
        let columns = fields(&[("line", of), ("_metadata", DataType::Null)]);
        let frame = typed(&session, broker, columns, &options).await.unwrap();
        let frame = frame.select_exprs(&["line", "_metadata['offset'] AS o"]).unwrap();
        let checkpoint = tempfile::tempdir().unwrap();
        let rows = until_now(frame, checkpoint.path().to_str().unwrap()).await.unwrap();
        let mut expected = expected.map(String::from);
        expected.sort_unstable();
        assert_eq!(rows, expected, "{format}");
    }
}

/// Without a format, functions make columns of values, and values of columns.
#[tokio::test(flavor = "multi_thread")]
async fn values_are_columns_by_functions() {
    let Some(broker) = Broker::shared() else { return };
    let (topic, to) = (broker.topic("functions", 1, &[]).await, broker.topic("functions-to", 1, &[]).await);
    let producer = producer(broker, None);
    crate::support::send(&producer, &topic, 0, ["{\"a\":1,\"b\":[\"x\"]}", "{\"a\":2}"].map(String::from));
    let session = session();
    let frame = crate::support::table(&session, broker, &[("subscribe", &topic)]).await.unwrap();
    let parsed = "from_json(arrow_cast(value, 'Utf8'), 'a INT, b ARRAY<STRING>')";
    let frame = frame.select_exprs(&["key", &format!("{parsed} AS v")]).unwrap();
    let frame =
        frame.select_exprs(&["key", "to_json(named_struct('twice', v['a'] * 2, 'b', v['b'])) AS value"]);
    let checkpoint = tempfile::tempdir().unwrap();
    let writer = frame.unwrap().write_stream().format("kafka").option("topic", &to);
    let writer = writer
        .option("kafka.bootstrap.servers", broker.servers())
        .option("checkpointLocation", checkpoint.path().display())
        .trigger(Trigger::AvailableNow);
    writer.start(None).await.unwrap().await_termination().await.unwrap();
    assert_eq!(broker.values(&to), ["{\"twice\":2,\"b\":[\"x\"]}", "{\"twice\":4}"]);
    let bytes = broker.topic("functions-avro", 1, &[]).await;
    let record = BaseRecord::<[u8], [u8]>::to(&bytes).payload(&[0x0e, 0x02, b'a']).key(b"k");
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(std::time::Duration::from_secs(20)).unwrap();
    let schema =
        r#"{"type":"record","name":"r","fields":[{"name":"n","type":"long"},{"name":"s","type":"string"}]}"#;
    let frame = crate::support::table(&session, broker, &[("subscribe", &bytes)]).await.unwrap();
    let frame = frame.select_exprs(&[&format!("from_avro(value, '{schema}') AS v")]).unwrap();
    let frame = frame.select_exprs(&["v['n'] AS n", "v['s'] AS s"]).unwrap();
    let checkpoint = tempfile::tempdir().unwrap();
    assert_eq!(until_now(frame, checkpoint.path().to_str().unwrap()).await.unwrap(), ["7|a"]);
}
