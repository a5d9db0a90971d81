//! Tables of PostgreSQL (feature `postgres`): results written to them exactly once, and tables to join streams with.
//!
//! In SQL `STORED AS POSTGRES`, in programs `format("postgres")`; `docs/postgres.md` has all of it.

mod catalog;
mod decode;
mod encode;
mod filter;
mod server;
mod sink;
mod snapshot;
mod table;
mod target;
mod tls;
mod transfer;
mod types;

pub use sink::PostgresSink;
pub use table::PostgresTable;

/// The format's name.
pub(crate) const FORMAT: &str = "postgres";
/// What a table of PostgreSQL is described by, to write to it and to read it.
const OPTIONS: &[&str] = &["url", "table", "createTable", "retryTimeout"];
