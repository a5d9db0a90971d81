//! Object stores that are found by their URLs: `s3://`, `gs://`, `az://`, `https://`.

use std::sync::Arc;

use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::object_store::{DefaultObjectStoreRegistry, ObjectStoreRegistry};
use object_store::{ObjectStore, ObjectStoreScheme, parse_url_opts};
use url::Url;

use crate::error::{Error, Result};

/// What this build reaches, for who has named something else.
fn reached() -> String {
    let known =
        [("s3://", "s3"), ("gs://", "gs"), ("az:// and abfss://", "az"), ("http:// and https://", "http")];
    let known = known.into_iter().filter_map(|(schemes, one)| {
        let (feature, is_there) = feature(one)?;
        Some(if is_there {
            schemes.to_string()
        } else {
            format!("{schemes} (once built with --features {feature})")
        })
    });
    let known: Vec<String> = ["file://".to_string()].into_iter().chain(known).collect();
    format!(
        "there are {}, and what a program in Rust adds with SessionContext::register_object_store",
        known.join(", ")
    )
}

/// The environment says with variables of these names how to log in and where.
const VARIABLES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// The stores that are registered, and those that can be opened when a URL is met whose store is not.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    registered: DefaultObjectStoreRegistry,
}

impl ObjectStoreRegistry for Stores {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        self.registered.register_store(url, store)
    }

    fn deregister_store(&self, url: &Url) -> DataFusionResult<Arc<dyn ObjectStore>> {
        self.registered.deregister_store(url)
    }

    fn get_store(&self, url: &Url) -> DataFusionResult<Arc<dyn ObjectStore>> {
        if let Ok(store) = self.registered.get_store(url) {
            return Ok(store);
        }
        let store = open(url, std::env::vars_os()).map_err(DataFusionError::from)?;
        self.registered.register_store(url, Arc::clone(&store));
        Ok(store)
    }
}

/// The feature that a scheme needs, and whether this build has it.
fn feature(scheme: &str) -> Option<(&'static str, bool)> {
    match scheme {
        "s3" | "s3a" => Some(("aws", cfg!(feature = "aws"))),
        "gs" => Some(("gcp", cfg!(feature = "gcp"))),
        "az" | "adl" | "azure" | "abfs" | "abfss" => Some(("azure", cfg!(feature = "azure"))),
        "http" | "https" => Some(("http", cfg!(feature = "http"))),
        _ => None,
    }
}

/// The store that holds `url`, with what `environment` says of it.
fn open(
    url: &Url,
    environment: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
) -> Result<Arc<dyn ObjectStore>> {
    let place = &url[..url::Position::BeforePath];
    let refuse = |reason: String| Error::Invalid(format!("'{place}' cannot be reached: {reason}"));
    let Some((name, is_there)) = feature(url.scheme()) else {
        return Err(Error::Invalid(format!(
            "there is no object store for '{place}', where '{url}' is: {}",
            reached()
        )));
    };
    if !is_there {
        return Err(refuse(format!(
            "this build of tidemill is without the feature '{name}'. Build it with --features {name}"
        )));
    }
    let is_plain = matches!(ObjectStoreScheme::parse(url), Ok((ObjectStoreScheme::Http, _)));
    if name == "http" && !is_plain {
        return Err(refuse(
            "name the bucket or container, as in s3://bucket/path and az://container/path".into(),
        ));
    }
    let options = environment.into_iter().filter_map(|(name, value)| {
        let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
        VARIABLES.iter().any(|prefix| name.starts_with(prefix)).then(|| (name.to_ascii_lowercase(), value))
    });
    let root = Url::parse(place).map_err(|error| refuse(error.to_string()))?;
    let (store, _) = parse_url_opts(&root, options).map_err(|error| refuse(error.to_string()))?;
    Ok(store.into())
}

#[cfg(test)]
mod tests {
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;

    use super::*;
    use crate::storage::object_store_of;

    fn refusal(url: &str) -> String {
        let runtime = RuntimeEnvBuilder::new().with_object_store_registry(Arc::new(Stores::default()));
        let url = Url::parse(url).unwrap();
        object_store_of(&runtime.build().unwrap(), &url).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn a_feature_that_is_missing_is_named() {
        for (url, feature, is_there) in [
            ("s3://lake/in/", "aws", cfg!(feature = "aws")),
            ("gs://lake/in/", "gcp", cfg!(feature = "gcp")),
            ("az://lake/in/", "azure", cfg!(feature = "azure")),
            ("https://example.org/in/", "http", cfg!(feature = "http")),
        ] {
            if !is_there {
                let error = refusal(url);
                let expected = format!(
                    "'{}' cannot be reached: this build of tidemill is without the feature '{feature}'. Build it with \
                     --features {feature}",
                    url.strip_suffix("/in/").unwrap()
                );
                assert_eq!(error, expected);
            }
        }
        let error = refusal("hdfs://lake/in/");
        let expected = "there is no object store for 'hdfs://lake', where 'hdfs://lake/in/' is: there are file://, s3://";
        assert!(error.starts_with(expected), "{error}");
    }

    #[cfg(feature = "aws")]
    #[test]
    fn the_environment_says_how_to_log_in() {
        let environment = [("AWS_REGION", "eu-central-1"), ("AWS_ACCESS_KEY_ID", "id"), ("HOME", "/")];
        let environment = environment.map(|(name, value)| (name.into(), value.into()));
        let store = open(&Url::parse("s3://lake/in/").unwrap(), environment).unwrap();
        assert_eq!(store.to_string(), "AmazonS3(lake)");
    }
}
