"""Shuffled batches from a server that answers 50 ms late, beside the same loader over local files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.harness import Ratio, Samples, benchmark, is_installed, measure, rate
from benchmarks.object_server import serve

LATENCY_S = 0.05
BATCH = 1024
ROWS = 3_200_000  # of big row groups; a quarter of small ones, and as many samples as a row group has rows
THREADS = max(1, (os.cpu_count() or 2) // 2)  # of local reads, too: the server and its transfers need cores
# What is fetched before a thread is free to decode it: enough for the local rate, or so little that latency decides.
BIG, SMALL = {"64 MiB ahead": 2**26}, {"4 MiB ahead": 2**22}
GOAL = ">= 0.8"


@benchmark("latency")
def latency(rounds: int, rows: int | None) -> Iterator[Ratio]:
    """Bytes a second from a server 50 ms late, over the lesser of the local rate and what is in flight in 50 ms.

    The local rate is that of half of the cores, as the reading of remote data has no more for itself.
    """
    rows = rows or ROWS
    torch.set_num_threads(THREADS)
    pa.set_cpu_count(THREADS)
    if not is_installed("aiohttp"):
        yield Ratio("latency", "all", "dtk/bound", (), GOAL, "pip install aiohttp")
        return
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        write_table(directory / "big row groups", rows, 65_536)  # 10 MB each
        write_table(directory / "small row groups", rows // 4, 4_096)
        write_grid(directory / "big chunks", rows // 200, 64)  # 2 MB each
        write_grid(directory / "small chunks", rows // 800, 8)
        with serve(directory, delay_s=LATENCY_S) as server:
            for path in sorted(directory.iterdir()):
                there = f"{server.url}/{quote(path.name)}"
                cases = BIG if path.name.startswith("big") else SMALL
                yield from compare(path.name, str(path), there, cases, rounds)


def compare(kind: str, here: str, there: str, cases: Mapping[str, int], rounds: int) -> Iterator[Ratio]:
    """Measure one kind of data with some of it fetched ahead, and with nothing."""
    local, loaders = loader(here, None), {case: loader(there, nbytes) for case, nbytes in cases.items()}
    loaders["nothing ahead"] = loader(there, 0)
    systems = {"local": local} | loaders
    samples = measure({case: partial(bytes_a_second, made) for case, made in systems.items()}, rounds)
    for case, nbytes in cases.items():
        # What is ahead are whole reads; beside them, each thread waits for one that it has taken.
        read = fetched_nbytes(loaders[case])
        most = (nbytes // read + THREADS) * read
        bound = [min(of_round, most / LATENCY_S) for of_round in samples.values["local"]]
        is_local = np.median(samples.values["local"]) < most / LATENCY_S
        what = f"the local rate of {THREADS} threads" if is_local else "the latency"
        ratios = tuple(ours / least for ours, least in zip(samples.values[case], bound, strict=True))
        yield Ratio("latency", f"{kind}, {case}", "dtk/bound", ratios, GOAL, f"bound by {what}; {said(samples, case)}")
    ratios = samples.ratio("nothing ahead", "local")
    yield Ratio("latency", f"{kind}, nothing ahead", "dtk/local", ratios, "", said(samples, "nothing ahead"))


def fetched_nbytes(made: Any) -> int:
    """Return the bytes of the largest read."""
    cost = made._planned.source.fetch_cost(made.encoder.columns)
    return int(cost.nbytes.max())


def said(samples: Samples, case: str) -> str:
    """Tell the rates behind a ratio."""
    rates = (float(np.median(samples.values[name])) / 1e6 for name in (case, "local"))
    return "{:.0f} MB/s, local {:.0f} MB/s".format(*rates)


def loader(path: str, fetch_nbytes: int | None) -> Any:
    """Make a loader that fetches so much ahead of decoding."""
    from dtk.loader import Loader

    made = Loader(path, target="y", global_batch_size=BATCH, memory="1 GiB", read_threads=THREADS)
    if fetch_nbytes is not None:
        made._planned.plan = replace(made.plan, fetch_nbytes=fetch_nbytes)
    return made


def bytes_a_second(made: Any) -> float:
    """Iterate over a shuffled epoch; return the bytes of the store that were read in a second."""

    def run() -> int:
        for _ in made:
            pass
        return int(made.plan.epoch_nbytes)

    return rate(run)


def write_table(path: Path, rows: int, group_rows: int) -> None:
    """Write 40 float32 columns and a label."""
    path.mkdir()
    for number, part in enumerate(np.array_split(np.arange(rows), 4)):
        rng = np.random.default_rng(number)
        columns: dict[str, Any] = {f"x{column}": rng.standard_normal(len(part), np.float32) for column in range(40)}
        columns["y"] = rng.integers(0, 2, len(part))
        options: dict[str, Any] = {"compression": "zstd", "use_dictionary": False, "row_group_size": group_rows}
        pq.write_table(pa.table(columns), path / f"part-{number}.parquet", **options)


def write_grid(path: Path, samples: int, chunk: int) -> None:
    """Write samples of 5x64x64 float32."""
    import xarray as xr
    from zarr.codecs import BloscCodec

    rng = np.random.default_rng(0)
    values = rng.standard_normal((samples, 5, 64, 64), np.float32).round(1)
    data = xr.Dataset(
        {"x": (("time", "channel", "row", "column"), values), "y": (("time",), rng.integers(0, 2, samples))}
    )
    encoding = {"x": {"chunks": (chunk, 5, 64, 64), "compressors": BloscCodec(cname="zstd")}, "y": {"chunks": (chunk,)}}
    data.to_zarr(path, encoding=encoding, consolidated=False)
