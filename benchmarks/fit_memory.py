"""What a fit holds: flat as the data grows, and bounded where a column has millions of distinct values."""

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

TIMES = 16
ROWS = 1_000_000  # as many as a sample holds
DISTINCT = 5_000_000
GROUP_ROWS = 65_536

MEASURE = """
import json, os, sys, threading
import dask
from dtk.memory import tree_held_nbytes
from dtk.preparation.transforms import ColumnTransformer, OneHotEncoder, RobustScaler, SimpleImputer, StandardScaler

path, numbers, strings = json.loads(sys.argv[1])
half = len(numbers) // 2
encoder = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=100)
columns = ColumnTransformer([
    ("x", [SimpleImputer(), StandardScaler()], numbers[:half]),
    ("q", [SimpleImputer(strategy="median"), RobustScaler()], numbers[half:]),
    ("s", encoder, strings),
])
held = lambda: tree_held_nbytes(os.getpid())
columns.plan(path)
start = peak = held()
done = threading.Event()

def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, held())

thread = threading.Thread(target=watch)
thread.start()
with dask.config.set(num_workers=2):
    columns.fit(path)
done.set()
thread.join()
print(json.dumps([start, peak]))
"""


@benchmark("fit-memory")
def fit_memory(rounds: int, rows: int | None) -> Iterator[Ratio]:
    """Peak memory of a fit at 16 times the data over that at 1 time, and with five million distinct strings."""
    rows = rows or ROWS
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        numbers, strings = [f"x{number}" for number in range(8)], ["s0", "s1"]
        paths = [write(directory / f"table-{times}", rows * times, 100) for times in (1, TIMES)]
        found = [[measured(path, numbers, strings) for path in paths] for _ in range(rounds)]
        growth = tuple(large[1] / small[1] for small, large in found)
        note = f"a process of {found[0][1][1] >> 20} MiB; {rows:,} rows at 1 time, 8 numbers of which 4 by quantiles"
        yield Ratio("fit-memory", "table", f"peak at {TIMES} times/at 1", growth, "<= 1.05", note)
        path = write(directory / "distinct", DISTINCT * rows // ROWS, None)
        added = tuple((peak - start) / 2**20 for start, peak in (measured(path, [], ["s0"]) for _ in range(rounds)))
        note = f"{DISTINCT * rows // ROWS:,} distinct strings in a column"
        yield Ratio("fit-memory", "distinct", "MiB added", added, "", note)


def write(path: Path, rows: int, num_distinct: int | None) -> Path:
    """Write 8 float32 columns and 2 of strings, in files of as many rows."""
    path.mkdir()
    for number, part in enumerate(np.array_split(np.arange(rows), max(1, rows // 500_000))):
        rng = np.random.default_rng(number)
        columns = {f"x{column}": rng.standard_normal(len(part), np.float32) for column in range(8)}
        for name in ("s0", "s1"):
            values = part if num_distinct is None else rng.integers(0, num_distinct, len(part))
            columns[name] = pa.array(np.char.add("customer-", values.astype(str)))
        pq.write_table(pa.table(columns), path / f"part-{number}.parquet", row_group_size=GROUP_ROWS)
    return path


def measured(path: Path, numbers: list[str], strings: list[str]) -> tuple[int, int]:
    """Fit in a process of its own; return what it held before, and at most."""
    # the allocators of a rank, which give back what is freed
    env = os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_MMAP_THRESHOLD_": str(2**25)}
    command = [sys.executable, "-c", MEASURE, json.dumps([str(path), numbers, strings])]
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    start, peak = json.loads(told.stdout)
    return start, peak
