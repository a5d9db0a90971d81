//! Division of decimals with enough digits behind the point, rounded half up: Spark's.
//!
//! DataFusion gives four more digits than the dividend has, and cuts off the rest.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Datum, Decimal128Array, PrimitiveArray};
use datafusion::arrow::compute::{try_binary, try_unary};
use datafusion::arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, Field, FieldRef, i256,
};
use datafusion::arrow::error::ArrowError;
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility, cast,
};
use datafusion::physical_expr_common::datum::apply;

use super::checked::overflow;
use super::written::written;

/// The fewest digits that a quotient has behind the point, unless it has none before it to spare.
const LEAST_SCALE: i16 = 6;

/// `dividend / divisor`, of the given types; `None` if that is no division of decimals, or none that
/// can be done here.
pub(crate) fn decimal_division(
    dividend: &Expr,
    divisor: &Expr,
    types: (&DataType, &DataType),
) -> Option<Expr> {
    if !types.0.is_decimal() && !types.1.is_decimal() {
        return None;
    }
    let (left, right) = (digits(dividend, types.0)?, digits(divisor, types.1)?);
    let (precision, scale) = quotient_type(left, right);
    let text = Expr::BinaryExpr(BinaryExpr::new(
        Box::new(dividend.clone()),
        Operator::Divide,
        Box::new(divisor.clone()),
    ));
    let function = Division {
        text: written(&text),
        precision,
        scale,
        signature: Signature::any(2, Volatility::Immutable),
    };
    let argument = |expr: &Expr, (precision, scale)| {
        let data_type = DataType::Decimal128(precision, scale);
        match expr {
            Expr::Literal(value, metadata) => match value.cast_to(&data_type) {
                Ok(value) => Expr::Literal(value, metadata.clone()),
                Err(_) => cast(expr.clone(), data_type),
            },
            _ => cast(expr.clone(), data_type),
        }
    };
    let call =
        ScalarUDF::new_from_impl(function).call(vec![argument(dividend, left), argument(divisor, right)]);
    Some(call)
}

/// Precision and scale of the decimal that holds all values of `data_type`, or the value of a literal.
fn digits(expr: &Expr, data_type: &DataType) -> Option<(u8, i8)> {
    if let Expr::Literal(ScalarValue::Int64(Some(number)), _) = expr {
        let precision = number.unsigned_abs().checked_ilog10().unwrap_or(0) + 1;
        return Some((u8::try_from(precision).ok()?, 0));
    }
    match data_type {
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
            if *scale >= 0 =>
        {
            Some((*precision, *scale))
        }
        DataType::Int8 | DataType::UInt8 => Some((3, 0)),
        DataType::Int16 | DataType::UInt16 => Some((5, 0)),
        DataType::Int32 | DataType::UInt32 => Some((10, 0)),
        DataType::Int64 | DataType::UInt64 => Some((20, 0)),
        _ => None,
    }
}

/// Spark's type of a quotient.
fn quotient_type((p1, s1): (u8, i8), (p2, s2): (u8, i8)) -> (u8, i8) {
    let (p1, s1, p2, s2) = (i16::from(p1), i16::from(s1), i16::from(p2), i16::from(s2));
    let most = i16::from(DECIMAL128_MAX_PRECISION);
    let scale = LEAST_SCALE.max(s1 + p2 + 1);
    let precision = p1 - s1 + s2 + scale;
    let (precision, scale) = match precision > most {
        // Digits before the point go first, but six behind it are kept.
        true => (most, (most - (precision - scale)).max(scale.min(LEAST_SCALE))),
        false => (precision, scale),
    };
    (u8::try_from(precision).unwrap_or(DECIMAL128_MAX_PRECISION), i8::try_from(scale).unwrap_or(6))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Division {
    /// The expression as the user knows it.
    text: String,
    precision: u8,
    scale: i8,
    signature: Signature,
}

impl Division {
    fn data_type(&self) -> DataType {
        DataType::Decimal128(self.precision, self.scale)
    }

    fn divide(&self, left: &dyn Datum, right: &dyn Datum) -> Result<ArrayRef, ArrowError> {
        let ((left, left_scalar), (right, right_scalar)) = (left.get(), right.get());
        let (DataType::Decimal128(_, s1), DataType::Decimal128(_, s2)) =
            (left.data_type(), right.data_type())
        else {
            return Err(ArrowError::InvalidArgumentError("no decimals to divide".into()));
        };
        let quotient = Quotient::new(i32::from(self.scale) - i32::from(*s1) + i32::from(*s2), self.precision);
        let (left, right): (&Decimal128Array, &Decimal128Array) = (left.as_primitive(), right.as_primitive());
        let of = |left: i128, right: i128| quotient.of(left, right);
        let values: PrimitiveArray<Decimal128Type> = match (left_scalar, right_scalar) {
            (true, false) if left.is_null(0) => PrimitiveArray::new_null(right.len()),
            (false, true) if right.is_null(0) => PrimitiveArray::new_null(left.len()),
            (true, false) => try_unary(right, |right| of(left.value(0), right))?,
            (false, true) => try_unary(left, |left| of(left, right.value(0)))?,
            _ => try_binary(left, right, of)?,
        };
        Ok(Arc::new(values.with_precision_and_scale(self.precision, self.scale)?))
    }
}

/// Divides numbers of two scales.
struct Quotient {
    /// The powers of ten that the dividend and the divisor are multiplied by.
    dividend: Option<i128>,
    divisor: i256,
    wide_dividend: i256,
    limit: i256,
}

impl Quotient {
    /// `shift` is how many digits more than the plain quotient the result has.
    fn new(shift: i32, precision: u8) -> Self {
        let power = |exponent: i32| i256::from_i128(10).wrapping_pow(u32::try_from(exponent).unwrap_or(0));
        Self {
            dividend: u32::try_from(shift).ok().and_then(|shift| 10_i128.checked_pow(shift)),
            divisor: power(-shift),
            wide_dividend: power(shift),
            limit: power(i32::from(precision)),
        }
    }

    fn of(&self, left: i128, right: i128) -> Result<i128, ArrowError> {
        if right == 0 {
            return Err(ArrowError::DivideByZero);
        }
        if let Some(scaled) = self.dividend.and_then(|factor| left.checked_mul(factor))
            && let (Some(quotient), Some(rest)) = (scaled.checked_div(right), scaled.checked_rem(right))
        {
            let up = rest.unsigned_abs() >= right.unsigned_abs() - rest.unsigned_abs();
            let sign = if (scaled < 0) == (right < 0) { 1 } else { -1 };
            let rounded = if up { quotient + sign } else { quotient };
            return if i256::from_i128(rounded).wrapping_abs() < self.limit {
                Ok(rounded)
            } else {
                Err(too_large(left, right))
            };
        }
        self.wide(i256::from_i128(left), i256::from_i128(right)).ok_or_else(|| too_large(left, right))
    }

    fn wide(&self, left: i256, right: i256) -> Option<i128> {
        let (left, right) = (left.checked_mul(self.wide_dividend)?, right.checked_mul(self.divisor)?);
        let (quotient, rest) = (left.checked_div(right)?, left.checked_rem(right)?);
        let up = rest.wrapping_abs() >= right.wrapping_abs().wrapping_sub(rest.wrapping_abs());
        let sign = if (left < i256::ZERO) == (right < i256::ZERO) { i256::ONE } else { i256::MINUS_ONE };
        let rounded = if up { quotient.checked_add(sign)? } else { quotient };
        (rounded.wrapping_abs() < self.limit).then(|| rounded.to_i128()).flatten()
    }
}

fn too_large(left: i128, right: i128) -> ArrowError {
    ArrowError::ArithmeticOverflow(format!("the quotient of {left} and {right} has too many digits"))
}

impl ScalarUDFImpl for Division {
    fn name(&self) -> &str {
        "decimal_divide"
    }

    fn schema_name(&self, args: &[Expr]) -> DataFusionResult<String> {
        let [left, right] = args else { return internal_err!("division takes two arguments") };
        Ok(format!("{} / {}", left.schema_name(), right.schema_name()))
    }

    fn display_name(&self, args: &[Expr]) -> DataFusionResult<String> {
        let [left, right] = args else { return internal_err!("division takes two arguments") };
        Ok(format!("{left} / {right}"))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(self.data_type())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.data_type(), nullable)))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn evaluate_bounds(&self, _: &[&Interval]) -> DataFusionResult<Interval> {
        Interval::make_unbounded(&self.data_type())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let [left, right] = args.args.as_slice() else {
            return internal_err!("division takes two arguments");
        };
        apply(left, right, |left, right| self.divide(left, right)).map_err(|error| match error.find_root() {
            DataFusionError::ArrowError(arrow, _) => match arrow.as_ref() {
                ArrowError::DivideByZero => {
                    DataFusionError::Execution(format!("division by zero in {}", self.text))
                }
                ArrowError::ArithmeticOverflow(detail) => overflow(&self.text, &self.data_type(), detail),
                _ => error,
            },
            _ => error,
        })
    }
}
