//! What is accepted, and what is refused by what name.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::prelude::SessionContext;

use super::*;
use crate::checkpoint::records::SourceDefinition;
use crate::plan::StreamTable;
use crate::source::{Source, SourceContext, SourceProvider};
use crate::storage::Storage;

/// An unbounded table that is only planned over.
#[derive(Debug)]
struct Planned(SchemaRef);

impl SourceProvider for Planned {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0)
    }

    fn schema_is_inferred(&self) -> bool {
        false
    }

    fn with_schema(&self, schema: SchemaRef) -> Result<Arc<dyn SourceProvider>> {
        Ok(Arc::new(Self(schema)))
    }

    fn format(&self) -> &str {
        "planned"
    }

    fn description(&self) -> String {
        "Planned".into()
    }

    fn definition(&self, _: &dyn Storage) -> SourceDefinition {
        SourceDefinition {
            format: "planned".into(),
            location: None,
            columns: vec![],
            inferred: false,
            options: Default::default(),
        }
    }

    fn create(&self, _: SourceContext) -> Result<Arc<dyn Source>> {
        Err(Error::Invalid("only planned over".into()))
    }
}

async fn plan(sql: &str) -> LogicalPlan {
    let context = SessionContext::new();
    let lists = DataType::new_list(DataType::Int64, true);
    let numbered_lists = DataType::Dictionary(Box::new(DataType::Int32), Box::new(lists));
    let columns = vec![
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Int64, true),
        Field::new("l", DataType::new_list(DataType::Int64, true), true),
        Field::new("x", numbered_lists, true),
    ];
    let schema = Arc::new(Schema::new(columns));
    for name in ["s", "s2"] {
        let table = StreamTable::new(Arc::new(Planned(Arc::clone(&schema))));
        context.register_table(name, Arc::new(table)).unwrap();
    }
    context.sql("CREATE TABLE t (a BIGINT, c BIGINT) AS VALUES (1, 2)").await.unwrap();
    context.sql("CREATE VIEW v AS SELECT a FROM s WHERE b > 1").await.unwrap();
    context.sql(sql).await.unwrap().into_unoptimized_plan()
}

#[tokio::test]
async fn stateless_queries_are_accepted() {
    for sql in [
        "SELECT * FROM s",
        "SELECT a + 1 AS x FROM s WHERE b > 2",
        "SELECT a FROM v",
        "SELECT unnest(l) FROM s",
        "SELECT a FROM s UNION ALL SELECT b FROM s2",
        "SELECT a FROM s UNION ALL SELECT a FROM s",
        "WITH x AS (SELECT a FROM s) SELECT * FROM x",
        "SELECT * FROM s JOIN t ON s.a = t.a",
        "SELECT * FROM s LEFT JOIN t ON s.a = t.a",
        "SELECT * FROM t RIGHT JOIN s ON s.a = t.a",
        "SELECT * FROM s CROSS JOIN t",
        "SELECT * FROM s LEFT SEMI JOIN t ON s.a = t.a",
        "SELECT * FROM s LEFT ANTI JOIN t ON s.a = t.a",
        "SELECT * FROM s WHERE a IN (SELECT a FROM t)",
        "SELECT * FROM s WHERE a > (SELECT max(c) FROM t)",
        "SELECT * FROM s JOIN (SELECT a, count(*) AS n FROM t GROUP BY a ORDER BY n LIMIT 3) u ON s.a = u.a",
    ] {
        assert!(check(&plan(sql).await, OutputMode::Append).is_ok(), "{sql}");
        assert!(check(&plan(sql).await, OutputMode::Update).is_ok(), "{sql}");
    }
}

#[tokio::test]
async fn complete_mode_needs_an_aggregation() {
    let error = check(&plan("SELECT a FROM s").await, OutputMode::Complete).unwrap_err().to_string();
    assert!(error.starts_with("output mode complete cannot run as a streaming query"), "{error}");
}

#[tokio::test]
async fn keys_without_bytes_are_refused() {
    for (sql, operator) in [
        ("SELECT x, count(*) FROM s GROUP BY x", "GROUP BY s.x over an unbounded table"),
        ("SELECT a, x, count(*) FROM s GROUP BY ROLLUP (a, x)", "GROUP BY s.x over an unbounded table"),
        ("SELECT DISTINCT a, x FROM s", "DISTINCT s.x over an unbounded table"),
    ] {
        for mode in [OutputMode::Update, OutputMode::Complete] {
            match check(&plan(sql).await, mode) {
                Err(Error::UnsupportedQuery { operator: found, .. }) => assert_eq!(found, operator, "{sql}"),
                other => panic!("{sql}: {other:?}"),
            }
        }
    }
    let rows = plan("SELECT a, x FROM s").await;
    let by = |column| Deduplicate::try_new(rows.clone(), &[column], false).unwrap().into_plan();
    assert!(check(&by("a"), OutputMode::Append).is_ok());
    let error = check(&by("x"), OutputMode::Append).unwrap_err().to_string();
    assert!(error.starts_with("drop_duplicates by s.x over an unbounded table cannot run"), "{error}");
}
