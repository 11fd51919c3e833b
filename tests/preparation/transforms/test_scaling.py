"""Scalers: scikit-learn's answers, however the data comes."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sklearn.preprocessing as theirs
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from dtk.errors import ArgumentError, DataError
from dtk.preparation import transforms as ours
from tests.preparation.transforms.common import assert_same, assert_transforms_alike

SCALERS: list[tuple[str, dict[str, Any]]] = [
    ("StandardScaler", {}),
    ("StandardScaler", {"with_mean": False}),
    ("StandardScaler", {"with_std": False}),
    ("StandardScaler", {"with_mean": False, "with_std": False}),
    ("MinMaxScaler", {}),
    ("MinMaxScaler", {"feature_range": (-2, 3), "clip": True}),
    ("MaxAbsScaler", {}),
    ("RobustScaler", {}),
    ("RobustScaler", {"with_centering": False, "quantile_range": (10.0, 80.0), "unit_variance": True}),
    ("RobustScaler", {"with_scaling": False}),
]
each_scaler = pytest.mark.parametrize(("name", "options"), SCALERS)


def normal(rows: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(5, 3, (rows, 3)), columns=["a", "b", "c"])
    return frame.mask(rng.random(frame.shape) < 0.1)


@each_scaler
def test_every_way_gives_what_scikit_learn_gives(name, options):
    frame = normal()
    scaler = getattr(theirs, name)(**options).fit(frame)
    fitted = assert_transforms_alike(
        getattr(ours, name)(**options), frame, expected=scaler.transform(frame), module_tolerance=2e-6
    )
    assert list(fitted.get_feature_names_out()) == list(scaler.get_feature_names_out())
    scaled = fitted.transform(frame)
    assert_same(fitted.inverse_transform(scaled), scaler.inverse_transform(scaled))


usual = st.floats(-1e6, 1e6) | st.integers(-3, 3).map(float)
unusual = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0])


@each_scaler
@settings(max_examples=25, deadline=None)
@given(
    x=st.tuples(st.integers(1, 12), st.integers(1, 3)).flatmap(
        lambda shape: npst.arrays(np.float64, shape, elements=usual | st.just(np.nan))
    )
)
def test_any_shape_with_missing_values(name, options, x):
    x = x[:, ~np.isnan(x).all(axis=0)]  # scikit-learn warns of columns without values
    if x.shape[1]:
        expected = getattr(theirs, name)(**options).fit(x)
        found = getattr(ours, name)(**options).fit(x)
        assert_same(found.transform(x), expected.transform(x), rtol=1e-7, atol=1e-7)


@each_scaler
@settings(max_examples=15, deadline=None)
@given(x=npst.arrays(np.float64, st.tuples(st.integers(1, 8), st.just(2)), elements=usual | unusual))
def test_infinite_values_leave_finite_ones_finite(name, options, x):
    found = getattr(ours, name)(**options)
    if name == "RobustScaler":  # a quantile may be infinite
        x = np.where(np.isinf(x), np.nan, x)
    scaled = found.fit(x).transform(x)
    present = np.isfinite(x).any(axis=0)
    assert np.isfinite(scaled[:, present][np.isfinite(x[:, present])]).all()
    assert np.isnan(scaled[np.isnan(x)]).all()


@pytest.mark.parametrize("name", ["StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler"])
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e9, -1e12])
def test_constants_and_one_row_and_large_offsets(name, offset):
    for x in (np.full((7, 2), offset), np.array([[offset, 1.0]]), offset + np.arange(10.0)[:, None]):
        expected = getattr(theirs, name)().fit_transform(x)
        assert_same(getattr(ours, name)().fit_transform(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler"])
def test_columns_without_any_value_stay_missing(name):
    x = np.array([[np.nan, 1.0], [np.nan, 2.0]])
    fitted = getattr(ours, name)().fit(x)
    assert np.isnan(fitted.transform(x)[:, 0]).all()
    assert np.isfinite(fitted.transform(x)[:, 1]).all()


@pytest.mark.parametrize("dtype", ["int8", "uint64", "float32", "bool", "Int64", "Float32", "boolean"])
def test_types_of_numbers(dtype):
    frame = pd.DataFrame({"a": pd.array([0, 1, 1, 0], dtype=dtype), "b": pd.array([1, 1, 1, 0], dtype=dtype)})
    expected = theirs.StandardScaler().fit_transform(frame.astype("float64"))
    assert_transforms_alike(ours.StandardScaler(), frame, expected=expected, rtol=1e-6, atol=1e-6)


def test_float32_comes_back_as_float32_and_is_summed_in_float64():
    x = (1e4 + np.random.default_rng(0).normal(size=(1000, 2))).astype(np.float32)
    scaled = ours.StandardScaler().fit_transform(x)
    assert scaled.dtype == np.float32
    assert abs(scaled.mean()) < 1e-6


@each_scaler
def test_lazy_arrays_stay_lazy(name, options):
    frame = normal()
    expected = getattr(theirs, name)(**options).fit_transform(frame)
    array = da.from_array(frame.to_numpy(), chunks=(70, 2))
    fitted = getattr(ours, name)(**options).fit(array)
    out = fitted.transform(array)
    assert isinstance(out, da.Array)
    assert_same(out, expected)
    labelled = xr.DataArray(array, dims=("t", "v"), coords={"v": ["a", "b", "c"], "t": np.arange(len(frame))})
    out = getattr(ours, name)(**options).fit_transform(labelled)
    assert out.chunks is not None
    assert out.coords["v"].values.tolist() == ["a", "b", "c"]
    assert_same(out.values, expected)
    dataset = xr.Dataset({key: ("t", array[:, number]) for number, key in enumerate("abc")}, attrs={"of": "here"})
    out = getattr(ours, name)(**options).fit_transform(dataset)
    assert out.attrs == {"of": "here"}
    assert_same(np.stack([out[key].values for key in "abc"], 1), expected)


def test_output_is_set_for_pandas_only_where_data_is_in_memory():
    frame = normal()
    out = ours.StandardScaler().set_output(transform="pandas").fit_transform(frame)
    assert isinstance(out, pd.DataFrame)
    assert list(out) == ["a", "b", "c"]
    assert out.index.equals(frame.index)


@pytest.mark.parametrize(
    ("scaler", "message"),
    [
        (ours.MinMaxScaler(feature_range=(1, 1)), "feature_range=\\(1, 1\\) must be"),
        (ours.RobustScaler(quantile_range=(75.0, 25.0)), "quantile_range=\\(75.0, 25.0\\) must be"),
    ],
)
def test_parameters_out_of_range_are_refused(scaler, message):
    with pytest.raises(ArgumentError, match=message):
        scaler.fit(np.ones((3, 2)))


def test_text_is_refused_before_it_is_read():
    with pytest.raises(DataError, match="column 's' holds .*where numbers are expected"):
        ours.StandardScaler().fit(pa.table({"a": [1.0], "s": ["x"]}))
    with pytest.raises(ArgumentError, match="has no column 'b'.*there at fit"):
        ours.StandardScaler().fit(normal()).transform(pa.table({"a": [1.0], "s": ["x"]}))


@pytest.mark.parametrize("name", ["StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler"])
def test_infinite_values_do_not_count_in_the_fit(name):
    scaler = getattr(ours, name)
    x = np.array([[1.0], [2.0], [4.0], [np.inf], [np.inf], [-np.inf], [np.nan]])
    np.testing.assert_allclose(scaler().fit(x).transform(x[:3]), scaler().fit_transform(x[:3]))
