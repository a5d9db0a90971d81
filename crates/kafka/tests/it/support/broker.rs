//! A broker of this process.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Message};

/// Key and value, as they are.
pub type RawRecord = (Option<Vec<u8>>, Option<Vec<u8>>);

/// See the module. It ends with the process, however that ends: the script waits for the end of its input.
pub struct Broker {
    child: Child,
    port: u16,
    directory: tempfile::TempDir,
}

/// A message that Kafka's own consumer has read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Read {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<String>,
    pub value: Option<String>,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/services/kafka")
}

impl Broker {
    /// The broker that all tests share which do not harm it; `None`, with the reason on standard error, if there can be
    /// none here.
    pub fn shared() -> Option<&'static Broker> {
        static SHARED: OnceLock<Option<Broker>> = OnceLock::new();
        SHARED.get_or_init(Broker::start).as_ref()
    }

    /// A broker of the test's own.
    pub fn start() -> Option<Broker> {
        let directory = tempfile::Builder::new().prefix("tidemill-kafka").tempdir().unwrap();
        for _ in 0..3 {
            let port = free_ports();
            match run(directory.path(), port) {
                Ok(child) => return Some(Broker { child, port, directory }),
                Err(Some(3)) => {
                    eprintln!("SKIPPED: there is no Kafka broker here (see above)");
                    return None;
                }
                Err(_) => {}
            }
        }
        panic!("the broker does not start; see {}", directory.path().join("broker.log").display());
    }

    pub fn servers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Ends the broker as a power cut of its process would.
    pub fn kill(&self) {
        let pid = std::fs::read_to_string(self.directory.path().join("pid")).unwrap();
        Command::new("kill").args(["-9", pid.trim()]).status().unwrap();
    }

    /// Starts it again on the data that it has.
    pub fn restart(&mut self) {
        self.kill();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = run(self.directory.path(), self.port).unwrap();
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", self.servers()).create().unwrap()
    }

    /// A new topic; the name has something in it that no other topic has.
    pub async fn topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) -> String {
        let name = format!("{name}-{}", uuid::Uuid::new_v4().simple());
        self.create(&name, partitions, config).await;
        name
    }

    pub async fn create(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let topic = config.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
        let created = self.admin().create_topics([&topic], &options).await.unwrap();
        created.into_iter().for_each(|created| {
            created.unwrap();
        });
    }

    pub async fn delete(&self, name: &str) {
        self.admin().delete_topics(&[name], &AdminOptions::new()).await.unwrap();
    }

    /// Deletes a topic, and creates another one of the same name as soon as that can be.
    pub async fn recreate(&self, name: &str, partitions: i32) {
        self.delete(name).await;
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
        for _ in 0..400 {
            let created = self.admin().create_topics([&topic], &options).await.unwrap();
            if created.into_iter().all(|created| created.is_ok()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("topic '{name}' is not created again");
    }

    pub async fn grow(&self, name: &str, partitions: usize) {
        let more = NewPartitions::new(name, partitions);
        self.admin().create_partitions([&more], &AdminOptions::new()).await.unwrap();
    }

    /// Removes the messages before `offset`, as retention does.
    pub async fn delete_before(&self, topic: &str, partition: i32, offset: i64) {
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset(topic, partition, rdkafka::Offset::Offset(offset)).unwrap();
        self.admin().delete_records(&list, &AdminOptions::new()).await.unwrap();
    }

    /// What Kafka's own consumer finds in a topic with `read_committed`, by partition and offset.
    pub fn read(&self, topic: &str) -> Vec<Read> {
        let output = Command::new(script()).args(["read", &self.servers(), topic]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let lines = String::from_utf8(output.stdout).unwrap();
        let mut read: Vec<Read> = lines.lines().map(parse).collect();
        read.sort();
        read
    }

    /// The values of the committed messages of a topic, by the client that the connector has too: much quicker.
    pub fn peek(&self, topic: &str, partitions: i32) -> Vec<String> {
        let messages = self.peek_raw(topic, partitions).into_iter();
        messages.map(|(_, value)| String::from_utf8(value.unwrap()).unwrap()).collect()
    }

    /// The same with the keys, as bytes.
    pub fn peek_raw(&self, topic: &str, partitions: i32) -> Vec<RawRecord> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.servers())
            .set("group.id", "peek")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "20")
            .create()
            .unwrap();
        let mut list = rdkafka::TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, rdkafka::Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let (mut values, mut ended) = (Vec::new(), BTreeSet::new());
        while ended.len() < partitions as usize {
            match consumer.poll(Duration::from_secs(20)).unwrap() {
                Ok(message) => {
                    values.push((message.key().map(<[u8]>::to_vec), message.payload().map(<[u8]>::to_vec)));
                }
                Err(KafkaError::PartitionEOF(partition)) => {
                    ended.insert(partition);
                }
                Err(error) => panic!("{error}"),
            }
        }
        values
    }

    /// The values of [`Broker::read`], sorted.
    pub fn values(&self, topic: &str) -> Vec<String> {
        let mut values: Vec<String> =
            self.read(topic).into_iter().map(|read| read.value.unwrap_or_else(|| "null".into())).collect();
        values.sort_unstable();
        values
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(directory: &Path, port: u16) -> Result<Child, Option<i32>> {
    let mut child = Command::new(script())
        .args(["run".as_ref(), directory.as_os_str(), port.to_string().as_ref()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line.trim() == "ready" { Ok(child) } else { Err(child.wait().unwrap().code()) }
}

/// A port that is free, and so is the one after it.
fn free_ports() -> u16 {
    loop {
        let one = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = one.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

fn parse(line: &str) -> Read {
    let fields: Vec<&str> = line.split('\t').collect();
    let text = |field: &str| (field != "-").then(|| String::from_utf8(decode(field)).unwrap());
    Read {
        partition: fields[0].parse().unwrap(),
        offset: fields[1].parse().unwrap(),
        key: text(fields[2]),
        value: text(fields[3]),
    }
}

/// Base64.
fn decode(text: &str) -> Vec<u8> {
    let digit = |byte: u8| {
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".iter().position(|d| *d == byte)
    };
    let mut bits = 0_u32;
    let mut have = 0;
    let mut bytes = Vec::new();
    for digit in text.bytes().filter_map(digit) {
        bits = bits << 6 | digit as u32;
        have += 6;
        if have >= 8 {
            have -= 8;
            bytes.push((bits >> have) as u8);
        }
    }
    bytes
}
