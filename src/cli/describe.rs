//! `tidemill describe`

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray, UInt64Array};
use serde_json::{Value, json};
use tidemill::checkpoint::records::{ColumnDefinition, Location};
use tidemill::checkpoint::{Batch, Inspection, inspect, place_of};
use tidemill::storage::resolve_location;
use tidemill::{Session, StoredState};
use url::Url;

use super::ProgressMode;
use super::exit::Exit;
use super::monitor::Monitor;
use super::output::{Format, PrintError, Printer};
use super::text::{count, number};

/// How many batches a table shows; the other formats give all.
const SHOWN: usize = 10;

/// Prints what the checkpoint says of its query.
pub(super) async fn run(checkpoint: &str, format: Format) -> Result<(), Exit> {
    let session = Session::new();
    let url = resolve_location(checkpoint)?;
    let storage = session.open_storage(&url)?;
    let Some(found) = inspect(storage.as_ref()).await? else {
        return Err(Exit::usage(format!("{checkpoint} is not the checkpoint of a query")));
    };
    // Without a committed batch there is none.
    let state = match found.definition.operators.is_empty() {
        true => None,
        false => session.stored_state(checkpoint, None).await.ok(),
    };
    let printer = Printer::new(Monitor::new(ProgressMode::None), format);
    let printed = match format {
        Format::Table => {
            let shown = &found.batches[found.batches.len().saturating_sub(SHOWN)..];
            printer.text(&in_words(&found, &url)).map_err(PrintError::Output).and_then(|()| {
                if shown.is_empty() { Ok(()) } else { printer.batches(&[batches(shown)?]).map(drop) }
            })?;
            match &state {
                Some(state) => state_table(state, &printer),
                None => Ok(()),
            }
        }
        Format::Csv => printer.batches(&[batches(&found.batches)?]).map(drop),
        Format::Json | Format::Ndjson => {
            let object = as_json(&found, &url, state.as_ref());
            let text = if format == Format::Json { format!("{object:#}\n") } else { format!("{object}\n") };
            printer.text(&text).map_err(PrintError::Output)
        }
    };
    Ok(printed?)
}

fn state_table(state: &StoredState, printer: &Printer) -> Result<(), PrintError> {
    let (files, bytes) = (count(state.files() as u64, "file"), number(state.bytes()));
    let title = format!("\nstate after batch {}: {files}, {bytes} bytes\n", state.batch_id());
    printer.text(&title).map_err(PrintError::Output)?;
    printer.batches(&[state.operators()?]).map(drop)
}

fn place(location: Option<&Location>, checkpoint: &Url) -> String {
    match location.map(|location| place_of(location, checkpoint)) {
        None => String::new(),
        Some(None) => " in a place that is not known from here".into(),
        Some(Some(url)) => match url.to_file_path() {
            Ok(path) => format!(" {}", path.display()),
            Err(()) => format!(" {url}"),
        },
    }
}

fn columns(columns: &[ColumnDefinition]) -> String {
    let text = |column: &ColumnDefinition| format!("{} {}", column.name, column.data_type);
    columns.iter().map(text).collect::<Vec<_>>().join(", ")
}

fn in_words(found: &Inspection, checkpoint: &Url) -> String {
    let definition = &found.definition;
    let mut lines = vec![format!("query     {}, made by {}", found.id, found.created_by)];
    for (index, source) in definition.sources.iter().enumerate() {
        lines.push(format!(
            "source {index}  {}{}",
            source.format,
            place(source.location.as_ref(), checkpoint)
        ));
        let inferred = if source.inferred { " (inferred at the first start)" } else { "" };
        lines.push(format!("          {}{inferred}", columns(&source.columns)));
        for (option, value) in &source.options {
            lines.push(format!("          {option} = {value}"));
        }
    }
    let sink = &definition.sink;
    lines.push(format!("sink      {}{}", sink.format, place(sink.location.as_ref(), checkpoint)));
    if !sink.columns.is_empty() {
        lines.push(format!("          {}", columns(&sink.columns)));
    }
    if !sink.partition_by.is_empty() {
        lines.push(format!("          partitioned by {}", sink.partition_by.join(", ")));
    }
    lines.push(format!("mode      {}", definition.output_mode));
    for (index, operator) in definition.operators.iter().enumerate() {
        lines.push(format!("operator {index}  {}", operator.name));
    }
    let records = count(found.record_files, "file");
    lines.push(format!("records   {records}, {} bytes", number(found.record_bytes)));
    lines.push(format!("a start   {}", found.restart));
    match found.batches.len() {
        0 => {}
        all if all > SHOWN => lines.push(format!("batches   the last {SHOWN} of {all} that are on record:")),
        _ => lines.push("batches   that are on record:".into()),
    }
    lines.join("\n") + "\n"
}

fn time(milliseconds: i64) -> String {
    chrono::DateTime::from_timestamp_millis(milliseconds).map_or_else(
        || milliseconds.to_string(),
        |time| time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
    )
}

fn batches(batches: &[Batch]) -> Result<RecordBatch, PrintError> {
    let text = |of: &dyn Fn(&Batch) -> Option<String>| -> ArrayRef {
        Arc::new(batches.iter().map(of).collect::<StringArray>())
    };
    let end = |end: &Value| if end.is_null() { "-".to_string() } else { end.to_string() };
    let ends = |batch: &Batch| Some(batch.ends.iter().map(end).collect::<Vec<_>>().join(" "));
    let read: UInt64Array = batches.iter().map(|batch| Some(batch.entries.iter().sum::<u64>())).collect();
    let written: UInt64Array = batches.iter().map(|batch| batch.output_rows).collect();
    let columns: [(&str, ArrayRef); 7] = [
        ("batch", Arc::new(UInt64Array::from_iter_values(batches.iter().map(|batch| batch.batch_id)))),
        ("planned", text(&|batch| batch.planned_ms.map(time))),
        ("done", Arc::new(batches.iter().map(|batch| Some(batch.committed)).collect::<BooleanArray>())),
        ("entries", Arc::new(read)),
        ("rows_out", Arc::new(written)),
        ("watermark", text(&|batch| (batch.watermark_ms != 0).then(|| time(batch.watermark_ms)))),
        ("offset", text(&ends)),
    ];
    Ok(RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))?)
}

fn as_json(found: &Inspection, checkpoint: &Url, state: Option<&StoredState>) -> Value {
    let mut object = serde_json::to_value(found).unwrap_or_default();
    object["checkpoint"] = checkpoint.as_str().into();
    object["restartInWords"] = found.restart.to_string().into();
    if let Some(state) = state {
        object["state"] =
            json!({"batchId": state.batch_id(), "files": state.files(), "bytes": state.bytes()});
    }
    object
}
