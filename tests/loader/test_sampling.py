"""Rows drawn with replacement: by their weights, the same at any number of ranks, and counted once."""

from __future__ import annotations

import json
import os
import pickle
from itertools import pairwise

import dask.config
import dask.dataframe as dd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import dtk
from dtk.errors import ArgumentError, DataError
from dtk.loader import Loader
from dtk.preparation import SampleEncoder, TablePreparation
from dtk.sources import ParquetSource, TableSource, datasets

ROWS = 3000


@pytest.fixture(autouse=True)
def cache(tmp_path):
    """An empty cache."""
    with dask.config.set({"dtk.cache-dir": str(tmp_path / "cache")}):
        yield tmp_path / "cache" / "counts"


def make_table(rows=ROWS):
    rng = np.random.default_rng(0)
    number = np.arange(rows)
    label = np.where(number < rows * 0.9, 0, np.where(number < rows * 0.98, 1, 2))  # sorted, as the worst case
    weight = np.where(number % 5 == 0, 0.0, rng.random(rows) ** 3)
    return pa.table(
        {
            "number": number.astype("f4"),
            "x": np.sqrt(number),
            "y": label,
            "w": weight,
            "name": np.array(["often", "rare", "rarest"])[label],
        }
    )


@pytest.fixture
def path(tmp_path):
    path = str(tmp_path / "data.parquet")
    pq.write_table(make_table(), path, row_group_size=70)
    return path


def loader_of(data, **options):
    options = {"target": "y", "sampling": "w", "global_batch_size": 50, "memory": "160 KiB", **options}
    return Loader(data, inputs=["number", "x"], **options)


def numbers(batch):
    """Numbers of the rows of a batch; -1 where the weight is 0."""
    return torch.where(batch["weight"] > 0, batch["inputs"][:, 0].long(), -1).numpy()


def rows_of(loader):
    """Numbers of the rows, [steps, batch]."""
    return np.stack([numbers(batch) for batch in loader])


def is_likely(counts, probabilities):
    """Tell whether counts are of these probabilities: a chi-square test at about five standard deviations."""
    expected = counts.sum() * probabilities / probabilities.sum()
    kept = expected > 5
    distance = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    freedom = int(kept.sum()) - 1
    assert freedom > 100
    return distance < freedom + 5 * np.sqrt(2 * freedom)


def test_rows_are_drawn_by_their_weights(path):
    loader = loader_of(path)
    table = make_table()
    weights = table["w"].to_numpy()
    counts = np.zeros(ROWS, np.int64)
    for _ in range(20):
        rows = []
        for batch in loader:
            number = batch["inputs"][:, 0].long().numpy()
            np.testing.assert_array_equal(batch["inputs"][:, 1], table["x"].to_numpy()[number].astype("f4"))
            np.testing.assert_array_equal(batch["target"], table["y"].to_numpy()[number])
            assert (batch["weight"] == 1).all()  # the draw is not the loss
            rows.append(number)
        assert len(rows) == len(loader) == ROWS // 50
        counts += np.bincount(np.concatenate(rows), minlength=ROWS)
    assert not counts[weights == 0].any()
    assert is_likely(counts, weights)
    assert not is_likely(counts, np.sqrt(weights))


def test_the_weights_of_the_loss_and_of_the_draw_are_apart(path):
    loader = Loader(path, target="y", weight="w", sampling="w", inputs=["number"], global_batch_size=50)
    weights = make_table()["w"].to_numpy().astype("f4")
    for batch in loader:
        np.testing.assert_array_equal(batch["weight"], weights[batch["inputs"][:, 0].long().numpy()])


@pytest.mark.parametrize("memory", ["400 KiB", "64 MiB"])
def test_classes_come_equally_often_also_from_sorted_data(path, memory):
    loader = loader_of(path, sampling="balanced", memory=memory, global_batch_size=120)
    shares = []
    for _ in range(10):
        shares += [np.bincount(batch["target"].numpy(), minlength=3) / 120 for batch in loader]
    np.testing.assert_allclose(np.mean(shares, axis=0), [1 / 3] * 3, atol=0.02)
    assert np.std(shares, axis=0).max() < 2 * np.sqrt(2 / 9 / 120)  # in each batch, not only on the whole
    assert np.min(shares) > 0.05


def test_a_row_that_has_nearly_all_the_weight_comes_from_its_small_chunk(tmp_path):
    weights = np.ones(1000)
    weights[-1] = 999 * 99
    path = str(tmp_path / "data.parquet")
    pq.write_table(pa.table({"number": np.arange(1000), "w": weights}), path, row_group_size=111)
    rows = rows_of(Loader(path, inputs=["number"], sampling="w", global_batch_size=50, memory="64 KiB"))
    assert 0.97 < (rows == 999).mean() < 1
    assert ((rows == 999).mean(axis=1) > 0.8).all()


class Weighted:
    """A source of numbered rows with weights, in chunks of any sizes."""

    def __init__(self, sizes, seed=0):
        self.chunk_rows = np.array(sizes, np.int64)
        self.chunk_nbytes = self.chunk_rows * 4
        number = np.arange(sum(sizes))
        weights = np.random.default_rng(seed).choice([0.0, 0.1, 1.0, 20.0], len(number))
        weights[seed % len(weights)] = 3.0
        self.table = pa.table({"number": number.astype("f4"), "w": weights, "kind": number % 3})
        self.schema = self.table.schema
        self.identity = f"{sizes} {seed}"
        self.num_chunks = len(sizes)

    def read(self, chunk, columns=None):
        start = int(self.chunk_rows[:chunk].sum())
        return self.table.slice(start, int(self.chunk_rows[chunk])).select(columns)

    def describe(self, chunk):
        return f"chunk {chunk}"


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_ranks_and_any_resume_see_the_same_global_batches(data):
    sizes = data.draw(st.lists(st.sampled_from([0, 1, 7, 40, 90]), min_size=1, max_size=20).filter(sum))
    source = Weighted(sizes, data.draw(st.integers(0, 99)))
    options = {
        "inputs": ["number"],
        "target": "kind",
        "sampling": data.draw(st.sampled_from(["w", "balanced"])),
        "global_batch_size": data.draw(st.integers(1, min(sum(sizes), 40))),
        "tail": data.draw(st.sampled_from(["trim", "pad"])),
        "memory": data.draw(st.sampled_from(["32 KiB", "80 KiB", "1 MiB"])),
        "seed": data.draw(st.integers(0, 9)),
    }
    whole = Loader(source, **options)
    batch, state, seen = whole.plan.order.global_batch_size, whole.state_dict(), []
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), min_size=2, max_size=2)))
    for start, stop in pairwise([0, *cuts, len(whole)]):
        ranks = data.draw(st.sampled_from([1, 2, 3, 5]))
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
    rows = rows_of(whole)
    np.testing.assert_array_equal(np.concatenate(seen), rows)
    real = rows[rows >= 0]
    assert len(real) == whole.num_samples
    if options["sampling"] == "w":
        assert (source.table["w"].to_numpy()[real] > 0).all()


@pytest.mark.parametrize("sampling", ["w", "balanced"])
def test_a_kept_table_gives_the_same_batches_as_files(path, sampling):
    options = {"sampling": sampling, "tail": "pad", "ranks": 5, "rank": 2, "global_batch_size": 57}
    in_memory = loader_of(TableSource(make_table(), rows_per_chunk=70), memory="16 MiB", **options)
    from_disk = loader_of(path, **options)
    assert in_memory._planned.is_small(1)
    state = from_disk.state_dict()
    in_memory.load_state_dict({**state, "source": in_memory.plan.source_identity})
    for _ in range(2):
        for one, other in zip(in_memory, from_disk, strict=True):
            for name in one:
                torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)


def test_a_filter_and_an_expression_are_drawn_from(path):
    df = dd.read_parquet(path)
    data = df.assign(heavy=(df.number % 2) * 3)
    data = data[data.number >= 1000]
    rows = rows_of(loader_of(data, sampling="heavy", memory="1 MiB"))
    assert rows.min() >= 1000
    assert (rows % 2 == 1).all()
    assert rows.shape == (40, 50)


def test_strings_with_a_preparation_are_balanced(path):
    preparation = TablePreparation()
    preparation.fit(path, target="name", task="classification")
    encoder = SampleEncoder(preparation, target=preparation.target)
    options = {"preparation": encoder, "global_batch_size": 60, "memory": "1 MiB"}
    loader = Loader(path, sampling="balanced", **options)
    target = torch.cat([batch["target"].clone() for batch in loader])
    np.testing.assert_allclose(np.bincount(target, minlength=3) / len(target), [1 / 3] * 3, atol=0.05)
    plain = torch.cat([batch["target"].clone() for batch in Loader(path, **options)])
    assert np.bincount(plain).max() / len(plain) > 0.85


def test_training_takes_a_drawn_loader_and_validation_does_not(path):
    module = torch.nn.Linear(2, 3)
    loader = loader_of(path, sampling="balanced")
    bundle = dtk.train(module, loader, validation=loader_of(path, sampling=None, tail="pad"), epochs=1)
    assert bundle.metrics
    assert bundle.plan_digest == loader.plan.digest
    with pytest.raises(ArgumentError, match="validation has sampling='w'"):
        dtk.train(module, loader, validation=loader_of(path, tail="pad"))


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_LEAST_NBYTES", 1)
    number = np.arange(200)
    data = xr.Dataset(
        {
            "t": (("time", "lat", "lon"), np.broadcast_to(number[:, None, None], (200, 4, 5)).astype("f4")),
            "number": ("time", number),
            "trust": ("time", (number >= 100) * 1.0),
            "storm": ("time", (number % 50 == 0).astype("i2")),
            "mask": (("lat", "lon"), np.ones((4, 5))),
        }
    )
    path = str(tmp_path / "data.zarr")
    data.to_zarr(path, encoding={"t": {"chunks": (20, 4, 5)}, "trust": {"chunks": (200,)}}, consolidated=False)
    return path


@pytest.mark.parametrize("ranks", [1, 3])
def test_grids_are_drawn_and_balanced(store, ranks):
    for sampling in ("trust", "balanced"):
        seen = []
        for rank in range(ranks):
            loader = Loader(
                store, inputs=["t", "mask"], target="storm", sampling=sampling, global_batch_size=30,
                memory="1 MiB", rank=rank, ranks=ranks,
            )  # fmt: skip
            for _ in range(8):
                for batch in loader:
                    number = batch["inputs"][:, 0, 0, 0].numpy().copy()
                    assert (batch["inputs"].numpy() == number[:, None, None, None]).all()
                    np.testing.assert_array_equal(batch["target"], number % 50 == 0)
                    assert batch["static"].shape == (1, 4, 5)
                    seen.append(number)
        seen = np.concatenate(seen)
        assert len(seen) == 8 * 180
        if sampling == "trust":
            assert seen.min() >= 100
            assert len(np.unique(seen)) == 100
        else:
            assert abs((seen % 50 == 0).mean() - 0.5) < 0.06


def test_the_column_of_the_draw_is_no_input_unless_it_is_named(path, store):
    table = make_table().drop_columns(["name"])
    assert Loader(table, target="y", sampling="w").encoder.columns == ("number", "x", "y")
    assert Loader(table, target="y", sampling="w", inputs=["w"]).encoder.columns == ("w", "y")
    assert Loader(table, target="y", sampling="balanced").encoder.columns == ("number", "x", "w", "y")
    assert Loader(table, target="y", sampling="y").encoder.columns == ("number", "x", "w", "y")
    gone = xr.open_zarr(store, consolidated=False)[["t", "mask", "trust"]]
    assert Loader(gone, sampling="trust").encoder.columns == ("t",)


def spoil(path, row_groups):
    """Overwrite row groups of a file, which looks as before."""
    before, metadata = os.stat(path), pq.ParquetFile(path).metadata
    with open(path, "rb+") as file:
        for number in row_groups:
            for column in range(metadata.num_columns):
                chunk = metadata.row_group(number).column(column)
                start = chunk.dictionary_page_offset or chunk.data_page_offset
                file.seek(start)
                file.write(b"\xff" * chunk.total_compressed_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_chunk_without_weight_is_never_read(tmp_path):
    table = make_table()
    number = np.arange(ROWS)
    table = table.set_column(table.schema.get_field_index("w"), "w", pa.array((number // 70 % 3 == 1) * 1.0))
    path = str(tmp_path / "data.parquet")
    pq.write_table(table, path, row_group_size=70)
    loader = loader_of(path)
    expected = rows_of(loader)
    spoil(path, [chunk for chunk in range(43) if chunk % 3 != 1])
    loader.set_epoch(0)
    np.testing.assert_array_equal(rows_of(loader), expected)
    assert (expected // 70 % 3 == 1).all()
    assert loader.plan.epoch_nbytes < loader._planned.source.chunk_nbytes.sum() / 2
    spoil(path, [1])
    with pytest.raises(DataError, match="row group 1"):
        rows_of(loader)


def test_ranks_and_later_loaders_do_not_count(path):
    df = dd.read_parquet(path)
    data = df[df.number >= 500]
    loader = loader_of(data, memory="1 MiB")
    pickled = pickle.dumps(loader)  # with the counts, though nobody has looked at the plan
    spoil(path, range(43))
    assert pickle.loads(pickled).plan.digest == loader.plan.digest
    again = loader_of(data, memory="1 MiB")
    again.count()
    assert again.plan.digest == loader.plan.digest
    other_inputs = Loader(data, inputs=["x"], target="y", sampling="w", memory="1 MiB")
    assert other_inputs.plan.num_steps == 0  # of 4096 samples
    with pytest.raises(DataError, match="cannot be read"):
        loader_of(data, sampling="balanced").plan  # noqa: B018


def test_counting_reads_only_the_columns_that_tell(path, monkeypatch):
    df = dd.read_parquet(path)
    read, original = [], ParquetSource.read

    def noting(self, chunk, columns=None, **options):
        read.append(columns)
        return original(self, chunk, columns, **options)

    monkeypatch.setattr(ParquetSource, "read", noting)
    loader_of(df[df.number > 500], sampling="balanced").count()
    assert len(read) == 43
    assert {name for columns in read for name in columns} == {"number", "y"}


def test_the_state_knows_how_rows_are_drawn(path, tmp_path):
    loader = loader_of(path)
    state = json.loads(json.dumps(loader.state_dict()))
    assert state["sampling"]["by"] == "w"
    with pytest.raises(ArgumentError, match="sampling='balanced' is not what the state was saved with; pass .*'w'"):
        loader_of(path, sampling="balanced").load_state_dict(state)
    with pytest.raises(ArgumentError, match="pass sampling=None"):
        loader.load_state_dict(loader_of(path, sampling=None).state_dict())
    old = {name: value for name, value in loader_of(path, sampling=None).state_dict().items() if name != "sampling"}
    loader_of(path, sampling=None).load_state_dict(old)
    assert len({loader_of(path, sampling=one).plan.digest for one in (None, "w", "x", "balanced")}) == 4


def test_other_weights_in_a_store_are_refused_at_resume_and_while_reading(store):
    import zarr

    options = {"inputs": ["t"], "sampling": "trust", "global_batch_size": 10, "memory": "1 MiB"}
    loader = Loader(store, **options)
    state = loader.state_dict()
    zarr.open_array(store, path="trust", mode="r+")[:] = 0.5  # plain metadata does not tell
    with pytest.raises(DataError, match="sampling='trust', is not what the state was saved with"):
        Loader(store, **options).load_state_dict(state)
    for change in ("sign", "sum"):  # the second leaves weights that could be drawn by
        array = zarr.open_array(store, path="trust", mode="r+")
        array[150:] = -1 if change == "sign" else 5
        with pytest.raises(DataError, match="'trust' are not those that were counted"):
            rows_of(loader)


def test_other_classes_in_a_store_are_refused_while_reading(store):
    import zarr

    loader = Loader(store, inputs=["t"], target="storm", sampling="balanced", global_batch_size=10, memory="1 MiB")
    assert loader.plan
    zarr.open_array(store, path="storm", mode="r+")[:40] = 1
    with pytest.raises(DataError, match="'storm' are not those that were counted"):
        rows_of(loader)


def test_the_plan_says_that_rows_are_drawn(path):
    text = str(loader_of(path).plan.explain())
    assert "drawn with replacement by 'w'" in text
    assert "every row once" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "wight"}, "sampling='wight' is no column of the data; choose from 'number', 'x'"),
        ({"sampling": "name"}, "sampling='name' cannot draw by 'name', which holds .*string and no weights"),
        ({"sampling": 3}, "sampling=3 must be the name of a column of weights, 'balanced' or None"),
        ({"sampling": "w", "shuffle": False}, "sampling='w' draws rows at random; .* shuffle=True"),
        ({"sampling": "balanced", "target": None}, "sampling='balanced' makes the classes .* give target="),
        ({"sampling": "balanced", "target": "z"}, "target='z' is no column"),
    ],
)
def test_what_cannot_be_drawn_by_is_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        loader_of(make_table(), **options)


def test_more_that_cannot_be_drawn_by(store):
    table = make_table()
    with pytest.raises(ArgumentError, match="'balanced' is ambiguous: a column has this name"):
        loader_of(table.append_column("balanced", table["w"]), sampling="balanced")
    with pytest.raises(ArgumentError, match=r"cannot draw by 't', which is not one number for each of 'time'"):
        Loader(store, inputs=["t"], sampling="t")
    with pytest.raises(ArgumentError, match="'nothing' is no variable of the data"):
        Loader(store, inputs=["t"], sampling="nothing")
    nested = pa.table({"x": [1.0, 2.0], "y": [[1], [2]]})
    with pytest.raises(ArgumentError, match="which holds list<.* and no classes"):
        Loader(nested, inputs=["x"], preparation=None, target="y", sampling="balanced")
    negative = table.append_column("v", pa.array(np.arange(ROWS) - 1.0))
    with pytest.raises(DataError, match=r"sampling='v' is negative in 1 rows; .*data\[data\['v'\] >= 0\]"):
        len(loader_of(negative, sampling="v"))
