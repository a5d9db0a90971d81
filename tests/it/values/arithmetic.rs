use tidemill::Session;

use super::{batch, batch_in};

/// What PySpark 4.3 gives in ANSI mode, but for the names of types.
#[tokio::test]
async fn literals_with_a_point_are_decimals() {
    for (sql, expected) in [
        ("SELECT 0.1 + 0.2 = 0.3, 1.1 * 1.1, 5.5 % 2, 7 / 2.0", "true 1.21 1.5 3.500000"),
        ("SELECT 1.0 / 3.0, 2.0 / 3.0, -2.0 / 3.0, 20 / 3.0", "0.333333 0.666667 -0.666667 6.666667"),
        (
            "SELECT CAST(4.19 AS DECIMAL(10, 2)) = 4.19, CAST(4.19 AS DECIMAL(10, 2)) IN (4.19, 8.05)",
            "true true",
        ),
        (
            "SELECT CAST(2.345 AS DECIMAL(10, 2)), CAST(-2.345 AS DECIMAL(10, 2)), round(2.345, 2)",
            "2.35 -2.35 2.35",
        ),
        ("SELECT CAST(2.5 AS INT), CAST(-2.5 AS INT), CAST(' 42 ' AS INT), -7 % 3", "2 -2 42 -1"),
        (
            "SELECT arrow_typeof(1e3), arrow_typeof(4.19), arrow_typeof(1.0 / 3.0)",
            "Float64 Decimal128(3, 2) Decimal128(8, 6)",
        ),
        (
            "SELECT sqrt(2.25), power(2.0, 0.5), ln(1.0), floor(-1.5), abs(-1.5)",
            "1.5 1.4142135623730951 0.0 -2.0 1.5",
        ),
    ] {
        assert_eq!(batch(sql).await.unwrap(), [expected], "{sql}");
    }
}

/// DataFusion rounds the first twice, and interpolates by six digits.
#[tokio::test]
async fn floats_are_the_nearest() {
    for (sql, expected) in [
        (
            "SELECT CAST(d AS DOUBLE), d + CAST(0 AS DOUBLE) FROM (VALUES (CAST(0.9999999999 AS DECIMAL(38, 38)))) AS t (d)",
            "0.9999999999 0.9999999999",
        ),
        ("SELECT CAST(d AS FLOAT) FROM (VALUES (CAST(16777217.1 AS DECIMAL(20, 1)))) AS t (d)", "16777218.0"),
        (
            "SELECT percentile_cont(0.9) WITHIN GROUP (ORDER BY v), percentile_cont(0.1) WITHIN GROUP (ORDER BY v DESC), \
             percentile_cont(DISTINCT v, 0.9), median(v) FROM (VALUES (1.0e0), (2.0e0)) AS t (v)",
            "1.9 1.9 1.9 1.5",
        ),
        (
            "SELECT percentile_cont(v, 0.9) OVER (ORDER BY v ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS p \
             FROM (VALUES (1.0e0), (2.0e0)) AS t (v) ORDER BY p DESC LIMIT 1",
            "1.9",
        ),
    ] {
        assert_eq!(batch(sql).await.unwrap(), [expected], "{sql}");
    }
}

/// In DataFusion a null field that comes first stays, and one that comes later is passed over.
#[tokio::test]
async fn structs_have_one_order_whichever_comes_first() {
    let values = ["(NULL, 1)", "(3, 2)", "(5, NULL)", "(5, 7)"];
    for first in 0..values.len() {
        let rotated: Vec<&str> = (0..values.len()).map(|at| values[(first + at) % values.len()]).collect();
        for (call, expected) in [("min", "3 2"), ("max", "NULL 1")] {
            for group in ["", " GROUP BY a IS NULL AND false"] {
                let sql = format!(
                    "SELECT s['a'], s['b'] FROM (SELECT {call}(named_struct('a', a, 'b', b)) AS s \
                     FROM (VALUES {}) AS t (a, b){group})",
                    rotated.join(", ")
                );
                assert_eq!(batch(&sql).await.unwrap(), [expected], "{sql}");
            }
        }
    }
}

/// The keys of a join are computed beside all columns of its sides.
#[tokio::test]
async fn numbers_are_joined_with_texts() {
    let (b, c) = ("(VALUES (5, 1), (6, 2)) AS b (price, k)", "(VALUES ('5', 2.5)) AS c (country, q)");
    for join in [
        "JOIN {c} ON b.price = c.country",
        ", {c} WHERE b.price = c.country",
        "JOIN {c} ON c.q = b.price / 2e0",
    ] {
        let sql = format!("SELECT * FROM {b} {}", join.replace("{c}", c));
        assert_eq!(batch(&sql).await.unwrap(), ["5 1 5 2.5"], "{sql}");
    }
}

#[tokio::test]
async fn decimals_beside_floats_are_floats() {
    let of = |select: &str| {
        format!(
            "SELECT {select} FROM (SELECT CAST(1.1 AS DOUBLE) AS x, CAST(1.1 AS FLOAT) AS f, CAST(1e20 AS DOUBLE) AS large)"
        )
    };
    for (select, expected) in [
        ("x = 1.1, f = 1.1, x > 1.0, x IN (1.1, 2.2), x BETWEEN 1.0 AND 1.2", "true true true true true"),
        (
            "coalesce(large, 0.0), greatest(large, 1.5), nullif(large, 1.5), CASE WHEN true THEN large ELSE 0.5 END",
            "1e20 1e20 1e20 1e20",
        ),
        (
            "arrow_typeof(x * 1.5), arrow_typeof(f * 1.5), arrow_typeof(coalesce(f, 0.0))",
            "Float64 Float32 Float32",
        ),
        ("x + 0.2, x = 1.10000000000000000001", "1.3 true"),
    ] {
        assert_eq!(batch(&of(select)).await.unwrap(), [expected], "{select}");
    }
    let union = "SELECT a FROM (SELECT CAST(1e20 AS DOUBLE) AS a UNION ALL SELECT 1.5) ORDER BY a";
    assert_eq!(batch(union).await.unwrap(), ["1.5", "1e20"]);
    let values = "SELECT a FROM (VALUES (CAST('NaN' AS DOUBLE)), (1.5)) AS t(a) ORDER BY a";
    assert_eq!(batch(values).await.unwrap(), ["1.5", "NaN"]);
}

const OVERFLOWS: [(&str, &str); 18] = [
    ("SELECT a * b FROM (VALUES (9223372036854775807, 2)) AS t(a, b)", "t.a * t.b"),
    ("SELECT a + 1 FROM (VALUES (9223372036854775807)) AS t(a)", "t.a + 1"),
    ("SELECT a - 2 FROM (VALUES (-9223372036854775807)) AS t(a)", "t.a - 2"),
    ("SELECT 1 FROM (VALUES (9223372036854775807)) AS t(a) WHERE a + 1 > 0", "t.a + 1"),
    ("SELECT -a FROM (VALUES (-9223372036854775808)) AS t(a)", "- t.a"),
    ("SELECT abs(a) FROM (VALUES (-9223372036854775808)) AS t(a)", "abs"),
    ("SELECT a / -1 FROM (VALUES (-9223372036854775808)) AS t(a)", "t.a / -1"),
    ("SELECT CAST(a AS INT) * CAST(a AS INT) FROM (VALUES (50000)) AS t(a)", "t.a * t.a"),
    ("SELECT CAST(a AS TINYINT) + CAST(1 AS TINYINT) FROM (VALUES (127)) AS t(a)", "127"),
    ("SELECT CAST(0 AS BIGINT UNSIGNED) - CAST(a AS BIGINT UNSIGNED) FROM (VALUES (1)) AS t(a)", "t.a"),
    ("SELECT sum(a) FROM (VALUES (9223372036854775807), (1)) AS t(a)", "sum(t.a)"),
    ("SELECT k, sum(a) FROM (VALUES (1, 9223372036854775807), (1, 1)) AS t(k, a) GROUP BY k", "sum(t.a)"),
    (
        "SELECT sum(DISTINCT a), sum(DISTINCT k) FROM (VALUES (1, 9223372036854775807), (2, 1)) AS t(k, a)",
        "sum(DISTINCT t.a)",
    ),
    ("SELECT sum(DISTINCT a) FROM (VALUES (9223372036854775807), (1)) AS t(a)", "sum(DISTINCT t.a)"),
    ("SELECT sum(a) OVER () FROM (VALUES (9223372036854775807), (1)) AS t(a)", "sum(t.a)"),
    (
        "SELECT sum(a) FROM (VALUES (CAST('99999999999999999999999999999999999999' AS DECIMAL(38, 0))), (1)) AS t(a)",
        "sum(t.a)",
    ),
    (
        "SELECT a + 1 FROM (VALUES (CAST('99999999999999999999999999999999999999' AS DECIMAL(38, 0)))) AS t(a)",
        "t.a + 1",
    ),
    ("SELECT abs(a) FROM (VALUES (-9223372036854775808)) AS t(a)", "abs(t.a)"),
];

#[tokio::test]
async fn overflows_are_errors_that_name_the_expression() {
    for (sql, name) in OVERFLOWS {
        let error = batch(sql).await.expect_err(sql);
        assert!(error.contains("overflow") && error.contains(name), "{sql}: {error}");
    }
    for sql in ["SELECT a / 0 FROM (VALUES (5)) AS t(a)", "SELECT a % 0 FROM (VALUES (5)) AS t(a)"] {
        let error = batch(sql).await.expect_err(sql);
        assert!(error.contains("division by zero in t.a"), "{sql}: {error}");
    }
    for sql in [
        "SELECT CAST(1e20 AS BIGINT)",
        "SELECT CAST(CAST('NaN' AS DOUBLE) AS INT)",
        "SELECT CAST(300 AS TINYINT)",
        "SELECT CAST('4.9' AS INT)",
    ] {
        assert!(batch(sql).await.is_err(), "{sql}");
    }
}

/// Infinity is only what says that it is.
#[tokio::test]
async fn casts_to_floats_are_numbers_or_errors() {
    for (sql, name) in [
        ("SELECT CAST(1e39 AS FLOAT)", "1e39 is out of the range of FLOAT"),
        ("SELECT CAST('1e400' AS DOUBLE)", "1e400 is out of the range of DOUBLE"),
        ("SELECT CAST(a AS DOUBLE) FROM (VALUES ('1e400')) AS t(a)", "CAST(t.a AS DOUBLE): 1e400 is out of"),
    ] {
        let error = batch(sql).await.expect_err(sql);
        assert!(error.contains(name), "{sql}: {error}");
    }
    for (sql, expected) in [
        ("SELECT CAST(CAST('-Infinity' AS DOUBLE) AS FLOAT)", "-inf"),
        ("SELECT CAST(a AS FLOAT) FROM (VALUES (CAST('1e38' AS DOUBLE))) AS t(a)", "1e38"),
        ("SELECT CAST(a AS DOUBLE) FROM (VALUES ('inf')) AS t(a)", "inf"),
        ("SELECT abs(a) FROM (VALUES (-7)) AS t(a)", "7"),
    ] {
        assert_eq!(batch(sql).await.unwrap(), [expected], "{sql}");
    }
}

#[tokio::test]
async fn without_ansi_mode_integers_wrap_around() {
    let session = Session::new();
    session.context().sql("SET tidemill.ansi_mode = false").await.unwrap();
    for (sql, expected) in [
        ("SELECT a * b FROM (VALUES (9223372036854775807, 2)) AS t(a, b)", "-2"),
        ("SELECT -a FROM (VALUES (-9223372036854775808)) AS t(a)", "-9223372036854775808"),
        ("SELECT sum(a) FROM (VALUES (9223372036854775807), (1)) AS t(a)", "-9223372036854775808"),
        (
            "SELECT sum(a) FROM (VALUES (1, 9223372036854775807), (1, 1)) AS t(k, a) GROUP BY k",
            "-9223372036854775808",
        ),
    ] {
        assert_eq!(batch_in(&session, sql).await.unwrap(), [expected], "{sql}");
    }
}

/// Whether a sum fits is a question of the whole sum, not of the order of rows.
#[tokio::test]
async fn sums_may_leave_the_type_and_come_back() {
    for (select, expected) in [
        ("sum(a), avg(a)", "9223372036854775803 3.0744573456182584e18"),
        (
            "sum(CAST(a AS DECIMAL(38, 0)) * 10000000000000000000), avg(CAST(a AS DECIMAL(21, 2)))",
            "92233720368547758030000000000000000000 3074457345618258601.000000",
        ),
    ] {
        for group in ["", "GROUP BY k"] {
            let sql = format!(
                "SELECT {select} FROM (VALUES (1, 9223372036854775807), (1, 1), (1, -5)) AS t(k, a) {group}"
            );
            assert_eq!(batch(&sql).await.unwrap(), [expected], "{sql}");
        }
    }
    let windows = "SELECT sum(a) OVER (ORDER BY k ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM \
                   (VALUES (1, 9223372036854775807), (2, -5), (3, 7)) AS t(k, a) ORDER BY k";
    assert_eq!(batch(windows).await.unwrap(), ["9223372036854775807", "9223372036854775802", "2"]);
}

/// A literal with an exponent is a double, however large.
#[tokio::test]
async fn literals_with_an_exponent_are_doubles() {
    for sql in ["SELECT 1e300", "SELECT 1 WHERE arrow_typeof(1e3 + 1) = 'Float64'", "EXPLAIN SELECT 1E-300"] {
        super::script(sql).await.unwrap();
    }
}

#[tokio::test]
async fn sums_of_intervals_are_exact_or_errors() {
    let rows = "(VALUES (1, INTERVAL '1 day'), (2, INTERVAL '1 month 3 hours'), (3, NULL), \
        (4, INTERVAL '-30 days')) AS t(k, i)";
    let sum = |select: &str| format!("SELECT {select} FROM {rows}");
    assert_eq!(batch(&sum("sum(i)")).await.unwrap(), ["1 mons -29 days 3 hours"]);
    assert_eq!(
        batch(&format!("{} GROUP BY k % 2 ORDER BY k % 2", sum("k % 2, sum(i)"))).await.unwrap(),
        ["0 1 mons -30 days 3 hours", "1 1 days"]
    );
    let sliding = sum("sum(i) OVER (ORDER BY k ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)");
    let expected = ["1 days", "1 mons 1 days 3 hours", "1 mons 3 hours", "-30 days"];
    assert_eq!(batch(&sliding).await.unwrap(), expected);
    // There and back again.
    let large = "(VALUES (INTERVAL '9223372036 seconds'), (INTERVAL '9223372036 seconds'), \
        (INTERVAL '-9223372036 seconds')) AS t(i)";
    assert_eq!(
        batch(&format!("SELECT sum(i) FROM {large}")).await.unwrap(),
        ["2562047 hours 47 mins 16.000000000 secs"]
    );
    for sum in ["sum(i)", "sum(abs(1) * 0 + 1), sum(i)"] {
        let query = format!("SELECT {sum} FROM {large} WHERE i > INTERVAL '0 seconds'");
        let error = batch(&query).await.unwrap_err();
        assert!(error.contains("sum") && error.contains("too large"), "{error}");
    }
}

/// Windows that slide, too.
#[tokio::test]
async fn a_nan_is_the_largest_value_whatever_its_sign() {
    let rows = "(SELECT id, -x AS a, CAST(-x AS REAL) AS b FROM (VALUES (1, CAST('NaN' AS DOUBLE)), \
        (2, CAST(1 AS DOUBLE)), (3, CAST(2 AS DOUBLE)), (4, NULL), (5, -CAST('NaN' AS DOUBLE))) AS t(id, x))";
    for frame in ["ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING", "ROWS BETWEEN 1 PRECEDING AND CURRENT ROW"] {
        let select = format!(
            "SELECT min(a) OVER w, max(a) OVER w, min(b) OVER w, max(b) OVER w FROM {rows} WINDOW w AS \
             (ORDER BY id {frame})"
        );
        let expected: [&str; 5] = match frame.contains("FOLLOWING") {
            true => [
                "-1.0 NaN -1.0 NaN",
                "-2.0 NaN -2.0 NaN",
                "-2.0 -1.0 -2.0 -1.0",
                "-2.0 NaN -2.0 NaN",
                "NaN NaN NaN NaN",
            ],
            false => [
                "NaN NaN NaN NaN",
                "-1.0 NaN -1.0 NaN",
                "-2.0 -1.0 -2.0 -1.0",
                "-2.0 -2.0 -2.0 -2.0",
                "NaN NaN NaN NaN",
            ],
        };
        assert_eq!(batch(&select).await.unwrap(), expected, "{frame}");
    }
}

/// Also beyond 2262, where nanoseconds end.
#[tokio::test]
async fn times_of_any_year_are_truncated() {
    let rows = "(VALUES ('9999-12-31T23:59:59.999999'), ('2026-07-20T20:17:00.5')) AS t(x)";
    let query = format!(
        "SELECT date_trunc('year', t), date_trunc('day', t) FROM (SELECT CAST(x AS TIMESTAMP(6)) AS t FROM {rows})"
    );
    let expected = ["9999-01-01T00:00:00 9999-12-31T00:00:00", "2026-01-01T00:00:00 2026-07-20T00:00:00"];
    assert_eq!(batch(&query).await.unwrap(), expected);
}

/// Years that nanoseconds do not reach are compared with as any other.
#[tokio::test]
async fn years_of_times_are_compared_with_any_year() {
    for unit in ["Nanosecond", "Microsecond"] {
        let rows = format!(
            "(SELECT arrow_cast(column1, 'Timestamp({unit}, None)') AS t FROM \
             (VALUES ('2020-06-01T12:00:00'), ('1995-06-01T12:00:00'), (NULL)))"
        );
        for (condition, expected) in [
            ("EXTRACT(YEAR FROM t) < 9999", "2"),
            ("EXTRACT(YEAR FROM t) <= 2262", "2"),
            ("EXTRACT(YEAR FROM t) >= 1000", "2"),
            ("date_part('year', t) > 9999", "0"),
            ("EXTRACT(YEAR FROM t) = 2020", "1"),
            ("EXTRACT(YEAR FROM t) < 2020", "1"),
            ("NOT EXTRACT(YEAR FROM t) >= 3000", "2"),
        ] {
            let found = batch(&format!("SELECT count(*) FROM {rows} WHERE {condition}")).await;
            assert_eq!(found.unwrap(), [expected], "{unit} {condition}");
        }
    }
    let bins = "SELECT date_bin(INTERVAL '1 day', arrow_cast(x, 'Timestamp(Microsecond, None)')) FROM \
                (VALUES ('9999-12-31T23:59:59.999999'), ('0001-01-01T12:00:00')) AS t(x)";
    assert_eq!(batch(bins).await.unwrap(), ["9999-12-31T00:00:00", "0001-01-01T00:00:00"]);
}

/// Chains that are one function are what their operations are one by one.
#[tokio::test]
async fn long_chains_are_what_their_operations_are() {
    let table =
        "(SELECT column1 AS w FROM (VALUES (7), (CAST(NULL AS BIGINT)), (-2), (4611686018427387904)))";
    for length in [15, 16, 17, 18, 200] {
        // w + 3 - w * 2 + w + 3 - w * 2 …
        let terms = ["+ 3", "- w * 2", "+ w"].iter().cycle().take(length);
        let chain = terms.clone().fold("w".to_string(), |chain, term| format!("{chain} {term}"));
        let expected = |w: i128| {
            let mut values = terms.clone().map(|term| match *term {
                "+ 3" => Some(3),
                "- w * 2" => i64::try_from(w * 2).ok().map(|twice| -i128::from(twice)),
                _ => Some(w),
            });
            values.try_fold(w, |sum, value| i64::try_from(sum + value?).ok().map(i128::from))
        };
        for (row, value) in [("w = 7", Some(7)), ("w = -2", Some(-2)), ("w IS NULL", None)] {
            let found = batch(&format!("SELECT {chain} FROM {table} WHERE {row}")).await.unwrap();
            let expected = value.map_or("NULL".to_string(), |w| expected(w).unwrap().to_string());
            assert_eq!(found, [expected], "{length} operations, {row}");
        }
        assert_eq!(expected(1 << 62), None);
        let error = batch(&format!("SELECT {chain} FROM {table} WHERE w > 7")).await.unwrap_err();
        assert!(error.contains("verflow") && error.contains("w * "), "{length}: {error}");
    }
}
