//! Structured Streaming on Apache DataFusion.
//!
//! Describe a query once, as if an endless input were one table; Tidemill runs it incrementally,
//! exactly once, through any crash.
//!
//! ```no_run
//! # async fn example() -> tidemill::Result<()> {
//! use std::time::Duration;
//! use tidemill::prelude::*;
//!
//! let session = Session::new();
//! let bids = session
//!     .read_stream()
//!     .format("json")
//!     .option("maxFilesPerTrigger", 4)
//!     .load("data/bids")
//!     .await?; // a DataFusion DataFrame
//! let query = bids
//!     .filter(col("price").gt(lit(1000)))?
//!     .write_stream()
//!     .format("parquet")
//!     .trigger(Trigger::ProcessingTime(Duration::from_secs(2)))
//!     .option("checkpointLocation", "checkpoint/etl")
//!     .query_name("etl")
//!     .start("out/etl")
//!     .await?;
//! query.await_termination().await?;
//! # Ok(())
//! # }
//! ```
//!
//! The layers, each importing only from those before it: `error`, `clock`, `id`, `options`,
//! [`storage`], [`checkpoint`], `types`, `memory`, `text`, [`state`], [`source`], [`sink`], `postgres`, [`functions`], `exec`,
//! `plan`, `query`, `session`, [`sql`].
//! `docs/architecture.md` says what each is for.
#![warn(missing_docs)]

#[cfg(feature = "avro")]
mod avro;
pub mod checkpoint;
pub mod clock;
pub mod conformance;
pub mod error;
mod exec;
pub mod functions;
pub mod id;
mod memory;
mod options;
mod plan;
#[cfg(feature = "postgres")]
pub mod postgres;
mod protobuf;
mod query;
mod session;
pub mod sink;
pub mod source;
pub mod sql;
pub mod state;
pub mod storage;
mod text;
mod types;

/// Stateful logic of a program's own: [`transform_with_state`](UserState::transform_with_state) and its kin.
pub mod processor {
    pub use crate::exec::processor::{
        AnyRows, Call, GroupState, KeyedState, ListState, MapState, ProcessorTester, Rows, RowsState,
        StateSnapshot, StateVariables, StatefulProcessor, TimeMode, Timestamp, ValueState,
    };
}

/// What the traits of sources and sinks are written with.
pub use async_trait::async_trait;
/// Arrow, in the version that DataFusion has.
pub use datafusion::arrow;
pub use {datafusion, serde_json, uuid};

pub use error::{Error, Result, StreamingQueryException};
pub use options::{Options, is_secret, mask_secrets, nearest, parse_bytes, parse_duration};
pub use plan::{StreamTable, ValueOptions, is_unbounded, unbounded_tables};
#[cfg(feature = "metrics")]
pub use query::MetricsListener;
pub use query::{
    LeftOut, ListenerId, OperatorMetrics, QueryIdle, QueryStarted, QueryTerminated, RunTotals, SinkProgress,
    SourceProgress, StopMode, StoredState, StreamingQuery, StreamingQueryListener, StreamingQueryManager,
    StreamingQueryProgress, StreamingQueryStatus, Trigger,
};
pub use session::{
    DataStreamReader, DataStreamWriter, Environment, EventTime, IntoDelay, IntoPath, Observe, ReadStream,
    Session, SinkFactory, SinkRequest, SourceFactory, SourceRequest, UserState, WriteStream, guess_format,
};
pub use sink::OutputMode;
pub use text::visible;
pub use types::sql_type_name;

/// What a program that streams needs: Tidemill's verbs and DataFusion's prelude.
pub mod prelude {
    pub use datafusion::arrow::record_batch::RecordBatch;
    pub use datafusion::prelude::*;

    pub use crate::functions::{
        session_window, session_window_by, sliding_window, sliding_window_from, window, window_time,
    };
    pub use crate::processor::{StatefulProcessor, TimeMode};
    pub use crate::{
        EventTime, Observe, OutputMode, ReadStream, Session, StopMode, StreamingQuery, Trigger, UserState,
        WriteStream,
    };
}
