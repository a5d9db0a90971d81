//! The date that a text gives, where it stands.
//!
//! Arrow casts a text with a time and an offset to the date in UTC (apache/arrow-rs,
//! `arrow-cast/src/parse.rs`, `Date32Type::parse`): `2024-01-01T23:30:00-06:00` becomes January 2nd. As in
//! PostgreSQL, DuckDB and Spark without a zone, it is the date that is written there.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, StringArray};
use datafusion::arrow::compute::{CastOptions, cast, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::internal_err;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::on_arrays::on_arrays;

static LOCAL_DATE: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| LocalDate::function("local_date", false));
static TRY_LOCAL_DATE: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| LocalDate::function("try_local_date", true));

/// The date in `text`, which is text; if it is none an error, or null if `try_only` is set.
pub(crate) fn local_date(text: Expr, try_only: bool) -> Expr {
    if try_only { TRY_LOCAL_DATE.call(vec![text]) } else { LOCAL_DATE.call(vec![text]) }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct LocalDate {
    name: &'static str,
    try_only: bool,
    signature: Signature,
}

impl LocalDate {
    fn function(name: &'static str, try_only: bool) -> Arc<ScalarUDF> {
        let signature = Signature::any(1, Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(LocalDate { name, try_only, signature }))
    }

    fn dates(&self, texts: &ArrayRef) -> DataFusionResult<ArrayRef> {
        let options = CastOptions { safe: self.try_only, ..CastOptions::default() };
        // What is no time at all fails here, or is null.
        let dates = cast_with_options(texts, &DataType::Date32, &options)?;
        let texts = cast(texts, &DataType::Utf8)?;
        let texts = texts.as_string::<i32>();
        if !texts.iter().flatten().any(|text| written_date(text).is_some()) {
            return Ok(dates);
        }
        let local = texts.iter().enumerate().map(|(row, text)| {
            text.filter(|_| dates.is_valid(row)).map(|text| written_date(text).unwrap_or(text))
        });
        let local: StringArray = local.collect();
        Ok(cast_with_options(&local, &DataType::Date32, &options)?)
    }
}

/// The date in a text that goes on with a time and an offset.
fn written_date(text: &str) -> Option<&str> {
    let text = text.trim_start();
    let at = text.find(['T', 't', ' '])?;
    let (date, time) = text.split_at(at);
    time.contains(['+', '-']).then_some(date)
}

impl ScalarUDFImpl for LocalDate {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Date32)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        let nullable = self.try_only || args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name, DataType::Date32, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        match args.args.first() {
            Some(texts) => on_arrays(texts, |texts| self.dates(texts)),
            None => internal_err!("{} without arguments", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_cut_off_only_before_an_offset() {
        for (text, date) in [
            ("2024-01-01T23:30:00-06:00", Some("2024-01-01")),
            ("2024-01-01 23:30:00.5+05:30", Some("2024-01-01")),
            ("2024-01-01T23:30:00Z", None),
            ("2024-01-01T23:30:00", None),
            ("2024-01-01", None),
        ] {
            assert_eq!(written_date(text), date, "{text}");
        }
    }

    /// If this fails, Arrow gives local dates, and this file can go.
    #[test]
    fn arrow_still_gives_the_date_in_utc() {
        let text: ArrayRef = Arc::new(StringArray::from(vec!["2024-01-01T23:30:00-06:00"]));
        let date = cast(&cast(&text, &DataType::Date32).unwrap(), &DataType::Utf8).unwrap();
        assert_eq!(date.as_string::<i32>().value(0), "2024-01-02");
    }
}
