//! Long arithmetic that is checked: as one function over what it is made of.
//!
//! To plan functions inside of functions takes a time that grows with the square of their depth, at the least, and
//! with its cube where their names are asked for.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, internal_err};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::binary::BinaryTypeCoercer;
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};

use super::checked::{Operation, is_checked, unchecked};
use super::written::written;

/// As many operations as are worth a function of their own each: optimisations know them then.
const FEW: usize = 16;

/// `expr` as one function, if it is much arithmetic of integers and decimals.
pub(crate) fn checked_tree(expr: &Expr, schema: &DFSchema) -> DataFusionResult<Option<Expr>> {
    if operations(expr) <= FEW || !expr.get_type(schema).is_ok_and(|of| is_checked(&of)) {
        return Ok(None);
    }
    let mut tree = Tree { steps: Vec::new(), leaves: Vec::new() };
    let data_type = tree.take(expr, schema)?;
    if tree.steps.len() - tree.leaves.len() <= FEW {
        return Ok(None);
    }
    let Tree { steps, leaves } = tree;
    let arguments = leaves.clone();
    let signature = Signature::variadic_any(Volatility::Immutable);
    Ok(Some(ScalarUDF::new_from_impl(CheckedTree { steps, leaves, data_type, signature }).call(arguments)))
}

/// How many operations of arithmetic hang together.
fn operations(expr: &Expr) -> usize {
    let (mut count, mut left) = (0, vec![expr]);
    while let Some(expr) = left.pop() {
        match expr {
            Expr::BinaryExpr(binary) if is_arithmetic(binary.op) => {
                count += 1;
                left.extend([binary.left.as_ref(), binary.right.as_ref()]);
            }
            Expr::Negative(value) => {
                count += 1;
                left.push(value);
            }
            Expr::Cast(cast) => left.push(&cast.expr),
            _ => {}
        }
    }
    count
}

fn is_arithmetic(operator: Operator) -> bool {
    use Operator::{Divide, Minus, Modulo, Multiply, Plus};
    matches!(operator, Plus | Minus | Multiply | Divide | Modulo)
}

/// What is done next, with the values that are there: those of a computation on paper.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Step {
    /// A leaf comes to the others.
    Leaf(usize),
    /// The last one, or the last two, become one of the type.
    Compute(Operation, DataType),
    /// The last one gets a type that has room for it.
    Widen(DataType),
}

/// Arithmetic as its leaves and what is done with them.
struct Tree {
    steps: Vec<Step>,
    leaves: Vec<Expr>,
}

impl Tree {
    /// Takes `expr` in, and gives its type.
    fn take(&mut self, expr: &Expr, schema: &DFSchema) -> DataFusionResult<DataType> {
        // What goes down on the left is as deep as a chain is long.
        let (mut spine, mut first) = (Vec::new(), expr);
        while let Some(left) = first_of(first) {
            spine.push(first);
            first = left;
        }
        let mut data_type = self.leaf(first, schema)?;
        for node in spine.into_iter().rev() {
            let at = self.steps.len();
            let computed = match node {
                Expr::BinaryExpr(binary) => {
                    let right = self.take(&binary.right, schema)?;
                    let of_both = BinaryTypeCoercer::new(&data_type, &binary.op, &right).get_result_type();
                    let of_numbers = is_number(&data_type) && is_number(&right);
                    of_both.ok().filter(|of_both| of_numbers && is_checked(of_both)).map(|of_both| {
                        (Step::Compute(Operation::Binary(binary.op), of_both.clone()), of_both)
                    })
                }
                Expr::Negative(_) if is_checked(&data_type) => {
                    Some((Step::Compute(Operation::Negate, data_type.clone()), data_type.clone()))
                }
                Expr::Cast(Cast { field, .. }) if has_room(field.data_type(), &data_type) => {
                    Some((Step::Widen(field.data_type().clone()), field.data_type().clone()))
                }
                _ => None,
            };
            match computed {
                Some((step, of)) => {
                    self.steps.push(step);
                    data_type = of;
                }
                // What it is made of is looked at for itself.
                None => {
                    self.steps.truncate(at);
                    data_type = self.only(node, schema)?;
                }
            }
        }
        Ok(data_type)
    }

    /// Nothing of what was taken in by now but `node` as a whole.
    fn only(&mut self, node: &Expr, schema: &DFSchema) -> DataFusionResult<DataType> {
        // The steps of its left side are those since the last that is none of it: all that give one value.
        let mut open = 1;
        while open > 0 {
            match self.steps.pop() {
                Some(Step::Leaf(_)) => open -= 1,
                Some(Step::Compute(Operation::Binary(_), _)) => open += 1,
                Some(_) => {}
                None => return internal_err!("arithmetic ends in the middle of itself"),
            }
        }
        let leaves = self.steps.iter().filter(|step| matches!(step, Step::Leaf(_))).count();
        self.leaves.truncate(leaves);
        self.leaf(node, schema)
    }

    fn leaf(&mut self, expr: &Expr, schema: &DFSchema) -> DataFusionResult<DataType> {
        self.steps.push(Step::Leaf(self.leaves.len()));
        self.leaves.push(expr.clone());
        expr.get_type(schema)
    }
}

/// What `expr` is made of first, if that may be arithmetic, too.
fn first_of(expr: &Expr) -> Option<&Expr> {
    match expr {
        Expr::BinaryExpr(binary) if is_arithmetic(binary.op) => Some(&binary.left),
        Expr::Negative(value) => Some(value),
        Expr::Cast(cast) if first_of(&cast.expr).is_some() => Some(&cast.expr),
        _ => None,
    }
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_integer() || data_type.is_decimal()
}

/// Whether every value of `from` is one of `to`, with as many decimals.
fn has_room(to: &DataType, from: &DataType) -> bool {
    match (from, to) {
        (DataType::Decimal128(from, scale), DataType::Decimal128(to, other)) => from <= to && scale == other,
        (from, to) if from.is_signed_integer() && to.is_signed_integer() => {
            from.primitive_width() <= to.primitive_width()
        }
        _ => from == to,
    }
}

/// Arithmetic of many operations.
#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedTree {
    steps: Vec<Step>,
    /// The leaves as the user wrote them, for messages.
    leaves: Vec<Expr>,
    data_type: DataType,
    signature: Signature,
}

/// The expression that `steps` compute of `leaves`, with DataFusion's own arithmetic.
fn expression(steps: &[Step], leaves: &[Expr]) -> Option<Expr> {
    let mut stack: Vec<Expr> = Vec::new();
    for step in steps {
        let next = match step {
            Step::Leaf(index) => leaves.get(*index)?.clone(),
            Step::Compute(Operation::Negate, _) => Expr::Negative(Box::new(stack.pop()?)),
            Step::Compute(Operation::Binary(operator), _) => {
                let (right, left) = (stack.pop()?, stack.pop()?);
                Expr::BinaryExpr(BinaryExpr::new(Box::new(left), *operator, Box::new(right)))
            }
            Step::Widen(to) => Expr::Cast(Cast::new(Box::new(stack.pop()?), to.clone())),
        };
        stack.push(next);
    }
    stack.pop()
}

/// `expr` as it was written, with DataFusion's own arithmetic.
pub(super) fn as_written(expr: &Expr) -> Expr {
    let plain = expr.clone().transform_up(|expr| {
        let written = match &expr {
            Expr::ScalarFunction(call) => match call.func.inner().downcast_ref::<CheckedTree>() {
                Some(tree) => expression(&tree.steps, &call.args),
                None => unchecked(call),
            },
            _ => None,
        };
        Ok(written.map_or_else(|| Transformed::no(expr), Transformed::yes))
    });
    plain.map_or_else(|_| expr.clone(), |plain| plain.data)
}

impl CheckedTree {
    fn written(&self, args: &[Expr]) -> DataFusionResult<Expr> {
        match expression(&self.steps, args) {
            Some(expr) => Ok(expr),
            None => internal_err!("{} with {} arguments", self.name(), args.len()),
        }
    }

    /// What the step at `at` computes, in the user's words.
    fn text(&self, at: usize) -> String {
        let expr = expression(&self.steps[..=at], &self.leaves);
        expr.map_or_else(String::new, |expr| written(&as_written(&expr)))
    }

    fn compute(&self, args: &[ColumnarValue]) -> DataFusionResult<ColumnarValue> {
        let mut stack: Vec<ColumnarValue> = Vec::new();
        let missing = || DataFusionError::Internal(format!("{} has too few values", self.name()));
        for (at, step) in self.steps.iter().enumerate() {
            let next = match step {
                Step::Leaf(index) => args.get(*index).ok_or_else(missing)?.clone(),
                Step::Widen(to) => stack.pop().ok_or_else(missing)?.cast_to(to, None)?,
                Step::Compute(operation, of) => {
                    let count = if *operation == Operation::Negate { 1 } else { 2 };
                    let from = stack.len().checked_sub(count).ok_or_else(missing)?;
                    let operands = stack.split_off(from);
                    operation
                        .apply(&operands)
                        .map_err(|error| super::checked::failed(error, &|| self.text(at), of))?
                }
            };
            stack.push(next);
        }
        stack.pop().ok_or_else(missing)
    }
}

impl ScalarUDFImpl for CheckedTree {
    fn name(&self) -> &str {
        "checked_arithmetic"
    }

    fn schema_name(&self, args: &[Expr]) -> DataFusionResult<String> {
        Ok(self.written(args)?.schema_name().to_string())
    }

    fn display_name(&self, args: &[Expr]) -> DataFusionResult<String> {
        Ok(self.written(args)?.to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(self.data_type.clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.data_type.clone(), nullable)))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn evaluate_bounds(&self, _: &[&Interval]) -> DataFusionResult<Interval> {
        Interval::make_unbounded(&self.data_type)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        self.compute(&args.args)
    }
}
