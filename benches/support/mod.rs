//! What the benchmarks share.

pub mod data;
pub mod feed;
pub mod metered;
pub mod process;
pub mod report;
pub mod stateful;
pub mod statistics;
pub mod stream;
mod workspace;

pub use workspace::Workspace;

/// Whatever goes wrong ends the run with its message.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
