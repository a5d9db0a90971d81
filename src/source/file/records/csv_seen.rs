//! What columns of CSV files were seen to hold: those that are inferred hold every value that they were inferred from.

use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};

use super::csv_dialect::CsvDialect;
use crate::source::file::values::{Leaf, Numbers, Scalar, ValueRules, leaf};

/// The types that are inferred by what values look like, and that do not hold all that does.
const CHECKED: [DataType; 7] = [
    DataType::Int64,
    DataType::Float64,
    DataType::Date32,
    DataType::Timestamp(TimeUnit::Second, None),
    DataType::Timestamp(TimeUnit::Millisecond, None),
    DataType::Timestamp(TimeUnit::Microsecond, None),
    DataType::Timestamp(TimeUnit::Nanosecond, None),
];

/// A column of a file, with what was seen in it.
#[derive(Debug, Clone)]
pub(in crate::source::file) struct CsvColumn {
    pub(in crate::source::file) field: Field,
    pub(in crate::source::file) numbers: Numbers,
}

/// What was seen of a file.
pub(super) struct Seen {
    /// How many records are still to be looked at.
    left: usize,
    /// Whether the header has been passed.
    is_begun: bool,
    /// Readers of the types that are checked.
    readers: Vec<Option<Box<dyn Leaf>>>,
    columns: Vec<Values>,
}

/// The values of a column.
#[derive(Debug, Clone, Default)]
struct Values {
    numbers: Numbers,
    /// Which of the checked types do not hold all of them.
    misfits: [bool; CHECKED.len()],
    /// Whether one is a code of digits.
    has_codes: bool,
}

impl Seen {
    /// Looks at `max` records, whose values are read as `rules` say.
    pub(super) fn new(max: usize, rules: &ValueRules) -> Self {
        let readers = CHECKED.iter().map(|data_type| leaf(data_type, rules)).collect();
        Self { left: max, is_begun: false, readers, columns: Vec::new() }
    }

    /// Looks at whole records.
    pub(super) fn look(&mut self, records: &[u8], dialect: &CsvDialect) {
        let skipped = usize::from(!self.is_begun && dialect.has_header());
        self.is_begun = true;
        if self.left == 0 {
            return;
        }
        let mut tokenizer = dialect.tokenizer();
        let wanted = self.left.saturating_add(skipped);
        for record in dialect.split(records, true, wanted).into_iter().skip(skipped) {
            self.left -= 1;
            let record = dialect.fields_by(&mut tokenizer, &records[record]);
            for (column, value) in record.fields.iter().enumerate() {
                if self.columns.len() <= column {
                    self.columns.resize(column + 1, Values::default());
                }
                match std::str::from_utf8(value) {
                    Ok(text) if !dialect.is_null(text) => self.columns[column].add(text, &mut self.readers),
                    _ => {}
                }
            }
        }
    }

    /// The column of this number, of which `inferred` says what its values look like.
    pub(super) fn column(&self, number: usize, inferred: Field) -> CsvColumn {
        let Some(values) = self.columns.get(number) else {
            return CsvColumn { field: inferred, numbers: Numbers::default() };
        };
        let found = inferred.data_type();
        let checked = CHECKED.iter().position(|data_type| data_type == found);
        let is_code = values.has_codes && found.is_numeric();
        let field = match checked {
            _ if is_code => inferred.with_data_type(DataType::Utf8),
            Some(checked) if values.misfits[checked] => inferred.with_data_type(DataType::Utf8),
            _ => inferred,
        };
        CsvColumn { field, numbers: values.numbers }
    }
}

impl Values {
    fn add(&mut self, text: &str, readers: &mut [Option<Box<dyn Leaf>>]) {
        self.has_codes |= is_code(text);
        for (misfits, reader) in self.misfits.iter_mut().zip(readers).filter(|(misfits, _)| !**misfits) {
            *misfits = reader.as_mut().is_none_or(|reader| {
                let read = reader.push(Scalar::Text(text));
                reader.truncate(0);
                read.is_err()
            });
        }
        let [not_whole, not_float, ..] = self.misfits;
        if !(not_whole && not_float) {
            self.numbers = self.numbers.and(Numbers::of(text));
        }
    }
}

/// Whether `text` has a zero before other digits, as no number is written: as a number one would be another one.
fn is_code(text: &str) -> bool {
    let digits = text.trim_ascii();
    let digits = digits.strip_prefix(['-', '+']).unwrap_or(digits);
    matches!(digits.as_bytes(), [b'0', next, ..] if next.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use datafusion::common::config::{ConfigOptions, CsvOptions};

    use super::*;

    #[test]
    fn zeros_before_digits_are_of_codes() {
        for (value, code) in [
            ("01067", true),
            ("-00", true),
            (" 012", true),
            ("00.5", true),
            ("0", false),
            ("0.5", false),
            ("10", false),
            ("", false),
            ("0x1", false),
        ] {
            assert_eq!(is_code(value), code, "{value}");
        }
    }

    #[test]
    fn types_that_do_not_hold_a_value_are_not_inferred() {
        let options = CsvOptions { has_header: Some(false), ..CsvOptions::default() };
        let dialect = CsvDialect::new(&options, &ConfigOptions::default(), false).unwrap();
        let second = DataType::Timestamp(TimeUnit::Second, None);
        let nano = DataType::Timestamp(TimeUnit::Nanosecond, None);
        for (values, inferred, expected) in [
            ("1\n-9223372036854775808\n\n", DataType::Int64, DataType::Int64),
            ("1\n\u{665}\n", DataType::Int64, DataType::Utf8),
            ("1e308\nNaN\n", DataType::Float64, DataType::Float64),
            ("1E400\n", DataType::Float64, DataType::Utf8),
            ("2024-02-29\n", DataType::Date32, DataType::Date32),
            ("2024-02-30\n", DataType::Date32, DataType::Utf8),
            ("2024-02-29T23:59:59Z\n", second.clone(), second.clone()),
            ("2024-02-29T24:59:59\n", second.clone(), DataType::Utf8),
            ("2024-02-29 12:00:00 o'clock\n", second, DataType::Utf8),
            ("2300-01-01T00:00:00.123456789\n", nano, DataType::Utf8),
            ("true\n", DataType::Boolean, DataType::Boolean),
        ] {
            let mut seen = Seen::new(10, &ValueRules::default());
            seen.look(values.as_bytes(), &dialect);
            let column = seen.column(0, Field::new("a", inferred, true));
            assert_eq!(*column.field.data_type(), expected, "{values:?}");
        }
    }
}
