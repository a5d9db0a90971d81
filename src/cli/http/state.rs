//! What a query remembers of a key.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::StreamExt;
use serde::Serialize;
use serde_json::value::RawValue;
use tidemill::sink::write_json_lines_of_values;
use tidemill::{Error, Result};

use super::api::refused;
use super::{Problem, problem};
use crate::cli::queries::{Queries, no_such_query};

/// The most rows that an answer has, unless more are asked for.
const ROWS: usize = 1000;

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    /// The values of the first columns of the key.
    keys: Vec<String>,
    operator: usize,
    batch: Option<u64>,
    limit: usize,
}

impl Wanted {
    fn parse(query: &str) -> Result<Self, String> {
        let mut wanted = Self { limit: ROWS, ..Self::default() };
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let number = || {
                let number = value.parse::<u64>();
                number.map_err(|_| format!("{name} = '{value}' is not valid; expected a number"))
            };
            let size = || Ok::<_, String>(usize::try_from(number()?).unwrap_or(usize::MAX));
            match name.as_ref() {
                "key" => wanted.keys.push(value.into_owned()),
                "operator" => wanted.operator = size()?,
                "batch" => wanted.batch = Some(number()?),
                "limit" => wanted.limit = size()?,
                other => {
                    return Err(format!(
                        "there is no parameter '{other}'; there are key, operator, batch and limit"
                    ));
                }
            }
        }
        Ok(wanted)
    }
}

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Found {
    query: String,
    batch_id: u64,
    operator: usize,
    key: Vec<String>,
    rows: Box<RawValue>,
    is_cut: bool,
}

/// The rows of state with a key, as of the last committed batch. The state is read from the checkpoint, which
/// does not disturb the query.
pub(super) async fn state(
    State(queries): State<Arc<Queries>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Found>, Problem> {
    let wanted = Wanted::parse(query.as_deref().unwrap_or_default());
    let wanted = wanted.map_err(|reason| problem(StatusCode::BAD_REQUEST, &reason))?;
    let found = look_up(&queries, &name, &wanted).await;
    found.map(Json).map_err(|error| refused(&queries, &name, &error))
}

async fn look_up(queries: &Queries, name: &str, wanted: &Wanted) -> Result<Found> {
    let started = queries.get(name).ok_or_else(|| no_such_query(name))?;
    let session = queries.sql().session();
    let state = session.stored_state(started.query.checkpoint_location(), wanted.batch).await?;
    let (operator, key_columns) = (wanted.operator, state.key_columns(wanted.operator)?);
    if wanted.keys.len() > key_columns {
        return Err(Error::Invalid(format!(
            "{} keys were given; the key of operator {operator} has {key_columns} columns",
            wanted.keys.len()
        )));
    }
    let mut rows = session.context().read_table(state.table(operator)?)?.execute_stream().await?;
    let mut found: Vec<RecordBatch> = Vec::new();
    let mut left = wanted.limit;
    let mut is_cut = false;
    while let Some(batch) = rows.next().await {
        let matching = matching(&batch?, &wanted.keys).map_err(Error::from)?;
        is_cut |= matching.num_rows() > left;
        let matching = matching.slice(0, matching.num_rows().min(left));
        left -= matching.num_rows();
        if matching.num_rows() > 0 {
            found.push(matching);
        }
        if is_cut {
            break;
        }
    }
    let columns: Vec<_> = rows.schema().fields().iter().map(|field| field.name().clone()).collect();
    Ok(Found {
        query: name.to_string(),
        batch_id: state.batch_id(),
        operator,
        key: columns[..key_columns].to_vec(),
        rows: as_json(&found)?,
        is_cut,
    })
}

/// The rows of `batch` whose first columns are `keys`.
fn matching(batch: &RecordBatch, keys: &[String]) -> Result<RecordBatch, ArrowError> {
    if keys.is_empty() {
        return Ok(batch.clone());
    }
    let mut matches = vec![true; batch.num_rows()];
    for (column, key) in batch.columns().iter().zip(keys) {
        let found = equal(column, key)?;
        matches.iter_mut().zip(found).for_each(|(all, this)| *all &= this);
    }
    filter_record_batch(batch, &BooleanArray::from(matches))
}

/// Where the text of a value is `key`, or that of its first field: a window is known by its start, too.
fn equal(column: &ArrayRef, key: &str) -> Result<Vec<bool>, ArrowError> {
    let options = FormatOptions::default().with_null("null");
    let text = |column: &dyn Array| -> Result<Vec<bool>, ArrowError> {
        let texts = ArrayFormatter::try_new(column, &options)?;
        Ok((0..column.len()).map(|row| texts.value(row).to_string() == key).collect())
    };
    let mut found = text(column.as_ref())?;
    let fields = column.as_any().downcast_ref::<datafusion::arrow::array::StructArray>();
    if let Some(first) = fields.and_then(|fields| fields.columns().first()) {
        found.iter_mut().zip(text(first.as_ref())?).for_each(|(any, this)| *any |= this);
    }
    Ok(found)
}

/// The rows as a JSON array of objects, with values as the file sink writes them.
pub(super) fn as_json(batches: &[RecordBatch]) -> Result<Box<RawValue>> {
    let mut lines = Vec::new();
    batches.iter().try_for_each(|batch| write_json_lines_of_values(batch, &mut lines))?;
    let lines = String::from_utf8_lossy(&lines);
    let array = format!("[{}]", lines.lines().collect::<Vec<_>>().join(","));
    RawValue::from_string(array).map_err(|error| Error::Invalid(format!("rows have no JSON form: {error}")))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Date32Array, Decimal128Array, Float64Array, Int64Array, StringArray};
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn values_are_those_of_the_file_sink() {
        let number = Decimal128Array::from(vec![12_345_678_901_234_567_890_123_456_789]);
        let number: ArrayRef = Arc::new(number.with_precision_and_scale(38, 9).unwrap());
        let float: ArrayRef = Arc::new(Float64Array::from(vec![f64::NEG_INFINITY]));
        let rows = RecordBatch::try_from_iter([("d", number), ("f", float)]).unwrap();
        let expected = r#"[{"d":12345678901234567890.123456789,"f":"-Infinity"}]"#;
        assert_eq!(as_json(&[rows]).unwrap().get(), expected);
        let day: ArrayRef = Arc::new(Date32Array::from(vec![100_000_000]));
        let error = as_json(&[RecordBatch::try_from_iter([("day", day)]).unwrap()]).unwrap_err().to_string();
        assert!(error.contains("column 'day' has a value in row 1"), "{error}");
    }

    #[test]
    fn what_is_asked_for_is_read_from_the_address() {
        let wanted = Wanted::parse("key=D%26E&key=2&operator=1&batch=7&limit=3").unwrap();
        let keys = vec!["D&E".to_string(), "2".to_string()];
        assert_eq!(wanted, Wanted { keys, operator: 1, batch: Some(7), limit: 3 });
        assert_eq!(Wanted::parse("").unwrap(), Wanted { limit: ROWS, ..Wanted::default() });
        assert!(Wanted::parse("batch=x").unwrap_err().contains("expected a number"));
        assert!(Wanted::parse("keys=x").unwrap_err().contains("there is no parameter 'keys'"));
    }

    #[test]
    fn rows_are_found_by_the_text_of_their_keys() {
        let columns: [(&str, ArrayRef); 2] = [
            ("word", Arc::new(StringArray::from(vec![Some("a"), None, Some("a")]))),
            ("number", Arc::new(Int64Array::from(vec![1, 2, 3]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let found = |keys: &[&str]| {
            let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
            let rows = as_json(&[matching(&batch, &keys).unwrap()]).unwrap();
            serde_json::from_str::<Value>(rows.get()).unwrap()
        };
        assert_eq!(found(&["a", "3"]), json!([{"word": "a", "number": 3}]));
        assert_eq!(found(&["null"]), json!([{"number": 2}]));
        assert_eq!(found(&["b"]), json!([]));
        assert_eq!(as_json(&[]).unwrap().get(), "[]");
    }
}
