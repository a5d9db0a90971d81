//! Alerts to a webhook: `cargo run --release --example alerts -- [HOST:PORT]`.
//!
//! Every row of a stream that needs attention is posted as JSON. A web hook cannot take part in a transaction, so an
//! alert may be posted twice, when the process dies after the post and before the batch is committed. It then
//! has the same id, in the header `Idempotency-Key`, by which the receiver drops repeats.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tidemill::arrow::json::LineDelimitedWriter;
use tidemill::prelude::*;
use tidemill::serde_json::{self, Value};
use tidemill::{Error, Result};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Posts `body` to `http://receiver/alerts`; fails unless the receiver has taken it.
async fn post(receiver: &str, id: &str, body: &str) -> Result<()> {
    let mut stream = TcpStream::connect(receiver).await.map_err(Error::other)?;
    let request = format!(
        "POST /alerts HTTP/1.1\r\nHost: {receiver}\r\nContent-Type: application/json\r\nIdempotency-Key: {id}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.map_err(Error::other)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await.map_err(Error::other)?;
    match answer.split(' ').nth(1) {
        Some(code) if code.starts_with('2') => Ok(()),
        _ => {
            Err(Error::Invalid(format!("the receiver {receiver} did not take alert {id}: {}", answer.trim())))
        }
    }
}

/// Posts the rows of one batch, in the order of their texts, so that a batch which comes again gives each row the
/// same id.
pub async fn alert(receiver: String, name: &'static str, batch: u64, rows: DataFrame) -> Result<()> {
    let mut writer = LineDelimitedWriter::new(Vec::new());
    writer.write_batches(&rows.collect().await?.iter().collect::<Vec<_>>())?;
    writer.finish()?;
    let text = String::from_utf8(writer.into_inner()).map_err(Error::other)?;
    let mut alerts: Vec<&str> = text.lines().collect();
    alerts.sort_unstable();
    for (row, body) in alerts.into_iter().enumerate() {
        post(&receiver, &format!("{name}-{batch}-{row}"), body).await?;
    }
    Ok(())
}

/// A receiver that keeps what it is sent, each id once, and fails as often as it is told to, after it has taken an
/// alert.
pub struct Receiver {
    pub address: String,
    pub posts: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Receiver {
    pub async fn start(failures: usize) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(Error::other)?;
        let address = listener.local_addr().map_err(Error::other)?.to_string();
        let posts = Arc::<Mutex<Vec<(String, Value)>>>::default();
        let taken = Arc::clone(&posts);
        tokio::spawn(async move {
            let mut failures = failures;
            while let Ok((stream, _)) = listener.accept().await {
                let Ok((id, body, mut stream)) = request(stream).await else { continue };
                taken.lock().unwrap_or_else(PoisonError::into_inner).push((id, body));
                let fails = failures > 0;
                failures = failures.saturating_sub(1);
                let status = if fails { "503 Service Unavailable" } else { "204 No Content" };
                let _ = stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await;
            }
        });
        Ok(Self { address, posts })
    }
}

async fn request(stream: TcpStream) -> Result<(String, Value, TcpStream)> {
    let mut stream = BufReader::new(stream);
    let (mut id, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.map_err(Error::other)?;
        match line.trim_end().split_once(": ") {
            Some(("Idempotency-Key", value)) => id = value.to_string(),
            Some(("Content-Length", value)) => length = value.parse().map_err(Error::other)?,
            None if line.trim().is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.map_err(Error::other)?;
    Ok((id, serde_json::from_slice(&body).map_err(Error::other)?, stream.into_inner()))
}

/// The invoices of the example's data that were cancelled and are large.
pub async fn cancelled(session: &Session) -> Result<DataFrame> {
    let invoices = session.read_stream().format("csv").option("header", true).option("maxFilesPerTrigger", 1);
    let invoices = invoices.load("examples/data/retail").await?;
    Ok(invoices.filter(col("\"Quantity\"").lt(lit(-10)))?.select_columns(&[
        "InvoiceNo",
        "Description",
        "Quantity",
    ])?)
}

#[tokio::main]
async fn main() -> Result<()> {
    let own = Receiver::start(1).await?;
    let receiver = std::env::args().nth(1).unwrap_or_else(|| own.address.clone());
    let folder = std::env::temp_dir().join(format!("tidemill-alerts-{}", std::process::id()));
    let session = Session::new();
    let query = cancelled(&session)
        .await?
        .write_stream()
        .foreach_batch(move |rows, batch| alert(receiver.clone(), "cancelled", batch, rows))
        .trigger(Trigger::AvailableNow)
        .option("checkpointLocation", folder.display())
        // A receiver that is away for a while is tried again, with the batch that it did not take.
        .option("restartOnFailure", true)
        .option("restartBackoff", "100 ms")
        .start(None)
        .await?;
    query.await_termination().await?;
    let _ = std::fs::remove_dir_all(folder);
    let posts = own.posts.lock().unwrap_or_else(PoisonError::into_inner);
    let mut known = BTreeSet::new();
    for (id, alert) in posts.iter() {
        let note = if known.insert(id) { "" } else { "  (a repeat, dropped)" };
        println!("{id}: {alert}{note}");
    }
    Ok(())
}
