//! The simplest table there can be: what the others are tested against.

use std::collections::BTreeMap;

use super::bytes::RowBytes;
use super::table::{Found, NEVER, StateTable, Visit, VisitKeys};
use crate::error::Result;

/// Key and subkey.
type Name = (Vec<u8>, Vec<u8>);

/// A table that is a sorted map.
#[derive(Debug, Default, Clone)]
pub struct MapTable {
    /// Value and expiry, by key and subkey.
    rows: BTreeMap<Name, (Vec<u8>, Option<i64>)>,
    last_expiry: Option<i64>,
}

fn id(keys: &dyn RowBytes, subkeys: Option<&dyn RowBytes>, index: usize) -> Name {
    let subkey = subkeys.map_or_else(Vec::new, |subkeys| subkeys.row(index).to_vec());
    (keys.row(index).to_vec(), subkey)
}

impl StateTable for MapTable {
    fn get(&mut self, keys: &dyn RowBytes, subkeys: Option<&dyn RowBytes>, found: &mut Found) -> Result<()> {
        found.clear();
        for index in 0..keys.len() {
            if let Some((value, _)) = self.rows.get(&id(keys, subkeys, index)) {
                found.values.push(value);
                found.positions.push(index);
            }
        }
        Ok(())
    }

    fn get_all(&mut self, keys: &dyn RowBytes, visit: &mut VisitKeys<'_>) -> Result<()> {
        for index in 0..keys.len() {
            let key = keys.row(index).to_vec();
            let rows =
                self.rows.range((key.clone(), Vec::new())..).take_while(|((found, _), _)| *found == key);
            for ((_, subkey), (value, expiry)) in rows {
                visit(index, subkey, value, *expiry)?;
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
        for index in 0..keys.len() {
            let expiry = expiries.map(|expiries| expiries[index]);
            self.last_expiry = self.last_expiry.max(expiry.filter(|expiry| *expiry != NEVER));
            self.rows.insert(id(keys, subkeys, index), (values.row(index).to_vec(), expiry));
        }
        Ok(())
    }

    fn remove(&mut self, keys: &dyn RowBytes, subkeys: Option<&dyn RowBytes>) -> Result<()> {
        for index in 0..keys.len() {
            self.rows.remove(&id(keys, subkeys, index));
        }
        Ok(())
    }

    fn expire(&mut self, upto: i64, visit: &mut Visit<'_>) -> Result<()> {
        let is_expired =
            |expiry: &Option<i64>| expiry.is_some_and(|expiry| expiry <= upto && expiry != NEVER);
        for ((key, subkey), (value, expiry)) in &self.rows {
            if is_expired(expiry) {
                visit(key, subkey, value, *expiry)?;
            }
        }
        self.rows.retain(|_, (_, expiry)| !is_expired(expiry));
        Ok(())
    }

    fn scan(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        for ((key, subkey), (value, expiry)) in &self.rows {
            visit(key, subkey, value, *expiry)?;
        }
        Ok(())
    }

    fn len(&self) -> u64 {
        self.rows.len() as u64
    }

    fn first_expiry(&self) -> Option<i64> {
        self.rows.values().filter_map(|(_, expiry)| *expiry).filter(|expiry| *expiry != NEVER).min()
    }

    fn last_expiry(&self) -> Option<i64> {
        self.last_expiry
    }

    fn memory(&self) -> usize {
        /// What a row costs beside its bytes, about.
        const OVERHEAD: usize = 96;
        self.rows
            .iter()
            .map(|((key, subkey), (value, _))| key.len() + subkey.len() + value.len() + OVERHEAD)
            .sum()
    }
}
