//! What the console shows.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use datafusion::arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use serde_json::Value;
use tidemill::Error;
use tidemill::sink::{ConsoleSink, OutputMode, Sink, SinkDistribution};

use super::{batch, options, people, stage, write};

fn sink(rows: &RecordBatch, entries: &[(&str, &str)]) -> (ConsoleSink, Arc<Mutex<Vec<u8>>>) {
    let printed = Arc::new(Mutex::new(Vec::new()));
    let sink = ConsoleSink::try_new(rows.schema(), &options(entries)).unwrap();
    (sink.with_output(printed.clone()), printed)
}

fn text(printed: &Mutex<Vec<u8>>) -> String {
    String::from_utf8(printed.lock().unwrap().clone()).unwrap()
}

#[tokio::test]
async fn a_batch_is_a_table_under_its_number() {
    let (sink, printed) = sink(&people(0..1), &[]);
    assert_eq!(sink.distribution(), SinkDistribution::Single);
    assert!(sink.is_ephemeral());
    let prepared = write(&sink, batch(3), vec![vec![people(4..6)]]).await;
    assert_eq!(prepared["numRows"], 2);
    let expected = "\
-------------------------------------------
Batch: 3
-------------------------------------------
+----+--------+
| id | name   |
+----+--------+
| 4  | name 4 |
| 5  | NULL   |
+----+--------+

";
    assert_eq!(text(&printed), expected);
    write(&sink, batch(4), vec![vec![]]).await;
    let empty = "\
-------------------------------------------
Batch: 4
-------------------------------------------
+----+------+
| id | name |
+----+------+
+----+------+

";
    assert_eq!(text(&printed), format!("{expected}{empty}"));
}

#[tokio::test]
async fn long_batches_and_long_values_are_cut() {
    let (sink, printed) = sink(&people(0..1), &[("numRows", "2"), ("truncate", "5")]);
    let prepared = write(&sink, batch(0), vec![vec![people(1..2), people(2..10)]]).await;
    assert_eq!(prepared["numRows"], 9);
    let expected = "\
-------------------------------------------
Batch: 0
-------------------------------------------
+----+-------+
| id | name  |
+----+-------+
| 1  | na... |
| 2  | na... |
+----+-------+
only showing top 2 rows

";
    assert_eq!(text(&printed), expected);
}

#[tokio::test]
async fn twenty_rows_and_characters_are_shown_by_default() {
    let long: ArrayRef = Arc::new(StringArray::from(vec!["abcdefghijklmnopqrstuvwxyz"; 21]));
    let rows = RecordBatch::try_from_iter([("text", long)]).unwrap();
    for (truncate, shown) in [("true", "abcdefghijklmnopq..."), ("false", "abcdefghijklmnopqrstuvwxyz")] {
        let (sink, printed) = sink(&rows, &[("truncate", truncate)]);
        write(&sink, batch(0), vec![vec![rows.clone()]]).await;
        assert_eq!(text(&printed).matches(&format!("| {shown} |")).count(), 20, "{truncate}");
        assert!(text(&printed).ends_with("only showing top 20 rows\n\n"));
    }
    let (sink, printed) = sink(&rows, &[]);
    write(&sink, batch(0), vec![vec![rows.slice(0, 20)]]).await;
    assert!(!text(&printed).contains("only showing"));
    let (sink, printed) = self::sink(&rows, &[("numRows", "1")]);
    write(&sink, batch(0), vec![vec![rows]]).await;
    assert!(text(&printed).ends_with("only showing top 1 row\n\n"));
}

#[tokio::test]
async fn json_is_one_object_per_row() {
    let columns: [(&str, ArrayRef); 4] = [
        ("z", Arc::new(Int64Array::from(vec![Some(1), None]))),
        ("a", Arc::new(StringArray::from(vec![Some("line\nbreak \"q\""), None]))),
        ("f", Arc::new(Float64Array::from(vec![0.5, f64::NAN]))),
        ("at", Arc::new(TimestampMillisecondArray::from(vec![Some(1500), None]))),
    ];
    let rows =
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap();
    let (sink, printed) = sink(&rows, &[("format", "json")]);
    let prepared =
        write(&sink, batch(7), vec![vec![rows.slice(0, 1), rows.slice(0, 0), rows.slice(1, 1)]]).await;
    assert_eq!(prepared["numRows"], 2);
    assert_eq!(
        text(&printed),
        "{\"batchId\":7,\"z\":1,\"a\":\"line\\nbreak \\\"q\\\"\",\"f\":0.5,\"at\":\"1970-01-01T00:00:01.500\"}\n\
         {\"batchId\":7,\"z\":null,\"a\":null,\"f\":\"NaN\",\"at\":null}\n"
    );
    for line in text(&printed).lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
    }
}

/// Until a batch is prepared, it may turn out that it is to be read again.
#[tokio::test]
async fn a_batch_is_printed_when_it_is_prepared_and_not_when_it_is_given_up() {
    for (format, shown) in
        [("table", "| 3  | name 3 |"), ("json", "{\"batchId\":0,\"id\":3,\"name\":\"name 3\"}")]
    {
        let (sink, printed) = sink(&people(0..1), &[("format", format)]);
        let close = async |rows| {
            let mut writer = sink.writer(batch(0), 0).await.unwrap();
            writer.write(rows).await.unwrap();
            writer.close().await.unwrap()
        };
        close(people(1..2)).await;
        sink.abort(batch(0)).await.unwrap();
        let report = close(people(3..4)).await;
        assert_eq!(text(&printed), "", "{format}");
        sink.prepare(batch(0), vec![report]).await.unwrap();
        let printed = text(&printed);
        assert!(printed.contains(shown) && !printed.contains("name 1"), "{format}: {printed}");
    }
    // More than is kept in memory.
    let (sink, printed) = sink(&people(0..1), &[("format", "json")]);
    write(&sink, batch(0), vec![vec![people(0..20_000), people(20_000..40_000)]]).await;
    let printed = text(&printed);
    assert!(printed.len() > 1 << 20);
    let ids =
        printed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_i64().unwrap());
    assert!(ids.eq(0..40_000));
}

#[tokio::test]
async fn a_broken_pipe_is_an_error() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for format in ["table", "json"] {
        let (sink, _) = sink(&people(0..1), &[("format", format)]);
        let sink = sink.with_output(Arc::new(Mutex::new(Closed)));
        let error = stage(&sink, batch(0), vec![vec![people(0..1)]]).await.unwrap_err();
        let Error::Storage { source, .. } = error else { panic!("{error}") };
        let kind = source.downcast::<io::Error>().unwrap().kind();
        assert_eq!(kind, io::ErrorKind::BrokenPipe);
    }
}

#[test]
fn options_are_checked() {
    let refusal = |rows: &RecordBatch, entries: &[(&str, &str)]| {
        ConsoleSink::try_new(rows.schema(), &options(entries)).unwrap_err().to_string()
    };
    let rows = people(0..1);
    assert!(refusal(&rows, &[("numRow", "5")]).contains("did you mean 'numRows'?"));
    assert!(refusal(&rows, &[("numRows", "some")]).contains("a whole number"));
    assert!(refusal(&rows, &[("truncate", "much")]).contains("true, false or a number"));
    assert!(refusal(&rows, &[("format", "xml")]).contains("table or json"));
    let clash: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let clash = RecordBatch::try_from_iter([("batchId", clash)]).unwrap();
    assert!(refusal(&clash, &[("format", "json")]).contains("rename the column"));
    // Without checking, as a join gives it.
    let twice =
        Schema::new(vec![Field::new("a", DataType::Int64, true), Field::new("a", DataType::Int64, true)]);
    let twice = RecordBatch::new_empty(Arc::new(twice));
    assert!(
        refusal(&twice, &[("format", "json")]).contains("two columns of the name 'a'; rename one with AS")
    );
    ConsoleSink::try_new(twice.schema(), &options(&[])).unwrap();
    let (sink, _) = sink(&clash, &[]);
    for mode in [OutputMode::Append, OutputMode::Update, OutputMode::Complete] {
        assert!(sink.check_output_mode(mode).is_ok());
    }
}
