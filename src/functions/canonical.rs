//! One value for both zeros: `-0.0` becomes `0.0`.

use std::cmp::Ordering;
use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, FixedSizeListArray, GenericListArray, MapArray,
    OffsetSizeTrait, PrimitiveArray, StructArray, make_array,
};
use datafusion::arrow::datatypes::{DataType, FieldRef, Float16Type, Float32Type, Float64Type};
use datafusion::common::{internal_err, plan_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

static CANONICAL: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
    let signature = Signature::any(1, Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(Canonical { signature }))
});

/// `value` with every zero in it positive.
pub(crate) fn canonical(value: Expr) -> Expr {
    match &value {
        Expr::ScalarFunction(call) if call.func.inner().is::<Canonical>() => value,
        _ => CANONICAL.call(vec![value]),
    }
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
    signature: Signature,
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

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Array(values)] => Ok(ColumnarValue::Array(canonical_array(values)?)),
            [ColumnarValue::Scalar(value)] => {
                let values = canonical_array(&value.to_array()?)?;
                Ok(ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(&values, 0)?))
            }
            _ => internal_err!("canonical takes one argument"),
        }
    }
}

/// `values` with every zero in them positive.
pub(crate) fn canonical_array(values: &ArrayRef) -> DataFusionResult<ArrayRef> {
    if !has_floats(values.data_type()) {
        return Ok(Arc::clone(values));
    }
    Ok(match values.data_type() {
        DataType::Float16 => floats::<Float16Type>(values),
        DataType::Float32 => floats::<Float32Type>(values),
        DataType::Float64 => floats::<Float64Type>(values),
        DataType::List(item) => list::<i32>(values, item)?,
        DataType::LargeList(item) => list::<i64>(values, item)?,
        DataType::FixedSizeList(item, size) => {
            let list = values.as_fixed_size_list();
            let items = canonical_array(list.values())?;
            Arc::new(FixedSizeListArray::try_new(Arc::clone(item), *size, items, list.nulls().cloned())?)
        }
        DataType::Struct(_) => Arc::new(structs(values.as_struct())?),
        DataType::Map(field, sorted) => {
            let map = values.as_map();
            let entries = structs(map.entries())?;
            let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
            Arc::new(MapArray::try_new(Arc::clone(field), offsets, entries, nulls, *sorted)?)
        }
        DataType::Dictionary(_, _) => {
            // Two entries may have become equal; what is computed of the values does not mind.
            let dictionary = values.as_any_dictionary();
            dictionary.with_values(canonical_array(dictionary.values())?)
        }
        _ => make_array(values.to_data()),
    })
}

fn floats<T: ArrowPrimitiveType>(values: &ArrayRef) -> ArrayRef {
    let (values, zero): (&PrimitiveArray<T>, _) = (values.as_primitive(), T::Native::default());
    // Compared as numbers, not bit by bit: both zeros are equal.
    Arc::new(
        values.unary::<_, T>(
            |value| if value.partial_cmp(&zero) == Some(Ordering::Equal) { zero } else { value },
        ),
    )
}

fn list<O: OffsetSizeTrait>(values: &ArrayRef, item: &FieldRef) -> DataFusionResult<ArrayRef> {
    let list = values.as_list::<O>();
    let items = canonical_array(list.values())?;
    let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
    Ok(Arc::new(GenericListArray::<O>::try_new(Arc::clone(item), offsets, items, nulls)?))
}

fn structs(values: &StructArray) -> DataFusionResult<StructArray> {
    let columns = values.columns().iter().map(canonical_array).collect::<DataFusionResult<Vec<_>>>()?;
    Ok(StructArray::try_new(values.fields().clone(), columns, values.nulls().cloned())?)
}
