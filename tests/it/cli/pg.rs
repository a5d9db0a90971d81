//! `--pg`: reading results with PostgreSQL's wire protocol.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::{Folder, signal, wait};

/// A command whose tables can be read.
struct Server {
    child: Child,
    port: String,
}

impl Server {
    fn start(folder: &Folder, script: &str, address: &str, password: Option<&str>) -> Self {
        folder.write("job.sql", script);
        let mut command = folder.command(&["run", "job.sql", "--pg", address]);
        command.env_remove("TIDEMILL_TOKEN");
        if let Some(password) = password {
            command.env("TIDEMILL_TOKEN", password);
        }
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let port = line.trim().strip_suffix("/tidemill").and_then(|line| line.rsplit_once(':'));
        let port = port.unwrap_or_else(|| panic!("{line}")).1.to_string();
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Self { child, port }
    }

    /// What psql prints for `statements`, or what it says is wrong; `None` where there is no psql.
    fn psql(&self, statements: &str, password: &str) -> Option<Result<String, String>> {
        let output = Command::new("psql")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &self.port,
                "-U",
                "ann",
                "-d",
                "tidemill",
                "-X",
                "-A",
                "-t",
                "-q",
            ])
            .args(["-v", "ON_ERROR_STOP=1", "-c", statements])
            .env("PGPASSWORD", password)
            .output();
        let Ok(output) = output else {
            eprintln!("skipped: there is no psql (Debian: apt-get install postgresql-client)");
            return None;
        };
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Some(match output.status.success() {
            true => Ok(text(output.stdout)),
            false => Err(text(output.stderr)),
        })
    }

    /// The names of the columns that psql shows.
    fn columns(&self, statement: &str) -> String {
        let output = Command::new("psql")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &self.port,
                "-U",
                "ann",
                "-d",
                "tidemill",
                "-X",
                "-A",
                "-q",
                "-c",
                statement,
            ])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().lines().next().unwrap_or_default().to_string()
    }

    fn leave(self) {
        signal(&self.child, "-TERM");
        assert_eq!(wait(self.child).0, 0);
    }
}

const SCRIPT: &str = "
    CREATE UNBOUNDED EXTERNAL TABLE words (word VARCHAR) STORED AS JSON LOCATION 'in'
        OPTIONS ('maxFilesPerTrigger' '1', 'minFileAge' '0 seconds');
    CREATE EXTERNAL TABLE copies (word VARCHAR) STORED AS PARQUET LOCATION 'out';
    CREATE EXTERNAL TABLE totals STORED AS MEMORY;
    CREATE TABLE known AS VALUES ('a', 1), ('b', 2);
    CREATE STREAMING QUERY copy CHECKPOINT LOCATION 'c1' AS INSERT INTO copies SELECT word FROM words;
    CREATE STREAMING QUERY counting OUTPUT MODE COMPLETE CHECKPOINT LOCATION 'c2' AS
        INSERT INTO totals SELECT word, count(*) AS times FROM words GROUP BY word;
";

#[test]
fn psql_reads_what_was_committed_and_changes_nothing() {
    let folder = Folder::new();
    folder.write("in/1.json", "{\"word\":\"a\"}\n{\"word\":\"b\"}\n{\"word\":\"a\"}\n");
    let server = Server::start(&folder, SCRIPT, "127.0.0.1:0", None);
    let Some(_) = server.psql("SELECT 1", "") else { return server.leave() };
    let ask = |statements: &str| server.psql(statements, "").unwrap();
    let until = |statement: &str, expected: &str| {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let given = ask(statement);
            if given.as_deref() == Ok(expected) {
                return;
            }
            assert!(Instant::now() < deadline, "{statement}: {given:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    until("SELECT word, times FROM totals ORDER BY word", "a|2\nb|1\n");
    until("SELECT count(*) FROM copies", "3\n");
    assert_eq!(ask("SELECT column1 FROM known WHERE column2 = 2").unwrap(), "b\n");
    assert_eq!(ask("SELECT word FROM state('c2', 0) ORDER BY word").unwrap(), "a\nb\n");
    folder.write("in/2.json", "{\"word\":\"c\"}\n");
    until("SELECT sum(times) FROM totals", "4\n");
    until("SELECT count(*) FROM copies", "4\n");
    // One statement sees one batch of a query, however often it reads its table.
    assert_eq!(ask("SELECT count(*) FROM totals a JOIN totals b USING (word, times)").unwrap(), "3\n");

    for statement in [
        "CREATE TABLE t (a INT)",
        "INSERT INTO known VALUES ('c', 3)",
        "DROP TABLE known",
        "EXPLAIN ANALYZE INSERT INTO known VALUES ('c', 3)",
        "SELECT * INTO t FROM known",
        "COPY known TO 'stolen.csv'",
    ] {
        let error = ask(statement).unwrap_err();
        assert!(error.contains("can only be read here"), "{statement}: {error}");
    }
    assert_eq!(ask("SELECT count(*) FROM known").unwrap(), "2\n");
    let error = ask("SELECT * FROM words").unwrap_err();
    assert!(error.contains("its rows never end"), "{error}");
    // Columns without a name of their own have that of the shell.
    let select = "SELECT max(k.column2), column2 + 1, upper(column1), CAST(column2 AS VARCHAR) FROM known k GROUP BY column1, column2";
    let (_, shown, _) = folder.run(&[
        "sql",
        "--format",
        "csv",
        "-c",
        &format!("CREATE TABLE known AS VALUES ('a', 1); {select}"),
    ]);
    let shown = shown.lines().next().unwrap().replace(',', "|");
    assert_eq!(server.columns(select), shown);
    assert!(ask("\\dt").unwrap().contains("totals"));
    assert!(ask("SELECT a FROM nothing").unwrap_err().contains("nothing"));
    server.leave();
}

#[test]
fn where_others_can_come_there_is_a_password() {
    let folder = Folder::new();
    folder.write("in/1.json", "{\"word\":\"a\"}\n");
    folder.write("job.sql", SCRIPT);
    let mut command = folder.command(&["run", "job.sql", "--pg", "0.0.0.0:0"]);
    let (code, _, err) = super::ended(command.env_remove("TIDEMILL_TOKEN").output().unwrap());
    assert_eq!(code, 2);
    assert!(err.contains("TIDEMILL_TOKEN"), "{err}");
    let server = Server::start(&folder, SCRIPT, "0.0.0.0:0", Some("sesame"));
    if let Some(refused) = server.psql("SELECT 1", "other") {
        assert!(refused.is_err(), "{refused:?}");
        assert_eq!(server.psql("SELECT 1", "sesame").unwrap().unwrap(), "1\n");
    }
    server.leave();
}

/// A driver that prepares statements, and reads their results as binary.
#[test]
fn psycopg_reads_with_parameters() {
    let folder = Folder::new();
    folder.write("in/1.json", "{\"word\":\"a\"}\n");
    let server = Server::start(&folder, SCRIPT, "127.0.0.1:0", None);
    let program = format!(
        "import psycopg\n\
         with psycopg.connect('host=127.0.0.1 port={} user=ann dbname=tidemill', autocommit=True) as c:\n\
         \x20   rows = c.execute('SELECT column1, column2 FROM known WHERE column2 >= %s ORDER BY column2', (1,)).fetchall()\n\
         \x20   print(rows)\n\
         \x20   cursor = c.cursor(binary=True)\n\
         \x20   print(cursor.execute('SELECT column2 FROM known ORDER BY 1').fetchall())\n",
        server.port
    );
    if let Some(out) = python(&program, "psycopg") {
        assert_eq!(out, "[('a', 1), ('b', 2)]\n[(1,), (2,)]\n");
    }
    server.leave();
}

/// What `program` prints; `None` where there is no Python with the modules that it imports.
fn python(program: &str, modules: &str) -> Option<String> {
    let has = |python: &&str| {
        let found = Command::new(python).args(["-c", &format!("import {modules}")]).output();
        found.is_ok_and(|output| output.status.success())
    };
    let Some(python) = ["/tmp/venv/bin/python", "python3"].into_iter().find(has) else {
        eprintln!("skipped: there is no Python with {modules}");
        return None;
    };
    let output = Command::new(python).args(["-c", program]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// What analysts connect with: it asks the catalog for tables and their columns before it asks for rows.
#[test]
fn sqlalchemy_and_pandas_find_tables_and_read_them() {
    let folder = Folder::new();
    let script = "
        CREATE TABLE known AS SELECT * FROM (VALUES
            ('a', 1, DATE '2024-01-02', TIMESTAMP '2024-01-02T03:04:05', CAST(1.5 AS DECIMAL(10, 2)), true, 2.5e0),
            ('b', 2, NULL, NULL, NULL, NULL, NULL)) AS v(name, n, d, at, amount, ok, ratio);
        CREATE UNBOUNDED EXTERNAL TABLE words (word VARCHAR) STORED AS JSON LOCATION 'in';
        CREATE EXTERNAL TABLE totals STORED AS MEMORY;
        CREATE STREAMING QUERY counting OUTPUT MODE COMPLETE CHECKPOINT LOCATION 'c' AS
            INSERT INTO totals SELECT word, count(*) AS times FROM words GROUP BY word;
    ";
    folder.write("in/1.json", "{\"word\":\"a\"}\n");
    let server = Server::start(&folder, script, "127.0.0.1:0", None);
    let program = format!(
        r#"
import datetime, decimal
import pandas, sqlalchemy
from sqlalchemy import inspect, select, text
engine = sqlalchemy.create_engine('postgresql+psycopg://ann@127.0.0.1:{}/tidemill')
found = inspect(engine)
print(sorted(found.get_table_names()))
print('public' in found.get_schema_names(), found.has_table('known'), found.has_table('nosuch'))
print([(column['name'], str(column['type']), column['nullable']) for column in found.get_columns('known')])
columns = [sqlalchemy.Column(column['name'], column['type']) for column in found.get_columns('known')]
known = sqlalchemy.Table('known', sqlalchemy.MetaData(), *columns)
with engine.connect() as connection:
    print(connection.execute(select(known.c.name).where(known.c.n >= 2)).fetchall())
    for column, value in dict(
        d=datetime.date(2024, 1, 2), at=datetime.datetime(2024, 1, 2, 3, 4, 5), amount=decimal.Decimal('1.5'),
        ok=True, ratio=2.5, name='a',
    ).items():
        given = connection.execute(text('SELECT n FROM known WHERE ' + column + ' = :v'), dict(v=value))
        assert given.fetchall() == [(1,)], column
    texts = dict(d='2024-01-02', at='2024-01-02 03:04:05', amount='1.50')
    for column, value in texts.items():
        given = connection.execute(text('SELECT n FROM known WHERE ' + column + ' = :v'), dict(v=value))
        assert given.fetchall() == [(1,)], column
    print(connection.execute(text('SELECT 1e300::double precision, CAST(1e3 AS DOUBLE)')).fetchall())
    like = "SELECT count(*) FROM known WHERE name NOT LIKE :v || :w ESCAPE '/'"
    print(connection.execute(text(like), dict(v='a/_', w='%')).fetchall())
print(pandas.read_sql('SELECT name, n FROM known ORDER BY n', engine).to_dict('list'))
"#,
        server.port
    );
    if let Some(out) = python(&program, "pandas, psycopg, sqlalchemy") {
        assert_eq!(
            out,
            "['counting', 'known', 'totals', 'words']\n\
             True True False\n\
             [('name', 'TEXT', False), ('n', 'BIGINT', False), ('d', 'DATE', True), ('at', 'TIMESTAMP', True), \
             ('amount', 'NUMERIC', True), ('ok', 'BOOLEAN', True), ('ratio', 'DOUBLE PRECISION', True)]\n\
             [('b',)]\n\
             [(1e+300, 1000.0)]\n\
             [(2,)]\n\
             {'name': ['a', 'b'], 'n': [1, 2]}\n"
        );
    }
    server.leave();
}

/// Bytes that are not random, and look so.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = |state: &mut u64| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 32) as u8
    };
    (0..length).map(|_| next(&mut state)).collect()
}

#[test]
fn whatever_is_sent_the_command_goes_on() {
    let folder = Folder::new();
    folder.write("in/1.json", "{\"word\":\"a\"}\n");
    folder.write("job.sql", SCRIPT);
    let mut command = folder.command(&["run", "job.sql", "--listen", "127.0.0.1:0", "--pg", "127.0.0.1:0"]);
    let mut child = command.env_remove("TIDEMILL_TOKEN").spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut address = |prefix: &str, suffix: &str| {
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
        address.unwrap_or_else(|| panic!("{line}")).to_string()
    };
    let http = address("the queries are shown at http://", "");
    let pg = address("the tables can be read at postgres://", "/tidemill");
    let told = std::thread::spawn(move || {
        let mut all = String::new();
        said.read_to_string(&mut all).map(|_| all)
    });
    let startup = [0, 0, 0, 22, 0, 3, 0, 0, b'u', b's', b'e', b'r', 0, b'a', b'n', b'n', 0, 0, 0, 0, 0, 0];
    for seed in 0..150_u64 {
        let bytes = noise(seed + 1, (seed as usize * 37) % 900);
        let heads: [&[u8]; 5] = [
            b"",
            b"GET /api/queries/",
            b"POST /api/queries/copy/stop HTTP/1.1\r\nHost: ",
            &startup,
            &startup[..9],
        ];
        let sent = [heads[seed as usize % heads.len()], bytes.as_slice()].concat();
        for place in [&http, &pg] {
            let mut stream = TcpStream::connect(place).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            // It may be hung up on.
            let _ = stream.write_all(&sent);
            let _ = stream.read(&mut [0; 512]);
        }
    }
    let ask = || {
        let mut stream = TcpStream::connect(&http).unwrap();
        write!(stream, "GET /api/queries HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    };
    let both_run = || ask().matches("\"isActive\":true").count() == 2;
    // On a busy machine they may still be starting.
    assert!(
        (0..100).any(|_| both_run() || (std::thread::sleep(Duration::from_millis(100)), false).1),
        "{}",
        ask()
    );
    signal(&child, "-TERM");
    assert_eq!(wait(child).0, 0);
    let told = told.join().unwrap().unwrap();
    assert!(!told.contains("panicked"), "{told}");
}

#[test]
fn subscribers_get_each_batch_once_from_any_that_is_kept() {
    let folder = Folder::new();
    let script = "
        CREATE UNBOUNDED EXTERNAL TABLE words (word VARCHAR) STORED AS JSON LOCATION 'in'
            OPTIONS ('maxFilesPerTrigger' '1', 'minFileAge' '0 seconds');
        CREATE EXTERNAL TABLE seen STORED AS MEMORY;
        CREATE EXTERNAL TABLE copies (word VARCHAR) STORED AS JSON LOCATION 'out';
        CREATE STREAMING QUERY seeing CHECKPOINT LOCATION 'c1' AS INSERT INTO seen SELECT word FROM words;
        CREATE STREAMING QUERY copying CHECKPOINT LOCATION 'c2' AS INSERT INTO copies SELECT word FROM words;
    ";
    folder.write("in/1.json", "{\"word\":\"a\"}\n{\"word\":\"b\\tc\"}\n");
    let server = Server::start(&folder, script, "127.0.0.1:0", None);
    let Some(_) = server.psql("SELECT 1", "") else { return server.leave() };
    let follow = |from: u32| {
        let statement = format!("COPY (SUBSCRIBE TO seeing FROM BATCH {from}) TO STDOUT");
        // Line by line, as on a terminal.
        let mut client = Command::new("stdbuf")
            .args(["-oL", "psql"])
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &server.port,
                "-U",
                "ann",
                "-d",
                "tidemill",
                "-X",
                "-c",
                &statement,
            ])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(client.stdout.take().unwrap()).lines().map(|line| line.unwrap());
        (client, lines)
    };
    let (first, mut lines) = follow(0);
    // While the query runs.
    assert_eq!([lines.next().unwrap(), lines.next().unwrap()], ["0\ta", "0\tb\\tc"]);
    folder.write("in/2.json", "{\"word\":null}\n");
    assert_eq!(lines.next().unwrap(), "1\t\\N");
    let (second, mut others) = follow(1);
    assert_eq!(others.next().unwrap(), "1\t\\N");
    folder.write("in/3.json", "{\"word\":\"d\"}\n");
    assert_eq!([lines.next().unwrap(), others.next().unwrap()], ["2\td", "2\td"]);

    for (statement, reason) in [
        ("SUBSCRIBE TO nobody", "there is no streaming query 'nobody'"),
        ("SUBSCRIBE TO copying", "only what a query keeps in a MEMORY table can be subscribed to"),
        ("SUBSCRIBE seeing", "write SUBSCRIBE TO query [FROM BATCH n]"),
    ] {
        let error = server.psql(statement, "").unwrap().unwrap_err();
        assert!(error.contains(reason), "{statement}: {error}");
    }
    for mut client in [first, second] {
        client.kill().unwrap();
        client.wait().unwrap();
    }
    server.leave();
}

#[test]
fn what_the_protocol_carries_is_what_there_is() {
    let folder = Folder::new();
    let script = "
        CREATE TABLE odd AS SELECT arrow_cast(-128, 'Int8') AS byte, arrow_cast(make_array(1, -2), 'List(Int8)') AS bytes,
            arrow_cast(TIMESTAMP '2024-01-01T00:00:00', 'Timestamp(Microsecond, Some(\"Asia/Kolkata\"))') AS at,
            arrow_cast(1.5, 'Float16') AS half;
        CREATE UNBOUNDED EXTERNAL TABLE words (word VARCHAR) STORED AS JSON LOCATION 'in';
        CREATE EXTERNAL TABLE copies (word VARCHAR) STORED AS JSON LOCATION 'out';
        CREATE STREAMING QUERY copy CHECKPOINT LOCATION 'c1' AS INSERT INTO copies SELECT word FROM words;
    ";
    folder.write("in/1.json", "{\"word\":\"a\"}\n");
    let server = Server::start(&folder, script, "127.0.0.1:0", None);
    let Some(_) = server.psql("SELECT 1", "") else { return server.leave() };
    let ask = |statements: &str| server.psql(statements, "").unwrap();
    let given = ask("SELECT byte, bytes, half FROM odd").unwrap();
    assert_eq!(given, "-128|{1,-2}|1.5\n");
    // Midnight there is half past six in the evening in London.
    assert_eq!(ask("SELECT at FROM odd").unwrap(), "2023-12-31 18:30:00.000000+00\n");

    // A statement that takes too long ends.
    let long = "SELECT count(*) FROM range(1, 60000) a, range(1, 60000) b WHERE a.value * b.value % 7 = 3";
    let error = ask(&format!("SET statement_timeout = 500; {long}")).unwrap_err();
    assert!(error.contains("canceling statement due to statement timeout"), "{error}");
    server.leave();
}

/// What pools, drivers and `psql` say before and beside the questions of their users.
#[test]
fn clients_find_what_they_ask_for() {
    let folder = Folder::new();
    folder.write("in/1.json", "{\"word\":\"a\"}\n");
    let server = Server::start(&folder, SCRIPT, "127.0.0.1:0", None);
    let Some(_) = server.psql("SELECT 1", "") else { return server.leave() };
    let ask = |statements: &str| server.psql(statements, "").unwrap();
    for (statement, expected) in [
        (
            "SELECT arrow_cast('99999999999999999999999999999', 'Decimal128(29, 0)')",
            "99999999999999999999999999999\n",
        ),
        ("SELECT arrow_cast('-0.5', 'Decimal128(38, 38)')", "-0.50000000000000000000000000000000000000\n"),
        ("SELECT [arrow_cast('1.5', 'Decimal128(38, 1)')]", "{1.5}\n"),
        ("SELECT arrow_cast('0000-12-31', 'Date32'), DATE '2024-01-01'", "0001-12-31 BC|2024-01-01\n"),
        // As PostgreSQL means it, prepared or not.
        ("SELECT 2 ^ 3", "8.0\n"),
        ("SELECT 1 + 2 || 'x'", "3x\n"),
        ("BEGIN; SAVEPOINT a; SELECT 1; ROLLBACK TO SAVEPOINT a; RELEASE SAVEPOINT a; COMMIT", "1\n"),
        ("SET statement_timeout = 1; DISCARD ALL; SELECT count(*) FROM range(1, 300000)", "299999\n"),
        ("SET datafusion.execution.batch_size = 7; RESET ALL; SELECT 1", "1\n"),
        ("DEALLOCATE ALL; DEALLOCATE some; SELECT 1", "1\n"),
    ] {
        let given = ask(statement);
        assert_eq!(given.as_deref(), Ok(expected), "{statement}");
    }
    assert!(ask("SELECT version()").unwrap().starts_with("PostgreSQL 16"));
    for looks in ["\\df", "\\dt+", "\\d", "\\l", "\\dn"] {
        assert!(ask(looks).is_ok(), "{looks}: {:?}", ask(looks));
    }
    for statement in [
        "SET datafusion.runtime.temp_directory = 'made'",
        "SET \"datafusion.runtime.memory_limit\" = '1G'",
        "RESET datafusion.runtime.memory_limit; SET datafusion.runtime.memory_limit = '1G'",
    ] {
        assert!(ask(statement).unwrap_err().contains("can only be read here"), "{statement}");
    }
    assert!(!folder.0.path().join("made").exists());
    server.leave();
}
