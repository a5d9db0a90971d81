//! Functions of arrays, for scalars too.

use datafusion::arrow::array::ArrayRef;
use datafusion::common::ScalarValue;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::ColumnarValue;

/// `f` of an array, or of a scalar as an array of one.
pub(super) fn on_arrays(
    value: &ColumnarValue,
    f: impl Fn(&ArrayRef) -> DataFusionResult<ArrayRef>,
) -> DataFusionResult<ColumnarValue> {
    match value {
        ColumnarValue::Array(array) => Ok(ColumnarValue::Array(f(array)?)),
        ColumnarValue::Scalar(scalar) => {
            let result = f(&scalar.to_array()?)?;
            Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?))
        }
    }
}
