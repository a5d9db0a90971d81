//! Operators bind as in PostgreSQL: texts with only the parentheses that its table of precedence asks
//! for are read as the same texts with all of them.

use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast::{Expr, SelectItem, SetExpr, Statement as SqlStatement};
use datafusion::sql::sqlparser::dialect::dialect_from_str;
use proptest::prelude::*;
use tidemill::sql::{Statement, parse_script, parse_script_with_dialect};

use super::Place;

#[derive(Debug, Clone)]
enum Tree {
    Column(char),
    Prefix(&'static str, Box<Tree>),
    Infix(Box<Tree>, &'static str, Box<Tree>),
    Postfix(Box<Tree>, &'static str),
    Between(Box<Tree>, Box<Tree>, Box<Tree>),
}

const INFIX: [(&str, u8); 19] = [
    ("OR", 1),
    ("AND", 2),
    ("IS DISTINCT FROM", 4),
    ("IS NOT DISTINCT FROM", 4),
    ("=", 5),
    ("<>", 5),
    ("<", 5),
    (">=", 5),
    ("LIKE", 6),
    ("NOT LIKE", 6),
    ("ILIKE", 6),
    ("||", 7),
    ("->>", 7),
    ("+", 8),
    ("-", 8),
    ("*", 9),
    ("/", 9),
    ("%", 9),
    ("AT TIME ZONE", 11),
];
const PREFIX: [(&str, u8); 2] = [("NOT", 3), ("-", 10)];
const POSTFIX: [(&str, u8); 5] =
    [("IS NULL", 4), ("IS NOT TRUE", 4), ("IN (1, 2)", 6), ("NOT IN (1)", 6), ("::INT", 12)];
const BETWEEN: u8 = 6;

fn level(operators: &[(&str, u8)], operator: &str) -> u8 {
    operators.iter().find(|(known, _)| *known == operator).unwrap().1
}

/// Whether operators of a level may follow one another, from the left.
fn chains(level: u8) -> bool {
    !matches!(level, 4..=6)
}

impl Tree {
    fn level(&self) -> u8 {
        match self {
            Tree::Column(_) => 100,
            Tree::Prefix(operator, _) => level(&PREFIX, operator),
            Tree::Infix(_, operator, _) => level(&INFIX, operator),
            Tree::Postfix(_, operator) => level(&POSTFIX, operator),
            Tree::Between(..) => BETWEEN,
        }
    }

    /// With parentheses around every part.
    fn full(&self) -> String {
        match self {
            Tree::Column(name) => name.to_string(),
            Tree::Prefix(operator, operand) => format!("({operator} {})", operand.full()),
            Tree::Infix(left, operator, right) => format!("({} {operator} {})", left.full(), right.full()),
            Tree::Postfix(operand, operator) => format!("({} {operator})", operand.full()),
            Tree::Between(value, low, high) => {
                format!("({} BETWEEN {} AND {})", value.full(), low.full(), high.full())
            }
        }
    }

    /// As an operand of an operator that needs at least `level`.
    fn operand(&self, level: u8) -> String {
        if self.level() >= level { self.least() } else { format!("({})", self.least()) }
    }

    /// With the parentheses that it needs.
    fn least(&self) -> String {
        let own = self.level();
        let left_level = if chains(own) { own } else { own + 1 };
        match self {
            Tree::Column(name) => name.to_string(),
            Tree::Prefix(operator, operand) => format!("{operator} {}", operand.operand(own)),
            Tree::Infix(left, operator, right) => {
                format!("{} {operator} {}", left.operand(left_level), right.operand(own + 1))
            }
            Tree::Postfix(operand, operator) => format!("{} {operator}", operand.operand(left_level)),
            Tree::Between(value, low, high) => {
                let part = |tree: &Tree| tree.operand(own + 1);
                format!("{} BETWEEN {} AND {}", part(value), part(low), part(high))
            }
        }
    }
}

fn trees() -> impl Strategy<Value = Tree> {
    let column = prop::sample::select(vec!['a', 'b', 'c', 'd']).prop_map(Tree::Column);
    column.prop_recursive(5, 24, 3, |inner| {
        let infix = prop::sample::select(INFIX.map(|(operator, _)| operator).to_vec());
        let prefix = prop::sample::select(PREFIX.map(|(operator, _)| operator).to_vec());
        let postfix = prop::sample::select(POSTFIX.map(|(operator, _)| operator).to_vec());
        prop_oneof![
            6 => (inner.clone(), infix, inner.clone())
                .prop_map(|(left, operator, right)| Tree::Infix(left.into(), operator, right.into())),
            2 => (prefix, inner.clone()).prop_map(|(operator, tree)| Tree::Prefix(operator, tree.into())),
            2 => (inner.clone(), postfix).prop_map(|(tree, operator)| Tree::Postfix(tree.into(), operator)),
            1 => (inner.clone(), inner.clone(), inner)
                .prop_map(|(a, b, c)| Tree::Between(a.into(), b.into(), c.into())),
        ]
    })
}

/// What the parser reads, with all parentheses.
fn read(statement: &Statement) -> String {
    let Statement::DataFusion(statement) = statement else { panic!("{statement}") };
    let DataFusionStatement::Statement(statement) = statement.as_ref() else { panic!("{statement}") };
    let SqlStatement::Query(query) = statement.as_ref() else { panic!("{statement}") };
    let SetExpr::Select(select) = query.body.as_ref() else { panic!("{query}") };
    let SelectItem::UnnamedExpr(expr) = &select.projection[0] else { panic!("{select}") };
    shape(expr)
}

fn shape(expr: &Expr) -> String {
    match expr {
        Expr::Nested(inner) => shape(inner),
        Expr::BinaryOp { left, op, right } => format!("({} {op} {})", shape(left), shape(right)),
        Expr::UnaryOp { op, expr } => format!("({op} {})", shape(expr)),
        Expr::IsNull(inner) => format!("({} IS NULL)", shape(inner)),
        Expr::IsNotTrue(inner) => format!("({} IS NOT TRUE)", shape(inner)),
        Expr::IsDistinctFrom(left, right) => format!("({} IDF {})", shape(left), shape(right)),
        Expr::IsNotDistinctFrom(left, right) => format!("({} INDF {})", shape(left), shape(right)),
        Expr::InList { expr, negated, .. } => format!("({} {negated} IN)", shape(expr)),
        Expr::Like { negated, expr, pattern, .. } => {
            format!("({} {negated} LIKE {})", shape(expr), shape(pattern))
        }
        Expr::ILike { expr, pattern, .. } => format!("({} ILIKE {})", shape(expr), shape(pattern)),
        Expr::Between { expr, low, high, .. } => {
            format!("({} BETWEEN {} {})", shape(expr), shape(low), shape(high))
        }
        Expr::Cast { expr, .. } => format!("({} CAST)", shape(expr)),
        Expr::AtTimeZone { timestamp, time_zone } => {
            format!("({} AT {})", shape(timestamp), shape(time_zone))
        }
        Expr::Identifier(name) => name.value.clone(),
        other => panic!("{other}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn parentheses_that_are_not_needed_change_nothing(tree in trees()) {
        let least = format!("SELECT {}", tree.least());
        let full = format!("SELECT {}", tree.full());
        let parsed = [&least, &full].map(|sql| read(&parse_script(sql).unwrap()[0].value));
        prop_assert_eq!(&parsed[0], &parsed[1], "{} and {}", least, full);
    }
}

#[test]
fn is_distinct_from_binds_so_in_every_dialect() {
    for name in ["generic", "postgresql", "mysql", "duckdb", "snowflake", "bigquery", "sqlite", "databricks"]
    {
        let parse = |sql: &str| {
            read(&parse_script_with_dialect(sql, dialect_from_str(name).unwrap()).unwrap()[0].value)
        };
        assert_eq!(
            parse("SELECT a OR b IS NOT DISTINCT FROM c + d AND NOT a IS DISTINCT FROM b OR c"),
            parse("SELECT (a OR ((b IS NOT DISTINCT FROM (c + d)) AND (NOT (a IS DISTINCT FROM b)))) OR c"),
            "{name}"
        );
    }
}

#[tokio::test]
async fn values_are_those_of_postgresql() {
    let place = Place::new();
    for (expression, value) in [
        ("1 + 2 || 'a'", "3a"),
        ("'a' || 1 + 2", "a3"),
        ("true = 2 BETWEEN 1 AND 3", "true"),
        ("true = 'ab' LIKE 'a%'", "true"),
        ("'ab' LIKE 'a' || '%' = true", "true"),
        ("NULL IS DISTINCT FROM true AND false", "false"),
        ("NOT 1 = 2 AND false", "false"),
        ("-2::INT * 3", "-6"),
        ("1 & 1 << 1", "0"),
    ] {
        assert_eq!(place.rows(&format!("SELECT {expression}")).await, [value], "{expression}");
    }
    let lines = "{\"id\":1,\"f\":true,\"o\":true}\n{\"id\":2,\"f\":false,\"o\":true}\n{\"id\":3,\"f\":false,\"o\":false}\n\
                 {\"id\":4,\"o\":true}\n{\"id\":5}\n";
    let found = place
        .both("id INT, f BOOLEAN, o BOOLEAN", lines, "SELECT id FROM t WHERE f IS DISTINCT FROM true AND o")
        .await;
    assert_eq!(found, ["2", "4"]);
}

#[tokio::test]
async fn thousands_of_conditions_are_no_stack_overflow() {
    let place = Place::new();
    let lines: String = (0..20).map(|id| format!("{{\"id\":{id}}}\n")).collect();
    let chain = |part: &dyn Fn(usize) -> String, operator: &str, length| {
        (0..length).map(part).collect::<Vec<_>>().join(operator)
    };
    let equal = chain(&|n| format!("id = {}", n * 2 + 1), " OR ", 20_000);
    let found = place.both("id INT", &lines, &format!("SELECT count(*) FROM t WHERE {equal}")).await;
    assert_eq!(found, ["10"]);
    let apart = chain(&|n| format!("id + {n} <> {}", n + 5), " AND ", 5_000);
    let found = place.both("id INT", &lines, &format!("SELECT count(*) FROM t WHERE {apart}")).await;
    assert_eq!(found, ["19"]);
    // Three values: unknown, unless one condition decides.
    let unknown = chain(&|_| "NULL".into(), " OR ", 1_000);
    assert_eq!(place.rows(&format!("SELECT ({unknown}) IS NULL, {unknown} OR true")).await, ["true true"]);
    for (operator, part) in [("+", "1"), ("||", "'a'"), ("*", "1"), (" UNION ALL ", "SELECT 1")] {
        let error =
            place.error(&format!("SELECT 1 {}", chain(&|_| format!("{operator} {part}"), " ", 5_000))).await;
        assert!(error.contains("deep cannot be planned"), "{operator}: {error}");
    }
    let nested = format!("SELECT {}1{}", "(".repeat(5_000), ")".repeat(5_000));
    assert!(place.error(&nested).await.contains("nested too deeply"));
    // What does not parse is dropped, too.
    let error = place.error(&format!("SELECT {} OR", chain(&|n| format!("{n}"), " OR ", 20_000))).await;
    assert!(error.contains("expected"), "{error}");
}
