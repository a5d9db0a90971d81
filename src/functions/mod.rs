//! Functions that plans are rewritten to, those of event time, in SQL and as expressions, and those that
//! stand in the place of DataFusion's.

mod aggregates;
mod canonical;
mod checked;
mod checked_tree;
mod conditions;
mod date_bin;
mod date_part;
mod date_trunc;
mod ddl;
mod decimal_division;
mod field_names;
mod fields;
mod final_at;
mod finality;
mod from_json;
mod from_messages;
mod inner;
mod internal;
mod interval_factors;
mod json;
mod lengths;
mod local_date;
mod named_call;
mod named_cast;
mod on_arrays;
mod reach;
mod required;
mod session_window;
mod units;
mod window;
mod windows;
mod written;

pub use session_window::{session_window, session_window_by};
pub use window::{sliding_window, sliding_window_from, window, window_time};

pub(crate) use aggregates::{moving, replacement};
pub(crate) use canonical::{canonical, has_floats, ordered, ordered_values};
pub(crate) use checked::{checked_binary, checked_negation};
pub(crate) use checked_tree::checked_tree;
pub(crate) use conditions::{ALL_CONDITIONS, ANY_CONDITION};
pub(crate) use date_bin::{NANOS_PER_DAY, interval};
pub(crate) use date_part::part_of_any_time;
pub(crate) use decimal_division::decimal_division;
pub(crate) use field_names::FieldNames;
pub(crate) use fields::{null_fields, null_safe_field};
pub(crate) use final_at::final_at;
pub(crate) use finality::{Finality, Span, TAG, WINDOW_END, WINDOW_START, is_session, tag_of};
pub(crate) use from_messages::message_functions;
pub(crate) use internal::{
    definition_by, definition_of, described, described_value, starts_of, tagged, totals_of, window_of,
    window_start, window_starts, windows_by_of, with_totals,
};
pub(crate) use interval_factors::IntervalFactors;
pub(crate) use json::{JsonOperators, json_functions};
pub(crate) use local_date::local_date;
pub(crate) use named_call::named_call;
pub(crate) use named_cast::{named_cast, unnamed_cast};
pub(crate) use reach::{reached, within_reach};
pub(crate) use required::required;
pub(crate) use units::{unit_micros, unit_nanos};
pub(crate) use window::{
    TIME_WINDOW, WindowCall, all_functions, is_event_time_function, literal, session_call, windows_of_exprs,
};
pub(crate) use windows::{WINDOWS, Windows};
