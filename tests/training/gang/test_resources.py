"""Ranks go where their resources are, and leave those to nobody else meanwhile."""

from __future__ import annotations

import os
import threading

import pytest
from distributed import Client, Event, Scheduler, SpecCluster, Worker

from dtk.errors import ArgumentError, ClusterError, SlotsTakenError
from dtk.runtime import held_slots
from dtk.training.gang.launching import launch, reserved
from dtk.training.gang.planning import plan_gang

pytestmark = pytest.mark.usefixtures("no_rank_left")

OFFERS = [{"GPU": 2, "disk": 1}, None, {"GPU": 1.5}]


@pytest.fixture(scope="module")
def client():
    options = {"host": "127.0.0.1", "dashboard": False}
    workers = {
        number: {"cls": Worker, "options": options | {"nthreads": 2 + number, "resources": offer}}
        for number, offer in enumerate(OFFERS)
    }
    scheduler = {"cls": Scheduler, "options": options | {"port": 0}}
    with SpecCluster(scheduler=scheduler, workers=workers) as cluster, Client(cluster) as client:
        yield client


@pytest.mark.parametrize(
    ("ranks", "resources", "expected"),
    [
        (None, {"GPU": 1}, ["0", "0", "2"]),
        (None, {"GPU": 0.5}, ["0", "0", "2", "2", "2"]),  # no more than threads, on worker 0
        (None, {"GPU": 1, "disk": 0.1}, ["0", "0"]),
        (2, {"GPU": 1}, ["0", "2"]),
        ((2, 9), {"GPU": 1.5}, ["0", "2"]),
        ((1, 4), None, ["0", "0", "1", "2"]),
    ],
)
def test_ranks_go_where_the_resources_are(client, ranks, resources, expected):
    gang = plan_gang(client, ranks, resources=resources or {})
    assert [worker.name for worker in gang.workers] == expected


@pytest.mark.parametrize(
    ("ranks", "resources", "error", "text"),
    [
        (1, {"FPGA": 1}, ClusterError, "offered by none of the 3 worker.s., which offer GPU, disk; start workers"),
        (1, {"GPU": 3}, ClusterError, "offered by none"),
        (4, {"GPU": 1}, ClusterError, "ranks=4 exceed the cluster's 3 slots .2 worker.s., one slot a thread, and"),
        (1, {"GPU": 0}, ArgumentError, "resources={'GPU': 0} must map names to numbers above 0"),
    ],
)
def test_resources_that_are_not_there_are_named(client, ranks, resources, error, text):
    with pytest.raises(error, match=text):
        launch(print, ranks=ranks, resources=resources)


def test_what_others_hold_is_not_shared(client):
    with reserved(client, 3, resources={"GPU": 1}), pytest.raises(SlotsTakenError, match="ranks=1 wait for dtk-gang"):
        plan_gang(client, 1, held=held_slots(client), resources={"disk": 1})


def test_other_tasks_wait_for_the_resources_that_ranks_have(client, tmp_path):
    def wait():
        Event("go").wait()

    def rank():
        with Client(address) as own:
            Event("runs", client=own).set()
            Event("go", client=own).wait()
        return os.getppid()

    address = client.scheduler.address
    thread = threading.Thread(target=launch, args=(rank,), kwargs={"ranks": 2, "resources": {"GPU": 1.5}})
    thread.start()
    try:
        assert Event("runs").wait(60)
        other = client.submit(os.getpid, resources={"GPU": 1}, pure=False)
        free = client.submit(os.getpid, pure=False)
        assert free.result(30) == os.getpid()
        assert not other.done()
    finally:
        Event("go").set()
        thread.join()
    assert other.result(30) == os.getpid()
