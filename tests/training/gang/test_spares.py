"""Processes that wait to be ranks: taken where they fit, as few as promised, and gone with their worker."""

from __future__ import annotations

import os
import sys
import time

import dask
import psutil
import pytest
from distributed import Client, LocalCluster

from dtk.training.gang.launching import launch
from tests.conftest import rank_processes

pytestmark = pytest.mark.usefixtures("no_rank_left")


def who():
    names = ("RANK", "WORLD_SIZE", "MASTER_PORT", "EXTRA")
    return os.getpid(), [os.environ.get(name) for name in names]


def spares(count, timeout_s=60.0):
    """Wait for a number of spares of this module's workers."""
    end = time.monotonic() + timeout_s
    while len(found := {process.pid for process in rank_processes(spares=True) if is_own(process)}) != count:
        assert time.monotonic() < end, found
        time.sleep(0.05)
    return found


def is_own(process):
    try:
        return "DTK_TEST_SPARES" in process.environ()
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def client():
    with (
        pytest.MonkeyPatch.context() as patch,
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            env={"DTK_TEST_SPARES": "1"},
        ) as cluster,
        Client(cluster) as client,
    ):
        patch.setenv("DTK_TEST_SPARES", "1")  # for workers that are threads of this process
        yield client
    spares(0)


def test_a_launch_takes_the_spares_that_the_one_before_left(client):
    launch(who, ranks=2)
    waiting = spares(2)
    (first, one), (second, other) = launch(who, ranks=2)
    assert {first, second} == waiting
    assert [one[:2], other[:2]] == [["0", "2"], ["1", "2"]]
    assert one[2] == other[2]
    assert spares(2).isdisjoint(waiting)


@pytest.mark.slow
def test_a_spare_has_loaded_what_the_rank_before_it_used_of_dtk(client):
    def load():
        import dtk.training.checkpoints.chronicle

        return dtk.training.checkpoints.chronicle.SUMMARY

    def loaded():
        return "dtk.training.checkpoints.chronicle" in sys.modules

    assert launch(loaded, ranks=2, env={"EXTRA": "2"}) == [False, False]
    launch(load, ranks=2)
    spares(2)
    assert launch(loaded, ranks=2) == [True, True]


@pytest.mark.slow
@pytest.mark.soak
def test_a_rank_of_another_environment_is_started_anew(client):
    launch(who, ranks=2)
    waiting = spares(2)
    ranks = launch(who, ranks=2, env={"EXTRA": "1"})
    assert waiting.isdisjoint(pid for pid, _ in ranks)
    assert [values[-1] for _, values in ranks] == ["1", "1"]
    assert spares(2).isdisjoint(waiting)  # the new ones take the place of the old ones


@pytest.mark.slow
@pytest.mark.soak
def test_a_spare_that_died_is_not_taken(client):
    launch(who, ranks=2)
    for pid in spares(2):
        psutil.Process(pid).kill()
    assert len(launch(who, ranks=2)) == 2


@pytest.mark.slow
def test_spares_end_when_nobody_needs_them(client):
    launch(who, ranks=2)
    spares(2)
    client.run(dask.config.set, {"dtk.spare-s": 0.1})
    try:
        spares(0)
        launch(who, ranks=2)
        spares(0)
    finally:
        client.run(dask.config.set, {"dtk.spare-s": 300})
    launch(who, ranks=2)


@pytest.mark.slow
def test_spares_go_with_a_killed_worker(client):
    launch(who, ranks=2)
    waiting = spares(2)
    pids = client.run(os.getpid)
    psutil.Process(next(iter(pids.values()))).kill()
    end = time.monotonic() + 60
    while len(left := [pid for pid in waiting if psutil.pid_exists(pid)]) > 1 and time.monotonic() < end:
        time.sleep(0.05)
    assert len(left) == 1
    client.wait_for_workers(2)
    launch(who, ranks=2)


@pytest.mark.slow
@pytest.mark.soak
def test_spares_go_with_a_worker_that_is_a_thread(client):
    before = len(spares(2))
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0"):
        launch(who, ranks=1)
        spares(before + 1)
    spares(before)
