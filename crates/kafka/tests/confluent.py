"""Writes rows with Confluent's own serializer, or reads them: `write|read SERVERS REGISTRY TOPIC`."""

import datetime
import decimal
import sys

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

SCHEMA = """{"type": "record", "name": "row", "namespace": "t", "fields": [
  {"name": "id", "type": "long"},
  {"name": "small", "type": ["null", "int"]},
  {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
  {"name": "half", "type": "double"},
  {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
  {"name": "day", "type": ["null", {"type": "int", "logicalType": "date"}]},
  {"name": "name", "type": "string"},
  {"name": "raw", "type": "bytes"},
  {"name": "is_new", "type": "boolean"},
  {"name": "tags", "type": {"type": "array", "items": "string"}},
  {"name": "counts", "type": {"type": "map", "values": "long"}},
  {"name": "place", "type": ["null", {"type": "record", "name": "place", "fields": [
    {"name": "x", "type": "double"}, {"name": "label", "type": ["null", "string"]}]}]}
]}"""

what, servers, registry, topic = sys.argv[1:]
client = SchemaRegistryClient({"url": registry})
context = SerializationContext(topic, MessageField.VALUE)
utc = datetime.timezone.utc


def row(i):
    return {
        "id": i - 500 if i else -(2**63),
        "small": None if i % 3 == 0 else i,
        "price": decimal.Decimal(i - 50).scaleb(-2),
        "half": i / 2,
        "at": datetime.datetime(2024, 2, 29, 12, 0, 0, i, tzinfo=utc),
        "day": None if i % 5 == 0 else datetime.date(1969, 12, 31) + datetime.timedelta(i),
        "name": "ä" * (i % 4),
        "raw": bytes([i % 256, 0, 255]),
        "is_new": i % 2 == 0,
        "tags": [str(n) for n in range(i % 3)],
        "counts": {"k": i},
        "place": None if i % 4 == 0 else {"x": i + 0.25, "label": None if i % 8 == 1 else "l"},
    }


if what == "write":
    serialize = AvroSerializer(client, SCHEMA)
    producer = Producer({"bootstrap.servers": servers})
    rows = [row(i) for i in range(1000)]
    for each in rows:
        producer.produce(topic, serialize(each, context), partition=0)
    producer.flush()
else:
    deserialize = AvroDeserializer(client)
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "check", "isolation.level": "read_committed"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    rows = []
    while len(rows) < 1000:
        message = consumer.poll(20)
        assert message is not None and not message.error(), message
        rows.append(deserialize(message.value(), context))
    assert consumer.poll(1) is None
for each in sorted(rows, key=lambda row: row["id"]):
    print(each)
