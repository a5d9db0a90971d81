//! The clock of a test: it shows what the test says.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tidemill::async_trait;
use tidemill::clock::{Clock, SystemClock};

/// The time of day stands still until it is set. How long something takes is as on any clock, plus what
/// went by when the time was set forward.
#[derive(Debug)]
pub(super) struct TestClock {
    now_ms: AtomicI64,
    forward_ms: AtomicI64,
}

impl TestClock {
    pub(super) fn new(now_ms: i64) -> Self {
        Self { now_ms: AtomicI64::new(now_ms), forward_ms: AtomicI64::new(0) }
    }

    pub(super) fn set(&self, now_ms: i64) {
        let before = self.now_ms.swap(now_ms, Ordering::SeqCst);
        self.forward_ms.fetch_add(now_ms.saturating_sub(before).max(0), Ordering::SeqCst);
    }
}

#[async_trait]
impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn elapsed(&self) -> Duration {
        SystemClock.elapsed() + Duration::from_millis(self.forward_ms.load(Ordering::SeqCst).unsigned_abs())
    }

    async fn sleep(&self, duration: Duration) {
        SystemClock.sleep(duration).await;
    }
}
