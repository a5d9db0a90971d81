//! The names of files: staged ones and published ones.

use uuid::Uuid;

use crate::sink::SinkBatch;

/// The directory, below the output, that files are staged in. It and the files in it are hidden
/// from readers: by the leading dot, and by an extension that no format has.
pub(super) const STAGING: &str = ".tidemill";

/// What both names of a file are made from. A name is used once and never again: two queries
/// differ in the query id, two runs of a batch never share a staged name, and only one run of a
/// batch is ever published. A checkpoint that was restored from a backup would use the names of its
/// batches again: that is found out when they are published, for no file is ever replaced.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileName {
    /// Query, run and batch.
    pub batch: SinkBatch,
    /// The writer.
    pub partition: usize,
    /// The file among those of the writer, from 0.
    pub sequence: u64,
}

impl FileName {
    /// `.tidemill/<query>-<run>-<batch>-<partition>-<sequence>.tmp`
    pub fn staged(&self) -> String {
        let Self { batch, partition, sequence } = self;
        format!("{}{partition}-{sequence}.tmp", batch_prefix(batch))
    }

    /// `part-<partition>-<batch>-<query>[-<sequence>]<extension>`, which sorts by partition and
    /// then by batch, as Spark's names do.
    pub fn published(&self, extension: &str) -> String {
        let Self { batch, partition, sequence } = self;
        let stem = format!("part-{partition:05}-{:010}-{}", batch.batch_id, batch.query_id.simple());
        if *sequence == 0 { format!("{stem}{extension}") } else { format!("{stem}-{sequence}{extension}") }
    }
}

/// What the staged files of one query start with.
pub(super) fn query_prefix(query_id: Uuid) -> String {
    format!("{STAGING}/{}-", query_id.simple())
}

/// What the staged files of one run of a batch start with.
pub(super) fn batch_prefix(batch: &SinkBatch) -> String {
    format!("{}{}-{}-", query_prefix(batch.query_id), batch.run_id.simple(), batch.batch_id)
}

/// The batch of a staged file; `None` if it was not [`FileName::staged`] that named it.
pub(super) fn batch_of(staged: &str) -> Option<u64> {
    let (_, name) = staged.rsplit_once('/')?;
    let mut parts = name.strip_suffix(".tmp")?.split('-').skip(2);
    let batch = parts.next()?.parse().ok()?;
    (parts.count() == 2).then_some(batch)
}

/// Whether `name` is that of a published file of a query other than `query_id`.
pub(super) fn is_of_another_query(name: &str, query_id: Uuid) -> bool {
    let stem = name.split('.').next().unwrap_or_default();
    let mut parts = stem.split('-');
    let is_number = |part: Option<&str>, digits| {
        part.is_some_and(|part| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let is_ours = parts.next() == Some("part") && is_number(parts.next(), 5) && is_number(parts.next(), 10);
    let is_id = |id: &&str| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_ours && parts.next().filter(is_id).is_some_and(|id| id != query_id.simple().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::OutputMode;

    #[test]
    fn names() {
        let batch = SinkBatch {
            query_id: Uuid::from_u128(0xaaaa_0000_0000_4000_8000_0000_1a2b_3c4d),
            run_id: Uuid::from_u128(7),
            batch_id: 12,
            output_mode: OutputMode::Append,
        };
        let name = FileName { batch, partition: 3, sequence: 0 };
        let (query, run) = ("aaaa000000004000800000001a2b3c4d", format!("{:032x}", 7));
        assert_eq!(name.staged(), format!(".tidemill/{query}-{run}-12-3-0.tmp"));
        assert!(name.staged().starts_with(&batch_prefix(&batch)));
        assert_eq!(batch_of(&name.staged()), Some(12));
        for other in [".tidemill/x.tmp", ".tidemill/a-b-12.tmp", ".tidemill/a-b-c-0-0.tmp", "a-b-12-0-0.csv"]
        {
            assert_eq!(batch_of(other), None, "{other}");
        }
        assert!(name.staged().starts_with(&query_prefix(batch.query_id)));
        let published = name.published(".snappy.parquet");
        assert_eq!(published, format!("part-00003-0000000012-{query}.snappy.parquet"));
        let second = FileName { sequence: 1, ..name };
        assert_eq!(second.published(".json.gz"), format!("part-00003-0000000012-{query}-1.json.gz"));
        assert!(!is_of_another_query(&published, batch.query_id));
        assert!(is_of_another_query(&published, Uuid::nil()));
        assert!(!is_of_another_query("part-00000-1234.c000.snappy.parquet", Uuid::nil()));
        // Batch 1 must not take the files of batch 12 for its own.
        let first = SinkBatch { batch_id: 1, ..batch };
        assert!(!name.staged().starts_with(&batch_prefix(&first)));
    }
}
