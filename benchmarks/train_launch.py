"""How long two ranks take to start, sum a number and leave: `dtk.launch` beside torchrun and Ray Train."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import psutil
import torch
from torch import distributed

from benchmarks.harness import Ratio, Samples, benchmark, is_installed, measure

RANKS = 2
SCRIPT = """
import torch
from torch import distributed
distributed.init_process_group("gloo")
total = torch.ones(1)
distributed.all_reduce(total)
assert float(total) == distributed.get_world_size()
distributed.destroy_process_group()
"""


@benchmark("train-launch")
def train_launch(rounds: int, rows: int | None) -> Iterator[Ratio]:
    """Seconds of a launch of two ranks that sum a number: those beyond torchrun's, and again on the same workers."""
    from dtk import connect

    with (
        tempfile.TemporaryDirectory() as scratch,
        connect(workers=RANKS, threads=1, memory="3 GiB", dashboard="127.0.0.1:0") as client,
    ):
        script = Path(scratch) / "hello.py"
        script.write_text(SCRIPT)
        systems: dict[str, Callable[[], float]] = {
            "torchrun": lambda: seconds(lambda: torchrun(script)),
            "cold": lambda: dtk_launch(client, spare_s=0),
            "warm": lambda: dtk_launch(client, spare_s=300),
        }
        if is_installed("ray"):
            import_ray()
            systems["ray"] = lambda: seconds(ray_train)
        samples = measure(systems, rounds)
    over = tuple(a - b for a, b in zip(samples.values["cold"], samples.values["torchrun"], strict=True))
    yield Ratio("train-launch", "cold", "dtk - torchrun, s", over, "<= 1", said(samples, "cold", "torchrun"))
    yield Ratio("train-launch", "warm", "dtk, s", tuple(samples.values["warm"]), "<= 1", said(samples, "warm"))
    if "ray" in systems:
        over = tuple(a - b for a, b in zip(samples.values["ray"], samples.values["torchrun"], strict=True))
        yield Ratio("train-launch", "Ray Train", "ray - torchrun, s", over, "", said(samples, "ray"))
    else:
        yield Ratio("train-launch", "Ray Train", "ray - torchrun, s", (), "", "pip install 'ray[train]'")


def hello() -> None:
    """Sum a number over the ranks."""
    total = torch.ones(1)
    distributed.all_reduce(total)
    assert float(total) == distributed.get_world_size()


def dtk_launch(client: Any, *, spare_s: float) -> float:
    """Launch on workers that have no process ready, or where a launch was before."""
    from dtk import launch

    client.run(dask.config.set, {"dtk.spare-s": spare_s})
    if spare_s:
        launch(hello, ranks=RANKS)
        wait_until_idle(client)
    else:
        wait_until_idle(client, spares=0)
    return seconds(lambda: launch(hello, ranks=RANKS))


def wait_until_idle(client: Any, spares: int = RANKS) -> None:
    """Wait until the workers have so many processes ready, and these do nothing more."""
    workers = [psutil.Process(pid) for pid in client.run(lambda: __import__("os").getpid()).values()]
    before = -1.0
    while True:
        children = [child for worker in workers for child in worker.children()]
        used = sum(sum(child.cpu_times()[:2]) for child in children)
        if len(children) == spares and used == before:
            return
        before = used
        time.sleep(1)


def torchrun(script: Path) -> None:
    """Launch a script that does the same."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [f"--nproc-per-node={RANKS}", "--master-addr=127.0.0.1", f"--master-port={port}"]
    command = [sys.executable, "-m", "torch.distributed.run", *options, str(script)]
    subprocess.run(command, check=True, capture_output=True)


def import_ray() -> None:
    """Start Ray, on this machine alone."""
    import logging

    import ray

    warnings.filterwarnings("ignore", category=FutureWarning)
    ray.init(num_cpus=RANKS + 1, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)


def ray_train() -> None:
    """Launch the same on Ray's workers."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    with tempfile.TemporaryDirectory() as scratch:
        scaling = ScalingConfig(num_workers=RANKS, resources_per_worker={"CPU": 1})
        TorchTrainer(hello, scaling_config=scaling, run_config=RunConfig(storage_path=scratch)).fit()


def seconds(call: Callable[[], None]) -> float:
    """Time a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def said(samples: Samples, *names: str) -> str:
    """Tell the seconds behind a difference."""
    return ", ".join(f"{name} {sorted(samples.values[name])[len(samples.values[name]) // 2]:.2f} s" for name in names)
