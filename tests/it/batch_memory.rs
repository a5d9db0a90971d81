//! Batches that are larger than the memory that there is: their rows wait on the local disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, StringArray, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::disk_manager::DiskManagerBuilder;
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryLimit, MemoryPool, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::prelude::SessionConfig;
use tidemill::prelude::*;

use crate::support::harness::Place;

/// What a session may use, and how many rows there are: about 60 bytes each, three times as much.
const POOL: usize = 4 << 20;
const ROWS: i64 = 200_000;
/// Every key comes twice, far apart, and once more in a later batch.
const KEYS: i64 = 100_000;

/// A pool that remembers how much was in use at most.
#[derive(Debug)]
struct Peak(GreedyMemoryPool, AtomicUsize);

impl Peak {
    fn note(&self) {
        self.1.fetch_max(self.0.reserved(), Ordering::Relaxed);
    }
}

impl std::fmt::Display for Peak {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl MemoryPool for Peak {
    fn name(&self) -> &str {
        "peak"
    }

    fn grow(&self, reservation: &MemoryReservation, bytes: usize) {
        self.0.grow(reservation, bytes);
        self.note();
    }

    fn shrink(&self, reservation: &MemoryReservation, bytes: usize) {
        self.0.shrink(reservation, bytes);
    }

    fn try_grow(&self, reservation: &MemoryReservation, bytes: usize) -> DataFusionResult<()> {
        self.0.try_grow(reservation, bytes)?;
        self.note();
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.0.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.0.memory_limit()
    }
}

/// A session with little memory, and so many bytes of the local disk.
fn session(disk: u64) -> (Session, Arc<Peak>) {
    let pool = Arc::new(Peak(GreedyMemoryPool::new(POOL), AtomicUsize::new(0)));
    let disks = DiskManagerBuilder::default().with_max_temp_directory_size(disk);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::clone(&pool) as Arc<dyn MemoryPool>)
        .with_disk_manager_builder(disks)
        .build_arc()
        .unwrap();
    let config = SessionConfig::new().with_target_partitions(2);
    let context = datafusion::prelude::SessionContext::new_with_config_rt(config, runtime);
    (Session::from(context), pool)
}

fn schema() -> Arc<Schema> {
    let field = |name: &str, kind| Field::new(name, kind, true);
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    Arc::new(Schema::new(vec![field("id", DataType::Int64), field("k", DataType::Utf8), field("ts", time)]))
}

fn key(id: i64) -> String {
    format!("the key of a row, number {:07}", id * 7_919 % KEYS)
}

fn file(place: &Place, name: &str, ids: std::ops::Range<i64>, seconds: impl Fn(i64) -> i64) {
    file_with(place, name, ids, &key, seconds);
}

/// A file of rows: one that cannot be admitted in parts.
fn file_with(
    place: &Place,
    name: &str,
    ids: std::ops::Range<i64>,
    key: &dyn Fn(i64) -> String,
    seconds: impl Fn(i64) -> i64,
) {
    let path = place.path(&format!("in/{name}.parquet"));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), schema(), None).unwrap();
    for start in ids.clone().step_by(8192) {
        let some = start..ids.end.min(start + 8192);
        let columns: [ArrayRef; 3] = [
            Arc::new(Int64Array::from_iter_values(some.clone())),
            Arc::new(StringArray::from_iter_values(some.clone().map(key))),
            Arc::new(TimestampMicrosecondArray::from_iter_values(some.map(|id| seconds(id) * 1_000_000))),
        ];
        writer.write(&RecordBatch::try_new(schema(), columns.to_vec()).unwrap()).unwrap();
    }
    writer.close().unwrap();
}

/// Two batches: a large one, and a small one.
fn two_files(place: &Place) {
    file(place, "0", 0..ROWS, |_| 0);
    file(place, "1", ROWS..ROWS + 1000, |_| 0);
}

/// Runs a query to its end; gives the error if it fails, and the rows that `ask` then finds in `output`.
async fn run(
    place: &Place,
    (sql, mode, disk): (&str, OutputMode, u64),
    options: &[(&str, String)],
    ask: &str,
) -> Result<Vec<String>, String> {
    let (session, pool) = session(disk);
    let reader = session.read_stream().format("parquet").schema(schema());
    let events = reader.option("maxFilesPerTrigger", 1).load(&place.text("in")).await.unwrap();
    let events = if options.is_empty() { events } else { events.with_watermark("ts", "0 seconds").unwrap() };
    session.context().register_table("events", events.into_view()).unwrap();
    let mut writer = session
        .context()
        .sql(sql)
        .await
        .unwrap()
        .write_stream()
        .format("memory")
        .query_name("output")
        .output_mode(mode)
        .trigger(Trigger::AvailableNow)
        .option("checkpointLocation", place.text("checkpoint"))
        .option("statePartitions", 3);
    for (name, value) in options {
        writer = writer.option(*name, value);
    }
    let query = writer.start(None).await.unwrap();
    query.await_termination().await.map_err(|error| error.to_string())?;
    let most = pool.1.load(Ordering::Relaxed);
    assert!(most <= POOL, "{most} bytes");
    let with_rows = query.recent_progress().iter().filter(|progress| progress.num_input_rows > 0).count();
    assert_eq!(with_rows, std::fs::read_dir(place.path("in")).unwrap().count());
    // In another session, which may use more.
    let output = session.context().table("output").await.unwrap();
    let (columns, rows) = (Arc::new(output.schema().as_arrow().clone()), output.collect().await.unwrap());
    let context = datafusion::prelude::SessionContext::new();
    let table = datafusion::catalog::MemTable::try_new(columns, vec![rows]).unwrap();
    context.register_table("output", Arc::new(table)).unwrap();
    Ok(text(context.sql(ask).await.unwrap().collect().await.unwrap()))
}

fn text(rows: Vec<RecordBatch>) -> Vec<String> {
    let options = FormatOptions::default();
    let mut lines = Vec::new();
    for rows in &rows {
        let columns: Vec<_> =
            rows.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
        lines.extend((0..rows.num_rows()).map(|row| {
            columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(" ")
        }));
    }
    lines
}

const DISK: u64 = 1 << 30;

#[tokio::test(flavor = "multi_thread")]
async fn distinct_rows_of_a_batch_larger_than_memory_come_once() {
    let place = Place::new();
    two_files(&place);
    let sql = "SELECT DISTINCT k FROM events";
    let ask = "SELECT count(*), count(DISTINCT k), min(k), max(k) FROM output";
    let found = run(&place, (sql, OutputMode::Append, DISK), &[], ask).await.unwrap();
    assert_eq!(found, [format!("{KEYS} {KEYS} {} {}", least(), greatest())]);
}

fn least() -> String {
    (0..KEYS).map(key).min().unwrap()
}

fn greatest() -> String {
    (0..KEYS).map(key).max().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_row_with_a_key_is_the_first_wherever_rows_wait() {
    let place = Place::new();
    two_files(&place);
    let sql = "SELECT DISTINCT ON (k) k, id FROM events";
    let ask = "SELECT count(*), sum(id), max(id) FROM output";
    let found = run(&place, (sql, OutputMode::Append, DISK), &[], ask).await.unwrap();
    assert_eq!(found, [format!("{KEYS} {} {}", (0..KEYS).sum::<i64>(), KEYS - 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_group_of_a_batch_larger_than_memory_is_given_once() {
    let place = Place::new();
    two_files(&place);
    let sql = "SELECT k, count(*) AS n, sum(id) AS total, first_value(id) AS first FROM events GROUP BY k";
    let ask =
        "SELECT n, count(*), count(DISTINCT k), sum(total), sum(first) FROM output GROUP BY n ORDER BY n";
    let found = run(&place, (sql, OutputMode::Update, DISK), &[], ask).await.unwrap();
    // The first batch has every key twice, the second some of them once more.
    let again: i64 = (ROWS..ROWS + 1000).map(|id| id % KEYS).sum();
    let firsts: i64 = (0..KEYS).sum();
    let more = again + again + 1000 * KEYS + again + 1000 * 2 * KEYS;
    assert_eq!(
        found,
        [
            format!("2 {KEYS} {KEYS} {} {firsts}", (0..ROWS).sum::<i64>()),
            format!("3 1000 1000 {more} {again}"),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_above_one_another_have_all_rows_of_a_batch_larger_than_memory() {
    let place = Place::new();
    two_files(&place);
    let sql = "SELECT n, count(*) AS keys, sum(total) AS total FROM
               (SELECT k, count(*) AS n, sum(id) AS total FROM events GROUP BY k) GROUP BY n";
    let ask = "SELECT n, keys, total FROM output ORDER BY n";
    let found = run(&place, (sql, OutputMode::Complete, DISK), &[], ask).await.unwrap();
    let more: i64 = (ROWS..ROWS + 1000).map(|id| 3 * (id % KEYS) + 3 * KEYS).sum();
    let twice: i64 = (1000..KEYS).map(|id| 2 * id + KEYS).sum();
    assert_eq!(found, [format!("2 {} {twice}", KEYS - 1000), format!("3 1000 {more}")]);
}

/// Fewer rows, which are still ten times as large as what may wait in the exchange: every key comes twice, and a
/// thousand of them once more in a second batch.
const FEWER: i64 = 40_000;

fn two_smaller_files(place: &Place) {
    let again = |id: i64| (id - ROWS) % (FEWER / 2);
    let key = |id: i64| {
        format!("the key of a row, number {:07}", if id < ROWS { id % (FEWER / 2) } else { again(id) })
    };
    file_with(place, "0", 0..FEWER, &key, |id| id % (FEWER / 2));
    file_with(place, "1", ROWS..ROWS + 1000, &key, |id| again(id) + 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_batch_larger_than_memory_are_joined() {
    let place = Place::new();
    two_smaller_files(&place);
    let sql = "SELECT a.id AS a, b.id AS b FROM events AS a JOIN events AS b ON a.k = b.k AND a.id < b.id";
    let ask = "SELECT count(*), count(DISTINCT a * 1000000 + b), sum(b - a) FROM output";
    let found = run(&place, (sql, OutputMode::Append, DISK), &[], ask).await.unwrap();
    // Each key once in the first batch; in the second, those of a thousand with both of the rows before.
    let half = FEWER / 2;
    let apart = half * half + (ROWS + ROWS - half) * 1000;
    assert_eq!(found, [format!("{} {} {apart}", half + 2000, half + 2000)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_row_of_each_key_is_found_wherever_rows_wait() {
    let place = Place::new();
    two_smaller_files(&place);
    let sql = "SELECT k, id FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY id DESC) AS place FROM events) \
               WHERE place = 1";
    let ask = "SELECT count(*), count(DISTINCT k), sum(id) FROM output";
    let found = run(&place, (sql, OutputMode::Update, DISK), &[], ask).await.unwrap();
    let half = FEWER / 2;
    let ids = (half..FEWER).sum::<i64>() + (ROWS..ROWS + 1000).sum::<i64>();
    assert_eq!(found, [format!("{} {half} {ids}", half + 1000)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_batch_larger_than_memory_are_whole() {
    let place = Place::new();
    two_smaller_files(&place);
    let sql =
        "SELECT k, count(*) AS n, sum(id) AS total FROM events GROUP BY k, session_window(ts, '5 seconds')";
    let ask = "SELECT n, count(*), count(DISTINCT k), sum(total) FROM output GROUP BY n ORDER BY n";
    let options = [("flushOnEnd", "true".to_string())];
    let found = run(&place, (sql, OutputMode::Append, DISK), &options, ask).await.unwrap();
    let (half, ids) = (FEWER / 2, (ROWS..ROWS + 1000).sum::<i64>());
    assert_eq!(found, [format!("1 1000 1000 {ids}"), format!("2 {half} {half} {}", (0..FEWER).sum::<i64>())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn late_rows_that_do_not_fit_into_memory_are_kept_all() {
    let place = Place::new();
    file(&place, "0", 0..999, |_| 1000);
    // From the next batch on, what is older than the first is late: all but the last.
    file(&place, "1", 999..1000, |_| 1001);
    file(&place, "2", 1000..ROWS, |id| if id == ROWS - 1 { 2000 } else { 10 });
    let late = place.text("late");
    let sql = "SELECT ts, count(*) AS n, sum(id) AS total FROM events GROUP BY ts";
    let options = [("lateRowsPath", late), ("lateRowsFormat", "parquet".to_string())];
    let ask = "SELECT CAST(sum(n) AS BIGINT) FROM output";
    let found = run(&place, (sql, OutputMode::Append, DISK), &options, ask).await;
    assert_eq!(found.unwrap(), ["1001"]);
    let context = datafusion::prelude::SessionContext::new();
    let options = datafusion::prelude::ParquetReadOptions::default();
    context.register_parquet("late", place.text("late/operator=0"), options).await.unwrap();
    let frame = context.sql("SELECT count(*), sum(id) FROM late").await.unwrap();
    let found = frame.collect().await.unwrap();
    let numbers: Vec<i64> =
        found[0].columns().iter().map(|column| column.as_primitive::<Int64Type>().value(0)).collect();
    assert_eq!(numbers, [ROWS - 1001, (1000..ROWS - 1).sum()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_disk_without_room_for_rows_of_a_batch_is_named() {
    let place = Place::new();
    file(&place, "0", 0..ROWS, |_| 0);
    let sql = "SELECT k, count(*) AS n FROM events GROUP BY k";
    let error = run(&place, (sql, OutputMode::Update, 100_000), &[], "SELECT 1").await.unwrap_err();
    assert!(error.contains("max_temp_directory_size") || error.contains("temp"), "{error}");
}
