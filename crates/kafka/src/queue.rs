//! Messages as the client has them, many at a time, and with the ends of partitions, which `rdkafka` tells of without
//! their topic.

use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings::{
    rd_kafka_consume_batch_queue, rd_kafka_consume_queue, rd_kafka_header_get_all, rd_kafka_headers_t,
    rd_kafka_message_destroy, rd_kafka_message_headers, rd_kafka_message_t, rd_kafka_message_timestamp,
    rd_kafka_queue_destroy, rd_kafka_queue_get_consumer, rd_kafka_queue_t, rd_kafka_queue_yield,
    rd_kafka_timestamp_type_t, rd_kafka_topic_name,
};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;

/// So many messages are taken at a time.
const AT_A_TIME: usize = 1024;

/// The queue that all partitions of a consumer are delivered to.
pub(super) struct Queue {
    queue: NonNull<rd_kafka_queue_t>,
    /// The queue is one of its.
    consumer: Arc<BaseConsumer>,
}

// SAFETY: librdkafka's queues may be used from any thread, and by several at once.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    /// The queue of `consumer`, which has a group (without one its queue is another), and is not polled otherwise.
    pub(super) fn new(consumer: Arc<BaseConsumer>) -> Option<Self> {
        // SAFETY: the consumer lives as long as the reference that the result keeps.
        let queue = unsafe { rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
        Some(Self { queue: NonNull::new(queue)?, consumer })
    }

    pub(super) fn consumer(&self) -> &BaseConsumer {
        &self.consumer
    }

    /// What has come, in order; waits for the first message up to `patience`.
    pub(super) fn take(&self, patience: Duration) -> Messages {
        let millis = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        let mut found: Vec<*mut rd_kafka_message_t> = Vec::new();
        // SAFETY: the queue is valid as long as `self`. What it gives is owned by `Messages`, which destroys it.
        unsafe {
            // Asking for many at once would wait until there are as many.
            let first = rd_kafka_consume_queue(self.queue.as_ptr(), millis);
            if !first.is_null() {
                found.reserve(AT_A_TIME);
                found.push(first);
                let room = found.spare_capacity_mut();
                let count = rd_kafka_consume_batch_queue(
                    self.queue.as_ptr(),
                    0,
                    room.as_mut_ptr().cast(),
                    room.len(),
                );
                // Never more than there was room for; -1 is an error, of which nothing else is known.
                found.set_len(1 + usize::try_from(count).unwrap_or(0));
            }
        }
        Messages { messages: found.into_iter().filter_map(NonNull::new).collect() }
    }

    /// Ends the waiting of [`Queue::take`].
    pub(super) fn wake(&self) {
        // SAFETY: the queue is valid as long as `self`.
        unsafe { rd_kafka_queue_yield(self.queue.as_ptr()) };
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: it was given to this owner, and nothing uses it any more.
        unsafe { rd_kafka_queue_destroy(self.queue.as_ptr()) };
    }
}

/// Messages that were taken.
pub(super) struct Messages {
    messages: VecDeque<NonNull<rd_kafka_message_t>>,
}

impl Messages {
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The next one.
    pub(super) fn next(&mut self) -> Option<Taken> {
        self.messages.pop_front().map(|message| Taken { message, _owned: PhantomData })
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        while self.next().is_some() {}
    }
}

/// A message, the end of a partition, or an error.
pub(super) struct Taken {
    message: NonNull<rd_kafka_message_t>,
    _owned: PhantomData<rd_kafka_message_t>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        // SAFETY: it is owned, and what was lent from it has ended.
        unsafe { rd_kafka_message_destroy(self.message.as_ptr()) };
    }
}

/// What a [`Taken`] is.
pub(super) enum Kind {
    /// A message.
    Message,
    /// There is nothing behind the offset, at the moment.
    End,
    /// The partition, or without a topic the client, has an error.
    Error(RDKafkaErrorCode),
}

impl Taken {
    fn raw(&self) -> &rd_kafka_message_t {
        // SAFETY: librdkafka's messages are aligned, and valid until they are destroyed.
        unsafe { self.message.as_ref() }
    }

    pub(super) fn kind(&self) -> Kind {
        match self.raw().err {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Kind::Message,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF => Kind::End,
            error => Kind::Error(error.into()),
        }
    }

    /// Something that is the same for messages of the same topic, while one of them is at hand.
    pub(super) fn topic_handle(&self) -> usize {
        self.raw().rkt as usize
    }

    /// The topic; `None` for an error of the client.
    pub(super) fn topic(&self) -> Option<&str> {
        let topic = self.raw().rkt;
        if topic.is_null() {
            return None;
        }
        // SAFETY: the name lives as long as the topic, which the message holds. Names of topics are ASCII.
        unsafe { CStr::from_ptr(rd_kafka_topic_name(topic)) }.to_str().ok()
    }

    pub(super) fn partition(&self) -> i32 {
        self.raw().partition
    }

    pub(super) fn offset(&self) -> i64 {
        self.raw().offset
    }

    pub(super) fn key(&self) -> Option<&[u8]> {
        // SAFETY: the message says where its key is and how long.
        unsafe { bytes(self.raw().key, self.raw().key_len) }
    }

    pub(super) fn value(&self) -> Option<&[u8]> {
        // SAFETY: the message says where its value is and how long.
        unsafe { bytes(self.raw().payload, self.raw().len) }
    }

    /// Milliseconds since the epoch, if there is a timestamp, and its type: 0 for the producer's, 1 for the
    /// broker's, -1 for none, as in Spark.
    pub(super) fn timestamp(&self) -> (Option<i64>, i32) {
        let mut kind = rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is valid.
        let millis = unsafe { rd_kafka_message_timestamp(self.message.as_ptr(), &mut kind) };
        match kind {
            rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_CREATE_TIME => (Some(millis), 0),
            rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME => (Some(millis), 1),
            _ => (None, -1),
        }
    }

    /// Calls `each` with the name and the value of every header.
    pub(super) fn headers(&self, mut each: impl FnMut(&CStr, Option<&[u8]>)) {
        let mut headers: *mut rd_kafka_headers_t = std::ptr::null_mut();
        // SAFETY: the headers belong to the message and live as long as it does.
        unsafe {
            if rd_kafka_message_headers(self.message.as_ptr(), &mut headers)
                != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
            {
                return;
            }
            for index in 0.. {
                let mut name: *const c_char = std::ptr::null();
                let mut value: *const c_void = std::ptr::null();
                let mut len = 0;
                let found = rd_kafka_header_get_all(headers, index, &mut name, &mut value, &mut len);
                if found != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
                    return;
                }
                each(CStr::from_ptr(name), bytes(value, len));
            }
        }
    }
}

/// The bytes at `start`; none if it is null, which is not the same as empty.
///
/// # Safety
/// `start` is null, or there are `len` bytes that live as long as `'a`.
unsafe fn bytes<'a>(start: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: as asked for above.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast(), len) })
}
