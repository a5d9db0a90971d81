//! The integration tests, in one binary: each links DataFusion, and that is what costs time.

mod aggregation;
mod checkpoint_files;
mod cli;
mod crash_matrix;
mod disk_full;
mod event_time;
mod file_source;
mod generated_sources;
mod kill_loop;
mod layers;
mod plan_once;
mod power_loss;
mod prefix;
mod refused;
mod regressions;
mod restart;
mod sinks;
mod sql_execute;
mod sql_grammar;
mod storage_contract;
mod stream_static;
mod streams_api;
mod support;
mod syscall_order;
mod triggers;
mod two_writers;
