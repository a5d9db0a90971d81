//! Fields of records that no column of the table takes.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, StringArray};

/// So many different names are told of at most, per file.
const MOST_NAMES: usize = 1000;

/// What is known of such fields in one file.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    names: BTreeSet<String>,
    rescue: Option<Rescue>,
}

/// Gathers their values: one JSON object per row that has any, as in Databricks.
#[derive(Debug)]
struct Rescue {
    /// The last member of each object, with its closing brace: it names the file.
    end: String,
    row: String,
    rows: Vec<Option<String>>,
}

impl Strangers {
    /// With `file`, values are gathered, and said to be from that file.
    pub(super) fn new(file: Option<&str>) -> Self {
        let rescue =
            file.map(|file| Rescue { end: end_of_object(file), row: String::new(), rows: Vec::new() });
        Self { names: BTreeSet::new(), rescue }
    }

    /// There is a field called `name`.
    pub(super) fn note(&mut self, name: &str) {
        if self.names.len() < MOST_NAMES && !self.names.contains(name) {
            self.names.insert(name.to_string());
        }
    }

    /// Their names so far.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    pub(super) fn begin_row(&mut self) {
        if let Some(rescue) = &mut self.rescue {
            rescue.row.clear();
        }
    }

    /// The row has this field: its name as JSON without quotes, and its value as JSON.
    pub(super) fn keep(&mut self, name: &str, value: &str) {
        if let Some(rescue) = &mut self.rescue {
            rescue.row.push(if rescue.row.is_empty() { '{' } else { ',' });
            rescue.row.extend(["\"", name, "\":", value]);
        }
    }

    pub(super) fn end_row(&mut self) {
        if let Some(rescue) = &mut self.rescue {
            let row = (!rescue.row.is_empty()).then(|| format!("{}{}", rescue.row, rescue.end));
            rescue.rows.push(row);
        }
    }

    /// Forgets the rows from the one at `len` on.
    pub(super) fn truncate(&mut self, len: usize) {
        if let Some(rescue) = &mut self.rescue {
            rescue.rows.truncate(len);
        }
    }

    /// The gathered values of the rows so far, leaving none; nothing if they are not gathered.
    pub(super) fn finish(&mut self) -> Option<ArrayRef> {
        let rows = std::mem::take(&mut self.rescue.as_mut()?.rows);
        Some(Arc::new(rows.into_iter().collect::<StringArray>()))
    }
}

/// What ends an object of values from `file`, behind its other members.
pub(in crate::source::file) fn end_of_object(file: &str) -> String {
    format!(",\"_file_path\":{}}}", json_text(file))
}

/// `text` as JSON.
pub(super) fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray;

    use super::*;

    #[test]
    fn each_row_with_strangers_is_an_object_that_names_the_file() {
        let mut strangers = Strangers::new(Some("a \"b\".json"));
        for fields in [&[][..], &[("x", "1"), ("y", "[2]")], &[("x", "3")]] {
            strangers.begin_row();
            fields.iter().for_each(|(name, value)| strangers.keep(name, value));
            strangers.end_row();
        }
        strangers.truncate(2);
        let rows = strangers.finish().unwrap();
        let texts: Vec<_> = rows.as_string::<i32>().iter().collect();
        let expected = "{\"x\":1,\"y\":[2],\"_file_path\":\"a \\\"b\\\".json\"}";
        assert_eq!(texts, [None, Some(expected)]);
        assert!(Strangers::new(None).finish().is_none());
    }
}
