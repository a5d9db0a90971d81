//! The functions that plans with windows are rewritten to.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{internal_err, plan_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::finality::{Finality, Span, tag_of};
use super::on_arrays::on_arrays;
use super::windows::{WINDOWS, Windows, start_field, window_fields, windows_from};

/// The key of the field metadata that says what the values of a column are computed by. State in which they are
/// kept means something else if that changes.
const DEFINITION: &str = "tidemill.definition";
/// The time that rows are in windows by.
const WINDOWS_BY: &str = "tidemill.windowsBy";

/// The key of the field metadata that says which numbers of grouping sets stand for grand totals.
const TOTALS: &str = "tidemill.totals";

/// What an internal function does with its only argument.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Operation {
    /// From a time to the start of its window.
    Start(TimedWindows),
    /// From a time to a list of the starts of its windows.
    Starts(Windows),
    /// From the start of a window of this many microseconds to the window.
    Window(i64),
    /// Nothing, but the schema says that its values are final when this says.
    Tag(Option<Finality>),
    /// Nothing, but the schema says that its values are the starts of these windows.
    Mark(TimedWindows),
    /// Nothing, but the schema says what its values are computed by.
    Describe(String),
    /// Nothing, but the schema says which of its values, apart by commas, stand for grand totals.
    Totals(String),
}

/// Windows, and the time that rows are in them by, as the query has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TimedWindows {
    windows: Windows,
    by: String,
}

impl TimedWindows {
    fn new(windows: Windows, by: &Expr) -> Self {
        Self { windows, by: by.to_string() }
    }

    fn entries(&self) -> [(String, String); 2] {
        [(WINDOWS.into(), self.windows.to_string()), (WINDOWS_BY.into(), self.by.clone())]
    }
}

/// The start of the window of `windows`, which tumble, that `time` is in; `by` is what the query has for it.
pub(crate) fn window_start(time: Expr, windows: Windows, by: &Expr) -> Expr {
    let name = format!("window_start[{}us]", windows.size);
    call(name, Operation::Start(TimedWindows::new(windows, by)), time)
}

/// A list of the starts of the windows that `time` is in, the newest first.
pub(crate) fn window_starts(time: Expr, windows: Windows) -> Expr {
    let name = format!("window_starts[{}us, {}us]", windows.size, windows.slide);
    call(name, Operation::Starts(windows), time)
}

/// The window of `size` microseconds that begins at `start`.
pub(crate) fn window_of(start: Expr, size: i64) -> Expr {
    call(format!("window_of[{size}us]"), Operation::Window(size), start)
}

/// `value`, whose column says that its values are final when `finality` says; never if that is
/// `None`. A function, because the optimiser forgets what an alias says.
pub(crate) fn tagged(value: Expr, finality: Option<Finality>) -> Expr {
    let name = match &finality {
        Some(finality) => format!("event_time[{finality}]"),
        None => "not_event_time".into(),
    };
    call(name, Operation::Tag(finality), value)
}

/// `value`, whose column says that it holds the starts of `windows` by the time `by`.
pub(crate) fn starts_of(value: Expr, windows: Windows, by: &Expr) -> Expr {
    call(format!("starts_of[{windows}]"), Operation::Mark(TimedWindows::new(windows, by)), value)
}

/// `value`, whose column says what it is computed by, however many subqueries are between it and what is
/// kept of it: its name does not.
pub(crate) fn described(value: Expr, definition: String) -> Expr {
    call(format!("is[{definition}]"), Operation::Describe(definition), value)
}

/// `number` of a grouping set, whose column says which numbers are of sets without keys: these have a group even where
/// there are no rows.
pub(crate) fn with_totals(number: Expr, totals: &[i32]) -> Expr {
    let totals: Vec<String> = totals.iter().map(i32::to_string).collect();
    let totals = totals.join(",");
    call(format!("totals[{totals}]"), Operation::Totals(totals), number)
}

/// The numbers of grouping sets without keys, if `field` holds numbers of sets.
pub(crate) fn totals_of(field: &Field) -> Vec<i32> {
    let totals = field.metadata().get(TOTALS).map_or("", String::as_str);
    totals.split(',').filter_map(|total| total.parse().ok()).collect()
}

/// What `function` is called with, if it only says what that is computed by.
pub(crate) fn described_value(function: &ScalarFunction) -> Option<&Expr> {
    let internal = function.func.inner().downcast_ref::<Internal>()?;
    match (&internal.operation, function.args.as_slice()) {
        (Operation::Describe(_), [value]) => Some(value),
        _ => None,
    }
}

/// What `function` says that its argument is computed by, if it is what says so.
pub(crate) fn definition_by(function: &ScalarFunction) -> Option<&str> {
    match &function.func.inner().downcast_ref::<Internal>()?.operation {
        Operation::Describe(definition) => Some(definition),
        _ => None,
    }
}

/// What the values of a column are computed by, if its schema says so.
pub(crate) fn definition_of(field: &Field) -> Option<&str> {
    field.metadata().get(DEFINITION).map(String::as_str)
}

/// The time that rows are by in the windows whose starts a column holds, if its schema says so.
pub(crate) fn windows_by_of(field: &Field) -> Option<&str> {
    field.metadata().get(WINDOWS_BY).map(String::as_str)
}

fn call(name: String, operation: Operation, argument: Expr) -> Expr {
    let signature = Signature::any(1, Volatility::Immutable);
    ScalarUDF::new_from_impl(Internal { name, operation, signature }).call(vec![argument])
}

/// One of the functions.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Internal {
    name: String,
    operation: Operation,
    signature: Signature,
}

impl ScalarUDFImpl for Internal {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        internal_err!("the type of {} follows from its argument", self.name)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        let [argument] = args.arg_fields else { return internal_err!("{} takes one argument", self.name) };
        let from = argument.data_type();
        let is_event_time = tag_of(argument) == Some(Finality::at_once());
        let after = |size: i64| Finality::After(Span::micros(size));
        let (data_type, tag) = match &self.operation {
            Operation::Start(TimedWindows { windows, .. }) => {
                (windows.time_type(from)?, is_event_time.then(|| after(windows.size)))
            }
            Operation::Starts(windows) => (DataType::List(start_field(windows.time_type(from)?)), None),
            Operation::Window(size) => {
                if !matches!(from, DataType::Timestamp(_, _)) {
                    return plan_err!("a window starts at a time, not at {from}");
                }
                let is_start = tag_of(argument) == Some(after(*size));
                let tag = is_start.then_some(Finality::Window { size: Some(*size) });
                (DataType::Struct(window_fields(from)), tag)
            }
            Operation::Tag(finality) => {
                let metadata = Finality::metadata(finality.as_ref());
                let mut all = argument.metadata().clone();
                all.extend(metadata);
                return Ok(Arc::new(argument.as_ref().clone().with_metadata(all)));
            }
            Operation::Mark(windows) => return Ok(with_entries(argument, windows.entries())),
            Operation::Describe(definition) => {
                return Ok(with_entries(argument, [(DEFINITION.to_string(), definition.clone())]));
            }
            Operation::Totals(totals) => {
                return Ok(with_entries(argument, [(TOTALS.to_string(), totals.clone())]));
            }
        };
        let mut metadata = tag.map_or_else(HashMap::new, |tag| Finality::metadata(Some(&tag)));
        if let Operation::Start(windows) = &self.operation {
            metadata.extend(windows.entries());
        }
        Ok(Arc::new(Field::new(&self.name, data_type, argument.is_nullable()).with_metadata(metadata)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let Some(argument) = args.args.into_iter().next() else {
            return internal_err!("{} takes one argument", self.name);
        };
        match &self.operation {
            Operation::Start(TimedWindows { windows, .. }) => {
                on_arrays(&argument, |times| windows.newest(times))
            }
            Operation::Starts(windows) => on_arrays(&argument, |times| Ok(Arc::new(windows.all(times)?))),
            Operation::Window(size) => on_arrays(&argument, |starts| windows_from(starts, *size)),
            Operation::Tag(_) | Operation::Mark(_) | Operation::Describe(_) | Operation::Totals(_) => {
                Ok(argument)
            }
        }
    }
}

/// `field` whose metadata has these entries more, or others.
fn with_entries(field: &Field, entries: impl IntoIterator<Item = (String, String)>) -> FieldRef {
    let mut metadata = field.metadata().clone();
    metadata.extend(entries);
    Arc::new(field.clone().with_metadata(metadata))
}
