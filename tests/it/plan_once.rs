//! A plan that is made once and run for every batch gives what a fresh plan over the same rows would.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::{Value, json};
use tidemill::clock::{Clock, ManualClock};
use tidemill::prelude::*;
use tidemill::{Environment, Error};

use crate::support::events::{Event, KINDS, encode, event_schema};
use crate::support::harness::{Input, Job, Place, id_lines, schema, session, session_in};
use crate::support::oracle::Row;
use crate::support::probe::Probe;
use crate::support::sim_disk::Dice;

fn session_at(clock: &Arc<ManualClock>) -> Session {
    session_in(2, Environment { clock: Arc::clone(clock) as Arc<dyn Clock>, ..Environment::default() })
}

fn column(rows: Vec<Row>, name: &str) -> Vec<Value> {
    rows.into_iter().map(|mut row| row.remove(name).unwrap_or_default()).collect()
}

#[tokio::test]
async fn now_is_the_time_of_the_batch_and_stays_it_when_the_batch_runs_again() {
    let place = Place::new();
    (0..3).for_each(|id| place.put(&format!("in/{id}.json"), id_lines([id, id + 10])));
    let clock = Arc::new(ManualClock::new(86_400_000));
    let job = Job::new(&place).format("probe").out(None).files_per_trigger(1).sql(
        "SELECT id, CAST(date_part('epoch', now()) AS BIGINT) AS seconds, CAST(current_date AS VARCHAR) AS day, \
                CAST(current_time AS VARCHAR) AS time, current_timestamp = now() AS same FROM input",
    );
    let first = session_at(&clock);
    let probe = Probe::of(&first);
    let advanced = Arc::clone(&clock);
    probe.on_prepare(move |batch| {
        advanced.advance(Duration::from_secs(90_000));
        if batch == 1 { Err(Error::Invalid("no".into())) } else { Ok(()) }
    });
    job.run(&first).await.unwrap_err();

    // The batch that failed was planned 90000 s after the first, and is run again 90000 s later.
    let second = session_at(&clock);
    probe.register(&second);
    probe.on_prepare(|_| Ok(()));
    job.run(&second).await.unwrap();
    let seconds = |batch| column(probe.rows(batch), "seconds");
    assert_eq!(seconds(0), [json!(86_400), json!(86_400)]);
    assert_eq!(seconds(1), [json!(176_400), json!(176_400)]);
    assert_eq!(seconds(2), [json!(266_400), json!(266_400)]);
    assert_eq!(column(probe.rows(1), "day"), [json!("1970-01-03"), json!("1970-01-03")]);
    assert_eq!(column(probe.rows(1), "time"), [json!("01:00:00"), json!("01:00:00")]);
    assert_eq!(column(probe.rows(2), "same"), [json!(true), json!(true)]);
}

#[tokio::test]
async fn filters_on_the_current_time_move_with_it() {
    let place = Place::new();
    (0..3).for_each(|file| place.put(&format!("in/{file}.json"), id_lines([50, 150, 250])));
    let clock = Arc::new(ManualClock::new(100_000));
    let session = session_at(&clock);
    let probe = Probe::of(&session);
    probe.on_prepare(move |_| {
        clock.advance(Duration::from_secs(100));
        Ok(())
    });
    let job = Job::new(&place).format("probe").out(None).files_per_trigger(1);
    job.sql("SELECT id FROM input WHERE to_timestamp_seconds(id) < now()").run(&session).await.unwrap();
    let sizes: Vec<usize> = probe.batches().values().map(Vec::len).collect();
    assert_eq!(sizes, [1, 2, 3]);
}

#[tokio::test]
async fn the_columns_of_time_functions_keep_their_names() {
    let place = Place::new();
    place.put("in/0.json", id_lines([0]));
    let session = session();
    let probe = Probe::of(&session);
    let sql = "SELECT id, now(), current_date FROM input";
    let expected = Job::new(&place).sql(sql).frame(&session).await.unwrap().schema().field_names();
    Job::new(&place).format("probe").out(None).sql(sql).run(&session).await.unwrap();
    let found: Vec<String> = probe.rows(0)[0].keys().cloned().collect();
    let mut expected: Vec<String> = expected
        .iter()
        .map(|name| name.rsplit_once("input.").map_or(name.as_str(), |(_, name)| name).into())
        .collect();
    expected.sort();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn operators_that_keep_state_are_fresh_in_every_batch() {
    let place = Place::new();
    for batch in 0..4 {
        place.put(&format!("in/{batch}.json"), id_lines((0..5).map(|row| batch * 10 + row)));
    }
    let config = SessionConfig::new().with_target_partitions(3);
    let session = Session::from(SessionContext::new_with_config(config));
    let probe = Probe::of(&session);
    let mut names: Vec<String> = (0..40).map(|id| format!("({id}, 'row {id}')")).collect();
    names.retain(|name| !name.contains('4'));
    let sql = format!(
        "SELECT input.id, names.name FROM input JOIN (VALUES {}) AS names(id, name) ON input.id = names.id",
        names.join(", ")
    );
    let query = Job::new(&place)
        .format("probe")
        .out(None)
        .files_per_trigger(1)
        .sql(&sql)
        .run(&session)
        .await
        .unwrap();
    // The table is what the hash table is built from, although it is on the right in the query.
    let plan = query.explain();
    let (join, stream) = (plan.find("HashJoinExec: mode=CollectLeft"), plan.rfind("StreamScanExec"));
    assert!(join < stream && plan.find("DataSourceExec") < stream && join.is_some(), "{plan}");
    for batch in 0..4 {
        let expected: Vec<i64> = (0..4).map(|row| batch * 10 + row).collect();
        let found = crate::support::harness::ids(probe.rows(u64::try_from(batch).unwrap()));
        assert_eq!(found, expected, "batch {batch}");
    }
}

#[tokio::test]
async fn small_and_large_batches_give_the_same_as_one_plan_would() {
    let place = Place::new();
    let sizes = [3, 120_000, 1, 5, 90_000];
    let mut next = 0;
    for (file, size) in sizes.into_iter().enumerate() {
        place.put(&format!("in/{file}.json"), id_lines(next..next + size));
        next += size;
    }
    let session = session_in(2, Environment::default());
    let probe = Probe::of(&session);
    let job = Job::new(&place)
        .format("probe")
        .out(None)
        .files_per_trigger(1)
        .sql("SELECT id FROM input WHERE id % 3 = 0");
    job.run(&session).await.unwrap();
    let mut first = 0;
    for (batch, size) in (0..).zip(sizes) {
        let expected: Vec<i64> = (first..first + size).filter(|id| id % 3 == 0).collect();
        assert_eq!(crate::support::harness::ids(probe.rows(batch)), expected, "batch {batch}");
        first += size;
    }
    // Both plans were in use.
    let writers: Vec<usize> = probe.writers().into_values().collect();
    assert_eq!((writers[0], writers[1]), (1, 2), "{writers:?}");
}

/// Queries without state over `input` (see [`event_schema`]) and the bounded table `sizes`.
const CORPUS: [&str; 44] = [
    "SELECT * FROM input",
    "SELECT id FROM input",
    "SELECT id, amount + 1, amount / 3, amount % 3, -amount FROM input",
    "SELECT id FROM input WHERE amount > 5",
    "SELECT id FROM input WHERE amount BETWEEN -5 AND 5 AND flag",
    "SELECT id FROM input WHERE NOT flag OR ratio IS NULL",
    "SELECT id FROM input WHERE amount IS DISTINCT FROM 3",
    "SELECT id FROM input WHERE kind IN ('apple', 'zebra')",
    "SELECT id FROM input WHERE kind NOT IN ('apple', 'zebra')",
    "SELECT id FROM input WHERE kind LIKE '%e%' AND kind NOT LIKE 'z%'",
    "SELECT id, kind FROM input WHERE kind ~ '^[a-m]'",
    "SELECT id, upper(kind), char_length(kind), substr(kind, 2, 3), reverse(kind) FROM input",
    "SELECT id, regexp_replace(kind, '[aeiou]+', '_', 'g') AS k FROM input",
    "SELECT id, split_part(kind, ',', 2) AS rest, concat(kind, '/', id) AS both FROM input",
    "SELECT id, CASE WHEN amount > 0 THEN 'credit' WHEN amount < 0 THEN 'debit' ELSE 'none' END AS side FROM input",
    "SELECT id, CASE kind WHEN 'apple' THEN 1 WHEN 'zebra' THEN 2 END AS code FROM input",
    "SELECT id, coalesce(amount, 0) AS amount, nullif(kind, 'apple') AS kind FROM input",
    "SELECT id, CAST(ratio AS BIGINT) AS whole, CAST(id AS VARCHAR) AS text FROM input",
    "SELECT id, round(ratio, 1), floor(ratio), abs(amount), sqrt(abs(ratio)) FROM input",
    "SELECT id, greatest(amount, 0), least(amount, 0) FROM input",
    "SELECT id, to_timestamp_seconds(id * 3600) AS at FROM input",
    "SELECT id, date_trunc('day', to_timestamp_seconds(id * 36000)) AS day FROM input",
    "SELECT id, date_part('hour', to_timestamp_seconds(id * 3600)) AS hour FROM input",
    "SELECT id, date_bin(INTERVAL '15 minutes', to_timestamp_seconds(id * 100)) AS bin FROM input",
    "SELECT id, unnest(tags) AS tag FROM input",
    "SELECT id, tag FROM (SELECT id, unnest(tags) AS tag FROM input) WHERE tag <> 'zebra'",
    "SELECT id, tags[1] AS first, array_length(tags) AS n, array_has(tags, 'apple') AS has FROM input",
    "SELECT id, struct(amount, kind) AS both FROM input",
    "SELECT id, named_struct('a', amount, 'k', kind)['k'] AS k FROM input",
    "SELECT id, md5(kind) AS hash FROM input WHERE kind IS NOT NULL",
    "SELECT id FROM input WHERE amount > 0 UNION ALL SELECT id FROM input WHERE amount < 0",
    "SELECT id, 1 AS part FROM input UNION ALL SELECT id, 2 FROM input WHERE flag UNION ALL SELECT amount, 3 FROM input",
    "WITH big AS (SELECT * FROM input WHERE amount > 3) SELECT id, kind FROM big WHERE flag",
    "SELECT a.id FROM (SELECT id, amount * 2 AS twice FROM input) a WHERE a.twice > 10",
    "SELECT id FROM input WHERE false",
    "SELECT id, 'constant' AS c, 1 + 1 AS two FROM input WHERE true",
    "SELECT input.id, sizes.size FROM input JOIN sizes ON input.kind = sizes.kind",
    "SELECT input.id, sizes.size FROM input LEFT JOIN sizes ON input.kind = sizes.kind AND input.flag",
    "SELECT id FROM input WHERE kind IN (SELECT kind FROM sizes WHERE size > 1)",
    "SELECT id FROM input WHERE NOT EXISTS (SELECT 1 FROM sizes WHERE sizes.kind = input.kind)",
    "SELECT id, (SELECT max(size) FROM sizes) AS largest FROM input WHERE amount > (SELECT min(size) FROM sizes)",
    "SELECT id, (SELECT size FROM sizes WHERE sizes.kind = 'apple') AS apples FROM input",
    "SELECT input.id, v.name FROM input JOIN (VALUES (1, 'one'), (2, 'two'), (3, 'three')) v(n, name) ON input.amount % 4 = v.n",
    "SELECT input.id, v.n FROM input CROSS JOIN (VALUES (1), (2)) v(n)",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cached_plans_agree_with_fresh_ones() {
    let place = Place::new();
    let mut dice = Dice(3);
    let sizes = [7, 0, 40, 1, 3000];
    for (file, size) in sizes.into_iter().enumerate() {
        let events: Vec<Event> = (0..size).map(|_| random_event(&mut dice)).collect();
        place.put(
            &format!("in/{file}.parquet"),
            encode("parquet", i64::try_from(file).unwrap() * 10_000, &events),
        );
    }
    place.put("sizes.csv", format!("kind,size\n{},1\n{},2\nother,3\n", KINDS[0], KINDS[5]));
    for sql in CORPUS {
        let session = session_in(2, Environment::default());
        let probe = Probe::of(&session);
        register_sizes(session.context(), &place).await;
        let input = Input::new("input", "parquet", place.text("in")).schema(event_schema("parquet"));
        // A checkpoint for each query.
        let checkpoint = place.text(&format!(
            "checkpoints/{:x}",
            sql.bytes().fold(7u64, |h, b| h.wrapping_mul(31) ^ u64::from(b))
        ));
        let job = Job::new(&place)
            .inputs([input.option("maxFilesPerTrigger", 1)])
            .sql(sql)
            .format("probe")
            .out(None);
        job.option("checkpointLocation", checkpoint)
            .run(&session)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        let batches = probe.record_batches();
        assert_eq!(batches.len(), sizes.len(), "{sql}");
        for (batch, found) in batches {
            assert_eq!(lines(&found), fresh(&place, sql, batch).await, "batch {batch} of {sql}");
        }
    }
}

fn random_event(dice: &mut Dice) -> Event {
    let amount = i64::try_from(dice.roll(42)).unwrap() - 21;
    Event {
        amount: (amount > -21).then_some(amount),
        kind: KINDS.get(dice.roll(KINDS.len() + 1)).copied(),
        flag: [Some(true), Some(false), None][dice.roll(3)],
        ratio: (dice.roll(5) > 0).then(|| dice.roll(9) as f64 - 3.5),
        tags: (0..dice.roll(4)).map(|_| KINDS[dice.roll(KINDS.len())]).collect(),
    }
}

async fn register_sizes(context: &SessionContext, place: &Place) {
    let columns = schema(&[("kind", DataType::Utf8), ("size", DataType::Int64)]);
    context
        .register_csv("sizes", place.text("sizes.csv"), CsvReadOptions::new().schema(&columns))
        .await
        .unwrap();
}

/// What DataFusion alone makes of the file of one batch.
async fn fresh(place: &Place, sql: &str, batch: u64) -> Vec<String> {
    let context = SessionContext::new();
    let columns = event_schema("parquet");
    let options = ParquetReadOptions::default().schema(&columns);
    context.register_parquet("input", place.text(&format!("in/{batch}.parquet")), options).await.unwrap();
    register_sizes(&context, place).await;
    lines(&context.sql(sql).await.unwrap().collect().await.unwrap())
}

/// Rows as text, with their columns' names, sorted.
fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut lines = Vec::new();
    for batch in batches {
        let schema = batch.schema();
        let columns: BTreeMap<&str, ArrayFormatter<'_>> = schema
            .fields()
            .iter()
            .zip(batch.columns())
            .map(|(field, column)| {
                (field.name().as_str(), ArrayFormatter::try_new(column, &options).unwrap())
            })
            .collect();
        lines.extend((0..batch.num_rows()).map(|row| {
            let cells: Vec<String> =
                columns.iter().map(|(name, cells)| format!("{name}={}", cells.value(row))).collect();
            cells.join("|")
        }));
    }
    lines.sort();
    lines
}
