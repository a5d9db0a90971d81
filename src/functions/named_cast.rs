//! Casts that say which they are when they fail.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::internal_err;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::checked_tree::as_written;
use super::written::written;
use crate::text::nearest_floats;
use crate::types::sql_type_name;

/// `cast` of values of type `from` as one that names itself in its errors; `None` if it does not fail, or is of a
/// constant, whose place in the script is known.
pub(crate) fn named_cast(cast: &Cast, from: &DataType) -> Option<Expr> {
    let to = cast.field.data_type();
    if !may_fail(from, to) || cast.expr.column_refs().is_empty() || !cast.field.metadata().is_empty() {
        return None;
    }
    let text = format!("CAST({} AS {})", written(&as_written(&cast.expr)), sql_type_name(to));
    let signature = Signature::any(1, Volatility::Immutable);
    let function = NamedCast { text, data_type: to.clone(), signature };
    Some(ScalarUDF::new_from_impl(function).call(vec![cast.expr.as_ref().clone()]))
}

/// The cast that names itself as `expr`, as DataFusion knows it; `None` for what is none.
pub(crate) fn unnamed_cast(expr: &Expr) -> Option<Expr> {
    let Expr::ScalarFunction(call) = expr else { return None };
    call.func.inner().downcast_ref::<NamedCast>()?.plain(&call.args).ok()
}

/// Whether there are values of `from` that are not cast to `to`, of the casts to numbers and truth values; also where
/// Arrow gives another number than the nearest.
fn may_fail(from: &DataType, to: &DataType) -> bool {
    let is_number = |data_type: &DataType| data_type.is_numeric() && !data_type.is_floating();
    match from {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            to.is_numeric() || *to == DataType::Boolean
        }
        from if from.is_floating() => is_number(to),
        from if from.is_integer() && to.is_integer() => {
            let width = |data_type: &DataType| data_type.primitive_width().unwrap_or_default();
            let gains_sign = from.is_unsigned_integer() && to.is_signed_integer();
            let keeps_sign = from.is_signed_integer() == to.is_signed_integer();
            !((keeps_sign && width(from) <= width(to)) || (gains_sign && width(from) < width(to)))
        }
        from => from.is_decimal() && (to.is_integer() || is_float(to)),
    }
}

fn is_float(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Float32 | DataType::Float64)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct NamedCast {
    /// The expression as the user knows it.
    text: String,
    data_type: DataType,
    signature: Signature,
}

impl NamedCast {
    /// The same expression as DataFusion has it, for its names.
    fn plain(&self, args: &[Expr]) -> DataFusionResult<Expr> {
        match args {
            [value] => Ok(Expr::Cast(Cast::new(Box::new(value.clone()), self.data_type.clone()))),
            _ => internal_err!("{} with {} arguments", self.name(), args.len()),
        }
    }

    fn failed(&self, error: &DataFusionError) -> DataFusionError {
        let detail = error.find_root().message();
        let detail = detail.rsplit(" error: ").next().unwrap_or_default();
        DataFusionError::Execution(format!(
            "{}: {detail}. TRY_CAST gives null instead; or leave such rows out by WHERE",
            self.text
        ))
    }
}

impl ScalarUDFImpl for NamedCast {
    fn name(&self) -> &str {
        "named_cast"
    }

    fn schema_name(&self, args: &[Expr]) -> DataFusionResult<String> {
        Ok(self.plain(args)?.schema_name().to_string())
    }

    fn display_name(&self, args: &[Expr]) -> DataFusionResult<String> {
        Ok(self.plain(args)?.to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(self.data_type.clone())
    }

    /// As casts do, it hands on what is known of the column.
    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        match args.arg_fields {
            [field] => {
                let cast = Field::new(field.name(), self.data_type.clone(), field.is_nullable());
                Ok(Arc::new(cast.with_metadata(field.metadata().clone())))
            }
            fields => internal_err!("{} with {} arguments", self.name(), fields.len()),
        }
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn evaluate_bounds(&self, _: &[&Interval]) -> DataFusionResult<Interval> {
        Interval::make_unbounded(&self.data_type)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Array(values)] if is_float(&self.data_type) => {
                let nearest = nearest_floats(values.as_ref(), &self.data_type);
                match nearest.map_err(|error| self.failed(&error.into()))? {
                    Some(floats) => Ok(ColumnarValue::Array(floats)),
                    None => args.args[0].cast_to(&self.data_type, None).map_err(|error| self.failed(&error)),
                }
            }
            [value] => value.cast_to(&self.data_type, None).map_err(|error| self.failed(&error)),
            args => internal_err!("{} with {} arguments", self.name(), args.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_casts_that_lose_something_may_fail() {
        use DataType::{Boolean, Float32, Float64, Int16, Int32, Int64, UInt32, UInt64, Utf8};
        for (from, to, fails) in [
            (Utf8, Int32, true),
            (Utf8, Boolean, true),
            (Float64, Int64, true),
            (Float64, Float32, false),
            (Int64, Int32, true),
            (Int16, Int32, false),
            (Int32, Int32, false),
            (Int32, UInt64, true),
            (UInt32, Int64, false),
            (UInt64, Int64, true),
            (Int32, Utf8, false),
            (DataType::Decimal128(10, 2), Int32, true),
            (DataType::Decimal128(10, 2), Float64, true),
            (Int32, Float64, false),
        ] {
            assert_eq!(may_fail(&from, &to), fails, "{from} to {to}");
        }
    }
}
