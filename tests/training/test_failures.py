"""Every way in which a training is interrupted, for real: it goes on, or says why not, and nothing is lost or left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
import torch
from distributed import Client

import dtk
from dtk.errors import CheckpointError, ClusterError, MemoryLimitError, RankError
from dtk.training.checkpoints.directory import Checkpoint
from dtk.training.fitting import train
from dtk.training.recovery import RECOVERY
from tests.training.harm import BATCH, ROWS, Counting, kill, moment, pids, told, when, write_numbered

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_rank_left")]

EPOCHS = 3


class Cluster:
    """A scheduler, and workers that nobody restarts, each a process of its own."""

    def __init__(self, folder):
        self.file = str(folder / "scheduler.json")
        self.scheduler = self._start("dask_scheduler", "--host", "127.0.0.1", "--port", "0")
        self.workers = []

    def add_worker(self):
        self.workers.append(self._start("dask_worker", "--no-nanny", "--nthreads", "1", "--memory-limit", "3GiB"))

    def _start(self, what, *options):
        command = [sys.executable, "-W", "ignore", "-m", f"distributed.cli.{what}", "--scheduler-file", self.file]
        return subprocess.Popen([*command, "--no-dashboard", *options], stderr=subprocess.DEVNULL)

    def end(self):
        for process in [*self.workers, self.scheduler]:
            process.kill()
            process.wait()


@pytest.fixture
def cluster_of_two(tmp_path):
    cluster = Cluster(tmp_path)
    try:
        for _ in range(2):
            cluster.add_worker()
        with Client(scheduler_file=cluster.file, timeout=60) as client:
            client.wait_for_workers(2)
            yield cluster
    finally:
        cluster.end()


@pytest.fixture
def run(tmp_path):
    data = write_numbered(tmp_path / "data.parquet")

    def run(module=None, **options):
        loaders = [
            dtk.Loader(data, target="y", global_batch_size=BATCH, memory="64 MiB", **more)
            for more in ({}, {"tail": "pad", "shuffle": False})
        ]
        checkpoint = Checkpoint(str(tmp_path / "checkpoints"), every_steps=5, every_s=None)
        defaults = {"epochs": EPOCHS, "learning_rate": 0.01, "ranks": 2, "progress": True, "hang_timeout_s": 120}
        module = Counting(tmp_path) if module is None else module
        options = {"validation": loaders[1], "checkpoint": checkpoint} | defaults | options
        return train(module, loaders[0], **options)

    return run


_uninterrupted = {}  # the state and the losses of a training that nothing happens to: the same for all tests here


@pytest.fixture
def whole(run, tmp_path):
    """Tell whether a training ended as one does that nothing happens to."""

    def check(bundle, *, equal=True):
        assert [entry["samples"] for entry in bundle.history] == [ROWS] * EPOCHS
        assert bundle.module.seen.unique().numel() == 1  # each sample as often as any other, in the past of this one
        if not equal:
            return
        if not _uninterrupted:
            (tmp_path / "whole").mkdir()
            other = run(Counting(tmp_path / "whole", 0), checkpoint=None, progress=False)
            _uninterrupted["state"] = other.module.state_dict()
            _uninterrupted["losses"] = [entry["loss"] for entry in other.history]
        state, expected = bundle.module.state_dict(), _uninterrupted["state"]
        assert all(torch.equal(state[name], expected[name]) for name in expected)
        assert [entry["loss"] for entry in bundle.history] == _uninterrupted["losses"]

    return check


@pytest.fixture
def harm(tmp_path):
    """Do things to a training, one after the other, each at its time."""
    over, threads = threading.Event(), []

    def harm(*deeds):
        def do():
            for phase, count, act in deeds:
                when(moment(tmp_path, tmp_path / "checkpoints", phase, count), act, over).join()

        threads.append(threading.Thread(target=do))
        threads[-1].start()

    yield harm
    over.set()
    for thread in threads:
        thread.join()


def killer(folder, whom, ranks):
    return lambda: kill(folder, whom, ranks)


@pytest.mark.parametrize(
    ("phase", "whom", "rank"),
    [
        pytest.param("backward", "rank", 1, marks=pytest.mark.soak),
        ("checkpoint", "both", 1),
        pytest.param("validation", "worker", 0, marks=pytest.mark.soak),
    ],
)
def test_killed_twice_it_ends_as_if_nothing_had_happened(small_cluster, run, whole, harm, tmp_path, phase, whom, rank):
    act = killer(tmp_path, whom, [rank])
    harm((phase, 5, act), (phase, 7, act))
    whole(run())


def test_without_a_replacement_it_shrinks_and_with_one_it_grows_again(cluster_of_two, run, whole, harm, tmp_path):
    def add_worker():
        cluster_of_two.add_worker()
        return True

    harm(
        ("training", 10, killer(tmp_path, "both", [1])),
        ("training", 12, add_worker),
    )
    bundle = run(Counting(tmp_path, 0.3), ranks=(1, 2))
    whole(bundle, equal=False)
    by_rank = [{path.name.split("-")[2] for path in tmp_path.glob(f"steps-{rank}-*")} for rank in range(2)]
    assert len(by_rank[0]) == 3  # with two, alone, with two
    assert len(by_rank[1]) == 2


class Harming(Counting):
    """Does something to its own rank, once."""

    def __init__(self, folder, what, at=25, rank=1, pause_s=0.03):
        super().__init__(folder, pause_s)
        self.what, self.at, self.rank = what, at, rank

    def act(self, phase):
        flag = os.path.join(self.folder, "harmed")
        is_due = phase == "training" and told_by_this(self.folder) >= self.at
        if is_due and os.environ.get("RANK") == str(self.rank) and not os.path.exists(flag):
            open(flag, "w").close()
            HARMS[self.what](self)


def told_by_this(folder):
    return os.path.getsize(os.path.join(folder, f"steps-{os.environ.get('RANK', '0')}-{os.getpid()}"))


def hoard(module):
    held = []
    while True:
        held.append(b"x" * (200 * 2**20))
        time.sleep(0.02)


def stumble(module):
    raise KeyError("boo")


def segfault(module):
    import ctypes

    ctypes.string_at(0)


HARMS = {"hang": lambda module: time.sleep(600), "hoard": hoard, "stumble": stumble, "segfault": segfault}


@pytest.mark.parametrize("what", ["hang", pytest.param("segfault", marks=pytest.mark.soak)])
def test_a_rank_that_hangs_or_crashes_is_replaced(small_cluster, run, whole, tmp_path, capfd, what):
    bundle = run(Harming(tmp_path, what), hang_timeout_s=6)
    assert "restart 1 of 3" in capfd.readouterr().err
    whole(bundle)


@pytest.mark.parametrize(
    ("what", "text", "cause"),
    [
        ("stumble", "rank 1 .* raised KeyError: 'boo'", KeyError),
        pytest.param("hoard", "more than its share of", MemoryLimitError, marks=pytest.mark.soak),
    ],
)
@pytest.mark.soak
def test_what_would_happen_again_is_not_tried_again(small_cluster, run, whole, tmp_path, what, text, cause):
    with pytest.raises(RankError, match=text) as caught:
        run(Harming(tmp_path, what))
    assert isinstance(caught.value.__cause__, cause)
    assert len(list((tmp_path / "checkpoints" / "claims").iterdir())) == 1
    whole(run())  # goes on from the checkpoint before
    assert len(list((tmp_path / "checkpoints" / "claims").iterdir())) == 2


def last_step(tmp_path):
    manifest = max((tmp_path / "checkpoints").glob("step-*/checkpoint.json"))
    return json.loads(manifest.read_text())["checkpoint"]["step"]


def steps_taken(tmp_path):
    """Count the steps of the gang, where there was one only."""
    (path,) = tmp_path.glob("steps-0-*")
    return path.stat().st_size


def until_gone(tmp_path, timeout_s=90):
    end = time.monotonic() + timeout_s
    while pids(tmp_path) and time.monotonic() < end:
        time.sleep(0.2)
    assert not pids(tmp_path)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.soak), signal.SIGUSR1])
def test_a_rank_that_is_told_to_leave_takes_all_with_it_and_a_checkpoint(
    small_cluster, run, whole, harm, tmp_path, number
):
    def tell():
        os.kill(pids(tmp_path)[1], number)
        return True

    harm(("training", 2 * 22, tell))
    with pytest.raises(ClusterError, match=rf"left before the end \(signal {number.name}\), with a checkpoint"):
        run()
    assert last_step(tmp_path) == steps_taken(tmp_path) >= 22
    whole(run())


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.soak)])
@pytest.mark.soak
def test_ranks_of_a_worker_that_is_told_to_leave_take_a_checkpoint(cluster_of_two, run, whole, harm, tmp_path, number):
    def tell():
        psutil.Process(pids(tmp_path)[1]).parent().send_signal(number)
        cluster_of_two.add_worker()
        return True

    harm(("training", 2 * 22, tell))
    bundle = run()
    whole(bundle)
    steps = max(path.stat().st_size for path in tmp_path.glob("steps-0-*"))
    assert told(tmp_path, "steps") <= 2 * EPOCHS * (ROWS // BATCH) + 2  # no step was taken twice
    assert steps < EPOCHS * (ROWS // BATCH)  # but by two gangs


class Thorough(Counting):
    """Validates for longer than there is time to leave, until it is told that it may hurry."""

    def act(self, phase):
        if phase == "validation" and not os.path.exists(os.path.join(self.folder, "hurry")):
            time.sleep(2.5)


def test_ranks_leave_in_a_validation_that_takes_longer_than_they_have(cluster_of_two, run, whole, harm, tmp_path):
    assert RECOVERY.grace_s < 2.5 * ROWS / BATCH

    def tell():
        psutil.Process(pids(tmp_path)[1]).parent().send_signal(signal.SIGTERM)
        cluster_of_two.add_worker()
        time.sleep(5)
        (tmp_path / "hurry").touch()
        return True

    harm(("validation", 4, tell))
    bundle = run(Thorough(tmp_path))
    whole(bundle)
    assert told(tmp_path, "steps") == 2 * EPOCHS * (ROWS // BATCH)  # no step was taken twice
    first, *_ = sorted(tmp_path.glob("validations-0-*"), key=lambda path: path.stat().st_mtime)
    assert 2 <= first.stat().st_size < ROWS // BATCH  # it left in the middle


@pytest.mark.soak
def test_without_its_scheduler_it_ends_with_an_error_and_a_checkpoint(cluster_of_two, run, whole, harm, tmp_path):
    def end_scheduler():
        cluster_of_two.scheduler.kill()
        return True

    harm(("training", 2 * 22, end_scheduler))
    with pytest.raises(ClusterError, match="the scheduler is gone, or cannot be reached"):
        run()
    until_gone(tmp_path)
    assert last_step(tmp_path) == steps_taken(tmp_path) >= 22
    other = tmp_path / "other"
    other.mkdir()
    cluster = Cluster(other)
    try:
        cluster.add_worker()
        cluster.add_worker()
        with Client(scheduler_file=cluster.file, timeout=60) as client:
            client.wait_for_workers(2)
            whole(run())
    finally:
        cluster.end()


@pytest.mark.soak
def test_a_closed_client_leaves_a_checkpoint(cluster_of_two, run, whole, harm, tmp_path):
    with Client(scheduler_file=cluster_of_two.file) as client:

        def close():
            client.close()
            return True

        harm(("training", 2 * 22, close))
        with pytest.raises(ClusterError, match="the client was closed while its ranks ran"):
            run()
    assert last_step(tmp_path) >= 20
    with Client(scheduler_file=cluster_of_two.file):
        whole(run())


CLIENT = """
import sys
import dtk
from distributed import Client
from dtk.training.checkpoints.directory import Checkpoint
from tests.training.harm import BATCH, Counting

if __name__ == "__main__":
    folder = sys.argv[1]
    with Client(scheduler_file=f"{folder}/scheduler.json"):
        loader = dtk.Loader(f"{folder}/data.parquet", target="y", global_batch_size=BATCH, memory="64 MiB")
        checkpoint = Checkpoint(f"{folder}/checkpoints", every_steps=5, every_s=None)
        dtk.train(Counting(folder, 0.1), loader, checkpoint=checkpoint, epochs=3, learning_rate=0.01, ranks=2)
"""


@pytest.mark.soak
def test_a_client_that_dies_leaves_no_rank_and_a_checkpoint(cluster_of_two, run, whole, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", CLIENT, str(tmp_path)], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 120
        while told(tmp_path, "steps") < 2 * 22:
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    until_gone(tmp_path)
    assert last_step(tmp_path) >= 20
    bundle = run(validation=None)
    assert [entry["samples"] for entry in bundle.history] == [ROWS] * EPOCHS
    assert bundle.module.seen.unique().tolist() == [EPOCHS]


class Waiting(Counting):
    """Waits in a step until another launch has claimed its directory."""

    def act(self, phase):
        claim = os.path.join(self.folder, "checkpoints", "claims", "00000002.json")
        while phase == "training" and told_by_this(self.folder) > 20 and not os.path.exists(claim):
            time.sleep(0.01)


@pytest.mark.soak
def test_the_second_of_two_that_use_one_directory_takes_it_over(small_cluster, run, tmp_path):
    def second():
        while told(tmp_path, "steps") <= 20:
            time.sleep(0.01)
        (tmp_path / "second").mkdir()
        found.append(run(Counting(tmp_path / "second", 0), ranks=1, progress=False))

    found = []
    thread = threading.Thread(target=second)
    thread.start()
    try:
        with pytest.raises(RankError, match="was claimed by launch 2: this one, 1, publishes nothing more") as caught:
            run(Waiting(tmp_path), ranks=1)
    finally:
        thread.join()
    assert isinstance(caught.value.__cause__, CheckpointError)
    assert [entry["samples"] for entry in found[0].history] == [ROWS] * EPOCHS
    assert found[0].module.seen.unique().numel() == 1


def test_a_directory_that_workers_do_not_share_is_refused_by_name(small_cluster, run, tmp_path):
    def enter(folder):
        os.makedirs(folder, exist_ok=True)
        os.chdir(folder)

    for number, worker in enumerate(small_cluster.nthreads()):
        small_cluster.run(enter, str(tmp_path / str(number)), workers=[worker])
    path = "/proc/self/cwd/checkpoints"  # every process has its own
    with pytest.raises(CheckpointError, match=f"checkpoint='{path}' is not shared: what worker .* on host .* wrote"):
        run(checkpoint=Checkpoint(path), progress=False)
    assert not list(tmp_path.glob("*/checkpoints/*"))
    with pytest.raises(CheckpointError, match=r"cannot be written: .*; give .* \(worker .* on host"):
        run(checkpoint=Checkpoint("/proc/checkpoints"), progress=False)
