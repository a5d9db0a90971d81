//! How far a query is behind, in its progress and in Kafka's own tools.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tidemill::prelude::*;

use crate::support::{Broker, producer, send, session, table, until_now};

const PATIENCE: Duration = Duration::from_secs(20);

/// How far the consumer group is in each of two partitions, as Kafka has it.
fn committed(broker: &Broker, group: &str, topic: &str) -> [Option<i64>; 2] {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.servers()).set("group.id", group);
    let consumer: BaseConsumer = config.create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, 1);
    let committed = consumer.committed_offsets(list, PATIENCE).unwrap();
    [0, 1].map(|partition| match committed.find_partition(topic, partition).unwrap().offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_says_how_far_it_is_behind() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("lag", 2, &[]).await;
    let producer = producer(broker, None);
    send(&producer, &topic, 0, (0..30).map(|number| number.to_string()));
    send(&producer, &topic, 1, (0..10).map(|number| number.to_string()));
    let (session, checkpoint) = (session(), tempfile::tempdir().unwrap());
    let options =
        [("subscribe", topic.as_str()), ("maxOffsetsPerTrigger", "20"), ("groupIdPrefix", "watched")];
    let frame = table(&session, broker, &options).await.unwrap();
    let query = frame
        .write_stream()
        .foreach_batch(|rows, _| async move { rows.collect().await.map(|_| ()).map_err(Into::into) });
    let query = query.trigger(Trigger::AvailableNow);
    let query = query.option("checkpointLocation", checkpoint.path().display()).start(None).await.unwrap();
    query.await_termination().await.unwrap();
    let progress = query.recent_progress();
    let lags: Vec<[&str; 3]> = progress
        .iter()
        .map(|progress| &progress.sources[0].metrics)
        .map(|of| {
            ["minOffsetsBehindLatest", "maxOffsetsBehindLatest", "avgOffsetsBehindLatest"]
                .map(|it| of[it].as_str())
        })
        .collect();
    assert_eq!(lags, [["5", "15", "10.0"], ["0", "0", "0.0"]]);
    let source = &progress[0].sources[0];
    let offsets = |zero: u32, one: u32| format!("{{\"{topic}\":{{\"0\":{zero},\"1\":{one}}}}}");
    assert_eq!(source.end_offset.to_string(), offsets(15, 5), "as Spark writes it");
    assert_eq!(source.latest_offset.to_string(), offsets(30, 10));
    // Nobody waits for the group's offsets.
    let (group, began) = (format!("watched-{}", query.id()), Instant::now());
    while committed(broker, &group, &topic) != [Some(30), Some(10)] {
        assert!(began.elapsed() < PATIENCE, "{:?}", committed(broker, &group, &topic));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The checkpoint alone says where a query goes on.
#[tokio::test(flavor = "multi_thread")]
async fn offsets_of_the_group_are_never_read_and_may_be_left_out() {
    let Some(broker) = Broker::shared() else { return };
    let topic = broker.topic("lag-not", 2, &[]).await;
    let producer = producer(broker, None);
    let (session, group) = (session(), format!("group-{topic}"));
    send(&producer, &topic, 0, ["a".to_string()]);
    let frame = async |commits: &str| {
        let options =
            [("subscribe", topic.as_str()), ("kafka.group.id", &group), ("commitGroupOffsets", commits)];
        let frame = table(&session, broker, &options).await.unwrap();
        frame.select_exprs(&["arrow_cast(value, 'Utf8') AS v"]).unwrap()
    };
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert_eq!(until_now(frame("false").await, one.path().to_str().unwrap()).await.unwrap(), ["a"]);
    assert_eq!(committed(broker, &group, &topic), [None, None]);
    // Somebody else with this group was further.
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.servers()).set("group.id", &group);
    let consumer: BaseConsumer = config.create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, 0, Offset::Offset(1)).unwrap();
    consumer.commit(&list, rdkafka::consumer::CommitMode::Sync).unwrap();
    assert_eq!(until_now(frame("true").await, other.path().to_str().unwrap()).await.unwrap(), ["a"]);
}
