//! Decimals with more digits than their own type has.
//!
//! What holds a decimal has room for more digits than its type says, and writers put more there: Avro's decimals are any
//! number of bytes. Arrow's and Parquet's readers take such a value as it is; what is computed, shown and written
//! of it then is another number.

use std::fmt;

use datafusion::arrow::array::{Array, AsArray, Decimal128Array, PrimitiveArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DecimalType, Schema,
};

use super::values::type_name;

/// Whether values of `data_type` are decimals, or have some within.
pub(super) fn has_decimals(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => has_decimals(values),
        DataType::RunEndEncoded(_, values) => has_decimals(values.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_decimals(field.data_type())),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => has_decimals(item.data_type()),
        other => other.is_decimal(),
    }
}

/// Whether a column of `schema` has decimals.
pub(super) fn any_has_decimals(schema: &Schema) -> bool {
    schema.fields().iter().any(|field| has_decimals(field.data_type()))
}

/// Fails on the first decimal that has more digits than its type; also within structs, lists and maps.
pub(super) fn check_digits(values: &dyn Array) -> Result<(), String> {
    if !has_decimals(values.data_type()) {
        return Ok(());
    }
    match values.data_type() {
        DataType::Decimal32(precision, _) => check::<Decimal32Type>(values.as_primitive(), *precision),
        DataType::Decimal64(precision, _) => check::<Decimal64Type>(values.as_primitive(), *precision),
        DataType::Decimal128(precision, _) => {
            let values: &Decimal128Array = values.as_primitive();
            match surely_fit(values.values(), *precision) {
                true => Ok(()),
                false => check::<Decimal128Type>(values, *precision),
            }
        }
        DataType::Decimal256(precision, _) => check::<Decimal256Type>(values.as_primitive(), *precision),
        DataType::Struct(_) => {
            values.as_struct().columns().iter().try_for_each(|column| check_digits(column.as_ref()))
        }
        DataType::List(_) => check_digits(values.as_list::<i32>().values().as_ref()),
        DataType::LargeList(_) => check_digits(values.as_list::<i64>().values().as_ref()),
        DataType::FixedSizeList(..) => check_digits(values.as_fixed_size_list().values().as_ref()),
        DataType::Map(..) => check_digits(values.as_map().entries()),
        DataType::Dictionary(..) => check_digits(values.as_any_dictionary().values().as_ref()),
        DataType::RunEndEncoded(_, plain) => check_cast(values, plain.data_type()),
        DataType::ListView(item) => check_cast(values, &DataType::List(item.clone())),
        DataType::LargeListView(item) => check_cast(values, &DataType::LargeList(item.clone())),
        _ => Ok(()),
    }
}

fn check_cast(values: &dyn Array, plain: &DataType) -> Result<(), String> {
    check_digits(cast(values, plain).map_err(|error| error.to_string())?.as_ref())
}

/// Whether no value needs more digits than these. A no may be wrong: only the bits of all of them together are
/// looked at, which takes a tenth of the time that it takes to compare each.
fn surely_fit(values: &[i128], precision: u8) -> bool {
    let most = Decimal128Type::MAX_FOR_EACH_PRECISION.get(usize::from(precision));
    // Of a negative number the bits that are not set: it is at least as large as the largest of them.
    let bits = values.iter().fold(0, |bits, value| bits | (value ^ (value >> (i128::BITS - 1))));
    most.is_some_and(|most| bits < *most)
}

fn check<T: DecimalType>(values: &PrimitiveArray<T>, precision: u8) -> Result<(), String>
where
    T::Native: fmt::Display,
{
    let fits = |value: T::Native| T::is_valid_decimal_precision(value, precision);
    // One pass without branches; that a value below a null is too large is found by the second.
    if values.values().iter().fold(true, |all, value| all & fits(*value)) {
        return Ok(());
    }
    match values.iter().flatten().find(|value| !fits(*value)) {
        None => Ok(()),
        Some(value) => {
            let scale = match values.data_type() {
                DataType::Decimal32(_, scale)
                | DataType::Decimal64(_, scale)
                | DataType::Decimal128(_, scale)
                | DataType::Decimal256(_, scale) => *scale,
                _ => 0,
            };
            Err(format!(
                "{} has more digits than {}, which is what the file says that it holds",
                with_point(&value.to_string(), scale),
                type_name(values.data_type())
            ))
        }
    }
}

/// `digits`, which may have a sign, of which so many are behind the point.
fn with_point(digits: &str, scale: i8) -> String {
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", digits),
    };
    match usize::try_from(scale) {
        Ok(0) => format!("{sign}{digits}"),
        Ok(scale) => {
            let digits = format!("{digits:0>width$}", width = scale + 1);
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            format!("{sign}{whole}.{fraction}")
        }
        Err(_) => format!("{sign}{digits}{}", "0".repeat(scale.unsigned_abs().into())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{
        ArrayRef, Decimal32Array, Decimal64Array, Decimal256Array, DictionaryArray, Int32Array, ListArray,
        StructArray,
    };
    use datafusion::arrow::buffer::OffsetBuffer;
    use datafusion::arrow::datatypes::{Field, i256};

    use super::*;

    fn of_four(values: Vec<Option<i128>>) -> ArrayRef {
        Arc::new(Decimal128Array::from(values).with_data_type(DataType::Decimal128(4, 2)))
    }

    #[test]
    fn the_first_value_with_more_digits_is_named() {
        for (value, text) in [
            (10_000, Some("100.00")),
            (-10_000, Some("-100.00")),
            (i128::MAX, Some("1701411834604692317316873037158841057.27")),
            (i128::MIN, Some("-1701411834604692317316873037158841057.28")),
            (9_999, None),
            (-9_999, None),
            (0, None),
        ] {
            let found = check_digits(of_four(vec![Some(1), None, Some(value)]).as_ref());
            let expected = text.map(|text| {
                format!("{text} has more digits than DECIMAL(4,2), which is what the file says that it holds")
            });
            assert_eq!(found.err(), expected, "{value}");
        }
    }

    #[test]
    fn every_width_is_looked_at() {
        let wide = i256::from_i128(10).wrapping_pow(76);
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(Decimal32Array::from(vec![1_000_000_000]).with_data_type(DataType::Decimal32(9, 0))),
            Arc::new(Decimal64Array::from(vec![-1000]).with_data_type(DataType::Decimal64(3, 1))),
            Arc::new(
                Decimal128Array::from(vec![10_i128.pow(38)]).with_data_type(DataType::Decimal128(38, 0)),
            ),
            Arc::new(Decimal256Array::from(vec![wide]).with_data_type(DataType::Decimal256(76, 0))),
        ];
        for array in arrays {
            assert!(check_digits(array.as_ref()).is_err(), "{}", array.data_type());
            assert!(check_digits(array.slice(0, 0).as_ref()).is_ok());
        }
        assert_eq!(with_point("5", -2), "500");
        assert_eq!(with_point("-5", 3), "-0.005");
    }

    #[test]
    fn what_is_below_a_null_does_not_count() {
        let mut builder = Decimal128Array::builder(2);
        builder.append_value(1);
        builder.append_null();
        let sound = builder.finish().into_data().into_builder();
        let values = datafusion::arrow::buffer::Buffer::from_vec(vec![1_i128, i128::MAX]);
        let data = sound.buffers(vec![values]).data_type(DataType::Decimal128(4, 2)).build().unwrap();
        assert!(check_digits(datafusion::arrow::array::make_array(data).as_ref()).is_ok());
    }

    #[test]
    fn values_within_others_are_looked_at() {
        let wrong = of_four(vec![Some(10_000)]);
        let field = |data_type: &DataType| Arc::new(Field::new("item", data_type.clone(), true));
        let structs: ArrayRef =
            Arc::new(StructArray::from(vec![(field(wrong.data_type()), Arc::clone(&wrong))]));
        let lists: ArrayRef = Arc::new(ListArray::new(
            field(structs.data_type()),
            OffsetBuffer::from_lengths([1]),
            Arc::clone(&structs),
            None,
        ));
        let dictionary: ArrayRef =
            Arc::new(DictionaryArray::new(Int32Array::from(vec![0, 0]), Arc::clone(&wrong)));
        for array in [structs, lists, dictionary] {
            assert!(check_digits(array.as_ref()).is_err(), "{}", array.data_type());
        }
    }
}
