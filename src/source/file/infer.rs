//! Finding out the columns when the user gives none.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::catalog::Session;
use datafusion::common::config::CsvOptions;
use datafusion::datasource::file_format::DEFAULT_SCHEMA_INFER_MAX_RECORD;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::type_coercion::binary::binary_numeric_coercion;
use datafusion_datasource::PartitionedFile;
use futures::{FutureExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore};

use super::arrow_ipc;
#[cfg(feature = "avro")]
use super::avro;
use super::format::{Format, FormatSpec};
use super::location::FileLocation;
use super::panics;
use super::partitions::{TypeInference, partitions_of};
use super::pattern::FilePattern;
use super::pinned::PinnedStore;
use super::records::csv::CsvDialect;
use super::records::json::{Object, infer};
use super::records::{ByteSource, CsvColumn, infer_csv};
use super::values::Numbers;
use super::walk::LocalWalk;
use crate::error::{Error, Result, in_words};

/// How many files are looked into at most; their oldest come first.
const MAX_FILES: usize = 1000;

/// Of so many files as many records are looked at as are asked for…
const FIRST_FILES: usize = 16;
/// …and of the others, so many, unless all are to be looked at.
const FEW: usize = 10;

/// So much of a file tells how its fields are separated.
const SNIFFED_BYTES: usize = 64 << 10;

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
    /// Whether files are left out that cannot be read.
    pub(super) ignores_corrupt: bool,
}

impl Inference<'_> {
    /// The columns of the files, with DataFusion's inference (`FileFormat::infer_schema`).
    pub(super) async fn schema(&self) -> Result<Schema> {
        if let Format::Text = self.spec.format {
            return Ok(Schema::new(vec![Field::new(TEXT_COLUMN, DataType::Utf8, true)]));
        }
        let files = self.files_with_content().await?;
        if files.is_empty() {
            return Err(Error::Invalid(format!(
                "there is no file with content in '{}' yet to take the columns from. Give the columns: \
                 in the CREATE statement, with --schema of tidemill etl, or with schema(…) in Rust",
                self.location
            )));
        }
        let most = match &self.spec.format {
            Format::Json(options) | Format::JsonDocument(options) => options.schema_infer_max_rec,
            _ => None,
        };
        self.schema_of_all(files, most.unwrap_or(DEFAULT_SCHEMA_INFER_MAX_RECORD)).await
    }

    /// All files that there are and that are not empty, oldest first.
    async fn files_with_content(&self) -> Result<Vec<ObjectMeta>> {
        let mut files = self.files().await?;
        files.retain(|file| file.size > 0);
        files.sort_by(|a, b| (a.last_modified, &a.location).cmp(&(b.last_modified, &b.location)));
        Ok(files)
    }

    /// The name of the oldest file with content and how it begins; `None` if there is none.
    pub(super) async fn beginning(&self) -> Result<Option<(String, Vec<u8>)>> {
        let Some(file) = self.files_with_content().await?.into_iter().next() else { return Ok(None) };
        let name = self.location.display(&file.location);
        match self.head(file, SNIFFED_BYTES).await {
            Ok(head) => Ok(Some((name, head))),
            Err(error) => Err(Error::InputFile { file: name, reason: reason(&error) }),
        }
    }

    /// The first bytes of a file, in UTF-8.
    async fn head(&self, file: ObjectMeta, bytes: usize) -> DataFusionResult<Vec<u8>> {
        let mut head = Vec::new();
        self.open(&file).await?.read(&mut head, bytes).await?;
        Ok(head)
    }

    /// The bytes of a file of text, in UTF-8.
    async fn open(&self, file: &ObjectMeta) -> DataFusionResult<ByteSource> {
        let store: Arc<dyn ObjectStore> =
            Arc::new(PinnedStore::of_any(Arc::clone(&self.store), self.location));
        let compression = self.spec.compression_of(file.location.as_ref());
        let part = PartitionedFile::new_from_meta(file.clone());
        let bytes = ByteSource::open(&store, &part, compression, b'\n').await?;
        Ok(bytes.written_in(self.spec.encoding))
    }

    /// The columns of these files. Of a JSON or CSV file at most so many records are looked at.
    pub(super) async fn schema_of_all(&self, mut files: Vec<ObjectMeta>, records: usize) -> Result<Schema> {
        files.truncate(MAX_FILES);
        if let Format::Json(_) | Format::JsonDocument(_) = &self.spec.format {
            return self.json_schema(&files, records).await;
        }
        if let Format::Csv(options, dialect) = &self.spec.format {
            let most = options.schema_infer_max_rec.unwrap_or(DEFAULT_SCHEMA_INFER_MAX_RECORD);
            return self.csv_schema(options, dialect, &files, records.min(most)).await;
        }
        let mut schemas = Vec::new();
        for group in by_compression(self.spec, files) {
            schemas.push(self.schema_of(group.0, &group.1).await?);
        }
        let fields = merge_fields(schemas.iter().flat_map(|schema| schema.fields()));
        Ok(Schema::new(fields.iter().map(without_null_type).collect::<Vec<_>>()))
    }

    /// The fields of JSON objects. Of each file, so many records are looked at.
    async fn json_schema(&self, files: &[ObjectMeta], max: usize) -> Result<Schema> {
        let is_document = matches!(self.spec.format, Format::JsonDocument(_));
        let mut object = Object::default();
        for (index, file) in files.iter().enumerate() {
            let found = match self.open(file).await {
                Ok(bytes) => infer(bytes, is_document, records_of(index, max), self.tolerant).await,
                Err(error) => Err(in_words(&error)),
            };
            if found.is_err() && self.ignores_corrupt {
                continue;
            }
            object.merge(found.map_err(|reason| Error::InputFile {
                file: self.location.display(&file.location),
                reason: format!("its columns cannot be told: {reason}. Put it right or give a schema"),
            })?);
        }
        Ok(Schema::new(object.fields()))
    }

    /// The columns of CSV files. Of each file, so many records are looked at.
    async fn csv_schema(
        &self,
        options: &CsvOptions,
        dialect: &CsvDialect,
        files: &[ObjectMeta],
        max: usize,
    ) -> Result<Schema> {
        let (mut found, mut before): (Vec<CsvColumn>, Option<usize>) = (Vec::new(), None);
        for (index, file) in files.iter().enumerate() {
            let inferred = match self.open(file).await {
                Ok(bytes) => {
                    let (records, rules) = (records_of(index, max), &self.spec.values);
                    infer_csv(bytes, options, dialect, self.session, records, self.tolerant, rules).await
                }
                Err(error) => Err(error),
            };
            if inferred.is_err() && self.ignores_corrupt {
                continue;
            }
            let columns = inferred.map_err(|error| self.columns_unknown(file, &error))?;
            self.check_header(file, &columns, before, options.delimiter)?;
            before = Some(columns.len());
            found.extend(columns);
        }
        let fields: Vec<FieldRef> = found.iter().map(|column| Arc::new(column.field.clone())).collect();
        let fields = merge_fields(fields.iter());
        let holding = fields.iter().map(|field| without_null_type(&holding_all(field, &found)));
        Ok(Schema::new(holding.collect::<Vec<_>>()))
    }

    /// Fails on a header that is none, of a file that is not like the one before it, which has so many columns.
    fn check_header(
        &self,
        file: &ObjectMeta,
        found: &[CsvColumn],
        before: Option<usize>,
        delimiter: u8,
    ) -> Result<()> {
        let wrong =
            |reason: String| Err(Error::InputFile { file: self.location.display(&file.location), reason });
        let Some(first) = found.first().map(|column| column.field.name()) else { return Ok(()) };
        if first.starts_with("{\"") {
            return wrong(
                "its first line is a JSON object rather than a header: set the format to json, or give the columns".into(),
            );
        }
        let other = [',', ';', '\t', '|']
            .into_iter()
            .find(|mark| first.contains(*mark) && *mark != char::from(delimiter));
        match (other, before) {
            (Some(other), Some(before)) if found.len() == 1 && before != 1 => wrong(format!(
                "its fields seem to be separated by {other:?}, and those of other files by {:?}: put it right, or read such \
                 files by themselves (pathGlobFilter)",
                char::from(delimiter)
            )),
            _ => Ok(()),
        }
    }

    async fn schema_of(&self, compression: FileCompressionType, files: &[ObjectMeta]) -> Result<Schema> {
        let store: Arc<dyn ObjectStore> =
            Arc::new(PinnedStore::of_any(Arc::clone(&self.store), self.location));
        if let Ok(schema) = self.infer(compression, &store, files).await {
            return Ok(schema);
        }
        // Either one of them cannot be read, and DataFusion does not say which, or they differ.
        let mut schemas = Vec::with_capacity(files.len());
        for file in files {
            let inferred = self.infer(compression, &store, std::slice::from_ref(file)).await;
            if inferred.is_err() && self.ignores_corrupt {
                continue;
            }
            schemas.push(inferred.map_err(|error| self.columns_unknown(file, &error))?);
        }
        Ok(Schema::new(merge_fields(schemas.iter().flat_map(|schema| schema.fields()))))
    }

    /// The columns of `files`, whose readers may panic about one that is damaged.
    async fn infer(
        &self,
        compression: FileCompressionType,
        store: &Arc<dyn ObjectStore>,
        files: &[ObjectMeta],
    ) -> DataFusionResult<Schema> {
        let inferred = async {
            let mut schemas = Vec::new();
            for file in files {
                match self.spec.format {
                    Format::Arrow => schemas.push(arrow_ipc::schema_of(store.as_ref(), file).await?),
                    #[cfg(feature = "avro")]
                    Format::Avro => schemas.push(avro::schema_of(store.as_ref(), file).await?),
                    _ => break,
                }
            }
            if !schemas.is_empty() {
                return Ok::<_, DataFusionError>(Schema::try_merge(schemas)?);
            }
            let Some(format) = self.spec.datafusion(compression) else { return Ok(Schema::empty()) };
            Ok(format.infer_schema(self.session, store, files).await?.as_ref().clone())
        };
        let inferred = AssertUnwindSafe(inferred).catch_unwind().await;
        inferred.unwrap_or_else(|panic| Err(DataFusionError::Execution(panics::reason(panic.as_ref()))))
    }

    fn columns_unknown(&self, file: &ObjectMeta, error: &DataFusionError) -> Error {
        Error::InputFile {
            file: self.location.display(&file.location),
            reason: format!("its columns cannot be told: {}", reason(error)),
        }
    }

    /// The partition columns that directories name now, with the types that hold all their values.
    /// Columns are fixed when the table is described, as in Spark.
    ///
    /// Whether there are any is told by the first file: only then all are looked at.
    pub(super) async fn partition_columns(&self) -> Result<Vec<(String, DataType)>> {
        let mut found = FoundPartitions::default();
        self.observe_directories(&mut found).await?;
        Ok(found.finish())
    }

    /// Takes the directories that there are into account.
    pub(super) async fn observe_directories(&self, found: &mut FoundPartitions) -> Result<()> {
        if let Some(mut walk) = LocalWalk::of(self.store.as_ref(), self.location) {
            loop {
                let paths = walk.next().await?;
                let mut files = paths.files.iter().filter(|path| self.pattern.selects(path));
                if paths.is_empty() || files.any(|path| !found.observe(path)) {
                    return Ok(());
                }
            }
        }
        let mut files = self.store.list(Some(self.location.base()));
        while let Some(file) = files.try_next().await.map_err(|error| self.list_error(error))? {
            let Some(path) = self.location.relative(&file.location) else { continue };
            if self.pattern.selects(path) && !found.observe(path) {
                break;
            }
        }
        Ok(())
    }

    async fn files(&self) -> Result<Vec<ObjectMeta>> {
        if let Some(mut walk) = LocalWalk::of(self.store.as_ref(), self.location) {
            let mut all = Vec::new();
            loop {
                let mut paths = walk.next().await?;
                if paths.is_empty() {
                    return Ok(all);
                }
                paths.files.retain(|path| self.pattern.selects(path));
                for found in walk.look_at(paths.files).await? {
                    all.push(ObjectMeta {
                        location: self.location.object_path(&found.file.path)?,
                        last_modified: found.modified.into(),
                        size: found.file.size,
                        e_tag: None,
                        version: None,
                    });
                }
            }
        }
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

/// Of how many records the file of this number is told: few of those that come late in a long list, unless all
/// are to be looked at.
fn records_of(index: usize, max: usize) -> usize {
    if index < FIRST_FILES || max == usize::MAX { max } else { max.min(FEW) }
}

/// The partition columns of the files looked at so far.
#[derive(Default)]
pub(super) struct FoundPartitions {
    names: Option<Vec<String>>,
    types: Vec<TypeInference>,
}

impl FoundPartitions {
    /// Takes the directories of one more file into account. Whether others have to be looked at.
    fn observe(&mut self, path: &str) -> bool {
        let found: Vec<_> = partitions_of(path).collect();
        let names = self.names.get_or_insert_with(|| {
            self.types.extend(found.iter().map(|_| TypeInference::default()));
            found.iter().map(|(name, _)| name.to_string()).collect()
        });
        // A file that lies elsewhere is refused when it is planned.
        if found.iter().map(|(name, _)| name.as_ref()).eq(names.iter().map(String::as_str)) {
            found.iter().zip(&mut self.types).for_each(|((_, value), inference)| inference.observe(value));
        }
        !names.is_empty()
    }

    /// Their names, with types that hold all values.
    pub(super) fn finish(self) -> Vec<(String, DataType)> {
        let types = self.types.into_iter().map(TypeInference::finish);
        self.names.unwrap_or_default().into_iter().zip(types).collect()
    }
}

/// Why columns cannot be told, and what to do. DataFusion may quote the whole file.
fn reason(error: &DataFusionError) -> String {
    const LONGEST: usize = 300;
    let text = in_words(error);
    if text.contains("Expected JSON record to be an object, found Array") {
        return "it holds a JSON array instead of a record per line. Set multiLine to true".into();
    }
    if let Some(hint) = hint(&text) {
        return hint;
    }
    let mut short: String = text.chars().take(LONGEST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short}. Put it right or give the columns")
}

/// What to do about an error of inference that has a remedy of its own.
fn hint(text: &str) -> Option<String> {
    let line = text.rsplit_once(" at line ").map_or("", |(_, line)| line.trim());
    if text.contains("Encountered UTF-8 error") {
        let place = if line.is_empty() { String::new() } else { format!(": line {line}") };
        return Some(format!(
            "it is not UTF-8{place}. Set encoding to what it is in, such as ISO-8859-1 or UTF-16"
        ));
    }
    if let Some((_, lengths)) =
        text.split_once("Encountered unequal lengths between records on CSV file. Expected ")
        && let Some((expected, rest)) = lengths.split_once(' ')
        && let Some((_, found)) = rest.split_once("found ")
    {
        let found = found.split(' ').next().unwrap_or_default();
        return Some(format!(
            "line {line} has {found} fields, and the first one has {expected}. Put it right, or set mode to PERMISSIVE or \
             DROPMALFORMED; comment says what lines begin with that are none, and sep what is between fields"
        ));
    }
    let is_compressed = ["unexpected end of file", "invalid gzip header", "corrupt deflate stream"];
    is_compressed.iter().any(|sign| text.contains(sign)).then(|| {
        "it cannot be decompressed. Set compression to uncompressed if only its name says that it is compressed"
            .to_string()
    })
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

/// The fields of all files, oldest first, each once and with a type that takes what all of them hold.
fn merge_fields<'a>(fields: impl Iterator<Item = &'a FieldRef>) -> Vec<FieldRef> {
    let mut merged: Vec<FieldRef> = Vec::new();
    for field in fields {
        match merged.iter_mut().find(|known| known.name() == field.name()) {
            Some(known) => {
                let data_type = common_type(known.data_type(), field.data_type());
                *known = Arc::new(known.as_ref().clone().with_data_type(data_type).with_nullable(true));
            }
            None => merged.push(Arc::clone(field)),
        }
    }
    merged
}

/// The type for a column that is of type `a` in some files and of type `b` in others: the wider of two
/// numbers, and text for what has nothing in common, as within a file.
fn common_type(a: &DataType, b: &DataType) -> DataType {
    match (a, b) {
        (a, b) if a == b => a.clone(),
        (DataType::Null, other) | (other, DataType::Null) => other.clone(),
        (DataType::Struct(a), DataType::Struct(b)) => {
            DataType::Struct(merge_fields(a.iter().chain(b.iter())).into())
        }
        (DataType::List(a), DataType::List(b)) => {
            let item = common_type(a.data_type(), b.data_type());
            DataType::List(Arc::new(a.as_ref().clone().with_data_type(item).with_nullable(true)))
        }
        (a, b) if a.is_numeric() && b.is_numeric() => {
            binary_numeric_coercion(a, b).unwrap_or_else(|| a.clone())
        }
        (DataType::Utf8View, _) | (_, DataType::Utf8View) => DataType::Utf8View,
        (DataType::LargeUtf8, _) | (_, DataType::LargeUtf8) => DataType::LargeUtf8,
        (a, b) if a.is_nested() || b.is_nested() => a.clone(),
        _ => DataType::Utf8,
    }
}

/// `field` with a type that holds all numbers that were `found` in it.
fn holding_all(field: &FieldRef, found: &[CsvColumn]) -> FieldRef {
    if *field.data_type() != DataType::Float64 {
        return Arc::clone(field);
    }
    let same = found.iter().filter(|column| column.field.name() == field.name());
    let numbers = same.map(|column| column.numbers).fold(Numbers::default(), Numbers::and);
    let holds = |data_type: &DataType| matches!(data_type, DataType::Decimal128(..) | DataType::Utf8);
    match Some(numbers.data_type()).filter(holds) {
        Some(data_type) => Arc::new(field.as_ref().clone().with_data_type(data_type)),
        None => Arc::clone(field),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_that_take_what_all_files_hold() {
        use DataType::{Boolean, Date32, Float64, Int32, Int64, Null, Utf8, Utf8View};
        for (a, b, expected) in [
            (Int32, Int64, Int64),
            (Int64, Float64, Float64),
            (Null, Int32, Int32),
            (Int64, Utf8, Utf8),
            (Utf8View, Boolean, Utf8View),
            (Date32, Int64, Utf8),
        ] {
            assert_eq!((common_type(&a, &b), common_type(&b, &a)), (expected.clone(), expected), "{a} {b}");
        }
        let record = |fields: &[(&str, DataType)]| {
            DataType::Struct(fields.iter().map(|(name, of)| Field::new(*name, of.clone(), true)).collect())
        };
        assert_eq!(
            common_type(&record(&[("a", Int32), ("b", Utf8)]), &record(&[("a", Float64), ("c", Boolean)])),
            record(&[("a", Float64), ("b", Utf8), ("c", Boolean)])
        );
    }
}
