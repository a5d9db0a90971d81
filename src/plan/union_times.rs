//! Unions of columns whose values are final at different times.
//!
//! To DataFusion, what the last input says of a column is true of all rows. By the rule of one input
//! rows of another could be late before they come, so that the inputs have to agree first.

use std::sync::Arc;

use datafusion::arrow::datatypes::Field;
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection, Union};

use crate::functions::{Finality, TAG, tag_of, tagged};

/// What the inputs of a union together say of a column.
enum Common {
    /// None of them says anything.
    Nothing,
    /// This is true of all that do; `None`: it is not known when its values are final.
    Final(Option<Finality>),
}

/// `union`, whose inputs say the same of each column: that its values are final when they are in all
/// inputs. An input that says nothing, such as a stream without a watermark, goes along.
pub(super) fn with_common_times(union: Union) -> DataFusionResult<LogicalPlan> {
    let columns: Vec<Common> =
        (0..union.schema.fields().len()).map(|column| common(&union.inputs, column)).collect();
    let inputs = union.inputs.into_iter().map(|input| say(input, &columns));
    let inputs = inputs.collect::<DataFusionResult<Vec<_>>>()?;
    let fields = union.schema.iter().zip(&columns).map(|((qualifier, field), common)| {
        let mut metadata = field.metadata().clone();
        metadata.remove(TAG);
        if let Common::Final(finality) = common {
            metadata.extend(Finality::metadata(finality.as_ref()));
        }
        (qualifier.cloned(), Arc::new(field.as_ref().clone().with_metadata(metadata)))
    });
    let schema = DFSchema::new_with_metadata(fields.collect(), union.schema.metadata().clone())?;
    Ok(LogicalPlan::Union(Union { inputs, schema: Arc::new(schema) }))
}

fn says_something(field: &Field) -> bool {
    field.metadata().contains_key(TAG)
}

fn common(inputs: &[Arc<LogicalPlan>], column: usize) -> Common {
    let fields = inputs.iter().map(|input| input.schema().field(column));
    let fields: Vec<_> = fields.filter(|field| says_something(field)).collect();
    let Some((first, others)) = fields.split_first() else { return Common::Nothing };
    let same_type = others.iter().all(|field| field.data_type() == first.data_type());
    Common::Final(others.iter().fold(tag_of(first), |known, field| {
        match (known, tag_of(field)) {
            (Some(known), Some(next)) if known == next => Some(known),
            // Between types, values change as well.
            (Some(known), Some(next)) if same_type => known.later(&next),
            _ => None,
        }
    }))
}

/// `input`, whose columns that say something say what is common.
fn say(input: Arc<LogicalPlan>, columns: &[Common]) -> DataFusionResult<Arc<LogicalPlan>> {
    let mut changed = false;
    let exprs = input.schema().iter().zip(columns).map(|((qualifier, field), common)| {
        let column = Expr::Column(Column::from((qualifier, field)));
        match common {
            Common::Final(finality) if says_something(field) && tag_of(field) != *finality => {
                changed = true;
                tagged(column, finality.clone()).alias_qualified(qualifier.cloned(), field.name())
            }
            _ => column,
        }
    });
    let exprs: Vec<Expr> = exprs.collect();
    if !changed {
        return Ok(input);
    }
    Ok(Arc::new(LogicalPlan::Projection(Projection::try_new(exprs, input)?)))
}
