//! What a program says of its own stateful logic.

use std::fmt;
use std::ops::{Deref, DerefMut};

use datafusion::arrow::array::RecordBatch;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::given::GivenRows;
use super::keyed_state::KeyedState;
use super::rows::{AnyRows, Rows, Source, short_name};
use super::timestamp::Timestamp;
use super::variables::{StateVariables, Variable};
use crate::error::{Error, Result};

/// Stateful logic of a program's own: what becomes of the rows of each key, and what is remembered of it.
///
/// It is called once per batch for every key that has rows in it, and once for each timer that expires. All that
/// it remembers is in the variables that it declares: it is in the checkpoint, restored after a crash, and
/// moved to disk when it does not fit into memory. An error or a panic ends the query with an error that names
/// the key, and nothing of the batch is committed.
///
/// What it gives must depend on nothing but its arguments: a batch that is run again after a crash has to give
/// the same rows.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use tidemill::Result;
/// use tidemill::processor::{Call, Rows, StateVariables, StatefulProcessor, ValueState};
///
/// #[derive(Deserialize)]
/// struct Payment {
///     amount: i64,
/// }
///
/// #[derive(Serialize)]
/// struct Total {
///     card: String,
///     total: i64,
/// }
///
/// struct Totals;
///
/// impl StatefulProcessor for Totals {
///     type Key = String;
///     type Input = Payment;
///     type Output = Total;
///     type State = ValueState<i64>;
///
///     fn init(&self, variables: &mut StateVariables) -> Result<ValueState<i64>> {
///         variables.value("total")
///     }
///
///     fn handle_input_rows(
///         &self,
///         total: &ValueState<i64>,
///         rows: Rows<'_, Payment>,
///         call: &mut Call<'_, Self>,
///     ) -> Result<()> {
///         let mut sum = total.get(call)?.unwrap_or(0);
///         for payment in rows {
///             sum += payment?.amount;
///         }
///         total.update(call, &sum)?;
///         let card = call.key().clone();
///         call.emit(&Total { card, total: sum })
///     }
/// }
/// ```
pub trait StatefulProcessor: Send + Sync + Sized + 'static {
    /// What rows belong together by: the type of the key's column; of several, a tuple in their order or a struct
    /// by their names.
    type Key: DeserializeOwned;
    /// A row that comes in: a struct with fields for those columns that are of interest.
    type Input: DeserializeOwned;
    /// A row that is given: a struct with a field for each column of the output schema. Those that are left
    /// out are null.
    type Output: Serialize;
    /// The state variables, as [`init`](Self::init) declares them.
    type State: Send + Sync + 'static;

    /// Declares what is remembered of each key. Is called once, before the query starts.
    ///
    /// # Errors
    /// Whatever is wrong with it; the query does not start.
    fn init(&self, variables: &mut StateVariables) -> Result<Self::State>;

    /// Takes the new rows of one key.
    ///
    /// # Errors
    /// Whatever is wrong; the query ends.
    fn handle_input_rows(
        &self,
        state: &Self::State,
        rows: Rows<'_, Self::Input>,
        call: &mut Call<'_, Self>,
    ) -> Result<()>;

    /// A timer of this key has expired, and is gone. Timers are called after all rows of the batch, the earliest
    /// first.
    ///
    /// # Errors
    /// Whatever is wrong; the query ends.
    fn handle_expired_timer(
        &self,
        state: &Self::State,
        time: Timestamp,
        call: &mut Call<'_, Self>,
    ) -> Result<()> {
        let _ = (state, call);
        Err(Error::Invalid(format!(
            "a timer for {time} has expired, but {} has no handle_expired_timer",
            short_name::<Self>()
        )))
    }

    /// Takes the rows of one key of the initial state, before the first batch.
    ///
    /// # Errors
    /// Whatever is wrong; the query ends.
    fn handle_initial_state(
        &self,
        state: &Self::State,
        rows: AnyRows<'_>,
        call: &mut Call<'_, Self>,
    ) -> Result<()> {
        let _ = (state, rows, call);
        Err(Error::Invalid(format!(
            "there is an initial state, but {} has no handle_initial_state",
            short_name::<Self>()
        )))
    }
}

/// One call of a processor: the key it is about, its state, and where rows are given.
///
/// It is a [`KeyedState`], which the state variables take.
pub struct Call<'a, P: StatefulProcessor> {
    key: P::Key,
    state: KeyedState<'a>,
    given: &'a mut GivenRows,
}

impl<P: StatefulProcessor> Call<'_, P> {
    /// The key.
    pub fn key(&self) -> &P::Key {
        &self.key
    }

    /// Gives a row.
    ///
    /// # Errors
    /// If it has a field that is not in the output schema.
    pub fn emit(&mut self, row: &P::Output) -> Result<()> {
        self.given.push(row)
    }

    /// As [`KeyedState::processing_time`].
    pub fn processing_time(&self) -> Timestamp {
        self.state.processing_time()
    }

    /// As [`KeyedState::watermark`].
    pub fn watermark(&self) -> Option<Timestamp> {
        self.state.watermark()
    }

    /// As [`KeyedState::register_timer`].
    ///
    /// # Errors
    /// As there.
    pub fn register_timer(&mut self, time: Timestamp) -> Result<()> {
        self.state.register_timer(time)
    }

    /// As [`KeyedState::delete_timer`].
    ///
    /// # Errors
    /// As there.
    pub fn delete_timer(&mut self, time: Timestamp) -> Result<()> {
        self.state.delete_timer(time)
    }

    /// Gives rows as columns: exactly those of the output schema.
    ///
    /// # Errors
    /// If they are others.
    pub fn emit_batch(&mut self, rows: RecordBatch) -> Result<()> {
        self.given.push_batch(rows)
    }
}

impl<'a, P: StatefulProcessor> Deref for Call<'a, P> {
    type Target = KeyedState<'a>;

    fn deref(&self) -> &KeyedState<'a> {
        &self.state
    }
}

impl<'a, P: StatefulProcessor> DerefMut for Call<'a, P> {
    fn deref_mut(&mut self) -> &mut KeyedState<'a> {
        &mut self.state
    }
}

impl<P: StatefulProcessor> fmt::Debug for Call<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("state", &self.state).finish_non_exhaustive()
    }
}

/// What a processor is called with.
pub(crate) enum Event<'a> {
    Rows(AnyRows<'a>),
    InitialRows(AnyRows<'a>),
    Timer(i64),
}

impl Event<'_> {
    /// What takes it.
    pub(crate) fn handler(&self) -> &'static str {
        match self {
            Event::Rows(_) => "handle_input_rows",
            Event::InitialRows(_) => "handle_initial_state",
            Event::Timer(_) => "handle_expired_timer",
        }
    }
}

/// A processor of whatever types.
pub(crate) trait AnyProcessor: Send + Sync {
    /// For people.
    fn name(&self) -> &str;

    /// Its state variables, by name.
    fn variables(&self) -> &[Variable];

    /// Calls it, for the key that is a row of a source.
    fn call(
        &self,
        event: Event<'_>,
        key: (&Source, usize),
        state: KeyedState<'_>,
        given: &mut GivenRows,
    ) -> Result<()>;
}

/// A processor with its variables.
pub(crate) struct Typed<P: StatefulProcessor> {
    processor: P,
    state: P::State,
    variables: Vec<Variable>,
    name: String,
}

impl<P: StatefulProcessor> Typed<P> {
    /// Has it declare its variables.
    pub(crate) fn new(processor: P, name: Option<&str>) -> Result<Self> {
        let mut variables = StateVariables::default();
        let state = processor.init(&mut variables)?;
        let name = name.unwrap_or(short_name::<P>()).to_string();
        Ok(Self { processor, state, variables: variables.finish(), name })
    }

    /// Its variables, as it has declared them.
    pub(super) fn state(&self) -> &P::State {
        &self.state
    }
}

impl<P: StatefulProcessor> AnyProcessor for Typed<P> {
    fn name(&self) -> &str {
        &self.name
    }

    fn variables(&self) -> &[Variable] {
        &self.variables
    }

    fn call(
        &self,
        event: Event<'_>,
        (keys, row): (&Source, usize),
        state: KeyedState<'_>,
        given: &mut GivenRows,
    ) -> Result<()> {
        let key = keys.read(row)?;
        let mut call = Call { key, state, given };
        match event {
            Event::Rows(rows) => self.processor.handle_input_rows(&self.state, rows.typed(), &mut call),
            Event::InitialRows(rows) => self.processor.handle_initial_state(&self.state, rows, &mut call),
            Event::Timer(time) => {
                let time = Timestamp::from_micros(time);
                self.processor.handle_expired_timer(&self.state, time, &mut call)
            }
        }
    }
}

impl<P: StatefulProcessor> fmt::Debug for Typed<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Typed").field("name", &self.name).field("variables", &self.variables).finish()
    }
}
