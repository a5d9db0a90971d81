//! Fields of structs that are written in another case than they have.

use datafusion::arrow::datatypes::{DataType, Field, Fields};
use datafusion::common::{Column, DFSchema, ScalarValue, TableReference};
use datafusion::error::Result as DataFusionResult;
use datafusion::functions::core::expr_ext::FieldAccessor;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawFieldAccessExpr};
use datafusion::logical_expr::{Expr, ExprSchemable, GetFieldAccess};

/// Plans `u.userId`, which SQL folds to `u.userid`, as the field that the struct has, if just one is meant.
#[derive(Debug)]
pub(crate) struct FieldNames;

impl ExprPlanner for FieldNames {
    fn plan_compound_identifier(
        &self,
        field: &Field,
        qualifier: Option<&TableReference>,
        nested: &[String],
    ) -> DataFusionResult<PlannerResult<Vec<Expr>>> {
        let mut expr = Expr::Column(Column::from((qualifier, field)));
        let mut data_type = Some(field.data_type());
        for name in nested {
            let found = data_type.and_then(fields_of).and_then(|fields| meant(name, fields));
            expr = expr.field(found.map_or(name.as_str(), |field| field.name()));
            data_type = found.map(Field::data_type);
        }
        Ok(PlannerResult::Planned(expr))
    }

    fn plan_field_access(
        &self,
        mut access: RawFieldAccessExpr,
        schema: &DFSchema,
    ) -> DataFusionResult<PlannerResult<RawFieldAccessExpr>> {
        if let GetFieldAccess::NamedStructField { name: ScalarValue::Utf8(Some(name)) } =
            &mut access.field_access
            && let Ok(data_type) = access.expr.get_type(schema)
            && let Some(field) = fields_of(&data_type).and_then(|fields| meant(name, fields))
        {
            name.clone_from(field.name());
        }
        // Others plan the access itself.
        Ok(PlannerResult::Original(access))
    }
}

fn fields_of(data_type: &DataType) -> Option<&Fields> {
    match data_type {
        DataType::Struct(fields) => Some(fields),
        _ => None,
    }
}

/// The field called `name`, or else the only one whose name differs in nothing but case.
fn meant<'a>(name: &str, fields: &'a Fields) -> Option<&'a Field> {
    let of_name = fields.iter().find(|field| field.name() == name);
    let mut without_case = fields.iter().filter(|field| field.name().to_lowercase() == name.to_lowercase());
    let only = match (without_case.next(), without_case.next()) {
        (Some(field), None) => Some(field),
        _ => None,
    };
    of_name.or(only).map(AsRef::as_ref)
}
