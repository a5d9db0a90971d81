//! Late rows to files, instead of nowhere (`lateRowsPath`).

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use futures::StreamExt;
use uuid::Uuid;

use crate::checkpoint::records::{LateRecord, Location, SinkDefinition};
use crate::checkpoint::{place_of, same_place};
use crate::error::{Error, Result};
use crate::exec;
use crate::exec::row_buffer::stream_of;
use crate::plan::StreamingPlan;
use crate::sink::{Sink, SinkBatch};
use crate::storage::Storage;

/// Where late rows go, below which each operator has a directory, and as what.
#[derive(Debug, Clone)]
pub(crate) struct LateTarget {
    pub(crate) path: String,
    pub(crate) format: String,
}

/// Makes the sink for the late rows of one operator: of a format, at a place, for some columns.
pub(crate) type MakeLateSink = Arc<dyn Fn(&str, String, SchemaRef) -> Result<Arc<dyn Sink>> + Send + Sync>;

/// Where the late rows of each operator go: sinks that stage and publish with the batch, as the
/// query's own does.
#[derive(Debug, Default)]
pub(crate) struct LateRows {
    /// Those of this run.
    sinks: Vec<LateSink>,
    /// Those that the last committed batch had, of an earlier run with other options.
    former: Vec<LateSink>,
}

#[derive(Debug)]
struct LateSink {
    operator: usize,
    format: String,
    location: Option<Location>,
    schema: SchemaRef,
    sink: Arc<dyn Sink>,
}

impl LateSink {
    fn new(operator: usize, schema: &SchemaRef, sink: Arc<dyn Sink>, checkpoint: &dyn Storage) -> Self {
        let SinkDefinition { format, location, .. } = sink.definition(checkpoint);
        Self { operator, format, location, schema: Arc::clone(schema), sink }
    }

    /// Whether the rows that `record` speaks of were written by this sink, or one at the same place.
    fn has_written(&self, record: &LateRecord) -> bool {
        let same = match (&self.location, &record.location) {
            (Some(location), Some(recorded)) => same_place(recorded, location),
            (location, recorded) => location == recorded,
        };
        same && self.operator == record.operator && self.format == record.format
    }
}

impl LateRows {
    /// For every operator of `plan` that leaves late rows out, if they have a `target`.
    ///
    /// # Errors
    /// If there is a target and no such operator.
    pub(crate) fn of(
        plan: &StreamingPlan,
        target: Option<&LateTarget>,
        make: &MakeLateSink,
        checkpoint: &dyn Storage,
    ) -> Result<Self> {
        let Some(LateTarget { path, format }) = target else { return Ok(Self::default()) };
        let make = |(operator, schema): &(usize, SchemaRef)| {
            let path = format!("{}/operator={operator}", path.trim_end_matches('/'));
            Ok(LateSink::new(*operator, schema, make(format, path, Arc::clone(schema))?, checkpoint))
        };
        let sinks = plan.late_filters().iter().map(make).collect::<Result<Vec<_>>>()?;
        if sinks.is_empty() {
            return Err(Error::Invalid(
                "option 'lateRowsPath' is set, and this query has no late rows: it keeps no state by event time. \
                 Leave the option out, or define a watermark and group by event time"
                    .into(),
            ));
        }
        Ok(Self { sinks, former: Vec::new() })
    }

    /// Opens the places that the last committed batch had for its late rows, by its `records`, if they
    /// are not those of this run.
    pub(crate) fn open_former(
        &mut self,
        plan: &StreamingPlan,
        make: &MakeLateSink,
        records: &[LateRecord],
        checkpoint: &dyn Storage,
    ) -> Result<()> {
        for record in records {
            if self.writer_of(record).is_some() {
                continue;
            }
            let schema = plan.late_filters().iter().find(|(operator, _)| *operator == record.operator);
            let place = record.location.as_ref().and_then(|place| place_of(place, checkpoint.url()));
            let (Some((operator, schema)), Some(place)) = (schema, place) else {
                tracing::warn!(
                    operator = record.operator,
                    "late rows of the last batch may not be visible yet: start once with the option \
                     'lateRowsPath' that they were written with"
                );
                continue;
            };
            let sink = make(&record.format, place.to_string(), Arc::clone(schema))?;
            self.former.push(LateSink {
                location: record.location.clone(),
                ..LateSink::new(*operator, schema, sink, checkpoint)
            });
        }
        Ok(())
    }

    fn writer_of(&self, record: &LateRecord) -> Option<&LateSink> {
        self.sinks.iter().chain(&self.former).find(|late| late.has_written(record))
    }

    /// Whether late rows are to be kept.
    pub(crate) fn are_kept(&self) -> bool {
        !self.sinks.is_empty()
    }

    /// Stages the late rows of a batch, durably; gives what its commit record says of them.
    pub(crate) async fn write(
        &self,
        batch: SinkBatch,
        mut late: exec::report::LateRows,
    ) -> Result<Vec<LateRecord>> {
        let mut records = Vec::with_capacity(self.sinks.len());
        for LateSink { operator, format, location, schema, sink } in &self.sinks {
            let rows = late.remove(operator).unwrap_or_default();
            let mut reports = Vec::new();
            if !rows.is_empty() {
                let mut writer = sink.writer(batch, 0).await?;
                let mut rows = stream_of(&rows, Arc::clone(schema));
                while let Some(rows) = rows.next().await.transpose()? {
                    writer.write(rows).await?;
                }
                reports.push(writer.close().await?);
            }
            let sink = sink.prepare(batch, reports).await?;
            let (format, location) = (format.clone(), location.clone());
            records.push(LateRecord { operator: *operator, format, location, sink });
        }
        Ok(records)
    }

    /// Shows the late rows of a batch of this run. Idempotent.
    pub(crate) async fn publish(&self, batch_id: u64, records: &[LateRecord]) -> Result<()> {
        for (late, record) in self.sinks.iter().zip(records) {
            late.sink.publish(batch_id, &record.sink).await?;
        }
        Ok(())
    }

    /// Completes the last committed batch and removes what interrupted runs have staged, see
    /// [`Sink::recover`].
    pub(crate) async fn recover(&self, query_id: Uuid, last: Option<(u64, &[LateRecord])>) -> Result<()> {
        let Some((batch_id, records)) = last else { return Ok(()) };
        for record in records {
            if let Some(late) = self.writer_of(record) {
                late.sink.recover(query_id, Some((batch_id, &record.sink))).await?;
            }
        }
        Ok(())
    }

    /// Removes what a batch staged, as far as possible.
    pub(crate) async fn abort(&self, batch: SinkBatch) -> Result<()> {
        for late in &self.sinks {
            late.sink.abort(batch).await?;
        }
        Ok(())
    }

    /// The query has ended.
    pub(crate) async fn close(&self) -> Result<()> {
        for late in self.sinks.iter().chain(&self.former) {
            late.sink.close().await?;
        }
        Ok(())
    }
}
