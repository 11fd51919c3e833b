"""What a checkpoint costs the training that goes on beside it."""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Iterator

from benchmarks.harness import Ratio, benchmark

EVERY_S = 30.0
WIDTH, LAYERS = 1024, 12  # 12.6 million weights: 50 MB, and 150 MB with Adam's moments
BATCH = 256
STEPS_S = 4.0  # how long the steps take in which a checkpoint is written; it must be over by then


@benchmark("train-checkpoint")
def train_checkpoint(rounds: int, rows: int | None) -> Iterator[Ratio]:
    """Time that one checkpoint takes from the steps beside it, over 30 s, of an MLP with Adam that uses all cores.

    Blocks of equally many steps are timed in turn, with a checkpoint and without; the time lost is the difference.
    """
    import torch
    from torch import nn

    from dtk.training.checkpoints.directory import Checkpoint
    from dtk.training.checkpoints.saving import Saver

    torch.manual_seed(0)
    layers = [part for _ in range(LAYERS) for part in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    module = nn.Sequential(*layers, nn.Linear(WIDTH, 1))
    optimizer = torch.optim.Adam(module.parameters())
    inputs = torch.randn(BATCH, WIDTH)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        module(inputs).square().mean().backward()
        optimizer.step()

    def tensors() -> dict[str, torch.Tensor]:
        named = {f"module.{name}": value for name, value in module.state_dict().items()}
        for number, state in optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{number}.{name}": value for name, value in state.items()}
        return named

    with tempfile.TemporaryDirectory() as folder:
        saver = Saver(Checkpoint(f"{folder}/checkpoints", every_s=None), 0, 1)
        saver.claim()
        step()
        started = time.perf_counter()
        for _ in range(4):
            step()
        num_steps = max(4, round(STEPS_S / (time.perf_counter() - started) * 4))
        saver.save(0, tensors(), {})  # its memory is taken once
        saver.wait()
        kinds: dict[str, list[float]] = {"stopped": [], "all": [], "work": [], "written": []}
        cores = len(os.sched_getaffinity(0))
        for number in range(rounds):
            gc.collect()
            started, worked = time.perf_counter(), time.process_time()
            for _ in range(num_steps):
                step()
            without_s, without_work_s = time.perf_counter() - started, time.process_time() - worked
            started, worked = time.perf_counter(), time.process_time()
            saver.save(number + 1, tensors(), {})
            kinds["stopped"].append((time.perf_counter() - started) / EVERY_S)
            is_over_at = 0.0
            for _ in range(num_steps):
                step()
                is_over_at = is_over_at or (0.0 if saver.is_writing else time.perf_counter() - started)
            with_s = time.perf_counter() - started
            kinds["all"].append((with_s - without_s) / EVERY_S)
            saver.wait()
            kinds["work"].append((time.process_time() - worked - without_work_s) / EVERY_S / cores)
            kinds["written"].append((is_over_at or time.perf_counter() - started) / EVERY_S)
    nbytes = sum(value.numel() * value.element_size() for value in tensors().values())
    note = f"{nbytes / 2**20:.0f} MiB, {num_steps} steps"
    yield Ratio("train-checkpoint", "every 30 s", "time lost / time", tuple(kinds["all"]), "<= 0.02", note)
    yield Ratio("train-checkpoint", "every 30 s", "processor time / time", tuple(kinds["work"]), note="of all cores")
    yield Ratio("train-checkpoint", "every 30 s", "time stopped / time", tuple(kinds["stopped"]), note="the copy")
    yield Ratio("train-checkpoint", "every 30 s", "time to publish / time", tuple(kinds["written"]), note="beside it")
