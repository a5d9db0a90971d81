//! What keys, rows and aggregates of stateful operators are computed from, down to the columns of tables.
//!
//! An operator knows its columns by their names, and a subquery may give a name to anything: after a change from
//! `SELECT k, v AS n` to `SELECT k, x AS n` below it, its state would mix both. Nor do names of expressions say which
//! casts are in them. So a definition records the origin of each column whose name does not say it.

use std::collections::BTreeSet;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::{Cast, InSubquery, TryCast};
use datafusion::logical_expr::utils::{grouping_set_to_exprlist, split_conjunction};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Join, JoinType, LogicalPlan, TableScan};

use super::bind::reads_stream;
use super::definitions::windows_by;
use super::observe::Observe;
use super::stream_table::stream_table_of;
use crate::functions::{WindowCall, described_value, session_call};

/// Texts that are longer stand in the definition by their beginning and a checksum: names of subqueries within one
/// another can double them each time.
const LONGEST: usize = 2_000;

/// What one column or expression is computed from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    /// As a person reads it, with the names of tables.
    name: String,
    /// The same with numbers of tables.
    meaning: String,
}

impl Origin {
    fn new(name: String, meaning: String) -> Self {
        Self { name: shortened(name), meaning: shortened(meaning) }
    }

    /// Of a column that nothing is known of.
    fn opaque(name: &str) -> Self {
        Self::new(name.into(), name.into())
    }
}

fn shortened(text: String) -> String {
    // Texts have one type in SQL.
    let text = text.replace("Utf8View(", "Utf8(").replace("count(*)", "count(Int64(1))");
    if text.len() <= LONGEST {
        return text;
    }
    let beginning: String = text.chars().take(100).collect();
    format!("{beginning}… ({:08x})", crc32c::crc32c(text.as_bytes()))
}

/// What is in the name of the function that keeps the last version of a row.
const AS_OF_VERSION: &str = "__as_of_version";

/// What keys of grouping sets are called whose operators have names of ours for them.
pub(super) const GROUPING_KEY: &str = "grouping key";

/// What operators of joins call their conditions.
pub(super) const CONDITION: &str = "condition";

/// The origin of what an operator calls `label`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Named {
    pub(super) label: String,
    pub(super) name: String,
    pub(super) meaning: String,
}

/// The origins of all that stateful operators of `plan`, as it was written, may have as columns, keys or functions, of
/// those whose names do not say them.
pub(super) fn origins(plan: &LogicalPlan) -> BTreeSet<Named> {
    const STACK: usize = 64 << 20;
    let mut search = Search::default();
    // What cannot be told is not compared.
    let _ = stacker::maybe_grow(STACK, STACK, || search.columns(plan));
    search.found
}

#[derive(Default)]
struct Search {
    found: BTreeSet<Named>,
    /// Tables so far: unbounded ones, and bounded ones.
    tables: [usize; 2],
    /// How many subqueries of conditions and columns this is in.
    subqueries: usize,
}

impl Search {
    /// The origins of what `plan` gives, by column. Notes those of what operators may have.
    fn columns(&mut self, plan: &LogicalPlan) -> DataFusionResult<Vec<Origin>> {
        let inputs = plan.inputs();
        let inputs =
            inputs.into_iter().map(|input| self.columns(input)).collect::<DataFusionResult<Vec<_>>>()?;
        let below =
            Below { schemas: plan.inputs().iter().map(|input| input.schema().as_ref()).collect(), inputs };
        let mut becomes_join = self.subqueries > 0;
        plan.apply_subqueries(|subquery| {
            becomes_join |= reads_stream(subquery);
            self.subqueries += 1;
            self.columns(subquery)?;
            self.subqueries -= 1;
            Ok(TreeNodeRecursion::Jump)
        })?;
        // Others may come and go.
        if reads_stream(plan) && Observe::of(plan).is_none() {
            self.note(plan, &below, becomes_join);
        }
        let of_all = |exprs: &[Expr]| exprs.iter().map(|expr| below.origin(expr)).collect();
        let columns: Vec<Origin> = match plan {
            LogicalPlan::TableScan(scan) => self.table(scan, plan.schema()),
            LogicalPlan::Projection(projection) => of_all(&projection.expr),
            LogicalPlan::Aggregate(aggregate) => {
                let mut exprs: Vec<Expr> =
                    grouping_set_to_exprlist(&aggregate.group_expr)?.into_iter().cloned().collect();
                if exprs.len() + aggregate.aggr_expr.len() < aggregate.schema.fields().len() {
                    exprs.push(Expr::Column(Column::from_name("__grouping_id")));
                }
                exprs.extend(aggregate.aggr_expr.iter().cloned());
                of_all(&exprs)
            }
            LogicalPlan::Window(window) => {
                let functions: Vec<Origin> = of_all(&window.window_expr);
                below.all().chain(functions).collect()
            }
            LogicalPlan::Union(_) => below.alternatives(),
            _ => below.all().collect(),
        };
        let fields = plan.schema().fields();
        if columns.len() == fields.len() {
            return Ok(columns);
        }
        // Such as those of which a join gives one side only, or others that are put between.
        Ok(plan.schema().iter().map(|(table, field)| below.column(&Column::from((table, field)))).collect())
    }

    fn table(&mut self, scan: &TableScan, schema: &DFSchema) -> Vec<Origin> {
        let is_unbounded = stream_table_of(scan).is_some();
        let number = &mut self.tables[usize::from(!is_unbounded)];
        let sign = if is_unbounded { "#" } else { "#table" };
        let table = format!("{sign}{number}");
        *number += 1;
        let fields = schema.fields().iter();
        fields
            .map(|field| {
                let name = field.name();
                Origin::new(format!("{}.{name}", scan.table_name.table()), format!("{table}.{name}"))
            })
            .collect()
    }

    /// Notes the conditions of an outer join of streams that are over one side alone: they are computed below the join,
    /// where its operators see nothing of them. Of an inner join they are filters.
    fn note_conditions(&mut self, join: &Join, below: &Below) {
        if join.join_type == JoinType::Inner {
            return;
        }
        for condition in join.filter.iter().flat_map(split_conjunction) {
            let columns = condition.column_refs();
            let is_of_one = |schema: &&DFSchema| columns.iter().all(|column| schema.has_column(column));
            if below.schemas.iter().any(is_of_one) {
                let Origin { name, meaning } = below.origin(condition);
                self.found.insert(Named { label: CONDITION.into(), name, meaning });
            }
        }
    }

    /// Notes the keys of grouping sets, which have names of ours where sets are kept apart.
    fn note_grouping_keys(&mut self, keys: &[&Expr], below: &Below) {
        for key in keys.iter().filter(|key| !below.is_said_by_name(key)) {
            let Origin { name, meaning } = below.origin(key);
            self.found.insert(Named { label: GROUPING_KEY.into(), name, meaning });
        }
    }

    /// Notes what an operator that `plan` becomes may have.
    fn note(&mut self, plan: &LogicalPlan, below: &Below, becomes_join: bool) {
        let exprs: Vec<Expr> = match plan {
            LogicalPlan::Aggregate(aggregate) => {
                let keys = grouping_set_to_exprlist(&aggregate.group_expr).unwrap_or_default();
                if matches!(aggregate.group_expr.as_slice(), [Expr::GroupingSet(_)]) {
                    self.note_grouping_keys(&keys, below);
                }
                keys.into_iter().chain(&aggregate.aggr_expr).cloned().collect()
            }
            LogicalPlan::Join(join) if reads_stream(&join.left) && reads_stream(&join.right) => {
                self.note_conditions(join, below);
                let keys = join.on.iter().flat_map(|(left, right)| [left, right]);
                let filter = join.filter.iter().flat_map(split_conjunction);
                let compared = filter.filter_map(|part| match part {
                    Expr::BinaryExpr(BinaryExpr { left, right, .. }) => Some([left.as_ref(), right.as_ref()]),
                    _ => None,
                });
                keys.chain(compared.flatten()).cloned().collect()
            }
            LogicalPlan::Window(window) => window.window_expr.clone(),
            LogicalPlan::Distinct(_) | LogicalPlan::Limit(_) | LogicalPlan::Extension(_) => {
                plan.expressions()
            }
            // A subquery becomes a join.
            LogicalPlan::Filter(_) | LogicalPlan::Subquery(_) if becomes_join => Vec::new(),
            _ => return,
        };
        let columns = below.schemas.iter().flat_map(|schema| schema.columns()).map(Expr::Column);
        for expr in exprs.into_iter().chain(columns) {
            let label = match &expr {
                Expr::Column(column) => column.name.clone(),
                expr => expr.schema_name().to_string(),
            };
            // It holds all columns that the other table has by now; those that are kept are recorded as such.
            if !label.contains(AS_OF_VERSION) && !below.is_said_by_name(&expr) {
                let Origin { name, meaning } = below.origin(&expr);
                self.found.insert(Named { label, name, meaning });
            }
        }
    }
}

/// Whether `meaning` is the column `name` of a table.
fn is_column(meaning: &str, name: &str) -> bool {
    meaning.starts_with('#') && meaning.split_once('.').is_some_and(|(_, column)| column == name)
}

/// What a node has below it.
struct Below<'a> {
    schemas: Vec<&'a DFSchema>,
    /// By input and column.
    inputs: Vec<Vec<Origin>>,
}

impl Below<'_> {
    fn all(&self) -> impl Iterator<Item = Origin> {
        self.inputs.iter().flatten().cloned()
    }

    /// Of columns that are those of one or another input.
    fn alternatives(&self) -> Vec<Origin> {
        let count = self.inputs.first().map_or(0, Vec::len);
        let of = |column: usize| {
            let all = || self.inputs.iter().filter_map(|input| input.get(column));
            let text = |part: fn(&Origin) -> &str| {
                let mut texts: Vec<&str> = all().map(part).collect();
                texts.dedup();
                texts.join(" or ")
            };
            Origin::new(text(|origin| &origin.name), text(|origin| &origin.meaning))
        };
        (0..count).map(of).collect()
    }

    fn column(&self, column: &Column) -> Origin {
        let found = self
            .schemas
            .iter()
            .zip(&self.inputs)
            .find_map(|(schema, origins)| origins.get(schema.maybe_index_of_column(column)?).cloned());
        found.unwrap_or_else(|| Origin::opaque(&column.name))
    }

    /// Whether the name of `expr` says what it is, whatever tables are called: it is of columns of tables under their
    /// names, without casts and subqueries.
    fn is_said_by_name(&self, expr: &Expr) -> bool {
        let expr = self.without_widening(expr.clone().unalias());
        let hides = |part: &Expr| {
            matches!(part, Expr::Cast(_) | Expr::TryCast(_) | Expr::ScalarSubquery(_) | Expr::InSubquery(_))
        };
        let has_hidden = expr.exists(|part| Ok(hides(part)));
        let is_plain = |column: &&Column| is_column(&self.column(column).meaning, &column.name);
        !has_hidden.unwrap_or(true) && expr.column_refs().iter().all(is_plain)
    }

    fn origin(&self, expr: &Expr) -> Origin {
        let expr = expr.clone().unalias();
        if let Expr::Column(column) = &expr {
            return self.column(column);
        }
        let expr = self.without_widening(expr);
        let text = |part: fn(Origin) -> String| {
            let put = expr.clone().transform_up(|expr| {
                Ok(match &expr {
                    Expr::Column(column) => Transformed::yes(text_column(part(self.column(column)))),
                    Expr::ScalarFunction(call) => match described_value(call) {
                        Some(value) => Transformed::yes(value.clone()),
                        None => Transformed::yes(text_column(text_of(expr))),
                    },
                    Expr::ScalarSubquery(subquery) => {
                        Transformed::yes(text_column(format!("({})", given_by(&subquery.subquery, part))))
                    }
                    Expr::InSubquery(InSubquery { expr, subquery, negated }) => {
                        let not = if *negated { " NOT" } else { "" };
                        let given = given_by(&subquery.subquery, part);
                        Transformed::yes(text_column(format!("{expr}{not} IN ({given})")))
                    }
                    _ => Transformed::no(expr),
                })
            });
            put.map_or_else(|_| expr.to_string(), |put| put.data.to_string())
        };
        Origin::new(text(|origin| origin.name), text(|origin| origin.meaning))
    }

    fn without_widening(&self, expr: Expr) -> Expr {
        let Some(schema) = self.schemas.first() else { return expr };
        without_widening(expr, schema)
    }
}

/// `expr` without the casts that a wider type of a column makes needless.
pub(super) fn without_widening(expr: Expr, schema: &DFSchema) -> Expr {
    let plain = expr.clone().transform_up(|expr| match expr {
        Expr::Cast(Cast { expr: value, field }) | Expr::TryCast(TryCast { expr: value, field })
            if value.get_type(schema).is_ok_and(|from| is_wider(&from, field.data_type())) =>
        {
            Ok(Transformed::yes(*value))
        }
        expr => Ok(Transformed::no(expr)),
    });
    plain.map_or(expr, |plain| plain.data)
}

fn text_column(text: String) -> Expr {
    Expr::Column(Column::new_unqualified(text))
}

/// What the columns of a subquery are computed from.
fn given_by(subquery: &LogicalPlan, part: fn(Origin) -> String) -> String {
    let columns = Search::default().columns(subquery).unwrap_or_default();
    columns.into_iter().map(part).collect::<Vec<_>>().join(", ")
}

/// A function, with what windows and sessions are in the same words however their lengths are written.
fn text_of(call: Expr) -> String {
    match (WindowCall::of(&call), session_call(&call)) {
        (Ok(Some(window)), _) => windows_by(window.windows, &window.time),
        (_, Some(session)) => session,
        _ => call.to_string(),
    }
}

/// Whether every value of type `from` is one of type `to`, of the types that a column may change between.
fn is_wider(from: &DataType, to: &DataType) -> bool {
    let is_text =
        |data_type: &DataType| matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let is_wider_integer = || {
        let widths = from.primitive_width().zip(to.primitive_width());
        let keeps_sign = from.is_signed_integer() == to.is_signed_integer();
        from.is_integer() && to.is_integer() && keeps_sign && widths.is_some_and(|(from, to)| from <= to)
    };
    from == to
        || is_text(from) && is_text(to)
        || is_wider_integer()
        || (from.is_integer() || *from == DataType::Float32) && *to == DataType::Float64
}
