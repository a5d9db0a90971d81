//! Whether topics are still those that the query reads. One that was deleted and created again has the same name and
//! other messages, at offsets that may well go on where the query is.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tidemill::serde_json;
use tidemill::serde_json::value::RawValue;
use tidemill::{Error, Result};

use super::offsets::Offsets;
use super::topic_ids::TopicIds;

/// Why messages are lost.
pub(super) const RECREATED: &str = "the topic was deleted and created again";

/// What a checkpoint has of a batch, beside its offsets: where partitions begin that no batch had before, as Spark
/// writes offsets, and the ids of topics that no batch had before, `{"topic":"id"}`.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    pub(super) begins: Offsets,
    pub(super) ids: TopicIds,
}

impl Remembered {
    /// The newest of each topic.
    pub(super) fn parse(entries: &[Box<RawValue>]) -> Result<Self, String> {
        let mut remembered = Self::default();
        for entry in entries {
            if let Ok(ids) = serde_json::from_str::<TopicIds>(entry.get()) {
                remembered.ids.extend(ids);
                continue;
            }
            let begins = serde_json::from_str(entry.get()).map_err(|error| error.to_string())?;
            remembered.begins.0.extend(Offsets::parse(&begins)?.0);
        }
        Ok(remembered)
    }

    /// See [`Remembered::parse`].
    pub(super) fn to_entries(&self) -> Result<Vec<Box<RawValue>>> {
        let begins = (!self.begins.is_empty()).then(|| self.begins.to_value().to_string());
        let ids = (!self.ids.is_empty()).then(|| serde_json::to_string(&self.ids)).transpose();
        let texts = begins.into_iter().chain(ids.map_err(Error::other)?);
        texts.map(|text| RawValue::from_string(text).map_err(Error::other)).collect()
    }
}

/// What the topics are of which the query reads, and what they were when Kafka was asked last.
#[derive(Debug, Default)]
pub(super) struct Identity {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What the batches so far are of.
    read: TopicIds,
    /// Those of them that no checkpoint has yet.
    unrecorded: BTreeSet<String>,
    /// What Kafka said.
    there: TopicIds,
    /// When it was asked.
    asked: Option<Instant>,
    /// When the last message came that was read.
    received: Option<Instant>,
}

impl Identity {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on from what the checkpoint says.
    pub(super) fn resume(&self, read: TopicIds) {
        *self.state() = State { read, ..State::default() };
    }

    /// The topics of which an id is known.
    pub(super) fn topics(&self) -> BTreeSet<String> {
        self.state().read.keys().cloned().collect()
    }

    /// Takes in the answer to a question that was asked at `asked`. A topic that it does not have is left as it was: if
    /// it is gone, so are its partitions.
    pub(super) fn answer(&self, asked: Instant, ids: TopicIds) {
        let mut state = self.state();
        for (topic, id) in &ids {
            if !state.read.contains_key(topic) {
                state.read.insert(topic.clone(), id.clone());
                state.unrecorded.insert(topic.clone());
            }
        }
        state.there.extend(ids);
        state.asked = state.asked.max(Some(asked));
    }

    /// Those of which the query has read another one.
    pub(super) fn recreated(&self) -> BTreeSet<String> {
        let state = self.state();
        let is_other =
            |(topic, id): &(&String, &String)| state.there.get(*topic).is_some_and(|now| now != *id);
        state.read.iter().filter(is_other).map(|(topic, _)| topic.clone()).collect()
    }

    /// From here on the query reads the topic that there is now.
    pub(super) fn accept(&self, topic: &str) {
        let mut state = self.state();
        if let Some(id) = state.there.get(topic).cloned() {
            state.read.insert(topic.to_string(), id);
            state.unrecorded.insert(topic.to_string());
        }
    }

    /// The query does not read the topic any more.
    pub(super) fn forget(&self, topic: &str) {
        let mut state = self.state();
        state.read.remove(topic);
        state.there.remove(topic);
        state.unrecorded.remove(topic);
    }

    /// What the next batch is to record.
    pub(super) fn take_unrecorded(&self) -> TopicIds {
        let mut state = self.state();
        let topics = std::mem::take(&mut state.unrecorded);
        topics.into_iter().filter_map(|topic| state.read.get_key_value(&topic)).map(owned).collect()
    }

    /// Messages are read that came at `received`.
    pub(super) fn read(&self, received: Instant) {
        let mut state = self.state();
        state.received = state.received.max(Some(received));
    }

    /// Whether Kafka was asked in this run.
    pub(super) fn was_asked(&self) -> bool {
        self.state().asked.is_some()
    }

    /// Whether Kafka was asked after the last message came that was read: ids do not come again, so if a topic had its
    /// id then, all that came before are messages of it.
    pub(super) fn is_certain(&self) -> bool {
        let state = self.state();
        state.received.is_none_or(|received| state.asked.is_some_and(|asked| asked > received))
    }
}

fn owned((topic, id): (&String, &String)) -> (String, String) {
    (topic.clone(), id.clone())
}

#[cfg(test)]
mod tests {
    use super::super::offsets::Partition;
    use super::*;

    fn ids(pairs: &[(&str, &str)]) -> TopicIds {
        pairs.iter().map(|(topic, id)| (topic.to_string(), id.to_string())).collect()
    }

    #[test]
    fn what_is_remembered_comes_back() {
        let mut begins = Offsets::default();
        begins.0.insert(Partition { topic: "t".into(), id: 0 }, 7);
        let remembered = Remembered { begins, ids: ids(&[("t", "one")]) };
        let entries = remembered.to_entries().unwrap();
        let texts: Vec<&str> = entries.iter().map(|entry| entry.get()).collect();
        assert_eq!(texts, [r#"{"t":{"0":7}}"#, r#"{"t":"one"}"#]);
        let later = Remembered { ids: ids(&[("t", "two"), ("u", "x")]), ..Remembered::default() };
        let all: Vec<_> = entries.into_iter().chain(later.to_entries().unwrap()).collect();
        let found = Remembered::parse(&all).unwrap();
        assert_eq!((found.begins, found.ids), (remembered.begins, ids(&[("t", "two"), ("u", "x")])));
        assert!(Remembered::default().to_entries().unwrap().is_empty());
        assert!(Remembered::parse(&[RawValue::from_string("[1]".into()).unwrap()]).is_err());
    }

    #[test]
    fn a_topic_that_has_another_id_is_found() {
        let identity = Identity::default();
        identity.resume(ids(&[("t", "one"), ("u", "x")]));
        assert!(identity.is_certain() && !identity.was_asked(), "nothing was read");
        let before = Instant::now();
        identity.read(before);
        assert!(!identity.is_certain());
        identity.answer(before, ids(&[("t", "one")]));
        assert!(!identity.is_certain(), "it came when Kafka was asked, and may be of later");
        identity.answer(Instant::now(), ids(&[("t", "two"), ("v", "y")]));
        assert!(identity.is_certain());
        assert_eq!(identity.recreated(), BTreeSet::from(["t".to_string()]));
        identity.accept("t");
        assert!(identity.recreated().is_empty());
        assert_eq!(identity.take_unrecorded(), ids(&[("t", "two"), ("v", "y")]));
        assert!(identity.take_unrecorded().is_empty());
        // A topic that was given up and comes again is a new one.
        identity.forget("t");
        identity.answer(Instant::now(), ids(&[("t", "three")]));
        assert!(identity.recreated().is_empty());
        assert_eq!(identity.take_unrecorded(), ids(&[("t", "three")]));
    }
}
