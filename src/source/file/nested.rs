//! Fields within the columns of files that the table does not have, by their paths.

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields};
use std::sync::Arc;

use crate::text::visible;

/// Stands between the names of a path: a column's, and those of the fields that lead to the last one. Lists and maps
/// have no name in it.
pub(super) const WITHIN: char = '\u{1f}';

/// The path of the field `name` within `path`, which may be empty.
pub(super) fn within(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_string() } else { format!("{path}{WITHIN}{name}") }
}

/// The path as users write it, in a line of a log.
pub(super) fn shown(path: &str) -> String {
    visible(&path.replace(WITHIN, ".")).into_owned()
}

/// The column that the path leads into, if it leads into one.
pub(super) fn column_of(path: &str) -> Option<&str> {
    path.split_once(WITHIN).map(|(column, _)| column)
}

/// Whether nothing in `fields` takes what is at `path`.
pub(super) fn lacks(fields: &Fields, path: &str) -> bool {
    let (name, rest) = path.split_once(WITHIN).map_or((path, None), |(name, rest)| (name, Some(rest)));
    let Some(field) = named(fields, name) else { return true };
    match (rest, fields_of(field.data_type())) {
        (Some(rest), Some(fields)) => lacks(fields, rest),
        // All of it, or as one text.
        _ => false,
    }
}

/// Gives `note` the paths of what `found`, a column or field at `path`, has and `table` has not.
pub(super) fn strangers(path: &str, found: &DataType, table: &DataType, note: &mut dyn FnMut(String)) {
    let (Some(found), Some(table)) = (fields_of(found), fields_of(table)) else { return };
    for field in found {
        let path = within(path, field.name());
        match taker(field.name(), found, table) {
            None => note(path),
            Some(known) => strangers(&path, field.data_type(), known.data_type(), note),
        }
    }
}

/// The field of `table` that takes the field `name` of `found`: the one of that very name, or else the only one whose name
/// differs from it in the case of letters alone, unless another field has its very name.
pub(super) fn taker<'a>(name: &str, found: &Fields, table: &'a Fields) -> Option<&'a FieldRef> {
    if let Some(field) = table.iter().find(|field| field.name() == name) {
        return Some(field);
    }
    let lower = name.to_lowercase();
    let mut meant = table.iter().filter(|field| field.name().to_lowercase() == lower);
    let field = meant.next().filter(|_| meant.next().is_none())?;
    found.iter().all(|other| other.name() != field.name()).then_some(field)
}

/// Whether the column, or the field within one, at `path` can never come to a table of `fields`, which lacks it: its name is
/// empty, or differs from another one in the case of letters alone.
pub(super) fn cannot_come(fields: &Fields, path: &str) -> bool {
    let (name, rest) = path.split_once(WITHIN).map_or((path, None), |(name, rest)| (name, Some(rest)));
    match (named(fields, name), rest) {
        (None, _) => path.rsplit(WITHIN).any(str::is_empty),
        (Some(field), None) => field.name() != name,
        (Some(field), Some(rest)) => {
            fields_of(field.data_type()).is_some_and(|fields| cannot_come(fields, rest))
        }
    }
}

/// `table` with the fields of `found` that it lacks behind its own.
pub(super) fn grown(table: &DataType, found: &DataType) -> DataType {
    let item = |table: &FieldRef, found: &Field| {
        let data_type = grown(table.data_type(), found.data_type());
        Arc::new(table.as_ref().clone().with_data_type(data_type))
    };
    match (table, found) {
        (DataType::Struct(table), DataType::Struct(found)) => {
            let known = table.iter().map(|field| match named(found, field.name()) {
                Some(found) => item(field, found),
                None => Arc::clone(field),
            });
            let new = found.iter().filter(|field| named(table, field.name()).is_none());
            let new = new.map(|field| Arc::new(field.as_ref().clone().with_nullable(true)));
            DataType::Struct(known.chain(new).collect())
        }
        (DataType::List(table), DataType::List(found)) => DataType::List(item(table, found)),
        (DataType::LargeList(table), DataType::LargeList(found)) => DataType::LargeList(item(table, found)),
        (DataType::FixedSizeList(table, size), DataType::FixedSizeList(found, _)) => {
            DataType::FixedSizeList(item(table, found), *size)
        }
        (DataType::Map(table, sorted), DataType::Map(found, _)) => {
            match (table.data_type(), found.data_type()) {
                (DataType::Struct(table_entry), DataType::Struct(found_entry))
                    if table_entry.len() == 2 && found_entry.len() == 2 =>
                {
                    let value = item(&table_entry[1], &found_entry[1]);
                    let entry = DataType::Struct(vec![Arc::clone(&table_entry[0]), value].into());
                    DataType::Map(Arc::new(table.as_ref().clone().with_data_type(entry)), *sorted)
                }
                _ => DataType::Map(Arc::clone(table), *sorted),
            }
        }
        (table, _) => table.clone(),
    }
}

/// The fields within values of `data_type`.
fn fields_of(data_type: &DataType) -> Option<&Fields> {
    match data_type {
        DataType::Struct(fields) => Some(fields),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => fields_of(item.data_type()),
        DataType::Map(entry, _) => match entry.data_type() {
            DataType::Struct(entry) => entry.get(1).and_then(|value| fields_of(value.data_type())),
            _ => None,
        },
        _ => None,
    }
}

fn named<'a>(fields: &'a Fields, name: &str) -> Option<&'a Field> {
    let lower = || name.to_lowercase();
    let exact = fields.iter().find(|field| field.name() == name);
    exact.or_else(|| fields.iter().find(|field| field.name().to_lowercase() == lower())).map(AsRef::as_ref)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(fields: &[(&str, DataType)]) -> DataType {
        DataType::Struct(fields.iter().map(|(name, of)| Field::new(*name, of.clone(), true)).collect())
    }

    #[test]
    fn fields_are_found_at_every_depth() {
        let table = record(&[
            ("a", DataType::Int64),
            ("items", DataType::new_list(record(&[("x", DataType::Utf8)]), true)),
            ("text", DataType::Utf8),
        ]);
        let found = record(&[
            ("A", DataType::Int32),
            ("b", DataType::Boolean),
            ("items", DataType::new_list(record(&[("y", DataType::Int32), ("x", DataType::Int64)]), true)),
            ("text", record(&[("z", DataType::Int64)])),
        ]);
        let mut paths = Vec::new();
        strangers("s", &found, &table, &mut |path| paths.push(path));
        assert_eq!(paths.iter().map(|path| shown(path)).collect::<Vec<_>>(), ["s.b", "s.items.y"]);
        let columns = Fields::from(vec![Field::new("s", table.clone(), true)]);
        assert!(paths.iter().all(|path| lacks(&columns, path)) && lacks(&columns, "t"));
        let wide = grown(&table, &found);
        let expected = record(&[
            ("a", DataType::Int64),
            ("items", DataType::new_list(record(&[("x", DataType::Utf8), ("y", DataType::Int32)]), true)),
            ("text", DataType::Utf8),
            ("b", DataType::Boolean),
        ]);
        assert_eq!(wide, expected);
        let columns = Fields::from(vec![Field::new("s", wide, true)]);
        assert!(!paths.iter().any(|path| lacks(&columns, path)));
        assert_eq!(column_of(&paths[0]), Some("s"));
    }

    #[test]
    fn fields_that_differ_in_case_alone_are_taken_once_and_cannot_come() {
        let (one, both) =
            (record(&[("a", DataType::Int64)]), record(&[("A", DataType::Int64), ("a", DataType::Int64)]));
        let paths = |found: &DataType, table: &DataType| {
            let mut paths = Vec::new();
            strangers("s", found, table, &mut |path| paths.push(shown(&path)));
            paths
        };
        assert_eq!(paths(&both, &one), ["s.A"]);
        assert_eq!(paths(&one, &both), [""; 0]);
        assert_eq!(paths(&record(&[("A", DataType::Int64)]), &one), [""; 0], "it is meant");
        let table = Fields::from(vec![Field::new("s", one, true), Field::new("t", DataType::Utf8, true)]);
        for (path, cannot) in [("S", true), ("", true), ("u", false), ("s", false), ("t", false)] {
            assert_eq!(cannot_come(&table, path), cannot, "{path}");
        }
        for (name, cannot) in [("A", true), ("a", false), ("b", false), ("", true)] {
            assert_eq!(cannot_come(&table, &within("s", name)), cannot, "{name}");
            assert_eq!(cannot_come(&table, &within("S", name)), cannot, "{name}");
        }
    }
}
