//! A function that is another one, but for how it accumulates.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::expr::{AggregateFunctionParams, WindowFunctionParams};
use datafusion::logical_expr::function::{AccumulatorArgs, AggregateFunctionSimplification, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, GroupsAccumulator, ReversedUDAF,
    SetMonotonicity, Signature, StatisticsArgs,
};

use super::moving::{Call, Moving, is_inexact, is_short};

/// How a replacement accumulates.
pub(super) trait Accumulation: std::fmt::Debug + Send + Sync {
    /// The columns of the state; `None` leaves the call to the function that is replaced.
    fn state_fields(&self, args: &StateFieldsArgs) -> Option<Vec<FieldRef>>;

    /// The accumulators of a call for which there are [`Accumulation::state_fields`].
    fn accumulators(&self, args: &AccumulatorArgs) -> DataFusionResult<Accumulators>;

    /// Whether what is known of a table tells the result as well. Nothing tells it of floats, among which may
    /// be NaNs.
    fn keeps_statistics(&self) -> bool {
        false
    }

    /// Whether what DataFusion does when rows leave a frame is exact, though there are floats in the state: they are
    /// not added up.
    fn moves_exactly(&self) -> bool {
        false
    }

    /// The accumulator of the replaced function, with what has to be round it, if the call is left to that.
    fn wrap(&self, accumulator: Box<dyn Accumulator>, _: &AccumulatorArgs) -> Box<dyn Accumulator> {
        accumulator
    }

    /// The accumulator of the replaced function for a window that slides, with what has to be round it.
    fn wrap_sliding(&self, accumulator: Box<dyn Accumulator>, _: &DataType) -> Box<dyn Accumulator> {
        accumulator
    }
}

/// The accumulators of one call.
pub(super) struct Accumulators {
    /// Of many groups.
    pub(super) groups: Box<dyn GroupsAccumulator>,
    /// Of one group, or of a window that grows.
    pub(super) one: Box<dyn Accumulator>,
}

/// How the calls of a function are accumulated.
pub(super) type Build = &'static dyn Accumulation;

#[derive(Debug, Clone)]
pub(super) struct Replacement {
    inner: Arc<dyn AggregateUDFImpl>,
    build: Build,
    /// What messages call the call, where DataFusion's optimiser makes another one of it.
    called: Option<Arc<str>>,
}

impl PartialEq for Replacement {
    fn eq(&self, other: &Self) -> bool {
        self.inner.as_ref().dyn_eq(other.inner.as_ref())
    }
}

impl Eq for Replacement {}

impl Hash for Replacement {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.name().hash(state);
    }
}

impl Replacement {
    pub(super) fn new(function: &AggregateUDF, build: Build) -> Self {
        Self { inner: Arc::clone(function.inner()), build, called: None }
    }

    /// The same for a call that messages call `name`.
    pub(super) fn called(self, name: Option<String>) -> Self {
        Self { called: name.map(Into::into), ..self }
    }

    fn accumulators(&self, args: AccumulatorArgs) -> DataFusionResult<Accumulators> {
        let name = self.called.as_deref().unwrap_or(args.name);
        self.build.accumulators(&AccumulatorArgs { name, ..args })
    }

    /// The columns of the state of the call with `args`, if it is accumulated here.
    fn own_state(&self, args: &AccumulatorArgs) -> Option<Vec<FieldRef>> {
        self.build.state_fields(&StateFieldsArgs {
            name: args.name,
            input_fields: args.expr_fields,
            return_field: Arc::clone(&args.return_field),
            ordering_fields: &[],
            is_distinct: args.is_distinct,
        })
    }
}

impl AggregateUDFImpl for Replacement {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, params: &AggregateFunctionParams) -> DataFusionResult<String> {
        self.inner.schema_name(params)
    }

    fn human_display(&self, params: &AggregateFunctionParams) -> DataFusionResult<String> {
        self.inner.human_display(params)
    }

    fn window_function_schema_name(&self, params: &WindowFunctionParams) -> DataFusionResult<String> {
        self.inner.window_function_schema_name(params)
    }

    fn display_name(&self, params: &AggregateFunctionParams) -> DataFusionResult<String> {
        self.inner.display_name(params)
    }

    fn window_function_display_name(&self, params: &WindowFunctionParams) -> DataFusionResult<String> {
        self.inner.window_function_display_name(params)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> DataFusionResult<DataType> {
        self.inner.return_type(arg_types)
    }

    fn return_field(&self, arg_fields: &[FieldRef]) -> DataFusionResult<FieldRef> {
        self.inner.return_field(arg_fields)
    }

    fn is_nullable(&self) -> bool {
        self.inner.is_nullable()
    }

    fn accumulator(&self, args: AccumulatorArgs) -> DataFusionResult<Box<dyn Accumulator>> {
        match self.own_state(&args) {
            Some(_) => Ok(self.accumulators(args)?.one),
            None => {
                let wrapping = AccumulatorArgs { return_field: Arc::clone(&args.return_field), ..args };
                Ok(self.build.wrap(self.inner.accumulator(args)?, &wrapping))
            }
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> DataFusionResult<Vec<FieldRef>> {
        match self.build.state_fields(&args) {
            Some(fields) => Ok(fields),
            None => self.inner.state_fields(args),
        }
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.own_state(&args).is_some() || self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> DataFusionResult<Box<dyn GroupsAccumulator>> {
        match self.own_state(&args) {
            Some(_) => Ok(self.accumulators(args)?.groups),
            None => self.inner.create_groups_accumulator(args),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> DataFusionResult<Box<dyn Accumulator>> {
        let state = self.state_fields(StateFieldsArgs {
            name: args.name,
            input_fields: args.expr_fields,
            return_field: Arc::clone(&args.return_field),
            ordering_fields: &[],
            is_distinct: args.is_distinct,
        })?;
        let call = Call::new(Arc::new(self.clone()), &args);
        let moves_exactly = self.build.moves_exactly();
        if moves_exactly || !is_inexact(&state) {
            let own = match self.own_state(&args) {
                Some(_) if !moves_exactly => Some(self.build.accumulators(&args)?.one),
                _ => {
                    let data_type = args.return_type().clone();
                    match self.inner.create_sliding_accumulator(args) {
                        Ok(accumulator) => Some(self.build.wrap_sliding(accumulator, &data_type)),
                        Err(DataFusionError::NotImplemented(_)) => None,
                        Err(error) => return Err(error),
                    }
                }
            };
            if let Some(own) = own.filter(|own| own.supports_retract_batch()) {
                return Ok(own);
            }
        }
        Ok(Box::new(Moving::new(call, is_short(&state))))
    }

    fn with_beneficial_ordering(
        self: Arc<Self>,
        beneficial_ordering: bool,
    ) -> DataFusionResult<Option<Arc<dyn AggregateUDFImpl>>> {
        let inner = Arc::clone(&self.inner).with_beneficial_ordering(beneficial_ordering)?;
        Ok(inner.map(|inner| Arc::new(Self { inner, ..self.as_ref().clone() }) as _))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        self.inner.simplify()
    }

    // `simplify_expr_op_literal` is left out: a sum of `x + 1` may fit where that of `x` does not.

    fn reverse_expr(&self) -> ReversedUDAF {
        match self.inner.reverse_expr() {
            ReversedUDAF::Identical => ReversedUDAF::Identical,
            _ => ReversedUDAF::NotSupported,
        }
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> DataFusionResult<Vec<DataType>> {
        self.inner.coerce_types(arg_types)
    }

    fn is_descending(&self) -> Option<bool> {
        self.inner.is_descending()
    }

    fn value_from_stats(&self, args: &StatisticsArgs) -> Option<ScalarValue> {
        let tells = self.build.keeps_statistics() && !args.return_type.is_floating();
        tells.then(|| self.inner.value_from_stats(args)).flatten()
    }

    fn default_value(&self, data_type: &DataType) -> DataFusionResult<ScalarValue> {
        self.inner.default_value(data_type)
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.inner.supports_null_handling_clause()
    }

    fn supports_within_group_clause(&self) -> bool {
        self.inner.supports_within_group_clause()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.set_monotonicity(data_type)
    }
}
