//! Results as a table, and results as nothing.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use tidemill::prelude::*;
use tidemill::sink::{MemorySink, NoopSink, Sink, SinkBatch};
use uuid::Uuid;

use super::{batch, people, stage, write};

struct Table {
    sink: MemorySink,
    context: SessionContext,
}

impl Table {
    fn new() -> Self {
        let sink = MemorySink::try_new(people(0..1).schema()).unwrap();
        let context = SessionContext::new();
        context.register_table("results", sink.table()).unwrap();
        Self { sink, context }
    }

    async fn ids(&self) -> Vec<String> {
        let rows = self.context.sql("SELECT id FROM results").await.unwrap().collect().await.unwrap();
        ids(&rows)
    }
}

fn ids(rows: &[RecordBatch]) -> Vec<String> {
    let columns = rows.iter().map(|rows| rows.column_by_name("id").unwrap());
    columns
        .flat_map(|column| (0..column.len()).map(move |row| (column.clone(), row)))
        .map(|(column, row)| datafusion::arrow::util::display::array_value_to_string(&column, row).unwrap())
        .collect()
}

fn in_mode(batch_id: u64, output_mode: OutputMode) -> SinkBatch {
    SinkBatch { output_mode, ..batch(batch_id) }
}

#[tokio::test]
async fn append_and_update_add_batches_as_they_come() {
    for mode in [OutputMode::Append, OutputMode::Update] {
        let table = Table::new();
        assert!(table.sink.is_ephemeral() && table.sink.check_output_mode(mode).is_ok());
        let prepared =
            write(&table.sink, in_mode(0, mode), vec![vec![people(0..2)], vec![people(2..3)]]).await;
        assert_eq!(prepared["numRows"], 3);
        write(&table.sink, in_mode(1, mode), vec![vec![people(1..2)]]).await;
        assert_eq!(table.ids().await, ["0", "1", "2", "1"]);
    }
}

#[tokio::test]
async fn complete_replaces_all_rows() {
    let table = Table::new();
    let mode = OutputMode::Complete;
    write(&table.sink, in_mode(0, mode), vec![vec![people(0..3)]]).await;
    write(&table.sink, in_mode(1, mode), vec![vec![people(5..7)]]).await;
    assert_eq!(table.ids().await, ["5", "6"]);
    write(&table.sink, in_mode(2, mode), vec![]).await;
    assert_eq!(table.ids().await, [""; 0]);
}

#[tokio::test]
async fn queries_see_published_batches_only_and_whole() {
    let table = Table::new();
    write(&table.sink, batch(0), vec![vec![people(0..1)]]).await;
    let planned = table.context.sql("SELECT id FROM results").await.unwrap();
    let planned = planned.create_physical_plan().await.unwrap();
    let prepared = stage(&table.sink, batch(1), vec![vec![people(1..3)], vec![people(3..4)]]).await.unwrap();
    assert_eq!(table.ids().await, ["0"]);
    table.sink.publish(1, &prepared).await.unwrap();
    assert_eq!(table.ids().await, ["0", "1", "2", "3"]);
    let rows = datafusion::physical_plan::collect(planned, table.context.task_ctx()).await.unwrap();
    assert_eq!(ids(&rows), ["0"]);
}

#[tokio::test]
async fn a_batch_that_runs_again_replaces_itself() {
    let table = Table::new();
    let first = stage(&table.sink, batch(0), vec![vec![people(0..2)], vec![people(2..4)]]).await.unwrap();
    table.sink.publish(0, &first).await.unwrap();
    table.sink.publish(0, &first).await.unwrap();
    assert_eq!(table.ids().await, ["0", "1", "2", "3"]);
    write(&table.sink, batch(0), vec![vec![people(7..8)]]).await;
    assert_eq!(table.ids().await, ["7"]);

    // An interrupted run leaves partition 1 behind; the next run has one partition only.
    stage(&table.sink, batch(1), vec![vec![people(0..2)], vec![people(2..4)]]).await.unwrap();
    let again = SinkBatch { run_id: Uuid::from_u128(2), ..batch(1) };
    let prepared = stage(&table.sink, again, vec![vec![people(8..9)]]).await.unwrap();
    table.sink.abort(batch(1)).await.unwrap();
    table.sink.publish(1, &prepared).await.unwrap();
    assert_eq!(table.ids().await, ["7", "8"]);
}

#[tokio::test]
async fn an_aborted_batch_is_gone() {
    let table = Table::new();
    let prepared = stage(&table.sink, batch(0), vec![vec![people(0..2)]]).await.unwrap();
    table.sink.abort(batch(0)).await.unwrap();
    table.sink.publish(0, &prepared).await.unwrap();
    assert_eq!(table.ids().await, [""; 0]);
}

#[tokio::test]
async fn projection_filter_and_limit_work() {
    let table = Table::new();
    write(&table.sink, batch(0), vec![vec![people(0..5)]]).await;
    for (query, expected) in [
        ("SELECT name, id FROM results WHERE id > 2", vec!["3", "4"]),
        ("SELECT id FROM results ORDER BY id DESC LIMIT 2", vec!["4", "3"]),
        ("SELECT count(*) AS id FROM results", vec!["5"]),
        ("SELECT id FROM results LIMIT 1", vec!["0"]),
    ] {
        let rows = table.context.sql(query).await.unwrap().collect().await.unwrap();
        assert_eq!(ids(&rows), expected, "{query}");
    }
}

#[tokio::test]
async fn rows_of_another_schema_are_refused() {
    let table = Table::new();
    let swapped = people(0..1).project(&[1, 0]).unwrap();
    let error = stage(&table.sink, batch(0), vec![vec![swapped]]).await.unwrap_err().to_string();
    assert!(error.contains("the memory sink was made for other rows"), "{error}");
}

/// No table can have them, but a result can: each `id` is of another table.
#[tokio::test]
async fn columns_of_one_name_are_refused_before_the_query_starts() {
    let session = Session::new();
    let ticks = session.read_stream().format("rate").load(None).await.unwrap();
    session.context().register_table("ticks", ticks.into_view()).unwrap();
    let start = async |second: &str| {
        let sql = format!(
            "SELECT t.value, {second} FROM ticks t JOIN (VALUES (1)) AS o(value) ON t.value = o.value"
        );
        let frame = session.context().sql(&sql).await.unwrap();
        frame.write_stream().format("memory").query_name("out").start(None).await
    };
    let error = start("o.value").await.unwrap_err().to_string();
    assert_eq!(
        error,
        "the memory sink cannot write two columns of the name 'value'; rename one with AS in the query"
    );
    assert!(session.streams().active().is_empty());
    let query = start("o.value AS other").await.unwrap();
    session.context().sql("SELECT value, other FROM out").await.unwrap().collect().await.unwrap();
    query.stop(StopMode::Finish).await.unwrap();
}

#[tokio::test]
async fn noop_counts() {
    let sink = NoopSink;
    for mode in [OutputMode::Append, OutputMode::Update, OutputMode::Complete] {
        assert!(sink.check_output_mode(mode).is_ok());
    }
    let prepared = write(&sink, batch(0), vec![vec![people(0..5), people(5..6)], vec![people(0..4)]]).await;
    assert_eq!(prepared, serde_json::json!({ "numRows": 10 }));
    assert!(sink.is_ephemeral());
    let _: Arc<dyn Sink> = Arc::new(sink);
}
