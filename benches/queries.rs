//! Nexmark's queries, as `sql/nexmark` has them, on events that were made before the clock started.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use tidemill::prelude::*;
use tidemill::source::SourceProvider;
use tidemill::sql::SqlSession;
use tidemill::{SourceFactory, SourceRequest};

use crate::Settings;
use crate::support::feed::Feed;
use crate::support::report::{Cell, Report, Table, number, verdict};
use crate::support::statistics::median;
use crate::support::{Result, Workspace};

/// Events of all types, in a second of event time, and triggers.
const EVENTS: u64 = 10_000_000;
const PER_SECOND: u64 = 100_000;
const TRIGGERS: u64 = 32;
/// No query may take more than this much of the time of one batch.
const BAR: f64 = 6.0;

const TYPES: [&str; 3] = ["person", "auction", "bid"];

/// What the scripts say of their events.
const OF_SCRIPTS: &str = "'events' 100000, 'eventsPerSecond' 1000, 'maxEventsPerTrigger' 20000";

/// Queries that plain DataFusion does not understand, for there is no streaming in it.
const ONLY_STREAMING: [&str; 5] = ["q5", "q7", "q8", "q11", "q12"];

/// Gives the feed of a type in place of the generator.
struct Feeds(BTreeMap<&'static str, Feed>);

#[async_trait]
impl SourceFactory for Feeds {
    async fn create(&self, request: SourceRequest) -> tidemill::Result<Arc<dyn SourceProvider>> {
        let kind = request.options.get("type").unwrap_or_default();
        let feed = self.0.get(kind).ok_or_else(|| tidemill::Error::Invalid(format!("no events '{kind}'")))?;
        Ok(Arc::new(feed.clone()))
    }
}

/// Measures each query, and the same as one batch.
pub async fn run(settings: &Settings, workspace: &Workspace, report: &Report) -> Result<()> {
    let events = EVENTS / settings.divide;
    let mut feeds = BTreeMap::new();
    for kind in TYPES {
        feeds.insert(kind, feed(kind, events, &workspace.empty("feeds")?).await?);
    }
    let factory = Arc::new(Feeds(feeds.clone()));
    let bounded = SessionContext::new();
    for (kind, feed) in &feeds {
        bounded
            .register_table(*kind, Arc::new(feed.bounded(bounded.state().config().target_partitions())?))?;
    }
    let side = "CREATE TABLE side_input AS SELECT value AS key, concat('value ', value) AS value FROM generate_series(0, 9999)";
    bounded.sql(side).await?.collect().await?;
    let title = format!(
        "{} M events in {TRIGGERS} triggers, medians of {} runs, bar: {BAR} of one batch",
        events as f64 / 1e6,
        settings.runs
    );
    let mut table = Table::new("queries", title, &["seconds", "events/s", "DataFusion s", "ratio", "bar"]);
    for (name, path) in scripts(&settings.case) {
        let script = std::fs::read_to_string(path)?;
        let (mut streamed, mut batch) = (Vec::new(), Vec::new());
        for _ in 0..settings.runs {
            let folder = workspace.empty("queries")?;
            streamed.push(stream(&factory, &script, &folder).await?);
            if !ONLY_STREAMING.contains(&name.as_str()) {
                batch.push(at_once(&bounded, &name, &script).await?);
            }
        }
        let seconds = median(&streamed);
        let mut cells = vec![number(seconds, 3), number(events as f64 / seconds, 0)];
        match batch.is_empty() {
            true => cells.extend([Cell::Empty, Cell::Empty, Cell::Empty]),
            false => {
                let ratio = seconds / median(&batch);
                cells.extend([number(median(&batch), 3), number(ratio, 2), verdict(ratio, BAR)]);
            }
        }
        table.row(&name, cells);
    }
    report.show(&table);
    Ok(())
}

/// The events of a type, made and divided into triggers.
async fn feed(kind: &str, events: u64, folder: &Path) -> Result<Feed> {
    let per_trigger = events.div_ceil(TRIGGERS);
    let session = Session::new();
    let rows = session
        .read_stream()
        .format("nexmark")
        .options([
            ("type", kind.to_string()),
            ("events", events.to_string()),
            ("eventsPerSecond", PER_SECOND.to_string()),
            ("maxEventsPerTrigger", per_trigger.to_string()),
        ])
        .load(None)
        .await?;
    let triggers = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = Arc::clone(&triggers);
    let query = rows
        .write_stream()
        .foreach_batch(move |frame: DataFrame, _: u64| {
            let kept = Arc::clone(&kept);
            async move {
                let rows = frame.collect().await?;
                kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(rows);
                Ok(())
            }
        })
        .trigger(Trigger::AvailableNow)
        .option("checkpointLocation", folder.display())
        .start(None)
        .await?;
    query.await_termination().await?;
    let triggers = std::mem::take(&mut *triggers.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    Feed::of(triggers)
}

fn scripts(part: &str) -> Vec<(String, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/nexmark");
    let named = (0..24).map(|number| format!("q{number}")).filter(|name| name.contains(part));
    named.map(|name| (name.clone(), folder.join(&name).with_extension("sql"))).collect()
}

/// Seconds from the first statement to the end of the query, whose rows go nowhere. Beside fsyncs.
async fn stream(factory: &Arc<Feeds>, script: &str, folder: &Path) -> Result<f64> {
    let folder = folder.to_string_lossy();
    let script = script
        .replace("'checkpoint/nexmark/", &format!("'{folder}/"))
        .replace(OF_SCRIPTS, "'events' 1")
        .replace("\nAS INSERT INTO", "\n  OPTIONS ('durability' 'process')\nAS INSERT INTO");
    let nowhere: Vec<String> = script
        .split(';')
        .map(|statement| match statement.trim_start().strip_prefix("CREATE EXTERNAL TABLE ") {
            Some(rest) => {
                let name = rest.split_whitespace().next().unwrap_or_default();
                format!("\nCREATE EXTERNAL TABLE {name} STORED AS NOOP")
            }
            None => statement.to_string(),
        })
        .collect();
    let session = Session::new();
    session.register_source("nexmark", Arc::clone(factory) as _);
    let sql = SqlSession::new(session);
    let started = Instant::now();
    sql.run(&nowhere.join(";")).await?;
    for query in sql.session().streams().active() {
        query.await_termination().await?;
    }
    Ok(started.elapsed().as_secs_f64())
}

/// Seconds of the script's `SELECT` over all events.
async fn at_once(context: &SessionContext, name: &str, script: &str) -> Result<f64> {
    let select = script.split(&format!("AS INSERT INTO {name}\n")).nth(1).unwrap_or_default();
    let started = Instant::now();
    let mut rows = context.sql(select.trim_end().trim_end_matches(';')).await?.execute_stream().await?;
    while let Some(batch) = rows.next().await {
        batch?;
    }
    Ok(started.elapsed().as_secs_f64())
}
