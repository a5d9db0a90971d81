//! State: tables against the simplest table there can be, and their files.

mod spilling;
mod store;
