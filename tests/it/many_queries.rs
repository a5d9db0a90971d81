//! Many queries in one process: each gets on, whatever becomes of the others.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidemill::arrow::array::{AsArray, Int64Array};
use tidemill::arrow::datatypes::Int64Type;
use tidemill::prelude::*;
use tidemill::source::memory::MemoryStream;
use tidemill::{Error, StreamTable};

use crate::support::harness::eventually;

const QUERIES: i64 = 100;
const ROUNDS: i64 = 10;

fn row(id: i64) -> RecordBatch {
    RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(vec![id])) as _)]).unwrap()
}

/// A stream, and a query that adds up its ids after `then` has been waited for.
async fn sum<F: Future<Output = Result<(), Error>> + Send + 'static>(
    session: &Session,
    then: impl Fn() -> F + Send + Sync + 'static,
) -> (MemoryStream, Arc<Mutex<Vec<i64>>>, StreamingQuery) {
    let stream = MemoryStream::new(row(0).schema());
    let table = Arc::new(StreamTable::new(Arc::new(stream.clone())));
    let seen = Arc::<Mutex<Vec<i64>>>::default();
    let see = Arc::clone(&seen);
    let then = Arc::new(then);
    let query = session
        .context()
        .read_table(table)
        .unwrap()
        .write_stream()
        .foreach_batch(move |rows, _| {
            let (see, then) = (Arc::clone(&see), Arc::clone(&then));
            async move {
                then().await?;
                for rows in rows.collect().await? {
                    let ids = rows.column(0).as_primitive::<Int64Type>().values().to_vec();
                    see.lock().unwrap().extend(ids);
                }
                Ok(())
            }
        })
        .start(None)
        .await
        .unwrap();
    (stream, seen, query)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_get_on_beside_others_that_are_stuck_slow_or_fail() {
    let session = Session::new();
    let calls = Arc::new(AtomicU64::new(0));
    let (stuck, _, stuck_query) = sum(&session, std::future::pending).await;
    let (slow, slow_seen, slow_query) = sum(&session, || async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(())
    })
    .await;
    let counted = Arc::clone(&calls);
    let (failing, _, failing_query) = sum(&session, move || {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Err(Error::Invalid("no".into())))
    })
    .await;
    let mut healthy = Vec::new();
    for _ in 0..QUERIES {
        healthy.push(sum(&session, || std::future::ready(Ok(()))).await);
    }
    for stream in [&stuck, &slow, &failing] {
        stream.add_data(row(0)).unwrap();
    }
    for round in 0..ROUNDS {
        for (stream, ..) in &healthy {
            stream.add_data(row(round)).unwrap();
        }
        // Nobody is left behind: each has the rows of this round before any gets those of the next.
        eventually(|| healthy.iter().all(|(_, seen, _)| seen.lock().unwrap().len() as i64 == round + 1))
            .await;
    }
    for (_, seen, query) in &healthy {
        assert_eq!(*seen.lock().unwrap(), (0..ROUNDS).collect::<Vec<_>>());
        assert!(query.is_active());
    }
    slow_query.process_all_available().await.unwrap();
    assert_eq!(*slow_seen.lock().unwrap(), [0]);
    eventually(|| !failing_query.is_active()).await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert!(failing_query.exception().is_some() && stuck_query.is_active());
    assert_eq!(session.streams().active().len() as i64, QUERIES + 2);
    // Also the stuck one ends, when it is told to give its batch up.
    for query in session.streams().active() {
        query.stop(StopMode::Abandon).await.unwrap();
    }
}
