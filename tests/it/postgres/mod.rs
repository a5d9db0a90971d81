//! Tables of a real PostgreSQL server, which these tests start and look into with `psql`. Where there is none they
//! say so and pass; CI installs Debian's package.

mod breaking;
mod crashes;
mod reading;
#[path = "../../services/postgres.rs"]
mod server;
mod writing;

use std::sync::LazyLock;

use crate::support::harness::{Job, Place, id_lines};
use server::Server;

/// One for all tests that do not kill it.
static SERVER: LazyLock<Option<Server>> = LazyLock::new(Server::start);

/// A database of one test's own.
struct Database<'a> {
    server: &'a Server,
    name: String,
}

impl Database<'static> {
    /// `None` where there is no server.
    fn new(name: &str) -> Option<Self> {
        SERVER.as_ref().map(|server| Database::on(server, name))
    }
}

impl<'a> Database<'a> {
    fn on(server: &'a Server, name: &str) -> Self {
        server.psql("postgres", &format!("CREATE DATABASE {name}")).unwrap();
        Self { server, name: name.into() }
    }

    fn url(&self) -> String {
        self.server.url(&self.name)
    }

    fn run(&self, sql: &str) {
        self.rows(sql);
    }

    /// The rows, with `|` between values.
    fn rows(&self, sql: &str) -> Vec<String> {
        self.server.psql(&self.name, sql).unwrap()
    }

    fn job(&self, place: &Place, table: &str) -> Job {
        Job::new(place).format("postgres").out(None).option("url", self.url()).option("table", table)
    }
}

/// Files of two rows each: `10n` and `10n + 1`.
fn put(place: &Place, files: std::ops::Range<i64>) {
    files.for_each(|file| place.put(&format!("in/{file}.json"), id_lines([10 * file, 10 * file + 1])));
}
