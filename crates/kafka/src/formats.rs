//! What the options of a source or a sink say of the formats of keys and values.

use tidemill::{Error, Options, Result};

use super::registry::Registry;

/// The format whose schemas may be registered.
pub(super) const AVRO: &str = "avro";

/// See the module.
pub(super) struct Formats {
    pub(super) key: Option<String>,
    pub(super) value: Option<String>,
    pub(super) key_fields: Vec<String>,
    /// What is left for the formats.
    rest: Options,
}

impl Formats {
    /// `known` are the options that are not those of a format; one that ends in a dot is a prefix.
    pub(super) fn parse(options: &Options, known: &[&str]) -> Result<Self> {
        let format = |name: &str| options.get(name).map(|format| format.trim().to_ascii_lowercase());
        let (key, value) = (format("key.format"), format("value.format"));
        let key_fields: Vec<String> = options
            .get("key.fields")
            .map(|fields| fields.split(',').map(|field| field.trim().to_string()).collect())
            .unwrap_or_default();
        if let (None, [field, ..]) = (&key, key_fields.as_slice()) {
            return Err(Error::option(
                "key.fields",
                field,
                "say what the key is: key.format = json, csv, text or avro",
            ));
        }
        let is_known = |name: &str| {
            let name = name.to_ascii_lowercase();
            known.iter().any(|known| {
                let known = known.to_ascii_lowercase();
                name == known || (known.ends_with('.') && name.starts_with(&known))
            })
        };
        let rest = options.iter().filter(|(name, _)| !is_known(name)).collect();
        Ok(Self { key, value, key_fields, rest })
    }

    /// Fails if it is not said which columns the key has.
    pub(super) fn check_key(&self) -> Result<()> {
        match &self.key {
            Some(format) if self.key_fields.is_empty() => {
                Err(Error::option("key.format", format, "say which columns the key has: key.fields = a, b"))
            }
            _ => Ok(()),
        }
    }

    /// Where the schemas of Avro messages are registered, if `options`, which are all, say so.
    pub(super) fn registry(&self, options: &Options) -> Result<Option<Registry>> {
        let registry = Registry::parse(options)?;
        let is_avro = |format: &Option<String>| format.as_deref() == Some(AVRO);
        if registry.is_some() && !is_avro(&self.key) && !is_avro(&self.value) {
            return Err(Error::Invalid(
                "a schema registry is for messages of Avro's. Set value.format or key.format to avro, or leave the \
                 options schema.registry.… out"
                    .into(),
            ));
        }
        Ok(registry)
    }

    /// The options of the key's or the value's format (`part` is `key.` or `value.`); those without either prefix
    /// are the value's.
    pub(super) fn options_of(&self, part: &str) -> Options {
        let of_part = |(name, value): (&str, &str)| {
            let lower = name.to_ascii_lowercase();
            let bare = match lower.strip_prefix(part) {
                Some(_) => &name[part.len()..],
                None if part == "value." && !lower.starts_with("key.") => name,
                None => return None,
            };
            Some((bare.to_string(), value.to_string()))
        };
        self.rest.iter().filter_map(of_part).collect()
    }
}
