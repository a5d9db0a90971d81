//! What a value of a file becomes in a column of the table: itself, rounded, or an error.
//!
//! All formats share this, so that `4.9` is no `BIGINT` in any of them. What each kind of value becomes in
//! each type is a table in `docs/types.md`.

mod columns;
mod inferred;
mod number;
mod pattern;
mod rules;
mod scalar;
mod time;

pub(super) use self::columns::leaf;
pub(super) use self::inferred::Numbers;
pub(super) use self::pattern::Pattern;
pub(super) use self::rules::ValueRules;
pub(super) use self::scalar::{Leaf, Scalar, cannot_be_read};
pub(super) use self::time::in_unit;
pub(super) use crate::types::sql_type_name as type_name;
