//! The operators that Tidemill adds to DataFusion's, and running a plan for one batch.

pub(crate) mod aggregate;
pub(crate) mod codec;
pub(crate) mod deduplicate;
pub(crate) mod epoch;
pub(crate) mod event_time;
pub(crate) mod exchange;
pub(crate) mod late;
pub(crate) mod limit;
pub(crate) mod operator;
pub(crate) mod run;
pub(crate) mod scan;
pub(crate) mod sink;
pub(crate) mod static_scan;
pub(crate) mod unary;
pub(crate) mod watermark;
