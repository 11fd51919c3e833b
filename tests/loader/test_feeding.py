"""Batches on their way to the consumer: how long they stay valid, collated, on a device, and how iterations end."""

from __future__ import annotations

import gc
import pickle
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import dtk
from dtk.errors import ArgumentError
from dtk.loader import Loader
from dtk.loader.ring import Ring
from dtk.sources import ParquetSource

ROWS = 3000
SMALL = {"global_batch_size": 50, "memory": "64 KiB", "read_threads": 2}


@pytest.fixture
def path(tmp_path):
    table = pa.table({"number": np.arange(ROWS, dtype="f4"), "x": np.random.default_rng(0).random(ROWS)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    return str(tmp_path)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    check_that_none_is_left()


def read_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("dtk-read")]


def check_that_none_is_left():
    """Any thread may be the one that finds the garbage; then the others have to wait for it."""
    gc.collect()
    deadline = time.monotonic() + 30
    while read_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert read_threads() == []


def numbers(batch):
    return batch["inputs"][:, 0].clone()


def test_a_batch_is_valid_until_the_next_one_is_asked_for_unless_it_is_a_copy(path):
    loader = Loader(path, shuffle=False, **SMALL)
    batches = iter(loader)
    first = next(batches)
    kept = numbers(first)
    np.testing.assert_array_equal(kept, np.arange(50))
    for _ in batches:
        pass
    assert (numbers(first) != kept).all()  # the ring went round
    copied = list(Loader(path, shuffle=False, copy=True, **SMALL))
    np.testing.assert_array_equal(torch.cat([numbers(batch) for batch in copied]), np.arange(ROWS))


def total(name, batch):
    return name, float(batch["inputs"][:, 0].sum()), batch["inputs"].shape


def test_collate_gets_each_batch_and_what_it_returns_is_handed_out(path):
    loader = Loader(path, shuffle=False, collate=partial(total, "sum"), **SMALL)
    expected = [("sum", float(np.arange(start, start + 50).sum()), (50, 2)) for start in range(0, ROWS, 50)]
    assert list(loader) == expected
    loader.set_epoch(0)
    assert list(pickle.loads(pickle.dumps(loader))) == expected
    small = Loader({"x": [1.0, 2.0]}, global_batch_size=2, collate=len)
    assert list(small) == [2]


def test_an_error_in_collate_leaves_the_step_where_it_was(path):
    def fail(batch):
        if batch["inputs"][0, 0] == 100:
            raise RuntimeError("no")
        return batch

    loader = Loader(path, shuffle=False, collate=fail, **SMALL)
    with pytest.raises(RuntimeError, match="no"):
        list(loader)
    assert loader.state_dict()["step"] == 2


def test_a_thread_that_cannot_start_leaves_none(path, monkeypatch):
    start = threading.Thread.start

    def refuse_the_second(thread):
        if thread.name == "dtk-read-1":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_the_second)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        next(iter(Loader(path, **SMALL)))
    assert read_threads() == []


def test_an_iteration_that_is_closed_where_readers_look_for_help_does_not_wait_for_them(path, monkeypatch):
    """The garbage collector may close it in any thread, also in that of an event loop that a store needs."""
    first_reads, closed, read = threading.Semaphore(4), threading.Event(), ParquetSource.read

    def need_the_closing_thread(*arguments, **options):
        if not first_reads.acquire(blocking=False):
            assert closed.wait(60)
        return read(*arguments, **options)

    monkeypatch.setattr(ParquetSource, "read", need_the_closing_thread)
    batches = iter(Loader(path, **SMALL))
    next(batches)

    def close():
        batches.close()
        closed.set()

    thread = threading.Thread(target=close)
    thread.start()
    thread.join(30)
    is_stuck = not closed.is_set()
    closed.set()
    assert not is_stuck


def test_what_cannot_be_fed_is_refused(path):
    with pytest.raises(ArgumentError, match="collate=3 must be callable"):
        Loader(path, collate=3)
    loader = Loader(path, **SMALL)
    with pytest.raises(ArgumentError, match=r"device='gpu' is none: .*pass 'cpu', 'cuda' or 'cuda:1'"):
        loader.on_device("gpu")
    with pytest.raises(ArgumentError, match="prefetch=-1 must be"):
        loader.on_device("cpu", prefetch=-1)
    with pytest.raises(ArgumentError, match="loader has collate=.*which is for loops of your own; leave it out"):
        dtk.train(torch.nn.Linear(1, 1), Loader(path, target="x", collate=dict, **SMALL))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named_before_anything_is_read(path):
    loader = Loader(path, **SMALL).on_device("cuda:0")
    with pytest.raises(ArgumentError, match="device='cuda:0' is not there: torch sees no GPU"):
        next(iter(loader))
    assert loader.read_nbytes == 0


def test_on_the_cpu_a_device_costs_nothing_and_the_batches_stay_slices_of_the_ring(path):
    loader = Loader(path, **SMALL)
    here = loader.on_device("cpu", prefetch=2)
    expected = [numbers(batch) for batch in loader]
    here.set_epoch(0)
    starts = set()
    for batch, rows in zip(here, expected, strict=True):
        assert torch.equal(batch["inputs"][:, 0], rows)
        starts.add(batch["inputs"].data_ptr())
    assert len(starts) == loader.plan.ring_steps(1)
    assert here._feed.ring is not loader._feed.ring


def test_another_device_gets_the_same_steps_in_the_same_order(path):
    loader = Loader(path, **SMALL).on_device("meta")
    batches = iter(loader)
    batch = next(batches)
    assert batch["inputs"].device.type == "meta"
    assert loader.state_dict()["step"] == 1
    assert 1 + sum(1 for _ in batches) == len(loader)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("prefetch", [0, 1, 2])
def test_on_a_gpu_batches_are_the_same_and_stay_valid(path, prefetch):
    loader = Loader(path, **SMALL)
    there = loader.on_device("cuda", prefetch=prefetch)
    expected = [numbers(batch) for batch in loader]
    there.set_epoch(0)
    kept = []
    for step, batch in enumerate(there):
        torch.cuda._sleep(1_000_000)  # the step takes longer than the copy
        assert batch["inputs"].device.type == "cuda"
        assert there.state_dict()["step"] == step + 1
        kept.append(batch["inputs"][:, 0])
    assert isinstance(there._feed.ring, Ring)
    assert all(tensor.is_pinned() for tensor in there._feed.ring._tensors.values())
    assert torch.equal(torch.stack(kept).cpu(), torch.stack(expected))
    for _ in there:  # left while a copy is under way
        break
    assert torch.equal(
        torch.stack([numbers(batch).cpu() for batch in there.on_device("cpu")]), rows_of_epoch(loader, 2)
    )


def test_views_on_a_device_share_one_ring(path):
    loader = Loader(path, global_batch_size=100, memory="64 MiB")
    addresses = set()
    for _ in range(3):
        addresses |= {batch["inputs"].untyped_storage().data_ptr() for batch in loader.on_device("cpu")}
    assert len(addresses) == 1
    assert loader.on_device("cuda")._feed is loader.on_device("cuda")._feed is not loader._feed
    assert loader.on_rank(0, 1).on_device("cpu")._feed is not loader._feed


def test_a_view_on_a_device_goes_on_where_its_loader_stands_and_moves_it(path):
    loader = Loader(path, **SMALL)
    for epoch in range(3):  # as a loop of epochs may have it
        seen = [numbers(batch) for batch in loader.on_device("cpu")]
        assert torch.equal(torch.stack(seen), rows_of_epoch(loader, epoch))
        assert loader.state_dict()["epoch"] == epoch + 1
    assert loader.read_nbytes > 0
    assert loader.wait_s > 0
    view = loader.on_device("cpu")
    batches = iter(view)
    for _ in range(5):
        next(batches)
    batches.close()
    state = loader.state_dict()
    assert (state["epoch"], state["step"]) == (3, 5)
    other = Loader(path, **{**SMALL, "memory": "128 KiB"})
    feed = other.on_device("cpu")
    other.load_state_dict(state)  # the view goes on by the order of the state, too
    assert torch.equal(torch.stack([numbers(batch) for batch in feed]), rows_of_epoch(loader, 3)[5:])
    apart = loader.on_rank(0, 1)
    assert torch.equal(numbers(next(iter(apart))), rows_of_epoch(loader, 4)[0])
    assert loader.state_dict() == state


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is one")
def test_another_device_that_is_not_there_is_named(path):
    loader = Loader(path, **SMALL).on_device("mps")
    with pytest.raises(ArgumentError, match="device='mps' is not there: .*; pass device='cpu'"):
        next(iter(loader))
    assert loader.read_nbytes == 0


def rows_of_epoch(loader, epoch):
    return torch.from_numpy(loader.plan.order.batch_rows(epoch).astype("f4"))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_in_the_consumer_ends_the_threads(path, error):
    def consume():
        for step, _ in enumerate(Loader(path, **SMALL)):
            if step == 3:
                assert read_threads()
                raise error

    with pytest.raises(error):
        consume()


def test_break_close_and_loss_end_the_threads(path):
    loader = Loader(path, **SMALL)
    for _ in loader:
        break
    gc.collect()
    assert read_threads() == []
    batches = iter(loader)
    next(batches)
    assert read_threads()
    batches.close()
    assert read_threads() == []
    batches = iter(loader)
    next(batches)
    cycle = [batches]
    cycle.append(cycle)
    del batches, cycle
    check_that_none_is_left()


class Collecting:
    """An encoder whose threads look for garbage when they are told to."""

    columns = ("number",)

    def __init__(self, plain):
        self.fields, self._plain, self.looks = plain.fields, plain, 0

    def encode(self, table):
        if self.looks:
            self.looks -= 1
            gc.collect()
        return self._plain.encode(table)


def test_an_iteration_that_a_reading_thread_finds_lost_ends_as_well(path):
    plain = Loader(path, inputs=["number"]).encoder
    encoder = Collecting(plain)
    loader = Loader(path, preparation=encoder, **SMALL)
    gc.disable()
    try:
        batches = iter(loader)
        next(batches)
        cycle = [batches]
        cycle.append(cycle)
        del batches, cycle
        encoder.looks = 3
        assert len(list(loader)) == len(loader)
    finally:
        gc.enable()


def test_two_iterations_at_a_time_are_two_epochs(path):
    loader = Loader(path, **SMALL)
    both = [(numbers(one), numbers(other)) for one, other in zip(loader, loader, strict=True)]
    for epoch in range(2):
        assert torch.equal(torch.stack([pair[epoch] for pair in both]), rows_of_epoch(loader, epoch))


SCRIPT = """
import atexit
import sys
import threading
from dtk.loader import Loader

atexit.register(lambda: print([thread.name for thread in threading.enumerate() if "dtk" in thread.name]))
loader = Loader(sys.argv[1], global_batch_size=50, memory="64 KiB", read_threads=2)
batches = iter(loader)
next(batches)  # another iteration that nobody closes
print("running", flush=True)
while sys.argv[2] == "interrupted":
    for batch in loader:
        pass
"""


@pytest.mark.parametrize(("how", "code"), [("interrupted", -signal.SIGINT), ("ended", 0)])
def test_the_process_ends_by_ctrl_c_or_by_itself(path, how, code):
    command = [sys.executable, "-X", "dev", "-W", "ignore", "-c", SCRIPT, path, how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "running\n"
            if how == "interrupted":
                time.sleep(0.2)
                process.send_signal(signal.SIGINT)
            left, told = process.stdout.read(), process.stderr.read()  # the line before may have brought the next one
            process.wait(60)
        finally:
            process.kill()
    assert process.returncode == code, told
    assert told.strip().endswith("KeyboardInterrupt" if how == "interrupted" else "")
    assert "Fatal" not in told
    assert left == "[]\n"
