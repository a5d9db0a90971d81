//! Finding out the columns when the user gives none.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::catalog::Session;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::error::DataFusionError;
use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore};

use super::format::{Format, FormatSpec};
use super::location::FileLocation;
use super::partitions::{TypeInference, partitions_of};
use super::pattern::FilePattern;
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
                "there is no file with content in '{}' yet to take the columns from. Give the columns: \
                 in the CREATE statement, with --schema of tidemill etl, or with schema(…) in Rust",
                self.location
            )));
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
                        let reason = format!("its columns cannot be told: {}", reason(&error));
                        return Err(Error::InputFile { file: self.location.display(&file.location), reason });
                    }
                }
                Err(Error::Invalid(format!(
                    "the files in '{}' have no columns in common: {}",
                    self.location,
                    reason(&error)
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

/// Why columns cannot be told, and what to do. DataFusion may quote the whole file.
fn reason(error: &DataFusionError) -> String {
    const LONGEST: usize = 300;
    let text = error.strip_backtrace();
    if text.contains("Expected JSON record to be an object, found Array") {
        return "it holds a JSON array instead of a record per line. Set multiLine to true".into();
    }
    let mut short: String = text.chars().take(LONGEST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short}. Put it right or give the columns")
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
