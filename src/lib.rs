//! Structured Streaming on Apache DataFusion.
#![warn(missing_docs)]

pub mod checkpoint;
pub mod clock;
pub mod error;
pub mod id;
mod options;
pub mod sink;
pub mod source;
pub mod storage;

pub use error::{Error, Result, StreamingQueryException};
pub use options::{Options, nearest, parse_bytes, parse_duration};
pub use sink::OutputMode;
