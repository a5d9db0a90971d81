//! State as columns: what the bytes of an operator's rows stand for.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, TimestampMicrosecondArray, UInt64Array};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::record_batch::RecordBatch;
use serde::Deserialize;
use serde_json::Value;

use super::processor_state::{self, ProcessorState};
use crate::checkpoint::records::OperatorDefinition;
use crate::checkpoint::types::ColumnType;
use crate::error::{Error, Result};
use crate::exec::codec::RowCodec;
use crate::exec::processor::TRANSFORM;
use crate::state::{RowBytes, StateRows};
use crate::types::data_type;

/// How many rows are decoded at a time.
const ROWS_PER_BATCH: usize = 8192;

/// The columns of the rows that an operator remembers: those of the key, those of the value, and when
/// the row is forgotten.
#[derive(Debug)]
pub(super) struct StateColumns {
    schema: SchemaRef,
    /// How many columns are the key.
    key_columns: usize,
    keys: RowCodec,
    values: Values,
}

/// What the bytes of a value are.
#[derive(Debug)]
enum Values {
    /// Columns.
    Columns(RowCodec),
    /// A number of 8 bytes, little-endian.
    Counter,
    /// The state variables of a processor.
    Processor(ProcessorState),
}

impl StateColumns {
    /// Those of the operator that a checkpoint's metadata defines like this.
    ///
    /// # Errors
    /// [`Error::CheckpointDamaged`] if it names a type that there is not.
    pub(super) fn of(definition: &OperatorDefinition) -> Result<Self> {
        let keys = fields(definition.details.get("keys"))?;
        let mut fields_of_values = Vec::new();
        for aggregate in list(definition.details.get("aggregates")) {
            fields_of_values.extend(fields(aggregate.get("state"))?);
        }
        // Those of the rows that a join remembers.
        fields_of_values.extend(fields(definition.details.get("columns"))?);
        let mut columns = keys.clone();
        let values = if definition.name == TRANSFORM {
            columns.extend(processor_state::fields());
            Values::Processor(ProcessorState::of(definition, fields)?)
        } else if definition.name == "limit" {
            columns.push(Field::new("rows_seen", DataType::Int64, true));
            Values::Counter
        } else {
            columns.extend(fields_of_values.iter().cloned());
            Values::Columns(RowCodec::values(&fields_of_values)?)
        };
        columns.push(Field::new("expires", DataType::Timestamp(TimeUnit::Microsecond, None), true));
        let schema = Arc::new(Schema::new(with_different_names(columns)));
        Ok(Self { schema, key_columns: keys.len(), keys: RowCodec::keys(&keys)?, values })
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(super) fn key_columns(&self) -> usize {
        self.key_columns
    }

    /// `rows` as batches of moderate size.
    ///
    /// # Errors
    /// If the bytes do not stand for these columns.
    pub(super) fn decode(&self, rows: &StateRows) -> impl Iterator<Item = Result<RecordBatch>> {
        let all = rows.keys.len();
        (0..all)
            .step_by(ROWS_PER_BATCH)
            .map(move |from| self.decode_some(rows, from..all.min(from + ROWS_PER_BATCH)))
    }

    fn decode_some(&self, rows: &StateRows, which: std::ops::Range<usize>) -> Result<RecordBatch> {
        let mut columns = self.keys.decode(which.clone().map(|row| rows.keys.row(row)))?;
        if let Values::Processor(state) = &self.values {
            let things = state.things(rows, which)?;
            let places: UInt64Array = things.rows.iter().map(|row| *row as u64).collect();
            let keys = columns.iter().map(|column| Ok(take(column, &places, None)?));
            let mut columns = keys.collect::<Result<Vec<ArrayRef>>>()?;
            columns.extend(things.columns());
            return Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?);
        }
        match &self.values {
            Values::Columns(codec) => {
                columns.extend(codec.decode(which.clone().map(|row| rows.values.row(row)))?);
            }
            Values::Processor(_) => {}
            Values::Counter => columns.push(counters(which.clone().map(|row| rows.values.row(row)))?),
        }
        let expiries: TimestampMicrosecondArray = rows.expiries[which].iter().copied().collect();
        columns.push(Arc::new(expiries));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

fn counters<'a>(values: impl Iterator<Item = &'a [u8]>) -> Result<ArrayRef> {
    let wrong = |_| Error::damaged("state", "the state of a limit is not a number of 8 bytes");
    let numbers = values.map(|value| value.try_into().map(i64::from_le_bytes).map_err(wrong));
    Ok(Arc::new(numbers.map(|number| number.map(Some)).collect::<Result<Int64Array>>()?))
}

fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

/// The columns of a list of `{"name": …, "dataType": …}`.
fn fields(value: Option<&Value>) -> Result<Vec<Field>> {
    let field = |column: &Value| {
        let recorded = ColumnType::deserialize(&column["dataType"]).map_err(|error| {
            Error::damaged("metadata", format!("it names a type that cannot be read: {error}"))
        })?;
        let data_type = data_type(&recorded)?;
        Ok(Field::new(column["name"].as_str().unwrap_or_default(), data_type, true))
    };
    list(value).map(field).collect()
}

/// A table's columns have different names, but a group may be of `a.id` and `b.id`: the second `id`
/// becomes `id_2`.
fn with_different_names(columns: Vec<Field>) -> Vec<Field> {
    let given: BTreeSet<String> = columns.iter().map(|column| column.name().clone()).collect();
    let mut taken = BTreeSet::new();
    let mut different = Vec::with_capacity(columns.len());
    for column in columns {
        let mut name = column.name().clone();
        let mut number = 1;
        while taken.contains(&name) || (number > 1 && given.contains(&name)) {
            number += 1;
            name = format!("{}_{number}", column.name());
        }
        taken.insert(name.clone());
        different.push(column.with_name(name));
    }
    different
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_different() {
        let named = |names: &[&str]| {
            let columns = names.iter().map(|name| Field::new(*name, DataType::Int64, true)).collect();
            with_different_names(columns).iter().map(|column| column.name().clone()).collect::<Vec<_>>()
        };
        assert_eq!(named(&["a", "b"]), ["a", "b"]);
        assert_eq!(named(&["a", "b", "a", "a"]), ["a", "b", "a_2", "a_3"]);
        assert_eq!(named(&["a", "a", "a_2"]), ["a", "a_3", "a_2"]);
    }
}
