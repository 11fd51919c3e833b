"""Batches of grids from Zarr: every sample once, its values right, the same at any number of ranks."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import xarray as xr

from dtk.errors import ArgumentError, DataError
from dtk.loader import Loader
from dtk.loader import scatter as scatter_module
from dtk.sources import datasets

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
    assert "203 in 21 chunks" in str(plan.explain())


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"inputs": ["t2m", "trust"]}, ArgumentError, "inputs='trust' has the dimensions .* must share their last two"),
        ({"inputs": ["t2"]}, ArgumentError, "'t2' is no variable of the data; did you mean 't2m'"),
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


def test_a_damaged_chunk_is_named(store, tmp_path):
    path = str(tmp_path / "broken.zarr")
    weather()[["t2m"]].to_zarr(path, consolidated=False, encoding={"t2m": {"chunks": (20, 4, 6)}})
    file = tmp_path / "broken.zarr" / "t2m" / "c" / "3" / "0" / "0"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(DataError, match=r"t2m/c/3/0/0 cannot be decoded"):
        list(Loader(path, global_batch_size=16))
