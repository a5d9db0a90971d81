//! Aggregates over frames that move: each value follows from the rows of its frame, and from nothing before them,
//! however the rows came.

use super::Place;

const COLUMNS: &str = "id INT, f DOUBLE, v INT, t TIMESTAMP, WATERMARK FOR t AS t";

/// Lines of rows with these numbers, one second after the other.
fn lines(values: &[String]) -> Vec<String> {
    let line = |(id, value): (usize, &String)| {
        let (minute, second) = (id / 60, id % 60);
        let v = id * 7 % 13;
        format!("{{\"id\":{id},\"f\":{value},\"v\":{v},\"t\":\"2024-01-01T00:{minute:02}:{second:02}\"}}\n")
    };
    values.iter().enumerate().map(line).collect()
}

/// The rows of `select` over the table `t` of `lines`: as a stream that comes in one file, in `files` of them, and as a
/// bounded table.
async fn in_all_ways(lines: &[String], files: usize, select: &str) -> [Vec<String>; 3] {
    let place = Place::new();
    place.put("one/0.json", &lines.concat());
    for (number, part) in lines.chunks(lines.len().div_ceil(files)).enumerate() {
        place.put(&format!("many/{number:03}.json"), &part.concat());
    }
    let mut found = Vec::new();
    for folder in ["one", "many"] {
        let script = format!(
            "CREATE OR REPLACE UNBOUNDED EXTERNAL TABLE t ({COLUMNS}) STORED AS JSON LOCATION '$/{folder}/' OPTIONS \
             ('maxFilesPerTrigger' 1);
             CREATE EXTERNAL TABLE {folder} STORED AS MEMORY;
             CREATE STREAMING QUERY q_{folder} TRIGGER AVAILABLE NOW OPTIONS ('flushOnEnd' 'true') AS INSERT INTO {folder} {select};
             SELECT * FROM {folder}"
        );
        found.push(place.rows(&script).await);
    }
    found.push(place.rows(&format!("{}; {select}", bounded())).await);
    found.try_into().unwrap()
}

fn bounded() -> String {
    format!(
        "CREATE OR REPLACE EXTERNAL TABLE t ({}) STORED AS JSON LOCATION '$/one/'",
        COLUMNS.split(", WATERMARK").next().unwrap()
    )
}

#[tokio::test]
async fn what_has_left_a_frame_leaves_nothing_behind() {
    let avg = "SELECT id, avg(f) OVER (ORDER BY t ROWS 1 PRECEDING) AS x FROM t";
    for (values, select, expected) in [
        (["1", "\"NaN\"", "2", "3", "4"], avg, ["0 1.0", "1 NaN", "2 NaN", "3 2.5", "4 3.5"]),
        (["1", "1e17", "2", "3", "4"], avg, ["0 1.0", "1 5e16", "2 5e16", "3 2.5", "4 3.5"]),
        (["1", "\"-Infinity\"", "2", "3", "4"], avg, ["0 1.0", "1 -inf", "2 -inf", "3 2.5", "4 3.5"]),
        (
            ["1", "1e300", "2", "3", "4"],
            "SELECT id, var_pop(f) OVER (ORDER BY t ROWS 1 PRECEDING) AS x FROM t WHERE id <> 1 OR f > 1e200",
            ["0 0.0", "1 inf", "2 inf", "3 0.25", "4 0.25"],
        ),
    ] {
        let lines = lines(&values.map(str::to_string));
        for found in in_all_ways(&lines, 5, select).await {
            assert_eq!(found, expected, "{values:?}: {select}");
        }
    }
}

/// Against a join with the rows of each frame, which is grouped.
#[tokio::test]
async fn every_aggregate_follows_frames_of_all_lengths() {
    // Whole numbers, whose sums do not depend on the order, and what is no number.
    let value = |id: usize| match id * id % 101 {
        3 => "\"NaN\"".to_string(),
        5 => "\"Infinity\"".to_string(),
        9 => "null".to_string(),
        small => format!("{}.0", small as i64 - 50),
    };
    let lines = lines(&(0..150).map(value).collect::<Vec<_>>());
    let functions = [
        "sum(f)",
        "avg(f)",
        "count(f)",
        "min(f)",
        "max(f)",
        "round(var_pop(f), 6)",
        "round(stddev(v), 6)",
        "round(corr(v, id), 6)",
        "sum(v)",
        "sum(DISTINCT f)",
        "avg(v)",
        "bool_and(v > 1)",
        "bool_or(v > 11)",
        "bit_or(v)",
        "bit_and(v)",
        "bit_xor(v)",
        "count(DISTINCT v)",
        "avg(DISTINCT v)",
        "approx_distinct(v)",
        "median(v)",
        "approx_median(v)",
        "sum(CAST(id AS DECIMAL(9, 2)))",
        "avg(DISTINCT CAST(id AS DECIMAL(9, 2)))",
    ];
    for before in [0, 2, 40, 70] {
        let over = format!("OVER (ORDER BY t ROWS {before} PRECEDING)");
        let columns = |call: &dyn Fn(&str) -> String| {
            let columns = functions.iter().enumerate().map(|(index, function)| {
                // What rounds is round the call.
                match function.strip_prefix("round(").and_then(|inner| inner.strip_suffix(", 6)")) {
                    Some(inner) => format!("round({}, 6) AS c{index}", call(inner)),
                    None => format!("{} AS c{index}", call(function)),
                }
            });
            columns.collect::<Vec<_>>().join(", ")
        };
        let select = format!(
            "SELECT id, {}, string_agg(CAST(v AS VARCHAR), ',') {over} AS texts FROM t",
            columns(&|call| format!("{call} {over}"))
        );
        let found = in_all_ways(&lines, 9, &select).await;
        let place = Place::new();
        place.put("one/0.json", &lines.concat());
        let of_frame = |call: &str| {
            let inside =
                call.replace("(f)", "(b.f)").replace("(v", "(b.v").replace("DISTINCT ", "DISTINCT b.");
            inside
                .replace(", id)", ", b.id)")
                .replace("b.CAST(id", "CAST(b.id")
                .replace("CAST(id", "CAST(b.id")
        };
        let expected = place
            .rows(&format!(
                "{}; SELECT a.id, {}, string_agg(CAST(b.v AS VARCHAR), ',' ORDER BY b.id) AS texts FROM t a JOIN t b ON b.id \
                 BETWEEN a.id - {before} AND a.id GROUP BY a.id",
                bounded(),
                columns(&of_frame)
            ))
            .await;
        for (found, way) in found.into_iter().zip(["in one file", "in many", "bounded"]) {
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found, expected, "{before} before, {way}");
            }
            assert_eq!(found.len(), expected.len());
        }
    }
}

#[tokio::test]
async fn zeros_are_one_value_whatever_their_sign() {
    let lines = lines(&["0.0", "-0.0", "1"].map(str::to_string));
    let select = "SELECT id, count(DISTINCT f) OVER (ORDER BY t) AS a, count(DISTINCT f) OVER (ORDER BY t ROWS 1 PRECEDING) AS b \
                  FROM t";
    for found in in_all_ways(&lines, 3, select).await {
        assert_eq!(found, ["0 1 1", "1 1 1", "2 2 2"]);
    }
}
