//! What a test file says.
//!
//! Statements come first. Lines that begin with `---` and a word end them, and say what happens next.

use std::ops::Range;

use chrono::{DateTime, NaiveDate, NaiveDateTime};

/// A test file, in its parts.
#[derive(Debug)]
pub(super) struct TestFile {
    /// Other files of statements, which come first; with their lines.
    pub(super) jobs: Vec<(u64, String)>,
    /// What queries remember from before, with the lines.
    pub(super) checkpoints: Vec<(u64, Remembered)>,
    /// The file's own statements, with empty lines for the `--- job` lines among them.
    pub(super) statements: String,
    /// What happens, in order.
    pub(super) steps: Vec<Step>,
}

/// What a query remembers from before the test.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) query: String,
    /// Where its checkpoint is, beside the test file.
    pub(super) directory: String,
}

/// Something that happens, or is expected.
#[derive(Debug)]
pub(super) struct Step {
    /// Its line in the file, from 1.
    pub(super) line: u64,
    pub(super) action: Action,
}

#[derive(Debug)]
pub(super) enum Action {
    /// A file of rows arrives at `table`, in a directory such as `day=1` if one is named.
    Input { table: String, directory: Option<String>, rows: String },
    /// The time is now `now_ms`.
    Time { now_ms: i64 },
    /// What `query` gives in the batches since the expectation before.
    Output { query: String, in_order: bool, rows: Vec<String>, lines: Range<usize> },
    /// `query` fails, and its message holds `text`.
    Failure { query: String, text: String },
}

const KNOWN: &str = "--- job FILE, --- checkpoint QUERY DIRECTORY, --- input TABLE [DIRECTORY], --- time '2026-01-31 12:00:00', --- output QUERY [in \
                     order], --- error QUERY: TEXT";

impl TestFile {
    /// Reads `text`; an error is a line and what is wrong there.
    pub(super) fn parse(text: &str) -> Result<Self, (u64, String)> {
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.iter().position(|line| directive(line).is_some_and(|words| !is_before_all(words)));
        let first = first.unwrap_or(lines.len());
        let (mut jobs, mut checkpoints, mut statements) = (Vec::new(), Vec::new(), String::new());
        for (index, line) in lines.iter().take(first).enumerate() {
            match directive(line).map(|words| words.split_once(char::is_whitespace).unwrap_or((words, ""))) {
                Some(("job", file)) => jobs.push((number(index), unquoted(file.trim()).to_string())),
                Some((_, words)) => match words.trim().split_once(char::is_whitespace) {
                    Some((query, directory)) => {
                        let directory = unquoted(directory.trim()).to_string();
                        checkpoints.push((number(index), Remembered { query: query.to_string(), directory }));
                    }
                    None => return Err((number(index), "expected --- checkpoint QUERY DIRECTORY".into())),
                },
                None => statements += line,
            }
            statements.push('\n');
        }
        let mut steps = Vec::new();
        let mut index = first;
        while index < lines.len() {
            let words = directive(lines[index]).unwrap_or_default();
            let body = index + 1..next_directive(&lines, index + 1);
            let action = action(words, &lines, body.clone()).map_err(|reason| (number(index), reason))?;
            steps.push(Step { line: number(index), action });
            index = body.end;
        }
        let expects = |step: &Step| matches!(step.action, Action::Output { .. } | Action::Failure { .. });
        if !steps.iter().any(expects) {
            return Err((number(first), format!("nothing is expected; expected lines such as {KNOWN}")));
        }
        Ok(Self { jobs, checkpoints, statements, steps })
    }
}

fn number(index: usize) -> u64 {
    index as u64 + 1
}

/// The words of a line that is not a statement's.
fn directive(line: &str) -> Option<&str> {
    line.strip_prefix("--- ").map(str::trim)
}

/// Whether a line is not about what happens, but about what there is before.
fn is_before_all(words: &str) -> bool {
    matches!(words.split_whitespace().next(), Some("job" | "checkpoint"))
}

fn next_directive(lines: &[&str], from: usize) -> usize {
    (from..lines.len()).find(|index| directive(lines[*index]).is_some()).unwrap_or(lines.len())
}

fn is_comment(line: &str) -> bool {
    line.trim().is_empty() || line.starts_with("-- ")
}

fn unquoted(text: &str) -> &str {
    text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')).unwrap_or(text)
}

fn action(words: &str, lines: &[&str], body: Range<usize>) -> Result<Action, String> {
    let (kind, rest) = words.split_once(char::is_whitespace).unwrap_or((words, ""));
    let rest = rest.trim();
    let content = || {
        let rows = &lines[body.clone()];
        let filled = rows.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |last| last + 1);
        &rows[..filled]
    };
    match kind {
        "input" if !rest.is_empty() => {
            let (table, directory) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let directory =
                Some(directory.trim().trim_matches('/').to_string()).filter(|name| !name.is_empty());
            if directory.as_ref().is_some_and(|name| name.split('/').any(|part| part == "..")) {
                return Err("a directory of an input lies in its table: no '..'".into());
            }
            let rows = content().iter().flat_map(|line| [line, "\n"]).collect();
            Ok(Action::Input { table: table.to_string(), directory, rows })
        }
        "time" => Ok(Action::Time { now_ms: time(unquoted(rest))? }),
        "output" if !rest.is_empty() => {
            let (query, how) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let in_order = match how.trim() {
                "" => false,
                "in order" => true,
                other => return Err(format!("'{other}' after the query is not known; expected 'in order'")),
            };
            let comments = content().iter().take_while(|line| is_comment(line)).count();
            let rows = &content()[comments..];
            // What stands behind the rows, such as comments, stays where it is.
            let filled = rows.iter().rposition(|line| !is_comment(line)).map_or(0, |last| last + 1);
            let lines = body.start + comments..body.start + comments + filled;
            let rows = rows.iter().filter(|line| !is_comment(line)).map(ToString::to_string).collect();
            Ok(Action::Output { query: query.to_string(), in_order, rows, lines })
        }
        "error" => {
            let (query, text) = rest.split_once(':').ok_or("expected --- error QUERY: TEXT")?;
            Ok(Action::Failure { query: query.trim().to_string(), text: text.trim().to_string() })
        }
        "job" | "checkpoint" => {
            Err("jobs and checkpoints stand before everything that happens: move this line up".into())
        }
        _ => Err(format!("'--- {words}' is not known; expected {KNOWN}")),
    }
}

/// Milliseconds since 1970. Without an offset it is UTC.
fn time(text: &str) -> Result<i64, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.timestamp_millis());
    }
    let written = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M"];
    let time = written.iter().find_map(|written| NaiveDateTime::parse_from_str(text, written).ok());
    let day = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().and_then(|day| day.and_hms_opt(0, 0, 0));
    let time = time.or_else(day).ok_or_else(|| {
        format!("'{text}' is no time; expected one such as 2026-01-31 12:00:00 or 2026-01-31T12:00:00+01:00")
    })?;
    Ok(time.and_utc().timestamp_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "--- job a.sql\n--- checkpoint q 'what was'\nSELECT 1;\n-- a comment\n--- input t day=1\n1\n2\n\n--- time 1970-01-01 00:00:01\n--- \
                        output q in order\nn\n1\n\n--- error p: too large\n";

    #[test]
    fn a_file_is_taken_apart() {
        let file = TestFile::parse(TEXT).unwrap();
        assert_eq!(file.jobs, [(1, "a.sql".to_string())]);
        let remembered = Remembered { query: "q".into(), directory: "what was".into() };
        assert_eq!(file.checkpoints, [(2, remembered)]);
        assert_eq!(file.statements, "\n\nSELECT 1;\n-- a comment\n");
        let [input, time, output, failure] = file.steps.as_slice() else { panic!("{file:?}") };
        assert_eq!([input.line, time.line, output.line, failure.line], [5, 9, 10, 14]);
        assert!(matches!(&input.action, Action::Input { table, directory: Some(day), rows }
            if table == "t" && day == "day=1" && rows == "1\n2\n"));
        assert!(matches!(time.action, Action::Time { now_ms: 1000 }));
        assert!(matches!(&output.action, Action::Output { query, in_order: true, rows, lines }
            if query == "q" && rows == &["n", "1"] && lines == &(10..12)));
        assert!(
            matches!(&failure.action, Action::Failure { query, text } if query == "p" && text == "too large")
        );
    }

    #[test]
    fn what_cannot_be_meant_is_told_with_its_line() {
        for (text, line, reason) in [
            ("SELECT 1;\n", 2, "nothing is expected"),
            ("\n--- inputs t\n", 2, "'--- inputs t' is not known"),
            ("--- time soon\n", 1, "'soon' is no time"),
            ("--- checkpoint q\n--- error q: x\n", 1, "expected --- checkpoint QUERY DIRECTORY"),
            ("--- output q sorted\n", 1, "expected 'in order'"),
            ("--- input t ../x\n", 1, "no '..'"),
            ("--- input t\n--- job a.sql\n", 2, "move this line up"),
        ] {
            let (at, why) = TestFile::parse(text).unwrap_err();
            assert!(at == line && why.contains(reason), "{text}: {at} {why}");
        }
    }
}
