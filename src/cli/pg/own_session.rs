//! What pools and drivers say about their own session: `DISCARD`, `RESET`, `DEALLOCATE`, `SAVEPOINT`.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::common::{DFSchema, ParamValues};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{EmptyRelation, LogicalPlan};
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::{DiscardObject, Reset, Statement};
use datafusion_postgres::QueryHook;
use datafusion_postgres::hooks::HookClient;
use datafusion_postgres::pgwire::api::ClientInfo;
use datafusion_postgres::pgwire::api::results::{Response, Tag};
use datafusion_postgres::pgwire::api::store::PortalStore;
use datafusion_postgres::pgwire::error::PgWireResult;

use super::statements::STATEMENT_TIMEOUT;

/// Answers them; there are no transactions to go back in, for nothing is written.
#[derive(Debug)]
pub(super) struct OwnSession {
    /// The settings that a session begins with.
    initial: ConfigOptions,
}

impl OwnSession {
    pub(super) fn of(context: &SessionContext) -> Self {
        Self { initial: context.state().config_options().as_ref().clone() }
    }

    fn answer(
        &self,
        statement: &Statement,
        context: &SessionContext,
        client: &mut dyn HookClient,
    ) -> Option<Response> {
        let done = |tag: &str| Some(Response::Execution(Tag::new(tag)));
        match statement {
            Statement::Discard { object_type } => {
                if *object_type == DiscardObject::ALL {
                    self.reset(context, client);
                }
                done(&format!("DISCARD {object_type}"))
            }
            Statement::Reset(reset) => {
                match &reset.reset {
                    Reset::ALL => self.reset(context, client),
                    Reset::ConfigurationParameter(name) => {
                        self.reset_one(&name.to_string().to_lowercase(), context, client);
                    }
                }
                done("RESET")
            }
            Statement::Deallocate { name, .. }
                if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("all") =>
            {
                done("DEALLOCATE ALL")
            }
            Statement::Deallocate { name, .. } => {
                client.portal_store().rm_statement(&name.value);
                done("DEALLOCATE")
            }
            Statement::Savepoint { .. } => done("SAVEPOINT"),
            Statement::ReleaseSavepoint { .. } => done("RELEASE"),
            // The transaction goes on, also if it had failed.
            Statement::Rollback { savepoint: Some(_), .. } => {
                Some(Response::TransactionStart(Tag::new("ROLLBACK")))
            }
            _ => None,
        }
    }

    fn reset(&self, context: &SessionContext, client: &mut dyn HookClient) {
        *context.state_ref().write().config_mut().options_mut() = self.initial.clone();
        client.metadata_mut().remove(STATEMENT_TIMEOUT);
    }

    fn reset_one(&self, name: &str, context: &SessionContext, client: &mut dyn HookClient) {
        if name == "statement_timeout" {
            client.metadata_mut().remove(STATEMENT_TIMEOUT);
        }
        let known = self.initial.entries().into_iter().find(|entry| entry.key == name);
        if let Some(value) = known.and_then(|entry| entry.value) {
            // It was valid before.
            let _ = context.state_ref().write().config_mut().options_mut().set(name, &value);
        }
    }
}

fn is_answered(statement: &Statement) -> bool {
    matches!(
        statement,
        Statement::Discard { .. }
            | Statement::Reset(_)
            | Statement::Deallocate { .. }
            | Statement::Savepoint { .. }
            | Statement::ReleaseSavepoint { .. }
            | Statement::Rollback { savepoint: Some(_), .. }
    )
}

#[async_trait]
impl QueryHook for OwnSession {
    async fn handle_simple_query(
        &self,
        statement: &Statement,
        context: &SessionContext,
        client: &mut dyn HookClient,
    ) -> Option<PgWireResult<Response>> {
        self.answer(statement, context, client).map(Ok)
    }

    async fn handle_extended_parse_query(
        &self,
        statement: &Statement,
        _: &SessionContext,
        _: &(dyn ClientInfo + Send + Sync),
    ) -> Option<PgWireResult<LogicalPlan>> {
        let nothing = EmptyRelation { produce_one_row: false, schema: Arc::new(DFSchema::empty()) };
        is_answered(statement).then_some(Ok(LogicalPlan::EmptyRelation(nothing)))
    }

    async fn handle_extended_query(
        &self,
        statement: &Statement,
        _: &LogicalPlan,
        _: &ParamValues,
        context: &SessionContext,
        client: &mut dyn HookClient,
    ) -> Option<PgWireResult<Response>> {
        self.answer(statement, context, client).map(Ok)
    }
}
