//! Topics as an unbounded table.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill::arrow::datatypes::SchemaRef;
use tidemill::checkpoint::records::SourceDefinition;
use tidemill::datafusion::execution::session_state::SessionState;
use tidemill::source::{MessageFormat, Source, SourceContext, SourceProvider, columns_of};
use tidemill::storage::Storage;
use tidemill::{Error, Options, Result, SourceFactory, SourceRequest, async_trait};

use super::FORMAT;
use super::columns::Columns;
use super::formats::AVRO;
use super::options::{Selection, SourceOptions};
use super::registry::{self, Registry};
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
        let given = request.schema.filter(|schema| !schema.fields().is_empty());
        let registered = match &given {
            Some(_) => None,
            None => columns_of_messages(&options.selection, &request.options).await?,
        };
        let columns = given.as_ref().or(registered.as_ref());
        let columns = Columns::new(columns, &request.options, options.include_headers, &request.state)?;
        Ok(Arc::new(KafkaTable {
            options: Arc::new(options),
            columns,
            registered: registered.map(|_| Arc::new((request.options, request.state))),
        }))
    }
}

/// The columns of messages that say themselves what they consist of: those of the schema that is given, or of the
/// newest one that is registered. `None` if no schema says so.
async fn columns_of_messages(selection: &Selection, options: &Options) -> Result<Option<SchemaRef>> {
    let get = |name: &str| options.get(&format!("value.{name}")).or_else(|| options.get(name));
    let format = options.get("value.format").map(|format| format.trim().to_ascii_lowercase());
    match format.as_deref() {
        _ if options.get("key.format").is_some() => return Ok(None),
        Some("protobuf") => {
            let of = ["descFilePath", "messageName"].into_iter().filter_map(|name| Some((name, get(name)?)));
            return MessageFormat::columns_of_protobuf(&of.collect()).map(Some);
        }
        Some(AVRO) => {}
        _ => return Ok(None),
    }
    if let Some(schema) = get("avroSchema") {
        return MessageFormat::columns_of_avro(schema).map(Some);
    }
    let Some(registry) = Registry::parse(options)? else { return Ok(None) };
    let subject = match (get("subject"), selection) {
        (Some(subject), _) => subject.to_string(),
        (None, Selection::Subscribe(topics)) if topics.len() == 1 => {
            registry::subject_of(topics.first().map_or("", String::as_str), "value")
        }
        (None, _) => {
            return Err(Error::Invalid(
                "which columns has the table? Several topics may have several schemas: give it columns, or name one \
                 schema by the option value.subject"
                    .into(),
            ));
        }
    };
    MessageFormat::columns_of_avro(&registry.latest_avro_schema(&subject).await?).map(Some)
}

/// The table as it was described.
#[derive(Debug, Clone)]
struct KafkaTable {
    options: Arc<SourceOptions>,
    columns: Columns,
    /// What the table is made of again when a checkpoint has other columns than the registry now.
    registered: Option<Arc<(Options, SessionState)>>,
}

impl SourceProvider for KafkaTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.columns.schema)
    }

    fn schema_is_inferred(&self) -> bool {
        self.registered.is_some()
    }

    fn with_schema(&self, schema: SchemaRef) -> Result<Arc<dyn SourceProvider>> {
        let Some(table) = &self.registered else {
            return Err(Error::Invalid("the columns of a kafka table are those that were given".into()));
        };
        let (options, session) = table.as_ref();
        let columns = Columns::new(Some(&schema), options, self.options.include_headers, session)?;
        Ok(Arc::new(Self { columns, ..self.clone() }))
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
            inferred: self.schema_is_inferred(),
            options,
        }
    }

    fn create(&self, context: SourceContext) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(KafkaSource::new(Arc::clone(&self.options), self.columns.clone(), &context)?))
    }
}
