//! What may change between two starts of a query, and what is refused by name.

use std::fs;

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use serde_json::json;
use tidemill::Error;
use tidemill::prelude::*;

use crate::support::committed::{commits, record};
use crate::support::harness::{Input, Job, Place, cause, id_lines, ids, schema, session};
use crate::support::oracle::{self, Row};
use crate::support::outcome::copy_tree;
use crate::support::probe::Probe;

const PAIR: [(&str, DataType); 2] = [("id", DataType::Int64), ("v", DataType::Int64)];

/// A place with one file, `{"id":…,"v":…}`, and a job that has read it already.
async fn started() -> (Place, Job) {
    let place = Place::new();
    place.put("in/0.json", "{\"id\":0,\"v\":0}\n");
    let input = Input::new("input", "json", place.text("in")).schema(schema(&PAIR));
    let job = Job::new(&place).inputs([input]).sql("SELECT id, v FROM input");
    job.run(&session()).await.unwrap();
    (place, job)
}

fn change_input(mut job: Job, change: impl Fn(Input) -> Input) -> Job {
    job.inputs = job.inputs.into_iter().map(change).collect();
    job
}

/// The differences that a start is refused with.
async fn differences(job: &Job) -> Vec<String> {
    let error = job.start(&session()).await.unwrap_err();
    let Error::QueryChanged { differences, checkpoint } = &error else { panic!("{error:?}") };
    assert_eq!(
        error.to_string(),
        format!(
            "the query does not fit its checkpoint '{checkpoint}': {}. Put the query back as it was, or start \
             it with a new checkpoint",
            differences.join("; ")
        )
    );
    differences.clone()
}

#[tokio::test]
async fn triggers_limits_filters_and_projections_may_change() {
    let (place, job) = started().await;
    place.put("in/1.json", "{\"id\":1,\"v\":-1}\n{\"id\":2,\"v\":2}\n");
    place.put("in/2.json", "{\"id\":3,\"v\":3}\n");
    let changed = job
        .sql("SELECT id, v * 10 AS v FROM input WHERE v > 0")
        .trigger(Trigger::AtOnce)
        .files_per_trigger(1)
        .option("minBatchesToRetain", 7)
        .option("compression", "snappy")
        .name("renamed");
    let session = session();
    let query = changed.start(&session).await.unwrap();
    query.process_all_available().await.unwrap();
    query.stop(StopMode::Finish).await.unwrap();
    let row = |id: i64, v: i64| Row::from([("id".to_string(), json!(id)), ("v".to_string(), json!(v))]);
    oracle::assert_same(place.rows("parquet", &[]), vec![row(0, 0), row(2, 20), row(3, 30)], "output");
    assert_eq!(commits(&place.path("checkpoint")), [0, 1, 2]);
}

#[tokio::test]
async fn options_and_columns_of_the_console_may_change() {
    let place = Place::new();
    place.put("in/0.json", id_lines([0]));
    let job = Job::new(&place).format("console").out(None);
    job.run(&session()).await.unwrap();
    place.put("in/1.json", id_lines([1]));
    let changed =
        job.sql("SELECT id, id + 1 AS next FROM input").option("truncate", false).option("numRows", 3);
    assert_eq!(changed.run(&session()).await.unwrap().last_progress().unwrap().batch_id, 1);
}

#[tokio::test]
async fn the_source_must_stay_what_and_where_it_is() {
    let (place, job) = started().await;
    copy_tree(&place.path("in"), &place.path("elsewhere"));
    let moved = change_input(job.clone(), |input| Input { path: place.text("elsewhere"), ..input });
    assert_eq!(
        differences(&moved).await,
        ["the location of source 0 was '../in' and is '../elsewhere' (seen from the checkpoint)"]
    );
    let csv = change_input(job.clone(), |input| Input { format: "csv".into(), ..input });
    assert_eq!(differences(&csv).await[0], "the format of source 0 was json and is csv");
}

#[tokio::test]
async fn what_a_row_of_the_source_means_must_stay() {
    let place = Place::new();
    place.put("in/0.csv", "id;v\n0;0\n");
    let input = Input::new("input", "csv", place.text("in")).schema(schema(&PAIR)).option("header", true);
    let job = Job::new(&place).inputs([input.option("delimiter", ";")]);
    job.run(&session()).await.unwrap();
    let headless = change_input(job.clone(), |input| input.option("header", false));
    assert_eq!(
        differences(&headless).await,
        ["option 'format.has_header' of source 0 was 'true' and is 'false'"]
    );
    let comma = change_input(job, |input| Input { options: vec![("header".into(), "true".into())], ..input });
    assert_eq!(differences(&comma).await, ["option 'format.delimiter' of source 0 was ';' and is not set"]);
}

#[tokio::test]
async fn what_becomes_of_malformed_records_may_change_where_one_has_stopped_the_query() {
    let place = Place::new();
    place.put("in/0.json", id_lines([0]));
    let job = Job::new(&place);
    job.run(&session()).await.unwrap();
    let with = |name: &'static str, value: String| {
        change_input(job.clone(), move |input| input.option(name, value.clone()))
    };
    assert_eq!(
        differences(&with("compression", "GZIP".into())).await,
        ["option 'compression' of source 0 was not set and is 'gzip'"]
    );
    // Nobody has seen anything of a batch that failed.
    place.put("in/1.json", "{\"id\":1}\n{\"id\":\n{\"id\":2}\n");
    let error = job.run(&session()).await.unwrap_err();
    assert!(matches!(cause(&error), Error::BadRecord { .. }), "{error}");
    let dropping = with("mode", "dropmalformed".into());
    dropping.run(&session()).await.unwrap();
    assert_eq!(place.ids(), [0, 1, 2]);
    // From then on it stays so, as everything else.
    place.put("in/2.json", "{\"id\":3}\n{\"id\":\n");
    for other in [with("mode", "PERMISSIVE".into()), with("badRecordsPath", place.text("bad")), job.clone()] {
        let found = differences(&other).await;
        assert!(
            found.iter().all(|found| found.contains("only to get a batch done that has failed")),
            "{found:?}"
        );
        assert!(!found.is_empty());
    }
    dropping.run(&session()).await.unwrap();
    assert_eq!(place.ids(), [0, 1, 2, 3]);
}

/// What the console may have shown of a batch must not become something else.
#[tokio::test]
async fn what_becomes_of_malformed_records_stays_while_a_batch_that_was_shown_is_planned() {
    let place = Place::new();
    place.put("in/0.json", id_lines([0]));
    let job = Job::new(&place).format("console").out(None);
    job.run(&session()).await.unwrap();
    place.put("in/1.json", "{\"id\":1}\n{\"id\":\n");
    let error = job.run(&session()).await.unwrap_err().to_string();
    assert!(error.contains("Mend the record, or move the file away, and let it go"), "{error}");
    let dropping = change_input(job.clone(), |input| input.option("mode", "DROPMALFORMED"));
    assert_eq!(
        differences(&dropping).await,
        [
            "option 'mode' of source 0 was not set and is 'DROPMALFORMED' (which it may be only to get a batch done that has \
             failed, into a sink that has shown nothing of it)"
        ]
    );
    // The record is mended.
    place.put("in/1.json", "{\"id\":1}\n");
    let url = tidemill::storage::resolve_location(&place.text("checkpoint")).unwrap();
    let storage = session().open_storage(&url).unwrap();
    tidemill::checkpoint::replan(storage, uuid::Uuid::new_v4()).await.unwrap().unwrap();
    job.run(&session()).await.unwrap();
}

#[tokio::test]
async fn what_a_reader_of_csv_files_has_to_know_must_stay() {
    let place = Place::new();
    place.put("in/0.json", id_lines([0]));
    let job = Job::new(&place).format("csv").option("header", true);
    job.run(&session()).await.unwrap();
    // As it was anyway.
    let mut plain = job.clone();
    plain.options.retain(|(name, _)| name != "header");
    plain.clone().option("compression", "gzip").run(&session()).await.unwrap();
    for (name, value, expected) in [
        ("header", "false", "option 'has_header' of the sink was not set and is 'false'"),
        ("sep", ";", "option 'delimiter' of the sink was not set and is ';'"),
        ("nullValue", "-", "option 'null_value' of the sink was not set and is '-'"),
    ] {
        assert_eq!(differences(&plain.clone().option(name, value)).await, [expected]);
    }
}

#[tokio::test]
async fn a_query_that_failed_on_a_malformed_record_goes_on_when_that_is_mended() {
    let place = Place::new();
    place.put("in/0.json", "{\"id\":0}\n{\"id\":\n{\"id\":1}\n");
    let job = Job::new(&place);
    let error = job.run(&session()).await.unwrap_err();
    assert!(matches!(cause(&error), Error::BadRecord { line: 2, .. }), "{error}");
    assert!(error.to_string().contains("tidemill checkpoint replan"), "{error}");
    assert_eq!(oracle::walk(&place.path("out")), Vec::<String>::new());
    place.put("in/0.json", "{\"id\":0}\n{\"id\":7}\n{\"id\":1}\n");
    // It is another file now than the one that was planned, of which nothing was shown.
    job.run(&session()).await.unwrap();
    assert_eq!(place.ids(), [0, 1, 7]);
    assert_eq!(commits(&place.path("checkpoint")), [0, 1]);
}

/// Rows that become final come out in a batch without rows, whenever the query was stopped.
#[tokio::test]
async fn a_batch_without_rows_that_is_due_comes_at_the_next_start() {
    let place = Place::new();
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let input = Input::new("input", "json", place.text("in"))
        .schema(schema(&[("ts", time)]))
        .watermark("ts", "0 seconds");
    place.put("in/0.json", "{\"ts\":\"2024-01-01T00:00:01\"}\n{\"ts\":\"2024-01-01T00:00:12\"}\n");
    let job = Job::new(&place)
        .inputs([input])
        .sql("SELECT count(*) AS id FROM input GROUP BY date_bin(INTERVAL '10 seconds', ts)")
        .trigger(Trigger::Once);
    let rows = |place: &Place| if place.path("out").exists() { place.ids() } else { vec![] };
    for _ in 0..2 {
        job.run(&session()).await.unwrap();
        assert_eq!((commits(&place.path("checkpoint")), rows(&place)), (vec![0, 1], vec![1]));
        // As after a crash between the two batches. Nothing new comes.
        fs::remove_file(place.path("checkpoint/commits/1")).unwrap();
        fs::remove_file(place.path("checkpoint/offsets/1")).unwrap();
        fs::remove_dir_all(place.path("out")).unwrap();
    }
    for trigger in [Trigger::Once, Trigger::AvailableNow] {
        job.clone().trigger(trigger).run(&session()).await.unwrap();
    }
    assert_eq!((commits(&place.path("checkpoint")), rows(&place)), (vec![0, 1], vec![1]));
}

#[tokio::test]
async fn the_columns_of_the_source_must_stay() {
    let (_place, job) = started().await;
    let with = |columns: &[(&str, DataType)]| {
        let columns = schema(columns);
        let sql = "SELECT CAST(0 AS BIGINT) AS id, CAST(0 AS BIGINT) AS v FROM input";
        change_input(job.clone().sql(sql), move |input| input.schema(columns.clone()))
    };
    let long = ("id", DataType::Int64);
    for (columns, expected) in [
        (&[long.clone(), ("v", DataType::Utf8)][..], "column 'v' of source 0 was Int64 and is Utf8"),
        (std::slice::from_ref(&long), "column 'v' (Int64) of source 0 is gone"),
        (
            &[long.clone(), ("v", DataType::Int64), ("w", DataType::Boolean)],
            "column 'w' (Boolean) of source 0 is new",
        ),
        (&[("v", DataType::Int64), long.clone()], "the columns of source 0 were (id, v) and are (v, id)"),
    ] {
        let found = differences(&with(columns)).await;
        assert!(found.contains(&expected.to_string()), "{found:?}");
    }
}

#[tokio::test]
async fn the_number_of_sources_must_stay() {
    let (place, job) = started().await;
    fs::create_dir(place.path("more")).unwrap();
    let more = Input::new("more", "json", place.text("more")).schema(schema(&PAIR));
    let inputs = [job.inputs[0].clone(), more];
    let two = job.inputs(inputs).sql("SELECT id, v FROM input UNION ALL SELECT id, v FROM more");
    assert_eq!(differences(&two).await, ["it had one source and has 2 sources"]);
}

#[tokio::test]
async fn the_sink_must_stay_what_and_where_it_is() {
    let (place, job) = started().await;
    for (changed, expected) in [
        (job.clone().format("json"), "the format of the sink was parquet and is json"),
        (
            job.clone().out(Some(place.text("other"))),
            "the location of the sink was '../out' and is '../other' (seen from the checkpoint)",
        ),
        (job.clone().partition_by(&["v"]), "the sink was partitioned by () and is partitioned by (v)"),
        (
            job.clone().sql("SELECT id, CAST(v AS VARCHAR) AS v FROM input"),
            "column 'v' of the sink was Int64 and is Utf8View",
        ),
        (job.clone().sql("SELECT id FROM input"), "column 'v' (Int64) of the sink is gone"),
        (job.clone().sql("SELECT id, v, id + v AS s FROM input"), "column 's' (Int64) of the sink is new"),
        (job.clone().sql("SELECT v, id FROM input"), "the columns of the sink were (id, v) and are (v, id)"),
    ] {
        let found = differences(&changed).await;
        assert_eq!(found, [expected.to_string()]);
    }
    assert!(!place.path("other").exists());
}

#[tokio::test]
async fn the_output_mode_must_stay() {
    let place = Place::new();
    place.put("in/0.json", id_lines([0]));
    let job = Job::new(&place).format("noop").out(None);
    job.run(&session()).await.unwrap();
    let found = differences(&job.mode(OutputMode::Update)).await;
    assert_eq!(found, ["its output mode was append and is update"]);
}

#[tokio::test]
async fn every_difference_is_named_and_nothing_is_written() {
    let (place, job) = started().await;
    place.put("in/1.json", "{\"id\":1,\"v\":1}\n");
    let changed = job.clone().format("json").partition_by(&["v"]).sql("SELECT id, v, 1 AS one FROM input");
    assert_eq!(differences(&changed).await.len(), 3);
    assert_eq!(commits(&place.path("checkpoint")), [0]);
    job.run(&session()).await.unwrap();
    assert_eq!(place.ids(), [0, 1]);
}

#[tokio::test]
async fn inferred_columns_are_pinned_by_the_first_start() {
    let place = Place::new();
    place.put("in/0.json", "{\"id\":0,\"v\":0}\n");
    let input = || Input::new("input", "json", place.text("in"));
    let job = || Job::new(&place).inputs([input()]).sql("SELECT id, v FROM input");
    job().run(&session()).await.unwrap();

    // Inferred anew, there would be one column more.
    place.put("in/1.json", "{\"id\":1,\"v\":1,\"w\":true}\n");
    let query = job().run(&session()).await.unwrap();
    assert_eq!(query.last_progress().unwrap().num_input_rows, 1);
    let row = |id: i64, v: i64| Row::from([("id".to_string(), json!(id)), ("v".to_string(), json!(v))]);
    oracle::assert_same(place.rows("parquet", &[]), vec![row(0, 0), row(1, 1)], "after a column more");

    // A value that does not fit the pinned type is an error, not silently something else: when the
    // columns are inferred, and, with the pinned columns given, when the record is read.
    place.put("in/2.json", "{\"id\":2,\"v\":\"two\"}\n");
    for job in [job(), change_input(job(), |input| input.schema(schema(&PAIR)))] {
        let error = job.run(&session()).await.unwrap_err();
        assert!(
            matches!(cause(&error), Error::BadRecord { column: Some(column), .. } if column == "v"),
            "{error}"
        );
    }
    assert_eq!(place.ids(), [0, 1]);
    for file in oracle::visible(&place.path("out")) {
        let columns = oracle::parquet_columns(&place.path("out").join(file));
        assert_eq!(columns, ["id:Int64:null", "v:Int64:null"]);
    }
}

/// State is kept by the starts of windows, which mean something else when windows are longer.
#[tokio::test]
async fn windows_stay_as_they_were() {
    let calls = |window: &str| {
        [
            format!(
                "SELECT window(ts, {window}) AS w, count(*) AS n FROM input GROUP BY window(ts, {window})"
            ),
            format!(
                "SELECT w.start, n FROM (SELECT window(ts, {window}) AS w, count(DISTINCT id) AS n FROM input \
                 GROUP BY window(ts, {window}))"
            ),
        ]
    };
    let [minute, hour] = ["'1 minute'", "'1 hour'"].map(calls);
    let [sliding, faster] = ["'1 minute', '20 seconds'", "'1 minute', '10 seconds'"].map(calls);
    let columns = [("id", DataType::Int64), ("ts", DataType::Timestamp(TimeUnit::Microsecond, None))];
    for mode in [OutputMode::Update, OutputMode::Complete] {
        for (before, after, windows) in [
            (&minute, &hour, "60000000us and is 3600000000us"),
            (&sliding, &faster, "60000000us every 20000000us and is 60000000us every 10000000us"),
        ] {
            for (before, after) in before.iter().zip(after) {
                let place = Place::new();
                place.put("in/0.json", "{\"id\":1,\"ts\":\"2026-01-01T00:00:00\"}\n");
                let input = Input::new("input", "json", place.text("in")).schema(schema(&columns));
                let job = Job::new(&place).inputs([input]).format("noop").out(None).mode(mode);
                job.clone().sql(before.as_str()).run(&session()).await.unwrap();
                job.clone().sql(before.as_str()).run(&session()).await.unwrap();
                let found = differences(&job.sql(after.as_str())).await;
                assert!(found.iter().any(|difference| difference.contains(windows)), "{after}: {found:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_query_that_needs_columns_that_came_later_is_refused_with_advice() {
    let place = Place::new();
    place.put("in/0.json", "{\"id\":0}\n");
    let input = Input::new("input", "json", place.text("in"));
    Job::new(&place).inputs([input.clone()]).sql("SELECT id FROM input").run(&session()).await.unwrap();
    place.put("in/1.json", "{\"id\":1,\"w\":1}\n");
    let error = Job::new(&place)
        .inputs([input])
        .sql("SELECT id + w AS id FROM input")
        .start(&session())
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("does not fit the columns that its checkpoint pinned"), "{text}");
    assert!(text.contains("give the schema explicitly"), "{text}");
}

#[tokio::test]
async fn everything_can_be_copied_or_moved_and_resumed() {
    let original = Place::new();
    (0..3).for_each(|id| original.put(&format!("in/{id}.json"), id_lines([id])));
    // Interrupted in batch 1, so that a batch has to be run again from its record.
    let interrupted = session();
    let probe = Probe::of(&interrupted);
    let job = |place: &Place| Job::new(place).format("probe").out(None).files_per_trigger(1);
    probe.on_prepare(|batch| if batch == 1 { Err(Error::Invalid("no".into())) } else { Ok(()) });
    job(&original).run(&interrupted).await.unwrap_err();

    let copy = original.copy();
    drop(original);
    let elsewhere = session();
    probe.on_prepare(|_| Ok(()));
    probe.register(&elsewhere);
    job(&copy).run(&elsewhere).await.unwrap();
    assert_eq!(ids(probe.batches().into_values().flatten().collect()), [0, 1, 2]);
}

#[tokio::test]
async fn output_and_checkpoint_can_be_moved_with_their_data_or_the_checkpoint_alone() {
    let original = Place::new();
    original.put("in/0.json", id_lines([0]));
    Job::new(&original).run(&session()).await.unwrap();

    let copy = original.copy();
    copy.put("in/1.json", id_lines([1]));
    Job::new(&copy).run(&session()).await.unwrap();
    assert_eq!((copy.ids(), original.ids()), (vec![0, 1], vec![0]));

    fs::create_dir(original.path("deeper")).unwrap();
    fs::rename(original.path("checkpoint"), original.path("deeper/moved")).unwrap();
    original.put("in/2.json", id_lines([2]));
    let job = Job::new(&original).option("checkpointLocation", original.text("deeper/moved"));
    job.run(&session()).await.unwrap();
    assert_eq!(original.ids(), [0, 2]);
}

#[tokio::test]
async fn checkpoints_and_commits_hold_no_absolute_path() {
    let (place, _) = started().await;
    let root = place.text("");
    for file in oracle::walk(&place.path("checkpoint")) {
        let text = fs::read_to_string(place.path("checkpoint").join(&file)).unwrap();
        assert!(!text.contains(root.trim_end_matches('/')), "{file}: {text}");
    }
}

#[tokio::test]
async fn damaged_checkpoint_files_are_named() {
    let (place, job) = started().await;
    place.put("in/1.json", "{\"id\":1,\"v\":1}\n");
    job.run(&session()).await.unwrap();
    let checkpoint = place.path("checkpoint");
    for file in ["metadata", "offsets/1", "commits/1"] {
        let whole = fs::read(checkpoint.join(file)).unwrap();
        let half = whole[..whole.len() / 2].to_vec();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 4;
        for damaged in [half, flipped, vec![]] {
            fs::write(checkpoint.join(file), &damaged).unwrap();
            let error = job.start(&session()).await.unwrap_err();
            assert!(
                matches!(&error, Error::CheckpointDamaged { path, .. } if path == file),
                "{file}: {error:?}"
            );
        }
        fs::write(checkpoint.join(file), whole).unwrap();
    }
    for (gone, named) in [("offsets/1", "offsets/1"), ("commits/0", "commits/0")] {
        let whole = fs::read(checkpoint.join(gone)).unwrap();
        fs::remove_file(checkpoint.join(gone)).unwrap();
        let error = job.start(&session()).await.unwrap_err();
        assert!(
            matches!(&error, Error::CheckpointDamaged { path, .. } if path == named),
            "{gone}: {error:?}"
        );
        fs::write(checkpoint.join(gone), whole).unwrap();
    }
    job.run(&session()).await.unwrap();
    assert_eq!(place.ids(), [0, 1]);
}

#[tokio::test]
async fn the_time_zone_must_stay() {
    let place = Place::new();
    let zoned = |zone: Option<&str>| {
        let mut config = SessionConfig::new();
        config.options_mut().execution.time_zone = zone.map(str::to_string);
        Session::from(SessionContext::new_with_config(config))
    };
    let job = Job::new(&place)
        .format("json")
        .sql("SELECT id, CAST(to_timestamp('2026-07-01T12:00:00') AS VARCHAR) AS at FROM input");
    place.put("in/0.json", id_lines([0]));
    job.run(&zoned(Some("+02:00"))).await.unwrap();
    place.put("in/1.json", id_lines([1]));
    for (zone, name) in [(Some("-05:00"), "-05:00"), (None, "")] {
        let error = job.start(&zoned(zone)).await.unwrap_err();
        let expected = format!("setting 'datafusion.execution.time_zone' was '+02:00' and is '{name}'");
        assert!(
            matches!(&error, Error::QueryChanged { differences, .. } if *differences == [expected.clone()]),
            "{error}"
        );
    }
    job.run(&zoned(Some("+02:00"))).await.unwrap();
    let rows = place.rows("json", &[]);
    assert_eq!((rows.len(), &rows[0]["at"]), (2, &json!("2026-07-01T12:00:00+02:00")));
    assert_eq!(rows[0]["at"], rows[1]["at"]);
    let conf = &record(&place.path("checkpoint/offsets/1"))["conf"];
    assert_eq!(conf["datafusion.execution.time_zone"], json!("+02:00"));
}

#[tokio::test]
async fn what_has_changed_in_a_query_with_state_is_named() {
    let (place, job) = started().await;
    let checkpoint = place.text("stateful");
    let job = job.format("noop").out(None).mode(OutputMode::Update).option("checkpointLocation", checkpoint);
    let query = |sql: &str| job.clone().sql(sql);
    query("SELECT id, sum(v) AS total FROM input GROUP BY id").run(&session()).await.unwrap();
    for (sql, expected) in [
        (
            "SELECT id, sum(v) AS total, max(v) AS greatest FROM input GROUP BY id",
            "aggregate 'max(input.v)' (Int64) of stateful operator 0 (aggregate) is new",
        ),
        (
            "SELECT id, v, sum(v) AS total FROM input GROUP BY id, v",
            "key 'v' (Int64) of stateful operator 0 (aggregate) is new",
        ),
        (
            "SELECT id, count(DISTINCT v) AS total FROM input GROUP BY id",
            "it had one stateful operator (aggregate) and has 2 stateful operators (distinct, aggregate)",
        ),
        ("SELECT DISTINCT id, v AS total FROM input", "stateful operator 0 was aggregate and is deduplicate"),
        (
            "SELECT id, v AS total FROM input",
            "it had one stateful operator (aggregate) and has no stateful operator",
        ),
    ] {
        let found = differences(&query(sql)).await;
        assert!(found.iter().any(|found| found == expected), "{sql}: {found:?}");
    }
    let other_filter = "SELECT id, sum(v) AS total FROM input WHERE v > 3 GROUP BY id HAVING sum(v) > 1";
    query(other_filter).run(&session()).await.unwrap();
}

/// Until a batch is committed nothing holds on to a mistake.
#[tokio::test]
async fn a_first_run_that_failed_may_be_corrected() {
    let place = Place::new();
    place.put("in/0.json", "{\"id\":\"zero\"}\n");
    let wrong = Job::new(&place);
    let error = wrong.run(&session()).await.unwrap_err();
    assert!(matches!(cause(&error), Error::BadRecord { .. }), "{error}");
    assert_eq!(commits(&place.path("checkpoint")), [0; 0]);

    place.put("other/0.json", id_lines([7]));
    let other = Input::new("input", "json", place.text("other")).schema(schema(&PAIR));
    let right = Job::new(&place).inputs([other]).sql("SELECT id FROM input");
    right.run(&session()).await.unwrap();
    assert_eq!(place.ids(), [7]);
    // From now on it is who it is.
    let error = differences(&Job::new(&place)).await;
    assert!(!error.is_empty());
}

#[tokio::test]
async fn a_query_does_not_read_what_it_writes() {
    let place = Place::new();
    place.put("in/0.json", id_lines([0]));
    std::fs::create_dir_all(place.path("in/sub")).unwrap();
    for (what, job) in [
        ("in/", Job::new(&place).out(Some(place.text("in")))),
        ("in/sub/", Job::new(&place).out(Some(place.text("in/sub")))),
        ("in/sub/..", Job::new(&place).out(Some(place.text("in/sub/..")))),
    ] {
        let error = job.start(&session()).await.unwrap_err().to_string();
        assert!(error.contains("every batch would be the input of the next"), "{what}: {error}");
    }
    assert!(!place.path("checkpoint").exists(), "nothing was begun");
    let hidden = Job::new(&place).out(Some(place.text("in/_out")));
    hidden.run(&session()).await.unwrap();
}

#[tokio::test]
async fn late_rows_and_results_are_apart() {
    let place = Place::new();
    place.put("in/0.json", id_lines([0]));
    for (out, late) in [("out", "out"), ("out", "out/late"), ("all/out", "all")] {
        let job = Job::new(&place).out(Some(place.text(out))).option("lateRowsPath", place.text(late));
        let error = job.start(&session()).await.unwrap_err().to_string();
        assert!(error.contains("readers of one would take the other's rows for its own"), "{late}: {error}");
    }
    // Only then is it told that there are none.
    let hidden = Job::new(&place).option("lateRowsPath", place.text("out/_late"));
    let error = hidden.start(&session()).await.unwrap_err().to_string();
    assert!(error.contains("this query has no late rows"), "{error}");
}
