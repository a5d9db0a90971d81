//! What a start is asked for.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use futures::future::BoxFuture;
use url::Url;

use super::late_rows::{LateTarget, MakeLateSink};
use super::manager::StreamingQueryManager;
use super::restart::RestartPolicy;
use super::running::IfRunning;
use super::settings::StateSettings;
use super::trigger::Trigger;
use crate::clock::Clock;
use crate::error::Result;
use crate::id::IdGenerator;
use crate::sink::{OutputMode, Sink};
use crate::storage::{Durability, StorageProvider};

/// A plan and the session it was made in.
#[derive(Debug, Clone)]
pub(crate) struct QueryPlan {
    pub(crate) logical: LogicalPlan,
    pub(crate) state: SessionState,
}

/// Makes the sink once the columns of the result are known, and which of them tell its rows apart.
pub(crate) type MakeSink = Arc<dyn Fn(SchemaRef, Vec<String>) -> Result<Arc<dyn Sink>> + Send + Sync>;

/// Tables, by the names that a query gives them.
pub(crate) type NamedTables = Vec<(TableReference, Arc<dyn TableProvider>)>;

/// Plans the text of a query anew, over other tables.
#[derive(Clone)]
pub(crate) struct Replan(pub(crate) Arc<ReplanFn>);

type ReplanFn = dyn Fn(NamedTables) -> BoxFuture<'static, Result<LogicalPlan>> + Send + Sync;

impl fmt::Debug for Replan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replan")
    }
}

/// Everything a start needs.
pub(crate) struct StartRequest {
    pub(crate) plan: QueryPlan,
    /// Makes the plan anew when a table has got more columns; `None` if it was not made of a text.
    pub(crate) replan: Option<Replan>,
    pub(crate) make_sink: MakeSink,
    /// Where late rows go, if they are to be kept.
    pub(crate) late_rows: Option<LateTarget>,
    pub(crate) make_late_sink: MakeLateSink,
    pub(crate) output_mode: OutputMode,
    /// Whether a batch of a checkpoint is shown again: even if that has committed nothing, the query has to fit it.
    pub(crate) is_replay: bool,
    pub(crate) trigger: Trigger,
    pub(crate) name: Option<String>,
    /// Where the checkpoint is; `None` only for sinks that do not outlive the process.
    pub(crate) checkpoint: Option<Url>,
    pub(crate) durability: Durability,
    /// What to do while another process runs the query; `None` is not to look.
    pub(crate) if_running: Option<IfRunning>,
    /// Whether it starts again by itself when it fails.
    pub(crate) restart: Option<RestartPolicy>,
    pub(crate) min_batches_to_retain: u64,
    pub(crate) state: StateSettings,
    pub(crate) manager: StreamingQueryManager,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdGenerator>,
    pub(crate) storages: Arc<dyn StorageProvider>,
}
