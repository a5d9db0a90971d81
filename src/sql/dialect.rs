//! How tightly operators bind.
//!
//! sqlparser gives `IS DISTINCT FROM` everything that follows, `AND` included, in every dialect, and
//! lets its default dialect bind `||` like `*`, `LIKE` and `BETWEEN` not tighter than `=`, and
//! `->` looser than `=`. Statements that are misread so give other rows without a word. Here they bind
//! as in PostgreSQL, except for the bitwise operators, which keep their own order (`<<`, `&`, `^`, `|`).

use std::any::TypeId;
use std::iter::Peekable;
use std::str::Chars;

use datafusion::sql::sqlparser::ast::{ColumnOption, Expr, GranteesType, Ident, ObjectNamePart, Statement};
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, Precedence};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

/// A dialect of sqlparser in which operators bind as they should.
#[derive(Debug)]
pub(super) struct Corrected(Box<dyn Dialect>);

impl Corrected {
    pub(super) fn new(dialect: Box<dyn Dialect>) -> Self {
        Self(dialect)
    }

    fn is_generic(&self) -> bool {
        self.0.dialect() == TypeId::of::<GenericDialect>()
    }
}

/// Shifts bind tighter than `&`, and looser than `+`.
const SHIFT: u8 = 26;

type ParsedColumnOption = Result<Option<Result<Option<ColumnOption>, ParserError>>, ParserError>;

/// Methods that answer as the dialect itself does.
macro_rules! as_the_dialect {
    (flags: $($flag:ident)*; $($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $flag(&self) -> bool { self.0.$flag() })*
        $(fn $name(&self, $($argument: $type),*) -> $result { self.0.$name($($argument),*) })*
    };
}

// All methods but `get_next_precedence_default`, whose default asks the methods below. Those that a new
// version of sqlparser adds belong here, too.
impl Dialect for Corrected {
    /// The parser asks for the type to find out which dialect it reads.
    fn dialect(&self) -> TypeId {
        self.0.dialect()
    }

    fn parse_infix(
        &self,
        parser: &mut Parser,
        left: &Expr,
        precedence: u8,
    ) -> Option<Result<Expr, ParserError>> {
        let distinct = [Keyword::IS, Keyword::DISTINCT, Keyword::FROM];
        let not_distinct = [Keyword::IS, Keyword::NOT, Keyword::DISTINCT, Keyword::FROM];
        let compare = if parser.parse_keywords(&distinct) {
            Expr::IsDistinctFrom
        } else if parser.parse_keywords(&not_distinct) {
            Expr::IsNotDistinctFrom
        } else {
            return self.0.parse_infix(parser, left, precedence);
        };
        let right = parser.parse_subexpr(self.prec_value(Precedence::Is));
        Some(right.map(|right| compare(Box::new(left.clone()), Box::new(right))))
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        if !self.is_generic() {
            return self.0.get_next_precedence(parser);
        }
        match parser.peek_token_ref().token {
            Token::StringConcat => Some(Ok(self.prec_value(Precedence::PgOther))),
            Token::ShiftLeft | Token::ShiftRight => Some(Ok(SHIFT)),
            _ => None,
        }
    }

    fn prec_value(&self, precedence: Precedence) -> u8 {
        if !self.is_generic() {
            return self.0.prec_value(precedence);
        }
        match precedence {
            Precedence::Between | Precedence::Like => 21,
            Precedence::PgOther => 22,
            Precedence::Pipe | Precedence::Colon => 23,
            Precedence::Caret => 24,
            Precedence::Ampersand => 25,
            other => self.0.prec_value(other),
        }
    }

    /// `MAP<key, value>` as in Spark and Flink.
    fn supports_map_literal_with_angle_brackets(&self) -> bool {
        self.is_generic() || self.0.supports_map_literal_with_angle_brackets()
    }

    as_the_dialect! {
        flags:
        supports_string_literal_backslash_escape ignores_wildcard_escapes supports_unicode_string_literal
        supports_filter_during_aggregation supports_window_clause_named_window_reference
        supports_within_after_array_aggregation supports_partition_by_after_order_by
        supports_array_join_syntax supports_group_by_expr supports_group_by_with_modifier
        supports_left_associative_joins_without_parens supports_outer_join_operator
        supports_cross_join_constraint supports_connect_by supports_execute_immediate
        supports_match_recognize supports_in_empty_list supports_start_transaction_modifier
        supports_end_transaction_modifier supports_named_fn_args_with_eq_operator
        supports_named_fn_args_with_colon_operator supports_named_fn_args_with_assignment_operator
        supports_named_fn_args_with_rarrow_operator supports_named_fn_args_with_expr_name
        supports_numeric_prefix supports_numeric_literal_underscores
        supports_window_function_null_treatment_arg supports_dictionary_syntax support_map_literal_syntax
        supports_lambda_functions supports_parenthesized_set_variables
        supports_comma_separated_set_assignments supports_update_order_by supports_select_wildcard_except
        convert_type_before_value supports_triple_quoted_string supports_trailing_commas
        supports_limit_comma supports_string_literal_concatenation
        supports_string_literal_concatenation_with_newline supports_projection_trailing_commas
        supports_from_trailing_commas supports_column_definition_trailing_commas
        supports_object_name_double_dot_notation supports_struct_literal supports_empty_projections
        supports_select_expr_star supports_from_first_select supports_from_first_insert
        supports_pipe_operator supports_user_host_grantee supports_match_against
        supports_select_wildcard_exclude supports_select_exclude
        supports_create_table_multi_schema_info_sources supports_select_modifiers
        describe_requires_table_keyword allow_extract_custom allow_extract_single_quotes
        supports_extract_comma_syntax supports_subquery_as_function_arg supports_create_view_comment_syntax
        supports_array_typedef_without_element_type supports_parens_around_table_factor
        supports_values_as_table_factor supports_dollar_placeholder supports_dollar_as_money_prefix
        supports_create_index_with_clause require_interval_qualifier supports_explain_with_utility_options
        supports_asc_desc_in_column_definition supports_factorial_operator supports_bitwise_shift_operators
        supports_nested_comments supports_multiline_comment_hints supports_eq_alias_assignment
        supports_try_convert supports_bang_not_operator supports_listen_notify supports_load_data
        supports_load_extension supports_top_before_distinct supports_boolean_literals
        supports_show_like_before_in supports_comment_on supports_create_table_select supports_partiql
        supports_constraint_keyword_without_name supports_key_column_option
        supports_table_sample_before_alias supports_insert_set supports_insert_table_function
        supports_insert_table_query supports_insert_format supports_insert_table_alias
        supports_set_stmt_without_operator supports_table_versioning supports_string_escape_constant
        supports_table_hints requires_single_line_comment_whitespace supports_array_typedef_with_brackets
        supports_geometric_types supports_order_by_all supports_set_names
        supports_space_separated_column_options supports_alter_column_type_using
        supports_comma_separated_drop_column_list supports_notnull_operator
        supports_data_type_signed_suffix supports_interval_options supports_create_table_like_parenthesized
        supports_semantic_view_table_factor supports_quote_delimited_string supports_comment_optimizer_hint
        supports_double_ampersand_operator supports_binary_kw_as_cast supports_select_wildcard_replace
        supports_select_wildcard_ilike supports_select_wildcard_rename supports_select_wildcard_with_alias
        supports_optimize_table supports_install supports_detach supports_prewhere supports_with_fill
        supports_limit_by supports_interpolate supports_settings supports_select_format
        supports_comma_separated_trim supports_cte_without_as supports_select_item_multi_column_alias
        supports_xml_expressions supports_create_table_using supports_long_type_as_bigint;
        is_delimited_identifier_start(ch: char) -> bool;
        is_nested_delimited_identifier_start(ch: char) -> bool;
        is_identifier_start(ch: char) -> bool;
        is_identifier_part(ch: char) -> bool;
        is_custom_operator_part(ch: char) -> bool;
        is_reserved_for_identifier(keyword: Keyword) -> bool;
        is_column_alias(keyword: &Keyword, parser: &mut Parser) -> bool;
        is_select_item_alias(explicit: bool, keyword: &Keyword, parser: &mut Parser) -> bool;
        is_table_factor(keyword: &Keyword, parser: &mut Parser) -> bool;
        is_table_alias(keyword: &Keyword, parser: &mut Parser) -> bool;
        is_table_factor_alias(explicit: bool, keyword: &Keyword, parser: &mut Parser) -> bool;
        is_identifier_generating_function_name(ident: &Ident, parts: &[ObjectNamePart]) -> bool;
        peek_nested_delimited_identifier_quotes(chars: Peekable<Chars<'_>>) -> Option<(char, Option<char>)>;
        identifier_quote_style(identifier: &str) -> Option<char>;
        parse_prefix(parser: &mut Parser) -> Option<Result<Expr, ParserError>>;
        parse_statement(parser: &mut Parser) -> Option<Result<Statement, ParserError>>;
        parse_column_option(parser: &mut Parser) -> ParsedColumnOption;
        prec_unknown() -> u8;
        get_reserved_keywords_for_select_item_operator() -> &[Keyword];
        get_reserved_grantees_types() -> &[GranteesType];
    }
}
