//! What SQL means: how operators bind, which instant, which group, which value.

mod as_of;
mod conditions;
mod foreign;
mod forms;
mod grand_totals;
mod inserts;
mod moving;
mod plans;
mod precedence;
mod subqueries;
mod values;
mod windows;

use datafusion::arrow::util::pretty::pretty_format_batches;
use tempfile::TempDir;
use tidemill::Session;
use tidemill::sql::{SqlOutcome, SqlSession};

/// A session with a folder, for which `$` stands in scripts.
struct Place {
    sql: SqlSession,
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { sql: SqlSession::new(Session::new()), folder: tempfile::tempdir().unwrap() }
    }

    fn put(&self, name: &str, content: &str) {
        let path = self.folder.path().join(name);
        crate::support::harness::put(&path, content);
    }

    /// Runs `script`, and the streaming queries in it to their ends.
    async fn try_run(&self, script: &str) -> tidemill::Result<Vec<SqlOutcome>> {
        let outcomes = self.sql.run(&script.replace('$', self.folder.path().to_str().unwrap())).await?;
        for outcome in &outcomes {
            if let SqlOutcome::Query(started) = outcome {
                started.query.await_termination().await?;
            }
        }
        Ok(outcomes)
    }

    async fn run(&self, script: &str) -> Vec<SqlOutcome> {
        self.try_run(script).await.unwrap_or_else(|error| panic!("{error}\nin: {script}"))
    }

    async fn error(&self, script: &str) -> String {
        match self.try_run(script).await {
            Err(error) => error.to_string(),
            Ok(outcomes) => {
                // Rows are computed when they are asked for.
                for outcome in outcomes {
                    if let SqlOutcome::Rows(frame) = outcome
                        && let Err(error) = frame.collect().await
                    {
                        return tidemill::Error::from(error).to_string();
                    }
                }
                panic!("no error in: {script}")
            }
        }
    }

    /// The rows of the last statement of `script`, sorted, the values of each apart by a space.
    async fn rows(&self, script: &str) -> Vec<String> {
        let Some(SqlOutcome::Rows(frame)) = self.run(script).await.pop() else { panic!("no rows: {script}") };
        let batches = frame.collect().await.unwrap_or_else(|error| panic!("{error}\nin: {script}"));
        let table = pretty_format_batches(&batches).unwrap().to_string();
        let lines = table.lines().skip(3).filter(|line| line.starts_with('|'));
        let mut rows: Vec<String> = lines
            .map(|line| line.replace('|', " ").split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        rows.sort();
        rows
    }

    /// The rows of `select`, whose table `t` is `definition` over JSON lines: of a plain query over a
    /// bounded table, after those of a streaming query have been found to be the same.
    async fn both(&self, definition: &str, lines: &str, select: &str) -> Vec<String> {
        static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.put(&format!("in{number}/a.json"), lines);
        let place = format!("STORED AS JSON LOCATION '$/in{number}/'");
        let bounded = definition.split(", WATERMARK").next().unwrap();
        let batch =
            self.rows(&format!("CREATE OR REPLACE EXTERNAL TABLE t ({bounded}) {place}; {select}")).await;
        let streamed = self
            .rows(&format!(
                "CREATE OR REPLACE UNBOUNDED EXTERNAL TABLE t ({definition}) {place};
                 CREATE EXTERNAL TABLE result{number} STORED AS MEMORY;
                 CREATE STREAMING QUERY q{number} OUTPUT MODE UPDATE TRIGGER ONCE
                 AS INSERT INTO result{number} {select};
                 SELECT * FROM result{number}"
            ))
            .await;
        assert_eq!(streamed, batch, "streamed and at once: {select}");
        batch
    }
}
