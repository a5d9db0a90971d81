//! The shell in a terminal, as a user sees it.

use std::io::Write;
use std::process::{Command, Stdio};

use super::Folder;

/// What ends a prompt.
const PROMPT: &str = "tidemill> \r\u{1b}[10C";
/// The prompt of further lines.
const CONTINUED: &str = "       -> ";

/// Types `steps` in the shell, each with what must come then, and waits for the prompt after each line. Gives what
/// came and the exit code; `None` without Python, which has pseudo-terminals.
fn in_terminal(folder: &Folder, steps: &[(&str, &str)]) -> Option<(i32, String)> {
    let mut all = vec![("", PROMPT)];
    for (place, step) in steps.iter().enumerate() {
        all.push(*step);
        // What is endless gives no prompt until it is interrupted.
        let goes_on = step.1 == CONTINUED || steps.get(place + 1).is_some_and(|(keys, _)| *keys == "\u{3}");
        let is_line = step.0.ends_with(['\r', '\u{3}']) && !goes_on;
        if is_line && place + 1 < steps.len() {
            all.push(("", PROMPT));
        }
    }
    typed_into(&[env!("CARGO_BIN_EXE_tidemill"), "sql"], folder, &all)
}

/// What comes of typing into a command, step by step, each with what must then be on the screen.
fn typed_into(command: &[&str], folder: &Folder, steps: &[(&str, &str)]) -> Option<(i32, String)> {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: there is no python3");
        return None;
    }
    let driver = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/cli/terminal.py");
    let mut child = Command::new("python3")
        .arg(driver)
        .args(command)
        .current_dir(folder.0.path())
        .env("HOME", folder.0.path())
        .env_remove("XDG_STATE_HOME")
        .env_remove("TIDEMILL_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let steps = serde_json::to_string(steps).unwrap();
    child.stdin.take().unwrap().write_all(steps.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(err, "", "{out}");
    assert!(!out.contains("panicked"), "{out}");
    Some((output.status.code().unwrap_or(-1), out.into_owned()))
}

#[test]
fn words_and_commands_that_people_know() {
    let folder = Folder::new();
    folder.write("answer.sql", "SELECT 41 + 1 AS answer;\n");
    folder.write("in/a.json", "{\"id\":7,\"name\":\"seven\"}\n");
    let steps = [
        ("help\r", "this help"),
        ("select 1 as one,\r", CONTINUED),
        ("2 as two;\r", "| 1   | 2   |"),
        ("\\i answer.sql\r", "| 42     |"),
        ("\\x\r", "a line per value"),
        ("select 5 as five;\r", "five | 5"),
        ("\\x\r", ""),
        ("\\timing\r", ""),
        ("select * from 'in/a.json';\r", "| 7  | seven |"),
        ("\\o result.txt\r", ""),
        ("select 6 as six;\r", ""),
        ("\\o\r", ""),
        ("\\o /dev/full\r", ""),
        ("select 7 as seven;\r", "cannot write the result to its file"),
        ("select 7 as seven;\r", "| 7     |"),
        ("\\pager sed s/^/page:/\r", "results go through 'sed s/^/page:/'"),
        ("select 8 as eight;\r", "page:| 8     |"),
        ("\\pager head -n 1 | sed s/^/first:/\r", "results go through"),
        ("select * from range(1, 30);\r", "first:+"),
        ("\\pager\r", "not shown page by page"),
        ("create table t as values (1);\r", "created"),
        ("\\dt\r", "| t "),
        ("\\h get_json_object\r", "is a function"),
        ("\\nonsense\r", "unknown command"),
        ("quit\r", ""),
    ];
    let Some((code, out)) = in_terminal(&folder, &steps) else { return };
    assert_eq!(code, 0, "{out}");
    let result = std::fs::read_to_string(folder.0.path().join("result.txt")).unwrap();
    assert!(result.contains("| 6   |"), "{result}");
    let history = std::fs::read_to_string(folder.0.path().join(".tidemill_history")).unwrap();
    assert!(history.contains("select 5 as five;"), "{history}");
}

#[test]
fn a_long_result_is_cut_and_an_endless_one_ends_with_ctrl_c() {
    let folder = Folder::new();
    let steps = [
        ("select * from generate_series(1, 100000);\r", "100,000 rows, 40 shown"),
        ("create unbounded external table ticks stored as rate options ('rowsPerSecond' '100');\r", ""),
        ("select value from ticks limit 3;\r", "3 rows"),
        ("select value from ticks;\r", "| 0 "),
        ("\u{3}", ""),
        ("select 'still here' as s;\r", "| still here |"),
        ("exit\r", ""),
    ];
    let Some((code, out)) = in_terminal(&folder, &steps) else { return };
    assert_eq!(code, 0, "{out}");
    assert!(out.lines().count() < 1000, "{} lines", out.lines().count());
}

#[test]
fn files_and_pagers_get_all_rows() {
    let folder = Folder::new();
    let steps = [
        ("\\format csv\r", ""),
        ("\\o all.csv\r", ""),
        ("select * from generate_series(1, 100);\r", "100 rows ("),
        ("\\o\r", ""),
        ("\\format table\r", ""),
        ("\\limit 5\r", ""),
        ("\\o all.txt\r", ""),
        ("select * from generate_series(1, 100);\r", "100 rows ("),
        ("\\o\r", ""),
        ("\\pager cat > paged.txt\r", "results go through"),
        ("select * from generate_series(1, 100);\r", "100 rows ("),
        ("\\pager\r", "not shown page by page"),
        ("select * from generate_series(1, 100);\r", "100 rows, 5 shown"),
        ("\\limit x\r", "\\limit needs a number of rows"),
        ("\\format\r", "\\format needs one of table"),
        ("\\i\r", "\\i needs the name of a file"),
        ("quit\r", ""),
    ];
    let Some((code, out)) = in_terminal(&folder, &steps) else { return };
    assert_eq!(code, 0, "{out}");
    let lines = |file: &str| std::fs::read_to_string(folder.0.path().join(file)).unwrap().lines().count();
    assert_eq!((lines("all.csv"), lines("all.txt"), lines("paged.txt")), (101, 104, 104));
}

#[test]
fn what_comes_in_one_piece_is_run_to_the_end() {
    let folder = Folder::new();
    let steps = [
        ("select 1 as one;\rselect 2 as two;\r", "| 2   |"),
        ("select\r 10 +\r 2x\u{1b}[D\u{1b}[3~0 as total;\r", "| 30    |"),
        ("select 'é' as accent;\r", "| é      |"),
        ("create unbounded external table ticks stored as rate;\r", ""),
        ("create external table screen stored as console;\r", ""),
        (
            "create streaming query hello trigger processing time '1 hour' as insert into screen select value from ticks;\r",
            "started",
        ),
        ("select 'in one' as piece;\r", "| in one |"),
        ("select 3 as three;\rselect 4 as four;\r", "| 4    |"),
        ("stop streaming query hello;\r", ""),
        ("select 'after it' as piece;\r", "| after it |"),
        ("exit\r", ""),
    ];
    let Some((code, out)) = in_terminal(&folder, &steps) else { return };
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("| 1   |") && out.contains("| 3     |"), "{out}");
}

#[test]
fn names_are_completed_and_the_file_of_the_user_is_run_first() {
    let folder = Folder::new();
    folder.write(".tidemillrc", "CREATE TABLE gardens AS VALUES (1, 'roses');\n");
    folder.write("in/nested/a.json", "{\"id\":7}\n");
    let steps = [
        ("select column2 from gard\t;\r", "| roses "),
        ("select * from 'in/nes\ta.json';\r", "| 7  |"),
        ("SHOW STREAMING QUERIES;\r", ""),
        ("\\q\r", ""),
    ];
    let Some((code, out)) = in_terminal(&folder, &steps) else { return };
    assert_eq!(code, 0, "{out}");
}

#[test]
fn console_sinks_print_above_the_line_that_is_typed() {
    let folder = Folder::new();
    let steps = [
        ("create unbounded external table ticks stored as rate options ('rowsPerSecond' '5');\r", ""),
        ("create external table screen stored as console;\r", ""),
        (
            "create streaming query ticking trigger processing time '1 second' as insert into screen select value from ticks;\r",
            "ticking",
        ),
        // Key by key: while others print, the editor passes over keys that come several at a time.
        ("1", "Batch: 2"),
        ("+", "Batch: 3"),
        ("2", "Batch: 4"),
        ("\u{3}", ""),
        ("\u{4}", ""),
    ];
    let Some((code, out)) = in_terminal(&folder, &steps) else { return };
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("tidemill> 1+"), "the line is drawn again below: {out}");
}

/// The prompt of a shell that the command is started from.
const READY: &str = "READY> ";

#[test]
fn a_line_goes_on_after_the_process_was_stopped() {
    if Command::new("bash").arg("--version").output().is_err() {
        eprintln!("skipped: there is no bash");
        return;
    }
    let folder = Folder::new();
    let start = format!("{} sql\r", env!("CARGO_BIN_EXE_tidemill"));
    let steps = [
        ("", READY),
        (start.as_str(), PROMPT),
        ("elect", "elect"),
        ("\u{1a}", "Stopped"),
        ("", READY),
        ("fg\r", "tidemill> elect"),
        // The editor puts it where the cursor is, at once.
        (" 42 as x;\u{1}s", "select 42 as x;"),
        ("\r", "| 42 "),
        ("", PROMPT),
        ("exit\r", READY),
        ("exit\r", ""),
    ];
    folder.write("rc", &format!("PS1='{READY}'\n"));
    let Some((code, out)) = typed_into(&["bash", "--rcfile", "rc", "-i"], &folder, &steps) else { return };
    assert_eq!(code, 0, "{out}");
}
