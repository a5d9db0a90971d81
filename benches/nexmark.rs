//! Windows over bids, after Nexmark's queries 5 and 7.

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use tidemill::prelude::*;

use crate::Settings;
use crate::support::data::{FIRST_TIME, SplitMix64};
use crate::support::feed::Feed;
use crate::support::report::{Cell, Report, Table, number, verdict};
use crate::support::stateful::{Case, Input, measure};
use crate::support::{Result, Workspace};

/// Bids and triggers of each case.
const ROWS: u64 = 8_000_000;
const TRIGGERS: u64 = 8;
/// Tumbling windows may take this much of DataFusion's time.
const BAR_TUMBLING: f64 = 1.3;
/// Hopping windows take at least so many rows a second.
const BAR_HOPPING: f64 = 2e6;

const TUMBLING: &str =
    "SELECT date_bin(INTERVAL '10 seconds', date_time) AS w, max(price) AS v FROM events GROUP BY 1";
const TUMBLING_AUCTION: &str = "SELECT date_bin(INTERVAL '10 seconds', date_time) AS w, auction, max(price) AS v FROM events GROUP BY 1, 2";
const HOPPING: &str =
    "SELECT window(date_time, '10 seconds', '2 seconds') AS w, count(*) AS v FROM events GROUP BY 1";
const HOPPING_AUCTION: &str = "SELECT window(date_time, '10 seconds', '2 seconds') AS w, auction, count(*) AS v FROM events GROUP BY 1, 2";

const DIGEST: &str = "SELECT count(*), sum(v) FROM (SELECT w, max(v) AS v FROM output GROUP BY w)";
const DIGEST_AUCTION: &str =
    "SELECT count(*), sum(v) FROM (SELECT w, auction, max(v) AS v FROM output GROUP BY w, auction)";

/// Measures tumbling and hopping windows.
pub async fn run(settings: &Settings, workspace: &Workspace, report: &Report) -> Result<()> {
    let feed = Feed::generate(ROWS / settings.divide, TRIGGERS, bids)?;
    let case = |name: &str, sql, mode, digest| {
        let options = match mode {
            OutputMode::Append => vec![("flushOnEnd", "true")],
            _ => Vec::new(),
        };
        Case {
            name: name.to_string(),
            input: Input::Feed(&feed),
            watermark: Some(("date_time", "4 seconds")),
            stream: None,
            table: None,
            sql,
            sql_of_datafusion: None,
            mode,
            options,
            digest,
        }
    };
    use OutputMode::{Append, Update};
    let cases: Vec<Case<'_>> = vec![
        case("tumbling max, update", TUMBLING, Update, DIGEST),
        case("tumbling max, append", TUMBLING, Append, DIGEST),
        case("tumbling max by auction, update", TUMBLING_AUCTION, Update, DIGEST_AUCTION),
        case("hopping count, update", HOPPING, Update, DIGEST),
        case("hopping count, append", HOPPING, Append, DIGEST),
        case("hopping count by auction, append", HOPPING_AUCTION, Append, DIGEST_AUCTION),
    ];
    let cases: Vec<Case<'_>> = cases.into_iter().filter(|case| case.name.contains(&settings.case)).collect();
    let title = format!(
        "{} M bids in {TRIGGERS} triggers, medians of {} runs, bars: tumbling {BAR_TUMBLING} of one batch, hopping {} M rows/s",
        ROWS / settings.divide / 1_000_000,
        settings.runs,
        BAR_HOPPING / 1e6
    );
    let mut table = Table::new("nexmark", title, &["seconds", "rows/s", "DataFusion s", "ratio", "bar"]);
    for (case, runs) in cases.iter().zip(measure(settings, workspace, &cases).await?) {
        let listed: Vec<String> = runs.triggers().iter().map(|ms| format!("{ms:.0}")).collect();
        eprintln!("{}: ms of each trigger: {}", case.name, listed.join(" "));
        let (seconds, batch) = (runs.seconds(), runs.batch_seconds());
        let (per_second, ratio) = (feed.rows() as f64 / seconds, seconds / batch);
        let judged = match case.name.split(' ').next() {
            Some("tumbling") if !case.name.contains("auction") => verdict(ratio, BAR_TUMBLING),
            Some("hopping") => verdict(BAR_HOPPING, per_second),
            _ => Cell::Empty,
        };
        let cells = [number(seconds, 3), number(per_second, 0), number(batch, 3), number(ratio, 2), judged];
        table.row(&case.name, cells);
    }
    report.show(&table);
    Ok(())
}

/// Bids at 10,000 a second; half of them are for the hottest of the last auctions, the others for
/// one of the last hundred, as Nexmark's generator has it.
pub fn bids(range: Range<u64>) -> Result<RecordBatch> {
    let rows = range.end.saturating_sub(range.start) as usize;
    let (mut auctions, mut bidders) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    let (mut prices, mut times) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    for number in range {
        let mut random = SplitMix64(number.wrapping_mul(0xA076_1D64_78BD_642F));
        // 46 bids come with 3 auctions and 1 person.
        let (auction, person) = (number as i64 / 46 * 3, number as i64 / 46);
        let hot = random.below(2) == 0;
        let auction = if hot { auction / 100 * 100 } else { (auction - 100).max(0) + random.below(111) };
        let hot = random.below(4) > 0;
        let person = if hot { person / 100 * 100 + 1 } else { (person - 1_000).max(0) + random.below(1_010) };
        let unit = random.next() as f64 / u64::MAX as f64;
        auctions.push(1_000 + auction);
        bidders.push(1_000 + person);
        prices.push((10_f64.powf(6.0 * unit) * 100.0).round() as i64);
        times.push(FIRST_TIME + number as i64 * 100);
    }
    let columns: [(&str, ArrayRef); 4] = [
        ("auction", Arc::new(Int64Array::from(auctions))),
        ("bidder", Arc::new(Int64Array::from(bidders))),
        ("price", Arc::new(Int64Array::from(prices))),
        ("date_time", Arc::new(TimestampMicrosecondArray::from(times))),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}
