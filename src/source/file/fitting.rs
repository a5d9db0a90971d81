//! Values of one type as those of another, and columns by their names.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, GenericListArray, MapArray, OffsetSizeTrait,
    PrimitiveArray, StructArray, UInt64Array, new_null_array,
};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::compute::{CastOptions, cast, cast_with_options, concat, nullif, take};
use datafusion::arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Date64Type, Decimal128Type, FieldRef, Fields, Float64Type,
    Int64Type, Schema, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use datafusion::arrow::error::ArrowError;
use datafusion::error::{DataFusionError, Result as DataFusionResult};

use super::digits::{check_digits, has_decimals};
use super::uuids::as_told;
use super::values::{Scalar, ValueRules, cannot_be_read, in_unit, leaf, type_name};
use crate::text::{nearest_floats, texts_of_times};

const MILLIS_PER_DAY: i64 = 86_400_000;

/// For each field of `table` its position in `file`.
pub(super) fn positions(table: &Schema, file: &Schema) -> DataFusionResult<Vec<Option<usize>>> {
    table.fields().iter().map(|field| position(field.name(), table.fields(), file.fields())).collect()
}

/// Where in `file` the field `name` of `table` is.
pub(super) fn position(name: &str, table: &Fields, file: &Fields) -> DataFusionResult<Option<usize>> {
    if let Some(place) = file.iter().position(|field| field.name() == name) {
        return Ok(Some(place));
    }
    let lower = name.to_lowercase();
    let means = |field: &&FieldRef| field.name().to_lowercase() == lower;
    if table.iter().filter(means).count() > 1 {
        return Ok(None);
    }
    let mut places = file.iter().enumerate().filter(|(_, field)| means(field));
    match (places.next(), places.next()) {
        (Some((place, _)), None) => Ok(Some(place)),
        (Some((_, one)), Some((_, other))) => Err(DataFusionError::Execution(format!(
            "both its columns '{}' and '{}' can be meant by '{name}'",
            one.name(),
            other.name()
        ))),
        (None, _) => Ok(None),
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_binary(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

fn is_time_of_day(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Time32(_) | DataType::Time64(_))
}

fn is_date(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Date32 | DataType::Date64)
}

/// Whether values of type `found` can be read as `wanted`.
pub(super) fn fits(found: &DataType, wanted: &DataType) -> bool {
    match (found, wanted) {
        (found, wanted) if found == wanted => true,
        (DataType::Null, _) => true,
        (DataType::Dictionary(_, values), wanted) => fits(values, wanted),
        (DataType::RunEndEncoded(_, values), wanted) => fits(values.data_type(), wanted),
        (found, DataType::Dictionary(_, values)) => fits(found, values),
        (DataType::Struct(found), DataType::Struct(wanted)) => {
            wanted.iter().all(|field| match position(field.name(), wanted, found) {
                Ok(Some(place)) => fits(found[place].data_type(), field.data_type()),
                Ok(None) => true,
                Err(_) => false,
            })
        }
        (DataType::Map(found, _), DataType::Map(wanted, _)) => {
            let (DataType::Struct(found), DataType::Struct(wanted)) = (found.data_type(), wanted.data_type())
            else {
                return false;
            };
            found.len() == 2
                && wanted.len() == 2
                && found.iter().zip(wanted).all(|(found, wanted)| fits(found.data_type(), wanted.data_type()))
        }
        (found, wanted) => match (item_of(found), item_of(wanted)) {
            (Some(found), Some(wanted)) => fits(found.data_type(), wanted.data_type()),
            (None, None) => leaf_fits(found, wanted),
            _ => false,
        },
    }
}

fn item_of(data_type: &DataType) -> Option<&FieldRef> {
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => Some(item),
        _ => None,
    }
}

fn leaf_fits(found: &DataType, wanted: &DataType) -> bool {
    use DataType::{Boolean, Date32, Duration, FixedSizeBinary, Timestamp};
    let is_number = |data_type: &DataType| data_type.is_numeric();
    let is_plain = |data_type: &DataType| {
        is_number(data_type) || is_date(data_type) || is_time_of_day(data_type) || *data_type == Boolean
    };
    match (found, wanted) {
        (found, wanted) if is_number(found) && is_number(wanted) => true,
        // Without epochUnit each value is an error, which says so.
        (found, Timestamp(..) | Date32) if found.is_integer() => true,
        (found, wanted) if is_text(found) => {
            is_text(wanted) || is_binary(wanted) || leaf(wanted, &ValueRules::default()).is_some()
        }
        (found, wanted) if is_text(wanted) => {
            is_plain(found) || is_binary(found) || matches!(found, Timestamp(..) | FixedSizeBinary(_))
        }
        (found, wanted) if is_binary(found) || matches!(found, FixedSizeBinary(_)) => is_binary(wanted),
        (Timestamp(..), wanted) => matches!(wanted, Timestamp(..)) || is_date(wanted),
        (found, wanted) if is_date(found) => is_date(wanted) || matches!(wanted, Timestamp(..)),
        (found, wanted) if is_time_of_day(found) => is_time_of_day(wanted),
        (Duration(_), Duration(_)) => true,
        _ => false,
    }
}

/// Whether values are sure to fit as they are. What is below a null struct may be anything, and decimals may have more
/// digits than their type.
pub(super) fn is_itself(found: &DataType, wanted: &DataType) -> bool {
    found == wanted && !found.is_nested() && !has_decimals(found)
}

/// A row whose value does not fit, and what is wrong with it.
pub(super) type Misfit = (usize, String);

/// `values` as `wanted`, null in rows whose value does not fit; and these rows, ascending.
pub(super) fn fit_each(
    values: &ArrayRef,
    wanted: &DataType,
    rules: &ValueRules,
) -> Result<(ArrayRef, Vec<Misfit>), ArrowError> {
    let (mut pieces, mut misfits) = (Vec::new(), Vec::new());
    fit_part(values, 0, wanted, rules, &mut pieces, &mut misfits)?;
    let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
    match pieces.as_slice() {
        [] => Ok((new_null_array(wanted, 0), misfits)),
        pieces => Ok((concat(pieces)?, misfits)),
    }
}

/// Fits `values`, the first of which is that of row `first`, by halves where some do not fit.
fn fit_part(
    values: &ArrayRef,
    first: usize,
    wanted: &DataType,
    rules: &ValueRules,
    pieces: &mut Vec<ArrayRef>,
    misfits: &mut Vec<Misfit>,
) -> Result<(), ArrowError> {
    match (fit(values, wanted, None, rules), values.len()) {
        (Ok(fitted), _) => pieces.push(fitted),
        (Err(reason), 1) => {
            pieces.push(new_null_array(wanted, 1));
            misfits.push((first, reason));
        }
        (Err(reason), 0) => return Err(ArrowError::CastError(reason)),
        (Err(_), rows) => {
            for (from, to) in [(0, rows / 2), (rows / 2, rows)] {
                // Taken and not sliced: a slice of lists holds the items of all.
                let half = take(values, &UInt64Array::from_iter_values(from as u64..to as u64), None)?;
                fit_part(&half, first + from, wanted, rules, pieces, misfits)?;
            }
        }
    }
    Ok(())
}

/// `values` as `wanted`, null where `mask` says that what holds them is. The error says what is wrong with
/// the first value that does not fit.
pub(super) fn fit(
    values: &ArrayRef,
    wanted: &DataType,
    mask: Option<&NullBuffer>,
    rules: &ValueRules,
) -> Result<ArrayRef, String> {
    let values = masked(values, mask)?;
    match (values.data_type(), wanted) {
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let found = values.as_struct();
            let columns = fields.iter().map(|field| {
                let place =
                    position(field.name(), fields, found.fields()).map_err(|error| error.to_string())?;
                let Some(place) = place else { return Ok(new_null_array(field.data_type(), found.len())) };
                let column = as_told(found.column(place), &found.fields()[place], field.data_type());
                fit(&column, field.data_type(), found.nulls(), rules)
                    .map_err(|reason| format!("in '{}': {reason}", field.name()))
            });
            let columns = columns.collect::<Result<Vec<_>, _>>()?;
            let rows = StructArray::try_new_with_length(
                fields.clone(),
                columns,
                found.nulls().cloned(),
                found.len(),
            );
            Ok(Arc::new(rows.map_err(|error| error.to_string())?))
        }
        (DataType::Map(..), DataType::Map(entries, sorted)) => {
            fit_map(values.as_map(), entries, *sorted, rules)
        }
        (found, wanted) if item_of(found).is_some() && item_of(wanted).is_some() => {
            fit_list(&values, wanted, rules)
        }
        (found, wanted) if found == wanted => check_digits(&values).map(|()| values),
        (DataType::Dictionary(_, inner), wanted) if inner.as_ref() != wanted => {
            let plain = cast(&values, inner).map_err(|error| error.to_string())?;
            fit(&plain, wanted, None, rules)
        }
        (DataType::RunEndEncoded(_, inner), wanted) if inner.data_type() != wanted => {
            let plain = cast(&values, inner.data_type()).map_err(|error| error.to_string())?;
            fit(&plain, wanted, None, rules)
        }
        (_, DataType::Dictionary(_, inner)) => {
            let plain = fit(&values, inner, None, rules)?;
            cast(&plain, wanted).map_err(|error| error.to_string())
        }
        _ => fit_leaf(&values, wanted, rules),
    }
}

fn masked(values: &ArrayRef, mask: Option<&NullBuffer>) -> Result<ArrayRef, String> {
    let Some(mask) = mask.filter(|mask| mask.null_count() > 0) else { return Ok(Arc::clone(values)) };
    if matches!(values.data_type(), DataType::Null | DataType::Union(..) | DataType::RunEndEncoded(..)) {
        return Ok(Arc::clone(values));
    }
    let is_null = BooleanArray::new(!mask.inner(), None);
    nullif(values, &is_null).map_err(|error| error.to_string())
}

fn fit_list(values: &ArrayRef, wanted: &DataType, rules: &ValueRules) -> Result<ArrayRef, String> {
    let text = |error: ArrowError| error.to_string();
    match (values.data_type(), wanted) {
        (DataType::List(_), DataType::List(item)) => items::<i32>(values, item, rules),
        (DataType::LargeList(_), DataType::LargeList(item)) => items::<i64>(values, item, rules),
        (DataType::FixedSizeList(_, size), DataType::FixedSizeList(item, wanted)) if size == wanted => {
            let lists = values.as_fixed_size_list();
            let items = fit(lists.values(), item.data_type(), None, rules)?;
            let lists = FixedSizeListArray::try_new_with_length(
                Arc::clone(item),
                *size,
                items,
                lists.nulls().cloned(),
                lists.len(),
            );
            Ok(Arc::new(lists.map_err(text)?))
        }
        // These are fitted as lists that are one after the other.
        (_, DataType::ListView(item)) => {
            let lists = fit_list(values, &DataType::List(Arc::clone(item)), rules)?;
            cast_with_options(&lists, wanted, &strict()).map_err(text)
        }
        (_, DataType::LargeListView(item)) => {
            let lists = fit_list(values, &DataType::LargeList(Arc::clone(item)), rules)?;
            cast_with_options(&lists, wanted, &strict()).map_err(text)
        }
        // Another kind of list of the same items, which then are fitted.
        (found, wanted) => {
            let item = item_of(found).map(Arc::clone).ok_or_else(|| "it is no list".to_string())?;
            let same_kind = match wanted {
                DataType::LargeList(_) => DataType::LargeList(item),
                DataType::FixedSizeList(_, size) => DataType::FixedSizeList(item, *size),
                _ => DataType::List(item),
            };
            let lists = cast_with_options(values, &same_kind, &strict()).map_err(text)?;
            if lists.data_type() == found {
                Err("it is another kind of list".into())
            } else {
                fit_list(&lists, wanted, rules)
            }
        }
    }
}

fn items<O: OffsetSizeTrait>(
    values: &ArrayRef,
    item: &FieldRef,
    rules: &ValueRules,
) -> Result<ArrayRef, String> {
    let lists = values.as_list::<O>();
    let items = match item_of(lists.data_type()) {
        Some(found) => as_told(lists.values(), found, item.data_type()),
        None => Arc::clone(lists.values()),
    };
    let items = fit(&items, item.data_type(), None, rules)?;
    let lists = GenericListArray::<O>::try_new(
        Arc::clone(item),
        lists.offsets().clone(),
        items,
        lists.nulls().cloned(),
    );
    Ok(Arc::new(lists.map_err(|error| error.to_string())?))
}

fn fit_map(map: &MapArray, entries: &FieldRef, sorted: bool, rules: &ValueRules) -> Result<ArrayRef, String> {
    let DataType::Struct(fields) = entries.data_type() else { return Err("it is no map".into()) };
    let [key, value] = fields.as_ref() else { return Err("it is no map".into()) };
    let [keys, values] = [(0, key), (1, value)].map(|(at, wanted)| {
        let found = as_told(map.entries().column(at), &map.entries().fields()[at], wanted.data_type());
        fit(&found, wanted.data_type(), None, rules)
    });
    let (keys, values) = (keys?, values?);
    let text = |error: ArrowError| error.to_string();
    let rows = StructArray::try_new(fields.clone(), vec![keys, values], None).map_err(text)?;
    let map =
        MapArray::try_new(Arc::clone(entries), map.offsets().clone(), rows, map.nulls().cloned(), sorted);
    Ok(Arc::new(map.map_err(text)?))
}

fn strict() -> CastOptions<'static> {
    CastOptions { safe: false, ..CastOptions::default() }
}

/// The values of a type without parts.
fn fit_leaf(values: &ArrayRef, wanted: &DataType, rules: &ValueRules) -> Result<ArrayRef, String> {
    if values.logical_null_count() == values.len() {
        // Of a type that says nothing, for there is nothing to be said.
        return Ok(new_null_array(wanted, values.len()));
    }
    check_digits(values)?;
    let found = values.data_type();
    match (found, wanted) {
        (found, wanted) if is_text(found) && !is_text(wanted) && !is_binary(wanted) => {
            return from_text(values, wanted, rules);
        }
        (found, wanted) if found.is_floating() && wanted.is_integer() => {
            check::<Float64Type>(&cast(values, &DataType::Float64), wanted, |value| {
                (value.fract() == 0.0).then_some(()).ok_or("it has a fraction")
            })?;
        }
        (found, wanted) if found.is_decimal() && wanted.is_integer() => {
            let (precision, scale) = decimal(found);
            if precision <= 38 {
                let unit = 10_i128.pow(u32::try_from(scale).unwrap_or(0).min(38));
                let wide = cast(values, &DataType::Decimal128(38, scale));
                check::<Decimal128Type>(&wide, wanted, |value| {
                    (value % unit == 0).then_some(()).ok_or("it has a fraction")
                })?;
            } else {
                return from_text(&as_text(values)?, wanted, rules);
            }
        }
        (found, wanted) if found.is_decimal() && wanted.is_floating() => {
            let out_of_range = |error: ArrowError| {
                let text = error.to_string();
                let number = text.split(": ").last().and_then(|text| text.split(' ').next());
                cannot_be_read(Scalar::Number(number.unwrap_or_default()), wanted, "it is out of range")
            };
            if let Some(floats) = nearest_floats(values.as_ref(), wanted).map_err(out_of_range)? {
                return Ok(floats);
            }
            return from_text(&as_text(values)?, wanted, rules);
        }
        // Through the shortest text that tells the number, so that no digit comes from its binary form.
        (found, wanted) if found.is_floating() && wanted.is_decimal() => {
            return from_text(&as_text(values)?, wanted, rules);
        }
        (DataType::Float64, DataType::Float32 | DataType::Float16)
        | (DataType::Float32, DataType::Float16) => {
            check_range(values, wanted)?;
        }
        // Days, as in text.
        (found, DataType::Date32) if found.is_integer() => {
            return push_all(&as_text(values)?, wanted, rules, Scalar::Number);
        }
        (found, DataType::Timestamp(unit, _)) if found.is_integer() => {
            let Some(epoch) = rules.epoch_unit else {
                return Err(format!(
                    "a number can be seconds or parts of them. Set epochUnit to say what it counts, to read it as {}",
                    type_name(wanted)
                ));
            };
            let counts =
                cast_with_options(values, &DataType::Int64, &strict()).map_err(|error| error.to_string())?;
            return times(counts.as_primitive::<Int64Type>(), epoch, *unit, wanted);
        }
        (DataType::Timestamp(from, zone), DataType::Timestamp(to, _)) if from != to => {
            let counts = cast(values, &DataType::Int64).map_err(|error| error.to_string())?;
            let same_zone = DataType::Timestamp(*to, zone.clone());
            let times = times(counts.as_primitive::<Int64Type>(), *from, *to, &same_zone)?;
            return cast_with_options(&times, wanted, &strict()).map_err(|error| error.to_string());
        }
        // Arrow's casts of milliseconds wrap around.
        (DataType::Date64, DataType::Timestamp(to, _)) => {
            let counts = cast(values, &DataType::Int64).map_err(|error| error.to_string())?;
            let local = DataType::Timestamp(*to, None);
            let times = times(counts.as_primitive::<Int64Type>(), TimeUnit::Millisecond, *to, &local)?;
            return cast_with_options(&times, wanted, &strict()).map_err(|error| error.to_string());
        }
        (DataType::Date64, DataType::Date32) => {
            let day = |millis: i64| {
                let out_of_range =
                    || cannot_be_read(Scalar::Number(&millis.to_string()), wanted, "it is out of range");
                i32::try_from(millis.div_euclid(MILLIS_PER_DAY)).map_err(|_| out_of_range())
            };
            let days = values.as_primitive::<Date64Type>().try_unary::<_, Date32Type, _>(day)?;
            return Ok(Arc::new(days));
        }
        (DataType::Timestamp(_, Some(_)) | DataType::Date64, wanted) if is_text(wanted) => {
            if let Some(texts) = texts_of_times(values).map_err(|error| error.to_string())? {
                return cast(&texts, wanted).map_err(|error| error.to_string());
            }
        }
        (DataType::FixedSizeBinary(_), wanted) if is_text(wanted) => {
            let bytes = cast(values, &DataType::Binary).map_err(|error| error.to_string())?;
            return fit_leaf(&bytes, wanted, rules);
        }
        _ => {}
    }
    cast_with_options(values, wanted, &strict()).map_err(|error| {
        let text = error.to_string();
        let reason = text.split_once("error: ").map_or(text.as_str(), |(_, reason)| reason);
        format!("a value cannot be read as {}: {reason}", type_name(wanted))
    })
}

fn decimal(data_type: &DataType) -> (u8, i8) {
    match data_type {
        DataType::Decimal32(p, s)
        | DataType::Decimal64(p, s)
        | DataType::Decimal128(p, s)
        | DataType::Decimal256(p, s) => (*p, *s),
        _ => (0, 0),
    }
}

fn as_text(values: &ArrayRef) -> Result<ArrayRef, String> {
    cast(values, &DataType::Utf8).map_err(|error| error.to_string())
}

/// Texts, as they are read in formats that have nothing else.
fn from_text(values: &ArrayRef, wanted: &DataType, rules: &ValueRules) -> Result<ArrayRef, String> {
    push_all(&as_text(values)?, wanted, rules, Scalar::Text)
}

fn push_all<'a>(
    texts: &'a ArrayRef,
    wanted: &DataType,
    rules: &ValueRules,
    scalar: impl Fn(&'a str) -> Scalar<'a>,
) -> Result<ArrayRef, String> {
    let mut column =
        leaf(wanted, rules).ok_or_else(|| format!("text cannot be read as {}", type_name(wanted)))?;
    for text in texts.as_string::<i32>() {
        match text.map(&scalar) {
            Some(value) => column.push(value).map_err(|why| cannot_be_read(value, wanted, why))?,
            None => column.push_null(),
        }
    }
    Ok(column.finish())
}

/// Fails on the first value that `judge` has something against.
fn check<T: ArrowPrimitiveType>(
    values: &Result<ArrayRef, ArrowError>,
    wanted: &DataType,
    judge: impl Fn(T::Native) -> Result<(), &'static str>,
) -> Result<(), String> {
    let values = values.as_ref().map_err(ToString::to_string)?;
    let values = values.as_primitive::<T>();
    for (index, value) in values.iter().enumerate() {
        if let Some(why) = value.and_then(|value| judge(value).err()) {
            let text = datafusion::arrow::util::display::array_value_to_string(values, index);
            let text = text.map_err(|error| error.to_string())?;
            return Err(cannot_be_read(Scalar::Number(&text), wanted, why));
        }
    }
    Ok(())
}

/// A number that is finite stays so.
fn check_range(values: &ArrayRef, wanted: &DataType) -> Result<(), String> {
    let narrow = cast(values, wanted).and_then(|narrow| cast(&narrow, &DataType::Float64));
    let narrow = narrow.map_err(|error| error.to_string())?;
    let narrow = narrow.as_primitive::<Float64Type>();
    let wide = cast(values, &DataType::Float64).map_err(|error| error.to_string())?;
    let wide = wide.as_primitive::<Float64Type>();
    let grew = |(narrow, wide): (Option<f64>, Option<f64>)| {
        wide.filter(|wide| wide.is_finite() && narrow.is_some_and(f64::is_infinite))
    };
    match narrow.iter().zip(wide).find_map(grew) {
        None => Ok(()),
        Some(value) => Err(cannot_be_read(Scalar::Number(&value.to_string()), wanted, "it is out of range")),
    }
}

/// Counts of `from` since 1970 as times in `to`.
fn times(
    counts: &PrimitiveArray<Int64Type>,
    from: TimeUnit,
    to: TimeUnit,
    wanted: &DataType,
) -> Result<ArrayRef, String> {
    let count = |value: i64| {
        let out_of_range =
            || cannot_be_read(Scalar::Number(&value.to_string()), wanted, "it is out of range");
        in_unit(value, from, to).ok_or_else(out_of_range)
    };
    Ok(match to {
        TimeUnit::Second => Arc::new(typed::<TimestampSecondType>(counts.try_unary(count)?, wanted)),
        TimeUnit::Millisecond => {
            Arc::new(typed::<TimestampMillisecondType>(counts.try_unary(count)?, wanted))
        }
        TimeUnit::Microsecond => {
            Arc::new(typed::<TimestampMicrosecondType>(counts.try_unary(count)?, wanted))
        }
        TimeUnit::Nanosecond => Arc::new(typed::<TimestampNanosecondType>(counts.try_unary(count)?, wanted)),
    })
}

fn typed<T: ArrowPrimitiveType<Native = i64>>(
    counts: PrimitiveArray<T>,
    wanted: &DataType,
) -> PrimitiveArray<T> {
    counts.with_data_type(wanted.clone())
}
