//! Every block of code in README and `docs/` is run as it is printed, in order, on data like that it is about.
//!
//! A block of SQL or of shell commands that cannot be run has a comment before it that says why:
//! `<!-- not tested: … -->`; `<!-- run -->` and `<!-- test -->` mark the two that the CI runs itself.
//! `<!-- after: sql/x.sql -->` has that script run first. Blocks of Rust are compared with functions below,
//! which are compiled and run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use datafusion::arrow::datatypes::DataType;
use tempfile::TempDir;
use tidemill::prelude::*;
use tidemill::processor::{GroupState, ProcessorTester, Rows, Timestamp};
use tidemill::sql::SqlSession;

use crate::examples::card_alerts::CardAlerts;
use crate::support::harness::schema;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A block of code of a document.
#[derive(Debug)]
struct Block {
    /// Its document and line.
    place: String,
    language: String,
    /// What the comment before it says.
    marker: Option<String>,
    code: String,
}

fn documents() -> Vec<(String, String)> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(Path::new(ROOT).join("docs")).unwrap().map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.insert(0, Path::new(ROOT).join("README.md"));
    let name = |path: &Path| path.strip_prefix(ROOT).unwrap().display().to_string();
    paths.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

fn blocks(document: &str, text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open: Option<Block> = None;
    let mut before = String::new();
    for (index, line) in text.lines().enumerate() {
        match (open.take(), line.strip_prefix("```")) {
            (Some(block), Some(_)) => blocks.push(block),
            (Some(mut block), None) => {
                block.code += line;
                block.code.push('\n');
                open = Some(block);
            }
            (None, Some(language)) => {
                let marker = before.trim().strip_prefix("<!--").and_then(|rest| rest.strip_suffix("-->"));
                open = Some(Block {
                    place: format!("{document}:{}", index + 1),
                    language: language.trim().to_string(),
                    marker: marker.map(|marker| marker.trim().to_string()),
                    code: String::new(),
                });
            }
            (None, None) => {}
        }
        before = line.to_string();
    }
    assert!(open.is_none(), "{document} ends in a block of code");
    blocks
}

/// A folder with what the documents are about.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        crate::support::harness::put(&path, text);
    };
    let bid = |auction: u32, price: u32, minute: u32| {
        format!(
            "{{\"auction\":{auction},\"bidder\":{},\"price\":{price},\"date_time\":\"2026-11-21T12:{minute:02}:00\"}}\n",
            auction + 100
        )
    };
    write("data/bids/1.json", &(bid(1, 1200, 1) + &bid(2, 10, 2)));
    write("data/bids/2.json", &(bid(1, 1300, 12) + &bid(3, 5000, 31)));
    let hit = |status: u32, minute: u32| {
        format!("{{\"status\":{status},\"time\":\"2026-11-21T12:{minute:02}:00\"}}\n")
    };
    write("data/hits/1.json", &(hit(200, 1) + &hit(404, 2) + &hit(200, 25)));
    write("data/hits/2.json", &hit(200, 58));
    let event = |column: &str, ad: u32, minute: u32| {
        format!("{{\"ad\":{ad},\"{column}\":\"2026-11-21T12:{minute:02}:00\"}}\n")
    };
    write("data/impressions/1.json", &(event("shown", 1, 1) + &event("shown", 2, 2)));
    write("data/clicks/1.json", &(event("clicked", 1, 5) + &event("clicked", 1, 7)));
    let budget = "{\"ad\":1,\"since\":\"2026-11-21T12:00:00\",\"budget\":50}\n";
    write("data/budgets/1.json", budget);
    for directory in ["sql", "examples/data/retail"] {
        for file in std::fs::read_dir(Path::new(ROOT).join(directory)).unwrap() {
            let path = file.unwrap().path();
            if path.is_dir() {
                continue;
            }
            let name = format!("{directory}/{}", path.file_name().unwrap().to_str().unwrap());
            write(&name, &std::fs::read_to_string(&path).unwrap());
        }
    }
    folder
}

/// Runs a program in `folder`, with `tidemill` on its path; gives what it printed.
fn run(folder: &Path, program: &str, arguments: &[&str], what: &str) -> String {
    let binary = Path::new(env!("CARGO_BIN_EXE_tidemill")).parent().unwrap().display().to_string();
    let path = format!("{binary}:{}", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .env("PATH", path)
        .env_remove("TIDEMILL_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}: {err}\n{out}");
    format!("{out}{err}")
}

const TIDEMILL: &str = env!("CARGO_BIN_EXE_tidemill");

/// Runs the SQL of a document as one script, to the end of what is there.
fn run_sql(document: &str, blocks: &[&Block]) -> String {
    let folder = folder();
    let mut script = String::new();
    for block in blocks {
        if let Some(first) = block.marker.as_deref().and_then(|marker| marker.strip_prefix("after: ")) {
            let arguments = ["run", first, "--trigger", "available-now"];
            run(folder.path(), TIDEMILL, &arguments, first);
        }
        script += &format!("-- {}\n{}\n", block.place, block.code);
    }
    let arguments = ["sql", "--trigger", "available-now", "-c", &script];
    run(folder.path(), TIDEMILL, &arguments, document)
}

#[test]
fn sql_and_shell_blocks_run_as_they_are_printed() {
    let mut left_out = 0;
    let mut tested = 0;
    for (document, text) in documents() {
        let blocks = blocks(&document, &text);
        let is_run = |block: &&Block| match block.marker.as_deref() {
            Some("run" | "test") => false,
            Some(marker) => !marker.starts_with("not tested: "),
            None => true,
        };
        left_out += blocks.iter().filter(|block| !is_run(block)).count();
        let of = |language: &str| -> Vec<&Block> {
            blocks.iter().filter(|block| block.language == language).filter(is_run).collect()
        };
        let sql = of("sql");
        if !sql.is_empty() {
            run_sql(&document, &sql);
        }
        let shell = of("bash");
        let folder = folder();
        for block in &shell {
            run(folder.path(), "bash", &["-euo", "pipefail", "-c", &block.code], &block.place);
        }
        tested += sql.len() + shell.len();
    }
    assert!(tested >= 14, "only {tested} blocks were found");
    assert!(left_out <= 9, "{left_out} blocks are not tested");
}

#[test]
fn what_the_readme_says_of_its_queries_holds() {
    let (name, text) = documents().remove(0);
    let blocks = blocks(&name, &text);
    let sql: Vec<&Block> = blocks.iter().filter(|block| block.language == "sql").collect();
    let printed = run_sql(&name, &sql);
    assert!(printed.contains("etl: ") && printed.contains("3 rows out"), "{printed}");
    assert!(printed.contains("highest: not final yet: "), "{printed}");
}

/// The lines of `code` without their indentation and without empty ones.
fn lines(code: &str) -> Vec<String> {
    code.lines().map(|line| line.trim().to_string()).filter(|line| !line.is_empty()).collect()
}

#[test]
fn rust_blocks_are_those_that_are_tested_here() {
    // A place is written as `&at("…")` or `at("…").as_str()` here, and as "…" there.
    // The example is run by `examples`.
    let here = [include_str!("documents.rs"), include_str!("../../examples/card_alerts.rs")].concat();
    let here = here.replace(").as_str()", ")").replace(", at(\"", ", &at(\"");
    let here = here.split("&at(").enumerate().map(|(index, part)| match (index, part.split_once(')')) {
        (0, _) | (_, None) => part.to_string(),
        (_, Some((place, rest))) => format!("{place}{rest}"),
    });
    let here = lines(&here.collect::<String>());
    for (document, text) in documents() {
        for block in blocks(&document, &text).iter().filter(|block| block.language == "rust") {
            let printed = lines(&block.code);
            let is_here = here.windows(printed.len()).any(|part| part == printed.as_slice());
            assert!(is_here, "{} is not what is tested: {printed:#?}", block.place);
        }
    }
}

#[rustfmt::skip]
async fn readme(at: &dyn Fn(&str) -> String) -> tidemill::Result<()> {
    let session = Session::new();
    let bids = session.read_stream().format("json").option("maxFilesPerTrigger", 4).load(&at("data/bids")).await?;
    let query = bids
        .filter(col("price").gt(lit(1000)))?
        .write_stream()
        .format("parquet")
        .trigger(Trigger::ProcessingTime(Duration::from_secs(2)))
        .option("checkpointLocation", at("checkpoint/etl").as_str())
        .start(&at("out/dear_bids"))
        .await?;
    query.await_termination().await?;
    Ok(())
}

#[rustfmt::skip]
async fn event_time(at: &dyn Fn(&str) -> String) -> tidemill::Result<()> {
    let session = Session::new();
    let columns = SqlSession::new(session.clone()).schema("status INT, time TIMESTAMP").await?;
    let hits = session.read_stream().format("json").schema(columns).load(&at("data/hits")).await?;
    let hits = hits.with_watermark("time", "10 minutes")?;
    use datafusion::functions_aggregate::expr_fn::count;
    let per_status = hits.aggregate(
        vec![window(col("time"), "10 minutes"), col("status")],
        vec![count(lit(1)).alias("hits")],
    )?;
    let query = per_status.write_stream().format("memory").query_name("q").trigger(Trigger::AvailableNow).start(None).await?;
    query.await_termination().await?;
    assert_eq!(session.context().table("q").await?.count().await?, 3);
    Ok(())
}

#[rustfmt::skip]
async fn from_spark(at: &dyn Fn(&str) -> String) -> tidemill::Result<()> {
    let session = Session::new();
    let hits = session.read_stream().format("json").load(&at("data/hits")).await?;
    let query = hits
        .filter(col("status").eq(lit(404)))?
        .write_stream()
        .foreach_batch(|rows, batch| async move {
            println!("batch {batch}: {} rows", rows.count().await?);
            Ok(())
        })
        .trigger(Trigger::AvailableNow)
        .option("checkpointLocation", at("checkpoint/from_spark").as_str())
        .start(None)
        .await?;
    query.await_termination().await?;
    assert_eq!(query.totals().input_rows, 4);
    let words = datafusion::arrow::array::StringArray::from(vec!["to", "be", "or", "not", "to", "be"]);
    let rows = RecordBatch::try_from_iter([("word", std::sync::Arc::new(words) as _)])?;
    let stream = tidemill::source::memory::MemoryStream::new(rows.schema());
    stream.add_data(rows)?;
    Ok(())
}

#[derive(serde::Deserialize)]
struct Hit {}

#[derive(serde::Serialize)]
struct Visit {
    user: String,
    pages: u64,
}

#[rustfmt::skip]
#[allow(clippy::ptr_arg)]
fn visits(user: &String, hits: Rows<'_, Hit>, state: &mut GroupState<u64>) -> tidemill::Result<Vec<Visit>> {
    if state.has_timed_out() {
        let pages = state.get().copied().unwrap_or(0);
        state.remove();
        return Ok(vec![Visit { user: user.clone(), pages }]);
    }
    state.update(state.get().copied().unwrap_or(0) + hits.len() as u64);
    state.set_timeout_duration(Duration::from_secs(1800));
    Ok(vec![])
}

/// A payment, with the card.
#[derive(serde::Serialize)]
struct Row {
    card: String,
    time: Timestamp,
    amount: f64,
    city: String,
}

#[rustfmt::skip]
fn user_state() -> tidemill::Result<()> {
    use datafusion::arrow::datatypes::{DataType, TimeUnit};
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let text = |name| (name, DataType::Utf8);
    let payments = schema(&[text("card"), ("time", time.clone()), ("amount", DataType::Float64), text("city")]);
    let alerts = schema(&[text("card"), ("time", time), text("reason")]);
    let mut tester = ProcessorTester::new(CardAlerts, payments, &["card"], alerts, TimeMode::EventTime)?;
    let payment = |minute: i64, city: &str| Row {
        card: "C-1".into(),
        time: Timestamp::from_millis(minute * 60_000),
        amount: 20.0,
        city: city.into(),
    };
    assert!(tester.process(&[payment(0, "Bern"), payment(11, "Lima")])?.is_empty());
    let snapshot = tester.snapshot()?;
    assert_eq!(tester.process(&[payment(15, "Bern")])?[0].reason, "in Lima and in Bern");
    tester.restore(&snapshot)?;
    tester.advance_watermark(Timestamp::from_millis(25 * 60_000))?;
    assert!(tester.inspect(&"C-1", |_, state| state.list_timers())?.is_empty());
    Ok(())
}

#[tokio::test]
async fn rust_blocks_run() {
    user_state().unwrap();
    let rate = Session::new().read_stream().format("rate").load(None).await.unwrap();
    let users = rate.select_exprs(&["CAST(value AS VARCHAR) AS user"]).unwrap();
    let columns = schema(&[("user", DataType::Utf8), ("pages", DataType::UInt64)]);
    users
        .flat_map_groups_with_state(&["user"], columns, TimeMode::ProcessingTime, OutputMode::Append, visits)
        .unwrap();
    let folder = folder();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let written = async {
        let files = || std::fs::read_dir(at("out/dear_bids")).map_or(0, |files| files.count());
        // The directory that files are staged in is one of them.
        while files() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        ended = readme(&at) => panic!("it ended: {ended:?}"),
        () = written => {}
    }
    event_time(&at).await.unwrap();
    from_spark(&at).await.unwrap();
}
