//! Which storage a URL means.

use std::sync::Arc;

use datafusion::execution::runtime_env::RuntimeEnv;
use object_store::ObjectStore;
use url::Url;

use super::{Durability, LocalStorage, ObjectStorage, Storage, StorageProvider};
use crate::error::{Error, Result};

/// The local disk for `file:` URLs, and for all others the object stores that are registered with
/// DataFusion's [`RuntimeEnv`].
///
/// Local files do not go through `object_store`, which never calls fsync.
#[derive(Debug)]
pub struct DefaultStorageProvider {
    runtime: Arc<RuntimeEnv>,
}

impl DefaultStorageProvider {
    /// A provider over the object stores of `runtime`.
    pub fn new(runtime: Arc<RuntimeEnv>) -> Self {
        Self { runtime }
    }
}

impl StorageProvider for DefaultStorageProvider {
    fn open(&self, url: &Url, durability: Durability) -> Result<Arc<dyn Storage>> {
        if url.scheme() == "file" {
            return Ok(Arc::new(LocalStorage::new(url, durability)?));
        }
        let store = object_store_of(&self.runtime, url)?;
        Ok(Arc::new(ObjectStorage::new(store, url)?))
    }
}

/// The object store that holds `url`.
pub(crate) fn object_store_of(runtime: &RuntimeEnv, url: &Url) -> Result<Arc<dyn ObjectStore>> {
    runtime.object_store_registry.get_store(url).map_err(|error| match Error::from(error) {
        error @ Error::Invalid(_) => error,
        _ => {
            let store = &url[..url::Position::BeforePath];
            Error::Invalid(format!(
                "no object store is registered for '{store}', where '{url}' is; a program registers stores with \
                 SessionContext::register_object_store"
            ))
        }
    })
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[test]
    fn schemes_choose_the_storage() -> Result<()> {
        let runtime = Arc::new(RuntimeEnv::default());
        let provider = DefaultStorageProvider::new(Arc::clone(&runtime));
        let bucket = |text| Url::parse(text).map_err(|error| Error::Invalid(error.to_string()));
        let local = provider.open(&bucket("file:///tmp/checkpoint")?, Durability::Disk)?;
        assert!(format!("{local:?}").starts_with("LocalStorage"));
        assert_eq!(local.url().as_str(), "file:///tmp/checkpoint/");

        let url = bucket("s3://lake/checkpoints/etl")?;
        let refused = provider.open(&url, Durability::Disk).map(drop).map_err(|error| error.to_string());
        assert_eq!(
            refused,
            Err("no object store is registered for 's3://lake', where 's3://lake/checkpoints/etl' is; a program \
                 registers stores with SessionContext::register_object_store"
                .to_string())
        );
        runtime.register_object_store(&bucket("s3://lake")?, Arc::new(InMemory::new()));
        assert_eq!(provider.open(&url, Durability::Disk)?.url().as_str(), "s3://lake/checkpoints/etl/");
        Ok(())
    }
}
