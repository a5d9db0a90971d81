//! What columns are computed by where it gives state its meaning, and their names do not say it: windows, sessions
//! and parts of time.
//!
//! A restart may change projections, but not the windows that its groups are of, which a table function or a
//! subquery may have computed. So the columns of these say what they are, and so do those that follow from them.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ExprSchema};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::{Cast, TryCast};
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, GroupingSet, Projection};

use crate::functions::{WindowCall, Windows, definition_of, described, session_call};

/// What an expression is computed by.
#[derive(Default)]
struct Parts {
    all: Vec<String>,
    /// Whether its text does not say all of it.
    hidden: bool,
}

impl Parts {
    fn of(expr: &Expr, schema: &DFSchema) -> DataFusionResult<Self> {
        let mut parts = Self::default();
        expr.apply(|part| {
            let (definition, hidden) = match part {
                Expr::Column(column) => {
                    let field = schema.field_from_column(column).ok();
                    (field.and_then(|field| definition_of(field)).map(str::to_string), true)
                }
                part => match (WindowCall::of(part)?, session_call(part)) {
                    (Some(call), _) => (Some(windows_by(call.windows, &call.time)), false),
                    (None, Some(session)) => (Some(session), true),
                    (None, None) => (is_part_of_time(part, schema).then(|| part.to_string()), false),
                },
            };
            if let Some(definition) = definition {
                parts.hidden |= hidden;
                if !parts.all.contains(&definition) {
                    parts.all.push(definition);
                }
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(parts)
    }
}

/// `windows` that `time` is in.
pub(super) fn windows_by(windows: Windows, time: &Expr) -> String {
    format!("windows of {windows} by {time}")
}

/// Whether `expr` rounds times down.
fn is_part_of_time(expr: &Expr, schema: &DFSchema) -> bool {
    match expr {
        Expr::ScalarFunction(call) => matches!(call.func.name(), "date_trunc" | "date_bin"),
        Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field }) => {
            let from = expr.get_type(schema);
            matches!((from, field.data_type()), (Ok(DataType::Timestamp(..)), DataType::Date32))
        }
        _ => false,
    }
}

/// Whether the column of `expr` says already what it is computed by.
fn is_described(expr: &Expr, schema: &DFSchema) -> DataFusionResult<bool> {
    Ok(matches!(expr.clone().unalias(), Expr::Column(_))
        || definition_of(&expr.to_field(schema)?.1).is_some())
}

/// What the columns of `projection` are computed by, of each whose schema is to say so.
pub(super) fn definitions_of(projection: &Projection) -> DataFusionResult<Vec<Option<String>>> {
    let schema = projection.input.schema();
    let definition = |expr: &Expr| {
        if is_described(expr, schema)? {
            return Ok(None);
        }
        let parts = Parts::of(expr, schema)?.all;
        Ok((!parts.is_empty()).then(|| parts.join("; ")))
    };
    projection.expr.iter().map(definition).collect()
}

/// `projection` whose columns say so.
pub(super) fn with_definitions(
    mut projection: Projection,
    definitions: Vec<Option<String>>,
) -> DataFusionResult<Projection> {
    if definitions.iter().all(Option::is_none) {
        return Ok(projection);
    }
    for (expr, definition) in projection.expr.iter_mut().zip(definitions) {
        if let Some(definition) = definition {
            describe(expr, definition);
        }
    }
    Projection::try_new(projection.expr, projection.input)
}

/// Makes the keys of `aggregate` say what they are computed by, where their names do not; whether any had to.
///
/// Windows that are keys themselves become the starts of windows, which say which.
pub(super) fn describe_keys(aggregate: &mut Aggregate) -> DataFusionResult<bool> {
    let schema = aggregate.input.schema();
    let mut described: Vec<(Expr, Expr)> = Vec::new();
    for key in aggregate.group_expr.iter_mut().flat_map(keys_of) {
        if let Some(definition) = definition_of_key(key, schema)? {
            let before = key.clone();
            describe(key, definition);
            described.push((before, key.clone()));
        }
    }
    if described.is_empty() {
        return Ok(false);
    }
    for function in &mut aggregate.aggr_expr {
        ask_for_described(function, &described);
    }
    Ok(true)
}

/// The keys in `expr`, which may be grouping sets.
fn keys_of(expr: &mut Expr) -> Vec<&mut Expr> {
    match expr {
        Expr::GroupingSet(GroupingSet::GroupingSets(sets)) => sets.iter_mut().flatten().collect(),
        Expr::GroupingSet(GroupingSet::Rollup(keys) | GroupingSet::Cube(keys)) => keys.iter_mut().collect(),
        key => vec![key],
    }
}

/// What `key` is computed by, if its schema is to say so.
fn definition_of_key(key: &Expr, schema: &DFSchema) -> DataFusionResult<Option<String>> {
    let computed = key.clone().unalias();
    if is_described(key, schema)? || WindowCall::of(&computed)?.is_some() {
        return Ok(None);
    }
    let parts = Parts::of(&computed, schema)?;
    let is_named = key.schema_name().to_string() == computed.schema_name().to_string();
    Ok((parts.hidden || !parts.all.is_empty() && !is_named).then(|| parts.all.join("; ")))
}

/// `grouping(key, …)` names keys as they stand in the grouping sets.
fn ask_for_described(function: &mut Expr, described: &[(Expr, Expr)]) {
    match function {
        Expr::Alias(alias) => ask_for_described(&mut alias.expr, described),
        Expr::AggregateFunction(call) if call.func.name() == "grouping" => {
            for argument in &mut call.params.args {
                if let Some((_, key)) = described.iter().find(|(before, _)| before == argument) {
                    *argument = key.clone();
                }
            }
        }
        _ => {}
    }
}

fn describe(expr: &mut Expr, definition: String) {
    let (qualifier, name) = expr.qualified_name();
    let computed = std::mem::take(expr).unalias();
    *expr = described(computed, definition).alias_qualified(qualifier, name);
}
