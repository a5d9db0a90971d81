//! Starting a query: everything that can go wrong before its first batch goes wrong here.

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::execution::session_state::SessionState;
use tracing::Instrument;
use url::Url;
use uuid::Uuid;

use super::execution::{Ended, Execution};
use super::handle::StreamingQuery;
use super::launch::{Launch, create_sources};
use super::listener::{QueryStarted, QueryTerminated};
use super::manager::CheckpointLease;
use super::progress::iso_timestamp;
use super::request::{MakeSink, QueryPlan, StartRequest};
use super::restart::Restarts;
use super::running::Running;
use super::settings::StateSettings;
use crate::checkpoint::inspect;
use crate::clock::Clock;
use crate::error::{Error, Result, StreamingQueryException};
use crate::plan::{KeptColumns, StreamingPlan, bind, check, result_keys, result_schema};
use crate::sink::OutputMode;
use crate::storage::Durability;

/// How many writes of earlier runs may get in the way of a run before it gives up. Each earlier run
/// has at most two on its way.
const MOST_OVERLAPS: usize = 100;

/// How often a batch is planned anew because its input has changed. Files that are never left alone are nothing to be
/// patient with.
const MOST_REPLANS: usize = 20;

/// The batch that was planned anew last, and how often.
#[derive(Debug, Default)]
struct Replans {
    batch: u64,
    times: usize,
}

impl Replans {
    /// How often `batch` is planned anew, with this time.
    fn count(&mut self, batch: u64) -> usize {
        self.times = if self.batch == batch { self.times + 1 } else { 1 };
        self.batch = batch;
        self.times
    }
}

/// Checks, prepares and starts a query; returns when its first batch is about to run.
pub(crate) async fn start(request: StartRequest) -> Result<StreamingQuery> {
    request.manager.check_name(request.name.as_deref())?;
    check::check(&request.plan.logical, request.output_mode)?;
    let run_id = request.ids.next_id();
    let mut place = CheckpointPlace::choose(&request, run_id)?;
    let lease = CheckpointLease::take(place.url.as_str())?;
    if let Some(policy) = request.if_running {
        place.running = Some(Running::enter(&place.url, policy).await?);
    }
    let storage = request.storages.open(&place.url, place.durability)?;
    let request = Arc::new(request);
    let mut launch = Box::pin(Launch::prepare(Arc::clone(&request), storage, run_id)).await?;
    let execution = Box::pin(launch.open()).await?;
    let shared = Arc::clone(&execution.runner.shared);
    // Only who has the name may publish under it.
    request.manager.register(&shared)?;
    if let (Some(name), Some(table)) = (&request.name, execution.runner.sink.results()) {
        publish_table(&request.plan.state, name, table)
            .inspect_err(|_| request.manager.unregister(&shared))?;
    }
    request.manager.notify_started(&QueryStarted {
        id: shared.id,
        run_id,
        name: request.name.clone(),
        timestamp: iso_timestamp(request.clock.now_ms()),
    });
    tokio::spawn(run_to_end(launch, execution, place, lease));
    Ok(StreamingQuery { shared })
}

/// What a query would do, without starting it.
pub(crate) async fn explain(
    plan: QueryPlan,
    output_mode: OutputMode,
    state: &StateSettings,
    make_sink: MakeSink,
    clock: Arc<dyn Clock>,
) -> Result<String> {
    check::check(&plan.logical, output_mode)?;
    let providers = bind::sources_of(&plan.logical);
    let sink = make_sink(result_schema(&plan.logical, &plan.state), result_keys(&plan.logical))?;
    sink.check_output_mode(output_mode)?;
    let sources = create_sources(&providers, Uuid::nil(), &plan.state, &clock)?;
    let shape = state.shape(output_mode, &plan.state);
    let kept = KeptColumns::default();
    StreamingPlan::prepare(plan.logical, &plan.state, &providers, &sources, sink, shape, &kept)
        .await?
        .explain()
        .await
}

/// What a start on the checkpoint would do, in words; `None` if there is no checkpoint to go on with.
pub(crate) async fn explain_restart(request: StartRequest) -> Result<Option<String>> {
    let Some(url) = request.checkpoint.clone() else { return Ok(None) };
    check::check(&request.plan.logical, request.output_mode)?;
    let storage = request.storages.open(&url, request.durability)?;
    let run_id = request.ids.next_id();
    let launch = Launch::prepare(Arc::new(request), Arc::clone(&storage), run_id).await?;
    let Some(differences) = launch.differences().await? else {
        return Ok(Some(format!(
            "'{url}' is no checkpoint yet: the query begins with batch 0, and makes it"
        )));
    };
    if !differences.is_empty() {
        return Ok(Some(format!("refused, because it is another query:\n  {}", differences.join("\n  "))));
    }
    let found = inspect(storage.as_ref()).await?;
    let mut text = found.as_ref().map_or_else(String::new, |found| format!("it {}", found.restart));
    if found.is_some_and(|found| !found.definition.operators.is_empty()) {
        text += "\nits state is kept: keys and aggregates are those of the checkpoint";
    }
    text += "\nfilters, projections, limits and triggers are those of the query as it is now";
    Ok(Some(text))
}

/// Makes the results of a query that keeps them in memory queryable, in place of those of an earlier
/// run.
fn publish_table(state: &SessionState, name: &str, table: Arc<dyn TableProvider>) -> Result<()> {
    let reference = TableReference::bare(name);
    let schema = state.schema_for_ref(reference)?;
    schema.deregister_table(name)?;
    schema.register_table(name.to_string(), table)?;
    Ok(())
}

/// The task of a run: the loop, then what everybody is told about its end.
async fn run_to_end(launch: Launch, execution: Execution, place: CheckpointPlace, lease: CheckpointLease) {
    let shared = Arc::clone(&execution.runner.shared);
    let manager = execution.manager.clone();
    // In a task of its own, so that a panic ends this query with an error and nothing else.
    let span = tracing::debug_span!(
        "query",
        name = shared.name.as_deref(),
        id = %shared.id,
        run = %shared.run_id
    );
    let run = tokio::spawn(run_all(launch, execution).instrument(span));
    let Run { ended, batch, advice } = match run.await {
        Ok(run) => run,
        Err(error) => {
            let panicked = Error::Invalid(format!("the query panicked, which is a bug: {error}"));
            Run { ended: Err(panicked), batch: None, advice: None }
        }
    };
    drop(place);
    let exception = ended.err().map(|cause| StreamingQueryException {
        id: shared.id,
        run_id: shared.run_id,
        name: shared.name.clone(),
        batch_id: batch,
        cause: Arc::new(cause),
        advice,
    });
    if let Some(exception) = &exception {
        tracing::error!("{exception}");
    }
    // The checkpoint is free, and the query no longer active, before anybody learns of the end.
    drop(lease);
    manager.retire(&shared, || shared.end(exception.clone()));
    manager.notify_terminated(&QueryTerminated { id: shared.id, run_id: shared.run_id, exception });
}

/// How a run ended.
struct Run {
    ended: Result<()>,
    /// The batch that it was at.
    batch: Option<u64>,
    advice: Option<String>,
}

impl Run {
    fn of(ended: Result<()>, launch: &Launch, execution: &Execution) -> Self {
        let cause = ended.as_ref().err().filter(|error| error.is_of_the_input());
        let unfinished = execution.runner.checkpoint.unfinished().zip(cause);
        let advice = unfinished.zip(launch.checkpoint()).map(|((batch, cause), checkpoint)| {
            let path = checkpoint.to_file_path().map(|path| path.display().to_string());
            let place = path.unwrap_or_else(|()| checkpoint.to_string());
            let planned = format!("Batch {batch} is planned, and every start runs it again as it was planned.");
            let let_go = format!("let it go and have it planned anew: tidemill checkpoint replan '{place}'");
            match cause {
                Error::BadRecord { .. } if execution.runner.sink.shows_only_published() => format!(
                    "{planned} Mend the record; or start the query with mode or badRecordsPath, which say what becomes of \
                     such records; or move the file away and {let_go}"
                ),
                Error::BadRecord { .. } => {
                    format!("{planned} Mend the record, or move the file away, and {let_go}")
                }
                _ => format!("{planned} If it can never be run, {let_go}"),
            }
        });
        Self { ended, batch: Some(execution.current_batch()), advice }
    }
}

/// Runs the query until it ends.
///
/// A run that this one took the checkpoint over from may have had one last write on its way, which
/// then stands where this one wants to write. That write counts, so this run takes up anew after it.
///
/// With `restartOnFailure`, one that fails takes up anew from the checkpoint, as a start would.
async fn run_all(mut launch: Launch, execution: Execution) -> Run {
    let shared = Arc::clone(&execution.runner.shared);
    let clock = Arc::clone(&execution.clock);
    let mut restarts = Restarts::new(launch.restart_policy());
    let mut batch = None;
    let (mut overlaps, mut replans) = (0, Replans::default());
    let mut opened = Ok(execution);
    loop {
        let ended = match opened {
            Ok(mut execution) => {
                let ended = match execution.run().await {
                    Ok(Ended::Done) => return Run::of(Ok(()), &launch, &execution),
                    Ok(Ended::Overlapped(error)) if overlaps < MOST_OVERLAPS => {
                        tracing::info!(%error, "takes up again from the checkpoint");
                        overlaps += 1;
                        Ok(())
                    }
                    Ok(Ended::Outdated(error))
                        if replans.count(execution.current_batch()) <= MOST_REPLANS =>
                    {
                        tracing::warn!("{error}. Nothing of the batch has been shown, so it is planned anew");
                        launch.replan().await
                    }
                    // There are ever fewer columns that the query has not.
                    Ok(Ended::NewColumns(columns)) => {
                        Box::pin(launch.widen(&columns, &execution.runner.checkpoint)).await
                    }
                    Ok(Ended::Overlapped(error) | Ended::Outdated(error)) | Err(error) => Err(error),
                };
                batch = Some(execution.current_batch());
                // Its state may be large, and is read anew: it ends here.
                ended.map_err(|error| Run::of(Err(error), &launch, &execution))
            }
            Err(error) => Err(Run { ended: Err(error), batch, advice: None }),
        };
        if let Err(mut run) = ended {
            let wait =
                run.ended.as_ref().err().and_then(|error| Some((error, restarts.after(error, batch)?)));
            let Some((error, wait)) = wait else {
                run.advice = run.advice.or(restarts.told());
                return run;
            };
            tracing::warn!("{} failed and starts again in {wait:?}: {error}", shared.label());
            shared.count_restart();
            shared.set_status(&format!("Restarting after: {error}"), false, false);
            tokio::select! {
                () = shared.finish.cancelled() => return run,
                () = clock.sleep(wait) => {}
            }
        }
        opened = Box::pin(launch.open()).await;
    }
}

/// Where a run keeps its checkpoint.
#[derive(Debug)]
struct CheckpointPlace {
    url: Url,
    durability: Durability,
    /// A directory of this run's own, removed at its end.
    temporary: Option<PathBuf>,
    /// Shows other processes that the query runs.
    running: Option<Running>,
}

impl CheckpointPlace {
    fn choose(request: &StartRequest, run_id: Uuid) -> Result<Self> {
        if let Some(url) = &request.checkpoint {
            return Ok(Self {
                url: url.clone(),
                durability: request.durability,
                temporary: None,
                running: None,
            });
        }
        let QueryPlan { logical, state } = &request.plan;
        let sink = (request.make_sink)(result_schema(logical, state), result_keys(logical))?;
        if !sink.is_ephemeral() {
            return Err(Error::Invalid(format!(
                "{} needs the option 'checkpointLocation' (in SQL: CHECKPOINT LOCATION '…'): a directory \
                 where the query remembers what it has done",
                sink.description()
            )));
        }
        let path = std::env::temp_dir().join(format!("tidemill-{run_id}"));
        let url = Url::from_directory_path(&path)
            .map_err(|()| Error::Invalid(format!("'{}' is not an absolute path", path.display())))?;
        Ok(Self { url, durability: Durability::Process, temporary: Some(path), running: None })
    }
}

impl Drop for CheckpointPlace {
    fn drop(&mut self) {
        if let Some(path) = &self.temporary
            && let Err(error) = std::fs::remove_dir_all(path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "could not remove the temporary checkpoint");
        }
    }
}
