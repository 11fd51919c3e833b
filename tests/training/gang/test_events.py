"""What ranks tell: one message a gang, with the figures of all its ranks, and no more than so much."""

from __future__ import annotations

import json
import math
import os
import time
from datetime import timedelta

import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from torch.distributed import TCPStore

import dtk
from dtk.progress import Progress
from dtk.runtime import pack
from dtk.training.gang import events as events_module
from dtk.training.gang.events import MOST_RANKS, Events, rank_key
from dtk.training.gang.launching import run_gang
from dtk.training.gang.planning import plan_gang
from dtk.training.gang.rank import current_rank
from dtk.training.showing import ShowBeat


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


class Dawdling(nn.Module):
    """Takes longer on rank 1."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, inputs):
        if self.training and torch.is_grad_enabled() and os.environ.get("RANK") == "1":
            time.sleep(0.15)
        return self.layer(inputs)


class TellingSeconds(dtk.Callback):
    """Writes down where the seconds of each rank went."""

    def __init__(self, folder):
        self.folder = str(folder)

    def on_train_end(self, training):
        figures = {name: getattr(training, name) for name in ("wait_s", "sync_s", "compute_s")}
        with open(os.path.join(self.folder, str(training.rank)), "w") as file:
            json.dump(figures | {"entries": training.history}, file)


@pytest.mark.parametrize(
    ("weight", "accumulate"),
    [(None, 2), pytest.param("w", 1, marks=pytest.mark.slow)],  # ranks sum the latter, too
)
def test_ranks_tell_how_long_they_wait_for_the_slowest(client, tmp_path, weight, accumulate):
    x = np.linspace(-1, 1, 96, dtype="f4")
    pq.write_table(pa.table({"x": x, "y": 2 * x, "w": np.ones(96, "f4")}), tmp_path / "data.parquet")
    loader = dtk.Loader(tmp_path / "data.parquet", inputs=["x"], target="y", weight=weight, global_batch_size=16)
    telling = TellingSeconds(tmp_path)
    bundle = dtk.train(Dawdling(), loader, epochs=2, ranks=2, accumulate=accumulate, callbacks=[telling])
    first, second = (json.loads((tmp_path / str(rank)).read_text()) for rank in range(2))
    assert second["compute_s"] > 12 * 0.15  # of 12 batches
    assert first["sync_s"] > second["sync_s"] > 0
    assert first["sync_s"] > first["compute_s"]
    assert list(bundle.history) == first["entries"]
    for told in (first, second):
        for name in ("wait_s", "sync_s", "compute_s"):
            assert told[name] == pytest.approx(sum(entry[name] for entry in told["entries"]))
        for entry in told["entries"]:
            assert entry["seconds"] == pytest.approx(entry["wait_s"] + entry["sync_s"] + entry["compute_s"])
    *_, (_, last) = client.get_events("dtk-gangs")
    assert min(last["ranks"]["compute_s"]) > 0
    assert len(last["ranks"]["sync_s"]) == len(last["ranks"]["wait_s"]) == 2


def test_the_progress_names_the_rank_that_waits_for_data_and_the_one_that_is_silent(capsys):
    told = {"epoch": 1, "epochs": 2, "step": 3, "loss": 0.5, "samples": 100, "wait_s": 0.0, "memory_nbytes": 2**20}
    told |= {"sync_s": 900.0}
    ranks = {"rank": (0, 1, 2), "silent_s": (0.1, 0.2, 9.0), "wait_s": (0.0, 900.0, None), "held_nbytes": (1, 2**31, 5)}
    ranks |= {"sync_s": (900.0, 0.0, None)}
    entry = {"epoch": 1, "loss": 0.25, "samples_per_s": 10, "wait_share": 0.5, "sync_s": 1.0, "seconds": 10.0}
    with Progress("training", 10, every_s=0) as bar:
        show = ShowBeat(bar)
        show(told | {"phase": "validation", "entries": [entry], "ranks": ranks})
        show(told | {"phase": "training", "entries": [], "ranks": ranks})
    epoch, line = capsys.readouterr().err.splitlines()[:2]
    assert epoch == "epoch 1/2: loss 0.2500, 10 samples/s, 50% waiting for data, 10% waiting for other ranks"
    assert "100% waiting for data (rank 1), 100% waiting for other ranks (rank 0), 2.0 GiB, rank 2 silent" in line
    with Progress("training", 10, every_s=0) as bar:  # one rank alone
        ShowBeat(bar)(told | {"phase": "training", "entry": None, "sync_s": 0.0})
    assert "0% waiting for data, 1.0 MiB" in capsys.readouterr().err
