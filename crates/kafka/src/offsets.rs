//! Where a query is in each partition.

use std::collections::BTreeMap;
use std::fmt;

use tidemill::serde_json::{Map, Value};

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Partition {
    pub(super) topic: String,
    pub(super) id: i32,
}

impl Partition {
    /// As Kafka's tools write it: the topic and the number. Names of topics have only characters that paths may have.
    pub(super) fn short_name(&self) -> String {
        format!("{}-{}", self.topic, self.id)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "topic '{}', partition {}", self.topic, self.id)
    }
}

/// An offset for each of some partitions: the first one that is not read yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Offsets(pub(super) BTreeMap<Partition, i64>);

impl Offsets {
    /// What Spark writes: `{"topic":{"0":23,"1":7}}`; `null` is none.
    pub(super) fn parse(value: &Value) -> Result<Self, String> {
        let expected = || format!("'{value}' is not of the form {{\"topic\":{{\"0\":23,\"1\":7}}}}");
        let mut offsets = BTreeMap::new();
        let topics = match value {
            Value::Null => return Ok(Self::default()),
            value => value.as_object().ok_or_else(expected)?,
        };
        for (topic, partitions) in topics {
            for (id, offset) in partitions.as_object().ok_or_else(expected)? {
                let id = id.parse().ok().filter(|id| *id >= 0).ok_or_else(expected)?;
                let offset = offset.as_i64().ok_or_else(expected)?;
                offsets.insert(Partition { topic: topic.clone(), id }, offset);
            }
        }
        Ok(Self(offsets))
    }

    /// See [`Offsets::parse`].
    pub(super) fn to_value(&self) -> Value {
        let mut topics = Map::new();
        for (Partition { topic, id }, offset) in &self.0 {
            let partitions = topics.entry(topic.as_str()).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(partitions) = partitions {
                partitions.insert(id.to_string(), Value::from(*offset));
            }
        }
        Value::Object(topics)
    }

    pub(super) fn get(&self, partition: &Partition) -> Option<i64> {
        self.0.get(partition).copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The offsets `from`, and up to and without `until`, of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) partition: Partition,
    pub(super) from: i64,
    pub(super) until: i64,
}

impl Range {
    /// How many offsets there are; as many messages at most.
    pub(super) fn len(&self) -> u64 {
        u64::try_from(self.until.saturating_sub(self.from)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use tidemill::serde_json::json;

    use super::*;

    #[test]
    fn offsets_are_written_as_spark_writes_them() {
        let value = json!({"b": {"0": 3}, "a": {"10": 1, "2": 7}});
        let offsets = Offsets::parse(&value).unwrap();
        assert_eq!(offsets.to_value().to_string(), "{\"a\":{\"2\":7,\"10\":1},\"b\":{\"0\":3}}");
        assert_eq!(Offsets::parse(&offsets.to_value()).unwrap(), offsets);
        assert!(Offsets::parse(&Value::Null).unwrap().is_empty());
        for bad in [
            json!(1),
            json!({"a": 1}),
            json!({"a": {"x": 1}}),
            json!({"a": {"0": "1"}}),
            json!({"a": {"-1": 0}}),
        ] {
            assert!(Offsets::parse(&bad).is_err(), "{bad}");
        }
    }
}
