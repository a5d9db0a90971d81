//! One value for both zeros: `-0.0` becomes `0.0`. And one order: NaN, of whatever sign, is the largest value.

use std::cmp::Ordering;
use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, FixedSizeListArray, GenericListArray, MapArray,
    OffsetSizeTrait, PrimitiveArray, StructArray, make_array,
};
use datafusion::arrow::datatypes::{DataType, FieldRef, Float16Type, Float32Type, Float64Type};
use datafusion::common::{internal_err, plan_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

static CANONICAL: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| Canonical::function(false));
static ORDERED: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| Canonical::function(true));

/// `value` with every zero in it positive.
pub(crate) fn canonical(value: Expr) -> Expr {
    match &value {
        Expr::ScalarFunction(call) if call.func.inner().is::<Canonical>() => value,
        _ => CANONICAL.call(vec![value]),
    }
}

/// `value` with every zero in it positive, and every NaN: the processor makes negative ones, which come before
/// all numbers where bits are compared.
pub(crate) fn ordered(value: Expr) -> Expr {
    match &value {
        Expr::ScalarFunction(call)
            if call.func.inner().downcast_ref::<Canonical>().is_some_and(|function| function.is_ordered) =>
        {
            value
        }
        _ => ORDERED.call(vec![value]),
    }
}

/// `values` as what others come before or after: every zero in them positive, and every NaN.
pub(crate) fn ordered_values(values: &ArrayRef) -> DataFusionResult<ArrayRef> {
    canonical_values(values, true)
}

/// Whether there are floats in values of `data_type`.
pub(crate) fn has_floats(data_type: &DataType) -> bool {
    match data_type {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => true,
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            has_floats(item.data_type())
        }
        DataType::Map(entries, _) => has_floats(entries.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_floats(field.data_type())),
        DataType::Dictionary(_, value) => has_floats(value),
        _ => false,
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Canonical {
    /// Whether NaN is positive, too.
    is_ordered: bool,
    signature: Signature,
}

impl Canonical {
    fn function(is_ordered: bool) -> Arc<ScalarUDF> {
        let signature = Signature::any(1, Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(Canonical { is_ordered, signature }))
    }

    fn of(&self, values: &ArrayRef) -> DataFusionResult<ArrayRef> {
        canonical_values(values, self.is_ordered)
    }
}

impl ScalarUDFImpl for Canonical {
    fn name(&self) -> &str {
        "canonical"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> DataFusionResult<DataType> {
        match types {
            [data_type] => Ok(data_type.clone()),
            _ => plan_err!("canonical takes one argument"),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        match args.arg_fields {
            [field] => Ok(Arc::clone(field)),
            _ => plan_err!("canonical takes one argument"),
        }
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn evaluate_bounds(&self, input: &[&Interval]) -> DataFusionResult<Interval> {
        match input {
            [values] => Interval::make_unbounded(&values.data_type()),
            _ => internal_err!("canonical takes one argument"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Array(values)] => Ok(ColumnarValue::Array(self.of(values)?)),
            [ColumnarValue::Scalar(value)] => {
                let values = self.of(&value.to_array()?)?;
                Ok(ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(&values, 0)?))
            }
            _ => internal_err!("canonical takes one argument"),
        }
    }
}

/// `values` with every zero in them positive; also every NaN, if they are to be ordered.
fn canonical_values(values: &ArrayRef, is_ordered: bool) -> DataFusionResult<ArrayRef> {
    if !has_floats(values.data_type()) {
        return Ok(Arc::clone(values));
    }
    Ok(match values.data_type() {
        DataType::Float16 => {
            floats::<Float16Type>(values, is_ordered, |value| F16::from_bits(value.to_bits() & 0x7fff))
        }
        DataType::Float32 => floats::<Float32Type>(values, is_ordered, f32::abs),
        DataType::Float64 => floats::<Float64Type>(values, is_ordered, f64::abs),
        DataType::List(item) => list::<i32>(values, item, is_ordered)?,
        DataType::LargeList(item) => list::<i64>(values, item, is_ordered)?,
        DataType::FixedSizeList(item, size) => {
            let list = values.as_fixed_size_list();
            let items = canonical_values(list.values(), is_ordered)?;
            Arc::new(FixedSizeListArray::try_new(Arc::clone(item), *size, items, list.nulls().cloned())?)
        }
        DataType::Struct(_) => Arc::new(structs(values.as_struct(), is_ordered)?),
        DataType::Map(field, sorted) => {
            let map = values.as_map();
            let entries = structs(map.entries(), is_ordered)?;
            let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
            Arc::new(MapArray::try_new(Arc::clone(field), offsets, entries, nulls, *sorted)?)
        }
        DataType::Dictionary(_, _) => {
            // Two entries may have become equal; what is computed of the values does not mind.
            let dictionary = values.as_any_dictionary();
            dictionary.with_values(canonical_values(dictionary.values(), is_ordered)?)
        }
        _ => make_array(values.to_data()),
    })
}

type F16 = <Float16Type as ArrowPrimitiveType>::Native;

fn floats<T: ArrowPrimitiveType>(
    values: &ArrayRef,
    is_ordered: bool,
    without_sign: impl Fn(T::Native) -> T::Native,
) -> ArrayRef {
    let (values, zero): (&PrimitiveArray<T>, _) = (values.as_primitive(), T::Native::default());
    // Compared as numbers, not bit by bit: both zeros are equal.
    Arc::new(values.unary::<_, T>(|value| match value.partial_cmp(&zero) {
        Some(Ordering::Equal) => zero,
        None if is_ordered => without_sign(value),
        _ => value,
    }))
}

fn list<O: OffsetSizeTrait>(
    values: &ArrayRef,
    item: &FieldRef,
    is_ordered: bool,
) -> DataFusionResult<ArrayRef> {
    let list = values.as_list::<O>();
    let items = canonical_values(list.values(), is_ordered)?;
    let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
    Ok(Arc::new(GenericListArray::<O>::try_new(Arc::clone(item), offsets, items, nulls)?))
}

fn structs(values: &StructArray, is_ordered: bool) -> DataFusionResult<StructArray> {
    let columns = values.columns().iter().map(|column| canonical_values(column, is_ordered));
    let columns = columns.collect::<DataFusionResult<Vec<_>>>()?;
    Ok(StructArray::try_new(values.fields().clone(), columns, values.nulls().cloned())?)
}
