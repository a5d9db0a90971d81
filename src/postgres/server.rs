//! A server, connections to it, and what it says when something fails.

use std::error::Error as _;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config, Connection, NoTls, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::tls::TlsMode;
use crate::error::{Error, Result};
use crate::options::Options;

/// How long after a failure a server is asked again, at first; twice as long after each further one…
const PAUSE: Duration = Duration::from_millis(50);
/// …up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a server is asked that has answered before, unless `retryTimeout` says so.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a server is asked that has never answered: its name may be wrong.
const FIRST_PATIENCE: Duration = Duration::from_secs(3);
/// How long one attempt may take, unless the URL says so.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What went wrong on a connection, and whether it may go better on another one.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) passes: bool,
    /// Whether a server said so, and not the network.
    is_answer: bool,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, passes: false, is_answer: false }
    }
}

impl Failure {
    /// What the server, or the network, said when `operation` was tried on `what`.
    pub(super) fn new(operation: &'static str, what: &str, error: &tokio_postgres::Error) -> Self {
        let is_answer = error.as_db_error().is_some();
        Self { error: Error::storage(operation, what, said(error)), passes: may_pass(error), is_answer }
    }
}

/// A database and how to get there.
pub(super) struct Server {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    /// Host and database: nothing that has to be kept secret.
    name: String,
    patience: Duration,
    has_answered: AtomicBool,
    retries: AtomicU64,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Server {
    /// What the option `url` (or `location`) says: `postgresql://user:password@host:port/database` or
    /// `host=… user=… dbname=…`. Without a password, that of the environment's `PGPASSWORD` is used.
    pub(super) fn try_new(location: Option<&str>, options: &Options) -> Result<Self> {
        let url = options.get("url").or(location).filter(|url| !url.trim().is_empty()).ok_or_else(|| {
            Error::Invalid(
                "a PostgreSQL table needs the option 'url' (in SQL also LOCATION): \
                 'postgresql://user@host:5432/database'"
                    .into(),
            )
        })?;
        // The value may hold a password, so it is not repeated.
        let invalid = |reason: String| {
            Error::option(
                "url",
                "…",
                format!("{reason}; expected postgresql://user:password@host:port/database"),
            )
        };
        let (mode, url) = TlsMode::take(url)?;
        let mut config = Config::from_str(&url).map_err(|error| invalid(said(&error)))?;
        if config.get_hosts().is_empty() {
            return Err(invalid("it names no host".into()));
        }
        if config.get_password().is_none()
            && let Ok(password) = std::env::var("PGPASSWORD")
        {
            config.password(password);
        }
        if config.get_user().is_none() {
            config.user(
                std::env::var("PGUSER").or_else(|_| std::env::var("USER")).unwrap_or("postgres".into()),
            );
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_application_name().is_none() {
            config.application_name("tidemill");
        }
        config.ssl_mode(mode.negotiated());
        let hosts: Vec<String> = config.get_hosts().iter().map(host).collect();
        let name = format!("{}/{}", hosts.join(","), config.get_dbname().unwrap_or("postgres"));
        Ok(Self {
            config,
            tls: mode.connector()?,
            name,
            patience: options.duration("retryTimeout")?.unwrap_or(PATIENCE),
            has_answered: AtomicBool::new(false),
            retries: AtomicU64::new(0),
        })
    }

    /// Host and database.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether connections are made in the same way, to the same database.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.config == other.config
    }

    /// A new connection. A server that does not answer, is just starting, or has no room, is asked again.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        let (mut backoff, started) = (self.backoff(), Instant::now());
        loop {
            match self.connect_once().await {
                Ok(client) => {
                    self.has_answered.store(true, Ordering::Relaxed);
                    return Ok(client);
                }
                Err(failure) => {
                    if failure.is_answer {
                        // It is there, and only not ready.
                        self.has_answered.store(true, Ordering::Relaxed);
                        backoff.until = backoff.until.max(started + self.patience);
                    }
                    if !failure.passes || !backoff.wait(&failure.error).await {
                        // It was asked for long enough.
                        return Err(Failure { passes: false, ..failure });
                    }
                }
            }
        }
    }

    async fn connect_once(&self) -> Result<Client, Failure> {
        let refused = |error| Failure::new("connect to", &self.name, &error);
        Ok(match &self.tls {
            None => {
                let (client, connection) = self.config.connect(NoTls).await.map_err(refused)?;
                self.drive(connection);
                client
            }
            Some(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await.map_err(refused)?;
                self.drive(connection);
                client
            }
        })
    }

    fn drive<S, T>(&self, connection: Connection<S, T>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let name = self.name.clone();
        tokio::spawn(async move {
            // Whoever uses the client learns of it, too.
            if let Err(error) = connection.await {
                tracing::debug!(server = %name, error = %said(&error), "the connection ended");
            }
        });
    }

    /// The pauses between attempts at something that failed.
    pub(super) fn backoff(&self) -> Backoff<'_> {
        let first = !self.has_answered.load(Ordering::Relaxed);
        let patience = if first { self.patience.min(FIRST_PATIENCE) } else { self.patience };
        Backoff { server: self, until: Instant::now() + patience, pause: PAUSE }
    }

    /// How often something was tried again, since this was last asked.
    pub(super) fn take_retries(&self) -> u64 {
        self.retries.swap(0, Ordering::Relaxed)
    }
}

fn host(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(path) => path.display().to_string(),
    }
}

/// Pauses that become longer, until patience ends.
pub(super) struct Backoff<'a> {
    server: &'a Server,
    until: Instant,
    pause: Duration,
}

impl Backoff<'_> {
    /// Waits before another attempt; `false`: no more of them.
    pub(super) async fn wait(&mut self, error: &Error) -> bool {
        if Instant::now() + self.pause > self.until {
            return false;
        }
        self.server.retries.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(server = %self.server, %error, "it is tried again");
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}

/// Whether it may go better on another connection: what the network does, and what a server says that starts,
/// stops, has no room just now, or has given another transaction preference.
fn may_pass(error: &tokio_postgres::Error) -> bool {
    match error.as_db_error() {
        Some(error) => {
            let code = error.code().code();
            ["08", "53", "57P0", "40001", "40P01", "25006"].iter().any(|class| code.starts_with(class))
        }
        None => {
            let is_of_the_network = |source: &(dyn std::error::Error + 'static)| {
                source.downcast_ref::<std::io::Error>().is_some()
            };
            error.is_closed() || error.source().is_some_and(is_of_the_network)
        }
    }
}

/// What the server, or the network, says.
fn said(error: &tokio_postgres::Error) -> String {
    if let Some(error) = error.as_db_error() {
        let more = [error.detail(), error.hint(), error.where_()].into_iter().flatten();
        return more.fold(error.message().to_string(), |text, more| format!("{text}. {more}"));
    }
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// The rows of a statement, as texts.
pub(super) async fn texts(
    client: &Client,
    sql: &str,
    (operation, what): (&'static str, &str),
) -> Result<Vec<Vec<Option<String>>>, Failure> {
    let messages = client.simple_query(sql).await.map_err(|error| Failure::new(operation, what, &error))?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|at| row.get(at).map(ToString::to_string)).collect())
        }
        _ => None,
    });
    Ok(rows.collect())
}

/// A name as it stands in a statement.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as it stands in a statement.
pub(super) fn literal(text: &str) -> String {
    let text = text.replace('\'', "''");
    if text.contains('\\') { format!("E'{}'", text.replace('\\', "\\\\")) } else { format!("'{text}'") }
}

/// Names in a row.
pub(super) fn list(names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    names.into_iter().map(|name| quoted(name.as_ref())).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> Result<Server> {
        Server::try_new(Some(url), &Options::default())
    }

    #[test]
    fn a_url_is_shown_without_its_password() {
        let server_of = server("postgresql://ann:secret@db.example:5433/shop?sslmode=disable").unwrap();
        assert_eq!(
            (server_of.to_string().as_str(), format!("{server_of:?}").as_str()),
            ("db.example/shop", "db.example/shop")
        );
        for (url, reason) in [
            ("", "needs the option 'url'"),
            ("postgresql://", "it names no host"),
            ("postgresql://ann:secret@host/shop?sslmode=on", "'sslmode' = 'on'"),
            (
                "postgresql://ann:secret@host/shop?sslrootcert=/nowhere/ca.pem&sslmode=verify-full",
                "/nowhere/ca.pem",
            ),
            ("ann:secret@host", "expected postgresql://"),
            ("postgresql://ann:secret@host/shop?colour=red", "colour"),
        ] {
            let error = server(url).unwrap_err().to_string();
            assert!(error.contains(reason) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn names_and_texts_are_quoted() {
        assert_eq!(list(["a", "B\"c"]), r#""a", "B""c""#);
        assert_eq!([literal("it's"), literal("a\\b")], ["'it''s'", "E'a\\\\b'"]);
    }

    #[tokio::test]
    async fn nobody_is_asked_for_ever() {
        let options = [("retryTimeout", "500 ms")].into_iter().collect();
        let server = Server::try_new(Some("host=localhost user=x"), &options).unwrap();
        let mut backoff = server.backoff();
        let error = Error::Invalid("no".into());
        let mut waited = 0;
        while backoff.wait(&error).await {
            waited += 1;
        }
        // 50, 100 and 200 milliseconds.
        assert!((1..=3).contains(&waited), "{waited}");
        assert_eq!((server.take_retries(), server.take_retries()), (waited, 0));
    }
}
