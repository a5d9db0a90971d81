//! What a connection may ask for: what reads, and what sets something for itself.

use async_trait::async_trait;
use datafusion::common::ParamValues;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::{ObjectName, Query, Set, SetExpr, Statement};
use datafusion_postgres::QueryHook;
use datafusion_postgres::hooks::HookClient;
use datafusion_postgres::pgwire::api::ClientInfo;
use datafusion_postgres::pgwire::api::results::Response;
use datafusion_postgres::pgwire::error::{ErrorInfo, PgWireError, PgWireResult};

/// Refuses what would change something.
#[derive(Debug)]
pub(super) struct ReadOnly;

/// PostgreSQL's code for it.
const READ_ONLY_TRANSACTION: &str = "25006";

/// Whether `statement` changes nothing that others see. What is not known not to is refused.
fn only_reads(statement: &Statement) -> bool {
    match statement {
        Statement::Query(query) => query_only_reads(query),
        Statement::Explain { statement, .. } => only_reads(statement),
        Statement::Set(set) => !sets_runtime(set),
        Statement::Reset(_)
        | Statement::ShowVariable { .. }
        | Statement::ShowStatus { .. }
        | Statement::ShowTables { .. }
        | Statement::ShowColumns { .. }
        | Statement::ExplainTable { .. }
        | Statement::StartTransaction { .. }
        | Statement::Commit { .. }
        | Statement::Rollback { .. }
        | Statement::Savepoint { .. }
        | Statement::ReleaseSavepoint { .. }
        | Statement::Fetch { .. }
        | Statement::Close { .. }
        | Statement::Discard { .. }
        | Statement::Deallocate { .. } => true,
        Statement::Declare { stmts } => stmts
            .iter()
            .all(|declared| declared.for_query.as_ref().is_none_or(|query| query_only_reads(query))),
        _ => false,
    }
}

/// Whether it sets what belongs to the process: its memory, its directories.
fn sets_runtime(set: &Set) -> bool {
    let is_of_the_process = |name: &ObjectName| name.to_string().to_lowercase().contains("runtime.");
    match set {
        Set::SingleAssignment { variable, .. } => is_of_the_process(variable),
        Set::ParenthesizedAssignments { variables, .. } => variables.iter().any(is_of_the_process),
        Set::MultipleAssignments { assignments } => {
            assignments.iter().any(|assignment| is_of_the_process(&assignment.name))
        }
        _ => false,
    }
}

fn query_only_reads(query: &Query) -> bool {
    let with = query.with.iter().flat_map(|with| &with.cte_tables);
    with.into_iter().all(|table| query_only_reads(&table.query)) && body_only_reads(&query.body)
}

fn body_only_reads(body: &SetExpr) -> bool {
    match body {
        SetExpr::Select(select) => select.into.is_none(),
        SetExpr::Query(query) => query_only_reads(query),
        SetExpr::SetOperation { left, right, .. } => body_only_reads(left) && body_only_reads(right),
        SetExpr::Values(_) | SetExpr::Table(_) => true,
        _ => false,
    }
}

fn check(statement: &Statement) -> PgWireResult<()> {
    if only_reads(statement) {
        return Ok(());
    }
    let text = statement.to_string();
    let what: Vec<&str> = text.split_whitespace().take(2).collect();
    let message = format!("cannot execute {} …: tidemill's tables can only be read here", what.join(" "));
    let error = ErrorInfo::new("ERROR".into(), READ_ONLY_TRANSACTION.into(), message);
    Err(PgWireError::UserError(Box::new(error)))
}

#[async_trait]
impl QueryHook for ReadOnly {
    async fn handle_simple_query(
        &self,
        statement: &Statement,
        _: &SessionContext,
        _: &mut dyn HookClient,
    ) -> Option<PgWireResult<Response>> {
        check(statement).err().map(Err)
    }

    async fn handle_extended_parse_query(
        &self,
        statement: &Statement,
        _: &SessionContext,
        _: &(dyn ClientInfo + Send + Sync),
    ) -> Option<PgWireResult<LogicalPlan>> {
        check(statement).err().map(Err)
    }

    async fn handle_extended_query(
        &self,
        statement: &Statement,
        _: &LogicalPlan,
        _: &ParamValues,
        _: &SessionContext,
        _: &mut dyn HookClient,
    ) -> Option<PgWireResult<Response>> {
        check(statement).err().map(Err)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    #[test]
    fn what_changes_something_is_refused() {
        let reads = |text: &str| {
            let statements = Parser::parse_sql(&PostgreSqlDialect {}, text).unwrap();
            statements.iter().all(only_reads)
        };
        for text in [
            "SELECT 1",
            "WITH a AS (SELECT 1) SELECT * FROM a UNION SELECT 2",
            "VALUES (1)",
            "EXPLAIN SELECT 1",
            "SHOW server_version",
            "SET statement_timeout = 1000",
            "BEGIN",
            "COMMIT",
            "ROLLBACK",
            "DECLARE c CURSOR FOR SELECT 1",
            "CLOSE c",
            "SET datafusion.execution.batch_size = 10",
            "DISCARD ALL",
            "RESET ALL",
            "DEALLOCATE ALL",
            "SAVEPOINT a",
        ] {
            assert!(reads(text), "{text}");
        }
        for text in [
            "CREATE TABLE t (a INT)",
            "CREATE TABLE t AS SELECT 1",
            "CREATE VIEW v AS SELECT 1",
            "INSERT INTO t VALUES (1)",
            "UPDATE t SET a = 1",
            "DELETE FROM t",
            "DROP TABLE t",
            "TRUNCATE t",
            "SELECT 1 INTO t",
            "SELECT 1 UNION SELECT 2 INTO t",
            "EXPLAIN ANALYZE INSERT INTO t VALUES (1)",
            "WITH a AS (INSERT INTO t VALUES (1) RETURNING a) SELECT * FROM a",
            "COPY t TO '/tmp/x'",
            "COPY (SELECT 1) TO '/tmp/x'",
            "SET datafusion.runtime.temp_directory = '/any'",
            "SET \"datafusion.runtime.memory_limit\" = '1G'",
            "SET LOCAL DataFusion.Runtime.memory_limit = '1G'",
        ] {
            assert!(Parser::parse_sql(&PostgreSqlDialect {}, text).is_err() || !reads(text), "{text}");
        }
    }
}
