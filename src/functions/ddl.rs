//! Types as Spark writes them: `a INT, b ARRAY<STRUCT<c: STRING>>`.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};

/// The type that `text` describes: a list of fields is a struct. The error says what is wrong with it.
pub(super) fn parse_type(text: &str) -> Result<DataType, String> {
    let mut reader = Reader { rest: text.trim() };
    let whole = Reader { rest: reader.rest }.data_type();
    if let Ok((data_type, "")) = whole {
        return Ok(data_type);
    }
    let fields = reader.fields("")?;
    match reader.rest {
        "" => Ok(DataType::Struct(fields)),
        rest => Err(format!("'{rest}' was not expected")),
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    /// A type and what stands behind it.
    fn data_type(mut self) -> Result<(DataType, &'a str), String> {
        let data_type = self.one_type()?;
        Ok((data_type, self.rest))
    }

    /// Fields up to `end`, which is taken.
    fn fields(&mut self, end: &str) -> Result<Fields, String> {
        let mut fields: Vec<FieldRef> = Vec::new();
        loop {
            let name = self.name()?;
            self.take(":");
            let data_type = self.one_type()?;
            // Texts promise nothing.
            self.take_words(&["NOT", "NULL"]);
            if self.take_words(&["COMMENT"]) {
                self.text()?;
            }
            if fields.iter().any(|field| *field.name() == name) {
                return Err(format!("the field '{name}' stands there twice"));
            }
            fields.push(Arc::new(Field::new(name, data_type, true)));
            if !self.take(",") {
                break;
            }
        }
        if !end.is_empty() && !self.take(end) {
            return Err(self.expected(end));
        }
        Ok(fields.into())
    }

    fn one_type(&mut self) -> Result<DataType, String> {
        let name = self.word().ok_or_else(|| self.expected("a type"))?;
        Ok(match name.to_uppercase().as_str() {
            "BOOLEAN" | "BOOL" => DataType::Boolean,
            "TINYINT" | "BYTE" => DataType::Int8,
            "SMALLINT" | "SHORT" => DataType::Int16,
            "INT" | "INTEGER" => DataType::Int32,
            "BIGINT" | "LONG" => DataType::Int64,
            "FLOAT" | "REAL" => DataType::Float32,
            "DOUBLE" => {
                self.take_words(&["PRECISION"]);
                DataType::Float64
            }
            "STRING" | "TEXT" => DataType::Utf8,
            "VARCHAR" | "CHAR" => {
                self.numbers()?;
                DataType::Utf8
            }
            "BINARY" => DataType::Binary,
            "DATE" => DataType::Date32,
            "TIMESTAMP" | "TIMESTAMP_NTZ" | "TIMESTAMP_LTZ" => {
                DataType::Timestamp(TimeUnit::Microsecond, None)
            }
            "DECIMAL" | "DEC" | "NUMERIC" => self.decimal()?,
            "ARRAY" => {
                self.expect("<")?;
                let item = self.one_type()?;
                self.expect(">")?;
                DataType::new_list(item, true)
            }
            "MAP" => {
                self.expect("<")?;
                let key = self.one_type()?;
                self.expect(",")?;
                let value = self.one_type()?;
                self.expect(">")?;
                let entries = vec![Field::new("keys", key, false), Field::new("values", value, true)];
                let entries = Field::new("entries", DataType::Struct(entries.into()), false);
                DataType::Map(Arc::new(entries), false)
            }
            "STRUCT" => {
                self.expect("<")?;
                DataType::Struct(self.fields(">")?)
            }
            _ => return Err(format!("'{name}' is no type")),
        })
    }

    /// Spark's default is a whole number of ten digits.
    fn decimal(&mut self) -> Result<DataType, String> {
        let numbers = self.numbers()?;
        let (precision, scale) = match numbers.as_slice() {
            [] => (10, 0),
            [precision] => (*precision, 0),
            [precision, scale] => (*precision, *scale),
            _ => return Err("a DECIMAL has a precision and a scale".into()),
        };
        if precision == 0 || precision > 38 || scale > precision {
            return Err(format!("DECIMAL({precision}, {scale}) is out of range"));
        }
        Ok(DataType::Decimal128(precision, i8::try_from(scale).unwrap_or(i8::MAX)))
    }

    /// Numbers in parentheses, if there are any.
    fn numbers(&mut self) -> Result<Vec<u8>, String> {
        let mut numbers = Vec::new();
        if !self.take("(") {
            return Ok(numbers);
        }
        loop {
            let word = self.word().ok_or_else(|| self.expected("a number"))?;
            // Lengths of texts mean nothing here, however long.
            numbers.push(word.parse::<u32>().map_err(|_| format!("'{word}' is no number"))?.min(255) as u8);
            if !self.take(",") {
                self.expect(")")?;
                return Ok(numbers);
            }
        }
    }

    /// A name, which may stand in backquotes or double quotes.
    fn name(&mut self) -> Result<String, String> {
        let quote = self.rest.chars().next().filter(|char| matches!(char, '`' | '"'));
        let Some(quote) = quote else {
            return self.word().map(str::to_string).ok_or_else(|| self.expected("a name"));
        };
        let (name, rest) = self.rest[1..].split_once(quote).ok_or("a quote is not closed")?;
        self.rest = rest.trim_start();
        Ok(name.to_string())
    }

    /// A text in single quotes.
    fn text(&mut self) -> Result<(), String> {
        let text = self.rest.strip_prefix('\'').ok_or_else(|| self.expected("a text"))?;
        let (_, rest) = text.split_once('\'').ok_or("a quote is not closed")?;
        self.rest = rest.trim_start();
        Ok(())
    }

    fn word(&mut self) -> Option<&'a str> {
        let is_part = |char: char| char.is_alphanumeric() || matches!(char, '_' | '$' | '-' | '@');
        let end = self.rest.find(|char| !is_part(char)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        (!word.is_empty()).then_some(word)
    }

    /// Takes these words, in any case, if they are what comes next.
    fn take_words(&mut self, words: &[&str]) -> bool {
        let mut ahead = Reader { rest: self.rest };
        let come =
            words.iter().all(|word| ahead.word().is_some_and(|found| found.eq_ignore_ascii_case(word)));
        if come {
            self.rest = ahead.rest;
        }
        come
    }

    fn take(&mut self, mark: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(mark) else { return false };
        self.rest = rest.trim_start();
        true
    }

    fn expect(&mut self, mark: &str) -> Result<(), String> {
        if self.take(mark) { Ok(()) } else { Err(self.expected(mark)) }
    }

    fn expected(&self, what: &str) -> String {
        match self.rest {
            "" => format!("{what} was expected at its end"),
            rest => format!("{what} was expected before '{rest}'"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparks_types() {
        let field = |name: &str, data_type| Field::new(name, data_type, true);
        let inner = DataType::Struct(vec![field("x y", DataType::Utf8), field("n", DataType::Int32)].into());
        for (text, expected) in [
            ("bigint", DataType::Int64),
            (" array< double precision > ", DataType::new_list(DataType::Float64, true)),
            ("DECIMAL(12, 2)", DataType::Decimal128(12, 2)),
            (
                "a LONG NOT NULL COMMENT 'x, y', b ARRAY<STRUCT<`x y`: STRING, n: INT>>, c varchar(1000)",
                DataType::Struct(
                    vec![
                        field("a", DataType::Int64),
                        field("b", DataType::new_list(inner, true)),
                        field("c", DataType::Utf8),
                    ]
                    .into(),
                ),
            ),
        ] {
            assert_eq!(parse_type(text), Ok(expected), "{text}");
        }
        assert!(matches!(parse_type("m MAP<STRING, INT>").unwrap(), DataType::Struct(_)));
        for (text, reason) in [
            ("", "a name was expected at its end"),
            ("a", "a type was expected at its end"),
            ("a INT,", "a name was expected"),
            ("a INT b", "'b' was not expected"),
            ("a WORD", "'WORD' is no type"),
            ("a ARRAY<INT", "> was expected"),
            ("a INT, a INT", "twice"),
            ("a DECIMAL(40)", "out of range"),
            ("`a INT", "not closed"),
        ] {
            let error = parse_type(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
