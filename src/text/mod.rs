//! Values as text: those that have none are errors, and floats that are no numbers are written as Spark
//! writes them.
//!
//! Arrow's writer of JSON puts the message of an error in the place of a date that it cannot format, and
//! null in the place of NaN. It cuts seconds off the offsets of zones.

mod local_mean_time;
mod nearest;
mod visible;

use std::io::Write;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use datafusion::arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, RecordBatch, StringArray, StringBuilder,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    ArrowNativeType, DataType, Field, Float16Type, Float32Type, Float64Type, Int32Type, Int64Type, Schema,
    TimeUnit,
};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::writer::{LineDelimited, NullableEncoder, WriterBuilder, make_encoder};
use datafusion::arrow::json::{Encoder, EncoderFactory, EncoderOptions};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::error::{Error, Result};
use local_mean_time::LocalMeanTimes;
pub(crate) use nearest::nearest_floats;
pub(crate) use visible::acts;
pub use visible::visible;

/// Days from the first of January of the year 1 to the epoch.
const DAYS_TO_EPOCH: i64 = 719_163;
const SECONDS_PER_DAY: i64 = 86_400;

/// Fails with column and row if a date, time or duration in `rows` has no text.
pub(crate) fn check_texts(rows: &RecordBatch) -> Result<()> {
    for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        if all_have_texts(column)? {
            continue;
        }
        // What is below a null may be anything.
        for row in (0..rows.num_rows()).filter(|row| column.is_valid(*row)) {
            let value = column.slice(row, 1);
            if !all_have_texts(&value)? {
                return Err(Error::Invalid(format!(
                    "column '{}' has a value in row {} of the batch that cannot be written as text: {} of type {} \
                     is beyond the years or hours that can be printed. Leave such rows out, or write parquet",
                    field.name(),
                    row + 1,
                    number(&value),
                    field.data_type(),
                )));
            }
        }
    }
    Ok(())
}

/// Writes a JSON object per row and line, as the sinks do; `builder` says what becomes of nulls.
pub(crate) fn write_json(rows: &RecordBatch, builder: &WriterBuilder, out: &mut impl Write) -> Result<()> {
    check_texts(rows)?;
    let builder = builder.clone().with_encoder_factory(Arc::new(SparkValues));
    Ok(builder.build::<_, LineDelimited>(out).write(rows)?)
}

/// Each value of `column`, a column called `name`, as JSON, members without a value left out; null where it is.
pub(crate) fn json_of_values(name: &str, column: &ArrayRef) -> Result<StringArray> {
    let field = Arc::new(Field::new(name, column.data_type().clone(), true));
    let schema = Arc::new(Schema::new(vec![Arc::clone(&field)]));
    check_texts(&RecordBatch::try_new(schema, vec![Arc::clone(column)])?)?;
    let options = EncoderOptions::default().with_encoder_factory(Arc::new(SparkValues));
    let mut encoder = make_encoder(&field, column.as_ref(), &options)?;
    let mut texts = StringBuilder::with_capacity(column.len(), column.len() * 16);
    let mut text = Vec::new();
    for row in 0..column.len() {
        if column.is_null(row) || encoder.is_null(row) {
            texts.append_null();
            continue;
        }
        text.clear();
        encoder.encode(row, &mut text);
        texts.append_value(std::str::from_utf8(&text).map_err(ArrowError::from)?);
    }
    Ok(texts.finish())
}

/// The number that a value is stored as.
fn number(value: &ArrayRef) -> String {
    match cast(value, &DataType::Int64) {
        Ok(number) if number.is_valid(0) => number.as_primitive::<Int64Type>().value(0).to_string(),
        _ => "a value".to_string(),
    }
}

fn all_have_texts(column: &ArrayRef) -> Result<bool> {
    let children: Vec<ArrayRef> = match column.data_type() {
        DataType::Struct(_) => column.as_struct().columns().to_vec(),
        DataType::List(_) => {
            let list = column.as_list::<i32>();
            vec![items(list.values(), list.offsets().first(), list.offsets().last())]
        }
        DataType::LargeList(_) => {
            let list = column.as_list::<i64>();
            vec![items(list.values(), list.offsets().first(), list.offsets().last())]
        }
        DataType::FixedSizeList(_, _) => vec![Arc::clone(column.as_fixed_size_list().values())],
        DataType::Map(_, _) => {
            let map = column.as_map();
            let (first, last) = (map.offsets().first(), map.offsets().last());
            map.entries().columns().iter().map(|column| items(column, first, last)).collect()
        }
        DataType::Dictionary(_, inner) if inner.is_nested() || printable(inner).is_some() => {
            vec![cast(column, inner)?]
        }
        DataType::RunEndEncoded(_, inner) => vec![cast(column, inner.data_type())?],
        DataType::ListView(item) => vec![cast(column, &DataType::List(Arc::clone(item)))?],
        DataType::LargeListView(item) => vec![cast(column, &DataType::LargeList(Arc::clone(item)))?],
        data_type => {
            let Some((least, most)) = printable(data_type) else { return Ok(true) };
            return within(column, least, most);
        }
    };
    for child in &children {
        if !all_have_texts(child)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The values between two offsets.
fn items<O: ArrowNativeType>(values: &ArrayRef, first: Option<&O>, last: Option<&O>) -> ArrayRef {
    let (first, last) = (first.map_or(0, |first| first.as_usize()), last.map_or(0, |last| last.as_usize()));
    values.slice(first, last - first)
}

/// The smallest and the largest number that stands for a value of `data_type` that has a text; `None` if
/// all have.
fn printable(data_type: &DataType) -> Option<(i64, i64)> {
    use chrono::Datelike;
    // A day is kept for the offsets of time zones.
    let (first, last) = (
        DateTime::<Utc>::MIN_UTC.timestamp() + SECONDS_PER_DAY,
        DateTime::<Utc>::MAX_UTC.timestamp() - SECONDS_PER_DAY,
    );
    let seconds = |per_second: i64| Some((first * per_second, last.saturating_mul(per_second)));
    let hours = |per_second: i64| Some((0, SECONDS_PER_DAY * per_second - 1));
    match data_type {
        DataType::Date32 => Some((
            i64::from(NaiveDate::MIN.num_days_from_ce()) - DAYS_TO_EPOCH + 1,
            i64::from(NaiveDate::MAX.num_days_from_ce()) - DAYS_TO_EPOCH - 1,
        )),
        DataType::Date64 | DataType::Timestamp(TimeUnit::Millisecond, _) => seconds(1_000),
        DataType::Timestamp(TimeUnit::Second, _) => seconds(1),
        DataType::Timestamp(TimeUnit::Microsecond, _) => seconds(1_000_000),
        DataType::Time32(TimeUnit::Second) => hours(1),
        DataType::Time32(TimeUnit::Millisecond) => hours(1_000),
        DataType::Time64(TimeUnit::Microsecond) => hours(1_000_000),
        DataType::Time64(TimeUnit::Nanosecond) => hours(1_000_000_000),
        DataType::Duration(TimeUnit::Second) => Some((-i64::MAX / 1_000, i64::MAX / 1_000)),
        DataType::Duration(TimeUnit::Millisecond) => Some((-i64::MAX, i64::MAX)),
        _ => None,
    }
}

/// Whether all values of `column` are numbers from `least` to `most`.
fn within(column: &ArrayRef, least: i64, most: i64) -> Result<bool> {
    fn all<T: ArrowPrimitiveType>(column: &ArrayRef, least: i64, most: i64) -> bool
    where
        i64: From<T::Native>,
    {
        let values: &PrimitiveArray<T> = column.as_primitive();
        let fits = |value: T::Native| (least..=most).contains(&i64::from(value));
        match values.null_count() {
            0 => values.values().iter().fold(true, |all, value| all & fits(*value)),
            _ => values.iter().flatten().all(fits),
        }
    }
    // These casts only give the numbers another name.
    Ok(match column.data_type() {
        DataType::Date32 | DataType::Time32(_) => {
            all::<Int32Type>(&cast(column, &DataType::Int32)?, least, most)
        }
        _ => all::<Int64Type>(&cast(column, &DataType::Int64)?, least, most),
    })
}

/// NaN and the infinities as the strings that Spark writes into JSON, times in the local mean time of their
/// zone as those of UTC; other values as they are.
#[derive(Debug)]
pub(crate) struct SparkValues;

impl EncoderFactory for SparkValues {
    fn make_default_encoder<'a>(
        &self,
        _: &'a datafusion::arrow::datatypes::FieldRef,
        array: &'a dyn Array,
        options: &'a EncoderOptions,
    ) -> std::result::Result<Option<NullableEncoder<'a>>, ArrowError> {
        let _ = options;
        let encoder: Option<Box<dyn Encoder + 'a>> = match array.data_type() {
            DataType::Float16 => float_encoder::<Float16Type>(array, |value| value.to_f64()),
            DataType::Float32 => float_encoder::<Float32Type>(array, f64::from),
            DataType::Float64 => float_encoder::<Float64Type>(array, |value| value),
            DataType::Timestamp(_, Some(_)) => time_encoder(array),
            _ => None,
        };
        Ok(encoder.map(|encoder| NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

/// An encoder of `array`, if it has values that are no numbers.
fn float_encoder<'a, T: ArrowPrimitiveType>(
    array: &'a dyn Array,
    double: fn(T::Native) -> f64,
) -> Option<Box<dyn Encoder + 'a>> {
    let values: &'a PrimitiveArray<T> = array.as_primitive();
    if values.values().iter().all(|value| double(*value).is_finite()) {
        return None;
    }
    let formatter = ArrayFormatter::try_new(array, &FormatOptions::new()).ok()?;
    Some(Box::new(FloatEncoder { values, double, formatter }))
}

struct FloatEncoder<'a, T: ArrowPrimitiveType> {
    values: &'a PrimitiveArray<T>,
    double: fn(T::Native) -> f64,
    formatter: ArrayFormatter<'a>,
}

impl<T: ArrowPrimitiveType> Encoder for FloatEncoder<'_, T> {
    fn encode(&mut self, index: usize, out: &mut Vec<u8>) {
        let value = (self.double)(self.values.value(index));
        let text: &[u8] = if value.is_nan() {
            b"\"NaN\""
        } else if value == f64::INFINITY {
            b"\"Infinity\""
        } else if value == f64::NEG_INFINITY {
            b"\"-Infinity\""
        } else {
            return out.extend_from_slice(self.formatter.value(index).to_string().as_bytes());
        };
        out.extend_from_slice(text);
    }
}

/// An encoder of `array`, if it has times in local mean time.
fn time_encoder(array: &dyn Array) -> Option<Box<dyn Encoder + '_>> {
    let times = LocalMeanTimes::of(array)?;
    let formatter = ArrayFormatter::try_new(array, &FormatOptions::new()).ok()?;
    Some(Box::new(TimeEncoder { times, formatter }))
}

struct TimeEncoder<'a> {
    times: LocalMeanTimes,
    formatter: ArrayFormatter<'a>,
}

impl Encoder for TimeEncoder<'_> {
    fn encode(&mut self, index: usize, out: &mut Vec<u8>) {
        let text = self.times.in_utc(index).unwrap_or_else(|| self.formatter.value(index).to_string());
        out.extend_from_slice(format!("\"{text}\"").as_bytes());
    }
}

/// `rows` with times in local mean time as those of UTC, if there are any.
pub(crate) fn with_csv_times(rows: RecordBatch) -> Result<RecordBatch> {
    let texts = rows.columns().iter().map(local_mean_texts).collect::<std::result::Result<Vec<_>, _>>()?;
    if texts.iter().all(Option::is_none) {
        return Ok(rows);
    }
    let mut fields: Vec<_> = rows.schema_ref().fields().iter().cloned().collect();
    let mut columns = rows.columns().to_vec();
    for ((field, column), texts) in fields.iter_mut().zip(&mut columns).zip(texts) {
        let Some(texts) = texts else { continue };
        *field = Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8));
        *column = texts;
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// The texts of times whose offsets have seconds, which Arrow would cut off, and of days that are counted in
/// milliseconds, to which Arrow adds a time; `None` for other values, of which Arrow gives the text.
pub(crate) fn texts_of_times(values: &ArrayRef) -> std::result::Result<Option<ArrayRef>, ArrowError> {
    match values.data_type() {
        DataType::Date64 => Ok(Some(cast(&cast(values, &DataType::Date32)?, &DataType::Utf8)?)),
        _ => local_mean_texts(values),
    }
}

/// The texts of `column`, if it has times in local mean time, which are told in UTC.
fn local_mean_texts(column: &ArrayRef) -> std::result::Result<Option<ArrayRef>, ArrowError> {
    let Some(times) = LocalMeanTimes::of(column.as_ref()) else { return Ok(None) };
    let options = FormatOptions::new();
    let formatter = ArrayFormatter::try_new(column.as_ref(), &options)?;
    let text = |row| times.in_utc(row).unwrap_or_else(|| formatter.value(row).to_string());
    let texts = (0..column.len()).map(|row| column.is_valid(row).then(|| text(row)));
    Ok(Some(Arc::new(StringArray::from_iter(texts))))
}

/// `rows` with infinities as Spark writes them into CSV, `Inf` and `-Inf`, if there are any.
pub(crate) fn with_csv_floats(rows: &RecordBatch) -> Result<RecordBatch> {
    let infinite = |column: &ArrayRef| match column.data_type() {
        DataType::Float16 => {
            column.as_primitive::<Float16Type>().values().iter().any(|value| value.is_infinite())
        }
        DataType::Float32 => {
            column.as_primitive::<Float32Type>().values().iter().any(|value| value.is_infinite())
        }
        DataType::Float64 => {
            column.as_primitive::<Float64Type>().values().iter().any(|value| value.is_infinite())
        }
        _ => false,
    };
    if !rows.columns().iter().any(infinite) {
        return Ok(rows.clone());
    }
    let mut fields: Vec<_> = rows.schema_ref().fields().iter().cloned().collect();
    let mut columns = rows.columns().to_vec();
    for (field, column) in fields.iter_mut().zip(&mut columns).filter(|(_, column)| infinite(column)) {
        let options = FormatOptions::new();
        let formatter = ArrayFormatter::try_new(column.as_ref(), &options)?;
        let text = |row: usize| {
            column.is_valid(row).then(|| match formatter.value(row).to_string() {
                text if text == "inf" => "Inf".to_string(),
                text if text == "-inf" => "-Inf".to_string(),
                text => text,
            })
        };
        let texts = StringArray::from_iter((0..column.len()).map(text));
        drop(formatter);
        *field = Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8));
        *column = Arc::new(texts);
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}
