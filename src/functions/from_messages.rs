//! `from_avro(bytes, schema)` and `from_protobuf(bytes, message, file)`: messages in a column of bytes as structs.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BinaryArray, StructArray, UInt32Array};
use datafusion::arrow::compute::{cast, take};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use datafusion::common::{ScalarValue, exec_err, internal_err, plan_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature,
    Volatility,
};

use super::on_arrays::on_arrays;
use crate::error::Result;
use crate::options::Options;
use crate::source::MessageFormat;

/// What the messages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    #[cfg(feature = "avro")]
    Avro,
    Protobuf,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "avro")]
            Kind::Avro => "from_avro",
            Kind::Protobuf => "from_protobuf",
        }
    }

    /// The options of the format that the arguments behind the first stand for.
    fn parameters(self) -> &'static [&'static str] {
        match self {
            #[cfg(feature = "avro")]
            Kind::Avro => &["avroSchema"],
            Kind::Protobuf => &["messageName", "descFilePath"],
        }
    }

    fn signature(self) -> &'static str {
        match self {
            #[cfg(feature = "avro")]
            Kind::Avro => "from_avro(bytes, '{\"type\":\"record\",…}')",
            Kind::Protobuf => "from_protobuf(bytes, 'shop.Click', 'shop.desc')",
        }
    }

    /// How messages are read that the arguments describe.
    fn format(self, described: &Options) -> Result<Messages> {
        let (format, columns, is_value) = match self {
            #[cfg(feature = "avro")]
            Kind::Avro => {
                let schema = described.get("avroSchema").unwrap_or_default();
                let columns = MessageFormat::columns_of_avro(schema)?;
                let schema: serde_json::Value = serde_json::from_str(schema).unwrap_or_default();
                ("avro", columns, schema["type"] != "record")
            }
            Kind::Protobuf => ("protobuf", MessageFormat::columns_of_protobuf(described)?, false),
        };
        let mut options = described.clone();
        // Where those are that are malformed is told then, and they are null here.
        options.set("mode", "DROPMALFORMED");
        let session = SessionStateBuilder::new().build();
        let tolerant = MessageFormat::try_new(format, &columns, &options, &session)?;
        options.take("mode");
        let strict = MessageFormat::try_new(format, &columns, &options, &session)?;
        Ok(Messages { columns: Arc::clone(strict.schema()), strict, tolerant, is_value })
    }
}

/// How messages are read.
struct Messages {
    columns: SchemaRef,
    strict: MessageFormat,
    tolerant: MessageFormat,
    /// Whether a message is its only column, and no struct of it.
    is_value: bool,
}

impl Messages {
    fn data_type(&self) -> DataType {
        if self.is_value {
            self.columns.field(0).data_type().clone()
        } else {
            DataType::Struct(self.columns.fields().clone())
        }
    }

    fn read(&self, messages: &BinaryArray, is_tolerant: bool) -> Result<ArrayRef> {
        let format = if is_tolerant { &self.tolerant } else { &self.strict };
        let all: Vec<usize> = (0..self.columns.fields().len()).collect();
        let read = format.reader(&all)?.read(messages, |row| format!("row {row} of a batch"))?;
        let mut dropped = read.dropped.iter().peekable();
        let mut next = 0_u32;
        let places = (0..messages.len()).map(|row| {
            if dropped.next_if(|dropped| **dropped == row).is_some() {
                return None;
            }
            next += 1;
            messages.is_valid(row).then_some(next - 1)
        });
        let places: UInt32Array = places.collect();
        let columns = read.rows.columns().iter().map(|column| take(column.as_ref(), &places, None));
        let columns = columns.collect::<std::result::Result<Vec<_>, _>>()?;
        if let (true, [value]) = (self.is_value, columns.as_slice()) {
            return Ok(Arc::clone(value));
        }
        let nulls = places.nulls().cloned();
        let fields = self.columns.fields().clone();
        Ok(Arc::new(StructArray::try_new_with_length(fields, columns, nulls, messages.len())?))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct FromMessages {
    kind: Kind,
    signature: Signature,
}

/// The functions.
pub(crate) fn message_functions() -> Vec<Arc<ScalarUDF>> {
    let kinds = [
        #[cfg(feature = "avro")]
        Kind::Avro,
        Kind::Protobuf,
    ];
    let function = |kind: Kind| {
        let arguments = 1 + kind.parameters().len();
        let counts = vec![TypeSignature::Any(arguments), TypeSignature::Any(arguments + 1)];
        Arc::new(ScalarUDF::from(FromMessages {
            kind,
            signature: Signature::one_of(counts, Volatility::Stable),
        }))
    };
    kinds.into_iter().map(function).collect()
}

impl FromMessages {
    /// What constant arguments say, if they all do.
    fn described<'a>(
        &self,
        constant: impl Fn(usize) -> Option<&'a ScalarValue>,
    ) -> DataFusionResult<Options> {
        let mut options = Options::default();
        for (index, name) in self.kind.parameters().iter().enumerate() {
            let Some(Some(value)) = constant(index + 1).map(|value| value.try_as_str().flatten()) else {
                return plan_err!(
                    "{} is called as {}: what describes the messages is constant text",
                    self.kind.name(),
                    self.kind.signature()
                );
            };
            options.set(*name, value);
        }
        Ok(options)
    }
}

impl ScalarUDFImpl for FromMessages {
    fn name(&self) -> &str {
        self.kind.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        internal_err!("the type of {} follows from what describes the messages", self.kind.name())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        if let Some(bytes) = args.arg_fields.first()
            && !bytes.data_type().is_binary()
            && !bytes.data_type().is_null()
        {
            return plan_err!("{} reads bytes, and not {}", self.kind.name(), bytes.data_type());
        }
        let options = self.described(|argument| args.scalar_arguments.get(argument).copied().flatten())?;
        let data_type = self.kind.format(&options)?.data_type();
        Ok(Arc::new(Field::new(self.name(), data_type, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let Some(bytes) = args.args.first() else {
            return internal_err!("{} without arguments", self.name());
        };
        let options = self.described(|argument| match args.args.get(argument) {
            Some(ColumnarValue::Scalar(value)) => Some(value),
            _ => None,
        })?;
        let is_tolerant = match args.args.get(1 + self.kind.parameters().len()) {
            Some(given) => is_tolerant(given, self.name())?,
            None => false,
        };
        let messages = self.kind.format(&options)?;
        on_arrays(bytes, |bytes| {
            let bytes = cast(bytes, &DataType::Binary)?;
            Ok(messages.read(bytes.as_binary(), is_tolerant)?)
        })
    }
}

/// Whether malformed messages are null, as the last argument says: `MAP {'mode': 'PERMISSIVE'}`.
fn is_tolerant(given: &ColumnarValue, function: &str) -> DataFusionResult<bool> {
    let array = match given {
        ColumnarValue::Scalar(value) => value.to_array()?,
        ColumnarValue::Array(array) if array.is_empty() => return Ok(false),
        ColumnarValue::Array(array) => array.slice(0, 1),
    };
    let Some(map) = array.as_map_opt() else {
        return exec_err!("the options of {function} are a map, such as MAP {{'mode': 'PERMISSIVE'}}");
    };
    let (keys, values) = (cast(map.keys(), &DataType::Utf8)?, cast(map.values(), &DataType::Utf8)?);
    let mut is_tolerant = false;
    for (key, value) in keys.as_string::<i32>().iter().zip(values.as_string::<i32>()) {
        let (key, value) = (key.unwrap_or_default(), value.unwrap_or_default());
        is_tolerant = match (key.to_ascii_lowercase().as_str(), value.to_ascii_uppercase().as_str()) {
            ("mode", "PERMISSIVE") => true,
            ("mode", "FAILFAST") => false,
            ("mode", _) => {
                return exec_err!("mode of {function} is PERMISSIVE or FAILFAST, and not '{value}'");
            }
            _ => return exec_err!("{function} has no option '{key}', but mode"),
        };
    }
    Ok(is_tolerant)
}
