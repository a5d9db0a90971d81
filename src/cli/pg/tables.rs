//! The tables of a session as another one sees them.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::{SchemaProvider, Session, TableProvider};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use tidemill::sql::SqlSession;

/// The tables of a session, each as it is when a statement over it is planned. They can only be read.
pub(super) struct Tables {
    /// Weak, for the session ends its queries when nobody has it any more.
    sql: Weak<SqlSession>,
}

impl Tables {
    pub(super) fn of(sql: &Arc<SqlSession>) -> Self {
        Self { sql: Arc::downgrade(sql) }
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
            Ok(table) => Ok(table),
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
