//! The integration tests, in one binary: each links DataFusion, and that is what costs time.

mod checkpoint_files;
mod storage_contract;
mod support;
