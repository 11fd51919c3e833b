"""What ranks tell: one message a gang, with the figures of all its ranks, and no more than so much."""

from __future__ import annotations

import json
import math
import time
from datetime import timedelta

import msgpack
import pytest
from torch.distributed import TCPStore

from dtk.progress import Progress
from dtk.runtime import pack
from dtk.training import events as events_module
from dtk.training.events import MOST_RANKS, Events, rank_key
from dtk.training.gang import plan_gang, run_gang
from dtk.training.rank import current_rank
from dtk.training.run import _ShowBeat


@pytest.fixture
def store():
    return TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=30), wait_for_workers=False)


def gang_of(ranks, store, publish):
    events = [Events(rank, ranks, publish) for rank in range(ranks)]
    for rank, one in enumerate(events):
        store.set(rank_key(rank), "started")
        one.open(TCPStore("127.0.0.1", store.port, is_master=False, timeout=timedelta(seconds=30)))
    return events


def test_rank_0_tells_for_all(store):
    told = []
    first, second, third = gang_of(3, store, told.append)
    second.tell({"phase": "training", "step": 7, "loss": 0.123456789, "wait_s": 1.5, "entry": None})
    second.close()
    first.tell({"phase": "training", "step": 8, "loss": math.nan, "entry": {"epoch": 1}})
    first.tell({"phase": "training", "step": 9, "loss": 0.5, "entry": None})
    first.tell({"phase": "validation"})
    first.close()
    third.close()  # it has told nothing, and nobody waits for it
    (message,) = told
    ranks = message.pop("ranks")
    assert message == {"phase": "validation", "step": 9, "loss": 0.5, "entries": [{"epoch": 1}]}
    assert ranks["rank"] == [0, 1, 2]
    assert ranks["step"] == [9, 7, None]
    assert ranks["loss"] == [0.5, 0.123457, None]
    assert ranks["wait_s"] == [None, 1.5, None]
    assert all(value > 0 for name in ("held_nbytes", "cpu_s") for value in ranks[name][:2])


def test_rank_0_tells_on_while_it_waits_for_another(store):
    told = []
    first, second = gang_of(2, store, told.append)
    first.tell({"step": 3, "entry": {"epoch": 1}})
    end = time.monotonic() + 60
    while len(told) < 3 and time.monotonic() < end:
        time.sleep(0.05)
    second.tell({"step": 2})
    second.close()
    heard = len(told)
    while len(told) < heard + 2 and time.monotonic() < end:
        time.sleep(0.05)
    first.close()
    assert [message["entries"] for message in told[:3]] == [[{"epoch": 1}], [], []]
    assert told[-1]["ranks"]["step"] == [3, 2]
    assert told[2]["ranks"]["silent_s"][0] > 0


def test_a_thousand_ranks_send_no_more_than_some(store):
    told = []
    first, *_ = gang_of(1, store, told.append)
    first = Events(0, 1000, told.append)
    first.open(store)
    for rank in range(1000):
        own = {f"figure_{number}": rank + number / 7 for number in range(100)} | {"step": 50 - (rank == 900)}
        store.set(rank_key(rank), json.dumps(events_module.figures(dict(reversed(own.items())))))
    first.tell({"step": 50})
    first.close()
    (message,) = told
    assert len(message["ranks"]["rank"]) == MOST_RANKS
    assert 900 in message["ranks"]["rank"]  # it is behind
    assert len(msgpack.packb(message)) < 2**15


def test_a_gang_tells_of_every_rank(client):
    def tell():
        rank = current_rank()
        for step in range(4):
            rank.report(lambda step=step: {"phase": "training", "step": step, "samples": 10 * rank.rank})
            time.sleep(0.6)

    heard = []
    gang = plan_gang(client, 2)
    run_gang(client, gang, "gang", pack((tell, (), {})), hang_timeout_s=60, env={}, on_beat=heard.append)
    assert [message["step"] for message in heard] == sorted(message["step"] for message in heard)
    last = heard[-1]
    assert last["step"] == 3
    assert last["memory_nbytes"] > 0
    assert last["ranks"]["rank"] == (0, 1)  # as msgpack brings lists
    assert last["ranks"]["samples"] == (0, 10)
    assert min(last["ranks"]["held_nbytes"]) > 2**20


def test_the_progress_names_the_rank_that_waits_for_data_and_the_one_that_is_silent(capsys):
    told = {"epoch": 1, "epochs": 2, "step": 3, "loss": 0.5, "samples": 100, "wait_s": 0.0, "memory_nbytes": 2**20}
    ranks = {"rank": (0, 1, 2), "silent_s": (0.1, 0.2, 9.0), "wait_s": (0.0, 900.0, None), "held_nbytes": (1, 2**31, 5)}
    entry = {"epoch": 1, "loss": 0.25, "samples_per_s": 10, "wait_share": 0.5}
    with Progress("training", 10, every_s=0) as bar:
        show = _ShowBeat(bar)
        show(told | {"phase": "validation", "entries": [entry], "ranks": ranks})
        show(told | {"phase": "training", "entries": [], "ranks": ranks})
    epoch, line = capsys.readouterr().err.splitlines()[:2]
    assert epoch == "epoch 1/2: loss 0.2500, 10 samples/s, 50% waiting for data"
    assert "100% waiting for data (rank 1), 2.0 GiB, rank 2 silent" in line
