"""Kill ranks and workers of trainings at random, many times, and see that each ends as if nothing had happened.

Run by ``make soak``; ``python -m tests.soak --schedules 30 --seed 0``. A schedule is a few kills: of ranks, workers, or
both; after so many steps, in a checkpoint, or in a validation. Each training must end with the bits of one that was not
interrupted, with each sample of each epoch trained on exactly once, and without a process that outlives it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
import traceback
import warnings
from functools import partial
from pathlib import Path

import dask
import numpy as np
import psutil
import torch

import dtk
from dtk.training.checkpoints.directory import Checkpoint
from dtk.training.fitting import train
from tests.training.harm import BATCH, ROWS, Counting, kill, moment, when, write_numbered

EPOCHS, STEPS, RANKS = 4, ROWS // BATCH, 2


def schedule(seed: int) -> list[tuple[str, int, str, list[int]]]:
    """Draw kills: in which phase, after how much of it, whom, of which ranks."""
    rng = np.random.default_rng([seed, 4])
    kills = []
    for _ in range(rng.integers(1, 4)):
        phase = str(rng.choice(["training", "checkpoint", "validation"], p=[0.4, 0.35, 0.25]))
        count = int(rng.integers(1, 2 * STEPS))
        whom = str(rng.choice(["rank", "worker", "both"]))
        ranks = [[0], [1], [0, 1]][rng.choice(3, p=[0.4, 0.4, 0.2])]
        kills.append((phase, count if phase == "training" else count % 4, whom, ranks))
    return kills


def run(data: Path, folder: Path, kills: list[tuple[str, int, str, list[int]]]) -> tuple[object, int]:
    """Train, and harm it meanwhile; give the bundle, and how many kills found somebody."""
    loader = dtk.Loader(data, target="y", global_batch_size=BATCH, memory="64 MiB")
    validation = dtk.Loader(data, target="y", global_batch_size=BATCH, memory="64 MiB", tail="pad", shuffle=False)
    checkpoints, over, done = folder / "checkpoints", threading.Event(), []

    def harm() -> None:
        for phase, count, whom, ranks in kills:
            act = partial(kill, folder, whom, ranks)
            thread = when(moment(folder, checkpoints, phase, max(1, count)), act, over)
            thread.join()
            if over.is_set():
                return
            done.append(phase)

    harming = threading.Thread(target=harm)
    harming.start()
    try:
        bundle = train(
            Counting(folder, 0.03 if kills else 0),
            loader,
            validation=validation,
            epochs=EPOCHS,
            learning_rate=0.01,
            ranks=RANKS,
            checkpoint=Checkpoint(str(checkpoints), every_steps=5, every_s=None),
            max_restarts=20,
            hang_timeout_s=60,
            progress=False,
        )
    finally:
        over.set()
        harming.join()
    return bundle, len(done)


def orphans() -> list[int]:
    """List ranks of this run that are still there after a while."""
    end = time.monotonic() + 40
    while time.monotonic() < end:
        found = []
        for process in psutil.process_iter():
            try:
                command = process.cmdline()
                is_spare = command[-1:] == ["spare"] and not process.name().startswith("dtk-rank")
                is_rank = any("dtk.training.gang.rank" in part for part in command) and not is_spare
                if is_rank and process.environ().get("DTK_SOAK") == str(os.getpid()):
                    found.append(process.pid)
            except psutil.Error:
                continue
        if not found:
            return []
        time.sleep(0.5)
    return found


def verdict(bundle: object, whole: object) -> list[str]:
    """Say what is wrong with how a training ended."""
    wrong = []
    ours, theirs = bundle.module.state_dict(), whole.module.state_dict()
    if not all(torch.equal(ours[name], theirs[name]) for name in theirs):
        wrong.append("weights differ")
    seen = bundle.module.seen
    if not bool((seen == seen[0]).all()) or int(seen[0]) < 1:
        wrong.append(f"samples seen {int(seen.min())} to {int(seen.max())} times")
    if [entry["samples"] for entry in bundle.history] != [ROWS] * EPOCHS:
        wrong.append(f"samples counted: {[entry['samples'] for entry in bundle.history]}")
    if [entry["loss"] for entry in bundle.history] != [entry["loss"] for entry in whole.history]:
        wrong.append("losses differ")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["DTK_SOAK"] = str(os.getpid())
    warnings.simplefilter("ignore")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="dtk-soak-") as name:
        folder = Path(name)
        data = write_numbered(folder / "data.parquet")
        # so long after a loss LocalCluster looks whether the worker is back, and if it is not there just then, because
        # it was killed again, gives it up for good
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1000 days"})
        with dtk.connect(workers=RANKS, threads=1, memory="3 GiB", dashboard="127.0.0.1:0"):
            (folder / "whole").mkdir()
            whole, _ = run(data, folder / "whole", [])
            print(f"{'seed':>5} {'seconds':>8} {'kills':>6}  {'outcome':<8} schedule", flush=True)
            for seed in range(options.seed, options.seed + options.schedules):
                kills, started, count = schedule(seed), time.monotonic(), 0
                (folder / str(seed)).mkdir()
                try:
                    bundle, count = run(data, folder / str(seed), kills)
                    wrong = verdict(bundle, whole)
                except Exception:
                    wrong = [traceback.format_exc()]
                left = orphans()
                wrong += [f"orphans {left}"] if left else []
                failed += bool(wrong)
                shown = ", ".join(
                    f"{whom} of {'+'.join(map(str, ranks))} in {phase}{f' {at}' if phase != 'checkpoint' else ''}"
                    for phase, at, whom, ranks in kills
                )
                outcome = "FAILED" if wrong else "whole"
                line = f"{seed:>5} {time.monotonic() - started:>8.1f} {count:>3}/{len(kills):<2}  {outcome:<8} {shown}"
                print(line, *wrong, sep="\n      ", flush=True)
    print(f"{options.schedules - failed} of {options.schedules} trainings ended whole")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
