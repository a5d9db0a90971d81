//! The shapes, and what is fed to them.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use tidemill::prelude::OutputMode;

/// How the rows of a core come in a mode that is not complete.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Comes {
    /// Each once.
    Once,
    /// Those of the keys that a step had rows of, anew.
    Again,
    /// Each once, when its window is final.
    Final,
}

/// Rows `(k, n, ts)` of streams.
pub struct Core {
    pub name: &'static str,
    pub sql: &'static str,
    pub comes: Comes,
    /// Whether the bounded table is below its state; what was joined then is not joined anew.
    pub reads_table: bool,
}

const fn core(name: &'static str, sql: &'static str, comes: Comes) -> Core {
    Core { name, sql, comes, reads_table: false }
}

pub const CORES: [Core; 13] = [
    core("rows", "SELECT k, v AS n, ts FROM s", Comes::Once),
    core("filtered", "SELECT k, v AS n, ts FROM s WHERE v > 2", Comes::Once),
    core("groups", "SELECT k, count(*) AS n, max(ts) AS ts FROM s GROUP BY k", Comes::Again),
    core("times", "SELECT k, count(*) AS n, ts FROM s GROUP BY k, ts", Comes::Final),
    core("distinct", "SELECT DISTINCT k, v % 3 AS n, date_trunc('minute', ts) AS ts FROM s", Comes::Once),
    core("first", "SELECT DISTINCT ON (k) k, v AS n, ts FROM s", Comes::Once),
    core("limit", "SELECT k, v AS n, ts FROM s LIMIT 5", Comes::Once),
    core("offset", "SELECT k, v AS n, ts FROM s OFFSET 3", Comes::Once),
    core(
        "windows",
        "SELECT k, count(*) AS n, date_bin(INTERVAL '10 seconds', ts) AS ts FROM s \
         GROUP BY k, date_bin(INTERVAL '10 seconds', ts)",
        Comes::Final,
    ),
    core("values", "SELECT k, count(DISTINCT v) AS n, max(ts) AS ts FROM s GROUP BY k", Comes::Again),
    core("all", "SELECT 'a' AS k, count(*) AS n, max(ts) AS ts FROM s", Comes::Again),
    Core {
        name: "joined",
        sql: "SELECT s.k, count(*) AS n, max(ts) AS ts FROM s JOIN t ON s.k = t.k GROUP BY s.k",
        comes: Comes::Again,
        reads_table: true,
    },
    Core {
        name: "some",
        sql: "SELECT DISTINCT k, v AS n, ts FROM s WHERE k IN (SELECT k FROM t)",
        comes: Comes::Once,
        reads_table: true,
    },
];

/// What a top does with the rows of a core.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Works {
    /// Something with each row by itself.
    RowByRow,
    /// Something with all of them.
    OnAll,
    /// Takes so many rows at most, after leaving out so many, of those that are there without it.
    Limited(&'static str, usize, usize),
}

/// A query over a core, which is `{c}` in it; `{now}` is the time.
pub struct Top {
    pub sql: &'static str,
    /// The same for the reference, where DataFusion cannot plan `sql` without its optimiser as SQL means it.
    pub meaning: &'static str,
    pub works: Works,
}

const fn each(sql: &'static str) -> Top {
    Top { sql, meaning: sql, works: Works::RowByRow }
}

const fn all(sql: &'static str) -> Top {
    Top { sql, meaning: sql, works: Works::OnAll }
}

const fn limited(sql: &'static str, without: &'static str, skip: usize, fetch: usize) -> Top {
    Top { sql, meaning: sql, works: Works::Limited(without, skip, fetch) }
}

pub const TOPS: [Top; 36] = [
    each("SELECT k, n FROM {c} g"),
    each("SELECT g.k, g.n, t.c FROM {c} g JOIN t ON g.k = t.k"),
    each("SELECT g.k, g.n, t.c FROM t JOIN {c} g ON g.k = t.k"),
    each("SELECT g.k, g.n, t.c FROM {c} g JOIN (SELECT * FROM t WHERE c > 50) t ON g.k = t.k"),
    each("SELECT g.k, g.n, t.c FROM {c} g LEFT JOIN t ON g.k = t.k"),
    each("SELECT g.k, g.n, t.c FROM t RIGHT JOIN {c} g ON g.k = t.k"),
    each("SELECT g.k, g.n FROM {c} g LEFT SEMI JOIN t ON g.k = t.k"),
    each("SELECT g.k, g.n FROM {c} g LEFT ANTI JOIN t ON g.k = t.k"),
    each("SELECT k, n FROM {c} g WHERE k IN (SELECT k FROM t)"),
    Top {
        sql: "SELECT k, n FROM {c} g WHERE k NOT IN (SELECT k FROM t)",
        meaning: "SELECT k, n FROM {c} g CROSS JOIN (SELECT count(*) AS all_rows, count(k) AS with_key FROM t) x \
                  WHERE all_rows = 0 OR (all_rows = with_key AND k IS NOT NULL \
                  AND NOT EXISTS (SELECT 1 FROM t WHERE t.k = g.k))",
        works: Works::RowByRow,
    },
    each("SELECT k, n FROM {c} g WHERE EXISTS (SELECT 1 FROM t WHERE t.k = g.k)"),
    each("SELECT k, n FROM {c} g WHERE NOT EXISTS (SELECT 1 FROM t WHERE t.k = g.k AND t.c > g.n)"),
    each("SELECT k, n FROM {c} g WHERE EXISTS (SELECT 1 FROM t)"),
    each("SELECT g.k, g.n, t.c FROM {c} g CROSS JOIN t"),
    each("SELECT g.k, g.n, t.c FROM {c} g JOIN t ON g.n < t.c"),
    each("SELECT k, n FROM {c} g WHERE n >= (SELECT max(c) FROM t)"),
    each("SELECT k, n FROM {c} g WHERE (SELECT count(*) FROM t) > 1"),
    each("SELECT k, n FROM {c} g WHERE k > 'a' AND (SELECT count(*) FROM t) > 1"),
    each("SELECT k, n FROM {c} g WHERE ts <= {now}"),
    each("SELECT k, n FROM {c} g WHERE ts <= {now} AND k IN (SELECT k FROM t) AND n > 1"),
    each("SELECT k, n FROM {c} g WHERE {now} > TIMESTAMP '2024-01-01T00:00:40'"),
    each("SELECT g.k, g.n, t.c FROM {c} g JOIN t ON g.k = t.k AND ts <= {now}"),
    each("SELECT g.k, g.n, t.c FROM {c} g JOIN t ON g.k = t.k WHERE {now} > TIMESTAMP '2024-01-01T00:00:40'"),
    each(
        "SELECT g.k, g.n, t.c FROM {c} g LEFT JOIN t ON g.k = t.k AND {now} > TIMESTAMP '2024-01-01T00:00:40'",
    ),
    each("SELECT k, late FROM (SELECT k, ts <= {now} AS late FROM {c} g) WHERE late"),
    all("SELECT g.k, g.n, t.c FROM {c} g RIGHT JOIN t ON g.k = t.k"),
    all("SELECT g.k, g.n, t.c FROM {c} g FULL JOIN t ON g.k = t.k"),
    all("SELECT k FROM {c} g INTERSECT SELECT k FROM t"),
    all("SELECT k FROM {c} g EXCEPT SELECT k FROM t"),
    all("SELECT count(*) AS n FROM {c} g WHERE ts <= {now}"),
    all(
        "SELECT g.k, g.n, d.n AS m FROM {c} g JOIN (SELECT k, count(*) AS n FROM u GROUP BY k) d ON g.k = d.k",
    ),
    all("SELECT g.k, g.n, d.n AS m FROM {c} g FULL JOIN (SELECT DISTINCT k, 1 AS n FROM u) d ON g.k = d.k"),
    limited("SELECT k, n FROM {c} g LIMIT 2", "SELECT k, n FROM {c} g", 0, 2),
    limited("SELECT k, n FROM {c} g OFFSET 1", "SELECT k, n FROM {c} g", 1, usize::MAX),
    limited(
        "SELECT g.k, t.c FROM {c} g CROSS JOIN t LIMIT 3",
        "SELECT g.k, t.c FROM {c} g CROSS JOIN t",
        0,
        3,
    ),
    limited(
        "SELECT k, n FROM {c} g UNION ALL (SELECT k, count(*) AS n FROM u GROUP BY k) LIMIT 1",
        "SELECT k, n FROM {c} g UNION ALL (SELECT k, count(*) AS n FROM u GROUP BY k)",
        0,
        1,
    ),
];

impl Top {
    /// Whether it takes rows of certain keys only, whatever the time.
    pub fn chooses_keys(&self) -> bool {
        self.sql.contains("k > 'a'")
    }

    /// Whether it reads the column `n` of the core.
    pub fn reads_numbers(&self) -> bool {
        ["g.n", "k, n", " n >"].iter().any(|column| self.sql.contains(column))
    }

    /// The query over `core` at the time `now`.
    pub fn over(&self, core: &Core, now: &str) -> String {
        fill(self.sql, &format!("({})", core.sql), now)
    }
}

/// `sql` over the rows of `core` at the time `now`.
pub fn fill(sql: &str, core: &str, now: &str) -> String {
    sql.replace("{c}", core).replace("{now}", now)
}

/// What the bounded table has in each step: keys and numbers.
type Table = [&'static [(Option<&'static str>, i64)]; STEPS];

const FULL: &[(Option<&str>, i64)] = &[(Some("a"), 1), (Some("b"), 60), (Some("a"), 2), (Some("x"), 3)];
const NULLS: &[(Option<&str>, i64)] = &[(None, 1), (None, 2)];

/// The bounded tables, by name.
pub const TABLES: [(&str, Table); 5] = [
    ("full", [FULL; STEPS]),
    ("empty", [&[]; STEPS]),
    ("null-keyed", [NULLS; STEPS]),
    ("strange", [&[(Some("y"), 1)]; STEPS]),
    ("changing", [&[], FULL, NULLS, &[(Some("c"), 2), (Some("b"), 1)]]),
];

/// Of those in [`TABLES`], the one that is another in every step.
const CHANGING: usize = 4;

pub const STEPS: usize = 4;

/// A row of a stream: key, value, seconds after the beginning of 2024.
pub type Row = (Option<&'static str>, i64, i64);

/// What the streams `s` and `u` are given in each step. No row is late.
const ROWS: [[&[Row]; 2]; STEPS] = [
    [&[(Some("a"), 1, 1), (Some("b"), 2, 3), (Some("a"), 3, 4), (None, 1, 6)], &[]],
    [&[(Some("c"), 5, 24), (Some("a"), 1, 25), (Some("d"), 2, 21)], &[(Some("a"), 1, 22)]],
    [&[], &[(Some("d"), 2, 44), (None, 2, 45)]],
    [&[(Some("b"), 2, 64), (None, 9, 63), (Some("e"), 7, 66), (Some("e"), 7, 66)], &[(Some("e"), 1, 64)]],
];

/// The time in each step, in seconds after the beginning of 2024; clocks are set back, too.
const NOW: [i64; STEPS] = [3, 70, 24, 65];

/// How far the watermark of both streams is behind, in seconds.
pub const DELAY: i64 = 5;

/// 2024, in milliseconds since the epoch.
const BEGIN_MS: i64 = 1_704_067_200_000;

/// What there is when a step is done.
#[derive(Clone)]
pub struct Fed {
    /// All rows of each stream so far, and before the step.
    pub rows: [Vec<Row>; 2],
    pub before: [Vec<Row>; 2],
    pub table: &'static [(Option<&'static str>, i64)],
    pub table_changes: bool,
    pub now_ms: i64,
}

impl Fed {
    /// The steps with a table.
    pub fn steps(table: usize) -> Vec<Self> {
        let mut rows = [vec![], vec![]];
        (0..STEPS)
            .map(|step| {
                let before = rows.clone();
                (0..2).for_each(|stream| rows[stream].extend(ROWS[step][stream]));
                Self {
                    rows: rows.clone(),
                    before,
                    table: TABLES[table].1[step],
                    table_changes: table == CHANGING,
                    now_ms: BEGIN_MS + NOW[step] * 1000,
                }
            })
            .collect()
    }

    /// The rows of a stream that come in the step.
    pub fn new_rows(&self, stream: usize) -> &[Row] {
        &self.rows[stream][self.before[stream].len()..]
    }
}

/// Every core with every top, table and mode.
pub fn pairs() -> impl Iterator<Item = (&'static Core, &'static Top, usize, OutputMode)> {
    let modes = [OutputMode::Complete, OutputMode::Append, OutputMode::Update];
    CORES.iter().flat_map(move |core| {
        TOPS.iter().flat_map(move |top| {
            let tables = 0..TABLES.len();
            tables.flat_map(move |table| modes.into_iter().map(move |mode| (core, top, table, mode)))
        })
    })
}

/// The columns of the streams.
pub fn stream_schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let columns = [("k", DataType::Utf8), ("v", DataType::Int64), ("ts", time)];
    Arc::new(Schema::new(columns.map(|(name, kind)| Field::new(name, kind, true)).to_vec()))
}

/// Rows of a stream as columns.
pub fn stream_batch(rows: &[Row]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter(rows.iter().map(|row| row.0))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
        Arc::new(TimestampMicrosecondArray::from_iter_values(
            rows.iter().map(|row| (BEGIN_MS + row.2 * 1000) * 1000),
        )),
    ];
    RecordBatch::try_new(stream_schema(), columns).unwrap()
}

/// Rows of the bounded table as columns.
pub fn table_batch(rows: &[(Option<&str>, i64)]) -> RecordBatch {
    let fields = [("k", DataType::Utf8), ("c", DataType::Int64)];
    let schema = Schema::new(fields.map(|(name, kind)| Field::new(name, kind, true)).to_vec());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter(rows.iter().map(|row| row.0))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}
