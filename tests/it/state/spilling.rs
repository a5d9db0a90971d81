//! Tables that move rows to the local disk give what a map gives.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use datafusion::execution::DiskManager;
use datafusion::execution::disk_manager::DiskManagerMode;
use proptest::prelude::*;
use tidemill::Error;
use tidemill::state::{ByteRows, Found, MapTable, MemoryTable, NEVER, RowBytes, SpillTable, StateTable};

use super::key;

fn disk(directory: impl AsRef<Path>) -> Arc<DiskManager> {
    let mode = DiskManagerMode::Directories(vec![directory.as_ref().to_path_buf()]);
    Arc::new(DiskManager::builder().with_mode(mode).build().unwrap())
}

/// A call to a table.
#[derive(Debug, Clone)]
enum Call {
    Put(Vec<(u8, u8, Vec<u8>, i64)>),
    /// Rows with subkeys that begin with a number of their own.
    Add(u64, Vec<(u8, i64)>),
    Remove(Vec<(u8, u8)>),
    Expire(i64),
    Get(Vec<(u8, u8)>),
    /// Gets rows and puts them again, as aggregations do.
    Update(Vec<(u8, u8)>, u8, i64),
    GetAll(Vec<u8>),
    Scan,
}

fn call() -> impl Strategy<Value = Call> {
    let subkey = prop_oneof![3 => Just(0u8), 1 => 1u8..5];
    let key = prop_oneof![3 => any::<u8>(), 1 => 0u8..4];
    let value = (any::<u8>(), 0usize..30).prop_map(|(byte, length)| vec![byte; length]);
    // Around seconds, which are buckets, and short enough that many rows expire.
    let expiry = prop_oneof![3 => 0i64..4_000_000, 2 => 0i64..10, 1 => Just(NEVER)];
    let added = prop::collection::vec((key.clone(), expiry.clone()), 0..60);
    let row = (key.clone(), subkey.clone(), value, expiry.clone());
    let name = (key.clone(), subkey);
    prop_oneof![
        4 => prop::collection::vec(row, 0..60).prop_map(Call::Put),
        3 => (any::<u64>(), added).prop_map(|(number, added)| Call::Add(number, added)),
        2 => prop::collection::vec(name.clone(), 0..30).prop_map(Call::Remove),
        2 => (0i64..1_500_000).prop_map(Call::Expire),
        2 => prop::collection::vec(name.clone(), 0..60).prop_map(Call::Get),
        3 => (prop::collection::vec(name, 0..60), any::<u8>(), expiry)
            .prop_map(|(names, value, expiry)| Call::Update(names, value, expiry)),
        1 => prop::collection::vec(key, 0..10).prop_map(Call::GetAll),
        1 => Just(Call::Scan),
    ]
}

type Row = (Vec<u8>, Vec<u8>, Vec<u8>, Option<i64>);

fn keys(names: &[(u8, u8)], collide: bool) -> (ByteRows, ByteRows) {
    let subkey = |name: &(u8, u8)| if name.1 == 0 { vec![] } else { vec![name.1] };
    (names.iter().map(|name| key(name.0, collide)).collect(), names.iter().map(subkey).collect())
}

fn finite(expiry: Option<i64>) -> Option<i64> {
    expiry.filter(|expiry| *expiry != NEVER)
}

fn scan(table: &mut dyn StateTable) -> Vec<Row> {
    let mut rows = Vec::new();
    let scanned = table.scan(&mut |key, subkey, value, expiry| {
        rows.push((key.to_vec(), subkey.to_vec(), value.to_vec(), finite(expiry)));
        Ok(())
    });
    scanned.unwrap();
    rows.sort();
    rows
}

fn get(table: &mut dyn StateTable, names: &[(u8, u8)], collide: bool) -> Vec<Row> {
    let (keys, subkeys) = keys(names, collide);
    let mut found = Found::default();
    table.get(&keys, Some(&subkeys), &mut found).unwrap();
    assert!(found.positions.is_sorted());
    let row = |(index, position): (usize, &usize)| {
        (keys.row(*position).to_vec(), vec![], found.values.row(index).to_vec(), None)
    };
    found.positions.iter().enumerate().map(row).collect()
}

/// What a call gives, sorted where the order is free; `upto` is by when rows have expired, and `collide`
/// whether most keys have one hash.
fn run(table: &mut dyn StateTable, call: &Call, upto: &mut i64, collide: bool) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    match call {
        Call::Put(put) => {
            let names: Vec<(u8, u8)> = put.iter().map(|row| (row.0, row.1)).collect();
            let (keys, subkeys) = keys(&names, collide);
            let values: ByteRows = put.iter().map(|row| &row.2).collect();
            let expiries: Vec<i64> = put.iter().map(|row| row.3.saturating_add(*upto + 1)).collect();
            table.put(&keys, Some(&subkeys), &values, Some(&expiries)).unwrap();
        }
        Call::Add(number, added) => {
            let keys: ByteRows = added.iter().map(|row| key(row.0, collide)).collect();
            let subkey = |row: usize| [&number.to_be_bytes()[..], &[row as u8]].concat();
            let subkeys: ByteRows = (0..added.len()).map(subkey).collect();
            let values: ByteRows = added.iter().map(|row| [row.0]).collect();
            let expiries: Vec<i64> = added.iter().map(|row| row.1.saturating_add(*upto + 1)).collect();
            table.add(&keys, &subkeys, &values, Some(&expiries)).unwrap();
        }
        Call::Update(names, value, expiry) => {
            rows = get(table, names, collide);
            let (keys, subkeys) = keys(names, collide);
            let values: ByteRows = names.iter().map(|_| [*value]).collect();
            let expiries = vec![expiry.saturating_add(*upto + 1); names.len()];
            table.put(&keys, Some(&subkeys), &values, Some(&expiries)).unwrap();
        }
        Call::Remove(names) => {
            let (keys, subkeys) = keys(names, collide);
            table.remove(&keys, Some(&subkeys)).unwrap();
        }
        Call::Expire(by) => {
            *upto += by;
            let expired = table.expire(*upto, &mut |key, subkey, value, expiry| {
                rows.push((key.to_vec(), subkey.to_vec(), value.to_vec(), expiry));
                Ok(())
            });
            expired.unwrap();
            rows.sort();
        }
        Call::Get(names) => rows = get(table, names, collide),
        Call::GetAll(names) => {
            let names: BTreeSet<u8> = names.iter().copied().collect();
            let keys: ByteRows = names.iter().map(|name| key(*name, collide)).collect();
            let got = table.get_all(&keys, &mut |position, subkey, value, expiry| {
                rows.push((keys.row(position).to_vec(), subkey.to_vec(), value.to_vec(), finite(expiry)));
                Ok(())
            });
            got.unwrap();
        }
        Call::Scan => rows = scan(table),
    }
    rows
}

fn check(calls: Vec<Call>, mut table: impl StateTable, collide: bool) -> Result<(), TestCaseError> {
    let mut map = MapTable::default();
    let (mut upto, mut same) = (0, 0);
    for call in calls {
        let found = run(&mut table, &call, &mut upto, collide);
        prop_assert_eq!(found, run(&mut map, &call, &mut same, collide), "{:?}", call);
        prop_assert_eq!(table.len(), map.len(), "{:?}", call);
        prop_assert_eq!(table.last_expiry(), map.last_expiry());
        if let Some(first) = map.first_expiry() {
            prop_assert!(table.first_expiry().is_some_and(|found| found <= first));
        }
    }
    prop_assert_eq!(scan(&mut table), scan(&mut map));
    let all = scan(&mut map);
    // What runs hide must not come to light when everything else is gone.
    let end = Call::Expire(10_000_000);
    prop_assert_eq!(run(&mut table, &end, &mut upto, collide), run(&mut map, &end, &mut same, collide));
    prop_assert_eq!((table.len(), scan(&mut table)), (map.len(), scan(&mut map)), "after {:?}", all);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn it_is_the_table_that_a_map_is(
        calls in prop::collection::vec(call(), 1..80),
        limit in prop::sample::select(vec![0usize, 6_000, 20_000, 60_000]),
        collide in prop::bool::weighted(0.3),
    ) {
        check(calls, SpillTable::new(limit, disk(std::env::temp_dir())), collide)?;
    }

    #[test]
    fn a_table_in_memory_is_the_table_that_a_map_is_whatever_collides(
        calls in prop::collection::vec(call(), 1..80),
    ) {
        check(calls, MemoryTable::default(), true)?;
    }
}

/// Keys `from..to`, four bytes each, as rows.
fn numbers(from: u32, to: u32) -> ByteRows {
    (from..to).map(u32::to_be_bytes).collect()
}

#[test]
fn rows_beyond_the_limit_are_on_the_disk_and_expired_ones_leave_it() {
    const LIMIT: usize = 1 << 20;
    let mut table = SpillTable::new(LIMIT, disk(std::env::temp_dir()));
    let mut found = Found::default();
    for batch in 0..100u32 {
        let keys = numbers(batch * 1000, batch * 1000 + 1000);
        let values: ByteRows = (0..1000).map(|_| [7; 32]).collect();
        table.get(&keys, None, &mut found).unwrap();
        assert!(found.positions.is_empty());
        table.put(&keys, None, &values, Some(&[i64::from(batch) * 1_000_000; 1000])).unwrap();
        assert!(table.memory() < LIMIT + LIMIT / 4, "{} bytes", table.memory());
    }
    assert_eq!(table.len(), 100_000);
    assert!(table.spills() > 5 && table.disk() > 3_000_000, "{} {}", table.spills(), table.disk());
    table.get(&numbers(0, 100_000), None, &mut found).unwrap();
    assert_eq!(found.positions.len(), 100_000);
    let mut expired = 0;
    for batch in 0..100 {
        let taken = table.expire(batch * 1_000_000, &mut |_, _, _, expiry| {
            assert_eq!(expiry, Some(batch * 1_000_000));
            expired += 1;
            Ok(())
        });
        taken.unwrap();
        assert_eq!(table.len(), 100_000 - 1000 * (batch as u64 + 1));
    }
    assert_eq!(expired, 100_000);
    // Whatever is merged now, nothing of it is alive.
    for batch in 200..260u32 {
        let values: ByteRows = (0..1000).map(|_| [7; 32]).collect();
        table.put(&numbers(batch * 1000, batch * 1000 + 1000), None, &values, None).unwrap();
    }
    assert_eq!(table.len(), 60_000);
    table.get(&numbers(0, 100_000), None, &mut found).unwrap();
    assert!(found.positions.is_empty());
}

#[test]
fn a_key_may_have_more_rows_than_fit_into_a_block() {
    let mut table = SpillTable::new(100_000, disk(std::env::temp_dir()));
    let key: ByteRows = (0..1000).map(|_| b"key").collect();
    let values: ByteRows = (0..1000).map(|_| [1; 10]).collect();
    for round in 0..20 {
        let other = numbers(round * 1000, round * 1000 + 1000);
        table.put(&key, Some(&other), &values, None).unwrap();
        table.put(&other, None, &values, None).unwrap();
    }
    assert!(table.spills() > 2);
    let mut subkeys = 0u32;
    let only: ByteRows = [b"key"].into_iter().collect();
    let all = table.get_all(&only, &mut |_, subkey, _, _| {
        assert_eq!(subkey, subkeys.to_be_bytes());
        subkeys += 1;
        Ok(())
    });
    all.unwrap();
    assert_eq!((subkeys, table.len()), (20_000, 40_000));
    let mut found = Found::default();
    for round in 0..20 {
        table.get(&key, Some(&numbers(round * 1000, round * 1000 + 1000)), &mut found).unwrap();
        assert_eq!(found.positions.len(), 1000);
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_an_error_that_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let mut table = SpillTable::new(1000, disk(directory.path()));
    drop(directory);
    let values: ByteRows = (0..1000).map(|_| [1; 10]).collect();
    let error = table.put(&numbers(0, 1000), None, &values, None).unwrap_err();
    assert!(matches!(error, Error::Storage { .. }), "{error}");
    assert!(error.to_string().contains("raise stateMemoryLimit"), "{error}");
}

#[test]
fn no_more_of_the_disk_is_taken_than_datafusion_allows() {
    let directory = tempfile::tempdir().unwrap();
    let mode = DiskManagerMode::Directories(vec![directory.path().to_path_buf()]);
    let builder = DiskManager::builder().with_mode(mode).with_max_temp_directory_size(300_000);
    let disk = Arc::new(builder.build().unwrap());
    let mut table = SpillTable::new(50_000, Arc::clone(&disk));
    let values: ByteRows = (0..1000).map(|_| [1; 100]).collect();
    let put = |table: &mut SpillTable, from: u32| table.put(&numbers(from, from + 1000), None, &values, None);
    put(&mut table, 0).unwrap();
    assert!(table.disk() > 100_000, "{}", table.disk());
    // What waits for the commit may be in a buffer.
    assert!(disk.used_disk_space() > 100_000 && disk.used_disk_space() <= table.disk());
    let error = (1..10).find_map(|round| put(&mut table, round * 1000).err()).unwrap();
    assert!(error.to_string().contains("max_temp_directory_size"), "{error}");
    drop(table);
    assert_eq!(disk.used_disk_space(), 0);
    // Files have no names, so nothing is left behind.
    let left = std::fs::read_dir(disk.temp_dir_paths().first().unwrap()).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
#[ignore = "20 million keys: for release builds"]
fn state_larger_than_memory() {
    const KEYS: u32 = 20_000_000;
    const LIMIT: usize = 256 << 20;
    let mut table = SpillTable::new(LIMIT, disk(std::env::temp_dir()));
    let mut found = Found::default();
    let mut most = 0;
    for round in 0..2u32 {
        let started = std::time::Instant::now();
        for from in (0..KEYS).step_by(1000) {
            // Scattered, so that each batch touches everything.
            let keys: ByteRows = (from..from + 1000)
                .map(|key| u64::from(key.wrapping_mul(0x9e37_79b1)).to_be_bytes())
                .collect();
            table.get(&keys, None, &mut found).unwrap();
            assert_eq!(found.positions.len(), if round == 0 { 0 } else { 1000 });
            let values: ByteRows = (0..1000).map(|_| u128::from(round).to_be_bytes()).collect();
            assert!((0..found.values.len()).all(|row| found.values.row(row) == 0u128.to_be_bytes()));
            table.put(&keys, None, &values, None).unwrap();
            most = most.max(table.memory());
        }
        println!(
            "round {round}: {:?}, {} spills, {} bytes on disk",
            started.elapsed(),
            table.spills(),
            table.disk()
        );
    }
    assert_eq!(table.len(), u64::from(KEYS));
    assert!(most < LIMIT, "{most} bytes");
}
