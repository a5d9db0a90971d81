//! JSON in text columns: `payload -> 'user' ->> 'name'`, `get_json_object(payload, '$.user.name')`,
//! `to_json(row)`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, StringArray, StringBuilder};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{DFSchema, ScalarValue, exec_err, plan_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use serde_json::value::RawValue;

use super::from_json::from_json;
use crate::text::json_of_values;

static MEMBER: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| function(Kind::Member));
static MEMBER_TEXT: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| function(Kind::MemberText));

/// What a function does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// A member of an object, by its name, or of an array, by its number, as JSON: `->`.
    Member,
    /// The same as text: `->>`.
    MemberText,
    /// What a path such as `$.a[0].b` leads to.
    Object,
    /// A value as JSON.
    ToJson,
}

/// All functions over JSON.
pub(crate) fn json_functions() -> [Arc<ScalarUDF>; 5] {
    let (member, member_text) = (Arc::clone(&MEMBER), Arc::clone(&MEMBER_TEXT));
    [member, member_text, function(Kind::Object), function(Kind::ToJson), from_json()]
}

fn function(kind: Kind) -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::from(JsonFunction::new(kind)))
}

/// Plans the operators `->` and `->>`.
#[derive(Debug)]
pub(crate) struct JsonOperators;

impl ExprPlanner for JsonOperators {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        _: &DFSchema,
    ) -> DataFusionResult<PlannerResult<RawBinaryExpr>> {
        let function = match expr.op {
            BinaryOperator::Arrow => &MEMBER,
            BinaryOperator::LongArrow => &MEMBER_TEXT,
            _ => return Ok(PlannerResult::Original(expr)),
        };
        Ok(PlannerResult::Planned(function.call(vec![expr.left, expr.right])))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct JsonFunction {
    kind: Kind,
    signature: Signature,
}

impl JsonFunction {
    fn new(kind: Kind) -> Self {
        let signature = match kind {
            Kind::ToJson => Signature::any(1, Volatility::Immutable),
            _ => Signature::any(2, Volatility::Immutable),
        };
        Self { kind, signature }
    }
}

impl ScalarUDFImpl for JsonFunction {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Member => "json_get",
            Kind::MemberText => "json_get_text",
            Kind::Object => "get_json_object",
            Kind::ToJson => "to_json",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> DataFusionResult<DataType> {
        let is_text = |data_type: &DataType| data_type.is_string() || data_type.is_null();
        match (self.kind, arguments) {
            (Kind::ToJson, _) => {}
            (_, [text, _]) if !is_text(text) => {
                return plan_err!("{} reads JSON from text, not from {text}", self.name());
            }
            (Kind::Object, [_, path]) if !is_text(path) => {
                return plan_err!("get_json_object needs a path such as '$.a.b', not {path}");
            }
            (_, [_, key]) if !is_text(key) && !key.is_integer() => {
                return plan_err!("a member of JSON has a name or a number, not {key}");
            }
            _ => {}
        }
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let is_scalar = arguments.args.iter().all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let rows = if is_scalar { 1 } else { arguments.number_rows };
        let result: ArrayRef = Arc::new(match (self.kind, arguments.args.as_slice()) {
            (Kind::ToJson, [value]) => {
                let name = arguments.arg_fields.first().map_or("value", |field| field.name());
                json_of_values(name, &value.to_array(rows)?)?
            }
            (kind, [text, key]) => {
                let text = cast(&text.to_array(rows)?, &DataType::Utf8)?;
                let keys = Keys::of(kind, key, rows)?;
                members(kind, text.as_string(), &keys)
            }
            _ => return exec_err!("{} was given other arguments than it was planned for", self.name()),
        });
        match is_scalar {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?)),
            false => Ok(ColumnarValue::Array(result)),
        }
    }
}

/// A step on the way to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Name(String),
    /// From the end if below 0.
    Number(i64),
}

/// The way to the value of each row.
enum Keys {
    /// The same for all, which is the usual case; `None` leads nowhere.
    Constant(Option<Vec<Step>>),
    PerRow(Vec<Option<Vec<Step>>>),
}

impl Keys {
    fn of(kind: Kind, key: &ColumnarValue, rows: usize) -> DataFusionResult<Self> {
        let array = match key {
            ColumnarValue::Scalar(value) => value.to_array()?,
            ColumnarValue::Array(array) => Arc::clone(array),
        };
        let steps: Vec<Option<Vec<Step>>> = if array.data_type().is_integer() {
            let numbers = cast(&array, &DataType::Int64)?;
            let numbers = numbers.as_primitive::<Int64Type>();
            numbers.iter().map(|number| number.map(|number| vec![Step::Number(number)])).collect()
        } else {
            let names = cast(&array, &DataType::Utf8)?;
            let steps = |text: &str| match kind {
                Kind::Object => path(text),
                _ => Some(vec![Step::Name(text.to_string())]),
            };
            names.as_string::<i32>().iter().map(|name| name.and_then(steps)).collect()
        };
        match (key, steps.as_slice()) {
            (ColumnarValue::Scalar(_), [constant]) => Ok(Keys::Constant(constant.clone())),
            _ if steps.len() == rows => Ok(Keys::PerRow(steps)),
            _ => exec_err!("{} keys for {rows} rows of JSON", steps.len()),
        }
    }

    fn get(&self, row: usize) -> Option<&[Step]> {
        match self {
            Keys::Constant(steps) => steps.as_deref(),
            Keys::PerRow(steps) => steps.get(row)?.as_deref(),
        }
    }
}

/// The steps of `$.a['b'][0]`; `None` if it is no such path.
fn path(text: &str) -> Option<Vec<Step>> {
    let mut rest = text.trim().strip_prefix('$')?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            let (name, others) = after.split_at(end);
            if name.is_empty() {
                return None;
            }
            steps.push(Step::Name(name.to_string()));
            rest = others;
        } else if let Some(after) = rest.strip_prefix("['") {
            let (name, others) = after.split_once("']")?;
            steps.push(Step::Name(name.to_string()));
            rest = others;
        } else {
            let (number, others) = rest.strip_prefix('[')?.split_once(']')?;
            steps.push(Step::Number(number.trim().parse().ok()?));
            rest = others;
        }
    }
    Some(steps)
}

/// The JSON, as it is written, that the steps lead to in `text`; `None` if that is no JSON or leads nowhere.
fn follow<'v>(text: &'v str, steps: &[Step]) -> Option<&'v str> {
    let mut value: &RawValue = serde_json::from_str(text).ok()?;
    for step in steps {
        value = match step {
            Step::Name(name) => {
                // Of a name that comes again the last counts.
                let members: HashMap<Cow<'v, str>, &'v RawValue> = serde_json::from_str(value.get()).ok()?;
                members.get(name.as_str()).copied()?
            }
            Step::Number(number) => {
                let values: Vec<&'v RawValue> = serde_json::from_str(value.get()).ok()?;
                let index = match usize::try_from(*number) {
                    Ok(index) => index,
                    Err(_) => values.len().checked_sub(usize::try_from(number.unsigned_abs()).ok()?)?,
                };
                values.get(index).copied()?
            }
        };
    }
    Some(value.get())
}

/// What the keys lead to in each text; null if it is not there, is null, or the text is no JSON. Numbers stay as
/// they are written, however many digits they have.
fn members(kind: Kind, texts: &StringArray, keys: &Keys) -> StringArray {
    let mut found = StringBuilder::with_capacity(texts.len(), texts.value_data().len() / 4);
    for row in 0..texts.len() {
        let text = texts.is_valid(row).then(|| texts.value(row));
        let value = text.zip(keys.get(row)).and_then(|(text, steps)| follow(text, steps));
        match (value, kind) {
            (None, _) | (Some("null"), Kind::MemberText | Kind::Object) => found.append_null(),
            (Some(value), Kind::MemberText | Kind::Object) if value.starts_with('"') => {
                found.append_option(serde_json::from_str::<String>(value).ok());
            }
            (Some(value), _) => found.append_value(without_blanks(value)),
        }
    }
    found.finish()
}

/// JSON without the white space between its parts.
fn without_blanks(json: &str) -> Cow<'_, str> {
    if !json.contains([' ', '\t', '\r', '\n']) {
        return Cow::Borrowed(json);
    }
    let (mut in_text, mut is_escaped) = (false, false);
    let keeps = |char: &char| {
        match (in_text, *char) {
            (true, _) if is_escaped => is_escaped = false,
            (true, '\\') => is_escaped = true,
            (_, '"') => in_text = !in_text,
            _ => {}
        }
        in_text || !matches!(char, ' ' | '\t' | '\r' | '\n')
    };
    Cow::Owned(json.chars().filter(keeps).collect())
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::Expr;
    use datafusion::prelude::{SessionContext, lit};

    use super::*;

    fn member(text: Expr, key: Expr, as_text: bool) -> Expr {
        let function = if as_text { &MEMBER_TEXT } else { &MEMBER };
        function.call(vec![text, key])
    }

    #[test]
    fn paths_have_names_and_numbers() {
        let name = |name: &str| Step::Name(name.into());
        assert_eq!(path("$"), Some(vec![]));
        assert_eq!(path("$.a.b[0]['c d']"), Some(vec![name("a"), name("b"), Step::Number(0), name("c d")]));
        for wrong in ["a.b", "$a", "$.", "$[x]", "$.a..b", ""] {
            assert_eq!(path(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn members_are_json_or_text() {
        let context = SessionContext::new();
        let frame = context.read_empty().unwrap();
        let json = r#"{"a":{"b":[1,"two",null]},"t":"x"}"#;
        let expressions = vec![
            member(lit(json), lit("a"), false).alias("object"),
            member(member(lit(json), lit("a"), false), lit("b"), true).alias("array"),
            member(lit(json), lit("t"), false).alias("quoted"),
            member(lit(json), lit("t"), true).alias("plain"),
            member(lit("[1,2,3]"), lit(-1), true).alias("last"),
            member(lit(r#"{"n":12345678901234567890.10}"#), lit("n"), true).alias("exact"),
            member(lit(r#"[ {"a b" : "c \" d" } ]"#), lit(0), false).alias("blanks"),
            member(lit("no json"), lit("a"), true).alias("none"),
        ];
        let rows = frame.select(expressions).unwrap().collect().await.unwrap();
        let values: Vec<Option<String>> = rows[0]
            .columns()
            .iter()
            .map(|column| column.as_string::<i32>().iter().next().flatten().map(str::to_string))
            .collect();
        let expected = [
            r#"{"b":[1,"two",null]}"#,
            r#"[1,"two",null]"#,
            "\"x\"",
            "x",
            "3",
            "12345678901234567890.10",
            r#"{"a b":"c \" d"}"#,
        ];
        assert_eq!(values[..7], expected.map(|text| Some(text.to_string())));
        assert_eq!(values[7], None);
    }
}
