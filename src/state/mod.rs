//! State: what stateful operators remember between batches.
//!
//! Every operator has one *table* per state partition: rows of encoded bytes, found by key. A key
//! has one row, or, where *subkeys* are used, any number of them. A row may have an *expiry*, in
//! microseconds of event or processing time, whatever the operator counts in; rows with an expiry
//! can be taken out by it without looking at the others.
//!
//! An aggregation keeps a row of partial aggregates per group, or the parts of long lists under subkeys;
//! deduplication keeps a row without a value per key.
//!
//! Which partition a key belongs to follows from [`partition_of`], and is recorded nowhere: a
//! checkpoint holds the rows of an operator, whatever the number of partitions was.

mod arena;
mod block;
mod budget;
mod bytes;
mod change_log;
mod changing_table;
mod expiries;
mod hash;
mod index;
mod manifest;
mod map_table;
mod memory_table;
mod merge;
mod moved;
mod operator_rows;
mod pace;
mod read;
mod restore;
mod segment;
mod segment_file;
mod segment_writer;
mod spill;
mod store;
mod table;

pub use budget::SharedMemory;
pub use bytes::{ByteRows, RowBytes};
pub use hash::{hash_key, partition_of};
pub use manifest::{Manifest, OperatorState, Segment};
pub use map_table::MapTable;
pub use memory_table::MemoryTable;
pub use read::{StateRows, read_state};
pub use spill::SpillTable;
pub use store::{StateOptions, StateStore, StateUsage, TableGuard};
pub use table::{Found, NEVER, StateTable, Visit, VisitKeys};
