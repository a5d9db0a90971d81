//! What a processor remembers, by name.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;

use super::encoding::{decode, encode};
use super::keyed_state::{Element, KeyedState};
use super::shape::shape_of;
use crate::error::{Error, Result};
use crate::exec::codec::RowCodec;
use crate::exec::operator::columns;
use crate::state::RowBytes;

/// What kind of thing a variable is, as checkpoints record it.
pub(crate) const VALUE: &str = "value";
pub(crate) const LIST: &str = "list";
pub(crate) const MAP: &str = "map";
pub(crate) const ROWS: &str = "rows";

/// A state variable that was declared.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Variable {
    pub(crate) name: String,
    /// What it is called in state.
    pub(crate) number: u32,
    /// As checkpoints record it.
    pub(crate) definition: Value,
}

/// The number of the variable `name`, whatever others there are: a CRC-32C.
pub(crate) fn variable_number(name: &str) -> u32 {
    crc32c::crc32c(name.as_bytes())
}

/// Takes the declarations of the state variables of a processor, in
/// [`StatefulProcessor::init`](super::StatefulProcessor::init).
///
/// The names and types are recorded in the checkpoint. A later start may declare more variables; one that is
/// gone, or of another kind or type, is refused by name.
#[derive(Debug, Default)]
pub struct StateVariables {
    declared: Vec<Variable>,
}

impl StateVariables {
    /// One value per key.
    ///
    /// # Errors
    /// If there is a variable of that name already.
    pub fn value<T: Serialize + DeserializeOwned>(&mut self, name: &str) -> Result<ValueState<T>> {
        let number = self.declare(name, json!({"kind": VALUE, "type": shape_of::<T>()}))?;
        Ok(ValueState { number, ttl: None, of: PhantomData })
    }

    /// A list of values per key, in the order in which they were appended.
    ///
    /// # Errors
    /// If there is a variable of that name already.
    pub fn list<T: Serialize + DeserializeOwned>(&mut self, name: &str) -> Result<ListState<T>> {
        let number = self.declare(name, json!({"kind": LIST, "type": shape_of::<T>()}))?;
        Ok(ListState { number, ttl: None, of: PhantomData })
    }

    /// A map per key.
    ///
    /// # Errors
    /// If there is a variable of that name already.
    pub fn map<K, V>(&mut self, name: &str) -> Result<MapState<K, V>>
    where
        K: Serialize + DeserializeOwned,
        V: Serialize + DeserializeOwned,
    {
        let type_name = format!("{} => {}", shape_of::<K>(), shape_of::<V>());
        let number = self.declare(name, json!({"kind": MAP, "type": type_name}))?;
        Ok(MapState { number, ttl: None, of: PhantomData })
    }

    /// Rows of these columns per key, in the order in which they were appended, for those who work with columns.
    ///
    /// # Errors
    /// If there is a variable of that name already, or a column has a type that cannot be kept in state.
    pub fn rows(&mut self, name: &str, schema: SchemaRef) -> Result<RowsState> {
        let codec = RowCodec::values(schema.fields().iter().map(AsRef::as_ref))?;
        let recorded = columns(schema.fields().iter().map(AsRef::as_ref));
        let number = self.declare(name, json!({"kind": ROWS, "columns": recorded}))?;
        Ok(RowsState { number, ttl: None, schema, codec })
    }

    fn declare(&mut self, name: &str, mut definition: Value) -> Result<u32> {
        let number = variable_number(name);
        if let Some(other) = self.declared.iter().find(|other| other.number == number) {
            return Err(Error::Invalid(match other.name == name {
                true => format!("the state variable '{name}' is declared twice"),
                false => format!(
                    "the state variables '{}' and '{name}' cannot be told apart; rename one",
                    other.name
                ),
            }));
        }
        definition["name"] = name.into();
        self.declared.push(Variable { name: name.to_string(), number, definition });
        Ok(number)
    }

    /// What was declared, by name.
    pub(super) fn finish(mut self) -> Vec<Variable> {
        self.declared.sort_by(|one, other| one.name.cmp(&other.name));
        self.declared
    }
}

fn micros(ttl: Duration) -> Option<i64> {
    Some(i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX).max(1))
}

/// One value per key.
pub struct ValueState<T> {
    number: u32,
    ttl: Option<i64>,
    of: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> ValueState<T> {
    /// The same, forgotten so long after it was last updated, by the time of the batches. May be changed between
    /// restarts; what is in state already expires as it was to.
    #[must_use]
    pub fn with_ttl(self, ttl: Duration) -> Self {
        Self { ttl: micros(ttl), ..self }
    }

    /// The value, if there is one.
    ///
    /// # Errors
    /// If what is in state is not a `T`.
    pub fn get(&self, state: &KeyedState<'_>) -> Result<Option<T>> {
        state.small(self.number).map(decode).transpose()
    }

    /// Whether there is one.
    pub fn exists(&self, state: &KeyedState<'_>) -> bool {
        state.small(self.number).is_some()
    }

    /// Puts a value in the place of the one that is there, if any.
    ///
    /// # Errors
    /// If serde cannot write it.
    pub fn update(&self, state: &mut KeyedState<'_>, value: &T) -> Result<()> {
        state.put_small(self.number, encode(value)?, self.ttl);
        Ok(())
    }

    /// Removes it.
    pub fn clear(&self, state: &mut KeyedState<'_>) {
        state.remove_small(self.number);
    }
}

/// A list of values per key. Each is a row of state: appending costs what is appended.
pub struct ListState<T> {
    number: u32,
    ttl: Option<i64>,
    of: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> ListState<T> {
    /// The same, of which each value is forgotten so long after it was appended, by the time of the batches. May
    /// be changed between restarts; what is in state already expires as it was to.
    #[must_use]
    pub fn with_ttl(self, ttl: Duration) -> Self {
        Self { ttl: micros(ttl), ..self }
    }

    /// All values.
    ///
    /// # Errors
    /// If one of them is not a `T`; those of the local disk that state was moved to.
    pub fn get(&self, state: &mut KeyedState<'_>) -> Result<Vec<T>> {
        state.elements(self.number)?.iter().map(|(_, value)| decode(value)).collect()
    }

    /// Whether there are any.
    ///
    /// # Errors
    /// Those of the local disk that state was moved to.
    pub fn exists(&self, state: &mut KeyedState<'_>) -> Result<bool> {
        Ok(!state.elements(self.number)?.is_empty())
    }

    /// Appends a value.
    ///
    /// # Errors
    /// If serde cannot write it; those of the local disk that state was moved to.
    pub fn append(&self, state: &mut KeyedState<'_>, value: &T) -> Result<()> {
        state.append(self.number, vec![encode(value)?], self.ttl)
    }

    /// Appends values.
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    pub fn append_all<'v>(
        &self,
        state: &mut KeyedState<'_>,
        values: impl IntoIterator<Item = &'v T>,
    ) -> Result<()>
    where
        T: 'v,
    {
        let values = values.into_iter().map(encode).collect::<Result<Vec<_>>>()?;
        state.append(self.number, values, self.ttl)
    }

    /// Puts these values in the place of those that are there.
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    pub fn put<'v>(&self, state: &mut KeyedState<'_>, values: impl IntoIterator<Item = &'v T>) -> Result<()>
    where
        T: 'v,
    {
        self.clear(state)?;
        self.append_all(state, values)
    }

    /// Removes the values that `keep` does not want to have. Costs writing only those.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub fn retain(&self, state: &mut KeyedState<'_>, mut keep: impl FnMut(&T) -> bool) -> Result<()> {
        let elements = state.elements(self.number)?;
        let all = elements.len();
        let mut gone: Vec<Element> = Vec::new();
        for element in elements {
            if !keep(&decode(&element.1)?) {
                gone.push(element);
            }
        }
        state.remove_elements(self.number, gone.iter().map(|(element, _)| element.as_slice()))?;
        if gone.len() == all {
            // Nothing is left to say where it goes on.
            state.remove_small(self.number);
        }
        Ok(())
    }

    /// Removes all values.
    ///
    /// # Errors
    /// Those of the local disk that state was moved to.
    pub fn clear(&self, state: &mut KeyedState<'_>) -> Result<()> {
        state.clear_elements(self.number)
    }
}

/// A map per key. Each entry is a row of state: reading or changing one costs that one.
///
/// Keys are equal if serde writes the same for them; so they should not contain hash maps.
pub struct MapState<K, V> {
    number: u32,
    ttl: Option<i64>,
    of: PhantomData<fn() -> (K, V)>,
}

impl<K: Serialize + DeserializeOwned, V: Serialize + DeserializeOwned> MapState<K, V> {
    /// The same, of which each entry is forgotten so long after it was last put, by the time of the batches. May
    /// be changed between restarts; what is in state already expires as it was to.
    #[must_use]
    pub fn with_ttl(self, ttl: Duration) -> Self {
        Self { ttl: micros(ttl), ..self }
    }

    /// The value of an entry, if there is one.
    ///
    /// # Errors
    /// If what is in state is not a `V`; those of the local disk that state was moved to.
    pub fn get(&self, state: &mut KeyedState<'_>, key: &K) -> Result<Option<V>> {
        state.element(self.number, &encode(key)?)?.as_deref().map(decode).transpose()
    }

    /// Whether there is an entry of this key.
    ///
    /// # Errors
    /// Those of the local disk that state was moved to.
    pub fn contains_key(&self, state: &mut KeyedState<'_>, key: &K) -> Result<bool> {
        Ok(state.element(self.number, &encode(key)?)?.is_some())
    }

    /// Puts an entry in the place of the one of that key, if there is one.
    ///
    /// # Errors
    /// If serde cannot write it; those of the local disk that state was moved to.
    pub fn put(&self, state: &mut KeyedState<'_>, key: &K, value: &V) -> Result<()> {
        state.put_elements(self.number, &[(encode(key)?, encode(value)?)], self.ttl)
    }

    /// Removes an entry, if it is there.
    ///
    /// # Errors
    /// Those of the local disk that state was moved to.
    pub fn remove(&self, state: &mut KeyedState<'_>, key: &K) -> Result<()> {
        let key = encode(key)?;
        state.remove_elements(self.number, std::iter::once(key.as_slice()))
    }

    /// All entries, in an order that stays the same but is not that of the keys.
    ///
    /// # Errors
    /// If one of them is not of these types; those of the local disk that state was moved to.
    pub fn entries(&self, state: &mut KeyedState<'_>) -> Result<Vec<(K, V)>> {
        let elements = state.elements(self.number)?;
        elements.iter().map(|(key, value)| Ok((decode(key)?, decode(value)?))).collect()
    }

    /// Removes all entries.
    ///
    /// # Errors
    /// Those of the local disk that state was moved to.
    pub fn clear(&self, state: &mut KeyedState<'_>) -> Result<()> {
        state.clear_elements(self.number)
    }
}

/// Rows of some columns per key.
#[derive(Debug)]
pub struct RowsState {
    number: u32,
    ttl: Option<i64>,
    schema: SchemaRef,
    codec: RowCodec,
}

impl RowsState {
    /// The same, of which each row is forgotten so long after it was appended, by the time of the batches. May
    /// be changed between restarts; what is in state already expires as it was to.
    #[must_use]
    pub fn with_ttl(self, ttl: Duration) -> Self {
        Self { ttl: micros(ttl), ..self }
    }

    /// All rows.
    ///
    /// # Errors
    /// If the state is damaged; those of the local disk that it was moved to.
    pub fn get(&self, state: &mut KeyedState<'_>) -> Result<RecordBatch> {
        let elements = state.elements(self.number)?;
        let columns = self.codec.decode(elements.iter().map(|(_, value)| value.as_slice()))?;
        let options = RecordBatchOptions::new().with_row_count(Some(elements.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    /// Appends rows, whose columns are those that were declared, in their order.
    ///
    /// # Errors
    /// If they have other columns; those of the local disk that state was moved to.
    pub fn append(&self, state: &mut KeyedState<'_>, rows: &RecordBatch) -> Result<()> {
        let types = rows.schema_ref().fields().iter().map(|field| field.data_type());
        if !types.eq(self.schema.fields().iter().map(|field| field.data_type())) {
            return Err(Error::Invalid(format!(
                "rows with the columns {} cannot be appended to a state of {}",
                rows.schema_ref(),
                self.schema
            )));
        }
        let encoded = self.codec.encode(rows.columns(), rows.num_rows())?;
        let values = (0..encoded.len()).map(|row| encoded.row(row).to_vec()).collect();
        state.append(self.number, values, self.ttl)
    }

    /// Removes all rows.
    ///
    /// # Errors
    /// Those of the local disk that state was moved to.
    pub fn clear(&self, state: &mut KeyedState<'_>) -> Result<()> {
        state.clear_elements(self.number)
    }
}

macro_rules! debug {
    ($name:ident<$($of:ident),*>) => {
        impl<$($of),*> fmt::Debug for $name<$($of),*> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("number", &self.number).field("ttl", &self.ttl).finish()
            }
        }
    };
}

debug!(ValueState<T>);
debug!(ListState<T>);
debug!(MapState<K, V>);
