//! The queries: each aggregate in each mode, each way to group by time in each mode, and the rest.

use tidemill::OutputMode;

use super::model::{
    Agg, Expr, Frame, Kind, Over, Rel, SECOND, Sessions, Streams, Top, WindowFunction, agg, bin, col, op,
};

/// A query with its mode and its watermarks.
#[derive(Debug, Clone)]
pub struct Spec {
    pub rel: Rel,
    pub mode: OutputMode,
    /// Delays in milliseconds, per stream.
    pub delays: Option<Vec<i64>>,
    /// Whether the greatest of several watermarks counts.
    pub take_greatest: bool,
}

use OutputMode::{Append, Complete, Update};

const MODES: [OutputMode; 3] = [Append, Update, Complete];

/// `rel` with a watermark that stays 5 seconds behind on the first stream, 8 on the second.
pub fn timed(rel: Rel, mode: OutputMode) -> Spec {
    Spec { rel, mode, delays: Some(vec![5000, 8000]), take_greatest: false }
}

/// `rel` without watermarks.
pub fn untimed(rel: Rel, mode: OutputMode) -> Spec {
    Spec { rel, mode, delays: None, take_greatest: false }
}

fn stream() -> Rel {
    Rel::Stream(0)
}

fn union() -> Rel {
    Rel::Union(Box::new(Rel::Stream(0)), Box::new(Rel::Stream(1)))
}

fn aggregates() -> Vec<Agg> {
    let odd = op(op(col("id"), "%", Expr::Int(2)), "=", Expr::Int(1));
    vec![
        agg("count", "*"),
        agg("count", "v"),
        agg("sum", "v"),
        agg("sum", "f"),
        agg("min", "v"),
        agg("max", "v"),
        agg("min", "name"),
        agg("max", "name"),
        agg("max", "ts"),
        agg("avg", "v"),
        agg("avg", "f"),
        agg("stddev", "f"),
        agg("var_pop", "v"),
        agg("bool_and", "b"),
        agg("bool_or", "b"),
        agg("count", "v").distinct(),
        agg("sum", "v").distinct(),
        agg("count", "name").distinct(),
        agg("count", "*").filter(odd.clone()),
        agg("sum", "v").filter(op(col("v"), ">", Expr::Int(2))),
        agg("count", "v").distinct().filter(odd),
        agg("array_agg", "v"),
        agg("median", "v"),
        agg("first_value", "v"),
        agg("last_value", "name"),
        agg("string_agg", "name"),
    ]
}

/// Each aggregate: by key, by time and key, and over everything.
fn by_aggregate() -> Vec<Spec> {
    let mut specs = Vec::new();
    for agg in aggregates() {
        for mode in [Update, Complete] {
            specs.push(untimed(stream().group(vec![(col("k"), "k")], vec![agg.clone()]), mode));
        }
        specs.push(untimed(stream().group(vec![], vec![agg.clone()]), Complete));
        specs.push(timed(stream().group(vec![(bin(10), "w"), (col("name"), "name")], vec![agg]), Append));
    }
    specs
}

/// The ways to group by time: rows, and keys.
fn times() -> Vec<(Rel, Expr)> {
    let part = |part| Expr::Part(Box::new(col("w")), part);
    vec![
        (stream(), bin(10)),
        (stream(), bin(7)),
        (stream(), Expr::Trunc("second", Box::new(col("ts")))),
        (stream(), Expr::Trunc("minute", Box::new(col("ts")))),
        (stream(), col("ts")),
        (stream().windowed(10, 10, 0), col("w")),
        (stream().windowed(10, 10, 0), part("start")),
        (stream().windowed(10, 10, 0), part("end")),
        (stream().windowed(10, 10, 0), Expr::WindowTime(Box::new(col("w")))),
        (stream().windowed(10, 5, 0), col("w")),
        (stream().windowed(10, 4, 0), col("w")),
        (stream().windowed(7, 3, 2), part("start")),
        (stream().windowed(10, 10, 3), col("w")),
        (stream().windowed(12, 6, 5), part("end")),
        (Rel::Hop { stream: 0, size: 10_000_000, slide: 10_000_000 }, col("window_start")),
        (Rel::Hop { stream: 0, size: 10_000_000, slide: 5_000_000 }, col("window_end")),
        (Rel::Hop { stream: 0, size: 10_000_000, slide: 3_000_000 }, col("window_time")),
    ]
}

fn by_time() -> Vec<Spec> {
    let mut specs = Vec::new();
    for (rows, time) in times() {
        for mode in MODES {
            let some = vec![agg("count", "*"), agg("sum", "v"), agg("max", "f")];
            specs.push(timed(rows.clone().group(vec![(time.clone(), "t")], some), mode));
            let keys = vec![(col("k"), "k"), (time.clone(), "t")];
            let some = vec![agg("avg", "f"), agg("count", "v").distinct()];
            specs.push(timed(rows.clone().group(keys, some), mode));
        }
    }
    specs
}

/// What comes below and above an aggregation.
fn around() -> Vec<Spec> {
    let mut specs = Vec::new();
    let some = || vec![agg("count", "*"), agg("sum", "v")];
    let keys = || vec![(bin(10), "t"), (col("name"), "name")];
    let count_above = |limit| (agg("count", "*"), ">", limit);
    let condition = op(col("v"), ">", Expr::Int(0));
    for mode in MODES {
        let (having, operator, limit) = count_above(1);
        specs.push(timed(stream().group(keys(), some()).having(having, operator, limit), mode));
        specs.push(timed(stream().group(keys(), some()).having(agg("max", "v"), "<", 5), mode));
        specs.push(timed(stream().filter(condition.clone()).group(keys(), some()), mode));
        let above =
            vec![(op(col("a0"), "+", Expr::Int(1)), "n"), (col("t"), "t"), (Expr::Text("x".into()), "x")];
        specs.push(timed(stream().group(keys(), some()).project(above), mode));
        let below = vec![(op(col("v"), "%", Expr::Int(3)), "m"), (col("ts"), "at"), (col("v"), "v")];
        let at = Expr::Bin(5_000_000, Box::new(col("at")));
        let renamed = stream().project(below).group(vec![(col("m"), "m"), (at, "t")], some());
        specs.push(timed(renamed, mode));
        for left in [false, true] {
            let joined = stream().join(left);
            let factors = vec![agg("sum", "factor"), agg("count", "*")];
            specs.push(timed(joined.clone().group(keys(), factors.clone()), mode));
            if mode != Append {
                specs.push(untimed(joined.group(vec![(col("name"), "name")], factors), mode));
            }
        }
        specs.push(timed(union().group(keys(), some()), mode));
        specs.push(Spec { take_greatest: true, ..timed(union().group(keys(), some()), mode) });
        let first_late = Rel::Union(
            Box::new(Rel::Stream(0).filter(op(col("k"), ">", Expr::Int(1)))),
            Box::new(Rel::Stream(1)),
        );
        specs.push(timed(first_late.group(keys(), some()), mode));
        let unknown = stream().filter(Expr::IsNull(Box::new(col("k"))));
        specs.push(timed(unknown.group(keys(), some()), mode));
    }
    for mode in [Update, Complete] {
        specs.push(untimed(union().group(vec![(col("name"), "name")], some()), mode));
        specs.push(untimed(stream().group(vec![], some()), mode));
        let two = stream().group(vec![(col("k"), "k"), (col("name"), "name")], some());
        specs.push(untimed(two.clone().sets(vec![vec![0, 1], vec![0], vec![1]]), mode));
        specs.push(untimed(two.sets(vec![vec![0, 1], vec![1]]), mode));
        let distinct = || vec![agg("count", "v").distinct(), agg("count", "*"), agg("sum", "v").distinct()];
        let two = stream().group(vec![(col("k"), "k"), (col("name"), "name")], distinct());
        specs.push(untimed(two.clone().sets(vec![vec![0, 1], vec![0], vec![1]]), mode));
        let timed_too = stream().group(vec![(bin(10), "t"), (col("k"), "k")], distinct());
        specs.push(timed(timed_too.clone().sets(vec![vec![0, 1], vec![0]]), mode));
        let plain = stream().group(vec![(bin(10), "t"), (col("k"), "k")], some());
        specs.push(timed(plain.clone().sets(vec![vec![0, 1], vec![0]]), mode));
        if mode == Update {
            specs.push(timed(timed_too.sets(vec![vec![0, 1], vec![0]]), Append));
            specs.push(timed(plain.sets(vec![vec![0, 1], vec![0]]), Append));
        }
        specs.push(untimed(stream().group(vec![(col("b"), "b"), (col("f"), "f")], some()), mode));
    }
    specs
}

/// What only complete mode can do.
fn above_complete() -> Vec<Spec> {
    let counted = || stream().group(vec![(col("k"), "k")], vec![agg("count", "*"), agg("sum", "v")]);
    let by_count = counted().group(vec![(col("a0"), "n")], vec![agg("count", "*"), agg("max", "a1")]);
    let most = counted().sort(&[("a0", true), ("k", false)], Some(2));
    vec![
        untimed(counted().sort(&[("a0", true), ("k", false)], None), Complete),
        untimed(most.clone(), Complete),
        untimed(counted().sort(&[("a1", false), ("k", false)], Some(3)), Complete),
        untimed(by_count.clone(), Complete),
        untimed(by_count.sort(&[("n", false)], None), Complete),
        untimed(counted().group(vec![], vec![agg("max", "a0"), agg("avg", "a1")]), Complete),
        untimed(counted().project(vec![(col("a0"), "n")]).distinct(), Complete),
        untimed(counted().filter(op(col("a0"), ">", Expr::Int(1))), Complete),
        untimed(most.group(vec![], vec![agg("sum", "a0")]), Complete),
        untimed(
            stream().distinct_on(&["k"]).group(vec![], vec![agg("count", "*"), agg("sum", "k")]),
            Complete,
        ),
    ]
}

/// Deduplication and limits.
fn without_groups() -> Vec<Spec> {
    let few = || stream().project(vec![(col("k"), "k"), (col("name"), "name")]);
    let timed_few = || stream().project(vec![(bin(5), "t"), (col("name"), "name")]);
    let mut specs = Vec::new();
    for mode in [Append, Update] {
        specs.push(untimed(few().distinct(), mode));
        specs.push(timed(few().distinct(), mode));
        specs.push(timed(timed_few().distinct(), mode));
        specs.push(untimed(stream().distinct_on(&["k"]), mode));
        specs.push(untimed(stream().distinct_on(&["k", "name"]), mode));
        specs.push(timed(stream().distinct_on(&["ts"]), mode));
        specs.push(timed(stream().distinct_on(&["ts", "k"]), mode));
        specs.push(timed(stream().windowed(10, 10, 0).distinct_on(&["w", "k"]), mode));
        specs.push(timed(Rel::Within(0, vec!["k".into()]), mode));
        specs.push(timed(Rel::Within(0, vec!["k".into(), "name".into()]), mode));
        specs.push(untimed(union().distinct_on(&["name"]), mode));
        specs.push(timed(stream().filter(op(col("v"), ">", Expr::Int(0))), mode));
        specs.push(untimed(stream().join(true).distinct_on(&["id", "factor"]), mode));
    }
    for (skip, fetch) in [(0, Some(7)), (3, Some(5)), (4, None), (0, Some(0)), (0, Some(1000))] {
        specs.push(untimed(stream().limit(skip, fetch), Append));
    }
    // Which rows a limit leaves over is undefined where their order is.
    let same = |rel: Rel| rel.project(vec![(Expr::Text("x".into()), "x")]);
    specs.push(untimed(same(few().distinct()).limit(0, Some(4)), Append));
    specs.push(untimed(stream().filter(op(col("v"), ">", Expr::Int(0))).limit(2, Some(6)), Append));
    specs
}

/// Operators with state above operators with state.
fn chained() -> Vec<Spec> {
    let some = || vec![agg("count", "*"), agg("sum", "v")];
    let short = |size| stream().windowed(size, size, 0).group(vec![(col("w"), "w")], some());
    let time = || Expr::WindowTime(Box::new(col("w")));
    let sums = || vec![agg("sum", "a0"), agg("max", "a1")];
    let mut specs = vec![
        timed(short(5).windowed_by2(time(), 10, 10).group(vec![(col("w2"), "w")], sums()), Append),
        timed(short(5).windowed_by2(time(), 20, 10).group(vec![(col("w2"), "w")], sums()), Append),
        timed(short(2).windowed_by2(time(), 6, 6).group(vec![(col("w2"), "w")], sums()), Append),
        timed(
            stream()
                .group(vec![(bin(5), "t"), (col("k"), "k")], some())
                .group(vec![(col("t"), "t")], vec![agg("count", "*"), agg("sum", "a0")]),
            Append,
        ),
    ];
    for mode in [Append, Update] {
        let times = || vec![(bin(10), "t")];
        specs.push(timed(stream().distinct_on(&["ts", "k"]).group(times(), some()), mode));
        specs.push(timed(Rel::Within(0, vec!["k".into()]).group(times(), some()), mode));
        specs.push(timed(stream().distinct_on(&["k", "v"]).group(times(), some()), mode));
        specs.push(timed(union().distinct_on(&["ts", "name"]).group(times(), some()), mode));
    }
    let counted = stream().group(vec![(bin(10), "t"), (col("k"), "k")], some());
    let same = counted.clone().project(vec![(op(col("a0"), ">", Expr::Int(0)), "x")]);
    specs.push(timed(same.limit(1, Some(5)), Append));
    specs.push(timed(counted.project(vec![(col("t"), "t"), (col("a0"), "n")]).distinct(), Append));
    for mode in [Update, Complete] {
        let keys = vec![(col("k"), "k")];
        specs.push(untimed(stream().distinct_on(&["k", "v"]).group(keys.clone(), some()), mode));
        let pairs = stream().project(vec![(col("k"), "k"), (col("v"), "v")]).distinct();
        if mode == Update {
            specs.push(untimed(pairs.group(keys, some()), mode));
        }
    }
    specs
}

impl Rel {
    /// Windows of other windows; the new ones are `w2`.
    fn windowed_by2(self, time: Expr, size: i64, slide: i64) -> Rel {
        let renamed = self.project(vec![(time, "at"), (col("a0"), "a0"), (col("a1"), "a1")]);
        let windows = renamed.windowed_by(col("at"), size, slide, 0);
        windows.project(vec![(col("w"), "w2"), (col("a0"), "a0"), (col("a1"), "a1")])
    }
}

/// Streams joined by `k`, within so many seconds before and after the left side's time.
pub fn joined(kind: Kind, sides: [Rel; 2], within: Option<(i64, i64)>) -> Rel {
    let within = within.map(|(before, after)| (before * SECOND, after * SECOND));
    let on = vec![("k".to_string(), "k".to_string())];
    Rel::Streams(Box::new(Streams { kind, sides, on, within, condition: None }))
}

impl Rel {
    /// A join with a further condition.
    fn and(self, condition: Expr) -> Self {
        let Rel::Streams(mut join) = self else { panic!("only of joins") };
        join.condition = Some(condition);
        Rel::Streams(join)
    }

    /// A join by other columns.
    fn by(self, columns: &[(&str, &str)]) -> Self {
        let Rel::Streams(mut join) = self else { panic!("only of joins") };
        join.on = columns.iter().map(|(left, right)| ((*left).to_string(), (*right).to_string())).collect();
        Rel::Streams(join)
    }
}

const KINDS: [Kind; 10] = [
    Kind::Inner,
    Kind::Left,
    Kind::Right,
    Kind::Full,
    Kind::Semi,
    Kind::Anti,
    Kind::RightSemi,
    Kind::RightAnti,
    Kind::Exists,
    Kind::NotExists,
];

/// A condition of the sides alone whose rows wait for a match.
fn of_own_side(kind: Kind) -> Option<Expr> {
    let some = |name: &str| op(col(name), ">", Expr::Int(1));
    match kind.waits() {
        [true, true] => Some(op(some("v"), "AND", some("v2"))),
        [true, false] => Some(some("v")),
        [false, true] => Some(some("v2")),
        [false, false] => None,
    }
}

/// Joins of streams with one another, and what is below and above them.
fn joins() -> Vec<Spec> {
    let both = || [Rel::Stream(0), Rel::Stream(1)];
    let few = |stream| Rel::Stream(stream).project(vec![(col("ts"), "ts"), (col("k"), "k"), (col("v"), "v")]);
    let less = op(col("v"), "<", col("v2"));
    let mut specs = Vec::new();
    for kind in KINDS {
        for within in [(5, 10), (0, 3), (20, -2)] {
            specs.push(timed(joined(kind, both(), Some(within)), Append));
        }
        specs.push(timed(joined(kind, both(), Some((4, 4))), Update));
        specs.push(timed(joined(kind, both(), Some((8, 8))).and(less.clone()), Append));
        let of_own = of_own_side(kind).into_iter();
        specs.extend(of_own.map(|own| timed(joined(kind, both(), Some((7, 7))).and(own), Append)));
        specs.push(timed(joined(kind, both(), Some((6, 0))).by(&[]), Append));
        specs.push(timed(joined(kind, both(), Some((2, 9))).by(&[("k", "v"), ("name", "name")]), Append));
        specs.push(timed(joined(kind, both(), None).by(&[("ts", "ts")]), Append));
        // The same stream twice, with one delay.
        let same = timed(joined(kind, [few(0), few(0)], Some((3, 3))), Append);
        specs.push(Spec { delays: Some(vec![5000, 5000]), ..same });
        if !kind.waits().contains(&true) {
            specs.push(untimed(joined(kind, both(), None), Append));
            specs.push(timed(joined(kind, both(), None).and(less.clone()), Append));
            specs.push(untimed(joined(kind, both(), None).and(less.clone()), Update));
        }
        let windows = |stream| few(stream).windowed(10, 10, 0);
        specs.push(timed(joined(kind, [windows(0), windows(1)], None).by(&[("w", "w"), ("k", "k")]), Append));
    }
    for kind in [Kind::Inner, Kind::Left, Kind::Semi, Kind::NotExists] {
        let counted = || vec![agg("count", "*"), agg("sum", "v")];
        let windows = || vec![(bin(10), "t")];
        for mode in [Append, Update] {
            specs.push(timed(joined(kind, both(), Some((5, 10))).group(windows(), counted()), mode));
        }
        let by_key = vec![(col("k"), "k")];
        specs.push(timed(joined(kind, both(), Some((5, 10))).group(by_key.clone(), counted()), Complete));
        let mut times = vec![(col("ts"), "ts"), (col("k"), "k")];
        if kind.only().is_none() {
            // Without a column of the right side, DataFusion takes the left join away.
            times.push((col("v2"), "v2"));
        }
        specs.push(timed(joined(kind, both(), Some((5, 10))).project(times).distinct(), Append));
        let of_windows = |stream| {
            let keys = vec![(col("w"), "w"), (col("k"), "k")];
            few(stream).windowed(10, 10, 0).group(keys, counted())
        };
        let by = [("w", "w"), ("k", "k")];
        specs.push(timed(joined(kind, [of_windows(0), of_windows(1)], None).by(&by), Append));
        // Three streams: the rows of the first join come later than their time says.
        let columns = vec![(col("ts"), "ts"), (col("k"), "k"), (col("v"), "v")];
        let two = joined(kind, [few(0), few(1)], Some((5, 10))).project(columns);
        let three = joined(Kind::Left, [two.clone(), few(1)], Some((2, 3)));
        specs.push(Spec { delays: Some(vec![5000, 5000, 5000]), ..timed(three, Append) });
        let other_way = joined(Kind::Full, [few(0), two], Some((4, 1)));
        specs.push(Spec { delays: Some(vec![5000, 5000, 5000]), ..timed(other_way, Append) });
    }
    specs
}

/// `input` by sessions with a gap of so many seconds, or of `v` seconds, and other keys.
pub fn sessions(input: Rel, gap: Option<i64>, keys: &[&str], aggregates: Vec<Agg>) -> Rel {
    let aggregates =
        aggregates.into_iter().enumerate().map(|(index, agg)| (agg, format!("a{index}"))).collect();
    let keys = keys.iter().map(|key| (*key).to_string()).collect();
    let (gap, by_row) = (gap.unwrap_or(0) * SECOND, gap.is_none());
    Rel::Sessions(Box::new(Sessions { input, gap, by_row, keys, aggregates }))
}

fn by_session() -> Vec<Spec> {
    let some = || vec![agg("count", "*"), agg("sum", "v"), agg("max", "name"), agg("avg", "f")];
    let values = || vec![agg("count", "v"), agg("median", "v"), agg("min", "ts")];
    let mut specs = Vec::new();
    for gap in [Some(1), Some(3), Some(12), None] {
        for keys in [&[][..], &["k"], &["name", "k"]] {
            specs.push(timed(sessions(stream(), gap, keys, some()), Append));
            specs.push(timed(sessions(stream(), gap, keys, values()), Append));
        }
        specs.push(timed(sessions(stream(), gap, &["k"], some()), Complete));
        specs.push(untimed(sessions(stream(), gap, &["name"], some()), Complete));
        specs.push(timed(sessions(union(), gap, &["k"], some()), Append));
        specs.push(timed(sessions(stream(), gap, &["k"], vec![]), Append));
        let above = sessions(stream(), gap, &["k"], some()).project(vec![(col("a0"), "n"), (col("k"), "k")]);
        specs.push(timed(above, Append));
        specs.push(timed(
            sessions(stream(), gap, &["k"], some()).filter(op(col("a0"), ">", Expr::Int(1))),
            Append,
        ));
        let few =
            |stream| Rel::Stream(stream).project(vec![(col("ts"), "ts"), (col("k"), "k"), (col("v"), "v")]);
        // Rows without a gap are left out below the join already, where they are not late.
        if gap.is_some() {
            let pairs = joined(Kind::Inner, [few(0), few(1)], Some((5, 10)));
            specs.push(timed(sessions(pairs, gap, &["k"], vec![agg("count", "*")]), Append));
        }
    }
    specs
}

/// The first rows of each key by some columns, which may be descending.
pub fn top(input: Rel, function: &'static str, keys: &[&str], order: &[(&str, bool)], limit: i64) -> Rel {
    let keys = keys.iter().map(|key| (*key).to_string()).collect();
    let order = order.iter().map(|(name, descending)| ((*name).to_string(), *descending)).collect();
    Rel::Top(Box::new(Top { input, function, keys, order, limit, qualify: limit == 2 }))
}

/// Over rows of each key in the order of `order`.
pub fn over(input: Rel, keys: &[&str], order: &[&str], functions: Vec<WindowFunction>) -> Rel {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_string()).collect();
    let functions =
        functions.into_iter().enumerate().map(|(index, function)| (function, format!("o{index}"))).collect();
    Rel::Over(Box::new(Over { input, keys: names(keys), order: names(order), functions }))
}

fn overs() -> Vec<Spec> {
    use WindowFunction::{Aggregate, Rank, Shift};
    let odd = || op(op(col("id"), "%", Expr::Int(2)), "=", Expr::Int(1));
    let range = |before: i64, after: i64| Frame::Range(before * SECOND, after * SECOND);
    let sets = [
        vec![Rank("row_number")],
        vec![Rank("rank"), Rank("dense_rank"), Aggregate(agg("count", "*"), Frame::Running)],
        vec![Aggregate(agg("sum", "v"), Frame::Running), Aggregate(agg("max", "name"), Frame::RunningRows)],
        vec![
            Aggregate(agg("avg", "f").filter(odd()), Frame::Running),
            Aggregate(agg("first_value", "v"), Frame::Running),
        ],
        vec![Aggregate(agg("count", "name").distinct(), Frame::Running)],
        vec![Shift("lag", 1), Shift("lag", 3)],
        vec![Aggregate(agg("sum", "v"), Frame::Rows(2, 0)), Aggregate(agg("min", "f"), Frame::Rows(4, 0))],
        vec![Shift("lag", 1), Rank("row_number"), Aggregate(agg("sum", "f"), Frame::Rows(1, 0))],
        vec![Shift("lead", 1)],
        vec![Shift("lead", 2), Shift("lag", 2), Aggregate(agg("sum", "v"), Frame::Running)],
        vec![Aggregate(agg("count", "*"), Frame::Rows(1, 1)), Rank("rank")],
    ];
    let mut specs = Vec::new();
    for functions in sets {
        for keys in [&["k"][..], &["name", "b"], &[]] {
            specs.push(timed(over(stream(), keys, &["ts", "id"], functions.clone()), Append));
        }
        specs.push(timed(over(stream(), &["k"], &["ts", "v", "id"], functions.clone()), Update));
        specs.push(timed(over(union(), &["name"], &["ts", "id", "k"], functions), Append));
    }
    let ranges = [
        vec![Aggregate(agg("sum", "v"), range(3, 0))],
        vec![Aggregate(agg("count", "*"), range(0, 0)), Aggregate(agg("max", "f"), range(10, 0))],
        vec![Aggregate(agg("sum", "f"), range(2, 4)), Aggregate(agg("count", "*"), Frame::Rows(1, 0))],
        vec![Aggregate(agg("min", "v"), range(0, 6)), Rank("dense_rank")],
        vec![Rank("rank"), Shift("lead", 1), Aggregate(agg("sum", "v"), range(5, 1))],
        // What waits for rows behind it still looks back.
        vec![Aggregate(agg("count", "*"), Frame::Rows(0, 2)), Aggregate(agg("sum", "v"), range(5, 0))],
        vec![Aggregate(agg("count", "*"), Frame::Rows(0, 1)), Aggregate(agg("max", "f"), range(2, 3))],
    ];
    for functions in ranges {
        for keys in [&["k"][..], &[]] {
            // Rows of the same time have no order, so that nothing may follow from theirs.
            let functions = functions.iter().filter(|function| match function {
                Aggregate(_, Frame::Rows(0, _)) => true,
                Shift(..) | Aggregate(_, Frame::Rows(..)) => false,
                Aggregate(..) | Rank(_) => true,
            });
            let functions = functions.cloned().collect::<Vec<_>>();
            specs.push(timed(over(stream(), keys, &["ts"], functions.clone()), Append));
            // Rows that wait for others behind them are never final for sure.
            if functions.iter().any(|it| matches!(it, Aggregate(_, Frame::Rows(..)))) {
                continue;
            }
            // Of all functions, for those that nobody asks for would not be waited for.
            let largest = (0..functions.len()).map(|index| agg("max", &format!("o{index}")));
            let aggregates = [agg("count", "*")].into_iter().chain(largest).collect();
            let counted = over(stream(), keys, &["ts"], functions).group(vec![(bin(10), "t")], aggregates);
            specs.push(timed(counted, Append));
        }
    }
    // All rows of a window are there at once.
    let binned = || {
        let names = ["id", "k", "name", "v", "f", "ts"];
        let rest = names.map(|name| (col(name), name));
        stream().project([(bin(10), "t")].into_iter().chain(rest).collect())
    };
    for functions in [
        vec![Rank("rank"), Rank("cume_dist")],
        vec![Shift("lead", 1), Aggregate(agg("sum", "v"), Frame::Rows(1, 3)), Rank("row_number")],
        vec![Aggregate(agg("avg", "f"), Frame::Running), Aggregate(agg("max", "v"), Frame::RunningRows)],
    ] {
        for keys in [&["t"][..], &["t", "k"]] {
            specs.push(timed(over(binned(), keys, &["v", "id"], functions.clone()), Append));
            let counted = over(binned(), keys, &["v", "id"], functions.clone())
                .group(vec![(col("t"), "t")], vec![agg("count", "*"), agg("max", "o0")]);
            specs.push(timed(counted, Append));
        }
    }
    specs
}

fn tops() -> Vec<Spec> {
    let binned = || {
        let names = ["id", "k", "name", "v", "f"];
        let rest = names.map(|name| (col(name), name));
        stream().project([(bin(10), "t")].into_iter().chain(rest).collect())
    };
    let mut specs = Vec::new();
    for (function, order) in [
        ("row_number", vec![("v", true), ("id", false)]),
        ("row_number", vec![("name", false), ("f", true), ("id", true)]),
        ("rank", vec![("v", false)]),
        ("dense_rank", vec![("name", true), ("v", true)]),
    ] {
        for limit in [1, 2, 5] {
            for mode in [Update, Complete] {
                specs.push(untimed(top(stream(), function, &["k"], &order, limit), mode));
            }
            specs.push(untimed(top(stream(), function, &["name", "b"], &order, limit), Update));
            for mode in MODES {
                specs.push(timed(top(binned(), function, &["t", "k"], &order, limit), mode));
            }
            specs.push(untimed(top(stream(), function, &[], &order, limit), Update));
        }
    }
    let best = || top(binned(), "row_number", &["t"], &[("v", true), ("id", false)], 2);
    let counted = vec![agg("count", "*"), agg("sum", "n")];
    specs.push(timed(best().group(vec![(col("t"), "t")], counted.clone()), Append));
    specs.push(timed(best().group(vec![(col("k"), "k")], counted), Complete));
    specs
}

/// All of them.
pub fn all() -> Vec<Spec> {
    [
        by_aggregate(),
        by_time(),
        around(),
        above_complete(),
        without_groups(),
        chained(),
        joins(),
        by_session(),
        tops(),
        overs(),
    ]
    .concat()
}
