"""Transforms of grids equal xarray's own answer, stay lazy, do not depend on chunks, and are the same as modules."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import dtk
from dtk.errors import ArgumentError, DataError, SourceError
from dtk.preparation.grids import Anomaly, GridScaler, Mask, grid_transform_from_dict, latitude_weights
from dtk.preparation.grids.base import GridTransform
from dtk.preparation.grids.planning import plan_grid_fit
from tests.preparation.transforms.common import refuse

DIMS = ("time", "level", "lat", "lon")


def grid(num_times: int = 60, seed: int = 0) -> xr.Dataset:
    """Make three years of a variable with levels, one without, one of integers, a static one and dates."""
    rng = np.random.default_rng(seed)
    t = (rng.normal(280, 10, (num_times, 3, 4, 5)) + np.arange(3)[:, None, None] * 30).astype(np.float32)
    t[rng.random(t.shape) < 0.1] = np.nan
    return xr.Dataset(
        {
            "t": (DIMS, t, {"units": "K"}),
            "q": (("time", "lat", "lon"), rng.gamma(2, 1e-3, (num_times, 4, 5))),
            "n": (("time", "lat", "lon"), rng.integers(0, 9, (num_times, 4, 5))),
            "height": (("lat", "lon"), rng.normal(size=(4, 5))),
            "run": ("time", np.arange(num_times).astype("M8[D]").astype("M8[ns]")),
        },
        coords={
            "time": pd.date_range("2001-01-15", periods=num_times, freq="17D"),
            "level": [1000, 500, 250],
            "lat": [-67.5, -22.5, 22.5, 67.5],
            "lon": np.arange(5) * 72.0,
        },
    )


CHUNKS = {"time": 7, "level": 2, "lat": 3}


def assert_alike(transform: GridTransform, data: xr.Dataset, path: Path) -> xr.Dataset:
    """Check laziness, chunks, a store, DataArrays, the inverse, JSON and clones; return what comes out."""
    expected: xr.Dataset = transform.fit(data).transform(data)
    lazy = data.chunk(CHUNKS)
    with dask.config.set(scheduler=refuse):
        found = transform.transform(lazy)
        back = transform.inverse_transform(found)
    for name in found.data_vars:
        if "time" in found[name].dims:
            assert found[name].chunks == lazy[name].chunks
    xr.testing.assert_identical(found.compute(), expected)
    for name in transform._fitted_names():
        xr.testing.assert_allclose(back[name].compute(), data[name].astype(back[name].dtype), rtol=1e-5, atol=1e-5)
        assert back[name].attrs == data[name].attrs
        xr.testing.assert_identical(transform.transform(data[name]), expected[name])
    data.to_zarr(path, encoding={"t": {"chunks": (9, 3, 2, 5)}}, consolidated=False, zarr_format=3)
    stored = xr.open_zarr(path, consolidated=False)
    for other in (lazy, stored, str(path)):
        again = clone(transform).fit(other).transform(data)
        xr.testing.assert_allclose(again, expected, rtol=1e-6, atol=1e-6)
    state = json.loads(json.dumps(transform.to_dict()))
    for rebuilt in (type(transform).from_dict(state), grid_transform_from_dict(state)):
        xr.testing.assert_identical(rebuilt.transform(data), expected)
        assert rebuilt.to_dict() == transform.to_dict()
    return expected


@pytest.mark.parametrize("dims", [(), ("level",), ("lat", "lon"), ("level", "lat", "lon"), ("lon",)])
def test_scaler_equals_xarray(dims: tuple[str, ...], tmp_path: Path) -> None:
    data = grid()
    expected = assert_alike(GridScaler(dims), data, tmp_path / "data")
    for name in ("t", "q", "n"):
        over = [dim for dim in data[name].dims if dim not in dims]
        values = data[name].astype(np.float64)
        scaled = (values - values.mean(over)) / values.std(over)
        xr.testing.assert_allclose(expected[name], scaled.astype(expected[name].dtype), rtol=1e-5, atol=1e-5)
    assert expected["t"].dtype == np.float32
    assert expected["n"].dtype == np.float64
    xr.testing.assert_identical(expected["run"], data["run"])


@pytest.mark.parametrize(
    ("by", "with_std", "dims"),
    [
        ("month", False, None),
        ("month", True, None),
        ("season", True, ["level"]),
        ("dayofyear", False, []),
        ("year", True, ["lat"]),
    ],
)
def test_anomaly_equals_xarray(by: str, with_std: bool, dims: list[str] | None, tmp_path: Path) -> None:
    data = grid(200 if by == "dayofyear" else 60)
    anomaly = Anomaly(by, with_std=with_std, dims=dims)
    expected = assert_alike(anomaly, data, tmp_path / "data")
    for name in ("t", "q", "n"):
        values = data[name].astype(np.float64)
        over = [dim for dim in values.dims if dim not in (["level", "lat", "lon"] if dims is None else dims)]
        grouped = values.groupby(f"time.{by}")
        mean, std = grouped.mean(over), grouped.std(over)
        xr.testing.assert_allclose(anomaly.climatology_[name].transpose(*mean.dims), mean, rtol=1e-6)
        chosen = {by: getattr(data["time"].dt, by)}
        left = values - mean.sel(chosen)
        if with_std:
            left = left / std.where(std > 1e-14, 1).sel(chosen)
        left = left.drop_vars(by).transpose(*values.dims)
        xr.testing.assert_allclose(expected[name], left.astype(expected[name].dtype), rtol=1e-4, atol=1e-4)
    xr.testing.assert_identical(expected["height"], data["height"])


@pytest.mark.parametrize("order", [DIMS, ("lat", "time", "lon", "level"), ("level", "lat", "lon", "time")])
def test_time_may_be_any_dimension(order: tuple[str, ...]) -> None:
    data = grid()[["t"]]
    turned = data.transpose(*order)
    for transform in (Anomaly("month", with_std=True), GridScaler(["level"]), Mask()):
        expected = clone(transform).fit_transform(data)["t"]
        found = clone(transform).fit(turned).transform(turned.chunk(dict.fromkeys(order, 2)))["t"]
        assert found.dims == order
        xr.testing.assert_allclose(found.transpose(*DIMS).compute(), expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4), st.data())
def test_anomaly_does_not_depend_on_chunks(num_times: int, time: int, lat: int, data: Any) -> None:
    values = data.draw(
        st.lists(st.sampled_from([0.0, 1.5, -3.0, np.nan]), min_size=num_times * 3, max_size=num_times * 3)
    )
    hours = pd.date_range("2020-02-28", periods=num_times, freq="7h")
    array = xr.DataArray(
        1e6 + np.array(values).reshape(num_times, 3), dims=["time", "lat"], coords={"time": hours}, name="x"
    )
    expected = array.groupby("time.hour").mean("time")
    found = Anomaly("hour").fit(array.chunk({"time": time, "lat": lat}))
    np.testing.assert_allclose(found.climatology_["x"], expected.transpose("hour", "lat"), rtol=1e-12)
    xr.testing.assert_allclose(
        found.transform(array), (array.groupby("time.hour") - expected).drop_vars("hour"), atol=1e-8
    )


def test_mask_is_found_or_given(tmp_path: Path) -> None:
    data = grid()
    never = np.zeros((4, 5), bool)
    never[1, 2:] = True
    data["t"] = data["t"].where(~xr.DataArray(never, dims=["lat", "lon"])).transpose(*DIMS)
    found = assert_alike(Mask(fill_value=-5.0, add_indicator=True), data, tmp_path / "data")
    expected = data["t"].where(~xr.DataArray(never, dims=["lat", "lon"]), -5.0)
    xr.testing.assert_identical(found["t"], expected.transpose(*DIMS))
    assert found["t_mask"].dims == ("level", "lat", "lon")
    np.testing.assert_array_equal(found["t_mask"], np.broadcast_to(never, (3, 4, 5)))
    assert "q_mask" not in found
    fixed = Mask(xr.DataArray(never, dims=["lat", "lon"]), fill_value=1.0, variables=["q"], add_indicator=True)
    filled = fixed.fit_transform(data.chunk(CHUNKS))
    np.testing.assert_array_equal(
        filled["q"].where(never, 1.0).transpose("time", "lat", "lon"), filled["q"].where(never, 1.0)
    )
    assert (filled["q"].values[:, never] == 1).all()
    np.testing.assert_array_equal(filled["q_mask"], never)
    again = Mask.from_dict(json.loads(json.dumps(fixed.to_dict())))
    xr.testing.assert_identical(again.transform(data), fixed.transform(data))


def test_labels_are_followed() -> None:
    data = grid()
    scaler = GridScaler(["level"]).fit(data)
    expected = scaler.transform(data)
    some = data.sel(level=[250, 1000])
    xr.testing.assert_identical(scaler.transform(some)["t"], expected["t"].sel(level=[250, 1000]))
    with pytest.raises(DataError, match="level=7, one of 1 labels that the fit did not see"):
        scaler.transform(data.assign_coords(level=[7, 500, 250]))
    bare = data.drop_vars("level")
    xr.testing.assert_identical(scaler.transform(bare)["t"], expected["t"].drop_vars("level"))
    with pytest.raises(DataError, match="2 along 'level' where the fit had 3"):
        scaler.transform(bare.isel(level=slice(2)))
    with pytest.raises(DataError, match="no dimension 'level'"):
        scaler.transform(data.isel(level=0))


def test_encoding_of_the_store_does_not_stay() -> None:
    data = grid()
    data["t"].encoding = {"dtype": "int16", "scale_factor": 0.01}
    assert GridScaler().fit_transform(data)["t"].encoding == {}


@pytest.mark.parametrize("dims", [(), ("level",), ("lat", "lon"), ("level", "lat", "lon")])
@pytest.mark.parametrize("windows", [False, True])
def test_modules_equal_transform_on_batches_of_the_loader(dims: tuple[str, ...], windows: bool, tmp_path: Path) -> None:
    data = grid()
    data["t"] = data["t"].fillna(280) * 1000
    data.drop_vars("run").to_zarr(tmp_path / "data", consolidated=False, zarr_format=3)
    stored = xr.open_zarr(tmp_path / "data", consolidated=False)
    window = dtk.Window("time", history=3, lead=None) if windows else None
    loader = dtk.Loader(
        stored, inputs=["t", "q"], window=window, dim=None if windows else "time", global_batch_size=4, shuffle=False
    )
    batch = next(iter(loader))["inputs"]
    size = 6 if windows else 4
    for transform in (GridScaler(dims), Anomaly("month", dims=dims, with_std=True)):
        expected = transform.fit(data).transform(data)
        channels = np.concatenate([expected["t"].values, expected["q"].values[:, None]], 1)[:size]
        groups = ()
        rows: Any = slice(None)
        if windows:
            rows = np.arange(4)[:, None] + np.arange(3)
        if isinstance(transform, Anomaly):
            groups = (torch.as_tensor(transform.groups(data).values[:size][rows]),)
        module = transform.as_module(["t", "q"])
        found = module(batch, *groups)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, channels[rows], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(module.inverse(found, *groups), batch, rtol=1e-5, atol=1e-8)


def test_module_of_a_mask() -> None:
    data = grid()
    data["t"][:, :, 1, 2] = np.nan
    mask = Mask(fill_value=3.0, add_indicator=True).fit(data)
    module = mask.as_module(["t", "q"])
    x = torch.as_tensor(np.concatenate([data["t"].values, data["q"].values[:, None]], 1)).float()
    for batch, axis in ((x, 1), (x.reshape(6, 10, 4, 4, 5), 2)):
        found = module(batch)
        assert found.shape[axis] == 7
        filled, indicator = found.split([4, 3], axis)
        expected = mask.transform(data)
        channels = np.concatenate([expected["t"].values, expected["q"].values[:, None]], 1).astype(np.float32)
        np.testing.assert_array_equal(filled.reshape(60, 4, 4, 5), channels)
        np.testing.assert_array_equal(indicator.reshape(60, 3, 4, 5)[7], expected["t_mask"].values)
        np.testing.assert_array_equal(module.inverse(filled), np.where(module.mask, np.nan, filled))


def test_target_of_one_variable_comes_back() -> None:
    data = grid()
    scaler = GridScaler().fit(data)
    module = scaler.as_module(["q"])
    target = torch.as_tensor(scaler.transform(data)["q"].values).float()  # [B, lat, lon], as the loader gives targets
    np.testing.assert_allclose(module.inverse(target), data["q"], rtol=1e-5, atol=1e-7)


def test_latitude_weights() -> None:
    data = grid()
    cosine = latitude_weights(data)
    expected = np.cos(np.deg2rad(data["lat"]))
    xr.testing.assert_allclose(cosine, (expected / expected.mean()).rename("weights"))
    area = latitude_weights(data, method="area")
    np.testing.assert_allclose(area / area.sum(), np.diff(np.sin(np.deg2rad([-90, -45, 0, 45, 90]))) / 2)
    poles = xr.Dataset(coords={"latitude": [90.0, 0.0, -90.0]})
    np.testing.assert_allclose(
        latitude_weights(poles, method="area"), np.array([1 - 0.5**0.5, 2**0.5, 1 - 0.5**0.5]) * 1.5
    )
    weighted = data["q"].weighted(area).mean(["lat", "lon"])
    np.testing.assert_allclose(
        (data["q"] * latitude_weights(data, method="area", along=("lon",))).mean(["lat", "lon"]), weighted
    )


def test_loader_takes_weights_from_the_store(tmp_path: Path) -> None:
    grid()[["t", "q"]].to_zarr(tmp_path / "data", consolidated=False, zarr_format=3)
    weights = latitude_weights(str(tmp_path / "data"), along=("lon",))
    weights.to_dataset().to_zarr(tmp_path / "data", mode="a", consolidated=False)
    loader = dtk.Loader(xr.open_zarr(tmp_path / "data", consolidated=False), dim="time", global_batch_size=4)
    np.testing.assert_allclose(next(iter(loader))["static"][0], weights, rtol=1e-6)


def test_what_cannot_work_is_refused() -> None:
    data = grid()
    with pytest.raises(NotFittedError):
        GridScaler().transform(data)
    with pytest.raises(ArgumentError, match="'tt' is none of the data"):
        GridScaler(variables=["tt"]).fit(data)
    with pytest.raises(DataError, match="'run' holds datetime64"):
        GridScaler(variables=["run"]).fit(data)
    with pytest.raises(ArgumentError, match="names 'depth'"):
        GridScaler(["depth"]).fit(data)
    with pytest.raises(SourceError, match="is no grid"):
        GridScaler().fit(pd.DataFrame({"x": [1.0]}))
    with pytest.raises(ArgumentError, match=r"keeps 'time'"):
        GridScaler(["time"]).fit(data).as_module(["t"])
    with pytest.raises(ArgumentError, match="by='moth' is no part of a date; did you mean 'month'"):
        Anomaly("moth").fit(data)
    with pytest.raises(DataError, match="no coordinate 'time'"):
        Anomaly().fit(data.drop_vars("time"))
    with pytest.raises(DataError, match="no dates"):
        Anomaly(dim="level").fit(data)
    anomaly = Anomaly().fit(data.isel(time=slice(3)))
    with pytest.raises(DataError, match=r"month=\[3, 4, .*\] of the data had no time at fit"):
        anomaly.transform(data)
    with pytest.raises(ArgumentError, match="group=None"):
        anomaly.as_module(["t"])(torch.zeros(1, 3, 4, 5))
    with pytest.raises(ArgumentError, match="must be bool"):
        Mask(data["q"]).fit(data)
    with pytest.raises(ArgumentError, match="method='cosine'"):
        latitude_weights(data, method="cosine")
    with pytest.raises(DataError, match="no latitude"):
        latitude_weights(data.rename(lat="y"))
    with pytest.raises(DataError, match="is no transform of grids"):
        grid_transform_from_dict({"as": "Nothing"})
    with pytest.raises(DataError, match="of 'Mask', and not of 'GridScaler'"):
        GridScaler.from_dict({"as": "Mask"})


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (
            Anomaly("dayofyear"),
            r"by='dayofyear' with dims=\['lat', 'lon'\] keeps 366,000,000,000,000 cells: a task would",
        ),
        (
            GridScaler(["lat", "lon"]),
            r"dims=\['lat', 'lon'\] keeps 1,000,000,000,000 cells: a task would hold 4\d\.\d TiB",
        ),
        (Mask(), r"mask=None keeps 1,000,000,000,000 cells: .*; pass mask=..., or fewer variables="),
    ],
)
def test_fits_that_no_memory_holds_are_refused_before_anything_is_read(transform: Any, message: str) -> None:
    time = np.arange("2020-01-01", "2021-01-01", dtype="M8[D]").astype("M8[ns]")
    values = da.zeros((366, 10**6, 10**6), chunks=(1, 10**5, 10**5), dtype=np.float32)
    data = xr.Dataset({"t": (("time", "lat", "lon"), values)}, coords={"time": time})
    with dask.config.set(scheduler=refuse), pytest.raises(ArgumentError, match=message):
        transform.fit(data)


def test_a_fit_is_planned_from_sizes() -> None:
    data = grid()
    plan = plan_grid_fit(data, ["t", "q"], ["lat", "lon"], 12)
    assert plan.num_cells == {"t": 240, "q": 240}
    assert (plan.task_nbytes, plan.here_nbytes) == (48 * 240, 72 * 480)
    anomaly = Anomaly("month", dims=["lat", "lon"], variables=["t", "q"]).fit(data.isel(time=slice(1)))
    kept = (anomaly.climatology_, anomaly.scale_, anomaly.count_)
    assert sum(one.nbytes for each in kept for one in each.data_vars.values()) == 24 * 2 * 20
    replace(plan, here_limit_nbytes=72 * 480, worker_limit_nbytes=48 * 240).check("dims=[...]", "keep fewer")
    with pytest.raises(ArgumentError, match=r"dims=\[...\] keeps 480 cells: the result would hold .*this process has"):
        replace(plan, here_limit_nbytes=72 * 480 - 1).check("dims=[...]", "keep fewer")
    with pytest.raises(ArgumentError, match="a task would hold .*and a worker has .*; keep fewer"):
        replace(plan, worker_limit_nbytes=48 * 240 - 1).check("dims=[...]", "keep fewer")


def test_a_mask_is_added_to_data_without_any_time() -> None:
    data = grid().isel(level=0)
    data["q"] = data["q"].where(data["lat"] != data["lat"][0])
    mask = Mask(add_indicator=True).fit(data)
    whole = mask.transform(data)
    xr.testing.assert_identical(mask.transform(data.isel(time=slice(0)))["q_mask"], whole["q_mask"])


def test_labels_that_say_nothing_are_refused() -> None:
    data = grid()
    lacking = data.assign_coords(time=data["time"].where(data["time"] != data["time"][3]))
    with pytest.raises(DataError, match=r"coordinate 'time' holds 1 missing dates.*; leave them out with data\.sel"):
        Anomaly().fit(lacking)
    Anomaly().fit(lacking.sel(time=lacking["time"].notnull()))
    twice = data.assign_coords(lat=[0, 1, 1, 2])
    scaler = GridScaler(["lat"]).fit(twice)
    xr.testing.assert_allclose(
        scaler.transform(twice), GridScaler(["lat"]).fit_transform(data).assign_coords(twice.coords)
    )
    with pytest.raises(DataError, match="lat=1 was there several times at fit, and variable 't' has other labels"):
        scaler.transform(twice.isel(lat=[0, 3]))
