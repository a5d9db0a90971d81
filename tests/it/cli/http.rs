//! `--listen`: the page, the metrics and the HTTP interface of a running command.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{FEED, Folder, signal, wait};

/// A command that listens.
struct Site {
    child: Child,
    /// Such as `127.0.0.1:40123`.
    address: String,
}

/// An answer: its status, its headers in lower case, and its body.
struct Answer(u16, String, String);

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.2).unwrap_or_else(|error| panic!("{error}: {}", self.2))
    }
}

impl Site {
    fn start(folder: &Folder, script: &str, listen: &str, token: Option<&str>) -> Self {
        folder.write("job.sql", script);
        let mut command = folder.command(&["run", "job.sql", "--listen", listen]);
        command.env_remove("TIDEMILL_TOKEN");
        if let Some(token) = token {
            command.env("TIDEMILL_TOKEN", token);
        }
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("the queries are shown at http://");
        let address = address.unwrap_or_else(|| panic!("{line}")).to_string();
        // What else it says must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let site = Self { child, address };
        site.until("/ready", |answer| answer.0 != 503 || answer.2.contains("failed"));
        site
    }

    fn ask(&self, request: &str, headers: &[(&str, &str)]) -> Answer {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let has_host = headers.iter().any(|(name, _)| *name == "Host");
        let host = if has_host { String::new() } else { format!("Host: {}\r\n", self.address) };
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        write!(stream, "{request} HTTP/1.1\r\n{host}{headers}Connection: close\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer(status, head.to_lowercase(), body.to_string())
    }

    fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), &[])
    }

    /// As the page does it.
    fn post(&self, path: &str) -> Answer {
        self.ask(&format!("POST {path}"), &[("Origin", &format!("http://{}", self.address))])
    }

    /// Asks until the answer is as it should be.
    fn until(&self, path: &str, is_right: impl Fn(&Answer) -> bool) -> Answer {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let answer = self.get(path);
            if is_right(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "{path}: {} {}", answer.0, answer.2);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a field of the query `name` is `value`.
    fn until_field(&self, name: &str, field: &str, value: &Value) -> Value {
        let answer = self.until(&format!("/api/queries/{name}"), |answer| answer.json()[field] == *value);
        answer.json()
    }

    /// Has the command leave; gives its exit code.
    fn leave(self) -> i32 {
        signal(&self.child, "-TERM");
        wait(self.child).0
    }
}

/// Counts hits per status, in windows of ten minutes, with a secret among the options.
const HITS: &str = "
    CREATE UNBOUNDED EXTERNAL TABLE hits (status INT, time TIMESTAMP, WATERMARK FOR time AS time - INTERVAL '1 minute')
        STORED AS JSON LOCATION 'in' OPTIONS ('maxFilesPerTrigger' '1', 'minFileAge' '0 seconds');
    CREATE EXTERNAL TABLE counts STORED AS MEMORY;
    CREATE STREAMING QUERY hits_per_status OUTPUT MODE UPDATE CHECKPOINT LOCATION 'checkpoint' AS
        INSERT INTO counts SELECT status, window, count(*) AS hits FROM hits GROUP BY status, window(time, '10 minutes');
";

fn hit(status: u32, minute: u32) -> String {
    format!("{{\"status\":{status},\"time\":\"2026-11-21T12:{minute:02}:00\"}}\n")
}

/// What a metric says of a query.
fn metric(text: &str, line: &str) -> f64 {
    let found = text.lines().find_map(|other| other.strip_prefix(line)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("{line} is not in {text}")).parse().unwrap()
}

#[test]
fn the_page_and_its_interface_tell_what_a_query_does() {
    let folder = Folder::new();
    folder.write("in/1.json", &(hit(200, 1) + &hit(404, 2) + &hit(200, 3)));
    folder.write("in/2.json", &(hit(500, 4) + &hit(200, 1)));
    let site = Site::start(&folder, HITS, "127.0.0.1:0", None);
    let query = site.until_field("hits_per_status", "inputRows", &Value::from(5));
    assert_eq!(query["outputRows"], 4, "{query}");
    assert_eq!(query["target"], "counts");
    assert!(query["watermark"].as_str().unwrap().starts_with("2026-11-21T12:0"), "{query}");
    assert!(query["sql"].as_str().unwrap().contains("CREATE STREAMING QUERY hits_per_status"));
    assert!(query["history"]["time"].as_array().unwrap().len() == 300);
    let rows: f64 =
        query["history"]["inputRowsPerSecond"].as_array().unwrap().iter().filter_map(Value::as_f64).sum();
    assert_eq!(rows, 5.0);
    // A file was read in each of two batches, one that moved the watermark may follow.
    let plan = query["plan"].as_array().unwrap();
    let named = |name: &str| plan.iter().find(|node| node["operator"].as_str().unwrap().starts_with(name));
    assert!(
        named("StatefulAggregateExec").is_some_and(|node| node["elapsedComputeNs"].is_u64()),
        "{plan:#?}"
    );
    let scan = named("StreamScanExec").unwrap();
    assert!(scan["outputRows"].is_u64() && scan["depth"].as_u64() > Some(1), "{plan:#?}");

    let all = site.get("/api/queries").json();
    assert_eq!(all["queries"][0]["name"], "hits_per_status");
    assert_eq!(all["version"], env!("CARGO_PKG_VERSION"));
    let progress = site.get("/api/queries/hits_per_status/progress?limit=1").json();
    assert_eq!(progress.as_array().unwrap().len(), 1);
    assert_eq!(progress[0]["name"], "hits_per_status");

    let state = site.get("/api/queries/hits_per_status/state?key=404").json();
    let rows = state["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{state}");
    assert_eq!(rows[0]["status"], 404);
    let both = site.get("/api/queries/hits_per_status/state?key=200&key=2026-11-21T12:00:00").json();
    assert_eq!(both["rows"].as_array().unwrap().len(), 1, "{both}");
    assert_eq!(site.get("/api/queries/hits_per_status/state").json()["rows"].as_array().unwrap().len(), 3);
    assert_eq!(site.get("/api/queries/hits_per_status/state?key=1&key=2&key=3").0, 409);
    assert_eq!(site.get("/api/queries/hits_per_status/state?keys=1").0, 400);

    let metrics = site.get("/metrics");
    assert!(metrics.1.contains("text/plain; version=0.0.4"), "{}", metrics.1);
    let of = |name: &str| metric(&metrics.2, &format!("tidemill_query_{name}{{query=\"hits_per_status\"}}"));
    assert_eq!(of("input_rows_total"), 5.0);
    assert_eq!(of("state_rows"), 3.0);
    assert_eq!(of("batch_duration_seconds_count"), of("batches_total"));
    assert!(of("batches_total") >= 2.0 && of("watermark_lag_seconds") != 0.0);

    let page = site.get("/");
    assert!(page.1.contains("content-security-policy: default-src 'self'"), "{}", page.1);
    for file in ["page.js", "page.css", "uPlot.js", "uPlot.css", "icon.svg"] {
        assert!(page.2.contains(&format!("\"{file}\"")), "{file}");
        assert_eq!(site.get(&format!("/{file}")).0, 200, "{file}");
    }
    assert_eq!(site.get("/health").0, 200);
    assert_eq!(site.get("/nowhere").0, 404);
    assert_eq!(site.get("/api/queries/other").0, 404);
    assert_eq!(site.get("/api/queries/hits_per_status?range=year").0, 400);
    assert_eq!(site.leave(), 0);
}

#[test]
fn only_the_page_may_stop_a_query_and_start_it_again() {
    let folder = Folder::new();
    folder.write("in/1.json", &hit(200, 1));
    let site = Site::start(&folder, HITS, "127.0.0.1:0", None);
    site.until_field("hits_per_status", "inputRows", &Value::from(1));
    let stop = "POST /api/queries/hits_per_status/stop";
    let own = format!("http://{}", site.address);
    // A script, a page of a stranger, and one whose name was made to lead here.
    assert_eq!(site.ask(stop, &[]).0, 403);
    assert_eq!(site.ask(stop, &[("Origin", "https://evil.example")]).0, 403);
    assert_eq!(site.ask(stop, &[("Origin", "null")]).0, 403);
    let rebound = [("Host", "evil.example"), ("Origin", "http://evil.example")];
    assert_eq!(site.ask(stop, &rebound).0, 421);
    assert_eq!(site.ask("GET /api/queries", &rebound).0, 421);
    assert_eq!(site.ask("GET /api/queries/hits_per_status/stop", &[("Origin", &own)]).0, 405);
    assert_eq!(site.get("/api/queries/hits_per_status").json()["isActive"], true);

    assert_eq!(site.post("/api/queries/other/stop").0, 404);
    assert_eq!(site.post("/api/queries/hits_per_status/restart").0, 409, "it runs");
    assert_eq!(site.post("/api/queries/hits_per_status/stop").0, 200);
    let query = site.get("/api/queries/hits_per_status").json();
    assert_eq!((&query["state"], &query["isActive"]), (&"stopped".into(), &false.into()));
    assert_eq!(site.post("/api/queries/hits_per_status/stop").0, 409);
    folder.write("in/2.json", &hit(404, 2));
    // It stays for as long as it may be wanted.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(site.get("/health").0, 200);

    assert_eq!(site.post("/api/queries/hits_per_status/restart").0, 200);
    let query = site.until_field("hits_per_status", "inputRows", &Value::from(1));
    assert_eq!(query["restarts"], 1);
    assert_eq!(site.get("/api/queries/hits_per_status/state").json()["rows"].as_array().unwrap().len(), 2);
    let metrics = site.get("/metrics").2;
    assert_eq!(metric(&metrics, "tidemill_query_input_rows_total{query=\"hits_per_status\"}"), 2.0);
    assert_eq!(site.leave(), 0);
}

/// Its rows are then in the place of the table that it writes to.
#[test]
fn a_query_that_is_called_like_its_table_can_be_started_again() {
    let folder = Folder::new();
    folder.write("in/1.json", "{\"id\": 1, \"name\": \"a\"}\n");
    let script = format!(
        "{FEED}CREATE EXTERNAL TABLE kept STORED AS MEMORY;
         CREATE STREAMING QUERY kept CHECKPOINT LOCATION 'checkpoint' AS INSERT INTO kept SELECT * FROM feed;"
    );
    let site = Site::start(&folder, &script, "127.0.0.1:0", None);
    for file in 1..4 {
        site.until_field("kept", "inputRows", &Value::from(1));
        assert_eq!(site.post("/api/queries/kept/stop").0, 200);
        folder.write(&format!("in/{}.json", file + 1), "{\"id\": 2, \"name\": \"b\"}\n");
        let answer = site.post("/api/queries/kept/restart");
        assert_eq!(answer.0, 200, "{}", answer.2);
    }
    site.until_field("kept", "inputRows", &Value::from(1));
    assert_eq!(site.leave(), 0);
}

#[test]
fn a_query_that_failed_can_be_looked_at_and_started_again() {
    let folder = Folder::new();
    folder.write("in/1.json", "{\"id\": \"no number\", \"name\": \"a\"}\n");
    let script = format!(
        "{}CREATE EXTERNAL TABLE sink STORED AS JSON LOCATION 'out' OPTIONS ('compression' 'none');
         CREATE STREAMING QUERY copy CHECKPOINT LOCATION 'checkpoint' AS INSERT INTO sink SELECT * FROM feed;",
        FEED.replace("'maxFilesPerTrigger' '1'", "'mode' 'failfast', 'minFileAge' '0 seconds'")
    );
    let site = Site::start(&folder, &script, "127.0.0.1:0", None);
    let query = site.until_field("copy", "state", &Value::from("failed"));
    assert!(query["error"].as_str().unwrap().contains("1.json"), "{query}");
    let health = site.get("/health");
    assert_eq!((health.0, &health.json()["failed"][0]), (503, &"copy".into()));
    folder.write("in/1.json", "{\"id\": 1, \"name\": \"a\"}\n");
    assert_eq!(site.post("/api/queries/copy/restart").0, 200);
    site.until_field("copy", "inputRows", &Value::from(1));
    assert_eq!(site.get("/health").0, 200);
    assert_eq!(site.leave(), 0, "what failed runs again");
}

#[test]
fn where_others_can_come_changes_need_the_token() {
    let folder = Folder::new();
    folder.write("in/1.json", &hit(200, 1));
    let site = Site::start(&folder, HITS, "0.0.0.0:0", Some("sesame"));
    let stop = "POST /api/queries/hits_per_status/stop";
    let own = format!("http://{}", site.address);
    assert_eq!(site.ask(stop, &[("Origin", &own)]).0, 403);
    assert_eq!(site.ask(stop, &[("Authorization", "Bearer other")]).0, 403);
    assert_eq!(site.ask("GET /api/queries", &[("Host", "evil.example")]).0, 421);
    assert_eq!(site.ask(stop, &[("Authorization", "Bearer sesame")]).0, 200);
    assert_eq!(site.leave(), 0);

    let site = Site::start(&folder, HITS, "0.0.0.0:0", None);
    let refused = site.ask(stop, &[("Authorization", "Bearer ")]);
    assert_eq!(refused.0, 403, "{}", refused.2);
    assert_eq!(site.leave(), 0);
}

#[test]
fn secrets_of_statements_are_not_shown() {
    let script = "CREATE EXTERNAL TABLE t STORED AS POSTGRES LOCATION 'postgres://ann:hunter2@host/db' OPTIONS (
                      'password' 'hunter2', 'table' 't');
                  CREATE STREAMING QUERY q OPTIONS ('apiKey' 'hunter2', 'path' 'here') AS INSERT INTO t SELECT 1;";
    for statement in tidemill::sql::parse_script(script).unwrap() {
        let (plain, masked) = (statement.value.to_string(), statement.value.masked().to_string());
        assert!(plain.contains("hunter2") && !masked.contains("hunter2"), "{masked}");
        assert!(
            masked.contains("***") && (masked.contains("'here'") || masked.contains("'table' 't'")),
            "{masked}"
        );
    }
}

#[test]
fn who_subscribes_gets_each_batch_once() {
    let folder = Folder::new();
    folder.write("in/1.json", &hit(200, 1));
    let site = Site::start(&folder, HITS, "127.0.0.1:0", None);
    site.until_field("hits_per_status", "inputRows", &Value::from(1));
    let path = "/api/queries/hits_per_status/subscribe";
    let events = |extra: &str, query: &str| {
        let mut stream = TcpStream::connect(&site.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        write!(stream, "GET {path}{query} HTTP/1.1\r\nHost: {}\r\n{extra}\r\n", site.address).unwrap();
        let lines = BufReader::new(stream).lines().map(Result::unwrap);
        lines.filter_map(|line| Some(serde_json::from_str::<Value>(line.strip_prefix("data: ")?).unwrap()))
    };
    let mut all = events("", "?from=0");
    let first = all.next().unwrap();
    assert_eq!((&first["batchId"], &first["rows"][0]["status"]), (&0.into(), &200.into()), "{first}");
    folder.write("in/2.json", &hit(404, 2));
    let mut batches = vec![first];
    while batches.last().unwrap()["rows"][0]["status"] != 404 {
        batches.push(all.next().unwrap());
    }
    let ids: Vec<u64> = batches.iter().map(|batch| batch["batchId"].as_u64().unwrap()).collect();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
    // A browser that comes back says what it has had.
    folder.write("in/3.json", &hit(500, 3));
    site.until_field("hits_per_status", "inputRows", &Value::from(3));
    let mut rest = events(&format!("Last-Event-ID: {}\r\n", ids.last().unwrap()), "");
    let seen = rest.find(|batch| batch["rows"][0].is_object()).unwrap();
    assert_eq!(seen["rows"][0]["status"], 500);
    assert_eq!(site.get("/api/queries/other/subscribe").0, 404);
    assert_eq!(site.leave(), 0);
}

/// What Chromium makes of a page; `None` where there is none.
fn chromium(arguments: &[&str]) -> Option<String> {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--virtual-time-budget=6000",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(arguments)
        .output();
    match output {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(_) => {
            eprintln!("skipped: there is no chromium (Debian: apt-get install chromium)");
            None
        }
    }
}

#[test]
fn a_browser_shows_the_page() {
    let folder = Folder::new();
    folder.write("in/1.json", &(hit(200, 1) + &hit(404, 2) + &hit(200, 3)));
    let site = Site::start(&folder, HITS, "127.0.0.1:0", None);
    site.until_field("hits_per_status", "inputRows", &Value::from(3));
    let url = format!("http://{}/", site.address);
    let Some(shown) = chromium(&["--dump-dom", &url]) else { return };
    assert!(shown.contains("href=\"#/hits_per_status\""), "{shown}");
    assert!(shown.contains("<span class=\"badge waiting\">waiting</span>"), "{shown}");
    let url = format!("{url}#/hits_per_status");
    let shown = chromium(&["--dump-dom", &url]).unwrap();
    assert!(shown.contains("<dt>Rows in</dt><dd>3</dd>"), "{shown}");
    assert!(shown.contains("StatefulAggregateExec"), "{shown}");
    assert!(shown.contains("CREATE STREAMING QUERY hits_per_status"), "{shown}");
    assert_eq!(shown.matches("<canvas").count(), 6, "a chart each: {shown}");
    assert!(shown.contains("aria-label=\"State rows: last 2, at most 2 in the last 5 minutes\""), "{shown}");
    assert_eq!(site.leave(), 0);
}
