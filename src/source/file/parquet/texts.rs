//! Columns of bytes that are read as text.
//!
//! Who wrote them did not say that they are text, and the `parquet` crate looks only at what is said to be text whether it
//! is that. DataFusion asks it for text all the same where the table has text. UUIDs it takes for bytes of which nothing is known.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::parquet::arrow::{ARROW_SCHEMA_META_KEY, encode_arrow_schema, parquet_to_arrow_schema};
use datafusion::parquet::basic::{ConvertedType, LogicalType, Type as PhysicalType};
use datafusion::parquet::file::metadata::{FileMetaData, KeyValue, ParquetMetaData, ParquetMetaDataBuilder};
use datafusion::parquet::schema::types::{SchemaDescriptor, Type};

use super::Result;
use crate::source::file::uuids::MARK;

/// The names of the columns that a table has as text.
pub(in crate::source::file) fn texts_of(table: &Schema) -> BTreeSet<String> {
    let is_text = |kind: &DataType| matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let texts = table.fields().iter().filter(|field| is_text(field.data_type()));
    texts.map(|field| field.name().clone()).collect()
}

/// `metadata` where columns of bytes with these names are said to be text, and those of UUIDs to be some; `None` if there
/// are none.
pub(super) fn told(metadata: &ParquetMetaData, texts: &BTreeSet<String>) -> Result<Option<ParquetMetaData>> {
    let file = metadata.file_metadata();
    let root = file.schema_descr().root_schema();
    if !root.get_fields().iter().any(|field| is_untold(field, texts) || is_uuid(field, texts)) {
        return Ok(None);
    }
    let fields = root.get_fields().iter().map(|field| {
        if !is_untold(field, texts) {
            return Ok(Arc::clone(field));
        }
        let info = field.get_basic_info();
        let text = Type::primitive_type_builder(field.name(), PhysicalType::BYTE_ARRAY)
            .with_repetition(info.repetition())
            .with_converted_type(ConvertedType::UTF8)
            .with_logical_type(Some(LogicalType::String))
            .with_id(info.has_id().then(|| info.id()));
        Ok(Arc::new(text.build()?))
    });
    let fields = fields.collect::<Result<Vec<_>>>()?;
    let root = Type::group_type_builder(root.name()).with_fields(fields).build()?;
    let columns = SchemaDescriptor::new(Arc::new(root));
    let said = with_uuids_marked(&columns, file.key_value_metadata(), texts)?;
    let file = FileMetaData::new(
        file.version(),
        file.num_rows(),
        file.created_by().map(str::to_string),
        said,
        Arc::new(columns),
        file.column_orders().cloned(),
    );
    let mut told = ParquetMetaDataBuilder::new(file).set_row_groups(metadata.row_groups().to_vec());
    if let (Some(columns), Some(offsets)) = (metadata.column_index(), metadata.offset_index()) {
        told = told.set_column_index(Some(columns.clone())).set_offset_index(Some(offsets.clone()));
    }
    Ok(Some(told.build()))
}

/// What the file says beside its columns, where those of UUIDs are said to be some: the `parquet` crate takes that from
/// what Arrow has put there alone.
fn with_uuids_marked(
    columns: &SchemaDescriptor,
    said: Option<&Vec<KeyValue>>,
    texts: &BTreeSet<String>,
) -> Result<Option<Vec<KeyValue>>> {
    let fields = columns.root_schema().get_fields();
    if !fields.iter().any(|field| is_uuid(field, texts)) {
        return Ok(said.cloned());
    }
    let found = parquet_to_arrow_schema(columns, said)?;
    let marked = found.fields().iter().zip(fields).map(|(column, field)| match is_uuid(field, texts) {
        true => {
            let mut metadata = column.metadata().clone();
            metadata.insert(MARK.0.into(), MARK.1.into());
            Arc::new(column.as_ref().clone().with_metadata(metadata))
        }
        false => Arc::clone(column),
    });
    let marked = Schema::new(marked.collect::<Vec<_>>());
    let mut said = said.cloned().unwrap_or_default();
    said.retain(|entry| entry.key != ARROW_SCHEMA_META_KEY);
    said.push(KeyValue::new(ARROW_SCHEMA_META_KEY.to_string(), encode_arrow_schema(&marked)));
    Ok(Some(said))
}

fn is_uuid(field: &Type, texts: &BTreeSet<String>) -> bool {
    let is_said = field.get_basic_info().logical_type_ref() == Some(&LogicalType::Uuid);
    is_said && field.is_primitive() && texts.iter().any(|name| name.eq_ignore_ascii_case(field.name()))
}

fn is_untold(field: &Type, texts: &BTreeSet<String>) -> bool {
    let is_bytes = field.is_primitive() && field.get_physical_type() == PhysicalType::BYTE_ARRAY;
    let info = field.get_basic_info();
    let says_nothing = info.converted_type() == ConvertedType::NONE && info.logical_type_ref().is_none();
    is_bytes && says_nothing && texts.contains(field.name())
}
