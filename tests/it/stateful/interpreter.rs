//! Evaluates queries batch by batch, the slow way: it keeps all rows and computes from all of them.

use std::collections::{BTreeMap, BTreeSet};

use tidemill::OutputMode;

use super::model::{
    Agg, Bound, COLUMNS, Expr, Final, Frame, Group, NAMES, Over, Rel, SECOND, Sessions, Streams, Top,
    WindowFunction, unit,
};
use super::values::{Row, Value};

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

/// Floor division, for times before 1970.
fn floor(value: i64, length: i64) -> i64 {
    value - value.rem_euclid(length)
}

pub fn eval(expr: &Expr, row: &[Value], names: &Names) -> Value {
    match expr {
        Expr::Col(name) => {
            let position = names.iter().position(|(column, _)| column == name);
            row[position.unwrap_or_else(|| panic!("no column {name} in {names:?}"))].clone()
        }
        Expr::Int(value) => Value::Int(*value),
        Expr::Text(text) => Value::Text(text.clone()),
        Expr::IsNull(inner) => Value::Bool(eval(inner, row, names).is_null()),
        Expr::Op(left, operator, right) => {
            let (left, right) = (eval(left, row, names), eval(right, row, names));
            if left.is_null() || right.is_null() {
                // `FALSE AND NULL` is false, which a filter takes as null, too.
                return Value::Null;
            }
            match (*operator, &left, &right) {
                ("+", Value::Int(a), Value::Int(b)) => Value::Int(a + b),
                ("%", Value::Int(a), Value::Int(b)) => Value::Int(a % b),
                ("AND", Value::Bool(a), Value::Bool(b)) => Value::Bool(*a && *b),
                (">", a, b) => Value::Bool(a > b),
                ("<", a, b) => Value::Bool(a < b),
                ("=", a, b) => Value::Bool(a == b),
                ("<>", a, b) => Value::Bool(a != b),
                other => panic!("no operator {other:?}"),
            }
        }
        Expr::Bin(length, time) => match eval(time, row, names) {
            Value::Time(time) => Value::Time(floor(time, *length)),
            _ => Value::Null,
        },
        Expr::Trunc(name, time) => match eval(time, row, names) {
            Value::Time(time) => Value::Time(floor(time, unit(name))),
            _ => Value::Null,
        },
        Expr::Part(window, part) => match eval(window, row, names) {
            Value::List(ends) => ends[usize::from(*part == "end")].clone(),
            _ => Value::Null,
        },
        Expr::WindowTime(window) => match eval(window, row, names) {
            Value::List(ends) => Value::Time(ends[1].int().unwrap() - 1),
            _ => Value::Null,
        },
    }
}

fn is_true(expr: &Expr, row: &[Value], names: &Names) -> bool {
    eval(expr, row, names) == Value::Bool(true)
}

/// The windows of a time, as (start, end).
pub fn windows(time: i64, size: i64, slide: i64, start: i64) -> Vec<(i64, i64)> {
    let last = start + floor(time - start, slide);
    let starts = (0..).map(|back| last - back * slide).take_while(|start| start + size > time);
    starts.map(|start| (start, start + size)).collect()
}

/// The value of an aggregate over `rows`, in the order in which they came.
fn compute(agg: &Agg, rows: &[Row], names: &Names) -> Value {
    let rows = rows.iter().filter(|row| agg.filter.as_ref().is_none_or(|f| is_true(f, row, names)));
    let Some(argument) = &agg.argument else { return Value::Int(rows.count() as i64) };
    let mut all: Vec<Value> = rows.map(|row| eval(argument, row, names)).collect();
    if agg.distinct {
        let mut seen = BTreeSet::new();
        all.retain(|value| seen.insert(value.clone()));
    }
    let values: Vec<Value> = all.iter().filter(|value| !value.is_null()).cloned().collect();
    let floats: Vec<f64> = values.iter().filter_map(Value::float).collect();
    let number = floats.len() as f64;
    let mean = floats.iter().sum::<f64>() / number;
    let squares = floats.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    let bools = || values.iter().map(|value| *value == Value::Bool(true));
    match agg.function {
        "count" => Value::Int(values.len() as i64),
        "min" => values.into_iter().min().unwrap_or(Value::Null),
        "max" => values.into_iter().max().unwrap_or(Value::Null),
        "first_value" => all.first().cloned().unwrap_or(Value::Null),
        "last_value" => all.last().cloned().unwrap_or(Value::Null),
        "array_agg" if all.is_empty() => Value::Null,
        "array_agg" => Value::List(all),
        _ if values.is_empty() => Value::Null,
        "sum" => match values[0] {
            Value::Int(_) => Value::Int(values.iter().filter_map(Value::int).sum()),
            _ => Value::Float(floats.iter().sum()),
        },
        "avg" => Value::Float(mean),
        "stddev" if floats.len() < 2 => Value::Null,
        "stddev" => Value::Float((squares / (number - 1.0)).sqrt()),
        "var_pop" => Value::Float(squares / number),
        "median" => {
            let mut floats = floats;
            floats.sort_by(f64::total_cmp);
            let middle = floats.len() / 2;
            let low = if floats.len().is_multiple_of(2) { floats[middle - 1] } else { floats[middle] };
            Value::Float((low + floats[middle]) / 2.0)
        }
        "bool_and" => Value::Bool(bools().all(|value| value)),
        "bool_or" => Value::Bool(bools().any(|value| value)),
        "string_agg" => {
            let texts = values.iter().map(|value| match value {
                Value::Text(text) => text.as_str(),
                other => panic!("{other:?} is no text"),
            });
            Value::Text(texts.collect::<Vec<_>>().join("-"))
        }
        other => panic!("no aggregate {other}"),
    }
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

    fn group(&mut self, group: &Group, rows: Vec<Row>, batch: &Batch) -> Vec<Row> {
        let names = self.names.clone();
        let complete = batch.mode == OutputMode::Complete;
        let later = self.later();
        let finality: Vec<Final> = group.keys.iter().map(|(key, _)| group.input.part(key, &names)).collect();
        let all: Vec<usize> = (0..group.keys.len()).collect();
        let sets = group.sets.clone().unwrap_or_else(|| vec![all]);
        let final_at = |key: &Row| {
            if complete {
                return None;
            }
            let at = finality.iter().zip(key).filter_map(|(finality, value)| finality.of(value)).min();
            at.map(|at| at + later)
        };
        let mut changed = BTreeSet::new();
        if group.keys.is_empty() {
            self.groups.entry((0, vec![])).or_default();
            changed.insert((0, vec![]));
        }
        for row in rows {
            let values: Row = group.keys.iter().map(|(key, _)| eval(key, &row, &names)).collect();
            if self.is_late(final_at(&values), batch) {
                continue;
            }
            for (index, set) in sets.iter().enumerate() {
                let mut key = values.clone();
                (0..key.len())
                    .filter(|column| !set.contains(column))
                    .for_each(|column| key[column] = Value::Null);
                self.groups.entry((index, key.clone())).or_default().push(row.clone());
                changed.insert((index, key));
            }
        }
        let is_final =
            |key: &(usize, Row)| matches!((final_at(&key.1), batch.now), (Some(at), Some(now)) if at <= now);
        let given = self.groups.iter().filter(|(key, _)| match batch.mode {
            OutputMode::Append => is_final(key),
            OutputMode::Update => changed.contains(key),
            OutputMode::Complete => true,
        });
        let holds = |rows: &[Row]| match &group.having {
            None => true,
            Some((agg, operator, limit)) => match (compute(agg, rows, &names).int(), *operator) {
                (Some(value), ">") => value > *limit,
                (Some(value), "<") => value < *limit,
                _ => false,
            },
        };
        let out = given.filter(|(_, rows)| holds(rows)).map(|((_, key), rows)| {
            let values = group.aggregates.iter().map(|(agg, _)| compute(agg, rows, &names));
            key.iter().cloned().chain(values).collect()
        });
        let out = out.collect();
        self.groups.retain(|key, _| !is_final(key));
        out
    }

    /// The ranks of rows, in their order.
    fn ranks(&self, top: &Top, rows: &[Row]) -> Vec<(i64, Row)> {
        let columns: Vec<(usize, bool)> = top
            .order
            .iter()
            .map(|(name, descending)| (positions(std::slice::from_ref(name), &self.names)[0], *descending))
            .collect();
        let compare = |a: &Row, b: &Row| {
            let by = columns.iter().map(|(column, descending)| {
                match (a[*column].is_null(), b[*column].is_null()) {
                    (true, true) => std::cmp::Ordering::Equal,
                    (true, false) => std::cmp::Ordering::Greater,
                    (false, true) => std::cmp::Ordering::Less,
                    _ if *descending => b[*column].cmp(&a[*column]),
                    _ => a[*column].cmp(&b[*column]),
                }
            });
            by.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
        };
        let mut sorted = rows.to_vec();
        sorted.sort_by(compare);
        let mut ranks: Vec<(i64, Row)> = Vec::new();
        for (index, row) in sorted.into_iter().enumerate() {
            let rank = match ranks.last() {
                None => 1,
                Some((last, before)) if top.function != "row_number" && compare(before, &row).is_eq() => {
                    *last
                }
                Some((last, _)) if top.function == "dense_rank" => last + 1,
                Some(_) => index as i64 + 1,
            };
            ranks.push((rank, row));
        }
        ranks.retain(|(rank, _)| *rank <= top.limit);
        ranks
    }

    fn top(&mut self, top: &Top, rows: Vec<Row>, batch: &Batch) -> Vec<Row> {
        let (names, later) = (self.names.clone(), self.later());
        let keys = positions(&top.keys, &names);
        let complete = batch.mode == OutputMode::Complete;
        let final_at = |key: &Row| {
            let values = keys.iter().zip(key).filter_map(|(column, value)| names[*column].1.of(value));
            values.min().filter(|_| !complete).map(|at| at + later)
        };
        let mut before: BTreeMap<Row, Vec<(i64, Row)>> = BTreeMap::new();
        for row in rows {
            let key: Row = keys.iter().map(|column| row[*column].clone()).collect();
            if self.is_late(final_at(&key), batch) {
                continue;
            }
            let known = self.groups.get(&(0, key.clone())).cloned().unwrap_or_default();
            before.entry(key.clone()).or_insert_with(|| self.ranks(top, &known));
            self.groups.entry((0, key)).or_default().push(row);
        }
        let is_final =
            |key: &(usize, Row)| matches!((final_at(&key.1), batch.now), (Some(at), Some(now)) if at <= now);
        let mut out = Vec::new();
        for (key, rows) in &self.groups {
            for (rank, row) in self.ranks(top, rows) {
                let gives = match batch.mode {
                    OutputMode::Complete => true,
                    OutputMode::Append => is_final(key),
                    OutputMode::Update => {
                        before.get(&key.1).is_some_and(|known| !known.contains(&(rank, row.clone())))
                    }
                };
                if gives {
                    out.push(row.into_iter().chain([Value::Int(rank)]).collect());
                }
            }
        }
        self.groups.retain(|key, _| !is_final(key));
        out
    }

    /// When the place of a row is final.
    fn place_final(&self, over: &Over, row: &Row) -> Option<i64> {
        let (time, _) = over.time(true);
        let column = positions(&[time], &self.names)[0];
        self.names[column].1.of(&row[column]).map(|at| at + self.later())
    }

    /// How rows compare by the order of window functions.
    fn compare(&self, over: &Over, a: &Row, b: &Row) -> std::cmp::Ordering {
        let columns = positions(&over.order, &self.names).into_iter();
        let by = columns.map(|column| match (a[column].is_null(), b[column].is_null()) {
            (true, true) => std::cmp::Ordering::Equal,
            (true, false) => std::cmp::Ordering::Greater,
            (false, true) => std::cmp::Ordering::Less,
            _ => a[column].cmp(&b[column]),
        });
        by.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
    }

    fn over(&mut self, over: &Over, rows: Vec<Row>, batch: &Batch) -> Vec<Row> {
        let keys = positions(&over.keys, &self.names);
        let [_, rows_after, _, micros_after] = over.reach();
        let is_whole = over.time(true).1;
        for row in rows {
            if self.is_late(self.place_final(over, &row), batch) {
                continue;
            }
            let key: Row = keys.iter().map(|key| row[*key].clone()).collect();
            self.over.entry(key).or_default().push((row, false));
        }
        let mut all = std::mem::take(&mut self.over);
        let mut out = Vec::new();
        for rows in all.values_mut() {
            rows.sort_by(|(a, _), (b, _)| self.compare(over, a, b));
            let is_known = |row: &Row| {
                let after = if is_whole { 0 } else { micros_after };
                let at = self.place_final(over, row).map(|at| at + after);
                matches!((at, batch.now), (Some(at), Some(now)) if at <= now)
            };
            let known = match batch.mode {
                // All rows are there at once.
                OutputMode::Complete => rows.len(),
                _ => rows.iter().take_while(|(row, _)| is_known(row)).count(),
            };
            let waits = !is_whole && batch.mode != OutputMode::Complete;
            let mut end = known.saturating_sub(if waits { rows_after as usize } else { 0 });
            while end > 0 && end < known && self.compare(over, &rows[end - 1].0, &rows[end].0).is_eq() {
                end -= 1;
            }
            let sorted: Vec<Row> = rows.iter().map(|(row, _)| row.clone()).collect();
            for index in 0..end {
                if !std::mem::replace(&mut rows[index].1, true) {
                    let values = over
                        .functions
                        .iter()
                        .map(|(function, _)| self.window_function(over, function, &sorted, index));
                    out.push(sorted[index].iter().cloned().chain(values).collect());
                }
            }
        }
        if is_whole {
            all.values_mut().for_each(|rows| rows.retain(|(_, given)| !given));
        }
        self.over = all;
        self.now = batch.now;
        out
    }

    fn window_function(&self, over: &Over, function: &WindowFunction, rows: &[Row], index: usize) -> Value {
        let is_peer = |other: &Row| self.compare(over, other, &rows[index]).is_eq();
        let argument = |row: &Row| row[positions(&["v".to_string()], &self.names)[0]].clone();
        let at = |index: Option<usize>| index.and_then(|index| rows.get(index)).map_or(Value::Null, argument);
        let first_peer = rows.iter().position(is_peer).unwrap();
        match function {
            WindowFunction::Rank("row_number") => Value::Int(index as i64 + 1),
            WindowFunction::Rank("rank") => Value::Int(first_peer as i64 + 1),
            WindowFunction::Rank("dense_rank") => {
                let before = &rows[..=index];
                let steps = before.windows(2).filter(|pair| self.compare(over, &pair[0], &pair[1]).is_ne());
                Value::Int(steps.count() as i64 + 1)
            }
            WindowFunction::Rank("cume_dist") => {
                let up_to = rows.iter().filter(|row| self.compare(over, row, &rows[index]).is_le()).count();
                Value::Float(up_to as f64 / rows.len() as f64)
            }
            WindowFunction::Rank(other) => panic!("no rank {other}"),
            WindowFunction::Shift("lag", steps) => at(index.checked_sub(*steps as usize)),
            WindowFunction::Shift(_, steps) => at(Some(index + *steps as usize)),
            WindowFunction::Aggregate(agg, frame) => {
                let time = |row: &Row| row[positions(&over.order, &self.names)[0]].int();
                let is_in = |other: usize| match frame {
                    Frame::RunningRows => other <= index,
                    Frame::Running => other <= index || is_peer(&rows[other]),
                    Frame::Rows(before, after) => {
                        (index as i64 - before..=index as i64 + after).contains(&(other as i64))
                    }
                    Frame::Range(before, after) => match (time(&rows[other]), time(&rows[index])) {
                        (Some(other), Some(own)) => own - before <= other && other <= own + after,
                        (other, own) => other.is_none() && own.is_none(),
                    },
                };
                let framed: Vec<Row> =
                    (0..rows.len()).filter(|other| is_in(*other)).map(|other| rows[other].clone()).collect();
                compute(agg, &framed, &self.names)
            }
        }
    }

    /// How many rows window functions have to remember.
    fn remembered_by_window_functions(&self, over: &Over) -> usize {
        let [rows_before, _, micros_before, micros_after] = over.reach();
        let mut count = 0;
        for rows in self.over.values() {
            let given = rows.iter().filter(|(_, given)| *given).count();
            count += rows.len() - given;
            if over.time(true).1 {
                continue;
            }
            count += usize::from(given > 0 && over.counts());
            let is_over = |at: i64| self.now.is_some_and(|now| at + micros_after <= now);
            // The first that waits for rows behind it only.
            let pending = rows.get(given).and_then(|(row, _)| self.place_final(over, row));
            let pending = pending.filter(|at| is_over(*at));
            for (index, (row, _)) in rows[..given].iter().enumerate() {
                let is_near = given - index <= rows_before as usize;
                let last = self.place_final(over, row).map(|at| at + micros_before);
                let is_looked_back_to = |last: i64| !is_over(last) || pending.is_some_and(|at| at <= last);
                count += usize::from(is_near || micros_before > 0 && last.is_some_and(is_looked_back_to));
            }
        }
        count
    }

    fn group_by_session(&mut self, sessions: &Sessions, rows: Vec<Row>, batch: &Batch) -> Vec<Row> {
        let names = self.names.clone();
        let later = self.later();
        let time = positions(&["ts".to_string()], &names)[0];
        let is_timed = names[time].1 != Final::Never && batch.mode != OutputMode::Complete;
        let keys = positions(&sessions.keys, &names);
        for row in rows {
            let gap = match sessions.by_row {
                true => row[positions(&["v".to_string()], &names)[0]].int().map(|seconds| seconds * SECOND),
                false => Some(sessions.gap),
            };
            let (Some(start), Some(gap)) = (row[time].int(), gap.filter(|gap| *gap > 0)) else { continue };
            let (mut start, mut end) = (start, start + gap);
            if self.is_late(is_timed.then_some(end + later), batch) {
                continue;
            }
            let key: Row = keys.iter().map(|key| row[*key].clone()).collect();
            let mut all = vec![];
            // Every session of the key that it touches becomes one with it.
            let mut rest = vec![];
            for (other, times, rows) in std::mem::take(&mut self.sessions) {
                if other == key && times.0 <= end && start <= times.1 {
                    (start, end) = (start.min(times.0), end.max(times.1));
                    all.extend(rows);
                } else {
                    rest.push((other, times, rows));
                }
            }
            all.push(row);
            rest.push((key, (start, end), all));
            self.sessions = rest;
        }
        let is_final = |end: i64| is_timed && batch.now.is_some_and(|now| end + later <= now);
        let given = self
            .sessions
            .iter()
            .filter(|(_, (_, end), _)| batch.mode == OutputMode::Complete || is_final(*end));
        let out = given.map(|(key, (start, end), rows)| {
            let window = Value::List(vec![Value::Time(*start), Value::Time(*end)]);
            let values = sessions.aggregates.iter().map(|(agg, _)| compute(agg, rows, &names));
            std::iter::once(window).chain(key.iter().cloned()).chain(values).collect()
        });
        let out = out.collect();
        self.sessions.retain(|(_, (_, end), _)| !is_final(*end));
        out
    }

    /// How much later than their event time says the rows may come.
    fn later(&self) -> i64 {
        self.delays.first().copied().unwrap_or(0)
    }

    /// When nothing can match a row of a side any more, if that is ever so; before all time if nothing can
    /// ever.
    fn hopeless_at(&self, join: &Streams, side: usize, row: &Row) -> Option<i64> {
        let names = |side: usize| join.sides[side].columns(true);
        let key = |(left, right): &(String, String)| {
            positions(&[if side == 0 { left } else { right }.clone()], &names(side))[0]
        };
        let is_null = |column: usize| row[column].is_null();
        if join.on.iter().map(key).any(is_null) {
            return Some(i64::MIN);
        }
        if join.within.is_some() && is_null(positions(&["ts".to_string()], &names(side))[0]) {
            return Some(i64::MIN);
        }
        let later = self.delays[1 - side];
        self.bounds[side]
            .iter()
            .filter_map(|bound| Some(bound.finality.of(&row[bound.own])? + bound.offset + later))
            .min()
    }

    fn join(&mut self, join: &Streams, rows: [Vec<Row>; 2], batch: &Batch) -> Vec<Row> {
        for (side, rows) in rows.into_iter().enumerate() {
            self.sides[side].iter_mut().for_each(|kept| kept.is_new = false);
            for row in rows {
                // By what makes rows of the other side hopeless.
                let later = self.delays[side];
                let others = self.bounds[1 - side].iter();
                let final_at =
                    others.filter_map(|bound| Some(bound.finality.of(&row[bound.other])? + later)).min();
                if !self.is_late(final_at, batch) {
                    self.sides[side].push(Kept { row, is_new: true, matched: false, given: false });
                }
            }
        }
        self.now = batch.now;
        let widths = [0, 1].map(|side| join.sides[side].columns(true).len());
        let mut out = Vec::new();
        let places: Vec<(usize, usize)> = join
            .on
            .iter()
            .map(|(left, right)| {
                let place = |side: usize, name: &String| {
                    positions(std::slice::from_ref(name), &join.sides[side].columns(true))[0]
                };
                (place(0, left), place(1, right))
            })
            .collect();
        let times = join.within.map(|within| {
            (within, [0, 1].map(|side| positions(&["ts".to_string()], &join.sides[side].columns(true))[0]))
        });
        let both: Names = {
            let right = join.sides[1]
                .columns(true)
                .into_iter()
                .map(|(name, finality)| (format!("{name}2"), finality));
            join.sides[0].columns(true).into_iter().chain(right).collect()
        };
        let [left, right] = &mut self.sides;
        for one in left.iter_mut() {
            for other in right.iter_mut().filter(|other| one.is_new || other.is_new) {
                let equal =
                    places.iter().all(|(a, b)| !one.row[*a].is_null() && one.row[*a] == other.row[*b]);
                let in_time = times.is_none_or(|((before, after), [a, b])| {
                    match (one.row[a].int(), other.row[b].int()) {
                        (Some(a), Some(b)) => a - before <= b && b <= a + after,
                        _ => false,
                    }
                });
                let pair: Row = one.row.iter().chain(&other.row).cloned().collect();
                if equal && in_time && join.condition.as_ref().is_none_or(|more| is_true(more, &pair, &both))
                {
                    (one.matched, other.matched) = (true, true);
                    if join.kind.only().is_none() {
                        out.push(pair);
                    }
                }
            }
        }
        for side in [0, 1] {
            let nulls: Row = vec![Value::Null; widths[1 - side]];
            for index in 0..self.sides[side].len() {
                let kept = &self.sides[side][index];
                let hopeless = self.hopeless_at(join, side, &kept.row);
                let is_hopeless =
                    hopeless.is_some_and(|at| at == i64::MIN || batch.now.is_some_and(|now| at <= now));
                let gives = match join.kind.only() == Some(side) && join.kind.is_semi() {
                    true => kept.matched,
                    false => join.kind.waits()[side] && !kept.matched && is_hopeless,
                };
                if gives && !kept.given {
                    let row = kept.row.clone();
                    out.push(match (join.kind.only(), side) {
                        (Some(_), _) => row,
                        (None, 0) => row.into_iter().chain(nulls.clone()).collect(),
                        (None, _) => nulls.iter().cloned().chain(row).collect(),
                    });
                    self.sides[side][index].given = true;
                }
            }
        }
        out
    }

    /// How many rows a join needs to remember.
    fn still_matching(&self, join: &Streams) -> usize {
        let is_needed = |side: usize, kept: &Kept| {
            let decided = join.kind.only() == Some(side) && kept.matched;
            let hopeless = self.hopeless_at(join, side, &kept.row);
            !decided && hopeless.is_none_or(|at| at != i64::MIN && self.now.is_none_or(|now| at > now))
        };
        [0, 1].map(|side| self.sides[side].iter().filter(|kept| is_needed(side, kept)).count()).iter().sum()
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
