//! Nexmark's queries, as the scripts in `sql/nexmark` have them, beside what DataFusion gives for the same events as
//! one batch.

use std::collections::BTreeMap;
use std::path::Path;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::display::array_value_to_string;
use tidemill::prelude::*;
use tidemill::sql::SqlSession;

use crate::support::harness::scratch;

/// The events of the scripts, and fewer ones that are a minute of event time all the same.
const EVENTS: &str = "'events' 100000, 'eventsPerSecond' 1000, 'maxEventsPerTrigger' 20000";
const FEWER: &str = "'events' 12000, 'eventsPerSecond' 200, 'maxEventsPerTrigger' 2500";

/// A script's statements, with other events and places.
struct Script {
    name: &'static str,
    tables: Vec<&'static str>,
    text: String,
}

impl Script {
    fn read(name: &'static str, folder: &Path) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/nexmark").join(name).with_extension("sql");
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains(EVENTS), "{text}");
        let folder = folder.to_str().unwrap();
        let text = text
            .replace(EVENTS, FEWER)
            .replace("'out/nexmark/", &format!("'{folder}/out/"))
            .replace("'checkpoint/nexmark/", &format!("'{folder}/checkpoint/"))
            .replace("STORED AS CONSOLE", "STORED AS MEMORY");
        let tables = ["person", "auction", "bid"];
        let is_named = |table: &&str| text.contains(&format!("'type' '{table}'"));
        Self { name, tables: tables.into_iter().filter(is_named).collect(), text }
    }

    /// What comes before the streaming query, and its `SELECT`.
    fn parts(&self) -> (&str, &str) {
        let (before, query) = self.text.split_once("CREATE STREAMING QUERY").unwrap();
        let (_, select) = query.split_once(&format!("AS INSERT INTO {}\n", self.name)).unwrap();
        (before, select.trim_end().trim_end_matches(';'))
    }

    /// The events as bounded tables, and what else the script has, in a session of DataFusion's own.
    async fn bounded(&self) -> SessionContext {
        let sql = SqlSession::new(Session::new());
        let context = SessionContext::new();
        let (before, _) = self.parts();
        let mut script = before.split("CREATE EXTERNAL TABLE").next().unwrap().to_string();
        for table in &self.tables {
            script += &format!(
                "CREATE EXTERNAL TABLE {table}_rows STORED AS MEMORY;
                 CREATE STREAMING QUERY {table}_rows TRIGGER ONCE AS INSERT INTO {table}_rows SELECT * FROM {table};\n"
            );
        }
        run(&sql, &script).await;
        for table in &self.tables {
            let rows = sql.session().context().table(format!("{table}_rows")).await.unwrap();
            let rows = rows.collect().await.unwrap();
            let schema = rows[0].schema();
            let bounded = datafusion::catalog::MemTable::try_new(schema, vec![rows]).unwrap();
            context.register_table(*table, std::sync::Arc::new(bounded)).unwrap();
        }
        if let Some((_, create)) = before.split_once("CREATE TABLE") {
            let create = create.split(';').next().unwrap();
            context.sql(&format!("CREATE TABLE {create}")).await.unwrap().collect().await.unwrap();
        }
        context
    }
}

async fn run(sql: &SqlSession, script: &str) {
    sql.run(script).await.unwrap();
    for query in sql.session().streams().active() {
        query.await_termination().await.unwrap();
    }
}

/// Rows as text, in their order.
fn texts(batches: &[RecordBatch]) -> Vec<Vec<String>> {
    let rows = |batch: &RecordBatch| {
        let value = |row| {
            let columns = batch.columns().iter();
            columns.map(|column| array_value_to_string(column, row).unwrap()).collect()
        };
        (0..batch.num_rows()).map(value).collect::<Vec<Vec<String>>>()
    };
    batches.iter().flat_map(rows).collect()
}

/// Runs a script, and gives its rows beside those of one batch: of its own `SELECT`, or of `oracle`, which says the
/// same without what only streaming queries have. In update mode a row replaces one before it with the same values in
/// the columns `keys`. `shown` are the columns that are compared, all if it is empty.
async fn compare(name: &'static str, keys: &[&str], shown: &str, oracle: Option<&str>) {
    let folder = scratch();
    let script = Script::read(name, folder.path());
    let sql = SqlSession::new(Session::new());
    run(&sql, &script.text).await;
    let select = oracle.unwrap_or_else(|| script.parts().1);
    let expected = script.bounded().await.sql(select).await.unwrap();
    let columns: Vec<String> = expected.schema().field_names();
    let columns: Vec<&str> = columns.iter().map(|name| name.rsplit('.').next().unwrap()).collect();
    let shown = if shown.is_empty() { columns.join(", ") } else { shown.to_string() };
    let found = sql.session().query(&format!("SELECT {shown} FROM {name}")).await.unwrap();
    let found = texts(&found.collect().await.unwrap());
    let mut found = match keys {
        [] => found,
        keys => {
            let keys: Vec<usize> =
                keys.iter().map(|key| columns.iter().position(|name| name == key).unwrap()).collect();
            let key = |row: &Vec<String>| keys.iter().map(|key| row[*key].clone()).collect::<Vec<_>>();
            let newest: BTreeMap<_, _> = found.into_iter().map(|row| (key(&row), row)).collect();
            newest.into_values().collect()
        }
    };
    let mut expected = texts(&expected.collect().await.unwrap());
    found.sort();
    expected.sort();
    assert!(!expected.is_empty(), "{name} has no rows");
    assert_eq!(found.len(), expected.len(), "{name}");
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected, "{name}");
    }
}

/// A test for each of the queries whose `SELECT` DataFusion understands as it is.
macro_rules! same_as_in_one_batch {
    ($($name:ident $keys:expr;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                compare(stringify!($name), &$keys, "", None).await;
            }
        )*
    };
}

same_as_in_one_batch! {
    q0 [];
    q1 [];
    q2 [];
    q3 [];
    q4 [];
    q6 [];
    q9 ["id"];
    q10 [];
    q13 [];
    q14 [];
    q15 [];
    q16 [];
    q17 [];
    q18 ["bidder", "auction"];
    q19 ["auction", "place"];
    q20 [];
    q21 [];
    q22 [];
    q23 [];
}

#[tokio::test]
async fn q5() {
    // A bid is in the five windows that start in the ten seconds up to it.
    let oracle = "
        WITH starts AS (SELECT auction, date_bin(INTERVAL '2 seconds', date_time) - back AS window_start
                        FROM bid CROSS JOIN (SELECT unnest([INTERVAL '0 seconds', INTERVAL '2 seconds', INTERVAL '4 seconds',
                                                            INTERVAL '6 seconds', INTERVAL '8 seconds']) AS back)),
             counted AS (SELECT auction, count(*) AS num, window_start, window_start + INTERVAL '10 seconds' AS window_end
                         FROM starts GROUP BY auction, window_start)
        SELECT auction, num, window_start, window_end FROM counted c
        WHERE num = (SELECT max(num) FROM counted o WHERE o.window_start = c.window_start)";
    compare("q5", &[], "", Some(oracle)).await;
}

#[tokio::test]
async fn q7() {
    let oracle = "
        WITH greatest AS (SELECT date_bin(INTERVAL '10 seconds', date_time) AS start, max(price) AS most FROM bid GROUP BY 1)
        SELECT auction, price, bidder, date_time, extra FROM bid JOIN greatest
        ON price = most AND date_time BETWEEN start AND start + INTERVAL '10 seconds'";
    compare("q7", &[], "", Some(oracle)).await;
}

#[tokio::test]
async fn q8() {
    let oracle = "
        SELECT DISTINCT p.id, p.name, date_bin(INTERVAL '10 seconds', p.date_time) AS window_start
        FROM person p JOIN auction a ON p.id = a.seller
        AND date_bin(INTERVAL '10 seconds', p.date_time) = date_bin(INTERVAL '10 seconds', a.date_time)";
    compare("q8", &[], "", Some(oracle)).await;
}

#[tokio::test]
async fn q11() {
    // A session begins with a bid that comes more than ten seconds after the one before.
    let oracle = "
        WITH marked AS (SELECT bidder, date_time,
                               CASE WHEN date_time - lag(date_time) OVER w <= INTERVAL '10 seconds' THEN 0 ELSE 1 END AS begins
                        FROM bid WINDOW w AS (PARTITION BY bidder ORDER BY date_time)),
             numbered AS (SELECT bidder, date_time, sum(begins) OVER (PARTITION BY bidder ORDER BY date_time) AS number FROM marked)
        SELECT bidder, count(*) AS bids, min(date_time) AS first, max(date_time) + INTERVAL '10 seconds' AS last
        FROM numbered GROUP BY bidder, number";
    compare("q11", &[], "bidder, bids, session.start, session.\"end\"", Some(oracle)).await;
}

#[tokio::test]
async fn q12() {
    // When bids are processed nobody can tell beforehand.
    let oracle = "SELECT bidder, count(*) AS bids FROM bid GROUP BY bidder";
    let folder = scratch();
    let script = Script::read("q12", folder.path());
    let sql = SqlSession::new(Session::new());
    run(&sql, &script.text).await;
    let found =
        sql.session().query("SELECT bidder, sum(bids) AS bids FROM q12 GROUP BY bidder").await.unwrap();
    let mut found = texts(&found.collect().await.unwrap());
    let expected = script.bounded().await.sql(oracle).await.unwrap();
    let mut expected = texts(&expected.collect().await.unwrap());
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

/// The rows do not depend on how they are read: in how many batches, by how many partitions, and from where on.
#[tokio::test]
async fn events_are_the_same_however_they_are_read() {
    let mut read: Vec<Vec<Vec<String>>> = Vec::new();
    for options in [
        "'numPartitions' 1",
        "'maxEventsPerTrigger' 777, 'numPartitions' 3",
        "'maxEventsPerTrigger' 1, 'events' 400",
        "'seed' 1",
    ] {
        let sql = SqlSession::new(Session::new());
        let events = if options.contains("'events'") { "" } else { ", 'events' 5000" };
        run(
            &sql,
            &format!(
                "CREATE UNBOUNDED EXTERNAL TABLE bid STORED AS NEXMARK
                     OPTIONS ('type' 'bid', 'outOfOrderGroupSize' 40, {options}{events});
                 CREATE EXTERNAL TABLE rows STORED AS MEMORY;
                 CREATE STREAMING QUERY rows TRIGGER AVAILABLE NOW AS INSERT INTO rows SELECT * FROM bid;"
            ),
        )
        .await;
        let rows = sql.session().context().table("rows").await.unwrap().collect().await.unwrap();
        read.push(texts(&rows));
    }
    let [once, often, first, other] = read.as_mut_slice() else { panic!("{}", read.len()) };
    assert_eq!((once.len(), first.len()), (4_600, 368));
    assert_eq!(first[..], once[..368]);
    assert_ne!(once, other);
    once.sort();
    often.sort();
    assert_eq!(once, often);
}
