"""Distinct values are counted exactly while few, and estimated within the stated error beyond; hashes know no types."""

from __future__ import annotations

import datetime
import json
import math
import pickle
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import ArgumentError, DataError
from dtk.statistics import Distinct
from dtk.statistics.hashing import hash_values

columns = st.one_of(
    st.lists(st.none() | st.text(max_size=20), max_size=80),
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=80),
    st.lists(st.none() | st.floats(), max_size=80),
    st.lists(st.none() | st.booleans(), max_size=80),
    st.lists(st.none() | st.dates(), max_size=80),
)


def of(*chunks: pa.Array, max_exact: int = 1000, precision: int = 10) -> Distinct:
    distinct = Distinct(max_exact, precision=precision)
    for chunk in chunks:
        distinct.update(chunk)
    return distinct


@given(columns, st.integers(0, 80), st.booleans())
@settings(deadline=None, max_examples=100)
def test_equal_to_counting_for_every_cut(values: list[Any], cut: int, encode: bool) -> None:
    array = pa.array(values)
    if encode and not pa.types.is_null(array.type):
        array = array.dictionary_encode()
    present = [value for value in values if value is not None and value == value]
    merged = of(array[cut:])
    merged.merge(of(array[:cut]))
    for distinct in (of(array), of(array[:cut], array[cut:]), of(pa.chunked_array([array])), merged):
        assert distinct.result() == {
            "count": len(present),
            "missing": len(values) - len(present),
            "num_distinct": len(set(present)),
            "is_exact": True,
            "relative_error": 0.0,
        }


@given(st.integers(0, 3000), st.lists(st.integers(0, 3000), max_size=4), st.integers(1, 500), st.randoms())
@settings(deadline=None, max_examples=60)
def test_the_same_for_every_cut_and_order_beyond_the_limit_too(
    num_rows: int, cuts: list[int], max_exact: int, random: Any
) -> None:
    values = pa.array(np.random.default_rng(num_rows).integers(0, max(1, num_rows), num_rows))
    bounds = sorted({0, num_rows, *(min(cut, num_rows) for cut in cuts)})
    parts = [
        of(values[start:stop], max_exact=max_exact) for start, stop in zip(bounds, [*bounds[1:], num_rows], strict=True)
    ]
    random.shuffle(parts)
    merged = Distinct(max_exact, precision=10)
    for part in parts:
        merged.merge(part)
    truth = len(set(values.to_pylist()))
    assert merged.to_dict() == of(values, max_exact=max_exact).to_dict()
    assert merged.is_exact == (truth <= max_exact)
    assert abs(merged.num_distinct - truth) <= 6 * merged.relative_error * truth


@pytest.mark.parametrize("num_distinct", [2_000, 20_000, 200_000, 1_000_000])
def test_estimates_keep_their_error(num_distinct: int) -> None:
    numbers = np.arange(num_distinct) * 17
    errors = []
    for seed in range(4):
        distinct = of(pa.array(numbers + seed * 10**9), precision=12)
        errors.append(distinct.num_distinct / num_distinct - 1)
        assert distinct.relative_error == pytest.approx(1.04 / 64)
    assert np.abs(errors).max() < 4 * 1.04 / 64
    texts = of(pa.array([f"some longer text, number {number}" for number in range(20_000)]), precision=12)
    assert abs(texts.num_distinct / 20_000 - 1) < 4 * 1.04 / 64


@given(st.lists(st.text(max_size=40), max_size=100), st.integers(0, 5))
@settings(deadline=None, max_examples=100)
def test_texts_have_one_hash_each_wherever_they_lie(texts: list[str], offset: int) -> None:
    array = pa.array([""] * offset + texts, pa.string())
    hashes = hash_values(array[offset:]).tolist()
    assert len(set(hashes)) == len(set(texts))
    assert hashes == [hash_values(pa.array([text], pa.large_string()))[0] for text in texts]


def test_hashes_of_text_change_with_every_bit() -> None:
    texts = [
        bytes([0] * place + [1 << bit] + [0] * (20 - place)).decode("latin1") for place in range(20) for bit in range(7)
    ]
    texts += ["\0" * length for length in range(30)]
    hashes = hash_values(pa.array(texts))
    assert len(np.unique(hashes)) == len(texts)
    bits = (hashes[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(0) - 0.5).max() < 0.2  # 170 texts: five standard deviations


def test_hashes_do_not_depend_on_the_type_of_a_chunk() -> None:
    days = pa.array([datetime.date(2013, 1, 31)])
    same = [
        [pa.array([1], pa.int8()), pa.array([1], pa.uint64()), pa.array([1.0]), pa.array([1.0], pa.float32())],
        [pa.array([0.0]), pa.array([-0.0]), pa.array([0])],
        [pa.array(["é"]), pa.array(["é"], pa.large_string()), pa.array(["é"], pa.string_view())],
        [days, days.cast(pa.timestamp("ns")), days.cast(pa.timestamp("s", "Europe/Berlin"))],
        [pa.array([1500], pa.duration("ms")), pa.array([1_500_000], pa.duration("us"))],
        [pa.array([Decimal("1E-9")]), pa.array([Decimal("0.00000000100")])],
        [pa.array([b"12"]), pa.array([b"12"], pa.large_binary()), pa.array([b"12"], pa.binary(2))],
        [pa.array([2**62]), pa.array([2.0**62])],
    ]
    for arrays in same:
        assert of(*arrays, pa.nulls(2)).num_distinct == 1
    different = [2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)]
    distinct = of(pa.array(different), pa.array([2**63, 2**63 + 1, 2**64 - 1, 2**64 - 2**53 - 1], pa.uint64()))
    assert distinct.num_distinct == 9
    assert of(pa.array([True, False]), pa.array([0, 1])).num_distinct == 4
    assert of(pa.array([2.0**63, -(2.0**63), 2.0**64, 0.5]), pa.array([2**63], pa.uint64())).num_distinct == 4


def test_long_durations_are_told_apart_to_the_nanosecond() -> None:
    assert of(pa.array([10**17, 10**17 + 1], pa.duration("ns"))).num_distinct == 2


@pytest.mark.parametrize("num_rows", [0, 1, 2000])
def test_round_trips(num_rows: int) -> None:
    values = pa.array(np.arange(num_rows))
    distinct = of(values)
    for again in (
        Distinct.from_dict(json.loads(json.dumps(distinct.to_dict()))),
        pickle.loads(pickle.dumps(distinct)),
    ):
        again.update(pa.array(np.arange(3000)))
        assert again.result() == of(values, pa.array(np.arange(3000))).result()


def test_missing_in_dictionaries_and_many_texts() -> None:
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, None]), pa.array([1.5, None, math.nan]))
    assert (of(array).count, of(array).missing, of(array).num_distinct) == (1, 3, 1)
    chunks = [pa.array([f"{start + number}" for number in range(5000)]) for start in (0, 4000, 8000)]
    assert of(*chunks, max_exact=20_000).num_distinct == 13_000


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ArgumentError, match="max_exact=0 must be at least 1"):
        Distinct(0)
    with pytest.raises(ArgumentError, match="precision=3 must lie between 4 and 18"):
        Distinct(precision=3)
    with pytest.raises(ArgumentError, match="only equal ones merge"):
        Distinct().merge(Distinct(5))
    with pytest.raises(DataError, match="have no categories; leave the column out"):
        of(pa.array([[1]]))
