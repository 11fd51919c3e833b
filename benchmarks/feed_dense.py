"""Shuffled batches of a dense matrix: dtk beside the libraries for single-cell data, which read blocks as it does."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import zarr

from benchmarks.harness import Ratio, benchmark, is_installed, measure, rate

ROWS = 200_000
COLUMNS = 512
CHUNK = 1024
BATCH = 4096
THREADS = 2


@benchmark("feed-dense")
def feed_dense(rounds: int, rows: int | None) -> Iterator[Ratio]:
    """Rows a second of shuffled batches of a dense float32 matrix in Zarr, over scDataset and annbatch."""
    torch.set_num_threads(THREADS)
    rows = rows or ROWS
    with tempfile.TemporaryDirectory() as scratch:
        path = write(Path(scratch) / "matrix.zarr", rows)
        systems = {"dtk": dtk_loader(path)}
        systems |= {name: make(path) for name, (make, _) in PEERS.items() if is_installed(name)}
        measured = measure(systems, rounds)
        for peer, (_, note) in PEERS.items():
            yield Ratio("feed-dense", f"{COLUMNS} columns", f"dtk/{peer}", measured.ratio("dtk", peer), "", note)


def write(path: Path, rows: int) -> Path:
    """Write counts, of which nine in ten are zero, as cells have them; in chunks of 1,024 rows."""
    group = zarr.create_group(str(path))
    codec = zarr.codecs.BloscCodec(cname="zstd")
    dims = ("cell", "gene")
    shape, chunks = (rows, COLUMNS), (CHUNK, COLUMNS)
    array = group.create_array("X", shape=shape, chunks=chunks, dtype="f4", compressors=codec, dimension_names=dims)
    rng = np.random.default_rng(0)
    for start in range(0, rows, 16 * CHUNK):
        shape = (min(16 * CHUNK, rows - start), COLUMNS)
        array[start : start + shape[0]] = rng.poisson(3, shape) * (rng.random(shape, np.float32) < 0.1)
    return path


def dtk_loader(path: Path) -> Callable[[], float]:
    """Iterate over a shuffled epoch of dtk's loader."""
    from dtk.loader import Loader

    loader = Loader(path, global_batch_size=BATCH, memory="512 MiB", read_threads=THREADS)
    return lambda: rate(lambda: sum(len(batch["inputs"]) for batch in loader))


def scdataset(path: Path) -> Callable[[], float]:
    """Iterate over scDataset: blocks of a chunk, 16 batches at a time."""
    from scdataset import BlockShuffling, scDataset

    matrix = zarr.open_array(f"{path}/X", mode="r")

    class Rows:
        """Rows by number, as scDataset asks for them."""

        def __len__(self) -> int:
            return matrix.shape[0]

        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            return np.asarray(matrix.oindex[np.asarray(rows)])

    data = scDataset(Rows(), BlockShuffling(block_size=CHUNK), batch_size=BATCH, fetch_factor=16)
    return lambda: rate(lambda: sum(len(torch.from_numpy(batch)) for batch in data))


def annbatch(path: Path) -> Callable[[], float]:
    """Iterate over annbatch's loader: blocks of a chunk, 16 batches at a time."""
    from annbatch import Loader

    loader = Loader(batch_size=BATCH, chunk_size=CHUNK, preload_nchunks=16 * BATCH // CHUNK, shuffle=True, to="torch")
    loader.add_dataset(zarr.open_array(f"{path}/X", mode="r"))
    return lambda: rate(lambda: sum(len(batch["X"]) for batch in loader))


PEERS = {
    "scdataset": (
        scdataset,
        "scDataset in the thread that iterates, over zarr's own threads, blocks of a chunk, 16 batches at a time; "
        f"dtk reads with {THREADS} threads",
    ),
    "annbatch": (
        annbatch,
        "annbatch (Python 3.12 or newer) with zarr's own threads, blocks of a chunk, 16 batches at a time; "
        f"dtk reads with {THREADS} threads",
    ),
}
