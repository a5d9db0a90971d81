//! Casts that say which they are when they fail.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::{cast, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::common::format::DEFAULT_CAST_OPTIONS;
use datafusion::common::internal_err;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::checked_tree::as_written;
use super::on_arrays::on_arrays;
use super::written::written;
use crate::text::{nearest_floats, texts_of_times};
use crate::types::sql_type_name;

/// `cast` of values of type `from` as one that names itself in its errors; `None` if it gives what it should, or
/// fails and is of a constant, whose place in the script is known.
pub(crate) fn named_cast(cast: &Cast, from: &DataType) -> Option<Expr> {
    let to = cast.field.data_type();
    let is_constant = cast.expr.column_refs().is_empty();
    // Queries of earlier releases go on with columns of doubles that are infinite as floats.
    let is_infinite = may_be_infinite(from, to) && (is_constant || is_text(from));
    let is_wrong = is_infinite || has_other_text(from, to);
    if !(is_wrong || (may_fail(from, to) && !is_constant)) || !cast.field.metadata().is_empty() {
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
        from if is_text(from) => to.is_numeric() || *to == DataType::Boolean,
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

/// Whether there are numbers in `from` that DataFusion casts to infinity in `to`.
fn may_be_infinite(from: &DataType, to: &DataType) -> bool {
    is_float(to) && (is_text(from) || (*from == DataType::Float64 && *to == DataType::Float32))
}

/// Whether DataFusion casts values of `from` to texts of `to` that say something else.
fn has_other_text(from: &DataType, to: &DataType) -> bool {
    let is_zone = |zone: &str| zone != "UTC" && zone.starts_with(|first: char| first.is_ascii_alphabetic());
    let is_other = match from {
        DataType::Timestamp(_, Some(zone)) => is_zone(zone),
        from => *from == DataType::Date64,
    };
    is_other && is_text(to)
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
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

    /// `values`, cast.
    fn cast(&self, values: &ArrayRef) -> DataFusionResult<ArrayRef> {
        if is_float(&self.data_type)
            && let Some(floats) = nearest_floats(values.as_ref(), &self.data_type)?
        {
            return Ok(floats);
        }
        if is_text(&self.data_type)
            && let Some(texts) = texts_of_times(values)?
        {
            return Ok(cast(&texts, &self.data_type)?);
        }
        let result = cast_with_options(values, &self.data_type, &DEFAULT_CAST_OPTIONS)?;
        if is_float(&self.data_type) {
            self.check_finite(values, &result)?;
        }
        Ok(result)
    }

    /// Fails where a number has become infinity.
    fn check_finite(&self, values: &ArrayRef, result: &ArrayRef) -> DataFusionResult<()> {
        let wide = cast(result, &DataType::Float64)?;
        let is_infinite =
            |row: &usize| wide.is_valid(*row) && wide.as_primitive::<Float64Type>().value(*row).is_infinite();
        for row in (0..wide.len()).filter(is_infinite) {
            let value = array_value_to_string(values, row)?;
            if value.bytes().any(|byte| byte.is_ascii_digit()) {
                let name = sql_type_name(&self.data_type);
                return Err(DataFusionError::Execution(format!(
                    "{}: {value} is out of the range of {name}. Leave such rows out by WHERE",
                    self.text
                )));
            }
        }
        Ok(())
    }

    fn failed(&self, error: DataFusionError) -> DataFusionError {
        if matches!(&error, DataFusionError::Execution(text) if text.starts_with(&self.text)) {
            return error;
        }
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
            [value] if is_float(&self.data_type) || is_text(&self.data_type) => {
                on_arrays(value, |values| self.cast(values).map_err(|error| self.failed(error)))
            }
            [value] => value.cast_to(&self.data_type, None).map_err(|error| self.failed(error)),
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
            (Float64, Float64, false),
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
