//! Functions of event time, in SQL and as expressions.

mod date_bin;
mod final_at;
mod finality;
mod internal;
mod json;
mod lengths;
mod on_arrays;
mod units;
mod window;
mod windows;

pub use window::{sliding_window, sliding_window_from, window, window_time};

pub(crate) use date_bin::{NANOS_PER_DAY, interval};
pub(crate) use final_at::final_at;
pub(crate) use finality::{Finality, Span, TAG, WINDOW_END, WINDOW_START, tag_of};
pub(crate) use internal::{tagged, window_of, window_start, window_starts};
pub(crate) use json::{JsonOperators, json_functions};
pub(crate) use units::{unit_micros, unit_nanos};
pub(crate) use window::{WindowCall, all_functions, is_event_time_function, literal, windows_of_exprs};
pub(crate) use windows::Windows;
