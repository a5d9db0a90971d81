//! The names of files: staged ones and published ones.

use std::ops::RangeInclusive;

use uuid::Uuid;

use crate::sink::SinkBatch;

/// The directory, below the output, that files are staged in. It and the files in it are hidden
/// from readers: by the leading dot, and by an extension that no format has.
pub(super) const STAGING: &str = ".tidemill";

/// What says in the name of a published file that it was merged from others, and what in that of a staged one.
const MERGED: &str = "merged";
const MERGE: &str = "merge-";

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

/// The name of a published file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PublishedName {
    pub partition: u64,
    pub query_id: Uuid,
    /// The batches that its rows are of.
    pub batches: RangeInclusive<u64>,
    pub sequence: u64,
    /// How often its rows were merged with those of other files.
    pub level: u32,
    /// With its point.
    pub extension: String,
}

impl PublishedName {
    /// That of the file at `path`.
    pub fn of(path: &str) -> Option<Self> {
        Self::parse(path.rsplit('/').next().unwrap_or_default())
    }

    /// Takes `name` apart; `None` if it is not that of a published file.
    pub fn parse(name: &str) -> Option<Self> {
        let (stem, extension) = name.split_at(name.find('.').unwrap_or(name.len()));
        let parts: Vec<&str> = stem.split('-').collect();
        let ["part", partition, last, query, rest @ ..] = parts.as_slice() else { return None };
        let is_digits =
            |text: &str, least| text.len() >= least && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_digits(partition, 5) || !is_digits(last, 10) || query.len() != 32 {
            return None;
        }
        let last = last.parse().ok()?;
        let (level, first, sequence) = match rest {
            [] => (0, last, 0),
            [sequence] => (0, last, sequence.parse().ok()?),
            [level, first, sequence] => {
                (level.strip_prefix(MERGED)?.parse().ok()?, first.parse().ok()?, sequence.parse().ok()?)
            }
            _ => return None,
        };
        Some(Self {
            partition: partition.parse().ok()?,
            query_id: Uuid::try_parse(query).ok()?,
            batches: first..=last,
            sequence,
            level,
            extension: extension.to_string(),
        })
    }

    /// The name of the file that this one, the first, and others up to batch `last` are merged into:
    /// `part-<partition>-<last batch>-<query>-merged<level>-<first batch>-<sequence><extension>`. As that of a file
    /// whose rows were merged as often, it names none but what begins with this one, which is gone then.
    pub fn merged(&self, last: u64) -> String {
        let Self { partition, query_id, batches, sequence, level, extension } = self;
        let (first, level, query) = (batches.start(), level + 1, query_id.simple());
        format!("part-{partition:05}-{last:010}-{query}-{MERGED}{level}-{first}-{sequence}{extension}")
    }
}

/// A new name for a merged file that is staged.
pub(super) fn staged_merge(query_id: Uuid) -> String {
    format!("{}{}{}.tmp", query_prefix(query_id), MERGE, Uuid::new_v4().simple())
}

/// Whether a staged file is a merged one.
pub(super) fn is_staged_merge(staged: &str, query_id: Uuid) -> bool {
    staged.strip_prefix(&query_prefix(query_id)).is_some_and(|rest| rest.starts_with(MERGE))
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
        let merged = PublishedName::parse(&published).unwrap().merged(20);
        assert_eq!(merged, format!("part-00003-0000000020-{query}-merged1-12-0.snappy.parquet"));
        let parsed = PublishedName::parse(&merged).unwrap();
        assert_eq!((parsed.batches.clone(), parsed.level, parsed.sequence), (12..=20, 1, 0));
        assert_eq!(parsed.merged(30), format!("part-00003-0000000030-{query}-merged2-12-0.snappy.parquet"));
        assert_eq!(PublishedName::parse(&second.published(".json")).unwrap().sequence, 1);
        for other in ["part-compacted-0a.json", "part-00000-0a", &format!("part-00000-0000000001-{query}-x")]
        {
            assert_eq!(PublishedName::parse(other), None, "{other}");
        }
        let staged = staged_merge(batch.query_id);
        assert!(is_staged_merge(&staged, batch.query_id) && !is_staged_merge(&name.staged(), batch.query_id));
        assert_eq!(batch_of(&staged), None);
        // Batch 1 must not take the files of batch 12 for its own.
        let first = SinkBatch { batch_id: 1, ..batch };
        assert!(!name.staged().starts_with(&batch_prefix(&first)));
    }
}
