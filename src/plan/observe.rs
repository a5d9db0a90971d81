//! The node at which metrics of the rows that pass are computed.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DFSchemaRef, internal_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr_rewriter::normalize_col;
use datafusion::logical_expr::utils::find_aggregate_exprs;
use datafusion::logical_expr::{
    Aggregate, EmptyRelation, Expr, ExprSchemable, Extension, LogicalPlan, Projection,
    UserDefinedLogicalNodeCore, Volatility,
};

use super::bind::reads_stream;
use crate::error::{Error, Result};
use crate::exec::observe::Observation;

/// The rows of `input`, of which metrics are computed in every batch.
///
/// The metrics are a plan of their own, over the columns that they need: DataFusion optimises the query around this
/// node, and sees of it just these columns.
#[derive(Debug, Clone)]
pub(crate) struct Observe {
    input: LogicalPlan,
    name: String,
    /// With their names.
    metrics: Vec<Expr>,
    /// The columns of the input that the metrics are over, as the metrics call them.
    named: Vec<Column>,
    /// What these are, whatever the optimiser has made of their names.
    columns: Vec<Expr>,
    /// What computes the metrics, once the plan is bound to a run: its number, and itself.
    observation: Option<(usize, Arc<Observation>)>,
}

impl Observe {
    /// Has `metrics`, expressions over aggregates, computed of the rows of `input`.
    ///
    /// # Errors
    /// If one of them is nothing that can be added up batch by batch.
    pub(crate) fn try_new(input: LogicalPlan, name: &str, metrics: Vec<Expr>) -> Result<Self> {
        if name.trim().is_empty() || metrics.is_empty() {
            return Err(invalid(name, "needs a name and at least one metric, such as count(*)"));
        }
        if observed(&input).iter().any(|below| below.name == name) {
            return Err(invalid(name, "is made of these rows already: give one of the two another name"));
        }
        let mut names = HashSet::new();
        let mut named = Vec::new();
        let mut checked = Vec::with_capacity(metrics.len());
        for metric in metrics {
            let metric = normalize_col(metric, &input)?;
            let called = without_tables(metric.clone())?.qualified_name().1;
            let metric = metric.unalias_nested().data;
            check_metric(&metric)
                .map_err(|reason| invalid(name, &format!("cannot give '{called}': {reason}")))?;
            if !names.insert(called.clone()) {
                return Err(invalid(
                    name,
                    &format!("has two metrics '{called}': name one of them otherwise"),
                ));
            }
            named.extend(
                columns_of(&metric).into_iter().filter(|column| !named.contains(column)).collect::<Vec<_>>(),
            );
            checked.push(metric.alias(called));
        }
        let columns = named.iter().cloned().map(Expr::Column).collect();
        let observe =
            Self { input, name: name.to_string(), metrics: checked, named, columns, observation: None };
        // Says what is wrong with the types of arguments.
        observe.summary()?;
        Ok(observe)
    }

    /// What the metrics are called together.
    pub(crate) fn observation_name(&self) -> &str {
        &self.name
    }

    /// Where the rows come from.
    pub(crate) fn input(&self) -> &LogicalPlan {
        &self.input
    }

    /// The columns that are observed, of the input.
    pub(crate) fn columns(&self) -> &[Expr] {
        &self.columns
    }

    /// What computes the metrics, and its number, once the plan is bound to a run.
    pub(crate) fn observation(&self) -> Option<&(usize, Arc<Observation>)> {
        self.observation.as_ref()
    }

    /// The same, computed by `observation`, which has this number.
    pub(super) fn bound(&self, number: usize, observation: Arc<Observation>) -> Self {
        Self { observation: Some((number, observation)), ..self.clone() }
    }

    /// This node as a plan.
    pub(crate) fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }

    /// The node that `plan` is, if it is one.
    pub(crate) fn of(plan: &LogicalPlan) -> Option<&Self> {
        match plan {
            LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref(),
            _ => None,
        }
    }

    /// The metrics as a plan: a projection of an aggregation of rows that have the columns that are observed.
    pub(super) fn summary(&self) -> DataFusionResult<LogicalPlan> {
        let fields = self.named.iter().zip(&self.columns).map(|(named, column)| {
            let field = column.to_field(self.input.schema())?.1;
            let field = field.as_ref().clone().with_name(&named.name).with_nullable(true);
            Ok((named.relation.clone(), Arc::new(field)))
        });
        let fields = fields.collect::<DataFusionResult<Vec<_>>>()?;
        let schema = Arc::new(DFSchema::new_with_metadata(fields, HashMap::new())?);
        let rows = LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: false, schema });
        let functions = find_aggregate_exprs(&self.metrics);
        // By numbers, because names of functions do not say which casts are in them.
        let numbered = functions.iter().enumerate();
        let numbered =
            numbered.map(|(number, function)| function.clone().alias(format!("__metric_{number}")));
        let aggregate = Aggregate::try_new(Arc::new(rows), Vec::new(), numbered.collect())?;
        let results: Vec<Column> = aggregate.schema.columns();
        let metrics = self.metrics.iter().cloned().map(|metric| {
            let metric = metric.transform_down(|expr| {
                Ok(match functions.iter().position(|function| *function == expr) {
                    Some(index) => {
                        let result = Expr::Column(results[index].clone());
                        Transformed::new(result, true, TreeNodeRecursion::Jump)
                    }
                    None => Transformed::no(expr),
                })
            });
            Ok(metric?.data)
        });
        let metrics = metrics.collect::<DataFusionResult<Vec<_>>>()?;
        let aggregate = Arc::new(LogicalPlan::Aggregate(aggregate));
        Ok(LogicalPlan::Projection(Projection::try_new(metrics, aggregate)?))
    }
}

fn invalid(name: &str, what: &str) -> Error {
    Error::Invalid(format!("the observation '{name}' {what}"))
}

/// `expr` as columns of results are called that have no name of their own: `max(price)`.
fn without_tables(expr: Expr) -> DataFusionResult<Expr> {
    let named = expr.transform(|part| {
        Ok(match part {
            Expr::Column(column) if column.relation.is_some() => {
                Transformed::yes(Expr::Column(Column::new_unqualified(column.name)))
            }
            part => Transformed::no(part),
        })
    });
    Ok(named?.data)
}

/// The columns that `expr` is over, in order.
fn columns_of(expr: &Expr) -> Vec<Column> {
    let mut columns = Vec::new();
    // The closure never fails, so neither does the walk.
    let _ = expr.apply(|part| {
        if let Expr::Column(column) = part
            && !columns.contains(column)
        {
            columns.push(column.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    columns
}

/// Why `metric` cannot be computed of the rows of a batch, if it cannot.
fn check_metric(metric: &Expr) -> std::result::Result<(), String> {
    if find_aggregate_exprs([metric]).is_empty() {
        return Err("there is no aggregate in it, such as count or sum".into());
    }
    let mut reason = None;
    // The closure never fails, so neither does the walk.
    let _ = metric.apply(|part| {
        let found = match part {
            Expr::AggregateFunction(_) => return Ok(TreeNodeRecursion::Jump),
            Expr::Column(column) => {
                format!("it reads '{}' of single rows: put it into an aggregate", column.name)
            }
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        reason.get_or_insert(found);
        Ok(TreeNodeRecursion::Stop)
    });
    let _ = metric.apply(|part| {
        let found = match part {
            Expr::AggregateFunction(call) if call.params.distinct => {
                "DISTINCT would keep every value in memory: use approx_distinct".to_string()
            }
            Expr::AggregateFunction(call) if !call.params.order_by.is_empty() => {
                "the rows of a batch have no order: leave ORDER BY out".to_string()
            }
            Expr::WindowFunction(_) => "window functions are not aggregates of all rows".to_string(),
            Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_) => {
                "it has a subquery: join with that table first".to_string()
            }
            Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
                format!(
                    "{}() may give something else each time: make a column of it first, below the observation",
                    call.func.name()
                )
            }
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        reason.get_or_insert(found);
        Ok(TreeNodeRecursion::Stop)
    });
    reason.map_or(Ok(()), Err)
}

/// The observations in `plan`, but for those in subqueries.
pub(super) fn observed(plan: &LogicalPlan) -> Vec<Observe> {
    let mut found = Vec::new();
    // The closure never fails, so neither does the walk.
    let _ = plan.apply(|node| {
        found.extend(Observe::of(node).cloned());
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// Fails if `plan`, of a streaming query, observes what its progress cannot tell of.
pub(super) fn check(plan: &LogicalPlan) -> Result<()> {
    let refuse = |name: &str, reason: &str, advice: &str| {
        let operator = format!("the observation '{name}'");
        Err(Error::UnsupportedQuery { operator, reason: reason.into(), advice: advice.into() })
    };
    let mut all = Vec::new();
    plan.apply_with_subqueries(|node| {
        all.extend(Observe::of(node).map(|observe| observe.name.clone()));
        Ok(TreeNodeRecursion::Continue)
    })?;
    let outside = observed(plan);
    let inside = all.iter().find(|name| !outside.iter().any(|observe| observe.name == **name));
    if let Some(name) = inside {
        return refuse(
            name,
            "it is in a subquery, whose rows may be computed in another order than they are written in",
            "Observe the rows of FROM, or write the subquery as a join",
        );
    }
    for (index, observe) in outside.iter().enumerate() {
        if outside[..index].iter().any(|before| before.name == observe.name) {
            return refuse(
                &observe.name,
                "it is in the query twice, and what is seen in one place would hide what is in the other",
                "Give each a name of its own, or observe the rows where they have come together",
            );
        }
        if !reads_stream(&observe.input) {
            return refuse(
                &observe.name,
                "it is over bounded tables alone, which are not read anew in every batch",
                "Observe the stream, or what it is joined to",
            );
        }
    }
    Ok(())
}

impl UserDefinedLogicalNodeCore for Observe {
    fn name(&self) -> &str {
        "Observe"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        self.columns.clone()
    }

    /// What is observed are the rows at this point, be they filtered above or not.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        self.schema().fields().iter().map(|field| field.name().clone()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let metrics: Vec<String> = self.metrics.iter().map(ToString::to_string).collect();
        write!(f, "Observe: {}, [{}]", self.name, metrics.join(", "))
    }

    fn with_exprs_and_inputs(
        &self,
        columns: Vec<Expr>,
        mut inputs: Vec<LogicalPlan>,
    ) -> DataFusionResult<Self> {
        match inputs.pop() {
            Some(input) if columns.len() == self.columns.len() => Ok(Self { input, columns, ..self.clone() }),
            _ => internal_err!("an observation needs its columns and an input"),
        }
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![output_columns.to_vec()])
    }
}

impl Observe {
    fn identity(&self) -> (&str, &[Expr], &[Expr], &LogicalPlan) {
        (&self.name, &self.metrics, &self.columns, &self.input)
    }
}

impl PartialEq for Observe {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Observe {}

impl Hash for Observe {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl PartialOrd for Observe {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.identity().partial_cmp(&other.identity())
    }
}
