//! Dates that are compared with times.

use super::batch;

/// What a comparison of `at`, of a type, with the date `day` gives.
async fn compared(condition: &str, at: &str, data_type: &str, day: &str) -> Option<bool> {
    let sql = format!(
        "SELECT {condition} AS x FROM (VALUES (CAST('{at}' AS {data_type}), CAST('{day}' AS DATE))) AS t(at, day)"
    );
    let rows = batch(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    match rows.concat().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// `DATE '9999-12-31'` is the usual "for ever", and further than a time of nanoseconds reaches.
#[tokio::test]
async fn times_are_compared_with_dates_beyond_their_range() {
    for data_type in ["TIMESTAMP(0)", "TIMESTAMP(3)", "TIMESTAMP(6)", "TIMESTAMP(9)"] {
        for (at, day, order) in [
            ("2024-01-01T00:00:00", "9999-12-31", -1),
            ("2024-01-01T00:00:00", "0001-01-01", 1),
            ("2024-01-01T00:00:00", "2024-01-01", 0),
            ("2024-01-01T00:00:01", "2024-01-01", 1),
            ("1969-12-31T23:59:59", "1970-01-01", -1),
        ] {
            for (condition, expected) in [
                ("at < day", order < 0),
                ("at <= day", order <= 0),
                ("day > at", order < 0),
                ("day <> at", order != 0),
                ("at = day", order == 0),
                ("at IS NOT DISTINCT FROM day", order == 0),
                ("at BETWEEN day AND day", order == 0),
                ("at IN (day)", order == 0),
                ("CASE at WHEN day THEN true ELSE false END", order == 0),
                ("nullif(at, day) IS NULL", order == 0),
            ] {
                let found = compared(condition, at, data_type, day).await;
                assert_eq!(found, Some(expected), "{condition} of {data_type} '{at}' and '{day}'");
            }
        }
    }
    let written =
        "SELECT TIMESTAMP '2024-01-01 00:00:00' < DATE '9999-12-31' AS a, now() < DATE '0001-01-01' AS b";
    assert_eq!(batch(written).await.unwrap(), ["true false"]);
    let joined = "SELECT count(*) FROM (VALUES (TIMESTAMP '2024-01-01 00:00:00')) AS a(at) \
                  JOIN (VALUES (DATE '9999-12-31'), (DATE '2023-01-01')) AS b(day) ON a.at <= b.day";
    assert_eq!(batch(joined).await.unwrap(), ["1"]);
}
