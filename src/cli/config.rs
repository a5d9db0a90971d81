//! `--config FILE`: what would be repeated on every command line, as TOML.
//!
//! A key is the name of an option, and stands before those that are given on the command line, which go before it.

use std::ffi::OsString;

use tidemill::nearest;
use toml::{Table, Value};

use super::exit::Exit;

/// The options that a file can give.
const KEYS: [&str; 7] = ["trigger", "progress", "format", "if-running", "listen", "pg", "set"];

/// `arguments`, which are those of the process, with those that the file `name` gives.
pub(super) fn with_file(name: &str, arguments: Vec<OsString>) -> Result<Vec<OsString>, Exit> {
    let text = std::fs::read_to_string(name);
    let text = text.map_err(|error| Exit::usage(format!("cannot read '{name}': {error}")))?;
    let given = arguments_of(&text).map_err(|reason| Exit::usage(format!("{name}: {reason}")))?;
    // After the program and the subcommand.
    let mut all = arguments;
    let at = all.len().min(2);
    all.splice(at..at, given.into_iter().map(OsString::from));
    Ok(all)
}

/// What is in a file, as on a command line.
fn arguments_of(text: &str) -> Result<Vec<String>, String> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let mut arguments = Vec::new();
    for (key, value) in table {
        match (key.as_str(), value) {
            ("set", Value::Table(settings)) => {
                for (setting, value) in flat("", settings) {
                    arguments.push(format!("--set={setting}={}", text_of(&setting, &value)?));
                }
            }
            ("set", _) => return Err("set is not valid: expected a table, [set]".into()),
            (key, value) if KEYS.contains(&key) => {
                arguments.push(format!("--{key}={}", text_of(key, &value)?))
            }
            (key, _) => {
                let hint =
                    nearest(key, &KEYS).map_or_else(String::new, |near| format!("; did you mean '{near}'?"));
                return Err(format!("there is no option '{key}'{hint} (there are {})", KEYS.join(", ")));
            }
        }
    }
    Ok(arguments)
}

/// The settings of a table and of those in it: `datafusion.execution.batch_size` may be written either way.
fn flat(prefix: &str, table: Table) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for (key, value) in table {
        let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) => all.extend(flat(&name, inner)),
            value => all.push((name, value)),
        }
    }
    all
}

fn text_of(key: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Boolean(flag) => Ok(flag.to_string()),
        _ => Err(format!("{key} is not valid: expected a text, a number, true or false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_options_as_a_command_line_does() {
        let text = "trigger = '2 seconds'\nlisten = 8080\n[set]\ndurability = 'process'\n\
                    datafusion.execution.batch_size = 4096\n'datafusion.execution.time_zone' = 'UTC'\n";
        let mut arguments = arguments_of(text).unwrap();
        arguments.sort();
        let expected = [
            "--listen=8080",
            "--set=datafusion.execution.batch_size=4096",
            "--set=datafusion.execution.time_zone=UTC",
            "--set=durability=process",
            "--trigger=2 seconds",
        ];
        assert_eq!(arguments, expected);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let error = |text| arguments_of(text).unwrap_err();
        assert!(error("triger = 'once'").starts_with("there is no option 'triger'; did you mean 'trigger'?"));
        assert!(error("set = 1").contains("expected a table"));
        assert!(error("listen = [1]").contains("expected a text"));
        assert!(error("listen = ").contains("line 1"));
    }
}
