use datafusion::arrow::datatypes::Field;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::SessionConfig;

use super::*;

fn session() -> SessionState {
    SessionStateBuilder::new().with_default_features().build()
}

fn layout(schema: Schema) -> Layout {
    Layout::try_new(&schema, &[], "the test sink").unwrap()
}

fn columns() -> Layout {
    layout(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("name", DataType::Utf8, true),
    ]))
}

fn lines() -> Layout {
    layout(Schema::new(vec![Field::new("line", DataType::Utf8, true)]))
}

fn options(entries: &[(&str, &str)]) -> Options {
    entries.iter().copied().collect()
}

fn extension(format: OutputFormat, entries: &[(&str, &str)]) -> String {
    let layout = if format == OutputFormat::Text { lines() } else { columns() };
    encoding(format, &layout, &options(entries), &session()).unwrap().extension()
}

fn refusal(format: OutputFormat, entries: &[(&str, &str)]) -> String {
    let layout = if format == OutputFormat::Text { lines() } else { columns() };
    encoding(format, &layout, &options(entries), &session()).unwrap_err().to_string()
}

#[test]
fn extensions_name_the_codec() {
    use OutputFormat::*;
    assert_eq!(extension(Parquet, &[]), ".zstd.parquet");
    assert_eq!(extension(Parquet, &[("compression", "snappy")]), ".snappy.parquet");
    assert_eq!(extension(Parquet, &[("format.compression", "zstd(9)")]), ".zstd.parquet");
    assert_eq!(extension(Parquet, &[("COMPRESSION", "GZIP")]), ".gz.parquet");
    assert_eq!(extension(Parquet, &[("compression", "none")]), ".parquet");
    assert_eq!(extension(Json, &[]), ".json");
    assert_eq!(extension(Json, &[("compression", "gzip")]), ".json.gz");
    assert_eq!(extension(Csv, &[("format.compression", "bzip2")]), ".csv.bz2");
    assert_eq!(extension(Csv, &[("compression", "xz"), ("compression_level", "2")]), ".csv.xz");
    assert_eq!(extension(Text, &[("compression", "zstd")]), ".txt.zst");
    assert_eq!(extension(Arrow, &[("compression", "zstd"), ("compression_level", "7")]), ".arrow");
}

#[test]
fn the_sessions_settings_are_the_defaults() {
    let config = SessionConfig::new().set_str("datafusion.execution.parquet.compression", "snappy");
    let session = SessionStateBuilder::new().with_default_features().with_config(config).build();
    let plain = encoding(OutputFormat::Parquet, &columns(), &Options::default(), &session).unwrap();
    assert_eq!(plain.extension(), ".snappy.parquet");
    let changed = encoding(OutputFormat::Parquet, &columns(), &options(&[("compression", "lz4")]), &session);
    assert_eq!(changed.unwrap().extension(), ".lz4.parquet");
}

#[test]
fn unknown_options_are_named() {
    let error = refusal(OutputFormat::Parquet, &[("maxRecordPerFile", "5")]);
    assert_eq!(
        error,
        "unknown option 'maxRecordPerFile' for the parquet sink; did you mean 'maxRecordsPerFile'?"
    );
    assert!(
        refusal(OutputFormat::Csv, &[("format.delimeter", ";")]).contains("did you mean 'format.delimiter'?")
    );
    assert!(refusal(OutputFormat::Json, &[("header", "true")]).contains("unknown option 'header'"));
    assert!(refusal(OutputFormat::Text, &[("sep", ";")]).contains("unknown option 'sep'"));
    assert!(refusal(OutputFormat::Arrow, &[("ignoreNullFields", "true")]).contains("unknown option"));
    assert!(refusal(OutputFormat::Csv, &[("compression::id", "zstd")]).contains("unknown option"));
}

#[test]
fn bad_values_are_errors_and_never_panics() {
    use OutputFormat::*;
    let bad = [
        (Parquet, "compression", "deflate"),
        (Parquet, "compression", "zstd("),
        (Parquet, "compression", "zstd()"),
        (Parquet, "compression", "zstd)"),
        (Parquet, "compression", "zstd(99)"),
        (Parquet, "compression::id", "gzip("),
        (Parquet, "compression::no_such_column", "snappy"),
        (Parquet, "max_row_group_size", "0"),
        (Parquet, "max_row_group_size", "many"),
        (Parquet, "max_row_group_bytes", "0"),
        (Parquet, "write_batch_size", "0"),
        (Parquet, "statistics_enabled", "always"),
        (Parquet, "statistics_truncate_length", "0"),
        (Parquet, "bloom_filter_fpp", "1.5"),
        (Parquet, "bloom_filter_fpp::id", "0"),
        (Parquet, "encoding", "plain_dictionary"),
        (Parquet, "encoding", "delta_binary_packed"),
        (Parquet, "encoding::name", "byte_stream_split"),
        (Parquet, "encoding", "bit_packed"),
        (Parquet, "crypto.file_encryption.footer_key_as_hex", "30"),
        (Json, "compression", "snappy"),
        (Json, "newline_delimited", "false"),
        (Json, "ignoreNullFields", "maybe"),
        (Csv, "sep", "ab"),
        (Csv, "header", "yes"),
        (Csv, "quoteAll", "perhaps"),
        (Csv, "terminator", ";"),
        (Text, "compression_level", "-1"),
        (Arrow, "compression", "gzip"),
        (Arrow, "compression_level", "3"),
    ];
    for (format, name, value) in bad {
        assert!(!refusal(format, &[(name, value)]).is_empty(), "{name} = {value}");
    }
    let twice = refusal(Text, &[("compression", "gzip"), ("compression_level", "10")]);
    assert!(twice.contains("gzip has the levels 0 to 9"), "{twice}");
}

#[test]
fn good_values_are_taken() {
    use OutputFormat::*;
    let good = [
        (Parquet, "encoding::id", "delta_binary_packed"),
        (Parquet, "encoding::name", "delta_byte_array"),
        (Parquet, "format.bloom_filter_enabled::name", "true"),
        (Parquet, "metadata::author", "me"),
        (Parquet, "maxRecordsPerFile", "1000"),
        (Parquet, "targetFileSize", "128mb"),
        (Json, "ignoreNullFields", "FALSE"),
        (Csv, "header", "FALSE"),
        (Csv, "sep", "\\t"),
        (Csv, "nullValue", "TRUE"),
        (Csv, "format.timestamp_format", "%Y"),
    ];
    for (format, name, value) in good {
        let taken = encoding(format, &columns(), &options(&[(name, value)]), &session());
        assert!(taken.is_ok(), "{name} = {value}: {}", taken.unwrap_err());
    }
}

#[test]
fn types_that_do_not_fit_are_refused_with_the_column() {
    let nested = layout(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("tags", DataType::new_list(DataType::Utf8, true), true),
    ]));
    let refused = |format, layout: &Layout| {
        encoding(format, layout, &Options::default(), &session()).unwrap_err().to_string()
    };
    let error = refused(OutputFormat::Csv, &nested);
    assert!(error.contains("column 'tags'") && error.contains("Cast it to a string"), "{error}");
    assert!(encoding(OutputFormat::Json, &nested, &Options::default(), &session()).is_ok());
    assert!(refused(OutputFormat::Text, &columns()).contains("exactly one string column"));
    let numbers = layout(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
    assert!(refused(OutputFormat::Text, &numbers).contains("(id Int64)"));
}

#[test]
fn limits_are_read() {
    let read = |entries: &[(&str, &str)]| limits(&options(entries));
    assert_eq!(read(&[]).unwrap(), Limits::default());
    assert_eq!(read(&[("maxRecordsPerFile", "0")]).unwrap(), Limits::default());
    assert_eq!(read(&[("maxRecordsPerFile", "-1")]).unwrap(), Limits::default());
    let both = read(&[("maxrecordsperfile", "7"), ("targetFileSize", "1mb")]).unwrap();
    assert_eq!(both, Limits { rows: Some(7), bytes: Some(1 << 20) });
    assert!(read(&[("targetFileSize", "0")]).is_err());
    assert!(read(&[("maxRecordsPerFile", "x")]).is_err());
}
