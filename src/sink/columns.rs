//! What several sinks ask of the columns of a result.

use datafusion::arrow::datatypes::Schema;

use crate::error::{Error, Result};

/// Fails if two columns have one name: a result may have `a.id` and `b.id`, but files, tables and JSON
/// objects have one `id`.
pub(super) fn check_names_differ(schema: &Schema, sink: &str) -> Result<()> {
    let mut names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => Err(Error::Invalid(format!(
            "{sink} cannot write two columns of the name '{}'; rename one with AS in the query",
            pair[0]
        ))),
    }
}
