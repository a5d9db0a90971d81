//! Stateful logic of a program's own.
//!
//! A program implements [`StatefulProcessor`], or gives a function; [`work`] is the operator that calls it. Rows are
//! columns on the way in and out; `cell` and `given` let serde read and write them. `tester` runs a
//! processor without a query.

mod cell;
pub(crate) mod encoding;
mod given;
mod group_state;
mod keyed_state;
mod rows;
mod shape;
mod stateful_processor;
mod tester;
mod timestamp;
mod variables;
mod work;

pub use group_state::GroupState;
pub use keyed_state::{KeyedState, TimeMode};
pub use rows::{AnyRows, Rows};
pub use stateful_processor::{Call, StatefulProcessor};
pub use tester::{ProcessorTester, StateSnapshot};
pub use timestamp::Timestamp;
pub use variables::{ListState, MapState, RowsState, StateVariables, ValueState};

pub(crate) use group_state::GroupFunction;
pub(crate) use keyed_state::SmallRow;
pub(crate) use stateful_processor::{AnyProcessor, Typed};
pub(crate) use variables::{LIST, MAP, ROWS, VALUE, variable_number};
pub(crate) use work::{StatefulTransform, TRANSFORM};
