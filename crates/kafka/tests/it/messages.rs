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
