//! `tidemill top ADDR`: the queries of a command that listens, line by line, kept up to date.

use std::io::IsTerminal;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::exit::Exit;
use super::http::with_host;
use super::text::{duration, number, per_second, without_controls};

/// How often it is asked.
const EVERY: Duration = Duration::from_secs(1);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer that is read.
const LONGEST: u64 = 64 << 20;
/// Lines where nobody says how long they may be.
const WIDTH: usize = 120;

/// Shows the queries until it is ended, or once if it is not asked for on a terminal.
pub(super) async fn run(address: &str, once: bool) -> Result<(), Exit> {
    let address = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    let address = with_host(address);
    let is_terminal = std::io::stdout().is_terminal();
    loop {
        let answer = tokio::time::timeout(PATIENCE, get(&address, "/api/queries")).await;
        let answer = answer.unwrap_or_else(|_| Err("there was no answer".into()));
        let answer = answer.map_err(|reason| Exit::failed(format!("cannot ask '{address}': {reason}")))?;
        let width = terminal_size::terminal_size().map_or(WIDTH, |(width, _)| usize::from(width.0));
        let mut text = table(&answer, width);
        let is_last = once || !is_terminal;
        if !is_last {
            // From the first line on, and nothing of what was there before.
            text = format!("\x1b[H\x1b[J{text}");
        }
        super::text::to_stdout(&text).map_err(|error| Exit::output(&error))?;
        if is_last {
            return Ok(());
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// What `path` answers, which is JSON.
async fn get(address: &str, path: &str) -> Result<Value, String> {
    let told = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(address).await.map_err(told)?;
    let host = address.replace("0.0.0.0", "127.0.0.1");
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(told)?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await.map_err(told)?;
    let answer = String::from_utf8(answer).map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("what is there speaks no HTTP")?;
    let body: Value = serde_json::from_str(body).map_err(|_| {
        format!("what is there is not tidemill ({})", head.lines().next().unwrap_or_default())
    })?;
    match body.get("error").and_then(Value::as_str) {
        Some(error) => Err(error.to_string()),
        None => Ok(body),
    }
}

/// A column: its head, whether it is text, and what it says of a query.
type Column = (&'static str, bool, fn(&Value) -> String);

/// The most important ones first: those that do not fit are left out.
const COLUMNS: [Column; 9] = [
    ("QUERY", true, |query| query["name"].as_str().unwrap_or_default().to_string()),
    ("STATE", true, |query| query["state"].as_str().unwrap_or_default().to_string()),
    ("RATE IN", false, |query| query["inputRowsPerSecond"].as_f64().map_or_else(dash, per_second)),
    ("BATCH", false, |query| query["batchId"].as_u64().map_or_else(dash, number)),
    ("TOOK", false, |query| milliseconds(&query["batchDurationMs"])),
    ("ROWS IN", false, |query| query["inputRows"].as_u64().map_or_else(dash, number)),
    ("STATE ROWS", false, |query| query["stateRows"].as_u64().map_or_else(dash, number)),
    ("LAG", false, |query| milliseconds(&query["watermarkLagMs"])),
    ("LATE", false, |query| query["lateRows"].as_u64().map_or_else(dash, number)),
];

fn dash() -> String {
    "-".into()
}

fn milliseconds(value: &Value) -> String {
    value.as_u64().map_or_else(dash, |ms| duration(Duration::from_millis(ms)))
}

/// The queries, in lines of at most `width` characters.
fn table(answer: &Value, width: usize) -> String {
    let queries = answer["queries"].as_array().map_or(&[][..], Vec::as_slice);
    let mut lines = vec![String::new(); queries.len() + 1];
    for (head, is_text, value) in COLUMNS {
        let cells = queries.iter().map(|query| without_controls(&value(query)));
        let cells: Vec<String> = std::iter::once(head.to_string()).chain(cells).collect();
        let wide = cells.iter().map(|cell| cell.chars().count()).max().unwrap_or_default();
        let taken = lines[0].chars().count();
        let gap = if taken == 0 { "" } else { "  " };
        if taken > 0 && taken + gap.len() + wide > width {
            break;
        }
        for (line, cell) in lines.iter_mut().zip(cells) {
            *line += &if is_text { format!("{gap}{cell:<wide$}") } else { format!("{gap}{cell:>wide$}") };
        }
    }
    let failed = queries.iter().filter_map(|query| {
        let error = without_controls(query["error"].as_str()?).replace('\n', " ");
        Some(format!("{}: {error}", query["name"].as_str().unwrap_or_default()))
    });
    lines.extend(failed.collect::<Vec<_>>());
    let cut = |line: String| line.trim_end().chars().take(width).collect::<String>() + "\n";
    lines.into_iter().map(cut).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_fit_and_say_the_most_important_first() {
        let query = json!({"name": "etl", "state": "failed", "batchId": 1234, "inputRowsPerSecond": 2.5,
                           "batchDurationMs": 12, "inputRows": 5, "stateRows": 0, "watermarkLagMs": null,
                           "lateRows": 0, "error": "no\nluck"});
        let shown = table(&json!({"queries": [query]}), 120);
        let expected = "QUERY  STATE      RATE IN  BATCH   TOOK  ROWS IN  STATE ROWS  LAG  LATE\n\
                        etl    failed  2.5 rows/s  1,234  12 ms        5           0    -     0\n\
                        etl: no luck\n";
        assert_eq!(shown, expected);
        assert_eq!(table(&json!({"queries": [query]}), 15), "QUERY  STATE\netl    failed\netl: no luck\n");
        assert_eq!(table(&json!({"queries": []}), 20), "QUERY  STATE\n");
    }
}
