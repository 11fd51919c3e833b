"""The sample of a table is that of each of its columns, and its quantiles are NumPy's of those rows."""

from __future__ import annotations

import datetime
import json
import math
import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import ArgumentError, DataError
from dtk.statistics import RowSample, TableSample, to_floats

COLUMNS = ["double", "float", "int", "bool", "date", "code"]


def make(num_rows: int) -> pa.Table:
    rng = np.random.default_rng(num_rows)
    absent = rng.random(num_rows) < 0.2
    numbers = np.where(rng.random(num_rows) < 0.1, np.nan, rng.normal(size=num_rows))
    return pa.table(
        {
            "double": pa.array(numbers),
            "float": pa.array(numbers.astype(np.float32), mask=absent),
            "int": pa.array(rng.integers(-(2**40), 2**40, num_rows), mask=absent),
            "bool": pa.array(rng.random(num_rows) < 0.5, mask=absent),
            "date": pa.array(rng.integers(0, 20_000, num_rows).astype(np.int32), mask=absent).cast(pa.date32()),
            "code": pa.array(rng.integers(0, 5, num_rows), mask=absent).dictionary_encode(),
            "text": pa.array(["a"] * num_rows, pa.string()),
        }
    )


def of(table: pa.Table, *, size: int = 100, first_row: int = 0, columns: list[str] | None = None) -> TableSample:
    sample = TableSample(columns or COLUMNS, size)
    sample.update(table, np.arange(first_row, first_row + len(table)))
    return sample


@given(st.integers(0, 400), st.lists(st.integers(0, 400), max_size=4), st.integers(1, 60), st.randoms())
@settings(deadline=None, max_examples=50)
def test_equals_the_samples_of_its_columns_for_every_cut(
    num_rows: int, cuts: list[int], size: int, random: Any
) -> None:
    table = make(num_rows)
    bounds = sorted({0, num_rows, *(min(cut, num_rows) for cut in cuts)})
    parts = [
        of(table.slice(start, stop - start), size=size, first_row=start)
        for start, stop in zip(bounds, [*bounds[1:], num_rows], strict=True)
    ]
    random.shuffle(parts)
    merged, shares = TableSample(COLUMNS, size), [0, 0.3, 0.5, 1]
    for part in parts:
        merged.merge(part)
    quantiles = merged.quantile(shares)
    for name in COLUMNS:
        column = RowSample(size)
        column.update(table[name], np.arange(num_rows))
        np.testing.assert_array_equal(merged.values[name], to_floats(column.values))
        np.testing.assert_array_equal(quantiles[name], column.quantile(shares))
        assert merged.rank_error[name] == column.rank_error
        assert merged.is_exact == column.is_exact


def test_parts_that_know_the_whole_hold_their_share() -> None:
    table, merged = make(20_000), TableSample(COLUMNS, 1000, total_rows=20_000)
    held = 0
    for start in range(0, 20_000, 2_000):
        part = TableSample(COLUMNS, 1000, total_rows=20_000)
        part.update(table.slice(start, 2_000), np.arange(start, start + 2_000))
        held += part.num_sampled
        merged.merge(part)
    assert held < 1_400
    assert merged.num_sampled == 1_000
    np.testing.assert_array_equal(merged.values["int"], of(table, size=1000).values["int"])


def test_a_column_knows_what_becomes_of_it() -> None:
    table = make(1000)
    column = of(table).column("float").filled(2.0).mapped(np.square)
    expected = of(table).values["float"].astype(np.float64)
    np.testing.assert_array_equal(to_floats(column.values), np.square(np.where(np.isnan(expected), 2.0, expected)))


@pytest.mark.parametrize("num_rows", [0, 1, 500])
def test_round_trips(num_rows: int) -> None:
    sample = of(make(num_rows))
    for again in (TableSample.from_dict(json.loads(json.dumps(sample.to_dict()))), pickle.loads(pickle.dumps(sample))):
        assert again.to_dict() == sample.to_dict()
        more = make(300)
        again.update(more, np.arange(1000, 1300))
        whole = of(make(num_rows))
        whole.update(more, np.arange(1000, 1300))
        for name in COLUMNS:
            np.testing.assert_array_equal(again.values[name], whole.values[name])
            assert again.values[name].dtype == whole.values[name].dtype


def test_small_types_take_four_bytes() -> None:
    dtypes = {name: values.dtype.itemsize for name, values in of(make(50)).values.items()}
    assert dtypes == {"double": 8, "float": 4, "int": 8, "bool": 4, "date": 8, "code": 8}


def test_all_missing_and_mixed_types() -> None:
    sample = of(pa.table({"x": pa.nulls(2)}), columns=["x"])
    assert math.isnan(sample.quantile(0.5)["x"])
    sample.update(pa.table({"x": [1, 2]}), np.arange(2, 4))
    sample.update(pa.table({"x": [2.5]}), np.arange(4, 5))
    assert sample.quantile([0.0, 1.0])["x"].tolist() == [1.0, 2.5]
    assert sample.result()["num_rows"] == 5


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ArgumentError, match="names one twice"):
        TableSample(["x", "x"])
    with pytest.raises(DataError, match="column 'text' cannot be sampled as numbers"):
        of(make(3), columns=["text"])
    with pytest.raises(ArgumentError, match="does not number the 3 values"):
        TableSample(["int"]).update(make(3))
    with pytest.raises(ArgumentError, match="other has columns"):
        of(make(3)).merge(of(make(3), columns=["int"]))
    with pytest.raises(ArgumentError, match="column 'y' was not sampled; name one of"):
        of(make(3)).column("y")
    with pytest.raises(ArgumentError, match="q=2 must lie between 0 and 1"):
        of(make(3)).quantile(2)
    assert of(pa.table({"t": pa.array([datetime.time(1)])}), columns=["t"]).quantile(0.5)["t"] == 3600
