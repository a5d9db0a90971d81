//! Connections that break at any message: a proxy stands between the engine and the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidemill::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Database, put};
use crate::support::harness::{Place, Recorder, session};

/// Passes on what comes, and breaks a connection once: at the message with a number.
struct Proxy {
    port: u16,
    messages: Arc<AtomicUsize>,
}

impl Proxy {
    /// `passes`: whether the message gets to the server, whose answer is lost then.
    async fn new(to: u16, number: usize, passes: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let messages = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&messages);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                tokio::spawn(pass_on(client, server, Arc::clone(&count), (number, passes)));
            }
        });
        Self { port, messages }
    }
}

async fn pass_on(
    mut client: TcpStream,
    mut server: TcpStream,
    count: Arc<AtomicUsize>,
    (number, passes): (usize, bool),
) {
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let size = read.unwrap_or(0);
                let breaks = size > 0 && count.fetch_add(1, Ordering::SeqCst) == number;
                if size == 0 || (breaks && !passes) {
                    return;
                }
                if server.write_all(&asked[..size]).await.is_err() {
                    return;
                }
                if breaks {
                    // The server does what it was asked for, and may have nothing to say to it.
                    let answer = server.read(&mut answered);
                    let _ = tokio::time::timeout(std::time::Duration::from_millis(200), answer).await;
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let size = read.unwrap_or(0);
                if size == 0 || client.write_all(&answered[..size]).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_once_wherever_the_connection_breaks() {
    let Some(database) = Database::new("breaks") else { return };
    let template = Place::new();
    put(&template, 0..2);
    let (mut runs, mut retries) = (0, 0);
    for (mode, sql, expected, ways) in [
        (
            OutputMode::Append,
            "SELECT id FROM input",
            ["0", "1", "10", "11"].as_slice(),
            [false, true].as_slice(),
        ),
        (
            OutputMode::Update,
            "SELECT id % 2 AS id, sum(id) AS n FROM input GROUP BY 1",
            &["0|10", "1|12"],
            &[true],
        ),
    ] {
        for passes in ways.iter().copied() {
            for number in 0.. {
                let proxy = Proxy::new(database.server.port(), number, passes).await;
                let place = template.copy_of(&["in"]);
                let table = format!("out_{runs}");
                let port = |port: u16| format!(":{port}/");
                let url = database.url().replace(&port(database.server.port()), &port(proxy.port));
                let url = format!("{url}?sslmode=disable");
                let job = database.job(&place, &table).sql(sql).mode(mode).files_per_trigger(1);
                let session = session();
                let recorder = Recorder::of(&session);
                job.option("url", url).option("createTable", true).run(&session).await.unwrap();
                let rows = database.rows(&format!("SELECT * FROM {table} ORDER BY id"));
                assert_eq!(rows, expected, "{mode}, broken at message {number}, passes: {passes}");
                let counts = recorder.progress();
                let counts = counts.iter().filter_map(|progress| progress.sink.metrics.get("numRetries"));
                retries += counts.map(|count| count.parse::<usize>().unwrap()).sum::<usize>();
                runs += 1;
                if proxy.messages.load(Ordering::SeqCst) <= number {
                    break;
                }
            }
        }
    }
    assert!(runs > 40 && retries > 20, "{runs} runs, {retries} retries");
}

/// A server that never comes is not waited for for ever.
#[tokio::test]
async fn patience_ends() {
    let place = Place::new();
    put(&place, 0..1);
    let job = crate::support::harness::Job::new(&place).format("postgres").out(None).option("table", "t");
    let job = job.option("url", "postgresql://nobody@127.0.0.1:1/none").option("retryTimeout", "200 ms");
    let error = job.start(&session()).await.unwrap_err().to_string();
    assert!(error.contains("connect to '127.0.0.1/none' failed"), "{error}");
}
