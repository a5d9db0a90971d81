//! Stateful logic of a program's own beside the built-in aggregation that gives the same.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use serde::{Deserialize, Serialize};
use tidemill::StreamTable;
use tidemill::prelude::*;
use tidemill::processor::{Call, Rows, StateVariables, ValueState};

use crate::Settings;
use crate::support::data::SplitMix64;
use crate::support::feed::Feed;
use crate::support::report::{Report, Table, number, verdict};
use crate::support::statistics::median;
use crate::support::stream::text;
use crate::support::{Result, Workspace};

const ROWS: u64 = 4_000_000;
const TRIGGERS: u64 = 16;
/// It may cost so many times what the aggregation does.
const BAR: f64 = 5.0;

struct Sums;

#[derive(Deserialize)]
struct Event {
    v: i64,
}

#[derive(Serialize)]
struct Sum {
    k: i64,
    n: i64,
    total: i64,
}

impl StatefulProcessor for Sums {
    type Key = i64;
    type Input = Event;
    type Output = Sum;
    type State = ValueState<(i64, i64)>;

    fn init(&self, variables: &mut StateVariables) -> tidemill::Result<Self::State> {
        variables.value("sum")
    }

    fn handle_input_rows(
        &self,
        state: &Self::State,
        rows: Rows<'_, Event>,
        call: &mut Call<'_, Self>,
    ) -> tidemill::Result<()> {
        let (mut n, mut total) = state.get(call)?.unwrap_or_default();
        for row in rows {
            n += 1;
            total += row?.v;
        }
        state.update(call, &(n, total))?;
        let k = *call.key();
        call.emit(&Sum { k, n, total })
    }
}

/// Measures a count and a sum per key: with many calls, and with many rows a call.
pub async fn run(settings: &Settings, workspace: &Workspace, report: &Report) -> Result<()> {
    let rows = ROWS / settings.divide;
    let mut table = Table::new(
        "user-state",
        format!(
            "{} k rows, {TRIGGERS} triggers, medians of {} runs, bar {BAR} x",
            rows / 1000,
            settings.runs
        ),
        &["seconds", "rows/s", "aggregation s", "ratio", "bar"],
    );
    for (name, keys) in [("a key a row", 100_000_000), ("1000 keys", 1_000)] {
        let feed = Feed::generate(rows, TRIGGERS, |range| events(range, keys))?;
        let (mut own, mut built_in) = (Vec::new(), Vec::new());
        for round in 0..=settings.runs {
            let (one, other) = (time(workspace, &feed, true).await?, time(workspace, &feed, false).await?);
            // The first warms up.
            if round > 0 {
                own.push(one);
                built_in.push(other);
            }
        }
        let (own, built_in) = (median(&own), median(&built_in));
        let ratio = own / built_in;
        table.row(
            name,
            [
                number(own, 3),
                number(rows as f64 / own, 0),
                number(built_in, 3),
                number(ratio, 2),
                verdict(ratio, BAR),
            ],
        );
    }
    report.show(&table);
    Ok(())
}

fn events(range: Range<u64>, keys: u64) -> Result<RecordBatch> {
    let key = |row: u64| SplitMix64(row.wrapping_mul(0xA076_1D64_78BD_642F)).below(keys);
    let k: ArrayRef = Arc::new(Int64Array::from_iter_values(range.clone().map(key)));
    let v: ArrayRef = Arc::new(Int64Array::from_iter_values(range.map(|row| (row % 1000) as i64)));
    Ok(RecordBatch::try_from_iter([("k", k), ("v", v)])?)
}

/// The seconds of a run to its end.
async fn time(workspace: &Workspace, feed: &Feed, own: bool) -> Result<f64> {
    let work = workspace.empty("user-state-work")?;
    let session = Session::new();
    let started = Instant::now();
    let events = session.context().read_table(Arc::new(StreamTable::new(Arc::new(feed.clone()))))?;
    let frame = match own {
        true => {
            let column = |name: &str| Field::new(name, DataType::Int64, false);
            let output = Arc::new(Schema::new(vec![column("k"), column("n"), column("total")]));
            events.transform_with_state(&["k"], output, Sums, TimeMode::None, OutputMode::Update)?
        }
        false => {
            session.context().register_table("events", events.into_view())?;
            let sql = "SELECT k, count(*) AS n, sum(v) AS total FROM events GROUP BY k";
            session.context().sql(sql).await?
        }
    };
    let query = frame
        .write_stream()
        .format("noop")
        .output_mode(OutputMode::Update)
        .trigger(Trigger::AvailableNow)
        .option("checkpointLocation", text(&work.join("checkpoint"))?)
        .option("durability", "process")
        .start(None)
        .await?;
    query.await_termination().await?;
    Ok(started.elapsed().as_secs_f64())
}
