//! What values mean: rules that every plan of a session goes through, of a batch or of a stream, before
//! it is optimised.
//!
//! They put functions of ours in the place of what DataFusion computes otherwise than SQL, Spark and
//! DuckDB do.

mod arithmetic;
mod decimals;
mod equality;
mod like;
mod sql_types;

use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::common::config::{ConfigExtension, ConfigOptions};
use datafusion::common::extensions_options;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, LogicalPlan};

use arithmetic::CheckedArithmetic;
use decimals::DecimalLiterals;
pub(crate) use decimals::of_view;
use equality::Equality;
use like::LikeEscapes;
use sql_types::SqlTypes;

use crate::functions::{FieldNames, IntervalFactors};

extensions_options! {
    /// The settings of a session that begin with `tidemill`.
    pub struct ValueOptions {
        /// Whether sums and arithmetic of integers and decimals that overflow are errors. If not, they wrap
        /// around, as in DataFusion.
        pub ansi_mode: bool, default = true
    }
}

impl ConfigExtension for ValueOptions {
    const PREFIX: &'static str = "tidemill";
}

/// Whether overflows are errors.
fn ansi_mode(config: &ConfigOptions) -> bool {
    config.extensions.get::<ValueOptions>().is_none_or(|options| options.ansi_mode)
}

/// `state` with the rules, and with literals that are decimals.
pub(crate) fn with_values(state: &SessionState) -> SessionState {
    let mut rules = state.analyzer().rules.clone();
    if rules.iter().any(|rule| rule.name() == DecimalLiterals::NAME) {
        return state.clone();
    }
    // Types are found out between the first rule and the others.
    rules.insert(0, Arc::new(DecimalLiterals));
    rules.push(Arc::new(LikeEscapes));
    rules.push(Arc::new(Equality));
    rules.push(Arc::new(CheckedArithmetic));
    // Before DataFusion's own, which take names as they are written.
    let mut planners = state.expr_planners().to_vec();
    planners.insert(0, Arc::new(FieldNames));
    planners.insert(0, Arc::new(IntervalFactors));
    let mut config = state.config().clone();
    let options = config.options_mut();
    options.sql_parser.parse_float_as_decimal = true;
    // Spark's times in Parquet, of which nanoseconds do not reach all.
    options.execution.parquet.coerce_int96.get_or_insert_with(|| "us".into());
    if options.extensions.get::<ValueOptions>().is_none() {
        options.extensions.insert(ValueOptions::default());
    }
    // The catalogs are shared: a state that made its default catalog anew would empty the user's.
    let made_default = std::mem::replace(&mut options.catalog.create_default_catalog_and_schema, false);
    let mut builder = SessionStateBuilder::new_from_existing(state.clone())
        .with_session_id(state.session_id().to_string())
        .with_config(config)
        .with_analyzer_rules(rules)
        .with_expr_planners(planners);
    // A program may have types of its own.
    builder.type_planner().get_or_insert_with(|| Arc::new(SqlTypes));
    let mut state = builder.build();
    state.config_mut().options_mut().catalog.create_default_catalog_and_schema = made_default;
    state
}

/// `plan` with each of the expressions of its top node as `rewrite` makes it, given the schema of the
/// rows that it is over. Names of columns stay.
pub(super) fn rewrite_expressions(
    plan: LogicalPlan,
    rewrite: &dyn Fn(Expr, &DFSchema) -> DataFusionResult<Transformed<Expr>>,
) -> DataFusionResult<Transformed<LogicalPlan>> {
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = &plan {
        schema.merge(&DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?);
    }
    let names = NamePreserver::new(&plan);
    let named = |expr: Expr| {
        let name = names.save(&expr);
        let rewritten = rewrite(expr, &schema)?;
        Ok(if rewritten.transformed { rewritten.update_data(|expr| name.restore(expr)) } else { rewritten })
    };
    plan.map_expressions(|expr| match expr {
        // It is no column itself: those are its expressions.
        Expr::GroupingSet(sets) => Expr::GroupingSet(sets).map_children(named),
        expr => named(expr),
    })
}
