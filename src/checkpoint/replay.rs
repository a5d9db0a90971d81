//! A checkpoint in which one batch is planned, as it was, and not done: what running it again takes. And one that
//! ends before the batch, for a test that gives its rows otherwise.

use std::mem::take;

use serde_json::Value;
use uuid::Uuid;

use super::copy::copy_state;
use super::read::{self, Failure};
use super::records::{
    CommitRecord, CopyOf, HistoryRecord, Metadata, OffsetsRecord, PARTITIONS, QueryDefinition,
    SinkDefinition, SourceDefinition,
};
use super::{frame, layout, location};
use crate::error::{Error, Result};
use crate::storage::Storage;

/// What there is of a batch.
struct Stored {
    metadata: Metadata,
    planned: OffsetsRecord,
    /// The batch before, if it is not the first.
    before: Option<(OffsetsRecord, Option<CommitRecord>)>,
}

impl Stored {
    async fn read(from: &dyn Storage, batch: u64) -> Result<Self> {
        let Some(metadata) = read::metadata(from).await? else {
            return Err(Error::Invalid(format!("'{}' is not the checkpoint of a query", from.url())));
        };
        let sources = metadata.definition.sources.len();
        let gone = |batch| {
            Error::Invalid(format!(
                "the files of batch {batch} are not there: tidemill checkpoint list shows which batches can be replayed, \
                 all but the oldest"
            ))
        };
        let planned = read::offsets(from, batch, sources).await?.ok_or_else(|| gone(batch))?;
        if read::commit(from, batch).await?.is_some_and(|commit| commit.let_go.is_some()) {
            return Err(Error::Invalid(format!("batch {batch} was let go: it read nothing")));
        }
        let mut before = None;
        if let Some(number) = batch.checked_sub(1) {
            let read = read::batch(from, number, sources, true).await;
            let (mut plan, mut commit) = read.map_err(|failure| match failure {
                Failure::Missing(_) => gone(number),
                Failure::Error(error) => error,
            })?;
            // What was read before does not matter to a batch that is planned.
            plan.sources.iter_mut().for_each(|source| source.entries.clear());
            if let Some(commit) = &mut commit {
                (commit.late, commit.let_go) = (Vec::new(), None);
            }
            before = Some((plan, commit));
        }
        Ok(Self { metadata, planned, before })
    }

    /// Writes it to `to`, with the batch as it was planned if it is to be run again.
    async fn write(self, from: &dyn Storage, to: &dyn Storage, again: bool) -> Result<()> {
        let Self { metadata, planned, before } = self;
        let batch = planned.batch_id;
        if let Some((plan, commit)) = before {
            let before = plan.batch_id;
            if let Some(first) = before.checked_sub(1) {
                let nothing = HistoryRecord { first_batch: 0, last_batch: first, entries: Vec::new() };
                for source in 0..metadata.definition.sources.len() {
                    to.create(&layout::segment(source, 0, first), frame::encode(&nothing)?).await?;
                }
            }
            to.create(&layout::offsets(before), frame::encode(&plan)?).await?;
            if let Some(commit) = commit {
                copy_state(from, to, &commit.state).await?;
                to.create(&layout::commit(before), frame::encode(&commit)?).await?;
            }
        }
        if again {
            to.create(&layout::offsets(batch), frame::encode(&planned)?).await?;
        }
        to.create(layout::METADATA, frame::encode(&metadata)?).await?;
        Ok(())
    }
}

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
    let mut stored = Stored::read(from, batch).await?;
    stored.metadata.definition.sink = sink;
    relocate(&mut stored.metadata.definition.sources, from, to);
    stored.write(from, to, true).await
}

/// The same of a query that gives what the source of this number gave for the batch, and remembers nothing.
///
/// # Errors
/// As [`stage_replay`], and [`Error::Invalid`] if there is no such source.
pub(crate) async fn stage_source(
    from: &dyn Storage,
    to: &dyn Storage,
    (batch, source): (u64, usize),
    sink: SinkDefinition,
) -> Result<()> {
    let Stored { mut metadata, mut planned, mut before } = Stored::read(from, batch).await?;
    let mut sources = metadata.definition.sources;
    if source >= sources.len() {
        return Err(Error::Invalid(format!(
            "the query has {} sources, and none of number {source}",
            sources.len()
        )));
    }
    sources = vec![sources.swap_remove(source)];
    relocate(&mut sources, from, to);
    metadata.definition =
        QueryDefinition { sources, sink, output_mode: "append".into(), operators: Vec::new() };
    planned.sources = vec![planned.sources.swap_remove(source)];
    if let Some((plan, commit)) = &mut before {
        plan.sources = vec![plan.sources.swap_remove(source)];
        if let Some(commit) = commit {
            (commit.state, commit.streams) = (Value::Null, Vec::new());
        }
    }
    Stored { metadata, planned, before }.write(from, to, true).await
}

/// Makes in `to` a checkpoint that ends before `batch` of `from`, of a query of its own: it remembers what the query
/// of `from` did then, and reads from the beginning of whatever sources its first start gives it, which need to have
/// nothing but the columns in common with those of `from`. Gives when the batch was planned, in milliseconds since
/// the epoch, and whether there is a checkpoint: there is none before the first batch.
///
/// # Errors
/// [`Error::Invalid`] if the files of the batch, or of the one before it, are not there any more, or if it was let
/// go; [`Error::CheckpointDamaged`] if one is damaged.
pub async fn stage_test(from: &dyn Storage, to: &dyn Storage, batch: u64, id: Uuid) -> Result<(i64, bool)> {
    let mut stored = Stored::read(from, batch).await?;
    let time_ms = stored.planned.batch_timestamp_ms;
    let Some((plan, commit)) = &mut stored.before else { return Ok((time_ms, false)) };
    plan.sources.iter_mut().for_each(|source| (source.start, source.end) = (Value::Null, Value::Null));
    if let Some(commit) = commit {
        (commit.query_id, commit.copied, commit.sink) = (None, true, Value::Null);
    }
    let copied = stored.metadata.id;
    stored.metadata.id = id;
    stored.metadata.copy_of = Some(CopyOf { id: copied, is_new: true });
    for source in &mut stored.metadata.definition.sources {
        let columns = take(&mut source.columns);
        let mut options = take(&mut source.options);
        options.retain(|name, _| name == PARTITIONS);
        let inferred = source.inferred;
        *source = SourceDefinition { columns, options, inferred, ..SourceDefinition::to_be_chosen() };
    }
    stored.write(from, to, false).await?;
    Ok((time_ms, true))
}

/// Lets `sources`, of `from`, be found from `to`.
fn relocate(sources: &mut [SourceDefinition], from: &dyn Storage, to: &dyn Storage) {
    for source in sources {
        if let Some(place) = source.location.as_ref().and_then(|place| location::place_of(place, from.url()))
        {
            source.location = Some(location::location_of(&place, to.url()));
        }
    }
}
