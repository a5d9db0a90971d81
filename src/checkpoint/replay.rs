//! A checkpoint in which one batch is planned, as it was, and not done: what running it again takes.

use super::copy::copy_state;
use super::read::{self, Failure};
use super::records::{HistoryRecord, Metadata, SinkDefinition};
use super::{frame, layout, location};
use crate::error::{Error, Result};
use crate::storage::Storage;

/// Makes in `to` a checkpoint of the query of `from` that a start takes up by running `batch` again, with its
/// offsets and with the state from before it. The query writes to `sink` there. Nothing changes in `from`.
///
/// # Errors
/// [`Error::Invalid`] if the files of the batch, or of the one before it, are not there any more, or if it was let
/// go; [`Error::CheckpointDamaged`] if one is damaged.
pub(crate) async fn stage_replay(
    from: &dyn Storage,
    to: &dyn Storage,
    batch: u64,
    sink: SinkDefinition,
) -> Result<()> {
    let Some(mut metadata) = read::record::<Metadata>(from, layout::METADATA).await? else {
        return Err(Error::Invalid(format!("'{}' is not the checkpoint of a query", from.url())));
    };
    let sources = metadata.definition.sources.len();
    let gone = |batch| {
        Error::Invalid(format!(
            "the files of batch {batch} are not there: tidemill checkpoint list shows which batches can be replayed, all \
             but the oldest"
        ))
    };
    let planned = read::offsets(from, batch, sources).await?.ok_or_else(|| gone(batch))?;
    if read::commit(from, batch).await?.is_some_and(|commit| commit.let_go.is_some()) {
        return Err(Error::Invalid(format!("batch {batch} was let go: it read nothing")));
    }
    if let Some(before) = batch.checked_sub(1) {
        let read = read::batch(from, before, sources, true).await;
        let (mut plan, commit) = read.map_err(|failure| match failure {
            Failure::Missing(_) => gone(before),
            Failure::Error(error) => error,
        })?;
        // What was read before does not matter to a batch that is planned.
        plan.sources.iter_mut().for_each(|source| source.entries.clear());
        if let Some(first) = before.checked_sub(1) {
            let nothing = HistoryRecord { first_batch: 0, last_batch: first, entries: Vec::new() };
            for source in 0..sources {
                to.create(&layout::segment(source, 0, first), frame::encode(&nothing)?).await?;
            }
        }
        to.create(&layout::offsets(before), frame::encode(&plan)?).await?;
        if let Some(mut commit) = commit {
            copy_state(from, to, &commit.state).await?;
            (commit.late, commit.let_go) = (Vec::new(), None);
            to.create(&layout::commit(before), frame::encode(&commit)?).await?;
        }
    }
    to.create(&layout::offsets(batch), frame::encode(&planned)?).await?;
    metadata.definition.sink = sink;
    for source in &mut metadata.definition.sources {
        if let Some(place) = source.location.as_ref().and_then(|place| location::place_of(place, from.url()))
        {
            source.location = Some(location::location_of(&place, to.url()));
        }
    }
    to.create(layout::METADATA, frame::encode(&metadata)?).await?;
    Ok(())
}
