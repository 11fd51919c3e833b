"""Categories equal pandas' value counts while exact, and keep their error bound beyond."""

from __future__ import annotations

import datetime
import json
import math
import pickle
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import ArgumentError, DataError
from dtk.statistics import Categories

columns = st.one_of(
    st.lists(st.none() | st.text(max_size=3), max_size=60),
    st.lists(st.none() | st.integers(-3, 3), max_size=60),
    st.lists(st.none() | st.sampled_from([0.0, -0.0, 1.5, math.inf]), max_size=60),
    st.lists(st.none() | st.booleans(), max_size=60),
)


def of(*chunks: pa.Array, max_size: int = 1_000_000) -> Categories:
    categories = Categories(max_size)
    for chunk in chunks:
        categories.update(chunk)
    return categories


def expected(values: list[Any]) -> list[tuple[Any, int]]:
    counts = Counter(value for value in values if value is not None)
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


@given(columns, st.integers(0, 60), st.booleans())
@settings(deadline=None, max_examples=80)
def test_equal_to_counting_for_every_cut(values: list[Any], cut: int, encode: bool) -> None:
    array = pa.array(values)
    if encode and not pa.types.is_null(array.type):
        array = array.dictionary_encode()
    merged = of(array[cut:])
    merged.merge(of(array[:cut]))
    for categories in (of(array), of(array[:cut], array[cut:]), merged):
        assert list(categories.counts.items()) == expected(values)
        assert categories.missing == values.count(None)
        assert categories.num_distinct == len(expected(values))
        assert categories.is_exact


@given(st.lists(st.integers(0, 40), min_size=1, max_size=300), st.integers(1, 6), st.integers(2, 12))
@settings(deadline=None, max_examples=60)
def test_beyond_the_limit_the_bound_holds(values: list[int], num_parts: int, max_size: int) -> None:
    truth = Counter(values)
    merged = Categories(max_size)
    for part in np.array_split(np.array(values), num_parts):
        one = of(pa.array(part), max_size=max_size)
        one.is_exact  # noqa: B018 - it consolidates, as a worker's does when its result is looked at
        merged.merge(one)
    counts = merged.counts
    assert merged.is_exact == (len(truth) <= max_size)
    assert len(counts) <= max_size
    assert merged.count == len(values)
    assert merged.max_error <= len(values) / (max_size // 2)
    assert merged.num_distinct <= len(truth)
    for value, count in truth.items():
        assert counts.get(value, 0) <= count <= counts.get(value, 0) + merged.max_error


def test_frequent_values_survive() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([np.zeros(5_000, int), np.ones(3_000, int), np.arange(2, 10_002)])
    rng.shuffle(values)
    categories = of(*[pa.array(part) for part in np.split(values, 10)], max_size=100)
    assert [value for value, _ in categories.top(2)] == [0, 1]
    assert not categories.is_exact


def test_keys_do_not_depend_on_the_type_of_a_chunk() -> None:
    categories = of(
        pa.array(["a", "b"]),
        pa.array(["a"], pa.large_string()),
        pa.array(["a"]).dictionary_encode(),
        pa.array(["b"], pa.string_view()),
        pa.nulls(2),
    )
    assert categories.counts == {"a": 3, "b": 2}
    assert categories.missing == 2
    numbers = of(pa.array([1, 2], pa.int8()), pa.array([1.0, math.nan]))
    assert numbers.counts == {1: 2, 2: 1}
    assert numbers.missing == 1


@pytest.mark.parametrize(
    ("array", "key"),
    [
        (pa.array([datetime.date(2013, 1, 31)]), "2013-01-31"),
        (pa.array([0], pa.timestamp("s")), "1970-01-01"),
        (pa.array([0], pa.timestamp("s", "America/New_York")), "1970-01-01T00:00:00Z"),
        (pa.array(["1.50"]).cast(pa.decimal128(5, 2)), "1.5"),
        (pa.array([b"\xff"]), "ff"),
        (pa.array([1500], pa.duration("ms")), 1.5),
        (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
        (pa.array([np.float16(0.5)]), 0.5),
    ],
)
def test_keys_are_json_values(array: pa.Array, key: Any) -> None:
    assert of(array).counts == {key: 1}


def test_nulls_inside_a_dictionary_are_missing() -> None:
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1, None]), pa.array(["a", None]))
    categories = of(array)
    assert (categories.counts, categories.missing) == ({"a": 1}, 2)


@pytest.mark.parametrize(
    "array",
    [
        pa.array(["é", "b", None]),
        pa.array([True, False]),
        pa.array([], pa.string()),
        pa.array([0.1, math.inf, -math.inf]),
        pa.array([2**64 - 1, 1], pa.uint64()),
    ],
)
def test_round_trips(array: pa.Array) -> None:
    categories = of(array)
    for again in (
        Categories.from_dict(json.loads(json.dumps(categories.to_dict()))),
        pickle.loads(pickle.dumps(categories)),
    ):
        assert again.result() == categories.result()
        assert again.to_dict() == categories.to_dict()
        again.update(array)
        assert sum(again.counts.values()) == 2 * sum(categories.counts.values())


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ArgumentError, match="max_size=1 must be at least 2"):
        Categories(1)
    with pytest.raises(ArgumentError, match="max_bytes=100 must be at least 4096"):
        Categories(max_bytes=100)
    with pytest.raises(DataError, match="have no categories; leave the column out"):
        of(pa.array([[1]]))


def test_forgotten_values_leave_a_lower_bound_behind() -> None:
    categories = of(pa.array(["a", "a", "b"]))
    categories.forget()
    other = of(pa.array(["c", "a", "d", "e"]))
    other.merge(categories)
    assert (other.counts, other.max_error, other.is_exact) == ({"a": 1, "c": 1, "d": 1, "e": 1}, 2, False)
    assert (categories.counts, categories.num_distinct, categories.count) == ({}, 2, 3)


@given(st.lists(st.none() | st.sampled_from("abc"), max_size=30), st.sampled_from(["a", "missing", 0]))
@settings(deadline=None, max_examples=40)
def test_filled_counts_are_those_of_the_filled_column(values: list[str | None], value: str | int) -> None:
    filled = of(pa.array(values, pa.string())).filled(value)
    texts = [str(value) if text is None else text for text in values]
    keys = {str(key): count for key, count in filled.counts.items()}
    assert keys == Counter(texts)
    assert (filled.missing, filled.count) == (0, len(values))


@given(st.lists(st.text(max_size=200), max_size=400), st.integers(1, 5))
@settings(deadline=None, max_examples=60)
def test_bytes_are_bounded_and_counts_keep_their_error(values: list[str], num_parts: int) -> None:
    values = values + ["often"] * (len(values) // 2)
    truth = Counter(values)
    bounds = np.linspace(0, len(values), num_parts + 1).astype(int)
    merged = Categories(max_bytes=4096)
    for start, stop in pairwise(bounds):
        one = of(pa.array(values[start:stop], pa.string()))
        limited = Categories(max_bytes=4096)
        limited.merge(one)
        merged.merge(limited)
        assert max(merged.nbytes, limited.nbytes) <= 4096
    counts = merged.counts
    assert merged.count == len(values)
    assert bool(merged.note) == (not merged.is_exact)
    for value, count in truth.items():
        assert counts.get(value, 0) <= count <= counts.get(value, 0) + merged.max_error


def test_many_distinct_texts_stay_within_the_bound_and_it_says_what_was_cut() -> None:
    categories = Categories(max_size=5_000, max_bytes=2**18)
    for start in range(0, 100_000, 10_000):
        rare = [f"row {number}" for number in range(start, start + 10_000)]
        categories.update(pa.array(rare + ["often"] * 10_000))
        assert categories.nbytes <= 2**18
    assert categories.top(1)[0][0] == "often"
    assert 100_000 - categories.max_error <= categories.top(1)[0][1] <= 100_000
    assert "5,000" in categories.note
    assert "of 200,000 rows are not counted" in categories.note
