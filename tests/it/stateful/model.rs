//! Queries, as the interpreter sees them, and their SQL.

use super::values::Value;

/// Microseconds.
pub const SECOND: i64 = 1_000_000;

/// The columns of every stream.
pub const COLUMNS: [&str; 7] = ["id", "ts", "k", "name", "v", "f", "b"];

/// A value computed from a row.
#[derive(Debug, Clone)]
pub enum Expr {
    Col(String),
    Int(i64),
    Text(String),
    /// `+`, `%`, `>`, `<`, `=`, `<>`, `AND`, of integers or texts.
    Op(Box<Expr>, &'static str, Box<Expr>),
    IsNull(Box<Expr>),
    /// `date_bin`, to whole lengths since the epoch; microseconds.
    Bin(i64, Box<Expr>),
    /// `date_trunc` to a second, minute, hour or day.
    Trunc(&'static str, Box<Expr>),
    /// Start or end of a window.
    Part(Box<Expr>, &'static str),
    /// The last moment of a window.
    WindowTime(Box<Expr>),
}

pub fn col(name: &str) -> Expr {
    Expr::Col(name.into())
}

pub fn op(left: Expr, operator: &'static str, right: Expr) -> Expr {
    Expr::Op(Box::new(left), operator, Box::new(right))
}

pub fn bin(seconds: i64) -> Expr {
    Expr::Bin(seconds * SECOND, Box::new(col("ts")))
}

/// When a row with a value is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Final {
    Never,
    /// So long after the value; microseconds.
    After(i64),
    /// At the end of the window.
    End,
}

impl Final {
    /// When a row with `value` is final, if ever; microseconds since the epoch.
    pub fn of(self, value: &Value) -> Option<i64> {
        match (self, value) {
            (Final::After(length), Value::Time(time)) => Some(time + length),
            (Final::End, Value::List(window)) => window[1].int(),
            _ => None,
        }
    }
}

/// The length of a unit of `date_trunc`, in microseconds.
pub fn unit(name: &str) -> i64 {
    match name {
        "second" => SECOND,
        "minute" => 60 * SECOND,
        "hour" => 3600 * SECOND,
        "day" => 86400 * SECOND,
        _ => panic!("no unit: {name}"),
    }
}

impl Expr {
    pub fn sql(&self) -> String {
        match self {
            Expr::Col(name) => name.clone(),
            Expr::Int(value) => value.to_string(),
            Expr::Text(text) => format!("'{text}'"),
            Expr::Op(left, operator, right) => format!("({} {operator} {})", left.sql(), right.sql()),
            Expr::IsNull(inner) => format!("({} IS NULL)", inner.sql()),
            Expr::Bin(length, time) => {
                format!("date_bin(INTERVAL '{} milliseconds', {})", length / 1000, time.sql())
            }
            Expr::Trunc(unit, time) => format!("date_trunc('{unit}', {})", time.sql()),
            Expr::Part(window, part) => format!("{}['{part}']", window.sql()),
            Expr::WindowTime(window) => format!("window_time({})", window.sql()),
        }
    }

    /// With other names of columns.
    fn renamed(&self, name: &dyn Fn(&str) -> String) -> Self {
        match self {
            Expr::Col(column) => Expr::Col(name(column)),
            Expr::Op(left, operator, right) => {
                Expr::Op(Box::new(left.renamed(name)), operator, Box::new(right.renamed(name)))
            }
            other => other.clone(),
        }
    }

    /// What has to be true so that it is.
    pub fn parts(&self) -> Vec<&Expr> {
        match self {
            Expr::Op(left, "AND", right) => left.parts().into_iter().chain(right.parts()).collect(),
            part => vec![part],
        }
    }

    /// Whether it reads nothing but `columns`.
    pub fn is_over(&self, columns: &[(String, Final)]) -> bool {
        match self {
            Expr::Col(name) => columns.iter().any(|(column, _)| column == name),
            Expr::Int(_) | Expr::Text(_) => true,
            Expr::Op(left, _, right) => left.is_over(columns) && right.is_over(columns),
            Expr::IsNull(inner)
            | Expr::Bin(_, inner)
            | Expr::Trunc(_, inner)
            | Expr::Part(inner, _)
            | Expr::WindowTime(inner) => inner.is_over(columns),
        }
    }

    /// When rows are final by their value of this expression.
    pub fn finality(&self, columns: &[(String, Final)]) -> Final {
        let exact = |time: &Expr, length: i64| match time.finality(columns) {
            Final::After(0) => Final::After(length),
            _ => Final::Never,
        };
        match self {
            Expr::Col(name) => {
                columns.iter().find(|(column, _)| column == name).map_or(Final::Never, |c| c.1)
            }
            Expr::Bin(length, time) => exact(time, *length),
            Expr::Trunc(name, time) => exact(time, unit(name)),
            Expr::Part(window, "end") if window.finality(columns) == Final::End => Final::After(0),
            Expr::WindowTime(window) if window.finality(columns) == Final::End => Final::After(0),
            _ => Final::Never,
        }
    }
}

/// An aggregate function over an expression.
#[derive(Debug, Clone)]
pub struct Agg {
    pub function: &'static str,
    /// `None` for `count(*)`.
    pub argument: Option<Expr>,
    pub distinct: bool,
    pub filter: Option<Expr>,
}

pub fn agg(function: &'static str, argument: &str) -> Agg {
    let argument = (argument != "*").then(|| col(argument));
    Agg { function, argument, distinct: false, filter: None }
}

impl Agg {
    pub fn distinct(mut self) -> Self {
        self.distinct = true;
        self
    }

    pub fn filter(mut self, filter: Expr) -> Self {
        self.filter = Some(filter);
        self
    }

    pub fn sql(&self) -> String {
        let distinct = if self.distinct { "DISTINCT " } else { "" };
        let argument = self.argument.as_ref().map_or_else(|| "*".into(), Expr::sql);
        let separator = if self.function == "string_agg" { ", '-'" } else { "" };
        let filter =
            self.filter.as_ref().map_or_else(String::new, |f| format!(" FILTER (WHERE {})", f.sql()));
        format!("{}({distinct}{argument}{separator}){filter}", self.function)
    }
}

/// A query.
#[derive(Debug, Clone)]
pub enum Rel {
    /// One of the streams.
    Stream(usize),
    /// All rows of both.
    Union(Box<Rel>, Box<Rel>),
    Filter(Box<Rel>, Expr),
    Project(Box<Rel>, Vec<(Expr, String)>),
    /// All columns, and the windows `w` that a time is in.
    Windowed {
        input: Box<Rel>,
        time: Expr,
        size: i64,
        slide: i64,
        start: i64,
    },
    /// All columns, and `window_start`, `window_end` and `window_time`, by TUMBLE or HOP.
    Hop {
        stream: usize,
        size: i64,
        slide: i64,
    },
    Group(Box<Group>),
    Distinct(Box<Rel>),
    DistinctOn(Box<Rel>, Vec<String>),
    /// `drop_duplicates_within_watermark` of a stream, which has no SQL.
    Within(usize, Vec<String>),
    Limit(Box<Rel>, usize, Option<usize>),
    /// Columns with "descending"; nulls as greatest.
    Sort(Box<Rel>, Vec<(String, bool)>, Option<usize>),
    /// With the table `names (name, factor)`; or all rows of the left side too.
    Join(Box<Rel>, bool),
    /// Of two streams.
    Streams(Box<Streams>),
    /// The rows with the first ranks, as `n`.
    Top(Box<Top>),
    /// By `session_window(ts, gap)` as `w`, and other keys.
    Sessions(Box<Sessions>),
    /// All columns, and the values of window functions.
    Over(Box<Over>),
}

/// Window functions, all over the same.
#[derive(Debug, Clone)]
pub struct Over {
    pub input: Rel,
    pub keys: Vec<String>,
    /// Ascending, nulls last.
    pub order: Vec<String>,
    pub functions: Vec<(WindowFunction, String)>,
}

#[derive(Debug, Clone)]
pub enum WindowFunction {
    /// `row_number`, `rank`, `dense_rank`, `ntile(3)` and the like.
    Rank(&'static str),
    /// So many rows after, or before.
    Shift(&'static str, i64),
    Aggregate(Agg, Frame),
}

/// Which rows an aggregate is of.
#[derive(Debug, Clone, Copy)]
pub enum Frame {
    /// Up to the row, and those equal to it by the order.
    Running,
    /// Up to the row.
    RunningRows,
    Rows(i64, i64),
    /// Microseconds before and after.
    Range(i64, i64),
}

impl WindowFunction {
    fn sql(&self) -> (String, String) {
        match self {
            WindowFunction::Rank(name) => (format!("{name}()"), String::new()),
            WindowFunction::Shift(name, steps) => (format!("{name}(v, {steps})"), String::new()),
            WindowFunction::Aggregate(agg, frame) => {
                let frame = match frame {
                    Frame::Running => String::new(),
                    Frame::RunningRows => " ROWS UNBOUNDED PRECEDING".into(),
                    Frame::Rows(before, after) => {
                        format!(" ROWS BETWEEN {before} PRECEDING AND {after} FOLLOWING")
                    }
                    Frame::Range(before, after) => format!(
                        " RANGE BETWEEN INTERVAL '{} milliseconds' PRECEDING AND INTERVAL '{} milliseconds' FOLLOWING",
                        before / 1000,
                        after / 1000
                    ),
                };
                (agg.sql(), frame)
            }
        }
    }

    /// Rows and microseconds before and after.
    fn reach(&self) -> [i64; 4] {
        match self {
            WindowFunction::Shift("lag", steps) => [*steps, 0, 0, 0],
            WindowFunction::Shift(_, steps) => [0, *steps, 0, 0],
            WindowFunction::Aggregate(_, Frame::Rows(before, after)) => [*before, *after, 0, 0],
            WindowFunction::Aggregate(_, Frame::Range(before, after)) => [0, 0, *before, *after],
            _ => [0; 4],
        }
    }
}

impl Over {
    /// Rows before and after, and microseconds before and after.
    pub fn reach(&self) -> [i64; 4] {
        let all = self.functions.iter().map(|(function, _)| function.reach());
        all.fold([0; 4], |a, b| [0, 1, 2, 3].map(|index| a[index].max(b[index])))
    }

    /// Whether it counts from the first row of a key on.
    pub fn counts(&self) -> bool {
        self.functions.iter().any(|(function, _)| {
            matches!(
                function,
                WindowFunction::Rank(_) | WindowFunction::Aggregate(_, Frame::Running | Frame::RunningRows)
            )
        })
    }

    /// Which column tells that rows have come to an end, by which all rows of a key are final at once or not.
    pub fn time(&self, watermark: bool) -> (String, bool) {
        let columns = self.input.columns(watermark);
        let is_final =
            |key: &&String| columns.iter().any(|(name, finality)| name == *key && *finality != Final::Never);
        match self.keys.iter().find(is_final) {
            Some(key) => (key.clone(), true),
            None => (self.order[0].clone(), false),
        }
    }

    fn sql(&self) -> String {
        let over = |frame: &str| {
            let keys = match self.keys.is_empty() {
                true => String::new(),
                false => format!("PARTITION BY {} ", self.keys.join(", ")),
            };
            format!("OVER ({keys}ORDER BY {}{frame})", self.order.join(", "))
        };
        let functions = self.functions.iter().map(|(function, name)| {
            let (call, frame) = function.sql();
            format!("{call} {} AS {name}", over(&frame))
        });
        let functions: Vec<String> = functions.collect();
        format!("SELECT *, {} FROM {}", functions.join(", "), self.input.table())
    }
}

/// The first rows of each key.
#[derive(Debug, Clone)]
pub struct Top {
    pub input: Rel,
    pub function: &'static str,
    pub keys: Vec<String>,
    /// Columns with "descending"; nulls last.
    pub order: Vec<(String, bool)>,
    pub limit: i64,
    /// Whether it is written with QUALIFY.
    pub qualify: bool,
}

impl Top {
    fn sql(&self) -> String {
        let direction = |descending: &bool| if *descending { "DESC" } else { "ASC" };
        let order = self
            .order
            .iter()
            .map(|(name, descending)| format!("{name} {} NULLS LAST", direction(descending)));
        let order = order.collect::<Vec<_>>().join(", ");
        let over = match self.keys.is_empty() {
            true => format!("{}() OVER (ORDER BY {order})", self.function),
            false => {
                format!("{}() OVER (PARTITION BY {} ORDER BY {order})", self.function, self.keys.join(", "))
            }
        };
        match self.qualify {
            true => {
                format!("SELECT *, {over} AS n FROM {} QUALIFY n < {}", self.input.table(), self.limit + 1)
            }
            false => format!(
                "SELECT * FROM (SELECT *, {over} AS n FROM {}) WHERE n <= {}",
                self.input.table(),
                self.limit
            ),
        }
    }
}

/// Groups by sessions.
#[derive(Debug, Clone)]
pub struct Sessions {
    pub input: Rel,
    /// Microseconds.
    pub gap: i64,
    /// Whether the gap is `v` seconds instead.
    pub by_row: bool,
    pub keys: Vec<String>,
    pub aggregates: Vec<(Agg, String)>,
}

impl Sessions {
    fn sql(&self) -> String {
        let gap = match self.by_row {
            true => "arrow_cast(v, 'Duration(Second)')".to_string(),
            false => format!("'{} milliseconds'", self.gap / 1000),
        };
        let session = format!("session_window(ts, {gap})");
        let columns = std::iter::once(format!("{session} AS w")).chain(self.keys.iter().cloned());
        let aggregates = self.aggregates.iter().map(|(agg, name)| format!("{} AS {name}", agg.sql()));
        let columns: Vec<String> = columns.chain(aggregates).collect();
        let keys: Vec<String> = std::iter::once(session).chain(self.keys.iter().cloned()).collect();
        format!("SELECT {} FROM {} GROUP BY {}", columns.join(", "), self.input.table(), keys.join(", "))
    }
}

/// Which rows a join of streams gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Inner,
    Left,
    Right,
    Full,
    Semi,
    Anti,
    RightSemi,
    RightAnti,
    Exists,
    NotExists,
}

impl Kind {
    /// Whether rows of the left and of the right side are given that have no match.
    pub fn waits(self) -> [bool; 2] {
        [
            matches!(self, Kind::Left | Kind::Full | Kind::Anti | Kind::NotExists),
            matches!(self, Kind::Right | Kind::Full | Kind::RightAnti),
        ]
    }

    /// The side whose rows are given alone, if one's are.
    pub fn only(self) -> Option<usize> {
        match self {
            Kind::Inner | Kind::Left | Kind::Right | Kind::Full => None,
            Kind::Semi | Kind::Anti | Kind::Exists | Kind::NotExists => Some(0),
            Kind::RightSemi | Kind::RightAnti => Some(1),
        }
    }

    /// Whether a row is given because it has a match.
    pub fn is_semi(self) -> bool {
        matches!(self, Kind::Semi | Kind::Exists | Kind::RightSemi)
    }
}

/// A join of streams. Its columns are those of the left side, then those of the right, whose names end in 2.
#[derive(Debug, Clone)]
pub struct Streams {
    pub kind: Kind,
    pub sides: [Rel; 2],
    /// Columns of the left and the right side that are equal.
    pub on: Vec<(String, String)>,
    /// How long before and after the left side's `ts` that of the right is; microseconds.
    pub within: Option<(i64, i64)>,
    /// Over the columns of both, as the result calls them.
    pub condition: Option<Expr>,
}

impl Streams {
    /// For a row of a side: which of its columns bounds the time of which of the other's, by how much.
    pub fn bounds(&self, side: usize, watermark: bool) -> Vec<Bound> {
        let [own, other] = [side, 1 - side].map(|side| self.sides[side].columns(watermark));
        let place =
            |columns: &[(String, Final)], name: &str| columns.iter().position(|(column, _)| column == name);
        let mut bounds = Vec::new();
        for (left, right) in &self.on {
            let (mine, theirs) = if side == 0 { (left, right) } else { (right, left) };
            let (mine, theirs) = (place(&own, mine).unwrap(), place(&other, theirs).unwrap());
            if other[theirs].1 != Final::Never {
                bounds.push(Bound {
                    own: mine,
                    other: theirs,
                    finality: other[theirs].1,
                    offset: 0,
                    is_equal: true,
                });
            }
        }
        if let Some((before, after)) = self.within {
            let offset = if side == 0 { after } else { before };
            let (mine, theirs) = (place(&own, "ts").unwrap(), place(&other, "ts").unwrap());
            if other[theirs].1 != Final::Never {
                bounds.push(Bound {
                    own: mine,
                    other: theirs,
                    finality: other[theirs].1,
                    offset,
                    is_equal: false,
                });
            }
        }
        bounds
    }

    /// How long after the watermark has passed their event time rows come.
    pub fn delay(&self) -> i64 {
        let delays = [self.sides[0].delay(), self.sides[1].delay()];
        let behind = [0, 1].map(|side| {
            let bounds = self.bounds(side, true).into_iter();
            let later = bounds.map(|bound| if bound.is_equal { 0 } else { bound.offset + delays[1 - side] });
            later.min().unwrap_or(0)
        });
        behind.into_iter().chain(delays).fold(0, i64::max)
    }

    fn sql(&self) -> String {
        let [left, right] = [self.sides[0].columns(false), self.sides[1].columns(false)];
        let mut condition: Vec<String> =
            self.on.iter().map(|(left, right)| format!("l.{left} = r.{right}")).collect();
        if let Some((before, after)) = self.within {
            let interval = |length: i64| format!("INTERVAL '{} milliseconds'", length / 1000);
            condition.push(format!(
                "r.ts BETWEEN l.ts - {} AND l.ts + {}",
                interval(before),
                interval(after)
            ));
        }
        if let Some(more) = &self.condition {
            let qualified = |name: &str| match name.strip_suffix('2') {
                Some(name) => format!("r.{name}"),
                None => format!("l.{name}"),
            };
            condition.push(more.renamed(&qualified).sql());
        }
        let condition = condition.join(" AND ");
        let of_left = left.iter().map(|(name, _)| format!("l.{name} AS {name}"));
        let of_right = right.iter().map(|(name, _)| format!("r.{name} AS {name}2"));
        let [l, r] = [self.sides[0].table(), self.sides[1].table()];
        let join = match self.kind {
            Kind::Inner => "JOIN",
            Kind::Left => "LEFT JOIN",
            Kind::Right => "RIGHT JOIN",
            Kind::Full => "FULL JOIN",
            Kind::Semi => "LEFT SEMI JOIN",
            Kind::Anti => "LEFT ANTI JOIN",
            Kind::RightSemi => "RIGHT SEMI JOIN",
            Kind::RightAnti => "RIGHT ANTI JOIN",
            Kind::Exists | Kind::NotExists => {
                let not = if self.kind == Kind::Exists { "" } else { "NOT " };
                let columns: Vec<String> = of_left.collect();
                return format!(
                    "SELECT {} FROM {l} AS l WHERE {not}EXISTS (SELECT 1 FROM {r} AS r WHERE {condition})",
                    columns.join(", ")
                );
            }
        };
        let columns: Vec<String> = match self.kind.only() {
            None => of_left.chain(of_right).collect(),
            Some(0) => of_left.collect(),
            Some(_) => of_right.collect(),
        };
        format!("SELECT {} FROM {l} AS l {join} {r} AS r ON {condition}", columns.join(", "))
    }
}

/// That the time of a row of the other side is at most something of a row's.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// Columns of this side and of the other.
    pub own: usize,
    pub other: usize,
    pub finality: Final,
    /// Microseconds.
    pub offset: i64,
    pub is_equal: bool,
}

#[derive(Debug, Clone)]
pub struct Group {
    pub input: Rel,
    pub keys: Vec<(Expr, String)>,
    /// Which keys are in each grouping set.
    pub sets: Option<Vec<Vec<usize>>>,
    pub aggregates: Vec<(Agg, String)>,
    pub having: Option<(Agg, &'static str, i64)>,
}

/// The table that streams are joined with.
pub const NAMES: [(&str, i64); 4] = [("a", 1), ("b", 2), ("b", 3), ("d", 4)];

impl Rel {
    pub fn filter(self, condition: Expr) -> Self {
        Rel::Filter(Box::new(self), condition)
    }

    pub fn project(self, columns: Vec<(Expr, &str)>) -> Self {
        Rel::Project(Box::new(self), named(columns))
    }

    pub fn windowed(self, size: i64, slide: i64, start: i64) -> Self {
        self.windowed_by(col("ts"), size, slide, start)
    }

    /// Lengths in seconds.
    pub fn windowed_by(self, time: Expr, size: i64, slide: i64, start: i64) -> Self {
        let (size, slide, start) = (size * SECOND, slide * SECOND, start * SECOND);
        Rel::Windowed { input: Box::new(self), time, size, slide, start }
    }

    pub fn group(self, keys: Vec<(Expr, &str)>, aggregates: Vec<Agg>) -> Self {
        let aggregates =
            aggregates.into_iter().enumerate().map(|(index, agg)| (agg, format!("a{index}"))).collect();
        let keys = named(keys);
        Rel::Group(Box::new(Group { input: self, keys, sets: None, aggregates, having: None }))
    }

    pub fn having(self, agg: Agg, operator: &'static str, value: i64) -> Self {
        let Rel::Group(mut group) = self else { panic!("only of groups") };
        group.having = Some((agg, operator, value));
        Rel::Group(group)
    }

    pub fn sets(self, sets: Vec<Vec<usize>>) -> Self {
        let Rel::Group(mut group) = self else { panic!("only of groups") };
        group.sets = Some(sets);
        Rel::Group(group)
    }

    pub fn distinct(self) -> Self {
        Rel::Distinct(Box::new(self))
    }

    pub fn distinct_on(self, columns: &[&str]) -> Self {
        Rel::DistinctOn(Box::new(self), columns.iter().map(|name| (*name).to_string()).collect())
    }

    pub fn limit(self, skip: usize, fetch: Option<usize>) -> Self {
        Rel::Limit(Box::new(self), skip, fetch)
    }

    pub fn sort(self, columns: &[(&str, bool)], fetch: Option<usize>) -> Self {
        let columns = columns.iter().map(|(name, descending)| ((*name).to_string(), *descending)).collect();
        Rel::Sort(Box::new(self), columns, fetch)
    }

    pub fn join(self, left: bool) -> Self {
        Rel::Join(Box::new(self), left)
    }

    pub fn inputs(&self) -> Vec<&Rel> {
        match self {
            Rel::Stream(_) | Rel::Hop { .. } | Rel::Within(..) => vec![],
            Rel::Union(left, right) => vec![left, right],
            Rel::Filter(input, _)
            | Rel::Project(input, _)
            | Rel::Windowed { input, .. }
            | Rel::Distinct(input)
            | Rel::DistinctOn(input, _)
            | Rel::Limit(input, ..)
            | Rel::Sort(input, ..)
            | Rel::Join(input, _) => vec![input],
            Rel::Group(group) => vec![&group.input],
            Rel::Streams(join) => join.sides.iter().collect(),
            Rel::Sessions(sessions) => vec![&sessions.input],
            Rel::Top(top) => vec![&top.input],
            Rel::Over(over) => vec![&over.input],
        }
    }

    /// How long after the watermark has passed their event time rows come; microseconds.
    pub fn delay(&self) -> i64 {
        match self {
            Rel::Streams(join) => join.delay(),
            Rel::Over(over) if over.time(true).1 => over.input.delay(),
            Rel::Over(over) => over.input.delay() + over.reach()[3],
            other => other.inputs().into_iter().map(Rel::delay).max().unwrap_or(0),
        }
    }

    /// Whether the result depends on the order of rows within a batch.
    pub fn is_ordered(&self) -> bool {
        let is_ordered = match self {
            Rel::DistinctOn(..) | Rel::Within(..) | Rel::Limit(..) => true,
            Rel::Group(group) => group.aggregates.iter().any(|(agg, _)| {
                matches!(agg.function, "first_value" | "last_value" | "array_agg" | "string_agg")
            }),
            _ => false,
        };
        is_ordered || self.inputs().into_iter().any(Rel::is_ordered)
    }

    /// The streams it reads, each once.
    pub fn streams(&self) -> Vec<usize> {
        let mut streams: Vec<usize> = match self {
            Rel::Stream(stream) | Rel::Hop { stream, .. } | Rel::Within(stream, _) => vec![*stream],
            _ => self.inputs().iter().flat_map(|input| input.streams()).collect(),
        };
        streams.sort_unstable();
        streams.dedup();
        streams
    }

    /// The columns, and when rows are final by them. `watermark` says whether the streams have one.
    pub fn columns(&self, watermark: bool) -> Vec<(String, Final)> {
        let stream = || {
            let finality = |name| match name {
                "ts" if watermark => Final::After(0),
                _ => Final::Never,
            };
            COLUMNS.iter().map(|name| ((*name).to_string(), finality(*name))).collect::<Vec<_>>()
        };
        let when = |finality: Final| if watermark { finality } else { Final::Never };
        match self {
            Rel::Stream(_) | Rel::Within(..) => stream(),
            Rel::Union(left, _) => left.columns(watermark),
            Rel::Hop { size, .. } => {
                let mut columns = stream();
                columns.push(("window_start".into(), when(Final::After(*size))));
                columns.push(("window_end".into(), when(Final::After(0))));
                columns.push(("window_time".into(), when(Final::After(0))));
                columns
            }
            Rel::Windowed { input, time, .. } => {
                let mut columns = input.columns(watermark);
                let is_event_time = time.finality(&columns) == Final::After(0);
                columns.push(("w".into(), if is_event_time { Final::End } else { Final::Never }));
                columns
            }
            Rel::Project(input, columns) => {
                let known = input.columns(watermark);
                columns.iter().map(|(expr, name)| (name.clone(), self.part(expr, &known))).collect()
            }
            Rel::Group(group) => {
                let known = group.input.columns(watermark);
                let keys = group.keys.iter().map(|(key, name)| (name.clone(), group.input.part(key, &known)));
                let rest = group.aggregates.iter().map(|(_, name)| (name.clone(), Final::Never));
                keys.chain(rest).collect()
            }
            Rel::Top(top) => {
                let mut columns = top.input.columns(watermark);
                columns.push(("n".into(), Final::Never));
                columns
            }
            Rel::Over(over) => {
                let (time, is_whole) = over.time(watermark);
                let is_kept = |name: &String| *name == time && (is_whole || over.reach()[1] == 0);
                let columns = over.input.columns(watermark).into_iter();
                let columns = columns.map(|(name, finality)| match is_kept(&name) {
                    true => (name, finality),
                    false => (name, Final::Never),
                });
                let added = over.functions.iter().map(|(_, name)| (name.clone(), Final::Never));
                columns.chain(added).collect()
            }
            Rel::Sessions(sessions) => {
                let known = sessions.input.columns(watermark);
                let keys = sessions
                    .keys
                    .iter()
                    .map(|key| known.iter().find(|(name, _)| name == key).unwrap().clone());
                let session = ("w".to_string(), when(Final::End));
                let rest = sessions.aggregates.iter().map(|(_, name)| (name.clone(), Final::Never));
                std::iter::once(session).chain(keys).chain(rest).collect()
            }
            Rel::Streams(join) => {
                let [left, right] = [0, 1].map(|side| join.sides[side].columns(watermark));
                let right = right.into_iter().map(|(name, finality)| (format!("{name}2"), finality));
                match join.kind.only() {
                    None => left.into_iter().chain(right).collect(),
                    Some(0) => left,
                    Some(_) => right.collect(),
                }
            }
            Rel::Join(input, _) => {
                let mut columns = input.columns(watermark);
                columns.push(("factor".into(), Final::Never));
                columns
            }
            Rel::Filter(input, _)
            | Rel::Distinct(input)
            | Rel::DistinctOn(input, _)
            | Rel::Limit(input, ..)
            | Rel::Sort(input, ..) => input.columns(watermark),
        }
    }

    /// As [`Expr::finality`], over rows of this query; the start of a window is final at its end.
    pub fn part(&self, expr: &Expr, known: &[(String, Final)]) -> Final {
        match expr {
            Expr::Part(window, "start") if window.finality(known) == Final::End => {
                Final::After(self.window_size())
            }
            expr => expr.finality(known),
        }
    }

    /// The size of the windows nearest below.
    fn window_size(&self) -> i64 {
        match self {
            Rel::Windowed { size, .. } | Rel::Hop { size, .. } => *size,
            _ => self.inputs().first().map_or(0, |input| input.window_size()),
        }
    }

    pub fn sql(&self) -> String {
        match self {
            Rel::Stream(stream) => format!("SELECT * FROM s{stream}"),
            Rel::Within(stream, _) => format!("SELECT * FROM within{stream}"),
            Rel::Union(left, right) => format!("{} UNION ALL {}", left.sql(), right.sql()),
            Rel::Filter(input, condition) => {
                format!("SELECT * FROM {} WHERE {}", input.table(), condition.sql())
            }
            Rel::Project(input, columns) => format!("SELECT {} FROM {}", list(columns), input.table()),
            Rel::Windowed { input, time, size, slide, start } => {
                let lengths = [size, slide, start].map(|length| format!("'{} milliseconds'", length / 1000));
                let lengths = match (size == slide, *start) {
                    (true, 0) => lengths[0].clone(),
                    (false, 0) => lengths[..2].join(", "),
                    _ => lengths.join(", "),
                };
                format!("SELECT *, window({}, {lengths}) AS w FROM {}", time.sql(), input.table())
            }
            Rel::Hop { stream, size, slide } => {
                let interval = |length: &i64| format!("INTERVAL '{} seconds'", length / SECOND);
                let start = format!("(SELECT * FROM s{stream}), DESCRIPTOR(ts)");
                match size == slide {
                    true => format!("SELECT * FROM TUMBLE({start}, {})", interval(size)),
                    false => format!("SELECT * FROM HOP({start}, {}, {})", interval(slide), interval(size)),
                }
            }
            Rel::Group(group) => group.sql(),
            Rel::Streams(join) => join.sql(),
            Rel::Sessions(sessions) => sessions.sql(),
            Rel::Top(top) => top.sql(),
            Rel::Over(over) => over.sql(),
            Rel::Distinct(input) => format!("SELECT DISTINCT * FROM {}", input.table()),
            Rel::DistinctOn(input, columns) => {
                format!("SELECT DISTINCT ON ({}) * FROM {}", columns.join(", "), input.table())
            }
            Rel::Limit(input, skip, fetch) => {
                let fetch = fetch.map_or_else(String::new, |fetch| format!(" LIMIT {fetch}"));
                format!("SELECT * FROM {}{fetch} OFFSET {skip}", input.table())
            }
            Rel::Sort(input, columns, fetch) => {
                let column = |(name, descending): &(String, bool)| {
                    format!("{name} {} NULLS FIRST", if *descending { "DESC" } else { "ASC" })
                };
                let columns: Vec<String> = columns.iter().map(column).collect();
                let fetch = fetch.map_or_else(String::new, |fetch| format!(" LIMIT {fetch}"));
                format!("SELECT * FROM {} ORDER BY {}{fetch}", input.table(), columns.join(", "))
            }
            Rel::Join(input, left) => {
                let kind = if *left { "LEFT JOIN" } else { "JOIN" };
                format!("SELECT l.*, r.factor FROM {} AS l {kind} names r ON l.name = r.name", input.table())
            }
        }
    }

    fn table(&self) -> String {
        match self {
            Rel::Stream(stream) => format!("s{stream}"),
            Rel::Within(stream, _) => format!("within{stream}"),
            other => format!("({})", other.sql()),
        }
    }
}

impl Group {
    fn sql(&self) -> String {
        let aggregates = self.aggregates.iter().map(|(agg, name)| format!("{} AS {name}", agg.sql()));
        let keys = self.keys.iter().map(|(key, name)| format!("{} AS {name}", key.sql()));
        let columns: Vec<String> = keys.chain(aggregates).collect();
        let names = |set: &[usize]| {
            let names: Vec<String> = set.iter().map(|index| self.keys[*index].0.sql()).collect();
            names.join(", ")
        };
        let grouping = match &self.sets {
            None if self.keys.is_empty() => String::new(),
            None => format!(" GROUP BY {}", names(&(0..self.keys.len()).collect::<Vec<_>>())),
            Some(sets) => {
                let sets: Vec<String> = sets.iter().map(|set| format!("({})", names(set))).collect();
                format!(" GROUP BY GROUPING SETS ({})", sets.join(", "))
            }
        };
        let having = self.having.as_ref().map_or_else(String::new, |(agg, operator, value)| {
            format!(" HAVING {} {operator} {value}", agg.sql())
        });
        format!("SELECT {} FROM {}{grouping}{having}", columns.join(", "), self.input.table())
    }
}

fn named(columns: Vec<(Expr, &str)>) -> Vec<(Expr, String)> {
    columns.into_iter().map(|(expr, name)| (expr, name.to_string())).collect()
}

fn list(columns: &[(Expr, String)]) -> String {
    let columns: Vec<String> =
        columns.iter().map(|(expr, name)| format!("{} AS {name}", expr.sql())).collect();
    columns.join(", ")
}
