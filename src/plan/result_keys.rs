//! Which columns tell the rows of a result apart.

use datafusion::common::Dependency;
use datafusion::logical_expr::LogicalPlan;

/// The columns of the result of which no two rows have the same values in all: those that the query groups
/// by, if all of them are in the result. Empty if none are known.
pub(crate) fn result_keys(plan: &LogicalPlan) -> Vec<String> {
    let schema = plan.schema();
    let width = schema.fields().len();
    let single = schema.functional_dependencies().iter().filter(|known| known.mode == Dependency::Single);
    // What determines every column.
    let keys = single.filter(|known| (0..width).all(|column| known.target_indices.contains(&column)));
    let keys = keys.min_by_key(|known| known.source_indices.len());
    let names = |keys: &[usize]| keys.iter().map(|key| schema.field(*key).name().clone()).collect();
    keys.map_or_else(Vec::new, |known| names(&known.source_indices))
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    #[tokio::test]
    async fn they_are_what_the_query_groups_by() {
        let session = SessionContext::new();
        session.sql("CREATE TABLE t (a INT, b INT, c INT)").await.unwrap();
        for (sql, keys) in [
            ("SELECT a, b, sum(c) AS total FROM t GROUP BY a, b", &["a", "b"][..]),
            ("SELECT sum(c), b AS key FROM t GROUP BY b HAVING sum(c) > 1", &["key"]),
            ("SELECT a % 2 AS odd, count(*) FROM t GROUP BY a % 2", &["odd"]),
            ("SELECT total, b FROM (SELECT b, max(c) AS total FROM t GROUP BY b)", &["b"]),
            // Of two groups with the same b, neither is told apart.
            ("SELECT b, sum(c) FROM t GROUP BY a, b", &[]),
            ("SELECT a, b FROM t", &[]),
            ("SELECT sum(c) FROM t", &[]),
            ("SELECT a, sum(c) FROM t GROUP BY a UNION ALL SELECT b, sum(c) FROM t GROUP BY b", &[]),
        ] {
            let plan = session.sql(sql).await.unwrap().logical_plan().clone();
            assert_eq!(result_keys(&plan), keys, "{sql}");
        }
    }
}
