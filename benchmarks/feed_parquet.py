"""Shuffled batches from Parquet: dtk beside the raw decode of the same row groups, and beside its peers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.harness import Ratio, benchmark, is_installed, measure, rate

BATCH = 4096
ROWS = 4_000_000
THREADS = 2
PEER_ROWS = 400_000  # what the slow ones are timed on
FILES = 8
GROUP_ROWS = 65_536
SMALL_GROUP_ROWS = 1000
WORDS = np.array([f"word-{number:03d}" for number in range(500)])


@benchmark("feed-parquet")
def feed_parquet(rounds: int, rows: int | None) -> Iterator[Ratio]:
    """Rows a second of shuffled batches of 4,096 from Parquet, over raw decode on the same threads, and over peers."""
    from dtk.loader import scatter

    rows = rows or ROWS
    torch.set_num_threads(THREADS)
    pa.set_cpu_count(THREADS)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        for compression in ("zstd", "snappy", "none"):
            path = write_numbers(directory / compression, rows, compression)
            systems = {"raw": raw_decode(path), "dtk": dtk_loader(path, target="y")}
            if scatter._kernel is not None:
                systems["dtk-numpy"] = without_kernel(dtk_loader(path, target="y"))
            is_main = compression == "zstd"
            if is_main:
                systems |= peers(directory, compression)
            samples = measure(systems, rounds)
            case = f"40 numbers, {compression}"
            note = f"{rows:,} rows; {per_row(samples.values):+.0f} ns a row over raw decode"
            has_kernel = scatter._kernel is not None
            goal = (">= 0.72" if has_kernel else ">= 0.65") if is_main else ""
            yield Ratio("feed-parquet", case, "dtk/raw-decode", samples.ratio("dtk", "raw"), goal, note)
            if has_kernel:
                ratio = samples.ratio("dtk-numpy", "raw")
                yield Ratio("feed-parquet", case, "dtk-without-kernel/raw-decode", ratio, ">= 0.65" if is_main else "")
            if is_main:
                for peer, (_, goal, note) in PEERS.items():
                    yield Ratio("feed-parquet", case, f"dtk/{peer}", samples.ratio("dtk", peer), goal, note)
        yield from small_row_groups(directory, rounds, rows // 2)
        path = write_words(directory / "words", rows // 4)
        samples = measure({"raw": raw_decode(path), "dtk": dtk_prepared(path)}, rounds)
        note = f"{rows // 4:,} rows; {per_row(samples.values):+.0f} ns a row over raw decode"
        yield Ratio("feed-parquet", "8 numbers, 8 strings", "dtk/raw-decode", samples.ratio("dtk", "raw"), "", note)


def small_row_groups(directory: Path, rounds: int, rows: int) -> Iterator[Ratio]:
    """Compare row groups of 1,000 rows, which the raw decode reads one by one, in one file and in several."""
    for files in (1, FILES):
        path = write_numbers(directory / f"small-{files}", rows, "zstd", group_rows=SMALL_GROUP_ROWS, files=files)
        samples = measure({"raw": raw_decode(path), "dtk": dtk_loader(path, target="y")}, rounds)
        note = f"{rows:,} rows in {files} files; {per_row(samples.values):+.0f} ns a row over raw decode"
        case = f"row groups of {SMALL_GROUP_ROWS:,}"
        yield Ratio("feed-parquet", case, "dtk/raw-decode", samples.ratio("dtk", "raw"), "", note)


def per_row(values: Mapping[str, list[float]]) -> float:
    """Return the nanoseconds that dtk adds to the raw decode of a row."""
    return 1e9 * (1 / float(np.median(values["dtk"])) - 1 / float(np.median(values["raw"])))


def write_numbers(path: Path, rows: int, compression: str, *, group_rows: int = GROUP_ROWS, files: int = FILES) -> Path:
    """Write 40 float32 columns and a label."""
    path.mkdir()
    for number, part in enumerate(np.array_split(np.arange(rows), files)):
        rng = np.random.default_rng(number)
        columns = {f"x{column}": rng.standard_normal(len(part), np.float32) for column in range(40)}
        columns["y"] = rng.integers(0, 2, len(part))
        options = {"compression": compression, "use_dictionary": False, "row_group_size": group_rows}
        pq.write_table(pa.table(columns), path / f"part-{number}.parquet", **options)
    return path


def write_words(path: Path, rows: int) -> Path:
    """Write 8 float32 and 8 string columns, and a label."""
    path.mkdir()
    for number, part in enumerate(np.array_split(np.arange(rows), FILES)):
        rng = np.random.default_rng(number)
        columns = {f"x{column}": rng.standard_normal(len(part), np.float32) for column in range(8)}
        columns |= {f"s{column}": WORDS[rng.integers(0, len(WORDS), len(part))] for column in range(8)}
        columns["y"] = rng.integers(0, 2, len(part))
        pq.write_table(
            pa.table(columns), path / f"part-{number}.parquet", compression="zstd", row_group_size=GROUP_ROWS
        )
    return path


def raw_decode(path: Path) -> Callable[[], float]:
    """Decode all row groups in random order on the threads, memory-mapped, and throw them away."""
    readers: SimpleQueue[list[pq.ParquetFile]] = SimpleQueue()  # one a thread: two must not read one file at a time
    for _ in range(THREADS):
        readers.put([pq.ParquetFile(file, memory_map=True) for file in sorted(path.iterdir())])
    files = readers.get()
    groups = [(number, group) for number, file in enumerate(files) for group in range(file.num_row_groups)]
    readers.put(files)

    def decode(number: int) -> int:
        (file, group), files = groups[number], readers.get()
        try:
            return files[file].read_row_group(group, use_threads=False).num_rows
        finally:
            readers.put(files)

    def run() -> int:
        with ThreadPoolExecutor(THREADS) as pool:
            return sum(pool.map(decode, np.random.default_rng().permutation(len(groups))))

    return lambda: rate(run)


def dtk_loader(path: Path, **options: object) -> Callable[[], float]:
    """Iterate over a shuffled epoch of dtk's loader."""
    from dtk.loader import Loader

    loader = Loader(path, global_batch_size=BATCH, memory="1 GiB", read_threads=THREADS, **options)
    return lambda: rate(lambda: sum(len(batch["target"]) for batch in loader))


def dtk_prepared(path: Path) -> Callable[[], float]:
    """The same with strings, which become codes of a fitted vocabulary."""
    from dtk.preparation import SampleEncoder, TablePreparation
    from dtk.sources import as_source

    preparation = TablePreparation().fit(as_source(path), target="y", task="classification")
    return dtk_loader(path, preparation=SampleEncoder(preparation, target=preparation.target))


def without_kernel(run: Callable[[], float]) -> Callable[[], float]:
    """Do without the compiled kernel."""

    def measured() -> float:
        with no_kernel():
            return run()

    return measured


@contextmanager
def no_kernel() -> Iterator[None]:
    """Hide the compiled kernel."""
    from dtk.loader import scatter

    kernel, scatter._kernel = scatter._kernel, None
    try:
        yield
    finally:
        scatter._kernel = kernel


def peers(directory: Path, compression: str) -> dict[str, Callable[[], float]]:
    """Return the peers that are installed; the slow ones read a tenth of the data."""
    small = write_numbers(directory / f"{compression}-small", PEER_ROWS, compression)
    return {name: make(small) for name, (make, _, _) in PEERS.items() if is_installed(name.partition("-")[0])}


def ray_data(path: Path) -> Callable[[], float]:
    """Ray Data with its local shuffle."""
    import ray

    ray.init(num_cpus=THREADS, include_dashboard=False, logging_level="ERROR", ignore_reinit_error=True)
    ray.data.DataContext.get_current().enable_progress_bars = False
    data = ray.data.read_parquet(str(path))

    def run() -> int:
        batches = data.iter_torch_batches(batch_size=BATCH, local_shuffle_buffer_size=100_000)
        return sum(len(batch["y"]) for batch in batches)

    return lambda: rate(run)


def hf_datasets(path: Path) -> Callable[[], float]:
    """HF datasets, streaming with its shuffle."""
    import datasets

    files = [str(file) for file in sorted(path.iterdir())]
    data = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    shuffled = data.shuffle(seed=0, buffer_size=10_000).with_format("torch").batch(BATCH)
    return lambda: rate(lambda: sum(len(batch["y"]) for batch in shuffled))


def torch_loader(path: Path) -> Callable[[], float]:
    """Torch's DataLoader over an in-memory TensorDataset."""
    table = pq.read_table(path)
    inputs = np.stack([table.column(f"x{column}").to_numpy() for column in range(40)], axis=1)
    data = torch.utils.data.TensorDataset(
        torch.from_numpy(inputs), torch.from_numpy(table.column("y").to_numpy().copy())
    )
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True)
    return lambda: rate(lambda: sum(len(target) for _, target in loader))


PEERS = {
    "ray": (ray_data, ">= 10", "Ray Data, local shuffle of 100,000 rows"),
    "datasets": (hf_datasets, ">= 25", "HF datasets, streaming, shuffle buffer of 10,000 rows"),
    "torch-dataloader": (torch_loader, ">= 20", "DataLoader over an in-memory TensorDataset"),
}
