"""Exact quantiles are NumPy's to the last bit, whatever fits into memory, and say how many passes they took."""

from __future__ import annotations

import math
from pathlib import Path

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import ArgumentError, DataError
from dtk.statistics import exact_quantiles
from dtk.statistics.quantiles import select_quantiles

LITTLE = 16 * 1024  # the smallest memory for one bracket of one column

values = st.lists(st.none() | st.floats(allow_nan=True) | st.sampled_from([0.0, 1.0, math.inf, -math.inf]), max_size=60)
shares = st.lists(st.floats(0, 1), min_size=1, max_size=5)


def numpy_quantile(values: np.ndarray, q: list[float]) -> np.ndarray:
    present = values[~np.isnan(values)]
    with np.errstate(all="ignore"):
        return np.quantile(present, q) if len(present) else np.full(len(q), np.nan)


@given(values, shares)
@settings(deadline=None, max_examples=100)
def test_selected_quantiles_are_numpys(values: list[float | None], q: list[float]) -> None:
    floats = np.array([math.nan if value is None else value for value in values], np.float64)
    np.testing.assert_array_equal(select_quantiles(floats, np.array(q)), numpy_quantile(floats, q))


@pytest.mark.parametrize("shape", ["random", "sorted", "ties", "constant", "waves", "infinite"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("num_quantiles", [1, 3, 40])
def test_selection_in_memory_is_numpys(shape: str, dtype: type, num_quantiles: int) -> None:
    rng = np.random.default_rng(0)
    numbers = made(shape, 300_000, rng).astype(dtype)
    q = rng.random(num_quantiles)
    np.testing.assert_array_equal(select_quantiles(numbers, q), numpy_quantile(numbers.astype(np.float64), q.tolist()))


def made(shape: str, num_rows: int, rng: np.random.Generator) -> np.ndarray:
    numbers = rng.normal(size=num_rows)
    if shape == "sorted":
        numbers.sort()
    elif shape == "ties":
        numbers = np.round(numbers)
    elif shape == "constant":
        numbers[:] = 7.0
    elif shape == "waves":  # a sample taken at regular steps sees one half of it only
        numbers[:: num_rows // 8192] = 100.0
    elif shape == "infinite":
        numbers[::3], numbers[1::3] = math.inf, -math.inf
    return numbers


@pytest.mark.parametrize("shape", ["random", "sorted", "ties", "constant", "waves", "infinite"])
def test_several_passes_find_the_same_as_one(shape: str) -> None:
    rng = np.random.default_rng(1)
    numbers = made(shape, 100_000, rng)
    numbers[rng.random(len(numbers)) < 0.1] = math.nan
    q = [0.0, 0.001, 0.5, 1.0]
    found = exact_quantiles({"x": numbers}, ["x"], q, max_bytes=4 * LITTLE)
    np.testing.assert_array_equal(found.values["x"], numpy_quantile(numbers, q))
    assert 1 < found.num_passes <= 4


@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.5, math.nan, math.inf]) | st.floats(-1, 1), min_size=1, max_size=40),
    st.integers(0, 9),
    shares,
)
@settings(deadline=None, max_examples=40)
def test_whatever_the_values_little_memory_is_enough(values: list[float], seed: int, q: list[float]) -> None:
    numbers = np.random.default_rng(seed).choice(np.array(values), 5_000)
    found = exact_quantiles({"x": numbers}, ["x"], q, max_bytes=10 * LITTLE)
    np.testing.assert_array_equal(found.values["x"], numpy_quantile(numbers, q))


def test_files_are_read_in_parts_and_columns_searched_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    frame = pd.DataFrame({"x": rng.normal(size=60_000), "n": rng.integers(-(10**6), 10**6, 60_000), "c": 1.0})
    frame["day"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 10**6, 60_000), "s")
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), tmp_path / "a.parquet", row_group_size=5_000)
    q = np.linspace(0, 1, 5)
    found = exact_quantiles(str(tmp_path), list(frame), q, max_bytes=40 * LITTLE)
    for name in ("x", "n", "c"):
        np.testing.assert_array_equal(found.values[name], np.quantile(frame[name].astype(float), q))
    days = frame["day"].astype("datetime64[ns]").astype(np.int64).astype(float)
    np.testing.assert_array_equal(found.values["day"], np.quantile(days, q))
    assert found.num_passes in (2, 3)
    filtered = dd.read_parquet(tmp_path)
    filtered = filtered[filtered["x"] > 0]
    found = exact_quantiles(filtered, ["x"], q, max_bytes=8 * LITTLE)
    np.testing.assert_array_equal(found.values["x"], np.quantile(frame["x"][frame["x"] > 0], q))


def test_many_quantiles_at_once() -> None:
    numbers = np.random.default_rng(3).normal(size=300_000)
    q = np.linspace(0, 1, 101)
    found = exact_quantiles({"x": numbers}, ["x"], q, max_bytes=200 * LITTLE)
    np.testing.assert_array_equal(found.values["x"], np.quantile(numbers, q))
    assert found.num_passes == 3  # some wait for another pass: together they are too many


def test_nothing_there() -> None:
    table = pa.table({"x": pa.nulls(3), "y": pa.array([None, math.nan, None], pa.float64()), "z": [1, None, None]})
    found = exact_quantiles(table, ["x", "y", "z"], [0.5])
    assert [math.isnan(found.values[name][0]) for name in "xyz"] == [True, True, False]
    assert exact_quantiles(table[:0], ["z"], 0.5).values["z"].shape == ()
    assert (exact_quantiles(table, ["z"], 0.5).values["z"], found.num_passes) == (1.0, 1)


def test_brackets_are_the_same_in_sorted_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.round(np.random.default_rng(4).normal(size=50_000), 2)
    numbers[::7] = math.nan
    q = [0.0, 0.2, 0.5, 0.9, 1.0]
    monkeypatch.setattr("dtk.statistics.exact._MANY_BRACKETS", 0)
    found = exact_quantiles({"x": numbers}, ["x"], q, max_bytes=8 * LITTLE)
    np.testing.assert_array_equal(found.values["x"], numpy_quantile(numbers, q))
    assert found.num_passes > 1


def test_data_that_changes_between_passes_is_refused() -> None:
    seeds = iter(range(100))

    def part(_: int) -> pd.DataFrame:
        seed = next(seeds)
        return pd.DataFrame({"x": np.random.default_rng(seed).normal(size=20_000 + seed)})

    frame = dd.from_map(part, [0], meta=pd.DataFrame({"x": [0.0]}))
    with pytest.raises(DataError, match="column 'x' is not the same in each pass over the data; write the data first"):
        exact_quantiles(frame, ["x"], 0.5, max_bytes=LITTLE)


def test_what_cannot_work_is_refused() -> None:
    numbers = {"x": np.arange(50_000.0)}
    with pytest.raises(ArgumentError, match="q=2 must lie between 0 and 1"):
        exact_quantiles(numbers, ["x"], 2)
    with pytest.raises(ArgumentError, match="max_bytes=100 is too little for 1 columns at once; pass 16384"):
        exact_quantiles(numbers, ["x"], 0.5, max_bytes=100)
    with pytest.raises(DataError, match="column 'x' has no quantiles"):
        exact_quantiles({"x": ["a"]}, ["x"], 0.5)
