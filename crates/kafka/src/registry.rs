//! A registry of schemas: Confluent's REST interface, which Apicurio, Karapace and Redpanda have too, and of Apicurio's own
//! what it takes to read messages that its serializers have written.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tidemill::arrow::array::BinaryArray;
use tidemill::serde_json::{self, Value, json};
use tidemill::source::WriterSchemas;
use tidemill::{Error, Options, Result};
use ureq::Agent;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

/// What the options of a registry begin with.
pub(super) const PREFIX: &str = "schema.registry.";

const URL: &str = "schema.registry.url";
const USER_INFO: &str = "schema.registry.basic.auth.user.info";
const TOKEN: &str = "schema.registry.bearer.auth.token";
const CA: &str = "schema.registry.ssl.ca.location";

const PATIENCE: Duration = Duration::from_secs(10);
/// How often each server is asked before the query fails, and how long it waits after the first time.
const ATTEMPTS: u32 = 4;
const BACK_OFF: Duration = Duration::from_millis(200);

const CONTENT: &str = "application/vnd.schemaregistry.v1+json";

/// The answer that there is no such schema or subject.
const NOT_FOUND: u16 = 404;

/// How a registry is asked, and with it what messages begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interface {
    Confluent,
    /// Apicurio's own, version 2: messages have global ids of eight bytes.
    Apicurio2,
    /// Apicurio's own, version 3: messages have ids of contents, of four bytes.
    Apicurio3,
}

impl Interface {
    fn of(url: &str) -> Self {
        match url {
            url if url.ends_with("/apis/registry/v2") => Self::Apicurio2,
            url if url.ends_with("/apis/registry/v3") => Self::Apicurio3,
            _ => Self::Confluent,
        }
    }

    /// Where the schema with the number `id` is.
    fn path(self, id: u64) -> String {
        match self {
            Self::Confluent => format!("/schemas/ids/{id}"),
            Self::Apicurio2 => format!("/ids/globalIds/{id}?dereference=true"),
            Self::Apicurio3 => format!("/ids/contentIds/{id}?references=DEREFERENCE"),
        }
    }

    /// What answers are accepted: Apicurio's own are schemas as they are.
    fn accepted(self) -> &'static str {
        if self == Self::Confluent { CONTENT } else { "*/*" }
    }
}

/// Where schemas are registered.
#[derive(Debug, Clone)]
pub(super) struct Registry {
    interface: Interface,
    /// Of one registry: the next one is asked if one does not answer.
    urls: Vec<String>,
    agent: Agent,
    authorization: Option<String>,
}

/// An answer that is none of success.
struct Refusal {
    status: u16,
    url: String,
    text: String,
}

impl Registry {
    /// The one that the options name, if they do.
    pub(super) fn parse(options: &Options) -> Result<Option<Self>> {
        let own: Options =
            options.iter().filter(|(name, _)| name.to_ascii_lowercase().starts_with(PREFIX)).collect();
        own.deny_unknown("a schema registry", &[URL, USER_INFO, TOKEN, CA])?;
        let Some(text) = own.get(URL) else {
            return match own.iter().next() {
                Some((name, value)) => Err(Error::option(name, value, format!("say which registry: {URL}"))),
                None => Ok(None),
            };
        };
        let urls: Vec<String> =
            text.split(',').map(|url| url.trim().trim_end_matches('/').to_string()).collect();
        if urls.iter().any(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
            return Err(Error::option(URL, text, "expected http://host:port or https://host:port"));
        }
        let interface = urls.first().map_or(Interface::Confluent, |url| Interface::of(url));
        if urls.iter().any(|url| Interface::of(url) != interface) {
            return Err(Error::option(URL, text, "these are different interfaces: name one of them"));
        }
        let authorization = match (own.get(USER_INFO), own.get(TOKEN)) {
            (Some(_), Some(_)) => {
                return Err(Error::option(
                    TOKEN,
                    "***",
                    format!("it cannot be used together with {USER_INFO}"),
                ));
            }
            (Some(user), None) => Some(format!("Basic {}", STANDARD.encode(user))),
            (None, Some(token)) => Some(format!("Bearer {token}")),
            (None, None) => None,
        };
        let mut config = Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false);
        if let Some(path) = own.get(CA) {
            config = config.tls_config(TlsConfig::builder().root_certs(certificates(path)?).build());
        }
        Ok(Some(Self { interface, urls, agent: config.build().into(), authorization }))
    }

    /// What makes schemas known by the numbers that messages begin with.
    fn writer_schemas(&self) -> WriterSchemas {
        match self.interface {
            Interface::Apicurio2 => WriterSchemas::with_long_ids(),
            Interface::Confluent | Interface::Apicurio3 => WriterSchemas::default(),
        }
    }

    /// Fails if the registry can be asked for schemas by their numbers only.
    fn check_subjects(&self) -> Result<()> {
        match self.interface {
            Interface::Confluent => Ok(()),
            Interface::Apicurio2 | Interface::Apicurio3 => Err(Error::option(
                URL,
                self.urls.join(","),
                "Apicurio's own interface is only asked for the schemas of messages. Name its compatible one \
                 (http://host:port/apis/ccompat/v7) to write, and to read without columns, or give the table columns",
            )),
        }
    }

    /// The schema with the number `id`; the inner error says why there is none of Avro's.
    pub(super) async fn avro_schema(&self, id: u64) -> Result<std::result::Result<String, String>> {
        let path = self.interface.path(id);
        let found = match self.ask(path.clone(), None).await? {
            // Schemas that others are parts of are wanted as a whole.
            Ok(found) if self.interface != Interface::Confluent => return Ok(Ok(found.to_string())),
            Ok(found) if has_parts(&found) => self.ask(format!("{path}?format=resolved"), None).await?,
            found => found,
        };
        match found {
            Ok(found) => Ok(schema_of(&found)),
            Err(refusal) if refusal.status == NOT_FOUND => {
                Ok(Err(format!("the schema registry at {} has no schema {id}", refusal.url)))
            }
            Err(refusal) => Err(refusal.into_error()),
        }
    }

    /// The newest schema of `subject`.
    pub(super) async fn latest_avro_schema(&self, subject: &str) -> Result<String> {
        self.check_subjects()?;
        let path = format!("/subjects/{}/versions/latest", in_path(subject));
        match self.ask(path, None).await? {
            Ok(found) => {
                let id = found["id"].as_u64();
                if let (Some(id), true) = (id, has_parts(&found)) {
                    let whole = self.avro_schema(id).await?;
                    return whole.map_err(|why| Error::Invalid(format!("subject '{subject}': {why}")));
                }
                schema_of(&found).map_err(|why| Error::Invalid(format!("subject '{subject}': {why}")))
            }
            Err(refusal) if refusal.status == NOT_FOUND => Err(Error::Invalid(format!(
                "the schema registry at {} has no subject '{subject}'. Give the table columns, or name another by the \
                 option value.subject",
                refusal.url
            ))),
            Err(refusal) => Err(refusal.into_error()),
        }
    }

    /// The number of `schema`, which is registered under `subject`, or is to be if `registers`.
    pub(super) async fn id_of(&self, subject: &str, schema: &str, registers: bool) -> Result<u32> {
        self.check_subjects()?;
        let path = format!("/subjects/{}{}", in_path(subject), if registers { "/versions" } else { "" });
        let found = self.ask(path, Some(json!({ "schema": schema }).to_string())).await?;
        let id = match found {
            Ok(found) => found["id"].as_u64().and_then(|id| u32::try_from(id).ok()),
            Err(refusal) if refusal.status == NOT_FOUND && !registers => {
                return Err(Error::Invalid(format!(
                    "the schema of the rows is not registered under subject '{subject}' at {}, and \
                     auto.register.schemas is false: {schema}",
                    refusal.url
                )));
            }
            Err(refusal) if refusal.status == 409 => {
                return Err(Error::Invalid(format!(
                    "the schema registry at {} refuses the schema of the rows for subject '{subject}', for it is not \
                     compatible with those before: {}",
                    refusal.url, refusal.text
                )));
            }
            Err(refusal) => return Err(refusal.into_error()),
        };
        id.ok_or_else(|| Error::Invalid("the schema registry gives no number for a schema".into()))
    }

    /// The answer to a question, or with a body to an order. Fails only if no server gives one.
    async fn ask(&self, path: String, body: Option<String>) -> Result<std::result::Result<Value, Refusal>> {
        let registry = self.clone();
        let asked = tokio::task::spawn_blocking(move || registry.ask_until_answered(&path, body.as_deref()));
        asked.await.map_err(Error::other)?
    }

    fn ask_until_answered(
        &self,
        path: &str,
        body: Option<&str>,
    ) -> Result<std::result::Result<Value, Refusal>> {
        let mut last = None;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(BACK_OFF * 3_u32.pow(attempt - 1));
            }
            for url in &self.urls {
                match self.ask_once(&format!("{url}{path}"), body) {
                    Ok((200..300, text)) => {
                        let value = serde_json::from_str(&text).map_err(|_| {
                            Error::Invalid(format!("{url} does not answer as a schema registry does"))
                        })?;
                        return Ok(Ok(value));
                    }
                    Ok((status @ (429 | 500..), text)) => {
                        last = Some(Refusal { status, url: url.clone(), text }.into_error());
                    }
                    Ok((status, text)) => return Ok(Err(Refusal { status, url: url.clone(), text })),
                    Err(error) => last = Some(Error::storage("ask", url.as_str(), error)),
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::Invalid(format!("{URL} is empty"))))
    }

    fn ask_once(&self, url: &str, body: Option<&str>) -> Result<(u16, String), ureq::Error> {
        let authorization = self.authorization.as_deref();
        let mut answer = match body {
            None => {
                let request = self.agent.get(url).header("accept", self.interface.accepted());
                authorization.into_iter().fold(request, |r, value| r.header("authorization", value)).call()?
            }
            Some(body) => {
                let request = self.agent.post(url).header("accept", CONTENT).header("content-type", CONTENT);
                authorization
                    .into_iter()
                    .fold(request, |r, value| r.header("authorization", value))
                    .send(body)?
            }
        };
        Ok((answer.status().as_u16(), answer.body_mut().read_to_string()?))
    }
}

/// A registry, and what it has said so far.
#[derive(Debug, Clone)]
pub(super) struct Registered {
    registry: Registry,
    pub(super) schemas: WriterSchemas,
}

impl Registered {
    pub(super) fn new(registry: Registry) -> Self {
        Self { schemas: registry.writer_schemas(), registry }
    }

    /// Makes the schemas known that `messages` were written with.
    pub(super) async fn prepare(&self, messages: &BinaryArray) -> Result<()> {
        for id in self.schemas.unknown(messages) {
            let found = self.registry.avro_schema(id).await?;
            self.schemas.add(id, found.as_deref().map_err(String::as_str));
        }
        Ok(())
    }
}

impl Refusal {
    fn into_error(self) -> Error {
        let text = match serde_json::from_str::<Value>(&self.text) {
            Ok(answer) if answer["message"].is_string() => answer["message"].to_string(),
            _ => self.text.chars().take(200).collect(),
        };
        let why = match self.status {
            401 | 403 => {
                format!("it does not let the query in ({}): see {USER_INFO} and {TOKEN}", self.status)
            }
            status => format!("it answers {status}: {text}"),
        };
        Error::storage("ask", self.url, why)
    }
}

/// Whether a schema is whole only with others.
fn has_parts(found: &Value) -> bool {
    found["references"].as_array().is_some_and(|parts| !parts.is_empty())
}

fn schema_of(found: &Value) -> std::result::Result<String, String> {
    match (found["schemaType"].as_str().unwrap_or("AVRO"), found["schema"].as_str()) {
        ("AVRO", Some(schema)) => Ok(schema.to_string()),
        ("AVRO", None) => Err("the schema registry gives no schema".into()),
        (other, _) => Err(format!("the schema is one of {other}, and not of Avro's")),
    }
}

/// A name as a part of a URL's path.
fn in_path(name: &str) -> String {
    let mut path = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                path.push(char::from(byte))
            }
            byte => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

fn certificates(path: &str) -> Result<RootCerts> {
    let invalid = |reason: String| Error::option(CA, path, reason);
    let pem = std::fs::read(path).map_err(|error| invalid(format!("it cannot be read: {error}")))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(invalid(format!("it is no PEM file: {error}"))),
        }
    }
    if certificates.is_empty() {
        return Err(invalid("there is no certificate in it".into()));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

/// The name that a schema is registered under unless another is asked for.
pub(super) fn subject_of(topic: &str, part: &str) -> String {
    format!("{topic}-{part}")
}

/// Under which name a schema is registered: Confluent's strategies, by their names.
pub(super) fn subject(options: &mut Options, topic: &str, part: &str, schema: &str) -> Result<String> {
    const STRATEGY: &str = "subject.name.strategy";
    if let Some(subject) = options.take("subject") {
        return Ok(subject);
    }
    let strategy = options.take(STRATEGY).unwrap_or_else(|| "TopicNameStrategy".into());
    let record = || {
        let schema: Value = serde_json::from_str(schema).unwrap_or_default();
        match (schema["namespace"].as_str(), schema["name"].as_str()) {
            (_, Some(name)) if name.contains('.') => Ok(name.to_string()),
            (Some(space), Some(name)) if !space.is_empty() => Ok(format!("{space}.{name}")),
            (_, Some(name)) => Ok(name.to_string()),
            _ => Err(Error::option(STRATEGY, &strategy, "the schema has no name")),
        }
    };
    match strategy.rsplit('.').next().unwrap_or_default() {
        "TopicNameStrategy" => Ok(subject_of(topic, part)),
        "RecordNameStrategy" => record(),
        "TopicRecordNameStrategy" => Ok(format!("{topic}-{}", record()?)),
        _ => Err(Error::option(
            STRATEGY,
            &strategy,
            "expected TopicNameStrategy, RecordNameStrategy or TopicRecordNameStrategy",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(options: &[(&str, &str)]) -> Options {
        options.iter().copied().collect()
    }

    #[test]
    fn what_is_wrong_with_a_registry_is_said() {
        assert!(Registry::parse(&options(&[("subscribe", "t")])).unwrap().is_none());
        let url = (URL, "http://localhost:8081/apis/ccompat/v7/, https://other");
        let registry = Registry::parse(&options(&[url])).unwrap().unwrap();
        assert_eq!(registry.urls, ["http://localhost:8081/apis/ccompat/v7", "https://other"]);
        for (given, expected) in [
            (&[(URL, "localhost:8081")][..], "expected http://host:port"),
            (&[("schema.registry.basic.auth.user.info", "a:b")], "say which registry"),
            (&[url, ("schema.registry.urls", "x")], "did you mean 'schema.registry.url'"),
            (&[url, (USER_INFO, "a:b"), (TOKEN, "t")], "cannot be used together"),
            (&[url, (CA, "/no/such/file")], "it cannot be read"),
            (&[(URL, "http://a/apis/registry/v2,http://b")], "different interfaces"),
        ] {
            let error = Registry::parse(&options(given)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn subjects_are_named_as_confluent_names_them() {
        let schema = r#"{"type":"record","name":"click","namespace":"shop"}"#;
        let of = |given: &[(&str, &str)]| subject(&mut options(given), "t", "value", schema);
        assert_eq!(of(&[]).unwrap(), "t-value");
        assert_eq!(of(&[("subject", "mine")]).unwrap(), "mine");
        let strategy = "subject.name.strategy";
        let long = "io.confluent.kafka.serializers.subject.RecordNameStrategy";
        assert_eq!(of(&[(strategy, long)]).unwrap(), "shop.click");
        assert_eq!(of(&[(strategy, "TopicRecordNameStrategy")]).unwrap(), "t-shop.click");
        assert!(of(&[(strategy, "x")]).unwrap_err().to_string().contains("expected TopicNameStrategy"));
        assert_eq!(in_path("a b/ä-value"), "a%20b%2F%C3%A4-value");
    }
}
