"""Moments equal NumPy's and pandas', however the data is cut."""

from __future__ import annotations

import copy
import json
import math
import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import DataError
from dtk.statistics import Moments

floats = st.lists(st.none() | st.floats(-1e6, 1e6) | st.just(math.nan), max_size=60)


def of(*chunks: pa.Array) -> Moments:
    moments = Moments()
    for chunk in chunks:
        moments.update(chunk)
    return moments


def close(left: float, right: float, scale: float = 1.0) -> bool:
    return (math.isnan(left) and math.isnan(right)) or math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-9 * scale)


@given(floats, st.integers(0, 60), st.integers(0, 60))
@settings(deadline=None, max_examples=60)
def test_equal_to_pandas_for_every_cut_and_merge(values: list[float | None], first: int, second: int) -> None:
    array, series = pa.array(values, pa.float64()), pd.Series(values, dtype="float64")
    start, stop = sorted((first, second))
    parts = [of(array[:start]), of(array[start:stop]), of(array[stop:])]
    merged = Moments()
    for part in reversed(parts):
        merged.merge(part)
    for moments in (of(array), merged, of(pa.chunked_array([array[:start], array[start:]]))):
        assert moments.count == series.count()
        assert moments.missing == series.isna().sum()
        assert close(moments.mean, series.mean(), 1e6)
        assert close(moments.variance, series.var(ddof=0), 1e12)
        assert close(moments.min, series.min())
        assert close(moments.max, series.max())


def test_merge_leaves_the_other_as_it_is() -> None:
    left, right = of(pa.array([1.0, 5.0])), of(pa.array([2.0, None]))
    before = copy.deepcopy(right.to_dict())
    left.merge(right)
    left.merge(right)
    assert right.to_dict() == before
    assert left.count == 4


def test_keeps_its_digits_at_large_offsets() -> None:
    values = np.random.default_rng(0).normal(size=10_000)
    chunks = [of(pa.array(part + 1e9)) for part in np.split(values, 10)]
    merged = Moments()
    for chunk in chunks:
        merged.merge(chunk)
    assert merged.std == pytest.approx(values.std(), rel=1e-6)


def test_large_integers_keep_their_digits() -> None:
    values = np.array([2**62 + 1, 2**62 + 3, 2**62 + 5])
    moments = of(pa.array(values))
    assert (moments.min, moments.max) == (2**62 + 1, 2**62 + 5)
    assert moments.variance == pytest.approx(8 / 3)
    extremes = of(pa.array([-(2**63), 2**63 - 1]))
    assert (extremes.min, extremes.max) == (-(2**63), 2**63 - 1)
    assert extremes.std == pytest.approx(2**63, rel=1e-12)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64", "float32", "float16", "bool"])
def test_every_numeric_type(dtype: str) -> None:
    values = np.array([0, 1, 1, 0, 1]).astype(dtype)
    moments = of(pa.array(values))
    assert (moments.mean, moments.min, moments.max) == (0.6, 0, 1)
    assert moments.std == pytest.approx(values.astype(float).std())


@pytest.mark.parametrize(
    "dtype", [pa.date32(), pa.date64(), pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("us", "America/New_York")]
)
def test_dates_are_nanoseconds(dtype: pa.DataType) -> None:
    moments = of(pa.array([0, 86_400 * 3], pa.timestamp("s")).cast(dtype))
    assert (moments.min, moments.max) == (0, 3 * 86_400 * 10**9)


def test_dates_beyond_nanoseconds_are_floats() -> None:
    moments = of(pa.array([253_402_214_400], pa.timestamp("s")))  # the year 9999
    assert moments.max == pytest.approx(253_402_214_400e9)


def test_durations_and_times_are_seconds() -> None:
    assert of(pa.array([1500], pa.duration("ms"))).mean == 1.5
    assert of(pa.array([90], pa.time32("s"))).mean == 90


def test_dictionaries_and_decimals() -> None:
    assert of(pa.array([1.5, 1.5, None, 4.5]).dictionary_encode()).mean == 2.5
    assert of(pa.array(["1.25", "1.75"]).cast(pa.decimal128(5, 2))).mean == 1.5


def test_infinite_values_count() -> None:
    moments = of(pa.array([1.0, math.inf]), pa.array([2.0, math.nan]))
    assert (moments.count, moments.missing, moments.num_infinite) == (3, 1, 1)
    assert (moments.mean, moments.min, moments.max) == (math.inf, 1.0, math.inf)
    assert math.isnan(moments.std)
    both = of(pa.array([-math.inf, math.inf]))
    assert math.isnan(both.mean)
    assert (both.min, both.max) == (-math.inf, math.inf)


@pytest.mark.parametrize("array", [pa.array([], pa.float64()), pa.nulls(3), pa.array([math.nan, None])])
def test_nothing_there(array: pa.Array) -> None:
    moments = of(array)
    assert (moments.count, moments.missing) == (0, len(array))
    assert all(math.isnan(value) for value in (moments.mean, moments.std, moments.min, moments.max))


@pytest.mark.parametrize("array", [pa.array([0.1, None, math.inf]), pa.array([2**60 + 1]), pa.array([], pa.int64())])
def test_round_trips(array: pa.Array) -> None:
    moments = of(array)
    text = json.dumps(moments.to_dict(), allow_nan=False)
    assert vars(Moments.from_dict(json.loads(text))) == vars(moments) == vars(pickle.loads(pickle.dumps(moments)))


def test_text_is_refused() -> None:
    with pytest.raises(DataError, match="values of type string are no numbers; use them as categories"):
        of(pa.array(["a"]))
