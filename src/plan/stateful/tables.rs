//! Of which tables the columns are that stateful operators go by and keep.
//!
//! An operator knows its columns by their names, and two tables may have one of the same name: after a change from
//! `GROUP BY a.v` to `GROUP BY b.v` its state would mix both. So a definition records of which table each column is.
//! What is computed is told by its origin ([`super::super::origins`]).

use std::collections::BTreeMap;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::logical_plan::builder::UNNAMED_TABLE;
use datafusion::logical_expr::utils::grouping_set_to_exprlist;
use datafusion::logical_expr::{Expr, JoinType, LogicalPlan, TableScan};
use serde_json::{Value, json};

use super::join::JoinNode;
use super::node::{Kind, StreamingNode};
use crate::plan::as_of::VERSION;
use crate::plan::bind::is_bound;
use crate::plan::origins::without_widening;
use crate::plan::transform::Transform;

/// The tables of the columns of each operator of `plan`, as a definition records them, if it reads several.
pub(crate) fn tables_of_columns(plan: &LogicalPlan) -> BTreeMap<usize, Value> {
    let (mut scans, mut names) = (Vec::new(), Vec::new());
    let mut search = |node: &LogicalPlan| {
        if let LogicalPlan::TableScan(scan) = node
            && is_bound(scan)
        {
            scans.push(std::ptr::from_ref(scan));
            names.push(called(scan).to_string());
        }
        Ok(TreeNodeRecursion::Continue)
    };
    // The closures never fail, so neither do the walks.
    let _ = plan.apply(&mut search);
    if scans.len() < 2 {
        // A name says it.
        return BTreeMap::new();
    }
    let (tables, mut found) = (Tables { scans, names }, BTreeMap::new());
    let _ = plan.apply(|node| {
        found.extend(tables.of_operators(node));
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// What a table is called.
fn called(scan: &TableScan) -> &str {
    match scan.table_name.table() {
        UNNAMED_TABLE => "stream",
        name => name,
    }
}

/// What a column is, as a person reads it, and with numbers of tables.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Told {
    name: String,
    meaning: String,
    /// Whether it is a column of a table.
    is_column: bool,
}

/// The unbounded tables of a plan, in the order in which it reads them.
struct Tables {
    scans: Vec<*const TableScan>,
    names: Vec<String>,
}

impl Tables {
    /// Those of the columns of the operators that `node` is.
    fn of_operators(&self, node: &LogicalPlan) -> Vec<(usize, Value)> {
        if let Some(join) = JoinNode::of(node) {
            let side = |side: usize| {
                let input = &join.inputs[side];
                let keys = join.on.iter().map(|(left, right)| [left, right][side]);
                let mut told = self.of_exprs("key", keys, input);
                let mut condition = self.of_exprs("condition", &join.filter, node);
                condition.sort();
                told.extend(condition);
                told.extend(self.kept(input));
                (join.operator + side, recorded(&told))
            };
            return vec![side(0), side(1)];
        }
        if let LogicalPlan::Extension(extension) = node
            && let Some(transform) = extension.node.as_any().downcast_ref::<Transform>()
            && let Some(operator) = transform.operator
        {
            let keys: Vec<Expr> = transform.keys.iter().cloned().map(Expr::Column).collect();
            return vec![(operator, recorded(&self.of_exprs("key", &keys, &transform.input)))];
        }
        StreamingNode::of(node).and_then(|node| self.of_node(node)).into_iter().collect()
    }

    fn of_node(&self, node: &StreamingNode) -> Option<(usize, Value)> {
        let (input, expressions) = (&node.input, node.expressions.as_slice());
        let (operator, told) = match &node.kind {
            Kind::Aggregate { operator, .. } | Kind::Sessions { operator, .. } => {
                let LogicalPlan::Aggregate(aggregate) = input else { return None };
                let keys = grouping_set_to_exprlist(&aggregate.group_expr).ok()?;
                (operator, self.of_exprs("key", keys, &aggregate.input))
            }
            Kind::Deduplicate { operator, keys, .. } | Kind::MarkDistinct { operator, keys, .. } => {
                (operator, self.of_exprs("key", expressions.iter().take(*keys), input))
            }
            Kind::TopN { operator, keys, order, .. } | Kind::Over { operator, keys, order, .. } => {
                let mut told = self.of_exprs("key", expressions.iter().take(*keys), input);
                let order = expressions.iter().skip(*keys).take(order.len());
                told.extend(self.of_exprs("order", order, input));
                told.extend(self.kept(input));
                (operator, told)
            }
            Kind::Watermark { .. } | Kind::LateFilter { .. } | Kind::Limit { .. } => return None,
        };
        Some((*operator, recorded(&told)))
    }

    /// Those of the columns in expressions over `input`, each with what it is there for.
    fn of_exprs<'a>(
        &self,
        role: &str,
        exprs: impl IntoIterator<Item = &'a Expr>,
        input: &LogicalPlan,
    ) -> Vec<Told> {
        let mut columns = Vec::new();
        for expr in exprs {
            let _ = expr.apply(|part| {
                columns.extend(part.try_as_col().cloned());
                Ok(TreeNodeRecursion::Continue)
            });
        }
        let told = columns.iter().filter_map(|column| self.of_name(column, input));
        told.filter(|told| told.is_column).map(|told| told.with_role(role)).collect()
    }

    /// Those of the columns of rows of `input`, which are kept: in the order of their names, for state has them by
    /// these; where several have one, in the order of the rows.
    fn kept(&self, input: &LogicalPlan) -> Vec<Told> {
        let fields = input.schema().fields();
        let mut columns: Vec<(&str, usize)> =
            fields.iter().enumerate().map(|(index, field)| (field.name().as_str(), index)).collect();
        columns.sort_unstable();
        let told = |(name, index): (&str, usize)| match name {
            VERSION => self.of_version(input, index),
            _ => self.of_column(input, index).filter(|told| told.is_column).into_iter().collect(),
        };
        columns.into_iter().flat_map(told).collect()
    }

    fn of_name(&self, column: &Column, input: &LogicalPlan) -> Option<Told> {
        match input.schema().maybe_index_of_column(column) {
            Some(index) => self.of_column(input, index),
            None => input.inputs().into_iter().find_map(|input| self.of_name(column, input)),
        }
    }

    /// What the fields of a version are that is a column of `plan`.
    fn of_version(&self, plan: &LogicalPlan, index: usize) -> Vec<Told> {
        let Some((input, Expr::ScalarFunction(version))) = computed(plan, index) else { return Vec::new() };
        let fields = version.args.chunks_exact(2).filter_map(|field| {
            let Expr::Literal(name, _) = &field[0] else { return None };
            let role = name.try_as_str().flatten().unwrap_or_default();
            Some(self.of_expr(&field[1], input)?.with_role(role))
        });
        fields.collect()
    }

    /// What a table is called, with which of its scans that is if there are several, and what its number is.
    fn names_of(&self, scan: &TableScan) -> (String, String) {
        let table = called(scan);
        let Some(number) = self.scans.iter().position(|known| std::ptr::eq(*known, scan)) else {
            return (table.into(), table.into());
        };
        let count = |names: &[String]| names.iter().filter(|name| *name == table).count();
        let name = match count(&self.names) {
            1 => table.into(),
            _ => format!("{table} ({})", count(&self.names[..=number])),
        };
        (name, format!("#{number}"))
    }

    /// What a column of `plan` is; `None` if that cannot be told.
    fn of_column(&self, plan: &LogicalPlan, index: usize) -> Option<Told> {
        if let LogicalPlan::TableScan(scan) = plan {
            let column = scan.projected_schema.fields().get(index)?.name();
            let (name, meaning) = self.names_of(scan);
            let [name, meaning] = [name, meaning].map(|table| format!("{column} of {table}"));
            return Some(Told { name, meaning, is_column: true });
        }
        if let LogicalPlan::Union(union) = plan {
            let all: Vec<Told> =
                union.inputs.iter().filter_map(|input| self.of_column(input, index)).collect();
            let is_column = !all.is_empty() && all.iter().all(|told| told.is_column);
            let text = |part: fn(&Told) -> &str| {
                let mut texts: Vec<&str> = all.iter().map(part).collect();
                texts.dedup();
                texts.join(" or ")
            };
            return Some(Told {
                name: text(|told| &told.name),
                meaning: text(|told| &told.meaning),
                is_column,
            });
        }
        match step(plan, index)? {
            Step::Column(input, index) => self.of_column(input, index),
            Step::Expr(input, expr) => self.of_expr(expr, input),
        }
    }

    fn of_expr(&self, expr: &Expr, input: &LogicalPlan) -> Option<Told> {
        let expr = without_widening(expr.clone().unalias(), input.schema());
        match &expr {
            Expr::Column(column) => return self.of_name(column, input),
            Expr::Literal(..) => return None,
            _ => {}
        }
        let text = |part: fn(Told) -> String| {
            let put = expr.clone().transform_up(|expr| {
                let told = expr.try_as_col().and_then(|column| self.of_name(column, input));
                Ok(match (told, &expr) {
                    (Some(told), _) => Transformed::yes(Expr::Column(Column::new_unqualified(part(told)))),
                    // Of whatever width they have come to be beside a column.
                    (None, Expr::Literal(value, metadata)) => match value.cast_to(&INTEGER) {
                        Ok(wide @ ScalarValue::Int64(Some(_))) if value.data_type().is_integer() => {
                            Transformed::yes(Expr::Literal(wide, metadata.clone()))
                        }
                        _ => Transformed::no(expr),
                    },
                    _ => Transformed::no(expr),
                })
            });
            // By that name, which says nothing of how it is computed.
            put.map_or_else(|_| expr.to_string(), |put| put.data.schema_name().to_string())
        };
        let (name, meaning) = (text(|told| told.name), text(|told| told.meaning));
        Some(Told { name, meaning, is_column: false })
    }
}

/// The type of integers that are written.
const INTEGER: DataType = DataType::Int64;

impl Told {
    fn with_role(self, role: &str) -> Self {
        let Self { name, meaning, is_column } = self;
        Self { name: format!("{role}: {name}"), meaning: format!("{role}: {meaning}"), is_column }
    }
}

fn recorded(told: &[Told]) -> Value {
    told.iter().map(|Told { name, meaning, .. }| json!({ "name": name, "meaning": meaning })).collect()
}

/// What a column of a node comes from.
enum Step<'a> {
    /// A column of what is below.
    Column(&'a LogicalPlan, usize),
    /// An expression over it.
    Expr(&'a LogicalPlan, &'a Expr),
}

/// Of a node that is no scan and no union; `None` if that cannot be told.
fn step(plan: &LogicalPlan, index: usize) -> Option<Step<'_>> {
    Some(match plan {
        LogicalPlan::Projection(projection) => Step::Expr(&projection.input, projection.expr.get(index)?),
        LogicalPlan::Aggregate(aggregate) => {
            let keys = grouping_set_to_exprlist(&aggregate.group_expr).ok()?;
            Step::Expr(&aggregate.input, keys.get(index).copied()?)
        }
        LogicalPlan::SubqueryAlias(alias) => Step::Column(&alias.input, index),
        LogicalPlan::Join(join) => match join.join_type {
            JoinType::RightSemi | JoinType::RightAnti => Step::Column(&join.right, index),
            _ => match index.checked_sub(join.left.schema().fields().len()) {
                None => Step::Column(&join.left, index),
                Some(right) => Step::Column(&join.right, right),
            },
        },
        // Most have the columns of what is below them, and perhaps more.
        other => {
            let column = Column::from(other.schema().qualified_field(index));
            let inputs = other.inputs().into_iter();
            let mut known =
                inputs.filter_map(|input| Some((input, input.schema().maybe_index_of_column(&column)?)));
            let (input, index) = known.next()?;
            Step::Column(input, index)
        }
    })
}

/// The expression that a column of `plan` is computed by, and what that is over.
fn computed(plan: &LogicalPlan, index: usize) -> Option<(&LogicalPlan, &Expr)> {
    if let LogicalPlan::Union(union) = plan {
        return union.inputs.iter().find_map(|input| computed(input, index));
    }
    match step(plan, index)? {
        Step::Column(input, index) => computed(input, index),
        Step::Expr(input, expr) => match bare(expr) {
            Expr::Column(column) => computed(input, input.schema().maybe_index_of_column(column)?),
            Expr::Literal(..) => None,
            expr => Some((input, expr)),
        },
    }
}

fn bare(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => bare(&alias.expr),
        expr => expr,
    }
}
