//! What remembers rows rather than groups: joins of streams, sessions, and the newest and best rows of each key.

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use tidemill::prelude::*;

use crate::Settings;
use crate::nexmark::bids;
use crate::support::data::FIRST_TIME;
use crate::support::feed::Feed;
use crate::support::report::{Report, Table, number, verdict};
use crate::support::stateful::{Case, Input, Runs, measure};
use crate::support::statistics::median;
use crate::support::{Result, Workspace};

/// Bids, and with how many auctions they are joined.
const BIDS: u64 = 8_000_000;
const AUCTIONS: u64 = 500_000;

const JOIN: &str = "SELECT e.auction, e.price, a.seller FROM events AS e JOIN auctions AS a ON e.auction = a.id \
     AND e.date_time BETWEEN a.opened AND a.opened + INTERVAL '10 seconds'";
const JOIN_DIGEST: &str = "SELECT count(*), sum(price), sum(auction), sum(seller) FROM output";

const SESSIONS: &str = "SELECT bidder, min(date_time) AS first, count(*) AS n FROM events \
     GROUP BY bidder, session_window(date_time, '10 seconds')";
/// The same for DataFusion, which has no sessions.
const SESSIONS_OF_DATAFUSION: &str = "SELECT bidder, min(date_time) AS first, count(*) AS n FROM ( \
         SELECT *, sum(begins) OVER (PARTITION BY bidder ORDER BY date_time) AS session FROM ( \
             SELECT bidder, date_time, CASE WHEN date_time < \
                 lag(date_time) OVER (PARTITION BY bidder ORDER BY date_time) + INTERVAL '10 seconds' \
                 THEN 0 ELSE 1 END AS begins FROM events)) GROUP BY bidder, session";
const SESSIONS_DIGEST: &str = "SELECT count(*), sum(n), min(first), max(first), sum(bidder) FROM output";

const NEWEST: &str = "SELECT auction, bidder, price, date_time FROM (SELECT *, \
     row_number() OVER (PARTITION BY auction ORDER BY date_time DESC) AS place FROM events) WHERE place = 1";
const NEWEST_DIGEST: &str = "SELECT count(*), sum(price), sum(bidder) FROM (SELECT auction, \
     last_value(price ORDER BY date_time) AS price, last_value(bidder ORDER BY date_time) AS bidder \
     FROM output GROUP BY auction)";

const BEST: &str = "SELECT auction, price, date_time, place FROM (SELECT *, \
     row_number() OVER (PARTITION BY auction ORDER BY price DESC, date_time) AS place FROM events) WHERE place <= 10";
/// Whatever was given is a row of the input, and each of the ten best was given.
const BEST_DIGEST: &str = "SELECT count(*), sum(price) FROM (SELECT *, row_number() OVER \
     (PARTITION BY auction ORDER BY price DESC, date_time) AS rank FROM \
     (SELECT DISTINCT auction, price, date_time FROM output)) WHERE rank <= 10";

/// Measures each of them.
pub async fn run(settings: &Settings, workspace: &Workspace, report: &Report) -> Result<()> {
    let rows = BIDS / settings.divide;
    let [of_8, of_16, of_32] = [8, 16, 32].map(|triggers| Feed::generate(rows, triggers, bids));
    let [of_8, of_16, of_32] = [of_8?, of_16?, of_32?];
    let auctions = Feed::generate(AUCTIONS / settings.divide, 16, opened)?;
    let case = |name: &str, feed, sql, mode, digest| Case {
        name: name.to_string(),
        input: Input::Feed(feed),
        watermark: Some(("date_time", "4 seconds")),
        stream: None,
        table: None,
        sql,
        sql_of_datafusion: None,
        mode,
        options: if mode == OutputMode::Append { vec![("flushOnEnd", "true")] } else { Vec::new() },
        digest,
    };
    let cases = [
        Case {
            stream: Some(("auctions", &auctions, ("opened", "4 seconds"))),
            ..case("interval join", &of_16, JOIN, OutputMode::Append, JOIN_DIGEST)
        },
        Case {
            sql_of_datafusion: Some(SESSIONS_OF_DATAFUSION),
            ..case("sessions by bidder", &of_8, SESSIONS, OutputMode::Append, SESSIONS_DIGEST)
        },
        case("newest bid of each auction", &of_32, NEWEST, OutputMode::Update, NEWEST_DIGEST),
        case("ten best bids of each auction", &of_32, BEST, OutputMode::Update, BEST_DIGEST),
    ];
    let cases: Vec<Case<'_>> = cases.into_iter().filter(|case| case.name.contains(&settings.case)).collect();
    let bars = [("interval", 6e6), ("sessions", 6e6), ("newest", 3e6), ("ten", 3e6)];
    let title = format!("{} M bids, medians of {} runs", rows / 1_000_000, settings.runs);
    let columns =
        ["seconds", "rows/s", "bar", "DataFusion s", "ratio", "last trigger to first", "MB of state"];
    let mut table = Table::new("streams", title, &columns);
    for (case, runs) in cases.iter().zip(measure(settings, workspace, &cases).await?) {
        let bar = bars.iter().find(|(name, _)| case.name.starts_with(name)).map_or(0.0, |(_, bar)| *bar);
        add_row(&mut table, case, &runs, rows as f64, bar);
    }
    report.show(&table);
    Ok(())
}

fn add_row(table: &mut Table, case: &Case<'_>, runs: &Runs, rows: f64, bar: f64) {
    let triggers = runs.triggers();
    let listed: Vec<String> = triggers.iter().map(|ms| format!("{ms:.0}")).collect();
    eprintln!("{}: ms of each trigger: {}", case.name, listed.join(" "));
    // The last ones may have no rows, and only what becomes final at the end.
    let growth =
        median(triggers.get(triggers.len().saturating_sub(5)..triggers.len() - 1).unwrap_or_default())
            / median(triggers.get(1..5).unwrap_or_default());
    let (seconds, batch) = (runs.seconds(), runs.batch_seconds());
    let megabytes = runs.most_state() as f64 / 1e6;
    let cells = [
        number(seconds, 3),
        number(rows / seconds, 0),
        verdict(bar, rows / seconds),
        number(batch, 3),
        number(seconds / batch, 2),
        number(growth, 2),
        number(megabytes, 1),
    ];
    table.row(&case.name, cells);
}

/// Auctions, opened as Nexmark's generator has it: three come with 46 bids.
fn opened(range: Range<u64>) -> Result<RecordBatch> {
    let times = range.clone().map(|number| FIRST_TIME + (number * 46 / 3) as i64 * 100);
    let columns: [(&str, ArrayRef); 3] = [
        ("id", Arc::new(Int64Array::from_iter_values(range.clone().map(|number| 1_000 + number as i64)))),
        ("opened", Arc::new(TimestampMicrosecondArray::from_iter_values(times))),
        ("seller", Arc::new(Int64Array::from_iter_values(range.map(|number| number as i64 % 10_007)))),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}
