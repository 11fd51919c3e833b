"""The demo's training beside the same network trained by plain PyTorch on data that pandas loaded into memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.harness import Ratio, benchmark, measure, rate

BATCH = 4096
EPOCHS = 2


@benchmark("demo")
def demo(rounds: int, rows: int | None) -> Iterator[Ratio]:
    """Training on the flights: dtk from Parquet beside plain PyTorch from memory, samples/s of one rank and of two."""
    import dtk
    from dtk.demo import held_out, prepare_flights
    from dtk.loader import Loader
    from dtk.models import ModelSchema, PreparedModel, build
    from dtk.preparation import SampleEncoder, TablePreparation
    from dtk.sources import as_source, counted

    threads = torch.get_num_threads()
    with (
        tempfile.TemporaryDirectory() as scratch,
        dtk.connect(workers=2, threads=1, memory="6 GiB", dashboard="127.0.0.1:0"),
    ):
        train, _, _ = held_out(dtk.open(prepare_flights(Path(scratch), scale=1)))
        source = counted(as_source(train))
        preparation = TablePreparation(kinds={"flight": "category"}).fit(source, target="late", task="classification")
        target = preparation.target
        assert target is not None
        encoder = SampleEncoder(preparation, target=target)
        schema = ModelSchema(len(preparation.feature_names), preparation.cardinalities, target.num_outputs)

        def network() -> nn.Module:
            return PreparedModel(preparation.as_module(), build({"name": "mlp", "hidden": [128, 64]}, schema, seed=0))

        loader = Loader(source, preparation=encoder, global_batch_size=BATCH, memory="256 MiB")
        frame = source_frame(source, encoder)

        def dtk_here() -> float:
            return rate(lambda: epochs_of(network(), lambda: loader))

        def dtk_two_ranks() -> float:
            bundle = dtk.train(network().network, loader, epochs=EPOCHS, ranks=2, progress=False)
            seconds = sum(entry["seconds"] for entry in bundle.history)
            return sum(entry["samples"] for entry in bundle.history) / seconds

        def plain() -> float:
            return rate(lambda: epochs_of(network(), lambda: shuffled(frame)))

        samples = measure({"dtk": dtk_here, "dtk-2-ranks": dtk_two_ranks, "plain": plain}, rounds)
    note = f"{len(frame['target']):,} rows, batch {BATCH:,}, torch with {threads} threads"
    yield Ratio("demo", "one process", "dtk/plain-pytorch", samples.ratio("dtk", "plain"), note=note)
    yield Ratio("demo", "two ranks", "dtk/plain-pytorch", samples.ratio("dtk-2-ranks", "plain"), note=note)


def source_frame(source, encoder) -> dict[str, torch.Tensor]:
    """Load and encode everything into memory, as a notebook would with pandas."""
    parts = [encoder.encode(source.read(chunk, list(encoder.columns))) for chunk in range(source.num_chunks)]
    return {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]}


def shuffled(frame: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the batches of one epoch by indexing with a permutation: the fastest plain way."""
    order = torch.randperm(len(frame["target"]))
    for start in range(0, len(order) - BATCH + 1, BATCH):
        index = order[start : start + BATCH]
        yield {name: values[index] for name, values in frame.items()}


def epochs_of(network: nn.Module, batches) -> int:
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
