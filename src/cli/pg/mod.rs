//! `--pg`: the results of the queries, for whatever speaks PostgreSQL's wire protocol. Nothing can be changed.

mod functions;
mod own_session;
mod read_only;
mod rewritten;
mod simple;
mod statements;
mod subscribe;
mod tables;
mod values;
mod wire_types;

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList,
};
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::SessionContext;
use datafusion_postgres::datafusion_pg_catalog::pg_catalog::context::EmptyContextProvider;
use datafusion_postgres::datafusion_pg_catalog::setup_pg_catalog;
use datafusion_postgres::hooks::cursor::CursorStatementHook;
use datafusion_postgres::hooks::set_show::SetShowHook;
use datafusion_postgres::hooks::transactions::TransactionStatementHook;
use datafusion_postgres::pgwire::api::auth::cleartext::CleartextPasswordAuthStartupHandler;
use datafusion_postgres::pgwire::api::auth::noop::NoopStartupHandler;
use datafusion_postgres::pgwire::api::auth::{
    AuthSource, DefaultServerParameterProvider, LoginInfo, Password, StartupHandler,
};
use datafusion_postgres::pgwire::api::cancel::{CancelHandler, DefaultCancelHandler};
use datafusion_postgres::pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use datafusion_postgres::pgwire::api::{ClientInfo, ConnectionManager, PgWireServerHandlers};
use datafusion_postgres::pgwire::error::{PgWireError, PgWireResult};
use datafusion_postgres::pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use datafusion_postgres::pgwire::tokio::process_socket;
use datafusion_postgres::{DfSessionService, QueryHook};
use futures::Sink;
use tidemill::sql::SqlSession;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::Semaphore;

use super::exit::Exit;
use super::http::{TOKEN, with_host};
use super::subscription::Commits;
use own_session::OwnSession;
use read_only::ReadOnly;
use simple::Simple;
use statements::Statements;
use tables::Tables;
use wire_types::WireTypes;

/// The database that clients find themselves in.
const DATABASE: &str = "tidemill";
const SCHEMA: &str = "public";

/// How many may be connected at a time.
const MOST_CONNECTIONS: usize = 100;

/// Takes connections at `address` until the process ends; gives where.
pub(super) async fn listen(address: &str, sql: Arc<SqlSession>) -> Result<SocketAddr, Exit> {
    let cannot = |error: std::io::Error| Exit::failed(format!("cannot listen on '{address}': {error}"));
    let listener = std::net::TcpListener::bind(with_host(address)).map_err(cannot)?;
    listener.set_nonblocking(true).map_err(cannot)?;
    let local = listener.local_addr().map_err(cannot)?;
    let password = std::env::var(TOKEN).ok().filter(|token| !token.is_empty());
    if password.is_none() && !local.ip().is_loopback() {
        return Err(Exit::usage(format!(
            "others can reach '{address}': set the password of connections in the environment variable {TOKEN}, or \
             listen on this machine alone, as with --pg {}",
            local.port()
        )));
    }
    let password = password.map(Arc::<str>::from);
    let connections = Arc::new(ConnectionManager::new());
    let commits = Commits::of(&sql);
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let serve = async move {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "the tables cannot be read"),
        };
        loop {
            // Unless there is a place for another one, the next waits.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let socket = match listener.accept().await {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not taken");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (sql, connections, password) = (Arc::clone(&sql), Arc::clone(&connections), password.clone());
            let commits = Arc::clone(&commits);
            tokio::spawn(async move {
                match Connection::new(&sql, commits, connections, password) {
                    Ok(connection) => {
                        if let Err(error) = process_socket(socket, None, Arc::new(connection)).await {
                            tracing::debug!(%error, "a connection has ended");
                        }
                    }
                    Err(error) => tracing::error!(%error, "a connection cannot be served"),
                }
                drop(place);
            });
        }
    };
    // Statements of others compute for as long as they like, on threads of their own, so that queries and their
    // triggers have theirs.
    let threads = runtime::Builder::new_multi_thread().thread_name("tidemill-pg").enable_all().build();
    let threads = threads.map_err(cannot)?;
    std::thread::spawn(move || threads.block_on(serve));
    Ok(local)
}

/// What one connection works with. It has a session of its own: what it sets, nobody else sees.
struct Connection {
    statements: Arc<Statements>,
    startup: Arc<Startup>,
    cancel: Arc<DefaultCancelHandler>,
}

impl Connection {
    fn new(
        sql: &Arc<SqlSession>,
        commits: Arc<Commits>,
        connections: Arc<ConnectionManager>,
        password: Option<Arc<str>>,
    ) -> datafusion::error::Result<Self> {
        let context = context(sql)?;
        let hooks: Vec<Arc<dyn QueryHook>> = vec![
            Arc::new(ReadOnly),
            Arc::new(OwnSession::of(&context)),
            Arc::new(CursorStatementHook),
            Arc::new(SetShowHook),
            Arc::new(TransactionStatementHook),
            Arc::new(Simple),
        ];
        let service = Arc::new(DfSessionService::new_with_hooks(Arc::new(context), hooks));
        let statements = Statements { service, sql: Arc::downgrade(sql), commits };
        let startup = match password {
            None => Startup::Open(Open(Arc::clone(&connections))),
            Some(password) => {
                let parameters = DefaultServerParameterProvider::default();
                let handler = CleartextPasswordAuthStartupHandler::new(Secret(password), parameters);
                Startup::Password(Box::new(handler.with_connection_manager(Arc::clone(&connections))))
            }
        };
        Ok(Self {
            statements: Arc::new(statements),
            startup: Arc::new(startup),
            cancel: Arc::new(DefaultCancelHandler::new(connections)),
        })
    }
}

/// A session with the functions and settings of that of `sql`, whose tables can be read and nothing else.
fn context(sql: &Arc<SqlSession>) -> datafusion::error::Result<SessionContext> {
    let state = sql.session().context().state();
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema(SCHEMA, Arc::new(Tables::of(sql)))?;
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog(DATABASE.into(), Arc::new(catalog));
    let mut config = state.config().clone().with_information_schema(true);
    let options = config.options_mut();
    options.catalog.create_default_catalog_and_schema = false;
    (options.catalog.default_catalog, options.catalog.default_schema) = (DATABASE.into(), SCHEMA.into());
    let state = SessionStateBuilder::new_from_existing(state)
        .with_session_id(uuid::Uuid::new_v4().to_string())
        .with_config(config)
        .with_catalog_list(Arc::new(catalogs))
        .with_analyzer_rule(Arc::new(WireTypes))
        .build();
    let context = SessionContext::new_with_state(state);
    setup_pg_catalog(&context, DATABASE, EmptyContextProvider).map_err(|error| *error)?;
    functions::register(&context);
    Ok(context)
}

impl PgWireServerHandlers for Connection {
    fn simple_query_handler(&self) -> Arc<impl SimpleQueryHandler> {
        Arc::clone(&self.statements)
    }

    fn extended_query_handler(&self) -> Arc<impl ExtendedQueryHandler> {
        Arc::clone(&self.statements)
    }

    fn startup_handler(&self) -> Arc<impl StartupHandler> {
        Arc::clone(&self.startup)
    }

    fn cancel_handler(&self) -> Arc<impl CancelHandler> {
        Arc::clone(&self.cancel)
    }
}

/// The password of all users.
#[derive(Clone)]
struct Secret(Arc<str>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

#[async_trait]
impl AuthSource for Secret {
    async fn get_password(&self, _: &LoginInfo) -> PgWireResult<Password> {
        Ok(Password::new(None, self.0.as_bytes().to_vec()))
    }
}

/// Lets in whoever comes.
struct Open(Arc<ConnectionManager>);

#[async_trait]
impl NoopStartupHandler for Open {
    fn connection_manager(&self) -> Option<Arc<ConnectionManager>> {
        Some(Arc::clone(&self.0))
    }
}

/// How a connection begins.
enum Startup {
    Open(Open),
    Password(Box<CleartextPasswordAuthStartupHandler<Secret, DefaultServerParameterProvider>>),
}

#[async_trait]
impl StartupHandler for Startup {
    async fn on_startup<C>(&self, client: &mut C, message: PgWireFrontendMessage) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: std::fmt::Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match self {
            Startup::Open(open) => open.on_startup(client, message).await,
            Startup::Password(password) => password.on_startup(client, message).await,
        }
    }
}
