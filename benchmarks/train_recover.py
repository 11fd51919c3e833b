"""How long a training stands still after a kill."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Ratio, benchmark

STEPS_BEFORE = 20
PAUSE_S = 0.02
ROWS, BATCH = 6_400, 64


@benchmark("train-recover")
def train_recover(rounds: int, rows: int | None) -> Iterator[Ratio]:
    """Seconds from the kill of a rank, and of a worker, to the next step of the gang that was formed anew.

    Two ranks on two local workers of one thread; a third worker stands by.
    """
    import dtk

    with (
        tempfile.TemporaryDirectory() as name,
        dtk.connect(workers=3, threads=1, memory="3 GiB", dashboard="127.0.0.1:0"),
    ):
        data = _write(Path(name) / "data.parquet")
        for kind in ("rank", "worker"):
            found = [_recover(data, Path(name) / f"{kind}{number}", kind) for number in range(rounds)]
            yield Ratio("train-recover", f"a {kind} is killed", "seconds to the next step", tuple(found))


def _write(path: Path) -> Path:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    pq.write_table(pa.table({name: rng.standard_normal(ROWS).astype("f4") for name in ("a", "b", "y")}), path)
    return path


def _module(folder: Path) -> Any:
    """Make a module that notes its steps; a class of this function's, so that ranks need not find this file."""
    import torch
    from torch import nn

    class Noting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 1)
            self.folder = str(folder)

        def forward(self, inputs: torch.Tensor) -> Any:
            if len(inputs) > 2 and self.training:
                with open(os.path.join(self.folder, f"steps-{os.environ.get('RANK', '0')}-{os.getpid()}"), "a") as file:
                    file.write(".")
                time.sleep(PAUSE_S)
            return self.layer(inputs)

    return Noting()


def _recover(data: Path, folder: Path, kind: str) -> float:
    import psutil

    import dtk
    from dtk.training.checkpoints.directory import Checkpoint

    folder.mkdir()
    times: list[float] = []

    def harm() -> None:
        def told() -> list[Path]:
            return [path for path in folder.glob("steps-*") if path.stat().st_size > 0]

        while not any(path.stat().st_size > STEPS_BEFORE for path in told()):
            time.sleep(0.001)
        before = set(told())
        victim = psutil.Process(int(next(path.name for path in before if "steps-1-" in path.name).split("-")[2]))
        victim = victim.parent() if kind == "worker" else victim
        started = time.perf_counter()
        victim.kill()
        while not set(told()) - before:
            time.sleep(0.001)
        times.append(time.perf_counter() - started)

    thread = threading.Thread(target=harm)
    thread.start()
    loader = dtk.Loader(str(data), target="y", global_batch_size=BATCH, memory="64 MiB")
    checkpoint = Checkpoint(str(folder / "checkpoints"), every_steps=10, every_s=None)
    dtk.train(_module(folder), loader, ranks=2, checkpoint=checkpoint, progress=False)
    thread.join()
    return times[0]
