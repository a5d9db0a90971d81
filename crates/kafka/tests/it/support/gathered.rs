//! What a query that runs has given so far.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidemill::prelude::*;

use super::texts;

const PATIENCE: Duration = Duration::from_secs(60);

/// The rows by batch: a batch that is run again takes the place of the one before.
#[derive(Debug, Clone, Default)]
pub struct Gathered(Arc<Mutex<BTreeMap<u64, Vec<String>>>>);

impl Gathered {
    /// A query that gives its rows here.
    pub async fn start(&self, frame: DataFrame, checkpoint: &Path) -> StreamingQuery {
        let into = Arc::clone(&self.0);
        let query = frame.write_stream().foreach_batch(move |rows, batch| {
            let into = Arc::clone(&into);
            async move {
                let rows = texts(&rows.collect().await?);
                into.lock().unwrap().insert(batch, rows);
                Ok(())
            }
        });
        query.option("checkpointLocation", checkpoint.display()).start(None).await.unwrap()
    }

    /// All rows, in the order of batches.
    pub fn rows(&self) -> Vec<String> {
        self.0.lock().unwrap().values().flatten().cloned().collect()
    }

    /// How many rows each batch has that has any.
    pub fn sizes(&self) -> Vec<usize> {
        self.0.lock().unwrap().values().map(Vec::len).filter(|rows| *rows > 0).collect()
    }

    /// Waits until there are so many rows.
    pub async fn wait_for(&self, query: &StreamingQuery, rows: usize) {
        let began = Instant::now();
        while self.rows().len() < rows {
            let found = self.rows();
            assert!(query.exception().is_none(), "{:?}", query.exception());
            assert!(began.elapsed() < PATIENCE, "{rows} rows do not come: {found:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
