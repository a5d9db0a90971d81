//! Options of readers, writers and tables: case-insensitive names, typed values, and a suggestion
//! for a name that is nearly right.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use regex::{Captures, Regex};

use crate::error::{Error, Result};

/// A set of options. Names are compared without regard to case, as Spark does; the spelling of the
/// user is kept for messages. A later value for the same name replaces the earlier one.
///
/// ```
/// use tidemill::Options;
///
/// let mut options = Options::default();
/// options.set("maxFilesPerTrigger", 4);
/// assert_eq!(options.get("MAXFILESPERTRIGGER"), Some("4"));
/// assert_eq!(options.parse::<u64>("maxFilesPerTrigger", "a whole number")?, Some(4));
/// let error = options.deny_unknown("the json source", &["maxFilePerTrigger"]).unwrap_err();
/// assert!(error.to_string().contains("did you mean 'maxFilePerTrigger'?"));
/// # Ok::<(), tidemill::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Lower-case name to (name as written, value).
    entries: BTreeMap<String, (String, String)>,
}

impl Options {
    /// Sets `name` to `value`.
    pub fn set(&mut self, name: impl Into<String>, value: impl ToString) {
        let name = name.into();
        self.entries.insert(name.to_ascii_lowercase(), (name, value.to_string()));
    }

    /// The value of `name`, if it is set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.entries.get(&name.to_ascii_lowercase()).map(|(_, value)| value.as_str())
    }

    /// Removes `name` and gives its value.
    pub fn take(&mut self, name: &str) -> Option<String> {
        self.entries.remove(&name.to_ascii_lowercase()).map(|(_, value)| value)
    }

    /// Names as written, and values, in order of the lower-case names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.values().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The value of `name` parsed as `T`; `expected` completes "expected …" in the error.
    pub fn parse<T: std::str::FromStr>(&self, name: &str, expected: &str) -> Result<Option<T>> {
        self.get(name)
            .map(|value| {
                value.trim().parse().map_err(|_| Error::option(name, value, format!("expected {expected}")))
            })
            .transpose()
    }

    /// The value of `name` as a whole number of at least 1.
    pub fn positive(&self, name: &str) -> Result<Option<u64>> {
        match self.parse::<u64>(name, "a whole number of at least 1")? {
            Some(0) => Err(Error::option(name, 0, "expected a whole number of at least 1")),
            value => Ok(value),
        }
    }

    /// The value of `name` as a truth value; `default` when it is not set.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name) {
            None => Ok(default),
            Some(value) if value.eq_ignore_ascii_case("true") => Ok(true),
            Some(value) if value.eq_ignore_ascii_case("false") => Ok(false),
            Some(value) => Err(Error::option(name, value, "expected true or false")),
        }
    }

    /// The value of `name` as a length of time, see [`parse_duration`].
    pub fn duration(&self, name: &str) -> Result<Option<Duration>> {
        self.get(name)
            .map(|value| {
                parse_duration(value).ok_or_else(|| {
                    Error::option(
                        name,
                        value,
                        "expected a length of time such as '10 seconds', '7d' or '500ms'",
                    )
                })
            })
            .transpose()
    }

    /// The value of `name` as a number of bytes, see [`parse_bytes`].
    pub fn bytes(&self, name: &str) -> Result<Option<u64>> {
        self.get(name)
            .map(|value| {
                parse_bytes(value).ok_or_else(|| {
                    Error::option(name, value, "expected a size such as '1048576', '64mb' or '1g'")
                })
            })
            .transpose()
    }

    /// Fails on the first option whose name is not in `known`; `context` says what it was given to,
    /// e.g. `the json source`. Names with a prefix that ends in a dot (`format.`) are known as a
    /// whole when the prefix is.
    pub fn deny_unknown(&self, context: &str, known: &[&str]) -> Result<()> {
        for (lower, (written, _)) in &self.entries {
            let is_known = known.iter().any(|name| {
                let name = name.to_ascii_lowercase();
                *lower == name || (name.ends_with('.') && lower.starts_with(&name))
            });
            if !is_known {
                return Err(Error::UnknownOption {
                    option: written.clone(),
                    context: context.to_string(),
                    suggestion: nearest(lower, known).map(str::to_string),
                });
            }
        }
        Ok(())
    }
}

impl<K: Into<String>, V: ToString> FromIterator<(K, V)> for Options {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut options = Options::default();
        for (name, value) in entries {
            options.set(name, value);
        }
        options
    }
}

/// What stands in the place of a secret.
const MASKED: &str = "***";

/// Words in the names of options whose values nobody is to see.
const SECRET_WORDS: [&str; 11] = [
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "token",
    "key",
    "apikey",
    "secret",
    "credential",
    "credentials",
    "jaas",
];

/// Whether the value of the option `name` is a secret: one of the words of the name is password, token, key,
/// secret or the like.
///
/// ```
/// use tidemill::is_secret;
///
/// assert!(is_secret("accessKey") && is_secret("ssl.key.password") && is_secret("AUTH_TOKEN"));
/// assert!(is_secret("schema.registry.basic.auth.user.info"));
/// assert!(!is_secret("maxFilesPerTrigger") && !is_secret("keyspace"));
/// ```
pub fn is_secret(name: &str) -> bool {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for c in name.chars() {
        if !c.is_alphanumeric() || (c.is_uppercase() && before.is_lowercase()) {
            words.push(String::new());
        }
        if c.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
        before = c;
    }
    // User and password at once, as registries of schemas have it.
    let is_user_info = words.join(".").ends_with("auth.user.info");
    is_user_info || words.iter().any(|word| SECRET_WORDS.contains(&word.as_str()))
}

/// `text` without the secrets that can be told as such in an error or a plan: passwords in URLs, and what is given
/// to a name that [`is_secret`] knows, as in `password=…` or `"secretKey": "…"`. A bare `key` or `token` may be a
/// column, and stays.
///
/// ```
/// use tidemill::mask_secrets;
///
/// let url = "postgres://ann:hunter2@host/db?password=x&sslmode=require";
/// assert_eq!(mask_secrets(url), "postgres://ann:***@host/db?password=***&sslmode=require");
/// assert_eq!(mask_secrets("{\"apiKey\": \"a b\", \"path\": \"c\"}"), "{\"apiKey\": \"***\", \"path\": \"c\"}");
/// assert_eq!(mask_secrets("WHERE key = 'a'"), "WHERE key = 'a'");
/// ```
pub fn mask_secrets(text: &str) -> Cow<'_, str> {
    // In quotes up to the end of these, whatever is in the password; otherwise up to a blank.
    static URL: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let scheme = r"[a-zA-Z][a-zA-Z0-9+.\-]*://[^/\s:@'\x22]*:";
        Regex::new(&format!(r"(['\x22]{scheme})[^'\x22]+@|({scheme})[^\s'\x22]+@")).ok()
    });
    static NAMED: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let value = r"''[^']*''|'(?:[^']|'')*'|\x22(?:[^\x22\\]|\\.)*\x22|(?:\\.|[^\s'\x22&;,)}\\])+";
        // Other names are passed over: their values may hold some of these, as URLs do.
        let words = SECRET_WORDS.join("|");
        let name = format!(r"[a-z0-9_.\-]*(?:{words}|auth[._]user[._]info)[a-z0-9_.\-]*");
        Regex::new(&format!(r"(?i)({name})(['\x22]?\s*[=:]\s*|'\s+)({value})")).ok()
    });
    // Both are fixed, and are expressions.
    let (Some(url), Some(named)) = (URL.as_ref(), NAMED.as_ref()) else { return MASKED.into() };
    let masked = url.replace_all(text, format!("${{1}}${{2}}{MASKED}@"));
    let replaced = named.replace_all(&masked, |found: &Captures<'_>| {
        let (name, between, value) = (&found[1], &found[2], &found[3]);
        let is_option = between.starts_with('\'') && !between.contains(['=', ':']);
        let is_column = matches!(name.to_ascii_lowercase().as_str(), "key" | "token") && !is_option;
        if is_column || !is_secret(name) || is_option && !value.starts_with('\'') {
            return found[0].to_string();
        }
        let quote = value.chars().next().filter(|c| matches!(c, '\'' | '"') && !value.starts_with("''"));
        let quote = quote.map_or_else(String::new, String::from);
        format!("{name}{between}{quote}{MASKED}{quote}")
    });
    match replaced {
        Cow::Owned(replaced) => replaced.into(),
        Cow::Borrowed(_) => masked,
    }
}

/// What to show of the value of the option `name`.
pub(crate) fn masked_value(name: &str, value: &str) -> String {
    if is_secret(name) { MASKED.to_string() } else { mask_secrets(value).into_owned() }
}

/// The name in `known` nearest to `name`, if one is near enough to be meant.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let name = name.to_ascii_lowercase();
    let score = |candidate: &str| {
        let candidate = candidate.to_ascii_lowercase();
        // Two letters of a short word that have changed places.
        let is_swapped = name.len() == candidate.len() && strsim::osa_distance(&name, &candidate) == 1;
        if is_swapped && name.len() > 2 { 0.9 } else { strsim::jaro_winkler(&name, &candidate) }
    };
    known
        .iter()
        .map(|candidate| (score(candidate), *candidate))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Reads `10 seconds`, `2s`, `500 ms`, `1 hour 30 minutes`, `7d`, `interval 1 minute`. A bare number
/// has no unit and is refused, except `0`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    parse_lengths(text, |_| None)
}

/// How late rows may come: what [`parse_duration`] reads, and months and years, of which a month
/// counts as 31 days, as in Spark. The error says what is wrong.
pub(crate) fn parse_delay(text: &str) -> Result<Duration, &'static str> {
    const MONTH: f64 = 31.0 * 86_400.0;
    let calendar = |unit: &str| match unit {
        "month" | "months" | "mon" | "mons" => Some(MONTH),
        "year" | "years" | "y" => Some(12.0 * MONTH),
        _ => None,
    };
    let trimmed = text.trim();
    if let Some(positive) = trimmed.strip_prefix('-')
        && parse_lengths(positive, calendar).is_some()
    {
        return Err("a watermark cannot be ahead of the newest row: the delay must not be negative");
    }
    parse_lengths(trimmed, calendar)
        .ok_or("expected a length of time such as '10 minutes', '1 hour 30 seconds' or '2 months'")
}

/// Lengths of time one after the other, added up; `more` knows the seconds of further units.
fn parse_lengths(text: &str, more: impl Fn(&str) -> Option<f64>) -> Option<Duration> {
    let lower = text.trim().to_ascii_lowercase();
    let mut rest = lower.strip_prefix("interval").unwrap_or(&lower).trim_start();
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut any = false;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let amount: f64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
        let seconds = match &rest[..letters] {
            "us" | "microsecond" | "microseconds" => 1e-6,
            "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => 1e-3,
            "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
            "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
            "h" | "hour" | "hours" => 3_600.0,
            "d" | "day" | "days" => 86_400.0,
            "w" | "week" | "weeks" => 604_800.0,
            unit => more(unit)?,
        };
        total = total.checked_add(Duration::try_from_secs_f64(amount * seconds).ok()?)?;
        rest = rest[letters..].trim_start();
        any = true;
    }
    any.then_some(total)
}

/// A length of time as [`parse_duration`] reads it, to the microsecond.
pub(crate) fn duration_text(duration: Duration) -> String {
    let mut rest = duration.as_micros();
    let mut parts = Vec::new();
    for (micros, unit) in [
        (86_400_000_000, "day"),
        (3_600_000_000, "hour"),
        (60_000_000, "minute"),
        (1_000_000, "second"),
        (1_000, "millisecond"),
        (1, "microsecond"),
    ] {
        match rest / micros {
            0 => {}
            1 => parts.push(format!("1 {unit}")),
            amount => parts.push(format!("{amount} {unit}s")),
        }
        rest %= micros;
    }
    if parts.is_empty() { "0 seconds".into() } else { parts.join(" ") }
}

/// Reads `1048576`, `64mb`, `1 GiB`, `512k`; units are powers of 1024, as in Spark.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let amount: u64 = lower[..digits].parse().ok()?;
    let shift = match lower[digits..].trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    amount.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("2 seconds"), Some(Duration::from_secs(2)));
        assert_eq!(parse_duration("1 hour 30 minutes"), Some(Duration::from_secs(5400)));
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("interval 7 days"), Some(Duration::from_secs(604_800)));
        assert_eq!(parse_duration("0"), Some(Duration::ZERO));
        for bad in ["", "5", "five seconds", "-1 s", "1 fortnight", "1e400 s"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn delays_know_months_and_refuse_to_be_negative() {
        let day = 86_400;
        assert_eq!(parse_delay(" 10 minutes "), Ok(Duration::from_secs(600)));
        assert_eq!(parse_delay("2 months 1 day"), Ok(Duration::from_secs(63 * day)));
        assert_eq!(parse_delay("1 year"), Ok(Duration::from_secs(372 * day)));
        assert_eq!(parse_delay("0 seconds"), Ok(Duration::ZERO));
        assert!(parse_delay("-1 second").unwrap_err().contains("must not be negative"));
        for bad in ["", "10", "-", "-1 fortnight", "soon"] {
            assert!(parse_delay(bad).unwrap_err().starts_with("expected a length of time"), "{bad}");
        }
        assert_eq!(parse_duration("1 month"), None);
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for text in ["0 seconds", "10 minutes", "1 hour 30 seconds", "2 days 1 millisecond 5 microseconds"] {
            assert_eq!(duration_text(parse_duration(text).unwrap()), text);
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("64mb"), Some(64 << 20));
        assert_eq!(parse_bytes("1 GiB"), Some(1 << 30));
        assert_eq!(parse_bytes("12"), Some(12));
        for bad in ["", "mb", "1.5g", "-1", "99999999999t"] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn unknown_options_suggest_the_nearest() {
        let options: Options = [("maxFilePerTriger", "1")].into_iter().collect();
        let known = ["maxFilesPerTrigger", "maxBytesPerTrigger", "format."];
        let error = options.deny_unknown("the json source", &known).unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown option 'maxFilePerTriger' for the json source; did you mean 'maxFilesPerTrigger'?"
        );
        let options: Options = [("format.compression", "zstd")].into_iter().collect();
        assert!(options.deny_unknown("the parquet sink", &known).is_ok());
    }

    #[test]
    fn secrets_are_found_in_texts_of_every_kind() {
        for (text, shown) in [
            (
                "('schema.registry.basic.auth.user.info' 'ann:x')",
                "('schema.registry.basic.auth.user.info' '***')",
            ),
            (
                "LOCATION 'postgresql://ann:s3:c/t@db:5433/shop'",
                "LOCATION 'postgresql://ann:***@db:5433/shop'",
            ),
            ("LOCATION 'postgresql://ann:a b@c@db/shop' x", "LOCATION 'postgresql://ann:***@db/shop' x"),
            (
                "cannot reach postgresql://ann:a@b@db/shop: no",
                "cannot reach postgresql://ann:***@db/shop: no",
            ),
            ("postgresql://ann@db/shop?sslmode=require", "postgresql://ann@db/shop?sslmode=require"),
            ("'url' 'host=db password=s3cret user=ann'", "'url' 'host=db password=*** user=ann'"),
            ("'url' 'host=db password=a\\ b user=ann'", "'url' 'host=db password=*** user=ann'"),
            ("'url' 'host=db password=''a b'' user=ann'", "'url' 'host=db password=*** user=ann'"),
            (
                "postgres://db/shop?user=ann&password=s3cret&a=b",
                "postgres://db/shop?user=ann&password=***&a=b",
            ),
            (
                "OPTIONS ('sasl.password' 'it''s', 'table' 't')",
                "OPTIONS ('sasl.password' '***', 'table' 't')",
            ),
            (
                "OPTIONS ('tabel' 'x', 'aws.secret_access_key' 'y')",
                "OPTIONS ('tabel' 'x', 'aws.secret_access_key' '***')",
            ),
            (
                "LOCATION 's3://bucket/a:b' OPTIONS ('sep' ':')",
                "LOCATION 's3://bucket/a:b' OPTIONS ('sep' ':')",
            ),
            (
                "SELECT 'key' || 'a', k AS \"token\" FROM t WHERE key = 'a'",
                "SELECT 'key' || 'a', k AS \"token\" FROM t WHERE key = 'a'",
            ),
        ] {
            assert_eq!(mask_secrets(text), shown);
        }
    }
}
