//! The checkpoint: what a query has planned and done, so that any later start can go on from there.
//!
//! This layer knows neither Arrow nor DataFusion.

pub mod records;
