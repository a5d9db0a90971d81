//! When a query looks for new rows.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::Error;
use crate::options::{nearest, parse_duration};

/// When batches run, with Spark's meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trigger {
    /// The next batch as soon as the last one is done; new rows are looked for continually.
    #[default]
    AtOnce,
    /// Batches start at whole multiples of the interval since 1970-01-01T00:00:00Z, the first one
    /// immediately. A batch that takes longer is followed by the next one at once; ticks that were
    /// missed are not made up for. An interval below a millisecond is [`Trigger::AtOnce`].
    ProcessingTime(Duration),
    /// Exactly one batch with everything that is there, whatever the limits of the sources say, and the
    /// batches without rows that the watermark makes due by that; then the query ends. After a crash
    /// the one batch is that which was interrupted, as it was planned; what has come since is for the
    /// next run. [`Trigger::AvailableNow`] is nearly always the better choice.
    Once,
    /// Everything that is there when the query starts, in as many batches as the limits of the
    /// sources ask for, then the query ends.
    AvailableNow,
}

impl Trigger {
    /// An interval too short for the clock is none.
    pub(crate) fn effective(self) -> Self {
        match self {
            Trigger::ProcessingTime(interval) if interval.as_millis() == 0 => Trigger::AtOnce,
            trigger => trigger,
        }
    }

    /// Whether the query ends by itself.
    pub fn ends(self) -> bool {
        matches!(self, Trigger::Once | Trigger::AvailableNow)
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trigger::AtOnce => f.write_str("at once"),
            Trigger::ProcessingTime(interval) => write!(f, "every {interval:?}"),
            Trigger::Once => f.write_str("once"),
            Trigger::AvailableNow => f.write_str("available now"),
        }
    }
}

impl FromStr for Trigger {
    type Err = Error;

    /// Reads `once`, `available-now` (also `available now`, `availableNow`), `default`, or a length
    /// of time such as `2 seconds`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let folded: String =
            text.to_ascii_lowercase().chars().filter(|c| !matches!(c, '-' | '_' | ' ')).collect();
        match folded.as_str() {
            "once" => Ok(Trigger::Once),
            "availablenow" => Ok(Trigger::AvailableNow),
            "default" | "atonce" => Ok(Trigger::AtOnce),
            _ => parse_duration(text).map(Trigger::ProcessingTime).ok_or_else(|| {
                let hint = nearest(text, &["once", "available-now"])
                    .map_or_else(String::new, |name| format!("; did you mean '{name}'?"));
                Error::option(
                    "trigger",
                    text,
                    format!("expected once, available-now or a length of time such as '2 seconds'{hint}"),
                )
            }),
        }
    }
}

/// How long it is until the next batch starts, when one that started at `started_ms` took `took`.
///
/// Zero if the tick after `started_ms` has passed already: the batch overran. Never longer than the
/// interval, wherever the clock was set to meanwhile: the ticks are those of the clock as it was when
/// the batch started, and the next batch will look at it again.
pub(crate) fn until_next_tick(interval: Duration, started_ms: i64, took: Duration) -> Duration {
    let interval_ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX);
    if interval_ms == 0 {
        return Duration::ZERO;
    }
    let to_tick = interval_ms - started_ms.rem_euclid(interval_ms);
    Duration::from_millis(to_tick.unsigned_abs()).saturating_sub(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_aligned_to_the_epoch_and_missed_ones_are_not_made_up_for() {
        let wait = |interval_ms, started_ms, took_ms| {
            let [interval, took] = [interval_ms, took_ms].map(Duration::from_millis);
            until_next_tick(interval, started_ms, took).as_millis()
        };
        assert_eq!(wait(2000, 479, 21), 1500);
        assert_eq!(wait(2000, 2000, 0), 2000);
        // Overrun by two and a half ticks: at once, and the tick after that is aligned again.
        assert_eq!(wait(2000, 2000, 5000), 0);
        assert_eq!(wait(2000, 7000, 100), 900);
        assert_eq!(wait(0, 7000, 100), 0);
        assert_eq!(wait(2000, -500, 100), 400);
        // The ends of time are ticks like any other.
        assert!(wait(2000, i64::MAX, 0) <= 2000);
        assert!(wait(2000, i64::MIN, 0) <= 2000);
    }

    #[test]
    fn an_interval_of_nothing_is_none() {
        for (interval, effective) in [
            (Duration::ZERO, Trigger::AtOnce),
            (Duration::from_micros(999), Trigger::AtOnce),
            (Duration::from_millis(1), Trigger::ProcessingTime(Duration::from_millis(1))),
        ] {
            assert_eq!(Trigger::ProcessingTime(interval).effective(), effective);
        }
    }

    #[test]
    fn triggers_are_read_as_users_write_them() {
        assert_eq!("once".parse::<Trigger>().unwrap(), Trigger::Once);
        for text in ["available-now", "AVAILABLE NOW", "availableNow", "available_now"] {
            assert_eq!(text.parse::<Trigger>().unwrap(), Trigger::AvailableNow);
        }
        assert_eq!("2 seconds".parse::<Trigger>().unwrap(), Trigger::ProcessingTime(Duration::from_secs(2)));
        let error = "avaliable-now".parse::<Trigger>().unwrap_err().to_string();
        assert!(error.contains("did you mean 'available-now'?"), "{error}");
    }
}
