//! Who does the parts of a batch that do not depend on one another.

use std::any::Any;
use std::future::Future;

use futures::future::try_join_all;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// Why a batch was not computed to its end.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// The run is being abandoned.
    Abandoned,
    Failed(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Stopped::Failed(error)
    }
}

/// Who works.
#[derive(Debug, Clone)]
pub(crate) enum Workers {
    /// The task that asks, without any other: handing work to others costs more than a small batch does.
    Oneself,
    /// A task for each part, until this is cancelled. They also keep a panic of an operator from whoever asks.
    Tasks(CancellationToken),
}

impl Workers {
    /// What all of `parts` give, in their order. However it ends, none of them is still being worked on then.
    pub(crate) async fn all<T: Send + 'static>(
        &self,
        parts: impl IntoIterator<Item = impl Future<Output = Result<T>> + Send + 'static>,
    ) -> std::result::Result<Vec<T>, Stopped> {
        let mut parts = parts.into_iter();
        match self {
            Workers::Oneself => match (parts.next(), parts.next()) {
                (None, _) => Ok(Vec::new()),
                (Some(only), None) => Ok(vec![only.await?]),
                (Some(first), Some(second)) => {
                    Ok(try_join_all([first, second].into_iter().chain(parts)).await?)
                }
            },
            Workers::Tasks(abandon) => {
                let mut tasks = JoinSet::new();
                for (index, part) in parts.enumerate() {
                    tasks.spawn(async move { (index, part.await) });
                }
                join(tasks, abandon).await
            }
        }
    }

    /// The same for work that may take long where several do it, and of which is known whether it `may_wait` for a
    /// disk.
    pub(crate) async fn all_blocking<T: Send + 'static>(
        &self,
        may_wait: bool,
        parts: impl IntoIterator<Item = impl FnOnce() -> Result<T> + Send + 'static>,
    ) -> std::result::Result<Vec<T>, Stopped> {
        match self {
            Workers::Oneself if may_wait => {
                let parts: Vec<_> = parts.into_iter().collect();
                let work = move || parts.into_iter().map(|part| part()).collect::<Result<Vec<_>>>();
                Ok(tokio::task::spawn_blocking(work).await.map_err(panicked)??)
            }
            Workers::Oneself => Ok(parts.into_iter().map(|part| part()).collect::<Result<Vec<_>>>()?),
            Workers::Tasks(abandon) => {
                let mut tasks = JoinSet::new();
                for (index, part) in parts.into_iter().enumerate() {
                    tasks.spawn_blocking(move || (index, part()));
                }
                join(tasks, abandon).await
            }
        }
    }
}

async fn join<T: 'static>(
    mut tasks: JoinSet<(usize, Result<T>)>,
    abandon: &CancellationToken,
) -> std::result::Result<Vec<T>, Stopped> {
    let mut done = Vec::with_capacity(tasks.len());
    let stopped = loop {
        let finished = tokio::select! {
            biased;
            () = abandon.cancelled() => break Stopped::Abandoned,
            finished = tasks.join_next() => finished,
        };
        match finished {
            None => {
                done.sort_by_key(|(index, _)| *index);
                return Ok(done.into_iter().map(|(_, result)| result).collect());
            }
            Some(Ok((index, Ok(result)))) => done.push((index, result)),
            Some(Ok((_, Err(error)))) => break Stopped::Failed(error),
            Some(Err(error)) => break Stopped::Failed(panicked(error)),
        }
    };
    tasks.shutdown().await;
    Err(stopped)
}

/// A panic inside an operator is a bug, but it must end the query, not the process.
pub(crate) fn panicked(error: JoinError) -> Error {
    match error.try_into_panic() {
        Ok(payload) => panicked_with(payload.as_ref()),
        Err(error) => Error::Invalid(format!("the batch was cancelled: {error}")),
    }
}

/// The same, for what a panic was caught with.
pub(crate) fn panicked_with(payload: &(dyn Any + Send)) -> Error {
    let text = (payload.downcast_ref::<&str>().copied())
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown cause");
    Error::Invalid(format!("an operator panicked, which is a bug: {text}"))
}
