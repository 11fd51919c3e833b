"""Mean and standard deviation per variable and level of grids in Zarr: dtk beside a bare decode, and beside xarray."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local

import dask
import numpy as np
import xarray as xr
import zarr
from numcodecs.blosc import decompress

from benchmarks.feed_zarr import mapped
from benchmarks.harness import Ratio, benchmark, measure, rate
from dtk.statistics import scan_grid

STEPS = 256
SHAPE = (8, 128, 256)  # level, lat, lon
VARIABLES = ("temperature", "humidity", "wind")
CHUNKS = {"one step": (1, *SHAPE), "16 steps of a level": (16, 1, *SHAPE[1:])}
DIMS = ("time", "level", "lat", "lon")
THREADS = 2


@benchmark("fit-grid")
def fit_grid(rounds: int, rows: int | None) -> Iterator[Ratio]:
    """Seconds for mean and standard deviation per variable and level over Zarr, over a bare decode, and xarray's."""
    steps = max(16, (rows or STEPS) // 16 * 16)
    with tempfile.TemporaryDirectory() as scratch, dask.config.set(scheduler="threads", num_workers=THREADS):
        for case, chunks in CHUNKS.items():
            path = write(Path(scratch) / f"{chunks[0]}.zarr", steps, chunks)
            check(path)
            systems = {"raw": raw_decode(path), "dtk": fitted(path), "xarray": computed(path)}
            measured = measure({name: seconds(work) for name, work in systems.items()}, rounds)
            nbytes = len(VARIABLES) * steps * np.prod(SHAPE) * 4
            speed = nbytes / 1e6 / float(np.median(measured.values["dtk"]))
            note = f"{len(VARIABLES)} variables of {SHAPE}, {steps} steps of float32, blosc zstd; {speed:,.0f} MB/s"
            yield Ratio("fit-grid", case, "dtk/raw-decode", measured.ratio("dtk", "raw"), "<= 1.3", note)
            note = "mean and std of every variable in one dask.compute"
            yield Ratio("fit-grid", case, "dtk/xarray-dask", measured.ratio("dtk", "xarray"), "<= 0.7", note)


def write(path: Path, steps: int, chunks: tuple[int, ...]) -> Path:
    """Write noise around the mean of each level."""
    group = zarr.create_group(str(path))
    rng = np.random.default_rng(0)
    for number, name in enumerate(VARIABLES):
        array = group.create_array(
            name,
            shape=(steps, *SHAPE),
            chunks=chunks,
            dtype="f4",
            compressors=zarr.codecs.BloscCodec(cname="zstd"),
            dimension_names=DIMS,
        )
        mean = 10.0**number * np.arange(SHAPE[0], dtype=np.float32)[:, np.newaxis, np.newaxis]
        for start in range(0, steps, 16):
            array[start : start + 16] = rng.standard_normal((16, *SHAPE), np.float32) + mean
    return path


def check(path: Path) -> None:
    """Refuse to time different answers."""
    mean, std = zip(*computed(path)(), strict=True)
    for name, *theirs in zip(VARIABLES, mean, std, strict=True):
        ours = fitted(path)()[name]
        np.testing.assert_allclose(ours.mean, theirs[0], rtol=1e-3, atol=1e-3)  # xarray sums in single precision
        np.testing.assert_allclose(ours.std, theirs[1], rtol=1e-3)


def raw_decode(path: Path) -> Callable[[], object]:
    """Decompress all chunks in order on the threads, each thread into one buffer, and throw them away."""
    files = [file for name in VARIABLES for file in sorted((path / name / "c").rglob("*")) if file.is_file()]
    nbytes = int(np.prod(zarr.open_group(path, mode="r")[VARIABLES[0]].chunks)) * 4
    held = local()

    def decode(file: Path) -> None:
        if not hasattr(held, "buffer"):
            held.buffer = np.empty(nbytes, np.uint8)
        with mapped(file) as encoded:
            decompress(encoded, held.buffer)

    def run() -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(decode, files))

    return run


def fitted(path: Path) -> Callable[[], dict]:
    """Scan with dtk."""
    return lambda: scan_grid(str(path), keep=["level"])


def computed(path: Path) -> Callable[[], list]:
    """Compute with xarray and Dask, all at once."""

    def run() -> list:
        data = xr.open_zarr(path, consolidated=False)
        dims = [dim for dim in DIMS if dim != "level"]
        found = [(data[name].mean(dims), data[name].std(dims)) for name in VARIABLES]
        return dask.compute(*found)

    return run


def seconds(work: Callable[[], object]) -> Callable[[], float]:
    """Time one run."""

    def one() -> int:
        work()
        return 1

    return lambda: 1 / rate(one)
