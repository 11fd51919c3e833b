"""Repeated keys are counted as pandas does, for every chunking; beyond the limit the error is kept."""

from __future__ import annotations

import datetime as dt
import json
import math
import pickle
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import ArgumentError, DataError
from dtk.statistics import Uniqueness

columns = st.one_of(
    st.lists(st.none() | st.text(max_size=2), max_size=40),
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3), max_size=40),
    st.lists(st.none() | st.sampled_from([0.0, -0.0, 1.5, math.inf, -math.inf, 2.0**70]), max_size=40),
    st.lists(st.none() | st.dates(), max_size=40),
    st.lists(st.none() | st.decimals(-10, 10, places=1), max_size=40),
)


def of(*chunks: Any, starts: Any = None, max_keys: int = 8_000_000) -> Uniqueness:
    keys, start = Uniqueness(max_keys), 0
    for number, chunk in enumerate(chunks):
        first = start if starts is None else starts[number]
        keys.update(chunk, np.arange(first, first + len(chunk)))
        start += len(chunk)
    return keys


@given(columns, st.integers(0, 40), st.booleans())
@settings(deadline=None, max_examples=100)
def test_equal_to_pandas_for_every_cut(values: list[Any], cut: int, encode: bool) -> None:
    array = pa.array(values)
    if encode and not pa.types.is_null(array.type):
        array = array.dictionary_encode()
    present = pd.Series(values, dtype=object).dropna()
    repeated = present.duplicated()
    merged = of(array[cut:], starts=[cut])
    merged.merge(of(array[:cut]))
    for keys in (of(array), of(array[:cut], array[cut:]), merged):
        assert (keys.count, keys.missing) == (len(present), len(values) - len(present))
        assert keys.num_repeated == repeated.sum()
        assert keys.first_repeat == (present.index[repeated][0] if repeated.any() else None)
        assert (keys.is_exact, keys.error, keys.share) == (True, 0, 1.0)


@given(st.lists(st.tuples(st.integers(0, 2) | st.none(), st.sampled_from("ab")), max_size=30))
@settings(deadline=None, max_examples=50)
def test_a_key_of_several_columns(rows: list[tuple[int | None, str]]) -> None:
    table = pa.table({"a": pa.array([row[0] for row in rows], pa.int64()), "b": pa.array([row[1] for row in rows])})
    whole = pd.Series([row for row in rows if row[0] is not None], dtype=object)
    keys = of(table)
    assert keys.num_repeated == whole.duplicated().sum()
    assert keys.missing == len(rows) - len(whole)


def test_numbers_of_any_type_are_one_key() -> None:
    keys = of(pa.array([1, 2**53 + 1]), pa.array([1.0, 2.5]), pa.array([1], pa.uint8()), pa.array([2**53]))
    assert keys.num_repeated == 2
    assert of(pa.array([dt.date(2013, 1, 1)]), pa.array([dt.datetime(2013, 1, 1)])).num_repeated == 1
    assert of(pa.array([Decimal("1.50")]), pa.array([Decimal("1.5")])).num_repeated == 1
    with pytest.raises(DataError, match="no categories"):
        of(pa.array([[1], [2]]))


def test_a_date_of_no_end_beside_it_makes_no_key_another() -> None:
    times = pa.array([dt.datetime(2013, 1, 1, 0, 0, 0, microsecond) for microsecond in range(20)], pa.timestamp("us"))
    no_end = pa.array([dt.datetime(9999, 12, 31), dt.datetime(1, 1, 1)], pa.timestamp("us"))
    keys = of(times, pa.concat_arrays([times, no_end]))
    assert (keys.num_repeated, keys.first_repeat) == (20, 20)
    assert of(pa.array([10**17, 10**17 + 1], pa.duration("ns"))).num_repeated == 0


@given(st.lists(st.integers(0, 3000), max_size=4000), st.integers(0, 4000), st.integers(2, 50))
@settings(deadline=None, max_examples=30)
def test_beyond_the_limit_the_answer_does_not_depend_on_chunking(values: list[int], cut: int, max_keys: int) -> None:
    array = pa.array(values, pa.int64())
    merged = of(array[cut:], starts=[cut], max_keys=max_keys)
    merged.merge(of(array[:cut], max_keys=max_keys))
    for keys in (merged, of(array[:cut], array[cut:], max_keys=max_keys)):
        assert keys.to_dict() == of(array, max_keys=max_keys).to_dict()
    assert merged.is_exact == (len(set(values)) <= max_keys)


def test_beyond_the_limit_the_error_holds() -> None:
    rng = np.random.default_rng(0)
    misses = 0
    for _ in range(40):
        base = rng.integers(0, 2**62, 20_000)
        values = np.concatenate([base, base[:4000]])
        keys = of(pa.array(values), max_keys=4000)
        assert not keys.is_exact
        misses += abs(keys.num_repeated - 4000) > keys.error
    assert misses <= 3  # 0.4 are to be expected
    distinct = of(pa.array(np.arange(50_000)), max_keys=5000)
    assert distinct.num_repeated == 0
    assert distinct.error == pytest.approx(44, abs=5)  # so many unnoticed ones: 0.9**44 = 0.01


def test_with_the_number_of_rows_parts_hold_their_share_and_say_the_same() -> None:
    values = np.arange(40_000) % 39_000
    merged = Uniqueness(2000, total_rows=40_000)
    for start in range(0, 40_000, 10_000):
        part = Uniqueness(2000, total_rows=40_000)
        part.update(pa.array(values[start : start + 10_000]), np.arange(start, start + 10_000))
        assert sum(len(held[0]) for held in part._parts) < 1000
        merged.merge(part)
    assert abs(merged.num_repeated - 1000) <= merged.error
    assert 0.04 < merged.share < 0.07


def test_round_trip() -> None:
    keys = of(pa.array(np.arange(300) % 250), max_keys=100)
    again = Uniqueness.from_dict(json.loads(json.dumps(keys.to_dict())))
    assert again.result() == keys.result() == pickle.loads(pickle.dumps(keys)).result()
    again.merge(of(pa.array(np.arange(100)), starts=[300], max_keys=100))
    whole = of(pa.array(np.concatenate([np.arange(300) % 250, np.arange(100)])), max_keys=100)
    assert again.result() == whole.result()


def test_refusals() -> None:
    with pytest.raises(ArgumentError, match="max_keys=1 must be at least 2"):
        Uniqueness(1)
    with pytest.raises(ArgumentError, match="row=None does not number the 2 values"):
        Uniqueness().update(pa.array([1, 2]))
    with pytest.raises(ArgumentError, match="other has max_keys=5 where this has 6"):
        Uniqueness(6).merge(Uniqueness(5))
