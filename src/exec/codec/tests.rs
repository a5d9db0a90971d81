//! An example of each type, byte by byte, and the promises of the format for random rows of all types.

use std::cmp::Ordering;
use std::sync::Arc;

use datafusion::arrow::array::*;
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use datafusion::arrow::compute::{SortOptions, cast};
use datafusion::arrow::datatypes::*;
use proptest::prelude::*;

use super::*;

fn field(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `values` as of `data_type`.
fn of_type(data_type: DataType, values: impl Array) -> ArrayRef {
    cast(&values, &data_type).unwrap()
}

fn strings() -> StringArray {
    StringArray::from(vec![Some("a\0b"), Some(""), None])
}

/// A list of each of two numbers, an empty one, and null.
fn list() -> ListArray {
    ListArray::from_iter_primitive::<Int16Type, _, _>([Some(vec![Some(1), None]), Some(vec![]), None])
}

fn structs() -> StructArray {
    let fields = Fields::from(vec![field("a", DataType::UInt8), field("b", DataType::Utf8)]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt8Array::from(vec![Some(7), None, Some(1)])),
        Arc::new(StringArray::from(vec!["x", "y", "z"])),
    ];
    StructArray::new(fields, columns, Some(NullBuffer::from(vec![true, true, false])))
}

fn map() -> MapArray {
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int16Builder::new());
    map.keys().append_value("k");
    map.values().append_value(2);
    map.append(true).unwrap();
    map.append(true).unwrap();
    map.append(false).unwrap();
    map.finish()
}

fn union(mode: UnionMode) -> UnionArray {
    let fields: Vec<Field> = vec![field("n", DataType::UInt8), field("t", DataType::Utf8)];
    let fields = UnionFields::try_new([0, 5], fields).unwrap();
    let ids = ScalarBuffer::from(vec![5i8, 0, 0]);
    let (offsets, numbers, texts) = match mode {
        UnionMode::Dense => (Some(vec![0, 0, 1].into()), vec![Some(9), None], vec!["q"]),
        UnionMode::Sparse => (None, vec![None, Some(9), None], vec!["q", "", ""]),
    };
    let columns: Vec<ArrayRef> =
        vec![Arc::new(UInt8Array::from(numbers)), Arc::new(StringArray::from(texts))];
    UnionArray::try_new(fields, ids, offsets, columns).unwrap()
}

fn zone() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("Europe/Berlin".into()))
}

fn case(column: impl Array, rows: &[&'static str]) -> (ArrayRef, Vec<&'static str>) {
    (make_array(column.to_data()), rows.to_vec())
}

/// Columns of each type, with the bytes of their rows as keys; behind each column comes another one.
fn keys() -> Vec<(ArrayRef, Vec<&'static str>)> {
    let fixed = FixedSizeBinaryArray::try_from_sparse_iter_with_size(
        [Some([0u8, 255]), Some([1, 2]), None].into_iter(),
        2,
    );
    let fixed_list = FixedSizeListArray::from_iter_primitive::<Int8Type, _, _>(
        [Some(vec![Some(1), None]), Some(vec![Some(-1), Some(2)]), None],
        2,
    );
    let int32 = || Int32Array::from(vec![Some(1), Some(-1), None]);
    let int64 = || Int64Array::from(vec![Some(1), Some(-1), None]);
    let dictionary = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
    let numbers32 = || vec!["0180000001", "017fffffff", "00"];
    let numbers64 = || vec!["018000000000000001", "017fffffffffffffff", "00"];
    let text = || vec!["016100ff6200", "0100", "00"];
    vec![
        case(NullArray::new(3), &["00", "00", "00"]),
        case(BooleanArray::from(vec![Some(true), Some(false), None]), &["02", "01", "00"]),
        case(Int8Array::from(vec![Some(1), Some(-1), None]), &["0181", "017f", "00"]),
        case(Int16Array::from(vec![Some(1), Some(-1), None]), &["018001", "017fff", "00"]),
        case(int32(), &numbers32()),
        case(int64(), &numbers64()),
        case(UInt8Array::from(vec![Some(1), Some(255), None]), &["0101", "01ff", "00"]),
        case(UInt16Array::from(vec![Some(1), Some(258), None]), &["010001", "010102", "00"]),
        case(UInt32Array::from(vec![Some(1), Some(258), None]), &["0100000001", "0100000102", "00"]),
        case(
            UInt64Array::from(vec![Some(1), Some(258), None]),
            &["010000000000000001", "010000000000000102", "00"],
        ),
        case(
            of_type(DataType::Float16, Float32Array::from(vec![Some(1.0), Some(-0.0), Some(-1.0), None])),
            &["01bc00", "018000", "0143ff", "00"],
        ),
        case(
            Float32Array::from(vec![Some(1.0), Some(-0.0), Some(-1.0), Some(-f32::NAN)]),
            &["01bf800000", "0180000000", "01407fffff", "01003fffff"],
        ),
        case(
            Float64Array::from(vec![Some(1.0), Some(-0.0), Some(-1.0), Some(-f64::NAN)]),
            &["01bff0000000000000", "018000000000000000", "01400fffffffffffff", "010007ffffffffffff"],
        ),
        case(of_type(DataType::Date32, int32()), &numbers32()),
        case(int64().reinterpret_cast::<Date64Type>(), &numbers64()),
        case(of_type(DataType::Time32(TimeUnit::Second), int32()), &numbers32()),
        case(of_type(DataType::Time64(TimeUnit::Nanosecond), int64()), &numbers64()),
        case(of_type(DataType::Timestamp(TimeUnit::Nanosecond, None), int64()), &numbers64()),
        case(of_type(zone(), int64()), &numbers64()),
        case(of_type(DataType::Duration(TimeUnit::Millisecond), int64()), &numbers64()),
        case(int32().reinterpret_cast::<Decimal32Type>(), &numbers32()),
        case(int64().reinterpret_cast::<Decimal64Type>(), &numbers64()),
        case(
            Decimal128Array::from(vec![Some(1), Some(-1), None]),
            &["0180000000000000000000000000000001", "017fffffffffffffffffffffffffffffff", "00"],
        ),
        case(
            Decimal256Array::from(vec![Some(i256::ONE), Some(i256::MINUS_ONE), None]),
            &[
                "018000000000000000000000000000000000000000000000000000000000000001",
                "017fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
                "00",
            ],
        ),
        case(int32().reinterpret_cast::<IntervalYearMonthType>(), &numbers32()),
        case(
            IntervalDayTimeArray::from(vec![Some(IntervalDayTime::new(1, -1)), None]),
            &["01800000017fffffff", "00"],
        ),
        case(
            IntervalMonthDayNanoArray::from(vec![Some(IntervalMonthDayNano::new(1, -1, 2)), None]),
            &["01800000017fffffff8000000000000002", "00"],
        ),
        case(strings(), &text()),
        case(of_type(DataType::LargeUtf8, strings()), &text()),
        case(of_type(DataType::Utf8View, strings()), &text()),
        case(of_type(DataType::Binary, strings()), &text()),
        case(of_type(DataType::LargeBinary, strings()), &text()),
        case(of_type(DataType::BinaryView, strings()), &text()),
        case(of_type(dictionary, strings()), &text()),
        case(fixed.unwrap(), &["0100ff", "010102", "00"]),
        case(structs(), &["010107017800", "0100017900", "00"]),
        case(list(), &["0101018001010000", "0100", "00"]),
        case(fixed_list, &["01018100", "01017f0182", "00"]),
        case(map(), &["010101016b0001800200", "0100", "00"]),
        case(union(UnionMode::Dense), &["0185017100", "01800109", "018000"]),
        case(union(UnionMode::Sparse), &["0185017100", "01800109", "018000"]),
    ]
}

fn codec(columns: &[ArrayRef], purpose: Purpose) -> RowCodec {
    let fields: Vec<Field> = columns.iter().map(|column| field("", column.data_type().clone())).collect();
    RowCodec::try_new(&fields, purpose).unwrap()
}

#[test]
fn keys_have_the_bytes_of_the_format() {
    for (column, expected) in keys() {
        let rows = column.len();
        let behind: ArrayRef = Arc::new(UInt8Array::from(vec![0xaa; rows]));
        let columns = [Arc::clone(&column), behind];
        let encoded = codec(&columns, Purpose::Keys).encode(&columns, rows).unwrap();
        let found: Vec<String> = encoded.iter().map(hex).collect();
        let expected: Vec<String> = expected.iter().map(|bytes| format!("{bytes}01aa")).collect();
        assert_eq!(found, expected, "{}", column.data_type());
    }
}

#[test]
fn values_differ_from_keys_in_text_and_floats() {
    let text: ArrayRef =
        Arc::new(StringArray::from(vec![Some("a\0b".to_string()), Some("x".repeat(130)), None]));
    let floats: ArrayRef =
        Arc::new(Float64Array::from(vec![-0.0, f64::from_bits(0xfff8_0000_0000_0001), f64::NAN]));
    let columns = [text, floats];
    let codec = codec(&columns, Purpose::Values);
    let rows = codec.encode(&columns, 3).unwrap();
    let expected = [
        "0103610062017fffffffffffffff".to_string(),
        format!("018201{}010007fffffffffffe", "78".repeat(130)),
        "0001fff8000000000000".to_string(),
    ];
    assert_eq!(rows.iter().map(hex).collect::<Vec<_>>(), expected);
    let decoded = codec.decode_all(&rows).unwrap();
    let bits = |column: &ArrayRef| -> Vec<u64> {
        column.as_primitive::<Float64Type>().values().iter().map(|value| value.to_bits()).collect()
    };
    assert_eq!(&decoded[0], &columns[0]);
    assert_eq!(bits(&decoded[1]), bits(&columns[1]));
}

#[test]
fn the_last_text_of_a_row_has_no_end() {
    for purpose in [Purpose::Keys, Purpose::Values] {
        let columns: [ArrayRef; 1] = [Arc::new(strings())];
        let rows = codec(&columns, purpose).encode(&columns, 3).unwrap();
        assert_eq!(rows.iter().map(hex).collect::<Vec<_>>(), ["01610062", "01", "00"]);
    }
}

#[test]
fn rows_without_columns_are_empty() {
    let codec = RowCodec::keys([]).unwrap();
    let rows = codec.encode(&[], 3).unwrap();
    assert_eq!(rows.iter().collect::<Vec<_>>(), [&[0u8; 0][..]; 3]);
    assert!(codec.decode_all(&rows).unwrap().is_empty());
}

/// Numbers that are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % sides
    }

    fn bits(&mut self, rows: usize) -> Option<NullBuffer> {
        match self.roll(2) {
            0 => None,
            _ => Some((0..rows).map(|_| self.roll(4) > 0).collect::<Vec<_>>().into()),
        }
    }

    /// Few of them, so that many are equal, and the extreme ones.
    fn number(&mut self) -> i64 {
        [0, 1, -1, 255, 256, -256, i64::MAX, i64::MIN, 1 << 40][self.roll(9)]
    }
}

/// A column of a random type, whose elements have types again.
fn random(rows: usize, depth: usize, dice: &mut Dice) -> ArrayRef {
    let kinds = if depth == 0 { 26 } else { 33 };
    let nulls = dice.bits(rows);
    let mut numbers = || Int64Array::new((0..rows).map(|_| dice.number()).collect(), nulls.clone());
    let wide = |numbers: &Int64Array| numbers.iter().map(|n| n.map(|n| i128::from(n) << 60)).collect();
    let numbers = numbers();
    let narrow: Int32Array = numbers.unary(|n| n as i32);
    let texts = ["", "a", "a\0", "a\0\0b", "b", "\0", "\u{10ffff}", "a long text that goes on and on and on"];
    let text = StringArray::from_iter(numbers.iter().map(|n| n.map(|n| texts[n.rem_euclid(8) as usize])));
    let floats = [0.0, 1.5, -1.5, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, f64::MIN_POSITIVE, 1e300];
    let float = Float64Array::from_iter(numbers.iter().map(|n| n.map(|n| floats[n.rem_euclid(8) as usize])));
    match dice.roll(kinds) {
        0 => Arc::new(NullArray::new(rows)),
        1 => Arc::new(BooleanArray::from_iter(numbers.iter().map(|n| n.map(|n| n % 2 == 0)))),
        2 => Arc::new(numbers.unary::<_, Int8Type>(|n| n as i8)),
        3 => Arc::new(numbers.unary::<_, UInt16Type>(|n| n as u16)),
        4 => Arc::new(numbers.unary::<_, UInt64Type>(|n| n as u64)),
        5 => Arc::new(narrow),
        6 => Arc::new(numbers),
        7 => of_type(DataType::Float16, float),
        8 => of_type(DataType::Float32, float),
        9 => Arc::new(float),
        10 => Arc::new(narrow.reinterpret_cast::<Decimal32Type>()),
        11 => Arc::new(numbers.reinterpret_cast::<Decimal64Type>()),
        12 => {
            let wide: Decimal128Array = wide(&numbers);
            Arc::new(wide.with_precision_and_scale(38, 3).unwrap())
        }
        13 => {
            Arc::new(Decimal256Array::from_iter(numbers.iter().map(|n| n.map(|n| i256::from_i128(n.into())))))
        }
        14 => Arc::new(narrow.reinterpret_cast::<Date32Type>()),
        15 => Arc::new(numbers.reinterpret_cast::<TimestampMicrosecondType>().with_timezone("UTC")),
        16 => Arc::new(numbers.reinterpret_cast::<DurationSecondType>()),
        17 => Arc::new(
            numbers.unary::<_, IntervalMonthDayNanoType>(|n| IntervalMonthDayNano::new(n as i32, 0, n)),
        ),
        18 => Arc::new(numbers.unary::<_, IntervalDayTimeType>(|n| IntervalDayTime::new(n as i32, 1))),
        19 => Arc::new(text),
        20 => of_type(DataType::LargeUtf8, text),
        21 => of_type(DataType::Utf8View, text),
        22 => of_type(DataType::Binary, text),
        23 => of_type(DataType::BinaryView, text),
        24 => of_type(DataType::Dictionary(Box::new(DataType::Int16), Box::new(DataType::Utf8)), text),
        25 => Arc::new(
            FixedSizeBinaryArray::try_from_sparse_iter_with_size(
                numbers.iter().map(|n| n.map(|n| n.to_le_bytes())),
                8,
            )
            .unwrap(),
        ),
        26 | 27 => {
            let children: Vec<ArrayRef> =
                (0..1 + dice.roll(3)).map(|_| random(rows, depth - 1, dice)).collect();
            let fields: Fields = children
                .iter()
                .zip(["a", "b", "c"])
                .map(|(child, name)| field(name, child.data_type().clone()))
                .collect();
            Arc::new(StructArray::new(fields, children, nulls))
        }
        28 => {
            let elements = random(rows * 2, depth - 1, dice);
            let element = Arc::new(field("item", elements.data_type().clone()));
            Arc::new(FixedSizeListArray::new(element, 2, elements, nulls))
        }
        29 => {
            let lengths: Vec<usize> = (0..rows).map(|_| dice.roll(3)).collect();
            let total: usize = lengths.iter().sum();
            let names = StringArray::from_iter_values((0..total).map(|_| texts[dice.roll(8)]));
            let values = random(total, depth - 1, dice);
            let fields: Fields =
                vec![Field::new("key", DataType::Utf8, false), field("value", values.data_type().clone())]
                    .into();
            let entries = StructArray::new(fields.clone(), vec![Arc::new(names) as ArrayRef, values], None);
            let entry = Arc::new(Field::new("entries", DataType::Struct(fields), false));
            Arc::new(MapArray::new(entry, OffsetBuffer::from_lengths(lengths), entries, nulls, false))
        }
        kind => {
            let lengths: Vec<usize> = (0..rows).map(|_| dice.roll(4)).collect();
            let elements = random(lengths.iter().sum(), depth - 1, dice);
            let element = Arc::new(field("item", elements.data_type().clone()));
            let offsets = OffsetBuffer::from_lengths(lengths);
            let list = ListArray::new(Arc::clone(&element), offsets, elements, nulls);
            match kind {
                30 => of_type(DataType::LargeList(element), list),
                31 => of_type(DataType::ListView(element), list),
                _ => Arc::new(list),
            }
        }
    }
}

/// Arrow's own comparison of rows.
fn compare(columns: &[ArrayRef], one: usize, other: usize) -> Ordering {
    let ordering =
        |column: &ArrayRef| make_comparator(column, column, SortOptions::default()).unwrap()(one, other);
    columns.iter().map(ordering).find(|ordering| ordering.is_ne()).unwrap_or(Ordering::Equal)
}

/// Whether Arrow can compare values of this type.
fn is_comparable(column: &ArrayRef) -> bool {
    fn is_plain(data_type: &DataType) -> bool {
        match data_type {
            DataType::Map(..) | DataType::ListView(_) | DataType::Null => false,
            DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
                is_plain(field.data_type())
            }
            DataType::Struct(fields) => fields.iter().all(|field| is_plain(field.data_type())),
            _ => true,
        }
    }
    is_plain(column.data_type())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_encoded_is_decoded(seed in any::<u64>(), rows in 0usize..20, width in 1usize..4) {
        let mut dice = Dice(seed);
        let columns: Vec<ArrayRef> = (0..width).map(|_| random(rows + 2, 2, &mut dice).slice(1, rows)).collect();
        for purpose in [Purpose::Keys, Purpose::Values] {
            let codec = codec(&columns, purpose);
            let encoded = codec.encode(&columns, rows).unwrap();
            let decoded = codec.decode_all(&encoded).unwrap();
            for (column, decoded) in columns.iter().zip(&decoded) {
                decoded.to_data().validate_full().unwrap();
                prop_assert_eq!(column.data_type(), decoded.data_type());
                let (column, decoded) = (normal(column), normal(decoded));
                prop_assert_eq!(&column, &decoded);
            }
            // Whatever became of the bytes, there is an error and nothing worse.
            for row in encoded.iter().filter(|row| !row.is_empty()) {
                let at = dice.roll(row.len());
                let mut damaged = row.to_vec();
                damaged[at] ^= 1 << dice.roll(8);
                let _ = codec.decode([damaged.as_slice()]);
                prop_assert!(codec.decode([&row[..0]]).is_err());
            }
        }
    }

    #[test]
    fn the_order_of_keys_is_that_of_rows(seed in any::<u64>(), width in 1usize..4) {
        const ROWS: usize = 12;
        let mut dice = Dice(seed);
        let mut columns: Vec<ArrayRef> = (0..width).map(|_| random(ROWS, 2, &mut dice)).collect();
        columns.retain(is_comparable);
        let encoded = codec(&columns, Purpose::Keys).encode(&columns, ROWS).unwrap();
        for one in 0..ROWS {
            for other in 0..ROWS {
                prop_assert_eq!(
                    encoded.row(one).cmp(encoded.row(other)),
                    compare(&columns, one, other),
                    "{:?}: {} and {}", columns, hex(encoded.row(one)), hex(encoded.row(other))
                );
            }
        }
    }
}

/// Without what two equal columns may differ in: what is below nulls.
fn normal(column: &ArrayRef) -> String {
    let options = datafusion::arrow::util::display::FormatOptions::default().with_null("NULL");
    let format = datafusion::arrow::util::display::ArrayFormatter::try_new(column, &options).unwrap();
    (0..column.len()).map(|row| format!("{}\n", format.value(row))).collect()
}
