//! Columns that must not be null.

use std::sync::Arc;

use datafusion::arrow::array::Array;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{exec_err, internal_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// `value`, which fails where it is null: it goes into the column `column`, which is `NOT NULL`.
pub(crate) fn required(value: Expr, column: &str) -> Expr {
    // Volatile, so that a null that is constant fails when rows come, as others do.
    let signature = Signature::any(1, Volatility::Volatile);
    ScalarUDF::new_from_impl(Required { column: column.to_string(), signature }).call(vec![value])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Required {
    column: String,
    signature: Signature,
}

impl ScalarUDFImpl for Required {
    fn name(&self) -> &str {
        "required"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        internal_err!("the type of required follows from its argument")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        match args.arg_fields.first() {
            Some(field) => Ok(Arc::new(Field::clone(field).with_nullable(false))),
            None => internal_err!("required without a value"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let Some(value) = args.args.into_iter().next() else {
            return internal_err!("required without a value");
        };
        let nulls = match &value {
            ColumnarValue::Array(array) => array.logical_null_count(),
            ColumnarValue::Scalar(scalar) if scalar.is_null() => args.number_rows,
            ColumnarValue::Scalar(_) => 0,
        };
        if nulls > 0 {
            let rows = if nulls == 1 { "a row" } else { "rows" };
            return exec_err!(
                "column '{}' of the target is NOT NULL, but the query gives {rows} in which it is null: leave \
                 them out with WHERE … IS NOT NULL, give a value with coalesce(…, …), or declare the column \
                 without NOT NULL",
                self.column
            );
        }
        Ok(value)
    }
}
