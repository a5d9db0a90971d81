//! A table that moves rows to the local disk when memory is short.
//!
//! New rows are in memory. When they take too much of it, all of them are written to the local disk
//! as a *run*, sorted by hash, with a Bloom filter and the first hash of each block in memory. A row
//! is looked for in memory first, then in the runs, newest first, and the first found counts. Runs
//! of similar size are merged beside the query. Rows that expire are in a run a second time, by
//! expiry: so taking them out reads them and no others.
//!
//! What a batch changed and is not in memory any more waits on the local disk as well, in the form in which
//! it goes into the checkpoint.
//!
//! The files are without name and gone when the process is: the truth is in the checkpoint.

mod bloom;
mod cover;
mod expire;
mod merge;
mod moving;
mod row;
mod run;
mod table;
mod writer;

pub use table::SpillTable;
