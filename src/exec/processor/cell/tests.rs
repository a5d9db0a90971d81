//! Reading rows of every kind.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    Decimal128Array, Int32Array, Int64Array, ListArray, StringArray, StructArray, TimestampMillisecondArray,
};
use datafusion::arrow::datatypes::{Field, Schema};
use serde::Deserialize;

use super::*;
use crate::exec::processor::timestamp::Timestamp;

fn read<T: serde::de::DeserializeOwned>(batch: &RecordBatch, row: usize) -> Result<T, String> {
    let known = KnownFields::default();
    T::deserialize(RowCells { batch, row, known: &known }).map_err(|error| error.to_string())
}

fn batch() -> RecordBatch {
    let place = Arc::new(Field::new("x", DataType::Int32, true));
    let places =
        StructArray::from(vec![(place, Arc::new(Int32Array::from(vec![Some(7), None])) as ArrayRef)]);
    let columns: [(&str, ArrayRef); 6] = [
        ("id", Arc::new(Int64Array::from(vec![1, 2]))),
        ("name", Arc::new(StringArray::from(vec![Some("a"), None]))),
        ("at", Arc::new(TimestampMillisecondArray::from(vec![1_500, -1]))),
        ("price", Arc::new(Decimal128Array::from(vec![125, 5]).with_precision_and_scale(10, 2).unwrap())),
        (
            "tags",
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([
                Some(vec![Some(1), None]),
                Some(vec![]),
            ])),
        ),
        ("place", Arc::new(places)),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

#[derive(Debug, PartialEq, Deserialize)]
struct Place {
    x: Option<u8>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Row {
    at: Timestamp,
    id: u16,
    name: Option<String>,
    price: f64,
    tags: Vec<Option<i32>>,
    place: Place,
    #[serde(default)]
    more: i64,
}

#[test]
fn rows_are_read_as_structs_tuples_and_maps() {
    let batch = batch();
    let row: Row = read(&batch, 0).unwrap();
    let expected = Row {
        at: Timestamp::from_millis(1_500),
        id: 1,
        name: Some("a".into()),
        price: 1.25,
        tags: vec![Some(1), None],
        place: Place { x: Some(7) },
        more: 0,
    };
    assert_eq!(row, expected);
    let row: Row = read(&batch, 1).unwrap();
    assert_eq!((row.at, row.name, row.place.x), (Timestamp::from_millis(-1), None, None));
    let few = batch.project(&[0, 2]).unwrap();
    assert_eq!(read::<(i64, String)>(&few, 0).unwrap(), (1, "1970-01-01T00:00:01.500".into()));
    let names: BTreeMap<String, i64> = read(&few, 1).unwrap();
    assert_eq!(names, BTreeMap::from([("at".into(), -1_000), ("id".into(), 2)]));
    assert_eq!(read::<String>(&batch.project(&[3]).unwrap(), 1).unwrap(), "0.05");
    assert_eq!(read::<Option<String>>(&batch.project(&[1]).unwrap(), 1).unwrap(), None);
    read::<()>(&batch, 0).unwrap();
}

#[test]
fn what_does_not_fit_is_said_with_the_column() {
    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Named {
        name: String,
    }
    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Other {
        other: i64,
    }
    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Small {
        id: bool,
    }
    let batch = batch();
    let error = read::<Named>(&batch, 1).unwrap_err();
    assert_eq!(error, "column 'name': it is null: invalid type: unit value, expected a string");
    assert_eq!(read::<Other>(&batch, 0).unwrap_err(), "missing field `other`");
    assert_eq!(
        read::<Small>(&batch, 0).unwrap_err(),
        "column 'id': invalid type: integer `1`, expected a boolean"
    );
    let error = read::<i64>(&batch, 0).unwrap_err();
    assert_eq!(error, "a row of 6 columns is read as a struct, a map or a tuple, not as a single value");
    assert_eq!(read::<(i64,)>(&batch, 0).unwrap_err(), "a row of 6 columns cannot be read as a tuple of 1");
    let empty = RecordBatch::new_empty(Arc::new(Schema::empty()));
    read::<()>(&empty, 0).unwrap();
}
