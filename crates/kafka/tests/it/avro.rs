//! Messages of Avro's, with and without a registry of schemas. They are written and read here by hand, byte by byte:
//! Arrow's reader and writer are what is tested.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tidemill::arrow::datatypes::{DataType, Field, Schema};
use tidemill::prelude::*;
use tidemill::sql::SqlOutcome;

use crate::support::{Broker, Registry, producer, session, sql, until_now};

const OLD: &str = r#"{"type":"record","name":"click","fields":[{"name":"id","type":"int"}]}"#;
const NEW: &str = r#"{"type":"record","name":"click","fields":[
    {"name":"page","type":["null","string"],"default":null},{"name":"id","type":"long"}]}"#;

/// A number as Avro writes it.
fn long(value: i64) -> Vec<u8> {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    let mut bytes = Vec::new();
    while zigzag > 0x7f {
        bytes.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    bytes.push(zigzag as u8);
    bytes
}

fn text(value: &str) -> Vec<u8> {
    [long(value.len() as i64), value.as_bytes().to_vec()].concat()
}

fn framed(id: u32, body: &[Vec<u8>]) -> Vec<u8> {
    [vec![0], id.to_be_bytes().to_vec(), body.concat()].concat()
}

fn old(id: u32, number: i64) -> Vec<u8> {
    framed(id, &[long(number)])
}

fn new(id: u32, page: &str, number: i64) -> Vec<u8> {
    framed(id, &[long(1), text(page), long(number)])
}

fn send(producer: &BaseProducer, topic: &str, key: Option<&[u8]>, value: &[u8]) {
    let record = BaseRecord::<[u8], [u8]>::to(topic).partition(0).payload(value);
    let record = key.into_iter().fold(record, BaseRecord::key);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(Duration::from_secs(20)).unwrap();
}

async fn table(
    session: &Session,
    broker: &Broker,
    columns: &[(&str, DataType)],
    options: &[(&str, &str)],
) -> tidemill::Result<DataFrame> {
    let mut reader = session
        .read_stream()
        .format("kafka")
        .option("kafka.bootstrap.servers", broker.servers())
        .option("startingOffsets", "earliest")
        .option("value.format", "avro");
    if !columns.is_empty() {
        let fields = columns.iter().map(|(name, of)| Field::new(*name, of.clone(), true));
        reader = reader.schema(Arc::new(Schema::new(fields.collect::<Vec<_>>())));
    }
    for (name, value) in options {
        reader = reader.option(*name, value);
    }
    reader.load(None).await
}

async fn read(
    frame: tidemill::Result<DataFrame>,
    checkpoint: &tempfile::TempDir,
) -> tidemill::Result<Vec<String>> {
    until_now(frame?, checkpoint.path().to_str().unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_have_the_schema_that_they_were_written_with() {
    let Some(broker) = Broker::shared() else { return };
    let (registry, producer, session) = (Registry::start(), producer(broker, None), session());
    registry.expect("Basic YW5uOnMzY3JldA==");
    let topic = broker.topic("avro", 1, &[]).await;
    let (one, two, key) = (registry.add("a", OLD), registry.add("a", NEW), registry.add("k", "\"string\""));
    let url = registry.url();
    let options = [
        ("subscribe", topic.as_str()),
        ("schema.registry.url", &url),
        ("schema.registry.basic.auth.user.info", "ann:s3cret"),
        ("key.format", "avro"),
        ("key.fields", "who"),
        ("maxOffsetsPerTrigger", "2"),
    ];
    let columns = [
        ("page", DataType::Utf8),
        ("who", DataType::Utf8),
        ("id", DataType::Int64),
        ("_metadata", DataType::Null),
    ];
    let frame = async |more: &[(&str, &str)]| -> tidemill::Result<DataFrame> {
        let options: Vec<_> = options.iter().copied().chain(more.iter().copied()).collect();
        let frame = table(&session, broker, &columns, &options).await?;
        Ok(frame.select_exprs(&["page", "who", "id", "_metadata['offset']"])?)
    };
    send(&producer, &topic, Some(&framed(key, &[text("x")])), &old(one, 1));
    send(&producer, &topic, None, &new(two, "/a", 2));
    send(&producer, &topic, None, &old(one, -3));
    send(&producer, &topic, None, &new(two, "/b", 1 << 40));
    let checkpoint = tempfile::tempdir().unwrap();
    let expected = ["/a|null|2|1", "/b|null|1099511627776|3", "null|null|-3|2", "null|x|1|0"];
    assert_eq!(read(frame(&[]).await, &checkpoint).await.unwrap(), expected);
    let mut asked = registry.take_asked();
    asked.sort_unstable();
    assert_eq!(asked, ["GET /schemas/ids/1", "GET /schemas/ids/2", "GET /schemas/ids/3"], "each once");
    // A schema that nobody knows, in the midst of others.
    send(&producer, &topic, None, &old(99, 1));
    send(&producer, &topic, None, &old(one, 5));
    let error = read(frame(&[]).await, &checkpoint).await.unwrap_err().to_string();
    let place = format!("malformed message at topic '{topic}', partition 0, offset 4");
    assert!(error.contains(&place) && error.contains(&format!("{url} has no schema 99")), "{error}");
    let fresh = tempfile::tempdir().unwrap();
    let kept = read(frame(&[("mode", "PERMISSIVE")]).await, &fresh).await.unwrap();
    let mut all: Vec<&str> = expected.into_iter().chain(["null|null|5|5", "null|null|null|4"]).collect();
    all.sort_unstable();
    assert_eq!(kept, all);
    // Who is not let in is told so.
    send(&producer, &topic, None, &old(one, 6));
    registry.expect("Basic other");
    let error = read(frame(&[("mode", "PERMISSIVE")]).await, &fresh).await.unwrap_err().to_string();
    assert!(error.contains("does not let the query in (401)") && !error.contains("s3cret"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_those_of_the_schema() {
    let Some(broker) = Broker::shared() else { return };
    let (registry, producer, session) = (Registry::start(), producer(broker, None), session());
    let topic = broker.topic("avro-columns", 1, &[]).await;
    // As Apicurio has it.
    let url = format!("{}/apis/ccompat/v7/", registry.url());
    let by_registry = [("subscribe", topic.as_str()), ("schema.registry.url", &url)];
    let error = table(&session, broker, &[], &by_registry).await.unwrap_err().to_string();
    assert!(error.contains(&format!("has no subject '{topic}-value'")), "{error}");
    let subject = format!("{topic}-value");
    let one = registry.add(&subject, OLD);
    let checkpoint = tempfile::tempdir().unwrap();
    send(&producer, &topic, None, &old(one, 1));
    assert_eq!(read(table(&session, broker, &[], &by_registry).await, &checkpoint).await.unwrap(), ["1"]);
    // A query goes on with the columns that it has; a new one has the new ones.
    let parts = NEW.replace("\"string\"", "\"part\"");
    let two = registry.add_with_parts(&subject, &parts, NEW);
    send(&producer, &topic, None, &new(two, "/a", 2));
    assert_eq!(read(table(&session, broker, &[], &by_registry).await, &checkpoint).await.unwrap(), ["2"]);
    let three = registry.add(&subject, NEW);
    assert!(three > two);
    let fresh = tempfile::tempdir().unwrap();
    let all = ["/a|2", "null|1"];
    assert_eq!(read(table(&session, broker, &[], &by_registry).await, &fresh).await.unwrap(), all);
    // Without a registry.
    let plain = broker.topic("avro-plain", 1, &[]).await;
    send(&producer, &plain, None, &[long(1), text("/p"), long(7), long(1), text("a"), long(0)].concat());
    let with_tags = NEW.replace("]}", r#",{"name":"tags","type":{"type":"array","items":"string"}}]}"#);
    let given = [("subscribe", plain.as_str()), ("avroSchema", &with_tags)];
    let fresh = tempfile::tempdir().unwrap();
    assert_eq!(read(table(&session, broker, &[], &given).await, &fresh).await.unwrap(), ["/p|7|[a]"]);
    let none = [("subscribe", plain.as_str())];
    let error = table(&session, broker, &[("id", DataType::Int64)], &none).await.unwrap_err().to_string();
    assert!(error.contains("schema.registry.url"), "{error}");
    // A registry that is not there.
    let away = [("subscribe", topic.as_str()), ("schema.registry.url", "http://127.0.0.1:1")];
    let error = table(&session, broker, &[], &away).await.unwrap_err().to_string();
    assert!(error.contains("http://127.0.0.1:1"), "{error}");
}

/// What Apicurio's serializers write unless they are told to write as Confluent's do.
#[tokio::test(flavor = "multi_thread")]
async fn messages_of_apicurios_own_are_read() {
    let Some(broker) = Broker::shared() else { return };
    let (registry, producer, session) = (Registry::start(), producer(broker, None), session());
    let id = registry.add("a", NEW);
    let body = |number: i64| [long(1), text("/a"), long(number)].concat();
    let global = [vec![0], u64::from(id).to_be_bytes().to_vec(), body(2)].concat();
    for (version, message) in [("v2", global), ("v3", framed(id, &[body(2)]))] {
        let topic = broker.topic("avro-apicurio", 1, &[]).await;
        send(&producer, &topic, None, &message);
        let url = format!("{}/apis/registry/{version}", registry.url());
        let options = [("subscribe", topic.as_str()), ("schema.registry.url", &url)];
        let columns = [("page", DataType::Utf8), ("id", DataType::Int64)];
        let frame = table(&session, broker, &columns, &options).await;
        let checkpoint = tempfile::tempdir().unwrap();
        assert_eq!(read(frame, &checkpoint).await.unwrap(), ["/a|2"], "{version}");
        let error = table(&session, broker, &[], &options).await.unwrap_err().to_string();
        assert!(error.contains("/apis/ccompat/v7"), "{error}");
    }
}

/// As Debezium's connectors write them with Avro's converter: nothing behind a deletion.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_debezium_are_rows() {
    let Some(broker) = Broker::shared() else { return };
    let (registry, producer, session) = (Registry::start(), producer(broker, None), session());
    let topic = broker.topic("avro-debezium", 1, &[]).await;
    let envelope = r#"{"type":"record","name":"Envelope","namespace":"shop.goods","fields":[
        {"name":"before","type":["null",{"type":"record","name":"Value","fields":[
            {"name":"id","type":"long"},{"name":"name","type":["null","string"],"default":null}]}],"default":null},
        {"name":"after","type":["null","Value"],"default":null},
        {"name":"source","type":{"type":"record","name":"Source","namespace":"io.debezium.connector.postgresql","fields":[
            {"name":"lsn","type":["null","long"],"default":null}]}},
        {"name":"op","type":"string"},
        {"name":"ts_ms","type":["null","long"],"default":null}]}"#;
    let id = registry.add(&format!("{topic}-value"), envelope);
    let goods = |id: i64, name: &str| [long(1), long(id), long(1), text(name)].concat();
    let change = |before: Option<Vec<u8>>, after: Option<Vec<u8>>, op: &str| {
        let [before, after] = [before, after].map(|row| row.unwrap_or_else(|| long(0)));
        framed(id, &[before, after, long(1), long(7), text(op), long(1), long(1_700_000_000_123)])
    };
    send(&producer, &topic, None, &change(None, Some(goods(1, "cup")), "c"));
    send(&producer, &topic, None, &change(Some(goods(1, "cup")), Some(goods(1, "mug")), "u"));
    send(&producer, &topic, None, &change(Some(goods(1, "mug")), None, "d"));
    producer
        .send(BaseRecord::<[u8], [u8]>::to(&topic).partition(0).key(b"1"))
        .map_err(|(error, _)| error)
        .unwrap();
    producer.flush(Duration::from_secs(20)).unwrap();
    let url = registry.url();
    let options = [("subscribe", topic.as_str()), ("schema.registry.url", &url)];
    let frame = table(&session, broker, &[], &options).await.unwrap();
    let frame = frame.filter(col("op").is_not_null()).unwrap();
    let columns = [
        "op",
        "before['name'] AS b",
        "after['id'] AS i",
        "after['name'] AS a",
        "source['lsn'] AS l",
        "ts_ms",
    ];
    let frame = frame.select_exprs(&columns);
    let checkpoint = tempfile::tempdir().unwrap();
    let rows = read(frame.map_err(Into::into), &checkpoint).await.unwrap();
    let time = 1_700_000_000_123_u64;
    let expected = [
        format!("c|null|1|cup|7|{time}"),
        format!("d|mug|null|null|7|{time}"),
        format!("u|cup|1|mug|7|{time}"),
    ];
    assert_eq!(rows, expected);
}

/// Runs a script to the end of what there is.
async fn run(script: &str) -> tidemill::Result<()> {
    let sql = sql().with_trigger(Some(Trigger::AvailableNow));
    for statement in sql.parse(script)? {
        if let SqlOutcome::Query(started) = sql.execute(&statement).await? {
            started.query.await_termination().await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_registered_and_written() {
    let Some(broker) = Broker::shared() else { return };
    let registry = Registry::start();
    let (from, into) = (broker.topic("avro-from", 1, &[]).await, broker.topic("avro-into", 1, &[]).await);
    let producer = producer(broker, None);
    crate::support::send(&producer, &from, 0, ["{\"id\":1,\"page\":\"/a\"}".into(), "{\"id\":2}".into()]);
    let directory = tempfile::tempdir().unwrap();
    let script = |more: &str, checkpoint: &str| {
        format!(
            "CREATE UNBOUNDED EXTERNAL TABLE clicks (id BIGINT, page VARCHAR) STORED AS KAFKA OPTIONS (
                 'kafka.bootstrap.servers' '{servers}', 'subscribe' '{from}', 'startingOffsets' 'earliest',
                 'value.format' 'json');
             CREATE EXTERNAL TABLE pages STORED AS KAFKA OPTIONS (
                 'kafka.bootstrap.servers' '{servers}', 'topic' '{into}', 'value.format' 'avro',
                 'schema.registry.url' '{url}', 'recordName' 'Click', 'recordNamespace' 'shop'{more});
             CREATE STREAMING QUERY q CHECKPOINT LOCATION '{directory}/{checkpoint}'
                 AS INSERT INTO pages SELECT id, page FROM clicks;",
            servers = broker.servers(),
            url = registry.url(),
            directory = directory.path().display(),
        )
    };
    let with_key = ", 'key.format' 'avro', 'key.fields' 'id'";
    run(&script(with_key, "one")).await.unwrap();
    let schema = registry.latest(&format!("{into}-value"));
    assert_eq!((&schema["name"], &schema["namespace"]), (&"Click".into(), &"shop".into()));
    assert_eq!(schema["fields"][1]["type"], tidemill::serde_json::json!(["null", "string"]));
    assert_eq!(registry.latest(&format!("{into}-key"))["fields"].as_array().unwrap().len(), 1);
    let asked = registry.take_asked();
    assert_eq!(
        asked,
        [format!("POST /subjects/{into}-key/versions"), format!("POST /subjects/{into}-value/versions")]
    );
    let written = broker.peek_raw(&into, 1);
    let row = |id: i64, page: &[Vec<u8>]| [vec![long(1), long(id)], page.to_vec()].concat();
    let expected = [
        (Some(framed(1, &[long(1), long(1)])), Some(framed(2, &row(1, &[long(1), text("/a")])))),
        (Some(framed(1, &[long(1), long(2)])), Some(framed(2, &row(2, &[long(0)])))),
    ];
    assert_eq!(written, expected);
    // What is registered already keeps its number, also where nothing may be registered.
    run(&script(", 'value.auto.register.schemas' 'false'", "two")).await.unwrap();
    let lookup = registry.take_asked();
    assert_eq!(lookup, [format!("POST /subjects/{into}-value")]);
    let strategy = "'value.subject.name.strategy' 'RecordNameStrategy'";
    let error = run(&script(&format!(", 'auto.register.schemas' 'false', {strategy}"), "three")).await;
    assert!(error.unwrap_err().to_string().contains("not registered under subject 'shop.Click'"));
    registry.close();
    let error = run(&script("", "four")).await.unwrap_err().to_string();
    assert!(error.contains("Schema being registered is incompatible"), "{error}");
    assert_eq!(broker.peek_raw(&into, 1).len(), 4);
}

/// With Confluent's own serializer and deserializer, if `TIDEMILL_PYTHON` is a Python that has confluent-kafka[avro].
#[tokio::test(flavor = "multi_thread")]
async fn confluents_own_clients_agree() {
    let Some(python) = std::env::var_os("TIDEMILL_PYTHON") else {
        eprintln!("SKIPPED: TIDEMILL_PYTHON names no Python with confluent-kafka[avro]");
        return;
    };
    let Some(broker) = Broker::shared() else { return };
    let registry = Registry::start();
    let (from, into) = (broker.topic("agree-from", 1, &[]).await, broker.topic("agree-into", 1, &[]).await);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/confluent.py");
    let python = |what: &str, topic: &str| {
        let output = Command::new(&python)
            .arg(&script)
            .args([what, &broker.servers(), &registry.url(), topic])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let written = python("write", &from);
    let directory = tempfile::tempdir().unwrap();
    let options = format!(
        "'kafka.bootstrap.servers' '{}', 'schema.registry.url' '{}', 'value.format' 'avro'",
        broker.servers(),
        registry.url()
    );
    run(&format!(
        "CREATE UNBOUNDED EXTERNAL TABLE a STORED AS KAFKA OPTIONS (
             'subscribe' '{from}', 'startingOffsets' 'earliest', {options});
         CREATE EXTERNAL TABLE b STORED AS KAFKA OPTIONS ('topic' '{into}', {options});
         CREATE STREAMING QUERY q CHECKPOINT LOCATION '{}' AS INSERT INTO b SELECT * FROM a;",
        directory.path().display()
    ))
    .await
    .unwrap();
    assert_eq!(python("read", &into), written);
}

/// The same for Protobuf, with confluent-kafka[protobuf].
#[tokio::test(flavor = "multi_thread")]
async fn confluents_protobuf_is_read() {
    let Some(python) = std::env::var_os("TIDEMILL_PYTHON") else {
        eprintln!("SKIPPED: TIDEMILL_PYTHON names no Python with confluent-kafka[protobuf]");
        return;
    };
    let Some(broker) = Broker::shared() else { return };
    let registry = Registry::start();
    let topic = broker.topic("protobuf", 1, &[]).await;
    let directory = tempfile::tempdir().unwrap();
    let descriptors = directory.path().join("row.desc");
    let output = Command::new(&python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/protobuf.py"))
        .args(["write", &broker.servers(), &registry.url(), &topic, descriptors.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut expected: Vec<&str> = text.lines().collect();
    expected.sort_unstable();
    let options = [
        ("subscribe", topic.as_str()),
        ("descFilePath", descriptors.to_str().unwrap()),
        ("messageName", "t.Row"),
        ("confluentFraming", "true"),
    ];
    let session = session();
    let options: Vec<_> = [("value.format", "protobuf")].into_iter().chain(options).collect();
    let frame = crate::support::table(&session, broker, &options).await;
    let found = read(frame, &tempfile::tempdir().unwrap()).await.unwrap();
    assert_eq!(found.len(), 300);
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }

    // Written by us, and read by Protobuf's own library.
    let (into, checkpoint) = (broker.topic("protobuf-written", 1, &[]).await, tempfile::tempdir().unwrap());
    let frame = crate::support::table(&session, broker, &options).await.unwrap();
    let query = frame
        .write_stream()
        .format("kafka")
        .option("kafka.bootstrap.servers", broker.servers())
        .option("topic", &into)
        .option("value.format", "protobuf")
        .option("descFilePath", descriptors.to_str().unwrap())
        .option("messageName", "t.Row")
        .option("checkpointLocation", checkpoint.path().to_str().unwrap())
        .trigger(Trigger::AvailableNow);
    query.start(None).await.unwrap().await_termination().await.unwrap();
    let output = Command::new(&python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/protobuf.py"))
        .args(["read", &broker.servers(), &registry.url(), &into, descriptors.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut read: Vec<&str> = text.lines().collect();
    read.sort_unstable();
    assert_eq!(read, expected);

    // The raw bytes of a column.
    let plain = crate::support::table(&session, broker, &[("subscribe", into.as_str())]).await.unwrap();
    let call = format!("from_protobuf(value, 'Row', '{}') AS row", descriptors.display());
    let frame =
        plain.select_exprs(&[call.as_str()]).unwrap().select_exprs(&["row['last'] AS l", "row['s'] AS s"]);
    let checkpoint = tempfile::tempdir().unwrap();
    let found = crate::support::until_now(frame.unwrap(), checkpoint.path().to_str().unwrap());
    assert_eq!(found.await.unwrap().len(), 300);
}
