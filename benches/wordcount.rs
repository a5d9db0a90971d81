//! The first program that everyone writes: words counted in complete mode.

use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringViewArray};
use tidemill::prelude::*;

use crate::Settings;
use crate::support::data::SplitMix64;
use crate::support::feed::Feed;
use crate::support::report::{Report, Table, number, verdict};
use crate::support::stateful::{Case, Input, measure};
use crate::support::{Result, Workspace};

/// Words in all, and in a line.
const WORDS: u64 = 16_000_000;
const WORDS_PER_LINE: u64 = 8;
const TRIGGERS: u64 = 16;
/// Different words; the n-th is n times as rare as the first.
const VOCABULARY: f64 = 100_000.0;
/// Ten times what Spark does.
const BAR: f64 = 1.34e6;

const SQL: &str = "SELECT word, count(*) AS n FROM (SELECT unnest(string_to_array(line, ' ')) AS word FROM events) \
                   GROUP BY word";
const DIGEST: &str = "SELECT count(*), sum(n), max(n), min(word), max(word) FROM output";

/// Measures complete mode.
pub async fn run(settings: &Settings, workspace: &Workspace, report: &Report) -> Result<()> {
    let title = format!(
        "{} M words, {WORDS_PER_LINE} a line, {TRIGGERS} triggers, medians of {} runs, bar {} M lines/s",
        WORDS / settings.divide / 1_000_000,
        settings.runs,
        BAR / 1e6
    );
    let mut table =
        Table::new("wordcount", title, &["seconds", "lines/s", "words/s", "bar", "DataFusion s", "ratio"]);
    let feed = Feed::generate(WORDS / WORDS_PER_LINE / settings.divide, TRIGGERS, lines)?;
    let cases = [Case {
        name: "complete".into(),
        input: Input::Feed(&feed),
        watermark: None,
        stream: None,
        table: None,
        sql: SQL,
        sql_of_datafusion: None,
        mode: OutputMode::Complete,
        options: Vec::new(),
        digest: DIGEST,
    }];
    for (case, runs) in cases.iter().zip(measure(settings, workspace, &cases).await?) {
        let listed: Vec<String> = runs.triggers().iter().map(|ms| format!("{ms:.0}")).collect();
        eprintln!("{}: ms of each trigger: {}", case.name, listed.join(" "));
        let (seconds, batch) = (runs.seconds(), runs.batch_seconds());
        let lines = feed.rows() as f64 / seconds;
        table.row(
            &case.name,
            [
                number(seconds, 3),
                number(lines, 0),
                number(lines * WORDS_PER_LINE as f64, 0),
                verdict(BAR, lines),
                number(batch, 3),
                number(seconds / batch, 2),
            ],
        );
    }
    report.show(&table);
    Ok(())
}

fn lines(range: Range<u64>) -> Result<RecordBatch> {
    let mut line = String::new();
    let lines = range.map(|number| {
        let mut random = SplitMix64(number.wrapping_mul(0xA076_1D64_78BD_642F));
        line.clear();
        for word in 0..WORDS_PER_LINE {
            let unit = random.next() as f64 / u64::MAX as f64;
            let separator = if word == 0 { "" } else { " " };
            // Text never fails to be written to a String.
            let _ = write!(line, "{separator}word{}", VOCABULARY.powf(unit) as u64);
        }
        line.clone()
    });
    let lines: ArrayRef = Arc::new(StringViewArray::from_iter_values(lines));
    Ok(RecordBatch::try_from_iter([("line", lines)])?)
}
