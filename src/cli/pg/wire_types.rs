//! Types that the encoder of PostgreSQL's protocol gets wrong, as others of the same values.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::Column;
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::optimizer::AnalyzerRule;

/// What values of `of` are sent as instead.
///
/// A byte is sent as a smallint, of which it fills the first half only; of the offset of a time zone the minutes are
/// left out (arrow-pg 0.16). Numbers have at most 28 digits, and are texts beyond.
pub(super) fn on_wire(of: &DataType) -> Option<DataType> {
    Some(match of {
        DataType::Int8 => DataType::Int16,
        DataType::Float16 => DataType::Float32,
        DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Timestamp(unit, Some(zone)) if zone.as_ref() != "UTC" => {
            DataType::Timestamp(*unit, Some("UTC".into()))
        }
        of if is_long_decimal(of) => DataType::Utf8,
        DataType::List(of) => DataType::List(element_on_wire(of)?),
        DataType::LargeList(of) => DataType::LargeList(element_on_wire(of)?),
        _ => return None,
    })
}

/// Whether there may be more digits in it than the encoder has room for.
pub(super) fn is_long_decimal(of: &DataType) -> bool {
    match of {
        DataType::Decimal128(precision, scale) => *precision > 28 || *scale < 0,
        DataType::Decimal256(..) => true,
        _ => false,
    }
}

fn element_on_wire(element: &Arc<Field>) -> Option<Arc<Field>> {
    let to = on_wire(element.data_type())?;
    Some(Arc::new(element.as_ref().clone().with_data_type(to)))
}

/// Gives the columns of a result the types that they are sent as.
#[derive(Debug)]
pub(super) struct WireTypes;

impl AnalyzerRule for WireTypes {
    fn name(&self) -> &str {
        "wire_types"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let is_right =
            |plan: &LogicalPlan| plan.schema().fields().iter().all(|it| on_wire(it.data_type()).is_none());
        if is_right(&plan) {
            return Ok(plan);
        }
        let columns: Vec<Expr> = plan
            .schema()
            .iter()
            .map(|(qualifier, field)| {
                let column = Expr::Column(Column::from((qualifier, field)));
                match on_wire(field.data_type()) {
                    Some(to) => cast(column, to).alias_qualified(qualifier.cloned(), field.name()),
                    None => column,
                }
            })
            .collect();
        LogicalPlanBuilder::from(plan).project(columns)?.build()
    }
}
