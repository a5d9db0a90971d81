//! Whether a query is still the one that wrote its checkpoint.

mod operators;

use crate::checkpoint::types::{ColumnType, Part};
use std::collections::BTreeMap;

use url::Url;

use super::records::{
    ColumnDefinition, Location, PARTITIONS, QueryDefinition, SinkDefinition, SourceDefinition,
};
use super::same_place;
use crate::error::{Error, Result};

/// Fails with every difference between the query that wrote the checkpoint and the one to run.
///
/// What is recorded in a [`QueryDefinition`] is what may not change; triggers, limits, filters and
/// projections are not part of it and may (Spark's rules, `docs/spark-differences.md`).
pub(crate) fn check_unchanged(
    checkpoint: &Url,
    recorded: &QueryDefinition,
    current: &QueryDefinition,
) -> Result<()> {
    let differences = differences(recorded, current);
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::QueryChanged { checkpoint: checkpoint.to_string(), differences })
}

/// `recorded` with what `current` has besides, as far as it may have come: nullable columns, and fields within columns,
/// in the sources that `grow`, and in the sink if any of them does; and state variables of processors. Pure.
pub(crate) fn grown(recorded: &QueryDefinition, current: &QueryDefinition, grow: &[bool]) -> QueryDefinition {
    let mut grown = recorded.clone();
    for ((old, new), grows) in grown.sources.iter_mut().zip(&current.sources).zip(grow) {
        if *grows {
            old.columns = with_new_columns(&old.columns, &new.columns);
        }
    }
    for (old, new) in grown.operators.iter_mut().zip(&current.operators) {
        operators::take_in_variables(old, new);
    }
    if grow.contains(&true) && finds_columns_by_name(&recorded.sink) {
        grown.sink.columns = with_new_columns(&recorded.sink.columns, &current.sink.columns);
    }
    grown
}

/// Options that say what becomes of malformed records. They decide about rows that are read from then on.
const RULES: [&str; 2] = ["mode", "badRecordsPath"];

/// Whether `current` has other rules for malformed records than `recorded`. Pure.
pub(crate) fn has_other_rules(recorded: &[SourceDefinition], current: &[SourceDefinition]) -> bool {
    let differ = |(old, new): (&SourceDefinition, &SourceDefinition)| {
        RULES.iter().any(|rule| old.options.get(*rule) != new.options.get(*rule))
    };
    recorded.iter().zip(current).any(differ)
}

/// Gives `recorded` the rules for malformed records that `current` has. Pure.
pub(crate) fn take_rules(recorded: &mut QueryDefinition, current: &QueryDefinition) {
    for (old, new) in recorded.sources.iter_mut().zip(&current.sources) {
        old.options.retain(|option, _| !RULES.contains(&option.as_str()));
        let rules = new.options.iter().filter(|(option, _)| RULES.contains(&option.as_str()));
        old.options.extend(rules.map(|(option, value)| (option.clone(), value.clone())));
    }
}

fn with_new_columns(old: &[ColumnDefinition], new: &[ColumnDefinition]) -> Vec<ColumnDefinition> {
    let known = |column: &ColumnDefinition| old.iter().find(|old| old.name == column.name);
    let stay = new.iter().filter_map(known).eq(old);
    let may_come = new.iter().all(|column| known(column).is_some() || column.nullable);
    if !stay || !may_come {
        return old.to_vec();
    }
    let grown = |column: &ColumnDefinition| match known(column) {
        Some(old) if !has_grown(&old.data_type, &column.data_type) => old.clone(),
        Some(old) => ColumnDefinition { data_type: column.data_type.clone(), ..old.clone() },
        None => column.clone(),
    };
    new.iter().map(grown).collect()
}

/// Whether `new` has all that `old` has, and nullable fields besides.
fn has_grown(old: &ColumnType, new: &ColumnType) -> bool {
    let same = |old: &Part, new: &Part| old.name == new.name && old.nullable == new.nullable;
    let item_has = |old: &Part, new: &Part| same(old, new) && has_grown(&old.data_type, &new.data_type);
    match (old, new) {
        (old, new) if old == new => true,
        (ColumnType::Struct(old), ColumnType::Struct(new)) => {
            let known = |part: &&Part| old.iter().any(|old| old.name == part.name);
            let stay: Vec<&Part> = new.iter().filter(known).collect();
            stay.len() == old.len()
                && old.iter().zip(stay).all(|(old, new)| item_has(old, new))
                && new.iter().filter(|part| !known(part)).all(|part| part.nullable)
        }
        (ColumnType::List(old), ColumnType::List(new))
        | (ColumnType::LargeList(old), ColumnType::LargeList(new)) => item_has(old, new),
        (ColumnType::FixedSizeList { of: old, size }, ColumnType::FixedSizeList { of: new, size: now }) => {
            size == now && item_has(old, new)
        }
        (ColumnType::Map { entries: old, sorted }, ColumnType::Map { entries: new, sorted: now }) => {
            sorted == now && entries_have(old, new)
        }
        _ => false,
    }
}

/// Whether the values of a map have grown, and nothing else of it has changed.
fn entries_have(old: &Part, new: &Part) -> bool {
    let (ColumnType::Struct(old), ColumnType::Struct(new)) = (&old.data_type, &new.data_type) else {
        return false;
    };
    match (old.as_slice(), new.as_slice()) {
        ([old_key, old], [new_key, new]) => {
            old_key == new_key && old.name == new.name && has_grown(&old.data_type, &new.data_type)
        }
        _ => false,
    }
}

/// Whether who reads the files of a sink can tell which columns a file lacks.
fn finds_columns_by_name(sink: &SinkDefinition) -> bool {
    let is_false =
        |name: &str| sink.options.get(name).is_some_and(|value| value.eq_ignore_ascii_case("false"));
    match sink.format.as_str() {
        "csv" => !["header", "has_header", "format.has_header"].into_iter().any(is_false),
        "text" => false,
        _ => true,
    }
}

/// One sentence per difference. Pure.
pub(crate) fn differences(recorded: &QueryDefinition, current: &QueryDefinition) -> Vec<String> {
    let mut found = Vec::new();
    if recorded.sources.len() != current.sources.len() {
        found.push(format!(
            "it had {} and has {}",
            count(recorded.sources.len(), "source"),
            count(current.sources.len(), "source")
        ));
    } else {
        for (index, (old, new)) in recorded.sources.iter().zip(&current.sources).enumerate() {
            compare_sources(index, old, new, &mut found);
        }
    }
    compare_sinks(&recorded.sink, &current.sink, &mut found);
    if recorded.output_mode != current.output_mode {
        found.push(format!("its output mode was {} and is {}", recorded.output_mode, current.output_mode));
    }
    operators::compare(&recorded.operators, &current.operators, &mut found);
    found
}

fn compare_sources(index: usize, old: &SourceDefinition, new: &SourceDefinition, found: &mut Vec<String>) {
    let name = format!("source {index}");
    if old.format != new.format {
        found.push(format!("the format of {name} was {} and is {}", old.format, new.format));
    }
    compare_locations(&name, old.location.as_ref(), new.location.as_ref(), found);
    compare_columns(&name, &old.columns, &new.columns, found);
    // What had no effect is no difference when it is gone.
    let has_gone = |option: &str| WITHOUT_EFFECT.contains(&option) && !new.options.contains_key(option);
    // Which columns are those of directories follows from the columns.
    let is_compared = |name: &str| name != PARTITIONS && !has_gone(name);
    let options = |source: &SourceDefinition| -> BTreeMap<String, String> {
        source.options.clone().into_iter().filter(|(name, _)| is_compared(name)).collect()
    };
    compare_options(&name, &options(old), &options(new), found);
}

/// Options that sources of files took before, and that meant nothing to them.
const WITHOUT_EFFECT: [&str; 11] = [
    "format.date_format",
    "format.datetime_format",
    "format.timestamp_format",
    "format.timestamp_tz_format",
    "format.time_format",
    "format.null_value",
    "format.quote_style",
    "format.double_quote",
    "format.ignore_leading_whitespace",
    "format.ignore_trailing_whitespace",
    "format.compression_level",
];

fn compare_options(
    name: &str,
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
    found: &mut Vec<String>,
) {
    let mut differs = |option: &String, how: String| {
        let when = match RULES.contains(&option.as_str()) {
            true => {
                " (which it may be only to get a batch done that has failed, into a sink that has shown nothing of it)"
            }
            false => "",
        };
        found.push(format!("option '{option}' of {name} {how}{when}"));
    };
    for (option, value) in old {
        match new.get(option) {
            Some(current) if current == value => {}
            Some(current) => differs(option, format!("was '{value}' and is '{current}'")),
            None => differs(option, format!("was '{value}' and is not set")),
        }
    }
    for (option, value) in new.iter().filter(|(option, _)| !old.contains_key(*option)) {
        differs(option, format!("was not set and is '{value}'"));
    }
}

fn compare_sinks(old: &SinkDefinition, new: &SinkDefinition, found: &mut Vec<String>) {
    if old.format != new.format {
        found.push(format!("the format of the sink was {} and is {}", old.format, new.format));
    }
    compare_locations("the sink", old.location.as_ref(), new.location.as_ref(), found);
    compare_columns("the sink", &old.columns, &new.columns, found);
    if old.partition_by != new.partition_by {
        found.push(format!(
            "the sink was partitioned by ({}) and is partitioned by ({})",
            old.partition_by.join(", "),
            new.partition_by.join(", ")
        ));
    }
    compare_options("the sink", &old.options, &new.options, found);
}

fn compare_locations(name: &str, old: Option<&Location>, new: Option<&Location>, found: &mut Vec<String>) {
    match (old, new) {
        (Some(old), Some(new)) if !same_place(old, new) => found.push(format!(
            "the location of {name} was '{}' and is '{}' (seen from the checkpoint)",
            old.path, new.path
        )),
        (Some(old), None) => found.push(format!("{name} had the location '{}' and has none", old.path)),
        (None, Some(new)) => found.push(format!("{name} had no location and has '{}'", new.path)),
        _ => {}
    }
}

fn compare_columns(name: &str, old: &[ColumnDefinition], new: &[ColumnDefinition], found: &mut Vec<String>) {
    let before = found.len();
    for column in old {
        match new.iter().find(|other| other.name == column.name) {
            None => found.push(format!("column '{}' ({}) of {name} is gone", column.name, column.data_type)),
            Some(other) if !is_same_type(&other.data_type, &column.data_type) => found.push(format!(
                "column '{}' of {name} was {} and is {}",
                column.name, column.data_type, other.data_type
            )),
            Some(other) if other.nullable != column.nullable => found.push(format!(
                "column '{}' of {name} was {} and is {}",
                column.name,
                nullability(column),
                nullability(other)
            )),
            Some(_) => {}
        }
    }
    for column in new.iter().filter(|column| old.iter().all(|other| other.name != column.name)) {
        found.push(format!("column '{}' ({}) of {name} is new", column.name, column.data_type));
    }
    let names = |columns: &[ColumnDefinition]| {
        columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    if before == found.len() && names(old) != names(new) {
        found.push(format!("the columns of {name} were ({}) and are ({})", names(old), names(new)));
    }
}

/// Whether two types have the same values. Text is text, however Arrow lays it out in memory: which layout
/// a column gets depends on whether it was inferred or declared.
fn is_same_type(a: &ColumnType, b: &ColumnType) -> bool {
    a == b || a.plain() == b.plain()
}

fn nullability(column: &ColumnDefinition) -> &'static str {
    if column.nullable { "nullable" } else { "not null" }
}

fn count(number: usize, noun: &str) -> String {
    match number {
        0 => format!("no {noun}"),
        1 => format!("one {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::types::Part;

    fn column(name: &str, data_type: ColumnType) -> ColumnDefinition {
        ColumnDefinition { name: name.into(), data_type, nullable: true }
    }

    fn query() -> QueryDefinition {
        let location = Location { path: "../in".into(), fingerprint: "00000001".into() };
        QueryDefinition {
            sources: vec![SourceDefinition {
                format: "json".into(),
                location: Some(location.clone()),
                columns: vec![column("a", ColumnType::Int64), column("b", ColumnType::Utf8)],
                inferred: false,
                options: BTreeMap::new(),
            }],
            sink: SinkDefinition {
                format: "parquet".into(),
                location: Some(Location { path: "../out".into(), ..location }),
                columns: vec![column("a", ColumnType::Int64)],
                partition_by: vec![],
                options: Default::default(),
            },
            output_mode: "append".into(),
            operators: vec![],
        }
    }

    /// Changes a query.
    type Edit = Box<dyn Fn(&mut QueryDefinition)>;

    #[test]
    fn every_difference_is_named() {
        assert!(differences(&query(), &query()).is_empty());
        let cases: Vec<(Edit, &str)> = vec![
            (Box::new(|q| q.sources[0].format = "csv".into()), "the format of source 0 was json and is csv"),
            (
                Box::new(|q| {
                    q.sources[0].location =
                        Some(Location { path: "../other".into(), fingerprint: "00000002".into() });
                }),
                "the location of source 0 was '../in' and is '../other' (seen from the checkpoint)",
            ),
            (
                Box::new(|q| q.sources[0].columns[0] = column("a", ColumnType::Utf8)),
                "column 'a' of source 0 was Int64 and is Utf8",
            ),
            (Box::new(|q| drop(q.sources[0].columns.pop())), "column 'b' (Utf8) of source 0 is gone"),
            (
                Box::new(|q| q.sources[0].columns.push(column("c", ColumnType::Date32))),
                "column 'c' (Date32) of source 0 is new",
            ),
            (
                Box::new(|q| q.sources[0].columns.reverse()),
                "the columns of source 0 were (a, b) and are (b, a)",
            ),
            (
                Box::new(|q| drop(q.sources[0].options.insert("mode".into(), "PERMISSIVE".into()))),
                "option 'mode' of source 0 was not set and is 'PERMISSIVE' (which it may be only to get a batch done that has \
                 failed, into a sink that has shown nothing of it)",
            ),
            (
                Box::new(|q| drop(q.sources[0].options.insert("format.x".into(), "1".into()))),
                "option 'format.x' of source 0 was not set and is '1'",
            ),
            (Box::new(|q| q.sources.clear()), "it had one source and has no source"),
            (
                Box::new(|q| q.sink.format = "console".into()),
                "the format of the sink was parquet and is console",
            ),
            (Box::new(|q| q.sink.location = None), "the sink had the location '../out' and has none"),
            (
                Box::new(|q| q.sink.partition_by.push("a".into())),
                "the sink was partitioned by () and is partitioned by (a)",
            ),
            (Box::new(|q| q.output_mode = "update".into()), "its output mode was append and is update"),
        ];
        for (edit, expected) in cases {
            let mut changed = query();
            edit(&mut changed);
            assert_eq!(differences(&query(), &changed), vec![expected.to_string()]);
        }
    }

    #[test]
    fn nullable_columns_may_come_where_that_is_asked_for() {
        let mut more = query();
        more.sources[0].columns.push(column("c", ColumnType::Date32));
        more.sink.columns.insert(0, column("c", ColumnType::Date32));
        assert_eq!(grown(&query(), &more, &[true]), more);
        assert_eq!(grown(&query(), &more, &[false]), query());
        for edit in [
            |q: &mut QueryDefinition| q.sources[0].columns[2].nullable = false,
            |q: &mut QueryDefinition| q.sources[0].columns.swap(0, 1),
            |q: &mut QueryDefinition| drop(q.sources[0].columns.remove(0)),
        ] {
            let mut other = more.clone();
            edit(&mut other);
            let sources = &grown(&query(), &other, &[true]).sources;
            assert_eq!(*sources, query().sources);
        }
        let csv = |header: &str| {
            let mut sink = query().sink;
            sink.format = "csv".into();
            sink.options.insert("has_header".into(), header.into());
            finds_columns_by_name(&sink)
        };
        assert!(csv("true") && !csv("false"));
    }

    #[test]
    fn rules_for_malformed_records_are_taken_over() {
        let mut other = query();
        let options = [("badRecordsPath", "in use"), ("format.x", "1")];
        other.sources[0].options = options.map(|(name, value)| (name.into(), value.into())).into();
        assert!(has_other_rules(&query().sources, &other.sources));
        let mut taken = query();
        taken.sources[0].options.insert("mode".into(), "PERMISSIVE".into());
        take_rules(&mut taken, &other);
        assert_eq!(differences(&taken, &other), ["option 'format.x' of source 0 was not set and is '1'"]);
        assert!(!has_other_rules(&taken.sources, &other.sources));
    }

    #[test]
    fn text_is_text_however_it_is_laid_out() {
        use ColumnType::{Binary, BinaryView, LargeUtf8, Utf8, Utf8View};
        let list =
            |data_type| ColumnType::List(Box::new(Part { name: "item".into(), data_type, nullable: true }));
        for (old, new, same) in [
            (Utf8, Utf8View, true),
            (LargeUtf8, Utf8, true),
            (list(Utf8), list(Utf8View), true),
            (Binary, BinaryView, true),
            (Utf8, Binary, false),
        ] {
            let with = |data_type: &ColumnType| {
                let mut query = query();
                query.sources[0].columns[1] = column("b", data_type.clone());
                query
            };
            assert_eq!(differences(&with(&old), &with(&new)).is_empty(), same, "{old} {new}");
        }
    }

    #[test]
    fn moving_everything_together_or_only_the_checkpoint_is_no_difference() {
        let mut moved = query();
        moved.sources[0].location.as_mut().unwrap().fingerprint = "0000ffff".into();
        assert!(differences(&query(), &moved).is_empty());
        let mut checkpoint_moved = query();
        checkpoint_moved.sources[0].location.as_mut().unwrap().path = "../../elsewhere/in".into();
        assert!(differences(&query(), &checkpoint_moved).is_empty());
    }
}
