//! Late rows to files, instead of nowhere (`lateRowsPath`).

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use serde_json::Value;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::exec::epoch::Epoch;
use crate::plan::StreamingPlan;
use crate::sink::{Sink, SinkBatch};

/// Makes the sink for the late rows of one operator, once their columns are known.
pub(crate) type MakeLateSink = Arc<dyn Fn(usize, SchemaRef) -> Result<Arc<dyn Sink>> + Send + Sync>;

/// Where the late rows of each operator go: sinks that stage and publish with the batch, as the
/// query's own does.
#[derive(Debug, Default)]
pub(crate) struct LateRows {
    /// With the number of the operator.
    sinks: Vec<(usize, Arc<dyn Sink>)>,
}

impl LateRows {
    /// For every operator of `plan` that leaves late rows out.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn of(plan: &StreamingPlan, make: Option<&MakeLateSink>) -> Result<Self> {
        let Some(make) = make else { return Ok(Self::default()) };
        let sinks = plan
            .late_filters()
            .iter()
            .map(|(operator, schema)| Ok((*operator, make(*operator, Arc::clone(schema))?)))
            .collect::<Result<Vec<_>>>()?;
        if sinks.is_empty() {
            return Err(Error::Invalid(
                "option 'lateRowsPath' is set, and this query has no late rows: it keeps no state by event time. \
                 Leave the option out, or define a watermark and group by event time"
                    .into(),
            ));
        }
        Ok(Self { sinks })
    }

    /// Whether late rows are to be kept.
    pub(crate) fn are_kept(&self) -> bool {
        !self.sinks.is_empty()
    }

    /// Stages the late rows of a batch, durably; gives what its commit record says of them.
    pub(crate) async fn write(&self, epoch: &Epoch) -> Result<Value> {
        let mut prepared = Vec::with_capacity(self.sinks.len());
        for (operator, sink) in &self.sinks {
            let rows = epoch.take_late_rows(*operator);
            let mut reports = Vec::new();
            if !rows.is_empty() {
                let mut writer = sink.writer(epoch.batch, 0).await?;
                for batch in rows {
                    writer.write(batch).await?;
                }
                reports.push(writer.close().await?);
            }
            prepared.push(sink.prepare(epoch.batch, reports).await?);
        }
        Ok(if prepared.is_empty() { Value::Null } else { Value::Array(prepared) })
    }

    /// Shows the late rows of a batch. Idempotent.
    pub(crate) async fn publish(&self, batch_id: u64, prepared: &Value) -> Result<()> {
        for ((_, sink), prepared) in self.sinks.iter().zip(entries(prepared)) {
            sink.publish(batch_id, prepared).await?;
        }
        Ok(())
    }

    /// Completes the last committed batch and removes what interrupted runs have staged, see
    /// [`Sink::recover`].
    pub(crate) async fn recover(&self, query_id: Uuid, last: Option<(u64, &Value)>) -> Result<()> {
        let Some((batch_id, prepared)) = last else { return Ok(()) };
        for ((_, sink), prepared) in self.sinks.iter().zip(entries(prepared)) {
            sink.recover(query_id, Some((batch_id, prepared))).await?;
        }
        Ok(())
    }

    /// Removes what a batch staged, as far as possible.
    pub(crate) async fn abort(&self, batch: SinkBatch) -> Result<()> {
        for (_, sink) in &self.sinks {
            sink.abort(batch).await?;
        }
        Ok(())
    }

    /// The query has ended.
    pub(crate) async fn close(&self) -> Result<()> {
        for (_, sink) in &self.sinks {
            sink.close().await?;
        }
        Ok(())
    }
}

/// What a commit record says, by sink; nothing if late rows were not kept then.
fn entries(prepared: &Value) -> impl Iterator<Item = &Value> {
    prepared.as_array().into_iter().flatten()
}
