"""A profile equals pandas', whatever holds the data, and warns of what is wrong with it."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dtk.analytics.table
from dtk.analytics import Report, profile
from dtk.analytics.table import TableState
from dtk.errors import ArgumentError, DataError, NotFoundError, SourceError


def table_of(frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(frame, preserve_index=False)


def make_frame(num_rows: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "delay": np.where(rng.random(num_rows) < 0.1, np.nan, rng.normal(5, 20, num_rows)),
            "hour": rng.integers(0, 24, num_rows),
            "carrier": rng.choice(["UA", "AA", "Ünï", "日本"], num_rows),
            "when": pd.Timestamp("2013-01-01") + pd.to_timedelta(rng.integers(0, 10**6, num_rows), unit="s"),
            "late": rng.random(num_rows) < 0.3,
        }
    )
    frame.loc[frame.index[::7], "carrier"] = None
    frame.loc[frame.index[::5], "when"] = pd.NaT
    return frame


def codes(report: Report) -> set[tuple[str, str]]:
    return {(finding.column, finding.code) for finding in report.findings}


@given(st.integers(1, 60), st.integers(0, 10))
@settings(deadline=None, max_examples=20)
def test_equal_to_pandas(num_rows: int, seed: int) -> None:
    frame = make_frame(num_rows, seed)
    report = profile(table_of(frame))
    assert report.num_rows == num_rows
    for column in report.columns:
        series = frame[column.name]
        assert column.num_missing == series.isna().sum()
        assert column.num_distinct == series.nunique()
        assert column.distinct_is_exact
        assert column.rank_error == 0
    for name in ("delay", "hour"):
        column, series = report[name], frame[name].astype(float)
        expected = [series.mean(), series.std(ddof=0), series.min(), series.max(), *series.quantile([0.05, 0.5])]
        quantiles = column.quantiles
        found = [column.mean, column.std, column.min, column.max, quantiles["0.05"], quantiles["0.5"]]
        np.testing.assert_allclose([math.nan if value is None else value for value in found], expected, atol=1e-9)
        assert sum(column.histogram_counts) == pytest.approx(series.count())
    assert dict(report["carrier"].top) == frame["carrier"].value_counts().to_dict()
    assert dict(report["late"].top) == frame["late"].value_counts().to_dict()
    first = frame["when"].min()
    assert report["when"].min == (None if first is pd.NaT else first.isoformat().removesuffix("T00:00:00"))
    correlations = report.correlations
    assert correlations.columns == ("delay", "hour", "late")
    np.testing.assert_allclose(correlations.values, frame[list(correlations.columns)].astype(float).corr(), atol=1e-9)


def test_independent_of_where_and_how_the_data_lies(tmp_path: Path, client: Any) -> None:
    frame = make_frame(1000)
    for number in range(3):
        part = table_of(frame.iloc[number * 334 : (number + 1) * 334])
        pq.write_table(part, tmp_path / f"{number}.parquet", row_group_size=100)
    whole = profile(table_of(frame), target="late").to_dict()
    read = profile(dd.read_parquet(tmp_path), target="late", progress=False).to_dict()
    computed = profile(dd.from_pandas(frame, npartitions=4), target="late").to_dict()
    for other in (read, computed):
        for one, two in zip(whole["columns"], other["columns"], strict=True):
            one.pop("dtype", None), two.pop("dtype")  # strings may be large ones
            assert close(one, two)
        assert close(whole["correlations"], other["correlations"])
        assert whole["findings"] == other["findings"]


def test_paths(tmp_path: Path) -> None:
    (tmp_path / "flights").mkdir()
    pq.write_table(table_of(make_frame(50)), tmp_path / "flights" / "0.parquet")
    report = profile(tmp_path / "flights")
    assert (report.title, report.num_rows) == ("flights", 50)
    with pytest.raises(NotFoundError, match="flight"):
        profile(tmp_path / "flight")


def close(one: Any, two: Any) -> bool:
    """Compare nested values, floats with a tolerance."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(close(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(close, one, two))
    return math.isclose(one, two, rel_tol=1e-9, abs_tol=1e-9) if isinstance(one, float) else bool(one == two)


def test_the_sample_states_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtk.analytics.table, "SAMPLE_ROWS", 5_000)
    values = np.random.default_rng(0).permutation(100_000).astype(float)
    report = profile({"x": values, "y": np.where(values < 50_000, np.nan, values)})
    column = report["x"]
    assert (column.mean, column.min, column.max) == (49999.5, 0, 99999)  # these stay exact
    assert column.rank_error == pytest.approx(math.sqrt(math.log(200) / 10_000))
    for share, value in column.quantiles.items():
        assert abs(value / 100_000 - float(share)) < column.rank_error
    assert report["y"].rank_error > column.rank_error
    assert sum(column.histogram_counts) == pytest.approx(100_000)
    assert "5,000 sampled rows: a quantile's rank is within 2.30% with 99% confidence" in report.accuracy


def test_warnings() -> None:
    rng = np.random.default_rng(0)
    late = rng.random(1000) < 0.04
    report = profile(
        {
            "leak": late + rng.normal(0, 0.01, 1000),
            "honest": rng.normal(size=1000),
            "empty": np.full(1000, np.nan),
            "same": np.ones(1000),
            "holes": np.where(rng.random(1000) < 0.5, np.nan, rng.random(1000)),
            "id": [f"N{number}" for number in range(1000)],
            "tail": np.exp(rng.normal(0, 3, 1000)),
            "infinite": np.where(np.arange(1000) == 3, np.inf, rng.random(1000)),
            "late": late,
        },
        target="late",
    )
    assert codes(report) == {
        ("leak", "leakage"),
        ("empty", "all_missing"),
        ("same", "constant"),
        ("holes", "missing"),
        ("id", "near_unique"),
        ("tail", "skewed"),
        ("infinite", "infinite"),
        ("late", "imbalanced"),
    }
    assert report.findings[0].message.startswith("correlates with the target 'late' by 0.99")
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_target_of_two_names_gives_away_its_copy() -> None:
    late = np.random.default_rng(0).random(500) < 0.5
    report = profile({"copy": late * 2.0, "late": np.where(late, "yes", "no")}, target="late")
    assert codes(report) == {("copy", "leakage")}
    missing = profile({"late": ["yes", None, "no"]}, target="late")
    assert codes(missing) == {("late", "target_missing"), ("late", "missing")}


def test_text_is_told_from_names() -> None:
    sentences = [f"a sentence of some length, of which this is number {number}" for number in range(50)]
    report = profile({"text": sentences, "name": ["ab", "abcd"] * 25})
    assert report["text"].kind == "text"
    assert (report["name"].kind, report["name"].length_mean, report["name"].length_max) == ("category", 3, 4)
    assert profile({"name": pa.array(["ab", "abcd"] * 9).dictionary_encode()})["name"].length_mean == 3


def test_no_rows_and_one_row() -> None:
    frame = make_frame(20)
    for empty in (table_of(frame).slice(0, 0), dd.from_pandas(frame.iloc[:0], npartitions=1)):
        report = profile(empty)
        assert report.num_rows == 0
        assert report["delay"].mean is None
        assert report.findings == ()
        json.dumps(report.to_dict(), allow_nan=False)
    one = profile({"x": [2.0], "y": ["a"]})
    assert (one["x"].mean, one["x"].std, one["y"].top) == (2.0, 0.0, (("a", 1),))


def test_columns_of_other_types() -> None:
    report = profile(
        pa.table(
            {
                "list": pa.array([[1], None]),
                "bytes": pa.array([b"a", b"b"]),
                "null": pa.nulls(2),
                "day": pa.array([0, 15_706], pa.date32()),
                "wait": pa.array([1500, None], pa.duration("ms")),
                "price": pa.array(["1.50", "2.50"]).cast(pa.decimal128(5, 2)),
                "huge": pa.array([1e308, -1e308]),
            }
        )
    )
    assert [column.kind for column in report.columns[:3]] == ["other", "other", "category"]
    assert report["list"].num_missing == 1
    assert report["null"].num_missing == 2
    assert (report["day"].min, report["day"].max) == ("1970-01-01", "2013-01-01")
    assert report["wait"].mean == 1.5
    assert report["price"].mean == 2.0
    assert sum(report["huge"].histogram_counts) == 2


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ArgumentError, match="target='lat' is no column of the data; did you mean 'late'"):
        profile({"late": [True]}, target="lat")
    with pytest.raises(ArgumentError, match="data has no columns"):
        profile(pa.table({}))
    with pytest.raises(SourceError, match="is no table that dtk reads"):
        profile([1, 2])
    mixed = dd.from_map(lambda value: pd.DataFrame({"x": [value]}), [1.0, "a"], meta=pd.DataFrame({"x": [1.0]}))
    with pytest.raises(DataError, match="column 'x' is a number in one part of the data, but: values of type"):
        profile(mixed)


def test_the_parts_of_a_wide_table_share_one_sample() -> None:
    num_rows, num_columns = 400_000, 10
    schema = pa.schema([(f"x{number}", pa.float32()) for number in range(num_columns)])
    values = np.random.default_rng(0).random(num_rows, np.float32)
    merged, nbytes = TableState(schema, total_rows=num_rows), 0
    for start in range(0, num_rows, 100_000):
        part = TableState(schema, total_rows=num_rows)
        rows = pa.array(values[start : start + 100_000])
        part.update(pa.table([rows] * num_columns, schema=schema), start)
        nbytes += len(pickle.dumps(part, 5))
        merged.merge(part)
    # a sampled row is a hash and a float a column; the distinct numbers, too many to be of use, are let go
    assert nbytes < 1.1 * 8 * (num_columns + 1) * 100_000
    assert (merged.num_sampled, merged.columns["x0"].categories.is_exact) == (100_000, False)
    assert merged.columns["x0"].categories.num_distinct > 50_000


def test_a_sample_that_memory_cuts_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtk.analytics.table, "SAMPLE_NBYTES", 2**20)
    wide = profile({f"x{number}": np.arange(20_000.0) for number in range(20)})
    assert "from 6,553 sampled rows (what 1.0 MiB hold of so many columns): a quantile's rank is" in wide.accuracy
    assert wide["x3"].rank_error == pytest.approx(math.sqrt(math.log(200) / (2 * 6_553)))
    assert profile({f"x{number}": np.arange(5_000.0) for number in range(20)}).accuracy == "All figures are exact."


def test_without_numbers_nothing_is_sampled() -> None:
    report = profile({"name": ["a", "b"] * 75_000})
    assert report.accuracy == "All figures are exact."
    sampled = profile({"name": ["a", "b"] * 75_000, "x": [0.0, 1.0] * 75_000}, target="name")
    assert codes(sampled) == {("x", "leakage")}
    assert sampled.num_sampled == 100_000


def test_a_dask_series_is_refused() -> None:
    with pytest.raises(SourceError, match="Series is no table that dtk reads"):
        profile(dd.from_pandas(pd.Series([1.0, 2.0], name="x"), npartitions=2))
