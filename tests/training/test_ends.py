"""The ways that a launch ends which is not its own fault: its workers go, its client goes, the user has enough."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import psutil
import pytest
from torch import distributed

from dtk.errors import ClusterError
from dtk.runtime import held_slots, workers_of
from dtk.training.gang.launching import launch
from dtk.training.gang.reserving import reserved

pytestmark = pytest.mark.usefixtures("no_rank_left")


def wait_for_ever():
    time.sleep(600)


def once_ranks_run(until_ranks_run, count, act):
    """Do something, on another thread, once so many ranks run."""

    def watch():
        act(until_ranks_run(count))

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def run_beside(client, body):
    """Start a script with a client of its own."""
    script = f"""
import sys, time
import dtk
from distributed import Client
if __name__ == "__main__":
    with Client(sys.argv[1]) as client:
{textwrap.indent(textwrap.dedent(body), " " * 8)}
"""
    arguments = [sys.executable, "-c", script, client.scheduler.address]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_worker_that_is_retired_is_named(small_cluster, until_ranks_run):
    victim = workers_of(small_cluster)[1].address
    thread = once_ranks_run(until_ranks_run, 2, lambda _: small_cluster.retire_workers([victim]))
    with pytest.raises(ClusterError, match=f"worker {victim} was lost, and with it its ranks"):
        launch(wait_for_ever, ranks=2)
    thread.join()


@pytest.mark.slow
@pytest.mark.soak
def test_a_cluster_that_is_restarted_ends_its_ranks(small_cluster, until_ranks_run):
    thread = once_ranks_run(until_ranks_run, 2, lambda _: small_cluster.restart())
    with pytest.raises(ClusterError):
        launch(wait_for_ever, ranks=2)
    thread.join()
    assert launch(distributed.get_rank, ranks=2) == [0, 1]


@pytest.mark.slow
def test_ctrl_c_ends_the_ranks(client, until_ranks_run):
    other = run_beside(client, "dtk.launch(time.sleep, 600, ranks=2)")
    try:
        ranks = until_ranks_run(2)
        other.send_signal(signal.SIGINT)
        assert psutil.wait_procs(ranks, timeout=30)[1] == []
        assert "KeyboardInterrupt" in other.communicate(timeout=60)[1]
    finally:
        other.kill()
        other.communicate()
    assert held_slots(client) == {}


@pytest.mark.slow
def test_a_killed_client_ends_its_ranks(client, until_ranks_run):
    other = run_beside(client, "dtk.launch(time.sleep, 600, ranks=2)")
    ranks = until_ranks_run(2)
    other.kill()
    other.communicate()
    assert psutil.wait_procs(ranks, timeout=30)[1] == []
    assert launch(distributed.get_rank, ranks=2) == [0, 1]


@pytest.mark.slow
def test_a_gang_whose_client_dies_while_it_waits_takes_nothing(client):
    with reserved(client, 2) as (name, _):
        other = run_beside(client, "dtk.launch(time.sleep, 600, ranks=1)")
        assert f"ranks=1 wait for {name}" in other.stderr.readline()  # it says for whom
        other.kill()
        other.communicate()
    assert launch(distributed.get_rank, ranks=2) == [0, 1]
    assert held_slots(client) == {}


@pytest.mark.slow
@pytest.mark.soak
def test_an_adaptive_cluster_brings_workers_and_keeps_them():
    from distributed import Client, LocalCluster

    def stay():
        time.sleep(4)
        return os.getppid()

    options = {"threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=3, **options) as cluster, Client(cluster) as client:
        adaptive = cluster.adapt(minimum=0, maximum=3, interval="100ms", wait_count=2)
        until_workers(client, 0)
        assert len(set(launch(stay, ranks=2))) == 2  # asked for, and kept though they are idle to Dask
        assert adaptive.minimum == 0
        until_workers(client, 0)
        with pytest.raises(ClusterError, match="ranks=4 exceed the cluster's 3 slots"):
            launch(stay, ranks=4)


def until_workers(client, count):
    end = time.monotonic() + 60
    while len(client.nthreads()) != count:
        assert time.monotonic() < end
        time.sleep(0.1)
