//! What reading and writing topics costs beside what the client alone does, in one run with one broker:
//!
//! ```text
//! cargo bench -p tidemill-kafka                               # 10 million records
//! TIDEMILL_BENCH_RECORDS=1000000 cargo bench -p tidemill-kafka -- read write latency
//! ```

#[path = "../tests/it/support/broker.rs"]
#[allow(dead_code, reason = "tests use more of it")]
mod broker;

use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use tidemill::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill::prelude::*;

use broker::Broker;

const PARTITIONS: i32 = 8;
const PATIENCE: Duration = Duration::from_secs(60);

/// To nothing and to Kafka: at most so many times what the client alone takes.
const BAR: f64 = 1.3;
/// From record to record, in milliseconds: half of them, and 99 of 100.
const LATENCY: [f64; 2] = [5.0, 20.0];
/// Records a second while latency is measured, and for how long.
const RATE: u64 = 10_000;
const FOR: Duration = Duration::from_secs(20);

type Outcome<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// About 150 bytes.
fn record(number: u64) -> String {
    format!(
        "{{\"id\":{number},\"user\":\"user-{:06}\",\"page\":\"/products/{:08}/reviews?page={}\",\"ms\":{},\"ok\":{},\"note\":\"{:032x}\"}}",
        number * 7919 % 1_000_000,
        number * 104_729 % 100_000_000,
        number % 10,
        number * 31 % 5_000,
        !number.is_multiple_of(3),
        u128::from(number) * 0x9e37_79b9_7f4a_7c15
    )
}

fn columns() -> SchemaRef {
    let column = |name: &str, of: DataType| Field::new(name, of, true);
    Schema::new(vec![
        column("id", DataType::Int64),
        column("user", DataType::Utf8),
        column("page", DataType::Utf8),
        column("ms", DataType::Int64),
        column("ok", DataType::Boolean),
        column("note", DataType::Utf8),
    ])
    .into()
}

fn producer(servers: &str, transactional_id: Option<&str>) -> Outcome<BaseProducer> {
    let mut config = ClientConfig::new();
    // As the sink has it.
    config.set("bootstrap.servers", servers).set("linger.ms", "5").set("transaction.timeout.ms", "600000");
    config.set("queue.buffering.max.messages", "1000000");
    transactional_id.map(|id| config.set("transactional.id", id));
    let producer: BaseProducer = config.create()?;
    if transactional_id.is_some() {
        producer.init_transactions(PATIENCE)?;
    }
    Ok(producer)
}

/// Sends what `value` gives for each number; the partition is left to the number, or to the client.
fn send(producer: &BaseProducer, topic: &str, count: u64, is_dealt: bool) -> Outcome<()> {
    for number in 0..count {
        let value = record(number);
        loop {
            let record = BaseRecord::<(), str>::to(topic).payload(&value);
            let partition = i32::try_from(number % PARTITIONS as u64)?;
            match producer.send(if is_dealt { record.partition(partition) } else { record }) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    producer.poll(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
        if number.is_multiple_of(1024) {
            producer.poll(Duration::ZERO);
        }
    }
    Ok(producer.flush(PATIENCE)?)
}

fn consumer(servers: &str, topic: &str, begin: Offset) -> Outcome<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "100")
        .create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, begin)?;
    }
    consumer.assign(&list)?;
    Ok(consumer)
}

/// A consumer that only counts.
fn count(servers: &str, topic: &str, count: u64) -> Outcome<Duration> {
    let consumer = consumer(servers, topic, Offset::Beginning)?;
    let began = Instant::now();
    let mut found = 0;
    while found < count {
        if let Some(message) = consumer.poll(PATIENCE) {
            std::hint::black_box(message?.payload());
            found += 1;
        }
    }
    Ok(began.elapsed())
}

async fn finish(query: tidemill::DataStreamWriter, checkpoint: &Path) -> Outcome<Duration> {
    let query =
        query.trigger(Trigger::AvailableNow).option("checkpointLocation", checkpoint.display().to_string());
    let began = Instant::now();
    query.start(None).await?.await_termination().await?;
    Ok(began.elapsed())
}

async fn topic_table(session: &Session, servers: &str, topic: &str, begin: &str) -> Outcome<DataFrame> {
    let reader = session.read_stream().format("kafka").schema(columns());
    let reader = reader.option("kafka.bootstrap.servers", servers).option("subscribe", topic);
    Ok(reader.option("startingOffsets", begin).option("value.format", "json").load(None).await?)
}

fn to_topic(frame: DataFrame, servers: &str, topic: &str) -> tidemill::DataStreamWriter {
    let writer = frame.write_stream().format("kafka").option("kafka.bootstrap.servers", servers);
    writer.option("topic", topic).option("value.format", "json")
}

/// A line of the result; whether it is within its bar.
fn show(work: &str, took: f64, unit: &str, beside: f64, bar: f64) {
    let verdict = if took <= beside * bar { "ok" } else { "MISSED" };
    println!(
        "{work:44} {took:9.3} {unit}  client alone {beside:9.3} {unit}  ratio {:6.3}  bar {bar:4.2}  {verdict}",
        took / beside
    );
}

/// Records to nothing, beside a consumer that counts and the decoding of the same rows from files.
async fn read(servers: &str, topic: &str, records: u64, place: &Path) -> Outcome<()> {
    let files = place.join("files");
    std::fs::create_dir_all(&files)?;
    for part in 0..PARTITIONS as u64 {
        let mut file = std::io::BufWriter::new(std::fs::File::create(files.join(format!("{part}.json")))?);
        for number in (part..records).step_by(PARTITIONS as usize) {
            writeln!(file, "{}", record(number))?;
        }
        file.flush()?;
    }
    let session = Session::new();
    tidemill_kafka::register(&session);
    let table =
        session.read_stream().format("json").schema(columns()).load(&*files.display().to_string()).await?;
    let decoding = finish(table.write_stream().format("noop"), &place.join("decode")).await?;
    let counting = count(servers, topic, records)?;
    let table = topic_table(&session, servers, topic, "earliest").await?;
    let took = finish(table.write_stream().format("noop"), &place.join("read")).await?;
    println!("  counting {:.3} s, decoding files {:.3} s", counting.as_secs_f64(), decoding.as_secs_f64());
    let beside = counting.as_secs_f64() * BAR + decoding.as_secs_f64();
    show("to nothing (beside 1.3 x counting + decoding)", took.as_secs_f64(), "s", beside, 1.0);
    std::fs::remove_dir_all(&files)?;
    Ok(())
}

/// Records to Kafka, beside a transactional producer of the same records.
async fn write(broker: &Broker, topic: &str, records: u64, place: &Path) -> Outcome<()> {
    let servers = broker.servers();
    let (bare, own) =
        (broker.topic("bare", PARTITIONS, &[]).await, broker.topic("own", PARTITIONS, &[]).await);
    let client = producer(&servers, Some("bench"))?;
    let began = Instant::now();
    client.begin_transaction()?;
    send(&client, &bare, records, false)?;
    client.commit_transaction(PATIENCE)?;
    let beside = began.elapsed();
    let session = Session::new();
    tidemill_kafka::register(&session);
    let table = topic_table(&session, &servers, topic, "earliest").await?;
    let took = finish(to_topic(table, &servers, &own), &place.join("write")).await?;
    count(&servers, &own, records)?;
    show("to Kafka (beside a transactional producer)", took.as_secs_f64(), "s", beside.as_secs_f64(), BAR);
    Ok(())
}

fn micros() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(0))
}

/// From a record's sending to when a reader of committed ones has what became of it.
async fn latency(broker: &Broker, place: &Path) -> Outcome<()> {
    let servers = broker.servers();
    let (from, to) = (broker.topic("from", PARTITIONS, &[]).await, broker.topic("to", PARTITIONS, &[]).await);
    let session = Session::new();
    tidemill_kafka::register(&session);
    let table = topic_table(&session, &servers, &from, "earliest").await?;
    let table = table.filter(col("ms").gt_eq(lit(0_i64)))?.select_exprs(&["id", "ms"])?;
    let query = to_topic(table, &servers, &to);
    let query =
        query.option("checkpointLocation", place.join("latency").display().to_string()).start(None).await?;
    let is_over = AtomicBool::new(false);
    let times = std::thread::scope(|scope| {
        let feeding = scope.spawn(|| feed(&servers, &from, &is_over).map_err(|error| error.to_string()));
        let times = collect(&servers, &to).map_err(|error| error.to_string());
        is_over.store(true, Ordering::Relaxed);
        let fed = feeding.join().unwrap_or_else(|_| Err("the feeder has failed".into()));
        fed.and(times)
    })?;
    query.stop(StopMode::Finish).await?;
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    for ((percent, name), bar) in [(50, "p50"), (99, "p99")].into_iter().zip(LATENCY) {
        let verdict = if at(percent) <= bar { "ok" } else { "MISSED" };
        println!(
            "record in to record out, {RATE} a second, {name} {:19.3} ms  bar {bar:4.1}  {verdict}",
            at(percent)
        );
    }
    Ok(())
}

/// Sends records that say when they were sent, at an even pace.
fn feed(servers: &str, topic: &str, is_over: &AtomicBool) -> Outcome<()> {
    let mut config = ClientConfig::new();
    let producer: BaseProducer = config.set("bootstrap.servers", servers).set("linger.ms", "0").create()?;
    let began = Instant::now();
    let mut sent = 0;
    while !is_over.load(Ordering::Relaxed) {
        let due = u64::try_from(began.elapsed().as_micros())? * RATE / 1_000_000;
        while sent < due {
            let value = format!("{{\"id\":{},\"ms\":{sent}}}", micros());
            let partition = i32::try_from(sent % PARTITIONS as u64)?;
            let record = BaseRecord::<(), str>::to(topic).payload(&value).partition(partition);
            match producer.send(record) {
                Ok(()) => sent += 1,
                // A broker that cannot keep up shows in the times.
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => break,
                Err((error, _)) => return Err(error.into()),
            }
            producer.poll(Duration::ZERO);
        }
        producer.poll(Duration::ZERO);
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(producer.flush(PATIENCE)?)
}

/// How long records were on their way, in milliseconds, sorted; those of the first quarter are not counted.
fn collect(servers: &str, topic: &str) -> Outcome<Vec<f64>> {
    let consumer = consumer(servers, topic, Offset::Beginning)?;
    let began = Instant::now();
    let mut times = Vec::new();
    while began.elapsed() < FOR {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message?;
        let value: tidemill::serde_json::Value =
            tidemill::serde_json::from_slice(message.payload().unwrap_or_default())?;
        let sent = value["id"].as_u64().unwrap_or_default();
        if began.elapsed() > FOR / 4 {
            times.push(micros().saturating_sub(sent) as f64 / 1000.0);
        }
    }
    if times.is_empty() {
        return Err("no record came through".into());
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

async fn run(wanted: &[String], records: u64) -> Outcome<()> {
    let Some(broker) = Broker::start() else { return Ok(()) };
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    let place = tempfile::tempdir()?;
    let topic = broker.topic("input", PARTITIONS, &[]).await;
    if is_wanted("read") || is_wanted("write") {
        send(&producer(&broker.servers(), None)?, &topic, records, true)?;
        println!("{records} records of {} bytes, {PARTITIONS} partitions", record(records / 2).len());
    }
    if is_wanted("read") {
        read(&broker.servers(), &topic, records, place.path()).await?;
    }
    if is_wanted("write") {
        write(&broker, &topic, records, place.path()).await?;
    }
    if is_wanted("latency") {
        latency(&broker, place.path()).await?;
    }
    Ok(())
}

fn main() -> Outcome<()> {
    // Cargo says that it is a benchmark.
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let records = std::env::var("TIDEMILL_BENCH_RECORDS").ok().and_then(|records| records.parse().ok());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(&wanted, records.unwrap_or(10_000_000)))
}
