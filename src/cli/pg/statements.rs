//! How statements are answered: by DataFusion, as long as the client wants the answer.

use std::fmt::Debug;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use datafusion_postgres::pgwire::api::portal::Portal;
use datafusion_postgres::pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use datafusion_postgres::pgwire::api::results::{QueryResponse, Response, Tag};
use datafusion_postgres::pgwire::api::store::PortalStore;
use datafusion_postgres::pgwire::api::{ClientInfo, ClientPortalStore, ConnectionHandle};
use datafusion_postgres::pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use datafusion_postgres::pgwire::messages::PgWireBackendMessage;
use datafusion_postgres::{DfSessionService, Parser};
use futures::future::BoxFuture;
use futures::{FutureExt, Sink, StreamExt, stream};
use tidemill::sql::SqlSession;

use super::subscribe::{self, Wanted};
use super::values::as_postgres_has_them;
use crate::cli::subscription::Commits;

/// Where `SET statement_timeout` leaves its milliseconds.
pub(super) const STATEMENT_TIMEOUT: &str = "statement_timeout_ms";

/// PostgreSQL's code for a statement that was ended from outside.
const QUERY_CANCELED: &str = "57014";

/// That it was ended because it took too long.
pub(super) fn timed_out() -> PgWireError {
    let message = "canceling statement due to statement timeout".to_string();
    PgWireError::UserError(Box::new(ErrorInfo::new("ERROR".into(), QUERY_CANCELED.into(), message)))
}

/// Answers the statements of one connection.
pub(super) struct Statements {
    pub(super) service: Arc<DfSessionService>,
    /// Weak, for the session ends its queries when nobody has it any more.
    pub(super) sql: Weak<SqlSession>,
    pub(super) commits: Arc<Commits>,
}

#[async_trait]
impl SimpleQueryHandler for Statements {
    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if let Some(wanted) = Wanted::of(query) {
            let rows = subscribe::send(client, wanted?, &self.sql, &self.commits).await?;
            return Ok(vec![Response::Execution(Tag::new("SUBSCRIBE").with_rows(rows))]);
        }
        let service = self.service.as_ref();
        let mut responses = SimpleQueryHandler::do_query(service, client, query).await?;
        let end = end_of(client).await.shared();
        for response in &mut responses {
            until(response, end.clone().boxed());
        }
        Ok(responses)
    }
}

#[async_trait]
impl ExtendedQueryHandler for Statements {
    type Statement = <DfSessionService as ExtendedQueryHandler>::Statement;
    type QueryParser = Parser;

    fn query_parser(&self) -> Arc<Self::QueryParser> {
        self.service.query_parser()
    }

    async fn do_query<C>(
        &self,
        client: &mut C,
        portal: &Portal<Self::Statement>,
        max_rows: usize,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Self::Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let mut response =
            ExtendedQueryHandler::do_query(self.service.as_ref(), client, portal, max_rows).await?;
        if let Some((_, plan)) = &portal.statement.statement.1 {
            as_postgres_has_them(&mut response, plan);
        }
        until(&mut response, end_of(client).await);
        Ok(response)
    }
}

/// When the answer that is about to be sent has to end, and what the client is told then.
async fn end_of<C: ClientInfo + ?Sized>(client: &C) -> BoxFuture<'static, &'static str> {
    let timeout = client.metadata().get(STATEMENT_TIMEOUT).and_then(|text| text.parse().ok());
    let timeout = timeout.filter(|timeout| *timeout > 0).map(Duration::from_millis);
    // The receiver that there was is for the planning of the statement, which is over. This must not wait, or the
    // planning would seem cancelled.
    let cancelled = match client.session_extensions().get::<Arc<ConnectionHandle>>() {
        Some(connection) => Some(tokio::task::unconstrained(connection.start_query()).await),
        None => None,
    };
    async move {
        let cancelled = async {
            let told = match cancelled {
                Some(cancelled) => cancelled.await.is_ok(),
                None => false,
            };
            if !told {
                // The next statement has begun: this one is over.
                std::future::pending().await
            }
        };
        let over = async {
            match timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = cancelled => "canceling statement due to user request",
            () = over => "canceling statement due to statement timeout",
        }
    }
    .boxed()
}

/// Ends the rows of `response` with an error at `end`.
fn until(response: &mut Response, end: BoxFuture<'static, &'static str>) {
    let Response::Query(QueryResponse { data_rows, .. }) = response else { return };
    let rows = std::mem::replace(data_rows, stream::empty().boxed());
    *data_rows = stream::unfold(Some((rows, end)), |left| async {
        let (mut rows, mut end) = left?;
        tokio::select! {
            biased;
            message = &mut end => {
                let error = ErrorInfo::new("ERROR".into(), QUERY_CANCELED.into(), message.into());
                Some((Err(PgWireError::UserError(Box::new(error))), None))
            }
            row = rows.next() => row.map(|row| (row, Some((rows, end)))),
        }
    })
    .boxed();
}
