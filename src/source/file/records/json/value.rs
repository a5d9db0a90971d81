//! JSON values in columns of text, read as those in files are.

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::error::ArrowError;

use super::columns::{Column, FirstFlaw, Flaw, Record};
use super::text::{Broken, Token};
use crate::source::file::values::ValueRules;

/// Reads texts, each of which is one JSON value, into one column.
///
/// What does not fit is null: a field of an object, or else the value. A text that is no object is an object
/// of nulls where objects are expected, as in Spark.
pub(crate) struct JsonValues {
    column: Column,
    len: usize,
    scratch: Vec<u8>,
}

impl JsonValues {
    /// Reads values of `data_type`; `None` if no JSON value can be read as one.
    pub(crate) fn new(data_type: &DataType) -> Option<Self> {
        let column = Column::new(data_type, &ValueRules::default())?;
        Some(Self { column, len: 0, scratch: Vec::new() })
    }

    /// Adds the value of `text`. Blank text is null, as in Spark.
    pub(crate) fn push(&mut self, text: Option<&str>) {
        match text.filter(|text| !text.trim().is_empty()) {
            None => self.column.push_null(),
            Some(text) => {
                if self.read(text).is_err() {
                    self.column.truncate(self.len);
                    match &self.column {
                        // An object without members is nothing but nulls.
                        Column::Struct(_) => {
                            let _ = self.read("{}");
                        }
                        _ => self.column.push_null(),
                    }
                }
            }
        }
        self.len += 1;
    }

    fn read(&mut self, text: &str) -> Result<(), Flaw> {
        let mut record = Record::new(text, std::mem::take(&mut self.scratch));
        match &mut self.column {
            Column::Struct(column) => match record.cursor.value()? {
                Token::Object => {
                    column.read(&mut record, Some(&mut FirstFlaw::default()))?;
                    column.end_object();
                }
                _ => return Err(Flaw::Value("it is no object".into())),
            },
            column => {
                column.read(&mut record)?;
            }
        }
        if record.cursor.peek().is_some() {
            return Err(Flaw::Broken(Broken::Wrong("there is more behind the value".into())));
        }
        self.scratch = record.scratch;
        Ok(())
    }

    /// The values so far, leaving none.
    pub(crate) fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        self.len = 0;
        self.column.finish()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Array, AsArray};
    use datafusion::arrow::datatypes::{Field, Fields, Int64Type};

    use super::*;

    #[test]
    fn what_does_not_fit_is_null_and_nothing_else() {
        let fields = Fields::from(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("b", DataType::new_list(DataType::Utf8, true), true),
        ]);
        let mut values = JsonValues::new(&DataType::Struct(fields)).unwrap();
        let texts = [
            Some("{\"a\":1,\"b\":[\"x\",null]}"),
            Some("{\"a\":\"one\",\"b\":[\"y\"]}"),
            Some("{\"a\":2"),
            Some("[]"),
            Some("{\"a\":3} x"),
            Some("  "),
            None,
            Some("{\"z\":0, \"A\":4}"),
        ];
        texts.into_iter().for_each(|text| values.push(text));
        let found = values.finish().unwrap();
        let found = found.as_struct();
        let a: Vec<Option<i64>> = found.column(0).as_primitive::<Int64Type>().iter().collect();
        assert_eq!(a, [Some(1), None, None, None, None, None, None, Some(4)]);
        let lists: Vec<bool> = (0..8).map(|row| found.column(1).is_valid(row)).collect();
        assert_eq!(lists, [true, true, false, false, false, false, false, false]);
        let rows: Vec<bool> = (0..8).map(|row| found.is_valid(row)).collect();
        assert_eq!(rows, [true, true, true, true, true, false, false, true]);
    }

    #[test]
    fn values_other_than_objects() {
        let mut values = JsonValues::new(&DataType::new_list(DataType::Int64, true)).unwrap();
        ["[1,2]", "{}", "[1,", "[\"x\"]"].into_iter().for_each(|text| values.push(Some(text)));
        let found = values.finish().unwrap();
        assert_eq!((found.len(), found.null_count()), (4, 3));
    }
}
