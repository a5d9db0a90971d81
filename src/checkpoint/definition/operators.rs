//! What differs between stateful operators, whose state can only be read by operators that are the same.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::count;
use crate::checkpoint::records::OperatorDefinition;
use crate::checkpoint::types::ColumnType;

/// What a thing is called in the query, and what that means whatever its tables are called.
const NAME: &str = "name";
const MEANING: &str = "meaning";

/// The field that says of what type a thing is.
const DATA_TYPE: &str = "dataType";

/// The state variables of a processor, by name.
const VARIABLES: &str = "variables";

/// Takes over the state variables that `new` has besides, if all that `old` has are still there.
pub(super) fn take_in_variables(old: &mut OperatorDefinition, new: &OperatorDefinition) {
    let (Some(Value::Array(known)), Some(Value::Array(declared))) =
        (old.details.get(VARIABLES), new.details.get(VARIABLES))
    else {
        return;
    };
    if old.name == new.name && known.iter().all(|variable| declared.contains(variable)) {
        old.details.insert(VARIABLES.into(), declared.clone().into());
    }
}

/// Adds one sentence per difference to `found`.
pub(super) fn compare(old: &[OperatorDefinition], new: &[OperatorDefinition], found: &mut Vec<String>) {
    if old.len() != new.len() {
        found.push(format!("it had {} and has {}", summary(old), summary(new)));
        return;
    }
    for (index, (old, new)) in old.iter().zip(new).enumerate() {
        if old.name != new.name {
            found.push(format!("stateful operator {index} was {} and is {}", old.name, new.name));
            continue;
        }
        let owner = format!("stateful operator {index} ({})", old.name);
        // What is not recorded was not known to the version that made the checkpoint.
        for (key, value) in &old.details {
            compare_detail(&owner, key, value, new.details.get(key).unwrap_or(&Value::Null), found);
        }
    }
}

/// How many there are, and which.
fn summary(operators: &[OperatorDefinition]) -> String {
    let number = count(operators.len(), "stateful operator");
    if operators.is_empty() {
        return number;
    }
    let names: Vec<&str> = operators.iter().map(|operator| operator.name.as_str()).collect();
    format!("{number} ({})", names.join(", "))
}

/// One entry of the details: a list of things with names, or a value.
fn compare_detail(owner: &str, key: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    if is_same(old, new) {
        return;
    }
    match (named(old), named(new)) {
        (Some(old), Some(new)) => compare_named(owner, &words(key), &old, &new, found),
        _ => {
            found.push(format!("the {} of {owner} was {} and is {}", words(key), text(old), text(new)));
        }
    }
}

/// Whether two values say the same, by the names in them or by the meanings of the names.
fn is_same(old: &Value, new: &Value) -> bool {
    old == new || essence(old, false) == essence(new, false) || essence(old, true) == essence(new, true)
}

/// `value` without the meanings of names, or with them in place of the names.
fn essence(value: &Value, by_meaning: bool) -> Value {
    match value {
        Value::Array(values) => values.iter().map(|value| essence(value, by_meaning)).collect(),
        Value::Object(fields) => {
            let name = fields.get(if by_meaning { MEANING } else { NAME }).or_else(|| fields.get(NAME));
            let others = fields.iter().filter(|(key, _)| *key != NAME && *key != MEANING);
            let of_field = |(key, value): (&String, &Value)| match key.as_str() {
                DATA_TYPE => (key.clone(), plain(value)),
                _ => (key.clone(), essence(value, by_meaning)),
            };
            let mut essence: Map<String, Value> = others.map(of_field).collect();
            essence.extend(name.map(|name| (NAME.to_string(), without_numbers(name))));
            Value::Object(essence)
        }
        value => value.clone(),
    }
}

/// `name` without the numbers that DataFusion gives to what it makes of subqueries and of parts that come twice, which
/// count on from plan to plan, and without the places of columns where it is of the latter.
fn without_numbers(name: &Value) -> Value {
    let Value::String(text) = name else { return name.clone() };
    let mut text = text.clone();
    for generated in ["__correlated_sq_", "__scalar_sq_", COMMON_PART] {
        text = without_digits_behind(&text, generated);
    }
    if [COMMON_PART, "__set@"].iter().any(|generated| text.contains(generated)) {
        text = without_digits_behind(&text, "@");
    }
    text.into()
}

/// What DataFusion calls a part of expressions that comes twice.
const COMMON_PART: &str = "__common_expr_";

fn without_digits_behind(text: &str, mark: &str) -> String {
    let mut parts = text.split(mark);
    let first = parts.next().unwrap_or_default().to_string();
    let rest = parts.map(|part| format!("{mark}{}", part.trim_start_matches(|c: char| c.is_ascii_digit())));
    std::iter::once(first).chain(rest).collect()
}

/// The type of the values of `data_type`, of which Arrow has several layouts of text and bytes: state has one.
fn plain(data_type: &Value) -> Value {
    let plain = ColumnType::deserialize(data_type).ok().map(|data_type| data_type.plain());
    plain.and_then(|plain| serde_json::to_value(plain).ok()).unwrap_or_else(|| data_type.clone())
}

/// A thing with a name, such as a key or an aggregate.
struct Named<'a> {
    name: &'a str,
    fields: &'a Map<String, Value>,
}

impl Named<'_> {
    /// Whether it is the same thing, of which other fields may differ.
    fn is_called_like(&self, other: &Named) -> bool {
        let name = |thing: &Named| without_numbers(&thing.name.into());
        let meaning = |thing: &Named| thing.fields.get(MEANING).map_or_else(|| name(thing), without_numbers);
        name(self) == name(other) || meaning(self) == meaning(other)
    }

    /// The name in quotes and the type, if there is one.
    fn label(&self) -> String {
        match self.fields.get(DATA_TYPE) {
            Some(data_type) => format!("'{}' ({})", self.name, type_text(data_type)),
            None => format!("'{}'", self.name),
        }
    }
}

/// The elements of `value` if it is a list of things with names; nothing recorded is an empty list.
fn named(value: &Value) -> Option<Vec<Named<'_>>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::Array(elements) => elements
            .iter()
            .map(|element| {
                let fields = element.as_object()?;
                Some(Named { name: fields.get("name")?.as_str()?, fields })
            })
            .collect(),
        _ => None,
    }
}

fn compare_named(owner: &str, nouns: &str, old: &[Named], new: &[Named], found: &mut Vec<String>) {
    let noun = nouns.strip_suffix('s').unwrap_or(nouns);
    let before = found.len();
    for thing in old {
        match new.iter().find(|other| other.is_called_like(thing)) {
            None => found.push(format!("{noun} {} of {owner} is gone", thing.label())),
            Some(other) => compare_fields(owner, noun, thing, other, found),
        }
    }
    for thing in new.iter().filter(|thing| old.iter().all(|other| !other.is_called_like(thing))) {
        found.push(format!("{noun} {} of {owner} is new", thing.label()));
    }
    if found.len() == before {
        found.push(format!("the {nouns} of {owner} were ({}) and are ({})", names(old), names(new)));
    }
}

/// Two things of the same name.
fn compare_fields(owner: &str, noun: &str, old: &Named, new: &Named, found: &mut Vec<String>) {
    let added = new.fields.iter().filter(|(key, _)| !old.fields.contains_key(*key));
    for (key, _) in old.fields.iter().chain(added).filter(|(key, _)| *key != NAME && *key != MEANING) {
        let (was, is) = (old.fields.get(key), new.fields.get(key));
        let (was, is) = (was.unwrap_or(&Value::Null), is.unwrap_or(&Value::Null));
        let is_one_type = key == DATA_TYPE && plain(was) == plain(is);
        if is_one_type || is_same(was, is) {
            continue;
        }
        let text = if key == DATA_TYPE { type_text } else { text };
        let (was, is) = (text(was), text(is));
        found.push(match key.as_str() {
            DATA_TYPE => format!("{noun} '{}' of {owner} was {was} and is {is}", old.name),
            _ => format!("the {} of {noun} '{}' of {owner} was {was} and is {is}", words(key), old.name),
        });
    }
}

fn names(things: &[Named]) -> String {
    things.iter().map(|thing| thing.name).collect::<Vec<_>>().join(", ")
}

/// A type for people.
fn type_text(value: &Value) -> String {
    ColumnType::deserialize(value).map_or_else(|_| text(value), |data_type| data_type.to_string())
}

/// A value for people.
fn text(value: &Value) -> String {
    if let (Value::Array(_), Some(things)) = (value, named(value)) {
        let labels: Vec<String> = things.iter().map(Named::label).collect();
        return format!("[{}]", labels.join(", "));
    }
    match value {
        Value::Null => "not set".into(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// `eventTime` as `event time`.
fn words(key: &str) -> String {
    let mut words = String::with_capacity(key.len() + 4);
    for letter in key.chars() {
        if letter.is_uppercase() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn operator(name: &str, details: Value) -> OperatorDefinition {
        let Value::Object(details) = details else { panic!("details are an object") };
        OperatorDefinition { name: name.into(), details: details.into_iter().collect() }
    }

    fn aggregate() -> Value {
        json!({
            "keys": [{"name": "k", "dataType": "Utf8"}, {"name": "day", "dataType": "Date32"}],
            "aggregates": [
                {
                    "name": "sum(v)",
                    "dataType": "Int64",
                    "state": [{"name": "sum(v)[sum]", "dataType": "Int64"}],
                },
            ],
            "eventTime": "day",
            "groupingSets": [{"name": "(k)"}],
        })
    }

    fn differences(old: &[OperatorDefinition], new: &[OperatorDefinition]) -> Vec<String> {
        let mut found = Vec::new();
        compare(old, new, &mut found);
        found
    }

    /// A change, and how it is named.
    type Case = (fn(&mut Value), &'static [&'static str]);

    #[test]
    fn every_change_of_an_operator_is_named() {
        let cases: Vec<Case> = vec![
            (|_| {}, &[]),
            (
                |new| {
                    new["aggregates"]
                        .as_array_mut()
                        .unwrap()
                        .push(json!({"name": "max(v)", "dataType": "Int64"}))
                },
                &["aggregate 'max(v)' (Int64) of stateful operator 0 (aggregate) is new"],
            ),
            (
                |new| new["aggregates"] = json!([]),
                &["aggregate 'sum(v)' (Int64) of stateful operator 0 (aggregate) is gone"],
            ),
            (
                |new| new["keys"][0]["name"] = json!("k2"),
                &[
                    "key 'k' (Utf8) of stateful operator 0 (aggregate) is gone",
                    "key 'k2' (Utf8) of stateful operator 0 (aggregate) is new",
                ],
            ),
            (
                |new| new["keys"][0]["dataType"] = json!("Int64"),
                &["key 'k' of stateful operator 0 (aggregate) was Utf8 and is Int64"],
            ),
            (
                |new| new["keys"].as_array_mut().unwrap().reverse(),
                &["the keys of stateful operator 0 (aggregate) were (k, day) and are (day, k)"],
            ),
            (
                |new| new["keys"].as_array_mut().unwrap().push(json!({"name": "k", "dataType": "Utf8"})),
                &["the keys of stateful operator 0 (aggregate) were (k, day) and are (k, day, k)"],
            ),
            (
                |new| new["aggregates"][0]["state"][0]["dataType"] = json!("Float64"),
                &["the state of aggregate 'sum(v)' of stateful operator 0 (aggregate) was ['sum(v)[sum]' \
                   (Int64)] and is ['sum(v)[sum]' (Float64)]"],
            ),
            (
                |new| new["eventTime"] = json!("other"),
                &["the event time of stateful operator 0 (aggregate) was day and is other"],
            ),
            (
                |new| drop(new.as_object_mut().unwrap().remove("eventTime")),
                &["the event time of stateful operator 0 (aggregate) was day and is not set"],
            ),
            // An entry that earlier versions did not record.
            (|new| new["expires"] = json!(true), &[]),
            (
                |new| new["groupingSets"] = json!([{"name": "(k, day)"}]),
                &[
                    "grouping set '(k)' of stateful operator 0 (aggregate) is gone",
                    "grouping set '(k, day)' of stateful operator 0 (aggregate) is new",
                ],
            ),
            (
                |new| drop(new.as_object_mut().unwrap().remove("aggregates")),
                &["aggregate 'sum(v)' (Int64) of stateful operator 0 (aggregate) is gone"],
            ),
        ];
        for (edit, expected) in cases {
            let mut changed = aggregate();
            edit(&mut changed);
            let found = differences(&[operator("aggregate", aggregate())], &[operator("aggregate", changed)]);
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn names_that_mean_the_same_are_no_difference() {
        let aggregate = |table: &str, column: &str| {
            json!({
                "keys": [{"name": "k", "dataType": "Utf8"}],
                "aggregates": [{
                    "name": format!("max({table}.{column})"),
                    "meaning": format!("max(#0.{column})"),
                    "dataType": "Int64",
                    "state": [{
                        "name": format!("max({table}.{column})[max]"),
                        "meaning": format!("max(#0.{column})[max]"),
                        "dataType": "Int64",
                    }],
                }],
            })
        };
        let found = |old: Value, new: Value| {
            differences(&[operator("aggregate", old)], &[operator("aggregate", new)])
        };
        assert!(found(aggregate("bids", "v"), aggregate("b", "v")).is_empty());
        assert_eq!(found(aggregate("bids", "v"), aggregate("b", "w")).len(), 2);
        let mut without_meanings = aggregate("bids", "v");
        without_meanings["aggregates"][0].as_object_mut().unwrap().remove("meaning");
        without_meanings["aggregates"][0]["state"][0].as_object_mut().unwrap().remove("meaning");
        assert!(found(without_meanings.clone(), aggregate("bids", "v")).is_empty());
        assert_eq!(found(without_meanings, aggregate("b", "v")).len(), 2);
        let mut other_type = aggregate("b", "v");
        other_type["aggregates"][0]["dataType"] = json!("Float64");
        assert_eq!(
            found(aggregate("bids", "v"), other_type),
            ["aggregate 'max(bids.v)' of stateful operator 0 (aggregate) was Int64 and is Float64"]
        );
    }

    #[test]
    fn other_operators_are_named() {
        let limit = |fetch: Value| operator("limit", json!({"skip": 0, "fetch": fetch}));
        assert_eq!(
            differences(&[limit(json!(3))], &[limit(json!(5))]),
            ["the fetch of stateful operator 0 (limit) was 3 and is 5"]
        );
        assert_eq!(
            differences(&[limit(json!(3))], &[limit(Value::Null)]),
            ["the fetch of stateful operator 0 (limit) was 3 and is not set"]
        );
        let aggregate = || operator("aggregate", aggregate());
        assert_eq!(
            differences(&[limit(json!(3))], &[aggregate()]),
            ["stateful operator 0 was limit and is aggregate"]
        );
        assert_eq!(
            differences(&[aggregate()], &[operator("distinct", json!({})), aggregate()]),
            ["it had one stateful operator (aggregate) and has 2 stateful operators (distinct, aggregate)"]
        );
        assert_eq!(
            differences(&[], &[aggregate()]),
            ["it had no stateful operator and has one stateful operator (aggregate)"]
        );
    }
}
