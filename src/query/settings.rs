//! Settings of state and event time: those of the run, and those that the first batch pinned.

use std::collections::BTreeMap;

use datafusion::execution::session_state::SessionState;
use url::Url;

use super::watermark::{WatermarkPolicy, WatermarkTracker};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::plan::{ResultShape, StreamingPlan};
use crate::sink::OutputMode;

/// The setting that decides what timestamps mean without a zone of their own.
const TIME_ZONE: &str = "datafusion.execution.time_zone";
const WATERMARK_POLICY: &str = "multipleWatermarkPolicy";
const STATE_PARTITIONS: &str = "statePartitions";
/// Also recorded with the batch that ends a run, for which it makes everything final.
pub(crate) const FLUSH_ON_END: &str = "flushOnEnd";

/// What a user may say about state and event time.
#[derive(Debug, Clone, Default)]
pub(crate) struct StateSettings {
    /// How many partitions the state of an operator has; as many as the session has by default.
    pub(crate) partitions: Option<usize>,
    /// How many bytes of memory all state may use; half of the session's memory by default, if that has a limit.
    pub(crate) memory_limit: Option<usize>,
    /// Which of several watermarks counts.
    pub(crate) policy: Option<WatermarkPolicy>,
    /// After how long without rows a stream no longer holds the watermark back; never by default.
    pub(crate) idle_after_ms: Option<i64>,
    /// Whether the end of an available-now run makes everything final.
    pub(crate) flush_on_end: bool,
    /// How long after their event time rows are remembered that nothing else lets be forgotten, in microseconds;
    /// for ever by default.
    pub(crate) ttl_micros: Option<i64>,
}

impl StateSettings {
    /// Takes the options that are about state and event time.
    pub(crate) fn take(options: &mut Options) -> Result<Self> {
        let partitions = options.positive(STATE_PARTITIONS)?;
        options.take(STATE_PARTITIONS);
        let memory_limit = options.bytes("stateMemoryLimit")?;
        options.take("stateMemoryLimit");
        let idle_after = options.duration("watermarkIdleTimeout")?;
        options.take("watermarkIdleTimeout");
        let flush_on_end = options.flag(FLUSH_ON_END, false)?;
        options.take(FLUSH_ON_END);
        let ttl = options.duration("stateTtl")?;
        options.take("stateTtl");
        Ok(Self {
            partitions: partitions.map(|number| usize::try_from(number).unwrap_or(usize::MAX).min(4096)),
            memory_limit: memory_limit.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            policy: options.take(WATERMARK_POLICY).map(|text| text.parse()).transpose()?,
            idle_after_ms: idle_after.map(|duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)),
            flush_on_end,
            ttl_micros: ttl.map(|duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)),
        })
    }

    /// What the plan depends on.
    pub(crate) fn shape(&self, mode: OutputMode, state: &SessionState) -> ResultShape {
        let state_partitions = self.partitions.unwrap_or_else(|| state.config().target_partitions()).max(1);
        ResultShape { mode, state_partitions, state_ttl: self.ttl_micros }
    }

    /// The settings to record with every batch: what the first batch `pinned`, or if there was none,
    /// those of this run.
    ///
    /// The time zone is part of the plan already, in the types of its columns and in its functions, so
    /// a session with another one cannot go on. The number of state partitions is recorded for people
    /// only: every run may have its own.
    pub(crate) fn pin(
        &self,
        state: &SessionState,
        shape: ResultShape,
        pinned: Option<&BTreeMap<String, String>>,
        checkpoint: &Url,
    ) -> Result<BTreeMap<String, String>> {
        let time_zone = state.config_options().execution.time_zone.clone().unwrap_or_default();
        let recorded = |name: &str| pinned.and_then(|pinned| pinned.get(name));
        let mut differences = Vec::new();
        if let Some(old) = recorded(TIME_ZONE).filter(|old| **old != time_zone) {
            differences.push(format!("setting '{TIME_ZONE}' was '{old}' and is '{time_zone}'"));
        }
        let old_policy = recorded(WATERMARK_POLICY).map(|text| text.parse()).transpose()?;
        let policy = match (old_policy, self.policy) {
            (Some(old), Some(new)) if old != new => {
                differences.push(format!("option '{WATERMARK_POLICY}' was '{old}' and is '{new}'"));
                new
            }
            (old, new) => old.or(new).unwrap_or_default(),
        };
        if !differences.is_empty() {
            return Err(Error::QueryChanged { checkpoint: checkpoint.to_string(), differences });
        }
        Ok([
            (TIME_ZONE.to_string(), time_zone),
            (WATERMARK_POLICY.to_string(), policy.to_string()),
            (STATE_PARTITIONS.to_string(), shape.state_partitions.to_string()),
        ]
        .into())
    }

    /// The watermarks of `plan`, before its first batch.
    pub(crate) fn tracker(
        &self,
        conf: &BTreeMap<String, String>,
        plan: &StreamingPlan,
    ) -> Result<WatermarkTracker> {
        let policy = conf.get(WATERMARK_POLICY).map(|text| text.parse()).transpose()?.unwrap_or_default();
        let delays =
            plan.watermarks().iter().map(|watermark| (watermark.column.as_str(), watermark.delay_ms));
        Ok(WatermarkTracker::new(policy, self.idle_after_ms, delays))
    }
}
