//! The state of processors as columns: a row for each value, element and entry.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, StringArray, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::arrow::util::display::array_value_to_string;
use serde_json::Value;

use crate::checkpoint::records::OperatorDefinition;
use crate::error::Result;
use crate::exec::codec::RowCodec;
use crate::exec::processor::encoding::text;
use crate::exec::processor::{LIST, MAP, ROWS, SmallRow, VALUE, variable_number};
use crate::state::{NEVER, RowBytes, StateRows};

/// The state variables of a processor, by number.
#[derive(Debug)]
pub(super) struct ProcessorState(BTreeMap<u32, Variable>);

#[derive(Debug)]
struct Variable {
    name: String,
    kind: String,
    /// Of rows, the columns.
    rows: Option<(Vec<Field>, RowCodec)>,
}

/// The columns behind those of the key.
pub(super) fn fields() -> Vec<Field> {
    ["variable", "element", "value"].map(|name| Field::new(name, DataType::Utf8, true)).to_vec()
}

/// Things that are in state.
#[derive(Debug, Default)]
pub(super) struct Things {
    /// Of which of the rows of state each is.
    pub(super) rows: Vec<usize>,
    variables: Vec<String>,
    elements: Vec<Option<String>>,
    values: Vec<String>,
    expiries: Vec<Option<i64>>,
}

impl Things {
    fn push(
        &mut self,
        row: usize,
        variable: &str,
        element: Option<String>,
        value: String,
        expiry: Option<i64>,
    ) {
        self.rows.push(row);
        self.variables.push(variable.to_string());
        self.elements.push(element);
        self.values.push(value);
        self.expiries.push(expiry.filter(|expiry| *expiry != NEVER));
    }

    /// The columns of [`fields`], and when they expire.
    pub(super) fn columns(self) -> Vec<ArrayRef> {
        vec![
            Arc::new(StringArray::from_iter_values(self.variables)),
            Arc::new(StringArray::from_iter(self.elements)),
            Arc::new(StringArray::from_iter_values(self.values)),
            Arc::new(self.expiries.into_iter().collect::<TimestampMicrosecondArray>()),
        ]
    }
}

impl ProcessorState {
    /// Those that a checkpoint's metadata defines.
    ///
    /// # Errors
    /// If it names a type that there is not.
    pub(super) fn of(
        definition: &OperatorDefinition,
        fields: impl Fn(Option<&Value>) -> Result<Vec<Field>>,
    ) -> Result<Self> {
        let mut variables = BTreeMap::new();
        let declared = definition.details.get("variables").and_then(Value::as_array);
        for variable in declared.into_iter().flatten() {
            let text = |key: &str| variable[key].as_str().unwrap_or_default().to_string();
            let (name, kind) = (text("name"), text("kind"));
            let rows = match kind.as_str() {
                ROWS => {
                    let columns = fields(variable.get("columns"))?;
                    let codec = RowCodec::values(&columns)?;
                    Some((columns, codec))
                }
                _ => None,
            };
            variables.insert(variable_number(&name), Variable { name, kind, rows });
        }
        Ok(Self(variables))
    }

    /// What there is in these rows.
    ///
    /// # Errors
    /// If the bytes are not what a processor keeps.
    pub(super) fn things(&self, rows: &StateRows, which: Range<usize>) -> Result<Things> {
        let mut things = Things::default();
        for (row, index) in which.enumerate() {
            let (subkey, value) = (rows.subkeys.row(index), rows.values.row(index));
            let Some((number, element)) = subkey.split_first_chunk::<4>() else {
                for small in SmallRow::decode(value, i64::MIN)?.things() {
                    // Of a list it says where it goes on, which is nobody's business.
                    if let Some(variable) = self.0.get(&small.variable).filter(|it| it.kind == VALUE) {
                        things.push(row, &variable.name, None, text(&small.bytes), Some(small.expiry));
                    }
                }
                continue;
            };
            let Some(variable) = self.0.get(&u32::from_be_bytes(*number)) else { continue };
            let element = match variable.kind.as_str() {
                MAP => text(element),
                LIST | ROWS => {
                    element.try_into().map_or_else(|_| "?".into(), |it| u64::from_be_bytes(it).to_string())
                }
                _ => continue,
            };
            let value = match &variable.rows {
                Some((columns, codec)) => row_text(columns, &codec.decode([value])?)?,
                None => text(value),
            };
            things.push(row, &variable.name, Some(element), value, rows.expiries[index]);
        }
        Ok(things)
    }
}

fn row_text(fields: &[Field], columns: &[ArrayRef]) -> Result<String> {
    let value = |(field, column): (&Field, &ArrayRef)| {
        let value = if column.is_null(0) { "null".into() } else { array_value_to_string(column, 0)? };
        Ok(format!("{}:{value}", field.name()))
    };
    let values = fields.iter().zip(columns).map(value).collect::<Result<Vec<_>>>()?;
    Ok(format!("{{{}}}", values.join(",")))
}
