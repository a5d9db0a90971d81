//! The columns that a query's results really have.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;

/// The columns of `plan`, with the types that its rows will have.
///
/// A union of columns of different types is given a common type only when the plan is analysed;
/// until then it claims the type of its first input. A plan that has errors keeps the types it
/// claims: they show when it is optimised.
pub(crate) fn result_schema(plan: &LogicalPlan, session: &SessionState) -> SchemaRef {
    let claimed = plan.schema().inner();
    let analyzed = session.analyzer().execute_and_check(plan.clone(), session.config_options(), |_, _| {});
    let Ok(analyzed) = analyzed else { return Arc::clone(claimed) };
    if analyzed.schema().fields().len() != claimed.fields().len() {
        return Arc::clone(claimed);
    }
    let fields = claimed.fields().iter().zip(analyzed.schema().fields());
    let fields: Vec<FieldRef> = fields.map(|(claimed, real)| with_type_of(claimed, real)).collect();
    Arc::new(Schema::new_with_metadata(fields, claimed.metadata().clone()))
}

fn with_type_of(claimed: &FieldRef, real: &Field) -> FieldRef {
    if claimed.data_type() == real.data_type() {
        return Arc::clone(claimed);
    }
    let nullable = claimed.is_nullable() || real.is_nullable();
    let field = claimed.as_ref().clone().with_data_type(real.data_type().clone());
    Arc::new(field.with_nullable(nullable))
}
