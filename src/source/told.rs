//! What is said once.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

/// What a start of a query has been told of, so that it is said once however often the run takes up anew.
#[derive(Debug, Default)]
pub struct Told(Mutex<HashSet<u64>>);

impl Told {
    /// Whether this is the first time that `what` is told.
    ///
    /// ```
    /// let told = tidemill::source::Told::default();
    /// assert!(told.is_first(&("no column", "a")));
    /// assert!(!told.is_first(&("no column", "a")));
    /// ```
    pub fn is_first(&self, what: &impl Hash) -> bool {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(hasher.finish())
    }
}
