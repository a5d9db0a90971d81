//! A real PostgreSQL server for tests: in a temporary directory, on the loopback interface only, as a user that is
//! not root. It ends with the test program, however that ends.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// A server that runs, or was killed.
#[derive(Debug)]
pub struct Server {
    directory: tempfile::TempDir,
    bin: PathBuf,
    port: u16,
    process: Mutex<Option<Child>>,
}

/// Debian's programs, or those on the path.
fn programs() -> Option<PathBuf> {
    let debian = std::fs::read_dir("/usr/lib/postgresql").ok().into_iter().flatten().flatten();
    let debian = debian.map(|version| version.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = debian.chain(std::env::split_paths(&path));
    places.find(|bin| bin.join("initdb").exists() && bin.join("postgres").exists())
}

/// Runs a script as a user that PostgreSQL runs as: not as root.
fn unprivileged(script: &str) -> Command {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout.starts_with(b"0\n"));
    let mut command = Command::new(if is_root { "runuser" } else { "sh" });
    if is_root {
        command.args(["-u", "postgres", "--", "sh"]);
    }
    command.args(["-c", script]);
    command
}

impl Server {
    /// A new server, with TLS if `openssl` is there; `None`, with a word on standard error, where there is no
    /// PostgreSQL.
    pub fn start() -> Option<Self> {
        let started = programs().and_then(|bin| Self::start_in(bin.as_path()));
        if started.is_none() {
            eprintln!(
                "skipped: no PostgreSQL server can be started here; install Debian's package postgresql"
            );
        }
        started
    }

    fn start_in(bin: &Path) -> Option<Self> {
        let directory = tempfile::Builder::new().prefix("tidemill-pg").tempdir().ok()?;
        let path = directory.path().display().to_string();
        Command::new("chmod").args(["777", &path]).status().ok()?;
        let port = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        let server = Self { directory, bin: bin.to_path_buf(), port, process: Mutex::new(None) };
        let bin = bin.display();
        let script = format!(
            "cd {path} && echo sesame >pw && {bin}/initdb -D data -A scram-sha-256 --pwfile=pw -U tidemill --no-sync \
             -E UTF8 --locale=C.UTF-8 >initdb.log 2>&1 || exit 1
             {{ openssl req -new -x509 -days 2 -nodes -subj /CN=tests -keyout ca.key -out authority.crt &&
             openssl req -new -nodes -subj /CN=localhost -keyout data/server.key -out server.csr &&
             echo subjectAltName=DNS:localhost >names && openssl x509 -req -days 2 -in server.csr -CA authority.crt \
             -CAkey ca.key -CAcreateserial -extfile names -out data/server.crt && chmod 600 data/server.key &&
             mv authority.crt ca.crt; }} >tls.log 2>&1
             exit 0"
        );
        if !unprivileged(&script).status().ok()?.success() {
            return None;
        }
        server.run();
        server.is_ready().then_some(server)
    }

    /// Starts the process; it runs as long as its standard input is open.
    pub fn run(&self) {
        let (path, bin, port) = (self.directory.path().display(), self.bin.display(), self.port);
        let tls = if self.certificate().exists() { "on" } else { "off" };
        let script = format!(
            "cd {path} || exit 1
             {bin}/postgres -D data -p {port} -k {path} -c listen_addresses=127.0.0.1 -c ssl={tls} -c fsync=off \
             >>server.log 2>&1 & pid=$!
             test \"$(cat)\" = keep && exit 0
             kill -QUIT $pid; wait $pid; rm -rf data *.log"
        );
        let process = unprivileged(&script).stdin(Stdio::piped()).spawn().unwrap();
        *self.process.lock().unwrap() = Some(process);
    }

    /// Starts the process again after it was killed. What is left of it may be in the way for a moment.
    #[allow(dead_code)]
    pub fn come_back(&self) {
        for _ in 0..10 {
            self.run();
            for _ in 0..60 {
                if self.psql("postgres", "SELECT 1").is_ok() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            if let Some(mut process) = self.process.lock().unwrap().take() {
                let _ = process.stdin.take().unwrap().write_all(b"keep");
                process.wait().unwrap();
            }
        }
        panic!("the server does not come back");
    }

    fn is_ready(&self) -> bool {
        for _ in 0..600 {
            if self.psql("postgres", "SELECT 1").is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    /// Kills the server as a power cut would.
    pub fn kill(&self) {
        let number = std::fs::read_to_string(self.directory.path().join("data/postmaster.pid")).ok();
        let number = number.or_else(|| {
            let read = format!("cat {}/data/postmaster.pid", self.directory.path().display());
            let output = unprivileged(&read).output().ok()?;
            String::from_utf8(output.stdout).ok()
        });
        let number = number.and_then(|text| text.lines().next().map(str::to_string)).unwrap();
        assert!(unprivileged(&format!("kill -KILL {number}")).status().unwrap().success());
        // What it has stays.
        if let Some(mut process) = self.process.lock().unwrap().take() {
            let _ = process.stdin.take().unwrap().write_all(b"keep");
            process.wait().unwrap();
        }
    }

    /// The URL of a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgresql://tidemill:sesame@localhost:{}/{database}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The certificate of the server's authority, if it has TLS.
    pub fn certificate(&self) -> PathBuf {
        self.directory.path().join("ca.crt")
    }

    /// What `psql` prints of a statement: a line for each row, with `|` between values.
    pub fn psql(&self, database: &str, sql: &str) -> Result<Vec<String>, String> {
        let mut command = Command::new(self.bin.join("psql"));
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-P", "null=null"]);
        command.args(["-d", &self.url(database), "-c", sql]).env("PGTZ", "UTC");
        let output = command.output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_string).collect())
    }
}
