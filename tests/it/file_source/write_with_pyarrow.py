"""Writes Parquet and Arrow files of random columns with pyarrow, and what pyarrow reads of them.

Usage: write_with_pyarrow.py DIRECTORY COUNT

FILE.parquet or FILE.arrow has the columns; FILE.rows is a JSON array of its rows as Tidemill's tests print them, sorted.
"""

import datetime
import decimal
import json
import os
import random
import sys

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

random = random.Random(7)
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
FLAT = [
    pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(),
    pa.float16(), pa.float32(), pa.float64(), pa.bool_(),
    pa.string(), pa.large_string(), pa.binary(), pa.binary(4), pa.dictionary(pa.int32(), pa.string()),
    pa.decimal128(5, 2), pa.decimal128(18, 4), pa.decimal128(38, 10), pa.decimal256(50, 7),
    pa.date32(), pa.time32("ms"), pa.time64("us"), pa.time64("ns"),
    pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("ns"),
    pa.timestamp("us", "UTC"), pa.timestamp("ms", "+05:30"),
]


def a_type(depth=0):
    if depth == 2 or random.random() > 0.3:
        # Below a null struct, a dictionary may be shorter than its indices say.
        return random.choice([kind for kind in FLAT if depth == 0 or not pa.types.is_dictionary(kind)])
    kind = random.choice(["list", "large list", "struct", "map"])
    if kind == "struct":
        fields = range(random.randint(1, 3))
        return pa.struct([pa.field(f"f{i}", a_type(depth + 1), random.random() < 0.7) for i in fields])
    inner = a_type(depth + 1)
    return pa.map_(pa.string(), inner) if kind == "map" else pa.large_list(inner) if kind == "large list" else pa.list_(inner)


def a_value(kind, nullable=True):
    if nullable and random.random() < 0.2:
        return None
    is_ = pa.types
    if is_.is_dictionary(kind):
        return random.choice(["a", "bb", ""])
    if is_.is_integer(kind):
        width = kind.bit_width
        low, high = (-(1 << width - 1), (1 << width - 1) - 1) if is_.is_signed_integer(kind) else (0, (1 << width) - 1)
        return random.choice([low, high, 0, 1, random.randint(low, high)])
    if is_.is_floating(kind):
        return random.choice([0.0, -0.0, 1.5, -2.25, float("inf"), float("-inf"), float("nan")])
    if is_.is_boolean(kind):
        return random.random() < 0.5
    if is_.is_string(kind) or is_.is_large_string(kind):
        return random.choice(["", "a", "ä€😀", "null", '"q"\n,', "x" * random.randint(0, 40)])
    if is_.is_fixed_size_binary(kind) or is_.is_binary(kind):
        length = kind.byte_width if is_.is_fixed_size_binary(kind) else random.randint(0, 5)
        return bytes(random.randrange(256) for _ in range(length))
    if is_.is_decimal(kind):
        most = 10**kind.precision - 1
        unscaled = random.choice([0, most, -most, 5, -5, random.randint(-most, most)])
        with decimal.localcontext() as context:
            context.prec = 90
            return decimal.Decimal(unscaled).scaleb(-kind.scale)
    if is_.is_date(kind):
        return random.choice([datetime.date(1970, 1, 1), datetime.date(1, 1, 1), datetime.date(9999, 12, 31)])
    if is_.is_time(kind):
        most = 86400 * PER_SECOND[kind.unit] - 1
        return random.choice([0, most, random.randint(0, most)])
    if is_.is_timestamp(kind):
        unit = PER_SECOND[kind.unit]
        # What nanoseconds reach, or the years with four digits.
        low, high = (-9223372036, 9223372035) if kind.unit == "ns" else (-62135510400, 253402214400)
        return random.choice([0, -1, low * unit, high * unit + unit - 1, random.randint(low * unit, high * unit)])
    if is_.is_struct(kind):
        return {field.name: a_value(field.type, field.nullable) for field in kind}
    if is_.is_map(kind):
        return [(key, a_value(kind.item_type)) for key in random.sample(["k", "l", "", "ü"], random.randint(0, 3))]
    return [a_value(kind.value_type) for _ in range(random.randint(0, 3))]


def clock(count, unit):
    """The seconds, and the fraction as digits in threes."""
    seconds, rest = divmod(count, PER_SECOND[unit])
    nanos = rest * (10**9 // PER_SECOND[unit])
    digits = f"{nanos:09}"
    while digits.endswith("000"):
        digits = digits[:-3]
    return seconds, f".{digits}" if digits else ""


def texts(column):
    """The values of an array as texts, however deep they are."""
    kind, is_ = column.type, pa.types
    present = column.is_valid().to_pylist()
    if is_.is_struct(kind):
        parts = [(field.name, texts(column.field(i))) for i, field in enumerate(kind)]
        found = ["{" + ", ".join(f"{name}: {part[row]}" for name, part in parts) + "}" for row in range(len(column))]
    elif is_.is_map(kind):
        pairs = [f"{key}: {value}" for key, value in zip(texts(column.keys), texts(column.items))]
        ends = column.offsets.to_pylist()
        found = ["{" + ", ".join(pairs[start:end]) + "}" for start, end in zip(ends, ends[1:])]
    elif is_.is_list(kind) or is_.is_large_list(kind):
        items, ends = texts(column.values), column.offsets.to_pylist()
        found = ["[" + ", ".join(items[start:end]) + "]" for start, end in zip(ends, ends[1:])]
    elif is_.is_timestamp(kind):
        shift, zone = {None: (0, ""), "UTC": (0, "Z"), "+05:30": (19800, "+05:30")}[kind.tz]
        found = []
        for count in column.cast(pa.int64()).fill_null(0).to_pylist():
            seconds, fraction = clock(count, kind.unit)
            time = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds + shift)
            found.append(time.isoformat() + fraction + zone)
    elif is_.is_time(kind):
        number = pa.int32() if is_.is_time32(kind) else pa.int64()
        found = []
        for count in column.cast(number).fill_null(0).to_pylist():
            seconds, fraction = clock(count, kind.unit)
            found.append(f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{fraction}")
    else:
        found = [plain(value, kind) for value in column.to_pylist()]
    return [text if there else "-" for text, there in zip(found, present)]


def plain(value, kind):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, decimal.Decimal):
        return f"{value:.{kind.scale}f}"
    if value is not None and pa.types.is_float16(kind) and float(value).is_integer():
        # Half floats are printed without a point.
        return f"{float(value):.0f}"
    if value is not None and pa.types.is_floating(kind):
        return "NaN" if value != value else str(float(value))
    return str(value)


def write(table, path):
    if path.endswith(".arrow"):
        options = pa.ipc.IpcWriteOptions(compression=random.choice([None, "lz4", "zstd"]))
        new = random.choice([pa.ipc.new_file, pa.ipc.new_stream])
        with new(path, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=random.choice([1, 7, 1000]))
        return table
    pa.parquet.write_table(
        table,
        path,
        row_group_size=random.choice([1, 7, 1000]),
        version=random.choice(["1.0", "2.4", "2.6"]),
        data_page_version=random.choice(["1.0", "2.0"]),
        use_dictionary=random.random() < 0.5,
        compression=random.choice(["none", "snappy", "gzip", "zstd", "lz4", "brotli"]),
        store_schema=random.random() < 0.6,
        use_compliant_nested_type=random.random() < 0.7,
    )
    return pa.parquet.read_table(path)


def main():
    directory, count = sys.argv[1], int(sys.argv[2])
    number = 0
    while number < count:
        fields = [pa.field(f"c{i}", a_type()) for i in range(random.randint(2, 8))]
        rows = random.choice([1, 3, 30, 100])
        columns = [pa.array([a_value(field.type) for _ in range(rows)], field.type) for field in fields]
        path = os.path.join(directory, f"{number:05}.{random.choice(['parquet', 'parquet', 'arrow'])}")
        try:
            table = write(pa.Table.from_arrays(columns, schema=pa.schema(fields)), path)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            # Parquet has not every type in every version.
            if os.path.exists(path):
                os.remove(path)
            continue
        chunks = [column.combine_chunks() for column in table.columns]
        chunks = [chunk.chunk(0) if isinstance(chunk, pa.ChunkedArray) else chunk for chunk in chunks]
        lines = sorted("|".join(row) for row in zip(*map(texts, chunks)))
        with open(path + ".rows", "w") as out:
            json.dump(lines, out)
        number += 1


if __name__ == "__main__":
    main()
