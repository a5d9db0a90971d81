//! Metrics of rows on their way: exactly the rows of a batch at that point, told with its progress.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::functions_aggregate::expr_fn::{avg, count, count_distinct, max, min, sum};
use serde_json::{Value, json};
use tidemill::prelude::*;
use tidemill::sql::{SqlOutcome, SqlSession};
use tidemill::{Error, StreamingQueryProgress};

use crate::support::harness::{Input, Job, Place, Recorder, cause, id_lines, schema, session, session_in};
use crate::support::probe::Probe;

/// What `name` observed, batch by batch.
fn observed(progress: &[StreamingQueryProgress], name: &str) -> Vec<Value> {
    progress.iter().map(|progress| json!(progress.observed_metrics[name])).collect()
}

/// The table of `job` as a data frame.
async fn input(job: &Job, session: &Session) -> DataFrame {
    job.frame(session).await.unwrap()
}

async fn run(frame: DataFrame, job: &Job) -> tidemill::Result<()> {
    let writer = frame.write_stream().format(&job.format).trigger(job.trigger).options(job.options.clone());
    writer.start(job.out.as_deref()).await?.await_termination().await
}

fn rows() -> Expr {
    count(lit(1)).alias("rows")
}

#[tokio::test]
async fn each_batch_tells_of_its_rows_at_each_point() {
    let place = Place::new();
    place.put("in/0.json", id_lines(0..10));
    place.put("in/1.json", id_lines([7]));
    place.put("in/2.json", id_lines(100..200));
    let (session, job) = (session(), Job::new(&place).files_per_trigger(1));
    let recorder = Recorder::of(&session);
    let frame = input(&job, &session)
        .await
        .observe("all", vec![rows(), sum(col("id")), (max(col("id")) - min(col("id"))).alias("span")])
        .unwrap()
        .filter((col("id") % lit(2)).eq(lit(0)))
        .unwrap()
        .observe("even", vec![rows(), avg(col("id")).alias("mean")])
        .unwrap()
        .filter(col("id").gt(lit(4)))
        .unwrap();
    run(frame, &job).await.unwrap();
    assert_eq!(
        observed(&recorder.progress(), "all"),
        [
            json!({"rows": 10, "sum(id)": 45, "span": 9}),
            json!({"rows": 1, "sum(id)": 7, "span": 0}),
            json!({"rows": 100, "sum(id)": 14950, "span": 99}),
        ]
    );
    assert_eq!(
        observed(&recorder.progress(), "even"),
        [
            json!({"rows": 5, "mean": 4.0}),
            json!({"rows": 0, "mean": null}),
            json!({"rows": 50, "mean": 149.0})
        ]
    );
    assert_eq!(place.ids()[..3], [6, 8, 100]);
    let text = recorder.progress()[1].to_json();
    assert!(text.contains(r#""observedMetrics":{"all":{"rows":1,"#), "{text}");
}

#[tokio::test]
async fn without_an_observation_there_is_nothing_of_it_in_plan_and_progress() {
    let place = Place::new();
    place.put("in/0.json", id_lines([1]));
    let session = session();
    let query = Job::new(&place).run(&session).await.unwrap();
    assert!(!query.last_progress().unwrap().to_json().contains("observed"));
    assert!(!query.explain().contains("Observe"));
}

/// Whatever is above: a limit that is reached, a join that nothing comes of, an aggregation.
#[tokio::test]
async fn all_rows_count_however_few_are_asked_for() {
    let place = Place::new();
    (0..3).for_each(|file| place.put(&format!("in/{file}.json"), id_lines(file * 1000..file * 1000 + 500)));
    place.put("other/0.json", "{\"id\":-1}\n");
    let other = Input::new("other", "json", place.text("other")).schema(schema(&[("id", DataType::Int64)]));
    for partitions in [1, 3] {
        for sql in [
            "SELECT id FROM seen LIMIT 1",
            "SELECT seen.id FROM seen JOIN other ON seen.id = other.id",
            "SELECT other.id FROM other JOIN seen ON seen.id = other.id",
            "SELECT seen.id FROM seen WHERE seen.id IN (SELECT id FROM other)",
            "SELECT count(*) FROM seen HAVING count(*) < 0",
            "SELECT id FROM seen WHERE id < 0",
            "SELECT 1 AS one FROM seen WHERE now() < TIMESTAMP '2000-01-01'",
            "SELECT DISTINCT id % 2 FROM seen",
        ] {
            let session = session_in(partitions, Default::default());
            let recorder = Recorder::of(&session);
            let job = Job::new(&place).format("noop").out(None);
            let job = Job { options: vec![], ..job.clone() }.inputs([job.inputs[0].clone(), other.clone()]);
            let seen =
                input(&job, &session).await.observe("seen", vec![rows(), max(col("id")).alias("last")]);
            session.context().register_table("seen", seen.unwrap().into_view()).unwrap();
            let frame = session.context().sql(sql).await.unwrap();
            let mode = if sql.contains("count") { OutputMode::Complete } else { OutputMode::Append };
            let writer = frame.write_stream().format("noop").trigger(Trigger::AvailableNow).output_mode(mode);
            writer.start(None).await.unwrap().await_termination().await.unwrap();
            let seen = observed(&recorder.progress(), "seen");
            assert_eq!(seen, [json!({"rows": 1500, "last": 2499})], "{partitions}: {sql}");
        }
    }
}

/// What operators with state give, and what the whole result of a batch is.
#[tokio::test]
async fn results_are_observed_as_well() {
    let place = Place::new();
    place.put("in/0.json", id_lines([1, 2, 3]));
    place.put("in/1.json", id_lines([4, 5, 7]));
    for (mode, expected) in [
        (OutputMode::Update, [json!({"groups": 2, "largest": 2}), json!({"groups": 2, "largest": 4})]),
        (OutputMode::Complete, [json!({"groups": 2, "largest": 2}), json!({"groups": 2, "largest": 4})]),
    ] {
        let session = session();
        let recorder = Recorder::of(&session);
        let job = Job::new(&place)
            .files_per_trigger(1)
            .sql("SELECT id % 2 AS k, count(*) AS n FROM input GROUP BY 1");
        let metrics = vec![count(lit(1)).alias("groups"), max(col("n")).alias("largest")];
        let frame = input(&job, &session).await.observe("result", metrics).unwrap();
        let writer = frame.write_stream().format("noop").output_mode(mode).trigger(Trigger::AvailableNow);
        writer.start(None).await.unwrap().await_termination().await.unwrap();
        assert_eq!(observed(&recorder.progress(), "result"), expected, "{mode}");
    }
}

#[tokio::test]
async fn a_batch_that_is_run_again_tells_the_same_once() {
    let place = Place::new();
    (0..3).for_each(|file| place.put(&format!("in/{file}.json"), id_lines(file * 10..file * 10 + 7)));
    let job = Job::new(&place).format("probe").out(None).files_per_trigger(1);
    let metrics = || vec![rows(), (sum(col("id")) * lit(0.1)).alias("tenth")];
    let first = session();
    let (probe, before) = (Probe::of(&first), Recorder::of(&first));
    probe.on_prepare(|batch| if batch == 1 { Err(Error::Invalid("no".into())) } else { Ok(()) });
    let frame = input(&job, &first).await.observe("seen", metrics()).unwrap();
    run(frame, &job).await.unwrap_err();
    // The batch that failed has told nothing.
    assert_eq!(observed(&before.progress(), "seen"), [json!({"rows": 7, "tenth": 2.1})]);

    let second = session();
    probe.register(&second);
    probe.on_prepare(|_| Ok(()));
    let after = Recorder::of(&second);
    let frame = input(&job, &second).await.observe("seen", metrics()).unwrap();
    run(frame, &job).await.unwrap();
    let expected = [json!({"rows": 7, "tenth": 9.1}), json!({"rows": 7, "tenth": 16.1})];
    assert_eq!(observed(&after.progress(), "seen"), expected);
}

/// It is no part of what a checkpoint is of.
#[tokio::test]
async fn an_observation_may_come_and_go_between_starts() {
    let place = Place::new();
    for (start, observes) in [(0, true), (1, false), (2, true)] {
        place.put(&format!("in/{start}.json"), id_lines([1, 2]));
        let session = session();
        let recorder = Recorder::of(&session);
        let job = Job::new(&place);
        let mut frame = input(&job, &session).await;
        if observes {
            frame = frame.observe("seen", vec![rows()]).unwrap();
        }
        let mut frame = frame.aggregate(vec![], vec![count(lit(1)).alias("n")]).unwrap();
        if observes {
            frame = frame.observe("given", vec![max(col("n")).alias("n")]).unwrap();
        }
        let writer = frame.write_stream().format("noop").output_mode(OutputMode::Update);
        let writer = writer.trigger(Trigger::AvailableNow).options(job.options.clone());
        writer.start(None).await.unwrap().await_termination().await.unwrap();
        if observes {
            assert_eq!(observed(&recorder.progress(), "seen"), [json!({"rows": 2})]);
            assert_eq!(observed(&recorder.progress(), "given"), [json!({"n": 2 * (start + 1)})]);
        }
    }
}

#[tokio::test]
async fn a_metric_of_no_rows_is_null_or_zero_and_fails_nothing() {
    let place = Place::new();
    place.put("in/0.json", "{\"id\":1,\"ts\":\"2024-01-01T00:00:00\"}\n");
    place.put("in/1.json", "{\"id\":5,\"ts\":\"2024-01-01T01:00:00\"}\n");
    let time = DataType::Timestamp(TimeUnit::Millisecond, None);
    let table = Input::new("input", "json", place.text("in"))
        .schema(schema(&[("id", DataType::Int64), ("ts", time)]))
        .watermark("ts", "1 minute");
    let (session, job) = (session(), Job::new(&place).inputs([table]).files_per_trigger(1));
    let recorder = Recorder::of(&session);
    let quotient = (sum(col("id")) / count(lit(1))).alias("quotient");
    let frame = input(&job, &session)
        .await
        .observe("in", vec![rows(), quotient, max(col("ts")).alias("newest")])
        .unwrap()
        .aggregate(vec![window(col("ts"), "10 minutes").alias("w")], vec![count(lit(1)).alias("n")])
        .unwrap()
        .observe("out", vec![rows()])
        .unwrap();
    run(frame, &Job { format: "json".into(), ..job }).await.unwrap();
    let expected = [
        json!({"rows": 1, "quotient": 1, "newest": "2024-01-01T00:00:00"}),
        json!({"rows": 1, "quotient": 5, "newest": "2024-01-01T01:00:00"}),
        // The watermark alone has made the first window final.
        json!({"rows": 0, "quotient": null, "newest": null}),
    ];
    assert_eq!(observed(&recorder.progress(), "in"), expected);
    let expected = [json!({"rows": 0}), json!({"rows": 0}), json!({"rows": 1})];
    assert_eq!(observed(&recorder.progress(), "out"), expected);
}

#[tokio::test]
async fn what_cannot_be_observed_is_refused_with_the_reason() {
    let place = Place::new();
    place.put("in/0.json", id_lines([1]));
    let session = session();
    let job = Job::new(&place);
    for (metrics, reason) in [
        (vec![], "needs a name and at least one metric"),
        (vec![col("id")], "there is no aggregate in it"),
        (vec![(sum(col("id")) + col("id")).alias("s")], "it reads 'id' of single rows"),
        (vec![count_distinct(col("id"))], "use approx_distinct"),
        (vec![count(lit(1)).alias("n"), sum(col("id")).alias("n")], "has two metrics 'n'"),
        (vec![sum(random() * col("id")).alias("r")], "random() may give something else each time"),
        (vec![sum(col("nothing"))], "nothing"),
        (vec![sum(lit("a")).alias("s")], "sum"),
    ] {
        let error = input(&job, &session).await.observe("seen", metrics).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let once = input(&job, &session).await.observe("seen", vec![rows()]).unwrap();
    let error = once.clone().observe("seen", vec![rows()]).unwrap_err().to_string();
    assert!(error.contains("made of these rows already"), "{error}");
    let twice = once.clone().union(once.clone()).unwrap();
    let error = run(twice, &job).await.unwrap_err().to_string();
    assert!(error.contains("'seen'") && error.contains("in the query twice"), "{error}");

    session.context().sql("CREATE TABLE few AS SELECT 1 AS id").await.unwrap().collect().await.unwrap();
    let few = session.context().table("few").await.unwrap().observe("few", vec![rows()]).unwrap();
    // By themselves they pass.
    assert_eq!(few.clone().count().await.unwrap(), 1);
    let joined = input(&job, &session)
        .await
        .join(few, datafusion::common::JoinType::LeftSemi, &["id"], &["id"], None)
        .unwrap();
    let error = run(joined, &job).await.unwrap_err().to_string();
    assert!(error.contains("'few'") && error.contains("bounded tables alone"), "{error}");
    assert!(!place.path("checkpoint").exists());

    // Rows that nothing is made of are not read, and so cannot be counted.
    let seen = input(&job, &session).await.observe("seen", vec![rows()]).unwrap();
    for nothing in [seen.clone().filter(lit(false)).unwrap(), seen.limit(0, Some(0)).unwrap()] {
        let error = run(nothing, &job).await.unwrap_err().to_string();
        assert!(error.contains("'seen'") && error.contains("no result can come of its rows"), "{error}");
    }
    // There are none of those that never come.
    let place = Place::new();
    place.put("in/0.json", id_lines([1]));
    let (session, job) = (self::session(), Job::new(&place));
    let recorder = Recorder::of(&session);
    let frame = input(&job, &session).await.filter(lit(false)).unwrap();
    run(frame.observe("none", vec![rows()]).unwrap(), &job).await.unwrap();
    assert_eq!(observed(&recorder.progress(), "none"), [json!({"rows": 0})]);

    // An aggregate that does not fit fails the batch, as it would in the query.
    let place = Place::new();
    place.put("in/0.json", id_lines([i64::MAX, 1]));
    let job = Job::new(&place);
    let frame = input(&job, &session).await.observe("seen", vec![sum(col("id")).alias("s")]).unwrap();
    let error = run(frame, &job).await.unwrap_err();
    assert!(cause(&error).to_string().contains("overflow"), "{error}");
}

#[tokio::test]
async fn sql_observes_with_a_table_function() {
    let place = Place::new();
    place.put(
        "in/0.json",
        "{\"id\":1,\"price\":1.50}\n{\"id\":2}\n{\"id\":-3,\"price\":12345678901234567.25}\n",
    );
    let sql = SqlSession::new(Session::new());
    let recorder = Recorder::of(sql.session());
    let script = format!(
        "CREATE UNBOUNDED EXTERNAL TABLE bids (id BIGINT, price DECIMAL(20, 2)) STORED AS JSON LOCATION '{}';
         CREATE EXTERNAL TABLE seen STORED AS NOOP;
         CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW AS INSERT INTO seen
             SELECT id FROM OBSERVE(TABLE bids, 'input',
                 rows => count(*), bad => count(*) FILTER (WHERE coalesce(price, 0) = 0), \"Total\" => sum(price),
                 share => count(price)::DOUBLE / count(*), max(id), whole => sum(price::BIGINT)) AS b
             WHERE id > 0;
         CREATE STREAMING QUERY p TRIGGER AVAILABLE NOW AS INSERT INTO seen
             SELECT id FROM OBSERVE(TABLE (SELECT id, abs(id) AS size FROM bids WHERE id <> 2), 'some', m => sum(size))",
        place.text("in")
    );
    for outcome in sql.run(&script).await.unwrap() {
        if let SqlOutcome::Query(started) = outcome {
            started.query.await_termination().await.unwrap();
        }
    }
    let progress = recorder.progress();
    let of = |name: &str| progress.iter().find_map(|progress| progress.observed_metrics.get(name)).unwrap();
    let expected = json!({
        "rows": 3, "bad": 1, "Total": "12345678901234568.75", "share": 2.0 / 3.0, "max(id)": 2, "whole": 12345678901234568_i64
    });
    assert_eq!(json!(of("input")), expected);
    assert_eq!(json!(of("some")), json!({"m": 4}));
    for (call, reason) in [
        ("OBSERVE(TABLE bids, 'x')", "at least one metric"),
        ("OBSERVE(TABLE bids, id, count(*))", "the name of an observation is a text"),
        ("OBSERVE(TABLE bids)", "needs a table, a name and metrics"),
        ("OBSERVE(TABLE bids, 'x', n => price)", "there is no aggregate in it"),
        ("OBSERVE(TABLE bids, 'x', n => count(DISTINCT id))", "approx_distinct"),
        ("OBSERVE(TABLE bids, 'x', n => array_agg(id ORDER BY id))", "leave ORDER BY out"),
        ("OBSERVE(TABLE bids, 'x', n => sum((SELECT 1)))", "subquery"),
        ("OBSERVE(TABLE bids, 'x', n => count(*) FILTER (WHERE now() > TIMESTAMP '2000-01-01'))", "now()"),
    ] {
        let statement = format!("EXPLAIN STREAMING QUERY AS INSERT INTO seen SELECT id FROM {call}");
        let error = sql.run(&statement).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{call}: {error}");
    }
    let subquery = "CREATE STREAMING QUERY r TRIGGER AVAILABLE NOW AS INSERT INTO seen SELECT id FROM bids WHERE id IN \
                    (SELECT id FROM OBSERVE(TABLE bids, 'x', n => count(*)))";
    let error = sql.run(subquery).await.unwrap_err().to_string();
    assert!(error.contains("it is in a subquery"), "{error}");
}
