"""The next epoch, read behind the last steps of this one: the same batches, and nothing left where it does not come."""

from __future__ import annotations

import gc
import os
import pickle
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dtk.errors import ArgumentError, DataError
from dtk.loader import Loader

ROWS = 3000
SMALL = {"global_batch_size": 50, "memory": "64 KiB", "read_threads": 2}


@pytest.fixture
def path(tmp_path):
    rng = np.random.default_rng(0)
    table = pa.table({"number": np.arange(ROWS, dtype="f4"), "w": rng.random(ROWS), "y": rng.integers(0, 3, ROWS)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    return str(tmp_path)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    gc.collect()
    end = time.monotonic() + 20
    while readers() and time.monotonic() < end:
        time.sleep(0.01)
    assert not readers()


def readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("dtk-read")]


def copied(batches):
    return [{name: tensor.clone() for name, tensor in batch.items()} for batch in batches]


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def wait_until_read(loader):
    """Wait until something of the next epoch is in the ring."""
    end = time.monotonic() + 30
    while loader._feed._ahead.reader.read_nbytes == 0:
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize(
    "options",
    [
        SMALL,
        SMALL | {"rank": 1, "ranks": 3},
        SMALL | {"tail": "pad", "global_batch_size": 64},
        SMALL | {"target": "y", "sampling": "balanced"},
        {"global_batch_size": 50},  # all of it fits into the ring
        {"global_batch_size": 1000, "memory": "128 KiB"},  # few steps: the ring goes round in each
    ],
)
def test_the_batches_are_the_same(path, options):
    expected, loader = Loader(path, **options), Loader(path, **options)
    for epoch in range(5):
        if epoch < 4:
            loader.read_ahead(epoch + 1)
        theirs = copied(expected)
        for step, batch in enumerate(loader):
            if step % 7 == 0:
                time.sleep(0.005)  # those who read ahead may not touch what is in use
            assert_same([batch], [theirs[step]])
            assert loader.state_dict()["epoch"] == epoch
        time.sleep(0.005)
        assert_same([batch], [theirs[-1]])  # the last one stays, as it does without
    assert not readers()
    assert loader.read_nbytes == expected.read_nbytes


def test_the_first_batch_is_there_before_it_is_asked_for(path):
    loader = Loader(path, **SMALL)
    loader.read_ahead(1)
    list(loader)
    wait_until_read(loader)
    loader.read_ahead(None)
    assert not readers()


def test_what_comes_instead_is_right_too(path):
    def begun():
        loader = Loader(path, **SMALL)
        loader.read_ahead(1)
        copied(loader)
        wait_until_read(loader)
        return loader

    def expected(epoch):
        loader = Loader(path, **SMALL)
        loader.set_epoch(epoch)
        return copied(loader)

    another = begun()
    another.set_epoch(3)
    assert_same(copied(another), expected(3))
    resumed = begun()
    other = Loader(path, **SMALL)
    other.set_epoch(1)
    taken = iter(other)
    for _ in range(20):
        next(taken)
    resumed.load_state_dict(other.state_dict())
    taken.close()
    assert_same(copied(resumed), expected(1)[20:])
    travelled = pickle.loads(pickle.dumps(begun()))
    assert_same(copied(travelled), expected(1))
    threaded, found = begun(), []
    thread = threading.Thread(target=lambda: found.extend(copied(threaded)))
    thread.start()
    thread.join()
    assert_same(found, expected(1))
    beside = begun()
    first = iter(beside)
    kept = copied([next(first)])
    beside.set_epoch(1)
    assert_same(copied(beside), expected(1))  # an iteration beside the one that took what was read
    assert_same(kept + copied(first), expected(1))


def test_one_that_ends_early_ends_all(path):
    loader = Loader(path, **SMALL)
    loader.read_ahead(1)
    for _ in loader:
        if loader.state_dict()["step"] == 59:
            break
    gc.collect()
    assert not readers()
    expected = Loader(path, **SMALL)
    expected.set_epoch(1)
    assert_same(copied(loader), copied(expected))  # and the hint is over with it


def test_a_loader_that_is_lost_takes_its_readers_with_it(path):
    loader = Loader(path, **SMALL)
    loader.read_ahead(1)
    list(loader)
    wait_until_read(loader)
    del loader  # the fixture looks


def test_a_file_that_changes_is_an_error_of_the_epoch_that_needs_it(path):
    loader = Loader(path, **SMALL)
    loader.read_ahead(1)
    list(loader)
    wait_until_read(loader)
    pq.write_table(pq.read_table(f"{path}/a.parquet").slice(0, 2000), f"{path}/other", row_group_size=100)
    os.replace(f"{path}/other", f"{path}/a.parquet")
    with pytest.raises(DataError):
        list(loader)


def test_an_epoch_that_is_none_is_refused(path):
    with pytest.raises(ArgumentError, match="epoch=-1"):
        Loader(path, **SMALL).read_ahead(-1)
