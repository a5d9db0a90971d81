//! Tidemill measured against plain DataFusion, and what its engine costs by itself.
//!
//! `cargo bench --bench suite` runs everything; `cargo bench --bench suite -- etl triggers --json` a part
//! of it, with one line of JSON per result on stdout and the tables on stderr. `docs/performance.md` says
//! what each figure means. One binary, because each that links DataFusion takes a minute to build.

mod checks;
mod etl;
mod keyed;
mod large;
mod latency;
mod listing;
mod nexmark;
mod postgres;
mod queries;
mod restore;
mod small;
mod startup;
mod streams;
mod support;
mod triggers;
mod user_state;
mod wordcount;
mod ysb;

use std::path::PathBuf;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use support::report::Report;
use support::{Result, Workspace};

/// As in the command.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The benchmarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// Files to Parquet, beside the same SQL as one DataFusion batch.
    Etl,
    /// What the checks of values cost.
    Checks,
    /// What a trigger of 100 rows costs.
    Triggers,
    /// Directories with very many files, and queries with very many batches.
    Listing,
    /// Start of the process, its memory and its size.
    Startup,
    /// Aggregation and deduplication with millions of keys.
    Keyed,
    /// Windows over bids.
    Nexmark,
    /// Joins of streams, sessions, and the newest and best rows of each key.
    Streams,
    /// Nexmark's queries.
    Queries,
    /// Words counted in complete mode.
    Wordcount,
    /// The Yahoo Streaming Benchmark.
    Ysb,
    /// What a trigger of 100 rows costs that remembers.
    Small,
    /// Starting again with state.
    Restore,
    /// State larger than the memory it may use.
    Large,
    /// From a row's arrival to its effect, and what waiting costs.
    Latency,
    /// Rows into a table of PostgreSQL.
    Postgres,
    /// Stateful logic in Rust beside the built-in aggregation.
    UserState,
}

/// What to measure and how much of it.
#[derive(Debug, Parser)]
#[command(about = "Measures Tidemill")]
struct Settings {
    /// What to run; everything if nothing is named.
    #[arg(value_enum)]
    benches: Vec<Bench>,
    /// One line of JSON per result on stdout; the tables go to stderr.
    #[arg(long)]
    json: bool,
    /// How often each case is measured; medians are reported.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Rows of the JSON and of the CSV input of `etl`.
    #[arg(long, default_value_t = 2_000_000)]
    text_rows: u64,
    /// Rows of the Parquet input of `etl`.
    #[arg(long, default_value_t = 8_000_000)]
    parquet_rows: u64,
    /// Files that each input of `etl` is divided into.
    #[arg(long, default_value_t = 16)]
    input_files: u64,
    /// Files that `triggers` processes, one a trigger.
    #[arg(long, default_value_t = 300)]
    triggers: u64,
    /// Files in the large directory of `listing`.
    #[arg(long, default_value_t = 100_000)]
    files: u64,
    /// Batches over which `listing` looks for growth.
    #[arg(long, default_value_t = 1_000)]
    batches: u64,
    /// Megabytes of the input of `startup`'s measurement of memory.
    #[arg(long, default_value_t = 1_000)]
    megabytes: u64,
    /// Only the cases of the benchmarks of queries with state whose names hold this text.
    #[arg(long, default_value = "")]
    case: String,
    /// Leaves out the round that compares results of queries with state to DataFusion's, for a profiler.
    #[arg(long)]
    unchecked: bool,
    /// A divisor of the rows of the benchmarks of queries with state, for a quick look.
    #[arg(long, default_value_t = 1)]
    divide: u64,
    /// Where inputs and outputs go, in a directory that is removed at the end; the system's
    /// temporary directory if not given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keeps the inputs and says where they are.
    #[arg(long)]
    keep: bool,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let settings = Settings::parse();
    let chosen = match settings.benches.as_slice() {
        [] => Bench::value_variants(),
        some => some,
    };
    let report = Report::new(settings.json);
    let workspace = Workspace::new(settings.dir.as_deref(), settings.keep)?;
    for bench in chosen {
        let started = Instant::now();
        match bench {
            Bench::Etl => etl::run(&settings, &workspace, &report).await?,
            Bench::Checks => checks::run(&settings, &workspace, &report).await?,
            Bench::Triggers => triggers::run(&settings, &workspace, &report).await?,
            Bench::Listing => listing::run(&settings, &workspace, &report).await?,
            Bench::Startup => startup::run(&settings, &workspace, &report)?,
            Bench::Keyed => keyed::run(&settings, &workspace, &report).await?,
            Bench::Nexmark => nexmark::run(&settings, &workspace, &report).await?,
            Bench::Streams => streams::run(&settings, &workspace, &report).await?,
            Bench::Queries => queries::run(&settings, &workspace, &report).await?,
            Bench::Wordcount => wordcount::run(&settings, &workspace, &report).await?,
            Bench::Ysb => ysb::run(&settings, &workspace, &report).await?,
            Bench::Small => small::run(&settings, &workspace, &report).await?,
            Bench::Restore => restore::run(&settings, &workspace, &report).await?,
            Bench::Large => large::run(&settings, &workspace, &report).await?,
            Bench::Latency => latency::run(&settings, &workspace, &report).await?,
            Bench::Postgres => postgres::run(&settings, &workspace, &report).await?,
            Bench::UserState => user_state::run(&settings, &workspace, &report).await?,
        }
        eprintln!("({bench:?} took {:.0} s)\n", started.elapsed().as_secs_f64());
    }
    Ok(())
}
