//! The integration tests, in one binary: each links DataFusion, and that is what costs time.

mod file_source;
mod sinks;
mod support;
