"""Batches of windows: what NumPy cuts out of the same rows in memory, each once, wherever chunks and files end."""

from __future__ import annotations

import itertools
import json
import pickle
from dataclasses import replace

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import dtk
from dtk.errors import ArgumentError, DataError, MemoryLimitError
from dtk.loader import Loader
from dtk.loader import scatter as scatter_module
from dtk.loader.packed import Joined, Windows
from dtk.loader.scatter import scatter
from dtk.preparation import TablePreparation
from dtk.sources import ParquetSource, TableSource, Window, datasets, runs
from dtk.sources import windows_of as windows_module

ROWS = 600


def starts_by_hand(frame, window, step):
    """Walk along the rows of a frame, as the definition says."""
    starts, begin = [], 0
    time, group = frame["time"].to_numpy(), frame["station"].to_numpy()
    for row in range(1, len(frame) + 1):
        if row == len(frame) or group[row] != group[row - 1] or time[row] - time[row - 1] != step:
            starts += range(begin, row - window.num_rows + 1, window.stride)
            begin = row
    return np.array(starts, int)


def make_frame(rows=ROWS, seed=0):
    """Three stations by the hour, with gaps; `load` is the number of the row."""
    rng = np.random.default_rng(seed)
    station = np.sort(rng.integers(0, 3, rows))
    hours = np.cumsum(rng.choice([1, 1, 1, 1, 1, 1, 1, 1, 1, 5], rows))
    return pd.DataFrame(
        {
            "time": (np.datetime64("2020-01-01", "s") + hours * np.timedelta64(1, "h")).astype("M8[s]"),
            "station": np.array(["a", "b", "c"])[station],
            "load": np.arange(rows, dtype=np.int64),
            "x": rng.standard_normal(rows),
            "hour": (hours % 24).astype(np.float32),
            "w": 1.0 + rng.random(rows).astype(np.float32),
        }
    )


HOUR = np.timedelta64(1, "h")


def write(frame, folder, sizes=(200, 1, 250, 149), row_group_size=40):
    start = 0
    for part, rows in enumerate(sizes):
        table = pa.Table.from_pandas(frame.iloc[start : start + rows], preserve_index=False)
        pq.write_table(table, folder / f"part-{part}.parquet", row_group_size=row_group_size)
        start += rows
    return ParquetSource.from_files(sorted(map(str, folder.glob("*.parquet"))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("stations")
    write(make_frame(), path)
    return path


@pytest.fixture
def source(folder):
    return ParquetSource.from_files(sorted(map(str, folder.glob("*.parquet"))))


def hourly(**options):
    return Window("time", **{"history": 4, "lead": [1, 3], "group": "station", **options})


def loader_of(data, window=None, **options):
    given = {"inputs": ["load", "x"], "target": "load", "global_batch_size": 16, "memory": "2 MiB", "tail": "pad"}
    return Loader(data, window=window or hourly(), **{**given, **options})


def check(batch, frame, window, inputs=("load", "x"), weight=None):
    """Compare the real samples of a batch with rows of the frame; return their first rows."""
    real = batch["weight"].numpy() > 0
    got = {name: values.numpy()[real] for name, values in batch.items() if name != "static"}
    starts = got["inputs"][:, 0, 0].astype(int)
    past = starts[:, None] + np.arange(window.history)
    future = starts[:, None] + window.history - 1 + np.array(window.leads)
    np.testing.assert_array_equal(got["inputs"], frame[list(inputs)].to_numpy().astype("f4")[past])
    if "target" in got:
        expected = future if isinstance(window.lead, tuple) else future[:, 0]
        np.testing.assert_array_equal(got["target"], frame["load"].to_numpy()[expected])
    if window.known:
        np.testing.assert_array_equal(got["known"], frame[list(window.known)].to_numpy().astype("f4")[future])
    if weight is not None:
        np.testing.assert_array_equal(got["weight"], frame[weight].to_numpy()[future[:, 0]])
    return starts


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("ranks", [1, 3])
def test_every_window_once_and_its_values_right(source, kernel, shuffle, ranks, monkeypatch):
    if not kernel:
        monkeypatch.setattr(scatter_module, "_kernel", None)
    frame, window = make_frame(), hourly(known=["hour"])
    loader = loader_of(source, window, weight="w", shuffle=shuffle)
    seen = []
    for rank in range(ranks):
        for batch in loader.on_rank(rank, ranks):
            assert batch["inputs"].shape[1:] == (4, 2)
            assert batch["target"].shape[1:] == (2,)
            assert batch["target"].dtype == torch.int64
            assert batch["known"].shape[1:] == (2, 1)
            seen.append(check(batch, frame, window, weight="w"))
    expected = starts_by_hand(frame, window, HOUR)
    assert 100 < len(expected) == loader.num_samples
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), expected)
    if ranks == 1:
        assert (np.diff(np.concatenate(seen)) > 0).all() != shuffle


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_windows_of_any_shape_over_rows_cut_anywhere(data, tmp_path_factory):
    frame = make_frame(data.draw(st.integers(1, 150)), seed=data.draw(st.integers(0, 9)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(frame)), max_size=3)))
    folder = tmp_path_factory.mktemp("any")
    source = write(frame, folder, np.diff([0, *cuts, len(frame)]), data.draw(st.integers(1, 50)))
    window = Window(
        "time",
        history=data.draw(st.integers(1, 6)),
        lead=data.draw(st.sampled_from([1, (1,), (2, 7), (1, 2, 3)])),
        stride=data.draw(st.integers(1, 5)),
        group="station",
        known=data.draw(st.sampled_from([(), ("hour",), ("hour", "x")])),
        step="1h",
    )
    expected = starts_by_hand(frame, window, HOUR)
    loader = loader_of(source, window, shuffle=data.draw(st.booleans()), global_batch_size=8)
    if len(expected) == 0:
        with pytest.raises(DataError, match="longer than any run"):
            next(iter(loader))
        return
    seen = [check(batch, frame, window) for batch in loader]
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), expected)
    loader = loader_of(TableSource(pa.Table.from_pandas(frame, preserve_index=False), 7), window)
    seen = [check(batch, frame, window) for batch in loader]
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), expected)


def test_a_window_over_data_of_any_kind(source, folder):
    frame, window = make_frame(), hourly()
    expected = starts_by_hand(frame, window, HOUR)
    for data in (source, str(folder), dd.read_parquet(folder), frame, dict(frame)):
        loader = pickle.loads(pickle.dumps(loader_of(data, window)))
        seen = [check(batch, frame, window) for batch in loader]
        np.testing.assert_array_equal(np.sort(np.concatenate(seen)), expected)
        assert pickle.loads(pickle.dumps(loader)).num_samples == len(expected)


def test_groups_that_are_directories(tmp_path):
    frame, window = make_frame(), hourly()
    pq.write_to_dataset(pa.Table.from_pandas(frame, preserve_index=False), tmp_path, partition_cols=["station"])
    loader = loader_of(str(tmp_path), window)
    assert loader.plan.decodes_per_row == 1  # the border of a group is that of a file
    seen = [check(batch, frame, window) for batch in loader]
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), starts_by_hand(frame, window, HOUR))


@pytest.mark.usefixtures("client")
def test_runs_are_found_on_a_cluster(folder):
    frame, data = make_frame(), dd.read_parquet(folder)
    kept = frame[frame.x > -1].reset_index(drop=True)
    assert loader_of(data[data.x > -1]).num_samples == len(starts_by_hand(kept, hourly(), HOUR))


@pytest.mark.parametrize("is_source", [True, False])
def test_a_filter_makes_gaps_and_a_derived_column_is_an_input(folder, is_source):
    frame, window = make_frame(), hourly(history=2, lead=1)
    data = dd.read_parquet(folder)
    data = data[data.x > -1].assign(load=lambda rows: rows.load + 0, double=lambda rows: rows.x * 2)
    kept = frame[frame.x > -1].reset_index(drop=True)
    loader = loader_of(dtk.sources.as_source(data) if is_source else data, window, inputs=["load", "double"])
    seen = []
    for batch in loader:
        real = batch["weight"] > 0
        history = batch["inputs"][real].numpy()
        rows = np.searchsorted(kept.load, history[:, :, 0])
        np.testing.assert_array_equal(history[:, :, 1], (kept.x.to_numpy() * 2).astype("f4")[rows])
        np.testing.assert_array_equal(batch["target"][real], kept.load[rows[:, -1] + 1])
        seen.append(rows[:, 0])
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), starts_by_hand(kept, window, HOUR))
    assert loader.plan.decodes_per_row > 1


@pytest.mark.parametrize("ranks", [2, 3])
def test_global_batches_are_the_same_at_any_number_of_ranks(source, ranks):
    def batches(ranks):
        made = [list(loader_of(source, copy=True, rank=rank, ranks=ranks)) for rank in range(ranks)]
        return [
            {name: torch.cat([batch[name][batch["weight"] > 0] for batch in step]) for name in step[0]}
            for step in zip(*made, strict=True)
        ]

    for one, several in zip(batches(1), batches(ranks), strict=True):
        for name, values in one.items():
            assert torch.equal(values, several[name])


def test_resuming_at_any_step_equals_not_stopping(source):
    loader = loader_of(source, copy=True)
    whole = [batch["inputs"] for epoch in range(2) for batch in loader]
    loader = loader_of(source, copy=True)
    num_steps = len(loader)
    for step in range(0, 2 * num_steps, 3):
        loader = loader_of(source, copy=True)
        loader.set_epoch(step // num_steps)
        running = iter(loader)
        for _ in range(step % num_steps + 1):
            next(running)
        running.close()
        other = loader_of(source, copy=True)
        other.load_state_dict(json.loads(json.dumps(loader.state_dict())))
        rest = [batch["inputs"] for batch in other]
        expected = whole[step + 1 : (step // num_steps + 1) * num_steps]
        assert len(rest) == len(expected)
        assert all(torch.equal(got, want) for got, want in zip(rest, expected, strict=True))


def test_a_state_of_another_window_is_refused(source):
    state = loader_of(source).state_dict()
    for window in (hourly(stride=2), hourly(lead=[1, 2]), hourly(history=3, lead=[2, 4])):
        with pytest.raises(DataError, match="not what the state was saved from"):
            loader_of(source, window).load_state_dict(state)


def test_inputs_by_default(source):
    def columns(loader):
        next(iter(loader))
        return sorted(loader.encoder.columns), loader.plan.fields["inputs"].shape

    table = pa.table(make_frame()[["time", "station", "load", "x", "hour", "w"]])
    options = {"inputs": None, "weight": "w"}
    assert columns(loader_of(table, hourly(), **options)) == (["hour", "load", "w", "x"], (4, 3))
    # at lead 0 the target would lie in its own inputs
    assert columns(loader_of(table, hourly(lead=0), **options)) == (["hour", "load", "w", "x"], (4, 2))
    assert columns(loader_of(table, hourly(lead=[0, 1]), **options)) == (["hour", "load", "w", "x"], (4, 2))


def test_a_target_at_lead_0_and_none_at_all(source):
    frame = make_frame()
    for batch in loader_of(source, hourly(lead=0), inputs=["x"]):
        real = batch["weight"] > 0
        rows = batch["target"][real].numpy()
        np.testing.assert_array_equal(batch["inputs"][real, -1, 0], frame.x.to_numpy().astype("f4")[rows])
    window = hourly(lead=None)
    loader = loader_of(source, window, target=None, weight="w")
    assert set(loader.plan.fields) == {"inputs", "weight"}
    seen = [check(batch, frame, window) for batch in loader]
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), starts_by_hand(frame, window, HOUR))
    loader.set_epoch(0)
    weights = np.concatenate([batch["weight"].numpy() for batch in loader])
    np.testing.assert_array_equal(weights[weights > 0], frame.w.to_numpy()[np.concatenate(seen) + 3])  # the time's own


def test_a_preparation_makes_the_history(source, folder):
    frame, window = make_frame(), hourly(lead=2)
    preparation = TablePreparation(kinds={"station": "category"}).fit(source, inputs=["load", "x", "station"])
    loader = loader_of(source, window, inputs=None, preparation=preparation)
    encoded = preparation.encode(pa.Table.from_pandas(frame, preserve_index=False))
    for batch in loader:
        real = batch["weight"] > 0
        rows = batch["target"][real].numpy()[:, None] - 5 + np.arange(4)
        np.testing.assert_array_equal(batch["inputs"][real], encoded["inputs"][rows])
        np.testing.assert_array_equal(batch["codes"][real], encoded["codes"][rows])


def test_only_rows_that_are_targets_must_have_one():
    time = [*range(20), 50, *range(100, 119)]  # row 20 is alone
    y = [None, None, *range(2, 20), None, None, None, *range(23, 40)]
    table = pa.table({"time": time, "x": np.arange(40.0), "y": y, "w": [1.0] * 39 + [-1]})
    options = {"inputs": ["x"], "target": "y", "weight": "w", "global_batch_size": 4, "tail": "pad"}
    seen = []
    for batch in Loader(table, window=Window("time", 2, [1, 2], step=1), **options):
        real = batch["weight"] > 0
        np.testing.assert_array_equal(batch["target"][real] - batch["inputs"][real, -1], [[1, 2]] * int(real.sum()))
        seen += batch["target"][real][:, 0].tolist()
    assert sorted(seen) == [*range(2, 19), *range(23, 39)]
    with pytest.raises(DataError, match="target='y' is null in 2 rows"):
        list(Loader(table, window=Window("time", 1, 1, step=1), **options))
    with pytest.raises(DataError, match="weight='w' is negative in 1 rows"):
        list(Loader(table, window=Window("time", 2, 1, step=1), **options))


def test_later_chunks_are_counted_in_the_plan(tmp_path):
    sources = {}
    for size in (200, 20):
        (tmp_path / str(size)).mkdir()
        sources[size] = write(make_frame(), tmp_path / str(size), row_group_size=size)
    big, small = (loader_of(source).plan for source in sources.values())
    assert 1.3 < big.decodes_per_row < small.decodes_per_row < 2.2
    assert small.decodes_per_sample(1) >= small.decodes_per_row
    alone = loader_of(sources[20], hourly(history=1, lead=0), inputs=["x"]).plan
    assert alone.decodes_per_row == 1
    one = loader_of(sources[20], hourly(history=1, lead=0), inputs=["load", "x"], target="hour").plan
    assert small.chunk_nbytes.max() / 20 > 1.2 * big.chunk_nbytes.max() / 200  # 6 rows of the next chunk
    assert small.epoch_nbytes > 1.5 * one.epoch_nbytes
    with pytest.raises(MemoryLimitError, match="memory='10.0 KiB' is less than"):
        next(iter(loader_of(sources[200], memory="10 KiB")))


# Grids

SAMPLES = 120


def weather():
    rng = np.random.default_rng(0)
    time = np.datetime64("2020-01-01") + np.delete(np.arange(SAMPLES + 3), [50, 51, 52]) * np.timedelta64(6, "h")
    data = xr.Dataset(
        {
            "t2m": (("time", "lat", "lon"), rng.normal(size=(SAMPLES, 4, 6)).astype("f4")),
            "u": (("time", "level", "lat", "lon"), rng.normal(size=(SAMPLES, 2, 4, 6))),
            "sun": (("time", "lat", "lon"), rng.random((SAMPLES, 4, 6)).astype("f4")),
            "number": (("time",), np.arange(SAMPLES)),
            "trust": (("time",), 1 + rng.random(SAMPLES).astype("f4")),
            "mask": (("lat", "lon"), rng.random((4, 6)) < 0.5),
        },
        coords={"time": time},
    )
    return data.assign_coords(season=("time", np.searchsorted([57, 64, 90], np.arange(SAMPLES), "right")))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("grids") / "weather.zarr")
    encoding = {"t2m": {"chunks": (16, 4, 6)}, "u": {"chunks": (8, 2, 4, 6)}, "number": {"chunks": (50,)}}
    weather().to_zarr(path, consolidated=False, encoding=encoding)
    return path


@pytest.fixture
def no_chunk_is_too_small(monkeypatch):
    monkeypatch.setattr(datasets, "_LEAST_NBYTES", 1)
    monkeypatch.setattr(windows_module, "_JOINED_NBYTES", 1)


def grid_starts(window, breaks):
    bounds = [0, *breaks, SAMPLES]
    runs = itertools.pairwise(bounds)
    return np.concatenate([np.arange(low, high - window.num_rows + 1, window.stride) for low, high in runs])


@pytest.mark.usefixtures("no_chunk_is_too_small")
@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(
    ("window", "breaks"),
    [
        (Window("time", history=3, lead=2, known=["sun"]), [50]),
        (Window("time", history=20, lead=[1, 4], stride=3, group="season", known=["sun", "t2m"]), [50, 57, 64, 90]),
        (Window("time", history=1, lead=[0]), [50]),
    ],
)
def test_windows_of_grids(store, window, breaks, ranks, kernel, monkeypatch):
    if not kernel:
        monkeypatch.setattr(scatter_module, "_kernel", None)
    data = weather()
    channels = np.concatenate([data["t2m"].values[:, None], data["u"].values], axis=1).astype("f4")
    known = [data[name].values for name in window.known]
    seen = []
    for rank in range(ranks):
        options = {"inputs": ["t2m", "u", "mask"], "target": "number", "weight": "trust", "global_batch_size": 8}
        for batch in Loader(store, window=window, tail="pad", memory="8 MiB", rank=rank, ranks=ranks, **options):
            real = batch["weight"].numpy() > 0
            number = batch["target"].numpy()[real].reshape(-1, len(window.leads))
            start = number[:, 0] - window.leads[0] - window.history + 1
            future = start[:, None] + window.history - 1 + np.array(window.leads)
            np.testing.assert_array_equal(number, future)
            assert batch["target"].ndim == (2 if isinstance(window.lead, tuple) else 1)
            np.testing.assert_array_equal(batch["inputs"][real], channels[start[:, None] + np.arange(window.history)])
            np.testing.assert_array_equal(batch["static"], data["mask"].values[None].astype("f4"))
            np.testing.assert_array_equal(batch["weight"][real], data["trust"].values[future[:, 0]])
            if known:
                np.testing.assert_array_equal(batch["known"][real], np.stack([one[future] for one in known], axis=2))
            seen.append(start)
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), grid_starts(window, breaks))


@pytest.mark.usefixtures("no_chunk_is_too_small")
@pytest.mark.parametrize("inputs", [["t2m"], None])
def test_a_grid_that_foretells_itself(store, inputs):
    values = weather()["t2m"].values
    data = xr.open_zarr(store, consolidated=False)[["t2m", "sun", "trust"]].isel(time=slice(20, None))
    loader = Loader(
        data, inputs=inputs, target="t2m", weight="trust", window=Window("time", 2, 1), global_batch_size=8, tail="pad"
    )
    rows = []
    for batch in loader:
        assert batch["inputs"].shape[2] == (2 if inputs is None else 1)
        real = batch["weight"] > 0
        history, target = batch["inputs"][real][:, :, -1].numpy(), batch["target"][real].numpy()
        for past, future in zip(history, target, strict=True):
            row = int(np.flatnonzero((values == past[0]).all(axis=(1, 2)))[0])
            np.testing.assert_array_equal(past, values[row : row + 2])
            np.testing.assert_array_equal(future, values[row + 2])
            rows.append(row)
    assert sorted(rows) == [*range(20, 48), *range(50, SAMPLES - 2)]


@pytest.mark.usefixtures("no_chunk_is_too_small")
def test_samples_without_a_coordinate_are_numbered(store):
    data = xr.open_zarr(store, consolidated=False).drop_vars("time")
    loader = Loader(data, inputs=["t2m"], target="number", window=Window("time", 3), global_batch_size=1)
    assert loader.num_samples == SAMPLES - 3
    assert loader.plan.decodes_per_row == pytest.approx(224 / 120)  # each of 8 chunks, and all but the first again


def test_chunks_are_read_several_at_once(store, monkeypatch):
    def loader_of_numbers(nbytes):
        monkeypatch.setattr(windows_module, "_JOINED_NBYTES", nbytes)
        return Loader(store, inputs=["t2m"], target="number", window=Window("time", 4), global_batch_size=8, tail="pad")

    def numbers(loader):
        return np.sort(np.concatenate([batch["target"][batch["weight"] > 0] for batch in loader]))

    monkeypatch.setattr(datasets, "_LEAST_NBYTES", 1)
    alone, joined = (loader_of_numbers(nbytes) for nbytes in (1, 5000))  # 1664 bytes a chunk
    assert (alone.plan.num_chunks, joined.plan.num_chunks) == (8, 3)
    assert joined.plan.decodes_per_row < 1.4 < 1.8 < alone.plan.decodes_per_row
    np.testing.assert_array_equal(numbers(joined), numbers(alone))


def test_the_target_is_no_input_at_lead_0(store):
    data = xr.open_zarr(store, consolidated=False)[["t2m", "sun", "trust"]]
    options = {"target": "sun", "weight": "trust", "window": Window("time", 2, [0, 1])}
    assert Loader(data, **options).plan.fields["inputs"].shape == (2, 1, 4, 6)


# Moving


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_windows_move_the_same_bytes_with_the_kernel_and_with_numpy(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    num_rows = data.draw(st.integers(1, 40))
    shapes = data.draw(st.sampled_from([[()], [(3,)], [(2, 5)], [(700,)], [(2, 3), (4, 3)], [(1, 600), (2, 600)]]))
    parts = [rng.normal(size=(num_rows, *shape)).astype(rng.choice(["f4", "f8", "i2"])) for shape in shapes]
    offsets = np.unique(rng.integers(0, num_rows, data.draw(st.integers(1, 5))))
    if data.draw(st.booleans()):
        offsets = np.arange(len(offsets))
    starts = np.sort(rng.integers(0, num_rows - offsets[-1], data.draw(st.integers(1, 30))))
    places = rng.permutation(40)[: len(starts)]
    places[rng.random(len(places)) < 0.3] = -1
    rows = np.concatenate([part.reshape(num_rows, -1) for part in parts], axis=1)
    ring = rng.normal(size=(40, len(offsets), rows.shape[1])).astype("f4")
    expected = ring.copy()
    for start, place in zip(starts, places, strict=True):
        if place >= 0:
            expected[place] = rows[start + offsets]
    kernel = scatter_module._kernel
    for moved_by in {None, kernel}:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scatter_module, "_kernel", moved_by)
            got = ring.copy()
            scatter(Windows(Joined(parts) if len(parts) > 1 else parts[0], starts, offsets), places, got)
            np.testing.assert_array_equal(got, expected)


@pytest.mark.skipif(scatter_module._kernel is None, reason="the compiled kernel was not built")
@pytest.mark.parametrize(
    ("starts", "offsets", "places", "fault"),
    [
        ([0, 4], [0, 1], [0, 1], "starts"),
        ([0, -1], [0, 1], [0, 1], "starts"),
        ([0, 1], [0, 9], [0, 1], "starts"),
        ([0, 1], [0, 1], [0, 4], "places"),
        ([0], [0, 1], [0, 1], "windows"),
        ([0, 1], [0, 1, 2], [0, 1], "rows"),
    ],
)
def test_the_kernel_refuses_what_lies_outside(starts, offsets, places, fault):
    rows, ring = np.zeros((5, 3), "f4"), np.zeros((4, 2, 3), "f4")
    arguments = [np.array(values, np.int64) for values in (starts, offsets, places)]
    with pytest.raises(ValueError, match=f"bad {fault}"):
        scatter_module._kernel.gather(rows, *arguments, ring, 24, 0, 12)


# What cannot work


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"history": 0}, "history=0 must be a whole number, at least 1"),
        ({"history": 2.5}, "history=2.5 must be a whole number"),
        ({"stride": 0}, "stride=0 must be a whole number, at least 1"),
        ({"lead": -1}, "lead=-1 must be a whole number, at least 0"),
        ({"lead": [3, 1]}, r"lead=\[3, 1\] must be a whole number, at least 0, or several that rise"),
        ({"lead": [1, 1]}, "or several that rise"),
        ({"lead": 1.5}, "lead=1.5 must be a whole number"),
        ({"lead": True}, "lead=True must be a whole number"),
        ({"known": None}, "known=None must list names"),
        ({"group": 5}, "group=5 must list names"),
        ({"group": ["a", 5]}, r"group=\['a', 5\] must list names"),
        ({"lead": object()}, "must be a whole number, at least 0"),
        ({"known": "hour"}, r"known='hour' must list names; give known=\['hour'\]"),
        ({"known": ["hour"], "lead": None}, "lead=None has none"),
    ],
)
def test_a_window_that_cannot_be_is_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        Window("time", **options)


def test_a_window_is_a_plain_value():
    window = Window("time", history=4, lead=[1, 3], group=["a", "b"], known=["c"])
    assert pickle.loads(pickle.dumps(window)) == window
    assert hash(window) == hash(Window("time", history=4, lead=(1, 3), group=("a", "b"), known=("c",)))
    assert eval(repr(window)) == window
    assert (window.leads, window.groups, window.num_rows) == ((1, 3), ("a", "b"), 7)
    assert Window("time", lead=()).lead is None
    assert Window("time", group=["a"]) == Window("time", group="a")
    assert repr(Window("time", np.int64(4), np.array([1, 3]), np.int64(1), ["a", "b"], ["c"])) == repr(window)
    assert dtk.Window is Window


@pytest.mark.parametrize(
    ("window", "options", "error", "message"),
    [
        (Window("tme"), {}, ArgumentError, "window dim='tme' is no column of the data; did you mean 'time'"),
        (Window("station"), {}, ArgumentError, "window dim='station' holds .*string, neither numbers nor times"),
        (hourly(group="place"), {}, ArgumentError, "window group='place' is no column"),
        (
            hourly(known=["hours"]),
            {},
            ArgumentError,
            "window known='hours' is no column of the data; did you mean 'hour'",
        ),
        (hourly(known=["station"]), {}, ArgumentError, "window known='station' holds .*string; derive a number"),
        (hourly(known=["load"]), {}, ArgumentError, r"known=\['load'\] give away the target 'load'"),
        (hourly(lead=0), {}, ArgumentError, "hold the target 'load' at its own time, as window has lead=0"),
        (hourly(lead=None), {}, ArgumentError, "target='load' lies at the lead times, and window has lead=None"),
        (hourly(), {"target": None}, ArgumentError, r"lead=\(1, 3\), and nothing to give there; give a target="),
        (hourly(), {"weight": "x"}, ArgumentError, "hold the weight 'x'"),
        (hourly(), {"inputs": ["station"]}, ArgumentError, "inputs='station' holds .*string"),
        (hourly(step=60), {}, ArgumentError, "window step=60 is no time"),
        ("time", {}, ArgumentError, "window='time' must be a dtk.Window"),
        (
            hourly(history=500),
            {},
            DataError,
            r"window of 503 rows \(history=500, lead=\(1, 3\)\) is longer than any run .* the longest has \d+; sort "
            "the data by 'station', 'time', lower history=",
        ),
    ],
)
def test_a_window_that_does_not_fit_the_data_is_refused(source, window, options, error, message):
    with pytest.raises(error, match=message):
        loader_of(source, window, **options).plan.check()


def test_times_in_the_index_are_told(tmp_path):
    frame = make_frame()
    write(frame, tmp_path)
    with pytest.raises(ArgumentError, match="window names 'time', .* in the index .*; read the files with index=False"):
        loader_of(dd.read_parquet(tmp_path, index="time"))
    for data in (frame.set_index("time"), frame.set_index(["station", "time"])):
        with pytest.raises(ArgumentError, match=r"window names 'time', .* in the index .*; give data.reset_index\(\)"):
            loader_of(data)


def test_what_is_known_must_be_numbers():
    frame = make_frame().assign(kind=lambda rows: rows.station.astype("category"))
    with pytest.raises(ArgumentError, match="window known='kind' holds dictionary.*; derive a number from it first"):
        loader_of(frame, hourly(known=["kind"]))


def test_a_batch_bigger_than_the_windows_says_why_these_are_few():
    frame = make_frame().sample(frac=0.5, random_state=0).sort_index().assign(station="a")  # as a random split does
    with pytest.raises(
        ArgumentError, match=r"than the \d+ samples of the data, .* \(only \d+ windows begin in 300 rows"
    ):
        loader_of(frame, hourly(step="1h", history=1, lead=1), tail="trim", global_batch_size=200).plan.check()


def test_rows_out_of_order_are_told(tmp_path):
    frame = make_frame().iloc[::-1]
    with pytest.raises(DataError, match=r"the longest has 1; time goes back in 5\d\d rows; sort the data by"):
        _ = loader_of(frame, hourly(step="1h")).plan


def test_a_plan_warns_of_rows_that_become_no_windows(source):
    assert not loader_of(source).plan.cautions
    frame, window = make_frame(), hourly(group=None, history=2, lead=1, step="1h")
    for hours, message in (
        (np.arange(ROWS) % 300, "time goes back in 1 rows, where no window crosses; sort the data by 'time'"),
        (
            np.where(np.arange(ROWS) < 20, 1, 3) * np.arange(ROWS),
            "only 18 windows begin in 600 rows, as no more than 20 follow each other one step of 'time' apart; sort "
            "the data by 'time', or give the step= that is meant",
        ),
    ):
        plan = loader_of(frame.assign(time=frame.time.to_numpy()[0] + HOUR * hours), window).plan
        assert plan.warnings() == [message]
        assert f"warning: {message}" in str(plan.explain())


def test_an_empty_table_says_so():
    with pytest.raises(DataError, match="the data holds no rows"):
        loader_of(make_frame().iloc[:0].astype({"station": "string"})).plan.check()


@pytest.mark.parametrize(
    ("window", "options", "message"),
    [
        (Window("tim"), {}, "dim='tim' is no dimension of the data"),
        (Window("time", group="seson"), {}, "window group='seson' is nothing along 'time'; did you mean 'season'"),
        (Window("time", known=["snow"]), {}, "window known='snow' is no column of the data"),
        (Window("time", known=["mask"]), {}, "window known='mask' is no column of the data"),
        (Window("time"), {"inputs": ["snow"]}, "'snow' is no variable of the data"),
        (Window("time"), {"inputs": "t2m"}, r"give inputs=\['t2m'\]"),
        (Window("time"), {"inputs": []}, r"inputs=\[\] must name one at least"),
        (Window("time", known=["sun", "trust"]), {}, "window known='trust' has the dimensions"),
        (Window("time"), {"preparation": TablePreparation()}, "is for tables"),
        (Window("time", step=5), {}, "step=5 is no time"),
    ],
)
def test_a_window_that_does_not_fit_the_grids_is_refused(store, window, options, message):
    given = {"inputs": ["t2m"], "target": "number", **options}
    with pytest.raises(ArgumentError, match=message):
        Loader(store, window=window, **given)


def test_arrays_without_their_coordinate_are_refused(store):
    with pytest.raises(ArgumentError, match="window= needs the coordinate of the samples; give the Dataset"):
        Loader(datasets.array_source(store), target="number", window=Window("time"))


def test_windows_that_fit_nowhere_are_refused_at_once_where_the_coordinate_lies_in_memory(store):
    with pytest.raises(DataError, match=r"window of 301 rows \(history=300, lead=1\) is longer than any run"):
        Loader(store, inputs=["t2m"], target="number", window=Window("time", 300))


def test_only_the_variables_that_are_used_are_looked_at(tmp_path):
    path = tmp_path / "store.zarr"
    numbers = np.arange(200.0)
    data = xr.Dataset({"x": (("time", "y"), numbers[:, None]), "rain": ("time", numbers)}, {"time": np.arange(200)})
    data.to_zarr(path, consolidated=False, encoding={"x": {"chunks": (20, 1)}, "rain": {"chunks": (50,)}})
    options = {"inputs": ["x"], "target": "rain", "window": Window("time", 3), "global_batch_size": 8}
    before = Loader(path, **options)
    state = before.state_dict()
    more = {
        "day": ("time", np.arange(200).astype("M8[D]").astype("M8[ns]")),
        "huge": (("time", "z"), np.zeros((200, 1000))),
    }
    xr.Dataset(more).to_zarr(path, mode="a", consolidated=False, encoding={"huge": {"chunks": (7, 1000)}})
    after = Loader(path, **options)
    after.load_state_dict(state)
    assert after.plan.chunk_nbytes.tolist() == before.plan.chunk_nbytes.tolist()
    computed = xr.open_zarr(path, consolidated=False).assign(other=lambda rows: rows.x + 1)
    Loader(computed, **options).load_state_dict(state)


def test_what_is_missing_in_a_groups_coordinate_is_one_group(tmp_path):
    path = tmp_path / "store.zarr"
    values = {"x": (("time", "y"), np.zeros((50, 2)))}
    for name, group in (("all", np.full(50, np.nan)), ("some", np.where(np.arange(50) < 20, 1, np.nan))):
        values[name] = ("time", group)
    xr.Dataset(values, {"time": np.arange(50)}).to_zarr(path, consolidated=False)
    for name, expected in (("all", 48), ("some", 18 + 28)):
        window = Window("time", history=3, lead=None, group=name)
        assert Loader(path, inputs=["x"], window=window, global_batch_size=2).num_samples == expected


def test_training_takes_windows(source):
    loader = loader_of(source, hourly(lead=1))
    shapes = {name: field.shape for name, field in loader.plan.fields.items()}
    outputs = int(np.prod(shapes["target"], dtype=int))
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(outputs))
    module(torch.zeros(2, *shapes["inputs"]))
    before = [weights.detach().clone() for weights in module.parameters()]
    bundle = dtk.train(module, loader, loss="mse")
    assert np.isfinite(bundle.history[0]["loss"])
    assert not torch.equal(before[0], next(module.parameters()))


def test_rows_are_not_drawn_into_windows(source):
    with pytest.raises(ArgumentError, match="sampling='w' draws rows, and window= takes runs of them; leave one out"):
        loader_of(source, sampling="w")


def test_a_state_of_other_windows_is_refused_by_name(tmp_path):
    pq.write_table(pa.table({"time": np.arange(100), "x": np.arange(100.0)}), tmp_path / "part.parquet")
    one, other = (
        Loader(tmp_path, window=Window("time", history=history, lead=None), inputs=["x"], global_batch_size=8)
        for history in (2, 3)
    )
    with pytest.raises(DataError, match=r"window=Window\(.*history=3.* was Window\(.*history=2"):
        other.load_state_dict(one.state_dict())


def test_a_state_is_of_the_same_windows_however_they_are_said(folder):
    data = dd.read_parquet(folder)
    state = loader_of(data, hourly(step="1h")).state_dict()
    for options in ({"step": "60min"}, {"step": None}, {"step": HOUR, "group": ["station"]}, {"known": ["x"]}):
        loader_of(data, hourly(**options)).load_state_dict(state)
    with pytest.raises(DataError, match=r"step='5 h'.* was Window\(.*step='1 h'"):
        loader_of(data, hourly(step="5h", history=1, lead=1)).load_state_dict(state)


def test_a_plan_tells_the_step_and_a_target_that_is_no_input(source, store):
    plan = loader_of(source).plan
    assert "\nwindows  of 7 rows of 'time', 1 h apart (the most common step; give step= if another is meant)\n" in str(
        plan.explain()
    )
    assert "of 7 rows of 'time', 1 h apart\n" in str(loader_of(source, hourly(step="1h")).plan.explain())
    frame = make_frame()
    even = frame[frame.hour % 2 == 0]
    assert "rows of 'time', 2 h apart (the most" in str(loader_of(even, hourly(history=2, lead=1)).plan.explain())
    data = xr.open_zarr(store, consolidated=False)[["t2m", "sun", "number"]]
    plan = Loader(data, target="number", window=Window("time", 2), global_batch_size=8).plan
    assert "apart (the most common step; give step= if another is meant); target 'number' is no input, as it" in str(
        plan.explain()
    )


def test_windows_are_counted_once_for_all_loaders_of_the_same_files(folder, monkeypatch):
    passes = []

    def summaries(source, groups, step, window, *, progress):
        passes.append(progress)
        return found(source, groups, step, window, progress=progress)

    found = runs._summaries
    monkeypatch.setattr(runs, "_summaries", summaries)
    window = hourly(history=11, lead=2)
    first = loader_of(folder, window)
    first.count(progress=True)
    assert passes[0] is True
    passes.clear()
    for other in (loader_of(folder, window), loader_of(folder, hourly(history=10, lead=[1, 3]))):
        assert other.plan.order.chunk_rows.tolist() == first.plan.order.chunk_rows.tolist()
    assert loader_of(folder, window).plan.source_identity == first.plan.source_identity
    assert first._planned.source.runs.is_whole.dtype == bool
    assert passes == []
    assert loader_of(folder, hourly(history=11, lead=2, stride=2)).num_samples < first.num_samples
    assert passes
    passes.clear()
    for _ in range(2):  # what lies in memory is counted each time
        loader_of(make_frame(), window).count()
    assert len(passes) == 2


@pytest.mark.parametrize("kind", ["expression", "files"])
def test_later_rows_that_are_not_those_planned_are_refused(tmp_path, kind):
    write(make_frame().assign(station="a"), tmp_path)
    data = dd.read_parquet(tmp_path)
    window = hourly(group=None)
    source = loader_of(data[data.x > -9] if kind == "expression" else str(tmp_path), window)._planned
    source.count()
    reads = source.source.base.read if kind == "expression" else source.source.base.read_slices
    moved = type("Moved", (type(source.source.base),), {})
    base = object.__new__(moved)
    base.__dict__.update(source.source.base.__dict__)
    chunk = int(np.flatnonzero(source.source.runs.after > 0)[0])
    if kind == "expression":
        moved.read = lambda self, number, *rest, **more: reads(number, *rest, **more).slice(int(number > chunk))
    else:
        moved.read_slices = lambda self, *rest, **more: iter([next(reads(*rest, **more)).slice(1)])
    with pytest.raises(DataError, match=r"\d+ rows where \d+ were planned; open it anew"):
        replace(source.source, base=base).read(chunk, ["load"])


def test_a_listed_store_is_listed_below_windows_too(tmp_path):
    path = tmp_path / "store.zarr"
    data = xr.Dataset({"x": (("time", "y"), np.arange(40.0).reshape(10, 4))}, {"time": np.arange(10)})
    data.chunk(time=2).to_zarr(path, consolidated=False)
    options = {"window": Window("time", history=2, lead=None), "global_batch_size": 2, "verify": "list"}
    state = Loader(path, **options).state_dict()
    next((path / "x").rglob("c/1/0")).write_bytes(b"other")
    with pytest.raises(DataError, match="x/c/1/0"):
        Loader(path, **options).load_state_dict(state)
