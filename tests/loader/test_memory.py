"""The loader holds no more memory than its plan says, also where a filter leaves few rows of what is read."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.object_server import serve

SCRIPT = """
import sys, threading, time
import pyarrow as pa
import dtk
from dtk.loader import Loader
from dtk.memory import tree_held_nbytes

path, kind = sys.argv[1:]
window = None
data = dtk.open(path)
if kind == "filter":
    data = data[data.x0 < 0.01]
elif kind == "share":
    data, _ = dtk.split(data, fractions=[0.05, 0.95])
elif kind == "column":
    data = data.assign(y=data.x0 + data.x1)
elif kind in ("file", "drawn", "remote file", "remote drawn"):
    data = path
elif kind in ("windows", "remote windows"):
    data, window = path, dtk.Window("time", history=3, lead=1)
for memory in ("64 MiB", "160 MiB", "256 MiB", "384 MiB"):
    sampling = "x2" if kind.endswith("drawn") else None
    loader = Loader(
        data, target="x1", sampling=sampling, window=window, global_batch_size=256, memory=memory, read_threads=2
    )
    try:
        loader.plan.check()
    except dtk.MemoryLimitError:
        continue
    break
pa.default_memory_pool().release_unused()
import os
held = lambda: tree_held_nbytes(os.getpid())
start = peak = held()
done = threading.Event()
def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, held())
thread = threading.Thread(target=watch)
thread.start()
for _ in range(2):
    steps = sum(1 for _ in loader)
done.set()
thread.join()
print(steps, peak - start, loader.plan.memory_nbytes(1))
"""


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    """Four row groups of 32 MiB each when decoded."""
    path = str(tmp_path_factory.mktemp("memory") / "data.parquet")
    rng = np.random.default_rng(0)
    rows, columns = 2**18, 16
    table = pa.table({f"x{number}": rng.random(rows * 4) for number in range(columns)})
    pq.write_table(table, path, row_group_size=rows, compression="none", use_dictionary=False)
    return path


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """Four row groups of 9 MiB each when decoded, by time."""
    path = str(tmp_path_factory.mktemp("memory") / "series.parquet")
    rng = np.random.default_rng(0)
    rows, columns = 2**17, 8
    table = pa.table({"time": np.arange(rows * 4), **{f"x{number}": rng.random(rows * 4) for number in range(columns)}})
    pq.write_table(table, path, row_group_size=rows, compression="none", use_dictionary=False)
    return path


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("column", "share", "drawn")]


@pytest.mark.parametrize("kind", ["file", "filter", *SLOW])
def test_what_is_held_is_what_was_planned(parquet, kind):
    check(parquet, kind)


def test_windows_are_held_as_planned(series):
    check(series, "windows")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["remote file", "remote drawn", "remote windows"])
def test_what_is_fetched_is_held_as_planned(parquet, series, kind):
    pytest.importorskip("aiohttp")
    path = series if kind == "remote windows" else parquet
    with serve(os.path.dirname(path)) as server:
        check(f"{server.url}/{os.path.basename(path)}", kind)


def check(parquet, kind):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, parquet, kind],
        env=os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_MMAP_THRESHOLD_": str(2**25)},  # as in a rank
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    steps, held, planned = map(int, done.stdout.split())
    assert steps > 10
    assert held <= planned * 1.05  # the allocators round up
    assert planned <= held * 3
