"""The demo's training beside the same network trained by plain PyTorch on data that pandas loaded into memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from benchmarks.harness import Ratio, benchmark, measure, rate

if TYPE_CHECKING:
    import pandas as pd

    from dtk.models import ModelSchema

BATCH = 4096
EPOCHS = 2
FLIGHTS = 336_776
MODEL = {"name": "mlp", "hidden": [128, 64]}

Batch = dict[str, torch.Tensor]


@benchmark("demo")
def demo(rounds: int, rows: int | None) -> Iterator[Ratio]:
    """Training on the flights: dtk from Parquet beside plain PyTorch from memory, samples/s of one rank and of two."""
    import dtk
    from dtk.demo import TARGET, held_out, prepare_flights
    from dtk.loader import Loader
    from dtk.models import ModelSchema, PreparedModel, build
    from dtk.preparation import SampleEncoder, TablePreparation
    from dtk.sources import as_source, counted

    scale = max(1, round((rows or FLIGHTS) / FLIGHTS))
    with (
        tempfile.TemporaryDirectory() as scratch,
        dtk.connect(workers=2, threads=1, memory="6 GiB", dashboard="127.0.0.1:0"),
    ):
        train, _, _ = held_out(dtk.open(prepare_flights(Path(scratch), scale=scale)))
        source = counted(as_source(train))
        preparation = TablePreparation(kinds={"flight": "category"}).fit(source, target=TARGET, task="classification")
        assert preparation.target is not None
        encoder = SampleEncoder(preparation, target=preparation.target)
        schema = ModelSchema(len(preparation.feature_names), preparation.cardinalities, preparation.target.num_outputs)
        loader = Loader(source, preparation=encoder, global_batch_size=BATCH, memory="256 MiB")
        tensors, plain_schema = from_pandas(train.compute(), TARGET)

        def dtk_here() -> float:
            network = PreparedModel(preparation.as_module(), build(MODEL, schema, seed=0))
            return rate(lambda: trained(network, lambda: loader))

        def dtk_two_ranks() -> float:
            network = PreparedModel(preparation.as_module(), build(MODEL, schema, seed=0))
            history = dtk.train(network.network, loader, epochs=EPOCHS, ranks=2, progress=False).history
            return sum(entry["samples"] for entry in history) / sum(entry["seconds"] for entry in history)

        def plain() -> float:
            network = build(MODEL, plain_schema, seed=0)
            return rate(lambda: trained(network, lambda: shuffled(tensors)))

        samples = measure({"dtk": dtk_here, "dtk-2-ranks": dtk_two_ranks, "plain": plain}, rounds)
    note = f"{len(tensors['target']):,} rows, batch {BATCH:,}, plain PyTorch with {torch.get_num_threads()} threads"
    yield Ratio("demo", "one process", "dtk/plain-pytorch", samples.ratio("dtk", "plain"), note=note)
    yield Ratio("demo", "two ranks", "dtk/plain-pytorch", samples.ratio("dtk-2-ranks", "plain"), note=note)


def from_pandas(frame: pd.DataFrame, target: str) -> tuple[Batch, ModelSchema]:
    """Prepare everything in memory, as a notebook would: numbers standardised, text as codes, the date as a number."""
    from pandas.api.types import is_numeric_dtype

    from dtk.models import ModelSchema

    labels = frame.pop(target).to_numpy()
    frame["date"] = frame["date"].dt.dayofweek
    is_code = [name == "flight" or not is_numeric_dtype(frame[name]) for name in frame]
    codes = [frame[name].factorize()[0] + 1 for name in frame.columns[is_code]]
    numbers = frame.loc[:, ~np.array(is_code)]
    numbers = ((numbers - numbers.mean()) / numbers.std()).fillna(0.0)
    tensors = {
        "inputs": torch.from_numpy(numbers.to_numpy(np.float32, copy=True)),
        "codes": torch.from_numpy(np.stack(codes, axis=1).astype(np.int64)),
        "target": torch.from_numpy(labels.astype(np.int64)),
    }
    return tensors, ModelSchema(numbers.shape[1], tuple(int(column.max()) + 1 for column in codes), 2)


def shuffled(tensors: Batch) -> Iterator[Batch]:
    """Yield the batches of one epoch by indexing with a permutation: the fastest plain way."""
    order = torch.randperm(len(tensors["target"]))
    for start in range(0, len(order) - BATCH + 1, BATCH):
        index = order[start : start + BATCH]
        yield {name: values[index] for name, values in tensors.items()}


def trained(network: nn.Module, batches: Callable[[], Iterable[Batch]]) -> int:
    """Train some epochs; return the samples seen."""
    optimizer = torch.optim.Adam(network.parameters())
    seen = 0
    for _ in range(EPOCHS):
        for batch in batches():
            loss = nn.functional.cross_entropy(network(batch["inputs"], batch["codes"]), batch["target"])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            seen += len(batch["target"])
    return seen
