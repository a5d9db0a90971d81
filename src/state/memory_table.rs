//! A table in memory.

use super::arena_table::ArenaTable;
use super::bytes::{ByteRows, RowBytes};
use super::change_log::{Change, ChangedRow, ChangedRows};
use super::changing_table::ChangingTable;
use super::hash::hash_key;
use super::index::Place;
use super::table::{Found, NEVER, StateTable, Visit, VisitKeys};
use super::tree_table::{Name, TreeTable, has_subkeys};
use crate::error::Result;

/// All rows in memory: those without a subkey in an arena behind a hash index, the others sorted.
#[derive(Debug, Default)]
pub struct MemoryTable {
    single: ArenaTable,
    sorted: TreeTable,
}

/// The rows with these positions.
fn some(rows: &dyn RowBytes, positions: &[usize]) -> ByteRows {
    positions.iter().map(|position| rows.row(*position)).collect()
}

/// Positions of rows without a subkey, and of those with one.
fn divide(subkeys: &dyn RowBytes) -> (Vec<usize>, Vec<usize>) {
    (0..subkeys.len()).partition(|row| subkeys.row(*row).is_empty())
}

/// All rows of a table by hash, key and subkey.
pub(super) struct SortedRows<'a> {
    table: &'a MemoryTable,
    sorted: Vec<([&'a [u8]; 3], i64)>,
    /// The hash of every row, and which one it is: those with subkeys come after all places.
    order: Vec<(u64, u64)>,
    at: usize,
}

/// The first number that is not a place.
const PLACES: u64 = 1 << 63;

impl MemoryTable {
    /// All rows by hash, key and subkey.
    pub(super) fn sorted(&self) -> SortedRows<'_> {
        let sorted: Vec<_> = self.sorted.rows().collect();
        let mut order = Vec::with_capacity(self.single.len() as usize + sorted.len());
        order.extend(self.single.places());
        order.extend(sorted.iter().zip(PLACES..).map(|(([key, ..], _), number)| (hash_key(key), number)));
        let mut rows = SortedRows { table: self, sorted, order: Vec::new(), at: 0 };
        order.sort_unstable_by(|one, other| {
            let name = |number| rows.get(number).0;
            one.0.cmp(&other.0).then_with(|| name(one.1)[..2].cmp(&name(other.1)[..2]))
        });
        rows.order = order;
        rows
    }
}

impl<'a> SortedRows<'a> {
    fn get(&self, number: u64) -> ([&'a [u8]; 3], i64) {
        if number >= PLACES {
            return self.sorted[(number - PLACES) as usize];
        }
        let (key, value, expiry) = self.table.single.at(number);
        ([key, &[], value], expiry)
    }

    /// The hash, bytes (key, subkey, value) and expiry of the row that it is at.
    pub(super) fn row(&self) -> Option<(u64, [&'a [u8]; 3], i64)> {
        let (hash, number) = self.order.get(self.at)?;
        let (bytes, expiry) = self.get(*number);
        Some((*hash, bytes, expiry))
    }

    /// Goes to the next row.
    pub(super) fn advance(&mut self) {
        self.at += 1;
    }
}

/// What was changed: removed rows first, for they may be there again.
struct MemoryChanges<'a> {
    table: &'a MemoryTable,
    /// Keys of rows without subkeys, and where those are that were put.
    single: (&'a ByteRows, Vec<Place>),
    sorted: (Vec<&'a Name>, Vec<&'a Name>),
}

impl ChangedRows for MemoryChanges<'_> {
    fn len(&self) -> usize {
        let (single, sorted) = (&self.single, &self.sorted);
        single.0.len() + single.1.len() + sorted.0.len() + sorted.1.len()
    }

    fn row(&self, index: usize) -> ChangedRow<'_> {
        let removed = |key, subkey| ChangedRow { key, subkey, value: &[], change: Change::Removed };
        let (gone, places) = &self.single;
        let mut index = index;
        if index < gone.len() {
            return removed(gone.row(index), &[]);
        }
        index -= gone.len();
        if let Some(place) = places.get(index) {
            let (key, value, expiry) = self.table.single.at(*place);
            let expiry = Some(expiry).filter(|expiry| *expiry != NEVER);
            return ChangedRow { key, subkey: &[], value, change: Change::Put(expiry) };
        }
        index -= places.len();
        let (gone, put) = &self.sorted;
        if let Some((key, subkey)) = gone.get(index) {
            return removed(key, subkey);
        }
        let name = put[index - gone.len()];
        match self.table.sorted.at(name) {
            Some((value, expiry)) => {
                ChangedRow { key: &name.0, subkey: &name.1, value, change: Change::Put(expiry) }
            }
            None => removed(&name.0, &name.1),
        }
    }
}

impl ChangingTable for MemoryTable {
    fn changes(&self) -> Box<dyn ChangedRows + '_> {
        let (single, sorted) = (self.single.changes(), self.sorted.changes());
        Box::new(MemoryChanges { table: self, single, sorted })
    }

    fn changed(&self) -> usize {
        self.single.count_changes() + self.sorted.count_changes()
    }

    fn forget_changes(&mut self) {
        self.single.forget_changes();
        self.sorted.forget_changes();
    }
}

impl StateTable for MemoryTable {
    fn get(&mut self, keys: &dyn RowBytes, subkeys: Option<&dyn RowBytes>, found: &mut Found) -> Result<()> {
        let Some(subkeys) = subkeys.filter(|_| has_subkeys(subkeys)) else {
            return self.single.get(keys, found);
        };
        found.clear();
        for row in 0..keys.len() {
            let value = match subkeys.row(row) {
                [] => self.single.one(keys.row(row)).map(|(value, _)| value),
                subkey => self.sorted.get(keys.row(row), subkey),
            };
            if let Some(value) = value {
                found.values.push(value);
                found.positions.push(row);
            }
        }
        Ok(())
    }

    fn find(&mut self, keys: &dyn RowBytes, hashes: &[u64], found: &mut Found) -> Result<()> {
        self.single.lookup(keys, hashes, found)
    }

    fn replace(
        &mut self,
        keys: &dyn RowBytes,
        hashes: &[u64],
        found: &Found,
        values: &dyn RowBytes,
        expiries: Option<&[i64]>,
    ) -> Result<()> {
        self.single.replace(keys, hashes, &found.places, values, expiries)
    }

    fn get_all(&mut self, keys: &dyn RowBytes, visit: &mut VisitKeys<'_>) -> Result<()> {
        for row in 0..keys.len() {
            let key = keys.row(row);
            if let Some((value, expiry)) = self.single.one(key) {
                visit(row, &[], value, expiry)?;
            }
            for (subkey, value, expiry) in self.sorted.of_key(key) {
                visit(row, subkey, value, expiry)?;
            }
        }
        Ok(())
    }

    fn put(
        &mut self,
        keys: &dyn RowBytes,
        subkeys: Option<&dyn RowBytes>,
        values: &dyn RowBytes,
        expiries: Option<&[i64]>,
    ) -> Result<()> {
        let Some(subkeys) = subkeys.filter(|_| has_subkeys(subkeys)) else {
            return self.single.put(keys, values, expiries);
        };
        let (single, sorted) = divide(subkeys);
        if !single.is_empty() {
            let chosen: Option<Vec<i64>> =
                expiries.map(|expiries| single.iter().map(|row| expiries[*row]).collect());
            self.single.put(&some(keys, &single), &some(values, &single), chosen.as_deref())?;
        }
        for row in sorted {
            let expiry = expiries.map_or(NEVER, |expiries| expiries[row]);
            self.sorted.put(keys.row(row), subkeys.row(row), values.row(row), expiry);
        }
        Ok(())
    }

    fn remove(&mut self, keys: &dyn RowBytes, subkeys: Option<&dyn RowBytes>) -> Result<()> {
        let Some(subkeys) = subkeys.filter(|_| has_subkeys(subkeys)) else {
            return self.single.remove(keys);
        };
        let (single, sorted) = divide(subkeys);
        self.single.remove(&some(keys, &single))?;
        for row in sorted {
            self.sorted.remove(keys.row(row), subkeys.row(row));
        }
        Ok(())
    }

    fn expire(&mut self, upto: i64, visit: &mut Visit<'_>) -> Result<()> {
        self.single.expire(upto, visit)?;
        self.sorted.expire(upto, visit)
    }

    fn scan(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        self.single.scan(visit)?;
        self.sorted.scan(visit)
    }

    fn len(&self) -> u64 {
        self.single.len() + self.sorted.len()
    }

    fn first_expiry(&self) -> Option<i64> {
        self.single.first_expiry().into_iter().chain(self.sorted.first_expiry()).min()
    }

    fn last_expiry(&self) -> Option<i64> {
        self.single.last_expiry().max(self.sorted.last_expiry())
    }

    fn memory(&self) -> usize {
        self.single.memory() + self.sorted.memory()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::state::MapTable;

    /// A call to a table.
    #[derive(Debug, Clone)]
    enum Call {
        Put(Vec<(u8, u8, Vec<u8>, i64)>),
        Remove(Vec<(u8, u8)>),
        Expire(i64),
        Get(Vec<(u8, u8)>),
        GetAll(Vec<u8>),
    }

    fn call() -> impl Strategy<Value = Call> {
        // Mostly no subkey; values of few lengths, so that some are overwritten and some are not; large
        // ones, so that pages fill up.
        let subkey = prop_oneof![4 => Just(0u8), 1 => 1u8..4];
        let length = prop_oneof![4 => 0usize..3, 1 => Just(200_000)];
        let value = (any::<u8>(), length).prop_map(|(byte, length)| vec![byte; length]);
        let expiry = prop_oneof![4 => 0i64..6_000_000, 1 => Just(NEVER)];
        let row = (any::<u8>(), subkey.clone(), value, expiry);
        let name = (any::<u8>(), subkey);
        prop_oneof![
            4 => prop::collection::vec(row, 0..40).prop_map(Call::Put),
            1 => prop::collection::vec(name.clone(), 0..40).prop_map(Call::Remove),
            1 => (0i64..3_000_000).prop_map(Call::Expire),
            1 => prop::collection::vec(name, 0..40).prop_map(Call::Get),
            1 => prop::collection::vec(any::<u8>(), 0..10).prop_map(Call::GetAll),
        ]
    }

    type Row = (Vec<u8>, Vec<u8>, Vec<u8>, Option<i64>);

    fn keys(names: &[(u8, u8)]) -> (ByteRows, ByteRows) {
        let subkey = |name: &(u8, u8)| if name.1 == 0 { vec![] } else { vec![name.1] };
        (names.iter().map(|name| [name.0]).collect(), names.iter().map(subkey).collect())
    }

    /// What a call gives, sorted; the lowest expiry that may still be put is noted in `upto`.
    fn run(table: &mut dyn StateTable, call: &Call, upto: &mut i64) -> Vec<Row> {
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
                let keys: ByteRows = names.iter().map(|name| [*name]).collect();
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

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
        #[test]
        fn it_is_the_table_that_a_map_is(calls in prop::collection::vec(call(), 1..60)) {
            let (mut table, mut map) = (MemoryTable::default(), MapTable::default());
            let (mut upto, mut same) = (0, 0);
            for call in calls {
                let found = run(&mut table, &call, &mut upto);
                prop_assert_eq!(found, run(&mut map, &call, &mut same));
                prop_assert_eq!(table.len(), map.len());
                prop_assert_eq!(table.last_expiry(), map.last_expiry());
                if let Some(first) = map.first_expiry() {
                    prop_assert!(table.first_expiry().is_some_and(|found| found <= first));
                }
            }
            prop_assert_eq!(all(&mut table), all(&mut map));
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
}
