//! Every cell that is accepted runs, and what it gives is what one query over all rows gives.

use std::collections::BTreeSet;

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::array_value_to_string;
use tidemill::Environment;
use tidemill::prelude::*;
use tidemill::sink::MemoryTable;

use super::{MATRIX, MODES, columns};
use crate::support::harness::{Place, session_in};
use datafusion::prelude::JsonReadOptions;

/// What each stream gives in one batch: key, value, seconds. The watermark follows 10 seconds behind,
/// so that none of them is late.
const BATCHES: [&[(&str, i64, u32)]; 3] = [
    &[("a", 1, 1), ("b", 2, 2), ("a", 3, 12), ("c", 1, 8)],
    &[("a", 1, 14), ("c", 2, 33), ("b", 2, 30), ("d", 9, 24)],
    &[("a", 1, 35), ("c", 3, 55), ("e", 1, 41), ("e", 1, 41)],
];

/// The rows of a batch as lines of JSON, with a list and some nulls.
fn lines(rows: &[(&str, i64, u32)]) -> String {
    let line = |(k, v, seconds): &(&str, i64, u32)| {
        let v = if *v == 9 { "null".to_string() } else { v.to_string() };
        format!(
            "{{\"k\":\"{k}\",\"v\":{v},\"ts\":\"2024-01-01T00:00:{seconds:02}\",\"l\":[{v},{seconds}]}}\n"
        )
    };
    rows.iter().map(line).collect()
}

/// A session with the tables of the matrix: unbounded, read a file a batch, or bounded.
async fn session(place: &Place, unbounded: bool, partitions: usize) -> Session {
    let session = session_in(partitions, Environment::default());
    for (name, watermark) in [("s", true), ("s2", true), ("u", false)] {
        let path = place.text(&format!("in/{name}"));
        let mut table = if unbounded {
            let reader = session.read_stream().format("json").schema(columns());
            reader.option("maxFilesPerTrigger", "1").load(Some(path.as_str())).await.unwrap()
        } else {
            let context = session.context();
            let columns = columns();
            let options = JsonReadOptions::default().schema(&columns);
            context.read_json(path, options).await.unwrap()
        };
        if watermark && unbounded {
            table = table.with_watermark("ts", "10 seconds").unwrap();
        }
        session.context().register_table(name, table.into_view()).unwrap();
    }
    session.context().sql("CREATE TABLE t (k VARCHAR, c BIGINT) AS VALUES ('a', 1)").await.unwrap();
    session
}

/// The rows as texts, sorted.
fn texts(batches: &[RecordBatch]) -> Vec<String> {
    let mut found = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
            found.push(values.collect::<Vec<_>>().join(" "));
        }
    }
    found.sort();
    found
}

/// `frame` under names that differ: the memory sink is a table, which cannot have two columns of one name.
fn apart(frame: DataFrame) -> datafusion::error::Result<DataFrame> {
    let schema = frame.schema().clone();
    let names: BTreeSet<_> = schema.fields().iter().map(|field| field.name()).collect();
    if names.len() == schema.fields().len() {
        return Ok(frame);
    }
    let columns = schema.iter().enumerate();
    frame.select(columns.map(|(at, column)| Expr::from(column).alias(format!("c{at}"))).collect::<Vec<_>>())
}

/// What the query has given when all files are read and all windows closed.
async fn streamed(
    place: &Place,
    sql: &str,
    mode: OutputMode,
    partitions: usize,
) -> Result<Vec<String>, String> {
    let session = session(place, true, partitions).await;
    let frame = session.context().sql(sql).await.map_err(|error| error.to_string())?;
    let frame = apart(frame).map_err(|error| error.to_string())?;
    let writer = frame.write_stream().format("memory").query_name("out").output_mode(mode);
    let writer = writer.trigger(Trigger::AvailableNow).option("flushOnEnd", "true");
    let query = writer.start(None).await.map_err(|error| error.to_string())?;
    query.await_termination().await.map_err(|error| error.to_string())?;
    let table = session.context().table_provider("out").await.map_err(|error| error.to_string())?;
    let table = table.downcast_ref::<MemoryTable>().ok_or("the table of the memory sink is another")?;
    Ok(texts(&table.rows()))
}

/// What is wrong with `found`, given by a query in `mode` whose result over all rows is `expected`, and `all`
/// without its limit.
fn problem(
    sql: &str,
    mode: OutputMode,
    found: &[String],
    expected: &[String],
    all: &[String],
) -> Option<String> {
    let same = match mode {
        // Which of equal rows come first is not said.
        OutputMode::Update if sql.contains("ORDER BY v LIMIT") => {
            found.len() >= expected.len() && found.iter().all(|row| all.contains(row))
        }
        // The newest row of every group must have been given.
        OutputMode::Update => expected.iter().all(|row| found.contains(row)),
        // Which groups come first, or which of equal rows, is not said, only how many.
        _ if (sql.contains("GROUP BY") || sql.contains("ORDER BY v LIMIT")) && all.len() > expected.len() => {
            found.len() == expected.len() && is_part(found, all)
        }
        _ => found == expected,
    };
    (!same).then(|| format!("{sql}, {mode}:\n  found {found:?}\n  expected {expected:?}"))
}

/// Whether every row of `part` is one of `all`. Both are sorted.
fn is_part(part: &[String], all: &[String]) -> bool {
    let mut all = all.iter();
    part.iter().all(|row| all.any(|other| other == row))
}

#[tokio::test]
async fn every_accepted_cell_gives_what_a_query_over_all_rows_gives() {
    let place = Place::new();
    for table in ["s", "s2", "u"] {
        for (index, rows) in BATCHES.iter().enumerate() {
            place.put(&format!("in/{table}/{index}.json"), lines(rows));
        }
    }
    let bounded = session(&place, false, 1).await;
    let mut problems = Vec::new();
    for (sql, cells) in MATRIX {
        let rows = async |sql: &str| match bounded.context().sql(sql).await {
            Ok(frame) => texts(&frame.collect().await.unwrap_or_else(|error| panic!("{sql}: {error}"))),
            Err(error) => panic!("{sql}: {error}"),
        };
        let expected = rows(sql).await;
        let all = match sql.rsplit_once(" LIMIT ") {
            Some((unlimited, limit)) if limit.parse::<usize>().is_ok() => rows(unlimited).await,
            _ => expected.clone(),
        };
        for (mode, cell) in MODES.into_iter().zip(cells) {
            if cell.is_err() {
                continue;
            }
            match streamed(&place, sql, mode, 1 + sql.len() % 3).await {
                Ok(found) => problems.extend(problem(sql, mode, &found, &expected, &all)),
                Err(error) => problems.push(format!("{sql}, {mode}: {error}")),
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
