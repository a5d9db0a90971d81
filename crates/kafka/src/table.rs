//! Topics as an unbounded table.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill::arrow::datatypes::SchemaRef;
use tidemill::checkpoint::records::SourceDefinition;
use tidemill::source::{Source, SourceContext, SourceProvider, columns_of};
use tidemill::storage::Storage;
use tidemill::{Error, Result, SourceFactory, SourceRequest, async_trait};

use super::FORMAT;
use super::columns::Columns;
use super::options::SourceOptions;
use super::source::KafkaSource;

/// Makes tables of topics; see [`register`](super::register).
#[derive(Debug)]
pub struct KafkaSourceFactory;

#[async_trait]
impl SourceFactory for KafkaSourceFactory {
    async fn create(&self, request: SourceRequest) -> Result<Arc<dyn SourceProvider>> {
        if !request.partition_by.is_empty() {
            return Err(Error::Invalid(
                "the kafka source reads no directories, so it has no partition columns. Leave PARTITIONED BY out".into(),
            ));
        }
        if let Some(path) = request.path.filter(|path| !path.is_empty()) {
            return Err(Error::Invalid(format!(
                "the kafka source reads from no path ('{path}'): topics are named by the option subscribe"
            )));
        }
        let options = SourceOptions::parse(&request.options)?;
        let columns =
            Columns::new(request.schema.as_ref(), &request.options, options.include_headers, &request.state)?;
        Ok(Arc::new(KafkaTable { options: Arc::new(options), columns }))
    }
}

/// The table as it was described.
#[derive(Debug, Clone)]
struct KafkaTable {
    options: Arc<SourceOptions>,
    columns: Columns,
}

impl SourceProvider for KafkaTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.columns.schema)
    }

    fn schema_is_inferred(&self) -> bool {
        false
    }

    fn with_schema(&self, _: SchemaRef) -> Result<Arc<dyn SourceProvider>> {
        Err(Error::Invalid("the columns of a kafka table are those that were given".into()))
    }

    fn format(&self) -> &str {
        FORMAT
    }

    fn description(&self) -> String {
        format!("KafkaSource[{}]", self.options.selection.describe())
    }

    fn definition(&self, _: &dyn Storage) -> SourceDefinition {
        let options: BTreeMap<String, String> = self.columns.row_options().collect();
        SourceDefinition {
            format: FORMAT.into(),
            location: None,
            columns: columns_of(&self.columns.schema),
            inferred: false,
            options,
        }
    }

    fn create(&self, context: SourceContext) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(KafkaSource::new(Arc::clone(&self.options), self.columns.clone(), &context)?))
    }
}
