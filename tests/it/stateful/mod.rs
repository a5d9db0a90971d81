//! Queries that remember, checked after every batch by an interpreter that shares nothing with the
//! engine: it keeps all rows, one at a time, and computes every result anew.
//!
//! `STATEFUL_QUERY` chooses queries by a part of their SQL, `STATEFUL_ROUNDS` runs each with so many
//! histories, `STATEFUL_CRASH_EVERY=1` lets every storage call go wrong in every way.

pub mod check;
mod collisions;
mod facts;
pub mod interpreter;
pub mod model;
pub mod queries;
pub mod rig;
pub mod run;
pub mod values;
pub mod wide;
