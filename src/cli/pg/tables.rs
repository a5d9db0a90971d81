//! The tables of a session as another one sees them.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::{SchemaProvider, Session, TableProvider};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use tidemill::sql::SqlSession;
use tokio::sync::Mutex;

/// The tables of a session, each as it is when a statement over it is executed. They can only be read.
pub(super) struct Tables {
    /// Weak, for the session ends its queries when nobody has it any more.
    sql: Weak<SqlSession>,
    seen: Arc<Mutex<Seen>>,
}

/// What the statement sees that is being executed: all of its own, however often it looks.
#[derive(Debug, Default)]
struct Seen {
    /// When it began, which no other statement of the connection did.
    statement: Option<DateTime<Utc>>,
    tables: HashMap<String, Arc<dyn TableProvider>>,
}

impl Tables {
    /// For one connection.
    pub(super) fn of(sql: &Arc<SqlSession>) -> Self {
        Self { sql: Arc::downgrade(sql), seen: Arc::default() }
    }

    fn schema(&self) -> Option<Arc<dyn SchemaProvider>> {
        let state = self.sql.upgrade()?.session().context().state();
        state.schema_for_ref("t").ok()
    }
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tables").finish_non_exhaustive()
    }
}

#[async_trait]
impl SchemaProvider for Tables {
    fn table_names(&self) -> Vec<String> {
        self.schema().map_or_else(Vec::new, |schema| schema.table_names())
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        let Some(sql) = self.sql.upgrade() else { return Ok(None) };
        match sql.current_table(name).await {
            // Its plan names the tables.
            Ok(Some(view)) if view.get_logical_plan().is_some() => Ok(Some(view)),
            Ok(Some(planned)) => {
                let (sql, seen) = (self.sql.clone(), Arc::clone(&self.seen));
                Ok(Some(Arc::new(Current { name: name.to_string(), planned, sql, seen })))
            }
            Ok(None) => Ok(None),
            Err(tidemill::Error::Invalid(reason)) => Ok(Some(Arc::new(Unreadable { reason }))),
            Err(error) => Err(error.into()),
        }
    }

    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        Ok(self.table_exist(name).then_some(TableType::Base))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.schema().is_some_and(|schema| schema.table_exist(name))
    }
}

/// A table whose rows are those at the time of execution: a statement that was prepared is executed again and again.
struct Current {
    name: String,
    /// As it was when the statement was planned.
    planned: Arc<dyn TableProvider>,
    sql: Weak<SqlSession>,
    seen: Arc<Mutex<Seen>>,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Current {
    /// The table as the statement sees it that `state` executes.
    async fn now(&self, state: &dyn Session) -> Result<Arc<dyn TableProvider>> {
        let statement = state.execution_props().query_execution_start_time;
        let mut seen = self.seen.lock().await;
        if statement.is_none() || seen.statement != statement {
            *seen = Seen { statement, ..Seen::default() };
        }
        if let Some(table) = seen.tables.get(&self.name) {
            return Ok(Arc::clone(table));
        }
        let gone = || DataFusionError::Plan(format!("there is no table '{}' any more", self.name));
        let sql = self.sql.upgrade().ok_or_else(gone)?;
        let table = sql.current_table(&self.name).await?.ok_or_else(gone)?;
        seen.tables.insert(self.name.clone(), Arc::clone(&table));
        Ok(table)
    }
}

#[async_trait]
impl TableProvider for Current {
    fn schema(&self) -> SchemaRef {
        self.planned.schema()
    }

    fn table_type(&self) -> TableType {
        self.planned.table_type()
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        self.planned.supports_filters_pushdown(filters)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let table = self.now(state).await?;
        if table.schema().fields() != self.planned.schema().fields() {
            return Err(DataFusionError::Plan(format!(
                "the columns of '{}' are others than when the statement was prepared: prepare it again",
                self.name
            )));
        }
        table.scan(state, projection, filters, limit).await
    }
}

/// A table that there is, and that cannot be read: lists of tables have it.
#[derive(Debug)]
struct Unreadable {
    reason: String,
}

#[async_trait]
impl TableProvider for Unreadable {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::empty())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Err(DataFusionError::Plan(self.reason.clone()))
    }
}
