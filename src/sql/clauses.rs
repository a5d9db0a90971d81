//! Clauses that DataFusion's planner passes over without a word, or knows by another name only.
//!
//! A query without what was asked for gives other rows, so that what is passed over is refused.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Fetch, GroupByExpr, GroupByWithModifier, JoinOperator, LimitClause, Query, Select, SelectItem,
    TableFactor, UnaryOperator, Value, ValueWithSpan, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Location;

use super::diagnostics::error_at;
use super::row_values::any_of;
use crate::error::Error;

/// Breaks with an error where it visits such a clause; `at` is the place of the statement.
pub(super) struct Clauses {
    pub(super) at: Location,
}

impl VisitorMut for Clauses {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        if query.settings.is_some() || query.format_clause.is_some() {
            return self.refuse("SETTINGS and FORMAT at the end of a query", SETTINGS);
        }
        if query.for_clause.is_some() {
            return self
                .refuse("FOR XML, FOR JSON and FOR BROWSE", "to_json(named_struct('a', a)) gives JSON");
        }
        self.fetch(query)
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        for (is_there, clause, instead) in [
            (!select.connect_by.is_empty(), "CONNECT BY", "write WITH RECURSIVE"),
            (select.prewhere.is_some(), "PREWHERE", "write WHERE"),
            (select.top.is_some(), "TOP", "write LIMIT at the end of the query"),
            (!select.cluster_by.is_empty(), "CLUSTER BY", "leave it out"),
            (!select.sort_by.is_empty(), "SORT BY", "write ORDER BY, or leave it out"),
            (select.value_table_mode.is_some(), "SELECT AS", "write named_struct('a', a)"),
        ] {
            if is_there {
                return self.refuse(clause, instead);
            }
        }
        for join in select.from.iter_mut().flat_map(|from| &mut from.joins) {
            self.join(&mut join.join_operator)?;
        }
        self.sets(select)
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        match factor {
            TableFactor::Table { sample: Some(_), .. } | TableFactor::Derived { sample: Some(_), .. } => {
                self.refuse("TABLESAMPLE", "write WHERE random() < 0.1 for about a tenth of the rows")
            }
            TableFactor::Table { partitions, .. } if !partitions.is_empty() => {
                self.refuse("PARTITION behind a table", "write WHERE over the columns of the partition")
            }
            TableFactor::Table { json_path: Some(_), .. } => {
                self.refuse("a path into a table", "write it in SELECT, behind the column")
            }
            TableFactor::Pivot { .. } => self.refuse(
                "PIVOT",
                "write a column for each value: SELECT k, sum(v) FILTER (WHERE name = 'a') AS a, … GROUP BY k",
            ),
            TableFactor::Unpivot { .. } => self.refuse(
                "UNPIVOT",
                "write SELECT k, unnest(['a', 'b']) AS name, unnest([a, b]) AS value FROM t",
            ),
            TableFactor::JsonTable { .. } | TableFactor::OpenJsonTable { .. } => self.refuse(
                "JSON_TABLE",
                "write unnest(from_json(text, 'ARRAY<STRUCT<a: INT>>')), or read the JSON as a table",
            ),
            TableFactor::NestedJoin { table_with_joins, .. } => {
                table_with_joins.joins.iter_mut().try_for_each(|join| self.join(&mut join.join_operator))
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        match expr {
            Expr::Collate { .. } => {
                self.refuse("COLLATE", "compare lower(a) with lower(b) for texts of any case")
            }
            Expr::Convert { .. } => self.refuse("CONVERT", "write CAST(value AS type)"),
            Expr::Like { any: true, .. } | Expr::ILike { any: true, .. } => {
                like_any(expr);
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

const SETTINGS: &str = "settings are set by SET, and formats by the table that the rows go to";

impl Clauses {
    fn refuse(&self, clause: &str, instead: &str) -> ControlFlow<Error> {
        ControlFlow::Break(error_at(format!("{clause} is not supported: {instead}"), self.at))
    }

    /// `FETCH FIRST n ROWS ONLY` as `LIMIT n`.
    fn fetch(&self, query: &mut Query) -> ControlFlow<Error> {
        let Some(Fetch { with_ties, percent, quantity }) = query.fetch.take() else {
            return ControlFlow::Continue(());
        };
        if with_ties || percent {
            let instead = "write QUALIFY rank() OVER (ORDER BY …) <= n for the first n rows and those equal to the last";
            return self.refuse("FETCH with PERCENT or WITH TIES", instead);
        }
        let rows =
            quantity.unwrap_or_else(|| Expr::Value(ValueWithSpan::from(Value::Number("1".into(), false))));
        match &mut query.limit_clause {
            Some(LimitClause::LimitOffset { limit: limit @ None, .. }) => *limit = Some(rows),
            none @ None => {
                *none = Some(LimitClause::LimitOffset { limit: Some(rows), offset: None, limit_by: vec![] });
            }
            Some(_) => return self.refuse("FETCH beside LIMIT", "write one of them"),
        }
        ControlFlow::Continue(())
    }

    fn join(&self, operator: &mut JoinOperator) -> ControlFlow<Error> {
        *operator = match operator {
            JoinOperator::Semi(constraint) => JoinOperator::LeftSemi(constraint.clone()),
            JoinOperator::Anti(constraint) => JoinOperator::LeftAnti(constraint.clone()),
            JoinOperator::AsOf { .. } => {
                return self
                    .refuse("ASOF JOIN", "write a JOIN b FOR SYSTEM_TIME AS OF a.time ON a.key = b.key");
            }
            JoinOperator::CrossApply | JoinOperator::OuterApply => {
                return self
                    .refuse("APPLY", "write CROSS JOIN LATERAL (…), or LEFT JOIN LATERAL (…) ON true");
            }
            JoinOperator::ArrayJoin | JoinOperator::LeftArrayJoin | JoinOperator::InnerArrayJoin => {
                return self.refuse("ARRAY JOIN", "write CROSS JOIN UNNEST(items) AS item");
            }
            _ => return ControlFlow::Continue(()),
        };
        ControlFlow::Continue(())
    }

    /// Grouping sets in the words of the standard, of columns by their names.
    fn sets(&self, select: &mut Select) -> ControlFlow<Error> {
        match &mut select.group_by {
            GroupByExpr::All(modifiers) => {
                if !modifiers.is_empty() {
                    return self
                        .refuse("GROUP BY ALL WITH …", "name the columns, as in GROUP BY ROLLUP (a, b)");
                }
            }
            GroupByExpr::Expressions(keys, modifiers) => {
                for modifier in std::mem::take(modifiers) {
                    let all = std::mem::take(keys);
                    let each = || all.iter().map(|key| vec![key.clone()]).collect::<Vec<_>>();
                    keys.push(match modifier {
                        GroupByWithModifier::Rollup => Expr::Rollup(each()),
                        GroupByWithModifier::Cube => Expr::Cube(each()),
                        GroupByWithModifier::Totals => Expr::GroupingSets(vec![all, vec![]]),
                        GroupByWithModifier::GroupingSets(sets) => sets,
                    });
                }
                for key in keys {
                    if let Expr::Rollup(sets) | Expr::Cube(sets) | Expr::GroupingSets(sets) = key {
                        sets.iter_mut().flatten().for_each(|key| name_place(key, &select.projection));
                    }
                    spell_out(key);
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// `ROLLUP (a, (b, c))` and `CUBE` as their grouping sets, where they have keys that go together.
fn spell_out(key: &mut Expr) {
    /// DataFusion makes no more sets than this of a `CUBE`.
    const MOST_PARTS: usize = 12;
    let are_together = |parts: &[Vec<Expr>]| parts.iter().any(|part| part.len() != 1);
    let sets: Vec<Vec<Expr>> = match &*key {
        Expr::Rollup(parts) if are_together(parts) => {
            (0..=parts.len()).rev().map(|length| parts[..length].concat()).collect()
        }
        Expr::Cube(parts) if are_together(parts) && parts.len() <= MOST_PARTS => {
            let all = (0..1_usize << parts.len()).rev();
            let chosen = |set: usize| {
                let parts =
                    parts.iter().enumerate().filter(|(index, _)| set >> (parts.len() - 1 - index) & 1 == 1);
                parts.flat_map(|(_, part)| part.clone()).collect()
            };
            all.map(chosen).collect()
        }
        _ => return,
    };
    *key = Expr::GroupingSets(sets);
}

/// `2` as the second column of the result.
fn name_place(key: &mut Expr, columns: &[SelectItem]) {
    let Expr::Value(ValueWithSpan { value: Value::Number(number, _), .. }) = key else { return };
    let column =
        number.to_string().parse::<usize>().ok().and_then(|place| columns.get(place.checked_sub(1)?));
    if let Some(SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = column {
        *key = expr.clone();
    }
}

/// `a LIKE ANY ('x', 'y')` as one pattern or the other.
fn like_any(expr: &mut Expr) {
    let (Expr::Like { any, negated, pattern, .. } | Expr::ILike { any, negated, pattern, .. }) = &mut *expr
    else {
        return;
    };
    let patterns = match pattern.as_ref() {
        Expr::Tuple(patterns) => patterns.clone(),
        Expr::Nested(pattern) => vec![pattern.as_ref().clone()],
        _ => return,
    };
    *any = false;
    let is_negated = std::mem::take(negated);
    let each = patterns.into_iter().map(|one| {
        let mut like = expr.clone();
        if let Expr::Like { pattern, .. } | Expr::ILike { pattern, .. } = &mut like {
            **pattern = one;
        }
        like
    });
    if let Some(found) = any_of(each.collect()) {
        *expr = match is_negated {
            true => Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(found) },
            false => found,
        };
    }
}
