//! Expressions as text, for messages.

use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

/// `expr` as it may have been written. DataFusion's own text leaves out the parentheses.
pub(crate) fn written(expr: &Expr) -> String {
    let with_parentheses = expr.clone().transform_up(|expr| match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let left = if binds_looser(&left, op, false) { in_parentheses(&left) } else { *left };
            let right = if binds_looser(&right, op, true) { in_parentheses(&right) } else { *right };
            Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))))
        }
        Expr::Negative(inner) if matches!(*inner, Expr::BinaryExpr(_)) => {
            Ok(Transformed::yes(Expr::Negative(Box::new(in_parentheses(&inner)))))
        }
        expr => Ok(Transformed::no(expr)),
    });
    with_parentheses
        .map_or_else(|_| expr.human_display().to_string(), |expr| expr.data.human_display().to_string())
}

/// Whether an operand of `operator` would be read as part of something else without parentheses.
fn binds_looser(operand: &Expr, operator: Operator, is_right: bool) -> bool {
    match operand {
        Expr::BinaryExpr(inner) => {
            let (inner, outer) = (inner.op.precedence(), operator.precedence());
            inner < outer || (is_right && inner == outer)
        }
        // Casts are not written.
        Expr::Cast(cast) => binds_looser(&cast.expr, operator, is_right),
        _ => false,
    }
}

/// Something that is written so.
fn in_parentheses(expr: &Expr) -> Expr {
    Expr::Column(Column::new_unqualified(format!("({})", expr.human_display())))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::DataType;
    use datafusion::logical_expr::{cast, col, lit};

    use super::*;

    #[test]
    fn operands_stay_together() {
        let (a, b, c) = (col("a"), col("b"), col("r.value"));
        for (expr, text) in [
            (lit(10) / (c.clone() - lit(5000)), "10 / (r.value - 5000)"),
            (lit(10) / c.clone() - lit(5000), "10 / r.value - 5000"),
            (a.clone() - (b.clone() - c.clone()), "a - (b - r.value)"),
            ((a.clone() - b.clone()) - c.clone(), "a - b - r.value"),
            (a.clone() * (b.clone() * c.clone()), "a * (b * r.value)"),
            (cast(a.clone() + b.clone(), DataType::Int64) * c.clone(), "(a + b) * r.value"),
            (-(a.clone() + b.clone()), "(- (a + b))"),
            ((a.clone() + b.clone()) * (c + lit(1)) / a, "(a + b) * (r.value + 1) / a"),
        ] {
            assert_eq!(written(&expr), text);
        }
    }
}
