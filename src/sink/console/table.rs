//! The first rows of a batch as text.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::arrow::util::pretty::pretty_format_batches;

use crate::error::Result;
use crate::text::{acts, check_texts};

/// What is shown of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TableStyle {
    /// The most rows.
    pub num_rows: usize,
    /// The most characters of a value; 0 for all.
    pub truncate: usize,
}

/// The first rows of a batch, rendered as they come, so that nothing else is kept in memory.
#[derive(Debug)]
pub(super) struct Table {
    style: TableStyle,
    schema: SchemaRef,
    /// Column by column.
    cells: Vec<Vec<String>>,
    shown: usize,
    seen: usize,
}

impl Table {
    pub fn new(style: TableStyle, schema: SchemaRef) -> Self {
        let cells = vec![Vec::new(); schema.fields().len()];
        Self { style, schema, cells, shown: 0, seen: 0 }
    }

    /// All rows that were pushed, shown or not.
    pub fn seen(&self) -> usize {
        self.seen
    }

    pub fn push(&mut self, rows: &RecordBatch) -> Result<()> {
        let options = FormatOptions::default().with_display_error(true).with_null("NULL");
        let take = rows.num_rows().min(self.style.num_rows - self.shown);
        check_texts(&rows.slice(0, take))?;
        for (cells, column) in self.cells.iter_mut().zip(rows.columns()) {
            let formatter = ArrayFormatter::try_new(column.as_ref(), &options)?;
            cells
                .extend((0..take).map(|row| shorten(&formatter.value(row).to_string(), self.style.truncate)));
        }
        self.shown += take;
        self.seen += rows.num_rows();
        Ok(())
    }

    /// The table under Spark's heading for the batch.
    pub fn render(self, heading: &str) -> Result<String> {
        let fields = self.schema.fields().iter();
        let name = |field: &FieldRef| Field::new(shorten(field.name(), 0), DataType::Utf8, false);
        let names: Vec<Field> = fields.map(name).collect();
        let columns = self.cells.into_iter().map(|cells| Arc::new(StringArray::from(cells)) as ArrayRef);
        let rows = RecordBatch::try_new(Arc::new(Schema::new(names)), columns.collect())?;
        let table = pretty_format_batches(&[rows])?;
        let rule = "-".repeat(43);
        let mut text = format!("{rule}\n{heading}\n{rule}\n{table}\n");
        if self.seen > self.shown {
            let rows = if self.shown == 1 { "row" } else { "rows" };
            text.push_str(&format!("only showing top {} {rows}\n", self.shown));
        }
        text.push('\n');
        Ok(text)
    }
}

/// `text` on one line and cut to `most` characters, as Spark's `Dataset.show` does: with dots if
/// there is room for them.
fn shorten(text: &str, most: usize) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            '\u{b}' => line.push_str("\\v"),
            '\u{c}' => line.push_str("\\f"),
            '\u{8}' => line.push_str("\\b"),
            '\u{7}' => line.push_str("\\a"),
            '\u{1b}' => line.push_str("\\e"),
            c if acts(c) => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    if most == 0 || line.chars().count() <= most {
        return line;
    }
    if most < 4 {
        return line.chars().take(most).collect();
    }
    line.chars().take(most - 3).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_cut_as_spark_does() {
        assert_eq!(shorten("abcdefghij", 10), "abcdefghij");
        assert_eq!(shorten("abcdefghijk", 10), "abcdefg...");
        assert_eq!(shorten("abcdef", 3), "abc");
        assert_eq!(shorten("äöüäöü", 5), "äö...");
        assert_eq!(shorten("a\nb\u{1b}[0m\0\u{202e}", 0), "a\\nb\\e[0m\\u{0}\\u{202e}");
    }
}
