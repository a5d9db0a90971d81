//! The operators that Tidemill adds to DataFusion's, and running a plan for one batch.

pub(crate) mod epoch;
pub(crate) mod run;
pub(crate) mod scan;
pub(crate) mod sink;
