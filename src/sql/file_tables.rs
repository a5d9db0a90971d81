//! Files as tables, for looking into them: `SELECT * FROM 'out/sales/'`, `FROM 'in/*.json'`,
//! `FROM read_csv('a.csv', sep => ';')`.

use std::ops::ControlFlow;

use datafusion::common::TableReference;
use datafusion::sql::parser::{CopyToSource, Statement as DataFusionStatement};
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArgOperator, Ident, ObjectName, Spanned, Statement,
    TableAlias, TableFactor, Value, ValueWithSpan, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Location;

use super::ast::CreateExternalTable;
use super::diagnostics::error_at;
use super::parser::parse_script;
use crate::error::Result;
use crate::session::guess_format;
use crate::source::file::is_pattern;
use crate::sql::ast::Statement as OurStatement;

/// The functions, and the formats they read.
const FUNCTIONS: [(&str, &str); 9] = [
    ("read_json", "json"),
    ("read_json_auto", "json"),
    ("read_ndjson", "json"),
    ("read_csv", "csv"),
    ("read_csv_auto", "csv"),
    ("read_parquet", "parquet"),
    ("parquet_scan", "parquet"),
    ("read_avro", "avro"),
    ("read_arrow", "arrow"),
];

/// A table that a statement names by its files.
pub(super) struct FileTable {
    /// What it is called in the statement instead.
    pub(super) name: TableReference,
    pub(super) table: CreateExternalTable,
}

/// The tables that `statement` names by their files, which are given other names in it.
///
/// # Errors
/// With its place, if such a function is not called as it must be, or a format cannot be told.
pub(super) fn take_file_tables(statement: &mut DataFusionStatement) -> Result<Vec<FileTable>> {
    match statement {
        DataFusionStatement::Statement(statement) => take(statement.as_mut()),
        DataFusionStatement::Explain(explain) => take_file_tables(&mut explain.statement),
        DataFusionStatement::CopyTo(copy) => match &mut copy.source {
            CopyToSource::Relation(name) => Finder::default().take_name(name),
            CopyToSource::Query(query) => Finder::default().take(query.as_mut()),
        },
        _ => Ok(Vec::new()),
    }
}

fn take(statement: &mut Statement) -> Result<Vec<FileTable>> {
    match statement {
        Statement::ExplainTable { table_name, .. } => Finder::default().take_name(table_name),
        statement => Finder::default().take(statement),
    }
}

#[derive(Default)]
struct Finder {
    found: Vec<FileTable>,
    error: Option<crate::error::Error>,
}

impl VisitorMut for Finder {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        match self.replace(factor) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.error = Some(error);
                ControlFlow::Break(())
            }
        }
    }
}

impl Finder {
    /// The tables in `statement` or a query.
    fn take(mut self, statement: &mut impl VisitMut) -> Result<Vec<FileTable>> {
        let _ = statement.visit(&mut self);
        match self.error {
            Some(error) => Err(error),
            None => Ok(self.found),
        }
    }

    /// The table of `DESCRIBE 'in/a.json'` and of `COPY 'in/a.json' TO …`.
    fn take_name(mut self, name: &mut ObjectName) -> Result<Vec<FileTable>> {
        let [part] = name.0.as_slice() else { return Ok(Vec::new()) };
        let Some(ident) = part.as_ident().filter(|ident| is_place(ident)).cloned() else {
            return Ok(Vec::new());
        };
        let at = ident.span.start;
        *name = self.hide(&told(&ident.value, at)?, &ident.value, &[], at)?;
        Ok(self.found)
    }

    /// The name of the table of these files in the statement.
    fn hide(
        &mut self,
        format: &str,
        place: &str,
        options: &[(String, String)],
        at: Location,
    ) -> Result<ObjectName> {
        check_place(format, place, at)?;
        let table = table(format, place, options, at)?;
        let hidden = format!("__files_{}", self.found.len());
        self.found.push(FileTable { name: TableReference::bare(hidden.as_str()), table });
        Ok(ObjectName::from(vec![Ident::with_quote('"', hidden)]))
    }

    fn replace(&mut self, factor: &mut TableFactor) -> Result<()> {
        let at = factor.span().start;
        let TableFactor::Table { name, alias, args, .. } = factor else { return Ok(()) };
        let [part] = name.0.as_slice() else { return Ok(()) };
        let Some(ident) = part.as_ident().cloned() else { return Ok(()) };
        let (format, place, options) = match args {
            None if is_place(&ident) => (told(&ident.value, at)?, ident.value.clone(), Vec::new()),
            Some(args) if ident.quote_style.is_none() => {
                let lower = ident.value.to_ascii_lowercase();
                if matches!(lower.as_str(), "read_files" | "cloud_files") {
                    let instead = "write read_json('…'), read_csv('…') or read_parquet('…') to look into files, or CREATE \
                                   UNBOUNDED EXTERNAL TABLE t STORED AS JSON LOCATION '…' for a stream of them";
                    return Err(error_at(format!("{lower} is Databricks'; {instead}"), at));
                }
                let Some((function, format)) = FUNCTIONS.iter().find(|(known, _)| *known == lower) else {
                    return Ok(());
                };
                let (place, options) = arguments(function, &args.args, at)?;
                ((*format).to_string(), place, options)
            }
            _ => return Ok(()),
        };
        *name = self.hide(&format, &place, &options, at)?;
        *args = None;
        if alias.is_none() {
            let short = if ident.quote_style.is_none() { ident.value } else { stem(&place) };
            *alias = Some(TableAlias {
                explicit: true,
                name: Ident::with_quote('"', short),
                columns: Vec::new(),
                at: None,
            });
        }
        Ok(())
    }
}

/// A name in quotes that looks like a path, as no table is called.
fn is_place(name: &Ident) -> bool {
    let has_extension = || guess_format(&name.value).is_some() && name.value.contains('.');
    name.quote_style.is_some() && (name.value.contains(['/', '*', '\\']) || has_extension())
}

fn told(place: &str, at: Location) -> Result<String> {
    guess_format(place).map(str::to_string).ok_or_else(|| {
        let reason = match std::fs::metadata(place) {
            Err(error) if !is_pattern(place) => format!("'{place}' cannot be read: {error}"),
            Ok(found) if found.is_dir() => match is_empty(place) {
                Err(error) => return error_at(format!("'{place}' cannot be read: {error}"), at),
                Ok(true) => return error_at(format!("there are no files in '{place}'"), at),
                Ok(false) => format!("the format of '{place}' cannot be told"),
            },
            _ => format!("the format of '{place}' cannot be told"),
        };
        error_at(format!("{reason}; read_json('…'), read_csv('…') and read_parquet('…') name a format"), at)
    })
}

/// Whether there is nothing in a directory that is no file of a system or a writer.
fn is_empty(directory: &str) -> std::io::Result<bool> {
    let mut entries = std::fs::read_dir(directory)?;
    let is_data = |name: &str| !name.starts_with(['.', '_']);
    Ok(!entries.any(|entry| entry.is_ok_and(|entry| is_data(&entry.file_name().to_string_lossy()))))
}

/// Fails if nothing can be read there.
fn check_place(format: &str, place: &str, at: Location) -> Result<()> {
    if !place.contains("://")
        && !is_pattern(place)
        && let Err(error) = std::fs::metadata(place)
    {
        return Err(error_at(format!("'{place}' cannot be read: {error}"), at));
    }
    match format {
        "text" => Err(error_at(
            format!(
                "'{place}' is text, which streaming queries read: CREATE UNBOUNDED EXTERNAL TABLE t STORED AS TEXT LOCATION \
                 '{place}'. To look into it, read_csv('{place}', header => false, sep => '\\t') takes each line for a record"
            ),
            at,
        )),
        _ => Ok(()),
    }
}

/// The place and the options of a call.
fn arguments(
    function: &str,
    arguments: &[FunctionArg],
    at: Location,
) -> Result<(String, Vec<(String, String)>)> {
    let usage = || error_at(format!("expected {function}('path', option => value, …)"), at);
    let text = |expr: &Expr| match expr {
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text), .. }) => Some(text.clone()),
        Expr::Value(ValueWithSpan { value: Value::Number(number, _), .. }) => Some(number.to_string()),
        Expr::Value(ValueWithSpan { value: Value::Boolean(value), .. }) => Some(value.to_string()),
        Expr::Identifier(word) => Some(word.value.clone()),
        _ => None,
    };
    let mut place = None;
    let mut options = Vec::new();
    for argument in arguments {
        match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) if place.is_none() => {
                place = Some(text(expr).ok_or_else(usage)?);
            }
            // `sep = ';'` is a comparison to the parser.
            FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::BinaryOp { left, right, .. })) => {
                options.push((text(left).ok_or_else(usage)?, text(right).ok_or_else(usage)?));
            }
            FunctionArg::Named {
                name,
                arg: FunctionArgExpr::Expr(value),
                operator:
                    FunctionArgOperator::RightArrow
                    | FunctionArgOperator::Assignment
                    | FunctionArgOperator::Colon
                    | FunctionArgOperator::Equals,
            } => options.push((name.value.clone(), text(value).ok_or_else(usage)?)),
            FunctionArg::ExprNamed { name, arg: FunctionArgExpr::Expr(value), .. } => {
                options.push((text(name).ok_or_else(usage)?, text(value).ok_or_else(usage)?));
            }
            _ => return Err(usage()),
        }
    }
    Ok((place.ok_or_else(usage)?, options))
}

/// The table, as a statement would describe it.
fn table(
    format: &str,
    place: &str,
    options: &[(String, String)],
    at: Location,
) -> Result<CreateExternalTable> {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let mut statement = format!(
        "CREATE EXTERNAL TABLE \"{}\" STORED AS {} LOCATION {}",
        place.replace('"', "\"\""),
        format.to_uppercase(),
        quoted(place)
    );
    let has_separator = options.iter().any(|(name, _)| matches!(name.as_str(), "sep" | "delimiter"));
    let mut options: Vec<String> =
        options.iter().map(|(name, value)| format!("{} {}", quoted(name), quoted(value))).collect();
    if format == "csv" && !has_separator && place.contains(".tsv") {
        options.push("'sep' '\\t'".into());
    }
    if !options.is_empty() {
        statement += &format!(" OPTIONS ({})", options.join(", "));
    }
    match parse_script(&statement)?.pop().map(|statement| statement.value) {
        Some(OurStatement::CreateExternalTable(table)) => Ok(*table),
        _ => Err(error_at(format!("'{place}' cannot be read"), at)),
    }
}

/// What files are called by: `sales` for `out/sales/*.parquet` and `out/sales.parquet`.
fn stem(place: &str) -> String {
    let parts = place.split('/').rev().filter(|part| !part.is_empty() && !is_pattern(part));
    let last = parts.into_iter().next().unwrap_or("files");
    last.split('.').find(|part| !part.is_empty()).unwrap_or("files").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_called_by_their_last_directory_or_name() {
        for (place, name) in [
            ("out/sales/*.parquet", "sales"),
            ("out/sales.csv.gz", "sales"),
            ("a/", "a"),
            ("*.json", "files"),
        ] {
            assert_eq!(stem(place), name, "{place}");
        }
    }
}
