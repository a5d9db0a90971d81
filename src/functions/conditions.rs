//! Conditions by the thousand.
//!
//! A chain of `AND` or `OR` is a tree as deep as the chain is long, and everything that walks it
//! needs a stack as deep. Scripts with very long chains are planned with one of these functions in the
//! place of the chain (`sql/chains.rs`).

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, AsArray, BooleanArray};
use datafusion::arrow::compute::{and_kleene, or_kleene};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// The function that is true if all of its arguments are.
pub(crate) const ALL_CONDITIONS: &str = "all_conditions";
/// The function that is true if one of its arguments is.
pub(crate) const ANY_CONDITION: &str = "any_condition";

static ALL: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| Conditions::function(ALL_CONDITIONS, true));
static ANY: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| Conditions::function(ANY_CONDITION, false));

/// Both functions.
pub(super) fn condition_functions() -> [Arc<ScalarUDF>; 2] {
    [Arc::clone(&ALL), Arc::clone(&ANY)]
}

/// `AND` or `OR` of any number of conditions, with SQL's three values.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Conditions {
    name: &'static str,
    is_and: bool,
    signature: Signature,
}

impl Conditions {
    fn function(name: &'static str, is_and: bool) -> Arc<ScalarUDF> {
        let signature = Signature::user_defined(Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(Conditions { name, is_and, signature }))
    }

    fn combine_one(&self, left: Option<bool>, right: Option<bool>) -> Option<bool> {
        // What decides alone: false of AND, true of OR.
        let decides = Some(!self.is_and);
        match (left, right) {
            _ if left == decides || right == decides => decides,
            (Some(_), Some(_)) => Some(self.is_and),
            _ => None,
        }
    }

    fn combine(&self, left: &BooleanArray, right: &BooleanArray) -> DataFusionResult<BooleanArray> {
        Ok(if self.is_and { and_kleene(left, right)? } else { or_kleene(left, right)? })
    }
}

impl ScalarUDFImpl for Conditions {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DataFusionResult<Vec<DataType>> {
        Ok(vec![DataType::Boolean; types.len()])
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let rows = args.number_rows;
        let mut result: Option<BooleanArray> = None;
        let mut constant = Some(self.is_and);
        for condition in &args.args {
            match condition {
                ColumnarValue::Array(array) => {
                    let Some(array) = array.as_boolean_opt() else {
                        return internal_err!("{} takes conditions, not {}", self.name, array.data_type());
                    };
                    result = Some(match result {
                        None => array.clone(),
                        Some(result) => self.combine(&result, array)?,
                    });
                }
                ColumnarValue::Scalar(ScalarValue::Boolean(value)) => {
                    constant = self.combine_one(constant, *value)
                }
                ColumnarValue::Scalar(other) => {
                    return internal_err!("{} takes conditions, not {}", self.name, other.data_type());
                }
            }
        }
        match result {
            None => Ok(ColumnarValue::Scalar(ScalarValue::Boolean(constant))),
            Some(result) => {
                let constant = BooleanArray::from(vec![constant; rows]);
                Ok(ColumnarValue::Array(Arc::new(self.combine(&result, &constant)?)))
            }
        }
    }
}
