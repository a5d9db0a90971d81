//! Streaming queries: the trigger loop, its handle and what it reports.

mod batch;
mod execution;
mod handle;
mod input_limit;
mod late_rows;
mod launch;
mod listener;
mod log;
mod manager;
#[cfg(feature = "metrics")]
mod metrics;
mod pinned;
mod places;
mod processor_state;
mod progress;
mod report;
mod request;
mod restart;
mod resume;
mod running;
mod settings;
mod start;
mod state_columns;
mod stored_state;
mod timers;
mod totals;
mod trigger;
mod watermark;
mod watermark_groups;

pub use crate::exec::measured::OperatorMetrics;
pub use handle::{StopMode, StreamingQuery};
pub(crate) use late_rows::{LateTarget, MakeLateSink};
pub use listener::{QueryIdle, QueryStarted, QueryTerminated, StreamingQueryListener};
pub use manager::{ListenerId, StreamingQueryManager};
#[cfg(feature = "metrics")]
pub use metrics::MetricsListener;
pub(crate) use pinned::{pinned_definition, pinned_tables};
pub use progress::{SinkProgress, SourceProgress, StreamingQueryProgress, StreamingQueryStatus};
pub(crate) use request::{MakeSink, NamedTables, QueryPlan, Replan, StartRequest};
pub(crate) use restart::RestartPolicy;
pub(crate) use running::IfRunning;
pub(crate) use settings::StateSettings;
pub(crate) use start::{explain, explain_restart, start};
pub use stored_state::StoredState;
pub use totals::{LeftOut, RunTotals};
pub use trigger::Trigger;
