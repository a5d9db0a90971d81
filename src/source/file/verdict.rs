//! What is wrong with rows of Parquet, Arrow and Avro files that do not fit the table, row by row (`mode`).

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, StringArray, StructArray, UInt64Array};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::compute::{cast, take};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::PhysicalExpr;

use super::fitting::{fit_each, fits, is_itself};
use super::layout::verdict_fields;
use super::records::no_value;
use super::rescued::objects;
use super::uuids::{self, UuidTexts};
use super::values::{ValueRules, type_name};

/// Which rows are judged, and how.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    /// The columns that a row must fit.
    pub(super) columns: SchemaRef,
    /// Whether rows that do not fit are told as JSON: then all columns of a file are read.
    pub(super) tells_records: bool,
    /// The name of the column that takes this text.
    pub(super) corrupt_record: Option<String>,
}

/// The verdicts on the rows of a file, or the text of those that do not fit.
#[derive(Debug, Clone)]
pub(super) struct Verdict {
    field: FieldRef,
    judged: Vec<JudgedColumn>,
    rules: ValueRules,
    /// The columns of the file that are read, and their names.
    inputs: Vec<Arc<dyn PhysicalExpr>>,
    names: Vec<String>,
    tells_records: bool,
}

/// A column of the table.
#[derive(Debug, Clone)]
struct JudgedColumn {
    field: FieldRef,
    /// Which of the inputs it comes from, if the file has it.
    input: Option<usize>,
    required: bool,
}

impl Verdict {
    /// Judges rows of `file` by the columns `judged`, which are at `places` in it; `required` are the names of those
    /// that are NOT NULL. `output` is the column that is made.
    pub(super) fn new(
        output: &Field,
        judged: &Judged,
        places: &[Option<usize>],
        file: &Schema,
        required: &[String],
        rules: &ValueRules,
    ) -> Self {
        let mut read: Vec<usize> = match judged.tells_records {
            true => (0..file.fields().len()).collect(),
            false => places.iter().copied().flatten().collect(),
        };
        read.sort_unstable();
        read.dedup();
        let columns = judged.columns.fields().iter().zip(places).map(|(field, place)| JudgedColumn {
            field: Arc::clone(field),
            input: place.and_then(|place| read.binary_search(&place).ok()),
            required: required.contains(field.name()),
        });
        let name = |place: &usize| file.field(*place).name().clone();
        let is_text = |place: usize| {
            let mut columns =
                judged.columns.fields().iter().zip(places).filter(|(_, at)| **at == Some(place));
            columns.any(|(column, _)| uuids::are_texts(file.field(place), column.data_type()))
        };
        let input = |place: &usize| -> Arc<dyn PhysicalExpr> {
            let column = Arc::new(Column::new(&name(place), *place));
            if is_text(*place) { Arc::new(UuidTexts::new(column)) } else { column }
        };
        Self {
            field: Arc::new(output.clone().with_nullable(true)),
            judged: columns.collect(),
            rules: rules.clone(),
            inputs: read.iter().map(input).collect(),
            names: read.iter().map(name).collect(),
            tells_records: judged.tells_records,
        }
    }

    /// What is wrong with each row that does not fit, by its number: the first column that is to blame.
    fn reasons(&self, inputs: &[ArrayRef], rows: usize) -> DataFusionResult<BTreeMap<usize, String>> {
        let mut reasons = BTreeMap::new();
        for column in &self.judged {
            let name = column.field.name();
            let values = column.input.map(|input| &inputs[input]);
            for (row, reason) in misfits(values, column.field.data_type(), &self.rules)? {
                reasons.entry(row).or_insert_with(|| format!("column '{name}': {reason}"));
            }
            if !column.required {
                continue;
            }
            let nulls = values.map(|values| values.logical_nulls());
            let is_null = |row: &usize| match &nulls {
                None => true,
                Some(nulls) => nulls.as_ref().is_some_and(|nulls| nulls.is_null(*row)),
            };
            for row in (0..rows).filter(is_null) {
                reasons.entry(row).or_insert_with(|| no_value(name));
            }
        }
        Ok(reasons)
    }

    /// The rows as JSON objects.
    fn records(&self, inputs: &[ArrayRef], rows: &UInt64Array) -> DataFusionResult<Vec<String>> {
        let columns = inputs.iter().map(|input| take(input, rows, None)).collect::<Result<Vec<_>, _>>()?;
        let texts = match objects(&self.names, columns.clone(), rows.len()) {
            Ok(texts) => texts,
            // A value that JSON has no text for must not keep the others from being told.
            Err(_) => {
                let told = self.names.iter().zip(columns);
                let told = told.filter(|(name, column)| {
                    objects(&[(*name).clone()], vec![Arc::clone(column)], rows.len()).is_ok()
                });
                let (names, columns): (Vec<String>, Vec<ArrayRef>) =
                    told.map(|(name, column)| (name.clone(), column)).unzip();
                objects(&names, columns, rows.len())?
            }
        };
        Ok(texts.iter().map(|text| text.unwrap_or("{}").to_string()).collect())
    }
}

/// The rows whose value does not fit `wanted`. A null fits any type.
fn misfits(
    values: Option<&ArrayRef>,
    wanted: &DataType,
    rules: &ValueRules,
) -> DataFusionResult<Vec<(usize, String)>> {
    let Some(values) = values else { return Ok(Vec::new()) };
    let found = values.data_type();
    if is_itself(found, wanted) {
        return Ok(Vec::new());
    }
    if fits(found, wanted) {
        return Ok(fit_each(values, wanted, rules)?.1);
    }
    let nulls = values.logical_nulls();
    let reason = format!("it is of type {}, which cannot be read as {}", type_name(found), type_name(wanted));
    let is_value = |row: &usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(*row));
    Ok((0..values.len()).filter(is_value).map(|row| (row, reason.clone())).collect())
}

impl PartialEq for Verdict {
    fn eq(&self, other: &Self) -> bool {
        self.field == other.field && self.names == other.names && self.inputs.eq(&other.inputs)
    }
}

impl Eq for Verdict {}

impl Hash for Verdict {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.field.hash(state);
        self.inputs.hash(state);
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "verdict({})", self.names.join(", "))
    }
}

impl PhysicalExpr for Verdict {
    fn data_type(&self, _: &Schema) -> DataFusionResult<DataType> {
        Ok(self.field.data_type().clone())
    }

    fn nullable(&self, _: &Schema) -> DataFusionResult<bool> {
        Ok(true)
    }

    fn return_field(&self, _: &Schema) -> DataFusionResult<FieldRef> {
        Ok(Arc::clone(&self.field))
    }

    fn evaluate(&self, batch: &RecordBatch) -> DataFusionResult<ColumnarValue> {
        let rows = batch.num_rows();
        let inputs = self.inputs.iter().map(|input| input.evaluate(batch)?.into_array(rows));
        let inputs = inputs.collect::<DataFusionResult<Vec<_>>>()?;
        let mut wrong = self.reasons(&inputs, rows)?;
        let mut records: BTreeMap<usize, String> = BTreeMap::new();
        if self.tells_records && !wrong.is_empty() {
            let places = UInt64Array::from_iter_values(wrong.keys().map(|row| *row as u64));
            records = wrong.keys().copied().zip(self.records(&inputs, &places)?).collect();
        }
        let verdicts = NullBuffer::from_iter((0..rows).map(|row| wrong.contains_key(&row)));
        let records: StringArray = (0..rows).map(|row| records.remove(&row)).collect();
        if !matches!(self.field.data_type(), DataType::Struct(_)) {
            return Ok(ColumnarValue::Array(cast(&records, self.field.data_type())?));
        }
        let reasons: StringArray = (0..rows).map(|row| wrong.remove(&row)).collect();
        let columns: Vec<ArrayRef> = vec![Arc::new(reasons), Arc::new(records)];
        Ok(ColumnarValue::Array(Arc::new(StructArray::try_new(verdict_fields(), columns, Some(verdicts))?)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.inputs.iter().collect()
    }

    fn with_new_children(
        self: Arc<Self>,
        inputs: Vec<Arc<dyn PhysicalExpr>>,
    ) -> DataFusionResult<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Self { inputs, ..self.as_ref().clone() }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
