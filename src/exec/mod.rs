//! The operators that Tidemill adds to DataFusion's, and running a plan for one batch.
//!
//! A plan is a chain of [`stages`]; a batch [`run`]s them, each to its end.

pub(crate) mod aggregate;
pub(crate) mod batch;
pub(crate) mod codec;
pub(crate) mod deduplicate;
mod disk_rows;
mod driven;
pub(crate) mod event_time;
mod exchange;
pub(crate) mod first_batch;
pub(crate) mod groups;
pub(crate) mod join;
pub(crate) mod keyed_rows;
pub(crate) mod late;
pub(crate) mod limit;
mod measure;
pub(crate) mod measured;
pub(crate) mod node;
pub(crate) mod observe;
mod observed;
pub(crate) mod operator;
pub(crate) mod over;
pub(crate) mod processor;
pub(crate) mod report;
pub(crate) mod room;
pub(crate) mod row_buffer;
pub(crate) mod run;
pub(crate) mod scan;
pub(crate) mod sessions;
pub(crate) mod sort_column;
pub(crate) mod stages;
pub(crate) mod stateful;
pub(crate) mod static_scan;
mod task;
mod time_shifts;
pub(crate) mod top_n;
pub(crate) mod watermark;
pub(crate) mod watermark_groups;
pub(crate) mod workers;
