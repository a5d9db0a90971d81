//! Tests with a real broker, which `tests/services/kafka` starts. Where it cannot, they say that they are skipped.

mod avro;
mod bad_records;
mod conformance;
mod formats;
mod kills;
mod lag;
mod limits;
mod messages;
mod recreated;
mod sink;
mod source;
mod support;
mod topics;
mod watermarks;
