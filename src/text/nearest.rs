//! Decimals as the nearest floats, which is what their texts are read as.
//!
//! Arrow divides the nearest float of all digits by a power of ten, and so rounds twice.

use std::str::FromStr;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, Float32Type, Float64Type};
use datafusion::arrow::error::ArrowError;

/// The digits and the places behind the point that a `f64` holds exactly: the quotient of two such numbers is rounded once.
const EXACT_DIGITS: i128 = 1 << 53;
const EXACT_POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// The floats nearest to decimals; `None` where `values` are no decimals, or `wanted` is neither `Float32` nor `Float64`.
///
/// # Errors
/// A decimal beyond the largest float of that type.
pub(crate) fn nearest_floats(values: &dyn Array, wanted: &DataType) -> Result<Option<ArrayRef>, ArrowError> {
    let values = match values.data_type() {
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            cast(values, &DataType::Decimal128(*precision, *scale))?
        }
        DataType::Decimal128(..) | DataType::Decimal256(..) => values.slice(0, values.len()),
        _ => return Ok(None),
    };
    let scale = match values.data_type() {
        DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) => *scale,
        _ => 0,
    };
    Ok(match (values.data_type(), wanted) {
        (DataType::Decimal128(..), DataType::Float64) => {
            let power = usize::try_from(scale).ok().and_then(|scale| EXACT_POWERS.get(scale).copied());
            let values = values.as_primitive::<Decimal128Type>();
            let nearest = |digits: i128| match power {
                Some(power) if digits.abs() <= EXACT_DIGITS => Ok(digits as f64 / power),
                _ => parsed::<f64>(digits, scale),
            };
            Some(floats::<_, Float64Type>(values, nearest)?)
        }
        (DataType::Decimal128(..), DataType::Float32) => {
            let values = values.as_primitive::<Decimal128Type>();
            Some(floats::<_, Float32Type>(values, |digits| parsed::<f32>(digits, scale))?)
        }
        (_, DataType::Float64) => {
            let values = values.as_primitive::<Decimal256Type>();
            Some(floats::<_, Float64Type>(values, |digits| parsed::<f64>(digits, scale))?)
        }
        (_, DataType::Float32) => {
            let values = values.as_primitive::<Decimal256Type>();
            Some(floats::<_, Float32Type>(values, |digits| parsed::<f32>(digits, scale))?)
        }
        _ => None,
    })
}

fn floats<F: ArrowPrimitiveType, T: ArrowPrimitiveType>(
    values: &PrimitiveArray<F>,
    nearest: impl Fn(F::Native) -> Result<T::Native, ArrowError>,
) -> Result<ArrayRef, ArrowError> {
    Ok(Arc::new(values.try_unary::<_, T, _>(nearest)?))
}

/// `digits` with the point `scale` places from their end.
fn parsed<T: FromStr + Into<f64> + Copy>(digits: impl ToString, scale: i8) -> Result<T, ArrowError> {
    let text = format!("{}e{}", digits.to_string(), -i16::from(scale));
    let value = text.parse::<T>().ok().filter(|value| (*value).into().is_finite());
    value.ok_or_else(|| ArrowError::CastError(format!("{text} is out of range")))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Decimal128Array, Decimal256Array};
    use datafusion::arrow::datatypes::i256;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn decimals_become_what_their_texts_are_read_as(digits in any::<i128>(), shift in 0u32..120, scale in 0i8..38) {
            let digits = (digits >> shift) % 10_i128.pow(38);
            let values = Decimal128Array::from(vec![Some(digits), None]).with_precision_and_scale(38, scale).unwrap();
            let text = format!("{digits}e-{scale}");
            let found = nearest_floats(&values, &DataType::Float64).unwrap().unwrap();
            prop_assert_eq!(found.as_primitive::<Float64Type>().value(0), text.parse::<f64>().unwrap());
            prop_assert!(found.is_null(1));
            let found = nearest_floats(&values, &DataType::Float32).unwrap().unwrap();
            prop_assert_eq!(found.as_primitive::<Float32Type>().value(0), text.parse::<f32>().unwrap());
        }
    }

    #[test]
    fn what_is_too_large_is_no_infinity() {
        let large = i256::from_string(&format!("12{}", "0".repeat(58))).unwrap();
        let values = Decimal256Array::from(vec![large]).with_precision_and_scale(76, 0).unwrap();
        assert!(nearest_floats(&values, &DataType::Float32).is_err());
        let found = nearest_floats(&values, &DataType::Float64).unwrap().unwrap();
        assert_eq!(found.as_primitive::<Float64Type>().value(0), 1.2e59);
    }
}
