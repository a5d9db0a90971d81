"""The work of `suite -- etl` done by DuckDB, for reference.

Run `cargo bench --bench suite -- etl --keep`, then `python benches/duckdb_etl.py DIRECTORY`, where
DIRECTORY is what the first line of the former says. Needs `pip install duckdb`.
"""

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import duckdb

RUNS = 5
SELECT = """
    SELECT auction, bidder, CAST(price AS DOUBLE) / 100 AS amount, upper(channel) AS channel, url,
           CAST(date_time AS DATE) AS day, date_time
    FROM {bids} WHERE price >= 5100
"""
COLUMNS = (
    "columns = {'auction': 'BIGINT', 'bidder': 'BIGINT', 'price': 'BIGINT', 'channel': 'VARCHAR', "
    "'url': 'VARCHAR', 'date_time': 'TIMESTAMP'}"
)


def main(directory: Path) -> None:
    readers = {
        "json": f"read_json('{directory}/etl-json/*.json', format = 'newline_delimited', {COLUMNS})",
        "csv": f"read_csv('{directory}/etl-csv/*.csv', header = true, {COLUMNS})",
        "parquet": f"read_parquet('{directory}/etl-parquet/*.parquet')",
    }
    print(f"duckdb {duckdb.__version__}")
    for name, bids in readers.items():
        seconds = []
        for _ in range(RUNS + 1):
            output = directory / "duckdb-output"
            shutil.rmtree(output, ignore_errors=True)
            subprocess.run(["sync"], check=True)
            started = time.perf_counter()
            # One file per thread, and the codec and level of Tidemill's and DataFusion's default.
            duckdb.connect().execute(
                f"COPY ({SELECT.format(bids=bids)}) TO '{output}' "
                "(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 3, PER_THREAD_OUTPUT)"
            )
            seconds.append(time.perf_counter() - started)
        shutil.rmtree(output)
        print(f"{name}: {statistics.median(seconds[1:]):.3f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
