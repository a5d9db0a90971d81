//! Input files, the same in every run: bids of an online auction, after Nexmark's.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, Int64Builder, RecordBatch, StringViewBuilder, TimestampMicrosecondBuilder,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::Compression;
use datafusion::parquet::file::properties::WriterProperties;

use super::Result;

const CHANNELS: [&str; 6] = ["Google", "Facebook", "Baidu", "Apple", "channel-4711", "channel-815"];
/// 2026-01-01T00:00:00Z, in microseconds.
pub const FIRST_TIME: i64 = 1_767_225_600_000_000;
const MICROS_PER_DAY: i64 = 86_400_000_000;
/// Rows in one Arrow batch of a Parquet file.
const BATCH_ROWS: u64 = 8_192;

/// The formats that bids come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Csv,
    Parquet,
}

impl Format {
    /// Its name in options and as an extension.
    pub fn name(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Csv => "csv",
            Format::Parquet => "parquet",
        }
    }
}

/// The columns of a bid.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("auction", DataType::Int64, true),
        Field::new("bidder", DataType::Int64, true),
        Field::new("price", DataType::Int64, true),
        Field::new("channel", DataType::Utf8View, true),
        Field::new("url", DataType::Utf8View, true),
        Field::new("date_time", DataType::Timestamp(TimeUnit::Microsecond, None), true),
    ]))
}

/// One row.
struct Bid {
    auction: i64,
    bidder: i64,
    /// In cents.
    price: i64,
    channel: &'static str,
    item: u64,
    /// Microseconds since the epoch.
    date_time: i64,
}

/// Endless bids: those from number `first` on are the same however they are divided into files.
struct Bids {
    number: u64,
}

impl Iterator for Bids {
    type Item = Bid;

    fn next(&mut self) -> Option<Bid> {
        let mut random = SplitMix64(self.number.wrapping_mul(0xA076_1D64_78BD_642F));
        // 10,000 bids a second of event time.
        let date_time = FIRST_TIME + i64::try_from(self.number).ok()? * 100;
        self.number += 1;
        Some(Bid {
            auction: 1_000 + random.below(100_000),
            bidder: 1_000 + random.below(1_000_000),
            price: 100 + random.below(10_000),
            channel: CHANNELS[random.below(CHANNELS.len() as u64) as usize],
            item: random.next(),
            date_time,
        })
    }
}

/// Steele, Lea and Flood's generator: one addition and a mix per number.
#[derive(Debug)]
pub struct SplitMix64(pub u64);

impl SplitMix64 {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> i64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as i64
    }
}

impl Bid {
    fn write_url(&self, to: &mut impl Write) -> std::io::Result<()> {
        write!(to, "https://www.nexmark.com/{:x}/item.htm?query=1", self.item & 0xFF_FFFF_FFFF)
    }

    fn write_time(&self, to: &mut impl Write) -> std::io::Result<()> {
        let since = self.date_time - FIRST_TIME;
        let (day, micros) = (since / MICROS_PER_DAY + 1, since % MICROS_PER_DAY);
        let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(to, "2026-01-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}")
    }

    fn write_json(&self, to: &mut impl Write) -> std::io::Result<()> {
        let Self { auction, bidder, price, channel, .. } = self;
        write!(
            to,
            r#"{{"auction":{auction},"bidder":{bidder},"price":{price},"channel":"{channel}","url":""#
        )?;
        self.write_url(to)?;
        to.write_all(br#"","date_time":""#)?;
        self.write_time(to)?;
        to.write_all(b"\"}\n")
    }

    fn write_csv(&self, to: &mut impl Write) -> std::io::Result<()> {
        write!(to, "{},{},{},{},", self.auction, self.bidder, self.price, self.channel)?;
        self.write_url(to)?;
        to.write_all(b",")?;
        self.write_time(to)?;
        to.write_all(b"\n")
    }
}

/// Writes bids `first` to `first + rows` into the file `path`; gives its length.
pub fn write_file(path: &Path, format: Format, first: u64, rows: u64) -> Result<u64> {
    let bids = Bids { number: first }.zip(0..rows).map(|(bid, _)| bid);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    match format {
        Format::Json => {
            for bid in bids {
                bid.write_json(&mut file)?;
            }
            file.flush()?;
        }
        Format::Csv => {
            file.write_all(b"auction,bidder,price,channel,url,date_time\n")?;
            for bid in bids {
                bid.write_csv(&mut file)?;
            }
            file.flush()?;
        }
        Format::Parquet => write_parquet(file, bids)?,
    }
    Ok(std::fs::metadata(path)?.len())
}

fn write_parquet(file: BufWriter<File>, mut bids: impl Iterator<Item = Bid>) -> Result<()> {
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = ArrowWriter::try_new(file, schema(), Some(properties))?;
    loop {
        let batch = record_batch(bids.by_ref().take(BATCH_ROWS as usize))?;
        if batch.num_rows() == 0 {
            break;
        }
        writer.write(&batch)?;
    }
    writer.close()?;
    Ok(())
}

fn record_batch(bids: impl Iterator<Item = Bid>) -> Result<RecordBatch> {
    let (mut auction, mut bidder, mut price) =
        (Int64Builder::new(), Int64Builder::new(), Int64Builder::new());
    let (mut channel, mut url) = (StringViewBuilder::new(), StringViewBuilder::new());
    let mut date_time = TimestampMicrosecondBuilder::new();
    let mut text = Vec::new();
    for bid in bids {
        auction.append_value(bid.auction);
        bidder.append_value(bid.bidder);
        price.append_value(bid.price);
        channel.append_value(bid.channel);
        text.clear();
        bid.write_url(&mut text)?;
        url.append_value(std::str::from_utf8(&text)?);
        date_time.append_value(bid.date_time);
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(auction.finish()),
        Arc::new(bidder.finish()),
        Arc::new(price.finish()),
        Arc::new(channel.finish()),
        Arc::new(url.finish()),
        Arc::new(date_time.finish()),
    ];
    Ok(RecordBatch::try_new(schema(), columns)?)
}

/// Divides `rows` bids evenly into `files` files in `directory`; gives their length together.
pub fn write_files(directory: &Path, format: Format, rows: u64, files: u64) -> Result<u64> {
    let mut bytes = 0;
    for file in 0..files {
        let (first, end) = (rows * file / files, rows * (file + 1) / files);
        let path = directory.join(format!("bids-{file:06}.{}", format.name()));
        bytes += write_file(&path, format, first, end - first)?;
    }
    Ok(bytes)
}

/// Writes one file of about `bytes` bytes; gives its rows and its length.
pub fn write_large_file(path: &Path, format: Format, bytes: u64) -> Result<(u64, u64)> {
    const SAMPLE: u64 = 10_000;
    let sample = write_file(path, format, 0, SAMPLE)?;
    let rows = bytes * SAMPLE / sample;
    Ok((rows, write_file(path, format, 0, rows)?))
}
