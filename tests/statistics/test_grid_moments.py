"""Moments of grids equal NumPy's over every choice of dimensions, however the data is cut."""

from __future__ import annotations

import json
import math
import pickle
import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dtk.errors import ArgumentError, DataError
from dtk.statistics import GridMoments

DIMS = ("time", "level", "y", "x")
keeps = st.lists(st.sampled_from(DIMS), unique=True)
shapes = hnp.array_shapes(min_dims=4, max_dims=4, min_side=1, max_side=5)
unusual = st.sampled_from([math.nan, math.inf, -math.inf])


def sizes_of(values: np.ndarray) -> dict[str, int]:
    return dict(zip(DIMS, values.shape, strict=True))


def of(values: np.ndarray, keep: Any, cuts: list[int] | None = None) -> GridMoments:
    """Update block by block along the first dimension."""
    moments = GridMoments(sizes_of(values), keep)
    edges = [0, *sorted(cut % (len(values) + 1) for cut in cuts or []), len(values)]
    for start, stop in pairwise(edges):
        moments.update(values[start:stop], at={"time": slice(start, stop)})
    return moments


def check(moments: GridMoments, values: np.ndarray, rtol: float = 1e-9) -> None:
    floats = values.astype(np.float64)
    axes = tuple(axis for axis, dim in enumerate(DIMS) if dim not in moments.dims)
    kept = [size for axis, size in enumerate(values.shape) if axis not in axes]
    flat = np.moveaxis(floats, axes, range(-len(axes), 0)).reshape(*kept, -1)
    for cell in np.ndindex(*kept):
        present = flat[cell][~np.isnan(flat[cell])]
        assert moments.count[cell] == len(present)
        if not len(present):
            assert all(math.isnan(array[cell]) for name, array in moments.result().items() if name != "count")
            continue
        with np.errstate(invalid="ignore"):
            scale = np.ptp(present) if np.isfinite(present).all() else 1.0
            atol = 1e-9 * scale + 1e-13 * np.abs(present[np.isfinite(present)]).max(initial=0)
            np.testing.assert_allclose(moments.mean[cell], present.mean(), rtol=1e-12, atol=atol)
            np.testing.assert_allclose(moments.std[cell], present.std(), rtol=rtol, atol=1e-7 * scale + atol)
        assert moments.min[cell] == present.min()
        assert moments.max[cell] == present.max()


@given(st.data(), shapes, keeps, st.lists(st.integers(0, 5), max_size=3), st.sampled_from([0.0, 1e9, 273.15]))
@settings(deadline=None, max_examples=100)
def test_equal_to_numpy(data: Any, shape: Any, keep: list[str], cuts: list[int], offset: float) -> None:
    elements = st.floats(-100, 100, width=32) | unusual
    values = data.draw(hnp.arrays(np.float64, shape, elements=elements)) + offset
    whole, cut = of(values, keep), of(values, keep, cuts)
    merged = GridMoments(sizes_of(values), keep)
    for start in reversed(range(shape[0])):
        part = GridMoments(sizes_of(values), keep)
        part.update(values[start : start + 1], at={"time": slice(start, start + 1)})
        merged.merge(part)
    for moments in (whole, cut, merged):
        assert moments.dims == tuple(dim for dim in DIMS if dim in keep)
        check(moments, values, 1e-6)


@pytest.mark.parametrize("keep", [(), ("level",), ("x",), ("y", "x"), ("level", "y", "x"), ("time",), ("level", "x")])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int16", "uint8", "bool", ">f4"])
def test_blocks_of_every_type(keep: tuple[str, ...], dtype: str) -> None:
    rng = np.random.default_rng(0)
    values = (rng.gamma(2.0, 3.0, size=(37, 3, 41, 4)) * 3).astype(dtype)
    check(of(values, keep, [20]), values)
    transposed = np.asfortranarray(values)
    check(of(transposed, keep), values)


@pytest.mark.parametrize("shape", [(2, 1, 300, 301), (20_000, 1, 1, 3), (3, 2, 1, 70_001), (1, 2, 70, 71)])
@pytest.mark.parametrize("keep", [(), ("level",), ("x",), ("time", "level")])
@pytest.mark.parametrize("share", [0.0, 0.2])
def test_long_rows_and_columns(shape: tuple[int, ...], keep: tuple[str, ...], share: float) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=shape) + 1e9
    values[rng.random(shape) < share] = np.nan
    moments = of(values, keep)
    axes = tuple(axis for axis, dim in enumerate(DIMS) if dim not in keep)
    distances = values - 1e9
    np.testing.assert_array_equal(moments.count, np.isfinite(values).sum(axes))
    filled = np.isfinite(values).any(axes)
    with warnings.catch_warnings(action="ignore"):  # of NumPy, where a cell is empty
        mean, std = np.nanmean(distances, axes), np.nanstd(distances, axes)
    np.testing.assert_allclose((moments.mean - 1e9)[filled], mean[filled], atol=1e-6)
    np.testing.assert_allclose(moments.std[filled], std[filled], rtol=1e-7, atol=1e-6)


def test_large_offset_in_single_precision() -> None:
    noise = np.random.default_rng(2).normal(size=(8, 2, 64, 64))
    values = (noise + np.array([101325, 5e4])[:, np.newaxis, np.newaxis]).astype(np.float32)
    for keep in ((), ("level",), ("y", "x")):
        check(of(values, keep), values)


def test_a_constant_has_no_spread() -> None:
    values = np.full((4, 2, 30, 30), np.float32(273.16))
    for keep in ((), ("level",), ("level", "y", "x")):
        moments = of(values, keep, [1])
        assert (moments.std == 0).all()
        assert (moments.mean == np.float32(273.16)).all()


def test_nothing_there() -> None:
    moments = of(np.empty((0, 2, 3, 4)), ("level",))
    assert moments.count.tolist() == [0, 0]
    assert np.isnan(moments.mean).all()
    moments.merge(of(np.full((1, 2, 3, 4), 5.0), ("level",)))
    assert moments.mean.tolist() == [5.0, 5.0]


def test_merge_leaves_the_other_as_it_is() -> None:
    values = np.arange(48.0).reshape(2, 2, 3, 4)
    left, right = of(values, ("y",)), of(values + 100, ("y",))
    before = right.to_dict()
    left.merge(right)
    left.merge(right)
    assert right.to_dict() == before
    assert left.count.tolist() == [48] * 3


@pytest.mark.parametrize("keep", [(), ("level", "x")])
def test_round_trips(keep: tuple[str, ...]) -> None:
    values = np.random.default_rng(3).normal(size=(3, 2, 4, 5))
    values[0, 0] = np.nan
    moments = of(values, keep)
    for restored in (
        GridMoments.from_dict(json.loads(json.dumps(moments.to_dict(), allow_nan=False))),
        pickle.loads(pickle.dumps(moments)),
    ):
        assert restored.to_dict() == moments.to_dict()
        restored.merge(moments)
        assert restored.count.sum() == 2 * moments.count.sum()


def test_results_do_not_change_with_what_comes_later() -> None:
    moments = of(np.ones((1, 1, 1, 3)), ("x",))
    result = moments.result()
    moments.update(np.zeros((1, 1, 1, 3)))
    assert result["min"].tolist() == [1.0] * 3
    assert result["count"].tolist() == [1] * 3


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"keep=\['z'\] names 'z'; the variable has \['time', 'x'\]"):
        GridMoments({"time": 3, "x": 2}, ["z"])
    moments = GridMoments({"time": 3, "x": 2}, ["x"])
    with pytest.raises(DataError, match=r"shape \(3, 3\) does not fit dimensions \('time', 'x'\)"):
        moments.update(np.zeros((3, 3)))
    with pytest.raises(DataError, match="datetime64"):
        moments.update(np.zeros((3, 2), "M8[ns]"))
    with pytest.raises(ArgumentError, match=r"other keeps {} where this keeps {'x': 2}"):
        moments.merge(GridMoments({"time": 3, "x": 2}))
