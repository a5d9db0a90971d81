//! The columns of the table, and where each of them comes from.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, StringArray, StructArray, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion_datasource::TableSchema;

use super::entry::FileEntry;
use super::location::FileLocation;
use super::partitions::{partition_value, partitions_of};
use crate::error::{Error, Result};

/// The column that tells of each row's file.
pub(super) const METADATA_COLUMN: &str = "_metadata";

/// The column that takes what no other column takes (`schemaEvolution rescue`).
pub(super) const RESCUED_COLUMN: &str = "_rescued_data";

/// The column, behind those of the files, that holds a verdict on the row: null if it fits the table.
pub(super) const VERDICT_COLUMN: &str = "\0verdict";

/// What a verdict has: what is wrong, and the row as a JSON object if that is asked for.
pub(super) fn verdict_fields() -> Fields {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    Fields::from(vec![text("reason"), text("record")])
}

/// Positions of columns that are no fields of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Apart {
    /// It takes the text of malformed records.
    pub(super) corrupt_record: Option<usize>,
    /// It takes what no column takes.
    pub(super) rescued: Option<usize>,
}

impl Apart {
    pub(super) fn contains(self, column: usize) -> bool {
        self.corrupt_record == Some(column) || self.rescued == Some(column)
    }
}

/// The columns as users see them, and the same columns as DataFusion's readers want them: first
/// those in the files, then those that are the same for a whole file.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    schema: SchemaRef,
    table: TableSchema,
    /// For each column of `schema` its position in `table`.
    positions: Vec<usize>,
    partitions: Vec<FieldRef>,
    has_metadata: bool,
    /// Columns of the file schema that are no fields of records.
    apart: Apart,
    /// The positions in the file schema of columns that are NOT NULL.
    required: Vec<usize>,
}

impl Layout {
    /// Lays out `columns`, whose files lie in directories for `partitions` (name and, if `columns`
    /// does not say it, type). Partition columns and `_metadata` that `columns` lacks are appended.
    ///
    /// Columns become nullable, as in Spark: nothing makes files written later hold no nulls. A record
    /// without a value in a column that is NOT NULL is malformed, and `PERMISSIVE` keeps those.
    pub(super) fn new(
        columns: &Schema,
        partitions: &[(String, DataType)],
        include_metadata: bool,
        corrupt_record_column: Option<&str>,
    ) -> Result<Self> {
        check_unique(columns)?;
        let mut fields: Vec<FieldRef> = columns.fields().iter().map(nullable).collect();
        for (name, data_type) in partitions {
            if columns.field_with_name(name).is_err() {
                fields.push(Arc::new(Field::new(name, data_type.clone(), true)));
            }
        }
        let metadata = metadata_field();
        match fields.iter_mut().find(|field| field.name() == METADATA_COLUMN) {
            Some(field) => *field = metadata,
            None if include_metadata => fields.push(metadata),
            None => {}
        }
        let is_partition = |field: &FieldRef| partitions.iter().any(|(name, _)| name == field.name());
        let in_file = |field: &&FieldRef| !is_partition(field) && field.name() != METADATA_COLUMN;
        let file_fields: Fields = fields.iter().filter(in_file).cloned().collect();
        let by_name: BTreeMap<&str, &FieldRef> = fields.iter().map(|f| (f.name().as_str(), f)).collect();
        let partitions: Vec<FieldRef> =
            partitions.iter().map(|(name, _)| Arc::clone(by_name[name.as_str()])).collect();
        let metadata = by_name.get(METADATA_COLUMN).copied();
        let per_file: Vec<FieldRef> = partitions.iter().chain(metadata).cloned().collect();
        let corrupt_record = corrupt_record_column
            .and_then(|name| file_fields.iter().position(|field| field.name() == name))
            .map(|index| check_corrupt_record(&file_fields[index]).map(|()| index))
            .transpose()?;
        let is_required = |name: &str| columns.field_with_name(name).is_ok_and(|field| !field.is_nullable());
        let required = (0..file_fields.len())
            .filter(|index| Some(*index) != corrupt_record && is_required(file_fields[*index].name()))
            .collect();
        let table = TableSchema::builder(Arc::new(Schema::new(file_fields)))
            .with_table_partition_cols(per_file)
            .build();
        let positions = positions(&fields, table.table_schema())?;
        Ok(Self {
            schema: Arc::new(Schema::new(fields)),
            has_metadata: metadata_is_in(table.table_schema()),
            table,
            positions,
            partitions,
            apart: Apart { corrupt_record, rescued: None },
            required,
        })
    }

    /// The same with a column that takes what no other takes, which must be among the columns.
    ///
    /// # Errors
    /// If it is not a column of text.
    pub(super) fn rescuing(self) -> Result<Self> {
        let file = self.table.file_schema();
        let rescued = file.index_of(RESCUED_COLUMN)?;
        match file.field(rescued).data_type() {
            DataType::Utf8 => {}
            other => {
                return Err(Error::Invalid(format!(
                    "column '{RESCUED_COLUMN}' takes what no other column takes, as text, so it cannot be {other}. \
                     Leave it out of the schema, or make it VARCHAR"
                )));
            }
        }
        let required = self.required.iter().copied().filter(|column| *column != rescued).collect();
        Ok(Self { apart: Apart { rescued: Some(rescued), ..self.apart }, required, ..self })
    }

    /// The same without columns that are NOT NULL.
    pub(super) fn with_nulls_anywhere(self) -> Self {
        Self { required: Vec::new(), ..self }
    }

    /// The positions of NOT NULL columns among those of the file.
    pub(super) fn required(&self) -> &[usize] {
        &self.required
    }

    /// The columns as users see them.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The columns as DataFusion's readers want them.
    pub(super) fn table(&self) -> &TableSchema {
        &self.table
    }

    /// The same with a promise that NOT NULL columns hold no nulls.
    pub(super) fn table_without_nulls(&self) -> TableSchema {
        let fields = self.table.file_schema().fields().iter().enumerate();
        let fields = fields.map(|(index, field)| {
            let nullable = field.is_nullable() && !self.required.contains(&index);
            Arc::new(field.as_ref().clone().with_nullable(nullable))
        });
        let file = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let per_file = self.table.table_partition_cols().clone();
        TableSchema::builder(file).with_table_partition_cols(per_file).build()
    }

    /// The columns that are directories.
    pub(super) fn partitions(&self) -> &[FieldRef] {
        &self.partitions
    }

    /// Positions among the columns of the file of those that are no fields of records.
    pub(super) fn apart(&self) -> Apart {
        self.apart
    }

    /// The projection of [`Layout::table`] to some columns of [`Layout::schema`].
    pub(super) fn projection(&self, columns: Option<&Vec<usize>>) -> Result<ProjectionExprs> {
        let positions: Vec<usize> = match columns {
            None => self.positions.clone(),
            Some(columns) => columns
                .iter()
                .map(|column| {
                    self.positions
                        .get(*column)
                        .copied()
                        .ok_or_else(|| Error::Invalid(format!("the table has no column number {column}")))
                })
                .collect::<Result<_>>()?,
        };
        Ok(ProjectionExprs::from_indices(&positions, self.table.table_schema()))
    }

    /// The columns as readers of rows that are judged want them, with a verdict behind those in the files; and the
    /// projection to some columns of [`Layout::schema`] and the verdict.
    pub(super) fn judged(&self, columns: Option<&Vec<usize>>) -> Result<(TableSchema, ProjectionExprs)> {
        let verdict = Arc::new(Field::new(VERDICT_COLUMN, DataType::Struct(verdict_fields()), true));
        let file = self.table.file_schema().fields().iter().cloned().chain([verdict]);
        let table = TableSchema::builder(Arc::new(Schema::new(file.collect::<Vec<_>>())))
            .with_table_partition_cols(self.table.table_partition_cols().clone())
            .build();
        let wanted = match columns {
            None => Arc::clone(&self.schema),
            Some(columns) => Arc::new(self.schema.project(columns)?),
        };
        let mut positions = positions(wanted.fields(), table.table_schema())?;
        positions.push(table.table_schema().index_of(VERDICT_COLUMN)?);
        let projection = ProjectionExprs::from_indices(&positions, table.table_schema());
        Ok((table, projection))
    }

    /// The values of a file's columns that are the same for all its rows, in table order.
    pub(super) fn constants(
        &self,
        location: &FileLocation,
        file: &FileEntry<'_>,
    ) -> Result<Vec<ScalarValue>> {
        let mut values = Vec::with_capacity(self.partitions.len() + usize::from(self.has_metadata));
        if !self.partitions.is_empty() {
            let mut directories = partitions_of(&file.path);
            for field in &self.partitions {
                let text = directories.next().filter(|(name, _)| name == field.name());
                let value = text.as_ref().and_then(|(_, text)| partition_value(text, field.data_type()));
                values.push(value.ok_or_else(|| Error::InputFile {
                    file: file.path.to_string(),
                    reason: format!(
                        "its directories give no {} for the partition column '{}'",
                        field.data_type(),
                        field.name()
                    ),
                })?);
            }
        }
        if self.has_metadata {
            values.push(metadata_value(location, file));
        }
        Ok(values)
    }
}

/// `rows` under the schema they were planned with. DataFusion's readers say of a column whose values
/// come from the file's place that it is not null, whatever the plan says.
pub(super) fn as_planned(rows: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    if Arc::ptr_eq(rows.schema_ref(), schema) { Ok(rows) } else { rows.with_schema(Arc::clone(schema)) }
}

fn metadata_is_in(schema: &Schema) -> bool {
    schema.field_with_name(METADATA_COLUMN).is_ok()
}

fn positions(fields: &[FieldRef], table: &Schema) -> Result<Vec<usize>> {
    fields.iter().map(|field| table.index_of(field.name()).map_err(Error::from)).collect()
}

fn check_unique(columns: &Schema) -> Result<()> {
    let mut names = std::collections::BTreeSet::new();
    match columns.fields().iter().find(|field| !names.insert(field.name())) {
        Some(field) => Err(Error::Invalid(format!("the schema has two columns '{}'", field.name()))),
        None => Ok(()),
    }
}

fn check_corrupt_record(field: &Field) -> Result<()> {
    match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Ok(()),
        other => Err(Error::Invalid(format!(
            "column '{}' takes the text of malformed records, so it must be text, not {other}. Change its type \
             or set columnNameOfCorruptRecord to another name",
            field.name()
        ))),
    }
}

/// The field with nulls allowed at every depth. Keys of maps stay as they are: Arrow knows no null
/// keys.
fn nullable(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(nullable).collect()),
        DataType::List(item) => DataType::List(nullable(item)),
        DataType::LargeList(item) => DataType::LargeList(nullable(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(nullable(item), *size),
        other => other.clone(),
    };
    Arc::new(field.as_ref().clone().with_data_type(data_type).with_nullable(true))
}

fn metadata_fields() -> Fields {
    let modified = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Fields::from(vec![
        Field::new("file_path", DataType::Utf8, false),
        Field::new("file_name", DataType::Utf8, false),
        Field::new("file_size", DataType::Int64, false),
        Field::new("file_modification_time", modified, false),
    ])
}

fn metadata_field() -> FieldRef {
    Arc::new(Field::new(METADATA_COLUMN, DataType::Struct(metadata_fields()), false))
}

fn metadata_value(location: &FileLocation, file: &FileEntry<'_>) -> ScalarValue {
    let name = file.path.rsplit('/').next().unwrap_or(&file.path);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![location.file_url(&file.path)])),
        Arc::new(StringArray::from(vec![name])),
        Arc::new(Int64Array::from(vec![i64::try_from(file.size).unwrap_or(i64::MAX)])),
        Arc::new(
            TimestampMicrosecondArray::from(vec![file.modified_ms.saturating_mul(1000)]).with_timezone("UTC"),
        ),
    ];
    ScalarValue::Struct(Arc::new(StructArray::new(metadata_fields(), columns, None)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(names: &[&str]) -> Schema {
        Schema::new(names.iter().map(|name| Field::new(*name, DataType::Int64, false)).collect::<Vec<_>>())
    }

    fn names(schema: &Schema) -> Vec<&str> {
        schema.fields().iter().map(|field| field.name().as_str()).collect()
    }

    fn entry(path: &str) -> FileEntry<'_> {
        FileEntry {
            path: path.into(),
            size: 7,
            modified_ms: 1,
            etag: None,
            inode: None,
            from_log: false,
            passed_over: false,
        }
    }

    #[test]
    fn columns_keep_the_users_order() {
        let partitions = [("y".to_string(), DataType::Int32), ("m".to_string(), DataType::Utf8)];
        let layout = Layout::new(&schema(&["a", "m", "b"]), &partitions, true, None).unwrap();
        assert_eq!(names(layout.schema()), ["a", "m", "b", "y", "_metadata"]);
        assert_eq!(names(layout.table().table_schema()), ["a", "b", "y", "m", "_metadata"]);
        assert!(layout.schema().field(0).is_nullable());
        let projection = layout.projection(Some(&vec![3, 1, 0])).unwrap();
        let projected = projection.project_schema(layout.table().table_schema()).unwrap();
        assert_eq!(names(&projected), ["y", "m", "a"]);

        let location = FileLocation::parse("s3://bucket/in/").unwrap();
        let values = layout.constants(&location, &entry("y=2024/m=5/f.json")).unwrap();
        assert_eq!(values[0], ScalarValue::Int32(Some(2024)));
        assert_eq!(values[1], ScalarValue::Int64(Some(5)), "typed by the schema");
        assert!(values[2].to_string().contains("s3://bucket/in/y=2024/m=5/f.json"), "{}", values[2]);
        assert!(layout.constants(&location, &entry("y=x/m=5/f.json")).is_err());
    }

    #[test]
    fn metadata_can_be_named_in_the_schema() {
        let layout = Layout::new(&schema(&["_metadata", "a"]), &[], false, None).unwrap();
        assert_eq!(names(layout.schema()), ["_metadata", "a"]);
        assert_eq!(names(layout.table().file_schema()), ["a"]);
        let of = layout.schema().field(0).data_type();
        assert_eq!(&crate::types::data_type(&crate::types::recorded(of)).unwrap(), of);
    }

    #[test]
    fn the_corrupt_record_column_is_text() {
        let text = Schema::new(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("_corrupt_record", DataType::Utf8, true),
        ]);
        let layout = Layout::new(&text, &[], false, Some("_corrupt_record")).unwrap();
        assert_eq!(layout.apart().corrupt_record, Some(1));
        let number = schema(&["_corrupt_record"]);
        assert!(Layout::new(&number, &[], false, Some("_corrupt_record")).is_err());
        assert!(Layout::new(&schema(&["a", "a"]), &[], false, None).is_err());
    }
}
