//! What a shape has to give: the same query over all rows, planned without the optimiser.

use std::sync::Arc;

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::datasource::MemTable;
use datafusion::execution::SessionStateBuilder;
use datafusion::optimizer::optimizer::Optimizer;
use tidemill::prelude::*;

use super::plans::{Comes, Core, DELAY, Fed, Row, Top, Works, fill, stream_batch, table_batch};

/// Without these, which make joins and aggregations of what has no physical plan, nothing runs.
const NEEDED: [&str; 5] = [
    "rewrite_set_comparison",
    "replace_distinct_aggregate",
    "decorrelate_predicate_subquery",
    "scalar_subquery_to_join",
    "decorrelate_lateral_join",
];

pub struct Reference<'a> {
    pub core: &'a Core,
    pub top: &'a Top,
    pub fed: &'a Fed,
    pub mode: OutputMode,
}

impl Reference<'_> {
    /// What is wrong with what a step gave, and with what was given so far: in complete mode by the last
    /// batch, else by all.
    pub async fn compare(&self, step: &[String], given: &[String]) -> Result<(), String> {
        let (fed, now) = (self.fed, self.now());
        let over_all = |sql: &str| fill(sql, &format!("({})", self.core.sql), &now);
        let (complete, fixed) = (self.mode == OutputMode::Complete, !fed.table_changes);
        let meaning = self.top.meaning;
        // What was joined below a state with what was in the table then is not joined anew.
        if self.core.reads_table && !fixed {
            return Ok(());
        }
        match self.top.works {
            Works::Limited(without, skip, fetch) if complete || (fixed && self.core.comes == Comes::Once) => {
                let expected = query(fed, &fed.rows, &over_all(without), None).await;
                let size = expected.len().saturating_sub(skip).min(fetch);
                match given.len() == size && is_part(given, &expected) {
                    true => Ok(()),
                    false => Err(format!("found {given:?}\n  expected {size} of {expected:?}")),
                }
            }
            Works::RowByRow if !complete => {
                let rows = self.new_rows().await;
                let expected = query(fed, &fed.rows, &fill(meaning, "core", &now), Some(rows)).await;
                same(step, &expected)
            }
            Works::RowByRow | Works::OnAll if complete => {
                same(given, &query(fed, &fed.rows, &over_all(meaning), None).await)
            }
            Works::OnAll if fixed && self.core.comes == Comes::Once && !self.top.sql.contains("{now}") => {
                same(given, &query(fed, &fed.rows, &over_all(meaning), None).await)
            }
            _ => Ok(()),
        }
    }

    fn now(&self) -> String {
        let now = chrono::DateTime::from_timestamp_millis(self.fed.now_ms).unwrap();
        format!("TIMESTAMP '{}'", now.format("%Y-%m-%dT%H:%M:%S"))
    }

    /// The rows that the core gives in the step.
    async fn new_rows(&self) -> Vec<RecordBatch> {
        let (fed, sql) = (self.fed, self.core.sql);
        match self.core.comes {
            Comes::Once => {
                let old = texts(&collect(fed, &fed.before, sql, None).await);
                without(collect(fed, &fed.rows, sql, None).await, old)
            }
            Comes::Final if self.mode == OutputMode::Append => {
                let old = texts(&collect(fed, &fed.before, &self.final_rows(&fed.before), None).await);
                without(collect(fed, &fed.rows, &self.final_rows(&fed.rows), None).await, old)
            }
            // In update mode those that the step has rows of come, final or not.
            Comes::Again | Comes::Final => {
                let stream = |stream| fed.new_rows(stream).to_vec();
                let keys = if self.core.comes == Comes::Final { "k, ts" } else { "k" };
                let keys_of = format!("SELECT {keys} FROM ({sql})");
                let touched = match fed.new_rows(0) {
                    // Without rows there is a result, but no new one.
                    [] => vec![],
                    _ => texts(&collect(fed, &[stream(0), stream(1)], &keys_of, None).await),
                };
                let (all, keys) =
                    (collect(fed, &fed.rows, sql, None).await, collect(fed, &fed.rows, &keys_of, None).await);
                let mut rows = Vec::new();
                for (batch, keys) in all.iter().zip(&keys) {
                    rows.extend((0..batch.num_rows()).filter_map(|row| {
                        let key = texts(&[keys.slice(row, 1)]).remove(0);
                        touched.contains(&key).then(|| batch.slice(row, 1))
                    }));
                }
                rows
            }
        }
    }

    /// The core with those rows only that are final when the streams have given `rows`.
    fn final_rows(&self, rows: &[Vec<Row>; 2]) -> String {
        let length = if self.core.name == "windows" { 10 } else { 0 };
        let most = rows[0].iter().map(|row| row.2).max().unwrap_or(0) - DELAY - length;
        let begin = "TIMESTAMP '2024-01-01T00:00:00'";
        format!("SELECT * FROM ({}) WHERE ts <= {begin} + INTERVAL '{most} seconds'", self.core.sql)
    }
}

/// `rows` less those that are in `old`.
fn without(rows: Vec<RecordBatch>, mut old: Vec<String>) -> Vec<RecordBatch> {
    let mut new = Vec::new();
    for batch in rows {
        for row in 0..batch.num_rows() {
            let row = batch.slice(row, 1);
            let text = texts(std::slice::from_ref(&row)).remove(0);
            match old.iter().position(|old| *old == text) {
                Some(known) => drop(old.swap_remove(known)),
                None => new.push(row),
            }
        }
    }
    new
}

fn same(found: &[String], expected: &[String]) -> Result<(), String> {
    let mut found = found.to_vec();
    found.sort();
    (found == expected).then_some(()).ok_or_else(|| format!("found {found:?}\n  expected {expected:?}"))
}

/// Whether each of `rows` is in `all`, as often.
fn is_part(rows: &[String], all: &[String]) -> bool {
    let mut rest = all.to_vec();
    rows.iter().all(|row| rest.iter().position(|other| other == row).map(|at| rest.swap_remove(at)).is_some())
}

/// The rows of a query, sorted, as texts.
async fn query(fed: &Fed, rows: &[Vec<Row>; 2], sql: &str, core: Option<Vec<RecordBatch>>) -> Vec<String> {
    texts(&collect(fed, rows, sql, core).await)
}

async fn collect(
    fed: &Fed,
    rows: &[Vec<Row>; 2],
    sql: &str,
    core: Option<Vec<RecordBatch>>,
) -> Vec<RecordBatch> {
    let mut rules = Optimizer::new().rules;
    rules.retain(|rule| NEEDED.contains(&rule.name()));
    assert_eq!(rules.len(), NEEDED.len());
    let config = SessionConfig::new().with_target_partitions(1);
    let state = SessionStateBuilder::new().with_default_features().with_config(config);
    let context = SessionContext::new_with_state(state.with_optimizer_rules(rules).build());
    for (name, rows) in [("s", &rows[0]), ("u", &rows[1])] {
        context.register_batch(name, stream_batch(rows)).unwrap();
    }
    context.register_batch("t", table_batch(fed.table)).unwrap();
    if let Some(core) = core {
        let schema = match core.first() {
            Some(batch) => batch.schema(),
            None => Arc::new(
                context.sql("SELECT k, v AS n, ts FROM s").await.unwrap().schema().as_arrow().clone(),
            ),
        };
        context.register_table("core", Arc::new(MemTable::try_new(schema, vec![core]).unwrap())).unwrap();
    }
    let frame = context.sql(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    frame.collect().await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// The rows as texts, sorted.
pub fn texts(batches: &[RecordBatch]) -> Vec<String> {
    let mut found = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter().map(|column| match column.is_null(row) {
                true => "null".to_string(),
                false => array_value_to_string(column, row).unwrap(),
            });
            found.push(values.collect::<Vec<_>>().join(" "));
        }
    }
    found.sort();
    found
}
