//! The checkpoint: what a query has planned and done, so that any later start can go on from there.
//!
//! | file | says | written |
//! |---|---|---|
//! | `metadata` | who the query is | once, at the first start |
//! | `fence/<generation>` | which run owns the checkpoint | at every start |
//! | `offsets/<batch>` | what the batch reads | before it runs |
//! | `commits/<batch>` | the batch is done | after all its rows are durable |
//! | `history/<source>/<first>-<last>` | what a source must remember of many batches | in the background |
//!
//! Every file is created once, whole, with a checksum, and never changed ([`frame`]). A crash at any
//! point leaves a checkpoint from which [`Checkpoint::open`] finds out what to do; anything that a
//! crash cannot leave is refused by name. The bytes and the reasons are in
//! `docs/checkpoint-format.md`.
//!
//! This layer knows neither Arrow nor DataFusion.

mod copy;
pub(crate) mod definition;
mod fence;
pub mod frame;
mod history;
mod inspect;
mod layout;
mod location;
mod log;
mod maintain;
mod read;
pub mod records;
mod recovered;
mod recovery;
mod replan;
mod replay;
mod rewind;
pub mod types;
mod verify;

pub use copy::{Copied, back_up, copy, copying};
pub use inspect::{Batch, Inspection, Restart, inspect};
pub use location::{location_of, place_of, same_place};
pub use log::Checkpoint;
pub use maintain::Forget;
#[cfg(feature = "postgres")]
pub(crate) use read::{is_planned, origin};
pub use recovered::{Recovered, Recovery};
pub use recovery::Finding;
pub use replan::{BatchStatus, BatchSummary, batches, planned, replan};
pub use replay::stage_test;
pub(crate) use replay::{stage_replay, stage_source};
pub use rewind::{RemoveOutput, Rewinding, UndoneBatch, rewind, rewind_with, rewinding};
pub use verify::{Report, verify};
