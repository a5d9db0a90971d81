//! The moment at which a batch reads its bounded tables.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::execution::TaskContext;

/// What the bounded tables of a batch share, so that all of them are read as they were at one moment. It is in the
/// configuration of the batch's task contexts, and goes with the batch.
#[derive(Default)]
pub(crate) struct Moment {
    shared: Mutex<Vec<Arc<dyn Any + Send + Sync>>>,
}

impl Moment {
    /// The context of something that reads tables as they are at this moment.
    pub(crate) fn context(self: &Arc<Self>, session: &TaskContext) -> Arc<TaskContext> {
        let config = session.session_config().clone().with_extension(Arc::clone(self));
        // Functions are already resolved in plans.
        Arc::new(TaskContext::new(
            None,
            session.session_id(),
            config,
            Default::default(),
            Default::default(),
            Default::default(),
            Default::default(),
            session.runtime_env(),
        ))
    }

    /// The moment of the batch that `context` is of, if it is of one.
    pub(crate) fn of(context: &TaskContext) -> Option<Arc<Self>> {
        context.session_config().get_extension::<Self>()
    }

    /// What was `made` first of those that are `wanted`.
    pub(crate) fn share<T: Any + Send + Sync>(
        &self,
        wanted: impl Fn(&T) -> bool,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let known = shared.iter().filter_map(|it| Arc::clone(it).downcast::<T>().ok());
        if let Some(known) = known.into_iter().find(|it| wanted(it)) {
            return known;
        }
        let made = Arc::new(make());
        shared.push(Arc::clone(&made) as _);
        made
    }
}
