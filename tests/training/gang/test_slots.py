"""Gangs that want the same workers: one has all that it needs, the other waits and says for whom."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time

import pytest

from dtk.errors import ClusterError
from dtk.runtime import held_slots, take_slots, workers_of
from dtk.training.gang.launching import launch, reserved

pytestmark = pytest.mark.usefixtures("no_rank_left")


def until(condition, timeout_s=60.0):
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_the_second_gang_waits_for_the_first_and_says_so(client):
    told, order = [], []

    def second():
        with reserved(client, 1, say=told.append):
            order.append("second")

    with reserved(client, 2) as (name, gang):
        assert held_slots(client) == {name: {worker.address: 1 for worker in gang.workers}}
        thread = threading.Thread(target=second)
        thread.start()
        assert until(lambda: told)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert told == [f"ranks=1 wait for {name}, which hold(s) the cluster's slots"]
    assert held_slots(client) == {}


def test_two_gangs_share_two_workers(client):
    with reserved(client, 1) as (_, one), reserved(client, 1) as (_, other):
        assert {one.workers[0].address, other.workers[0].address} == {one.address for one in workers_of(client)}


def test_a_gang_bigger_than_the_cluster_is_refused_and_waits_for_nobody(client):
    with pytest.raises(ClusterError, match="ranks=3 exceed the cluster's 2 slots"):
        launch(print, ranks=3)
    assert held_slots(client) == {}


def test_what_a_client_holds_goes_with_it(client):
    script = """
        import sys
        from distributed import Client
        from dtk.training.gang.launching import reserved
        with Client(sys.argv[1]) as client, reserved(client, 2):
            print("has", flush=True)
            sys.stdin.read()
    """
    arguments = [sys.executable, "-c", textwrap.dedent(script), client.scheduler.address]
    other = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "has\n"
        assert len(held_slots(client)) == 1
    finally:
        other.kill()
        other.communicate()
    assert until(lambda: held_slots(client) == {})


def test_what_was_taken_meanwhile_or_is_gone_is_not_had(client):
    first, second = (worker.address for worker in workers_of(client))
    room = {first: 1, second: 1, "tcp://127.0.0.1:1": 1}
    with reserved(client, 1) as (_, gang):
        free = {first: 1, second: 1}
        free.pop(gang.workers[0].address)
        assert not take_slots(client, "other", {first: 1, second: 1}, room)
        assert not take_slots(client, "other", free | {"tcp://127.0.0.1:1": 1}, room)
        assert take_slots(client, "other", free, room)
        assert "other" in held_slots(client)
    client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.plugins["dtk-slots"].release("other"))


def test_workers_that_carry_ranks_are_not_retired(client):
    def to_close(dask_scheduler):
        return dask_scheduler.workers_to_close(n=2, attribute="address")

    assert until(lambda: len(client.run_on_scheduler(to_close)) == 2)
    with reserved(client, 1) as (_, gang):
        assert gang.workers[0].address not in client.run_on_scheduler(to_close)


def test_launches_follow_each_other(client, tmp_path):
    def wait():
        return until((tmp_path / "go").exists)

    threads = [threading.Thread(target=launch, args=(wait,), kwargs={"ranks": 2}) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert until(lambda: len(held_slots(client)) == 1)
    (tmp_path / "go").touch()
    for thread in threads:
        thread.join(60)
    assert held_slots(client) == {}
