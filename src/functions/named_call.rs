//! Functions of DataFusion's that say which call it is when a value does not fit.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::internal_err;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::checked::{failed, is_checked};
use super::written::written;

/// `call`, whose result is of `data_type`, as one that names itself in its errors; `None` if all of its results fit. Of
/// the smallest integer there is no absolute value.
pub(crate) fn named_call(call: &ScalarFunction, data_type: &DataType) -> Option<Expr> {
    if call.func.name() != "abs" || !is_checked(data_type) {
        return None;
    }
    let text = written(&Expr::ScalarFunction(call.clone()));
    let signature = Signature::any(call.args.len(), Volatility::Immutable);
    let named = NamedCall { text, plain: Arc::clone(&call.func), signature };
    Some(ScalarUDF::new_from_impl(named).call(call.args.clone()))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct NamedCall {
    /// The expression as the user knows it.
    text: String,
    plain: Arc<ScalarUDF>,
    signature: Signature,
}

impl ScalarUDFImpl for NamedCall {
    fn name(&self) -> &str {
        "named_call"
    }

    fn schema_name(&self, args: &[Expr]) -> DataFusionResult<String> {
        self.plain.schema_name(args)
    }

    fn display_name(&self, args: &[Expr]) -> DataFusionResult<String> {
        Ok(self.plain.call(args.to_vec()).to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        internal_err!("the type of {} is told by its fields", self.text)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        self.plain.return_field_from_args(args)
    }

    fn is_strict(&self) -> bool {
        self.plain.is_strict()
    }

    fn evaluate_bounds(&self, inputs: &[&Interval]) -> DataFusionResult<Interval> {
        self.plain.evaluate_bounds(inputs)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let data_type = args.return_field.data_type().clone();
        self.plain.invoke_with_args(args).map_err(|error| failed(error, &|| self.text.clone(), &data_type))
    }
}
