//! Columns that are put together from JSON values, one row at a time.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, FixedSizeListArray, GenericListArray, MapArray, NullBufferBuilder, OffsetSizeTrait, StructArray,
};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use datafusion::arrow::datatypes::{DataType, FieldRef, Fields};
use datafusion::arrow::error::ArrowError;

use super::text::{Broken, Cursor, Quoted, Token, unescape};
use crate::source::file::nested::within;
use crate::source::file::records::strangers::Strangers;
use crate::source::file::values::{Leaf, Scalar, ValueRules, cannot_be_read, leaf, type_name};

/// Why a record cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Flaw {
    /// It is no JSON.
    Broken(Broken),
    /// A value does not fit its column.
    Value(String),
}

impl From<Broken> for Flaw {
    fn from(broken: Broken) -> Self {
        Flaw::Broken(broken)
    }
}

/// The text of a record, and room to work in.
pub(super) struct Record<'a> {
    pub(super) text: &'a str,
    pub(super) cursor: Cursor<'a>,
    pub(super) scratch: Vec<u8>,
    /// Whether a field was met that nothing takes.
    has_strangers: bool,
}

impl<'a> Record<'a> {
    pub(super) fn new(text: &'a str, scratch: Vec<u8>) -> Self {
        Self { text, cursor: Cursor::new(text.as_bytes(), 0), scratch, has_strangers: false }
    }

    fn slice(&self, range: Range<usize>) -> &'a str {
        self.text.get(range).unwrap_or_default()
    }
}

/// Gives `take` the text that stands between two quotes.
fn with_text<T>(
    text: &str,
    quoted: &Quoted,
    scratch: &mut Vec<u8>,
    take: impl FnOnce(&str) -> T,
) -> Result<T, Broken> {
    let inside = text.get(quoted.at.clone()).unwrap_or_default();
    if !quoted.has_escapes {
        return Ok(take(inside));
    }
    unescape(inside.as_bytes(), scratch)?;
    std::str::from_utf8(scratch).map(take).map_err(|error| Broken::Wrong(error.to_string()))
}

/// A column.
pub(super) enum Column {
    Leaf { values: Box<dyn Leaf>, data_type: DataType },
    Struct(Box<StructColumn>),
    List(Box<ListColumn>),
    Map(Box<MapColumn>),
}

impl Column {
    /// An empty column of `data_type`; `None` if no JSON value can be read as one.
    pub(super) fn new(data_type: &DataType, rules: &ValueRules) -> Option<Self> {
        Some(match data_type {
            DataType::Struct(fields) => {
                let names =
                    fields.iter().enumerate().map(|(index, field)| (field.name().as_str(), Some(index)));
                let column = StructColumn::new(fields, Names::new(names), rules)?;
                Column::Struct(Box::new(column.with_strangers(Strangers::new(None))))
            }
            DataType::List(item) => ListColumn::column(item, ListKind::Small, rules)?,
            DataType::LargeList(item) => ListColumn::column(item, ListKind::Large, rules)?,
            DataType::FixedSizeList(item, size) => {
                ListColumn::column(item, ListKind::Fixed(usize::try_from(*size).ok()?), rules)?
            }
            DataType::Map(entries, sorted) => {
                let DataType::Struct(fields) = entries.data_type() else { return None };
                let [key, value] = fields.as_ref() else { return None };
                Column::Map(Box::new(MapColumn {
                    entries: Arc::clone(entries),
                    sorted: *sorted,
                    keys: leaf(key.data_type(), rules)?,
                    key_type: key.data_type().clone(),
                    values: Column::new(value.data_type(), rules)?,
                    ends: vec![0],
                    nulls: NullBufferBuilder::new(0),
                }))
            }
            data_type => Column::Leaf { values: leaf(data_type, rules)?, data_type: data_type.clone() },
        })
    }

    /// Adds the value at the record's cursor: whether it is null. After an error part of it may have been
    /// added.
    pub(super) fn read(&mut self, record: &mut Record<'_>) -> Result<bool, Flaw> {
        let start = record.cursor.at();
        let token = record.cursor.value()?;
        if token == Token::Null {
            self.push_null();
            return Ok(true);
        }
        match self {
            Column::Leaf { values, data_type } => {
                read_leaf(values.as_mut(), data_type, token, start, record)?
            }
            Column::Struct(column) if token == Token::Object => {
                column.read(record, None)?;
                column.end_object();
            }
            Column::List(column) if token == Token::List => column.read(record)?,
            Column::Map(column) if token == Token::Object => column.read(record)?,
            Column::Struct(_) | Column::Map(_) => return Err(not_a("an object", start, token, record)),
            Column::List(_) => return Err(not_a("a list", start, token, record)),
        }
        Ok(false)
    }

    pub(super) fn push_null(&mut self) {
        match self {
            Column::Leaf { values, .. } => values.push_null(),
            Column::Struct(column) => {
                column.columns.iter_mut().for_each(Column::push_null);
                column.len += 1;
                column.nulls.append_null();
            }
            Column::List(column) => {
                if let ListKind::Fixed(size) = column.kind {
                    (0..size).for_each(|_| column.items.push_null());
                }
                column.ends.push(column.items.len() as i64);
                column.nulls.append_null();
            }
            Column::Map(column) => {
                column.ends.push(column.keys.len() as i64);
                column.nulls.append_null();
            }
        }
    }

    /// Adds the paths of fields below `path` that nothing takes to `paths`.
    fn strangers_within(&self, path: &str, paths: &mut Vec<String>) {
        match self {
            Column::Leaf { .. } => {}
            Column::Struct(column) => column.paths_of_strangers(path, paths),
            Column::List(column) => column.items.strangers_within(path, paths),
            Column::Map(column) => column.values.strangers_within(path, paths),
        }
    }

    fn len(&self) -> usize {
        match self {
            Column::Leaf { values, .. } => values.len(),
            Column::Struct(column) => column.len,
            Column::List(column) => column.ends.len() - 1,
            Column::Map(column) => column.ends.len() - 1,
        }
    }

    pub(super) fn truncate(&mut self, len: usize) {
        match self {
            Column::Leaf { values, .. } => values.truncate(len),
            Column::Struct(column) => {
                column.truncate(len);
                column.nulls.truncate(len);
            }
            Column::List(column) => {
                column.ends.truncate(len + 1);
                column.nulls.truncate(len);
                column.items.truncate(end_of(&column.ends));
            }
            Column::Map(column) => {
                column.ends.truncate(len + 1);
                column.nulls.truncate(len);
                column.keys.truncate(end_of(&column.ends));
                column.values.truncate(end_of(&column.ends));
            }
        }
    }

    pub(super) fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Column::Leaf { values, .. } => values.finish(),
            Column::Struct(column) => {
                let nulls = column.nulls.finish();
                Arc::new(column.finish(nulls)?)
            }
            Column::List(column) => column.finish()?,
            Column::Map(column) => column.finish()?,
        })
    }
}

fn end_of(ends: &[i64]) -> usize {
    ends.last().and_then(|end| usize::try_from(*end).ok()).unwrap_or_default()
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Adds one value that is not null. Objects and lists are text as they are written.
fn read_leaf(
    values: &mut dyn Leaf,
    data_type: &DataType,
    token: Token,
    start: usize,
    record: &mut Record<'_>,
) -> Result<(), Flaw> {
    let flaw = |value: Scalar<'_>, why| Flaw::Value(cannot_be_read(value, data_type, why));
    let mut push = |value: Scalar<'_>| values.push(value).map_err(|why| flaw(value, why));
    match token {
        Token::Null => values.push_null(),
        Token::Bool(value) => push(Scalar::Bool(value))?,
        Token::Number(at) => push(Scalar::Number(record.slice(at)))?,
        Token::Text(quoted) => {
            with_text(record.text, &quoted, &mut record.scratch, |text| push(Scalar::Text(text)))??;
        }
        token @ (Token::Object | Token::List) if is_text(data_type) => {
            record.cursor.skip_rest(token)?;
            let written = record.slice(start..record.cursor.at()).trim_start();
            push(Scalar::Text(written))?;
        }
        Token::Object => {
            return Err(Flaw::Value(format!("an object cannot be read as {}", type_name(data_type))));
        }
        Token::List => return Err(Flaw::Value(format!("a list cannot be read as {}", type_name(data_type)))),
    }
    Ok(())
}

fn not_a(wanted: &str, start: usize, token: Token, record: &mut Record<'_>) -> Flaw {
    if let Err(broken) = record.cursor.skip_rest(token) {
        return broken.into();
    }
    Flaw::Value(format!("{} is not {wanted}", record.slice(start..record.cursor.at()).trim_start()))
}

/// Which column a key means: the one of its very name, or else the only one whose name differs from it in
/// the case of letters alone.
#[derive(Debug)]
pub(super) struct Names {
    exact: HashMap<String, Option<usize>>,
    /// By name in lower case; `None` if there are several.
    folded: HashMap<String, Option<Option<usize>>>,
}

/// What a key means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// A column that is not wanted, or one of several.
    Nothing,
    /// No column of the table.
    Stranger,
    /// This column, by its very name or not.
    Column { index: usize, is_exact: bool },
}

impl Names {
    /// Names of all columns, each with its position among those that are wanted.
    pub(super) fn new<'a>(columns: impl Iterator<Item = (&'a str, Option<usize>)>) -> Self {
        let (mut exact, mut folded) = (HashMap::new(), HashMap::new());
        for (name, index) in columns {
            exact.insert(name.to_string(), index);
            folded.entry(name.to_lowercase()).and_modify(|column| *column = None).or_insert(Some(index));
        }
        Self { exact, folded }
    }

    fn meaning(&self, key: &str) -> Meaning {
        let (index, is_exact) = match self.exact.get(key) {
            Some(index) => (*index, true),
            None => match self.folded.get(&key.to_lowercase()) {
                Some(index) => (index.flatten(), false),
                None => return Meaning::Stranger,
            },
        };
        index.map_or(Meaning::Nothing, |index| Meaning::Column { index, is_exact })
    }
}

/// What was last read into a field.
#[derive(Debug, Clone, Default)]
struct Mark {
    /// The object, counted from 1.
    object: u64,
    is_exact: bool,
    is_null: bool,
    key: Range<usize>,
    /// Where its value is, unless its key is the very name.
    value: Range<usize>,
}

/// What takes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taker {
    Column(usize),
    /// Nothing, and that is to be told.
    Nobody,
    /// Nothing that is wanted.
    Unwanted,
}

/// The first thing that is wrong with a record whose other values are kept.
#[derive(Debug, Default)]
pub(super) struct FirstFlaw(pub(super) Option<(String, String)>);

/// Objects with known fields.
pub(super) struct StructColumn {
    fields: Fields,
    names: Names,
    columns: Vec<Column>,
    marks: Vec<Mark>,
    objects: u64,
    len: usize,
    nulls: NullBufferBuilder,
    /// The keys of the last object in their order, with what they mean: the next one has most likely the
    /// same.
    order: Vec<(Box<[u8]>, Meaning)>,
    /// Of fields that no column takes, where that matters.
    strangers: Option<Strangers>,
}

impl StructColumn {
    /// Objects with `fields`, whose keys mean what `names` says.
    pub(super) fn new(fields: &Fields, names: Names, rules: &ValueRules) -> Option<Self> {
        let columns =
            fields.iter().map(|field| Column::new(field.data_type(), rules)).collect::<Option<Vec<_>>>()?;
        Some(Self {
            fields: fields.clone(),
            names,
            marks: vec![Mark::default(); columns.len()],
            columns,
            objects: 0,
            len: 0,
            nulls: NullBufferBuilder::new(0),
            order: Vec::new(),
            strangers: None,
        })
    }

    /// The same, telling of fields that no column takes.
    pub(super) fn with_strangers(self, strangers: Strangers) -> Self {
        Self { strangers: Some(strangers), ..self }
    }

    pub(super) fn strangers(&mut self) -> Option<&mut Strangers> {
        self.strangers.as_mut()
    }

    /// Adds the paths of fields that nothing takes to `paths`; those of this column are below `path`.
    pub(super) fn paths_of_strangers(&self, path: &str, paths: &mut Vec<String>) {
        paths.extend(self.strangers.iter().flat_map(Strangers::names).map(|name| within(path, name)));
        for (field, column) in self.fields.iter().zip(&self.columns) {
            column.strangers_within(&within(path, field.name()), paths);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The object that was read last is not null.
    pub(super) fn end_object(&mut self) {
        self.nulls.append_non_null();
    }

    /// Whether any object had field `index`.
    pub(super) fn was_found(&self, index: usize) -> bool {
        self.marks[index].object > 0
    }

    /// Adds the object whose beginning was taken. With `flaws` a value that does not fit becomes null.
    pub(super) fn read(
        &mut self,
        record: &mut Record<'_>,
        mut flaws: Option<&mut FirstFlaw>,
    ) -> Result<(), Flaw> {
        self.objects += 1;
        if let Some(strangers) = &mut self.strangers {
            strangers.begin_row();
        }
        let mut position = 0;
        while let Some(key) = record.cursor.key(position == 0)? {
            let meaning = self.meaning(position, &key, record)?;
            position += 1;
            let taker = self.taker(meaning, &key, record)?;
            let Taker::Column(index) = taker else {
                let at = record.cursor.at();
                record.cursor.skip()?;
                if taker == Taker::Nobody {
                    self.keep_apart(key.at, at..record.cursor.at(), record);
                }
                continue;
            };
            let (at, depth) = (record.cursor.at(), record.cursor.depth());
            let had_strangers = std::mem::take(&mut record.has_strangers);
            match (self.columns[index].read(record), flaws.as_deref_mut()) {
                (Ok(is_null), _) => self.marks[index].is_null = is_null,
                (Err(Flaw::Value(reason)), Some(flaws)) => {
                    flaws.0.get_or_insert_with(|| (self.fields[index].name().clone(), reason));
                    self.columns[index].truncate(self.len);
                    self.columns[index].push_null();
                    self.marks[index].is_null = true;
                    record.cursor.go_back(at, depth);
                    record.cursor.skip()?;
                }
                (Err(flaw), _) => return Err(flaw),
            }
            let mark = &mut self.marks[index];
            if !mark.is_exact {
                mark.value = at..record.cursor.at();
            }
            if let (true, Some(strangers)) = (record.has_strangers, &mut self.strangers) {
                // What is within is kept with what is around it.
                strangers.keep(record.slice(key.at), record.slice(at..record.cursor.at()).trim());
            }
            record.has_strangers |= had_strangers;
        }
        for (column, mark) in self.columns.iter_mut().zip(&self.marks) {
            if mark.object != self.objects {
                column.push_null();
            }
        }
        self.len += 1;
        if let Some(strangers) = &mut self.strangers {
            strangers.end_row();
        }
        Ok(())
    }

    #[inline]
    fn meaning(&mut self, position: usize, key: &Quoted, record: &mut Record<'_>) -> Result<Meaning, Flaw> {
        let written = &record.text.as_bytes()[key.at.clone()];
        if let Some((last, meaning)) = self.order.get(position)
            && last.as_ref() == written
        {
            return Ok(*meaning);
        }
        let (names, strangers) = (&self.names, &mut self.strangers);
        let meaning = with_text(record.text, key, &mut record.scratch, |key| {
            let meaning = names.meaning(key);
            if let (Meaning::Stranger, Some(strangers)) = (meaning, strangers) {
                strangers.note(key);
            }
            meaning
        })?;
        self.remember(position, written, meaning);
        Ok(meaning)
    }

    /// Keys of objects that are used as maps are not worth remembering without end.
    fn remember(&mut self, position: usize, key: &[u8], meaning: Meaning) {
        const MAX_KEYS: usize = 4096;
        const MAX_LENGTH: usize = 256;
        if position < self.order.len() {
            self.order[position] = (key.into(), meaning);
        } else if position == self.order.len() && position < MAX_KEYS && key.len() <= MAX_LENGTH {
            self.order.push((key.into(), meaning));
        }
    }

    /// What takes the value: of a key that comes again the last one counts, and one of the very name goes before others,
    /// which nothing takes then.
    fn taker(&mut self, meaning: Meaning, key: &Quoted, record: &mut Record<'_>) -> Result<Taker, Flaw> {
        let (index, is_exact) = match meaning {
            Meaning::Column { index, is_exact } => (index, is_exact),
            Meaning::Stranger => return Ok(Taker::Nobody),
            Meaning::Nothing => return Ok(Taker::Unwanted),
        };
        if self.marks[index].object == self.objects {
            let mark = self.marks[index].clone();
            if mark.is_exact && !is_exact {
                self.note(&key.at, key.has_escapes, record)?;
                return Ok(Taker::Nobody);
            }
            let (before, now) = (record.slice(mark.key.clone()), record.slice(key.at.clone()));
            if !mark.is_exact && !is_exact && before != now {
                return Err(Flaw::Value(format!(
                    "both '{before}' and '{now}' can be meant by '{}'",
                    self.fields[index].name()
                )));
            }
            if is_exact && !mark.is_exact {
                self.note(&mark.key, before.contains('\\'), record)?;
                self.keep_apart(mark.key, mark.value, record);
            }
            self.columns[index].truncate(self.len);
        }
        let key = key.at.clone();
        self.marks[index] = Mark { object: self.objects, is_exact, is_null: false, key, value: 0..0 };
        Ok(Taker::Column(index))
    }

    /// There is a field that nothing takes, whose key is at `key`.
    fn note(&mut self, key: &Range<usize>, has_escapes: bool, record: &mut Record<'_>) -> Result<(), Flaw> {
        let Some(strangers) = &mut self.strangers else { return Ok(()) };
        let key = Quoted { at: key.clone(), has_escapes };
        Ok(with_text(record.text, &key, &mut record.scratch, |key| strangers.note(key))?)
    }

    /// The row has a field that nothing takes.
    fn keep_apart(&mut self, key: Range<usize>, value: Range<usize>, record: &mut Record<'_>) {
        if let Some(strangers) = &mut self.strangers {
            record.has_strangers = true;
            strangers.keep(record.slice(key), record.slice(value).trim());
        }
    }

    /// Whether the last object has no value in field `index`.
    pub(super) fn ends_with_null(&self, index: usize) -> bool {
        self.marks[index].object != self.objects || self.marks[index].is_null
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.columns.iter_mut().for_each(|column| column.truncate(len));
        self.len = len;
        if let Some(strangers) = &mut self.strangers {
            strangers.truncate(len);
        }
    }

    pub(super) fn finish(&mut self, nulls: Option<NullBuffer>) -> Result<StructArray, ArrowError> {
        let columns = self.columns.iter_mut().map(Column::finish).collect::<Result<Vec<_>, _>>()?;
        let len = std::mem::take(&mut self.len);
        StructArray::try_new_with_length(self.fields.clone(), columns, nulls, len)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ListKind {
    Small,
    Large,
    Fixed(usize),
}

/// Lists.
pub(super) struct ListColumn {
    field: FieldRef,
    kind: ListKind,
    items: Column,
    ends: Vec<i64>,
    nulls: NullBufferBuilder,
}

impl ListColumn {
    fn column(field: &FieldRef, kind: ListKind, rules: &ValueRules) -> Option<Column> {
        let items = Column::new(field.data_type(), rules)?;
        let field = Arc::clone(field);
        Some(Column::List(Box::new(Self {
            field,
            kind,
            items,
            ends: vec![0],
            nulls: NullBufferBuilder::new(0),
        })))
    }

    fn read(&mut self, record: &mut Record<'_>) -> Result<(), Flaw> {
        let before = self.items.len();
        let mut first = true;
        while record.cursor.item(first)? {
            self.items.read(record)?;
            first = false;
        }
        let items = self.items.len() - before;
        if let ListKind::Fixed(size) = self.kind
            && items != size
        {
            return Err(Flaw::Value(format!("the list has {items} items, and the column lists of {size}")));
        }
        self.ends.push(self.items.len() as i64);
        self.nulls.append_non_null();
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let (items, nulls) = (self.items.finish()?, self.nulls.finish());
        let ends = std::mem::replace(&mut self.ends, vec![0]);
        let field = Arc::clone(&self.field);
        Ok(match self.kind {
            ListKind::Small => Arc::new(list::<i32>(field, &ends, items, nulls)?),
            ListKind::Large => Arc::new(list::<i64>(field, &ends, items, nulls)?),
            ListKind::Fixed(size) => {
                let size = i32::try_from(size).unwrap_or(i32::MAX);
                Arc::new(FixedSizeListArray::try_new_with_length(field, size, items, nulls, ends.len() - 1)?)
            }
        })
    }
}

fn list<O: OffsetSizeTrait>(
    field: FieldRef,
    ends: &[i64],
    items: ArrayRef,
    nulls: Option<NullBuffer>,
) -> Result<GenericListArray<O>, ArrowError> {
    GenericListArray::try_new(field, offsets(ends)?, items, nulls)
}

fn offsets<O: OffsetSizeTrait>(ends: &[i64]) -> Result<OffsetBuffer<O>, ArrowError> {
    let too_many = || ArrowError::OffsetOverflowError(ends.len());
    let ends: Option<Vec<O>> =
        ends.iter().map(|end| usize::try_from(*end).ok().and_then(O::from_usize)).collect();
    Ok(OffsetBuffer::new(ScalarBuffer::from(ends.ok_or_else(too_many)?)))
}

/// Objects whose keys are values.
pub(super) struct MapColumn {
    entries: FieldRef,
    sorted: bool,
    keys: Box<dyn Leaf>,
    key_type: DataType,
    values: Column,
    ends: Vec<i64>,
    nulls: NullBufferBuilder,
}

impl MapColumn {
    fn read(&mut self, record: &mut Record<'_>) -> Result<(), Flaw> {
        let mut known: HashSet<Cow<'_, str>> = HashSet::new();
        let mut first = true;
        while let Some(key) = record.cursor.key(first)? {
            first = false;
            let name = match key.has_escapes {
                true => with_text(record.text, &key, &mut record.scratch, |key| Cow::Owned(key.to_string()))?,
                false => Cow::Borrowed(record.slice(key.at.clone())),
            };
            if !known.insert(name) {
                return Err(Flaw::Value(format!("the map has the key '{}' twice", record.slice(key.at))));
            }
            let (keys, key_type) = (&mut self.keys, &self.key_type);
            with_text(record.text, &key, &mut record.scratch, |key| {
                let key = Scalar::Text(key);
                keys.push(key).map_err(|why| Flaw::Value(cannot_be_read(key, key_type, why)))
            })??;
            self.values.read(record)?;
        }
        self.ends.push(self.keys.len() as i64);
        self.nulls.append_non_null();
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let columns = vec![self.keys.finish(), self.values.finish()?];
        let ends = std::mem::replace(&mut self.ends, vec![0]);
        let DataType::Struct(fields) = self.entries.data_type() else {
            return Err(ArrowError::SchemaError("the entries of a map are no struct".into()));
        };
        let entries = StructArray::try_new(fields.clone(), columns, None)?;
        let entries_field = Arc::clone(&self.entries);
        let map =
            MapArray::try_new(entries_field, offsets(&ends)?, entries, self.nulls.finish(), self.sorted)?;
        Ok(Arc::new(map))
    }
}
