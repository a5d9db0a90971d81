//! Evaluates queries batch by batch, the slow way: it keeps all rows and computes from all of them.

mod expressions;
mod groups;
mod joins;
mod ranks;

use std::collections::BTreeMap;

use tidemill::OutputMode;

use super::model::{Agg, Bound, COLUMNS, Expr, Final, NAMES, Rel};
use super::values::{Row, Value};
use expressions::is_true;
pub use expressions::{eval, windows};

type Names = Vec<(String, Final)>;

/// What an operator needs to know of a batch.
#[derive(Debug)]
struct Batch<'a> {
    /// The new rows of each stream.
    rows: &'a [Vec<Row>],
    /// What is final by then is late; microseconds.
    late: Option<i64>,
    /// What is final by then is given out and forgotten; microseconds.
    now: Option<i64>,
    mode: OutputMode,
}

/// One operator with all it has seen.
#[derive(Debug)]
struct Op {
    rel: Rel,
    inputs: Vec<Op>,
    /// The columns of the first input, or of the rows of a stream.
    names: Names,
    /// Above an aggregation that gives its whole result: nothing is remembered.
    whole_input: bool,
    /// By grouping set and key: all rows.
    groups: BTreeMap<(usize, Row), Vec<Row>>,
    /// Keys, and when they are final.
    seen: BTreeMap<Row, Option<i64>>,
    count: usize,
    late: u64,
    /// Microseconds.
    delay: i64,
    /// How much later than their event time says the rows of each input may come; microseconds.
    delays: Vec<i64>,
    /// Of a join: all rows of each side.
    sides: [Vec<Kept>; 2],
    /// Of each side of a join.
    bounds: [Vec<Bound>; 2],
    /// Groups by sessions: the key, the start and end, and the rows of each.
    sessions: Vec<(Row, (i64, i64), Vec<Row>)>,
    /// Of window functions: all rows of each key, and whether they were given.
    over: BTreeMap<Row, Vec<(Row, bool)>>,
    /// What is given out and forgotten up to the last batch.
    now: Option<i64>,
}

/// A row of a join.
#[derive(Debug)]
struct Kept {
    row: Row,
    is_new: bool,
    matched: bool,
    given: bool,
}

impl Op {
    fn new(rel: &Rel, delays: Option<&[i64]>, mode: OutputMode) -> Self {
        let inputs: Vec<Op> = rel.inputs().into_iter().map(|input| Op::new(input, delays, mode)).collect();
        let names = match rel.inputs().first() {
            Some(input) => input.columns(delays.is_some()),
            None => Rel::Stream(0).columns(delays.is_some()),
        };
        let has_group = rel.inputs().iter().any(|input| {
            contains(input, &|rel| matches!(rel, Rel::Group(_) | Rel::Sessions(_) | Rel::Top(_)))
        });
        let delay = match (rel, delays) {
            (Rel::Within(stream, _), Some(delays)) => delays[*stream] * 1000,
            _ => 0,
        };
        let bounds = match rel {
            Rel::Streams(join) => [0, 1].map(|side| join.bounds(side, delays.is_some())),
            _ => [vec![], vec![]],
        };
        Self {
            delays: rel.inputs().into_iter().map(Rel::delay).collect(),
            sides: [vec![], vec![]],
            sessions: vec![],
            over: BTreeMap::new(),
            bounds,
            now: None,
            rel: rel.clone(),
            inputs,
            names,
            whole_input: mode == OutputMode::Complete && has_group,
            groups: BTreeMap::new(),
            seen: BTreeMap::new(),
            count: 0,
            late: 0,
            delay,
        }
    }

    /// What comes out of the operator for a batch.
    fn step(&mut self, batch: &Batch) -> Vec<Row> {
        if self.whole_input {
            self.groups.clear();
            self.seen.clear();
            self.count = 0;
        }
        let mut inputs: Vec<Vec<Row>> = self.inputs.iter_mut().map(|input| input.step(batch)).collect();
        let rows = if inputs.is_empty() { Vec::new() } else { inputs.remove(0) };
        let rel = self.rel.clone();
        let names = self.names.clone();
        match &rel {
            Rel::Stream(stream) => batch.rows[*stream].clone(),
            Rel::Union(..) => rows.into_iter().chain(inputs.remove(0)).collect(),
            Rel::Filter(_, condition) => {
                rows.into_iter().filter(|row| is_true(condition, row, &names)).collect()
            }
            Rel::Project(_, columns) => {
                let project =
                    |row: Row| columns.iter().map(|(expr, _)| eval(expr, &row, &names)).collect::<Row>();
                rows.into_iter().map(project).collect()
            }
            Rel::Windowed { time, size, slide, start, .. } => {
                let mut out = Vec::new();
                for row in rows {
                    let Value::Time(time) = eval(time, &row, &names) else { continue };
                    for (start, end) in windows(time, *size, *slide, *start) {
                        let window = Value::List(vec![Value::Time(start), Value::Time(end)]);
                        out.push(row.iter().cloned().chain([window]).collect());
                    }
                }
                out
            }
            Rel::Hop { stream, size, slide } => {
                let mut out = Vec::new();
                for row in &batch.rows[*stream] {
                    let Value::Time(time) = row[1] else { continue };
                    for (start, end) in windows(time, *size, *slide, 0) {
                        let times = [start, end, end - 1].map(Value::Time);
                        out.push(row.iter().cloned().chain(times).collect());
                    }
                }
                out
            }
            Rel::Group(group) => self.group(group, rows, batch),
            Rel::Top(top) => self.top(top, rows, batch),
            Rel::Over(over) => self.over(over, rows, batch),
            Rel::Sessions(sessions) => self.group_by_session(sessions, rows, batch),
            Rel::Streams(join) => self.join(join, [rows, inputs.remove(0)], batch),
            Rel::Distinct(_) => {
                let all: Vec<usize> = (0..names.len()).collect();
                self.deduplicate(rows, &all, None, batch)
            }
            Rel::DistinctOn(_, columns) => {
                let columns = positions(columns, &names);
                self.deduplicate(rows, &columns, None, batch)
            }
            Rel::Within(stream, columns) => {
                let columns = positions(columns, &names);
                self.deduplicate(batch.rows[*stream].clone(), &columns, Some(1), batch)
            }
            Rel::Limit(_, skip, fetch) => {
                let mut out = Vec::new();
                for row in rows {
                    if self.count >= *skip && fetch.is_none_or(|fetch| self.count < skip + fetch) {
                        out.push(row);
                    }
                    self.count += 1;
                }
                out
            }
            Rel::Sort(_, columns, fetch) => {
                let mut rows = rows;
                rows.sort_by(|a, b| {
                    let mut order = std::cmp::Ordering::Equal;
                    for (name, descending) in columns {
                        let column = positions(std::slice::from_ref(name), &names)[0];
                        let next = match (a[column].is_null(), b[column].is_null()) {
                            (false, false) if *descending => b[column].cmp(&a[column]),
                            _ => a[column].cmp(&b[column]),
                        };
                        order = order.then(next);
                    }
                    order
                });
                rows.truncate(fetch.unwrap_or(usize::MAX));
                rows
            }
            Rel::Join(_, left) => {
                let name = positions(&["name".to_string()], &names)[0];
                let mut out = Vec::new();
                for row in rows {
                    let is_match = |key: &str| row[name] == Value::Text(key.to_string());
                    let matches: Vec<i64> =
                        NAMES.iter().filter(|(key, _)| is_match(key)).map(|(_, factor)| *factor).collect();
                    if matches.is_empty() && *left {
                        out.push(row.iter().cloned().chain([Value::Null]).collect());
                    }
                    for factor in matches {
                        out.push(row.iter().cloned().chain([Value::Int(factor)]).collect());
                    }
                }
                out
            }
        }
    }

    fn deduplicate(
        &mut self,
        rows: Vec<Row>,
        columns: &[usize],
        time: Option<usize>,
        batch: &Batch,
    ) -> Vec<Row> {
        let mut out = Vec::new();
        for row in rows {
            let final_at = match time {
                Some(time) => row[time].int(),
                None => columns.iter().filter_map(|column| self.names[*column].1.of(&row[*column])).min(),
            };
            let final_at = final_at.map(|at| at + self.later());
            if self.is_late(final_at, batch) {
                continue;
            }
            let key: Row = columns.iter().map(|column| row[*column].clone()).collect();
            if let std::collections::btree_map::Entry::Vacant(vacant) = self.seen.entry(key) {
                // A row without a time is remembered as if it were of 1970.
                let from = if time.is_some() { Some(final_at.unwrap_or(0)) } else { final_at };
                vacant.insert(from.map(|at| at + self.delay));
                out.push(row);
            }
        }
        if let Some(now) = batch.now {
            self.seen.retain(|_, final_at| final_at.is_none_or(|at| at > now));
        }
        out
    }

    fn is_late(&mut self, final_at: Option<i64>, batch: &Batch) -> bool {
        let is_late = matches!((final_at, batch.late), (Some(at), Some(late)) if at <= late);
        self.late += u64::from(is_late);
        is_late
    }

    /// How much later than their event time says the rows may come.
    fn later(&self) -> i64 {
        self.delays.first().copied().unwrap_or(0)
    }

    fn all(&self) -> Vec<&Op> {
        std::iter::once(self).chain(self.inputs.iter().flat_map(Op::all)).collect()
    }
}

/// Whether the state of an aggregate has several rows per group.
fn grows(agg: &Agg) -> bool {
    matches!(agg.function, "array_agg" | "string_agg" | "median")
}

fn positions(columns: &[String], names: &Names) -> Vec<usize> {
    columns.iter().map(|name| names.iter().position(|(column, _)| column == name).unwrap()).collect()
}

fn contains(rel: &Rel, found: &dyn Fn(&Rel) -> bool) -> bool {
    found(rel) || rel.inputs().iter().any(|input| contains(input, found))
}

/// The newest event time that each watermark of the query sees, in the order of its streams.
/// Filters that do not ask for the time itself are below the watermark.
fn newest(rel: &Rel, conditions: &[&Expr], rows: &[Vec<Row>], out: &mut Vec<Option<i64>>) {
    match rel {
        Rel::Stream(stream) | Rel::Hop { stream, .. } | Rel::Within(stream, _) => {
            let names: Names = COLUMNS.iter().map(|name| ((*name).to_string(), Final::Never)).collect();
            let seen = rows[*stream].iter().filter(|row| conditions.iter().all(|c| is_true(c, row, &names)));
            out.push(seen.filter_map(|row| row[1].int()).max());
        }
        Rel::Filter(input, condition) => {
            let mut conditions = conditions.to_vec();
            if !condition.sql().contains("ts") {
                conditions.push(condition);
            }
            newest(input, &conditions, rows, out);
        }
        _ => rel.inputs().into_iter().for_each(|input| newest(input, &[], rows, out)),
    }
}

/// A query with all it has seen.
#[derive(Debug)]
pub struct Interpreter {
    op: Op,
    mode: OutputMode,
    /// Per stream, in milliseconds.
    delays: Option<Vec<i64>>,
    take_greatest: bool,
    /// Per watermark of the plan.
    nodes: Vec<Option<i64>>,
    /// The watermark of the last batch, in milliseconds.
    watermark_ms: i64,
    next_ms: i64,
    batches: usize,
}

impl Interpreter {
    /// `delays` in milliseconds, per stream.
    pub fn new(rel: &Rel, mode: OutputMode, delays: Option<&[i64]>, take_greatest: bool) -> Self {
        Self {
            op: Op::new(rel, delays, mode),
            mode,
            delays: delays.map(<[i64]>::to_vec),
            take_greatest,
            nodes: Vec::new(),
            watermark_ms: 0,
            next_ms: 0,
            batches: 0,
        }
    }

    /// Runs a batch of these rows, per stream; gives what it gives out.
    pub fn batch(&mut self, rows: &[Vec<Row>]) -> Vec<Row> {
        let at = |ms: i64| (ms > 0).then_some(ms * 1000);
        let late = at(self.watermark_ms);
        self.watermark_ms = self.next_ms;
        let now = at(self.watermark_ms);
        let out = self.op.step(&Batch { rows, late, now, mode: self.mode });
        self.batches += 1;
        self.see(rows);
        out
    }

    fn see(&mut self, rows: &[Vec<Row>]) {
        let Some(delays) = &self.delays else { return };
        let mut newest_times = Vec::new();
        newest(&self.op.rel, &[], rows, &mut newest_times);
        self.nodes.resize(newest_times.len(), None);
        for (index, (node, time)) in self.nodes.iter_mut().zip(newest_times).enumerate() {
            let delay = delays[index.min(delays.len() - 1)];
            let reached = time.map(|time| time.div_euclid(1000) - delay);
            *node = (*node).max(reached);
        }
        let nodes = self.nodes.iter().map(|node| node.unwrap_or(0));
        let all = if self.take_greatest { nodes.max() } else { nodes.min() };
        self.next_ms = self.next_ms.max(all.unwrap_or(0));
    }

    /// The watermark of the last batch, in milliseconds; 0 if there is none.
    pub fn watermark_ms(&self) -> i64 {
        self.watermark_ms
    }

    /// Whether a batch without rows follows the last.
    pub fn goes_on(&self) -> bool {
        self.next_ms > self.watermark_ms && self.waits()
    }

    /// Whether there is an operator that waits for the watermark.
    pub fn waits(&self) -> bool {
        self.op.all().iter().any(|op| match &op.rel {
            Rel::Group(group) => {
                let keys = group.keys.iter().map(|(key, _)| group.input.part(key, &op.names));
                self.mode != OutputMode::Complete && keys.into_iter().any(|key| key != Final::Never)
            }
            Rel::Within(..) => true,
            Rel::Top(top) => {
                let mut keys = positions(&top.keys, &op.names).into_iter();
                self.mode != OutputMode::Complete && keys.any(|key| op.names[key].1 != Final::Never)
            }
            Rel::Sessions(_) => {
                self.mode != OutputMode::Complete
                    && op.names.iter().any(|(_, finality)| *finality != Final::Never)
            }
            Rel::Over(over) => {
                let (time, _) = over.time(true);
                op.names[positions(&[time], &op.names)[0]].1 != Final::Never
            }
            Rel::Streams(_) => op.bounds.iter().any(|bounds| !bounds.is_empty()),
            Rel::Distinct(_) => op.names.iter().any(|(_, finality)| *finality != Final::Never),
            Rel::DistinctOn(_, columns) => {
                positions(columns, &op.names).iter().any(|column| op.names[*column].1 != Final::Never)
            }
            _ => false,
        })
    }

    /// How many rows were late so far, over all operators.
    pub fn late(&self) -> u64 {
        self.op.all().iter().map(|op| op.late).sum()
    }

    /// How many keys are remembered, if only one operator remembers anything, and none of its
    /// aggregates needs a state of its own.
    pub fn remembered(&self) -> Option<usize> {
        let all = self.op.all();
        let mut stateful = all.iter().filter(|op| {
            matches!(
                op.rel,
                Rel::Group(_)
                    | Rel::Distinct(_)
                    | Rel::DistinctOn(..)
                    | Rel::Within(..)
                    | Rel::Limit(..)
                    | Rel::Streams(_)
                    | Rel::Sessions(_)
                    | Rel::Top(_)
                    | Rel::Over(_)
            )
        });
        let (op, None) = (stateful.next()?, stateful.next()) else { return None };
        match &op.rel {
            Rel::Limit(..) => None,
            Rel::Group(group) if group.aggregates.iter().any(|(agg, _)| agg.distinct || grows(agg)) => None,
            Rel::Group(_) => Some(op.groups.len()),
            Rel::Streams(join) => Some(op.still_matching(join)),
            Rel::Sessions(_) => Some(op.sessions.len()),
            Rel::Over(over) => Some(op.remembered_by_window_functions(over)),
            Rel::Top(top) => Some(op.groups.values().map(|rows| op.ranks(top, rows).len()).sum()),
            _ => Some(op.seen.len()),
        }
    }
}
