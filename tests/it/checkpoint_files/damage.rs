//! Files that are changed, cut, lost or exchanged: always noticed, always by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use tidemill::checkpoint::{Checkpoint, Recovery, frame, verify};
use tidemill::{Error, Result};
use uuid::Uuid;

use super::{checkpoint_with, commit, offsets, storage};

/// A checkpoint in the middle of batch 13, with segments, retained files and a fence.
async fn base() -> Result<(InMemory, BTreeMap<String, Bytes>)> {
    let (store, _) = checkpoint_with(13, 2).await?;
    let storage = storage(&store)?;
    let (checkpoint, _) = Checkpoint::open(Arc::clone(&storage), Uuid::from_u128(2)).await?;
    checkpoint.maintain(2, &|_, entries| entries).await?;
    checkpoint.write_offsets(&offsets(2, 13)).await?;
    let mut files = BTreeMap::new();
    for dir in ["", "fence", "offsets", "commits", "history/0", "history/1"] {
        for file in storage.list(dir).await? {
            files.insert(file.path.clone(), storage.read(&file.path).await?.unwrap_or_default());
        }
    }
    let paths: Vec<&str> = files.keys().map(String::as_str).collect();
    let expected = [
        "commits/10",
        "commits/11",
        "commits/12",
        "fence/2",
        "history/0/0-9",
        "history/1/0-9",
        "metadata",
        "offsets/10",
        "offsets/11",
        "offsets/12",
        "offsets/13",
    ];
    assert_eq!(paths, expected);
    Ok((store, files))
}

async fn put(store: &InMemory, path: &str, body: Bytes) -> Result<()> {
    let path = Path::from(format!("checkpoint/{path}"));
    store
        .put(&path, PutPayload::from_bytes(body))
        .await
        .map(drop)
        .map_err(|error| Error::Invalid(error.to_string()))
}

async fn delete(store: &InMemory, path: &str) -> Result<()> {
    storage(store)?.delete(path).await
}

/// What a start makes of the checkpoint, as text; or the damaged file and the reason.
async fn opened(store: &InMemory) -> Result<String, (String, String)> {
    let storage = storage(store).map_err(|error| (String::new(), error.to_string()))?;
    match Checkpoint::open(storage, Uuid::from_u128(9)).await {
        Ok((_, recovered)) => Ok(format!("{recovered:?}")),
        Err(Error::CheckpointDamaged { path, reason }) => Err((path, reason)),
        Err(error) => Err((String::new(), error.to_string())),
    }
}

/// The files that the report names.
async fn reported(store: &InMemory) -> Result<Vec<String>> {
    let report = verify(&*storage(store)?).await?;
    assert_eq!(report.to_string().lines().count(), report.findings.len() + 1);
    Ok(report.findings.into_iter().map(|finding| finding.path).collect())
}

/// Files that a start does not read, because others say the same or say more.
fn is_unread(path: &str) -> bool {
    path.starts_with("fence/") || path == "commits/10" || path == "commits/11"
}

/// A damaged file is reported, and a start names it or does not need it.
async fn is_noticed(store: &InMemory, path: &str, whole: &str, how: &str) -> Result<()> {
    assert_eq!(reported(store).await?, [path], "{how}");
    match opened(store).await {
        Ok(found) => {
            assert!(is_unread(path), "{how} went unnoticed");
            assert_eq!(found, whole, "{how}");
        }
        Err((named, reason)) => assert_eq!(named, path, "{how}: {reason}"),
    }
    Ok(())
}

#[tokio::test]
async fn every_flipped_bit() -> Result<()> {
    let (store, files) = base().await?;
    let whole = opened(&store.fork()).await.map_err(|(_, reason)| Error::Invalid(reason))?;
    for (path, body) in &files {
        for bit in 0..body.len() * 8 {
            let damaged = store.fork();
            let mut flipped = body.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            put(&damaged, path, flipped.into()).await?;
            is_noticed(&damaged, path, &whole, &format!("bit {bit} of {path}")).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_truncation_and_zeros() -> Result<()> {
    let (store, files) = base().await?;
    let whole = opened(&store.fork()).await.map_err(|(_, reason)| Error::Invalid(reason))?;
    for (path, body) in &files {
        let zeros = Bytes::from(vec![0; body.len()]);
        let twice = Bytes::from([&body[..], &body[..]].concat());
        for damaged_body in (0..body.len()).map(|length| body.slice(..length)).chain([zeros, twice]) {
            let damaged = store.fork();
            let how = format!("{path} with {} bytes", damaged_body.len());
            put(&damaged, path, damaged_body).await?;
            is_noticed(&damaged, path, &whole, &how).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_pair_of_files_exchanged() -> Result<()> {
    let (store, files) = base().await?;
    for (path, body) in &files {
        for (other, other_body) in files.range(path.clone()..).skip(1) {
            let damaged = store.fork();
            put(&damaged, path, other_body.clone()).await?;
            put(&damaged, other, body.clone()).await?;
            let exchange = format!("{path} and {other}");
            // The two sources' segments of the same batches differ in nothing but their place.
            if path.starts_with("history/") && other.starts_with("history/") {
                continue;
            }
            assert_eq!(reported(&damaged).await?, [path.clone(), other.clone()], "{exchange}");
            if let Err((named, _)) = opened(&damaged).await {
                assert!(named == *path || named == *other, "{exchange}: {named}");
            } else {
                assert!(is_unread(path) && is_unread(other), "{exchange} went unnoticed");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_lost_file() -> Result<()> {
    let (store, files) = base().await?;
    let whole = opened(&store.fork()).await.map_err(|(_, reason)| Error::Invalid(reason))?;
    for path in files.keys() {
        let damaged = store.fork();
        delete(&damaged, path).await?;
        let report = reported(&damaged).await?;
        match (path.as_str(), opened(&damaged).await) {
            // As if the batch had not come so far, which no file could tell.
            ("offsets/13", Ok(found)) => assert!(found.contains("Next { batch_id: 13"), "{found}"),
            // A start makes its own.
            ("fence/2", found) => assert_eq!(found.as_ref(), Ok(&whole)),
            // The entries of purged batches 0 to 9 are lost with it.
            (path, Err((named, reason))) if path.starts_with("history/") => {
                assert_eq!(named, "offsets/0 to offsets/9", "{reason}");
                assert!(report.contains(&named));
            }
            (path, Err((named, reason))) => {
                assert_eq!(named, path, "{reason}");
                assert!(reason.contains("missing") && report.contains(&named), "{path}: {reason}");
            }
            (path, Ok(found)) => panic!("{path} is lost, and a start finds {found}"),
        }
    }
    Ok(())
}

/// The last commit, when the batch after it is not planned yet.
#[tokio::test]
async fn a_lost_last_commit_is_a_batch_to_rerun() -> Result<()> {
    let (store, _) = checkpoint_with(5, 2).await?;
    delete(&store, "commits/4").await?;
    let (_, recovered) = Checkpoint::open(storage(&store)?, Uuid::from_u128(2)).await?;
    assert!(matches!(recovered.decision, Recovery::Rerun { offsets, .. } if offsets.batch_id == 4));
    // But not when the history knows of it.
    let (store, _) = checkpoint_with(10, 2).await?;
    delete(&store, "commits/9").await?;
    assert!(opened(&store).await.is_err_and(|(path, _)| path == "commits/9"));
    Ok(())
}

#[tokio::test]
async fn a_record_of_another_kind_or_of_another_query() -> Result<()> {
    let (store, files) = base().await?;
    let stranger = frame::encode(&serde_json::json!({"runId": "not a UUID"}))?;
    let mut three_sources = offsets(2, 12);
    three_sources.sources.push(three_sources.sources[0].clone());
    let mut late = offsets(2, 12);
    late.batch_watermark_ms = 5;
    let mut early = commit(2, 12);
    early.next_batch_watermark_ms = 0;
    for (path, body, reason) in [
        ("fence/2", stranger.clone(), "not the record that belongs there"),
        ("metadata", stranger, "not the record that belongs there"),
        ("offsets/12", frame::encode(&three_sources)?, "of 3 sources"),
        ("offsets/12", frame::encode(&late)?, "goes back from 120 to 5 ms"),
        ("commits/12", frame::encode(&early)?, "goes back from 120 to 0 ms"),
        ("offsets/13", files["offsets/12"].clone(), "of batch 12"),
        ("notes.txt", "hello".into(), "not part of a checkpoint"),
        ("offsets/013", files["offsets/13"].clone(), "not part of a checkpoint"),
        ("commits/x", "".into(), "not part of a checkpoint"),
        ("history/0/3-12", files["history/0/0-9"].clone(), "no segment begins and ends"),
    ] {
        let damaged = store.fork();
        put(&damaged, path, body).await?;
        let report = verify(&*storage(&damaged)?).await?;
        let finding = report.findings.iter().find(|finding| finding.path == path);
        assert!(finding.is_some_and(|finding| finding.problem.contains(reason)), "{path}: {report}");
        assert!(report.to_string().contains(path));
    }
    Ok(())
}

#[tokio::test]
async fn a_look_at_the_metadata_takes_nothing_over() -> Result<()> {
    let store = InMemory::new();
    let empty = storage(&store)?;
    assert_eq!(Checkpoint::read_metadata(&*empty).await?, None);
    assert_eq!(verify(&*empty).await?.to_string(), "there is no checkpoint here");
    let (store, _) = checkpoint_with(1, 2).await?;
    let storage = storage(&store)?;
    assert_eq!(Checkpoint::read_metadata(&*storage).await?, Some(super::metadata()));
    assert_eq!(storage.list("fence").await?.len(), 1);
    assert_eq!(verify(&*storage).await?.to_string(), "4 files, 1 committed batch: no problem found");
    Ok(())
}
