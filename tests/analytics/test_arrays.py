"""A Dataset's profile equals NumPy's, and reads lazily."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from dask.callbacks import Callback

from dtk.analytics import profile
from dtk.errors import ArgumentError
from dtk.statistics.grid_blocks import grouped_blocks


def make_dataset() -> xr.Dataset:
    rng = np.random.default_rng(0)
    air = rng.normal(280, 10, (20, 6, 8))
    air[3, :, :4] = np.nan
    return xr.Dataset(
        {
            "air": (("time", "lat", "lon"), air, {"units": "K"}),
            "mask": (("lat", "lon"), rng.random((6, 8)) < 0.5),
            "count": (("time",), np.arange(20, dtype=">i4")),
            "seen": (("time",), pd.date_range("2013-01-01", periods=20)),
            "name": (("lat",), list("abcdef")),
        },
        coords={"time": pd.date_range("2013-01-01", periods=20), "lat": np.linspace(75, 15, 6)},
    )


def test_equal_to_numpy_lazy_or_not() -> None:
    dataset = make_dataset()
    for data in (dataset, dataset.chunk({"time": 7, "lat": 4}), dataset.chunk({"time": 1})):
        report = profile(data)
        for name in ("air", "mask", "count"):
            values, found = dataset[name].to_numpy().astype(float), report[name]
            assert found.num_missing == np.isnan(values).sum()
            expected = [np.nanmean(values), np.nanstd(values), np.nanmin(values), np.nanmax(values)]
            np.testing.assert_allclose([found.mean, found.std, found.min, found.max], expected, rtol=1e-12)
        assert (report["seen"].min, report["seen"].max) == ("2013-01-01", "2013-01-20")
        assert report["name"].mean is None
        assert report["air"].units == "K"
        assert [(dim.name, dim.size) for dim in report.dims] == [("time", 20), ("lat", 6), ("lon", 8)]
        assert (report.dims[0].first, report.dims[1].last, report.dims[2].first) == ("2013-01-01", 15, None)
        json.dumps(report.to_dict(), allow_nan=False)
    assert profile(dataset)["air"].chunks is None
    assert profile(dataset.chunk({"time": 7}))["air"].chunks == (7, 6, 8)


def test_each_chunk_is_computed_once_and_all_together() -> None:
    seen = []

    def load(block: np.ndarray, block_info: object = None) -> np.ndarray:
        seen.append(block_info)
        return block

    blocks = da.zeros((12, 4), chunks=(3, 4)).map_blocks(load, dtype=float, meta=np.empty((0, 0)))
    dataset = xr.Dataset({"x": (("time", "lat"), blocks), "y": (("time", "lat"), blocks + 1)})
    with dask.config.set(scheduler="sync"):
        report = profile(dataset)
    assert len(seen) == 4
    assert (report["x"].mean, report["y"].mean) == (0, 1)


def test_small_chunks_share_a_task() -> None:
    blocks = da.zeros((3000, 2), chunks=(1, 2))
    tasks = []
    with Callback(pretask=lambda key, *_: tasks.append(key)):
        report = profile(xr.Dataset({"x": (("time", "lat"), blocks), "y": (("lat",), da.ones(2, chunks=1))}))
    assert (report["x"].mean, report["x"].num_missing, report["y"].mean) == (0, 0, 1)
    assert len(tasks) < 3000 + 2 + 10


def test_large_chunks_do_not_share_a_task() -> None:
    groups = grouped_blocks("x", da.zeros((100, 2**22), chunks=(1, 2**22)), "scan")  # 32 MiB each
    assert len(groups) == 50


@pytest.mark.parametrize(("progress", "shown"), [(True, True), (None, True), (False, False)])
def test_progress_of_datasets(monkeypatch: pytest.MonkeyPatch, progress: bool | None, shown: bool) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    profile(make_dataset().chunk({"time": 5}), progress=progress)
    assert ("profile" in terminal.getvalue()) == shown


def test_datasets_on_a_cluster(client: Any) -> None:
    expected, found = profile(make_dataset()), profile(make_dataset().chunk({"time": 3}))
    assert found["air"].mean == pytest.approx(expected["air"].mean)
    assert found["count"] == replace(expected["count"], chunks=(3,))


def test_data_arrays_and_nothing_but_missing() -> None:
    report = profile(xr.DataArray(np.full((2, 2), np.nan), dims=("a", "b")).chunk({"a": 1}))
    assert report["values"].missing_share == 1
    assert report["values"].mean is None
    assert profile(xr.Dataset({"x": ("a", np.empty(0))}))["x"].missing_share is None


def test_text_and_page() -> None:
    report = profile(make_dataset().chunk({"time": 5}))
    assert report.summary == "5 variables (time: 20, lat: 6, lon: 8)"
    assert "5 x 6 x 8" in report.to_text()
    assert "float64, 7.5 KiB" in report._repr_html_()


def test_a_target_is_refused() -> None:
    with pytest.raises(ArgumentError, match="target='air' is for tables; leave it out"):
        profile(make_dataset(), target="air")
