//! Counting words as they are typed: `cargo run --release --example word_count -- [HOST PORT]`.
//!
//! Start a server first, `nc -lk 9999`, and type into it. After every batch the console shows all
//! words seen so far, the most frequent first.

use datafusion::functions_aggregate::expr_fn::count;
use datafusion::functions_nested::expr_fn::string_to_array;
use tidemill::prelude::*;

/// The query over the lines that a server sends: `word` and `times`.
pub async fn words(session: &Session, host: &str, port: &str) -> tidemill::Result<DataFrame> {
    let lines =
        session.read_stream().format("socket").option("host", host).option("port", port).load(None).await?;
    let words = lines
        .select(vec![string_to_array(col("value"), lit(" "), lit("")).alias("word")])?
        .unnest_columns(&["word"])?
        .filter(col("word").is_not_null())?
        .aggregate(vec![col("word")], vec![count(lit(1)).alias("times")])?
        .sort(vec![col("times").sort(false, false), col("word").sort(true, false)])?;
    Ok(words)
}

#[tokio::main]
async fn main() -> tidemill::Result<()> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let argument = |index: usize, default: &'static str| given.get(index).map_or(default, String::as_str);
    let session = Session::new();
    let query = words(&session, argument(0, "localhost"), argument(1, "9999"))
        .await?
        .write_stream()
        .output_mode(OutputMode::Complete)
        .format("console")
        .start(None)
        .await?;
    tokio::select! {
        ended = query.await_termination() => ended,
        _ = tokio::signal::ctrl_c() => query.stop(StopMode::Finish).await,
    }
}
