//! Tables of one server, read at one moment: in transactions that see the same snapshot.

use std::sync::Arc;

use datafusion::execution::TaskContext;
use tokio::sync::{Mutex, MutexGuard};
use tokio_postgres::Client;

use super::server::{Failure, Server, literal, texts};
use crate::error::Error;
use crate::source::Moment;

/// What a server has at one moment.
pub(super) struct Snapshot {
    server: Arc<Server>,
    exported: Mutex<Option<Exported>>,
}

/// A transaction whose snapshot others can take.
struct Exported {
    /// Keeps the transaction open.
    client: Arc<Client>,
    id: String,
    /// Whether something was read at this moment.
    is_used: bool,
}

impl Snapshot {
    /// That of the batch that `context` is of; one of its own otherwise.
    pub(super) fn of(context: &TaskContext, server: &Arc<Server>) -> Arc<Self> {
        let new = || Self { server: Arc::clone(server), exported: Mutex::default() };
        match Moment::of(context) {
            Some(moment) => moment.share(|known: &Self| known.server.is_same(server), new),
            None => Arc::new(new()),
        }
    }

    /// A connection in a transaction that sees what the others of this see.
    pub(super) async fn connect(&self) -> Result<Arc<Client>, Failure> {
        let mut exported = self.exported.lock().await;
        self.check(&mut exported)?;
        let Some(known) = exported.as_ref() else {
            let client = Arc::new(self.server.connect().await?);
            let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_export_snapshot()";
            let id = texts(&client, begin, ("begin to read", self.server.name())).await?;
            let id = id.into_iter().flatten().flatten().next().unwrap_or_default();
            *exported = Some(Exported { client: Arc::clone(&client), id, is_used: false });
            return Ok(client);
        };
        // Nobody reads on it any more.
        if Arc::strong_count(&known.client) == 1 {
            return Ok(Arc::clone(&known.client));
        }
        let client = self.server.connect().await?;
        let begin =
            format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT {}", literal(&known.id));
        match texts(&client, &begin, ("begin to read", self.server.name())).await {
            Ok(_) => Ok(Arc::new(client)),
            Err(failure) => {
                self.check(&mut exported)?;
                Err(failure)
            }
        }
    }

    /// Something is read at this moment, which is thereby settled.
    pub(super) async fn settle(&self) {
        if let Some(exported) = self.exported.lock().await.as_mut() {
            exported.is_used = true;
        }
    }

    /// Nothing could be read on the connection: as long as nothing was, there may be another moment.
    pub(super) async fn give_up(&self, client: &Arc<Client>) {
        let mut exported = self.exported.lock().await;
        if exported.as_ref().is_some_and(|known| !known.is_used && Arc::ptr_eq(&known.client, client)) {
            *exported = None;
        }
    }

    /// Forgets a moment that is over; fails if something was read at it.
    fn check(&self, exported: &mut MutexGuard<'_, Option<Exported>>) -> Result<(), Failure> {
        match exported.as_ref() {
            Some(known) if known.client.is_closed() && known.is_used => Err(Error::storage(
                "read tables of",
                self.server.name(),
                "the connection broke, and with it the moment at which the others of the batch were read",
            )
            .into()),
            Some(known) if known.client.is_closed() => {
                **exported = None;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
