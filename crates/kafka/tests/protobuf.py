"""Describes a message in the file DESCRIPTORS, and writes some with Confluent's own serializer:
`write SERVERS REGISTRY TOPIC DESCRIPTORS`; or reads 300 without a frame: `read SERVERS REGISTRY TOPIC DESCRIPTORS`.
Prints what they have, as the test prints rows."""

import datetime
import sys

from confluent_kafka import Consumer, Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, timestamp_pb2, wrappers_pb2

FILE = """
name: "row.proto" package: "t" syntax: "proto3"
dependency: "google/protobuf/timestamp.proto" dependency: "google/protobuf/wrappers.proto"
enum_type { name: "Mood" value { name: "UP" number: 0 } value { name: "DOWN" number: 3 } }
message_type { name: "Other" field { name: "x" number: 1 type: TYPE_INT32 label: LABEL_OPTIONAL } }
message_type {
  name: "Row"
  field { name: "i32" number: 1 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "i64" number: 2 type: TYPE_INT64 label: LABEL_OPTIONAL }
  field { name: "u32" number: 3 type: TYPE_UINT32 label: LABEL_OPTIONAL }
  field { name: "u64" number: 4 type: TYPE_UINT64 label: LABEL_OPTIONAL }
  field { name: "s32" number: 5 type: TYPE_SINT32 label: LABEL_OPTIONAL }
  field { name: "s64" number: 6 type: TYPE_SINT64 label: LABEL_OPTIONAL }
  field { name: "f32" number: 7 type: TYPE_FIXED32 label: LABEL_OPTIONAL }
  field { name: "sf64" number: 8 type: TYPE_SFIXED64 label: LABEL_OPTIONAL }
  field { name: "d" number: 9 type: TYPE_DOUBLE label: LABEL_OPTIONAL }
  field { name: "f" number: 10 type: TYPE_FLOAT label: LABEL_OPTIONAL }
  field { name: "b" number: 11 type: TYPE_BOOL label: LABEL_OPTIONAL }
  field { name: "s" number: 12 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "raw" number: 13 type: TYPE_BYTES label: LABEL_OPTIONAL }
  field { name: "mood" number: 14 type: TYPE_ENUM label: LABEL_OPTIONAL type_name: ".t.Mood" }
  field { name: "packed" number: 15 type: TYPE_SINT64 label: LABEL_REPEATED }
  field { name: "names" number: 16 type: TYPE_STRING label: LABEL_REPEATED }
  field { name: "inner" number: 17 type: TYPE_MESSAGE label: LABEL_OPTIONAL type_name: ".t.Row.Inner" }
  field { name: "inners" number: 18 type: TYPE_MESSAGE label: LABEL_REPEATED type_name: ".t.Row.Inner" }
  field { name: "counts" number: 19 type: TYPE_MESSAGE label: LABEL_REPEATED type_name: ".t.Row.CountsEntry" }
  field { name: "maybe" number: 20 type: TYPE_INT32 label: LABEL_OPTIONAL proto3_optional: true oneof_index: 0 }
  field { name: "at" number: 21 type: TYPE_MESSAGE label: LABEL_OPTIONAL type_name: ".google.protobuf.Timestamp" }
  field { name: "w" number: 22 type: TYPE_MESSAGE label: LABEL_OPTIONAL type_name: ".google.protobuf.Int64Value" }
  field { name: "last" number: 200 type: TYPE_INT32 label: LABEL_OPTIONAL }
  nested_type { name: "Inner" field { name: "x" number: 1 type: TYPE_DOUBLE label: LABEL_OPTIONAL } }
  nested_type { name: "CountsEntry" options { map_entry: true }
    field { name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
    field { name: "value" number: 2 type: TYPE_INT64 label: LABEL_OPTIONAL } }
  oneof_decl { name: "_maybe" }
}
"""

what, servers, registry, topic, path = sys.argv[1:]
files = [descriptor_pb2.FileDescriptorProto() for _ in range(3)]
timestamp_pb2.DESCRIPTOR.CopyToProto(files[0])
wrappers_pb2.DESCRIPTOR.CopyToProto(files[1])
text_format.Parse(FILE, files[2])
with open(path, "wb") as to:
    to.write(descriptor_pb2.FileDescriptorSet(file=files).SerializeToString())
pool = descriptor_pool.Default()
pool.Add(files[2])
Row = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Row"))

def text(value):
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return "[" + ", ".join(map(text, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {text(v)}" for k, v in value.items()) + "}"
    return str(value)


def show(row):
    has = row.HasField
    mood = {0: "UP", 3: "DOWN"}.get(row.mood, str(row.mood))
    columns = [row.i32, row.i64, row.u32, row.u64, row.s32, row.s64, row.f32, row.sf64, row.d, row.f, row.b, row.s]
    columns += [row.raw, mood, list(row.packed), list(row.names), {"x": row.inner.x} if has("inner") else None]
    columns += [[{"x": inner.x} for inner in row.inners], dict(row.counts), row.maybe if has("maybe") else None]
    columns += ["1969-12-31T23:59:59.250" if has("at") else None, row.w.value if has("w") else None, row.last]
    assert not has("at") or (row.at.seconds, row.at.nanos) == (-1, 250000000)
    print("|".join(map(text, columns)))


if what == "read":
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "read", "auto.offset.reset": "earliest", "isolation.level": "read_committed"}
    )
    consumer.subscribe([topic])
    for _ in range(300):
        show(Row.FromString(consumer.poll(30).value()))
    consumer.close()
    sys.exit()

serialize = ProtobufSerializer(Row, SchemaRegistryClient({"url": registry}), {"use.deprecated.format": False})
context = SerializationContext(topic, MessageField.VALUE)
producer = Producer({"bootstrap.servers": servers})

for i in range(300):
    row = Row(last=i)
    if i % 7:
        row.i32, row.i64, row.u32, row.u64 = -i, -(2**63) + i, 2**32 - 1 - i, 2**64 - 1 - i
        row.s32, row.s64, row.f32, row.sf64 = -(2**31) + i, 2**63 - 1 - i, i, -i
        row.d, row.f, row.b, row.s, row.raw = i + 0.25, -i - 0.5, i % 2 == 0, "ä" * (i % 90), bytes([i % 256]) * (i % 5)
        row.mood = 3 if i % 3 else 9
    row.packed.extend(range(-i, i, 50))
    row.names.extend(str(n) for n in range(i % 4))
    if i % 2:
        row.inner.x = i / 4
    for n in range(i % 3):
        row.inners.add(x=n + 0.5)
    if i % 5:
        row.counts["k"] = i
    if i % 11:
        row.maybe = i % 2
    if i % 13:
        row.at.FromDatetime(datetime.datetime(1969, 12, 31, 23, 59, 59, 250000))
        row.w.value = i % 4
    producer.produce(topic, serialize(row, context), partition=0)
    show(row)
producer.flush()
