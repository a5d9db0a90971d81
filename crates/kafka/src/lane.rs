//! Receives the messages of some partitions ahead of who reads them, on a thread of its own.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::sync::Notify;

use super::columns::{Chunk, ChunkBuilder};
use super::offsets::{Offsets, Partition, Range};
use super::queue::{Kind, Messages, Queue};

/// How long the thread waits before it looks whether it is still needed.
const PATIENCE: Duration = Duration::from_millis(500);

/// So many bytes of a partition are kept, however many partitions there are.
const LEAST_KEPT: usize = 256 << 10;

/// Why a reader gets no messages.
#[derive(Debug)]
pub(super) enum Missing {
    /// The broker does not have them.
    Refused(RDKafkaErrorCode),
    /// Nothing came for so long; what the client complained of last.
    Silence(Duration, Option<RDKafkaErrorCode>),
}

/// A consumer of some partitions. Ends with its last user.
pub(super) struct Lane {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    queue: Queue,
    state: Mutex<State>,
    /// Messages have come, or an error.
    changed: Arc<Notify>,
    is_over: AtomicBool,
    /// How many bytes are kept for readers to come, in all.
    limit: usize,
    with_headers: bool,
}

#[derive(Default)]
struct State {
    partitions: BTreeMap<Partition, Received>,
    /// What the client complained of last.
    complaint: Option<RDKafkaErrorCode>,
}

/// What was received of a partition and not read.
#[derive(Default)]
struct Received {
    /// In the order of their offsets.
    chunks: VecDeque<Chunk>,
    bytes: usize,
    /// Where receiving began.
    begin: i64,
    /// Up to where everything was received.
    until: i64,
    /// Where the thread is to begin anew; until then what comes is of before.
    seek: Option<i64>,
    is_assigned: bool,
    is_paused: bool,
    /// How many readers wait for more.
    waiting: usize,
    error: Option<RDKafkaErrorCode>,
}

impl Lane {
    /// Notifies `changed` of everything that comes. Nothing is received before someone asks for it.
    pub(super) fn start(
        config: &ClientConfig,
        changed: Arc<Notify>,
        limit: usize,
        with_headers: bool,
    ) -> Result<Self, KafkaError> {
        let consumer: BaseConsumer = config.create()?;
        let no_queue = || KafkaError::ClientCreation("the consumer has no queue".into());
        let queue = Queue::new(Arc::new(consumer)).ok_or_else(no_queue)?;
        let (state, is_over) = (Mutex::default(), AtomicBool::new(false));
        let shared = Arc::new(Shared { queue, state, changed, is_over, limit, with_headers });
        let receiver = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("kafka-lane".into()).spawn(move || receiver.run());
        let thread = thread.map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Begins to receive `partition` from `from` on, unless what was received goes up to there.
    pub(super) fn expect(&self, partition: &Partition, from: i64) {
        let mut state = self.shared.state();
        match state.partitions.get(partition) {
            Some(received) if received.begin <= from && from <= received.until => return,
            _ => state.partitions.entry(partition.clone()).or_default().begin_at(from),
        }
        drop(state);
        self.shared.queue.wake();
    }

    /// Receives `partition` no longer.
    pub(super) fn forget(&self, partition: &Partition) {
        if let Some(received) = self.shared.state().partitions.remove(partition)
            && received.is_assigned
        {
            let mut list = TopicPartitionList::new();
            list.add_partition(&partition.topic, partition.id);
            if let Err(error) = self.shared.queue.consumer().incremental_unassign(&list) {
                tracing::debug!(%error, "{partition} was not assigned");
            }
        }
    }

    /// Whether there are messages behind `ends`, or an error.
    pub(super) fn has_beyond(&self, ends: &Offsets) -> bool {
        self.shared.state().partitions.iter().any(|(partition, received)| {
            let end = ends.get(partition).unwrap_or(0);
            received.error.is_some()
                || received.chunks.iter().any(|chunk| chunk.until > end && chunk.rows.num_rows() > 0)
        })
    }

    /// The first messages of `range`, and up to where those are all that there are. Waits for them.
    pub(super) async fn take(&self, range: &Range, patience: Duration) -> Result<Chunk, Missing> {
        let began = Instant::now();
        let _waiting = loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            // From here on nothing is missed.
            changed.as_mut().enable();
            if let Some(found) = self.shared.find(range) {
                return found;
            }
            let waiting = Waiting::new(&self.shared, &range.partition);
            let left = patience.saturating_sub(began.elapsed());
            if tokio::time::timeout(left, changed).await.is_err() {
                break waiting;
            }
        };
        Err(Missing::Silence(patience, self.shared.state().complaint))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        self.shared.queue.wake();
        // It may be in the middle of a call that waits: it ends by itself.
        drop(self.thread.take());
    }
}

/// While it lives, a partition is received even if much of it waits to be read.
struct Waiting<'a> {
    shared: &'a Shared,
    partition: &'a Partition,
}

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared, partition: &'a Partition) -> Self {
        let mut state = shared.state();
        if let Some(received) = state.partitions.get_mut(partition) {
            received.waiting += 1;
            if received.is_paused || received.seek.is_some() {
                shared.queue.wake();
            }
        }
        Self { shared, partition }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(received) = self.shared.state().partitions.get_mut(self.partition) {
            received.waiting = received.waiting.saturating_sub(1);
        }
    }
}

impl Received {
    fn begin_at(&mut self, from: i64) {
        (self.begin, self.until, self.seek) = (from, from, Some(from));
        (self.bytes, self.error) = (0, None);
        self.chunks.clear();
    }

    /// Adds what came, if it is what comes next.
    fn add(&mut self, chunk: Chunk) {
        let Some(mut chunk) = chunk.without_before(self.until) else { return };
        chunk.from = self.until;
        self.until = chunk.until;
        self.bytes += chunk.bytes();
        self.chunks.push_back(chunk);
    }

    /// There is nothing more before `end`.
    fn add_end(&mut self, end: i64, nothing: impl FnOnce() -> Chunk) {
        if end <= self.until {
            return;
        }
        match self.chunks.back_mut() {
            Some(last) if last.until == self.until => {
                (last.until, last.received) = (end, Instant::now());
            }
            _ => self.chunks.push_back(Chunk { from: self.until, until: end, ..nothing() }),
        }
        self.until = end;
    }

    /// Takes what there is of the beginning of `range`.
    fn take(&mut self, range: &Range) -> Option<Chunk> {
        let holds = |chunk: &Chunk| chunk.from <= range.from && range.from < chunk.until;
        let index = self.chunks.iter().position(holds)?;
        let chunk = self.chunks.remove(index)?;
        self.bytes = self.bytes.saturating_sub(chunk.bytes());
        let (before, taken, after) = chunk.cut(range.from, range.until);
        for rest in [after, before].into_iter().flatten() {
            self.bytes += rest.bytes();
            self.chunks.insert(index, rest);
        }
        Some(taken)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes of each partition are kept.
    fn limit_of(&self, state: &State) -> usize {
        (self.limit / state.partitions.len().max(1)).max(LEAST_KEPT)
    }

    /// What is there of the beginning of `range`, or why there is nothing; `None` if it is to be waited for.
    fn find(&self, range: &Range) -> Option<Result<Chunk, Missing>> {
        let mut state = self.state();
        let limit = self.limit_of(&state);
        let received = state.partitions.entry(range.partition.clone()).or_insert_with(|| {
            let mut received = Received::default();
            received.begin_at(range.from);
            received
        });
        if let Some(chunk) = received.take(range) {
            let is_paused = received.is_paused && received.bytes < limit / 2;
            if is_paused {
                self.queue.wake();
            }
            return Some(Ok(chunk));
        }
        if let Some(error) = received.error.take() {
            // The client has stopped to fetch it, wherever it is asked for next.
            (received.begin, received.until) = (i64::MAX, i64::MAX);
            return Some(Err(Missing::Refused(error)));
        }
        if range.from < received.until {
            // It was read before, or receiving began behind it.
            received.begin_at(range.from);
        }
        None
    }

    /// Receives until the lane is over.
    fn run(&self) {
        while !self.is_over.load(Ordering::Acquire) {
            if let Err(error) = self.obey() {
                tracing::warn!(%error, "Kafka's client does not take over partitions");
            }
            let messages = self.queue.take(PATIENCE);
            if !messages.is_empty() {
                self.receive(messages);
                self.changed.notify_waiters();
            }
        }
    }

    /// Does what readers ask for. Only here, between two looks at the queue: what is found in it afterwards is of
    /// after.
    fn obey(&self) -> Result<(), KafkaError> {
        let consumer = self.queue.consumer();
        let (mut left, mut taken) = (TopicPartitionList::new(), TopicPartitionList::new());
        let mut state = self.state();
        let limit = self.limit_of(&state);
        for (partition, received) in &mut state.partitions {
            let (topic, id) = (partition.topic.as_str(), partition.id);
            let is_too_much = received.waiting == 0 && received.bytes > limit;
            let is_wanted = received.waiting > 0 || received.bytes < limit / 2;
            let from = match received.seek.take() {
                Some(from) => Some(from),
                // Not the client's own pause: it would go on behind a message if it has told of an end before.
                None if received.is_paused && is_wanted => Some(received.until),
                None => None,
            };
            if received.is_assigned && (from.is_some() || is_too_much) {
                left.add_partition(topic, id);
            }
            if let Some(from) = from {
                taken.add_partition_offset(topic, id, Offset::Offset(from))?;
                (received.is_assigned, received.is_paused) = (true, false);
            } else if is_too_much && !received.is_paused {
                (received.is_assigned, received.is_paused) = (false, true);
            }
        }
        drop(state);
        if left.count() > 0 {
            consumer.incremental_unassign(&left)?;
        }
        if taken.count() > 0 {
            consumer.incremental_assign(&taken)?;
        }
        Ok(())
    }

    /// Puts messages where readers find them.
    fn receive(&self, mut messages: Messages) {
        let mut building: Option<(usize, Partition, ChunkBuilder)> = None;
        while let Some(taken) = messages.next() {
            let (handle, id) = (taken.topic_handle(), taken.partition());
            let is_same = |(topic, partition, _): &(usize, Partition, ChunkBuilder)| {
                *topic == handle && partition.id == id
            };
            let has_room = |(_, _, builder): &(usize, Partition, ChunkBuilder)| !builder.is_full();
            if !building.as_ref().is_some_and(|building| is_same(building) && has_room(building)) {
                self.add(building.take());
                let Some(topic) = taken.topic() else {
                    if let Kind::Error(error) = taken.kind() {
                        tracing::debug!(%error, "Kafka's client complains");
                        self.state().complaint = Some(error);
                    }
                    continue;
                };
                let partition = Partition { topic: topic.to_string(), id };
                building = Some((handle, partition, ChunkBuilder::new(self.with_headers)));
            }
            let Some((_, partition, builder)) = &mut building else { continue };
            match taken.kind() {
                Kind::Message => builder.add(&taken),
                Kind::End => {
                    let partition = partition.clone();
                    self.add(building.take());
                    let nothing = || ChunkBuilder::new(self.with_headers).finish();
                    let mut state = self.state();
                    if let Some(received) = state.wanted(&partition) {
                        received.add_end(taken.offset(), nothing);
                    }
                }
                Kind::Error(error) => {
                    let partition = partition.clone();
                    self.add(building.take());
                    let mut state = self.state();
                    if let Some(received) = state.wanted(&partition) {
                        received.error = Some(error);
                    }
                }
            }
        }
        self.add(building);
    }

    fn add(&self, built: Option<(usize, Partition, ChunkBuilder)>) {
        let Some((_, partition, builder)) = built else { return };
        if builder.is_empty() {
            return;
        }
        let chunk = builder.finish();
        if let Some(received) = self.state().wanted(&partition) {
            received.add(chunk);
        }
    }
}

impl State {
    /// The partition, unless what comes now is of before it was begun anew.
    fn wanted(&mut self, partition: &Partition) -> Option<&mut Received> {
        self.partitions.get_mut(partition).filter(|received| received.seek.is_none())
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    use tidemill::arrow::array::AsArray;
    use tidemill::arrow::datatypes::Int64Type;

    use super::super::scan::CONSUMER_DEFAULTS;
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn config(servers: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (name, value) in CONSUMER_DEFAULTS {
            config.set(*name, *value);
        }
        config.set("bootstrap.servers", servers).set("group.id", "g").set("enable.auto.commit", "false");
        config.set("auto.offset.reset", "error").set("enable.partition.eof", "true");
        config
    }

    fn send(servers: &str, count: usize) {
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", servers).create().unwrap();
        for _ in 0..count {
            producer
                .send(BaseRecord::<str, str>::to("t").partition(0).payload("m"))
                .map_err(|(e, _)| e)
                .unwrap();
        }
        producer.flush(LONG).unwrap();
    }

    /// The offsets of the messages of a range, each of them waited for so long.
    async fn offsets(lane: &Lane, mut range: Range, patience: Duration) -> Result<Vec<i64>, Missing> {
        let mut found = Vec::new();
        while range.from < range.until {
            let chunk = lane.take(&range, patience).await?;
            found.extend(chunk.rows.column(2).as_primitive::<Int64Type>().values());
            range.from = chunk.until;
        }
        Ok(found)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn messages_come_ahead_of_who_reads_them() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let servers = cluster.bootstrap_servers();
        send(&servers, 100);
        let lane = Lane::start(&config(&servers), Arc::default(), 1 << 20, false).unwrap();
        let partition = Partition { topic: "t".into(), id: 0 };
        let range = |from, until| Range { partition: partition.clone(), from, until };
        let up_to = |offset| Offsets([(partition.clone(), offset)].into());
        lane.expect(&partition, 10);
        let began = Instant::now();
        while !lane.has_beyond(&up_to(99)) {
            assert!(began.elapsed() < LONG, "they do not come");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // They are there already, in whatever parts batches want them.
        let parts = [(10, 40), (70, 100), (40, 70)];
        for (from, until) in parts {
            let found = offsets(&lane, range(from, until), Duration::ZERO).await.unwrap();
            assert_eq!(found, (from..until).collect::<Vec<_>>());
        }
        assert!(!lane.has_beyond(&up_to(0)), "what was taken is not kept");
        // A batch that is run again.
        let again = offsets(&lane, range(0, 50), LONG).await.unwrap();
        assert_eq!(again, (0..50).collect::<Vec<_>>());
        let began = Instant::now();
        let patience = Duration::from_millis(500);
        let missing = offsets(&lane, range(100, 101), patience).await.unwrap_err();
        assert!(matches!(missing, Missing::Silence(..)) && began.elapsed() >= patience, "{missing:?}");
        send(&servers, 1);
        assert_eq!(offsets(&lane, range(100, 101), LONG).await.unwrap(), [100]);
        lane.forget(&partition);
        send(&servers, 10);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!lane.has_beyond(&up_to(0)), "nobody wants it any more");
    }
}
