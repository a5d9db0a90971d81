//! What a server says about a table.

use datafusion::common::TableReference;
use tokio_postgres::Client;

use super::server::{Failure, literal, quoted, texts};
use crate::error::{Error, Result};

/// The name of a table: quoted, with its schema if one was named.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TableName {
    name: String,
    /// Of its schema, with a dot.
    prefix: String,
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl TableName {
    /// What the option `table` says: `table` or `schema.table`, in small letters where they have no quotes.
    pub(super) fn parse(text: Option<&str>) -> Result<Self> {
        let text = text.filter(|text| !text.trim().is_empty()).ok_or_else(|| {
            Error::Invalid("a PostgreSQL table needs the option 'table': 'orders' or 'shop.orders'".into())
        })?;
        let prefix = match TableReference::parse_str(text) {
            TableReference::Bare { .. } => String::new(),
            TableReference::Partial { schema, .. } => format!("{}.", quoted(&schema)),
            TableReference::Full { .. } => {
                let reason = "expected a table or schema.table: the database stands in the url";
                return Err(Error::option("table", text, reason));
            }
        };
        let name = format!("{prefix}{}", quoted(TableReference::parse_str(text).table()));
        Ok(Self { name, prefix })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.name
    }

    /// A table in the same schema.
    pub(super) fn beside(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// A column of a table.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: String,
    /// As `format_type` gives it, of the type below a domain.
    pub(super) of: String,
    /// Its `typtype`: `b`ase, `e`num, `c`omposite, …
    pub(super) kind: String,
    /// What stands in brackets behind the type: for `numeric` precision and scale.
    pub(super) modifier: i32,
    pub(super) is_nullable: bool,
    /// Whether rows without it are refused.
    pub(super) is_required: bool,
    /// Whether the server computes it.
    pub(super) is_generated: bool,
    /// Whether two texts are the same only if their bytes are.
    pub(super) is_bytewise: bool,
}

impl Column {
    /// Its type; of an array that of its elements, which what stands in brackets is about, too.
    fn element(&self) -> &str {
        self.of.strip_suffix("[]").unwrap_or(&self.of)
    }

    /// How many characters a `varchar` takes, if not any number.
    pub(super) fn most_characters(&self) -> Option<usize> {
        let is_limited = self.of == "character varying";
        usize::try_from(self.modifier.checked_sub(4)?).ok().filter(|_| is_limited)
    }

    /// Precision and scale of a `numeric` that has them.
    pub(super) fn precision_and_scale(&self) -> Option<(u8, i8)> {
        let modifier =
            self.modifier.checked_sub(4).filter(|modifier| *modifier >= 0 && self.element() == "numeric")?;
        // Eleven bits, the highest of which is the sign.
        let scale = ((modifier & 0x7ff) ^ 0x400) - 0x400;
        Some((u8::try_from(modifier >> 16).ok()?, i8::try_from(scale).ok()?))
    }

    /// How many digits of seconds a time keeps, if not all.
    pub(super) fn digits_of_seconds(&self) -> Option<i32> {
        (self.of.starts_with("time") && (0..6).contains(&self.modifier)).then_some(self.modifier)
    }
}

/// The columns of a table, or of a view; none if there is none of the name.
pub(super) async fn columns(client: &Client, table: &TableName) -> Result<Vec<Column>, Failure> {
    let sql = format!(
        "SELECT a.attname, format_type(b.oid, NULL), CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END, \
         b.typtype, a.attnotnull OR t.typnotnull, a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL, \
         a.attgenerated <> '', c.collisdeterministic FROM pg_attribute a LEFT JOIN pg_collation c ON c.oid = \
         a.attcollation JOIN pg_type t ON t.oid = a.atttypid JOIN pg_type b ON b.oid = \
         CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END WHERE a.attrelid = to_regclass({}) AND \
         a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        literal(table.as_str())
    );
    let rows = texts(client, &sql, ("look at", table.as_str())).await?;
    let column = |row: Vec<Option<String>>| {
        let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
        let is = |at| text(at) == "t";
        Column {
            name: text(0),
            of: text(1),
            modifier: text(2).parse().unwrap_or(-1),
            kind: text(3),
            is_nullable: !is(4),
            is_required: is(4) && !is(5),
            is_generated: is(6),
            is_bytewise: is(7),
        }
    };
    Ok(rows.into_iter().map(column).collect())
}

/// What the types of columns of a table are called at the moment, whatever the transaction sees of the catalog.
pub(super) async fn type_names(
    client: &Client,
    table: &TableName,
    columns: impl IntoIterator<Item = &str>,
) -> Result<Vec<String>, Failure> {
    let types = columns.into_iter().map(|column| {
        let column = quoted(column);
        format!("pg_typeof((NULL::{table}).{column})::text")
    });
    let types = types.collect::<Vec<_>>().join(", ");
    if types.is_empty() {
        return Ok(Vec::new());
    }
    let rows = texts(client, &format!("SELECT {types}"), ("look at", table.as_str())).await?;
    Ok(rows.into_iter().flatten().map(Option::unwrap_or_default).collect())
}

/// The columns of each unique index that rows can be replaced by, and whether two nulls are the same in it.
pub(super) async fn unique_keys(
    client: &Client,
    table: &TableName,
) -> Result<Vec<(Vec<String>, bool)>, Failure> {
    // Written so that servers before 15, which know no such nulls, understand it, too.
    let sql = format!(
        "SELECT i.indexrelid, a.attname, coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) \
         FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND \
         a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1]) WHERE i.indrelid = to_regclass({}) AND i.indisunique \
         AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL ORDER BY 1, 2",
        literal(table.as_str())
    );
    let mut found: Vec<(String, Vec<String>, bool)> = Vec::new();
    for row in texts(client, &sql, ("look at", table.as_str())).await? {
        let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
        match found.last_mut().filter(|(index, ..)| *index == text(0)) {
            Some((_, columns, _)) => columns.push(text(1)),
            None => found.push((text(0), vec![text(1)], text(2) == "t")),
        }
    }
    Ok(found.into_iter().map(|(_, columns, nulls)| (columns, nulls)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_the_server_does() {
        let name = |text| TableName::parse(Some(text)).unwrap();
        assert_eq!(name("Orders").as_str(), r#""orders""#);
        assert_eq!(name(r#"shop."Orders""#).as_str(), r#""shop"."Orders""#);
        assert_eq!(name("shop.orders").beside("x"), r#""shop".x"#);
        for (text, reason) in [("a.b.c", "schema.table"), (" ", "needs the option 'table'")] {
            let error = TableName::parse(Some(text)).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn modifiers_are_those_of_the_server() {
        let column = |of: &str, modifier| Column {
            name: "a".into(),
            of: of.into(),
            kind: "b".into(),
            modifier,
            is_nullable: true,
            is_required: false,
            is_generated: false,
            is_bytewise: true,
        };
        assert_eq!(column("numeric", (10 << 16 | 2) + 4).precision_and_scale(), Some((10, 2)));
        assert_eq!(column("numeric", (3 << 16 | 0x7fe) + 4).precision_and_scale(), Some((3, -2)));
        assert_eq!(column("numeric", -1).precision_and_scale(), None);
        assert_eq!(column("character varying", 24).precision_and_scale(), None);
        assert_eq!(column("timestamp with time zone", 3).digits_of_seconds(), Some(3));
        assert_eq!(column("timestamp with time zone", -1).digits_of_seconds(), None);
    }
}
