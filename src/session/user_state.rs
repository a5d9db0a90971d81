//! Stateful logic of a program's own on data frames.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::prelude::DataFrame;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Result;
use crate::exec::processor::{
    AnyProcessor, GroupFunction, GroupState, Rows, StatefulProcessor, TimeMode, Typed,
};
use crate::plan::{Transform, TransformRequest};
use crate::sink::OutputMode;

/// Stateful logic of a program's own, over the rows of each key of an unbounded table.
///
/// The rows that come out can be filtered, projected, joined with tables and written as any others. With
/// [`OutputMode::Append`] each is a new row, which can be aggregated as well; with [`OutputMode::Update`] it takes
/// the place of the one with the same key before, for sinks of queries in update mode.
pub trait UserState: Sized {
    /// Has the rows of each key, which is the values in `keys`, go through a processor. What it gives has the
    /// columns of `output`.
    ///
    /// `docs/user-state.md` is about writing processors.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use serde::{Deserialize, Serialize};
    /// # use tidemill::Result;
    /// # use tidemill::processor::{Call, Rows, StateVariables, ValueState};
    /// use tidemill::arrow::datatypes::{DataType, Field, Schema};
    /// use tidemill::prelude::*;
    ///
    /// # #[derive(Deserialize)]
    /// # struct Tick { value: i64 }
    /// # #[derive(Serialize)]
    /// # struct Count { count: i64 }
    /// struct Counts;
    ///
    /// impl StatefulProcessor for Counts {
    ///     // …
    /// #   type Key = i64;
    /// #   type Input = Tick;
    /// #   type Output = Count;
    /// #   type State = ValueState<i64>;
    /// #   fn init(&self, variables: &mut StateVariables) -> Result<ValueState<i64>> {
    /// #       variables.value("count")
    /// #   }
    /// #   fn handle_input_rows(&self, count: &ValueState<i64>, rows: Rows<'_, Tick>, call: &mut Call<'_, Self>) -> Result<()> {
    /// #       let all = count.get(call)?.unwrap_or(0) + rows.len() as i64;
    /// #       count.update(call, &all)?;
    /// #       call.emit(&Count { count: all })
    /// #   }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// let session = Session::new();
    /// let ticks = session.read_stream().format("rate").load(None).await?;
    /// let output = Arc::new(Schema::new(vec![Field::new("count", DataType::Int64, false)]));
    /// let counts =
    ///     ticks.transform_with_state(&["value"], output, Counts, TimeMode::None, OutputMode::Append)?;
    /// assert_eq!(counts.schema().field(0).name(), "count");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the table is bounded; if there is no such key, or no watermark for [`TimeMode::EventTime`]; those of
    /// [`StatefulProcessor::init`].
    fn transform_with_state<P: StatefulProcessor>(
        self,
        keys: &[&str],
        output: SchemaRef,
        processor: P,
        time_mode: TimeMode,
        output_mode: OutputMode,
    ) -> Result<Self>;

    /// As [`transform_with_state`](Self::transform_with_state), with what is known before the first batch: the
    /// rows of `initial`, which is bounded and has the same keys, go to
    /// [`handle_initial_state`](StatefulProcessor::handle_initial_state) before any others. A query that has run
    /// before does not look at it again.
    ///
    /// # Errors
    /// As there, and if `initial` is unbounded or has no such keys.
    fn transform_with_initial_state<P: StatefulProcessor>(
        self,
        keys: &[&str],
        output: SchemaRef,
        processor: P,
        time_mode: TimeMode,
        output_mode: OutputMode,
        initial: Self,
    ) -> Result<Self>;

    /// The simple form: a function that is called with a key, its new rows, and one value that is remembered of it,
    /// and that gives any number of rows. It is called without rows if the timeout that it has set is over.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use serde::{Deserialize, Serialize};
    /// use tidemill::arrow::datatypes::{DataType, Field, Schema};
    /// use tidemill::prelude::*;
    /// use tidemill::processor::{GroupState, Rows};
    ///
    /// #[derive(Deserialize)]
    /// struct Tick {
    ///     value: i64,
    /// }
    ///
    /// #[derive(Serialize)]
    /// struct Count {
    ///     parity: i64,
    ///     count: u64,
    /// }
    ///
    /// fn count(parity: &i64, rows: Rows<'_, Tick>, state: &mut GroupState<u64>) -> tidemill::Result<Vec<Count>> {
    ///     let count = state.get().copied().unwrap_or(0) + rows.len() as u64;
    ///     state.update(count);
    ///     Ok(vec![Count { parity: *parity, count }])
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> tidemill::Result<()> {
    /// let session = Session::new();
    /// let ticks = session.read_stream().format("rate").load(None).await?;
    /// let ticks = ticks.with_column("parity", col("value") % lit(2_i64))?;
    /// let output = Arc::new(Schema::new(vec![
    ///     Field::new("parity", DataType::Int64, false),
    ///     Field::new("count", DataType::UInt64, false),
    /// ]));
    /// let counts =
    ///     ticks.flat_map_groups_with_state(&["parity"], output, TimeMode::None, OutputMode::Update, count)?;
    /// assert_eq!(counts.schema().fields().len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`transform_with_state`](Self::transform_with_state).
    fn flat_map_groups_with_state<K, I, S, O, F>(
        self,
        keys: &[&str],
        output: SchemaRef,
        time_mode: TimeMode,
        output_mode: OutputMode,
        function: F,
    ) -> Result<Self>
    where
        F: Fn(&K, Rows<'_, I>, &mut GroupState<S>) -> Result<Vec<O>> + Send + Sync + 'static,
        K: DeserializeOwned + 'static,
        I: DeserializeOwned + 'static,
        S: Serialize + DeserializeOwned + 'static,
        O: Serialize + 'static;

    /// As [`flat_map_groups_with_state`](Self::flat_map_groups_with_state), with a function that gives exactly one
    /// row, which takes the place of the one before with the same key.
    ///
    /// # Errors
    /// As for [`transform_with_state`](Self::transform_with_state).
    fn map_groups_with_state<K, I, S, O, F>(
        self,
        keys: &[&str],
        output: SchemaRef,
        time_mode: TimeMode,
        function: F,
    ) -> Result<Self>
    where
        F: Fn(&K, Rows<'_, I>, &mut GroupState<S>) -> Result<O> + Send + Sync + 'static,
        K: DeserializeOwned + 'static,
        I: DeserializeOwned + 'static,
        S: Serialize + DeserializeOwned + 'static,
        O: Serialize + 'static,
    {
        let all = move |key: &K, rows: Rows<'_, I>, state: &mut GroupState<S>| {
            function(key, rows, state).map(|row| vec![row])
        };
        self.flat_map_groups_with_state(keys, output, time_mode, OutputMode::Update, all)
    }
}

impl UserState for DataFrame {
    fn transform_with_state<P: StatefulProcessor>(
        self,
        keys: &[&str],
        output: SchemaRef,
        processor: P,
        time_mode: TimeMode,
        output_mode: OutputMode,
    ) -> Result<Self> {
        let processor: Arc<dyn AnyProcessor> = Arc::new(Typed::new(processor, None)?);
        transform(self, None, TransformRequest { keys, schema: output, processor, time_mode, output_mode })
    }

    fn transform_with_initial_state<P: StatefulProcessor>(
        self,
        keys: &[&str],
        output: SchemaRef,
        processor: P,
        time_mode: TimeMode,
        output_mode: OutputMode,
        initial: Self,
    ) -> Result<Self> {
        let processor: Arc<dyn AnyProcessor> = Arc::new(Typed::new(processor, None)?);
        let request = TransformRequest { keys, schema: output, processor, time_mode, output_mode };
        transform(self, Some(initial), request)
    }

    fn flat_map_groups_with_state<K, I, S, O, F>(
        self,
        keys: &[&str],
        output: SchemaRef,
        time_mode: TimeMode,
        output_mode: OutputMode,
        function: F,
    ) -> Result<Self>
    where
        F: Fn(&K, Rows<'_, I>, &mut GroupState<S>) -> Result<Vec<O>> + Send + Sync + 'static,
        K: DeserializeOwned + 'static,
        I: DeserializeOwned + 'static,
        S: Serialize + DeserializeOwned + 'static,
        O: Serialize + 'static,
    {
        let name = Some("flat_map_groups_with_state");
        let processor: Arc<dyn AnyProcessor> = Arc::new(Typed::new(GroupFunction::new(function), name)?);
        transform(self, None, TransformRequest { keys, schema: output, processor, time_mode, output_mode })
    }
}

fn transform(
    frame: DataFrame,
    initial: Option<DataFrame>,
    request: TransformRequest<'_>,
) -> Result<DataFrame> {
    let (state, plan) = frame.into_parts();
    let initial = initial.map(|initial| initial.into_parts().1);
    Ok(DataFrame::new(state, Transform::try_new(plan, initial, request)?.into_plan()))
}
