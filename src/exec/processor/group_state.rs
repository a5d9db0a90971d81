//! The simple form: a function of a key, its new rows and one value.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::keyed_state::Moment;
use super::rows::Rows;
use super::stateful_processor::{Call, StatefulProcessor};
use super::timestamp::Timestamp;
use super::variables::{StateVariables, ValueState};
use crate::error::Result;

/// The name of the value that is remembered.
const STATE: &str = "state";
/// The name of the time of the timer.
const TIMEOUT: &str = "timeout";

/// What is remembered of a key by `flat_map_groups_with_state`, and until when it is waited for rows.
pub struct GroupState<S> {
    moment: Moment,
    value: Option<S>,
    changed: bool,
    timeout: Option<Timestamp>,
    timed_out: bool,
}

impl<S> GroupState<S> {
    /// The value, if there is one.
    pub fn get(&self) -> Option<&S> {
        self.value.as_ref()
    }

    /// Whether there is one.
    pub fn exists(&self) -> bool {
        self.value.is_some()
    }

    /// Puts a value in the place of the one that is there, if any.
    pub fn update(&mut self, value: S) {
        self.value = Some(value);
        self.changed = true;
    }

    /// Removes it.
    pub fn remove(&mut self) {
        self.value = None;
        self.changed = true;
    }

    /// Has the function called without rows if none come for so long, by the time of the batches. A call without
    /// this, or [`set_timeout_timestamp`](Self::set_timeout_timestamp), waits for ever.
    pub fn set_timeout_duration(&mut self, length: Duration) {
        self.timeout = Some(self.processing_time() + length);
    }

    /// Has the function called without rows when the clock of the time mode has reached `time` and none have come.
    pub fn set_timeout_timestamp(&mut self, time: Timestamp) {
        self.timeout = Some(time);
    }

    /// Whether this call is because no rows came in time.
    pub fn has_timed_out(&self) -> bool {
        self.timed_out
    }

    /// The time at which the batch was planned.
    pub fn processing_time(&self) -> Timestamp {
        Timestamp::from_micros(self.moment.now)
    }

    /// The time up to which rows are all there, if that is known.
    pub fn watermark(&self) -> Option<Timestamp> {
        self.moment.watermark.map(Timestamp::from_micros)
    }
}

impl<S> fmt::Debug for GroupState<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupState").field("timed_out", &self.timed_out).finish_non_exhaustive()
    }
}

/// Types that are only passed through.
type Types<K, I, S, O> = PhantomData<fn() -> (K, I, S, O)>;

/// A function as a processor.
pub(crate) struct GroupFunction<F, K, I, S, O> {
    function: F,
    types: Types<K, I, S, O>,
}

impl<F, K, I, S, O> GroupFunction<F, K, I, S, O> {
    pub(crate) fn new(function: F) -> Self {
        Self { function, types: PhantomData }
    }
}

/// The value, and when it is not waited any longer.
pub(crate) struct Remembered<S> {
    value: ValueState<S>,
    timeout: ValueState<Timestamp>,
}

impl<F, K, I, S, O> GroupFunction<F, K, I, S, O>
where
    F: Fn(&K, Rows<'_, I>, &mut GroupState<S>) -> Result<Vec<O>> + Send + Sync + 'static,
    K: DeserializeOwned + 'static,
    I: DeserializeOwned + 'static,
    S: Serialize + DeserializeOwned + 'static,
    O: Serialize + 'static,
{
    fn run(
        &self,
        state: &Remembered<S>,
        rows: Rows<'_, I>,
        timed_out: bool,
        call: &mut Call<'_, Self>,
    ) -> Result<()> {
        let waited_until = state.timeout.get(call)?;
        let value = state.value.get(call)?;
        let mut group = GroupState { moment: call.moment, value, changed: false, timeout: None, timed_out };
        let given = (self.function)(call.key(), rows, &mut group)?;
        let GroupState { value, changed, timeout, .. } = group;
        match value {
            Some(value) if changed => state.value.update(call, &value)?,
            None if changed => state.value.clear(call),
            _ => {}
        }
        if timeout != waited_until || timed_out {
            if let Some(time) = waited_until.filter(|_| !timed_out) {
                call.delete_timer(time)?;
            }
            match timeout {
                Some(time) => {
                    call.register_timer(time)?;
                    state.timeout.update(call, &time)?;
                }
                None => state.timeout.clear(call),
            }
        }
        given.iter().try_for_each(|row| call.emit(row))
    }
}

impl<F, K, I, S, O> StatefulProcessor for GroupFunction<F, K, I, S, O>
where
    F: Fn(&K, Rows<'_, I>, &mut GroupState<S>) -> Result<Vec<O>> + Send + Sync + 'static,
    K: DeserializeOwned + 'static,
    I: DeserializeOwned + 'static,
    S: Serialize + DeserializeOwned + 'static,
    O: Serialize + 'static,
{
    type Key = K;
    type Input = I;
    type Output = O;
    type State = Remembered<S>;

    fn init(&self, variables: &mut StateVariables) -> Result<Remembered<S>> {
        Ok(Remembered { value: variables.value(STATE)?, timeout: variables.value(TIMEOUT)? })
    }

    fn handle_input_rows(
        &self,
        state: &Remembered<S>,
        rows: Rows<'_, I>,
        call: &mut Call<'_, Self>,
    ) -> Result<()> {
        self.run(state, rows, false, call)
    }

    fn handle_expired_timer(
        &self,
        state: &Remembered<S>,
        _: Timestamp,
        call: &mut Call<'_, Self>,
    ) -> Result<()> {
        self.run(state, Rows::none(), true, call)
    }
}
