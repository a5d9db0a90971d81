//! Apache Kafka for Tidemill: topics as unbounded tables, and as the target of streaming queries, exactly once.
//!
//! ```no_run
//! # async fn example() -> tidemill::Result<()> {
//! use tidemill::prelude::*;
//!
//! let session = Session::new();
//! tidemill_kafka::register(&session);
//! session
//!     .sql(
//!         "CREATE UNBOUNDED EXTERNAL TABLE clicks (page VARCHAR, at TIMESTAMP) STORED AS KAFKA OPTIONS (
//!              'kafka.bootstrap.servers' 'localhost:9092', 'subscribe' 'clicks', 'value.format' 'json')",
//!     )
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! `docs/kafka.md` says what the options are and what is promised. The `tidemill` command has the same code as a
//! module (feature `kafka`), which is why paths in it begin with `super`.
#![warn(missing_docs)]

mod admission;
mod client;
mod columns;
mod control;
mod formats;
mod identity;
mod lane;
mod offsets;
mod options;
mod queue;
mod registry;
mod scan;
mod sink;
mod source;
mod table;
mod topic_ids;

use std::sync::Arc;

use tidemill::Session;

pub use sink::KafkaSinkFactory;
pub use table::KafkaSourceFactory;

/// What the format is called.
const FORMAT: &str = "kafka";

/// Makes `kafka` a format of the session: `format("kafka")` and `STORED AS KAFKA`, to read from and to write to.
pub fn register(session: &Session) {
    session.register_source(FORMAT, Arc::new(table::KafkaSourceFactory));
    session.register_sink(FORMAT, Arc::new(sink::KafkaSinkFactory));
}
