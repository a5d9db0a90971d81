//! One run's reader of topics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tidemill::clock::Clock;
use tidemill::datafusion::catalog::Session;
use tidemill::datafusion::logical_expr::Expr;
use tidemill::serde_json::Value;
use tidemill::serde_json::value::RawValue;
use tidemill::source::{Admission, Source, SourceBatch, SourceContext, SourceScan};
use tidemill::{Error, Result, async_trait};
use tokio::sync::OnceCell;

use super::admission::{between, share_out};
use super::columns::Columns;
use super::control::Control;
use super::identity::{Identity, RECREATED, Remembered};
use super::offsets::{Offsets, Partition, Range};
use super::options::{Begin, SourceOptions, Starting};
use super::scan::{Counts, Lanes, Scan, Shared, ranges_of};

/// How often it is looked for partitions and topics that are new.
const LOOK_AROUND: Duration = Duration::from_secs(1);

/// What a message is taken to be long before any was read.
const USUAL_BYTES: u64 = 512;

#[derive(Debug)]
pub(super) struct KafkaSource {
    columns: Columns,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    progress: Mutex<Progress>,
}

/// How far the run is.
#[derive(Debug, Default)]
struct Progress {
    /// Up to where batches were planned, by partition; those that no batch had yet are missing.
    taken: Offsets,
    /// Where partitions begin that no batch had yet.
    fresh: Offsets,
    /// Where each partition ended when it was looked at last.
    latest: Offsets,
    /// Where the run ends, if it is to end.
    last: Option<Offsets>,
    /// Whether the first start of the query has found out where it begins.
    has_begun: bool,
    /// The beginning is known only to this run, which is to record it.
    is_unrecorded: bool,
    looked_around: Option<Duration>,
    /// When the last batch was planned.
    planned: Option<Duration>,
    /// Whether there is less than a batch is to have at least.
    is_waiting: bool,
    /// The partitions of which the last batch did not take everything, by their watermark groups.
    behind: Vec<String>,
}

impl KafkaSource {
    pub(super) fn new(
        options: Arc<SourceOptions>,
        columns: Columns,
        context: &SourceContext,
    ) -> Result<Self> {
        let group = options.group(context.query_id);
        let control = Control::new(&options, &group)?;
        let lanes = Lanes::new(Arc::clone(&options), group);
        let query_id = context.query_id;
        let shared = Shared {
            options,
            query_id,
            lanes,
            control,
            identity: Identity::default(),
            first_look: OnceCell::new(),
            counts: Counts::default(),
        };
        Ok(Self {
            columns,
            shared: Arc::new(shared),
            clock: Arc::clone(&context.clock),
            progress: Mutex::default(),
        })
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where each partition is to be read next.
    fn next_offsets(&self) -> Offsets {
        let progress = self.progress();
        let mut next = progress.taken.clone();
        next.0.extend(progress.fresh.0.clone());
        next
    }

    fn options(&self) -> &SourceOptions {
        &self.shared.options
    }

    /// Finds out which partitions there are, if that is a while ago, and where new ones begin.
    async fn look_around(&self) -> Result<()> {
        let now = self.clock.elapsed();
        let (has_begun, is_due) = {
            let progress = self.progress();
            let is_due = progress.looked_around.is_none_or(|last| now.saturating_sub(last) >= LOOK_AROUND);
            (progress.has_begun, is_due)
        };
        if !is_due {
            return Ok(());
        }
        let there = self.shared.control.partitions(&self.options().selection, has_begun).await?;
        let (unknown, gone) = {
            let progress = self.progress();
            let is_known = |partition: &&Partition| {
                progress.taken.get(partition).is_some() || progress.fresh.get(partition).is_some()
            };
            let unknown: Vec<Partition> =
                there.iter().filter(|partition| !is_known(partition)).cloned().collect();
            let known: BTreeSet<&Partition> =
                progress.taken.0.keys().chain(progress.fresh.0.keys()).collect();
            let gone: Vec<Partition> =
                known.into_iter().filter(|partition| !there.contains(*partition)).cloned().collect();
            (unknown, gone)
        };
        // Before it is asked where they begin: if they are others afterwards, that shows.
        self.shared.identify(topics_of(&unknown)).await?;
        let begins = self.begins(unknown, has_begun).await?;
        for partition in gone {
            self.leave(&partition)?;
        }
        let mut progress = self.progress();
        progress.fresh.0.extend(begins.0);
        if !has_begun {
            // From the beginning on nothing is missed, whenever the beginning is.
            progress.is_unrecorded = match &self.options().starting {
                Starting::All(Begin::Earliest) => false,
                _ => !progress.fresh.is_empty(),
            };
            progress.has_begun = true;
        }
        progress.looked_around = Some(now);
        Ok(())
    }

    /// Where partitions begin that were not read before; those that have come since the first start, with their
    /// first message.
    async fn begins(&self, partitions: Vec<Partition>, has_begun: bool) -> Result<Offsets> {
        let mut asked = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let begin = if has_begun { Begin::Earliest } else { self.options().starting.of(&partition)? };
            asked.push((partition, begin));
        }
        let mut found = self.shared.control.offsets(asked.clone()).await?;
        let none: Vec<Partition> = asked
            .iter()
            .filter(|(partition, begin)| matches!(begin, Begin::Since(_)) && found.get(partition).is_none())
            .map(|(partition, _)| partition.clone())
            .collect();
        if let Some(partition) = none.first()
            && !self.options().latest_if_none_since
        {
            return Err(Error::Invalid(format!(
                "{partition} has no message that is as young as the query is to start with. Set the option \
                 startingOffsetsByTimestampStrategy to latest to begin with its next one"
            )));
        }
        let latest = none.into_iter().map(|partition| (partition, Begin::Latest)).collect();
        found.0.extend(self.shared.control.offsets(latest).await?.0);
        Ok(found)
    }

    /// A partition that was read is gone.
    fn leave(&self, partition: &Partition) -> Result<()> {
        let mut progress = self.progress();
        let taken = progress.taken.get(partition).or_else(|| progress.fresh.get(partition)).unwrap_or(0);
        let end = progress.latest.get(partition).unwrap_or(taken).max(taken);
        let range = Range { partition: partition.clone(), from: taken, until: end };
        drop(progress);
        let why = "a partition that was read is gone (deleted, or not selected any more)";
        self.shared.lose(&range, end, why)?;
        progress = self.progress();
        progress.taken.0.remove(partition);
        progress.fresh.0.remove(partition);
        progress.latest.0.remove(partition);
        if let Some(last) = &mut progress.last {
            last.0.remove(partition);
        }
        if !progress.taken.0.keys().chain(progress.fresh.0.keys()).any(|other| other.topic == partition.topic)
        {
            self.shared.identity.forget(&partition.topic);
        }
        drop(progress);
        self.shared.lanes.forget(partition);
        Ok(())
    }

    /// A topic is another one than the query has read: nothing of it was read.
    async fn begin_anew(&self, topic: &str) -> Result<()> {
        let is_of_topic = |partition: &Partition| partition.topic == topic;
        let (taken, latest) = {
            let progress = self.progress();
            (progress.taken.clone(), progress.latest.clone())
        };
        for (partition, from) in taken.0.into_iter().filter(|(partition, _)| is_of_topic(partition)) {
            let end = latest.get(&partition).unwrap_or(from).max(from);
            self.shared.lose(&Range { partition, from, until: end }, end, RECREATED)?;
        }
        self.shared.identity.accept(topic);
        let partitions: Vec<Partition> = self.next_offsets().0.into_keys().filter(is_of_topic).collect();
        let begins = self.begins(partitions.clone(), true).await?;
        let mut progress = self.progress();
        for partition in &partitions {
            progress.taken.0.remove(partition);
            progress.fresh.0.remove(partition);
            self.shared.lanes.forget(partition);
        }
        progress.fresh.0.extend(begins.0);
        Ok(())
    }

    /// Where each partition ends now, of the topics that there are now.
    async fn ends_of_topics(&self) -> Result<Offsets> {
        loop {
            let topics = topics_of(self.next_offsets().0.keys());
            // At once, so that the one takes no longer than both. If what ends is another topic than what is named, the
            // batch is not read to its end either.
            let (ends, ()) = futures::try_join!(self.ends(), self.shared.identify(topics))?;
            let recreated = self.shared.identity.recreated();
            if recreated.is_empty() {
                return Ok(ends);
            }
            for topic in recreated {
                self.begin_anew(&topic).await?;
            }
        }
    }

    /// Where each partition ends now.
    async fn ends(&self) -> Result<Offsets> {
        let asked: Vec<(Partition, Begin)> = {
            let progress = self.progress();
            let known = progress.taken.0.keys().chain(progress.fresh.0.keys());
            known.map(|partition| (partition.clone(), Begin::Latest)).collect()
        };
        self.shared.control.offsets(asked).await
    }

    /// What there is to read, partition by partition, up to `ends`.
    fn backlog(&self, ends: &Offsets) -> Result<Vec<Range>> {
        let from = self.next_offsets();
        for (partition, offset) in &from.0 {
            let Some(end) = ends.get(partition).filter(|end| end < offset) else { continue };
            let why =
                "the partition ends before what was read of it (was the topic deleted and created again?)";
            let lost = Range { partition: partition.clone(), from: end, until: *offset };
            self.shared.lose(&lost, *offset, why)?;
            // What is there now are other messages.
            let mut progress = self.progress();
            progress.taken.0.remove(partition);
            progress.fresh.0.insert(partition.clone(), 0);
            drop(progress);
            self.shared.lanes.forget(partition);
            return self.backlog(ends);
        }
        Ok(between(&from, ends))
    }

    /// As much of `there` as a batch is to have.
    fn admit(&self, there: Vec<Range>, admission: Admission) -> Vec<Range> {
        let total: u64 = there.iter().map(Range::len).fold(0, u64::saturating_add);
        let options = self.options();
        {
            let mut progress = self.progress();
            let now = self.clock.elapsed();
            let waited = now.saturating_sub(*progress.planned.get_or_insert(now));
            let is_to_end = progress.last.is_some() || admission == Admission::Everything;
            progress.is_waiting = !is_to_end
                && total > 0
                && options.min_offsets.is_some_and(|least| total < least)
                && waited < options.max_delay;
            if progress.is_waiting {
                return Vec::new();
            }
        }
        match (admission, options.max_offsets) {
            (Admission::Everything, _) => there,
            (_, Some(most)) => share_out(&there, most),
            (Admission::Within(bytes), None) => share_out(&there, (bytes / self.bytes_per_message()).max(1)),
            (Admission::Limited, None) => there,
        }
    }

    fn bytes_per_message(&self) -> u64 {
        let counts = &self.shared.counts;
        let (rows, bytes) = (counts.rows.load(Ordering::Relaxed), counts.bytes.load(Ordering::Relaxed));
        bytes.checked_div(rows).unwrap_or(USUAL_BYTES).max(1)
    }

    /// The batch of `ranges`, which counts as taken from now on.
    fn take(&self, ranges: &[Range]) -> Result<SourceBatch> {
        let mut progress = self.progress();
        let recorded = |offsets: &Offsets| if offsets.is_empty() { Value::Null } else { offsets.to_value() };
        let start = recorded(&progress.taken);
        if ranges.is_empty() && !progress.is_unrecorded {
            return Ok(SourceBatch { start: start.clone(), end: start, entries: Vec::new() });
        }
        progress.is_unrecorded = false;
        progress.planned = Some(self.clock.elapsed());
        let fresh = std::mem::take(&mut progress.fresh);
        progress.taken.0.extend(fresh.0.clone());
        for range in ranges {
            progress.taken.0.insert(range.partition.clone(), range.until);
        }
        let remembered = Remembered { begins: fresh, ids: self.shared.identity.take_unrecorded() };
        Ok(SourceBatch { start, end: recorded(&progress.taken), entries: remembered.to_entries()? })
    }
}

fn topics_of<'a>(partitions: impl IntoIterator<Item = &'a Partition>) -> BTreeSet<String> {
    partitions.into_iter().map(|partition| partition.topic.clone()).collect()
}

#[async_trait]
impl Source for KafkaSource {
    async fn restore(&self, end: Value, entries: Vec<Box<RawValue>>) -> Result<()> {
        let damaged = |reason| Error::CheckpointDamaged { path: "offsets".into(), reason };
        let taken = Offsets::parse(&end).map_err(damaged)?;
        self.shared.identity.resume(Remembered::parse(&entries).map_err(damaged)?.ids);
        let mut progress = self.progress();
        *progress = Progress { has_begun: !taken.is_empty(), taken, ..Progress::default() };
        Ok(())
    }

    async fn prepare_available_now(&self) -> Result<()> {
        self.look_around().await?;
        // Whether topics are others than were read is not for here: a batch of those may still have to be read again.
        let ends = self.ends().await?;
        self.progress().last = Some(ends);
        Ok(())
    }

    async fn plan(&self, admission: Admission) -> Result<SourceBatch> {
        let is_ending = self.progress().last.is_some();
        if !is_ending {
            self.look_around().await?;
        }
        let mut ends = self.ends_of_topics().await?;
        self.progress().latest = ends.clone();
        if let Some(last) = &self.progress().last {
            // Messages may have gone meanwhile.
            ends = Offsets(
                last.0
                    .iter()
                    .map(|(p, last)| (p.clone(), ends.get(p).map_or(*last, |end| end.min(*last))))
                    .collect(),
            );
        }
        let there = self.backlog(&ends)?;
        // What is to be read next is on its way meanwhile.
        let next = self.next_offsets();
        for (partition, from) in &next.0 {
            self.shared.lanes.lane(partition)?.expect(partition, *from);
        }
        let batch = self.take(&self.admit(there, admission))?;
        let behind = between(&self.next_offsets(), &ends);
        let mut behind: Vec<String> = behind.iter().map(|range| range.partition.short_name()).collect();
        behind.sort_unstable();
        self.progress().behind = behind;
        Ok(batch)
    }

    fn groups_behind(&self) -> Vec<String> {
        self.progress().behind.clone()
    }

    fn is_waiting(&self) -> bool {
        self.progress().is_waiting
    }

    fn arrivals(&self) -> Option<BoxFuture<'_, ()>> {
        let ends = self.next_offsets();
        let lanes = &self.shared.lanes;
        let arrived = async move {
            loop {
                let changed = lanes.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if lanes.has_beyond(&ends) {
                    return;
                }
                changed.await;
            }
        };
        Some(arrived.boxed())
    }

    fn latest_offset(&self) -> Value {
        let latest = &self.progress().latest;
        if latest.is_empty() { Value::Null } else { latest.to_value() }
    }

    fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        partitions: usize,
    ) -> Result<Arc<dyn SourceScan>> {
        let all = || (0..self.columns.schema.fields().len()).collect();
        let wanted: Vec<usize> = projection.cloned().unwrap_or_else(all);
        let schema = Arc::new(self.columns.schema.project(&wanted)?);
        Ok(Arc::new(Scan {
            shared: Arc::clone(&self.shared),
            columns: self.columns.clone(),
            wanted,
            schema,
            partitions: partitions.max(1),
        }))
    }

    async fn check_read(&self, batch: &SourceBatch) -> Result<()> {
        let identity = &self.shared.identity;
        if identity.is_certain() {
            return Ok(());
        }
        // Of these nothing was read.
        let before = identity.recreated();
        self.shared.identify(topics_of(ranges_of(batch)?.iter().map(|range| &range.partition))).await?;
        match identity.recreated().difference(&before).next() {
            None => Ok(()),
            Some(topic) => Err(Error::storage(
                "read from",
                format!("Kafka at {}", self.options().client.servers),
                format!(
                    "topic '{topic}' was deleted and created again while its messages were read, and nothing of this \
                     batch counts. Start the query again"
                ),
            )),
        }
    }

    async fn commit(&self, batch: &SourceBatch) -> Result<()> {
        if self.options().commits_group_offsets
            && let Ok(ends) = Offsets::parse(&batch.end)
        {
            self.shared.control.tell(&ends);
        }
        Ok(())
    }

    fn take_metrics(&self) -> BTreeMap<String, String> {
        let progress = self.progress();
        let behind: Vec<u64> = between(&progress.taken, &progress.latest).iter().map(Range::len).collect();
        let partitions = progress.latest.0.len().max(1) as u64;
        let all: u64 = behind.iter().sum();
        let least =
            if (behind.len() as u64) < partitions { 0 } else { behind.iter().min().copied().unwrap_or(0) };
        let mut metrics = BTreeMap::from([
            ("minOffsetsBehindLatest".to_string(), least.to_string()),
            ("maxOffsetsBehindLatest".to_string(), behind.iter().max().copied().unwrap_or(0).to_string()),
            ("avgOffsetsBehindLatest".to_string(), format!("{:?}", all as f64 / partitions as f64)),
        ]);
        let counts = &self.shared.counts;
        for (name, count) in [("numLostOffsets", &counts.lost), ("numMalformedRows", &counts.malformed.all)] {
            let count = count.swap(0, Ordering::Relaxed);
            if count > 0 {
                metrics.insert(name.to_string(), count.to_string());
            }
        }
        metrics
    }
}
