//! What every source and every sink has to keep, as a test to run on one's own.
//!
//! Exactly-once, restarts and the order of batches rest on what the traits of [`source`](crate::source) and
//! [`sink`](crate::sink) ask for. A program that implements one of them shows with [`check_source`] or
//! [`check_sink`] that it keeps that: the suite does what the engine does, stops at each place where a process may
//! die, goes on with a new object, and compares what there is to read. It ends with the first promise that is
//! broken, in words.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> tidemill::Result<()> {
//! use std::sync::Arc;
//! use tidemill::arrow::array::{Int64Array, RecordBatch};
//! use tidemill::arrow::datatypes::SchemaRef;
//! use tidemill::conformance::{SourceCase, check_source};
//! use tidemill::source::{SourceProvider, memory::MemoryStream};
//! use tidemill::{Result, async_trait};
//!
//! struct Memory(MemoryStream);
//!
//! #[async_trait]
//! impl SourceCase for Memory {
//!     async fn provider(&self) -> Result<Arc<dyn SourceProvider>> {
//!         Ok(Arc::new(self.0.clone()))
//!     }
//!
//!     async fn add(&self, first: i64, rows: usize) -> Result<()> {
//!         let ids = Int64Array::from_iter_values((first..).take(rows));
//!         self.0.add_data(RecordBatch::try_from_iter([("id", Arc::new(ids) as _)])?)?;
//!         Ok(())
//!     }
//! }
//!
//! let ids = Int64Array::from(Vec::<i64>::new());
//! let schema: SchemaRef = RecordBatch::try_from_iter([("id", Arc::new(ids) as _)])?.schema();
//! check_source(&Memory(MemoryStream::new(schema))).await
//! # }
//! ```

mod rows;
mod sink;
mod source;

pub use sink::{SinkCase, check_sink};
pub use source::{SourceCase, check_source};

use crate::error::{Error, Result};

/// Fails with `promise` unless `found` is `expected`.
fn expect<T: PartialEq + std::fmt::Debug>(promise: &str, expected: &T, found: &T) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Invalid(format!("{promise}: expected {expected:?}, found {found:?}")))
}
