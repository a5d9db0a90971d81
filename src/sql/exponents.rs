//! Literals with an exponent are doubles: `1e3`. DataFusion takes them for decimals when literals with a
//! point are decimals, and refuses `1e300`.

use std::ops::ControlFlow;

use datafusion::sql::parser::{CopyToSource, Statement as DataFusionStatement};
use datafusion::sql::sqlparser::ast::{
    CastKind, DataType, ExactNumberInfo, Expr, Statement, Value, VisitMut, visit_expressions_mut,
};

/// `statement` with casts of the text to DOUBLE in the place of such literals.
pub fn with_doubles(mut statement: DataFusionStatement) -> DataFusionStatement {
    match &mut statement {
        DataFusionStatement::Statement(statement) => replace(statement.as_mut()),
        DataFusionStatement::Explain(explain) => {
            let nothing = Statement::Commit { chain: false, end: false, modifier: None };
            let nothing = DataFusionStatement::Statement(Box::new(nothing));
            let inner = std::mem::replace(explain.statement.as_mut(), nothing);
            *explain.statement = with_doubles(inner);
        }
        DataFusionStatement::CopyTo(copy) => {
            if let CopyToSource::Query(query) = &mut copy.source {
                replace(query.as_mut());
            }
        }
        DataFusionStatement::CreateExternalTable(_) | DataFusionStatement::Reset(_) => {}
    }
    statement
}

fn replace(statement: &mut impl VisitMut) {
    let _ = visit_expressions_mut(statement, |expr| {
        if let Expr::Value(literal) = expr
            && let Value::Number(text, false) = &literal.value
            && text.contains(['e', 'E'])
        {
            let text = Value::SingleQuotedString(text.clone()).with_span(literal.span);
            *expr = Expr::Cast {
                kind: CastKind::Cast,
                expr: Box::new(Expr::Value(text)),
                data_type: DataType::Double(ExactNumberInfo::None),
                array: false,
                format: None,
            };
        }
        ControlFlow::<()>::Continue(())
    });
}
