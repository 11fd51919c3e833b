"""A training that tells what it does, and those that harm it: for tests of recovery, and for the soak."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import distributed, nn

ROWS, BATCH = 960, 60


class InBackward(torch.autograd.Function):
    """Takes a while on the way back, too."""

    @staticmethod
    def forward(ctx, inputs, module):
        ctx.module = module
        return inputs.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.module.tell("backwards")
        return gradient, None


class Counting(nn.Module):
    """Counts in a buffer how often it was trained on each sample, so that the count is of its own past alone."""

    def __init__(self, folder, pause_s=0.03):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))
        self.register_buffer("seen", torch.zeros(ROWS, dtype=torch.int64))
        self.folder, self.pause_s = str(folder), pause_s

    def forward(self, inputs):
        numbers, inputs = inputs[:, 0].long(), inputs[:, 1:]
        if not self.training:
            self.tell("validations")
            self.act("validation")
        elif torch.is_grad_enabled() and len(numbers) > 2:
            told = [numbers.tolist()]
            if distributed.is_initialized():
                told = [[]] * distributed.get_world_size()
                distributed.all_gather_object(told, numbers.tolist())
            self.seen += torch.bincount(torch.tensor([number for some in told for number in some]), minlength=ROWS)
            self.tell("steps")
            self.act("training")
            inputs = InBackward.apply(inputs.requires_grad_(), self)
        return self.layers(inputs)

    def act(self, phase):
        """For those who harm from inside."""

    def tell(self, what):
        """Add a dot to the file of this process."""
        with open(os.path.join(self.folder, f"{what}-{os.environ.get('RANK', '0')}-{os.getpid()}"), "a") as file:
            file.write(".")
        if self.pause_s:
            time.sleep(self.pause_s)


def write_numbered(path: Path) -> Path:
    """Write samples that know their number."""
    rng = np.random.default_rng(0)
    table = {"number": np.arange(ROWS, dtype="f4")}
    table |= {f"x{number}": rng.standard_normal(ROWS).astype("f4") for number in range(4)}
    table["y"] = table["x0"] - 2 * table["x1"] + rng.standard_normal(ROWS).astype("f4") / 10
    pq.write_table(pa.table(table), path, row_group_size=96)
    return path


def told(folder: Path, what: str) -> int:
    """Count the dots of all processes."""
    return sum(path.stat().st_size for path in folder.glob(f"{what}-*"))


def pids(folder: Path) -> dict[int, int]:
    """Find the processes of ranks that have taken a step and are alive, by rank."""
    found = {}
    for path in sorted(folder.glob("steps-*"), key=lambda path: path.stat().st_mtime):
        _, rank, pid = path.name.split("-")
        with contextlib.suppress(psutil.NoSuchProcess):
            if any("dtk.training.gang.rank" in part for part in psutil.Process(int(pid)).cmdline()):
                found[int(rank)] = int(pid)
    return found


def begun(checkpoints: Path) -> int:
    """Count the checkpoints that were begun and are not published."""
    return sum(not (path / "checkpoint.json").exists() for path in checkpoints.glob("step-*"))


def kill(folder: Path, whom: str, ranks: list[int]) -> bool:
    """Kill ranks, their workers, or both; say whether any was there."""
    running = pids(folder)
    victims = []
    for rank in ranks:
        with contextlib.suppress(psutil.NoSuchProcess, KeyError):
            process = psutil.Process(running[rank])
            parent = process.parent()
            if parent is None or (parent.pid == 1 and whom != "rank"):  # its worker is gone already
                continue
            victims += {"rank": [process], "worker": [parent], "both": [parent, process]}[whom]
    is_done = False
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            assert victim.pid not in (0, 1, os.getpid())
            victim.kill()
            is_done = True
    return is_done


def when(condition: Callable[[], bool], act: Callable[[], bool], over: threading.Event) -> threading.Thread:
    """Act, on another thread, once a condition holds, and again until it has worked."""

    def watch():
        while not over.is_set() and not condition():
            time.sleep(0.001)
        while not over.is_set() and not act():
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def moment(folder: Path, checkpoints: Path, phase: str, count: int) -> Callable[[], bool]:
    """Make the condition that from now on so much of a phase has passed: steps, validation steps, or a checkpoint."""
    if phase == "checkpoint":
        return lambda: begun(checkpoints) > 0
    what = {"training": "steps", "validation": "validations", "backward": "backwards"}[phase]
    before = told(folder, what)
    return lambda: told(folder, what) - before >= count
