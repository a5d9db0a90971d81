//! The integration tests, in one binary: each links DataFusion, and that is what costs time.

mod sinks;
mod sql_grammar;
mod checkpoint_files;
mod storage_contract;
mod support;
