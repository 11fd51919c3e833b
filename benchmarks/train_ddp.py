"""Training on two ranks: dtk beside torchrun and a loop written by hand, and how long steps wait for data."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import xarray as xr
import zarr
from torch import nn

from benchmarks.harness import Ratio, benchmark

RANKS = 2
EPOCHS = 3  # the first one warms up
ROWS = 393_216
COLUMNS = 40
IMAGES = 8192
SHAPE = (5, 32, 32)
MEMORY = "64 MiB"  # of the loader: less than the data, as where dtk is for
CASES = ("mlp", "cnn")


@benchmark("train-ddp")
def train_ddp(rounds: int, rows: int | None) -> Iterator[Ratio]:
    """Samples a second of dtk.train on two ranks over torchrun and DDP by hand, on the same batches."""
    import dtk

    with tempfile.TemporaryDirectory() as scratch, dtk.connect(workers=RANKS, threads=1, memory="6 GiB"):
        for case in CASES:
            path = written(case, Path(scratch), rows)
            ratios = []
            for _ in range(rounds):
                ours = with_dtk(case, path)
                theirs = with_torchrun(case, path)
                ratios.append(ours / theirs)
            note = f"{RANKS} ranks of a thread, {ours:,.0f} samples/s, median of the epochs after the first"
            yield Ratio("train-ddp", case, "dtk/torchrun", tuple(ratios), ">= 0.95", note)


@benchmark("train-stall")
def train_stall(rounds: int, rows: int | None) -> Iterator[Ratio]:
    """The share of step time that ranks wait for data, with models that compute for longer than data takes."""
    import dtk

    with tempfile.TemporaryDirectory() as scratch, dtk.connect(workers=RANKS, threads=1, memory="6 GiB"):
        for case, store in (("mlp", "parquet"), ("cnn", "zarr")):
            path = written(case, Path(scratch), rows)
            shares = []
            for _ in range(rounds):
                history = fitted(case, path).history[1:]
                shares.append(sum(one["wait_share"] * one["seconds"] for one in history) / sum_seconds(history))
            note = f"rank 0 of {RANKS}, a thread each, epochs after the first; the first batch of an epoch is in it"
            yield Ratio("train-stall", f"{case} on {store}", "waiting/step time", tuple(shares), "<= 0.02", note)


def with_dtk(case: str, path: str) -> float:
    """Train, and return samples a second."""
    return float(np.median([entry["samples_per_s"] for entry in fitted(case, path).history[1:]]))


def fitted(case: str, path: str):
    """Train on two ranks."""
    import dtk

    torch.manual_seed(0)
    return dtk.train(network(case), loader_of(case, path), optimizer="sgd", epochs=EPOCHS, ranks=RANKS, progress=False)


def with_torchrun(case: str, path: str) -> float:
    """Run `by_hand` under torchrun, and return samples a second."""
    with tempfile.NamedTemporaryFile(suffix=".json") as told:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
        script = ["-m", "benchmarks.train_ddp", case, path, told.name]
        subprocess.run([*command, *script], check=True, capture_output=True)
        return float(json.loads(Path(told.name).read_text())["samples_per_s"])


def by_hand(case: str, path: str, told: str) -> None:
    """Do what a user of torchrun writes."""
    import os
    import time

    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.manual_seed(0)
    model = DistributedDataParallel(network(case), gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loader = loader_of(case, path, rank=rank, ranks=ranks)
    rates = []
    for epoch in range(EPOCHS):
        loader.set_epoch(epoch)
        started, samples = time.perf_counter(), 0
        for batch in loader:
            loss = nn.functional.mse_loss(model(batch["inputs"])[:, 0], batch["target"])
            if not torch.isfinite(loss):
                raise ValueError("the loss is not finite")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            samples += len(batch["target"]) * ranks
        rates.append(samples / (time.perf_counter() - started))
    if rank == 0:
        Path(told).write_text(json.dumps({"samples_per_s": float(np.median(rates[1:]))}))
    distributed.destroy_process_group()


def network(case: str) -> nn.Module:
    """Make the model: a step of it takes longer than its data."""
    if case == "mlp":
        return nn.Sequential(nn.Linear(COLUMNS, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 1))
    return nn.Sequential(
        nn.Conv2d(SHAPE[0], 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 1),
    )


def loader_of(case: str, path: str, **options):
    """Feed the model."""
    import dtk

    if case == "mlp":
        return dtk.Loader(path, target="y", global_batch_size=2048, memory=MEMORY, **options)
    data = dtk.open(path)
    return dtk.Loader(data, inputs=["grid"], target="y", dim="sample", global_batch_size=64, memory=MEMORY, **options)


def written(case: str, scratch: Path, rows: int | None) -> str:
    """Write noise with a target, once."""
    path = scratch / case
    if path.exists():
        return str(path)
    rng = np.random.default_rng(0)
    if case == "mlp":
        path.mkdir()
        x = rng.standard_normal((rows or ROWS, COLUMNS), np.float32)
        table = {f"x{number}": x[:, number] for number in range(COLUMNS)} | {"y": x.mean(axis=1)}
        pq.write_table(pa.table(table), path / "part.parquet", row_group_size=8192, compression="zstd")
        return str(path)
    images = min(rows or IMAGES, IMAGES)
    grid = rng.standard_normal((images, *SHAPE), np.float32)
    dataset = xr.Dataset({"grid": (("sample", "band", "y", "x"), grid), "y": ("sample", grid.mean(axis=(1, 2, 3)))})
    codec = zarr.codecs.BloscCodec(cname="zstd")
    encoding = {"grid": {"chunks": (64, *SHAPE), "compressors": (codec,)}}
    dataset.to_zarr(path, consolidated=False, encoding=encoding)
    return str(path)


def sum_seconds(history: list[dict[str, float]]) -> float:
    """Add up the epochs."""
    return sum(entry["seconds"] for entry in history)


if __name__ == "__main__":
    by_hand(*sys.argv[1:])
