//! How fast files are merged beside batches.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// Merging rests so many times as long as it works while nobody waits for it.
const REST: u32 = 3;
/// A step takes no longer rest than this, whatever the machine was busy with meanwhile.
const LONGEST_REST: Duration = Duration::from_millis(500);

/// Lets merging leave the processor to the batches, and yet keep up with them.
#[derive(Debug, Default)]
pub(super) struct Pace {
    end: CancellationToken,
    /// Files that batches added since the merge that is under way began.
    added: AtomicU64,
}

impl Pace {
    /// From now on there are no more batches.
    pub(super) fn end(&self) {
        self.end.cancel();
    }

    /// Whether there are no more batches.
    pub(super) fn has_ended(&self) -> bool {
        self.end.is_cancelled()
    }

    /// A merge begins.
    pub(super) fn begin(&self) {
        self.added.store(0, Ordering::Relaxed);
    }

    /// A batch added a file.
    pub(super) fn file_added(&self) {
        self.added.fetch_add(1, Ordering::Relaxed);
    }

    /// A step begins.
    pub(super) fn start(&self) -> Instant {
        Instant::now()
    }

    /// Rests after a step, the less the more files are waiting already.
    pub(super) async fn give_way(&self, step: Instant) {
        let rest =
            REST.saturating_sub(u32::try_from(self.added.load(Ordering::Relaxed) / 8).unwrap_or(u32::MAX));
        if rest == 0 || self.has_ended() {
            return;
        }
        let rest = (step.elapsed() * rest).min(LONGEST_REST);
        let _ = tokio::time::timeout(rest, self.end.cancelled()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn merging_rests_until_it_must_not() {
        let pace = Pace::default();
        let step = Instant::now() - Duration::from_millis(20);
        pace.give_way(step).await;
        assert!(step.elapsed() >= Duration::from_millis(80));
        (0..8 * REST).for_each(|_| pace.file_added());
        let step = Instant::now() - Duration::from_secs(3600);
        pace.give_way(step).await;
        pace.begin();
        pace.end();
        pace.give_way(step).await;
        assert!(step.elapsed() < Duration::from_secs(3600) + LONGEST_REST);
    }
}
