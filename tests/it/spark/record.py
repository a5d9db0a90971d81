#!/usr/bin/env python3
"""Runs the queries of cases.json on Apache Spark and records what it does, batch by batch, in recorded.json.

    python3 -m venv venv && venv/bin/pip install pyspark==4.3.0        (needs Java 17)
    venv/bin/python tests/it/spark/record.py [name ...]

With names, only those cases are run again; what is recorded of the others stays. The tests in this folder replay the
recording, and need neither Python nor Java.

Every step of a case adds one file to each stream that it names, and waits until the query has nothing left to do. Times
are seconds since 1970. A batch is recorded with the rows it gave, the watermark it used, what its stateful operators
counted, and whether it had new input.
"""

import datetime
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time

os.environ["TZ"] = "UTC"
time.tzset()

from pyspark.sql import DataFrame, Row, SparkSession  # noqa: E402

HERE = pathlib.Path(__file__).parent
EPOCH = datetime.datetime(1970, 1, 1)
SCHEMA = "k STRING, v BIGINT, ts TIMESTAMP"
TABLE = [("a", 10), ("b", 20), ("b", 21), ("x", 90)]


def session() -> SparkSession:
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.streaming.pollingDelay": "100ms",
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.session.timeZone": "UTC",
        # Of a few rows at a time, compiling takes longer than anything else.
        "spark.sql.codegen.wholeStage": "false",
        "spark.driver.memory": "1g",
        "spark.driver.extraJavaOptions": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
    }
    builder = SparkSession.builder.master("local[1]").appName("record")
    for key, value in settings.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("OFF")
    return spark


def seconds(when: datetime.datetime) -> float | int:
    micros = (when - EPOCH) // datetime.timedelta(microseconds=1)
    return micros // 1_000_000 if micros % 1_000_000 == 0 else micros / 1_000_000


def plain(value):
    """A value as JSON: times are seconds, structs and lists are lists."""
    if isinstance(value, datetime.datetime):
        return seconds(value)
    if isinstance(value, (Row, list, tuple)):
        return [plain(part) for part in value]
    return value


class Unlucky(Exception):
    """The files of one step came into two batches."""


class Run:
    """One case, from its first start to its end."""

    def __init__(self, spark: SparkSession, case: dict):
        self.spark, self.case = spark, case
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="record"))
        self.given: dict[int, list] = {}
        self.files = 0
        self.query = None
        (self.folder / "new").mkdir()
        for stream in case["streams"]:
            (self.folder / stream).mkdir()

    def frame(self) -> DataFrame:
        spark = self.spark
        spark.createDataFrame(TABLE, "k STRING, c BIGINT").createOrReplaceTempView("t")
        for name, delay in self.case["streams"].items():
            reader = spark.readStream.schema(SCHEMA).option("maxFilesPerTrigger", 1)
            stream = reader.json(str(self.folder / name))
            if delay is not None:
                stream = stream.withWatermark("ts", delay)
            stream.createOrReplaceTempView(name)
        for name, view in sorted(self.case.get("views", {}).items()):
            if "sql" in view:
                frame = spark.sql(view["sql"])
            elif "drop_duplicates" in view:
                frame = spark.table(view["of"]).dropDuplicates(view["drop_duplicates"])
            else:
                frame = spark.table(view["of"]).dropDuplicatesWithinWatermark(view["within_watermark"])
            frame.createOrReplaceTempView(name)
        return spark.sql(self.case.get("spark") or self.case["sql"])

    def start(self, **trigger):
        def take(frame: DataFrame, batch: int):
            self.given[batch] = [plain(row) for row in frame.collect()]

        policy = self.case.get("policy", "min")
        self.spark.conf.set("spark.sql.streaming.multipleWatermarkPolicy", policy)
        writer = self.frame().writeStream.outputMode(self.case["mode"]).foreachBatch(take)
        writer = writer.option("checkpointLocation", str(self.folder / "checkpoint"))
        if trigger:
            writer = writer.trigger(**trigger)
        self.query = writer.start()

    def add(self, streams: dict):
        self.files += 1
        moves = []
        for stream, rows in streams.items():
            new = self.folder / "new" / f"{stream}{self.files}"
            lines = []
            for k, v, ts in rows:
                when = None if ts is None else (EPOCH + datetime.timedelta(seconds=ts)).isoformat() + "Z"
                lines.append(json.dumps({"k": k, "v": v, "ts": when}) + "\n")
            new.write_text("".join(lines))
            moves.append((new, self.folder / stream / f"{self.files:03}.json"))
        for new, place in moves:
            new.rename(place)

    def step(self, step) -> list:
        known = len(self.given)
        if step == "restart":
            self.query.stop()
            self.start()
            self.query.processAllAvailable()
        elif "trigger" in step:
            self.query.stop()
            self.add(step["add"])
            self.start(**{step["trigger"]: True})
            self.query.awaitTermination()
        else:
            if not self.query.isActive:
                self.start()
            self.add(step)
            self.query.processAllAvailable()
        batches = [self.batch(number) for number in range(known, len(self.given))]
        if sum(batch["input"] for batch in batches) > 1:
            raise Unlucky
        return batches

    def batch(self, number: int) -> dict:
        def of(progress):
            return progress["batchId"] == number and "addBatch" in progress["durationMs"]

        progress = None
        while progress is None:
            found = [json.loads(progress.json) for progress in self.query.recentProgress]
            progress = next((progress for progress in found if of(progress)), None)
        rows = self.given[number]
        if not self.case.get("ordered"):
            rows = sorted(rows, key=json.dumps)
        moved = any(source["startOffset"] != source["endOffset"] for source in progress["sources"])
        batch = {"input": moved, "rows": rows}
        watermark = progress.get("eventTime", {}).get("watermark")
        if watermark is not None:
            batch["watermark"] = seconds(datetime.datetime.fromisoformat(watermark.rstrip("Z")))
        operators = progress["stateOperators"]
        if operators:
            batch["late"] = sum(operator["numRowsDroppedByWatermark"] for operator in operators)
            batch["state"] = sum(operator["numRowsTotal"] for operator in operators)
        return batch

    def record(self) -> dict:
        try:
            self.start()
            self.query.processAllAvailable()
        except Exception as error:
            return {"refused": message(error)}
        recorded = []
        try:
            for step in self.case["steps"]:
                recorded.append(self.step(step))
        except Unlucky:
            raise
        except Exception as error:
            return {"steps": recorded, "failed": message(error)}
        return {"steps": recorded}

    def end(self):
        for query in self.spark.streams.active:
            query.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def message(error: Exception) -> str:
    """The first line, or that of the innermost cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith(("Caused by: ", "py4j.protocol.Py4JJavaError: "))]
    first = [line for line in lines if "Exception: " in line or "Error: " in line]
    text = (causes[-1:] or first[-1:] or lines[:1] or [repr(error)])[0]
    return re.sub(r"Query \[id = .*?\] terminated with exception: ", "", text)[:200]


def record(spark: SparkSession, case: dict) -> dict:
    while True:
        run = Run(spark, case)
        try:
            return run.record()
        except Unlucky:
            print(f"{case['name']}: once more", file=sys.stderr)
        finally:
            run.end()


def write(place: pathlib.Path, spark_version: str, recorded: dict):
    """A line for every step, so that differences can be read."""
    lines = []
    for name, found in recorded.items():
        if "steps" in found:
            steps = ",\n".join("      " + json.dumps(step) for step in found["steps"])
            failed = f',\n    "failed": {json.dumps(found["failed"])}' if "failed" in found else ""
            lines.append(f'  {json.dumps(name)}: {{\n    "steps": [\n{steps}\n    ]{failed}\n  }}')
        else:
            lines.append(f"  {json.dumps(name)}: {json.dumps(found)}")
    body = ",\n".join(lines)
    place.write_text(f'{{\n"spark": {json.dumps(spark_version)},\n"cases": {{\n{body}\n}}\n}}\n')


def main():
    cases = json.loads((HERE / "cases.json").read_text())
    place = HERE / "recorded.json"
    before = json.loads(place.read_text())["cases"] if place.exists() else {}
    wanted = set(sys.argv[1:])
    if wanted == {"new"}:
        wanted = {case["name"] for case in cases} - set(before)
    spark = session()
    recorded = {}
    for case in cases:
        name = case["name"]
        if wanted and name not in wanted:
            if name in before:
                recorded[name] = before[name]
            continue
        begun = time.time()
        recorded[name] = record(spark, case)
        print(f"{name}: {time.time() - begun:.1f} s, {recorded[name].get('refused') or recorded[name].get('failed') or ''}")
    write(place, spark.version, recorded)
    spark.stop()


if __name__ == "__main__":
    main()
