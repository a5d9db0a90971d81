//! Functions that clients of PostgreSQL ask before anything else, and that `psql` looks around with.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::prelude::SessionContext;

/// The version of PostgreSQL whose clients are answered.
const POSTGRESQL: &str = "16.6";

/// Registers them.
pub(super) fn register(context: &SessionContext) {
    let version = format!("PostgreSQL {POSTGRESQL} (Tidemill {})", env!("CARGO_PKG_VERSION"));
    let text = |value: Option<String>| ScalarValue::Utf8(value);
    let yes = || ScalarValue::Boolean(Some(true));
    for (name, arguments, value) in [
        ("version", 0..=0, text(Some(version))),
        ("pg_function_is_visible", 1..=1, yes()),
        ("pg_type_is_visible", 1..=1, yes()),
        ("pg_operator_is_visible", 1..=1, yes()),
        ("pg_opclass_is_visible", 1..=1, yes()),
        ("pg_collation_is_visible", 1..=1, yes()),
        ("pg_get_function_result", 1..=1, text(None)),
        ("pg_get_function_arguments", 1..=1, text(None)),
        ("pg_get_function_identity_arguments", 1..=1, text(None)),
        ("pg_get_indexdef", 1..=3, text(None)),
        ("pg_get_viewdef", 1..=2, text(None)),
        ("obj_description", 1..=2, text(None)),
        ("col_description", 2..=2, text(None)),
        ("shobj_description", 2..=2, text(None)),
        ("to_regtype", 1..=1, ScalarValue::Int32(None)),
        ("pg_get_serial_sequence", 2..=2, text(None)),
        ("pg_table_size", 1..=1, ScalarValue::Int64(Some(0))),
        ("pg_indexes_size", 1..=1, ScalarValue::Int64(Some(0))),
    ] {
        context.register_udf(ScalarUDF::from(Always::new(name, arguments, value)));
    }
    context.register_udf(ScalarUDF::from(SizePretty { signature: Signature::any(1, Volatility::Immutable) }));
}

/// A function that gives the same whatever it is asked.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Always {
    name: &'static str,
    signature: Signature,
    value: ScalarValue,
}

impl Always {
    fn new(name: &'static str, arguments: std::ops::RangeInclusive<usize>, value: ScalarValue) -> Self {
        let kinds = arguments.map(|count| match count {
            0 => datafusion::logical_expr::TypeSignature::Nullary,
            count => datafusion::logical_expr::TypeSignature::Any(count),
        });
        Self { name, signature: Signature::one_of(kinds.collect(), Volatility::Stable), value }
    }
}

impl ScalarUDFImpl for Always {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.value.data_type())
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Scalar(self.value.clone()))
    }
}

/// `pg_size_pretty`: a number of bytes in words.
#[derive(Debug, PartialEq, Eq, Hash)]
struct SizePretty {
    signature: Signature,
}

impl ScalarUDFImpl for SizePretty {
    fn name(&self) -> &str {
        "pg_size_pretty"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(bytes) = args.args.first() else {
            return Err(DataFusionError::Plan("pg_size_pretty takes a number of bytes".into()));
        };
        let bytes = cast(&bytes.to_array(args.number_rows)?, &DataType::Int64)?;
        let texts: StringArray =
            bytes.as_primitive::<Int64Type>().iter().map(|bytes| bytes.map(size_pretty)).collect();
        Ok(ColumnarValue::Array(Arc::new(texts) as ArrayRef))
    }
}

fn size_pretty(bytes: i64) -> String {
    let mut left = bytes;
    for unit in ["bytes", "kB", "MB", "GB", "TB"] {
        if left.unsigned_abs() < 10 * 1024 {
            return format!("{left} {unit}");
        }
        left = (left + 512 * left.signum()) / 1024;
    }
    format!("{left} PB")
}

#[cfg(test)]
mod tests {
    use super::size_pretty;

    #[test]
    fn sizes_are_those_of_postgresql() {
        for (bytes, text) in
            [(0, "0 bytes"), (10_239, "10239 bytes"), (10_240, "10 kB"), (-20_000_000, "-19 MB")]
        {
            assert_eq!(size_pretty(bytes), text);
        }
    }
}
