//! Functions of event time, and what they know about when their results are final.

mod final_at;
mod finality;

pub(crate) use final_at::final_at;
pub(crate) use finality::{Finality, Span, TAG, WINDOW_END, WINDOW_START, tag_of, unit_micros};
