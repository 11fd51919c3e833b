"""The loader over remote data: the same batches as over local files, within its bytes, and a clean end at any time."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import dask.config
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import xarray as xr

import dtk
from benchmarks.object_server import serve
from dtk.errors import DataError, FetchError, MemoryLimitError
from dtk.loader import Loader, joining
from dtk.loader.ahead import _LEAST_NBYTES, _MOST, Ahead, fetch_limit_nbytes, give_up
from dtk.sources import as_source, datasets, remote, remote_parquet, windows_of
from dtk.sources.kept_files import FOOTERS
from dtk.sources.remote import FetchCost, Retries

GROUP, KIB = 500, 1024


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("ahead")
    (path / "table").mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        table = pa.table({**{f"x{at}": rng.random(3000, np.float32) for at in range(6)}, "y": rng.integers(0, 2, 3000)})
        pq.write_table(table, path / "table" / f"{number}.parquet", row_group_size=GROUP)
    grid = xr.Dataset({"x": (("t", "a", "b"), rng.random((300, 64, 8), np.float32)), "y": (("t",), np.arange(300.0))})
    encoding = {"x": {"chunks": (4, 32, 8), "shards": (20, 64, 8)}, "y": {"chunks": (20,)}}
    grid.to_zarr(path / "grid", encoding=encoding, consolidated=False)
    (path / "series").mkdir()
    for number in range(3):
        time = np.delete(np.arange(500), [222, 223]) + 500 * number  # with a gap, and one step from file to file
        values = {"time": time, "load": rng.random(498), "w": rng.random(498), "x": rng.random(498), "y": time % 2}
        pq.write_table(pa.table(values), path / "series" / f"{number}.parquet", row_group_size=100)
    return path


@pytest.fixture(scope="module")
def module_server(directory):
    pytest.importorskip("aiohttp")  # what fsspec speaks HTTP with
    with serve(directory) as server:
        yield server


@pytest.fixture
def server(module_server, monkeypatch):
    monkeypatch.setattr(remote, "RETRIES", Retries(attempts=3, first_s=0.01))
    module_server.behave()
    return module_server


def loaders(directory, server, kind, **options):
    """Return the loaders of local and of remote data; there is memory enough for the same pool in both."""
    options = {"target": "y", "global_batch_size": 64, "memory": "1 GiB"} | options
    places = str(directory), server.url
    if kind == "derived":
        data = [dtk.open(f"{place}/series/") for place in places]
        return [Loader(one.assign(x=one.x + one.w), **options) for one in data]
    if kind == "expression":
        data = [dtk.open(f"{place}/table/") for place in places]
        return [Loader(one[one.x0 < 0.5].assign(z=one.x1 + one.x2), **options) for one in data]
    return [Loader(f"{place}/{kind}/", **options) for place in places]


def read_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("dtk-read")]


@pytest.mark.parametrize("kind", ["table", "grid", "expression"])
def test_batches_equal_those_of_local_files(directory, server, kind):
    local, there = loaders(directory, server, kind)
    server.behave(fail=4)
    check_the_same(there, local)


def check_the_same(there, local):
    assert there.plan.order.digest == local.plan.order.digest
    assert there.plan.fetch_nbytes > local.plan.fetch_nbytes == 0
    for _ in range(2):
        batches = 0
        for ours, theirs in zip(there, local, strict=True):
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)
            batches += 1
        assert batches == len(local) > 1


def test_the_plan_counts_requests_and_bytes(directory, server):
    local, there = loaders(directory, server, "table")
    assert (local.plan.num_requests(1), local.plan.fetch_nbytes) == (24 * 7, 0)
    assert there.plan.num_requests(1) == 4 + 24  # a footer each, and one for each row group
    assert there.plan.fetch_nbytes == max(there.plan.epoch_nbytes, 24 * _LEAST_NBYTES)  # there is room for all
    extra = there.plan.memory_nbytes(1) - local.plan.memory_nbytes(1)
    assert extra == 4 * there.plan.fetch_nbytes  # on the way, and beside what is decoded of it
    assert there.plan.explain([1]).rows[0][4] == f"{4 + 24}"
    FOOTERS.clear()
    server.behave()
    for _ in there:
        pass
    counts = server.counts()
    assert counts["GET"] + counts.get("HEAD", 0) == there.plan.num_requests(1)


@pytest.mark.parametrize("columns", [[f"x{at}" for at in range(6)], ["x0"]])  # with next to nothing between, and more
def test_joined_row_groups_are_fetched_together(directory, server, columns, monkeypatch):
    monkeypatch.setattr(joining, "_POOL_BLOCKS", 6)  # two thousand rows
    local, there = loaders(directory, server, "table", inputs=columns)
    assert there.plan.order.join_rows == 2000
    check_the_same(there, local)
    assert there.plan.num_requests(1) == 4 + 8  # a footer each, and one for each run of three row groups
    FOOTERS.clear()
    server.behave()
    for _ in there:
        pass
    counts = server.counts()
    assert counts["GET"] + counts.get("HEAD", 0) == there.plan.num_requests(1)


@pytest.mark.parametrize("kind", ["series", "derived", "grid"])
@pytest.mark.parametrize("history", [1, 5, 130])  # within a chunk, into the next one, over whole ones
def test_windows_equal_those_of_local_files(directory, server, kind, history, monkeypatch):
    monkeypatch.setattr(datasets, "_LEAST_NBYTES", 1)  # chunks of the grid are small
    monkeypatch.setattr(windows_of, "_JOINED_NBYTES", 1)
    dim, target = ("t", "y") if kind == "grid" else ("time", "load")
    window = dtk.Window(dim, history=history, lead=[1, 3])
    local, there = loaders(directory, server, kind, window=window, target=target, inputs=["x"])
    check_the_same(there, local)
    server.behave()
    for _ in there:
        pass
    counts = server.counts()  # all that was asked for was fetched ahead, and once
    kept, slack = (0, 0.25) if kind == "grid" else (3, 0)  # footers; shards that are needed in part
    assert counts["GET"] + counts.get("HEAD", 0) + kept == pytest.approx(there.plan.num_requests(1), rel=slack)


@pytest.mark.parametrize("kind", ["series", "derived", "grid"])
def test_draws_equal_those_from_local_files(directory, server, kind, tmp_path):
    with dask.config.set({"dtk.cache-dir": str(tmp_path)}):
        given = {"inputs": ["x"], "target": None, "sampling": "y" if kind == "grid" else "w"}
        local, there = loaders(directory, server, kind, **given)
        check_the_same(there, local)


@pytest.mark.parametrize("kind", ["table", "grid"])
def test_a_changed_remote_source_is_refused_by_what_changed(directory, server, kind):
    given = {"verify": "list"} if kind == "grid" else {}
    state = loaders(directory, server, kind, **given)[1].state_dict()
    loaders(directory, server, kind, **given)[1].load_state_dict(state)
    os.utime(next((directory / kind).glob("x/c/3/0/0" if kind == "grid" else "3.parquet")), (1, 1))
    again = loaders(directory, server, kind, **given)[1]
    with pytest.raises(DataError, match=r"object .*/grid/.*/x/c/3/0/0 was re|file .*/table/3.parquet was re"):
        again.load_state_dict(state)


def test_a_plan_that_is_refused_names_memory_that_is_enough(directory, server):
    with pytest.raises(MemoryLimitError) as caught:
        loaders(directory, server, "table", memory="30 KiB", global_batch_size=500)[1].plan.check()
    enough = str(caught.value).partition("pass memory='")[2].partition("'")[0]
    loaders(directory, server, "table", memory=enough, global_batch_size=500)[1].plan.check()


class Slow:
    """A source whose fetches end when the test says so."""

    def __init__(self, nbytes):
        self.cost = FetchCost(np.asarray(nbytes), np.ones(len(nbytes), np.int64))
        self.started = []

    def fetch_cost(self, columns):
        return self.cost

    def fetch(self, chunk, columns):
        self.started.append((chunk, Future()))
        return [self.started[-1][1]]


def test_fetches_run_ahead_in_order_within_their_bytes():
    source, chunks = Slow(KIB * np.array([100, 400, 100, 100, 900, 100, 100])), np.array([6, 5, 4, 3, 2, 1, 0])
    ahead = Ahead(source, columns=[], chunks=chunks, limit_nbytes=500 * KIB)
    assert [chunk for chunk, _ in source.started] == [6, 5]
    ahead.take()
    ahead.take()
    assert ahead.peak_nbytes == 200 * KIB
    ahead.take()  # too large to be ahead of its turn
    assert [chunk for chunk, _ in source.started] == [6, 5, 4, 3, 2]
    ahead.close()
    assert [future.cancelled() for _, future in source.started] == [False, False, False, True, True]


def test_without_bytes_nothing_runs_ahead():
    source = Slow([10, 10])
    ahead = Ahead(source, columns=[], chunks=np.array([1, 0]), limit_nbytes=0)
    assert not source.started
    ahead.take()
    assert [chunk for chunk, _ in source.started] == [1]


def test_small_fetches_never_exceed_the_limit():
    nbytes = np.random.default_rng(0).integers(1, 300 * KIB, 200)
    source, limit = Slow(nbytes), 1000 * KIB
    nbytes = np.maximum(nbytes, _LEAST_NBYTES)
    ahead = Ahead(source, columns=[], chunks=np.arange(200), limit_nbytes=limit)
    for taken in range(200):
        fetch = ahead.take()
        under_way = range(taken + 1, len(source.started))
        assert fetch[0] is source.started[taken][1]
        assert sum(nbytes[at] for at in under_way) <= limit
        if under_way.stop < 200:
            assert sum(nbytes[at] for at in under_way) + nbytes[under_way.stop] > limit
    assert 700 * KIB < ahead.peak_nbytes <= limit


def test_a_fetch_of_nothing_counts():
    source = Slow([0] * 1000)
    ahead = Ahead(source, columns=[], chunks=np.arange(1000), limit_nbytes=1 << 40)
    assert len(source.started) == _MOST
    for taken in range(1, 4):
        ahead.take()
        assert len(source.started) == _MOST + taken
    few = Slow([0] * 1000)
    assert Ahead(few, columns=[], chunks=np.arange(1000), limit_nbytes=10 * _LEAST_NBYTES).peak_nbytes
    assert len(few.started) == 10
    assert fetch_limit_nbytes(np.full(1000, _LEAST_NBYTES), 1 << 40) == _MOST * _LEAST_NBYTES  # no more is planned


def test_the_share_of_the_memory():
    nbytes = np.array([10, 30, 20])
    assert [fetch_limit_nbytes(nbytes, limit) for limit in (80, 800, 4000)] == [30, 50, 60]


@pytest.mark.parametrize("end", ["break", "exception"])
def test_an_end_with_requests_under_way_leaves_no_thread(directory, server, end):
    _, there = loaders(directory, server, "table", read_threads=2, memory="2 MiB")
    assert there.plan.fetch_nbytes < there.plan.epoch_nbytes
    server.behave(delay_s=0.2)
    try:
        for _ in there:
            assert read_threads()
            if end == "break":
                break
            raise RuntimeError("from the loop")
    except RuntimeError:
        pass
    assert not read_threads()
    server.behave()
    assert sum(1 for _ in there) == len(there)


def test_an_end_does_not_wait_for_what_is_tried_again(directory, server, monkeypatch):
    _, there = loaders(directory, server, "table", memory="2 MiB")
    batches = iter(there)
    next(batches)
    monkeypatch.setattr(remote, "RETRIES", Retries(attempts=3, first_s=600.0, most_s=600.0))
    server.behave(fail=1000)
    for _ in range(10):
        next(batches)
    batches.close()  # would hang for ten minutes
    assert not read_threads()


def test_a_read_that_is_given_up_does_not_wait_for_what_its_decoder_reads_beside(directory, server, monkeypatch):
    source = as_source(f"{server.url}/table/")
    monkeypatch.setattr(remote_parquet, "column_spans", lambda *place: [])  # so that the decoder asks for all
    monkeypatch.setattr(remote, "RETRIES", Retries(attempts=3, first_s=600.0, most_s=600.0))
    fetch = source.fetch(0)
    fetch[0].result()
    server.behave(fail=1000)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(source.read, 0, fetched=fetch)
        while not reading.done() and not server.counts().get("GET"):
            time.sleep(0.01)
        give_up(fetch)  # the read would wait for ten minutes
        with pytest.raises(CancelledError):
            reading.result(60)


def test_a_store_that_stays_away_is_named(directory, server):
    for kind, where in (("table", r"/table/\d\.parquet"), ("grid", "/grid/x/c/")):
        _, there = loaders(directory, server, kind)
        assert len(there)
        server.behave(fail=10_000)
        with pytest.raises(FetchError, match=where + ".* was not fetched in 3 attempts: .*503"):
            next(iter(there))
        assert not read_threads()
        server.behave()
