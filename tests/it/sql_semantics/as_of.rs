//! `FOR SYSTEM_TIME AS OF`: rows with the newest version of their time, against a reference that looks at all versions
//! for every row.

use super::Place;

/// A row of the left table: number, currency, seconds.
type Order = (u32, Option<char>, Option<u32>);
/// A version: currency, seconds since when, rate.
type Rate = (Option<char>, Option<u32>, u32);

const JOINS: [&str; 2] = ["JOIN", "LEFT JOIN"];

fn quoted(text: Option<char>) -> String {
    text.map_or("null".into(), |text| format!("\"{text}\""))
}

fn time(seconds: Option<u32>) -> String {
    seconds.map_or("null".into(), |seconds| {
        format!("\"2024-01-01T{:02}:{:02}:{:02}\"", seconds / 3600, seconds / 60 % 60, seconds % 60)
    })
}

fn orders(rows: &[Order]) -> String {
    let line =
        |(id, cur, at): &Order| format!("{{\"id\":{id},\"cur\":{},\"at\":{}}}\n", quoted(*cur), time(*at));
    rows.iter().map(line).collect()
}

fn rates(rows: &[Rate]) -> String {
    let line = |(cur, since, rate): &Rate| {
        format!("{{\"cur\":{},\"since\":{},\"rate\":{rate}}}\n", quoted(*cur), time(*since))
    };
    rows.iter().map(line).collect()
}

/// The rate of an order, of versions in the order in which they came.
fn rate_of((_, cur, at): &Order, versions: &[Rate]) -> Option<u32> {
    let (cur, at) = (cur.as_ref()?, at.as_ref()?);
    let known =
        versions.iter().filter(|(of, since, _)| of.as_ref() == Some(cur) && since.is_some_and(|s| s <= *at));
    known.max_by_key(|(_, since, _)| *since).map(|(_, _, rate)| *rate)
}

fn joined(orders: &[Order], versions: &[Rate], join: &str) -> Vec<String> {
    let row = |order: &Order| match (rate_of(order, versions), join) {
        (Some(rate), _) => Some(format!("{} {rate}", order.0)),
        (None, "JOIN") => None,
        (None, _) => Some(order.0.to_string()),
    };
    let mut rows: Vec<String> = orders.iter().filter_map(row).collect();
    rows.sort();
    rows
}

/// The tables, whose watermarks follow by `delay` seconds, and the query, which is run to the end of what is there.
fn run(join: &str, delay: u32, options: &str) -> String {
    let watermark = |column: &str| format!("WATERMARK FOR {column} AS {column} - INTERVAL '{delay} seconds'");
    format!(
        "CREATE OR REPLACE UNBOUNDED EXTERNAL TABLE rates (cur VARCHAR, since TIMESTAMP(6), rate INT, {}) STORED AS JSON
         LOCATION '$/rates/' OPTIONS ('minFileAge' '0s');
         CREATE OR REPLACE UNBOUNDED EXTERNAL TABLE orders (id INT, cur VARCHAR, at TIMESTAMP(6), {}) STORED AS JSON
         LOCATION '$/orders/' OPTIONS ('minFileAge' '0s');
         CREATE OR REPLACE EXTERNAL TABLE result STORED AS MEMORY;
         CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW CHECKPOINT LOCATION '$/c' OPTIONS ({options}) AS INSERT INTO result
         SELECT o.id, r.rate FROM orders o {join} rates FOR SYSTEM_TIME AS OF o.at AS r ON o.cur = r.cur;
         SELECT * FROM result",
        watermark("since"),
        watermark("at")
    )
}

async fn remembered(place: &Place, operator: usize) -> usize {
    let sql = format!("SELECT count(*) FROM state('$/c', {operator})");
    place.rows(&sql).await[0].parse().unwrap()
}

/// No row of a [`story`] is late by it.
const DELAY: u32 = 70;

/// Rows out of order by less than the delay, some of one time, some of no time or key.
fn story(seed: u32) -> Vec<(Vec<Order>, Vec<Rate>)> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut random = move |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % below
    };
    let mut number = 0;
    let mut rounds = Vec::new();
    for round in 0..4_u32 {
        let cur =
            |random: &mut dyn FnMut(u32) -> u32| [Some('a'), Some('b'), Some('a'), None][random(4) as usize];
        let (mut orders, mut rates) = (Vec::new(), Vec::new());
        for _ in 0..random(8) + 1 {
            let at = (random(9) > 0).then_some(40 + round * 60 + random(20) * 5 - 10 * (random(4)));
            number += 1;
            orders.push((number, cur(&mut random), at));
        }
        for _ in 0..random(6) + 1 {
            let since = (random(9) > 0).then_some(40 + round * 60 + random(20) * 5 - 10 * (random(4)));
            number += 1;
            rates.push((cur(&mut random), since, number));
        }
        rounds.push((orders, rates));
    }
    rounds
}

#[tokio::test]
async fn each_row_has_the_newest_version_of_its_time_after_every_restart() {
    for seed in 0..4 {
        for join in JOINS {
            let place = Place::new();
            let (mut all_orders, mut all_rates) = (Vec::new(), Vec::new());
            let mut given: Vec<String> = Vec::new();
            let newest = |times: Vec<Option<u32>>| times.into_iter().flatten().max();
            for (round, (new_orders, new_rates)) in story(seed).into_iter().enumerate() {
                place.put(&format!("orders/{round}.json"), &orders(&new_orders));
                place.put(&format!("rates/{round}.json"), &rates(&new_rates));
                all_orders.extend(new_orders);
                all_rates.extend(new_rates);
                given.extend(place.rows(&run(join, DELAY, "'durability' 'process'")).await);
                given.sort();
                let times = [
                    newest(all_orders.iter().map(|(_, _, at)| *at).collect()),
                    newest(all_rates.iter().map(|(_, since, _)| *since).collect()),
                ];
                // A stream that has said nothing of the time yet holds the other up.
                let watermark = match times {
                    [Some(a), Some(b)] => Some(i64::from(a.min(b)) - i64::from(DELAY)),
                    _ => None,
                };
                let is_final = |time: Option<u32>| {
                    time.zip(watermark).is_some_and(|(time, watermark)| i64::from(time) <= watermark)
                };
                let finals: Vec<Order> =
                    all_orders.iter().copied().filter(|(_, _, at)| is_final(*at)).collect();
                let context = format!("seed {seed}, round {round}, {join}, watermark {watermark:?}");
                assert_eq!(given, joined(&finals, &all_rates, join), "{context}");
                // Of versions that nothing looks at any more, only the newest of each key is there.
                let keeps = |(_, cur, at): &&Order| {
                    !is_final(*at) && (join != "JOIN" || (cur.is_some() && at.is_some()))
                };
                let waiting = all_orders.iter().filter(keeps).count();
                let versions = all_rates
                    .iter()
                    .filter(|(cur, since, _)| cur.is_some() && since.is_some() && !is_final(*since));
                assert_eq!(remembered(&place, 0).await, waiting + versions.count(), "{context}");
                assert!(remembered(&place, 1).await <= 3, "{context}");
            }
            given.extend(place.rows(&run(join, DELAY, "'durability' 'process', 'flushOnEnd' 'true'")).await);
            given.sort();
            assert_eq!(given, joined(&all_orders, &all_rates, join), "seed {seed}, {join}, at the end");
            assert_eq!(remembered(&place, 0).await, 0, "seed {seed}, {join}");
        }
    }
}

#[tokio::test]
async fn late_rows_are_left_out_on_both_sides() {
    let minutes = |minutes: u32| Some(minutes * 60);
    for join in JOINS {
        let place = Place::new();
        let mut given = Vec::new();
        for (round, (new_orders, new_rates, expected)) in [
            (
                vec![(1, Some('a'), minutes(10)), (2, Some('b'), minutes(10))],
                vec![(Some('a'), minutes(0), 10), (Some('a'), minutes(10), 12)],
                vec!["1 12", "2"],
            ),
            // Both are late, and the first version is not that of the third row.
            (
                vec![(3, Some('a'), minutes(9)), (4, Some('a'), minutes(15))],
                vec![(Some('a'), minutes(9), 99), (Some('a'), minutes(20), 13)],
                vec!["4 12"],
            ),
            (
                vec![(5, Some('a'), minutes(20)), (6, Some('a'), minutes(30))],
                vec![(Some('a'), minutes(30), 14)],
                vec!["5 13", "6 14"],
            ),
        ]
        .into_iter()
        .enumerate()
        {
            place.put(&format!("orders/{round}.json"), &orders(&new_orders));
            place.put(&format!("rates/{round}.json"), &rates(&new_rates));
            given = place.rows(&run(join, 0, "'durability' 'process'")).await;
            let expected: Vec<&str> =
                expected.into_iter().filter(|row| join != "JOIN" || row.contains(' ')).collect();
            assert_eq!(given, expected, "{join}, round {round}");
        }
        assert!(!given.is_empty());
    }
}

/// Rows without a key are joined with nothing, and move the watermark as those of other joins do.
#[tokio::test]
async fn rows_without_a_key_move_the_watermark() {
    for join in JOINS {
        let place = Place::new();
        place.put("orders/a.json", &orders(&[(1, Some('a'), Some(10))]));
        place.put("orders/b.json", &orders(&[(2, None, Some(60))]));
        place.put("rates/a.json", &rates(&[(Some('a'), Some(5), 7)]));
        place.put("rates/b.json", &rates(&[(None, Some(60), 8)]));
        let found = place.rows(&run(join, 0, "'durability' 'process'")).await;
        assert!(found.contains(&"1 7".to_string()), "{join}: {found:?}");
    }
}
