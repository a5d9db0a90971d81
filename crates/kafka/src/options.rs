//! What a topic is read with: Spark's options, by Spark's names.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use regex::Regex;
use tidemill::serde_json::{self, Value};
use tidemill::source::BadMessages;
use tidemill::{Error, Options, Result};

use super::client::ClientOptions;
use super::offsets::{Offsets, Partition};

/// The source's own options, beside `kafka.…` and those of its formats.
pub(super) const OPTIONS: &[&str] = &[
    "assign",
    "subscribe",
    "subscribePattern",
    "startingOffsets",
    "startingOffsetsByTimestamp",
    "startingTimestamp",
    "startingOffsetsByTimestampStrategy",
    "maxOffsetsPerTrigger",
    "minOffsetsPerTrigger",
    "maxTriggerDelay",
    "minPartitions",
    "failOnDataLoss",
    "includeHeaders",
    "groupIdPrefix",
    "commitGroupOffsets",
    "kafkaConsumer.pollTimeoutMs",
    "fetchOffset.numRetries",
    "fetchOffset.retryIntervalMs",
    "key.format",
    "value.format",
    "key.fields",
    "badRecordsPath",
];

/// Properties of the client that the source sets itself.
const DENIED: &[(&str, &str)] = &[
    (
        "auto.offset.reset",
        "where a query begins is said by startingOffsets, and where it goes on by its checkpoint",
    ),
    ("enable.auto.commit", "the checkpoint says how far a query has read; see commitGroupOffsets"),
    ("enable.auto.offset.store", "the checkpoint says how far a query has read; see commitGroupOffsets"),
    ("enable.partition.eof", "the source sets it itself"),
    ("key.deserializer", "keys are bytes; say key.format for columns"),
    ("value.deserializer", "values are bytes; say value.format for columns"),
    ("interceptor.classes", "interceptors are Java, and might change what is read"),
    ("group.instance.id", "the source assigns partitions itself and joins no group"),
    ("partition.assignment.strategy", "the source assigns partitions itself and joins no group"),
];

/// Which partitions are read.
#[derive(Debug, Clone)]
pub(super) enum Selection {
    /// These.
    Assign(BTreeSet<Partition>),
    /// All of these topics.
    Subscribe(BTreeSet<String>),
    /// All of the topics with such a name, also of those that come later.
    Pattern(Regex),
}

impl Selection {
    /// As it is shown to users.
    pub(super) fn describe(&self) -> String {
        match self {
            Selection::Assign(partitions) => {
                let names: Vec<String> = partitions
                    .iter()
                    .map(|partition| format!("{}-{}", partition.topic, partition.id))
                    .collect();
                format!("Assign[{}]", names.join(", "))
            }
            Selection::Subscribe(topics) => {
                format!("Subscribe[{}]", topics.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
            }
            Selection::Pattern(pattern) => format!("SubscribePattern[{}]", whole(pattern)),
        }
    }

    fn parse(options: &Options) -> Result<Self> {
        let given: Vec<(&str, &str)> = ["assign", "subscribe", "subscribePattern"]
            .into_iter()
            .filter_map(|name| Some((name, options.get(name)?)))
            .collect();
        match given.as_slice() {
            [("assign", value)] => Ok(Selection::Assign(assigned(value)?)),
            [("subscribe", value)] => {
                let topics: BTreeSet<String> = value
                    .split(',')
                    .map(|topic| topic.trim().to_string())
                    .filter(|t| !t.is_empty())
                    .collect();
                if topics.is_empty() {
                    return Err(Error::option(
                        "subscribe",
                        value,
                        "expected names of topics, separated by commas",
                    ));
                }
                Ok(Selection::Subscribe(topics))
            }
            [(name, value)] => {
                // The whole name, as Java's matches() asks for.
                let pattern = Regex::new(&format!("^(?:{value})$"));
                let pattern = pattern.map_err(|error| {
                    Error::option(name, value, format!("expected a regular expression: {error}"))
                })?;
                Ok(Selection::Pattern(pattern))
            }
            [] => Err(Error::Invalid(
                "the kafka source needs one of the options 'subscribe' (topics, separated by commas), \
                 'subscribePattern' (a regular expression) and 'assign' ({\"topic\":[0,1]})"
                    .into(),
            )),
            [(one, value), (other, _), ..] => Err(Error::option(
                one,
                value,
                format!("it cannot be used together with {other}. Set one of them"),
            )),
        }
    }
}

fn whole(pattern: &Regex) -> &str {
    let text = pattern.as_str();
    text.strip_prefix("^(?:").and_then(|text| text.strip_suffix(")$")).unwrap_or(text)
}

fn assigned(text: &str) -> Result<BTreeSet<Partition>> {
    let invalid =
        || Error::option("assign", text, "expected topics with their partitions, {\"topic\":[0,1]}");
    let topics: BTreeMap<String, Vec<i32>> = serde_json::from_str(text).map_err(|_| invalid())?;
    let partitions: BTreeSet<Partition> = topics
        .into_iter()
        .flat_map(|(topic, ids)| ids.into_iter().map(move |id| Partition { topic: topic.clone(), id }))
        .collect();
    if partitions.is_empty() || partitions.iter().any(|partition| partition.id < 0) {
        return Err(invalid());
    }
    Ok(partitions)
}

/// Where the first start of a query begins in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    Earliest,
    Latest,
    At(i64),
    /// With the first message that is not older; milliseconds since the epoch.
    Since(i64),
}

/// Where the first start of a query begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Starting {
    /// The same in all partitions.
    All(Begin),
    /// Partition by partition; the option, for errors.
    Each(&'static str, BTreeMap<Partition, Begin>),
}

impl Starting {
    fn parse(options: &Options) -> Result<Self> {
        if let Some(since) = options.parse::<i64>("startingTimestamp", "milliseconds since 1970")? {
            return Ok(Starting::All(Begin::Since(since)));
        }
        let name = "startingOffsetsByTimestamp";
        if let Some(text) = options.get(name) {
            let each = by_partition(name, text)?;
            return Ok(Starting::Each(
                name,
                each.into_iter().map(|(p, since)| (p, Begin::Since(since))).collect(),
            ));
        }
        let name = "startingOffsets";
        match options.get(name).map(str::trim) {
            // As in Spark's streaming queries.
            None => Ok(Starting::All(Begin::Latest)),
            Some(text) if text.eq_ignore_ascii_case("latest") => Ok(Starting::All(Begin::Latest)),
            Some(text) if text.eq_ignore_ascii_case("earliest") => Ok(Starting::All(Begin::Earliest)),
            Some(text) => {
                let mut each = BTreeMap::new();
                for (partition, offset) in by_partition(name, text)? {
                    let begin = match offset {
                        -2 => Begin::Earliest,
                        -1 => Begin::Latest,
                        offset if offset < 0 => {
                            return Err(Error::option(
                                name,
                                text,
                                "expected offsets from 0, -1 (latest) or -2 (earliest)",
                            ));
                        }
                        offset => Begin::At(offset),
                    };
                    each.insert(partition, begin);
                }
                Ok(Starting::Each(name, each))
            }
        }
    }

    /// Where `partition`, which is there at the first start, begins.
    pub(super) fn of(&self, partition: &Partition) -> Result<Begin> {
        match self {
            Starting::All(begin) => Ok(*begin),
            Starting::Each(option, each) => each.get(partition).copied().ok_or_else(|| {
                Error::Invalid(format!(
                    "option '{option}' does not say where {partition} begins. Name all partitions, or leave it out"
                ))
            }),
        }
    }
}

fn by_partition(name: &'static str, text: &str) -> Result<BTreeMap<Partition, i64>> {
    let invalid = |reason: String| Error::option(name, text, reason);
    let value: Value = serde_json::from_str(text).map_err(|_| {
        let words = if name == "startingOffsets" { "earliest, latest or " } else { "" };
        invalid(format!(
            "expected {words}a number for each partition, as in {{\"topic\":{{\"0\":23,\"1\":7}}}}"
        ))
    })?;
    Ok(Offsets::parse(&value).map_err(invalid)?.0)
}

/// All of it.
#[derive(Debug, Clone)]
pub(super) struct SourceOptions {
    pub(super) client: ClientOptions,
    pub(super) selection: Selection,
    pub(super) starting: Starting,
    /// Whether a partition without a message that is young enough begins with its next one.
    pub(super) latest_if_none_since: bool,
    pub(super) max_offsets: Option<u64>,
    pub(super) min_offsets: Option<u64>,
    pub(super) max_delay: Duration,
    pub(super) fail_on_data_loss: bool,
    pub(super) include_headers: bool,
    pub(super) group_id_prefix: String,
    pub(super) commits_group_offsets: bool,
    pub(super) poll_timeout: Duration,
    pub(super) retries: u64,
    pub(super) retry_interval: Duration,
    /// Where malformed messages go.
    pub(super) bad_messages: Option<BadMessages>,
}

impl SourceOptions {
    pub(super) fn parse(options: &Options) -> Result<Self> {
        let strategy = options.get("startingOffsetsByTimestampStrategy").unwrap_or("error");
        let latest_if_none_since = match strategy.to_ascii_lowercase().as_str() {
            "error" => false,
            "latest" => true,
            _ => {
                let name = "startingOffsetsByTimestampStrategy";
                return Err(Error::option(name, strategy, "expected error or latest"));
            }
        };
        let max_offsets = options.positive("maxOffsetsPerTrigger")?;
        let min_offsets = options.positive("minOffsetsPerTrigger")?;
        if let (Some(max), Some(min)) = (max_offsets, min_offsets)
            && min > max
        {
            return Err(Error::option(
                "minOffsetsPerTrigger",
                min,
                format!("it must not be more than maxOffsetsPerTrigger, which is {max}"),
            ));
        }
        // Ranges are split over all that read a batch anyway.
        options.positive("minPartitions")?;
        let millis = |name: &str, default: u64| -> Result<u64> {
            Ok(options.parse::<u64>(name, "a whole number of milliseconds")?.unwrap_or(default))
        };
        for name in ["endingOffsets", "endingOffsetsByTimestamp", "endingTimestamp"] {
            if let Some(value) = options.get(name) {
                return Err(Error::option(
                    name,
                    value,
                    "a stream has no end; run the query with the trigger AVAILABLE NOW to stop at what is there now",
                ));
            }
        }
        Ok(Self {
            client: ClientOptions::parse(options, DENIED)?,
            selection: Selection::parse(options)?,
            starting: Starting::parse(options)?,
            latest_if_none_since,
            max_offsets,
            min_offsets,
            max_delay: options.duration("maxTriggerDelay")?.unwrap_or(Duration::from_secs(15 * 60)),
            fail_on_data_loss: options.flag("failOnDataLoss", true)?,
            include_headers: options.flag("includeHeaders", false)?,
            group_id_prefix: options.get("groupIdPrefix").unwrap_or("tidemill").to_string(),
            commits_group_offsets: options.flag("commitGroupOffsets", true)?,
            poll_timeout: Duration::from_millis(millis("kafkaConsumer.pollTimeoutMs", 120_000)?),
            retries: options.parse("fetchOffset.numRetries", "a whole number")?.unwrap_or(3),
            retry_interval: Duration::from_millis(millis("fetchOffset.retryIntervalMs", 10)?),
            bad_messages: BadMessages::parse(options)?,
        })
    }

    /// The consumer group whose offsets show how far the query `id` has read.
    pub(super) fn group(&self, id: impl std::fmt::Display) -> String {
        match self.client.get("group.id") {
            Some(group) => group.to_string(),
            None => format!("{}-{id}", self.group_id_prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<SourceOptions> {
        let servers = ("kafka.bootstrap.servers", "a:1");
        SourceOptions::parse(&options.iter().copied().chain([servers]).collect())
    }

    #[test]
    fn topics_and_where_to_begin() {
        let options = parse(&[("subscribe", "a, b")]).unwrap();
        assert_eq!(options.selection.describe(), "Subscribe[a, b]");
        assert_eq!(options.starting, Starting::All(Begin::Latest));
        let options =
            parse(&[("assign", "{\"t\":[1,0]}"), ("startingOffsets", "{\"t\":{\"0\":-2,\"1\":7}}")]).unwrap();
        assert_eq!(options.selection.describe(), "Assign[t-0, t-1]");
        let of = |id| options.starting.of(&Partition { topic: "t".into(), id });
        assert_eq!((of(0).unwrap(), of(1).unwrap()), (Begin::Earliest, Begin::At(7)));
        assert!(of(2).unwrap_err().to_string().contains("does not say where topic 't', partition 2 begins"));
        let options = parse(&[
            ("subscribePattern", "a.*"),
            ("startingOffsets", "earliest"),
            ("startingOffsetsByTimestamp", "{\"t\":{\"0\":5}}"),
            ("startingTimestamp", "9"),
        ])
        .unwrap();
        assert_eq!(options.selection.describe(), "SubscribePattern[a.*]");
        assert_eq!(options.starting, Starting::All(Begin::Since(9)), "as in Spark the timestamp wins");
        assert!(matches!(&options.selection, Selection::Pattern(p) if p.is_match("ab") && !p.is_match("ba")));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let topic = ("subscribe", "t");
        for (options, expected) in [
            (&[][..], "needs one of the options 'subscribe'"),
            (&[topic, ("assign", "{}")], "cannot be used together with subscribe"),
            (&[("assign", "t:0")], "expected topics with their partitions"),
            (&[("assign", "{\"t\":[-1]}")], "expected topics with their partitions"),
            (&[("subscribePattern", "(")], "expected a regular expression"),
            (&[("subscribe", " , ")], "expected names of topics"),
            (
                &[topic, ("startingOffsets", "first")],
                "expected earliest, latest or a number for each partition",
            ),
            (&[topic, ("startingOffsets", "{\"t\":{\"0\":-3}}")], "expected offsets from 0"),
            (&[topic, ("startingOffsetsByTimestampStrategy", "x")], "expected error or latest"),
            (&[topic, ("maxOffsetsPerTrigger", "5"), ("minOffsetsPerTrigger", "6")], "must not be more than"),
            (&[topic, ("endingOffsets", "latest")], "a stream has no end"),
            (&[topic, ("kafka.auto.offset.reset", "earliest")], "said by startingOffsets"),
            (&[topic, ("kafka.enable.auto.commit", "true")], "the checkpoint says how far"),
            (&[topic, ("failOnDataLoss", "no")], "expected true or false"),
        ] {
            let error = parse(options).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_group_is_the_querys_own_unless_it_is_named() {
        assert_eq!(parse(&[("subscribe", "t")]).unwrap().group(7), "tidemill-7");
        assert_eq!(parse(&[("subscribe", "t"), ("groupIdPrefix", "p")]).unwrap().group(7), "p-7");
        assert_eq!(parse(&[("subscribe", "t"), ("kafka.group.id", "g")]).unwrap().group(7), "g");
    }
}
