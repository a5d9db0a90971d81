//! Starting a query again that has failed.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::options::Options;

const ON_FAILURE: &str = "restartOnFailure";
const LIMIT: &str = "restartLimit";
const BACKOFF: &str = "restartBackoff";

/// How many failures without a batch in between are put up with, unless it is said.
const DEFAULT_LIMIT: u64 = 10;
/// How long the first one is waited after, unless it is said.
const DEFAULT_BACKOFF: Duration = Duration::from_secs(1);
/// The longest wait is so many times the first.
const LONGEST: u32 = 64;

/// Whether a query that fails starts again by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RestartPolicy {
    limit: u64,
    backoff: Duration,
}

impl RestartPolicy {
    /// Takes the options that are about it. `None`: a failure ends the query.
    pub(crate) fn take(options: &mut Options) -> Result<Option<Self>> {
        let is_on = options.flag(ON_FAILURE, false)?;
        options.take(ON_FAILURE);
        let (limit, backoff) = (options.positive(LIMIT)?, options.duration(BACKOFF)?);
        for name in [LIMIT, BACKOFF] {
            if let Some(value) = options.take(name).filter(|_| !is_on) {
                let reason = format!("it says nothing without the option '{ON_FAILURE}' = 'true'");
                return Err(Error::option(name, value, reason));
            }
        }
        let (limit, backoff) = (limit.unwrap_or(DEFAULT_LIMIT), backoff.unwrap_or(DEFAULT_BACKOFF));
        Ok(is_on.then_some(Self { limit, backoff }))
    }
}

/// The restarts of one query.
#[derive(Debug)]
pub(super) struct Restarts {
    policy: Option<RestartPolicy>,
    /// Failures since the last batch that was done.
    in_a_row: u64,
    /// The batch that the last failure was in.
    failed_in: Option<u64>,
}

impl Restarts {
    pub(super) fn new(policy: Option<RestartPolicy>) -> Self {
        Self { policy, in_a_row: 0, failed_in: None }
    }

    /// How long to wait before the query is started again, which has failed in `batch`; `None` if it is not.
    pub(super) fn after(&mut self, error: &Error, batch: Option<u64>) -> Option<Duration> {
        let policy = self.policy.as_ref()?;
        if !may_pass(error) {
            return None;
        }
        if batch > self.failed_in {
            self.in_a_row = 0;
        }
        self.failed_in = batch.max(self.failed_in);
        if self.in_a_row == policy.limit {
            return None;
        }
        let doubled = 2_u32.saturating_pow(u32::try_from(self.in_a_row).unwrap_or(u32::MAX)).min(LONGEST);
        self.in_a_row += 1;
        Some(policy.backoff.saturating_mul(doubled))
    }

    /// What is said of a failure that ends the query all the same.
    pub(super) fn told(&self) -> Option<String> {
        (self.in_a_row > 0).then(|| format!("It was restarted {} times in a row", self.in_a_row))
    }
}

/// Whether what failed may do better later. What another run did, and what the user has to change, will not.
fn may_pass(error: &Error) -> bool {
    !matches!(
        error,
        Error::ConcurrentQuery { .. }
            | Error::QueryChanged { .. }
            | Error::CheckpointDamaged { .. }
            | Error::OutputRemoved { .. }
            | Error::UnsupportedQuery { .. }
            | Error::UnknownOption { .. }
            | Error::InvalidOption { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(options: &[(&str, &str)]) -> Result<Option<RestartPolicy>> {
        RestartPolicy::take(&mut options.iter().copied().collect())
    }

    #[test]
    fn it_is_off_unless_it_is_asked_for() {
        assert_eq!(taken(&[]).unwrap(), None);
        let policy = taken(&[("restartOnFailure", "true"), ("restartLimit", "3")]).unwrap();
        assert_eq!(policy, Some(RestartPolicy { limit: 3, backoff: DEFAULT_BACKOFF }));
        let error = taken(&[("restartLimit", "3")]).unwrap_err().to_string();
        assert!(error.contains("says nothing without the option 'restartOnFailure'"), "{error}");
        assert!(taken(&[("restartOnFailure", "maybe")]).is_err());
        assert!(taken(&[("restartOnFailure", "true"), ("restartBackoff", "soon")]).is_err());
    }

    #[test]
    fn waits_double_and_a_batch_that_is_done_begins_anew() {
        let policy = RestartPolicy { limit: 9, backoff: Duration::from_secs(1) };
        let mut restarts = Restarts::new(Some(policy));
        let error = Error::Invalid("the network is down".into());
        let mut seconds = |batch| restarts.after(&error, Some(batch)).map(|wait| wait.as_secs());
        assert_eq!([0; 9].map(&mut seconds), [1, 2, 4, 8, 16, 32, 64, 64, 64].map(Some));
        assert_eq!(seconds(0), None);
        assert_eq!([1, 1, 2].map(&mut seconds), [1, 2, 1].map(Some));
        assert_eq!(restarts.told().unwrap(), "It was restarted 1 times in a row");
    }

    #[test]
    fn what_cannot_pass_is_not_tried_again() {
        let policy = RestartPolicy { limit: 9, backoff: Duration::from_secs(1) };
        let mut restarts = Restarts::new(Some(policy));
        let changed = Error::QueryChanged { checkpoint: "c".into(), differences: vec![] };
        assert_eq!(restarts.after(&changed, None), None);
        assert_eq!(Restarts::new(None).after(&Error::Invalid("no".into()), None), None);
    }
}
