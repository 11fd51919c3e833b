"""Shuffled batches of grids from Zarr: dtk beside the raw decode of the same chunks, and beside its peers."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import local
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
import zarr

from benchmarks.harness import Ratio, benchmark, is_installed, measure, rate

if TYPE_CHECKING:
    from dtk.loader import Loader

WHOLE = 1024  # samples of the largest chunk: their number divides by that of every chunk and shard
SAMPLES = 12 * WHOLE
SHAPE = (5, 64, 64)
BATCH = 64
THREADS = 2
PEER_SAMPLES = 640  # what the slow ones are timed on


@benchmark("feed-zarr")
def feed_zarr(rounds: int, rows: int | None) -> Iterator[Ratio]:
    """Samples a second of shuffled batches of 64 grids from Zarr, over raw decode on the same threads, and peers."""
    samples = -(-(rows or SAMPLES) // WHOLE) * WHOLE
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as scratch:
        for chunk, shard, goal in ((64, None, ">= 0.75"), (1, None, ""), (1024, None, ""), (64, 512, "")):
            path = write(Path(scratch) / f"{chunk}-{shard}.zarr", samples, chunk, shard)
            loader = dtk_loader(path)
            systems = {"raw": raw_decode(path), "dtk": epoch_of(loader)}
            is_main = bool(goal)
            if is_main:
                systems |= {name: make(path) for name, (make, *_) in PEERS.items() if is_installed(name.split("-")[0])}
            measured = measure(systems, rounds)
            case = f"{chunk} a chunk" + (f", {shard} a shard" if shard else "")
            mbytes = float(np.median(measured.values["dtk"])) * np.prod(SHAPE) * 4 / 1e6
            pool = loader.plan.pool_rows / samples
            note = f"{samples:,} samples of {SHAPE} float32, blosc zstd, {pool:.0%} in the pool; {mbytes:,.0f} MB/s"
            yield Ratio("feed-zarr", case, "dtk/raw-decode", measured.ratio("dtk", "raw"), goal, note)
            if is_main:
                for peer, (_, peer_goal, peer_note) in PEERS.items():
                    yield Ratio("feed-zarr", case, f"dtk/{peer}", measured.ratio("dtk", peer), peer_goal, peer_note)


def write(path: Path, samples: int, chunk: int, shard: int | None) -> Path:
    """Write noise, in chunks of whole samples."""
    codec = zarr.codecs.BloscCodec(cname="zstd")
    shards = (shard, *SHAPE) if shard else None
    group = zarr.create_group(str(path))
    dims = ("sample", "band", "y", "x")
    options = {"shape": (samples, *SHAPE), "dtype": "f4", "compressors": codec, "dimension_names": dims}
    array = group.create_array("grid", chunks=(chunk, *SHAPE), shards=shards, **options)
    rng = np.random.default_rng(0)
    step = shard or chunk * max(1, 512 // chunk)
    for start in range(0, samples, step):
        array[start : start + step] = rng.standard_normal((min(step, samples - start), *SHAPE), np.float32)
    return path


def raw_decode(path: Path) -> Callable[[], float]:
    """Decompress all chunks in random order on the threads, each thread into one buffer, and throw them away."""
    from numcodecs.blosc import decompress

    array = zarr.open_array(f"{path}/grid", mode="r")
    files = sorted((path / "grid" / "c").rglob("0"), key=str)
    files = [file for file in files if file.is_file()]
    held = local()
    if array.shards is not None:
        return lambda: rate(lambda: shards_decoded(array, files))

    def decode(number: int) -> int:
        if not hasattr(held, "buffer"):
            held.buffer = np.empty(array.chunks, np.float32)
        with mapped(files[number]) as encoded:
            decompress(encoded, held.buffer)
        return array.chunks[0]

    def run() -> int:
        with ThreadPoolExecutor(THREADS) as pool:
            return sum(pool.map(decode, np.random.default_rng().permutation(len(files))))

    return lambda: rate(run)


@contextmanager
def mapped(file: Path) -> Iterator[memoryview]:
    """Map a file into memory."""
    with (
        open(file, "rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content,
        memoryview(content) as view,
    ):
        yield view


def shards_decoded(array: zarr.Array, files: list[Path]) -> int:
    """Decompress the chunks of all shards."""
    from numcodecs.blosc import decompress

    held = local()
    chunks = array.shards[0] // array.chunks[0]

    def decode(number: int) -> int:
        if not hasattr(held, "buffer"):
            held.buffer = np.empty(array.chunks, np.float32)
        done = 0
        with mapped(files[number]) as shard:
            index = np.frombuffer(bytes(shard[-16 * chunks - 4 : -4]), "<u8").reshape(chunks, 2)
            for start, nbytes in index.tolist():
                if start < 2**64 - 1:
                    with shard[start : start + nbytes] as chunk:
                        decompress(chunk, held.buffer)
                    done += array.chunks[0]
        return done

    with ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(decode, np.random.default_rng().permutation(len(files))))


def dtk_loader(path: Path) -> Loader:
    """Make dtk's loader."""
    from dtk.loader import Loader

    return Loader(path, global_batch_size=BATCH, memory="1 GiB", read_threads=THREADS)


def epoch_of(loader: Loader) -> Callable[[], float]:
    """Iterate over a shuffled epoch of dtk's loader."""
    return lambda: rate(lambda: sum(len(batch["inputs"]) for batch in loader))


def xbatcher_batches(path: Path) -> Callable[[], float]:
    """Iterate over xbatcher's batches in the order on disk."""
    import xbatcher

    data = xr.open_zarr(path, consolidated=False)["grid"]
    batches = xbatcher.BatchGenerator(data, input_dims={"sample": BATCH, "band": 5, "y": 64, "x": 64})

    def run() -> int:
        return sum(len(torch.from_numpy(batch.to_numpy())) for batch in batches)

    return lambda: rate(run)


def torch_loader(path: Path) -> Callable[[], float]:
    """Index single samples of the Zarr array in random order through torch's DataLoader."""
    array = zarr.open_array(f"{path}/grid", mode="r")

    class Samples(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return PEER_SAMPLES

        def __getitem__(self, number: int) -> torch.Tensor:
            return torch.from_numpy(np.asarray(array[number * array.shape[0] // PEER_SAMPLES]))

    loader = torch.utils.data.DataLoader(Samples(), batch_size=BATCH, shuffle=True)
    return lambda: rate(lambda: sum(len(batch) for batch in loader))


PEERS = {
    "xbatcher": (xbatcher_batches, ">= 3", "xbatcher, in the order on disk"),
    "torch-dataloader": (torch_loader, ">= 50", "DataLoader that indexes one sample at a time"),
}
