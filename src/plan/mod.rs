//! From a DataFusion plan over unbounded tables to one that runs batch by batch.
//!
//! A user's plan is checked ([`check`]), bound to the run's sources ([`bind`]), optimised once and
//! planned physically once; see [`StreamingPlan`].

mod as_of;
mod barrier;
mod batch_rule;
pub(crate) mod batch_time;
pub(crate) mod bind;
mod bounded;
pub(crate) mod check;
mod corrections;
pub(crate) mod deduplicate;
mod definitions;
mod distinct_on;
mod distinct_sets;
pub(crate) mod event_time;
mod group_key;
mod lateral;
mod meaning;
mod misplaced;
pub(crate) mod over;
mod prepared;
mod result_keys;
mod result_schema;
mod scalar_subqueries;
pub(crate) mod session_state;
mod sessions;
mod set_operations;
mod snapshot;
mod stateful;
mod static_joins;
mod static_refresh;
mod static_tables;
mod static_version;
mod statistics;
mod stream_table;
mod subqueries;
mod time_zones;
pub(crate) mod top_n;
pub(crate) mod transform;
mod union_times;
mod values;
pub(crate) mod watermark;
mod window_calls;
pub(crate) mod windows;

pub(crate) use as_of::{AsOf, with_as_of_joins};
pub(crate) use batch_rule::BatchEventTime;
pub(crate) use corrections::Corrections;
pub(crate) use deduplicate::Deduplicate;
pub(crate) use lateral::with_lateral_unnest;
pub(crate) use meaning::with_meanings;
pub(crate) use misplaced::without_misplaced;
pub(crate) use prepared::{ResultShape, StreamingPlan};
pub(crate) use result_keys::result_keys;
pub(crate) use result_schema::result_schema;
pub(crate) use set_operations::SetOperations;
pub(crate) use snapshot::SnapshotTable;
pub(crate) use statistics::AggregatesOfStatistics;
pub use stream_table::{StreamTable, is_unbounded, unbounded_tables};
pub(crate) use subqueries::Subqueries;
pub(crate) use time_zones::{DEFAULT_ZONE, TimeZones};
pub(crate) use transform::{Transform, TransformRequest};
pub use values::ValueOptions;
pub(crate) use values::{of_view, with_values};
pub(crate) use watermark::Watermark;
pub(crate) use windows::{with_cumulative_window_columns, with_window_columns};
