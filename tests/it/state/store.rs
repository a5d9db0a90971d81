//! State that is written, merged and restored is the state that a map has.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::execution::DiskManager;
use proptest::prelude::*;
use serde_json::Value;
use tidemill::Result;
use tidemill::state::{
    ByteRows, Manifest, NEVER, RowBytes, StateOptions, StateStore, hash_key, partition_of, read_state,
};
use tidemill::storage::{Durability, LocalStorage, Storage};
use url::Url;
use uuid::Uuid;

use super::key;

const OPERATORS: usize = 2;

/// What happens in a batch, per row: operator, key, subkey, and a value with its expiry or none to
/// remove it.
type Change = (usize, u8, u8, Option<(u8, i64)>);

#[derive(Debug, Clone)]
enum Step {
    Batch(Vec<Change>),
    /// Of one operator.
    Expire(usize, i64),
    Maintain,
    /// With so many partitions and so much memory.
    Restart(usize, Option<usize>),
}

fn step() -> impl Strategy<Value = Step> {
    let expiry = prop_oneof![2 => 1i64..4_000_000, 1 => Just(NEVER)];
    let put = prop_oneof![4 => (any::<u8>(), expiry).prop_map(Some), 1 => Just(None)];
    let subkey = prop_oneof![3 => Just(0u8), 1 => 1u8..4];
    let change = (0..OPERATORS, any::<u8>(), subkey, put);
    let memory = prop_oneof![2 => Just(None), 1 => Just(Some(0)), 1 => Just(Some(30_000))];
    prop_oneof![
        6 => prop::collection::vec(change, 0..60).prop_map(Step::Batch),
        2 => (0..OPERATORS, 0i64..1_500_000).prop_map(|(operator, by)| Step::Expire(operator, by)),
        2 => Just(Step::Maintain),
        1 => (1usize..5, memory).prop_map(|(partitions, memory)| Step::Restart(partitions, memory)),
    ]
}

type Name = (Vec<u8>, Vec<u8>);
type Rows = BTreeMap<Name, (Vec<u8>, Option<i64>)>;

/// A query with state, and the same state in maps.
struct Query {
    storage: Arc<dyn Storage>,
    store: StateStore,
    manifest: Value,
    batch: u64,
    maps: [Rows; OPERATORS],
    expired: [i64; OPERATORS],
    /// Whether most keys have one hash.
    collide: bool,
}

fn options(partitions: usize, memory_limit: Option<usize>) -> StateOptions {
    let disk = Arc::new(DiskManager::builder().build().unwrap());
    StateOptions { operators: OPERATORS, partitions, memory_limit, disk, run_id: Uuid::now_v7() }
}

impl Query {
    async fn start(url: &Url) -> Result<Self> {
        let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new(url, Durability::Process)?);
        let store = StateStore::open(Arc::clone(&storage), &Value::Null, options(2, None)).await?;
        Ok(Self {
            storage,
            store,
            manifest: Value::Null,
            batch: 0,
            maps: Default::default(),
            expired: [0; OPERATORS],
            collide: false,
        })
    }

    async fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Batch(changes) => {
                changes.iter().try_for_each(|change| self.change(change))?;
                self.commit().await
            }
            Step::Expire(operator, by) => {
                self.expire(*operator, *by)?;
                self.commit().await
            }
            Step::Maintain => self.store.maintain(self.batch.saturating_sub(1)).await,
            Step::Restart(partitions, memory) => {
                let options = options(*partitions, *memory);
                self.store = StateStore::open(Arc::clone(&self.storage), &self.manifest, options).await?;
                Ok(())
            }
        }
    }

    async fn commit(&mut self) -> Result<()> {
        self.manifest = self.store.write_changes(self.batch).await?;
        self.batch += 1;
        Ok(())
    }

    fn change(&mut self, (operator, number, subkey, put): &Change) -> Result<()> {
        let (key, subkey) = (key(*number, self.collide), if *subkey == 0 { vec![] } else { vec![*subkey] });
        let keys: ByteRows = [&key].into_iter().collect();
        let subkeys: ByteRows = [&subkey].into_iter().collect();
        let partition = partition_of(hash_key(&key), self.store.partitions());
        let mut table = self.store.table(*operator, partition);
        match put {
            Some((value, expiry)) => {
                let expiry = expiry.saturating_add(self.expired[*operator]);
                let value = vec![*value; usize::from(*value % 5)];
                let values: ByteRows = [&value].into_iter().collect();
                table.put(&keys, Some(&subkeys), &values, Some(&[expiry]))?;
                let expiry = Some(expiry).filter(|expiry| *expiry != NEVER);
                self.maps[*operator].insert((key, subkey), (value, expiry));
            }
            None => {
                table.remove(&keys, Some(&subkeys))?;
                self.maps[*operator].remove(&(key, subkey));
            }
        }
        Ok(())
    }

    fn expire(&mut self, operator: usize, by: i64) -> Result<()> {
        self.expired[operator] += by;
        let upto = self.expired[operator];
        for partition in 0..self.store.partitions() {
            let map = &mut self.maps[operator];
            self.store.table(operator, partition).expire(upto, &mut |key, subkey, value, expiry| {
                let known = map.remove(&(key.to_vec(), subkey.to_vec()));
                assert_eq!(known, Some((value.to_vec(), expiry)));
                assert!(expiry.is_some_and(|expiry| expiry <= upto));
                Ok(())
            })?;
        }
        assert!(self.maps[operator].values().all(|(_, expiry)| expiry.is_none_or(|expiry| expiry > upto)));
        Ok(())
    }

    fn in_tables(&self, operator: usize) -> Result<Rows> {
        let mut rows = Rows::new();
        for partition in 0..self.store.partitions() {
            self.store.table(operator, partition).scan(&mut |key, subkey, value, expiry| {
                let expiry = expiry.filter(|expiry| *expiry != NEVER);
                let twice = rows.insert((key.to_vec(), subkey.to_vec()), (value.to_vec(), expiry));
                assert_eq!(twice, None);
                assert_eq!(partition_of(hash_key(key), self.store.partitions()), partition);
                Ok(())
            })?;
        }
        Ok(rows)
    }

    async fn in_files(&self, operator: usize) -> Result<Rows> {
        let mut rows = Rows::new();
        let manifest = Manifest::from_record(&self.manifest)?;
        read_state(&self.storage, &manifest, operator, |some| {
            for row in 0..some.keys.len() {
                let name = (some.keys.row(row).to_vec(), some.subkeys.row(row).to_vec());
                let twice = rows.insert(name, (some.values.row(row).to_vec(), some.expiries[row]));
                assert_eq!(twice, None);
            }
            std::future::ready(Ok(()))
        })
        .await?;
        Ok(rows)
    }
}

fn on_a_disk() -> (tempfile::TempDir, Url) {
    let directory = tempfile::tempdir().unwrap();
    let url = Url::from_directory_path(directory.path()).unwrap();
    (directory, url)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap()
        .block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn what_was_committed_is_there_after_any_restart(
        steps in prop::collection::vec(step(), 1..50),
        collide in prop::bool::weighted(0.3),
    ) {
        let (_directory, url) = on_a_disk();
        block_on(async {
            let mut query = Query::start(&url).await.unwrap();
            query.collide = collide;
            for step in &steps {
                query.step(step).await.unwrap();
                for operator in 0..OPERATORS {
                    let rows = query.in_tables(operator).unwrap();
                    prop_assert_eq!(&rows, &query.maps[operator], "{:?}", step);
                    prop_assert_eq!(query.store.usage(operator).rows, rows.len() as u64);
                    prop_assert_eq!(&query.in_files(operator).await.unwrap(), &rows, "{:?}", step);
                }
            }
            Ok(())
        })?;
    }
}

#[test]
fn merging_keeps_files_few_and_purging_removes_what_no_commit_names() {
    let (_directory, url) = on_a_disk();
    block_on(async {
        let mut query = Query::start(&url).await.unwrap();
        for batch in 0..200u32 {
            let key = (batch % 50) as u8;
            query.step(&Step::Batch(vec![(0, key, 0, Some((1, NEVER)))])).await.unwrap();
            query.step(&Step::Maintain).await.unwrap();
            let manifest = Manifest::from_record(&query.manifest).unwrap();
            assert!(manifest.segments.len() < 25, "{} after batch {batch}", manifest.segments.len());
            let files = query.storage.list("state").await.unwrap();
            let mut named: Vec<&String> = manifest.segments.iter().map(|segment| &segment.file).collect();
            named.retain(|name| !files.iter().any(|file| file.path == **name));
            assert!(named.is_empty(), "{named:?} are missing after batch {batch}");
        }
        // A crash left what nobody names.
        query.storage.create("state/200-200-crashed", bytes::Bytes::from_static(b"x")).await.unwrap();
        query.step(&Step::Restart(3, None)).await.unwrap();
        for _ in 0..3 {
            query.step(&Step::Batch(vec![(1, 1, 1, Some((1, NEVER)))])).await.unwrap();
        }
        query.step(&Step::Maintain).await.unwrap();
        let manifest = Manifest::from_record(&query.manifest).unwrap();
        let files = query.storage.list("state").await.unwrap();
        // All that the last commits name, and no more.
        assert!(files.len() <= manifest.segments.len() + 9, "{files:?}");
        assert!(files.iter().all(|file| !file.path.ends_with("crashed")));
        assert_eq!(query.in_tables(0).unwrap().len(), 50);
    });
}

#[test]
fn a_run_that_takes_up_anew_keeps_what_it_writes_under_a_name_that_it_had_used() {
    let (_directory, url) = on_a_disk();
    block_on(async {
        let mut query = Query::start(&url).await.unwrap();
        let run_id = Uuid::now_v7();
        let change = |number: u8| Step::Batch(vec![(0, number, 0, Some((number, NEVER)))]);
        for number in [1, 2] {
            // Nothing was committed before, so the same batch is written each time.
            let options = StateOptions { run_id, ..options(1, None) };
            query.store = StateStore::open(Arc::clone(&query.storage), &Value::Null, options).await.unwrap();
            (query.batch, query.maps) = (0, Default::default());
            query.step(&change(number)).await.unwrap();
        }
        for number in 3..6 {
            query.step(&change(number)).await.unwrap();
        }
        query.store.maintain(query.batch - 1).await.unwrap();
        query.step(&Step::Restart(1, None)).await.unwrap();
        assert_eq!(query.in_tables(0).unwrap(), query.maps[0]);
    });
}

#[test]
fn a_lost_or_damaged_file_is_named() {
    let (_directory, url) = on_a_disk();
    block_on(async {
        let mut query = Query::start(&url).await.unwrap();
        query.step(&Step::Batch(vec![(0, 1, 0, Some((4, NEVER)))])).await.unwrap();
        let file = Manifest::from_record(&query.manifest).unwrap().segments[0].file.clone();
        let whole = query.storage.read(&file).await.unwrap().unwrap();
        let reopened = async || {
            let opened =
                StateStore::open(Arc::clone(&query.storage), &query.manifest, options(1, None)).await;
            opened.map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(reopened().await, Ok(()));
        for at in 0..whole.len() {
            let mut damaged = whole.to_vec();
            damaged[at] ^= 0x40;
            query.storage.delete(&file).await.unwrap();
            query.storage.create(&file, damaged.into()).await.unwrap();
            let error = reopened().await.unwrap_err();
            assert!(error.contains(&format!("'{file}' is damaged")), "byte {at}: {error}");
        }
        query.storage.delete(&file).await.unwrap();
        let error = reopened().await.unwrap_err();
        assert!(error.contains(&format!("'{file}' is damaged")) && error.contains("not there"), "{error}");
    });
}

#[test]
fn memory_is_accounted_in_the_session() {
    use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool};
    let (_directory, url) = on_a_disk();
    block_on(async {
        let mut query = Query::start(&url).await.unwrap();
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(200_000));
        query.store.account_in(&pool).unwrap();
        query.step(&Step::Batch(vec![(0, 1, 0, Some((4, NEVER)))])).await.unwrap();
        let before = pool.reserved();
        assert!(before > 0);
        {
            let mut table = query.store.table(0, 0);
            let keys: ByteRows = (0..20_000u32).map(u32::to_be_bytes).collect();
            table.put(&keys, None, &keys, None).unwrap();
        }
        let error = query.store.write_changes(1).await.unwrap_err().to_string();
        assert!(error.contains("set stateMemoryLimit"), "{error}");
        drop(query);
        assert_eq!(pool.reserved(), 0);
    });
}
