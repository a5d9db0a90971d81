//! `tidemill state`

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray, UInt64Array};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::execution::runtime_env::RuntimeEnv;
use serde_json::Value;
use tidemill::Error;
use tidemill::checkpoint::records::{CommitRecord, OperatorDefinition};
use tidemill::checkpoint::{Checkpoint, frame};
use tidemill::state::{ByteRows, Manifest, RowBytes, StateRows, read_state};
use tidemill::storage::{DefaultStorageProvider, Durability, Storage, StorageProvider, resolve_location};

use super::ProgressMode;
use super::exit::Exit;
use super::monitor::Monitor;
use super::output::{PrintError, print, print_table};

/// Prints what the query of a checkpoint remembered after `batch`, or after the last one: of
/// `operator` its rows, or of all how many there are.
pub(super) async fn run(checkpoint: &str, operator: Option<usize>, batch: Option<u64>) -> Result<(), Exit> {
    let url = resolve_location(checkpoint)?;
    let storages = DefaultStorageProvider::new(Arc::new(RuntimeEnv::default()));
    let storage = storages.open(&url, Durability::Process)?;
    let Some(metadata) = Checkpoint::read_metadata(storage.as_ref()).await? else {
        return Err(Exit::failed(format!("{checkpoint} is not the checkpoint of a query")));
    };
    let operators = metadata.definition.operators;
    if operators.is_empty() {
        return Err(Exit::failed(format!("{checkpoint} has no state: its query remembers no rows")));
    }
    let commit = commit(checkpoint, storage.as_ref(), batch).await?;
    let manifest = Manifest::from_record(&commit.state)?;
    let Some(number) = operator else {
        return overview(&operators, &manifest, commit.batch_id);
    };
    let Some(definition) = operators.get(number) else {
        let there: Vec<String> = operators
            .iter()
            .enumerate()
            .map(|(number, known)| format!("{number} ({})", known.name))
            .collect();
        return Err(Exit::usage(format!("there is no operator {number}; there is {}", there.join(", "))));
    };
    rows(&storage, &manifest, number, definition).await
}

/// The commit record of `batch`, or the last one.
async fn commit(checkpoint: &str, storage: &dyn Storage, batch: Option<u64>) -> Result<CommitRecord, Exit> {
    let listed = storage.list("commits").await?;
    let numbers = listed.iter().filter_map(|file| file.path.strip_prefix("commits/")?.parse::<u64>().ok());
    let (first, last) = (numbers.clone().min(), numbers.clone().max());
    let (Some(first), Some(last)) = (first, last) else {
        return Err(Exit::failed(format!("{checkpoint} has no state yet: no batch has been committed")));
    };
    let wanted = batch.unwrap_or(last);
    let path = format!("commits/{wanted}");
    match storage.read(&path).await? {
        Some(file) => Ok(frame::decode(&path, &file)?),
        None => Err(Exit::usage(format!(
            "{checkpoint} does not have batch {wanted}; it has those from {first} to {last}"
        ))),
    }
}

fn overview(operators: &[OperatorDefinition], manifest: &Manifest, batch: u64) -> Result<(), Exit> {
    let known = |number: usize| manifest.operators.get(number);
    let numbers = 0..operators.len();
    let rows = numbers.clone().map(|number| known(number).map_or(0, |state| state.rows));
    let expired = numbers.clone().map(|number| known(number).and_then(|state| state.expired));
    let columns: [(&str, ArrayRef); 4] = [
        ("operator", Arc::new(UInt64Array::from_iter_values(numbers.map(|number| number as u64)))),
        ("name", Arc::new(StringArray::from_iter_values(operators.iter().map(|known| &known.name)))),
        ("rows", Arc::new(UInt64Array::from_iter_values(rows))),
        ("expired up to", Arc::new(expired.collect::<TimestampMicrosecondArray>())),
    ];
    show(&[RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))
        .map_err(Error::from)?])?;
    let bytes: u64 = manifest.segments.iter().map(|segment| segment.bytes).sum();
    let files = manifest.segments.len();
    print(&format!("after batch {batch}: {files} files, {bytes} bytes\n"), &Monitor::new(ProgressMode::None))
        .map_err(|error| Exit::output(&error))
}

async fn rows(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    number: usize,
    definition: &OperatorDefinition,
) -> Result<(), Exit> {
    let keys = Columns::of(definition.details.get("keys"))?;
    let states = definition.details.get("aggregates").and_then(Value::as_array);
    let mut values = Columns::default();
    for aggregate in states.into_iter().flatten() {
        values.append(Columns::of(aggregate.get("state"))?);
    }
    let is_counter = definition.name == "limit";
    let mut batches = Vec::new();
    read_state(storage, manifest, number, |rows| {
        batches.push(decode(&keys, &values, is_counter, &rows)?);
        Ok(())
    })
    .await?;
    if batches.is_empty() {
        batches.push(decode(&keys, &values, is_counter, &StateRows::default())?);
    }
    show(&batches)
}

fn decode(
    keys: &Columns,
    values: &Columns,
    is_counter: bool,
    rows: &StateRows,
) -> tidemill::Result<RecordBatch> {
    let mut columns: Vec<(String, ArrayRef)> = keys.decode(&rows.keys)?;
    match is_counter {
        true => {
            let counted =
                (0..rows.values.len()).map(|row| rows.values.row(row).try_into().map(i64::from_le_bytes));
            let counted: Int64Array = counted.map(Result::ok).collect();
            columns.push(("rows seen".to_string(), Arc::new(counted)));
        }
        false => columns.extend(values.decode(&rows.values)?),
    }
    let expiries: TimestampMicrosecondArray = rows.expiries.iter().copied().collect();
    columns.push(("expires".to_string(), Arc::new(expiries)));
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}

/// Columns that a definition lists, and that rows hold in Arrow's row format.
#[derive(Debug, Default)]
struct Columns {
    names: Vec<String>,
    types: Vec<DataType>,
}

impl Columns {
    /// Those of a list of `{"name": …, "dataType": …}`.
    fn of(list: Option<&Value>) -> Result<Self, Exit> {
        let mut columns = Self::default();
        for column in list.and_then(Value::as_array).into_iter().flatten() {
            let text = column["dataType"].as_str().unwrap_or_default();
            let data_type = text.parse().map_err(|error| {
                Exit::failed(format!("the metadata of the checkpoint names a type '{text}': {error}"))
            })?;
            columns.names.push(column["name"].as_str().unwrap_or_default().to_string());
            columns.types.push(data_type);
        }
        Ok(columns)
    }

    fn append(&mut self, other: Self) {
        self.names.extend(other.names);
        self.types.extend(other.types);
    }

    fn decode(&self, rows: &ByteRows) -> tidemill::Result<Vec<(String, ArrayRef)>> {
        if self.types.is_empty() {
            return Ok(Vec::new());
        }
        let converter = RowConverter::new(self.types.iter().cloned().map(SortField::new).collect())?;
        let parser = converter.parser();
        let rows = (0..rows.len()).map(|row| parser.parse(rows.row(row)));
        Ok(self.names.iter().cloned().zip(converter.convert_rows(rows)?).collect())
    }
}

fn show(batches: &[RecordBatch]) -> Result<(), Exit> {
    print_table(batches, &Monitor::new(ProgressMode::None)).map_err(|error| match error {
        PrintError::Query(error) => error.into(),
        PrintError::Output(error) => Exit::output(&error),
    })
}
