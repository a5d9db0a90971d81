//! Queries that were not prepared, planned as they were parsed.
//!
//! The service prints a parsed statement and has it parsed again, in another dialect, in which `^` is no power and
//! operators bind otherwise; prepared statements it plans as they are.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::common::ParamValues;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast::Statement;
use datafusion_postgres::QueryHook;
use datafusion_postgres::arrow_pg::datatypes::df;
use datafusion_postgres::hooks::HookClient;
use datafusion_postgres::pgwire::api::ClientInfo;
use datafusion_postgres::pgwire::api::portal::Format;
use datafusion_postgres::pgwire::api::results::Response;
use datafusion_postgres::pgwire::error::{PgWireError, PgWireResult};
use datafusion_postgres::pgwire::types::format::FormatOptions;

use super::rewritten::as_planned;
use super::statements::{STATEMENT_TIMEOUT, timed_out};
use super::values::as_postgres_has_them;

/// The last of the hooks: what the others leave.
#[derive(Debug)]
pub(super) struct Simple;

async fn answer(
    statement: &Statement,
    context: &SessionContext,
    client: &dyn HookClient,
) -> PgWireResult<Response> {
    let failed = |error: DataFusionError| PgWireError::ApiError(Box::new(error));
    let statement = as_planned(statement).unwrap_or_else(|| statement.clone());
    let statement = DataFusionStatement::Statement(Box::new(statement));
    let planned = async {
        let plan = context.state().statement_to_plan(statement).await?;
        Ok::<_, DataFusionError>((plan.clone(), context.execute_logical_plan(plan).await?))
    };
    let timeout = client.metadata().get(STATEMENT_TIMEOUT).and_then(|text| text.parse().ok());
    let planned = match timeout.filter(|timeout| *timeout > 0) {
        Some(timeout) => {
            tokio::time::timeout(Duration::from_millis(timeout), planned).await.map_err(|_| timed_out())?
        }
        None => planned.await,
    };
    let (plan, frame) = planned.map_err(failed)?;
    let options = Arc::new(FormatOptions::from_client_metadata(client.metadata()));
    let rows = df::encode_dataframe(frame, &Format::UnifiedText, Some(options)).await?;
    let mut response = Response::Query(rows);
    as_postgres_has_them(&mut response, &plan);
    Ok(response)
}

#[async_trait]
impl QueryHook for Simple {
    async fn handle_simple_query(
        &self,
        statement: &Statement,
        context: &SessionContext,
        client: &mut dyn HookClient,
    ) -> Option<PgWireResult<Response>> {
        match statement {
            Statement::Query(_) => Some(answer(statement, context, client).await),
            _ => None,
        }
    }

    async fn handle_extended_parse_query(
        &self,
        statement: &Statement,
        context: &SessionContext,
        _: &(dyn ClientInfo + Send + Sync),
    ) -> Option<PgWireResult<LogicalPlan>> {
        let statement = DataFusionStatement::Statement(Box::new(as_planned(statement)?));
        let plan = context.state().statement_to_plan(statement).await;
        Some(plan.map_err(|error| PgWireError::ApiError(Box::new(error))))
    }

    async fn handle_extended_query(
        &self,
        _: &Statement,
        _: &LogicalPlan,
        _: &ParamValues,
        _: &SessionContext,
        _: &mut dyn HookClient,
    ) -> Option<PgWireResult<Response>> {
        None
    }
}
