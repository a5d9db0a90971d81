//! How much a batch may read where nothing else limits it.

use crate::exec::report::TaskReport;
use crate::exec::room::Space;

/// A number of bytes that adapts to what batches cost: as many that their rows seldom have to wait on the disk,
/// and few enough that they fit into memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InputLimit {
    bytes: u64,
    least: u64,
    most: u64,
}

impl InputLimit {
    /// Begins with `bytes`.
    pub(crate) fn new(bytes: u64) -> Self {
        Self { bytes, least: (bytes / 64).max(1), most: bytes.saturating_mul(4) }
    }

    /// How many bytes the next batch may read.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Learns from a batch.
    pub(crate) fn learn(&mut self, report: &TaskReport, space: &Space) {
        if report.lacked_room {
            self.bytes = (self.bytes / 2).max(self.least);
        } else if report.exchanged > 0 && space.is_roomy_for(report.exchanged) {
            self.bytes = self.bytes.saturating_mul(2).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;

    use super::*;

    #[test]
    fn batches_shrink_until_their_rows_have_room_and_grow_while_there_is_much() {
        let runtime = RuntimeEnvBuilder::new().with_memory_limit(24 << 20, 1.0).build().unwrap();
        // Of 3 MiB for rows, a third is for an exchange.
        let space = Space::of(&runtime);
        let mut limit = InputLimit::new(1000);
        let report = |exchanged, lacked_room| TaskReport { exchanged, lacked_room, ..TaskReport::default() };
        let mut after = |exchanged, lacked_room| {
            limit.learn(&report(exchanged, lacked_room), &space);
            limit.bytes()
        };
        assert_eq!([after(4 << 20, true), after(1 << 20, false), after(1 << 10, false)], [500, 500, 1000]);
        assert_eq!([after(1, false), after(1, false), after(0, false)], [2000, 4000, 4000]);
        assert_eq!(after(1, false), 4000);
        assert_eq!((0..20).map(|_| after(1 << 30, true)).last(), Some(15));
    }
}
