"""The sample is uniform, and the same for every cut; its quantiles keep their stated error."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import ArgumentError, DataError
from dtk.statistics import RowSample
from dtk.statistics.hashed_rows import hash_rows
from dtk.statistics.sample import rank_error


def of(values: pa.Array, *, size: int = 100, first_row: int = 0, seed: int = 0) -> RowSample:
    sample = RowSample(size, seed=seed)
    sample.update(values, np.arange(first_row, first_row + len(values)))
    return sample


@given(st.integers(0, 500), st.lists(st.integers(0, 500), max_size=4), st.integers(1, 40), st.randoms())
@settings(deadline=None, max_examples=60)
def test_independent_of_cuts_and_order(num_rows: int, cuts: list[int], size: int, random: object) -> None:
    values = pa.array(np.arange(num_rows))
    bounds = sorted({0, num_rows, *(min(cut, num_rows) for cut in cuts)})
    parts = [
        of(values[start:stop], size=size, first_row=start)
        for start, stop in zip(bounds, [*bounds[1:], num_rows], strict=True)
    ]
    random.shuffle(parts)  # type: ignore[attr-defined]
    merged = RowSample(size)
    for part in parts:
        merged.merge(part)
    whole = of(values, size=size)
    assert merged.values.to_pylist() == whole.values.to_pylist()
    assert len(set(whole.values.to_pylist())) == min(size, num_rows)
    assert merged.num_rows == num_rows


@given(st.integers(1, 3000), st.integers(1, 400), st.integers(1, 20))
@settings(deadline=None, max_examples=60)
def test_parts_that_know_the_whole_hold_their_share(num_rows: int, size: int, num_parts: int) -> None:
    values = pa.array(np.arange(num_rows))
    parts, merged = [], RowSample(size, total_rows=num_rows)
    for rows in np.array_split(np.arange(num_rows), num_parts):
        part = RowSample(size, total_rows=num_rows)
        part.update(values.take(pa.array(rows)), rows)
        merged.merge(part)
        parts.append(len(part.values))
    assert merged.values.to_pylist() == of(values, size=size).values.to_pylist()
    assert merged.is_exact == (num_rows <= size)
    assert sum(parts) < size + 20 * math.sqrt(size) + 60


def test_a_sample_that_missed_rows_is_not_exact() -> None:
    sample = RowSample(100, total_rows=10**6)  # fewer came than were said to
    sample.update(pa.array(np.arange(50)), np.arange(50))
    assert not sample.is_exact


@given(st.lists(st.none() | st.floats(-1e6, 1e6), max_size=80))
@settings(deadline=None, max_examples=40)
def test_quantiles_equal_pandas_while_exact(values: list[float | None]) -> None:
    sample = of(pa.array(values, pa.float64()))
    wanted = [0, 0.1, 0.5, 1]
    np.testing.assert_allclose(sample.quantile(wanted), pd.Series(values, dtype="float64").quantile(wanted), rtol=1e-12)
    assert sample.rank_error == 0


def test_rank_error_is_kept() -> None:
    num_rows = 200_000
    sample = of(pa.array(np.arange(num_rows)), size=10_000)
    assert sample.rank_error == pytest.approx(0.01628, rel=1e-3)
    quantiles = np.linspace(0, 1, 101)
    assert np.abs(sample.quantile(quantiles) / num_rows - quantiles).max() < sample.rank_error


def test_the_sample_is_uniform() -> None:
    chosen = of(pa.array(np.arange(100_000)), size=10_000).values.to_numpy()
    counts = np.histogram(chosen, bins=20, range=(0, 100_000))[0]
    assert ((counts - 500) ** 2 / 500).sum() < 43.8  # chi-squared with 19 degrees of freedom, p = 0.001
    assert abs((chosen % 2).mean() - 0.5) < 0.02


def test_seeds_choose_other_rows() -> None:
    values = pa.array(np.arange(10_000))
    chosen = [set(of(values, size=100, seed=seed).values.to_pylist()) for seed in (0, 1, -1)]
    assert len(chosen[0] & chosen[1]) < 20
    assert len(chosen[0] & chosen[2]) < 20


def testsplitmix64_is_the_published_one() -> None:
    # the first outputs of the reference implementation, started at 1234567
    from dtk.statistics.hashed_rows import splitmix64

    step = 0x9E3779B97F4A7C15
    states = np.array([1234567 + step * number for number in range(3)], dtype=object) % 2**64
    assert splitmix64(states.astype(np.uint64)).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]
    assert len(np.unique(hash_rows(np.arange(10_000)))) == 10_000


def test_structs_sample_whole_rows() -> None:
    table = pa.table({"x": np.arange(1000), "y": np.arange(1000) * 2.0})
    values = of(table.to_struct_array(), size=50).values
    assert values.field("y").to_pylist() == [2.0 * x for x in values.field("x").to_pylist()]
    assert values.field("x").to_pylist() == of(table["x"], size=50).values.to_pylist()


def test_text_and_dictionaries_are_sampled() -> None:
    sample = of(pa.array(["a", None]).dictionary_encode())
    sample.update(pa.array(["b"]).dictionary_encode(), np.array([2]))
    assert sorted(sample.values.to_pylist(), key=str) == [None, "a", "b"]
    assert sorted(of(pa.array(["a", None], pa.string_view())).values.to_pylist(), key=str) == [None, "a"]


def test_what_becomes_of_a_mapped_or_filled_column_needs_no_other_pass() -> None:
    rng = np.random.default_rng(0)
    floats = np.where(rng.random(2000) < 0.2, np.nan, rng.normal(size=2000))
    sample = of(pa.array(floats, from_pandas=True), size=300)
    shares = [0, 0.3, 0.5, 1]
    filled = sample.filled(0.25)
    expected = of(pa.array(np.where(np.isnan(floats), 0.25, floats)), size=300)
    np.testing.assert_array_equal(filled.quantile(shares), expected.quantile(shares))
    assert filled.rank_error == expected.rank_error < sample.rank_error
    halves = filled.mapped(lambda values: values / 2)
    assert halves.values.to_pylist() == [value / 2 for value in expected.values.to_pylist()]
    assert sample.mapped(np.abs).result()["num_sampled"] == 300
    text = of(pa.array(["a", None, "b"])).filled("none")
    assert sorted(text.values.to_pylist()) == ["a", "b", "none"]
    with pytest.raises(ArgumentError, match="it must map each value by itself"):
        sample.mapped(np.sum)


@pytest.mark.parametrize(
    "values",
    [
        pa.array(np.arange(500)),
        pa.array([0.1, math.nan, math.inf, None] * 100),
        pa.array(["é", None, "b"] * 100),
        pa.table({"x": np.arange(200), "y": ["a", "b"] * 100}).to_struct_array(),
        pa.array([], pa.float64()),
    ],
)
def test_round_trips(values: pa.Array) -> None:
    sample = of(values[:150])
    for again in (RowSample.from_dict(json.loads(json.dumps(sample.to_dict()))), pickle.loads(pickle.dumps(sample))):
        assert str(again.values.to_pylist()) == str(sample.values.to_pylist())
        again.update(values[150:], np.arange(150, 150 + len(values[150:])))  # it goes on as the first would
        assert str(again.values.to_pylist()) == str(of(values).values.to_pylist())
        assert again.is_exact == of(values).is_exact


def test_chunks_of_several_types_find_a_common_one() -> None:
    sample = of(pa.array([1, 2], pa.int32()))
    sample.update(pa.nulls(1), np.array([2]))
    sample.update(pa.array([2.5, math.nan]), np.array([3, 4]))
    assert sample.quantile([0, 1]).tolist() == [1.0, 2.5]
    sample.update(pa.array(["a"]), np.array([5]))
    with pytest.raises(DataError, match="cast the column first"):
        _ = sample.values


def test_nothing_there() -> None:
    sample = RowSample(10)
    assert len(sample.values) == 0
    assert math.isnan(sample.quantile(0.5))
    assert pickle.loads(pickle.dumps(sample)).to_dict() == sample.to_dict()
    assert sample.mapped(np.sqrt).filled(1.0).result()["is_exact"]
    assert len(sample.filled("none").values) == 0


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ArgumentError, match="size=0 must be at least 1"):
        RowSample(0)
    with pytest.raises(ArgumentError, match="row=None does not number the 1 values"):
        RowSample().update(pa.array([1]))
    with pytest.raises(ArgumentError, match=r"row=\[2\] does not number the 1 values"):
        RowSample().update(pa.array([1]), np.arange(2))
    with pytest.raises(ArgumentError, match="only samples of the same size and seed merge"):
        RowSample(5).merge(RowSample(6))
    with pytest.raises(ArgumentError, match=r"q=1.5 must lie between 0 and 1"):
        RowSample(5).quantile(1.5)


def test_maps_follow_each_other_and_what_comes_later() -> None:
    rows = np.arange(50)
    sample = RowSample(40)
    sample.update(pa.array([None if row % 7 == 0 else float(row) for row in rows.tolist()]), rows)
    mapped = sample.mapped(np.square).filled(-4.0).mapped(lambda values: values / 2)
    for again in (mapped, pickle.loads(pickle.dumps(mapped)), RowSample.from_dict(mapped.to_dict())):
        numbers = np.sort(sample._numbers())
        expected = np.where(np.isnan(numbers), -4.0, numbers**2) / 2
        np.testing.assert_array_equal(np.sort(again._numbers()), np.sort(expected))
        assert again.rank_error == rank_error(40)
        assert again.quantile(0.0) == -2.0
    merged = sample.mapped(np.negative)
    other = RowSample(40)
    other.update(pa.array(rows * 1.0), rows + 50)
    merged.merge(other.mapped(np.negative))
    merged.update(pa.array([-7.0]), np.array([100]))
    plain = RowSample(40)
    plain.update(pa.array([None if row % 7 == 0 else -float(row) for row in rows.tolist()]), rows)
    plain.update(pa.array(rows * -1.0), rows + 50)
    plain.update(pa.array([-7.0]), np.array([100]))
    assert merged.values.equals(pa.array(plain._with(plain.values)._numbers())) or merged.values.fill_null(
        np.nan
    ).to_pylist() == pytest.approx(plain.values.fill_null(np.nan).to_pylist(), nan_ok=True)
