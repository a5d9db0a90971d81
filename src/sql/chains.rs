//! Expressions of thousands of parts.
//!
//! `a OR b OR c …` parses to a tree as deep as the chain is long. Planning, optimising and evaluating
//! it recurse, which ends the process where the stack does. Very long chains of `AND` and `OR`
//! become calls of a function over all conditions; everything else that is as deep is refused.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments,
    Ident, ObjectName, Query, SetExpr, Value, ValueWithSpan, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Location;

use super::diagnostics::error_at;
use super::visit::visit_statement;
use crate::error::Result;
use crate::functions::{ALL_CONDITIONS, ANY_CONDITION};

/// The conditions of a chain that stay as they are written; DataFusion understands them better so.
const KEPT: usize = 100;
/// How deep an expression may be, and how many queries may be united.
const DEEPEST: usize = 1_000;
/// The stack that one level of an expression takes, at most, while it is planned and run.
const LEVEL: usize = if cfg!(debug_assertions) { 8 << 10 } else { 2 << 10 };
/// The same for a token of a statement while it is parsed.
const TOKEN: usize = if cfg!(debug_assertions) { 2 << 10 } else { 512 };
/// The largest stack to parse on.
const LARGEST: usize = 1 << 30;
/// The stack that everything else may take.
const RESERVE: usize = 256 << 10;

/// Runs `parse` on a stack on which a statement of so many tokens may be as deep as it likes.
pub(super) fn on_a_deep_stack<T>(tokens: usize, parse: impl FnOnce() -> T) -> T {
    let needed = tokens.saturating_mul(TOKEN).min(LARGEST) + RESERVE;
    stacker::maybe_grow(needed, needed, parse)
}

/// Makes what is long in `query` flat; `at` is where its statement starts.
///
/// # Errors
/// If it is deeper than this thread has stack for.
pub(super) fn flatten(query: &mut Query, at: Location) -> Result<()> {
    let mut flat = Flatten::new();
    let deep = query.visit(&mut flat);
    flat.check(deep, at)
}

/// The same for a whole statement.
///
/// # Errors
/// As [`flatten`].
pub(super) fn flatten_statement(statement: &mut Statement, at: Location) -> Result<()> {
    let mut flat = Flatten::new();
    let deep = visit_statement(statement, &mut flat);
    flat.check(deep, at)
}

struct Flatten {
    depth: usize,
    deepest: usize,
}

impl Flatten {
    fn new() -> Self {
        let stack = stacker::remaining_stack().unwrap_or(usize::MAX);
        Self { depth: 0, deepest: DEEPEST.min(stack.saturating_sub(RESERVE) / LEVEL) }
    }

    fn check(&self, deep: ControlFlow<&'static str>, at: Location) -> Result<()> {
        match deep {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(what) => Err(error_at(
                format!(
                    "{what} more than {} deep cannot be planned: compute it in parts, in subqueries",
                    self.deepest
                ),
                at,
            )),
        }
    }
}

impl VisitorMut for Flatten {
    type Break = &'static str;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        let mut body = query.body.as_ref();
        for _ in 0..self.deepest {
            match body {
                SetExpr::SetOperation { left, .. } => body = left,
                _ => return ControlFlow::Continue(()),
            }
        }
        ControlFlow::Break("UNION, EXCEPT or INTERSECT of queries")
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        for (operator, function) in
            [(BinaryOperator::And, ALL_CONDITIONS), (BinaryOperator::Or, ANY_CONDITION)]
        {
            if length(expr, &operator) > 2 * KEPT {
                let conditions = take_chain(expr, &operator);
                *expr = chain_of(conditions, &operator, function);
            }
        }
        self.depth += 1;
        if self.depth > self.deepest {
            ControlFlow::Break("an expression")
        } else {
            ControlFlow::Continue(())
        }
    }

    fn post_visit_expr(&mut self, _: &mut Expr) -> ControlFlow<Self::Break> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}

/// How many expressions `operator` joins in `expr`.
fn length(mut expr: &Expr, operator: &BinaryOperator) -> usize {
    let mut length = 1;
    while let Expr::BinaryOp { left, op, .. } = expr {
        if op != operator {
            break;
        }
        length += 1;
        expr = left;
    }
    length
}

/// The expressions that `operator` joins in `expr`, in order.
fn take_chain(expr: &mut Expr, operator: &BinaryOperator) -> Vec<Expr> {
    let mut rest = std::mem::replace(expr, null());
    let mut conditions = Vec::new();
    loop {
        match rest {
            Expr::BinaryOp { left, op, right } if op == *operator => {
                conditions.push(*right);
                rest = *left;
            }
            first => {
                conditions.push(first);
                conditions.reverse();
                return conditions;
            }
        }
    }
}

/// `conditions` joined by `operator`, those at the end by `function`.
fn chain_of(conditions: Vec<Expr>, operator: &BinaryOperator, function: &str) -> Expr {
    let mut conditions = alternatives(conditions, operator).into_iter();
    let kept = conditions.by_ref().take(KEPT).reduce(|left, right| binary(left, operator, right));
    let rest: Vec<Expr> = conditions.collect();
    match (kept, rest.is_empty()) {
        (Some(kept), true) => kept,
        (Some(kept), false) => binary(kept, operator, call(function, rest)),
        (None, _) => call(function, rest),
    }
}

/// `x = 1 OR x = 2 …` as `x IN (1, 2, …)`, and `x <> 1 AND x <> 2 …` as `x NOT IN (1, 2, …)`,
/// where such conditions follow one another.
fn alternatives(conditions: Vec<Expr>, operator: &BinaryOperator) -> Vec<Expr> {
    let (comparison, negated) = match operator {
        BinaryOperator::Or => (BinaryOperator::Eq, false),
        _ => (BinaryOperator::NotEq, true),
    };
    let mut found: Vec<Expr> = Vec::new();
    for condition in conditions {
        match condition {
            Expr::BinaryOp { left, op, right } if op == comparison && kind(&right).is_some() => {
                match found.last_mut() {
                    Some(Expr::InList { expr, list, negated: same })
                        if *same == negated
                            && *expr == left
                            && list.last().and_then(kind) == kind(&right) =>
                    {
                        list.push(*right);
                    }
                    _ => found.push(Expr::InList { expr: left, list: vec![*right], negated }),
                }
            }
            other => found.push(other),
        }
    }
    found
}

/// Which kind of literal `expr` is: those of one kind are compared in the same way.
fn kind(expr: &Expr) -> Option<u8> {
    match expr {
        Expr::Value(ValueWithSpan { value: Value::Number(number, _), .. }) => {
            number.bytes().all(|digit| digit.is_ascii_digit()).then_some(0)
        }
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(_), .. }) => Some(1),
        _ => None,
    }
}

fn binary(left: Expr, op: &BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op: op.clone(), right: Box::new(right) }
}

pub(super) fn call(function: &str, arguments: Vec<Expr>) -> Expr {
    let argument = |expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr));
    let args = arguments.into_iter().map(argument).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(function)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args,
            clauses: vec![],
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
}

pub(super) fn null() -> Expr {
    Expr::Value(Value::Null.into())
}
