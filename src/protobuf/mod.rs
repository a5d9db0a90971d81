//! Messages of Protobuf's, as far as reading and writing them share it.

mod description;
pub(crate) mod descriptor;
pub(crate) mod wire;

pub(crate) use description::{Description, MESSAGE};
