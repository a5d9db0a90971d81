//! `CREATE [UNBOUNDED] EXTERNAL TABLE`: DataFusion's statement with clauses in any order, a location
//! that may be left out, and the watermark.

use std::time::Duration;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, ColumnDef, ColumnOption, Expr, Ident, Interval, TableConstraint, Value,
};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::ast::{CreateExternalTable, Watermark};
use super::diagnostics::{error_at, expected, from_datafusion_parser};
use super::parser::{StatementParser, once};
use crate::error::Result;
use crate::options::parse_delay;

const CLAUSES: [&str; 5] = ["STORED", "LOCATION", "PARTITIONED", "WITH", "OPTIONS"];

/// The column list of a table.
#[derive(Default)]
struct Columns {
    columns: Vec<ColumnDef>,
    constraints: Vec<TableConstraint>,
    watermark: Option<Watermark>,
}

/// The clauses after it.
#[derive(Default)]
struct Clauses {
    format: Option<String>,
    locations: Option<Vec<String>>,
    partitions: Option<Partitions>,
    order: Vec<Vec<datafusion::sql::sqlparser::ast::OrderByExpr>>,
    options: Option<Vec<(String, String)>>,
}

#[derive(Default)]
struct Partitions {
    names: Vec<Ident>,
    /// Those that are defined here rather than in the column list.
    columns: Vec<ColumnDef>,
}

impl StatementParser<'_> {
    /// The statement, if what comes is one.
    pub(super) fn create_external_table(&mut self) -> Result<Option<CreateExternalTable>> {
        let or_replace = self.next_are(&["CREATE", "OR", "REPLACE"]);
        let first = self.peek_nth(if or_replace { 3 } else { 1 });
        let is_next = |word| super::tokens::is_word(&first.token, word);
        let unbounded = is_next("UNBOUNDED");
        if !self.next_are(&["CREATE"]) || !(unbounded || is_next("EXTERNAL")) {
            return Ok(None);
        }
        self.accept(&["CREATE"]);
        self.accept(&["OR", "REPLACE"]);
        if self.accept(&["UNBOUNDED"]) {
            self.expect("EXTERNAL", "after UNBOUNDED")?;
        } else {
            self.accept(&["EXTERNAL"]);
        }
        self.expect("TABLE", "after EXTERNAL")?;
        let start = self.peek();
        let if_not_exists = self.accept(&["IF", "NOT", "EXISTS"]);
        if if_not_exists && or_replace {
            return Err(error_at("IF NOT EXISTS and OR REPLACE exclude each other", start.span.start));
        }
        let name = self.object_name("the name of the table")?;
        let Columns { mut columns, constraints, watermark } = self.columns(unbounded)?;
        let clauses = self.table_clauses(unbounded)?;
        let Some(format) = clauses.format else {
            return Err(error_at("CREATE EXTERNAL TABLE needs STORED AS and a format", self.end()));
        };
        let partitions = clauses.partitions.unwrap_or_default();
        columns.extend(partitions.columns);
        Ok(Some(CreateExternalTable {
            name,
            unbounded,
            or_replace,
            if_not_exists,
            columns,
            constraints,
            watermark,
            format,
            locations: clauses.locations.unwrap_or_default(),
            partitioned_by: partitions.names,
            order: clauses.order,
            options: clauses.options.unwrap_or_default(),
        }))
    }

    /// `[(column type, …, WATERMARK FOR …)]`
    fn columns(&mut self, unbounded: bool) -> Result<Columns> {
        let mut found = Columns::default();
        if !self.accept_token(&Token::LParen) {
            return Ok(found);
        }
        while !self.accept_token(&Token::RParen) {
            let start = self.peek();
            if self.next_are(&["WATERMARK", "FOR"]) {
                once(&found.watermark, "WATERMARK", &start)?;
                found.watermark = Some(self.watermark(unbounded)?);
            } else if let Some(constraint) = self.parse(Parser::parse_optional_table_constraint)? {
                if unbounded {
                    return Err(not_for_unbounded("constraints", &start));
                }
                found.constraints.push(constraint);
            } else {
                let column = self.column_definition()?;
                check_column(&column, unbounded, &start)?;
                found.columns.push(column);
            }
            if !self.accept_token(&Token::Comma) {
                self.expect_token(&Token::RParen, "',' or ')' after a column")?;
                break;
            }
        }
        Ok(found)
    }

    /// `WATERMARK FOR column AS column - INTERVAL '…'`
    fn watermark(&mut self, unbounded: bool) -> Result<Watermark> {
        let start = self.peek();
        if !unbounded {
            let message = "WATERMARK is for CREATE UNBOUNDED EXTERNAL TABLE: the rows of this table do not \
                           arrive over time";
            return Err(error_at(message, start.span.start));
        }
        self.accept(&["WATERMARK", "FOR"]);
        let token = self.peek();
        if !matches!(token.token, Token::Word(_)) {
            return Err(expected("the event-time column after WATERMARK FOR", &token, &[]));
        }
        let column = self.parse(Parser::parse_identifier)?;
        self.expect("AS", "after the event-time column")?;
        let start = self.peek();
        let expression = self.parse(Parser::parse_expr)?;
        match watermark_delay(&column, &expression) {
            Ok(text) => {
                let delay = text.map_or(Ok(Duration::ZERO), |text| {
                    let wrong = |reason| error_at(format!("'{text}': {reason}"), start.span.start);
                    parse_delay(&text).map_err(wrong)
                })?;
                Ok(Watermark { column, expression, delay })
            }
            Err(()) => {
                let message = format!(
                    "a watermark is written {column} - INTERVAL '…', or {column} if rows come in order; \
                     found {expression}"
                );
                Err(error_at(message, start.span.start))
            }
        }
    }

    /// The clauses in any order, up to the end of the statement.
    fn table_clauses(&mut self, unbounded: bool) -> Result<Clauses> {
        let mut clauses = Clauses::default();
        loop {
            let start = self.peek();
            if self.accept(&["STORED"]) {
                self.expect("AS", "after STORED")?;
                once(&clauses.format, "STORED AS", &start)?;
                clauses.format = Some(self.format()?);
            } else if self.accept(&["LOCATION"]) {
                once(&clauses.locations, "LOCATION", &start)?;
                clauses.locations = Some(self.locations(unbounded)?);
            } else if self.accept(&["PARTITIONED"]) {
                self.expect("BY", "after PARTITIONED")?;
                once(&clauses.partitions, "PARTITIONED BY", &start)?;
                clauses.partitions = Some(self.partitions(unbounded)?);
            } else if self.accept(&["WITH"]) {
                self.expect("ORDER", "after WITH")?;
                if unbounded {
                    return Err(not_for_unbounded("WITH ORDER", &start));
                }
                let end = self.end();
                let order = self.datafusion().parse_order_by_exprs();
                clauses.order.push(order.map_err(|error| from_datafusion_parser(error, end))?);
            } else if self.accept(&["OPTIONS"]) {
                once(&clauses.options, "OPTIONS", &start)?;
                clauses.options = Some(self.options()?);
            } else if start.token == Token::EOF {
                return Ok(clauses);
            } else {
                let what = "STORED AS, LOCATION, PARTITIONED BY, WITH ORDER, OPTIONS or the end of the \
                            statement";
                return Err(expected(what, &start, &CLAUSES));
            }
        }
    }

    fn format(&mut self) -> Result<String> {
        let token = self.peek();
        let Token::Word(word) = &token.token else {
            return Err(expected("a format such as PARQUET, JSON or CSV after STORED AS", &token, &[]));
        };
        self.accept_token(&token.token);
        Ok(word.value.to_lowercase())
    }

    /// `'…'` or `('…', …)`
    fn locations(&mut self, unbounded: bool) -> Result<Vec<String>> {
        let start = self.peek();
        if !self.accept_token(&Token::LParen) {
            return Ok(vec![self.string("a path in quotes after LOCATION")?]);
        }
        if unbounded {
            return Err(not_for_unbounded("several locations", &start));
        }
        let mut locations = vec![self.string("a path in quotes")?];
        while self.accept_token(&Token::Comma) {
            locations.push(self.string("a path in quotes")?);
        }
        self.expect_token(&Token::RParen, "',' or ')' after a path")?;
        Ok(locations)
    }

    /// `(name, …)` or `(name type, …)`
    fn partitions(&mut self, unbounded: bool) -> Result<Partitions> {
        self.expect_token(&Token::LParen, "'(' after PARTITIONED BY")?;
        if matches!(self.peek_nth(1).token, Token::Comma | Token::RParen) {
            let names = self.column_names("the name of a column")?;
            return Ok(Partitions { names, columns: vec![] });
        }
        let mut partitions = Partitions::default();
        loop {
            let start = self.peek();
            let column = self.column_definition()?;
            check_column(&column, unbounded, &start)?;
            partitions.names.push(column.name.clone());
            partitions.columns.push(column);
            if !self.accept_token(&Token::Comma) {
                self.expect_token(&Token::RParen, "',' or ')' after a column")?;
                return Ok(partitions);
            }
        }
    }
}

/// Nothing would check or use more than a column's type and nullability in a stream, so more is
/// refused rather than ignored.
fn check_column(column: &ColumnDef, unbounded: bool, start: &TokenWithSpan) -> Result<()> {
    let known = |option: &ColumnOption| {
        matches!(option, ColumnOption::Null | ColumnOption::NotNull | ColumnOption::Comment(_))
    };
    match column.options.iter().find(|option| !known(&option.option)) {
        Some(option) if unbounded => Err(not_for_unbounded(&format!("'{option}'"), start)),
        _ => Ok(()),
    }
}

fn not_for_unbounded(what: &str, start: &TokenWithSpan) -> crate::error::Error {
    error_at(format!("{what} cannot be given for an unbounded table"), start.span.start)
}

/// The interval's text in `column - INTERVAL …`; nothing if `expression` is just `column`.
fn watermark_delay(column: &Ident, expression: &Expr) -> Result<Option<String>, ()> {
    match expression {
        Expr::Identifier(name) if name == column => Ok(None),
        Expr::Nested(inner) => watermark_delay(column, inner),
        Expr::BinaryOp { left, op: BinaryOperator::Minus, right } => match (left.as_ref(), right.as_ref()) {
            (Expr::Identifier(name), Expr::Interval(interval)) if name == column => {
                interval_text(interval).map(Some).ok_or(())
            }
            _ => Err(()),
        },
        _ => Err(()),
    }
}

fn interval_text(interval: &Interval) -> Option<String> {
    let Interval {
        value,
        leading_field,
        leading_precision: None,
        last_field: None,
        fractional_seconds_precision: None,
    } = interval
    else {
        return None;
    };
    let Expr::Value(value) = value.as_ref() else { return None };
    let text = match &value.value {
        Value::SingleQuotedString(text) | Value::Number(text, _) => text,
        _ => return None,
    };
    Some(match leading_field {
        Some(field) => format!("{text} {field}"),
        None => text.clone(),
    })
}
