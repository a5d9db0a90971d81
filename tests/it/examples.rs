//! The examples, compared with what DataFusion computes in one go over the same files.

use std::path::Path;
use std::time::{Duration, SystemTime};

use datafusion::arrow::util::display::array_value_to_string;
use tempfile::TempDir;
use tidemill::prelude::*;
use tidemill::sql::SqlSession;

#[allow(dead_code)]
#[path = "../../examples/access_log.rs"]
mod access_log;
#[allow(dead_code)]
#[path = "../../examples/alerts.rs"]
mod alerts;
#[allow(dead_code)]
#[path = "../../examples/card_alerts.rs"]
pub mod card_alerts;
#[allow(dead_code)]
#[path = "../../examples/online_model.rs"]
mod online_model;
#[allow(dead_code)]
#[path = "../../examples/revenue.rs"]
mod revenue;
#[allow(dead_code)]
#[path = "../../examples/word_count.rs"]
mod word_count;

/// A copy of the example's files; they came one after the other, in the order of their names.
fn copy(example: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data").join(example);
    let mut names: Vec<_> = std::fs::read_dir(from).unwrap().map(|file| file.unwrap().path()).collect();
    names.sort();
    let input = folder.path().join("input");
    std::fs::create_dir(&input).unwrap();
    for (second, file) in names.iter().enumerate() {
        let to = input.join(file.file_name().unwrap());
        std::fs::copy(file, &to).unwrap();
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_577_836_800 + second as u64);
        std::fs::File::options().write(true).open(&to).unwrap().set_modified(modified).unwrap();
    }
    let input = input.to_str().unwrap().to_string();
    (folder, input)
}

/// The rows of a query, sorted, one text each.
async fn rows(session: &Session, sql: &str) -> Vec<String> {
    let batches = session.context().sql(sql).await.unwrap().collect().await.unwrap();
    let mut found = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
            found.push(values.collect::<Vec<_>>().join(" "));
        }
    }
    found.sort();
    found
}

/// Runs a stream to its end, into the table `out`.
async fn run(frame: DataFrame, options: &[(&str, &str)]) -> StreamingQuery {
    let writer = frame.write_stream().format("memory").query_name("out").trigger(Trigger::AvailableNow);
    let query = writer.options(options.iter().copied()).start(None).await.unwrap();
    query.await_termination().await.unwrap();
    query
}

/// Runs a script of the repository with other places, and gives the rows of the Parquet files.
async fn run_script(name: &str, places: &[(&str, &str)], output: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql").join(name);
    let mut script = std::fs::read_to_string(path).unwrap();
    for (old, new) in places {
        assert!(script.contains(old), "{name} does not have '{old}'");
        script = script.replace(old, new);
    }
    let sql = SqlSession::new(Session::new());
    sql.run(&script).await.unwrap();
    for query in sql.session().streams().active() {
        query.await_termination().await.unwrap();
    }
    let session = Session::new();
    session.context().register_parquet("out", output, Default::default()).await.unwrap();
    rows(&session, "SELECT * FROM out").await
}

/// The bounded table `lines (file, time, status)` of the logs in a directory.
fn log_lines(session: &Session, input: &str) {
    use datafusion::arrow::array::{ArrayRef, Int32Array, StringArray};
    use datafusion::arrow::record_batch::RecordBatch;
    let mut files: Vec<_> = std::fs::read_dir(input).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let (mut numbers, mut times, mut statuses) = (Vec::new(), Vec::new(), Vec::new());
    for (number, file) in files.iter().enumerate() {
        for line in std::fs::read_to_string(file).unwrap().lines() {
            // Without regular expressions, so that the one of the example is checked, too.
            let Some((_, rest)) = line.split_once('[') else { continue };
            let (time, rest) = rest.split_once(" +0000] \"").unwrap();
            let (_, rest) = rest.split_once("\" ").unwrap();
            let (day, clock) = time.split_once(':').unwrap();
            assert_eq!(&day[2..], "/Nov/2026");
            numbers.push(number as i32);
            times.push(format!("2026-11-{}T{clock}", &day[..2]));
            statuses.push(rest[..3].parse::<i32>().unwrap());
        }
    }
    let columns: [(&str, ArrayRef); 3] = [
        ("file", std::sync::Arc::new(Int32Array::from(numbers))),
        ("text", std::sync::Arc::new(StringArray::from(times))),
        ("status", std::sync::Arc::new(Int32Array::from(statuses))),
    ];
    session.context().register_batch("lines", RecordBatch::try_from_iter(columns).unwrap()).unwrap();
}

/// What is right for the logs: windows that are final, without the lines that came when the watermark
/// of the file before the last one had passed them. A batch drops by the watermark of the batch before
/// it; the file whose times moved it is followed by a batch without rows, so files see all earlier ones.
const HITS: &str = "
    WITH parsed AS (SELECT file, status, to_timestamp(text) AS time FROM lines),
    windows AS (SELECT *, date_bin(INTERVAL '10 minutes', time) AS start FROM parsed),
    newest AS (SELECT l.file, max(e.time) - INTERVAL '5 minutes' AS mark
               FROM (SELECT DISTINCT file FROM parsed) l JOIN parsed e ON e.file < l.file GROUP BY l.file),
    judged AS (SELECT w.*, coalesce(start + INTERVAL '10 minutes' <= mark, false) AS late
               FROM windows w LEFT JOIN newest n ON n.file = w.file)";

#[tokio::test]
async fn hits_are_counted_once_their_ten_minutes_are_over() {
    let (folder, input) = copy("access_log");
    let batch = Session::new();
    log_lines(&batch, &input);
    let expected = rows(
        &batch,
        &format!(
            "{HITS} SELECT start, status, count(*) FROM judged WHERE NOT late
             AND start + INTERVAL '10 minutes' <= (SELECT max(time) - INTERVAL '5 minutes' FROM parsed)
             GROUP BY start, status"
        ),
    )
    .await;
    let late = rows(&batch, &format!("{HITS} SELECT count(*) FROM judged WHERE late")).await;
    assert_eq!(late, ["18"]);

    let session = Session::new();
    let query = run(access_log::hits(&session, &input).await.unwrap(), &[]).await;
    assert_eq!(rows(&session, "SELECT * FROM out").await, expected);
    let batches = query.recent_progress();
    let dropped = batches.iter().flat_map(|batch| &batch.state_operators);
    let dropped: u64 = dropped.map(|operator| operator["numRowsDroppedByWatermark"].as_u64().unwrap()).sum();
    assert_eq!(dropped.to_string(), late[0]);

    let place = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let output = place("out");
    let places = [
        ("examples/data/access_log", input.as_str()),
        ("out/access_log/", &output),
        ("checkpoint/access_log", &place("checkpoint")),
    ];
    assert_eq!(run_script("access_log.sql", &places, &output).await, expected);
}

/// The invoices as a bounded table.
async fn invoices(input: &str) -> Session {
    let session = Session::new();
    let schema = revenue::invoice_schema();
    let options = CsvReadOptions::new().has_header(true).schema(&schema);
    session.context().register_csv("invoices", input, options).await.unwrap();
    session
}

const REVENUE: &str = r#"
    SELECT date_trunc('hour', "InvoiceDate") AS hour, "Country", sum("Quantity" * "UnitPrice")
    FROM invoices GROUP BY hour, "Country""#;

#[tokio::test]
async fn revenue_is_written_once_its_hour_is_over() {
    let (folder, input) = copy("retail");
    let batch = invoices(&input).await;
    let all = rows(&batch, REVENUE).await;
    let mark = r#"(SELECT max("InvoiceDate") - INTERVAL '1 hour' FROM invoices)"#;
    let over = rows(&batch, &format!("{REVENUE} HAVING hour + INTERVAL '1 hour' <= {mark}")).await;
    assert!(!over.is_empty() && over.len() < all.len());

    let session = Session::new();
    run(revenue::revenue(&session, &input).await.unwrap(), &[]).await;
    assert_eq!(rows(&session, "SELECT * FROM out").await, over);
    let session = Session::new();
    run(revenue::revenue(&session, &input).await.unwrap(), &[("flushOnEnd", "true")]).await;
    assert_eq!(rows(&session, "SELECT * FROM out").await, all);

    let place = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let output = place("out");
    let places = [
        ("examples/data/retail", input.as_str()),
        ("out/revenue_sql/", &output),
        ("checkpoint/revenue_sql", &place("checkpoint")),
    ];
    // The second run has nothing to add.
    for _ in 0..2 {
        assert_eq!(run_script("revenue.sql", &places, &output).await, over);
    }
}

#[tokio::test]
async fn words_are_counted_as_they_come() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port().to_string();
    let sent = tokio::spawn(async move {
        let (mut connection, _) = server.accept().await.unwrap();
        let lines = b"to be or not to be\nbe  quick\n";
        tokio::io::AsyncWriteExt::write_all(&mut connection, lines).await.unwrap();
        connection
    });
    let session = Session::new();
    let words = word_count::words(&session, "127.0.0.1", &port).await.unwrap();
    let writer = words.write_stream().format("memory").query_name("out").output_mode(OutputMode::Complete);
    let query = writer.start(None).await.unwrap();
    let expected = ["be 3", "not 1", "or 1", "quick 1", "to 2"];
    let mut found = Vec::new();
    for _ in 0..1000 {
        query.process_all_available().await.unwrap();
        found = rows(&session, "SELECT * FROM out").await;
        if found == expected {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(found, expected);
    query.stop(StopMode::Finish).await.unwrap();
    drop(sent.await.unwrap());
}

/// The errors of a model that learns are those of one that learns alone, and they fall; a batch that comes again is
/// learnt from once.
#[tokio::test]
async fn a_model_learns_from_each_batch_once_and_its_error_falls() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.json");
    let session = Session::new();
    let mut expected = [0.0_f64; 3];
    for batch in 0..8 {
        let rows = online_model::measurements(batch, 150).unwrap();
        // Once more, as after a crash before the commit.
        for _ in 0..2 {
            let frame = session.context().read_batch(rows.clone()).unwrap();
            online_model::learn(path.clone(), batch, frame).await.unwrap();
        }
        let values = |index: usize| {
            use datafusion::arrow::array::AsArray;
            rows.column(index).as_primitive::<datafusion::arrow::datatypes::Float64Type>().values().to_vec()
        };
        for ((a, b), y) in values(0).into_iter().zip(values(1)).zip(values(2)) {
            let error = expected[0] * 1.0 + expected[1] * a + expected[2] * b - y;
            let step = 0.05 * error;
            expected = [expected[0] - step * 1.0, expected[1] - step * a, expected[2] - step * b];
        }
        // As the file has it, which is read with the next batch.
        expected = serde_json::from_str(&serde_json::to_string(&expected).unwrap()).unwrap();
    }
    let model = online_model::Model::load(&path).unwrap();
    assert_eq!((model.weights, model.batch, model.errors.len()), (expected, Some(7), 8));
    assert!(model.errors.windows(2).take(4).all(|pair| pair[1] < pair[0]), "{:?}", model.errors);
    assert!(model.errors[7] < model.errors[0] / 100.0, "{:?}", model.errors);
}

/// Alerts come at least once, and those that come twice have one id.
#[tokio::test]
async fn alerts_that_come_again_have_the_id_that_they_had() {
    let session = Session::new();
    let folder = tempfile::tempdir().unwrap();
    let receiver = alerts::Receiver::start(3).await.unwrap();
    let address = receiver.address.clone();
    let query = alerts::cancelled(&session)
        .await
        .unwrap()
        .write_stream()
        .foreach_batch(move |rows, batch| alerts::alert(address.clone(), "a", batch, rows))
        .trigger(Trigger::AvailableNow)
        .option("checkpointLocation", folder.path().join("checkpoint").display())
        .option("restartOnFailure", true)
        .option("restartBackoff", "1 ms")
        .start(None)
        .await
        .unwrap();
    query.await_termination().await.unwrap();
    let posts = receiver.posts.lock().unwrap().clone();
    let mut by_id = std::collections::BTreeMap::new();
    for (id, alert) in &posts {
        assert_eq!(by_id.entry(id).or_insert(alert), &alert, "{id} is of one alert");
    }
    let all = invoices("examples/data/retail").await;
    let expected = rows(&all, r#"SELECT "InvoiceNo", "Quantity" FROM invoices WHERE "Quantity" < -10"#).await;
    let mut found: Vec<String> = by_id
        .values()
        .map(|alert| format!("{} {}", alert["InvoiceNo"].as_str().unwrap(), alert["Quantity"]))
        .collect();
    found.sort();
    assert_eq!(found, expected);
    assert_eq!(posts.len(), expected.len() + 3);
}

/// What is right for the cards, from all payments and without forgetting any.
fn expected_alerts(input: &str) -> Vec<String> {
    let mut files: Vec<_> = std::fs::read_dir(input).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let mut payments = Vec::new();
    let mut alerts: Vec<(String, i64, String)> = Vec::new();
    for file in files {
        for line in std::fs::read_to_string(file).unwrap().lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| row[name].as_str().unwrap().to_string();
            let time = text("time");
            let second: i64 = [(11, 3600), (14, 60), (17, 1)]
                .map(|(at, seconds)| time[at..at + 2].parse::<i64>().unwrap() * seconds)
                .iter()
                .sum();
            payments.push((text("card"), second, row["amount"].as_f64().unwrap(), text("city"), time));
            let (card, now, _, city, time) = payments.last().unwrap();
            let near = || payments.iter().filter(|other| other.0 == *card && (other.1 - now).abs() <= 600);
            let paid: f64 = near().map(|other| other.2).sum();
            let reason = match near().find(|other| other.3 != *city) {
                Some(other) => format!("in {} and in {city}", other.3),
                None if paid > 1500.0 => format!("{} payments of {paid:.2}", near().count()),
                None => continue,
            };
            let last = alerts.iter().rev().find(|(of, ..)| of == card);
            if last.is_none_or(|(_, at, _)| now - at >= 600) {
                let alert = format!("{card} {time} {reason}");
                alerts.push((card.clone(), *now, alert));
            }
        }
    }
    let mut alerts: Vec<String> = alerts.into_iter().map(|(.., alert)| alert).collect();
    alerts.sort();
    alerts
}

#[tokio::test]
async fn alerts_about_cards_are_there_with_the_payment_that_shows_them() {
    let (_folder, input) = copy("cards");
    let expected = expected_alerts(&input);
    assert!(expected.len() >= 6, "{expected:?}");
    let session = Session::new();
    let query = run(card_alerts::alerts(&session, &input).await.unwrap(), &[]).await;
    assert_eq!(rows(&session, "SELECT * FROM out").await, expected);
    // All but the last ten minutes are forgotten.
    let last = query.last_progress().unwrap();
    let kept: u64 =
        last.state_operators.iter().map(|operator| operator["numRowsTotal"].as_u64().unwrap()).sum();
    assert!(kept < 200, "{kept} rows of state");
    assert!(last.state_operators.iter().all(|operator| operator["numRowsDroppedByWatermark"] == 0));
}
