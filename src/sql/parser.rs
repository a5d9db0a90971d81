//! From text to statements.

use std::time::Duration;

use datafusion::sql::parser::{DFParser, DFParserBuilder};
use datafusion::sql::sqlparser::ast::{ColumnDef, Ident, ObjectName, VisitMut};
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};

use super::ast::{
    CreateStreamingQuery, ExplainStreamingQuery, InsertInto, Located, QueryClauses, Statement,
    StreamingQueryPlan,
};
use super::chains::{flatten, flatten_statement, on_a_deep_stack};
use super::diagnostics::{error_at, expected, from_datafusion_parser, from_parser, suggestion};
use super::dialect::Corrected;
use super::from_first::with_select;
use super::keyword_columns::KeywordColumns;
use super::script::statements;
use super::signposts::signpost;
use super::tokens::{is_significant, is_word, tokenize};
use super::visit::visit_statement;
use crate::error::{Error, Result};
use crate::options::parse_duration;
use crate::query::Trigger;
use crate::sink::OutputMode;

/// Words that statements start with, for suggestions.
const STATEMENTS: [&str; 16] = [
    "SELECT", "CREATE", "INSERT", "EXPLAIN", "SHOW", "STOP", "DROP", "DESCRIBE", "COPY", "SET", "RESET",
    "WITH", "VALUES", "PREPARE", "EXECUTE", "DELETE",
];
/// Words that follow `CREATE`, for suggestions.
const CREATABLE: [&str; 8] =
    ["UNBOUNDED", "EXTERNAL", "STREAMING", "TABLE", "VIEW", "SCHEMA", "DATABASE", "FUNCTION"];
const QUERY_CLAUSES: [&str; 5] = ["OUTPUT", "TRIGGER", "CHECKPOINT", "OPTIONS", "AS"];
const TRIGGERS: &str = "ONCE, AVAILABLE NOW or PROCESSING TIME '…' after TRIGGER";

/// The statements of `text`, in DataFusion's default dialect. Nothing of a script is returned if any
/// part of it does not parse.
///
/// # Errors
/// [`Error::Sql`] with the line and column in `text`.
pub fn parse_script(text: &str) -> Result<Vec<Located<Statement>>> {
    parse_script_with_dialect(text, Box::new(GenericDialect {}))
}

/// [`parse_script`] in another dialect, see DataFusion's option `datafusion.sql_parser.dialect`.
///
/// # Errors
/// [`Error::Sql`] with the line and column in `text`.
pub fn parse_script_with_dialect(text: &str, dialect: Box<dyn Dialect>) -> Result<Vec<Located<Statement>>> {
    let dialect = Corrected::new(dialect);
    let parse =
        |tokens: Vec<TokenWithSpan>| on_a_deep_stack(tokens.len(), || parse_statement(tokens, &dialect));
    statements(text, &dialect)?.into_iter().map(parse).collect()
}

/// The columns of a list such as `a BIGINT, b VARCHAR NOT NULL`.
///
/// # Errors
/// [`Error::Sql`] with the line and column in `text`.
pub fn parse_column_list(text: &str) -> Result<Vec<ColumnDef>> {
    let dialect = Corrected::new(Box::new(GenericDialect {}));
    let mut tokens = tokenize(text, &dialect)?;
    let end = tokens.last().map_or(Location::new(1, 1), |token| token.span.end);
    tokens.push(TokenWithSpan::at(Token::EOF, end, end));
    let mut parser = StatementParser::new(tokens, Location::new(1, 1), end, &dialect)?;
    let mut columns = Vec::new();
    loop {
        columns.push(parser.column_definition()?);
        if !parser.accept_token(&Token::Comma) {
            parser.expect_end("',' or the end of the columns")?;
            return Ok(columns);
        }
    }
}

/// Whether `text` can be run as it is: it ends with a `;`, or holds nothing but white space and
/// comments. Text with an open string, quoted name or comment can not.
pub fn is_complete(text: &str) -> bool {
    let Ok(tokens) = tokenize(text, &GenericDialect {}) else { return false };
    tokens.iter().rfind(|token| is_significant(token)).is_none_or(|last| last.token == Token::SemiColon)
}

fn parse_statement(tokens: Vec<TokenWithSpan>, dialect: &dyn Dialect) -> Result<Located<Statement>> {
    let place = |token: Option<&TokenWithSpan>| token.map_or(Location::new(1, 1), |token| token.span.start);
    let start = place(tokens.iter().find(|token| is_significant(token)));
    let end = place(tokens.last());
    if let Some((message, at)) = signpost(&tokens) {
        return Err(error_at(message, at));
    }
    let open = unclosed(&tokens);
    let mut parser = StatementParser::new(with_select(tokens), start, end, dialect)?;
    let value = parser.statement().map_err(|error| match (&error, open) {
        // The parser tries this and that, and gives up anywhere.
        (Error::Sql { message, .. }, Some(open)) if message.starts_with("expected )") => {
            error_at("this '(' is not closed", open)
        }
        _ => error,
    })?;
    Ok(Located { value, line: start.line, column: start.column })
}

/// Where the innermost parenthesis is opened that is not closed.
fn unclosed(tokens: &[TokenWithSpan]) -> Option<Location> {
    let mut open = Vec::new();
    for token in tokens {
        match token.token {
            Token::LParen => open.push(token.span.start),
            Token::RParen => drop(open.pop()),
            _ => {}
        }
    }
    open.pop()
}

/// DataFusion's parser on the tokens of one statement, and where it ends.
pub(super) struct StatementParser<'d> {
    inner: DFParser<'d>,
    start: Location,
    end: Location,
    /// Whether the statement is EXPLAIN STREAMING QUERY.
    explains: bool,
}

impl<'d> StatementParser<'d> {
    fn new(
        tokens: Vec<TokenWithSpan>,
        start: Location,
        end: Location,
        dialect: &'d dyn Dialect,
    ) -> Result<Self> {
        let inner = DFParserBuilder::new(tokens)
            .with_dialect(dialect)
            .build()
            .map_err(|error| from_datafusion_parser(error, end))?;
        Ok(Self { inner, start, end, explains: false })
    }

    fn statement(&mut self) -> Result<Statement> {
        if self.accept(&["CREATE", "STREAMING"]) {
            self.expect("QUERY", "after CREATE STREAMING")?;
            let name = self.query_name()?;
            let plan = self.streaming_query_plan()?;
            return Ok(Statement::CreateStreamingQuery(Box::new(CreateStreamingQuery { name, plan })));
        }
        if self.next_are(&["CREATE", "OR", "REPLACE", "STREAMING"]) {
            let place = self.peek_nth(1).span.start;
            let advice = "a streaming query cannot be replaced while it runs: use STOP STREAMING QUERY, \
                          then CREATE STREAMING QUERY";
            return Err(error_at(advice, place));
        }
        if let Some(statement) = self.create_external_table()? {
            return Ok(Statement::CreateExternalTable(Box::new(statement)));
        }
        if self.accept(&["EXPLAIN", "STREAMING"]) {
            self.expect("QUERY", "after EXPLAIN STREAMING")?;
            let name = if self.at_query_clause() || self.next_are(&["ON"]) {
                None
            } else {
                Some(self.query_name()?)
            };
            self.explains = true;
            let plan = self.streaming_query_plan()?;
            return Ok(Statement::ExplainStreamingQuery(Box::new(ExplainStreamingQuery { name, plan })));
        }
        if self.accept(&["SHOW", "STREAMING"]) {
            self.expect("QUERIES", "after SHOW STREAMING")?;
            self.expect_end("the end of the statement")?;
            return Ok(Statement::ShowStreamingQueries);
        }
        if self.accept(&["STOP"]) {
            self.expect("STREAMING", "after STOP")?;
            self.expect("QUERY", "after STOP STREAMING")?;
            let name = self.query_name()?;
            self.expect_end("the end of the statement")?;
            return Ok(Statement::StopStreamingQuery { name });
        }
        self.datafusion_statement()
    }

    /// Anything else is DataFusion's.
    fn datafusion_statement(&mut self) -> Result<Statement> {
        match self.inner.parse_statement() {
            Ok(mut statement) => {
                self.expect_end("the end of the statement")?;
                flatten_statement(&mut statement, self.start)?;
                let _ = visit_statement(&mut statement, &mut KeywordColumns);
                Ok(Statement::DataFusion(Box::new(statement)))
            }
            Err(error) => Err(self.with_suggestion(from_datafusion_parser(error, self.end))),
        }
    }

    /// Adds the word that was probably meant, where few words are possible.
    fn with_suggestion(&self, error: Error) -> Error {
        let Error::Sql { message, line, column } = error else { return error };
        let mut before: Option<&Token> = None;
        for index in 0.. {
            let token = self.inner.parser.token_at(index);
            if token.token == Token::EOF {
                break;
            }
            if token.span.start == Location::new(line, column) && is_significant(token) {
                let candidates: &[&str] = match before {
                    None => &STATEMENTS,
                    Some(word) if is_word(word, "CREATE") || is_word(word, "REPLACE") => &CREATABLE,
                    Some(_) => &[],
                };
                let message = message + &suggestion(&token.token.to_string(), candidates);
                return Error::Sql { message, line, column };
            }
            if is_significant(token) {
                before = Some(&token.token);
            }
        }
        Error::Sql { message, line, column }
    }

    /// The name of a query: one word, which may be quoted. A clause in its place is taken for
    /// forgetting the name.
    fn query_name(&mut self) -> Result<Ident> {
        let token = self.inner.parser.peek_token();
        if self.at_query_clause() || !matches!(token.token, Token::Word(_)) {
            return Err(expected("the name of the query", &token, &[]));
        }
        self.parse(Parser::parse_identifier)
    }

    fn at_query_clause(&self) -> bool {
        ["ONCE", "AVAILABLE", "PROCESSING"].iter().any(|word| self.next_are(&["TRIGGER", word]))
            || self.next_are(&["OUTPUT", "MODE"])
            || self.next_are(&["CHECKPOINT", "LOCATION"])
            || self.next_are(&["AS", "INSERT"])
            || (self.next_are(&["OPTIONS"]) && self.peek_nth(1).token == Token::LParen)
    }

    /// The clauses of a streaming query in any order, up to the end of the statement.
    fn streaming_query_plan(&mut self) -> Result<StreamingQueryPlan> {
        let mut clauses = QueryClauses::default();
        let mut options = None;
        loop {
            let start = self.inner.parser.peek_token();
            if self.accept(&["OUTPUT"]) {
                self.expect("MODE", "after OUTPUT")?;
                once(&clauses.output_mode, "OUTPUT MODE", &start)?;
                clauses.output_mode = Some(self.output_mode()?);
            } else if self.accept(&["TRIGGER"]) {
                once(&clauses.trigger, "TRIGGER", &start)?;
                clauses.trigger = Some(self.trigger()?);
            } else if self.accept(&["CHECKPOINT"]) {
                self.expect("LOCATION", "after CHECKPOINT")?;
                once(&clauses.checkpoint, "CHECKPOINT LOCATION", &start)?;
                clauses.checkpoint = Some(self.string("a path in quotes after CHECKPOINT LOCATION")?);
            } else if self.explains && self.accept(&["ON"]) {
                once(&clauses.checkpoint, "ON", &start)?;
                clauses.checkpoint = Some(self.string("the checkpoint's path in quotes after ON")?);
            } else if self.accept(&["OPTIONS"]) {
                once(&options, "OPTIONS", &start)?;
                options = Some(self.options()?);
            } else if self.accept(&["AS"]) {
                clauses.options = options.unwrap_or_default();
                let insert = self.insert_into()?;
                return Ok(StreamingQueryPlan { clauses, insert });
            } else {
                let what = "OUTPUT MODE, TRIGGER, CHECKPOINT LOCATION, OPTIONS or AS INSERT INTO …";
                return Err(expected(what, &start, &QUERY_CLAUSES));
            }
        }
    }

    fn output_mode(&mut self) -> Result<OutputMode> {
        for mode in [OutputMode::Append, OutputMode::Update, OutputMode::Complete] {
            if self.accept(&[mode.name()]) {
                return Ok(mode);
            }
        }
        let modes = ["APPEND", "UPDATE", "COMPLETE"];
        Err(expected("APPEND, UPDATE or COMPLETE after OUTPUT MODE", &self.inner.parser.peek_token(), &modes))
    }

    fn trigger(&mut self) -> Result<Trigger> {
        if self.accept(&["ONCE"]) {
            return Ok(Trigger::Once);
        }
        let (first, second) = if self.accept(&["AVAILABLE"]) {
            ("AVAILABLE", "NOW")
        } else if self.accept(&["PROCESSING"]) {
            ("PROCESSING", "TIME")
        } else {
            let words = ["ONCE", "AVAILABLE", "PROCESSING"];
            return Err(expected(TRIGGERS, &self.inner.parser.peek_token(), &words));
        };
        if !self.accept(&[second]) {
            return Err(expected(TRIGGERS, &self.inner.parser.peek_token(), &[second]));
        }
        if first == "AVAILABLE" {
            return Ok(Trigger::AvailableNow);
        }
        let token = self.inner.parser.peek_token();
        let text = self.string("a length of time in quotes, such as '2 seconds', after PROCESSING TIME")?;
        self.duration(&text, &token).map(Trigger::ProcessingTime)
    }

    pub(super) fn duration(&self, text: &str, token: &TokenWithSpan) -> Result<Duration> {
        parse_duration(text).ok_or_else(|| {
            let message = format!("'{text}' is not a length of time; write one as '2 seconds' or '500 ms'");
            error_at(message, token.span.start)
        })
    }

    /// `INSERT INTO [TABLE] target [(columns)] query`, to the end of the statement.
    fn insert_into(&mut self) -> Result<InsertInto> {
        if !self.accept(&["INSERT"]) {
            let what = "INSERT INTO table SELECT … after AS";
            return Err(expected(what, &self.inner.parser.peek_token(), &["INSERT"]));
        }
        self.expect("INTO", "after INSERT (a streaming query adds to its table)")?;
        self.accept(&["TABLE"]);
        let target = self.object_name("the table to write to")?;
        let mut columns = Vec::new();
        if self.inner.parser.peek_token().token == Token::LParen && !self.starts_query(1) {
            self.accept_token(&Token::LParen);
            columns = self.column_names("the columns to write to")?;
        }
        if !self.starts_query(0) {
            let found = self.inner.parser.peek_token();
            return Err(expected("a query such as SELECT …", &found, &["SELECT", "WITH", "VALUES"]));
        }
        let mut query = self.parse(Parser::parse_query)?;
        self.expect_end("the end of the statement")?;
        flatten(query.as_mut(), self.start)?;
        let _ = query.visit(&mut KeywordColumns);
        Ok(InsertInto { target, columns, query })
    }

    fn starts_query(&self, nth: usize) -> bool {
        let token = self.peek_nth(nth);
        let words = ["SELECT", "WITH", "VALUES", "TABLE", "FROM"];
        token.token == Token::LParen || words.iter().any(|word| is_word(&token.token, word))
    }

    /// `('name' value, …)`
    pub(super) fn options(&mut self) -> Result<Vec<(String, String)>> {
        self.expect_token(&Token::LParen, "'(' after OPTIONS")?;
        let mut options: Vec<(String, String)> = Vec::new();
        loop {
            if self.accept_token(&Token::RParen) {
                return Ok(options);
            }
            let token = self.inner.parser.peek_token();
            if !matches!(token.token, Token::Word(_)) && string_of(&token.token).is_none() {
                return Err(expected("the name of an option, or ')'", &token, &[]));
            }
            let name =
                self.inner.parse_option_key().map_err(|error| from_datafusion_parser(error, self.end))?;
            if options.iter().any(|(other, _)| other.eq_ignore_ascii_case(&name)) {
                return Err(error_at(format!("option '{name}' is given twice"), token.span.start));
            }
            let value = self.option_value(&name)?;
            options.push((name, value));
            if !self.accept_token(&Token::Comma) {
                self.expect_token(&Token::RParen, "',' or ')' after an option")?;
                return Ok(options);
            }
        }
    }

    fn option_value(&mut self, name: &str) -> Result<String> {
        let sign = if self.accept_token(&Token::Minus) { "-" } else { "" };
        let token = self.inner.parser.next_token();
        let value = match (&token.token, sign) {
            (Token::Number(number, _), sign) => Some(format!("{sign}{number}")),
            (Token::Word(word), "") => Some(word.value.clone()),
            (token, "") => string_of(token).map(str::to_string),
            _ => None,
        };
        value.ok_or_else(|| {
            let what = format!(
                "a string, a number or a boolean as the value of option '{name}' (options are written 'name' 'value')"
            );
            expected(&what, &token, &[])
        })
    }

    /// `name, …)`
    pub(super) fn column_names(&mut self, what: &str) -> Result<Vec<Ident>> {
        let mut names = Vec::new();
        loop {
            let token = self.inner.parser.peek_token();
            if !matches!(token.token, Token::Word(_)) {
                return Err(expected(what, &token, &[]));
            }
            names.push(self.parse(Parser::parse_identifier)?);
            if !self.accept_token(&Token::Comma) {
                self.expect_token(&Token::RParen, "',' or ')' after a column")?;
                return Ok(names);
            }
        }
    }

    pub(super) fn column_definition(&mut self) -> Result<ColumnDef> {
        let token = self.inner.parser.peek_token();
        if !matches!(token.token, Token::Word(_)) {
            return Err(expected("the name of a column", &token, &[]));
        }
        self.parse(Parser::parse_column_def)
    }

    pub(super) fn object_name(&mut self, what: &str) -> Result<ObjectName> {
        let token = self.inner.parser.peek_token();
        if !matches!(token.token, Token::Word(_)) {
            return Err(expected(what, &token, &[]));
        }
        self.parse(|parser| parser.parse_object_name(false))
    }

    pub(super) fn string(&mut self, what: &str) -> Result<String> {
        let token = self.inner.parser.peek_token();
        match string_of(&token.token) {
            Some(text) => {
                self.inner.parser.next_token();
                Ok(text.to_string())
            }
            None => Err(expected(what, &token, &[])),
        }
    }

    /// Runs one of sqlparser's own parsing functions.
    pub(super) fn parse<T>(
        &mut self,
        parse: impl FnOnce(&mut Parser<'d>) -> Result<T, ParserError>,
    ) -> Result<T> {
        parse(&mut self.inner.parser).map_err(|error| from_parser(error, self.end))
    }

    pub(super) fn peek(&self) -> TokenWithSpan {
        self.inner.parser.peek_token()
    }

    pub(super) fn peek_nth(&self, nth: usize) -> TokenWithSpan {
        self.inner.parser.peek_nth_token(nth)
    }

    /// DataFusion's parser, for the clauses that are the same here.
    pub(super) fn datafusion(&mut self) -> &mut DFParser<'d> {
        &mut self.inner
    }

    /// Where the statement ends.
    pub(super) fn end(&self) -> Location {
        self.end
    }

    pub(super) fn next_are(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(nth, word)| is_word(&self.peek_nth(nth).token, word))
    }

    /// Takes `words` if exactly they come next.
    pub(super) fn accept(&mut self, words: &[&str]) -> bool {
        let matches = self.next_are(words);
        if matches {
            words.iter().for_each(|_| self.inner.parser.advance_token());
        }
        matches
    }

    /// Takes `word`; `place` completes "expected WORD …".
    pub(super) fn expect(&mut self, word: &str, place: &str) -> Result<()> {
        if self.accept(&[word]) {
            return Ok(());
        }
        Err(expected(&format!("{word} {place}"), &self.peek(), &[word]))
    }

    pub(super) fn accept_token(&mut self, token: &Token) -> bool {
        self.inner.parser.consume_token(token)
    }

    pub(super) fn expect_token(&mut self, token: &Token, what: &str) -> Result<()> {
        if self.accept_token(token) { Ok(()) } else { Err(expected(what, &self.peek(), &[])) }
    }

    pub(super) fn expect_end(&self, what: &str) -> Result<()> {
        let token = self.peek();
        if token.token == Token::EOF { Ok(()) } else { Err(expected(what, &token, &[])) }
    }
}

/// Fails if the clause that starts at `token` was there before.
pub(super) fn once<T>(seen: &Option<T>, clause: &str, token: &TokenWithSpan) -> Result<()> {
    match seen {
        None => Ok(()),
        Some(_) => Err(error_at(format!("{clause} is given twice"), token.span.start)),
    }
}

fn string_of(token: &Token) -> Option<&str> {
    match token {
        Token::SingleQuotedString(text)
        | Token::DoubleQuotedString(text)
        | Token::EscapedStringLiteral(text)
        | Token::UnicodeStringLiteral(text) => Some(text),
        _ => None,
    }
}
