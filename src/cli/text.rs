//! Words and numbers for people.

use std::io::Write;
use std::time::Duration;

use tidemill::{Error, mask_secrets, visible};

/// A script and what to call it.
#[derive(Debug)]
pub(super) struct Script {
    /// A file's name, or `-c`, or `standard input`.
    pub(super) name: String,
    pub(super) text: String,
}

impl Script {
    /// `error` with its place and the line it is in. `statement` is where the statement starts that
    /// it belongs to.
    pub(super) fn describe(&self, error: &Error, statement: (u64, u64)) -> String {
        let (message, (line, column)) = match error {
            Error::Sql { message, line, column } if *line > 0 => (message.clone(), (*line, *column)),
            Error::Sql { message, .. } => (message.clone(), statement),
            // It says itself which query it is about, and may come long after the statement.
            Error::StreamFailed(failed) => return failed.to_string(),
            error => (error.to_string(), statement),
        };
        let index = usize::try_from(line).unwrap_or(usize::MAX).saturating_sub(1);
        let Some(text) = self.text.lines().nth(index) else { return format!("{}: {message}", self.name) };
        let mut before = usize::try_from(column).unwrap_or(usize::MAX).saturating_sub(1);
        let masked = mask_secrets(text);
        if masked != text {
            // What stands where is another thing now.
            let masked: String = masked.chars().take(2 * AROUND).collect();
            return format!("{}:{line}:{column}: {message}\n    {masked}", self.name);
        }
        let mut text = text.to_string();
        if text.chars().count() > 2 * AROUND {
            let from = before.saturating_sub(AROUND);
            let ahead = if from > 0 { "…" } else { "" };
            let behind = if text.chars().count() > before + AROUND { "…" } else { "" };
            let shown: String = text.chars().skip(from).take(before - from + AROUND).collect();
            text = format!("{ahead}{shown}{behind}");
            before = before - from + ahead.chars().count();
        }
        // A tab stays a tab, so that the caret stands below what it points to.
        let indent: String = text.chars().take(before).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        format!("{}:{line}:{column}: {message}\n    {text}\n    {indent}^", self.name)
    }
}

/// The longest message that is shown whole, and what is shown of the two ends of a longer one.
const LONGEST: usize = 2000;
const HEAD: usize = 1200;
const TAIL: usize = 400;
/// How much of a long line is shown on either side of the place that an error is about.
const AROUND: usize = 100;

/// `message` as it may be shown on a terminal: what it quotes of data may hold control characters, or be
/// a whole file.
pub(super) fn presentable(message: &str) -> String {
    let length = message.chars().count();
    if length <= LONGEST {
        return without_controls(message);
    }
    let head: String = message.chars().take(HEAD).collect();
    let tail: String = message.chars().skip(length - TAIL).collect();
    let left_out = number((length - HEAD - TAIL) as u64);
    format!("{} … ({left_out} characters left out) … {}", without_controls(&head), without_controls(&tail))
}

/// Control characters as they are written in programs; line breaks and tabs stay.
pub(super) fn without_controls(text: &str) -> String {
    let stays = |c: char| matches!(c, '\n' | '\t');
    let parts = text.split_inclusive(stays).map(|part| match part.strip_suffix(stays) {
        Some(before) => visible(before).into_owned() + &part[before.len()..],
        None => visible(part).into_owned(),
    });
    parts.collect()
}

/// Writes `text` to standard output.
pub(super) fn to_stdout(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes a line to standard error, where failures to write cannot be reported.
pub(super) fn to_stderr(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// `1234567` as `1,234,567`.
pub(super) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 row`, `2 rows`.
pub(super) fn count(value: u64, word: &str) -> String {
    format!("{} {word}{}", number(value), if value == 1 { "" } else { "s" })
}

/// Rows per second, for at least a millisecond.
pub(super) fn rate(rows: u64, time: Duration) -> String {
    per_second(rows as f64 / time.as_secs_f64().max(0.001))
}

/// A number of rows per second, with a digit after the point if there are few.
pub(super) fn per_second(rows: f64) -> String {
    if rows > 0.0 && rows < 9.95 {
        format!("{rows:.1} rows/s")
    } else {
        format!("{} rows/s", number(rows.round() as u64))
    }
}

/// `12 ms`, `1.2 s`, `2 min 5 s`, `3 h 2 min`.
pub(super) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times() {
        assert_eq!([0, 999, 1000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(count(1, "row"), "1 row");
        assert_eq!(count(2000, "row"), "2,000 rows");
        assert_eq!(rate(10, Duration::ZERO), "10,000 rows/s");
        let times = [12, 1_234, 59_949, 125_000, 11_000_000].map(|ms| duration(Duration::from_millis(ms)));
        assert_eq!(times, ["12 ms", "1.2 s", "59.9 s", "2 min 5 s", "3 h 3 min"]);
    }

    #[test]
    fn messages_are_short_and_without_control_characters() {
        assert_eq!(presentable("a\u{1b}[31mb\tc\nd\u{7}"), "a\\u{1b}[31mb\tc\nd\\u{7}");
        let long = presentable(&"é".repeat(1_000_000));
        assert!(long.contains(" … (998,400 characters left out) … "), "{long}");
        assert_eq!(long.chars().filter(|c| *c == 'é').count(), HEAD + TAIL);
        let script =
            Script { name: "-c".into(), text: format!("{}x{}", "1+".repeat(5000), "+1".repeat(5000)) };
        let described =
            script.describe(&Error::Sql { message: "no".into(), line: 1, column: 10_001 }, (1, 1));
        let lines: Vec<&str> = described.lines().collect();
        assert_eq!(lines[1].chars().nth(lines[2].chars().count() - 1), Some('x'));
        assert!(lines[1].chars().count() < 220, "{}", lines[1]);
    }

    #[test]
    fn carets_stand_below_what_they_point_to() {
        let script = Script { name: "a.sql".into(), text: "SELECT 1;\n\tSELCT é x".into() };
        let error = Error::Sql { message: "no".into(), line: 2, column: 10 };
        assert_eq!(script.describe(&error, (1, 1)), "a.sql:2:10: no\n    \tSELCT é x\n    \t        ^");
        let error = Error::Invalid("no".into());
        assert_eq!(script.describe(&error, (1, 1)), "a.sql:1:1: no\n    SELECT 1;\n    ^");
        let error = Error::Sql { message: "no".into(), line: 7, column: 1 };
        assert_eq!(script.describe(&error, (1, 1)), "a.sql: no");
    }
}
