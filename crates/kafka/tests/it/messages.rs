//! Messages as rows and rows as messages, without a broker.

mod read {
    use tidemill::arrow::array::{Array, AsArray, BinaryArray};
    use tidemill::arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use tidemill::datafusion::prelude::SessionContext;
    use tidemill::source::MessageFormat;
    use tidemill::{Options, Result};

    fn format(name: &str, options: &[(&str, &str)]) -> Result<MessageFormat> {
        let columns = Schema::new(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("b", DataType::Utf8, true),
            Field::new("_corrupt_record", DataType::Utf8, true),
        ]);
        let options: Options = options.iter().copied().collect();
        MessageFormat::try_new(name, &columns, &options, &SessionContext::new().state())
    }

    fn read(format: &MessageFormat, messages: &[Option<&str>]) -> Result<(Vec<String>, Vec<usize>)> {
        let bytes = messages.iter().map(|message| message.map(str::as_bytes)).collect();
        let read = format
            .reader(&[0, 1, 2])?
            .read(&BinaryArray::from_opt_vec(bytes), |at| format!("offset {at}"))?;
        let (a, b) =
            (read.rows.column(0).as_primitive::<Int64Type>(), read.rows.column(1).as_string::<i32>());
        let corrupt = read.rows.column(2).as_string::<i32>();
        let text = |array: &dyn Array, row: usize, value: String| match array.is_valid(row) {
            true => value,
            false => "null".into(),
        };
        let rows = (0..read.rows.num_rows()).map(|row| {
            let a_text = text(a, row, if a.is_valid(row) { a.value(row).to_string() } else { String::new() });
            let [b, corrupt] = [b, corrupt].map(|column| text(column, row, column.value(row).to_string()));
            format!("{a_text} {b} {corrupt}")
        });
        Ok((rows.collect(), read.dropped))
    }

    #[test]
    fn each_message_is_one_row() {
        let json = format("json", &[]).unwrap();
        let messages = [Some("{\"a\":1,\"b\":\"x\"}"), None, Some("{\n\"b\":\"two\\nlines\"\n}"), Some("{}")];
        let expected = ["1 x null", "null null null", "null two\nlines null", "null null null"];
        assert_eq!(read(&json, &messages).unwrap(), (expected.map(String::from).to_vec(), vec![]));
        let csv = format("csv", &[("sep", ";")]).unwrap();
        let messages = [Some("1;x"), Some("2;\"y;z\""), None];
        assert_eq!(read(&csv, &messages).unwrap().0, ["1 x null", "2 y;z null", "null null null"]);
        assert!(read(&json, &[]).unwrap().0.is_empty());
    }

    #[test]
    fn malformed_messages_are_named_kept_or_left_out() {
        let messages: Vec<_> = (0..200)
            .map(|row| match row {
                70 => Some("{\"a\":\"x\",\"b\":\"kept\"}"),
                71 => None,
                150 => Some("{\"a\":1}{\"a\":2}"),
                _ => Some("{\"a\":5}"),
            })
            .collect();
        let error = read(&format("json", &[]).unwrap(), &messages).unwrap_err().to_string();
        let expected = "malformed message at offset 70, column 'a': 'x' cannot be read as BIGINT";
        assert!(error.starts_with(expected), "{error}");
        let (rows, dropped) = read(&format("json", &[("mode", "PERMISSIVE")]).unwrap(), &messages).unwrap();
        assert_eq!((rows.len(), dropped.len()), (200, 0));
        assert_eq!(rows[70], "null kept {\"a\":\"x\",\"b\":\"kept\"}");
        assert_eq!((rows[71].as_str(), rows[72].as_str()), ("null null null", "5 null null"));
        assert!(rows[150].ends_with("{\"a\":1}{\"a\":2}"), "{}", rows[150]);
        let (rows, dropped) =
            read(&format("json", &[("mode", "DROPMALFORMED")]).unwrap(), &messages).unwrap();
        assert_eq!((rows.len(), dropped), (198, vec![70, 150]));
        assert_eq!((rows[70].as_str(), rows[71].as_str()), ("null null null", "5 null null"));
    }

    #[test]
    fn options_of_files_are_refused() {
        for (name, option, expected) in [
            ("parquet", ("mode", "FAILFAST"), "messages cannot be read as 'parquet'"),
            ("csv", ("header", "true"), "has no header"),
            ("json", ("maxFilesPerTrigger", "1"), "unknown option 'maxFilesPerTrigger' for json messages"),
            ("json", ("compression", "gzip"), "it is for files"),
            ("csv", ("encoding", "UTF-16"), "it is for files"),
            ("json", ("mode", "sometimes"), "expected FAILFAST"),
        ] {
            let error = format(name, &[option]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}

mod write {
    use std::sync::Arc;

    use tidemill::Result;
    use tidemill::arrow::array::{Int64Array, RecordBatch, StringArray};
    use tidemill::datafusion::prelude::SessionContext;
    use tidemill::sink::MessageEncoder;

    fn messages(format: &str, options: &[(&str, &str)], texts: &[Option<&str>]) -> Result<Vec<String>> {
        let ids = Int64Array::from_iter_values(0..texts.len() as i64);
        let texts = StringArray::from(texts.to_vec());
        let rows = match format {
            "text" => RecordBatch::try_from_iter([("t", Arc::new(texts) as _)])?,
            _ => RecordBatch::try_from_iter([("id", Arc::new(ids) as _), ("t", Arc::new(texts) as _)])?,
        };
        let options = options.iter().copied().collect();
        let encoder =
            MessageEncoder::try_new(format, &rows.schema(), &options, &SessionContext::new().state())?;
        let encoded = encoder.encode(&rows)?;
        Ok(encoded.iter().flatten().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect())
    }

    #[test]
    fn each_row_is_one_message() {
        let texts = [Some("a"), None, Some("two\nlines")];
        let json = messages("json", &[], &texts).unwrap();
        assert_eq!(json, ["{\"id\":0,\"t\":\"a\"}", "{\"id\":1}", "{\"id\":2,\"t\":\"two\\nlines\"}"]);
        assert_eq!(messages("csv", &[("sep", ";")], &texts).unwrap(), ["0;a", "1;", "2;\"two\nlines\""]);
        assert_eq!(messages("text", &[], &texts).unwrap(), ["a", "", "two\nlines"]);
        assert_eq!(messages("text", &[], &[Some("a\r\nb"), Some("c\r")]).unwrap(), ["a\r\nb", "c\r"]);
        assert!(messages("json", &[], &[]).unwrap().is_empty());
    }

    #[test]
    fn options_of_files_are_refused() {
        for (format, option, expected) in [
            ("parquet", ("x", "y"), "messages cannot be written as 'parquet'"),
            ("csv", ("header", "true"), "has no header"),
            ("json", ("compression", "gzip"), "it is for files"),
            ("json", ("maxRecordsPerFil", "1"), "unknown option"),
        ] {
            let error = messages(format, &[option], &[Some("a")]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}

mod protobuf {
    use std::sync::Arc;

    use tidemill::arrow::array::{
        Array, ArrayRef, AsArray, BooleanArray, Int64Array, ListArray, RecordBatch, StringArray, StructArray,
        TimestampNanosecondArray,
    };
    use tidemill::arrow::datatypes::{DataType, Field, Int32Type, Int64Type};
    use tidemill::datafusion::prelude::SessionContext;
    use tidemill::sink::MessageEncoder;
    use tidemill::source::MessageFormat;
    use tidemill::{Options, Result};

    fn bytes(tag: u8, value: &[u8]) -> Vec<u8> {
        let length = value.len();
        // Two bytes of length, which may be more than it needs.
        [vec![tag << 3 | 2, (length & 0x7f) as u8 | 0x80, (length >> 7) as u8], value.to_vec()].concat()
    }

    /// A field's description; `kind` as descriptors number types.
    fn field(name: &str, tag: u8, kind: u8, label: u8, of: &str) -> Vec<u8> {
        let named = if of.is_empty() { vec![] } else { bytes(6, of.as_bytes()) };
        let numbers = vec![3 << 3, tag, 4 << 3, label, 5 << 3, kind];
        bytes(2, &[bytes(1, name.as_bytes()), numbers, named].concat())
    }

    /// message item { int64 id = 1; string name = 2; repeated sint32 sizes = 3; optional bool old = 4; item part = 5;
    ///                google.protobuf.Timestamp at = 6; mood mood = 7; }
    pub fn descriptors() -> tempfile::NamedTempFile {
        let old = [bytes(1, b"old"), vec![3 << 3, 4, 4 << 3, 1, 5 << 3, 8, 0x88, 1, 1]].concat();
        let item = [
            bytes(1, b"item"),
            field("id", 1, 3, 1, ""),
            field("name", 2, 9, 1, ""),
            field("sizes", 3, 17, 3, ""),
            bytes(2, &old),
            field("part", 5, 11, 1, ".shop.item"),
            field("at", 6, 11, 1, ".google.protobuf.Timestamp"),
            field("mood", 7, 14, 1, ".shop.mood"),
        ];
        let value =
            |name: &str, number: u8| bytes(2, &[bytes(1, name.as_bytes()), vec![2 << 3, number]].concat());
        let mood = [bytes(1, b"mood"), value("UP", 0), value("DOWN", 1)].concat();
        let file =
            [bytes(2, b"shop"), bytes(4, &item.concat()), bytes(5, &mood), bytes(12, b"proto3")].concat();
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), bytes(1, &file)).unwrap();
        path
    }

    fn options(file: &tempfile::NamedTempFile) -> Options {
        [("descFilePath", file.path().to_str().unwrap()), ("messageName", "shop.item")].into_iter().collect()
    }

    fn encode(columns: Vec<(&str, ArrayRef)>) -> Result<Vec<Vec<u8>>> {
        let (file, rows) = (
            descriptors(),
            RecordBatch::try_from_iter_with_nullable(
                columns.into_iter().map(|(name, column)| (name, column, true)),
            )?,
        );
        let state = SessionContext::new().state();
        let encoder = MessageEncoder::try_new("protobuf", &rows.schema(), &options(&file), &state)?;
        Ok(encoder.encode(&rows)?.iter().map(|message| message.unwrap().to_vec()).collect())
    }

    fn ids(values: Vec<Option<i64>>) -> ArrayRef {
        Arc::new(Int64Array::from(values))
    }

    #[test]
    fn rows_are_written_as_their_description_says() {
        let part = StructArray::from(vec![(
            Arc::new(Field::new("id", DataType::Int64, true)),
            ids(vec![Some(3), Some(0)]),
        )]);
        let written = encode(vec![
            ("name", Arc::new(StringArray::from(vec![Some("ab"), None]))),
            ("ID", ids(vec![Some(-1), Some(0)])),
            (
                "sizes",
                Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
                    Some(vec![Some(1), Some(-2)]),
                    Some(vec![]),
                ])),
            ),
            ("old", Arc::new(BooleanArray::from(vec![Some(false), None]))),
            ("part", Arc::new(part)),
            ("at", Arc::new(TimestampNanosecondArray::from(vec![Some(-750_000_000), Some(0)]))),
            ("mood", Arc::new(StringArray::from(vec!["DOWN", "UP"]))),
        ])
        .unwrap();
        let minus_one = [0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        let (seconds, nanos) =
            ([8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1], [16, 128, 229, 154, 119]);
        let first = [
            &minus_one[..],
            &[0x12, 2, b'a', b'b', 0x1a, 2, 2, 3, 0x20, 0, 0x2a, 2, 8, 3, 0x32, 16],
            &seconds,
            &nanos,
            &[0x38, 1],
        ];
        assert_eq!(written[0], first.concat());
        // A message without a value is one all the same.
        assert_eq!(written[1], [0x2a, 0, 0x32, 0]);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let (count, file) = (1000_i64, descriptors());
        let written = encode(vec![
            ("id", ids((0..count).map(|id| Some(id * id * id - 5)).collect())),
            (
                "name",
                Arc::new((0..count).map(|id| Some("x".repeat(id as usize % 300))).collect::<StringArray>()),
            ),
        ])
        .unwrap();
        let columns = RecordBatch::try_from_iter([
            ("name", Arc::new(StringArray::from(vec![""])) as ArrayRef),
            ("id", ids(vec![Some(1)])),
        ]);
        let state = SessionContext::new().state();
        let format =
            MessageFormat::try_new("protobuf", &columns.unwrap().schema(), &options(&file), &state).unwrap();
        let messages = written.iter().map(|message| Some(message.as_slice())).collect::<Vec<_>>().into();
        let read = format.reader(&[0, 1]).unwrap().read(&messages, |at| at.to_string()).unwrap();
        for id in 0..count {
            let row = id as usize;
            assert_eq!(read.rows.column(0).as_string::<i32>().value(row).len(), row % 300);
            assert_eq!(read.rows.column(1).as_primitive::<Int64Type>().value(row), id * id * id - 5);
        }
    }

    #[test]
    fn what_cannot_be_written_is_said() {
        let lists = |lists| Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists)) as ArrayRef;
        for (column, values, expected) in [
            ("x", ids(vec![None]), "it has no field for the column 'x'"),
            ("name", ids(vec![None]), "cannot be written as string"),
            ("sizes", ids(vec![None]), "it is repeated"),
            ("part", ids(vec![None]), "is no struct"),
            (
                "mood",
                Arc::new(StringArray::from(vec!["SIDEWAYS"])) as ArrayRef,
                "'SIDEWAYS' is no value of the enum",
            ),
            ("sizes", lists(vec![Some(vec![None::<i32>])]), "an element of the list is null"),
        ] {
            let error = encode(vec![(column, values)]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let large = ListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(1_i64 << 40)])]);
        assert!(encode(vec![("sizes", Arc::new(large))]).is_err(), "a number that the field cannot hold");
        assert!(ids(vec![None]).is_null(0));
    }
}

mod functions {
    use crate::support::{session, texts};

    async fn rows(query: &str) -> Result<Vec<String>, String> {
        let frame = session().query(query).await.map_err(|error| error.to_string())?;
        frame.collect().await.map(|batches| texts(&batches)).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn avro_in_columns_of_bytes_is_read() {
        let schema = r#"{"type":"record","name":"r","fields":[{"name":"n","type":"long"},{"name":"s","type":"string"}]}"#;
        let call = format!("from_avro(b, '{schema}')");
        let table = "(VALUES (X'0e0261'), (CAST(NULL AS BYTEA)), (X'0100')) AS t(b)";
        let found =
            rows(&format!("SELECT m IS NULL, m['n'], m['s'] FROM (SELECT {call} AS m FROM {table})")).await;
        assert_eq!(found.unwrap(), ["false|-1|", "false|7|a", "true|null|null"]);
        let found = rows(&format!("SELECT from_avro(X'0e0261', '{schema}')['n']")).await;
        assert_eq!(found.unwrap(), ["7"]);
        assert_eq!(rows("SELECT from_avro(X'0e', '\"long\"')").await.unwrap(), ["7"]);

        let table = "(VALUES (X'0e0261'), (X'0e'), (X'')) AS t(b)";
        let error = rows(&format!("SELECT {call} FROM {table}")).await.unwrap_err();
        assert!(error.contains("malformed message at row 1 of a batch"), "{error}");
        let call = format!("from_avro(b, '{schema}', MAP {{'mode': 'PERMISSIVE'}})");
        let found = rows(&format!("SELECT m IS NULL, m['n'] FROM (SELECT {call} AS m FROM {table})")).await;
        assert_eq!(found.unwrap(), ["false|7", "true|null", "true|null"]);
        for (query, expected) in [
            (
                format!("SELECT from_avro(b, s) FROM (VALUES (X'00', '{schema}')) AS t(b, s)"),
                "is constant text",
            ),
            (format!("SELECT from_avro('x', '{schema}')"), "reads bytes, and not"),
            ("SELECT from_avro(X'00', '{}')".to_string(), "the Avro schema of messages"),
            (format!("SELECT from_avro(X'0e0261', '{schema}', MAP {{'mod': 'x'}})"), "has no option 'mod'"),
        ] {
            let error = rows(&query).await.unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn protobuf_in_columns_of_bytes_is_read() {
        let file = super::protobuf::descriptors();
        // A message that may be in itself has no columns of its own.
        let call = format!("from_protobuf(b, 'shop.item', '{}')", file.path().display());
        let error = rows(&format!("SELECT {call} FROM (VALUES (X'0803')) AS t(b)")).await.unwrap_err();
        assert!(error.contains("without an end"), "{error}");
        let error = rows("SELECT from_protobuf(X'', 'item', '/no/such/file')").await.unwrap_err();
        assert!(error.contains("descFilePath"), "{error}");
    }
}
