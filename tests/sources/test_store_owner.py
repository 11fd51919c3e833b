"""One process at a time writes to a place in an object store."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import warnings

import dask.dataframe as dd
import fsspec
import pandas as pd
import pytest

import dtk
from dtk.sources import store_owner
from dtk.sources.spool_place import Place
from dtk.sources.store_owner import sole_owner


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(store_owner, "BEAT_S", 0.1)
    monkeypatch.setattr(store_owner, "SETTLE_S", 0.02)


@pytest.fixture
def place():
    memory = fsspec.filesystem("memory")
    memory.makedirs("/owned")
    yield Place.of("memory://owned/out")
    memory.rm("/owned", recursive=True)


def owner_of(place):
    return json.loads(place.cat_file(f"{place.root}/_data-1.owner"))


def write_owner(place, host, pid):
    told = {"id": "other", "host": host, "pid": pid, "beat": 0}
    place.call("pipe_file", f"{place.root}/_data-1.owner", json.dumps(told).encode())


def test_an_owner_gives_signs_of_life_and_leaves_nothing(place):
    with sole_owner(place, f"{place.root}/_data-1") as has_waited:
        first = owner_of(place)
        assert not has_waited
        assert (first["host"], first["pid"]) == (socket.gethostname(), os.getpid())
        while owner_of(place) == first:
            time.sleep(0.01)
    assert not place.exists(place.root)
    assert not [thread for thread in threading.enumerate() if thread.name == "dtk-spool-owner"]


@pytest.mark.parametrize("end", ["goes", "stops to beat"])
def test_another_owner_is_waited_for(place, end):
    write_owner(place, "elsewhere", 1)
    alive, started = threading.Event(), time.monotonic()

    def beat():
        for number in range(1, 20):
            time.sleep(0.04)
            told = json.loads(place.cat_file(f"{place.root}/_data-1.owner")) | {"beat": number}
            place.call("pipe_file", f"{place.root}/_data-1.owner", json.dumps(told).encode())
        alive.set()
        if end == "goes":
            place.call("rm_file", f"{place.root}/_data-1.owner")

    other = threading.Thread(target=beat)
    other.start()
    owner = sole_owner(place, f"{place.root}/_data-1")
    with pytest.warns(UserWarning, match="is being written by process 1 on elsewhere; waiting for it"):
        assert owner.__enter__()
    assert alive.is_set(), time.monotonic() - started
    owner.__exit__(None, None, None)
    other.join()


def test_a_process_of_this_host_that_was_killed_is_not_waited_for(place):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    write_owner(place, socket.gethostname(), process.pid)
    with sole_owner(place, f"{place.root}/_data-1") as has_waited:
        assert not has_waited


def test_an_owner_who_lost_the_place_leaves_it_to_the_other(place):
    with sole_owner(place, f"{place.root}/_data-1"):
        write_owner(place, "elsewhere", 1)
    assert owner_of(place)["id"] == "other"


def test_two_that_spool_the_same_do_it_once(place):
    done, errors = [], []

    def slowly(frame):
        done.append(len(frame))
        time.sleep(0.05)
        return frame

    data = dd.from_pandas(pd.DataFrame({"x": range(12)}), npartitions=2).map_partitions(slowly, meta={"x": int})

    def spool():
        try:
            assert len(dtk.spool(data, place.path)) == 12
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=spool) for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one of them waits, or comes when all is there
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
    assert sum(done) == 12
    assert len(fsspec.filesystem("memory").find("/owned")) == 3
