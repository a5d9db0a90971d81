//! A message type, as options describe it.

use std::sync::Arc;

use super::descriptor::Types;
use crate::error::{Error, Result};
use crate::options::Options;

/// The option with the file of descriptions.
const FILE: &str = "descFilePath";

/// The option with the name of the message.
pub(crate) const MESSAGE: &str = "messageName";

/// A message type, and all that it may consist of.
#[derive(Debug, Clone)]
pub(crate) struct Description {
    pub(crate) types: Arc<Types>,
    /// In full.
    pub(crate) name: String,
}

impl Description {
    /// Takes its options out of `options`.
    pub(crate) fn parse(options: &mut Options) -> Result<Self> {
        let (Some(path), Some(name)) = (options.take(FILE), options.take(MESSAGE)) else {
            return Err(Error::Invalid(format!(
                "protobuf messages do not say what they consist of: {FILE} is the file that protoc \
                 --include_imports --descriptor_set_out=FILE writes, and {MESSAGE} the name of the message in it"
            )));
        };
        let set = std::fs::read(&path)
            .map_err(|error| Error::option(FILE, &path, format!("it cannot be read: {error}")))?;
        let types = Types::parse(&set).map_err(|reason| {
            let expected = "expected what protoc --include_imports --descriptor_set_out writes";
            Error::option(FILE, &path, format!("{expected}: {reason}"))
        })?;
        let (full, _) = types.find(&name).map_err(|reason| Error::option(MESSAGE, &name, reason))?;
        let name = full.to_string();
        Ok(Self { types: Arc::new(types), name })
    }
}
