"""What the loader holds: flat as the data grows, and no more than its plan says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import feed_parquet, feed_zarr
from benchmarks.harness import Ratio, benchmark

TIMES = 8
ROWS = 1_000_000  # of the smaller table, in 8 files: 164 MB
SAMPLES = 1_500  # of the smaller store: 123 MB
MEMORY = {"table": "60 MiB", "grids": "90 MiB"}  # of which the pool takes about 32 MiB

MEASURE = """
import json, os, sys, threading
import pyarrow as pa
from dtk.loader import Loader
from dtk.memory import tree_held_nbytes

path, memory, batch, target = json.loads(sys.argv[1])
loader = Loader(path, target=target, global_batch_size=batch, memory=memory, read_threads=2)
loader.plan.check()
held = lambda: tree_held_nbytes(os.getpid())
start = peak = held()
done = threading.Event()

def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, held())

thread = threading.Thread(target=watch)
thread.start()
for _ in loader:
    pass
done.set()
thread.join()
plan = loader.plan
print(json.dumps([start, peak, plan.memory_nbytes(1), plan.pool_rows * plan.row_nbytes]))
"""


@benchmark("feed-memory")
def feed_memory(rounds: int, rows: int | None) -> Iterator[Ratio]:
    """Peak memory at 8 times the data over that at 1 time, with a pool of 32 MiB, and over what was planned.

    The allocators are those of a rank; a process that nobody set up holds more of what was freed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        for kind, size in (("table", rows or ROWS), ("grids", max(1, (rows or ROWS) * SAMPLES // ROWS))):
            paths = [_write(directory, kind, size, times) for times in (1, TIMES)]
            found = [[_measured(path, kind) for path in paths] for _ in range(rounds)]
            pool = found[0][1][3] >> 20
            growth = tuple(large[1] / small[1] for small, large in found)
            note = f"pool of {pool} MiB in a process of {found[0][1][1] >> 20} MiB"
            yield Ratio("feed-memory", kind, f"peak at {TIMES} times/at 1", growth, "<= 1.05", note)
            growth = tuple((large[1] - large[0]) / (small[1] - small[0]) for small, large in found)
            note = "what iterating adds to a process that has opened the data and planned"
            yield Ratio("feed-memory", kind, f"added at {TIMES} times/at 1", growth, "", note)
            planned = tuple((peak - start) / plan for pair in found for start, peak, plan, _ in pair)
            yield Ratio("feed-memory", kind, "measured/planned", planned, "<= 1.0", "what iterating adds, both sizes")


def _write(directory: Path, kind: str, size: int, times: int) -> Path:
    path = directory / f"{kind}-{times}"
    if kind == "table":  # more data is more files, as big as before
        return feed_parquet.write_numbers(path, size * times, "zstd", group_rows=8192, files=8 * times)
    return feed_zarr.write(path.with_suffix(".zarr"), size * times, 16, None)


def _measured(path: Path, kind: str) -> tuple[int, int, int, int]:
    """Iterate in a process of its own; return what it held before and at most, what was planned, and the pool."""
    is_table = kind == "table"
    given = json.dumps([str(path), MEMORY[kind], 4096 if is_table else 64, "y" if is_table else None])
    # The allocators of a rank, which give back what is freed.
    env = os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_MMAP_THRESHOLD_": str(2**25)}
    told = subprocess.run([sys.executable, "-c", MEASURE, given], env=env, capture_output=True, text=True, check=True)
    start, peak, planned, pool = json.loads(told.stdout)
    return start, peak, planned, pool
