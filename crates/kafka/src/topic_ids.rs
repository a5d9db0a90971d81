//! Asks brokers for the ids of topics, which tell a topic from another one that has its name later; `rdkafka` does not
//! hand that question on.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString, c_char};
use std::ptr::{self, NonNull};
use std::slice;
use std::time::Duration;

use rdkafka::bindings::{
    rd_kafka_AdminOptions_destroy, rd_kafka_AdminOptions_new, rd_kafka_AdminOptions_set_request_timeout,
    rd_kafka_AdminOptions_t, rd_kafka_DescribeTopics, rd_kafka_DescribeTopics_result_topics,
    rd_kafka_TopicCollection_destroy, rd_kafka_TopicCollection_of_topic_names, rd_kafka_TopicCollection_t,
    rd_kafka_TopicDescription_error, rd_kafka_TopicDescription_name, rd_kafka_TopicDescription_t,
    rd_kafka_TopicDescription_topic_id, rd_kafka_Uuid_least_significant_bits,
    rd_kafka_Uuid_most_significant_bits, rd_kafka_admin_op_t, rd_kafka_error_code,
    rd_kafka_event_DescribeTopics_result, rd_kafka_event_destroy, rd_kafka_event_error, rd_kafka_event_t,
    rd_kafka_queue_destroy, rd_kafka_queue_new, rd_kafka_queue_poll, rd_kafka_queue_t, rd_kafka_t,
};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use tidemill::uuid::Uuid;

/// The ids of topics, by their names.
pub(super) type TopicIds = BTreeMap<String, String>;

/// The ids of those of `topics` that there are. None at all if brokers give topics no ids, as before Kafka 2.8.
///
/// # Safety
/// `client` is a client of librdkafka's that lives as long as the call takes.
pub(super) unsafe fn topic_ids(
    client: *mut rd_kafka_t,
    topics: &BTreeSet<String>,
    patience: Duration,
) -> Result<TopicIds, KafkaError> {
    let names: Result<Vec<CString>, _> = topics.iter().map(|topic| CString::new(topic.as_str())).collect();
    let names = names.map_err(KafkaError::Nul)?;
    let mut names: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let failed = |what: &str| KafkaError::AdminOpCreation(what.to_string());
    // SAFETY: the client is valid, and so is everything that is made of it; names are copied.
    let event = unsafe {
        let topics = rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let topics = Owned::new(topics, rd_kafka_TopicCollection_destroy);
        let operation = rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = Owned::new(rd_kafka_AdminOptions_new(client, operation), rd_kafka_AdminOptions_destroy);
        let queue = Owned::new(rd_kafka_queue_new(client), rd_kafka_queue_destroy);
        let (Some(topics), Some(options), Some(queue)) = (topics, options, queue) else {
            return Err(failed("the client has no memory for a question about topics"));
        };
        ask(client, &topics, &options, &queue, patience)
    };
    let Some(event) = event else {
        return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut));
    };
    // SAFETY: the event is the answer to that question, and what is lent from it ends before it does.
    unsafe {
        match rd_kafka_event_error(event.0.as_ptr()) {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {}
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE => return Ok(TopicIds::new()),
            error => return Err(KafkaError::MetadataFetch(error.into())),
        }
        let result = rd_kafka_event_DescribeTopics_result(event.0.as_ptr());
        if result.is_null() {
            return Err(failed("the answer to a question about topics is another one"));
        }
        let mut count = 0;
        let found = rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if found.is_null() {
            return Ok(TopicIds::new());
        }
        Ok(slice::from_raw_parts(found, count).iter().filter_map(|topic| name_and_id(*topic)).collect())
    }
}

/// Asks for the topics, and waits for the answer; `None` if none comes.
///
/// # Safety
/// Everything is valid, and made of `client`.
unsafe fn ask(
    client: *mut rd_kafka_t,
    topics: &Owned<rd_kafka_TopicCollection_t>,
    options: &Owned<rd_kafka_AdminOptions_t>,
    queue: &Owned<rd_kafka_queue_t>,
    patience: Duration,
) -> Option<Owned<rd_kafka_event_t>> {
    let millis = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: as asked for above. Without a place for it, an error is not described.
    unsafe {
        rd_kafka_AdminOptions_set_request_timeout(options.0.as_ptr(), millis, ptr::null_mut(), 0);
        rd_kafka_DescribeTopics(client, topics.0.as_ptr(), options.0.as_ptr(), queue.0.as_ptr());
        // The answer says that it took too long, if it did.
        let event = rd_kafka_queue_poll(queue.0.as_ptr(), millis.saturating_add(1000));
        Owned::new(event, rd_kafka_event_destroy)
    }
}

/// What a topic is called, and its id; `None` if it does not exist, or has none.
///
/// # Safety
/// `topic` is of an answer that lives.
unsafe fn name_and_id(topic: *const rd_kafka_TopicDescription_t) -> Option<(String, String)> {
    // SAFETY: as asked for above; what it has lives as long. Names of topics are ASCII.
    unsafe {
        if rd_kafka_error_code(rd_kafka_TopicDescription_error(topic))
            != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            return None;
        }
        let (name, id) = (rd_kafka_TopicDescription_name(topic), rd_kafka_TopicDescription_topic_id(topic));
        if name.is_null() || id.is_null() {
            return None;
        }
        let most = rd_kafka_Uuid_most_significant_bits(id).cast_unsigned();
        let least = rd_kafka_Uuid_least_significant_bits(id).cast_unsigned();
        let id = Uuid::from_u64_pair(most, least);
        let name = CStr::from_ptr(name).to_str().ok()?;
        (!id.is_nil()).then(|| (name.to_string(), id.to_string()))
    }
}

/// Something of librdkafka's that is to be destroyed.
struct Owned<T>(NonNull<T>, unsafe extern "C" fn(*mut T));

impl<T> Owned<T> {
    fn new(pointer: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Option<Self> {
        NonNull::new(pointer).map(|pointer| Self(pointer, destroy))
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: it was given to this owner, with what destroys it, and nothing uses it any more.
        unsafe { (self.1)(self.0.as_ptr()) }
    }
}
