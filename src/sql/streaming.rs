//! Starting, stopping, showing and explaining streaming queries.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use datafusion::arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array};
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::prelude::DataFrame;
use datafusion::sql::sqlparser::ast::{Ident, ObjectName};
use datafusion::sql::sqlparser::tokenizer::Location;

use super::ast::{CreateStreamingQuery, ExplainStreamingQuery, Located, Statement, StreamingQueryPlan};
use super::execute::{CHECKPOINT_LOCATION, SqlOutcome, SqlSession, StartedQuery};
use super::external::ExternalTable;
use super::names::Names;
use super::planning::{Planner, conform};
use crate::error::{Error, Result};
use crate::options::mask_secrets;
use crate::options::{Options, nearest};
use crate::plan::StreamTable;
use crate::plan::bind::tables_of_sources;
use crate::query::{RunTotals, StopMode, StreamingQuery};
use crate::session::{DataStreamWriter, WriteStream};
use crate::sink::MemoryTable;

/// A streaming query, ready to be started or explained.
struct Prepared {
    writer: DataStreamWriter,
    frame: DataFrame,
    target: Arc<dyn TableProvider>,
}

impl Prepared {
    /// The table it writes to, which [`SqlSession::target`] has checked to be one.
    fn table(&self) -> Option<&ExternalTable> {
        self.target.downcast_ref()
    }

    fn location(&self) -> Option<String> {
        self.table().and_then(ExternalTable::location).map(str::to_string)
    }
}

impl SqlSession {
    pub(super) async fn start_query(
        &self,
        planner: &Planner<'_>,
        query: &CreateStreamingQuery,
    ) -> Result<StartedQuery> {
        let name = planner.name(&query.name);
        let prepared = self.prepare(planner, &query.plan).await?;
        let (location, table) = (prepared.location(), prepared.table());
        let target = table.map_or_else(String::new, |table| table.name().to_string());
        let format = table.map_or_else(String::new, |table| table.format.clone());
        if let ("memory", Some(other)) = (format.as_str(), self.writer_of(&target, &name)) {
            return Err(planner.error(format!(
                "table '{target}' shows what the query '{other}' keeps in memory, and that query is running; \
                 write to another MEMORY table"
            )));
        }
        let started = prepared.writer.clone().query_name(&name).start(location.as_deref()).await?;
        if format == "memory" && planner.table_reference(&query.plan.insert.target)?.table() == name {
            self.covered()
                .insert(planner.table_reference(&query.plan.insert.target)?, Arc::clone(&prepared.target));
        }
        if let ("memory", Some(table)) = (format.as_str(), table) {
            // The sink names its table after the query; the target's name must give the same rows.
            table.set_readable(planner.table(&name.into()).await?);
        }
        let trigger = self.trigger.or(query.plan.clauses.trigger).unwrap_or_default();
        let location = location.as_deref().map(|url| mask_secrets(url).into_owned());
        Ok(StartedQuery { query: started, trigger, target, format, location, definition: String::new() })
    }

    /// What `query` gives for a batch of a checkpoint.
    pub(super) async fn replay_query(
        &self,
        planner: &Planner<'_>,
        query: &CreateStreamingQuery,
        (checkpoint, batch): (&str, u64),
    ) -> Result<SqlOutcome> {
        let writer = self.prepare(planner, &query.plan).await?.writer;
        Ok(SqlOutcome::Table(writer.replay(checkpoint, batch).await?))
    }

    /// The unbounded tables that the streaming query of `statement` reads, one for each of its sources, in the
    /// order of the checkpoint.
    ///
    /// # Errors
    /// [`Error::Sql`] if it is no streaming query, or cannot be planned.
    pub async fn sources_of(&self, statement: &Located<Statement>) -> Result<Vec<String>> {
        let planner = Planner::new(&self.session, Location::new(statement.line, statement.column));
        let Statement::CreateStreamingQuery(query) = &statement.value else {
            return Err(planner.error("it is not a streaming query".to_string()));
        };
        let prepared = self.prepare(&planner, &query.plan).await?;
        Ok(tables_of_sources(prepared.frame.logical_plan()))
    }

    pub(super) async fn explain_query(
        &self,
        planner: &Planner<'_>,
        query: &ExplainStreamingQuery,
    ) -> Result<SqlOutcome> {
        let prepared = self.prepare(planner, &query.plan).await?;
        let name = query.name.as_ref().map_or_else(|| "explained".to_string(), |name| planner.name(name));
        let location = prepared.location();
        let writer = prepared.writer.query_name(name);
        let rows = match writer.clone().explain(location.as_deref()).await {
            Ok(text) => {
                let restart = writer.explain_restart(location.as_deref()).await?;
                let restart = restart.map(|restart| ("restart", restart));
                std::iter::once(("plan", text)).chain(restart).collect()
            }
            // In lines that fit a terminal.
            Err(Error::UnsupportedQuery { operator, reason, advice }) => vec![
                ("logical_plan", prepared.frame.logical_plan().display_indent().to_string()),
                ("refused", format!("{operator} cannot run as a streaming query:\n{reason}.\n{advice}")),
            ],
            Err(error) => return Err(error),
        };
        let (kinds, texts): (Vec<&str>, Vec<String>) = rows.into_iter().unzip();
        let columns: [(&str, ArrayRef); 2] =
            [("plan_type", Arc::new(StringArray::from(kinds))), ("plan", Arc::new(StringArray::from(texts)))];
        Ok(SqlOutcome::Table(vec![RecordBatch::try_from_iter(columns)?]))
    }

    fn covered(&self) -> MutexGuard<'_, HashMap<TableReference, Arc<dyn TableProvider>>> {
        self.covered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn prepare(&self, planner: &Planner<'_>, plan: &StreamingQueryPlan) -> Result<Prepared> {
        let target = self.target(planner, &plan.insert.target).await?;
        let Some(table) = target.downcast_ref::<ExternalTable>() else {
            return Err(planner.error(format!("'{}' is not an external table", plan.insert.target)));
        };
        let options = self.query_options(planner, plan, table)?;
        let names = if table.is_kept() { Names::ForFiles } else { Names::AsWritten };
        let frame =
            planner.plan_streaming(&plan.insert.query, names, options.get(CHECKPOINT_LOCATION)).await?;
        let columns: Vec<String> = plan.insert.columns.iter().map(|column| planner.name(column)).collect();
        let default = |column: &str| table.get_column_default(column).cloned();
        let frame =
            conform(frame, &columns, table.declared(), &default).map_err(|message| planner.error(message))?;
        let replan = planner.replan(&plan.insert.query, names, columns, Some(&target));
        let mut writer = frame
            .clone()
            .write_stream()
            .replanned_by(replan)
            .format(&table.format)
            .trigger(self.trigger.or(plan.clauses.trigger).unwrap_or_default())
            .partition_by(table.partitioned_by())
            .options(options.iter());
        if let Some(mode) = plan.clauses.output_mode {
            writer = writer.output_mode(mode);
        }
        Ok(Prepared { writer, frame, target: Arc::clone(&target) })
    }

    /// The session's options, over them the table's, and over them the query's.
    fn query_options(
        &self,
        planner: &Planner<'_>,
        plan: &StreamingQueryPlan,
        table: &ExternalTable,
    ) -> Result<Options> {
        let mut options = self.options.clone();
        for (name, value) in table.options.iter().chain(&plan.clauses.options) {
            options.set(name, value);
        }
        if let Some(checkpoint) = &plan.clauses.checkpoint {
            if options.get(CHECKPOINT_LOCATION).is_some() {
                return Err(planner.error(
                    "the checkpoint is given twice: by CHECKPOINT LOCATION and by the option checkpointLocation",
                ));
            }
            options.set(CHECKPOINT_LOCATION, checkpoint);
        }
        Ok(options)
    }

    /// The table to write to.
    async fn target(&self, planner: &Planner<'_>, name: &ObjectName) -> Result<Arc<dyn TableProvider>> {
        let reference = planner.table_reference(name)?;
        let Some(table) = planner.table(&reference).await? else {
            let known = self.targets(planner).await?;
            let names: Vec<&str> = known.iter().map(String::as_str).collect();
            let hint = nearest(reference.table(), &names)
                .map_or_else(String::new, |near| format!("; did you mean '{near}'?"));
            let there_are = if names.is_empty() {
                "create it with CREATE EXTERNAL TABLE".to_string()
            } else {
                format!("streaming queries can write to: {}", names.join(", "))
            };
            return Err(planner.error(format!("table '{reference}' does not exist{hint} ({there_are})")));
        };
        if table.is::<StreamTable>() {
            let message = "is unbounded: it is read from, and cannot be written to by a streaming query";
            return Err(planner.error(format!("table '{reference}' {message}")));
        }
        if table.is::<MemoryTable>()
            && let Some(table) = self.covered().get(&reference)
        {
            return Ok(Arc::clone(table));
        }
        match table.downcast_ref::<ExternalTable>() {
            Some(external) if self.session.writes_format(&external.format) => Ok(table),
            Some(external) => {
                let format = external.format.to_uppercase();
                Err(planner.error(format!(
                    "table '{reference}' is stored as {format}, which streaming queries cannot write"
                )))
            }
            None => Err(planner.error(format!(
                "table '{reference}' is not an external table: a streaming query writes to a table of CREATE \
                 EXTERNAL TABLE"
            ))),
        }
    }

    /// The names of the tables that a streaming query can write to.
    async fn targets(&self, planner: &Planner<'_>) -> Result<Vec<String>> {
        let state = self.session.context().state();
        let mut targets = Vec::new();
        let Ok(schema) = state.schema_for_ref("t") else { return Ok(targets) };
        for name in schema.table_names() {
            let table = planner.table(&TableReference::bare(name.as_str())).await?;
            if table.is_some_and(|table| table.is::<ExternalTable>()) {
                targets.push(name);
            }
        }
        targets.sort();
        Ok(targets)
    }

    pub(super) async fn stop_query(&self, planner: &Planner<'_>, name: &Ident) -> Result<SqlOutcome> {
        let name = planner.name(name);
        let Some(query) = self.session.streams().get_by_name(&name) else {
            let active = self.session.streams().active();
            let names: Vec<&str> = active.iter().filter_map(StreamingQuery::name).collect();
            let running = if names.is_empty() {
                "none is running".into()
            } else {
                format!("running: {}", names.join(", "))
            };
            if self.queries().iter().any(|query| query.name() == Some(&name)) {
                return Ok(SqlOutcome::Done(format!("streaming query '{name}' has ended already")));
            }
            return Err(planner.error(format!("there is no streaming query '{name}' ({running})")));
        };
        query.stop(StopMode::Finish).await?;
        Ok(SqlOutcome::Done(format!("streaming query '{name}' stopped")))
    }

    /// A row per query, narrow enough for a terminal while all is well.
    pub(super) fn show_queries(&self) -> Result<RecordBatch> {
        let queries = self.queries();
        let totals: Vec<RunTotals> = queries.iter().map(StreamingQuery::totals).collect();
        let text = |of: &dyn Fn(&StreamingQuery) -> Option<String>| -> ArrayRef {
            Arc::new(queries.iter().map(of).collect::<StringArray>())
        };
        let number = |of: &dyn Fn(&RunTotals) -> Option<u64>| -> ArrayRef {
            Arc::new(totals.iter().map(of).collect::<UInt64Array>())
        };
        let rate = queries.iter().zip(&totals).map(|(query, totals)| {
            let rows = totals.input_rows as f64 / query.running_time().as_secs_f64().max(0.001);
            Some((rows * 10.0).round() / 10.0)
        });
        let watermark = totals.iter().map(|totals| totals.watermark.as_deref().map(to_the_second));
        let columns: [(&str, ArrayRef); 9] = [
            ("name", text(&|query| query.name().map(str::to_string))),
            ("status", text(&|query| Some(status(query)))),
            ("batch", number(&|totals| totals.last_batch)),
            ("rows_in", number(&|totals| Some(totals.input_rows))),
            ("rows_out", number(&|totals| totals.output_rows)),
            ("late", number(&|totals| Some(totals.left_out.late_rows))),
            ("rows/s", Arc::new(rate.collect::<Float64Array>())),
            ("state", number(&|totals| Some(totals.state_rows))),
            ("watermark", Arc::new(watermark.collect::<StringArray>())),
        ];
        Ok(RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))?)
    }
}

/// So wide is a status at most, in a table of which nothing else is wide.
const STATUS_WIDTH: usize = 20;

/// A word, and why if it failed.
fn status(query: &StreamingQuery) -> String {
    match query.exception() {
        Some(exception) => in_lines(&format!("failed: {}", exception.cause), STATUS_WIDTH),
        None if !query.is_active() => "stopped".into(),
        None if query.status().is_trigger_active => "running".into(),
        None => "waiting".into(),
    }
}

/// `text` in lines of at most `width` characters, broken between words if they are not longer.
fn in_lines(text: &str, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let letters: Vec<char> = word.chars().collect();
        for (number, part) in letters.chunks(width).enumerate() {
            let part: String = part.iter().collect();
            match lines.last_mut() {
                Some(line) if number == 0 && line.chars().count() + 1 + part.chars().count() <= width => {
                    *line += " ";
                    *line += &part;
                }
                _ => lines.push(part),
            }
        }
    }
    lines.join("\n")
}

/// `2011-01-05T11:00:00.000Z` as `2011-01-05 11:00:00`.
fn to_the_second(time: &str) -> String {
    time.split('.').next().unwrap_or(time).replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words_and_within_long_ones() {
        assert_eq!(in_lines("running", 10), "running");
        assert_eq!(
            in_lines("failed: no file '/a/very/long/path'", 12),
            "failed: no\nfile\n'/a/very/lon\ng/path'"
        );
        assert!(in_lines(&"größe ".repeat(9), 20).lines().all(|line| line.chars().count() <= 20));
    }
}
