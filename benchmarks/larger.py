"""Aggregates of data that is four times the memory limit of the workers: they complete, and stay below it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Ratio, benchmark

TIMES = 4
LIMIT_NBYTES = 1 << 30  # of each worker; the kernel refuses it more
ROW_NBYTES = 32
WORKERS = 2
FILES = 32

MEASURE = """
import json, resource, sys
import dtk
from distributed import Client, LocalCluster, wait
from dtk.memory import peak_rss_nbytes

path, limit, workers = json.loads(sys.argv[1])
if __name__ == "__main__":
    options = {"n_workers": workers, "threads_per_worker": 1, "memory_limit": int(limit * 0.8)}
    options |= {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        client.run(resource.setrlimit, resource.RLIMIT_DATA, (limit, limit))
        median = dtk.aggregate(path, by="name", agg={"x": "median"}).compute()
        groups = dtk.aggregate(path, by="user", agg={"x": ["mean", "max"]}).persist()
        wait(groups)
        found = int(groups.map_partitions(len).compute().sum())
        peaks = client.run(peak_rss_nbytes)
        print(json.dumps([len(median), found, max(peaks.values())]))
"""


@benchmark("larger")
def larger(rounds: int, rows: int | None) -> Iterator[Ratio]:
    """Exact medians and 10M groups of data four times the workers' memory limit: their peak over the limit."""
    rows = rows or TIMES * WORKERS * LIMIT_NBYTES // ROW_NBYTES
    with tempfile.TemporaryDirectory() as scratch:
        path = write_rows(Path(scratch) / "rows", rows)
        found = [measured(path) for _ in range(rounds)]
    peaks = tuple(peak / LIMIT_NBYTES for _, _, peak in found)
    note = f"{rows:,} rows of {ROW_NBYTES} bytes, {found[0][1]:,} groups; {WORKERS} workers of {LIMIT_NBYTES >> 20} MiB"
    yield Ratio("larger", f"{TIMES} times the memory", "peak/limit", peaks, "<= 1.0", note)


def write_rows(path: Path, rows: int) -> Path:
    """Write 1,000 names, and up to 10 million users, with numbers."""
    path.mkdir()
    names = np.array([f"category-{number}" for number in range(1000)])
    for number, part in enumerate(np.array_split(np.arange(rows), FILES)):
        rng, num_rows = np.random.default_rng(number), len(part)
        columns = {
            "name": names[rng.integers(0, len(names), num_rows)],
            "user": rng.integers(0, min(10_000_000, rows // 2), num_rows),
            "x": rng.normal(size=num_rows),
        }
        pq.write_table(pa.table(columns), path / f"part-{number}.parquet", row_group_size=262_144)
    return path


def measured(path: Path) -> tuple[int, int, int]:
    """Aggregate in processes of their own; return the numbers of groups, and the most that a worker held."""
    command = [sys.executable, "-c", MEASURE, json.dumps([str(path), LIMIT_NBYTES, WORKERS])]
    told = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
    names, users, peak = json.loads(told.stdout.splitlines()[-1])
    return names, users, peak
