//! Decimals with more digits than the file says that they have: malformed, whatever they are read as.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, Decimal128Array, Decimal256Array, Int64Array, ListArray, RecordBatch, StructArray,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, i256};
use tidemill::{Error, Session};

use super::formats::{ipc_file, ipc_stream, parquet};
use super::{Input, schema};

const WRONG: &str = "100.00 has more digits than DECIMAL(4,2)";

/// 1.00, 100.00 (which is no DECIMAL(4, 2)), null and -0.05.
fn decimals() -> ArrayRef {
    let values = Decimal128Array::from(vec![Some(100), Some(10_000), None, Some(-5)]);
    Arc::new(values.with_data_type(DataType::Decimal128(4, 2)))
}

fn batch(d: ArrayRef) -> RecordBatch {
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(0..d.len() as i64));
    RecordBatch::try_from_iter_with_nullable([("id", id, true), ("d", d, true)]).unwrap()
}

fn files(rows: &RecordBatch) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("parquet", parquet(rows, 2)),
        ("arrow", ipc_file(std::slice::from_ref(rows))),
        ("arrow", ipc_stream(std::slice::from_ref(rows))),
        #[cfg(feature = "avro")]
        ("avro", super::formats::avro(rows)),
    ]
}

fn columns(d: DataType) -> SchemaRef {
    schema(&[("id", DataType::Int64), ("d", d)])
}

#[tokio::test]
async fn more_digits_than_the_file_says_are_malformed() {
    for (format, content) in files(&batch(decimals())) {
        let input = Input::new();
        input.write("f", 1, content);
        for wanted in [
            DataType::Decimal128(4, 2),
            DataType::Decimal128(38, 2),
            DataType::Decimal128(10, 5),
            DataType::Float64,
            DataType::Utf8,
        ] {
            let what = format!("{format} as {wanted}");
            let table = columns(wanted);
            let error = input.source(format, &table, &[]).await.all().await.unwrap_err();
            assert!(matches!(error, Error::InputFile { .. }), "{what}: {error}");
            assert!(error.to_string().contains("column 'd'") && error.to_string().contains(WRONG), "{error}");
            let reader = input.source(format, &table, &[("mode", "DROPMALFORMED")]).await;
            assert_eq!(reader.all().await.unwrap().len(), 3, "{what}");
            assert_eq!(reader.source.take_metrics()["numMalformedRows"], "1");
            let kept = input.source(format, &table, &[("mode", "PERMISSIVE")]).await.all().await.unwrap();
            assert!(kept.contains(&"1|-".to_string()) && kept.len() == 4, "{what}: {kept:?}");
        }
        let error = input.inferred(format, &[]).await.all().await.unwrap_err().to_string();
        assert!(error.contains(WRONG), "{format}: {error}");
        // Who does not ask for it does not get it.
        let reader = input.source(format, &columns(DataType::Decimal128(4, 2)), &[]).await;
        let planned = reader.plan().await;
        assert_eq!(reader.read_with(&planned, Some(&vec![0]), 1).await.unwrap(), ["0", "1", "2", "3"]);
    }
}

#[tokio::test]
async fn wide_decimals_and_those_within_others_are_looked_at() {
    // The 17 bytes that 40 digits take have room for it.
    let wide = i256::from_i128(5).wrapping_mul(i256::from_i128(10).wrapping_pow(40));
    let wide: ArrayRef =
        Arc::new(Decimal256Array::from(vec![i256::ONE, wide]).with_data_type(DataType::Decimal256(40, 0)));
    let d = decimals();
    let field = Arc::new(Field::new("x", d.data_type().clone(), true));
    let structs: ArrayRef = Arc::new(StructArray::from(vec![(Arc::clone(&field), Arc::clone(&d))]));
    let lists: ArrayRef =
        Arc::new(ListArray::new(field, OffsetBuffer::from_lengths([1, 1, 1, 1]), Arc::clone(&d), None));
    for (column, all) in [(wide, 2), (structs, 4), (lists, 4)] {
        let wanted = column.data_type().clone();
        for (format, content) in files(&batch(column)) {
            if format == "avro" && matches!(wanted, DataType::Decimal256(..)) {
                continue;
            }
            let input = Input::new();
            input.write("f", 1, content);
            let table = columns(wanted.clone());
            let error = input.source(format, &table, &[]).await.all().await.unwrap_err().to_string();
            assert!(error.contains("has more digits than DECIMAL("), "{format} {wanted}: {error}");
            let reader = input.source(format, &table, &[("mode", "DROPMALFORMED")]).await;
            assert_eq!(reader.all().await.unwrap().len(), all - 1, "{format} {wanted}");
        }
    }
}

/// What DataFusion reads by itself is looked over like everything else.
#[tokio::test]
async fn datafusions_scans_of_parquet_files_count_digits() {
    let input = Input::new();
    let session = Session::new();
    input.write("f.parquet", 1, parquet(&batch(decimals()), 2));
    let table = |name: &str, file: &str| {
        format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{}'", input.text(file))
    };
    let context = session.context();
    context.sql(&table("t", "f.parquet")).await.unwrap();
    let rows = async |select: &str| {
        let read = context.sql(select).await.unwrap().collect().await.map_err(|error| error.to_string());
        read.map(|batches| super::rows(&batches))
    };
    for select in [
        "SELECT * FROM t",
        "SELECT d + 1 FROM t",
        "SELECT max(d) FROM t",
        "SELECT sum(d) FROM t WHERE id > 0",
        "SELECT id FROM t WHERE d > 2",
        "SELECT id, d FROM t ORDER BY d LIMIT 1",
    ] {
        let error = rows(select).await.expect_err(select);
        assert!(error.contains(WRONG), "{select}: {error}");
    }
    assert_eq!(rows("SELECT count(*) FROM t").await.unwrap(), ["4"]);
    // Of sound files nothing is different.
    let sound = decimals().slice(2, 2);
    input.write("g.parquet", 1, parquet(&batch(sound), 1));
    context.sql(&table("u", "g.parquet")).await.unwrap();
    for (select, expected) in [
        ("SELECT * FROM u", vec!["0|-", "1|-0.05"]),
        ("SELECT max(d), min(d) FROM u", vec!["-0.05|-0.05"]),
        ("SELECT id FROM u WHERE d < 0", vec!["1"]),
        ("SELECT d * 2 FROM u WHERE d < 0", vec!["-0.10"]),
    ] {
        assert_eq!(rows(select).await.unwrap(), expected, "{select}");
    }
    let plan = rows("EXPLAIN SELECT d FROM u WHERE d > 7").await.unwrap().join("\n");
    assert!(plan.contains("pruning_predicate"), "row groups are still skipped: {plan}");
}

/// The fields of the schema stay what they were: what is looked at leaves no mark.
#[tokio::test]
async fn columns_of_decimals_have_no_marks() {
    let input = Input::new();
    input.write("f", 1, parquet(&batch(decimals().slice(2, 2)), 2));
    let reader = input.inferred("parquet", &[]).await;
    let planned = reader.plan().await;
    let plan = reader.scan(None, &[], 1).read(&planned, &reader.context()).unwrap();
    let expected = Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("d", DataType::Decimal128(4, 2), true),
    ]);
    assert_eq!(plan.schema().as_ref(), &expected);
}
