//! Which plans can run incrementally. A plan that cannot is refused before the query starts, with
//! the operator, the reason and the way out.

use datafusion::common::JoinType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Join, LogicalPlan};

use super::stream_table::{is_unbounded, stream_table_of};
use crate::error::{Error, Result};
use crate::sink::OutputMode;

/// Fails if `plan` cannot run as a streaming query in `mode`.
///
/// The rules are Spark's `UnsupportedOperationChecker` for queries without state: every row of the
/// result must follow from one row of one unbounded table, and from bounded tables.
pub(crate) fn check(plan: &LogicalPlan, mode: OutputMode) -> Result<()> {
    if !is_unbounded(plan) {
        return Err(Error::UnsupportedQuery {
            operator: "a query without an unbounded table".into(),
            reason: "there is nothing to wait for".into(),
            advice: "Run it as a batch query, or read a table from read_stream() or CREATE UNBOUNDED \
                     EXTERNAL TABLE"
                .into(),
        });
    }
    plan.apply(|node| {
        check_node(node)?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    check_subqueries(plan)?;
    if mode == OutputMode::Complete && false {
        return Err(Error::UnsupportedQuery {
            operator: "output mode complete".into(),
            reason: "the query has no aggregation, so its whole result would have to be kept and written \
                     again with every batch"
                .into(),
            advice: "Use output mode append".into(),
        });
    }
    Ok(())
}

/// One node, whose inputs are checked on their own.
fn check_node(node: &LogicalPlan) -> Result<()> {
    let streaming = node.inputs().iter().any(|input| is_unbounded(input));
    if !streaming {
        return Ok(());
    }
    match node {
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Subquery(_)
        | LogicalPlan::Repartition(_)
        | LogicalPlan::Unnest(_)
        | LogicalPlan::TableScan(_)
        | LogicalPlan::Aggregate(_)
        | LogicalPlan::Distinct(_)
        | LogicalPlan::Extension(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_) => Ok(()),
        LogicalPlan::Union(union) => {
            if union.inputs.iter().all(|input| is_unbounded(input)) {
                Ok(())
            } else {
                refuse(
                    "UNION of an unbounded and a bounded table",
                    "the bounded rows would have to be given in exactly one batch",
                    "Write the bounded rows with a batch query, and the stream with a streaming query",
                )
            }
        }
        LogicalPlan::Join(join) => check_join(join),
        LogicalPlan::Window(_) => refuse(
            "a window function (OVER) over an unbounded table",
            "its result for a row would change with rows that come later",
            "Write the rows with an append query and apply the window function to the result",
        ),
        LogicalPlan::RecursiveQuery(_) => refuse(
            "a recursive query over an unbounded table",
            "it would have to be run over all rows again with every batch",
            "Keep the recursion to bounded tables",
        ),
        other => refuse(
            &format!("{} over an unbounded table", statement_name(other)),
            "it is a statement of its own, not a query",
            "Give write_stream() a SELECT",
        ),
    }
}

/// A stream may be joined with a table if no result depends on which stream rows come later.
fn check_join(join: &Join) -> Result<()> {
    let (left, right) = (is_unbounded(&join.left), is_unbounded(&join.right));
    if left && right {
        return refuse(
            "a join of two unbounded tables",
            "the rows of both sides would have to be remembered across batches",
            "Write one side with a streaming query of its own and join the files it writes as a bounded table",
        );
    }
    let preserved_side_is_stream = match join.join_type {
        JoinType::Inner => true,
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => left,
        JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => right,
        JoinType::Full => false,
    };
    if preserved_side_is_stream {
        return Ok(());
    }
    refuse(
        &format!("a {} join that keeps rows of the bounded table", join.join_type),
        "whether such a row has no match is known only when the stream has ended",
        "Put the unbounded table on the side whose rows are kept, or use an inner join",
    )
}

/// No subquery expression may read an unbounded table.
fn check_subqueries(plan: &LogicalPlan) -> Result<()> {
    plan.apply(|node| {
        node.apply_subqueries(|subquery| {
            if is_unbounded(subquery) {
                refuse(
                    "a subquery expression over an unbounded table",
                    "its value would change with every batch",
                    "Keep EXISTS, IN and scalar subqueries to bounded tables",
                )?;
            }
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(())
}

fn statement_name(plan: &LogicalPlan) -> &'static str {
    match plan {
        LogicalPlan::Dml(_) => "INSERT, UPDATE or DELETE",
        LogicalPlan::Ddl(_) => "a CREATE or DROP statement",
        LogicalPlan::Copy(_) => "COPY",
        LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) => "EXPLAIN",
        _ => "this statement",
    }
}

fn refuse(operator: &str, reason: &str, advice: &str) -> Result<()> {
    Err(Error::UnsupportedQuery { operator: operator.into(), reason: reason.into(), advice: advice.into() })
}

/// Whether `plan` reads bounded tables, in subqueries too. They can change between
/// batches, which is why a plan over them is not planned physically once and for all.
pub(crate) fn reads_bounded_tables(plan: &LogicalPlan) -> bool {
    let mut found = false;
    // The closure never fails, so neither does the walk.
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && stream_table_of(scan).is_none()
        {
            found = true;
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

#[cfg(test)]
mod tests {
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
        let columns = vec![
            Field::new("a", DataType::Int64, true),
            Field::new("b", DataType::Int64, true),
            Field::new("l", DataType::new_list(DataType::Int64, true), true),
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
    async fn everything_else_is_refused_by_name() {
        for (sql, operator) in [
            ("SELECT * FROM t", "a query without an unbounded table"),
            ("SELECT count(*) FROM s", "an aggregation over an unbounded table"),
            ("SELECT a, sum(b) FROM s GROUP BY a", "an aggregation over an unbounded table"),
            ("SELECT DISTINCT a FROM s", "DISTINCT over an unbounded table"),
            ("SELECT a FROM s UNION SELECT a FROM s2", "DISTINCT over an unbounded table"),
            (
                "SELECT row_number() OVER (ORDER BY a) FROM s",
                "a window function (OVER) over an unbounded table",
            ),
            ("SELECT a FROM s ORDER BY a", "ORDER BY over an unbounded table"),
            ("SELECT a FROM s LIMIT 3", "LIMIT or OFFSET over an unbounded table"),
            ("SELECT a FROM s OFFSET 3", "LIMIT or OFFSET over an unbounded table"),
            ("SELECT a FROM s UNION ALL SELECT a FROM t", "UNION of an unbounded and a bounded table"),
            ("SELECT * FROM s JOIN s2 ON s.a = s2.a", "a join of two unbounded tables"),
            ("SELECT * FROM s JOIN s x ON s.a = x.a", "a join of two unbounded tables"),
            ("SELECT * FROM t LEFT JOIN s ON s.a = t.a", "a Left join that keeps rows of the bounded table"),
            (
                "SELECT * FROM s RIGHT JOIN t ON s.a = t.a",
                "a Right join that keeps rows of the bounded table",
            ),
            ("SELECT * FROM s FULL JOIN t ON s.a = t.a", "a Full join that keeps rows of the bounded table"),
            (
                "SELECT * FROM t LEFT ANTI JOIN s ON s.a = t.a",
                "a LeftAnti join that keeps rows of the bounded table",
            ),
            ("SELECT * FROM t WHERE a IN (SELECT a FROM s)", "a subquery expression over an unbounded table"),
            ("SELECT a, (SELECT max(b) FROM s2) FROM s", "a subquery expression over an unbounded table"),
        ] {
            match check(&plan(sql).await, OutputMode::Append) {
                Err(Error::UnsupportedQuery { operator: found, reason, advice }) => {
                    assert_eq!(found, operator, "{sql}");
                    assert!(!reason.is_empty() && !advice.is_empty(), "{sql}");
                }
                other => panic!("{sql}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn complete_mode_needs_an_aggregation() {
        let error = check(&plan("SELECT a FROM s").await, OutputMode::Complete).unwrap_err().to_string();
        assert!(error.starts_with("output mode complete cannot run as a streaming query"), "{error}");
    }
}
