"""Real workers and ranks that are killed in mid-training: it goes on from the last checkpoint, to the same weights."""

from __future__ import annotations

import os
import signal
import threading
import time

import psutil
import pytest
import torch
from distributed import Client
from torch import nn

import dtk
from dtk.errors import RankError
from dtk.training.checkpoints.directory import Checkpoint
from dtk.training.fitting import train
from tests.conftest import rank_processes
from tests.training.checkpoints.test_resuming import assert_equal, weights, write_data

pytestmark = pytest.mark.usefixtures("no_rank_left")


class Slow(nn.Module):
    """Takes a while for a step, and notes that it took it."""

    def __init__(self, folder, pause_s=0.05):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))
        self.folder, self.pause_s = str(folder), pause_s

    def forward(self, inputs):
        if len(inputs) > 2:
            with open(os.path.join(self.folder, f"steps-{os.getpid()}"), "a") as steps:
                steps.write(".")
            time.sleep(self.pause_s)
        return self.layers(inputs)


def once_trained(folder, steps, act):
    """Do something, on another thread, once a process has taken some steps."""

    def watch():
        end = time.monotonic() + 120
        while time.monotonic() < end:
            if any(path.stat().st_size >= steps for path in folder.glob("steps-*")):
                act()
                return
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def of_rank(number):
    return next(process for process in rank_processes() if process.environ()["RANK"] == str(number))


def kill_rank():
    of_rank(1).kill()


def kill_worker_of_rank_0():
    psutil.Process(of_rank(0).ppid()).kill()


def kill_worker_and_rank():
    rank = of_rank(1)
    worker = psutil.Process(rank.ppid())
    os.kill(worker.pid, signal.SIGKILL)
    os.kill(rank.pid, signal.SIGKILL)


@pytest.fixture
def run(small_cluster, tmp_path):
    def run(**options):
        loader = dtk.Loader(write_data(tmp_path), target="y", global_batch_size=64, memory="64 MiB")
        options = {"epochs": 4, "learning_rate": 0.01, "progress": True, "ranks": 2} | options
        checkpoint = Checkpoint(str(tmp_path / "checkpoints"), every_steps=5, every_s=None)
        return train(Slow(tmp_path), loader, checkpoint=checkpoint, **options)

    return run


@pytest.fixture(scope="module")
def uninterrupted(cluster, tmp_path_factory):
    """The same training, of the same data, that nothing happens to."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    loader = dtk.Loader(write_data(folder), target="y", global_batch_size=64, memory="64 MiB")
    with Client(cluster):
        return train(Slow(folder, 0), loader, epochs=4, learning_rate=0.01, ranks=2)


@pytest.mark.parametrize("kill", [kill_rank, kill_worker_of_rank_0, kill_worker_and_rank])
def test_a_training_survives(uninterrupted, run, tmp_path, kill, capfd):
    thread = once_trained(tmp_path, 22, kill)
    survived = run()
    thread.join()
    told = capfd.readouterr().err
    assert "restart 1 of 3" in told
    assert_equal(weights(survived), weights(uninterrupted))
    for name in ("samples", "loss"):
        assert [entry[name] for entry in survived.history] == [entry[name] for entry in uninterrupted.history]


def test_too_many_failures_are_an_error(run, tmp_path):
    thread = once_trained(tmp_path, 12, kill_rank)
    with pytest.raises(RankError, match="rank 1 .* died: signal SIGKILL"):
        run(max_restarts=0)
    thread.join()
