//! Parquet files whose sizes are looked over before they are believed.
//!
//! The `parquet` crate makes room for as many bytes, values, pages or columns as a file says that it has before it
//! looks at them, and more room than there is ends the process, which nothing can catch. And it does not notice
//! when pages hold other numbers of values than the footer says, so that rows of a damaged file get lost. What is
//! looked over here is only what a file says of itself: no value is decoded but for the two encodings that hide
//! lengths among their values.

mod decimals;
mod delta;
mod files;
mod floats;
mod footer;
mod format;
mod pages;
mod part;
mod part_planner;
mod scans;
mod texts;
mod thrift;
mod zones;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use datafusion::parquet::errors::ParquetError;

pub(super) use files::CheckedFiles;
pub(super) use format::CheckedFormat;
pub(crate) use format::ParquetFiles;
pub(super) use part_planner::PartPlanner;
pub(crate) use scans::CheckedScans;
pub(super) use scans::always_adapted;
pub(super) use texts::texts_of;

use super::panics;

type Result<T> = std::result::Result<T, ParquetError>;

/// Some of what is wrong with a file is found out by panicking.
fn contained<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
}

fn panicked(panic: &(dyn Any + Send)) -> ParquetError {
    ParquetError::General(panics::reason(panic))
}

/// The file is damaged in this way.
fn damaged(what: impl Into<String>) -> ParquetError {
    ParquetError::General(format!("it is damaged: {}", what.into()))
}
