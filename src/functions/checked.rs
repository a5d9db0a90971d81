//! Arithmetic of integers and decimals that fails where a value does not fit.
//!
//! DataFusion's own wraps around for integers, and gives decimals of more digits than their type has.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Datum, Decimal128Array, PrimitiveArray,
};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::compute::kernels::numeric;
use datafusion::arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Decimal256Type, DecimalType, Field,
    FieldRef, Int32Type, Int64Type,
};
use datafusion::arrow::error::ArrowError;
use datafusion::common::internal_err;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};
use datafusion::physical_expr_common::datum::apply;

use super::written::written;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Operation {
    Binary(Operator),
    Negate,
}

impl Operation {
    /// What it gives for its operands.
    pub(super) fn apply(self, operands: &[ColumnarValue]) -> DataFusionResult<ColumnarValue> {
        match (self, operands) {
            (Operation::Binary(operator), [left, right]) => {
                apply(left, right, |left, right| binary(operator, left, right))
            }
            (Operation::Negate, [value]) => negate(value),
            (operation, operands) => internal_err!("{operation:?} of {} operands", operands.len()),
        }
    }
}

/// Whether results of `data_type` are checked.
pub(super) fn is_checked(data_type: &DataType) -> bool {
    data_type.is_integer() || data_type.is_decimal()
}

/// `left operator right`, whose type is `data_type`, or an error that names it; `None` if that is
/// nothing that could overflow without an error.
pub(crate) fn checked_binary(expr: &BinaryExpr, data_type: &DataType) -> Option<Expr> {
    let operator = expr.op;
    let is_arithmetic = matches!(
        operator,
        Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide | Operator::Modulo
    );
    if !is_arithmetic || !is_checked(data_type) {
        return None;
    }
    let text = written(&Expr::BinaryExpr(expr.clone()));
    let arguments = vec![expr.left.as_ref().clone(), expr.right.as_ref().clone()];
    Some(call(Operation::Binary(operator), text, data_type, arguments))
}

/// `- value`, which is of `data_type`, or an error that names it; `None` if it always fits.
pub(crate) fn checked_negation(value: &Expr, data_type: &DataType) -> Option<Expr> {
    if !is_checked(data_type) {
        return None;
    }
    let text = written(&Expr::Negative(Box::new(value.clone())));
    Some(call(Operation::Negate, text, data_type, vec![value.clone()]))
}

fn call(operation: Operation, text: String, data_type: &DataType, arguments: Vec<Expr>) -> Expr {
    let signature = Signature::any(arguments.len(), Volatility::Immutable);
    ScalarUDF::new_from_impl(Checked { operation, text, data_type: data_type.clone(), signature })
        .call(arguments)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    operation: Operation,
    /// The expression as the user knows it.
    text: String,
    data_type: DataType,
    signature: Signature,
}

impl Checked {
    /// The same expression as DataFusion has it, for its names.
    fn unchecked(&self, args: &[Expr]) -> Option<Expr> {
        match (self.operation, args) {
            (Operation::Binary(operator), [left, right]) => Some(Expr::BinaryExpr(BinaryExpr::new(
                Box::new(left.clone()),
                operator,
                Box::new(right.clone()),
            ))),
            (Operation::Negate, [value]) => Some(Expr::Negative(Box::new(value.clone()))),
            _ => None,
        }
    }
}

/// The call as DataFusion has it, if it is a checked one.
pub(super) fn unchecked(call: &ScalarFunction) -> Option<Expr> {
    call.func.inner().downcast_ref::<Checked>()?.unchecked(&call.args)
}

/// `error`, which came of what `text` says, with that and its type.
pub(super) fn failed(
    error: DataFusionError,
    text: &dyn Fn() -> String,
    data_type: &DataType,
) -> DataFusionError {
    let root = error.find_root();
    match root {
        DataFusionError::ArrowError(arrow, _) => match arrow.as_ref() {
            ArrowError::DivideByZero => DataFusionError::Execution(format!("division by zero in {}", text())),
            ArrowError::ArithmeticOverflow(_)
            | ArrowError::ComputeError(_)
            | ArrowError::InvalidArgumentError(_) => {
                let detail = arrow.to_string();
                let detail = detail.rsplit(" error: ").next().unwrap_or_default();
                overflow(&text(), data_type, detail)
            }
            _ => error,
        },
        _ => error,
    }
}

/// The error of a value that does not fit into `data_type`, the type of `expression`.
pub(crate) fn overflow(expression: &str, data_type: &DataType, detail: &str) -> DataFusionError {
    DataFusionError::Execution(format!(
        "arithmetic overflow: {expression} does not fit into {data_type} ({detail}). Cast an operand to a \
         wider type, e.g. BIGINT or DECIMAL(38, 0), or let it wrap around with SET tidemill.ansi_mode = false"
    ))
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        match self.operation {
            Operation::Binary(Operator::Plus) => "checked_add",
            Operation::Binary(Operator::Minus) => "checked_subtract",
            Operation::Binary(Operator::Multiply) => "checked_multiply",
            Operation::Binary(Operator::Divide) => "checked_divide",
            Operation::Binary(_) => "checked_modulo",
            Operation::Negate => "checked_negate",
        }
    }

    fn schema_name(&self, args: &[Expr]) -> DataFusionResult<String> {
        match self.unchecked(args) {
            Some(expr) => Ok(expr.schema_name().to_string()),
            None => internal_err!("{} with {} arguments", self.name(), args.len()),
        }
    }

    fn display_name(&self, args: &[Expr]) -> DataFusionResult<String> {
        match self.unchecked(args) {
            Some(expr) => Ok(expr.to_string()),
            None => internal_err!("{} with {} arguments", self.name(), args.len()),
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(self.data_type.clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.data_type.clone(), nullable)))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn evaluate_bounds(&self, _: &[&Interval]) -> DataFusionResult<Interval> {
        Interval::make_unbounded(&self.data_type)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let result = self.operation.apply(&args.args);
        result.map_err(|error| failed(error, &|| self.text.clone(), &self.data_type))
    }
}

fn negate(value: &ColumnarValue) -> DataFusionResult<ColumnarValue> {
    match value {
        ColumnarValue::Array(array) => Ok(ColumnarValue::Array(numeric::neg(array)?)),
        ColumnarValue::Scalar(scalar) => Ok(ColumnarValue::Scalar(scalar.arithmetic_negate()?)),
    }
}

fn binary(operator: Operator, left: &dyn Datum, right: &dyn Datum) -> Result<ArrayRef, ArrowError> {
    if let Some(result) = quick(operator, left, right) {
        return Ok(result);
    }
    let result = match operator {
        Operator::Plus => numeric::add(left, right),
        Operator::Minus => numeric::sub(left, right),
        Operator::Multiply => numeric::mul(left, right),
        Operator::Divide => numeric::div(left, right),
        _ => numeric::rem(left, right),
    }?;
    check_digits(&result)?;
    Ok(result)
}

/// Fails if a decimal has more digits than its type. Only types of the largest precision can have
/// such values: others have room for every result.
fn check_digits(values: &ArrayRef) -> Result<(), ArrowError> {
    match values.data_type() {
        DataType::Decimal128(DECIMAL128_MAX_PRECISION, _) => {
            let values: &Decimal128Array = values.as_primitive();
            // One pass without branches; that a value below a null is too large is found by the second.
            let limit = 10_i128.pow(u32::from(DECIMAL128_MAX_PRECISION));
            let fits = |value: &i128| (*value < limit) & (*value > -limit);
            match values.values().iter().fold(true, |all, value| all & fits(value)) {
                true => Ok(()),
                false => values.validate_decimal_precision(DECIMAL128_MAX_PRECISION),
            }
        }
        DataType::Decimal256(DECIMAL256_MAX_PRECISION, _) => {
            validate::<Decimal256Type>(values, DECIMAL256_MAX_PRECISION)
        }
        DataType::Decimal32(precision @ 9, _) => {
            validate::<datafusion::arrow::datatypes::Decimal32Type>(values, *precision)
        }
        DataType::Decimal64(precision @ 18, _) => {
            validate::<datafusion::arrow::datatypes::Decimal64Type>(values, *precision)
        }
        _ => Ok(()),
    }
}

fn validate<T: DecimalType>(values: &ArrayRef, precision: u8) -> Result<(), ArrowError> {
    values.as_primitive::<T>().validate_decimal_precision(precision)
}

/// The result for the two common types of integers, in one pass without branches; `None` for others,
/// and if a value does not fit, which Arrow's kernel then says.
fn quick(operator: Operator, left: &dyn Datum, right: &dyn Datum) -> Option<ArrayRef> {
    if !matches!(operator, Operator::Plus | Operator::Minus | Operator::Multiply) {
        return None;
    }
    let ((left, left_scalar), (right, right_scalar)) = (left.get(), right.get());
    let sides = |left, right| Sides { left, left_scalar, right, right_scalar };
    macro_rules! of_type {
        ($type:ty) => {{
            let sides = sides(left, right);
            type Native = <$type as ArrowPrimitiveType>::Native;
            match operator {
                Operator::Plus => sides.zip::<$type>(|left: Native, right: Native| {
                    let sum = left.wrapping_add(right);
                    (sum, (left ^ sum) & (right ^ sum) < 0)
                }),
                Operator::Minus => sides.zip::<$type>(|left: Native, right: Native| {
                    let difference = left.wrapping_sub(right);
                    (difference, (left ^ right) & (left ^ difference) < 0)
                }),
                _ => sides.zip::<$type>(|left: Native, right: Native| left.overflowing_mul(right)),
            }
        }};
    }
    match (left.data_type(), right.data_type()) {
        (DataType::Int32, DataType::Int32) => of_type!(Int32Type),
        (DataType::Int64, DataType::Int64) => of_type!(Int64Type),
        _ => None,
    }
}

struct Sides<'a> {
    left: &'a dyn Array,
    left_scalar: bool,
    right: &'a dyn Array,
    right_scalar: bool,
}

impl Sides<'_> {
    /// The values of `operation`, which also says whether it overflowed; `None` if it ever did, or if
    /// a side is a null for all rows.
    fn zip<T: ArrowPrimitiveType>(
        &self,
        operation: impl Fn(T::Native, T::Native) -> (T::Native, bool),
    ) -> Option<ArrayRef> {
        let (left, right) = (self.left.as_primitive::<T>(), self.right.as_primitive::<T>());
        let mut overflowed = false;
        let mut apply = |left: T::Native, right: T::Native| {
            let (value, overflow) = operation(left, right);
            overflowed |= overflow;
            value
        };
        let (values, nulls): (Vec<T::Native>, Option<NullBuffer>) =
            match (self.left_scalar, self.right_scalar) {
                (true, false) if left.null_count() == 0 => {
                    let left = left.value(0);
                    (right.values().iter().map(|right| apply(left, *right)).collect(), right.nulls().cloned())
                }
                (false, true) if right.null_count() == 0 => {
                    let right = right.value(0);
                    (left.values().iter().map(|left| apply(*left, right)).collect(), left.nulls().cloned())
                }
                (false, false) if left.len() == right.len() => (
                    left.values()
                        .iter()
                        .zip(right.values())
                        .map(|(left, right)| apply(*left, *right))
                        .collect(),
                    NullBuffer::union(left.nulls(), right.nulls()),
                ),
                _ => return None,
            };
        (!overflowed).then(|| Arc::new(PrimitiveArray::<T>::new(values.into(), nulls)) as ArrayRef)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int64Array, Scalar};
    use proptest::prelude::*;

    use super::*;

    fn numbers() -> impl Strategy<Value = Vec<Option<i64>>> {
        let number = prop_oneof![
            6 => -1_000_i64..1_000,
            1 => Just(i64::MAX),
            1 => Just(i64::MIN),
            2 => (-2_i64..2).prop_map(|number| number << 31),
        ];
        prop::collection::vec(prop::option::weighted(0.8, number), 4)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3_000))]

        #[test]
        fn it_gives_what_arrows_checked_kernels_give(
            left in numbers(), right in numbers(), constant in numbers(),
            operator in prop::sample::select(vec![Operator::Plus, Operator::Minus, Operator::Multiply]),
        ) {
            let array = |numbers: &[Option<i64>]| Arc::new(Int64Array::from(numbers.to_vec())) as ArrayRef;
            let (left, right, constant) = (array(&left), array(&right), Scalar::new(array(&constant[..1])));
            let pairs: [(&dyn Datum, &dyn Datum); 3] = [(&left, &right), (&constant, &right), (&left, &constant)];
            for (left, right) in pairs {
                let expected = match operator {
                    Operator::Plus => numeric::add(left, right),
                    Operator::Minus => numeric::sub(left, right),
                    _ => numeric::mul(left, right),
                };
                let found = binary(operator, left, right);
                prop_assert_eq!(found.map_err(|error| error.to_string()), expected.map_err(|error| error.to_string()));
            }
        }
    }
}
