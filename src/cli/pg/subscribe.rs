//! `SUBSCRIBE TO query [FROM BATCH n]`: the batches of a query as they are committed, as rows that do not end before
//! the run does. `COPY (SUBSCRIBE …) TO STDOUT` is for clients that show rows only when they have all.

use std::fmt::Debug;
use std::sync::{Arc, Weak};

use bytes::{Buf, Bytes};
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_postgres::arrow_pg::datatypes::{arrow_schema_to_pg_fields, encode_recordbatch};
use datafusion_postgres::pgwire::api::portal::Format;
use datafusion_postgres::pgwire::api::results::FieldInfo;
use datafusion_postgres::pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use datafusion_postgres::pgwire::messages::PgWireBackendMessage;
use datafusion_postgres::pgwire::messages::copy::{CopyData, CopyDone, CopyOutResponse};
use datafusion_postgres::pgwire::messages::data::{DataRow, FieldDescription, RowDescription};
use futures::{Sink, SinkExt};
use tidemill::sql::SqlSession;

use super::wire_types;
use crate::cli::subscription::{Commits, Refused, Subscription};

/// What a statement asks to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    query: String,
    from: Option<u64>,
    /// As the lines of COPY.
    copied: bool,
}

impl Wanted {
    /// What `statement` wants if it is about a subscription; otherwise it is for others.
    pub(super) fn of(statement: &str) -> Option<PgWireResult<Self>> {
        let statement = statement.trim().trim_end_matches(';').trim_end();
        let copied = without(statement, "COPY").map(|rest| {
            let rest = rest.trim_start().strip_prefix('(')?;
            let (inside, behind) = rest.rsplit_once(')')?;
            let words: Vec<String> = behind.split_whitespace().map(str::to_uppercase).collect();
            (words == ["TO", "STDOUT"]).then_some(inside.trim())
        });
        let (text, copied) = match copied {
            None => (statement, false),
            Some(inside) => (inside?, true),
        };
        let rest = without(text, "SUBSCRIBE")?;
        let parsed = without(rest, "TO").and_then(|rest| {
            let (query, rest) = name(rest.trim_start())?;
            let rest = rest.trim();
            let from = match rest.is_empty() {
                true => None,
                false => Some(without(without(rest, "FROM")?, "BATCH")?.trim().parse().ok()?),
            };
            Some(Self { query, from, copied })
        });
        let wrong = || user_error("42601", format!("write SUBSCRIBE TO query [FROM BATCH n], not '{text}'"));
        Some(parsed.ok_or_else(wrong))
    }
}

/// What is behind the word that `text` begins with.
fn without<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let text = text.trim_start();
    let (first, rest) = text.split_at_checked(word.len())?;
    let ends = rest.chars().next().is_none_or(|next| !next.is_alphanumeric() && next != '_');
    (first.eq_ignore_ascii_case(word) && ends).then_some(rest)
}

/// The name of a query, as it is or in quotes, and what is behind it.
fn name(text: &str) -> Option<(String, &str)> {
    match text.strip_prefix('"') {
        Some(quoted) => {
            // Two quotes are one of the name.
            let mut name = String::new();
            let mut rest = quoted;
            loop {
                let (part, behind) = rest.split_once('"')?;
                name.push_str(part);
                let Some(more) = behind.strip_prefix('"') else { return Some((name, behind)) };
                name.push('"');
                rest = more;
            }
        }
        None => {
            let end = text.find(char::is_whitespace).unwrap_or(text.len());
            (end > 0).then(|| (text[..end].to_ascii_lowercase(), &text[end..]))
        }
    }
}

fn user_error(code: &str, message: String) -> PgWireError {
    PgWireError::UserError(Box::new(ErrorInfo::new("ERROR".into(), code.into(), message)))
}

fn refused(refused: &Refused) -> PgWireError {
    // Undefined object; wrong object type; object not in prerequisite state.
    let code = match refused {
        Refused::Unknown(_) => "42704",
        Refused::NotKept(_) => "42809",
        Refused::Gone(_) => "55000",
    };
    user_error(code, refused.reason().to_string())
}

/// Sends what is wanted until the run has ended; gives how many rows that were. `sql` is weak, for the session ends its
/// queries when nobody has it any more.
pub(super) async fn send<C>(
    client: &mut C,
    wanted: Wanted,
    sql: &Weak<SqlSession>,
    commits: &Commits,
) -> PgWireResult<usize>
where
    C: Sink<PgWireBackendMessage> + Unpin + Send + Sync,
    C::Error: Debug,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let gone = || refused(&Refused::Unknown("the session has ended".into()));
    let sql = sql.upgrade().ok_or_else(gone)?;
    let subscription = Subscription::new(&sql, &wanted.query, wanted.from, commits.receiver()).await;
    drop(sql);
    let mut subscription = subscription.map_err(|reason| refused(&reason))?;
    let schema = numbered(&subscription.schema());
    let fields = Arc::new(arrow_schema_to_pg_fields(&schema, &Format::UnifiedText, None)?);
    client.send(beginning(&fields, wanted.copied)).await?;
    let mut count = 0;
    while let Some(batches) = subscription.more().await {
        for (batch, rows) in batches.map_err(|reason| refused(&reason))? {
            for rows in rows {
                for row in encode_recordbatch(Arc::clone(&fields), with_number(&schema, batch, &rows)?) {
                    let row = row?;
                    count += 1;
                    client
                        .feed(if wanted.copied { line(row) } else { PgWireBackendMessage::DataRow(row) })
                        .await?;
                }
            }
        }
        client.flush().await?;
    }
    if wanted.copied {
        client.feed(PgWireBackendMessage::CopyDone(CopyDone::new())).await?;
    }
    Ok(count)
}

/// The columns of a batch and, in front of them, its number.
fn numbered(schema: &SchemaRef) -> SchemaRef {
    let number = Arc::new(Field::new("batch_id", DataType::Int64, false));
    let on_wire = |field: &Arc<Field>| match wire_types::on_wire(field.data_type()) {
        Some(to) => Arc::new(field.as_ref().clone().with_data_type(to)),
        None => Arc::clone(field),
    };
    let fields: Vec<_> = std::iter::once(number).chain(schema.fields().iter().map(on_wire)).collect();
    Arc::new(Schema::new(fields))
}

fn with_number(schema: &SchemaRef, batch: u64, rows: &RecordBatch) -> PgWireResult<RecordBatch> {
    let number = i64::try_from(batch).unwrap_or(i64::MAX);
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![number; rows.num_rows()]));
    let fields = schema.fields().iter().skip(1);
    let columns = rows.columns().iter().zip(fields).map(|(column, field)| cast(column, field.data_type()));
    let columns: Result<Vec<ArrayRef>, _> = std::iter::once(Ok(numbers)).chain(columns).collect();
    columns
        .and_then(|columns| RecordBatch::try_new(Arc::clone(schema), columns))
        .map_err(|error| PgWireError::ApiError(Box::new(error)))
}

fn beginning(fields: &[FieldInfo], copied: bool) -> PgWireBackendMessage {
    if copied {
        let columns = fields.len();
        let formats = vec![0; columns];
        let columns = i16::try_from(columns).unwrap_or(i16::MAX);
        PgWireBackendMessage::CopyOutResponse(CopyOutResponse::new(0, columns, formats))
    } else {
        let fields = fields.iter().map(FieldDescription::from).collect();
        PgWireBackendMessage::RowDescription(RowDescription::new(fields))
    }
}

/// A row in the text format of COPY.
fn line(row: DataRow) -> PgWireBackendMessage {
    let mut line = Vec::with_capacity(row.data.len());
    let mut data = row.data;
    for column in 0..row.field_count {
        if column > 0 {
            line.push(b'\t');
        }
        // A length of -1 is null.
        match usize::try_from(data.get_i32()) {
            Err(_) => line.extend(b"\\N"),
            Ok(length) => {
                for byte in data.split_to(length) {
                    match byte {
                        b'\\' => line.extend(b"\\\\"),
                        b'\t' => line.extend(b"\\t"),
                        b'\n' => line.extend(b"\\n"),
                        b'\r' => line.extend(b"\\r"),
                        other => line.push(other),
                    }
                }
            }
        }
    }
    line.push(b'\n');
    PgWireBackendMessage::CopyData(CopyData::new(Bytes::from(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_are_told_from_other_statements() {
        let wanted = |text: &str| Wanted::of(text).map(|wanted| wanted.map_err(|error| error.to_string()));
        let query = |query: &str, from, copied| Some(Ok(Wanted { query: query.into(), from, copied }));
        assert_eq!(wanted("SUBSCRIBE TO Hits"), query("hits", None, false));
        assert_eq!(wanted(" subscribe to \"My Hits\" from batch 7 ; "), query("My Hits", Some(7), false));
        assert_eq!(wanted("SUBSCRIBE TO \"a \"\"b\"\"\" FROM BATCH 1"), query("a \"b\"", Some(1), false));
        assert_eq!(wanted("COPY (SUBSCRIBE TO hits FROM BATCH 0) TO STDOUT"), query("hits", Some(0), true));
        for other in ["SELECT 1", "COPY (SELECT 1) TO STDOUT", "COPY t FROM STDIN", "SUBSCRIBER", "", "é"] {
            assert!(wanted(other).is_none(), "{other}");
        }
        for wrong in ["SUBSCRIBE", "SUBSCRIBE hits", "SUBSCRIBE TO hits FROM 7", "SUBSCRIBE TO hits AS OF 3"]
        {
            let error = wanted(wrong).unwrap().unwrap_err();
            assert!(error.contains("write SUBSCRIBE TO query [FROM BATCH n]"), "{wrong}: {error}");
        }
    }
}
