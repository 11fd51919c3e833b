from __future__ import annotations

import copy
import gc
import json
import pickle
import threading
from itertools import pairwise

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import ArgumentError, DataError, MemoryLimitError, SourceError
from dtk.loader import Field, Loader, Order
from dtk.loader.ring import Ring
from dtk.loader.schedule import make_schedule
from dtk.preparation import SampleEncoder, TablePreparation
from dtk.sources import ParquetSource, TableSource, as_source

ROWS = 1700


def make_table(rows=ROWS):
    generator = np.random.default_rng(0)
    number = np.arange(rows)
    return pa.table(
        {
            "number": number.astype("f4"),
            "x": generator.standard_normal(rows),
            "flag": number % 3 == 0,
            "y": number % 7,
            "w": 1.0 + number % 2,
        }
    )


@pytest.fixture
def data(tmp_path):
    table, start = make_table(), 0
    for part, rows in enumerate([500, 0, 1, 900, 299]):
        pq.write_table(table.slice(start, rows), tmp_path / f"part-{part}.parquet", row_group_size=70)
        start += rows
    return parquet(tmp_path)


def parquet(folder, columns=None):
    return ParquetSource.from_files(sorted(map(str, folder.glob("*.parquet"))), columns=columns)


@pytest.fixture
def no_thread_is_left():
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dtk-read")]


def numbers(batch):
    """Numbers of the rows of a batch; -1 where the weight is 0."""
    return torch.where(batch["weight"] > 0, batch["inputs"][:, 0].long(), -1).numpy()


def rows_of(loader):
    """Numbers of the rows, [steps, batch]."""
    return np.stack([numbers(batch) for batch in loader])


SMALL = {"inputs": ["number", "x", "flag"], "target": "y", "weight": "w", "global_batch_size": 64, "memory": "64 KiB"}


@pytest.mark.parametrize("tail", ["trim", "pad"])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("ranks", [1, 3])
def test_batches_are_the_orders_and_hold_the_right_values(data, tail, shuffle, ranks, no_thread_is_left):
    table = make_table()
    x, y, w = (table[name].to_numpy() for name in ("x", "y", "w"))
    loader = Loader(data, tail=tail, shuffle=shuffle, **SMALL)
    assert len(loader) == (26 if tail == "trim" else 27)
    assert loader.num_samples == (26 * 64 if tail == "trim" else ROWS)
    for rank in range(ranks):
        mine = loader.on_rank(rank, ranks)
        for epoch in range(2):
            expected = loader.plan.order.batch_rows(epoch, rank, ranks)
            for rows, batch in zip(expected, mine, strict=True):
                real = rows >= 0
                assert batch["inputs"].shape == (len(rows), 3)
                assert batch["target"].dtype == torch.int64
                np.testing.assert_array_equal(batch["inputs"][real, 0], rows[real])
                np.testing.assert_array_equal(batch["inputs"][real, 1], x[rows[real]].astype("f4"))
                np.testing.assert_array_equal(batch["inputs"][real, 2], rows[real] % 3 == 0)
                np.testing.assert_array_equal(batch["target"][real], y[rows[real]])
                np.testing.assert_array_equal(batch["weight"][real], w[rows[real]])
                if real.any():  # padding repeats a real row at weight 0
                    assert (batch["weight"][~real] == 0).all()
                    assert (batch["inputs"][~real, 0] == rows[real][0]).all()


def test_an_epoch_holds_every_sample_once_and_the_next_another_order(data):
    loader = Loader(data, tail="pad", **SMALL)
    first, second = rows_of(loader), rows_of(loader)
    for rows in (first, second):
        np.testing.assert_array_equal(np.sort(rows[rows >= 0]), np.arange(ROWS))
    assert (first != second).any()
    loader.set_epoch(0)
    np.testing.assert_array_equal(rows_of(loader), first)
    assert loader.epoch == 1
    assert loader.read_nbytes > 0
    assert loader.wait_s > 0


def test_a_kept_table_gives_the_same_batches_as_threads():
    table = make_table()
    streamed = TableSource(table, rows_per_chunk=70)
    options = {**SMALL, "memory": "1 MiB"}
    in_memory = Loader(streamed, tail="pad", ranks=5, rank=2, **options)
    from_threads = Loader(streamed, tail="pad", ranks=5, rank=2, **SMALL)
    assert in_memory._planned.is_small(1)
    assert not from_threads._planned.is_small(1)
    in_memory.load_state_dict(from_threads.state_dict())  # another pool is another order
    for _ in range(2):
        for one, other in zip(in_memory, from_threads, strict=True):
            for name in one:
                torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_run_that_is_resumed_anywhere_at_any_size_twice_equals_an_uninterrupted_one(data):
    sizes = data.draw(st.lists(st.sampled_from([0, 1, 7, 40, 90]), min_size=1, max_size=20).filter(sum))
    rows = sum(sizes)
    source = Chunks(sizes)
    options = {
        "inputs": ["number"],
        "global_batch_size": data.draw(st.integers(1, min(rows, 40))),
        "tail": data.draw(st.sampled_from(["trim", "pad"])),
        "shuffle": data.draw(st.booleans()),
        "memory": data.draw(st.sampled_from(["16 KiB", "40 KiB", "1 MiB"])),
        "read_threads": data.draw(st.integers(1, 3)),
    }
    batch = options["global_batch_size"]
    whole = Loader(source, **options)
    state, seen = whole.state_dict(), []
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), min_size=2, max_size=2)))
    for start, stop in pairwise([0, *cuts, len(whole)]):
        ranks = data.draw(st.integers(1, 7))
        taken, states = np.full((stop - start, batch), -2), []
        for rank in range(ranks):
            loader = Loader(source, rank=rank, ranks=ranks, **options)
            loader.load_state_dict(json.loads(json.dumps(state)))
            first, last = loader.plan.order.rank_slots(rank, ranks)
            steps = iter(loader)
            for step in range(stop - start):
                taken[step, first:last] = numbers(next(steps))[: last - first]
            states.append(loader.state_dict())
            steps.close()
        assert all(one == states[0] for one in states)
        state = states[0]
        seen.append(taken)
    np.testing.assert_array_equal(np.concatenate(seen), rows_of(whole))


class Chunks:
    """A source of numbered rows that notes what was read."""

    def __init__(self, sizes):
        self.chunk_rows = np.array(sizes, np.int64)
        self.chunk_nbytes = self.chunk_rows * 4
        self.schema = pa.schema({"number": pa.float32()})
        self.identity = str(sizes)
        self.num_chunks = len(sizes)
        self.reads = []

    def read(self, chunk, columns=None):
        self.reads.append(chunk)
        start = int(self.chunk_rows[:chunk].sum())
        return pa.table({"number": np.arange(start, start + self.chunk_rows[chunk], dtype="f4")}).select(columns)

    def describe(self, chunk):
        return f"chunk {chunk}"


def test_resuming_reads_only_chunks_of_open_fills():
    source = Chunks([50] * 64)
    options = {"inputs": ["number"], "global_batch_size": 80, "memory": "48 KiB"}
    loader = Loader(source, **options)
    assert loader.plan.order.num_shards > 1
    state = {**loader.state_dict(), "step": 20}
    loader.load_state_dict(state)
    expected = loader.plan.order.batch_rows(0, start=20)
    np.testing.assert_array_equal(rows_of(loader), expected)
    order = loader.plan.order
    fills = order.fills(0, range(order.num_shards))
    slots = np.diff(order.shard_slots)[fills.shard]
    is_open = np.repeat((fills.position + fills.num_rows - 1) // slots >= 20, np.diff(fills.bounds))
    assert set(source.reads) == set(fills.segments.chunk[is_open])
    assert len(set(source.reads)) < 64


def test_a_shared_chunk_is_read_once_where_time_allows():
    source = Chunks([50] * 64)
    loader = Loader(source, inputs=["number"], global_batch_size=80, memory="48 KiB")
    rows_of(loader)
    planned = loader.plan.decodes_per_sample(1)
    assert len(source.reads) <= 64 * planned + 1
    assert planned < 1.1


def test_the_ring_never_waits_for_itself():
    order = Order(np.full(40, 30), 16, 4, 60)
    for ranks in (1, 2, 4, 8):
        for rank in range(ranks):
            schedule = make_schedule(order, 0, rank, ranks, ring_steps=17, lead_steps=1)
            assert (np.diff(schedule.first_step) >= 0).all()
            assert (schedule.last_step - schedule.first_step < 17).all()


def test_state_is_taken_as_it_is_and_a_changed_source_is_refused(data, tmp_path_factory):
    loader = Loader(data, **SMALL)
    steps = iter(loader)
    next(steps)
    next(steps)
    state = loader.state_dict()
    steps.close()
    other = Loader(data, **{**SMALL, "memory": "1 MiB"})
    other.load_state_dict(state)
    assert other.plan.order.parameters() == state["order"]
    assert other.plan.digest == loader.plan.digest
    with pytest.warns(UserWarning, match="seed=7 is ignored: the state goes on with 0"):
        Loader(data, seed=7, **SMALL).load_state_dict(state)
    elsewhere = tmp_path_factory.mktemp("grown")
    pq.write_table(make_table(2000), elsewhere / "part-0.parquet", row_group_size=100)
    with pytest.raises(DataError, match=r"it had 1,700 rows in 27 chunks and has 2,000 rows in 20 chunks"):
        Loader(parquet(elsewhere), **SMALL).load_state_dict(state)
    with pytest.raises(ArgumentError, match="version"):
        loader.load_state_dict({**state, "version": 99})
    with pytest.raises(ArgumentError, match="lacks"):
        loader.load_state_dict({"version": 1})
    with pytest.raises(ArgumentError, match="step 999"):
        loader.load_state_dict({**state, "step": 999})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["order"], {}, r"order=\{\} must have the keys \['global_batch_size'"),
        (["order", "new"], 1, "order=.* must have the keys"),
        (["order", "num_shards"], 99_999, "num_shards=99999 must be at most"),
        (["order", "fill_rows"], 0, "fill_rows=0 must be a whole number, at least 1"),
        (["order", "block_rows"], 1.5, "block_rows=1.5 must be a whole number"),
        (["order", "seed"], None, "seed=None must be a whole number, at least 0"),
        (["order", "tail"], "cut", r"tail, shuffle=\['cut', True\] must be"),
        (["step"], "3", "step='3' must be a whole number, at least 0"),
        (["step"], 1.5, "step=1.5 must be"),
        (["epoch"], None, "epoch=None must be"),
        (["epoch"], True, "epoch=True must be"),
        (["epoch"], -1, "epoch=-1 must be"),
        (["sampling"], "w", "sampling, facts=.* must be mappings"),
    ],
)
def test_a_damaged_state_is_refused_by_name(path, value, message):
    loader = Loader({"x": np.arange(20.0)}, global_batch_size=4)
    state = copy.deepcopy(loader.state_dict())
    inner = state
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    with pytest.raises(ArgumentError, match=f"state is damaged: {message}"):
        loader.load_state_dict(state)
    with pytest.raises(ArgumentError, match="state=None is none; pass what"):
        loader.load_state_dict(None)


def test_set_epoch_leaves_a_loaded_step_of_that_epoch(data):
    loader = Loader(data, **SMALL)
    loader.load_state_dict({**loader.state_dict(), "epoch": 3, "step": 20})
    loader.set_epoch(3)
    assert len(rows_of(loader)) == len(loader) - 20
    loader.set_epoch(3)
    assert len(rows_of(loader)) == len(loader)


def test_leaving_early_ends_the_threads_and_the_next_iteration_is_the_next_epoch(data, no_thread_is_left):
    loader = Loader(data, **SMALL)
    for _ in loader:
        break
    gc.collect()
    assert loader.state_dict()["step"] == 1
    np.testing.assert_array_equal(rows_of(loader), loader.plan.order.batch_rows(1))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_in_the_loop_ends_the_threads(data, error, no_thread_is_left):
    def consume():
        for step, _ in enumerate(Loader(data, **SMALL)):
            if step == 3:
                raise error

    with pytest.raises(error):
        consume()
    gc.collect()


def test_a_state_that_needs_more_memory_than_there_is_is_refused(data):
    loader = Loader(data, **SMALL)
    loader.load_state_dict(Loader(data, **{**SMALL, "memory": "1 MiB"}).state_dict())
    with pytest.raises(MemoryLimitError, match=r"memory='64.0 KiB' is less than"):
        next(iter(loader))


def test_a_damaged_chunk_is_named_and_the_threads_end(data, tmp_path, no_thread_is_left):
    loader = Loader(data, **SMALL)
    assert len(loader) == 26
    broken = tmp_path / "part-3.parquet"
    content = bytearray(broken.read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    broken.write_bytes(content)
    with pytest.raises(DataError, match=r"part-3\.parquet") as caught:
        rows_of(loader)
    assert caught.value.__cause__ is not None
    del caught
    broken.unlink()
    with pytest.raises(DataError, match=r"part-3\.parquet"):
        rows_of(pickle.loads(pickle.dumps(loader)))


class Failing:
    columns = ("number",)

    def __init__(self, error):
        self.fields = {"inputs": Field(np.dtype("f4"), (1,))}
        self.error = error

    def encode(self, table):
        raise self.error


def test_errors_of_an_encoder_reach_the_consumer(data, no_thread_is_left):
    with pytest.raises(DataError, match=r"part-\d\.parquet.*ValueError: no such thing"):
        rows_of(Loader(data, preparation=Failing(ValueError("no such thing")), memory="64 KiB", global_batch_size=64))
    with pytest.raises(MemoryError, match="too much"):
        rows_of(Loader(data, preparation=Failing(MemoryError("too much")), memory="64 KiB", global_batch_size=64))


def test_nulls_in_the_target_are_refused(tmp_path):
    pq.write_table(pa.table({"x": [1.0, 2.0], "y": pa.array([1, None])}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet.*target='y' is null in 1 rows.*dropna"):
        list(Loader(parquet(tmp_path), target="y", global_batch_size=1))


def test_it_pickles_without_its_memory(data):
    loader = Loader(data, **SMALL)
    steps = iter(loader)
    next(steps)
    again = pickle.loads(pickle.dumps(loader))
    steps.close()
    assert len(pickle.dumps(loader)) < 20_000
    assert again.state_dict() == loader.state_dict()
    again.set_epoch(0)
    np.testing.assert_array_equal(rows_of(again), loader.plan.order.batch_rows(0))


def test_the_ring_is_as_large_as_planned_and_used_again(data):
    loader = Loader(data, **SMALL)
    rows_of(loader)
    ring = loader._feed.ring
    assert isinstance(ring, Ring)
    assert ring.nbytes == loader.plan.ring_steps(1) * 64 * loader.plan.row_nbytes
    assert ring.nbytes <= loader.plan.memory_nbytes(1) <= 64 * 1024
    rows_of(loader)
    assert loader._feed.ring is ring


def test_iterations_beside_each_other_do_not_share_memory(data):
    loader = Loader(data, **SMALL)
    for one, other in zip(loader, loader, strict=True):
        assert one["inputs"].data_ptr() != other["inputs"].data_ptr()
    expected = [loader.plan.order.batch_rows(epoch) for epoch in (2, 3)]
    loader.set_epoch(2)
    both = [(a["inputs"][:, 0].clone(), b["inputs"][:, 0].clone()) for a, b in zip(loader, loader, strict=True)]
    for number in (0, 1):
        np.testing.assert_array_equal(torch.stack([pair[number] for pair in both]), expected[number])


def test_copies_stay_valid(data):
    loader = Loader(data, copy=True, **SMALL)
    kept = list(loader)
    np.testing.assert_array_equal(
        torch.stack([batch["inputs"][:, 0] for batch in kept]), loader.plan.order.batch_rows(0)
    )


def test_rank_and_ranks_come_from_the_gang(data, monkeypatch):
    loader = Loader(data, **SMALL)
    assert (loader.rank, loader.ranks) == (0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (loader.rank, loader.ranks) == (2, 4)
    np.testing.assert_array_equal(rows_of(loader), loader.plan.order.batch_rows(0, 2, 4))
    assert (loader.on_rank(1, 3).rank, loader.on_rank(1, 3).ranks) == (1, 3)


def test_more_ranks_than_slots_and_a_single_sample():
    loader = Loader({"x": [3.0]}, global_batch_size=1, tail="pad")
    (batch,) = loader.on_rank(0, 3)
    assert batch["weight"].tolist() + batch["inputs"].tolist() == [1.0, [3.0]] or batch["weight"].tolist() == [0.0]
    weights = [next(iter(loader.on_rank(rank, 3)))["weight"].item() for rank in range(3)]
    assert sorted(weights) == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"global_batch_size": 0}, "global_batch_size=0 must be"),
        ({"global_batch_size": 2.5}, "global_batch_size=2.5 must be"),
        ({"seed": -1}, "seed=-1 must be"),
        ({"tail": "drop"}, "tail='drop' must be 'trim' or 'pad'"),
        ({"rank": 0}, "must be given together"),
        ({"rank": 2, "ranks": 2}, "rank=2 must be"),
        ({"memory": "much"}, "memory='much' is no size"),
        ({"rank": 0.5, "ranks": 2}, "rank=0.5 must be a whole number"),
        ({"rank": 0, "ranks": True}, "ranks=True must be a whole number"),
        ({"read_threads": 0}, "read_threads=0"),
        ({"read_threads": 2.5}, "read_threads=2.5 must be a whole number"),
        ({"read_threads": "2"}, "read_threads='2' must be a whole number"),
        ({"shuffle": "no"}, "shuffle='no' must be True or False"),
        ({"inputs": 5}, "inputs=5 must be a list of names"),
        ({"target": "lat"}, "target='lat' is no column of the data; did you mean 'late'?"),
        ({"inputs": ["name"]}, "inputs='name' holds string.*preparation="),
        ({"target": "name"}, "target='name' holds string"),
    ],
)
def test_what_cannot_work_is_refused(arguments, message):
    table = pa.table({"x": [1.0], "late": [1], "name": ["a"]})
    with pytest.raises(ArgumentError, match=message):
        Loader(table, **{"inputs": ["x"], **arguments})


@pytest.mark.parametrize("epoch", ["1", 1.5, -1, True])
def test_an_epoch_is_a_whole_number(epoch):
    loader = Loader({"x": [1.0]}, global_batch_size=1)
    for chosen in (loader, loader.to_iterable_dataset()):
        with pytest.raises(ArgumentError, match=f"epoch={epoch!r} must be a whole number, at least 0"):
            chosen.set_epoch(epoch)


def test_tensors_are_columns_and_arrays_without_names_are_told_the_way():
    data = {"x": torch.arange(10.0), "y": torch.arange(10) % 2}
    batch = next(iter(Loader(data, target="y", global_batch_size=10, shuffle=False)))
    assert torch.equal(batch["inputs"][:, 0], data["x"])
    assert torch.equal(batch["target"], data["y"])
    for unnamed in (np.zeros((10, 3)), torch.zeros(10, 3), (np.zeros((10, 3)), np.zeros(10))):
        with pytest.raises(SourceError, match=r"give its columns names: a mapping such as \{'x': array"):
            Loader(unnamed)
    with pytest.raises(SourceError, match=r"DataArray is no table .*data.to_dataset\(name='x'\)"):
        Loader(xr.DataArray(np.zeros((10, 3)), dims=("time", "x")))


def test_string_columns_need_a_preparation():
    with pytest.raises(ArgumentError, match=r"'name' holds .*string.*pass a preparation="):
        Loader({"x": [1.0], "name": ["a"]})


def test_a_batch_larger_than_the_data_is_refused_before_reading():
    loader = Loader({"x": np.zeros(10)}, global_batch_size=11)
    with pytest.raises(ArgumentError, match=r"global_batch_size=11 is more than the 10 samples.*tail='pad'"):
        next(iter(loader))
    with pytest.raises(DataError, match="no rows"):
        next(iter(Loader({"x": np.zeros(0)}, global_batch_size=11)))


def test_too_little_memory_is_refused_with_what_is_enough(data):
    with pytest.raises(MemoryLimitError, match=r"memory='2.0 KiB' is less than"):
        next(iter(Loader(data, **{**SMALL, "memory": "2 KiB"})))


def test_text_is_read_as_codes_and_gives_the_same_batches(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    words = np.array(["a", "bb", "ccc", None], object)
    table = pa.table({"s": words[rng.integers(0, 4, 900)], "x": rng.random(900), "y": words[rng.integers(0, 3, 900)]})
    pq.write_table(table, tmp_path / "part.parquet", row_group_size=100)
    preparation = TablePreparation().fit(as_source(tmp_path), target="y", task="classification")
    encoder = SampleEncoder(preparation, target=preparation.target)

    def batches():
        loader = Loader(tmp_path, preparation=encoder, global_batch_size=90, memory="1 MiB", copy=True)
        return loader._planned.source.schema.field("s").type, list(loader)

    coded, found = batches()
    monkeypatch.setattr(ParquetSource, "with_dictionaries", lambda source: source)
    plain, expected = batches()
    assert (str(plain), str(coded)) == ("string", "dictionary<values=string, indices=int32, ordered=0>")
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys() == {"inputs", "codes", "target", "weight"}
        assert all(torch.equal(one[name].nan_to_num(), other[name].nan_to_num()) for name in one)


def test_a_fetch_that_cannot_start_is_told(tmp_path, monkeypatch):
    files = fsspec.filesystem("memory")
    pq.write_table(make_table(200), tmp_path / "a.parquet", row_group_size=20)
    files.put(str(tmp_path / "a.parquet"), "/refused/a.parquet")
    loader = Loader("memory://refused/", inputs=["number"], global_batch_size=20)
    assert len(list(loader)) == 10

    def refuse(*_):
        raise DataError("refused to start")

    monkeypatch.setattr(ParquetSource, "fetch", refuse)
    with pytest.raises(DataError, match="refused to start"):
        list(loader)
