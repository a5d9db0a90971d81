//! What a topic is written with.

use tidemill::{Error, Options, Result};

use super::super::client::ClientOptions;

/// The sink's own options, beside `kafka.…` and those of its formats.
pub(super) const OPTIONS: &[&str] = &[
    "topic",
    "includeHeaders",
    "key.format",
    "value.format",
    "key.fields",
    "deliveryGuarantee",
    "transactionalIdPrefix",
    "ifBatchUnknown",
    super::super::client::PREFIX,
    super::super::registry::PREFIX,
];

const DENIED: &[(&str, &str)] = &[
    ("transactional.id", "each query has its own; see transactionalIdPrefix"),
    ("enable.idempotence", "the sink always writes so; see deliveryGuarantee"),
    ("key.serializer", "keys are bytes; say key.format for columns"),
    ("value.serializer", "values are bytes; say value.format for columns"),
    ("group.id", "the sink has a group of its own, in which it notes the batch"),
    ("interceptor.classes", "interceptors are Java"),
];

/// What is done about a batch of which nobody knows whether it is in Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfUnknown {
    Fail,
    Publish,
    Skip,
}

#[derive(Debug, Clone)]
pub(super) struct SinkOptions {
    pub(super) client: ClientOptions,
    /// Where all rows go, whatever the column `topic` says.
    pub(super) topic: Option<String>,
    pub(super) is_exactly_once: bool,
    pub(super) id_prefix: String,
    pub(super) if_unknown: IfUnknown,
}

impl SinkOptions {
    pub(super) fn parse(options: &Options) -> Result<Self> {
        let guarantee = options.get("deliveryGuarantee").unwrap_or("exactly-once");
        let is_exactly_once = match guarantee.to_ascii_lowercase().replace('_', "-").as_str() {
            "exactly-once" => true,
            "at-least-once" => false,
            _ => {
                let expected = "expected exactly-once or at-least-once";
                return Err(Error::option("deliveryGuarantee", guarantee, expected));
            }
        };
        let unknown = options.get("ifBatchUnknown").unwrap_or("fail");
        let if_unknown = match unknown.to_ascii_lowercase().as_str() {
            "fail" => IfUnknown::Fail,
            "publish" => IfUnknown::Publish,
            "skip" => IfUnknown::Skip,
            _ => return Err(Error::option("ifBatchUnknown", unknown, "expected fail, publish or skip")),
        };
        let topic = options.get("topic").map(str::trim);
        if topic == Some("") {
            return Err(Error::option("topic", "", "expected the name of a topic"));
        }
        // Headers are written if there is a column of them.
        options.flag("includeHeaders", false)?;
        Ok(Self {
            client: ClientOptions::parse(options, DENIED)?,
            topic: topic.map(str::to_string),
            is_exactly_once,
            id_prefix: options.get("transactionalIdPrefix").unwrap_or("tidemill").to_string(),
            if_unknown,
        })
    }

    /// Who writes for the query `id`: two processes that run it have the same name, so that one of them is fenced.
    pub(super) fn transactional_id(&self, id: impl std::fmt::Display) -> String {
        format!("{}-{id}", self.id_prefix)
    }
}
