//! The places where a query reads, writes and remembers: none may be in another's way.

use std::sync::Arc;

use url::Url;

use super::late_rows::LateTarget;
use crate::error::{Error, Result};
use crate::sink::Sink;
use crate::source::SourceProvider;
use crate::storage::{path_below, resolve_location};

/// Fails if the query would read what it writes, or what it remembers would be among its files.
pub(super) fn check(
    providers: &[Arc<dyn SourceProvider>],
    sink: &dyn Sink,
    late: Option<&LateTarget>,
    checkpoint: &Url,
) -> Result<()> {
    let mut written = Vec::new();
    if let Some(location) = sink.location() {
        written.push(("the query writes", location.clone()));
    }
    if let Some(late) = late {
        written.push(("late rows go", resolve_location(&late.path)?));
    }
    for provider in providers {
        for (what, place) in &written {
            if provider.reads_at(place) {
                return Err(refused(format!(
                    "{what} to '{place}', and {} reads there: every batch would be the input of the next",
                    provider.description()
                )));
            }
        }
        if provider.reads_at(checkpoint) {
            return Err(refused(format!(
                "its checkpoint is at '{checkpoint}', and {} reads there",
                provider.description()
            )));
        }
    }
    if let [(_, results), (_, late)] = written.as_slice()
        && !(is_apart(results, late) && is_apart(late, results))
    {
        return Err(refused(format!(
            "late rows go to '{late}', and the query writes to '{results}': readers of one would take the other's \
             rows for its own"
        )));
    }
    for (what, place) in &written {
        let apart = is_apart(place, checkpoint) && path_below(checkpoint, place).is_none();
        if !apart {
            return Err(refused(format!(
                "its checkpoint is at '{checkpoint}', and {what} to '{place}': readers of the output would take \
                 one for the other"
            )));
        }
    }
    Ok(())
}

fn refused(why: String) -> Error {
    Error::Invalid(format!(
        "{why}. Give each a directory of its own, or one that readers pass over, whose name begins with '_' or '.'"
    ))
}

/// Whether readers of `directory` do not come to `place`.
fn is_apart(directory: &Url, place: &Url) -> bool {
    path_below(directory, place)
        .is_none_or(|path| path.split('/').any(|name| name.starts_with(['_', '.']) && !name.contains('=')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_directories_are_apart() {
        let url = |text: &str| Url::parse(text).unwrap();
        for (place, apart) in [
            ("s3://b/out/", false),
            ("s3://b/out/x/", false),
            ("s3://b/out/_checkpoint/", true),
            ("s3://b/out/.x/y/", true),
            ("s3://b/out/_k=1/", false),
            ("s3://b/output/", true),
            ("s3://b/", true),
            ("s3://c/out/", true),
        ] {
            assert_eq!(is_apart(&url("s3://b/out/"), &url(place)), apart, "{place}");
        }
    }
}
