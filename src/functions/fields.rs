//! Fields of structs that are null.
//!
//! DataFusion's `get_field` and `unnest` give what lies below a null struct, such as 0 or an empty text,
//! instead of null (apache/datafusion, `functions/src/core/getfield.rs` and the physical `UnnestExec`).

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, StructArray, make_array};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::functions::core::get_field;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::on_arrays::on_arrays;

static NULL_SAFE_FIELD: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(NullSafeField { inner: get_field() })));
static NULL_FIELDS: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
    Arc::new(ScalarUDF::new_from_impl(NullFields { signature: Signature::any(1, Volatility::Immutable) }))
});

/// What is to be called instead of `function`, if that is DataFusion's `get_field`.
pub(crate) fn null_safe_field(function: &Arc<ScalarUDF>) -> Option<Arc<ScalarUDF>> {
    (*function == get_field()).then(|| Arc::clone(&NULL_SAFE_FIELD))
}

/// `value`, which is a struct: where it is null, its fields are, too.
pub(crate) fn null_fields(value: Expr) -> Expr {
    NULL_FIELDS.call(vec![value])
}

/// `get_field`, which gives null for a field of null. It is planned and named like the original, but
/// stays where it is in a plan: below, others would read the field.
#[derive(Debug, PartialEq, Eq, Hash)]
struct NullSafeField {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for NullSafeField {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn schema_name(&self, args: &[Expr]) -> DataFusionResult<String> {
        self.inner.inner().schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> DataFusionResult<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, types: &[DataType]) -> DataFusionResult<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let Some((base, path)) = args.args.split_first() else {
            return internal_err!("get_field without arguments");
        };
        let field = |value: ColumnarValue, name: &ColumnarValue| {
            let args = ScalarFunctionArgs { args: vec![value, name.clone()], ..args.clone() };
            self.inner.invoke_with_args(args)
        };
        on_arrays(base, |base| {
            let mut value = Arc::clone(base);
            let mut nulls: Option<NullBuffer> = None;
            for name in path {
                nulls = NullBuffer::union(nulls.as_ref(), value.nulls());
                value = match field(ColumnarValue::Array(Arc::clone(&value)), name)? {
                    ColumnarValue::Array(array) => array,
                    ColumnarValue::Scalar(scalar) => scalar.to_array_of_size(value.len())?,
                };
            }
            masked(&value, nulls)
        })
    }
}

/// A struct whose fields are null where it is.
#[derive(Debug, PartialEq, Eq, Hash)]
struct NullFields {
    signature: Signature,
}

impl ScalarUDFImpl for NullFields {
    fn name(&self) -> &str {
        "null_fields"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        internal_err!("the type of null_fields follows from its argument")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        let Some(field) = args.arg_fields.first() else {
            return internal_err!("null_fields without a struct");
        };
        let DataType::Struct(fields) = field.data_type() else { return Ok(Arc::clone(field)) };
        let nullable = |child: &FieldRef| -> FieldRef {
            Arc::new(child.as_ref().clone().with_nullable(child.is_nullable() || field.is_nullable()))
        };
        let fields: Vec<FieldRef> = fields.iter().map(nullable).collect();
        Ok(Arc::new(Field::clone(field).with_data_type(DataType::Struct(fields.into()))))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let Some(value) = args.args.first() else { return internal_err!("null_fields without a struct") };
        let DataType::Struct(fields) = args.return_field.data_type() else { return Ok(value.clone()) };
        on_arrays(value, |array| {
            let Some(array) = array.as_struct_opt() else {
                return internal_err!("null_fields takes a struct, not {}", array.data_type());
            };
            let columns = array.columns().iter().map(|column| masked(column, array.nulls().cloned()));
            let columns = columns.collect::<DataFusionResult<Vec<_>>>()?;
            Ok(Arc::new(StructArray::try_new_with_length(
                fields.clone(),
                columns,
                array.nulls().cloned(),
                array.len(),
            )?))
        })
    }
}

/// `array`, null where `nulls` says so, too.
fn masked(array: &ArrayRef, nulls: Option<NullBuffer>) -> DataFusionResult<ArrayRef> {
    let Some(nulls) = nulls.filter(|nulls| nulls.null_count() > 0) else { return Ok(Arc::clone(array)) };
    match array.data_type() {
        DataType::Null => Ok(Arc::clone(array)),
        // They have no nulls of their own: row by row.
        DataType::Union(_, _) | DataType::RunEndEncoded(_, _) => {
            let null = ScalarValue::try_new_null(array.data_type())?;
            let value = |row| match nulls.is_null(row) {
                true => Ok(null.clone()),
                false => ScalarValue::try_from_array(array, row),
            };
            let values = (0..array.len()).map(value).collect::<DataFusionResult<Vec<_>>>()?;
            ScalarValue::iter_to_array(values)
        }
        _ => {
            let nulls = NullBuffer::union(array.nulls(), Some(&nulls));
            Ok(make_array(array.to_data().into_builder().nulls(nulls).build()?))
        }
    }
}
