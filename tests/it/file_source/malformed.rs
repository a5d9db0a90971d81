//! Records and files that are not what they should be.

use std::io::Write;

use datafusion::arrow::datatypes::{DataType, SchemaRef};
use serde_json::Value;
use tidemill::{Error, Result};

use super::{Input, ab, expected, json_lines, schema, set};

/// `a BIGINT, b VARCHAR, _corrupt_record VARCHAR`.
fn ab_corrupt() -> SchemaRef {
    schema(&[("a", DataType::Int64), ("b", DataType::Utf8), ("_corrupt_record", DataType::Utf8)])
}

async fn read(
    format: &str,
    text: &[u8],
    columns: &SchemaRef,
    options: &[(&str, &str)],
) -> Result<Vec<String>> {
    let input = Input::new();
    input.write("f", 1, text);
    input.source(format, columns, options).await.all().await
}

/// Reads with every mode: the FAILFAST error, the PERMISSIVE rows and the DROPMALFORMED rows.
async fn modes(format: &str, text: &[u8], options: &[(&str, &str)]) -> (String, Vec<String>, Vec<String>) {
    let mode = |mode| [options, &[("mode", mode)]].concat();
    let error = read(format, text, &ab(), &mode("FAILFAST")).await.unwrap_err();
    assert!(matches!(error, Error::BadRecord { .. }), "{error}");
    let permissive = read(format, text, &ab_corrupt(), &mode("PERMISSIVE")).await.unwrap();
    let dropped = read(format, text, &ab(), &mode("DROPMALFORMED")).await.unwrap();
    let message = error.to_string();
    let (_, message) = message.split_once("' at ").unwrap();
    (message.to_string(), permissive, dropped)
}

#[tokio::test]
async fn malformed_json_in_every_mode() {
    let good = "{\"a\":1,\"b\":\"x\"}";
    for (record, error, kept) in [
        (r#"{"a":"q","b":"y"}"#, "line 2, column 'a': 'q' cannot be read as BIGINT", "-|y"),
        (r#"{"a":[1],"b":"y"}"#, "line 2, column 'a': a list cannot be read as BIGINT", "-|y"),
        (
            r#"{"a":4.9,"b":"y"}"#,
            "line 2, column 'a': 4.9 cannot be read as BIGINT: it has a fraction",
            "-|y",
        ),
        (
            r#"{"a":99999999999999999999,"b":"y"}"#,
            "line 2, column 'a': 99999999999999999999 cannot be read as BIGINT: it is out of range",
            "-|y",
        ),
        (r#"{"a":NaN}"#, "line 2, column 'a': NaN cannot be read as BIGINT", "-|-"),
        (r#"{"a":2"#, "line 2: it ends inside of the record", "-|-"),
        (r#"{"a":2,}"#, "line 2: expected a key in quotes, found '}'", "-|-"),
        (r#"{"a":2 "b":"y"}"#, "line 2: expected a comma or }, found '\"'", "-|-"),
        (r#"{"a":02}"#, "line 2: expected the end of a number, found '2'", "-|-"),
        (
            r#"{"b":"\ud83d"}"#,
            r"line 2: \ud83d is the first half of a surrogate pair, and the second does not follow it",
            "-|-",
        ),
        ("[1,2]", "line 2: it is no object", "-|-"),
        ("text", "line 2: expected true, false or null, found 'e'", "-|-"),
        (r#"{"a":2}{"a":3}"#, "line 2: there is more on the line than one record", "-|-"),
        ("\u{0}", "line 2: expected a value, found the byte 0x00", "-|-"),
    ] {
        let text = format!("{good}\n{record}\r\n{good}");
        let (found, permissive, dropped) = modes("json", text.as_bytes(), &[]).await;
        assert_eq!(found, error, "{record}");
        let mut expected = vec!["1|x|-".to_string(), "1|x|-".to_string(), format!("{kept}|{record}")];
        expected.sort();
        assert_eq!(permissive, expected, "{record}");
        assert_eq!(dropped, ["1|x", "1|x"], "{record}");
    }
}

#[tokio::test]
async fn malformed_csv_in_every_mode() {
    for (record, error, kept) in [
        ("q,y", "line 3, column 'a': 'q' cannot be read as BIGINT", "-|y"),
        ("2.5,y", "line 3, column 'a': '2.5' cannot be read as BIGINT", "-|y"),
        ("2", "line 3: the record has 1 fields and the table 2 columns", "2|-"),
        ("2,y,z", "line 3: the record has 3 fields and the table 2 columns", "2|y"),
    ] {
        for line_records in ["true", "false"] {
            let text = format!("a,b\n1,\"x\"\n{record}\r\n1,x\n");
            let (found, permissive, dropped) =
                modes("csv", text.as_bytes(), &[("multiLine", line_records)]).await;
            assert_eq!(found, error, "{record}");
            let mut expected = vec!["1|x|-".to_string(), "1|x|-".to_string(), format!("{kept}|{record}")];
            expected.sort();
            assert_eq!(permissive, expected, "{record}");
            assert_eq!(dropped, ["1|x", "1|x"], "{record}");
        }
    }
}

#[tokio::test]
async fn a_stray_quote_costs_its_line_only_where_lines_are_records() {
    let text = b"a,b\n1,\"open\n2,x\n3,\"two\nlines\"\n";
    let (found, permissive, dropped) = modes("csv", text, &[("multiLine", "false")]).await;
    assert!(found.starts_with("line 2: a quote is not closed on the line. Set multiLine"), "{found}");
    assert_eq!(permissive, ["-|-|1,\"open", "-|-|3,\"two", "-|-|lines\"", "2|x|-"]);
    assert_eq!(dropped, ["2|x"]);
    // Otherwise the quote ends where the next one begins.
    let text = b"a,b\n1,x\n2,\"open\n3,y\n";
    let (found, permissive, dropped) = modes("csv", text, &[]).await;
    assert!(found.starts_with("line 3: a quote is not closed before the end"), "{found}");
    assert_eq!(permissive, ["-|-|2,\"open\n3,y", "1|x|-"]);
    assert_eq!(dropped, ["1|x"]);
}

#[tokio::test]
async fn bytes_that_are_no_text() {
    let json = b"{\"a\":1,\"b\":\"x\"}\n{\"a\":2,\"b\":\"\xff\"}\n";
    let (found, permissive, dropped) = modes("json", json, &[]).await;
    assert_eq!(found, "line 2: it is not valid UTF-8");
    assert_eq!(permissive, ["-|-|{\"a\":2,\"b\":\"\u{fffd}\"}", "1|x|-"]);
    assert_eq!(dropped, ["1|x"]);
    let csv = b"a,b\n1,x\n2,\xff\n";
    let (found, permissive, dropped) = modes("csv", csv, &[]).await;
    assert_eq!(found, "line 3, column 'b': '\u{fffd}' is not valid UTF-8");
    assert_eq!(permissive, ["1|x|-", "2|-|2,\u{fffd}"]);
    assert_eq!(dropped, ["1|x"]);
    let line = schema(&[("line", DataType::Utf8)]);
    let text = b"x\n\xff\n";
    assert!(matches!(read("text", text, &line, &[]).await, Err(Error::BadRecord { line: 2, .. })));
    assert_eq!(read("text", text, &line, &[("mode", "PERMISSIVE")]).await.unwrap(), ["-", "x"]);
    assert_eq!(read("text", text, &line, &[("mode", "DROPMALFORMED")]).await.unwrap(), ["x"]);
    let document = b"[{\"a\":1,\"b\":\"x\"},\n{\"a\":2,\"b\":\"\xff\"},\n{\"a\":3}]";
    let (found, permissive, dropped) = modes("json", document, &[("multiLine", "true")]).await;
    assert_eq!(found, "line 2: it is not valid UTF-8");
    assert_eq!(permissive, ["-|-|{\"a\":2,\"b\":\"\u{fffd}\"}", "1|x|-", "3|-|-"]);
    assert_eq!(dropped, ["1|x", "3|-"]);
}

/// What follows them is read.
#[tokio::test]
async fn bytes_that_are_no_text_in_another_encoding() {
    let encoding = [("encoding", "Shift_JIS")];
    let json = b"{\"a\":1,\"b\":\"\x8a\xbf\"}\n{\"a\":2,\"b\":\"\x81\xff\"}\n{\"a\":3}\n";
    let (found, permissive, dropped) = modes("json", json, &encoding).await;
    assert_eq!(found, "line 2: it is not valid UTF-8");
    assert_eq!(permissive, ["-|-|{\"a\":2,\"b\":\"\u{fffd}\"}", "1|漢|-", "3|-|-"]);
    assert_eq!(dropped, ["1|漢", "3|-"]);
    let csv = b"a,b\n1,\x8a\xbf\n2,\x81\xff\n3,z\n";
    let (_, permissive, dropped) = modes("csv", csv, &encoding).await;
    assert_eq!(permissive, ["1|漢|-", "2|-|2,\u{fffd}", "3|z|-"]);
    assert_eq!(dropped, ["1|漢", "3|z"]);
    let line = schema(&[("line", DataType::Utf8)]);
    let options = [encoding[0], ("mode", "DROPMALFORMED")];
    assert_eq!(read("text", b"x\n\x81\xff\ny\n\x81", &line, &options).await.unwrap(), ["x", "y"]);
}

#[tokio::test]
async fn marks_line_ends_and_long_lines() {
    assert_eq!(
        read("json", b"\xef\xbb\xbf{\"a\":1}\r\n\r\n{\"a\":2}", &ab(), &[]).await.unwrap(),
        ["1|-", "2|-"]
    );
    assert_eq!(read("csv", b"\xef\xbb\xbfa,b\r\n1,x", &ab(), &[]).await.unwrap(), ["1|x"]);
    let no_header = [("header", "false")];
    assert_eq!(read("csv", b"\xef\xbb\xbf1,x\r\n", &ab(), &no_header).await.unwrap(), ["1|x"]);
    assert!(read("csv", b"\xef\xbb", &ab(), &[]).await.unwrap_err().to_string().contains("header"));
    let long = "y".repeat(5 << 20);
    let text = format!("{{\"a\":1,\"b\":\"{long}\"}}\n{{\"a\":2,\"b\":\"x\"}}\n{{\"a\":{long}}}\n");
    let input = Input::new();
    input.write("f", 1, &text);
    let error = input.source("json", &ab(), &[]).await.all().await.unwrap_err().to_string();
    assert!(error.contains("at line 3: expected a value, found 'y'") && error.len() < 500, "{error}");
    let dropped = input.source("json", &ab(), &[("mode", "DROPMALFORMED")]).await;
    let rows = dropped.all().await.unwrap();
    assert_eq!((rows.len(), rows[0].len(), rows[1].as_str()), (2, long.len() + 2, "2|x"));
    assert_eq!(dropped.source.take_metrics()["numMalformedRows"], "1");
}

#[tokio::test]
async fn lines_are_counted_from_the_start_of_the_file() {
    let mut text = json_lines(0..500);
    text.push_str("{\"a\":\"bad\"}\n");
    text.push_str(&json_lines(500..600));
    for (format, text, line) in [("json", text, 501), ("csv", format!("{}bad,x\n", "1,x\n".repeat(700)), 701)]
    {
        let input = Input::new();
        set(&input.session, "datafusion.optimizer.repartition_file_min_size", "1");
        set(&input.session, "datafusion.execution.batch_size", "64");
        input.write("f", 1, text);
        let options = if format == "csv" { &[("header", "false"), ("multiLine", "false")][..] } else { &[] };
        let reader = input.source(format, &ab(), options).await;
        let batch = reader.plan().await;
        for partitions in [1, 2, 3, 7, 20] {
            match reader.read_with(&batch, None, partitions).await {
                Err(Error::BadRecord { line: found, column, .. }) => {
                    assert_eq!((found, column.as_deref()), (line, Some("a")), "{format} {partitions}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn whether_a_record_is_malformed_does_not_depend_on_the_columns_asked_for() {
    let input = Input::new();
    input.write("f.json", 1, "{\"a\":1,\"b\":\"x\"}\n{\"a\":\"bad\",\"b\":\"y\"}\n{\"a\":3,\"b\":\"z\"}\n");
    for projection in [vec![0], vec![1], vec![1, 0], vec![]] {
        let dropped = input.source("json", &ab(), &[("mode", "DROPMALFORMED")]).await;
        let batch = dropped.plan().await;
        assert_eq!(dropped.read_with(&batch, Some(&projection), 1).await.unwrap().len(), 2, "{projection:?}");
        let aside = input.source("json", &ab(), &[("badRecordsPath", &input.text("_bad"))]).await;
        let batch = aside.plan().await;
        assert_eq!(aside.read_with(&batch, Some(&projection), 1).await.unwrap().len(), 2, "{projection:?}");
        let kept = input.source("json", &ab_corrupt(), &[("mode", "PERMISSIVE")]).await;
        let batch = kept.plan().await;
        assert_eq!(kept.read_with(&batch, Some(&projection), 1).await.unwrap().len(), 3, "{projection:?}");
    }
    let kept = input.source("json", &ab_corrupt(), &[("mode", "PERMISSIVE")]).await;
    let batch = kept.plan().await;
    let only_text = kept.read_with(&batch, Some(&vec![2]), 1).await.unwrap();
    assert_eq!(only_text, ["-", "-", "{\"a\":\"bad\",\"b\":\"y\"}"]);
}

#[tokio::test]
async fn the_corrupt_record_column_has_a_name() {
    let columns = schema(&[("bad", DataType::LargeUtf8), ("a", DataType::Int64)]);
    let options = [("mode", "PERMISSIVE"), ("columnNameOfCorruptRecord", "bad")];
    let rows = read("csv", b"a\nx\n7\n", &columns, &options).await.unwrap();
    assert_eq!(rows, ["-|7", "x|-"]);
    // It is no column of the file in any mode.
    let rows = read("csv", b"a\n7\n", &columns, &options[1..]).await.unwrap();
    assert_eq!(rows, ["-|7"]);
}

#[tokio::test]
async fn bad_records_are_put_aside() {
    let input = Input::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let place = elsewhere.path().to_str().unwrap();
    input.write("k=1/f.json", 1, "{\"a\":1}\nbad\n{\"a\":\"x\"}\n");
    input.write("k=1/good.json", 2, json_lines(0..3));
    input.write("k=2/g.json", 3, "worse\n");
    let options = [("badRecordsPath", place), ("maxFilesPerTrigger", "2")];
    let provider = input.resolve("json", "", Some(ab()), &options).await.unwrap();
    let reader = input.reader(&provider);
    let first = reader.plan().await;
    for _ in 0..2 {
        // A batch that runs again writes the same files again.
        assert_eq!(reader.read(&first).await.unwrap().len(), 4);
        assert_eq!(reader.source.take_metrics()["numMalformedRows"], "2");
    }
    let second = reader.plan().await;
    assert!(reader.read(&second).await.unwrap().is_empty());
    let records = |file: &str| -> Vec<Value> {
        let path = elsewhere.path().join(super::QUERY.to_string()).join(file);
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let aside = records("0/k=1/f.json.json");
    assert_eq!(aside.len(), 2);
    assert_eq!(aside[0]["record"], "bad");
    assert_eq!((&aside[1]["line"], &aside[1]["record"]), (&Value::from(3), &Value::from("{\"a\":\"x\"}")));
    assert_eq!(aside[1]["reason"], "column 'a': 'x' cannot be read as BIGINT");
    assert_eq!(aside[1]["path"], format!("file://{}", input.text("k=1/f.json")));
    assert_eq!(records("1/k=2/g.json.json").len(), 1);
    assert_eq!(
        std::fs::read_dir(elsewhere.path().join(super::QUERY.to_string()).join("0/k=1")).unwrap().count(),
        1
    );

    for inside in ["bad", ""] {
        let error = input.resolve("json", "", Some(ab()), &[("badRecordsPath", &input.text(inside))]).await;
        assert!(error.unwrap_err().to_string().contains("outside of what the source reads"));
    }
}

fn gzip(text: &str) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    out.write_all(text.as_bytes()).unwrap();
    out.finish().unwrap()
}

#[tokio::test]
async fn truncated_files() {
    let whole = gzip(&json_lines(0..1000));
    let input = Input::new();
    input.write("a.json.gz", 1, &whole[..whole.len() / 2]);
    input.write("b.json", 2, json_lines(5000..5001));
    let error = input.source("json", &ab(), &[]).await.all().await.unwrap_err();
    assert!(matches!(error, Error::InputFile { .. }), "{error}");
    assert!(error.to_string().contains("a.json.gz"), "{error}");
    for options in
        [&[("ignoreCorruptFiles", "true")][..], &[("ignoreCorruptFiles", "true"), ("mode", "PERMISSIVE")]]
    {
        let reader = input.source("json", &ab(), options).await;
        let rows = reader.all().await.unwrap();
        assert!((300..700).contains(&rows.len()), "{}", rows.len());
        let mut wanted = expected(0..rows.len() as i64 - 1);
        wanted.extend(expected(5000..5001));
        wanted.sort();
        assert_eq!(rows, wanted, "every whole record before the cut, and nothing of the cut one");
        let metrics = reader.source.take_metrics();
        assert_eq!(metrics["numCorruptFiles"], "1");
        assert!(!metrics.contains_key("numMalformedRows"));
    }
    let csv = gzip(&format!("a,b\n{}", "1,\"two\nlines\"\n".repeat(1000)));
    let input = Input::new();
    for cut in [csv.len() / 2, csv.len() / 2 + 3, csv.len() / 2 + 7] {
        input.write(&format!("{cut}.csv.gz"), 1, &csv[..cut]);
    }
    let rows = input.source("csv", &ab(), &[("ignoreCorruptFiles", "true")]).await.all().await.unwrap();
    assert!(rows.len() > 1000 && rows.iter().all(|row| row == "1|two\nlines"), "{}", rows.len());
}

/// What comes before the checksum is at the end may be other rows.
#[tokio::test]
async fn no_row_of_a_compressed_file_with_a_changed_bit_is_given() {
    let whole = gzip(&json_lines(0..1000));
    for place in (100..whole.len() - 8).step_by(whole.len() / 40) {
        let mut damaged = whole.clone();
        damaged[place] ^= 1;
        let input = Input::new();
        input.write("a.json.gz", 1, &damaged);
        input.write("b.json", 2, json_lines(5000..5001));
        let options = [("ignoreCorruptFiles", "true"), ("mode", "DROPMALFORMED")];
        let reader = input.source("json", &ab(), &options).await;
        let rows = reader.all().await.unwrap();
        assert_eq!(rows, expected(5000..5001), "byte {place}");
        assert_eq!(reader.source.take_metrics()["numCorruptFiles"], "1");
    }
}

#[tokio::test]
async fn files_of_another_format() {
    for format in ["parquet", "arrow"] {
        let input = Input::new();
        input.write("f", 1, json_lines(0..100));
        let error = input.source(format, &ab(), &[]).await.all().await.unwrap_err();
        assert!(matches!(error, Error::InputFile { .. }), "{format}: {error}");
        assert!(error.to_string().contains(&input.text("f")), "{error}");
        let reader = input.source(format, &ab(), &[("ignoreCorruptFiles", "true")]).await;
        assert!(reader.all().await.unwrap().is_empty());
        assert_eq!(reader.source.take_metrics()["numCorruptFiles"], "1");
    }
    let input = Input::new();
    input.write("f.gz", 1, "not compressed");
    let error = input.source("json", &ab(), &[]).await.all().await.unwrap_err().to_string();
    assert!(error.contains("f.gz"), "{error}");
}

#[tokio::test]
async fn what_is_malformed_at_the_first_start_keeps_no_query_from_starting() {
    for (format, text) in [
        ("json", &b"{\"a\":1,\"b\":\"x\"}\n{\"a\":\n[1]\n{\"a\":2,\"b\":\"y\"}\n"[..]),
        ("csv", b"a,b\n1,x\n7\n7,8,9\n\xff,z\n2,y\n"),
    ] {
        for options in [&[("mode", "DROPMALFORMED")][..], &[("mode", "PERMISSIVE")]] {
            let input = Input::new();
            input.write("f", 1, text);
            let rows = input.inferred(format, options).await.all().await.unwrap();
            let good: Vec<&String> =
                rows.iter().filter(|row| ["1|x", "2|y"].contains(&row.as_str())).collect();
            assert_eq!(good.len(), 2, "{format} {options:?}: {rows:?}");
            assert_eq!(rows.len() == 2, options[0].1 == "DROPMALFORMED", "{rows:?}");
        }
        let elsewhere = tempfile::tempdir().unwrap();
        let input = Input::new();
        input.write("f", 1, text);
        let aside = elsewhere.path().display().to_string();
        let rows = input.inferred(format, &[("badRecordsPath", &aside)]).await.all().await.unwrap();
        assert_eq!(rows, ["1|x", "2|y"], "{format}");
    }
}

#[tokio::test]
async fn files_that_cannot_be_read_at_the_first_start_may_be_ignored() {
    let columns = super::formats::batch(0..3);
    for (format, good) in [
        ("parquet", super::formats::parquet(&columns, 10)),
        ("arrow", super::formats::ipc_file(&[columns])),
        ("json", gzip(&json_lines(0..3))),
    ] {
        let input = Input::new();
        let extension = if format == "json" { ".json.gz" } else { "" };
        input.write(&format!("a{extension}"), 1, "no such format");
        input.write(&format!("b{extension}"), 2, &good);
        let error = input.resolve(format, "", None, &[]).await.unwrap_err().to_string();
        assert!(error.contains(&input.text("a")), "{format}: {error}");
        let reader = input.inferred(format, &[("ignoreCorruptFiles", "true")]).await;
        assert_eq!(reader.all().await.unwrap(), expected(0..3), "{format}");
        assert_eq!(reader.source.take_metrics()["numCorruptFiles"], "1");
    }
}

#[tokio::test]
async fn half_a_record_at_the_end() {
    for (format, text, options) in [
        ("json", "{\"a\":1,\"b\":\"x\"}\n{\"a\":2,\"b\"", &[][..]),
        ("csv", "1,x\n2", &[("header", "false")]),
    ] {
        let (found, permissive, dropped) = modes(format, text.as_bytes(), options).await;
        assert!(found.starts_with("line 2: "), "{found}");
        assert_eq!((permissive.len(), dropped.as_slice()), (2, &["1|x".to_string()][..]));
    }
}
