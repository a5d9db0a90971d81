//! Which field of a CSV record goes into which column.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

use super::columns::RecordColumns;
use super::decoder::shorten;
use super::strangers::json_text;

/// The fields of the records of one file.
#[derive(Debug)]
pub(super) struct FieldPlan {
    /// The fields, as Arrow's decoder reads them.
    pub(super) schema: SchemaRef,
    /// The positions of those that are read.
    pub(super) read: Vec<usize>,
    /// For each decoded column its position in `read`; `None` where the file lacks it.
    pub(super) places: Vec<Option<usize>>,
    /// Names of fields that no column takes.
    pub(super) strangers: Vec<String>,
    /// Those of them that are read: the name as JSON without quotes, and the position in `read`.
    pub(super) rescued: Vec<(String, usize)>,
    /// Whether names said so.
    pub(super) is_by_name: bool,
}

/// Whether Arrow's decoder makes of a text what it is, and nothing else.
pub(super) fn is_read_exactly(data_type: &DataType) -> bool {
    let is_text = matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    is_text || data_type.is_integer() || *data_type == DataType::Boolean
}

/// The field as Arrow's decoder reads it: what it does not read exactly is read as text first.
pub(super) fn as_read(field: &FieldRef) -> FieldRef {
    if is_read_exactly(field.data_type()) {
        return Arc::clone(field);
    }
    Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8))
}

impl FieldPlan {
    /// Records have the columns of the table, in their order.
    pub(super) fn by_position(columns: &RecordColumns) -> Self {
        let fields: Vec<FieldRef> = columns.record.fields().iter().map(as_read).collect();
        Self {
            schema: Arc::new(Schema::new(fields)),
            read: columns.decoded.clone(),
            places: (0..columns.decoded.len()).map(Some).collect(),
            strangers: Vec::new(),
            rescued: Vec::new(),
            is_by_name: false,
        }
    }

    /// Records have the fields that the header `names`. The error says what is wrong with it.
    pub(super) fn by_name(columns: &RecordColumns, names: &[String]) -> Result<Self, String> {
        let record = columns.record.fields();
        // For each field the column that takes it.
        let taken: Vec<Option<usize>> = names.iter().map(|name| column_of(name, record, names)).collect();
        for (column, field) in record.iter().enumerate() {
            if taken.iter().filter(|taken| **taken == Some(column)).count() > 1 {
                return Err(format!(
                    "its header names the column '{}' more than once. Put it right in the file, or give the table \
                     all its columns and set enforceSchema to true, which finds them by position and ignores what headers \
                     say",
                    field.name()
                ));
            }
        }
        if !record.is_empty() && taken.iter().all(Option::is_none) {
            let columns: Vec<&str> = record.iter().map(|column| column.name().as_str()).collect();
            let separator =
                [';', '\t', '|'].into_iter().find(|mark| names.iter().any(|name| name.contains(*mark)));
            let separator = separator.map_or_else(String::new, |mark| {
                format!("Set sep to {mark:?} if that is what separates them. ")
            });
            return Err(format!(
                "its header names the columns ({}), and the table has none of them, but ({}). {separator}Put it right \
                 in the file or the schema; if the file has no header, set header to false; to ignore what headers \
                 say, set enforceSchema to true",
                shorten(&names.join(", ")),
                columns.join(", ")
            ));
        }
        let field = |(position, taken): (usize, &Option<usize>)| match taken {
            Some(column) => as_read(&record[*column]),
            None => Arc::new(Field::new(&names[position], DataType::Utf8, true)),
        };
        let fields: Vec<FieldRef> = taken.iter().enumerate().map(field).collect();
        let mut read = Vec::new();
        let mut places = Vec::with_capacity(columns.decoded.len());
        for column in &columns.decoded {
            let position = taken.iter().position(|taken| taken == &Some(*column));
            places.push(position.map(|_| read.len()));
            read.extend(position);
        }
        let is_strange = |position: &usize| taken[*position].is_none() && !names[*position].is_empty();
        let strange: Vec<usize> = (0..names.len()).filter(is_strange).collect();
        let mut rescued = Vec::new();
        if columns.are_rescued() {
            for position in &strange {
                let name = json_text(&names[*position]);
                rescued.push((name[1..name.len() - 1].to_string(), read.len()));
                read.push(*position);
            }
        }
        Ok(Self {
            schema: Arc::new(Schema::new(fields)),
            read,
            places,
            strangers: strange.into_iter().map(|position| names[position].clone()).collect(),
            rescued,
            is_by_name: true,
        })
    }

    /// The position in a record of the decoded column at `decoded`.
    pub(super) fn field_of(&self, decoded: usize) -> Option<usize> {
        self.places[decoded].map(|place| self.read[place])
    }
}

/// The column that a field called `name` goes to: the one of that very name, or else the only one whose name
/// differs from it in the case of letters alone, unless another field has its very name.
fn column_of(name: &str, columns: &[FieldRef], names: &[String]) -> Option<usize> {
    if let Some(column) = columns.iter().position(|column| column.name() == name) {
        return Some(column);
    }
    let lower = name.to_lowercase();
    let mut meant = columns.iter().enumerate().filter(|(_, column)| column.name().to_lowercase() == lower);
    let (column, field) = meant.next()?;
    (meant.next().is_none() && !names.contains(field.name())).then_some(column)
}
