//! `LIKE … ESCAPE '/'`: DataFusion plans it, and runs it with the backslash alone.

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result as DataFusionResult;
use datafusion::functions::string::expr_fn::replace;
use datafusion::logical_expr::{Expr, Like, LogicalPlan, lit};
use datafusion::optimizer::AnalyzerRule;

use super::rewrite_expressions;

/// Writes patterns that have another escape with backslashes.
#[derive(Debug)]
pub(super) struct LikeEscapes;

impl AnalyzerRule for LikeEscapes {
    fn name(&self) -> &str {
        "like_escapes"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DataFusionResult<LogicalPlan> {
        let rewritten = plan.transform_up_with_subqueries(|plan| {
            rewrite_expressions(plan, &|expr, _| expr.transform_up(|expr| Ok(with_backslashes(expr))))
        })?;
        Ok(rewritten.data)
    }
}

fn with_backslashes(expr: Expr) -> Transformed<Expr> {
    match expr {
        Expr::Like(like) if like.escape_char.is_some_and(|escape| escape != '\\') => {
            let escape = like.escape_char.unwrap_or('\\');
            let pattern = Box::new(escaped(*like.pattern, escape));
            Transformed::yes(Expr::Like(Like { pattern, escape_char: None, ..like }))
        }
        expr => Transformed::no(expr),
    }
}

/// `pattern`, whose escape is `escape`, with backslashes for it.
fn escaped(pattern: Expr, escape: char) -> Expr {
    // Stands for the letter itself while the others become backslashes; no text has it.
    const ITSELF: &str = "\u{10ffff}";
    let itself = if matches!(escape, '%' | '_') { format!("\\{escape}") } else { escape.to_string() };
    [
        ("\\".to_string(), "\\\\".to_string()),
        (format!("{escape}{escape}"), ITSELF.to_string()),
        (escape.to_string(), "\\".to_string()),
        (ITSELF.to_string(), itself),
    ]
    .into_iter()
    .fold(pattern, |pattern, (from, to)| replace(pattern, lit(from), lit(to)))
}
