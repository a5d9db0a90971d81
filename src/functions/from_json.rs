//! `from_json(text, 'a INT, b ARRAY<STRING>')`: JSON in a column of text as values with types.

use std::sync::Arc;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{exec_err, internal_err, plan_datafusion_err, plan_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::ddl::parse_type;
use super::on_arrays::on_arrays;
use crate::source::file::JsonValues;

/// The function.
pub(crate) fn from_json() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::from(FromJson { signature: Signature::any(2, Volatility::Immutable) }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct FromJson {
    signature: Signature,
}

impl ScalarUDFImpl for FromJson {
    fn name(&self) -> &str {
        "from_json"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        internal_err!("the type of from_json follows from its second argument")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        if let Some(text) = args.arg_fields.first()
            && !text.data_type().is_string()
            && !text.data_type().is_null()
        {
            return plan_err!("from_json reads JSON from text, not from {}", text.data_type());
        }
        let schema = args.scalar_arguments.get(1).copied().flatten();
        let Some(Some(schema)) = schema.map(|schema| schema.try_as_str().flatten()) else {
            return plan_err!(
                "the second argument of from_json says what the JSON holds, such as 'user STRING, tags ARRAY<STRING>'"
            );
        };
        let data_type = parse_type(schema).map_err(|reason| {
            plan_datafusion_err!(
                "'{schema}' does not say what from_json is to read: {reason}. Write it as \
                 'user STRING, tags ARRAY<STRING>'"
            )
        })?;
        if JsonValues::new(&data_type).is_none() {
            return plan_err!("from_json cannot read {data_type}");
        }
        Ok(Arc::new(Field::new(self.name(), data_type, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let Some(texts) = args.args.first() else { return internal_err!("from_json without arguments") };
        let data_type = args.return_field.data_type();
        on_arrays(texts, |texts| {
            let Some(mut values) = JsonValues::new(data_type) else {
                return exec_err!("from_json cannot read {data_type}");
            };
            let texts = cast(texts, &DataType::Utf8)?;
            texts.as_string::<i32>().iter().for_each(|text| values.push(text));
            Ok(values.finish()?)
        })
    }
}
