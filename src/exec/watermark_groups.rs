//! Carrying from a scan up to the watermark over it in which part of the stream each row is: what is between may drop
//! rows and put batches together.

use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{ExecutionPlan, replace_children_if_necessary};

use super::node::Node;
use super::observe::Observe;
use super::scan::{StreamScan, WATERMARK_GROUP};
use super::watermark::EventTimeWatermark;

/// `plan`, which is optimised, with one more column, the last one, between each scan that has watermark groups and the
/// watermark over it. Where anything else than projections, filters, observations and lists that become rows is
/// between, rows have no groups.
pub(crate) fn carry_groups(plan: Arc<dyn ExecutionPlan>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    plan.transform_down(|node| {
        let Some((watermark, [input])) = Node::<EventTimeWatermark>::parts(&node) else {
            return Ok(Transformed::no(node));
        };
        Ok(match with_group(input)? {
            Some((input, source)) => {
                Transformed::yes(Node::over(input, watermark.as_ref().clone().with_groups(source)))
            }
            None => Transformed::no(node),
        })
    })
    .data()
}

/// `plan` with the group of each row as its last column, and the source that the rows are of.
fn with_group(plan: &Arc<dyn ExecutionPlan>) -> DataFusionResult<Option<(Arc<dyn ExecutionPlan>, usize)>> {
    if let Some(scan) = Node::<StreamScan>::of(plan) {
        let source = scan.source_index();
        return Ok(scan.with_groups().map(|scan| (Node::leaf(scan), source)));
    }
    let [input] = plan.children()[..] else { return Ok(None) };
    let Some((input, source)) = with_group(input)? else { return Ok(None) };
    let group = input.schema().fields().len() - 1;
    let plan: Arc<dyn ExecutionPlan> = if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let column = Arc::new(Column::new(WATERMARK_GROUP, group));
        let mut expressions = projection.expr().to_vec();
        expressions.push(ProjectionExpr { expr: column, alias: WATERMARK_GROUP.into() });
        let schema = schema_with_group(plan, &input);
        Arc::new(ProjectionExec::try_new_with_schema_metadata(expressions, input, &schema)?)
    } else if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        let columns = filter.projection().as_ref().map(|columns| {
            let own = columns.iter().copied();
            own.chain([group]).collect::<Vec<_>>()
        });
        let builder = FilterExecBuilder::new(Arc::clone(filter.predicate()), input)
            .apply_projection(columns)?
            .with_default_selectivity(filter.default_selectivity())
            .with_batch_size(filter.batch_size())
            .with_fetch(filter.fetch());
        Arc::new(builder.build()?)
    } else if let Some(observe) = Node::<Observe>::of(plan) {
        let schema = Arc::new(schema_with_group(plan, &input));
        Node::over(input, observe.with_schema(schema))
    } else if let Some(unnest) = plan.downcast_ref::<UnnestExec>() {
        let schema = Arc::new(schema_with_group(plan, &input));
        let (lists, structs) = (unnest.list_column_indices(), unnest.struct_column_indices());
        let options = unnest.options().clone();
        Arc::new(UnnestExec::new(input, lists.to_vec(), structs.to_vec(), schema, options)?)
    } else if plan.is::<RepartitionExec>()
        || plan.is::<CoalescePartitionsExec>()
        || plan.is::<CooperativeExec>()
    {
        replace_children_if_necessary(Arc::clone(plan), vec![input])?
    } else {
        return Ok(None);
    };
    Ok(Some((plan, source)))
}

/// The columns of `plan`, and behind them the group, which is the last one of `input`.
fn schema_with_group(plan: &Arc<dyn ExecutionPlan>, input: &Arc<dyn ExecutionPlan>) -> Schema {
    let (own, below) = (plan.schema(), input.schema());
    let fields: Vec<_> = own.fields().iter().chain(below.fields().last()).cloned().collect();
    Schema::new_with_metadata(fields, own.metadata().clone())
}
