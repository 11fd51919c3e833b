"""What columns mean, and their values as floats."""

from __future__ import annotations

import datetime as dt
import decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import DataError
from dtk.statistics import category_keys, infer_kind, to_floats


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (pa.int8(), "number"),
        (pa.float16(), "number"),
        (pa.decimal128(5, 2), "number"),
        (pa.time64("us"), "number"),
        (pa.duration("s"), "number"),
        (pa.bool_(), "boolean"),
        (pa.bool8(), "number"),  # an extension type over int8
        (pa.string(), "category"),
        (pa.large_string(), "category"),
        (pa.dictionary(pa.int8(), pa.int64()), "category"),
        (pa.date32(), "date"),
        (pa.timestamp("ns", "UTC"), "date"),
        (pa.null(), "ignore"),
        (pa.binary(), "ignore"),
        (pa.list_(pa.int8()), "ignore"),
    ],
)
def test_kinds(dtype: pa.DataType, kind: str) -> None:
    assert infer_kind(dtype) == kind


@given(st.lists(st.none() | st.integers(-(2**40), 2**40), max_size=40), st.integers(0, 40))
@settings(deadline=None, max_examples=40)
def test_floats_equal_pandas(values: list[int | None], cut: int) -> None:
    array = pa.array(values, pa.int64())
    expected = pd.Series(values, dtype="Int64").to_numpy(float, na_value=np.nan)
    np.testing.assert_array_equal(to_floats(pa.chunked_array([array[:cut], array[cut:]])), expected)


def keys_of_all(values: list[object], dtypes: list[pa.DataType]) -> list[list[object]]:
    """Return the keys of the same values in each type that holds them."""
    whole, found = pa.array(values, dtypes[-1]), []
    for dtype in dtypes:
        try:
            held = whole.cast(dtype)
        except pa.ArrowInvalid:  # it would lose digits, or does not reach so far
            continue
        if held.cast(whole.type).equals(whole):  # dates lose the time of day in silence
            found.append(category_keys(held).to_pylist())
    return found


# seconds, milliseconds and microseconds that are often round, so that every unit has its turn
moments = st.builds(
    lambda day, second, microsecond: dt.datetime(1970, 1, 1) + dt.timedelta(day, second, microsecond),
    st.integers(-100_000, 1_000_000),
    st.sampled_from([0, 0, 36_000, 86_399]),
    st.sampled_from([0, 0, 500_000, 1_000, 10]),
)


@given(st.lists(st.none() | moments, min_size=1, max_size=5), st.sampled_from([None, "UTC", "America/New_York"]))
@settings(deadline=None, max_examples=100)
def test_keys_of_dates_are_the_same_in_every_unit(values: list[dt.datetime | None], zone: str | None) -> None:
    dates = [pa.date32(), pa.date64()] if zone is None else []
    found = keys_of_all(values, [*dates, *(pa.timestamp(unit, zone) for unit in ("s", "ms", "ns", "us"))])
    assert all(keys == found[0] for keys in found)
    for value, key in zip(values, found[0], strict=True):
        assert (value is None) == (key is None)
        if value is not None:  # nothing is lost
            assert dt.datetime.fromisoformat(str(key)).replace(tzinfo=None) == value


@given(st.lists(st.none() | st.integers(0, 86_399_999_999), min_size=1, max_size=5), st.sampled_from([1, 10**3, 10**6]))
@settings(deadline=None, max_examples=50)
def test_keys_of_times_are_the_same_in_every_unit(values: list[int | None], round_to: int) -> None:
    rounded = [None if value is None else value // round_to * round_to for value in values]
    for make in ((pa.time32, pa.time64), (pa.duration, pa.duration)):
        found = keys_of_all(rounded, [make[unit in ("us", "ns")](unit) for unit in ("s", "ms", "ns", "us")])
        assert all(keys == found[0] for keys in found)


@given(st.lists(st.integers(-(2**52), 2**52), min_size=1, max_size=5))
@settings(deadline=None, max_examples=50)
def test_long_durations_are_the_same_in_every_unit(values: list[int]) -> None:
    found = keys_of_all(values, [pa.duration("ns"), pa.duration("us")])
    assert all(keys == found[0] for keys in found)
    assert found[0] == pytest.approx([value / 10**6 for value in values], rel=1e-15)


@given(st.lists(st.none() | st.decimals(-1000, 1000, places=3), min_size=1, max_size=5), st.integers(0, 3))
@settings(deadline=None, max_examples=50)
def test_keys_of_decimals_are_the_same_at_every_scale(values: list[decimal.Decimal | None], places: int) -> None:
    rounded = [None if value is None else round(value, places) for value in values]
    scales = [pa.decimal128(20, -2), pa.decimal128(20, 0), pa.decimal128(20, 1), pa.decimal256(40, 12)]
    found = keys_of_all(rounded, [*scales, pa.decimal128(20, 3)])
    assert all(keys == found[0] for keys in found)
    assert [key and decimal.Decimal(key) for key in found[0]] == rounded


def test_keys_read_well() -> None:
    moment = dt.datetime(2013, 10, 1, 10, 30)
    assert category_keys(pa.array([dt.date(2013, 10, 1), None])).to_pylist() == ["2013-10-01", None]
    assert category_keys(pa.array([moment], pa.timestamp("ns"))).to_pylist() == ["2013-10-01T10:30:00"]
    assert category_keys(pa.array([moment], pa.timestamp("us", "Asia/Tokyo"))).to_pylist() == ["2013-10-01T10:30:00Z"]
    assert category_keys(pa.array([dt.time(10)], pa.time64("ns"))).to_pylist() == ["10:00:00"]
    assert category_keys(pa.array(["100.00", "0.50"]).cast(pa.decimal128(5, 2))).to_pylist() == ["100", "0.5"]
    with pytest.raises(DataError, match="have no categories; leave the column out"):
        category_keys(pa.array([[1]]))
