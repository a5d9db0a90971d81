//! Describing an unbounded table.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::prelude::DataFrame;

use super::Session;
use super::formats::SourceRequest;
use super::path::IntoPath;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::plan::StreamTable;

/// Describes an unbounded table, with the names of Spark's `DataStreamReader`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> tidemill::Result<()> {
/// use tidemill::prelude::*;
///
/// let folder = tempfile::tempdir().unwrap();
/// std::fs::write(folder.path().join("a.json"), "{\"auction\":1,\"price\":1200}\n").unwrap();
///
/// let session = Session::new();
/// let bids = session
///     .read_stream()
///     .format("json")
///     .option("maxFilesPerTrigger", 4)
///     .load(folder.path())
///     .await?;
/// assert_eq!(bids.schema().field_names(), ["?table?.auction", "?table?.price"]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a reader does nothing until load(…)"]
pub struct DataStreamReader {
    session: Session,
    format: Option<String>,
    schema: Option<SchemaRef>,
    partition_by: Vec<String>,
    options: Options,
}

impl DataStreamReader {
    pub(crate) fn new(session: Session) -> Self {
        Self { session, format: None, schema: None, partition_by: Vec::new(), options: Options::default() }
    }

    /// The format: `json`, `csv`, `parquet`, `text`, `arrow`, `avro`, `rate`, `rate-micro-batch`,
    /// `socket`, or one that was registered with [`Session::register_source`].
    pub fn format(mut self, format: impl Into<String>) -> Self {
        self.format = Some(format.into());
        self
    }

    /// The columns. Without this they are inferred from what is there, and pinned in the checkpoint
    /// of the first query over them.
    pub fn schema(mut self, schema: impl Into<SchemaRef>) -> Self {
        self.schema = Some(schema.into());
        self
    }

    /// The columns of the schema that are not in the files but in the names of their directories
    /// (`country=DE/…`). Without this, directories of that form are discovered.
    pub fn partition_by(mut self, columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.partition_by = columns.into_iter().map(Into::into).collect();
        self
    }

    /// Sets an option; `docs/options.md` lists them. Names are case-insensitive.
    pub fn option(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.options.set(name, value);
        self
    }

    /// Sets several options.
    pub fn options<K: Into<String>, V: ToString>(
        mut self,
        options: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        for (name, value) in options {
            self.options.set(name, value);
        }
        self
    }

    /// The unbounded table as a data frame. `path` is a directory, a glob pattern or a URL, or
    /// `None` for a format that reads from no place.
    ///
    /// # Errors
    /// If the format or an option is unknown, an option's value is not valid, or the columns are
    /// neither given nor to be inferred.
    pub async fn load(self, path: impl IntoPath) -> Result<DataFrame> {
        let context = self.session.context().clone();
        let table = self.table(path).await?;
        Ok(context.read_table(table)?)
    }

    /// The unbounded table as a DataFusion table, to be registered under a name.
    ///
    /// # Errors
    /// As [`DataStreamReader::load`].
    pub async fn table(self, path: impl IntoPath) -> Result<Arc<dyn TableProvider>> {
        let Some(format) = self.format else {
            return Err(Error::Invalid("a stream needs a format: call format(\"json\"), say".into()));
        };
        let format = format.to_ascii_lowercase();
        let factory = self.session.inner().formats.source(&format)?;
        let provider = factory
            .create(SourceRequest {
                format,
                path: path.into_path(),
                schema: self.schema,
                partition_by: self.partition_by,
                options: self.options,
                state: self.session.context().state(),
            })
            .await?;
        Ok(Arc::new(StreamTable::new(provider)))
    }
}
