//! Columns of bytes that are read as text.
//!
//! Who wrote them did not say that they are text, and the `parquet` crate looks only at what is said to be text whether it
//! is that. DataFusion asks it for text all the same where the table has text.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::parquet::basic::{ConvertedType, LogicalType, Type as PhysicalType};
use datafusion::parquet::file::metadata::{FileMetaData, ParquetMetaData, ParquetMetaDataBuilder};
use datafusion::parquet::schema::types::{SchemaDescriptor, Type};

use super::Result;

/// The names of the columns that a table has as text.
pub(in crate::source::file) fn texts_of(table: &Schema) -> BTreeSet<String> {
    let is_text = |kind: &DataType| matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let texts = table.fields().iter().filter(|field| is_text(field.data_type()));
    texts.map(|field| field.name().clone()).collect()
}

/// `metadata` where columns of bytes with these names are said to be text; `None` if there are none.
pub(super) fn told(metadata: &ParquetMetaData, texts: &BTreeSet<String>) -> Result<Option<ParquetMetaData>> {
    let file = metadata.file_metadata();
    let root = file.schema_descr().root_schema();
    if !root.get_fields().iter().any(|field| is_untold(field, texts)) {
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
    let file = FileMetaData::new(
        file.version(),
        file.num_rows(),
        file.created_by().map(str::to_string),
        file.key_value_metadata().cloned(),
        Arc::new(SchemaDescriptor::new(Arc::new(root))),
        file.column_orders().cloned(),
    );
    let mut told = ParquetMetaDataBuilder::new(file).set_row_groups(metadata.row_groups().to_vec());
    if let (Some(columns), Some(offsets)) = (metadata.column_index(), metadata.offset_index()) {
        told = told.set_column_index(Some(columns.clone())).set_offset_index(Some(offsets.clone()));
    }
    Ok(Some(told.build()))
}

fn is_untold(field: &Type, texts: &BTreeSet<String>) -> bool {
    let is_bytes = field.is_primitive() && field.get_physical_type() == PhysicalType::BYTE_ARRAY;
    let info = field.get_basic_info();
    let says_nothing = info.converted_type() == ConvertedType::NONE && info.logical_type_ref().is_none();
    is_bytes && says_nothing && texts.contains(field.name())
}
