//! SQL: scripts of DataFusion's statements and the streaming ones.
//!
//! [`parse_script`] turns text into statements with their places, [`SqlSession`] runs them. The
//! grammar and what statements mean is described in `docs/sql.md`.

pub mod ast;
mod cast_names;
mod chains;
mod clauses;
mod create_table;
mod described;
mod diagnostics;
mod dialect;
mod execute;
mod exponents;
mod external;
mod file_tables;
mod from_first;
mod group_windows;
mod keyword_columns;
mod letter_case;
mod live;
mod named_windows;
mod names;
mod parser;
mod partitioned;
mod phrases;
mod planning;
mod prepared;
mod row_values;
mod script;
mod signposts;
mod streaming;
mod table_arguments;
mod time_patterns;
mod tokens;
mod unnested;
mod using;
mod visit;
mod window_column;

pub use ast::{
    CreateExternalTable, CreateStreamingQuery, ExplainStreamingQuery, InsertInto, Located, QueryClauses,
    Statement, StreamingQueryPlan, Watermark,
};
pub use execute::{SqlOutcome, SqlSession, StartedQuery};
#[doc(hidden)]
pub use exponents::with_doubles;
pub use live::LiveQuery;
pub use names::with_names;
pub use parser::{is_complete, parse_column_list, parse_script, parse_script_with_dialect};
