//! The Yahoo Streaming Benchmark: views of advertisements, counted by campaign and ten seconds.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringViewArray, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::MemTable;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::Compression;
use datafusion::parquet::file::properties::WriterProperties;
use tidemill::prelude::*;

use crate::Settings;
use crate::support::data::{FIRST_TIME, Format, SplitMix64};
use crate::support::feed::BATCH_ROWS;
use crate::support::report::{Cell, Report, Table, number, verdict};
use crate::support::stateful::{Case, Input, measure};
use crate::support::{Result, Workspace};

/// Events of the Parquet and of the JSON input.
const PARQUET_EVENTS: u64 = 10_000_000;
const JSON_EVENTS: u64 = 1_000_000;
const FILES: u64 = 20;
const FILES_PER_TRIGGER: u64 = 2;
const ADS: u64 = 1_000;
const CAMPAIGNS: u64 = 100;
/// Tidemill may take this much of DataFusion's time.
const BAR: f64 = 1.3;

const AD_TYPES: [&str; 5] = ["banner", "modal", "sponsored-search", "mail", "mobile"];
const EVENT_TYPES: [&str; 3] = ["view", "click", "purchase"];

const SQL: &str = "SELECT c.campaign_id, date_bin(INTERVAL '10 seconds', e.event_time) AS w, count(*) AS views, \
                   max(e.event_time) AS last FROM events e JOIN campaigns c ON e.ad_id = c.ad_id \
                   WHERE e.event_type = 'view' GROUP BY 1, 2";
const DIGEST: &str = "SELECT count(*), sum(views), min(last), max(last) FROM \
                      (SELECT campaign_id, w, max(views) AS views, max(last) AS last FROM output GROUP BY 1, 2)";

/// Measures both inputs and both modes.
pub async fn run(settings: &Settings, workspace: &Workspace, report: &Report) -> Result<()> {
    let title = format!(
        "{FILES_PER_TRIGGER} of {FILES} files a trigger, medians of {} runs, bar {BAR} of one batch",
        settings.runs
    );
    let mut table = Table::new("ysb", title, &["seconds", "events/s", "DataFusion s", "ratio", "bar"]);
    for (format, events) in [(Format::Parquet, PARQUET_EVENTS), (Format::Json, JSON_EVENTS)] {
        let events = events / settings.divide;
        let directory = workspace.empty("ysb-input")?;
        let bytes = write_files(&directory, format, events)?;
        eprintln!("{}: {events} events, {} MB", format.name(), bytes / 1_000_000);
        let cases = cases(format, &directory)?;
        let cases: Vec<Case<'_>> =
            cases.into_iter().filter(|case| case.name.contains(&settings.case)).collect();
        for (case, runs) in cases.iter().zip(measure(settings, workspace, &cases).await?) {
            let listed: Vec<String> = runs.triggers().iter().map(|ms| format!("{ms:.0}")).collect();
            eprintln!("{}: ms of each trigger: {}", case.name, listed.join(" "));
            let (seconds, batch) = (runs.seconds(), runs.batch_seconds());
            let ratio = seconds / batch;
            let judged = if format == Format::Parquet { verdict(ratio, BAR) } else { Cell::Empty };
            let per_second = number(events as f64 / seconds, 0);
            let cells = [number(seconds, 3), per_second, number(batch, 3), number(ratio, 2), judged];
            table.row(&case.name, cells);
        }
        workspace.remove("ysb-input")?;
    }
    report.show(&table);
    Ok(())
}

fn cases(format: Format, directory: &Path) -> Result<Vec<Case<'_>>> {
    let campaigns = Arc::new(campaigns()?);
    let case = |mode, options| Case {
        name: format!("{}, {mode}", format.name()),
        input: Input::Files { directory, format, schema: schema(), files_per_trigger: FILES_PER_TRIGGER },
        watermark: Some(("event_time", "1 second")),
        stream: None,
        table: Some(("campaigns", Arc::clone(&campaigns))),
        sql: SQL,
        sql_of_datafusion: None,
        mode,
        options,
        digest: DIGEST,
    };
    Ok(vec![case(OutputMode::Update, Vec::new()), case(OutputMode::Append, vec![("flushOnEnd", "true")])])
}

fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8View, true);
    Arc::new(Schema::new(vec![
        text("user_id"),
        text("page_id"),
        text("ad_id"),
        text("ad_type"),
        text("event_type"),
        Field::new("event_time", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        text("ip_address"),
    ]))
}

/// Something that looks like a UUID; the same for the same arguments.
fn uuid(kind: u64, number: u64) -> String {
    let mut random = SplitMix64((kind << 32 | number).wrapping_mul(0xA076_1D64_78BD_642F));
    let (high, low) = (random.next(), random.next());
    uuid_text(u128::from(high) << 64 | u128::from(low))
}

fn uuid_text(bits: u128) -> String {
    let text = format!("{bits:032x}");
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

/// Each advertisement and its campaign.
fn campaigns() -> Result<MemTable> {
    let ads = (0..ADS).map(|ad| uuid(1, ad));
    let campaigns = (0..ADS).map(|ad| uuid(2, ad % CAMPAIGNS));
    let columns: [(&str, ArrayRef); 2] = [
        ("ad_id", Arc::new(StringViewArray::from_iter_values(ads))),
        ("campaign_id", Arc::new(StringViewArray::from_iter_values(campaigns))),
    ];
    let rows = RecordBatch::try_from_iter(columns)?;
    Ok(MemTable::try_new(rows.schema(), vec![vec![rows]])?)
}

/// The parts of an event that are words of a small vocabulary.
struct Vocabulary {
    users: Vec<String>,
    pages: Vec<String>,
    ads: Vec<String>,
}

impl Vocabulary {
    fn new() -> Self {
        let words = |kind, count| (0..count).map(|number| uuid(kind, number)).collect();
        Self { users: words(3, 100), pages: words(4, 100), ads: words(1, ADS) }
    }

    /// Events at 10,000 a second.
    fn events(&self, range: Range<u64>) -> Result<RecordBatch> {
        let mut texts: [Vec<&str>; 5] = Default::default();
        let mut times = Vec::new();
        for number in range {
            let mut random = SplitMix64(number.wrapping_mul(0xE703_7ED1_A0B4_28DB));
            let mut one_of = |words: &[String]| random.below(words.len() as u64) as usize;
            texts[0].push(&self.users[one_of(&self.users)]);
            texts[1].push(&self.pages[one_of(&self.pages)]);
            texts[2].push(&self.ads[one_of(&self.ads)]);
            texts[3].push(AD_TYPES[random.below(5) as usize]);
            texts[4].push(EVENT_TYPES[random.below(3) as usize]);
            times.push(FIRST_TIME + number as i64 * 100);
        }
        let rows = times.len();
        let mut columns: Vec<ArrayRef> =
            texts.into_iter().map(|words| Arc::new(StringViewArray::from(words)) as ArrayRef).collect();
        columns.push(Arc::new(TimestampMicrosecondArray::from(times)));
        columns.push(Arc::new(StringViewArray::from(vec!["1.2.3.4"; rows])));
        Ok(RecordBatch::try_new(schema(), columns)?)
    }
}

/// Divides `events` into [`FILES`] files; gives their length together.
fn write_files(directory: &Path, format: Format, events: u64) -> Result<u64> {
    let vocabulary = Vocabulary::new();
    let mut bytes = 0;
    for file in 0..FILES {
        let (mut first, end) = (events * file / FILES, events * (file + 1) / FILES);
        let path = directory.join(format!("events-{file:06}.{}", format.name()));
        let mut writer = Writer::new(&path, format)?;
        while first < end {
            let next = (first + BATCH_ROWS).min(end);
            writer.write(&vocabulary.events(first..next)?)?;
            first = next;
        }
        writer.finish()?;
        bytes += std::fs::metadata(&path)?.len();
    }
    Ok(bytes)
}

/// A file that is being written.
enum Writer {
    Parquet(ArrowWriter<File>),
    Json(datafusion::arrow::json::LineDelimitedWriter<BufWriter<File>>),
}

impl Writer {
    fn new(path: &Path, format: Format) -> Result<Self> {
        let file = File::create(path)?;
        if format == Format::Json {
            return Ok(Writer::Json(datafusion::arrow::json::LineDelimitedWriter::new(BufWriter::new(file))));
        }
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        Ok(Writer::Parquet(ArrowWriter::try_new(file, schema(), Some(properties))?))
    }

    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        match self {
            Writer::Parquet(writer) => Ok(writer.write(rows)?),
            Writer::Json(writer) => Ok(writer.write(rows)?),
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Writer::Parquet(writer) => {
                writer.close()?;
            }
            Writer::Json(mut writer) => {
                writer.finish()?;
                writer.into_inner().flush()?;
            }
        }
        Ok(())
    }
}
