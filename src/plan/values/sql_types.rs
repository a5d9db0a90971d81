//! Types in SQL: those that DataFusion does not plan, and what to write for those of other systems.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{DataFusionError, TableReference, internal_err, plan_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::planner::{ContextProvider, TypePlanner};
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF};
use datafusion::sql::planner::SqlToRel;
use datafusion::sql::sqlparser::ast::{ArrayElemTypeDef, ColumnDef, DataType as SqlType, Ident};

use crate::options::nearest;

/// Plans `MAP<key, value>`, and says of types that there are not what to write.
#[derive(Debug, Clone, Copy)]
pub(super) struct SqlTypes;

impl TypePlanner for SqlTypes {
    fn plan_type_field(&self, sql_type: &SqlType) -> DataFusionResult<Option<FieldRef>> {
        if let SqlType::Map(key, value) = sql_type {
            let mut key = planned("key", key)?.with_nullable(false);
            // Keys that are looked for are texts of this kind, and DataFusion does not compare the two.
            if *key.data_type() == DataType::Utf8View {
                key = key.with_data_type(DataType::Utf8);
            }
            let entries = vec![key, planned("value", value)?.with_nullable(true)];
            let entries = Field::new("entries", DataType::Struct(entries.into()), false);
            return Ok(Some(Arc::new(Field::new("", DataType::Map(Arc::new(entries), false), true))));
        }
        match foreign(sql_type) {
            Some(told) => plan_err!("{told}"),
            None => Ok(None),
        }
    }
}

/// Types of other systems, by their first word, and what to write instead.
const FOREIGN: [(&[&str], &str); 19] = [
    (&["BYTE", "INT1"], "TINYINT"),
    (&["SHORT", "INT16"], "SMALLINT"),
    (&["INT32", "MEDIUMINT", "SIGNED", "SERIAL"], "INT"),
    (&["LONG", "INT64", "BIGSERIAL"], "BIGINT"),
    (&["UTINYINT", "UINT8"], "TINYINT UNSIGNED"),
    (&["USMALLINT", "UINT16"], "SMALLINT UNSIGNED"),
    (&["UINTEGER", "UINT32", "UNSIGNED"], "INT UNSIGNED"),
    (&["UBIGINT", "UINT64"], "BIGINT UNSIGNED"),
    (
        &["HUGEINT", "UHUGEINT", "INT128", "NUMBER", "BIGNUMERIC", "BIGDECIMAL"],
        "DECIMAL(38, 0), or with a scale",
    ),
    (&["DEC", "MONEY"], "DECIMAL(10, 2)"),
    (&["FLOAT32"], "REAL"),
    (&["FLOAT64"], "DOUBLE"),
    (
        &["DATETIME", "TIMESTAMP_NTZ", "DATETIME64", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"],
        "TIMESTAMP",
    ),
    (&["TIMESTAMP_LTZ"], "TIMESTAMP WITH TIME ZONE"),
    (&["DATE32"], "DATE"),
    (&["BINARY", "VARBINARY", "BLOB", "BYTES", "TINYBLOB", "MEDIUMBLOB", "LONGBLOB", "RAW"], "BYTEA"),
    (
        &[
            "NVARCHAR",
            "CHARACTER",
            "CLOB",
            "TINYTEXT",
            "MEDIUMTEXT",
            "LONGTEXT",
            "VARCHAR2",
            "FIXEDSTRING",
            "UUID",
            "ENUM",
        ],
        "VARCHAR",
    ),
    (
        &["JSON", "JSONB", "VARIANT", "OBJECT", "SUPER"],
        "VARCHAR, which takes JSON as its text (text ->> 'name' reads it), or STRUCT<name type, …>",
    ),
    (&["ROW", "TUPLE", "NESTED", "RECORD"], "STRUCT<name type, …>"),
];

/// The names of types that there are, for those who mistype one.
const NAMES: [&str; 18] = [
    "BOOLEAN",
    "TINYINT",
    "SMALLINT",
    "INT",
    "INTEGER",
    "BIGINT",
    "REAL",
    "FLOAT",
    "DOUBLE",
    "DECIMAL",
    "NUMERIC",
    "VARCHAR",
    "STRING",
    "TEXT",
    "BYTEA",
    "DATE",
    "TIME",
    "TIMESTAMP",
];

/// What to write instead of `sql_type`, if there is none of this name.
fn foreign(sql_type: &SqlType) -> Option<String> {
    let is_bare_array = matches!(sql_type, SqlType::Array(ArrayElemTypeDef::None));
    if is_bare_array {
        return Some("an ARRAY is of a type: write ARRAY<type> or type[]".into());
    }
    if let SqlType::Timestamp(Some(digits), _) = sql_type
        && ![0, 3, 6, 9].contains(digits)
    {
        return Some(format!("a TIMESTAMP has 0, 3, 6 or 9 digits behind the second, not {digits}"));
    }
    let text = sql_type.to_string();
    let word =
        text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap_or_default();
    let name = word.to_uppercase();
    if let Some((_, instead)) = FOREIGN.iter().find(|(names, _)| names.contains(&name.as_str())) {
        return Some(format!("there is no type {text}; write {instead}"));
    }
    let SqlType::Custom(..) = sql_type else { return None };
    let suggestion = nearest(&name, &NAMES).map(|name| format!("; did you mean {name}?"));
    Some(format!("there is no type {text}{}", suggestion.unwrap_or_default()))
}

/// A field called `name` of the type that DataFusion plans for `sql_type`.
fn planned(name: &str, sql_type: &SqlType) -> DataFusionResult<Field> {
    let column = ColumnDef { name: Ident::new(name), data_type: sql_type.clone(), options: Vec::new() };
    let types = OnlyTypes(ConfigOptions::default());
    let schema = SqlToRel::new(&types).build_schema(vec![column])?;
    match schema.fields().first() {
        Some(field) => Ok(field.as_ref().clone()),
        None => internal_err!("a column without a type"),
    }
}

/// What DataFusion asks when it plans types, and nothing else.
struct OnlyTypes(ConfigOptions);

impl ContextProvider for OnlyTypes {
    fn get_table_source(&self, name: TableReference) -> DataFusionResult<Arc<dyn TableSource>> {
        Err(DataFusionError::Plan(format!("table '{name}' not found")))
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(SqlTypes))
    }

    fn get_function_meta(&self, _: &str) -> Option<Arc<ScalarUDF>> {
        None
    }

    fn get_higher_order_meta(&self, _: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, _: &str) -> Option<Arc<AggregateUDF>> {
        None
    }

    fn get_window_meta(&self, _: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.0
    }

    fn udf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}
