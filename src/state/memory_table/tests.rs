use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::state::MapTable;
use crate::state::change_log::Change;
use crate::state::changing_table::ChangingTable;

/// A call to a table.
#[derive(Debug, Clone)]
enum Call {
    Put(Vec<(u8, u8, Vec<u8>, i64)>),
    /// Keys, how long their values are, and expiries, of rows with subkeys that nobody had before.
    Add(Vec<(u8, usize, i64)>),
    /// Puts rows that were added, counted from the last one, again.
    PutAdded(Vec<usize>, i64),
    RemoveAdded(Vec<usize>),
    GetAdded(Vec<usize>),
    /// The batch is durable.
    Commit,
    Remove(Vec<(u8, u8)>),
    Expire(i64),
    Get(Vec<(u8, u8)>),
    GetAll(Vec<u8>),
}

/// Of keys below `keys`, with so many subkeys beside none, which is `plain` times as likely as one of them.
fn call(keys: u8, subkeys: u8, plain: u32) -> impl Strategy<Value = Call> {
    // Values of few lengths, so that some are overwritten and some are not; large ones, so that pages fill up.
    let subkey = prop_oneof![plain => Just(0u8), 1 => 1..=subkeys];
    let key = || 0..keys;
    let length = prop_oneof![4 => 0usize..3, 1 => Just(200_000)];
    let value = (any::<u8>(), length).prop_map(|(byte, length)| vec![byte; length]);
    let expiry = prop_oneof![4 => 0i64..6_000_000, 1 => Just(NEVER)];
    let added = (key(), 0usize..3, expiry.clone());
    let row = (key(), subkey.clone(), value, expiry.clone());
    let those = || prop::collection::vec(0usize..100, 0..10);
    let name = (key(), subkey);
    prop_oneof![
        4 => prop::collection::vec(row, 0..40).prop_map(Call::Put),
        4 => prop::collection::vec(added, 0..40).prop_map(Call::Add),
        1 => (those(), expiry).prop_map(|(those, expiry)| Call::PutAdded(those, expiry)),
        1 => those().prop_map(Call::RemoveAdded),
        1 => those().prop_map(Call::GetAdded),
        2 => Just(Call::Commit),
        1 => prop::collection::vec(name.clone(), 0..40).prop_map(Call::Remove),
        1 => (0i64..3_000_000).prop_map(Call::Expire),
        1 => prop::collection::vec(name, 0..40).prop_map(Call::Get),
        1 => prop::collection::vec(key(), 0..10).prop_map(Call::GetAll),
    ]
}

type Row = (Vec<u8>, Vec<u8>, Vec<u8>, Option<i64>);

/// Of all the lengths that are written in a way of their own.
fn key(number: u8) -> Vec<u8> {
    vec![number; [1, 29, 30, 31, 254, 255, 2][usize::from(number) % 7]]
}

fn subkey(number: u8) -> Vec<u8> {
    vec![number; [2, 126, 127, 128, 300, 1][usize::from(number) % 6] * usize::from(number.min(1))]
}

fn rows_of(rows: Vec<Vec<u8>>) -> ByteRows {
    rows.into_iter().collect()
}

fn keys(names: &[(u8, u8)]) -> (ByteRows, ByteRows) {
    (names.iter().map(|name| key(name.0)).collect(), names.iter().map(|name| subkey(name.1)).collect())
}

/// What becomes of a table by the calls to it.
#[derive(Default)]
struct Life {
    /// The highest expiry that may not be put any more.
    upto: i64,
    /// The names of rows that were added.
    added: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Life {
    /// Names of rows that were added, each once.
    fn those(&self, which: &[usize]) -> (ByteRows, ByteRows) {
        let numbers = which.iter().filter(|which| **which < self.added.len());
        let numbers: BTreeSet<usize> = numbers.map(|which| self.added.len() - 1 - which).collect();
        let names = numbers.iter().map(|number| &self.added[*number]);
        (names.clone().map(|name| &name.0).collect(), names.map(|name| &name.1).collect())
    }
}

/// What a call gives, sorted.
fn run(table: &mut dyn StateTable, call: &Call, life: &mut Life) -> Vec<Row> {
    let upto = &mut life.upto;
    let mut rows: Vec<Row> = Vec::new();
    let finite = |expiry: Option<i64>| expiry.filter(|expiry| *expiry != NEVER);
    match call {
        Call::Put(put) => {
            let names: Vec<(u8, u8)> = put.iter().map(|row| (row.0, row.1)).collect();
            let (keys, subkeys) = keys(&names);
            let values: ByteRows = put.iter().map(|row| &row.2).collect();
            let expiries: Vec<i64> = put.iter().map(|row| row.3.saturating_add(*upto + 1)).collect();
            table.put(&keys, Some(&subkeys), &values, Some(&expiries)).unwrap();
        }
        Call::Add(added) => {
            let from = life.added.len();
            let name = |(number, row): (usize, &(u8, usize, i64))| {
                (key(row.0), u32::try_from(from + number).unwrap().to_be_bytes().to_vec())
            };
            life.added.extend(added.iter().enumerate().map(name));
            let (keys, subkeys): (Vec<_>, Vec<_>) = life.added[from..].iter().cloned().unzip();
            let values: ByteRows = added.iter().map(|row| vec![row.0; row.1]).collect();
            let expiries: Vec<i64> = added.iter().map(|row| row.2.saturating_add(*upto + 1)).collect();
            table.add(&rows_of(keys), &rows_of(subkeys), &values, Some(&expiries)).unwrap();
        }
        Call::PutAdded(which, expiry) => {
            let expiry = expiry.saturating_add(*upto + 1);
            let (keys, subkeys) = life.those(which);
            let values: ByteRows = (0..keys.len()).map(|row| vec![9; row]).collect();
            table.put(&keys, Some(&subkeys), &values, Some(&vec![expiry; keys.len()])).unwrap();
        }
        Call::RemoveAdded(which) => {
            let (keys, subkeys) = life.those(which);
            table.remove(&keys, Some(&subkeys)).unwrap();
        }
        Call::GetAdded(which) => {
            let (keys, subkeys) = life.those(which);
            let mut found = Found::default();
            table.get(&keys, Some(&subkeys), &mut found).unwrap();
            for (index, position) in found.positions.iter().enumerate() {
                let value = found.values.row(index).to_vec();
                rows.push((keys.row(*position).to_vec(), subkeys.row(*position).to_vec(), value, None));
            }
        }
        Call::Commit => {}
        Call::Remove(names) => {
            let (keys, subkeys) = keys(names);
            table.remove(&keys, Some(&subkeys)).unwrap();
        }
        Call::Expire(by) => {
            *upto += by;
            table
                .expire(*upto, &mut |key, subkey, value, expiry| {
                    rows.push((key.to_vec(), subkey.to_vec(), value.to_vec(), expiry));
                    Ok(())
                })
                .unwrap();
        }
        Call::Get(names) => {
            let (keys, subkeys) = keys(names);
            let mut found = Found::default();
            table.get(&keys, Some(&subkeys), &mut found).unwrap();
            for (index, position) in found.positions.iter().enumerate() {
                let key = vec![u8::try_from(*position).unwrap()];
                rows.push((key, vec![], found.values.row(index).to_vec(), None));
            }
        }
        Call::GetAll(names) => {
            let names: BTreeSet<u8> = names.iter().copied().collect();
            let keys: ByteRows = names.iter().map(|name| key(*name)).collect();
            table
                .get_all(&keys, &mut |position, subkey, value, expiry| {
                    let key = vec![u8::try_from(position).unwrap()];
                    rows.push((key, subkey.to_vec(), value.to_vec(), finite(expiry)));
                    Ok(())
                })
                .unwrap();
            return rows;
        }
    }
    rows.sort();
    rows
}

fn all(table: &mut dyn StateTable) -> Vec<Row> {
    let mut rows = Vec::new();
    table
        .scan(&mut |key, subkey, value, expiry| {
            let expiry = expiry.filter(|expiry| *expiry != NEVER);
            rows.push((key.to_vec(), subkey.to_vec(), value.to_vec(), expiry));
            Ok(())
        })
        .unwrap();
    rows.sort();
    rows
}

/// Makes in `durable` what a batch has changed.
fn make_durable(table: &mut MemoryTable, durable: &mut MapTable, expired: i64) {
    let changes = table.changes();
    assert!(changes.len() <= ChangingTable::changed(table));
    for index in 0..changes.len() {
        let row = changes.row(index);
        assert_eq!(changes.bucket(index), bucket_of(row.key));
        let (keys, subkeys) = (rows_of(vec![row.key.to_vec()]), rows_of(vec![row.subkey.to_vec()]));
        match row.change {
            Change::Removed => durable.remove(&keys, Some(&subkeys)).unwrap(),
            Change::Put(expiry) => {
                let expiries = [expiry.unwrap_or(NEVER)];
                let values = rows_of(vec![row.value.to_vec()]);
                durable.put(&keys, Some(&subkeys), &values, Some(&expiries)).unwrap();
            }
        }
    }
    drop(changes);
    durable.expire(expired, &mut |_, _, _, _| Ok(())).unwrap();
    table.forget_changes();
}

/// Compares a table with a map after every call, and their rows at the end; also what is written down of its changes.
fn check(calls: Vec<Call>) -> std::result::Result<(), TestCaseError> {
    let (mut table, mut map, mut durable) =
        (MemoryTable::default(), MapTable::default(), MapTable::default());
    let (mut life, mut same) = (Life::default(), Life::default());
    for call in calls {
        let found = run(&mut table, &call, &mut life);
        prop_assert_eq!(found, run(&mut map, &call, &mut same));
        if matches!(call, Call::Commit) {
            make_durable(&mut table, &mut durable, life.upto);
            prop_assert_eq!(all(&mut durable), all(&mut map));
        }
        prop_assert_eq!(table.len(), map.len());
        prop_assert_eq!(table.last_expiry(), map.last_expiry());
        if let Some(first) = map.first_expiry() {
            prop_assert!(table.first_expiry().is_some_and(|found| found <= first));
            prop_assert_eq!(table.next_expiry(), Some(first));
        }
    }
    prop_assert_eq!(all(&mut table), all(&mut map));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn it_is_the_table_that_a_map_is(calls in prop::collection::vec(call(255, 3, 4), 1..60)) {
        check(calls)?;
    }

    #[test]
    fn rows_with_subkeys_are_those_that_a_map_has(calls in prop::collection::vec(call(9, 60, 1), 1..60)) {
        check(calls)?;
    }
}

#[test]
fn a_row_takes_little_more_than_its_bytes() {
    const ROWS: usize = 1_000_000;
    let mut table = MemoryTable::default();
    for from in (0..ROWS as u64).step_by(10_000) {
        // Two numbers as key and two as value, as they are encoded.
        let bytes =
            |number: u64| [number.to_be_bytes(), number.to_le_bytes(), [1; 8]].concat()[..18].to_vec();
        let rows: ByteRows = (from..from + 10_000).map(bytes).collect();
        table.put(&rows, None, &rows, None).unwrap();
        table.forget_changes();
    }
    let (memory, needed) = (table.memory() - MemoryTable::default().memory(), ROWS * 36);
    assert!(memory * 100 <= needed * 140, "{memory} bytes for {needed}");
}

/// Rows as a join has them: the batch and number of each tell those of a key from one another.
#[test]
fn a_row_with_a_subkey_takes_at_most_half_more_than_its_bytes_and_24_more() {
    const ROWS: u64 = 200_000;
    for (per_key, value, expires, added) in [
        (1, 18, false, false),
        (1, 40, true, false),
        (8, 40, true, false),
        (1000, 27, true, false),
        (ROWS, 18, true, false),
        (1, 18, true, true),
        (1000, 40, true, true),
    ] {
        let mut table = MemoryTable::default();
        let empty = table.memory();
        for (batch, from) in (0..ROWS).step_by(10_000).enumerate() {
            let rows = from..from + 10_000;
            // A number as it is encoded.
            let key = |row: u64| [&[1], (row % (ROWS / per_key)).to_be_bytes().as_slice()].concat();
            let keys: ByteRows = rows.clone().map(key).collect();
            let subkey =
                |row: u64| [(batch as u64).to_be_bytes().as_slice(), &(row as u32).to_be_bytes()].concat();
            let subkeys: ByteRows = rows.clone().map(subkey).collect();
            let values: ByteRows = rows.clone().map(|_| vec![7; value]).collect();
            let expiries: Vec<i64> = rows.map(|row| row as i64 * 1000).collect();
            let expiries = expires.then_some(expiries.as_slice());
            match added {
                true => table.add(&keys, &subkeys, &values, expiries).unwrap(),
                false => table.put(&keys, Some(&subkeys), &values, expiries).unwrap(),
            }
            table.forget_changes();
        }
        let (memory, bytes) = (table.memory() - empty, ROWS as usize * (9 + 12 + value));
        let most = bytes * 3 / 2 + ROWS as usize * 24;
        assert!(memory <= most, "{} bytes a row of {}", memory / ROWS as usize, bytes / ROWS as usize);
    }
}

#[test]
fn memory_is_given_back() {
    let mut table = MemoryTable::default();
    let empty = table.memory();
    let keys: ByteRows = (0..100_000u32).map(u32::to_be_bytes).collect();
    let values: ByteRows = (0..100_000u32).map(|_| [7; 32]).collect();
    for round in 0..5i64 {
        let expiries = vec![round * 10_000_000 + 5_000_000; keys.len()];
        table.put(&keys, None, &values, Some(&expiries)).unwrap();
        let full = table.memory();
        assert!(full > 5_000_000 && full < 16_000_000, "{full} bytes in round {round}");
        table.expire(round * 10_000_000 + 5_000_000, &mut |_, _, _, _| Ok(())).unwrap();
        assert_eq!(table.len(), 0);
        table.forget_changes();
        // The index stays as large as it was, and one page is kept to write to.
        assert!(table.memory() < empty + 4_500_000, "{} bytes after round {round}", table.memory());
    }
}

fn rows(rows: impl IntoIterator<Item = Vec<u8>>) -> ByteRows {
    rows.into_iter().collect()
}

#[test]
fn hot_rows_of_changing_length_do_not_keep_the_pages_of_cold_ones() -> Result<()> {
    let mut table = MemoryTable::default();
    for batch in 0..10_000u32 {
        let hot = (0..100u32).map(|key| key.to_be_bytes().to_vec());
        let keys = rows(hot.chain([(1000 + batch).to_be_bytes().to_vec()]));
        let values = rows((0..101).map(|row| vec![1; 80 + (batch as usize * 7 + row * 3) % 40]));
        table.put(&keys, None, &values, None)?;
    }
    let (memory, live) = (table.arena.memory(), table.arena.live());
    assert!(memory <= live * 2, "{memory} bytes for {live}");
    Ok(())
}

#[test]
fn rows_that_are_put_again_and_again_have_one_expiry_each() -> Result<()> {
    let mut table = MemoryTable::default();
    let keys = rows((0..10u32).map(|key| key.to_be_bytes().to_vec()));
    for batch in 0..20_000usize {
        let values = rows((0..10).map(|row| vec![1; 10 + (batch + row) % 50]));
        table.put(&keys, None, &values, Some(&[86_400_000_000; 10]))?;
    }
    assert!(table.expiries.memory() < 200_000, "{} bytes", table.expiries.memory());
    let mut expired = 0;
    table.expire(86_400_000_000, &mut |_, _, _, _| {
        expired += 1;
        Ok(())
    })?;
    assert_eq!(expired, 10);
    Ok(())
}

#[test]
fn a_large_row_gives_its_page_back_when_it_expires() -> Result<()> {
    let mut table = MemoryTable::default();
    for round in 1..10i64 {
        table.put(&rows([vec![7]]), None, &rows([vec![0; 3 << 20]]), Some(&[round * 2_000_000]))?;
        assert!(table.memory() >= 3 << 20);
        table.expire(round * 2_000_000, &mut |_, _, _, _| Ok(()))?;
        assert_eq!((table.len(), table.arena.memory()), (0, 0));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is written, pages hold at most twice of what is alive, apart from the two that are
    /// written to.
    #[test]
    fn memory_follows_what_is_alive(
        batches in prop::collection::vec((0u16..400, 1u16..300, 0usize..3000, 0u8..8), 1..120),
    ) {
        let mut table = MemoryTable::default();
        for (first, count, length, kind) in batches {
            let keys = rows((first..first + count).map(|key| key.to_be_bytes().to_vec()));
            if kind == 0 {
                table.remove(&keys, None)?;
            } else {
                let length = |key: usize| length + key * usize::from(kind) % 50;
                let expiries: Vec<i64> =
                    (0..i64::from(count)).map(|row| if row % 3 == 0 { NEVER } else { row }).collect();
                let values = rows((0..keys.len()).map(|key| vec![9; length(key)]));
                // Every other time with subkeys, of which each key has one.
                let subkeys = (kind % 2 == 0).then(|| rows((0..keys.len()).map(|_| vec![kind])));
                table.put(&keys, subkeys.as_ref().map(|subkeys| subkeys as _), &values, Some(&expiries))?;
            }
            let (memory, live) = (table.arena.memory(), table.arena.live());
            prop_assert!(memory <= live * 2 + (4 << 20), "{} bytes for {}", memory, live);
            let places = (0..table.arena.pages()).map(|page| table.arena.live_in(page).len()).sum::<usize>();
            prop_assert_eq!(places as u64, table.len());
        }
    }
}
