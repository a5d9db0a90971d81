//! The example in `docs/checkpoint-format.md` is what the code writes, byte for byte.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::memory::InMemory;
use serde_json::json;
use tidemill::checkpoint::records::{
    ColumnDefinition, CommitRecord, Metadata, OffsetsRecord, QueryDefinition, SinkDefinition,
    SourceDefinition, SourceOffset,
};
use tidemill::checkpoint::types::ColumnType;
use tidemill::checkpoint::{Checkpoint, location_of};
use tidemill::{Error, Result};
use url::Url;
use uuid::{Uuid, uuid};

use super::{raw, storage};

fn metadata() -> Result<Metadata> {
    let url = |text| Url::parse(text).map_err(|error| Error::Invalid(error.to_string()));
    let checkpoint = url("file:///work/checkpoint/etl/")?;
    let column =
        |name: &str| ColumnDefinition { name: name.into(), data_type: ColumnType::Int64, nullable: true };
    let source = SourceDefinition {
        format: "json".into(),
        location: Some(location_of(&url("file:///work/data/bids/")?, &checkpoint)),
        columns: vec![column("auction"), column("price")],
        inferred: false,
        options: BTreeMap::new(),
    };
    let sink = SinkDefinition {
        format: "parquet".into(),
        location: Some(location_of(&url("file:///work/out/etl/")?, &checkpoint)),
        columns: vec![column("auction")],
        partition_by: Vec::new(),
        options: Default::default(),
    };
    let definition =
        QueryDefinition { sources: vec![source], sink, output_mode: "append".into(), operators: Vec::new() };
    let id = uuid!("6f0c8a52-94f5-4b6e-9d0b-3f6a2d1c7e10");
    Ok(Metadata { id, created_by: "tidemill 0.1.0".into(), copy_of: None, definition })
}

fn plan(batch: u64) -> OffsetsRecord {
    let has_file = batch == 0 || batch == 3;
    let entries = if has_file { vec![raw(format!(r#"{{"path":"bids-{batch}.json"}}"#))] } else { Vec::new() };
    OffsetsRecord {
        batch_id: batch,
        batch_timestamp_ms: 1_790_000_000_000 + batch as i64 * 2_000,
        batch_watermark_ms: 0,
        conf: BTreeMap::from([("partitions".to_string(), "4".to_string())]),
        sources: vec![SourceOffset {
            start: serde_json::Value::Null,
            end: json!({ "logOffset": if batch < 3 { 0 } else { 1 } }),
            entries,
            behind: Vec::new(),
        }],
    }
}

fn commit(batch: u64) -> CommitRecord {
    let sink = json!({ "files": [format!("part-{batch}-0.parquet")] });
    CommitRecord {
        batch_id: batch,
        query_id: None,
        next_batch_watermark_ms: 0,
        streams: vec![],
        sink,
        late: vec![],
        state: json!(null),
        copied: false,
        let_go: None,
    }
}

#[tokio::test]
async fn the_example_is_real() -> Result<()> {
    let document = include_str!("../../../docs/checkpoint-format.md");
    let storage = storage(&InMemory::new())?;
    let run = uuid!("0b9e4c77-51d3-4d0a-8a55-c1f2e3d4a5b6");
    let (checkpoint, _) = Checkpoint::open(Arc::clone(&storage), run).await?;
    checkpoint.create_metadata(&metadata()?).await?;
    for batch in 0..10 {
        checkpoint.write_offsets(&plan(batch)).await?;
        checkpoint.write_commit(&commit(batch)).await?;
    }
    checkpoint.maintain(100, &|_, entries| entries).await?;
    let mut lacking = String::new();
    for path in ["metadata", "fence/1", "offsets/0", "offsets/1", "commits/0", "history/0/0-9"] {
        let file = storage.read(path).await?.unwrap_or_default();
        let example = format!("`{path}`:\n\n```text\n{}```\n", String::from_utf8_lossy(&file));
        if !document.contains(&example) {
            lacking.push_str(&format!("\n{example}"));
        }
    }
    assert!(lacking.is_empty(), "docs/checkpoint-format.md lacks:\n{lacking}");
    Ok(())
}

/// The commit of a run whose place another query took, and which came too late to be told.
#[tokio::test]
async fn a_commit_of_another_query_is_named() -> Result<()> {
    let storage = storage(&InMemory::new())?;
    let (checkpoint, _) = Checkpoint::open(Arc::clone(&storage), Uuid::from_u128(1)).await?;
    let own = metadata()?;
    checkpoint.create_metadata(&own).await?;
    checkpoint.write_offsets(&plan(0)).await?;
    let other = Uuid::from_u128(7);
    checkpoint.write_commit(&CommitRecord { query_id: Some(other), ..commit(0) }).await?;
    let Err(error) = Checkpoint::open(Arc::clone(&storage), Uuid::from_u128(2)).await else {
        panic!("the commit of {other} was taken for one of {}", own.id);
    };
    for part in ["commits/0", &other.to_string(), &own.id.to_string(), "start with a new checkpoint"] {
        assert!(error.to_string().contains(part), "no '{part}' in: {error}");
    }
    Ok(())
}
