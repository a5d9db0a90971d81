use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, Int64Array, TimestampMicrosecondArray};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::datasource::MemTable;
use std::sync::Arc;
use std::time::Instant;
use tidemill::prelude::*;
use tidemill::source::SourceProvider;
use tidemill::source::memory::MemoryStream;
use tidemill::{SourceFactory, SourceRequest};
struct FeedFactory(MemoryStream);
#[async_trait]
impl SourceFactory for FeedFactory {
    async fn create(&self, _: SourceRequest) -> tidemill::Result<Arc<dyn SourceProvider>> {
        Ok(Arc::new(self.0.clone()))
    }
}
fn rng(x: &mut u64) -> u64 {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    *x
}
fn batches(rows: usize, start: usize, keys: u64, seed: u64) -> Vec<RecordBatch> {
    let mut x = seed;
    (0..rows / 8192)
        .map(|b| {
            let n = 8192;
            let k: Int64Array = (0..n).map(|_| (rng(&mut x) % keys) as i64).collect();
            let v: Int64Array = (0..n).map(|_| (rng(&mut x) % 1000) as i64).collect();
            let ts = TimestampMicrosecondArray::from_iter_values(
                (0..n).map(|i| ((start + b * n + i) as i64) * 10 + 1_000_000_000_000),
            );
            RecordBatch::try_from_iter(vec![
                ("k", Arc::new(k) as ArrayRef),
                ("v", Arc::new(v)),
                ("ts", Arc::new(ts)),
            ])
            .unwrap()
        })
        .collect()
}
async fn run(name: &str, sql: &str, mode: OutputMode, keys: u64, triggers: usize, rows: usize) {
    let per = rows / triggers;
    let data: Vec<Vec<RecordBatch>> =
        (0..triggers).map(|t| batches(per, t * per, keys, 88172645463325252 + t as u64)).collect();
    // batch
    let context = SessionContext::new();
    let all: Vec<RecordBatch> = data.iter().flatten().cloned().collect();
    let half = all.len() / 2;
    let table = MemTable::try_new(all[0].schema(), vec![all[..half].to_vec(), all[half..].to_vec()]).unwrap();
    context.register_table("s", Arc::new(table)).unwrap();
    let session_batch = Session::from(context);
    let started = Instant::now();
    let n: usize = session_batch
        .context()
        .sql(sql)
        .await
        .unwrap()
        .collect()
        .await
        .unwrap()
        .iter()
        .map(|b| b.num_rows())
        .sum();
    let batch = started.elapsed();
    let session = Session::new();
    let stream = MemoryStream::new(data[0][0].schema());
    session.register_source("feed", Arc::new(FeedFactory(stream.clone())));
    let table = session
        .read_stream()
        .format("feed")
        .load(None)
        .await
        .unwrap()
        .with_watermark("ts", "1 second")
        .unwrap();
    session.context().register_table("s", table.into_view()).unwrap();
    let query = session
        .context()
        .sql(sql)
        .await
        .unwrap()
        .write_stream()
        .format("noop")
        .output_mode(mode)
        .start(None)
        .await
        .unwrap();
    let mut times = vec![];
    for batches in data {
        let started = Instant::now();
        let one = datafusion::arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap();
        let _ = one;
        let started2 = Instant::now();
        let _ = started;
        for b in batches {
            let _ = b.num_rows();
            stream.add_data(b).unwrap();
        }
        query.process_all_available().await.unwrap();
        times.push(started2.elapsed());
    }
    let total: std::time::Duration = times.iter().sum();
    println!(
        "{name}: batch {batch:?} ({n} rows), stream {total:?} = {:.2}x, {:.2} M rows/s; first {:?} last {:?}",
        total.as_secs_f64() / batch.as_secs_f64(),
        rows as f64 / total.as_secs_f64() / 1e6,
        times[0],
        times[times.len() - 1]
    );
    println!("{}", query.last_progress().unwrap().to_json());
    query.stop(StopMode::Finish).await.unwrap();
}
#[tokio::main]
async fn main() {
    let only = std::env::args().nth(1).unwrap_or_default();
    for (name, sql, mode, keys, triggers, rows) in [
        (
            "tumble",
            "SELECT window(ts, '10 seconds') AS w, max(v) AS m FROM s GROUP BY 1",
            OutputMode::Append,
            1000,
            8,
            1 << 23,
        ),
        (
            "tumble_bin",
            "SELECT date_bin(INTERVAL '10 seconds', ts) AS w, max(v) AS m FROM s GROUP BY 1",
            OutputMode::Append,
            1000,
            8,
            1 << 23,
        ),
        (
            "hop",
            "SELECT window(ts, '10 seconds', '2 seconds') AS w, k, count(*) AS m FROM s GROUP BY 1, 2",
            OutputMode::Append,
            1000,
            8,
            1 << 23,
        ),
        (
            "keyed",
            "SELECT k, count(*), sum(v), avg(v), max(v) FROM s GROUP BY k",
            OutputMode::Update,
            6_000_000,
            32,
            1 << 23,
        ),
        ("dedup", "SELECT DISTINCT k FROM s", OutputMode::Append, 6_000_000, 32, 1 << 23),
        (
            "hot",
            "SELECT k, count(*), sum(v), avg(v), max(v) FROM s GROUP BY k",
            OutputMode::Update,
            1000,
            8,
            1 << 23,
        ),
    ] {
        if only.is_empty() || only == name {
            run(name, sql, mode, keys, triggers, rows).await;
        }
    }
}
