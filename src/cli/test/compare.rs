//! Rows as a test writes them, and what is different.

use std::fmt::Write as _;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, StringArray};
use datafusion::arrow::csv;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use tidemill::Result;

use crate::cli::output::json_lines;

/// `rows` as lines: JSON objects, or comma-separated with a line of names, where null is `NULL`.
/// Without rows there are no lines.
pub(in crate::cli) fn lines(rows: &[RecordBatch], as_json: bool) -> Result<Vec<String>> {
    if rows.iter().all(|batch| batch.num_rows() == 0) {
        return Ok(Vec::new());
    }
    let text = if as_json { json_lines(rows)? } else { comma_separated(rows)? };
    Ok(String::from_utf8_lossy(&text).lines().map(str::to_string).collect())
}

/// Every value as it is shown elsewhere, nested ones too.
fn comma_separated(rows: &[RecordBatch]) -> Result<Vec<u8>> {
    let options = FormatOptions::default().with_null("NULL");
    let mut text = Vec::new();
    let mut writer = csv::WriterBuilder::new().build(&mut text);
    for batch in rows {
        let schema = batch.schema();
        let fields = schema.fields().iter().map(|field| Field::new(field.name(), DataType::Utf8, true));
        let fields: Vec<Field> = fields.collect();
        let columns = batch.columns().iter().map(|column| {
            let values = ArrayFormatter::try_new(column.as_ref(), &options)?;
            let shown = (0..batch.num_rows()).map(|row| values.value(row).try_to_string());
            Ok(Arc::new(StringArray::from(shown.collect::<Result<Vec<_>, ArrowError>>()?)) as ArrayRef)
        });
        let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
        writer.write(&RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)?;
    }
    drop(writer);
    Ok(text)
}

/// Whether `expected` is written as JSON objects.
pub(super) fn is_json(expected: &[String]) -> bool {
    expected.first().is_some_and(|line| line.trim_start().starts_with('{'))
}

/// What has to change to make `expected` what was `given`; empty if nothing has to. Unless the order
/// counts, rows are the same in any; the first line of comma-separated ones names the columns.
pub(in crate::cli) fn differences(expected: &[String], given: &[String], in_order: bool) -> String {
    let as_json = is_json(expected);
    let mut expected: Vec<String> = expected.iter().map(|line| normal(line, as_json)).collect();
    let mut given: Vec<String> = given.iter().map(|line| normal(line, as_json)).collect();
    if !in_order {
        let names = usize::from(!as_json);
        for rows in [&mut expected, &mut given] {
            let names = names.min(rows.len());
            rows[names..].sort_unstable();
        }
    }
    if expected == given {
        return String::new();
    }
    let mut text = String::new();
    for (sign, line) in changes(&expected, &given) {
        let _ = writeln!(text, "  {sign} {line}");
    }
    text
}

/// JSON without regard to spaces and the order of names.
fn normal(line: &str, as_json: bool) -> String {
    let parsed = if as_json { serde_json::from_str::<serde_json::Value>(line).ok() } else { None };
    match parsed {
        Some(mut value) => {
            value.sort_all_objects();
            value.to_string()
        }
        None => line.trim_end().to_string(),
    }
}

/// The lines of both with what becomes of them: a longest common part stays.
fn changes<'a>(from: &'a [String], to: &'a [String]) -> Vec<(char, &'a str)> {
    // Tests are small; a large one is told without looking for what is common.
    const LARGEST: usize = 4_000_000;
    if from.len().saturating_mul(to.len()) > LARGEST {
        let gone = from.iter().map(|line| ('-', line.as_str()));
        return gone.chain(to.iter().map(|line| ('+', line.as_str()))).collect();
    }
    let width = to.len() + 1;
    let mut common = vec![0_u32; (from.len() + 1) * width];
    for i in (0..from.len()).rev() {
        for j in (0..to.len()).rev() {
            common[i * width + j] = if from[i] == to[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < from.len() || j < to.len() {
        if i < from.len() && j < to.len() && from[i] == to[j] {
            lines.push((' ', from[i].as_str()));
            (i, j) = (i + 1, j + 1);
        } else if j == to.len()
            || (i < from.len() && common[(i + 1) * width + j] >= common[i * width + j + 1])
        {
            lines.push(('-', from[i].as_str()));
            i += 1;
        } else {
            lines.push(('+', to[j].as_str()));
            j += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Vec<String> {
        lines.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn order_counts_only_where_it_is_asked_for() {
        let (expected, given) = (of(&["n", "2", "1"]), of(&["n", "1", "2"]));
        assert_eq!(differences(&expected, &given, false), "");
        assert_eq!(differences(&expected, &given, true), "    n\n  - 2\n    1\n  + 2\n");
    }

    #[test]
    fn names_are_no_rows_and_rows_count_as_often_as_they_come() {
        assert_ne!(differences(&of(&["n", "1"]), &of(&["1", "n"]), false), "");
        assert_eq!(differences(&of(&["n", "1"]), &of(&["n", "1", "1"]), false), "    n\n    1\n  + 1\n");
        assert_eq!(differences(&of(&["n", "1"]), &[], false), "  - n\n  - 1\n");
    }

    #[test]
    fn json_is_compared_as_json() {
        let expected = of(&[r#"{"a": 1, "b": null}"#]);
        assert_eq!(differences(&expected, &of(&[r#"{"b":null,"a":1}"#]), true), "");
        assert_ne!(differences(&expected, &of(&[r#"{"b":null,"a":"1"}"#]), true), "");
    }
}
