//! The table function `state('checkpoint' [, operator [, batch]])`: what a query remembers.

use std::sync::{Arc, LazyLock, Weak};

use datafusion::catalog::TableProvider;
use datafusion::common::{DFSchema, Diagnostic, ScalarValue, Span, plan_datafusion_err, plan_err};
use datafusion::datasource::provider_as_source;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::logical_expr::planner::{
    PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning,
};
use datafusion::sql::sqlparser::ast::{Expr as SqlExpr, FunctionArg, Spanned, TableFactor};
use tokio::runtime::{Builder, Runtime};

use super::SessionInner;
use super::table_functions::{by_position, call};
use super::writer::storages;
use crate::error::{Error, Result};
use crate::functions::literal;
use crate::query::StoredState;
use crate::storage::{Durability, StorageProvider, resolve_location};

const NAME: &str = "state";
const USAGE: &str =
    "state('checkpoint'), state('checkpoint', operator) or state('checkpoint', operator, batch)";

/// Opens the state in the checkpoint that `checkpoint` names.
pub(super) async fn open(
    storages: &dyn StorageProvider,
    checkpoint: &str,
    batch: Option<u64>,
) -> Result<StoredState> {
    let storage = storages.open(&resolve_location(checkpoint)?, Durability::Process)?;
    StoredState::open(storage, checkpoint, batch).await
}

/// Plans the function.
pub(super) struct StateTableFunction {
    /// Weak, for the session's context has this planner.
    session: Weak<SessionInner>,
    runtime: Arc<RuntimeEnv>,
}

impl std::fmt::Debug for StateTableFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateTableFunction").finish_non_exhaustive()
    }
}

/// What a call asks for.
#[derive(Debug)]
struct Arguments {
    checkpoint: String,
    operator: Option<usize>,
    batch: Option<u64>,
}

impl StateTableFunction {
    pub(super) fn new(session: Weak<SessionInner>, runtime: Arc<RuntimeEnv>) -> Self {
        Self { session, runtime }
    }

    fn open(&self, wanted: &Arguments) -> Result<StoredState> {
        let Some(session) = self.session.upgrade() else {
            return Err(Error::Invalid("the tidemill Session of this context is gone".into()));
        };
        let storages = storages(&session, &self.runtime);
        wait_for(open(storages.as_ref(), &wanted.checkpoint, wanted.batch))?
    }

    fn table(&self, wanted: &Arguments) -> DataFusionResult<Arc<dyn TableProvider>> {
        let table = self.open(wanted).and_then(|state| state.as_table(wanted.operator, wanted.batch));
        table.map_err(|error| match error {
            // What was asked for and is not there is an error of the statement.
            Error::Invalid(message) => plan_datafusion_err!("{message}"),
            error => error.into(),
        })
    }
}

impl RelationPlanner for StateTableFunction {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> DataFusionResult<RelationPlanning> {
        let called = call(&relation).filter(|(name, ..)| name.eq_ignore_ascii_case(NAME));
        let Some((_, arguments, alias)) = called else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let span = Span::try_from_sqlparser_span(relation.span());
        let table = Arguments::of(arguments, context).and_then(|wanted| self.table(&wanted));
        let table = table.map_err(|error| with_place(error, span))?;
        let plan = LogicalPlanBuilder::scan(NAME, provider_as_source(table), None)?.build()?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.clone()))))
    }
}

/// An error of the statement, with the place of the call.
fn with_place(error: DataFusionError, span: Option<Span>) -> DataFusionError {
    match &error {
        DataFusionError::Plan(message) => {
            let diagnostic = Diagnostic::new_error(message, span);
            error.with_diagnostic(diagnostic)
        }
        _ => error,
    }
}

impl Arguments {
    fn of(arguments: &[FunctionArg], context: &mut dyn RelationPlannerContext) -> DataFusionResult<Self> {
        let given = by_position(arguments, &["checkpoint", "operator", "batch"], USAGE)?;
        let mut value = |at: usize| match given[at] {
            Some(value) => constant(value, context).map(Some),
            None => Ok(None),
        };
        let checkpoint = match value(0)?.as_ref().and_then(ScalarValue::try_as_str) {
            Some(Some(checkpoint)) => checkpoint.to_string(),
            _ => return plan_err!("the place of a checkpoint is expected; write {USAGE}"),
        };
        let operator = number("operator", value(1)?)?;
        let batch = number("batch", value(2)?)?;
        Ok(Self { checkpoint, operator, batch })
    }
}

fn constant(value: &SqlExpr, context: &mut dyn RelationPlannerContext) -> DataFusionResult<ScalarValue> {
    let planned = context.sql_to_expr(value.clone(), &DFSchema::empty());
    match planned.ok().as_ref().and_then(literal) {
        Some(constant) => Ok(constant),
        None => plan_err!("'{value}' is not a constant; write {USAGE}"),
    }
}

/// A number that was given; null is as good as nothing.
fn number<T: TryFrom<u64>>(what: &str, value: Option<ScalarValue>) -> DataFusionResult<Option<T>> {
    let number = match &value {
        None => return Ok(None),
        Some(value) if value.is_null() => return Ok(None),
        Some(ScalarValue::Int64(Some(number))) => u64::try_from(*number).ok(),
        Some(ScalarValue::UInt64(Some(number))) => Some(*number),
        Some(_) => None,
    };
    match (number.and_then(|number| T::try_from(number).ok()), value) {
        (Some(number), _) => Ok(Some(number)),
        (None, Some(value)) => plan_err!("the {what} {value} is not a number from 0; write {USAGE}"),
        (None, None) => Ok(None),
    }
}

/// Waits for the few small reads that tell the columns: plans are made without `await`. On a thread of
/// its own, for the caller's runtime may have only this one.
fn wait_for<T: Send>(work: impl Future<Output = T> + Send) -> Result<T> {
    /// Lives as long as the process: an object store keeps connections, which the runtime drives that
    /// they were made in.
    static READERS: LazyLock<std::io::Result<Runtime>> = LazyLock::new(|| {
        Builder::new_multi_thread().worker_threads(1).thread_name("tidemill-plan").enable_all().build()
    });
    let cannot = |reason: String| Error::Invalid(format!("the state cannot be read: {reason}"));
    let runtime = READERS.as_ref().map_err(|error| cannot(error.to_string()))?;
    std::thread::scope(|scope| scope.spawn(|| runtime.block_on(work)).join())
        .map_err(|_| cannot("the thread that read it has panicked".into()))
}
