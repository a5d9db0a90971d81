//! `sql/word_count.sql` as its first lines say: a server, the command, and lines that are typed.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::{Folder, signal, wait};

/// The tables that the console shows, one by one.
struct Screen(Receiver<String>);

impl Screen {
    /// Waits until the table is `expected`: how much of what was typed a batch has is a matter of time.
    fn wait_for(&self, expected: &[(&str, i64)]) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut seen = Vec::new();
        let mut rows = Vec::new();
        while let Ok(line) = self.0.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            seen.push(line.clone());
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            match cells.as_slice() {
                ["word", "times"] => rows.clear(),
                [word, times] => rows.push((word.to_string(), times.parse::<i64>().unwrap())),
                [""] if rows
                    .iter()
                    .map(|(word, times)| (word.as_str(), *times))
                    .eq(expected.iter().copied()) =>
                {
                    return;
                }
                _ => {}
            }
        }
        panic!("{expected:?} was not shown, but:\n{}", seen.join("\n"));
    }
}

fn connection(server: &TcpListener) -> TcpStream {
    server.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match server.accept() {
            Ok((connection, _)) => return connection,
            Err(_) => assert!(Instant::now() < deadline, "nobody has connected"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn words_are_counted_as_they_are_typed() {
    let server = TcpListener::bind("localhost:0").unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/word_count.sql");
    let script = std::fs::read_to_string(script).unwrap();
    assert!(script.contains("'9999'"), "{script}");
    let folder = Folder::new();
    let port = server.local_addr().unwrap().port();
    folder.write("word_count.sql", &script.replace("'9999'", &format!("'{port}'")));

    let mut command = folder.command(&["run", "word_count.sql", "--progress", "none"]);
    let mut child = command.spawn().unwrap();
    let (to, lines) = channel();
    let out = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        out.lines().map(Result::unwrap).for_each(|line| to.send(line).unwrap_or_default());
    });
    let screen = Screen(lines);
    let mut typist = connection(&server);

    typist.write_all(b"to be or not to be\n").unwrap();
    screen.wait_for(&[("be", 2), ("to", 2), ("not", 1), ("or", 1)]);
    typist.write_all("that  is the question\nfür be\n\nunfinished".as_bytes()).unwrap();
    let all: [(&str, i64); 9] = [
        ("be", 3),
        ("to", 2),
        ("für", 1),
        ("is", 1),
        ("not", 1),
        ("or", 1),
        ("question", 1),
        ("that", 1),
        ("the", 1),
    ];
    screen.wait_for(&all);
    typist.write_all(b" no more\n").unwrap();
    let mut all = all.to_vec();
    all.insert(4, ("more", 1));
    all.insert(5, ("no", 1));
    all.push(("unfinished", 1));
    screen.wait_for(&all);

    signal(&child, "-INT");
    let (code, _, err) = wait(child);
    assert_eq!(code, 0, "{err}");
    reader.join().unwrap();
}
