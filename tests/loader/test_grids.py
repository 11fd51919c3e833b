"""Batches of grids from Zarr: every sample once, its values right, the same at any number of ranks."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import xarray as xr

from dtk.errors import ArgumentError, DataError, MemoryLimitError
from dtk.loader import Loader
from dtk.loader import scatter as scatter_module
from dtk.sources import Window, datasets

SAMPLES = 203


def weather():
    rng = np.random.default_rng(0)
    return xr.Dataset(
        {
            "t2m": (("time", "lat", "lon"), rng.normal(size=(SAMPLES, 4, 6)).astype("f4")),
            "u": (("time", "level", "lat", "lon"), rng.normal(size=(SAMPLES, 3, 4, 6))),
            "rain": (("time", "lat", "lon"), rng.random((SAMPLES, 4, 6)).astype("f4")),
            "number": (("time",), np.arange(SAMPLES)),
            "trust": (("time",), rng.random(SAMPLES).astype("f4")),
            "mask": (("lat", "lon"), rng.random((4, 6)) < 0.5),
        }
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("grids") / "weather.zarr")
    encoding = {"t2m": {"chunks": (20, 4, 6)}, "u": {"chunks": (10, 3, 4, 6)}, "number": {"chunks": (50,)}}
    weather().to_zarr(path, consolidated=False, encoding=encoding)
    return path


@pytest.fixture(autouse=True)
def no_chunk_is_too_small(monkeypatch):
    monkeypatch.setattr(datasets, "_LEAST_NBYTES", 1)


def loader_of(store, **options):
    inputs = ["t2m", "u", "mask"]
    return Loader(
        store, **{"inputs": inputs, "target": "number", "global_batch_size": 16, "memory": "2 MiB", **options}
    )


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_sample_once_and_its_channels_right(store, kernel, ranks, shuffle, monkeypatch):
    if not kernel:
        monkeypatch.setattr(scatter_module, "_kernel", None)
    data = weather()
    expected = np.concatenate([data["t2m"].values[:, None], data["u"].values], axis=1).astype("f4")
    seen = []
    for rank in range(ranks):
        for batch in loader_of(store, tail="pad", weight="trust", rank=rank, ranks=ranks, shuffle=shuffle):
            number = batch["target"].numpy()
            assert batch["inputs"].shape[1:] == (4, 4, 6)
            assert batch["inputs"].dtype == torch.float32
            real = batch["weight"].numpy() > 0
            np.testing.assert_array_equal(batch["inputs"].numpy()[real], expected[number[real]])
            np.testing.assert_array_equal(batch["weight"].numpy()[real], data["trust"].values[number[real]])
            np.testing.assert_array_equal(batch["static"].numpy(), data["mask"].values[None].astype("f4"))
            seen.append(number[real])
    assert sorted(np.concatenate(seen)) == list(range(SAMPLES))


def test_a_dataset_a_path_and_a_part_of_it(store):
    def numbers(data, **options):
        loader = pickle.loads(pickle.dumps(loader_of(data, tail="pad", **options)))
        return [batch["target"].tolist() for batch in loader]

    data = xr.open_zarr(store, consolidated=False)
    assert numbers(store) == numbers(data) == numbers(xr.open_zarr(store, consolidated=False, chunks=None))
    part = numbers(data.isel(time=slice(30, 61)), shuffle=False)
    assert [number for batch in part for number in batch][:31] == list(range(30, 61))


def test_a_target_of_dimensions_and_inputs_by_default(store):
    data = xr.open_zarr(store, consolidated=False)[["t2m", "rain"]]
    batch = next(iter(Loader(data, target="rain", global_batch_size=8, memory="2 MiB")))
    assert {name: tuple(values.shape) for name, values in batch.items()} == {
        "inputs": (8, 1, 4, 6),
        "target": (8, 4, 6),
        "weight": (8,),
    }
    series = next(iter(Loader(store, inputs=["trust", "number"], global_batch_size=8, memory="2 MiB")))
    assert series["inputs"].shape == (8, 2)


def test_resume_in_the_middle(store):
    whole = [batch["target"].tolist() for batch in loader_of(store, memory="200 KiB")]
    for step in (0, 1, 5, len(whole) - 1):
        first = loader_of(store, memory="200 KiB")
        batches = iter(first)
        for _ in range(step):
            next(batches)
        state = first.state_dict()
        batches.close()
        second = loader_of(store, memory="200 KiB")
        second.load_state_dict(state)
        assert [batch["target"].tolist() for batch in second] == whole[step:]


def test_the_plan_knows_the_bytes(store):
    plan = loader_of(store).plan
    per_sample = 4 * 4 * 6 + 8 * 3 * 4 * 6 + 8
    np.testing.assert_array_equal(plan.chunk_nbytes, plan.order.chunk_rows * per_sample)
    assert plan.epoch_nbytes > 0
    assert "203 along 'time' in 21 chunks" in str(plan.explain())


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"inputs": ["t2m", "trust"]}, ArgumentError, "inputs='trust' has the dimensions .* must share their last two"),
        ({"inputs": ["t2"]}, ArgumentError, "'t2' is no variable of the data; did you mean 't2m'"),
        ({"inputs": "t2m"}, ArgumentError, r"inputs='t2m' must be a list of names; give inputs=\['t2m'\]"),
        ({"inputs": ["t2m", "t2m"]}, ArgumentError, r"name \['t2m'\] twice"),
        ({"inputs": []}, ArgumentError, r"inputs=\[\] must name one at least"),
        ({"inputs": [], "target": None}, ArgumentError, r"inputs=\[\] must name one at least"),
        ({"dim": "tme"}, ArgumentError, "dim='tme' is no dimension of the data; did you mean 'time'"),
        ({"dim": "lat"}, ArgumentError, "target='number' is no variable with samples, which lie along 'lat'; choose"),
        ({"inputs": ["mask"]}, ArgumentError, "none has the dimension"),
        ({"inputs": ["t2m", "number"]}, ArgumentError, "inputs='number' is no variable to learn from"),
        ({"target": "mask"}, ArgumentError, "target='mask' is no variable with samples"),
        ({"weight": "rain"}, ArgumentError, "weight='rain' has dimensions beside 'time'"),
        ({"preparation": object()}, ArgumentError, "is for tables"),
    ],
)
def test_what_cannot_be_a_batch_is_refused(store, options, error, text):
    with pytest.raises(error, match=text):
        loader_of(store, **options)


def stored(path, **variables):
    """Write variables, each given by its dimensions and values, and return the path."""
    xr.Dataset(variables).to_zarr(path, consolidated=False)
    return str(path)


def test_the_dimension_of_the_samples_is_said_or_told_and_never_a_guess(tmp_path):
    path = stored(
        tmp_path / "a.zarr",
        t2m=(("time", "y", "x"), np.arange(6 * 64.0).reshape(6, 8, 8)),
        land=(("class", "y", "x"), np.zeros((20, 8, 8))),
        rain=("time", np.arange(6.0)),
        field=(("time", "y", "x"), np.zeros((6, 8, 8))),
    )

    def shapes(**options):
        loader = Loader(path, **{"inputs": ["t2m", "land"], "global_batch_size": 4, **options})
        assert f"along {options.get('dim', 'time')!r} in" in str(loader.plan.explain())
        return {name: tuple(values.shape) for name, values in next(iter(loader)).items()}

    expected = {"inputs": (4, 1, 8, 8), "weight": (4,), "static": (20, 8, 8)}
    with pytest.raises(
        ArgumentError, match="may lie along 'class', .* or along 'time', that of 't2m'; pass dim='class'"
    ):
        shapes()
    assert shapes(dim="time") == expected
    assert shapes(dim="class") == {"inputs": (4, 1, 8, 8), "weight": (4,), "static": (6, 8, 8)}
    assert shapes(target="rain") == {**expected, "target": (4,)}
    assert shapes(target="field", dim="time") == {**expected, "target": (4, 8, 8)}
    with pytest.raises(
        ArgumentError, match=r"target='field' .* along 'class'; .* one of .*'time', 'y', 'x'\) with dim="
    ):
        shapes(target="field")
    assert shapes(weight="rain") == expected
    assert shapes(sampling="rain") == expected
    with pytest.raises(ArgumentError, match="target='rain' is no variable with samples, which lie along 'class'"):
        shapes(target="rain", weight="land")
    with pytest.raises(ArgumentError, match="dim='time' is for grids; a sample of a table is a row"):
        Loader({"x": [1.0]}, dim="time")
    with pytest.raises(ArgumentError, match="dim='class' is not that of the window, 'time'"):
        shapes(window=Window("time", lead=None), dim="class")
    with pytest.raises(ArgumentError, match="dim='class' is not that of the source, 'time'"):
        Loader(datasets.array_source(path, ["t2m"]), dim="class")


def test_the_samples_may_lie_along_the_last_dimension(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 4, 20)).astype("f4")
    path = stored(tmp_path / "a.zarr", v=(("y", "x", "time"), values), number=("time", np.arange(20)))
    for batch in Loader(path, target="number", global_batch_size=5):
        np.testing.assert_array_equal(batch["inputs"][:, 0], np.moveaxis(values, 2, 0)[batch["target"]])
    with pytest.raises(ArgumentError, match="as they lack 'y', along which samples lie; .* pass another dim="):
        Loader(path)


@pytest.mark.parametrize(
    ("bad", "problem"), [(np.nan, "NaN, infinite or too large"), (np.inf, "NaN, infinite"), (-1.0, "negative")]
)
def test_weights_and_targets_that_would_spoil_a_loss_are_refused(tmp_path, bad, problem):
    label = np.ones(40)
    label[[0, 3]] = bad
    series = np.arange(40.0)
    path = stored(tmp_path / "a.zarr", v=("time", series), label=("time", label), maps=(("time", "x"), label[:, None]))
    options = {"inputs": ["v"], "global_batch_size": 4, "shuffle": False}
    with pytest.raises(DataError, match=f"weight='label' is {problem}.* in 2 samples; leave these out along 'time'"):
        next(iter(Loader(path, weight="label", **options)))
    if bad != -1:
        with pytest.raises(DataError, match=f"target='label' is {problem}.* in 2 samples"):
            next(iter(Loader(path, target="label", **options)))
    # Fields may be masked.
    np.testing.assert_array_equal(next(iter(Loader(path, target="maps", **options)))["target"][:, 0], label[:4])
    # Of windows only those count that are the target of one.
    window = Window("time", history=2, lead=1, stride=2)
    batch = next(iter(Loader(path, weight="label", target="label", window=window, **options)))
    np.testing.assert_array_equal(batch["inputs"][:, :, 0], [[0, 1], [2, 3], [4, 5], [6, 7]])
    assert batch["weight"].tolist() == batch["target"].tolist() == [1, 1, 1, 1]
    with pytest.raises(DataError, match=f"weight='label' is {problem}.* in 1 samples"):
        next(iter(Loader(path, weight="label", target="v", window=Window("time", history=1, lead=1), **options)))


def test_static_variables_are_planned_and_may_be_changed_in_a_copy(tmp_path):
    path = stored(
        tmp_path / "a.zarr",
        v=(("time", "y", "x"), np.zeros((40, 64, 64), "f4")),
        land=(("class", "y", "x"), np.ones((10, 64, 64))),
        sea=(("y", "x"), np.full((64, 64), 2, "i2")),
    )
    options = {"dim": "time", "global_batch_size": 10, "memory": "3 MiB"}
    for window in (None, Window("time", history=1, lead=None)):
        plan, without = (Loader(path, inputs=inputs, window=window, **options).plan for inputs in (None, ["v"]))
        static_nbytes = 11 * 64 * 64 * 4
        assert plan.kept_nbytes == static_nbytes
        assert without.kept_nbytes == 0
        assert plan.fields["weight"].constant == 1  # packed by nobody
        assert plan.pool_rows <= without.pool_rows
        with pytest.raises(MemoryLimitError, match=r"static variables \(176\.0 KiB\)"):
            next(iter(Loader(path, window=window, **{**options, "memory": "300 KiB"})))
    loader = Loader(path, copy=True, **options)
    for _ in range(2):
        for batch in loader:
            assert batch["static"].mean(dim=(1, 2)).tolist() == [1] * 10 + [2]
            batch["static"] += 1


def test_a_damaged_chunk_is_named(store, tmp_path):
    path = str(tmp_path / "broken.zarr")
    weather()[["t2m"]].to_zarr(path, consolidated=False, encoding={"t2m": {"chunks": (20, 4, 6)}})
    file = tmp_path / "broken.zarr" / "t2m" / "c" / "3" / "0" / "0"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(DataError, match=r"t2m/c/3/0/0 cannot be decoded"):
        list(Loader(path, global_batch_size=16))
