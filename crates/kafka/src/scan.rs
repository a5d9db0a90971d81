//! Reads the ranges of a batch.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures::{StreamExt, stream};
use rdkafka::error::RDKafkaErrorCode;
use tidemill::arrow::array::RecordBatch;
use tidemill::arrow::datatypes::SchemaRef;
use tidemill::datafusion::error::DataFusionError;
use tidemill::datafusion::execution::{SendableRecordBatchStream, TaskContext};
use tidemill::datafusion::physical_plan::ExecutionPlan;
use tidemill::datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use tidemill::datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use tidemill::source::{BadMessageFiles, BadMessageWriter, SourceBatch, SourceScan, in_watermark_group};
use tidemill::uuid::Uuid;
use tidemill::{Error, Result};
use tokio::sync::{Notify, OnceCell};

use super::admission::{between, deal, split};
use super::columns::{Aside, Chunk, Columns, Maker, Malformed};
use super::control::{Control, failed};
use super::identity::{Identity, RECREATED, Remembered};
use super::lane::{Lane, Missing};
use super::offsets::{Offsets, Partition, Range};
use super::options::{Begin, SourceOptions};

/// What the client's own defaults are replaced by: what is read is what was committed, and as soon as it is there.
pub(super) const CONSUMER_DEFAULTS: &[(&str, &str)] = &[
    ("isolation.level", "read_committed"),
    ("check.crcs", "true"),
    ("socket.nagle.disable", "true"),
    // A partition that is taken on waits for the fetch that is under way.
    ("fetch.wait.max.ms", "100"),
    // Partitions that come later are known soon; five minutes otherwise.
    ("topic.metadata.refresh.interval.ms", "2000"),
    // When much waits to be read; a second otherwise.
    ("fetch.queue.backoff.ms", "5"),
    ("reconnect.backoff.max.ms", "1000"),
    ("queued.max.messages.kbytes", "32768"),
];

/// What is received ahead of readers, in all.
const AHEAD: usize = 128 << 20;
const MOST_LANES: usize = 8;

/// Below this many offsets one partition of the plan reads a batch best.
const SMALL_BATCH: u64 = 10_000;

/// The consumers of one run.
pub(super) struct Lanes {
    options: Arc<SourceOptions>,
    group: String,
    /// Something came.
    pub(super) changed: Arc<Notify>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    lanes: Vec<Arc<Lane>>,
    /// Which of them each partition is in.
    places: BTreeMap<Partition, usize>,
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes").field("group", &self.group).finish_non_exhaustive()
    }
}

impl Lanes {
    pub(super) fn new(options: Arc<SourceOptions>, group: String) -> Self {
        Self { options, group, changed: Arc::default(), open: Mutex::default() }
    }

    /// The lane of `partition`. Partitions are spread over as many as there are cores.
    pub(super) fn lane(&self, partition: &Partition) -> Result<Arc<Lane>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = open.places.get(partition) {
            return Ok(Arc::clone(&open.lanes[*place]));
        }
        let most = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_LANES);
        let place = open.places.len() % most;
        if place >= open.lanes.len() {
            let fixed = [
                ("group.id", self.group.as_str()),
                ("enable.auto.commit", "false"),
                ("enable.auto.offset.store", "false"),
                ("auto.offset.reset", "error"),
                ("enable.partition.eof", "true"),
            ];
            let config = self.options.client.config(CONSUMER_DEFAULTS, &fixed);
            let lane =
                Lane::start(&config, Arc::clone(&self.changed), AHEAD / most, self.options.include_headers)
                    .map_err(|error| failed("connect to", &self.options.client.servers, error))?;
            open.lanes.push(Arc::new(lane));
        }
        open.places.insert(partition.clone(), place);
        Ok(Arc::clone(&open.lanes[place]))
    }

    /// Does not receive `partition` any more.
    pub(super) fn forget(&self, partition: &Partition) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = open.places.remove(partition) {
            open.lanes[place].forget(partition);
        }
    }

    /// Whether something came that is behind `ends`.
    pub(super) fn has_beyond(&self, ends: &Offsets) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.lanes.iter().any(|lane| lane.has_beyond(ends))
    }
}

/// What was read so far, and what was lost.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) rows: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// Offsets that the broker did not have any more.
    pub(super) lost: AtomicU64,
    pub(super) malformed: Arc<Malformed>,
}

/// What the readers of all batches share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Arc<SourceOptions>,
    pub(super) query_id: Uuid,
    pub(super) lanes: Lanes,
    pub(super) control: Control,
    pub(super) identity: Identity,
    /// Ends with the first answer to what topics are there.
    pub(super) first_look: OnceCell<()>,
    pub(super) counts: Counts,
}

impl Shared {
    /// Asks Kafka what `topics` are.
    pub(super) async fn identify(&self, topics: BTreeSet<String>) -> Result<()> {
        if topics.is_empty() {
            return Ok(());
        }
        let asked = Instant::now();
        let ids = self.control.topic_ids(topics).await?;
        self.identity.answer(asked, ids);
        Ok(())
    }

    /// Asks whether the topics are those that the checkpoint knows, if this run has not asked yet: a batch that an
    /// earlier run has planned is read before anything else.
    async fn look_first(&self) -> Result<()> {
        let look = async || match self.identity.was_asked() {
            true => Ok(()),
            false => self.identify(self.identity.topics()).await,
        };
        self.first_look.get_or_try_init(look).await.map(|_| ())
    }

    /// Something between `range.from` and `next` is not there any more.
    pub(super) fn lose(&self, range: &Range, next: i64, why: &str) -> Result<()> {
        let lost = Range { until: next, ..range.clone() };
        let what = match lost.len() {
            0 => format!("{why}: of {}, what came after offset {} is lost", range.partition, lost.from),
            count => format!(
                "{why}: of {}, the offsets {} to {} are lost ({count} at most)",
                range.partition,
                lost.from,
                lost.until - 1
            ),
        };
        if self.options.fail_on_data_loss {
            return Err(Error::Invalid(format!(
                "{what}. Set the option failOnDataLoss to false to go on with what there is, or start with a new \
                 checkpointLocation"
            )));
        }
        tracing::warn!("{what}");
        self.counts.lost.fetch_add(lost.len(), Ordering::Relaxed);
        Ok(())
    }

    /// Where to go on in `range`, which the broker does not give.
    async fn refused(&self, range: &Range, code: RDKafkaErrorCode) -> Result<i64> {
        use RDKafkaErrorCode as Code;
        match code {
            Code::AutoOffsetReset | Code::OffsetOutOfRange => self.skip(range).await,
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
                self.lose(range, range.until, "the topic or the partition does not exist any more")?;
                Ok(range.until)
            }
            code => Err(Error::storage(
                "read from",
                format!("Kafka at {}", self.options.client.servers),
                format!("{} at offset {}: {code}", range.partition, range.from),
            )),
        }
    }

    /// Where there is something to read of `range`, whose beginning the broker refuses.
    async fn skip(&self, range: &Range) -> Result<i64> {
        let earliest = self.control.offsets(vec![(range.partition.clone(), Begin::Earliest)]).await?;
        let latest = self.control.offsets(vec![(range.partition.clone(), Begin::Latest)]).await?;
        let partition = &range.partition;
        match (earliest.get(partition), latest.get(partition)) {
            (Some(earliest), Some(latest)) if range.from < earliest && earliest <= latest => {
                let next = earliest.min(range.until);
                self.lose(range, next, "Kafka has removed messages before they were read (retention)")?;
                Ok(next)
            }
            (_, Some(latest)) if latest < range.until => {
                let why = "messages that were there are not there any more (was the topic deleted and created again?)";
                self.lose(range, range.until, why)?;
                Ok(range.until)
            }
            // It was there meanwhile.
            _ => Ok(range.from),
        }
    }
}

/// A planned scan.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) shared: Arc<Shared>,
    pub(super) columns: Columns,
    pub(super) wanted: Vec<usize>,
    pub(super) schema: SchemaRef,
    pub(super) partitions: usize,
}

/// What a batch reads.
pub(super) fn ranges_of(batch: &SourceBatch) -> Result<Vec<Range>> {
    let damaged = |reason: String| Error::CheckpointDamaged { path: "offsets".into(), reason };
    let mut start = Offsets::parse(&batch.start).map_err(damaged)?;
    start.0.extend(Remembered::parse(&batch.entries).map_err(damaged)?.begins.0);
    Ok(between(&start, &Offsets::parse(&batch.end).map_err(damaged)?))
}

impl SourceScan for Scan {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn read(&self, batch: &SourceBatch, context: &TaskContext) -> Result<Arc<dyn ExecutionPlan>> {
        let parts = if self.is_small(batch) { 1 } else { self.partitions };
        let bad = self.shared.options.bad_messages.as_ref();
        let bad = bad.map(|place| place.of_batch(self.shared.query_id, context)).transpose()?;
        let ranges = ranges_of(batch)?;
        // What is put aside of a partition is one file.
        let ranges = if bad.is_some() { ranges } else { split(ranges, parts) };
        let partitions = deal(ranges, parts).into_iter().map(|ranges| {
            Arc::new(Reader {
                shared: Arc::clone(&self.shared),
                columns: self.columns.clone(),
                wanted: self.wanted.clone(),
                schema: Arc::clone(&self.schema),
                ranges,
                bad: bad.clone(),
            }) as Arc<dyn PartitionStream>
        });
        let plan = StreamingTableExec::try_new(
            Arc::clone(&self.schema),
            partitions.collect(),
            None,
            vec![],
            false,
            None,
        )?;
        Ok(Arc::new(plan))
    }

    fn has_watermark_groups(&self) -> bool {
        true
    }

    fn is_small(&self, batch: &SourceBatch) -> bool {
        ranges_of(batch).is_ok_and(|ranges| ranges.iter().map(Range::len).sum::<u64>() <= SMALL_BATCH)
    }
}

/// Reads some ranges one after the other.
#[derive(Debug)]
struct Reader {
    shared: Arc<Shared>,
    columns: Columns,
    wanted: Vec<usize>,
    schema: SchemaRef,
    ranges: Vec<Range>,
    /// Where malformed messages go.
    bad: Option<BadMessageFiles>,
}

impl PartitionStream for Reader {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let malformed = Arc::clone(&self.shared.counts.malformed);
        let reading = self.columns.maker(&self.wanted, malformed).map(|maker| Reading {
            shared: Arc::clone(&self.shared),
            maker,
            ranges: self.ranges.clone().into_iter(),
            current: None,
            bad: self.bad.clone(),
            aside: None,
        });
        let rows = match reading {
            Ok(reading) => stream::try_unfold(reading, |mut reading| async move {
                Ok(reading.next().await?.map(|rows| (rows, reading)))
            })
            .boxed(),
            Err(error) => stream::once(async { Err(DataFusionError::from(error)) }).boxed(),
        };
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}

struct Reading {
    shared: Arc<Shared>,
    maker: Maker,
    ranges: std::vec::IntoIter<Range>,
    /// What is left of the range that is being read.
    current: Option<(Range, Arc<Lane>)>,
    bad: Option<BadMessageFiles>,
    /// Where those of the range go, as soon as there are any.
    aside: Option<BadMessageWriter>,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            let (range, lane) = match self.current.take() {
                Some(current) => current,
                None => {
                    if let Some(writer) = self.aside.take() {
                        writer.finish().await?;
                    }
                    let Some(range) = self.ranges.next() else { return Ok(None) };
                    self.shared.look_first().await?;
                    if self.shared.identity.recreated().contains(&range.partition.topic) {
                        // What was planned is of the topic that was.
                        self.shared.lose(&range, range.until, RECREATED)?;
                        continue;
                    }
                    let lane = self.shared.lanes.lane(&range.partition)?;
                    (range, lane)
                }
            };
            let chunk = match lane.take(&range, self.shared.options.poll_timeout).await {
                Ok(chunk) => chunk,
                Err(Missing::Refused(code)) => {
                    let from = self.shared.refused(&range, code).await?;
                    self.go_on(Range { from, ..range }, lane);
                    continue;
                }
                Err(Missing::Silence(patience, complaint)) => {
                    let complaint =
                        complaint.map_or_else(String::new, |code| format!("; the client says: {code}"));
                    return Err(Error::storage(
                        "read from",
                        format!("Kafka at {}", self.shared.options.client.servers),
                        format!(
                            "no messages of {} from offset {} on came within {} seconds{complaint}. Is the broker \
                             there? kafkaConsumer.pollTimeoutMs says how long it is waited for",
                            range.partition,
                            range.from,
                            patience.as_secs_f64()
                        ),
                    ));
                }
            };
            self.shared.identity.read(chunk.received);
            let partition = range.partition.clone();
            self.go_on(Range { from: chunk.until, ..range }, lane);
            if chunk.rows.num_rows() == 0 {
                continue;
            }
            let counts = &self.shared.counts;
            counts.rows.fetch_add(chunk.rows.num_rows() as u64, Ordering::Relaxed);
            counts.bytes.fetch_add(chunk.bytes() as u64, Ordering::Relaxed);
            self.maker.prepare(&chunk).await?;
            let (rows, aside) = self.maker.make(&partition, &chunk)?;
            self.put_aside(&partition, &chunk, &aside).await?;
            return in_watermark_group(&rows, &partition.short_name()).map(Some);
        }
    }

    /// Writes malformed messages to where they are to go.
    async fn put_aside(&mut self, partition: &Partition, chunk: &Chunk, aside: &[Aside]) -> Result<()> {
        let Some(bad) = self.bad.as_ref().filter(|_| !aside.is_empty()) else { return Ok(()) };
        let writer = match &mut self.aside {
            Some(writer) => writer,
            none => none.insert(bad.writer(&partition.short_name())?),
        };
        let of = format!("kafka:{}/{}", partition.topic, partition.id);
        for aside in aside {
            let (offset, message, reason) = aside.of(chunk);
            writer.write(&of, offset, message, &reason).await?;
        }
        Ok(())
    }

    /// Reads what is left of a range next.
    fn go_on(&mut self, range: Range, lane: Arc<Lane>) {
        self.current = (range.from < range.until).then_some((range, lane));
    }
}
