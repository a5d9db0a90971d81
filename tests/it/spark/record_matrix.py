#!/usr/bin/env python3
"""Asks Apache Spark which queries of matrix.json it accepts in which output mode; writes recorded_matrix.json.

    venv/bin/python tests/it/spark/record_matrix.py        (see record.py)

A cell is "ok", or begins with "refused" (before the query starts) or "failed" (in its first batch).
"""

import json
import shutil
import tempfile

from record import HERE, message, session

SCHEMA = "k STRING, v BIGINT, ts TIMESTAMP, l ARRAY<BIGINT>"
MODES = ["append", "update", "complete"]
ROWS = [{"k": "a", "v": 1, "ts": "2024-01-01T00:00:05Z", "l": [1, 2]}, {"k": "b", "v": 2, "ts": None, "l": None}]


def short(what: str, error: Exception) -> str:
    text = message(error).replace("[STREAMING_OUTPUT_MODE.UNSUPPORTED_OPERATION] ", "")
    text = text.replace(" This output mode is not supported for", " Not for")
    return f"{what}: {text}"[:130]


def cell(spark, sql: str, mode: str) -> str:
    checkpoint = tempfile.mkdtemp(prefix="record")
    query = None
    try:
        try:
            writer = spark.sql(sql).writeStream.format("noop").outputMode(mode)
            query = writer.option("checkpointLocation", checkpoint).trigger(availableNow=True).start()
        except Exception as error:
            return short("refused", error)
        try:
            query.awaitTermination()
            return "ok"
        except Exception as error:
            return short("failed", error)
    finally:
        if query:
            query.stop()
        shutil.rmtree(checkpoint, ignore_errors=True)


def main():
    spark = session()
    folder = tempfile.mkdtemp(prefix="record")
    with open(f"{folder}/rows.json", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in ROWS)
    for name, delay in [("s", "10 seconds"), ("s2", "10 seconds"), ("u", None)]:
        stream = spark.readStream.schema(SCHEMA).json(folder)
        if delay:
            stream = stream.withWatermark("ts", delay)
        stream.createOrReplaceTempView(name)
    spark.createDataFrame([("a", 1)], "k STRING, c BIGINT").createOrReplaceTempView("t")
    lines = []
    for entry in json.loads((HERE / "matrix.json").read_text())["queries"]:
        sql = entry.get("spark", entry["sql"])
        if sql is not None:
            cells = [cell(spark, sql, mode) for mode in MODES]
            lines.append(f'  {json.dumps(entry["sql"])}: {json.dumps(cells)}')
    text = ",\n".join(lines)
    (HERE / "recorded_matrix.json").write_text(f"{{\n{text}\n}}\n")
    shutil.rmtree(folder)
    spark.stop()


if __name__ == "__main__":
    main()
