//! What DataFusion says about statements that it cannot plan, in the words of SQL; and what to write instead.

use datafusion::execution::session_state::SessionState;

use super::signposts::source;
use crate::options::nearest;

/// What there is in a session.
pub(super) struct Known {
    /// What stands before the names of tables that are not written with it.
    schema: String,
    functions: Vec<String>,
    window_functions: Vec<String>,
}

impl Known {
    pub(super) fn of(state: &SessionState) -> Self {
        let catalog = &state.config_options().catalog;
        let window_functions: Vec<String> = state.window_functions().keys().cloned().collect();
        let functions = state.scalar_functions().keys().chain(state.aggregate_functions().keys());
        Self {
            schema: format!("{}.{}.", catalog.default_catalog, catalog.default_schema),
            functions: functions.cloned().collect(),
            window_functions,
        }
    }
}

/// Functions of other systems and what to write here.
const FUNCTIONS: [(&[&str], &str); 32] = [
    (&["explode", "explode_outer", "posexplode", "inline"], "unnest(items), which gives a row for each item"),
    (&["collect_list"], "array_agg(x)"),
    (&["collect_set"], "array_agg(DISTINCT x)"),
    (&["approx_count_distinct"], "approx_distinct(x)"),
    (&["percentile_approx", "approx_percentile"], "approx_percentile_cont(x, 0.5)"),
    (&["latest_by_offset", "any_value", "arg_max", "max_by"], "last_value(x ORDER BY time)"),
    (&["split"], "string_to_array(text, ',')"),
    (&["size"], "array_length(items), or cardinality(items)"),
    (
        &["parse_json", "json_value", "json_query", "json_extract", "json_extract_string"],
        "text -> 'name', text ->> 'name', get_json_object(text, '$.a.b') or from_json(text, 'a STRUCT<b: STRING>')",
    ),
    (&["to_json_string"], "to_json(x)"),
    (&["unix_timestamp"], "to_unixtime(time)"),
    (&["unix_millis", "to_epoch_millis"], "CAST(arrow_cast(time, 'Timestamp(Millisecond, None)') AS BIGINT)"),
    (&["date_add", "dateadd", "timestampadd"], "time + INTERVAL '1' DAY"),
    (&["date_sub", "datesub"], "time - INTERVAL '1' DAY"),
    (&["datediff", "date_diff", "timestampdiff"], "CAST(a AS DATE) - CAST(b AS DATE), or a - b"),
    (
        &["time_bucket", "tostartofinterval"],
        "date_bin(INTERVAL '1 minute', time), or window(time, '1 minute')",
    ),
    (
        &["proctime", "processing_time"],
        "now(), the time of the batch: FROM TUMBLE(TABLE (SELECT *, now() AS at FROM t), DESCRIPTOR(at), INTERVAL '10' SECOND)",
    ),
    (
        &["tumble", "hop", "tumbling"],
        "GROUP BY window(time, '1 minute'), or FROM TUMBLE(TABLE t, DESCRIPTOR(time), INTERVAL '1' MINUTE)",
    ),
    (
        &["tumble_start", "hop_start", "windowstart"],
        "window.start, in a query with GROUP BY window(time, '1 minute')",
    ),
    (
        &["tumble_end", "hop_end", "windowend"],
        "window.end, in a query with GROUP BY window(time, '1 minute')",
    ),
    (
        &["session", "session_start", "session_end"],
        "SELECT session_window(time, '10 minutes'), count(*) FROM t GROUP BY 1",
    ),
    (&["dropduplicates", "drop_duplicates"], "SELECT DISTINCT ON (key) … FROM t"),
    (
        &["watermark", "withwatermark"],
        "WATERMARK FOR time AS time - INTERVAL '10' SECOND in CREATE UNBOUNDED EXTERNAL TABLE",
    ),
    (&["regexp_extract"], "regexp_match(text, '(…)')[1]"),
    (&["strftime"], "to_char(time, '%Y-%m-%d')"),
    (&["strptime"], "to_timestamp(text, '%Y-%m-%d')"),
    (&["getdate", "sysdate"], "now()"),
    (&["listagg", "group_concat"], "string_agg(text, ',')"),
    (&["struct_pack"], "named_struct('name', value)"),
    (&["if", "iif"], "CASE WHEN condition THEN a ELSE b END"),
    (
        &["current_watermark"],
        "window.start or the time itself: the watermark is in the progress of the query",
    ),
    (&["read_text"], "read_csv('…', header => false, sep => '\\t'), which takes each line for a record"),
];

/// `message` in our words, with what to write instead if it is about something that there is not.
pub(super) fn rephrase(message: String, known: &Known) -> String {
    let message = message.replacen(&format!("table '{}", known.schema), "table '", 1);
    let message = instead_of(&message).unwrap_or(message);
    for_functions(&message, known).unwrap_or(message)
}

/// What to write in the place of what DataFusion cannot plan, if `message` says so.
fn instead_of(message: &str) -> Option<String> {
    if let Some(field) =
        message.strip_prefix("Nested identifiers are not yet supported for OuterReferenceColumn ")
    {
        return Some(format!(
            "a field of {field}, a struct of the query around a subquery, cannot be named in that; give it a name \
             there: FROM (SELECT *, {field}['field'] AS field FROM …)"
        ));
    }
    if let Some(name) = message.strip_prefix("Ambiguous reference to unqualified field ") {
        return Some(format!("{message}: several tables have it. Say whose it is, as in t.{name}"));
    }
    if let Some((_, rest)) = message.split_once("While expanding wildcard, column \"") {
        let column = rest.split("\" must appear").next().unwrap_or_default();
        return Some(format!(
            "{column} is neither in GROUP BY nor in an aggregate function, and may have several values in a group: add it \
             to GROUP BY, or write max({column}), or first_value({column} ORDER BY time)"
        ));
    }
    if let Some(computed) = between(message, "Cannot coerce arithmetic expression ", " to valid types") {
        return Some(format!(
            "there is no {computed}: CAST one side to a type that can be computed with the other"
        ));
    }
    if let Some(extension) = message.strip_prefix("There is no registered file format with ext ") {
        return Some(format!(
            "no format of files has the extension '{extension}': COPY … TO writes .parquet, .json, .csv and .arrow, and \
             others with STORED AS format"
        ));
    }
    if message == "SHOW TABLES FILTER not supported" {
        let instead = "SELECT table_name FROM information_schema.tables WHERE table_name LIKE '…'";
        return Some(format!("SHOW TABLES lists all tables; write {instead}"));
    }
    if let Some(name) = between(message, "could not find config namespace for key \"", "\"") {
        return Some(format!("there is no setting '{name}': SHOW ALL lists them"));
    }
    if let Some(name) = between(message, "Could not find config namespace \"", "\"") {
        return Some(format!("there are no settings called '{name}.…': SHOW ALL lists those that there are"));
    }
    if let Some(rest) = message.strip_prefix("Error setting config ")
        && let Some((name, why)) = rest.split_once(": ")
    {
        return Some(setting(name, why));
    }
    if message.starts_with("Substring without for/from is not valid") {
        return Some("substr needs to know where to begin: substr(text, 1), or substr(text, 1, 3)".into());
    }
    if let Some(statement) = message.strip_prefix("Unsupported SQL statement: ") {
        let words: Vec<&str> = statement.split_whitespace().take(3).collect();
        return Some(format!(
            "there is no statement {} … here; docs/sql.md lists those that there are",
            words.join(" ")
        ));
    }
    let conflict = "Conflicting ordering requirements in aggregate functions is not supported";
    message.contains(conflict).then(|| {
        "aggregates over rows in different orders cannot be computed side by side: leave ORDER BY out of all but one \
         of them, or compute them in subqueries of their own and join these"
            .to_string()
    })
}

/// What is wrong with the value or the name of a setting.
fn setting(name: &str, why: &str) -> String {
    if why.contains("not found on") {
        return format!("there is no setting '{name}': SHOW ALL lists them");
    }
    let parsed = why.strip_prefix("Error parsing ").and_then(|rest| rest.split_once(" as "));
    match parsed {
        Some((value, kind)) if kind.starts_with("bool") => {
            format!("{name} cannot be {value}: expected true or false")
        }
        Some((value, kind)) if kind.starts_with(['u', 'i']) => {
            format!("{name} cannot be {value}: expected a whole number")
        }
        _ => format!("{name} cannot be set: {why}"),
    }
}

/// What stands in `text` between its start and the next `end`.
fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    text.strip_prefix(start)?.split_once(end).map(|(between, _)| between)
}

/// Table functions of other systems.
const TABLE_FUNCTIONS: [&str; 6] =
    ["read_files", "cloud_files", "read_stream", "read_kafka", "kafka", "read_json_auto"];

/// What is wrong with a call of a function that there is not, if `message` is about one.
fn for_functions(message: &str, known: &Known) -> Option<String> {
    let quoted = |start: &str| message.strip_prefix(start)?.split('\'').next().map(str::to_lowercase);
    let foreign = |name: &str| FUNCTIONS.iter().find(|(names, _)| names.contains(&name));
    if let Some(name) = quoted("Invalid function '") {
        if let Some((_, instead)) = foreign(&name) {
            return Some(format!("there is no function '{name}'; write {instead}"));
        }
        if known.window_functions.contains(&name) {
            return Some(format!(
                "{name} looks at the rows around each: write {name}(…) OVER (PARTITION BY key ORDER BY time)"
            ));
        }
        let names: Vec<&str> = known.functions.iter().map(String::as_str).collect();
        let near = nearest(&name, &names).map(|near| format!("; did you mean '{near}'?"));
        return Some(format!("there is no function '{name}'{}", near.unwrap_or_default()));
    }
    let name = ["table function '", "Table function '"].iter().find_map(|start| quoted(start))?;
    if TABLE_FUNCTIONS.contains(&name.as_str()) {
        return Some(format!("there is no table function '{name}'; write {}", source("t")));
    }
    let (_, instead) = foreign(&name)?;
    Some(format!("there is no table function '{name}'; write {instead}"))
}
