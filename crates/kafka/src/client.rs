//! Options of Kafka's client: `kafka.` and the name of one of its properties.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use tidemill::{Error, Options, Result};

/// What options of the client begin with.
pub(super) const PREFIX: &str = "kafka.";

/// Properties that say nothing to this client, and that jobs for Kafka's Java client have.
const JAVA_ONLY: &[&str] =
    &["max.poll.records", "default.api.timeout.ms", "exclude.internal.topics", "ssl.protocol"];

/// Java's names for what this client has by another.
const JAVA_NAMES: &[(&str, &str)] = &[
    ("fetch.max.wait.ms", "fetch.wait.max.ms"),
    ("reconnect.backoff.max.ms", "reconnect.backoff.max.ms"),
    ("ssl.truststore.location", "ssl.ca.location"),
    ("ssl.truststore.certificates", "ssl.ca.pem"),
    ("ssl.keystore.certificate.chain", "ssl.certificate.pem"),
    ("ssl.keystore.key", "ssl.key.pem"),
];

/// How Kafka is talked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientOptions {
    pub(super) servers: String,
    properties: BTreeMap<String, String>,
}

impl ClientOptions {
    /// Takes the options that begin with `kafka.`; those `denied` (property and why) are refused by name.
    pub(super) fn parse(options: &Options, denied: &[(&str, &str)]) -> Result<Self> {
        let mut properties = BTreeMap::new();
        for (name, value) in options.iter() {
            let lower = name.to_ascii_lowercase();
            let Some(property) = lower.strip_prefix(PREFIX) else { continue };
            if let Some((_, reason)) = denied.iter().find(|(denied, _)| *denied == property) {
                return Err(Error::option(name, value, *reason));
            }
            match property {
                "sasl.jaas.config" => properties.extend(from_jaas(name, value)?),
                property if JAVA_ONLY.contains(&property) => {
                    tracing::debug!("option '{name}' is one of Kafka's Java client, and says nothing here");
                }
                property => {
                    let known = JAVA_NAMES.iter().find(|(java, _)| *java == property);
                    let property = known.map_or(property, |(_, own)| own);
                    properties.insert(property.to_string(), value.to_string());
                }
            }
        }
        let servers = properties.get("bootstrap.servers").map(|servers| servers.trim()).unwrap_or_default();
        if servers.is_empty() {
            return Err(Error::Invalid(
                "kafka needs the option 'kafka.bootstrap.servers': host:port of some brokers, separated by \
                 commas"
                    .into(),
            ));
        }
        let client = Self { servers: servers.to_string(), properties };
        client.check()?;
        Ok(client)
    }

    /// A configuration with these properties, which win over `defaults`, and with those `fixed`.
    pub(super) fn config(&self, defaults: &[(&str, &str)], fixed: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("client.id", "tidemill");
        for (name, value) in defaults {
            config.set(*name, *value);
        }
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        for (name, value) in fixed {
            config.set(*name, *value);
        }
        config
    }

    /// A configuration of a consumer that stands beside a producer with these properties: without those that only
    /// producers have.
    pub(super) fn consumer_config(&self, fixed: &[(&str, &str)]) -> ClientConfig {
        let is_shared = |name: &str| {
            [
                "bootstrap.",
                "metadata.",
                "security.",
                "sasl.",
                "ssl.",
                "socket.",
                "broker.",
                "client.",
                "enable.s",
            ]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        };
        let shared = self.properties.iter().filter(|(name, _)| is_shared(name));
        let shared = Self {
            servers: self.servers.clone(),
            properties: shared.map(|(n, v)| (n.clone(), v.clone())).collect(),
        };
        shared.config(&[], fixed)
    }

    pub(super) fn get(&self, property: &str) -> Option<&str> {
        self.properties.get(property).map(String::as_str)
    }

    /// Asks the client whether it knows the properties and their values.
    fn check(&self) -> Result<()> {
        for (name, value) in &self.properties {
            let mut config = ClientConfig::new();
            config.set(name, value);
            if let Err(error) = config.create_native_config() {
                let reason = match &error {
                    rdkafka::error::KafkaError::ClientConfig(_, reason, ..) => reason.clone(),
                    other => other.to_string(),
                };
                return Err(Error::option(
                    &format!("{PREFIX}{name}"),
                    if is_secret(name) { "…" } else { value },
                    format!("the Kafka client (librdkafka) refuses it: {reason}"),
                ));
            }
        }
        Ok(())
    }
}

fn is_secret(name: &str) -> bool {
    ["password", "secret", "key"].iter().any(|part| name.contains(part))
}

/// The name and the password of a JAAS configuration for PLAIN or SCRAM.
fn from_jaas(option: &str, jaas: &str) -> Result<[(String, String); 2]> {
    let quoted = |key: &str| {
        let rest = jaas.split_once(&format!("{key}=\"")).or_else(|| jaas.split_once(&format!("{key}='")))?.1;
        let end = rest.find(['"', '\''])?;
        Some(rest[..end].to_string())
    };
    match (quoted("username"), quoted("password")) {
        (Some(name), Some(password)) => {
            Ok([("sasl.username".into(), name), ("sasl.password".into(), password)])
        }
        _ => Err(Error::option(
            option,
            "…",
            "only PlainLoginModule and ScramLoginModule with a username and a password can be used; see \
             kafka.sasl.mechanism and the other sasl properties of librdkafka for the rest",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<ClientOptions> {
        ClientOptions::parse(&options.iter().copied().collect(), &[("group.instance.id", "it is not used")])
    }

    #[test]
    fn properties_are_passed_through_and_known_by_javas_names() {
        let client = parse(&[
            ("Kafka.Bootstrap.Servers", " a:1,b:2 "),
            ("kafka.fetch.max.wait.ms", "50"),
            ("kafka.max.poll.records", "5"),
            (
                "kafka.sasl.jaas.config",
                "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"me\" password=\"a=b\";",
            ),
            ("subscribe", "t"),
        ])
        .unwrap();
        assert_eq!(client.servers, "a:1,b:2");
        assert_eq!(client.get("fetch.wait.max.ms"), Some("50"));
        assert_eq!((client.get("sasl.username"), client.get("sasl.password")), (Some("me"), Some("a=b")));
        assert_eq!(client.config(&[("fetch.wait.max.ms", "1")], &[]).get("fetch.wait.max.ms"), Some("50"));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let servers = ("kafka.bootstrap.servers", "a:1");
        for (option, expected) in [
            (("subscribe", "t"), "needs the option 'kafka.bootstrap.servers'"),
            (("kafka.group.instance.id", "x"), "it is not used"),
            (("kafka.fetch.min.byte", "x"), "option 'kafka.fetch.min.byte' = 'x' is not valid"),
            (("kafka.fetch.min.bytes", "many"), "option 'kafka.fetch.min.bytes' = 'many' is not valid"),
            (("kafka.sasl.jaas.config", "x"), "only PlainLoginModule"),
        ] {
            let options = if option.0 == "subscribe" { vec![option] } else { vec![servers, option] };
            let error = parse(&options).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
