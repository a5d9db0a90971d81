//! DataFusion's `date_part`, and so `EXTRACT`, compared with years that nanoseconds do not reach.
//!
//! It makes `year(t) < 9999` a comparison of `t` itself with the start of that year, which is null where the type of
//! `t` cannot express it, as nanoseconds cannot beyond 2262: no row is before it.

use std::sync::{Arc, LazyLock};

use datafusion::error::Result as DataFusionResult;
use datafusion::functions::datetime;
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl};

use super::inner::described_by_inner;

static DATE_PART: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(DatePart { inner: datetime::date_part() })));

/// The right function in the place of DataFusion's; `None` for any other.
pub(crate) fn part_of_any_time(function: &ScalarUDF) -> Option<Arc<ScalarUDF>> {
    let is_replaced = function.name() == "date_part" && function == datetime::date_part().as_ref();
    is_replaced.then(|| Arc::clone(&DATE_PART))
}

/// Gives what DataFusion's function gives, but is compared itself where the bounds of the years cannot be told.
#[derive(Debug, PartialEq, Eq, Hash)]
struct DatePart {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for DatePart {
    described_by_inner!();

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        self.inner.invoke_with_args(args)
    }

    fn preimage(
        &self,
        args: &[Expr],
        literal: &Expr,
        info: &SimplifyContext,
    ) -> DataFusionResult<PreimageResult> {
        Ok(match self.inner.preimage(args, literal, info)? {
            PreimageResult::Range { interval, .. }
                if interval.lower().is_null() || interval.upper().is_null() =>
            {
                PreimageResult::None
            }
            known => known,
        })
    }
}
