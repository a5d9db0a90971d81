//! Finding out the columns when the user gives none.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::catalog::Session;
use datafusion::common::config::JsonOptions;
use datafusion::datasource::file_format::DEFAULT_SCHEMA_INFER_MAX_RECORD;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion_datasource::PartitionedFile;
use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore};

use super::format::{Format, FormatSpec};
use super::location::FileLocation;
use super::partitions::{TypeInference, partitions_of};
use super::pattern::FilePattern;
use super::records::ByteSource;
use super::records::json::{Object, infer};
use crate::error::{Error, Result};

/// How many files are looked into at most; their oldest come first.
const MAX_FILES: usize = 1000;

/// The column of the text format.
const TEXT_COLUMN: &str = "value";

/// Looks at what there is when the table is described.
pub(super) struct Inference<'a> {
    pub(super) session: &'a dyn Session,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) location: &'a FileLocation,
    pub(super) pattern: &'a FilePattern,
    pub(super) spec: &'a FormatSpec,
    /// Whether malformed records are left out.
    pub(super) tolerant: bool,
}

impl Inference<'_> {
    /// The columns of the files, with DataFusion's inference (`FileFormat::infer_schema`).
    pub(super) async fn schema(&self) -> Result<Schema> {
        if let Format::Text = self.spec.format {
            return Ok(Schema::new(vec![Field::new(TEXT_COLUMN, DataType::Utf8, true)]));
        }
        let mut files: Vec<ObjectMeta> = self.files().await?;
        files.retain(|file| file.size > 0);
        files.sort_by(|a, b| (a.last_modified, &a.location).cmp(&(b.last_modified, &b.location)));
        files.truncate(MAX_FILES);
        if files.is_empty() {
            return Err(Error::Invalid(format!(
                "there is no file with content in '{}' yet to take the columns from. Give a schema: columns in \
                 CREATE TABLE, or schema(…) before load(…)",
                self.location
            )));
        }
        if let Format::Json(options) | Format::JsonDocument(options) = &self.spec.format {
            return self.json_schema(options, &files).await;
        }
        let mut schemas = Vec::new();
        for group in by_compression(self.spec, files) {
            schemas.push(self.schema_of(group.0, &group.1).await?);
        }
        let merged = Schema::try_merge(schemas).map_err(|error| {
            Error::Invalid(format!("the files in '{}' have no schema in common: {error}", self.location))
        })?;
        Ok(Schema::new(merged.fields().iter().map(without_null_type).collect::<Vec<_>>()))
    }

    /// The fields of JSON objects. Of each file, that many records are looked at; of files that come late
    /// in a long list, few.
    async fn json_schema(&self, options: &JsonOptions, files: &[ObjectMeta]) -> Result<Schema> {
        const FIRST_FILES: usize = 16;
        const FEW: usize = 10;
        let max = options.schema_infer_max_rec.unwrap_or(DEFAULT_SCHEMA_INFER_MAX_RECORD);
        let is_document = matches!(self.spec.format, Format::JsonDocument(_));
        let mut object = Object::default();
        for (index, file) in files.iter().enumerate() {
            let max = if index < FIRST_FILES { max } else { max.min(FEW) };
            let compression = self.spec.compression_of(file.location.as_ref());
            let part = PartitionedFile::new_from_meta(file.clone());
            let bytes = ByteSource::open(&self.store, &part, compression, b'\n').await;
            let found = match bytes {
                Ok(bytes) => infer(bytes, is_document, max, self.tolerant).await,
                Err(error) => Err(error.strip_backtrace()),
            };
            object.merge(found.map_err(|reason| Error::InputFile {
                file: self.location.display(&file.location),
                reason: format!("its columns cannot be told: {reason}. Put it right or give a schema"),
            })?);
        }
        Ok(Schema::new(object.fields()))
    }

    async fn schema_of(&self, compression: FileCompressionType, files: &[ObjectMeta]) -> Result<Schema> {
        let Some(format) = self.spec.datafusion(compression) else {
            return Ok(Schema::empty());
        };
        match format.infer_schema(self.session, &self.store, files).await {
            Ok(schema) => Ok(schema.as_ref().clone()),
            Err(error) => {
                // DataFusion does not say which file it was.
                for file in files {
                    if let Err(error) =
                        format.infer_schema(self.session, &self.store, std::slice::from_ref(file)).await
                    {
                        let reason = format!(
                            "its columns cannot be told: {}. Put it right or give a schema",
                            error.strip_backtrace()
                        );
                        return Err(Error::InputFile { file: self.location.display(&file.location), reason });
                    }
                }
                Err(Error::Invalid(format!(
                    "the files in '{}' have no schema in common: {}. Give a schema",
                    self.location,
                    error.strip_backtrace()
                )))
            }
        }
    }

    /// The partition columns that directories name now, with the types that hold all their values.
    /// Columns are fixed when the table is described, as in Spark.
    ///
    /// Whether there are any is told by the first file: only then all are looked at.
    pub(super) async fn partition_columns(&self) -> Result<Vec<(String, DataType)>> {
        let mut names: Option<Vec<String>> = None;
        let mut types: Vec<TypeInference> = Vec::new();
        let mut files = self.store.list(Some(self.location.base()));
        while let Some(file) = files.try_next().await.map_err(|error| self.list_error(error))? {
            let Some(path) = self.location.relative(&file.location) else { continue };
            if !self.pattern.selects(path) {
                continue;
            }
            let found: Vec<_> = partitions_of(path).collect();
            let names = names.get_or_insert_with(|| {
                types.extend(found.iter().map(|_| TypeInference::default()));
                found.iter().map(|(name, _)| name.to_string()).collect()
            });
            if names.is_empty() {
                break;
            }
            // A file that lies elsewhere is refused when it is planned.
            if found.iter().map(|(name, _)| name.as_ref()).eq(names.iter().map(String::as_str)) {
                found.iter().zip(&mut types).for_each(|((_, value), inference)| inference.observe(value));
            }
        }
        let types = types.into_iter().map(TypeInference::finish);
        Ok(names.unwrap_or_default().into_iter().zip(types).collect())
    }

    async fn files(&self) -> Result<Vec<ObjectMeta>> {
        let selected = |file: &ObjectMeta| {
            self.location.relative(&file.location).is_some_and(|path| self.pattern.selects(path))
        };
        self.store
            .list(Some(self.location.base()))
            .try_filter(|file| futures::future::ready(selected(file)))
            .try_collect()
            .await
            .map_err(|error| self.list_error(error))
    }

    fn list_error(&self, error: object_store::Error) -> Error {
        Error::storage("list", self.location.base_url().as_str(), error)
    }
}

fn by_compression(spec: &FormatSpec, files: Vec<ObjectMeta>) -> Vec<(FileCompressionType, Vec<ObjectMeta>)> {
    let mut groups: Vec<(FileCompressionType, Vec<ObjectMeta>)> = Vec::new();
    for file in files {
        let compression = spec.compression_of(file.location.as_ref());
        match groups.iter_mut().find(|(known, _)| *known == compression) {
            Some((_, group)) => group.push(file),
            None => groups.push((compression, vec![file])),
        }
    }
    groups
}

/// A column without any value so far holds text, as in Spark; it may get values later.
fn without_null_type(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Null => DataType::Utf8,
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(without_null_type).collect()),
        DataType::List(item) => DataType::List(without_null_type(item)),
        other => other.clone(),
    };
    Arc::new(field.as_ref().clone().with_data_type(data_type))
}
