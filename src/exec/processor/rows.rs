//! The rows of one call of a processor.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::interleave_record_batch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use serde::de::DeserializeOwned;

use super::cell::{KnownFields, RowCells};
use crate::error::{Error, Result};

/// A batch whose rows are read by serde.
#[derive(Debug)]
pub(crate) struct Source {
    batch: RecordBatch,
    known: KnownFields,
}

impl Source {
    pub(crate) fn new(batch: RecordBatch) -> Self {
        Self { batch, known: KnownFields::default() }
    }

    /// The batch.
    pub(super) fn batch(&self) -> &RecordBatch {
        &self.batch
    }

    /// A row as a value.
    pub(super) fn read<T: DeserializeOwned>(&self, row: usize) -> Result<T> {
        let cells = RowCells { batch: &self.batch, row, known: &self.known };
        T::deserialize(cells).map_err(|error| {
            let columns: Vec<&str> =
                self.batch.schema_ref().fields().iter().map(|field| field.name().as_str()).collect();
            Error::Invalid(format!(
                "a row cannot be read as {}: {error}. Its columns are {}",
                short_name::<T>(),
                columns.join(", ")
            ))
        })
    }
}

/// The name of a type without its path.
pub(super) fn short_name<T: ?Sized>() -> &'static str {
    let name = type_name::<T>();
    if name.contains(['<', '(', '[']) { name } else { name.rsplit("::").next().unwrap_or(name) }
}

/// Rows, in the order in which they came, that are not read as anything yet.
#[derive(Clone, Copy)]
pub struct AnyRows<'a> {
    sources: &'a [Source],
    /// Of each row, which source has it, and where.
    places: &'a [(usize, usize)],
    schema: &'a SchemaRef,
}

impl fmt::Debug for AnyRows<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyRows").field("len", &self.places.len()).finish_non_exhaustive()
    }
}

impl<'a> AnyRows<'a> {
    pub(crate) fn new(sources: &'a [Source], places: &'a [(usize, usize)], schema: &'a SchemaRef) -> Self {
        Self { sources, places, schema }
    }

    /// As values of this type.
    pub fn typed<T: DeserializeOwned>(self) -> Rows<'a, T> {
        Rows { rows: self, at: 0, read: PhantomData }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// As columns.
    ///
    /// # Errors
    /// Those of Arrow.
    pub fn to_batch(self) -> Result<RecordBatch> {
        if self.places.is_empty() {
            return Ok(RecordBatch::new_empty(Arc::clone(self.schema)));
        }
        let batches: Vec<&RecordBatch> = self.sources.iter().map(|source| &source.batch).collect();
        Ok(interleave_record_batch(&batches, self.places)?)
    }
}

/// The rows of one call, each as a value of type `T`, in the order in which they came.
///
/// A struct is read by the names of its fields, which are those of columns; a tuple in the order of the
/// columns. Times are [`Timestamp`](super::Timestamp)s or microseconds, and text if they are asked for as such.
#[derive(Debug)]
pub struct Rows<'a, T> {
    rows: AnyRows<'a>,
    at: usize,
    read: PhantomData<fn() -> T>,
}

/// The columns of no rows.
static NO_COLUMNS: LazyLock<SchemaRef> = LazyLock::new(|| Arc::new(Schema::empty()));

impl<T> Rows<'static, T> {
    /// No rows.
    pub(super) fn none() -> Self {
        Rows { rows: AnyRows::new(&[], &[], &NO_COLUMNS), at: 0, read: PhantomData }
    }
}

impl<T> Rows<'_, T> {
    /// All of the call's rows as columns, those that were read already too.
    ///
    /// # Errors
    /// Those of Arrow.
    pub fn to_batch(&self) -> Result<RecordBatch> {
        self.rows.to_batch()
    }
}

impl<T: DeserializeOwned> Iterator for Rows<'_, T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        let (source, row) = *self.rows.places.get(self.at)?;
        self.at += 1;
        Some(self.rows.sources[source].read(row))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.rows.places.len() - self.at;
        (left, Some(left))
    }
}

impl<T: DeserializeOwned> ExactSizeIterator for Rows<'_, T> {}
