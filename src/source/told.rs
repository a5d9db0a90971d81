//! What is said once.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use uuid::Uuid;

/// What a start of a query has been told of, so that it is said once however often the run takes up anew.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<HashSet<u64>>);

/// Those of the queries that run.
static OF_QUERIES: Mutex<Option<HashMap<Uuid, Weak<Told>>>> = Mutex::new(None);

impl Told {
    /// A start of a query begins, and has been told of nothing. It lasts as long as this is kept.
    pub(crate) fn begin(query_id: Uuid) -> Arc<Self> {
        let told = Arc::default();
        let mut queries = OF_QUERIES.lock().unwrap_or_else(PoisonError::into_inner);
        let queries = queries.get_or_insert_default();
        queries.retain(|_, told| told.strong_count() > 0);
        queries.insert(query_id, Arc::downgrade(&told));
        told
    }

    /// What the start of this query has been told of; nothing if there is none, as where a source is read by itself.
    pub(crate) fn of(query_id: Uuid) -> Arc<Self> {
        let queries = OF_QUERIES.lock().unwrap_or_else(PoisonError::into_inner);
        queries.as_ref().and_then(|queries| queries.get(&query_id)?.upgrade()).unwrap_or_default()
    }

    /// Whether this is the first time that `what` is told.
    pub(crate) fn is_first(&self, what: &impl Hash) -> bool {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_forgotten_with_the_start() {
        let query_id = Uuid::from_u128(0x701d);
        assert!(Told::of(query_id).is_first(&("no column", "a")));
        let start = Told::begin(query_id);
        assert!(start.is_first(&("no column", "a")));
        // A source that is made anew.
        assert!(!Told::of(query_id).is_first(&("no column", "a")));
        assert!(Told::of(Uuid::from_u128(0x701e)).is_first(&("no column", "a")));
        drop(start);
        assert!(Told::of(query_id).is_first(&("no column", "a")));
        let again = Told::begin(query_id);
        assert!(Told::of(query_id).is_first(&("no column", "a")));
        assert!(!again.is_first(&("no column", "a")));
    }
}
