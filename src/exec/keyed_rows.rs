//! Rows beside their keys.

use std::fmt::{self, Debug};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use datafusion::arrow::array::UInt32Array;
use datafusion::arrow::compute::take_record_batch;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::internal_err;
use datafusion::error::Result as DataFusionResult;

use super::disk_rows::{DiskRows, size_of_rows};
use super::room::Room;
use crate::state::{ByteRows, RowBytes};

/// Some rows of one state partition, and what their keys are.
pub(crate) struct KeyedRows {
    /// Which of the operator's inputs they came by.
    pub(crate) input: usize,
    pub(crate) rows: RecordBatch,
    /// The key of each row as bytes.
    pub(crate) keys: Box<dyn RowBytes + Send>,
    /// The hash of each key, see [`hash_key`](crate::state::hash_key).
    pub(crate) hashes: Vec<u64>,
}

impl Debug for KeyedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedRows").field("rows", &self.rows.num_rows()).finish_non_exhaustive()
    }
}

impl KeyedRows {
    /// Those at `places`.
    pub(crate) fn take(&self, places: Vec<u32>) -> DataFusionResult<Self> {
        let rows = || places.iter().map(|row| *row as usize);
        let keys: ByteRows = rows().map(|row| self.keys.row(row)).collect();
        let hashes = rows().map(|row| self.hashes[row]).collect();
        let rows = match self.rows.num_columns() {
            0 => self.rows.slice(0, places.len()),
            _ => take_record_batch(&self.rows, &UInt32Array::from(places))?,
        };
        Ok(Self { input: self.input, rows, keys: Box::new(keys), hashes })
    }

    /// How many bytes rows, keys and hashes have, about.
    pub(crate) fn size(&self) -> usize {
        size_of_rows(&self.rows) + self.keys.total() + self.hashes.len() * size_of::<(u64, usize)>()
    }

    /// Those whose hashes are wanted, if there are any.
    fn those(&self, is_wanted: &impl Fn(u64) -> bool) -> DataFusionResult<Option<Self>> {
        let places = (0u32..).zip(&self.hashes).filter(|(_, hash)| is_wanted(**hash));
        let places: Vec<u32> = places.map(|(place, _)| place).collect();
        if places.is_empty() { Ok(None) } else { self.take(places).map(Some) }
    }
}

/// For each state partition, its rows.
pub(crate) type Partitions = Vec<Vec<KeyedRows>>;

/// Rows that were divided among state partitions.
#[derive(Debug)]
pub(crate) struct DividedRows {
    /// Which of the operator's inputs they came by.
    pub(crate) input: usize,
    /// In memory, if none were moved.
    pub(crate) partitions: Partitions,
    /// On the disk, in [`BUCKETS`] slots for each partition.
    pub(crate) moved: Option<DiskRows>,
    /// How many bytes all have.
    pub(crate) bytes: u64,
    /// What those in memory take.
    pub(crate) room: Room,
}

/// In how many parts the rows of a state partition are on the disk, so that not all have to be read at once.
pub(crate) const BUCKETS: usize = 64;

/// In which of them the rows with a key are whose hash is this. Independent of the bits that state partitions
/// and tables go by, about.
pub(crate) fn bucket_of(hash: u64) -> usize {
    (hash >> 38) as usize % BUCKETS
}

/// In which of `parts` of a bucket they are.
fn part_of(hash: u64, parts: usize) -> usize {
    (hash >> 20) as usize % (1 << 18) % parts
}

/// Makes keys anew, for rows of an input that come from the disk.
pub(crate) type Keyed = Arc<dyn Fn(usize, RecordBatch) -> DataFusionResult<KeyedRows> + Send + Sync>;

/// All rows of one state partition in a batch.
pub(crate) struct Gathered {
    /// From each place where they were divided.
    sources: Vec<Source>,
    keyed: Keyed,
    /// How many bytes of rows may be worked on at once.
    at_once: usize,
}

/// The rows from one place.
enum Source {
    /// In memory, which is theirs as long as this is.
    Memory(Vec<KeyedRows>, Arc<Room>),
    /// On the disk, in slots from the first on.
    Disk { moved: Arc<DiskRows>, input: usize, first: usize },
}

impl Gathered {
    /// What was divided in several places, for each of so many state partitions. The rows of the first place come
    /// first: a batch that is run again adds up floating-point numbers in the same order.
    pub(crate) fn of(
        divided: Vec<DividedRows>,
        partitions: usize,
        at_once: usize,
        keyed: &Keyed,
    ) -> Vec<Self> {
        let nothing = || Self { sources: Vec::new(), keyed: Arc::clone(keyed), at_once };
        let mut gathered: Vec<Self> = std::iter::repeat_with(nothing).take(partitions).collect();
        for DividedRows { input, partitions, moved, room, .. } in divided {
            let (moved, room) = (moved.map(Arc::new), Arc::new(room));
            for (partition, rows) in partitions.into_iter().enumerate() {
                gathered[partition].sources.push(match &moved {
                    Some(moved) => {
                        Source::Disk { moved: Arc::clone(moved), input, first: partition * BUCKETS }
                    }
                    None => Source::Memory(rows, Arc::clone(&room)),
                });
            }
        }
        gathered
    }

    /// Rows that have their keys, to be worked on at once.
    pub(crate) fn here(rows: Vec<KeyedRows>, room: Room) -> Self {
        let keyed: Keyed = Arc::new(|_, _| internal_err!("rows in memory have their keys"));
        Self { sources: vec![Source::Memory(rows, Arc::new(room))], keyed, at_once: usize::MAX }
    }

    fn is_in_memory(&self) -> bool {
        self.sources.iter().all(|source| matches!(source, Source::Memory(..)))
    }

    /// Those in memory, and what they take of it.
    fn into_memory(self) -> (Vec<KeyedRows>, Vec<Arc<Room>>) {
        let (mut all, mut rooms) = (Vec::new(), Vec::new());
        for source in self.sources {
            if let Source::Memory(rows, room) = source {
                all.extend(rows);
                rooms.push(room);
            }
        }
        (all, rooms)
    }

    /// All rows, some at a time. Those with the same key come in their order.
    pub(crate) fn some_at_a_time(self) -> Box<dyn Iterator<Item = DataFusionResult<KeyedRows>>> {
        if self.is_in_memory() {
            let (rows, rooms) = self.into_memory();
            return Box::new(rows.into_iter().map(Ok).inspect(holding(rooms)));
        }
        let all = Rc::new(self);
        Box::new((0..BUCKETS).flat_map(move |bucket| Self::some(&all, Some(bucket), 0..1)))
    }

    /// All rows in parts, none of which has a key that another has, and which are small enough to be worked on.
    pub(crate) fn in_parts(self) -> Box<dyn Iterator<Item = DataFusionResult<Vec<KeyedRows>>>> {
        let in_memory = self.sources.iter().map(Source::in_memory).sum::<usize>();
        let is_in_memory = self.is_in_memory();
        if is_in_memory && in_memory <= self.at_once {
            let (rows, rooms) = self.into_memory();
            return Box::new((!rows.is_empty()).then_some(Ok(rows)).into_iter().inspect(holding(rooms)));
        }
        let all = Rc::new(self);
        let parts_of = move |bucket: Option<usize>| {
            let on_disk: usize = all.sources.iter().map(|source| source.on_disk(bucket)).sum();
            let in_memory = if bucket.is_some() { in_memory / BUCKETS } else { in_memory };
            let parts = (on_disk + in_memory).div_ceil(all.at_once).max(1);
            let all = Rc::clone(&all);
            let parts = (0..parts).map(move |part| Self::some(&all, bucket, part..parts).collect());
            parts.filter(|rows: &DataFusionResult<Vec<_>>| !rows.as_ref().is_ok_and(Vec::is_empty))
        };
        match is_in_memory {
            true => Box::new(parts_of(None)),
            false => Box::new((0..BUCKETS).map(Some).flat_map(parts_of)),
        }
    }

    /// The rows of a bucket, if one is given, that are in a part: `part` is its number, and how many there are.
    fn some(
        all: &Rc<Self>,
        bucket: Option<usize>,
        part: Range<usize>,
    ) -> impl Iterator<Item = DataFusionResult<KeyedRows>> + use<> {
        let all = Rc::clone(all);
        let places: Vec<(usize, usize)> = (all.sources.iter().enumerate())
            .flat_map(|(number, source)| source.pieces(bucket).map(move |piece| (number, piece)))
            .collect();
        let is_wanted = move |hash: u64| {
            bucket.is_none_or(|bucket| bucket_of(hash) == bucket) && part_of(hash, part.end) == part.start
        };
        places.into_iter().filter_map(move |(source, piece)| {
            let rows = match &all.sources[source] {
                Source::Memory(rows, _) => rows[piece].those(&is_wanted),
                Source::Disk { moved, input, .. } => {
                    moved.piece(piece).and_then(|rows| (all.keyed)(*input, rows)?.those(&is_wanted))
                }
            };
            rows.transpose()
        })
    }
}

/// Keeps memory as long as an iterator is there.
fn holding<T>(rooms: Vec<Arc<Room>>) -> impl FnMut(&T) {
    move |_| {
        let _ = &rooms;
    }
}

impl Source {
    /// How many bytes are in memory.
    fn in_memory(&self) -> usize {
        match self {
            Source::Memory(rows, _) => rows.iter().map(KeyedRows::size).sum(),
            Source::Disk { .. } => 0,
        }
    }

    /// How many bytes of a bucket, if one is given, are on the disk.
    fn on_disk(&self, bucket: Option<usize>) -> usize {
        match (self, bucket) {
            (Source::Disk { moved, first, .. }, Some(bucket)) => moved.bytes(first + bucket),
            _ => 0,
        }
    }

    /// The pieces that rows of a bucket may be in; all that are in memory, if none is given.
    fn pieces(&self, bucket: Option<usize>) -> Range<usize> {
        match (self, bucket) {
            (Source::Memory(rows, _), _) => 0..rows.len(),
            (Source::Disk { moved, first, .. }, Some(bucket)) => moved.slot(first + bucket),
            (Source::Disk { .. }, None) => 0..0,
        }
    }
}
