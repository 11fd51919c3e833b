"""What leaves rows out or repairs types equals pandas, lazily, and however the data is cut."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from dtk.errors import ArgumentError, DataError, SourceError
from dtk.preparation.frames import FrameTransform
from dtk.preparation.rows import DropDuplicates, FilterRows, Outliers, TypeRepair
from dtk.sources import as_source


def refuse(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("something was computed")


def in_partitions(frame: pd.DataFrame, stops: list[int]) -> dd.DataFrame:
    """Cut a frame into lazy partitions, some of which may be empty."""
    edges = [0, *sorted(stops), len(frame)]
    pieces = [frame.iloc[start:stop] for start, stop in pairwise(edges)]
    return dd.from_map(lambda piece: piece, pieces, meta=frame.iloc[:0])


def frame(num_rows: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x": np.where(rng.random(num_rows) < 0.1, np.nan, rng.standard_t(2, num_rows)),
            "n": rng.integers(0, 100, num_rows).astype(np.int16),
            "key": rng.integers(0, 40, num_rows),
            "name": rng.choice(["UA", "AA", "ü"], num_rows),
        }
    )


def assert_alike(transform: FrameTransform, data: pd.DataFrame, *, ordered: bool = True) -> pd.DataFrame:
    """Check Dask, laziness, JSON and clones; return what comes out of pandas."""
    expected: pd.DataFrame = transform.fit_transform(data)
    lazy = in_partitions(data, [0, len(data) // 3, len(data) // 3])
    again = clone(transform).fit(lazy)
    with dask.config.set(scheduler=refuse):
        found = transform.transform(lazy)
    text = {"string": "str"}
    kinds = {name: text.get(str(dtype), str(dtype)) for name, dtype in found.dtypes.items()}
    assert kinds == {name: str(dtype) for name, dtype in expected.dtypes.items()}
    for one in (found, again.transform(lazy)):
        computed = one.compute(scheduler="synchronous").astype(dict(expected.dtypes))
        computed = computed if ordered else computed.sort_index()
        pd.testing.assert_frame_equal(computed, expected, rtol=1e-9)
    rebuilt = type(transform).from_dict(json.loads(json.dumps(transform.to_dict())))
    pd.testing.assert_frame_equal(rebuilt.transform(data), expected)
    return expected


@pytest.mark.parametrize("columns", [None, ["key"], ["key", "name"]])
@pytest.mark.parametrize("keep", ["first", "last"])
def test_duplicates_are_pandas(columns: list[str] | None, keep: Any) -> None:
    data = pd.concat([frame(60), frame(60)], ignore_index=True)
    found = assert_alike(DropDuplicates(columns, keep=keep), data, ordered=False)
    pd.testing.assert_frame_equal(found, data.drop_duplicates(subset=columns, keep=keep))


def test_filter_is_pandas_and_read_in_place(tmp_path: Path) -> None:
    data = frame()
    rule = FilterRows("x > 0 and name in ['UA', 'ü']")
    found = assert_alike(rule, data)
    pd.testing.assert_frame_equal(found, data.query("x > 0 and name in ['UA', 'ü']"))
    data.to_parquet(tmp_path / "a.parquet", row_group_size=50)
    source = as_source(rule.transform(dd.read_parquet(tmp_path / "a.parquet")))
    rows = pd.concat([source.read(chunk).to_pandas() for chunk in range(source.num_chunks)])
    assert rows["n"].tolist() == found["n"].tolist()


@pytest.mark.parametrize("method", ["zscore", "iqr", "quantile"])
@pytest.mark.parametrize("action", ["drop", "clip", "missing"])
def test_outliers_are_those_of_pandas(method: Any, action: Any, tmp_path: Path) -> None:
    data = frame()
    data.loc[3, "n"] = 2000
    rule = Outliers(method, action=action, columns=["x", "n"])
    found = assert_alike(rule, data)
    for name in ("x", "n"):
        low, high = data[name].quantile([0.25, 0.75])
        bounds = {
            "zscore": (data[name].mean() - 3 * data[name].std(ddof=0), data[name].mean() + 3 * data[name].std(ddof=0)),
            "iqr": (low - 1.5 * (high - low), high + 1.5 * (high - low)),
            "quantile": tuple(data[name].quantile([0.01, 0.99])),
        }[method]
        np.testing.assert_allclose((rule.lower_[name], rule.upper_[name]), bounds, rtol=1e-9)
    inside = {name: data[name].between(rule.lower_[name], rule.upper_[name]) for name in ("x", "n")}
    assert not inside["n"][3]
    if action == "drop":
        pd.testing.assert_frame_equal(found, data[(inside["x"] | data["x"].isna()) & inside["n"]])
    elif action == "missing":
        pd.testing.assert_series_equal(found["n"], data["n"].astype(float).where(inside["n"]))
    else:
        assert found["n"].dtype == np.int16
        np.testing.assert_allclose(found["x"], data["x"].clip(rule.lower_["x"], rule.upper_["x"]))
        assert found["n"].between(rule.lower_["n"], rule.upper_["n"]).all()
    pd.testing.assert_frame_equal(found[["name", "key"]], data.loc[found.index, ["name", "key"]])
    data.to_parquet(tmp_path / "a.parquet", row_group_size=50)
    source = as_source(rule.transform(dd.read_parquet(tmp_path / "a.parquet")))
    assert sum(source.read(chunk).num_rows for chunk in range(source.num_chunks)) == len(found)


def test_types_are_repaired() -> None:
    data = pd.DataFrame(
        {
            "price": ["1,200.5 EUR", " -7 EUR", "3e2", None, "8 USD", "1,20"],
            "share": ["12 %", "7.5%", ".5 %", "1 %", "", "0 %"],
            "paid": ["yes", "No", None, "Y", "maybe", " f "],
            "when": ["2024-01-31", "2024-02-30", "2024-03-31T10:00:00+02:00", None, "2024-04-01 05:06", "soon"],
            "day": ["31.01.2024", "1.2.2024", "29.02.2024", "30.02.2024", None, None],
            "text": ["a", "b", "1", "2", "yes", "c"],
            "n": range(6),
        }
    )
    repair = TypeRepair(min_share=0.6)
    found = assert_alike(repair, data)
    assert found["price"].fillna(-1).tolist() == [1200.5, -7, 300, -1, -1, -1]
    assert repair.report_["price"] == {
        "kind": "number", "count": 5, "missing": 1, "unread": 2, "examples": ["1,20", "8 USD"], "unit": "EUR",
    }  # fmt: skip
    assert found["share"].fillna(-1).tolist() == [12, 7.5, 0.5, 1, -1, 0]
    assert found["paid"].tolist() == [True, False, pd.NA, True, pd.NA, False]
    assert repair.report_["paid"]["examples"] == ["maybe"]
    times = ["2024-01-31", None, "2024-03-31 08:00", None, "2024-04-01 05:06", None]
    assert found["when"].tolist() == pd.to_datetime(pd.Series(times), format="ISO8601").tolist()
    assert repair.report_["when"]["examples"] == ["2024-02-30", "soon"]
    assert repair.report_["day"]["format"] == "%d.%m.%Y"
    assert repair.report_["day"]["unread"] == 1
    assert repair.report_["text"]["kind"] is None
    pd.testing.assert_frame_equal(found[["text", "n"]], data[["text", "n"]])


def test_separators_and_kinds_are_chosen() -> None:
    data = pd.DataFrame({"x": ["1.234,5", "2,5", "x"], "y": ["1", "2", "3"]})
    found = assert_alike(TypeRepair({"x": "number"}, decimal=",", thousands="."), data)
    assert found["x"].fillna(0).tolist() == [1234.5, 2.5, 0]
    assert found["y"].tolist() == ["1", "2", "3"]


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.sampled_from(["1 km", "2 m", "3", "yes", "no", "x", "z", "2024-01-01", None, "4 km"]),
        min_size=1,
        max_size=30,
    ),
    st.lists(st.integers(0, 30), max_size=3),
)
def test_the_report_does_not_depend_on_partitions(values: list[str | None], cuts: list[int]) -> None:
    data = pd.DataFrame({"x": pd.Series(values, dtype="str")})
    expected = TypeRepair(min_share=0.3).fit(data).report_
    with dask.config.set(scheduler="synchronous"):
        lazy = in_partitions(data, [min(cut, len(data)) for cut in cuts])
        assert TypeRepair(min_share=0.3).fit(lazy).report_ == expected


def test_what_cannot_work_is_refused() -> None:
    data = frame()
    with pytest.raises(SourceError, match="is no DataFrame"):
        DropDuplicates().fit(data.to_numpy())
    with pytest.raises(ArgumentError, match="'nme' is no column; did you mean 'name'"):
        DropDuplicates(["nme"]).fit(data)
    with pytest.raises(ArgumentError, match="keep=False"):
        DropDuplicates(keep=False).fit(data)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="where='y > 1'"):
        FilterRows("y > 1").fit(data)
    with pytest.raises(ArgumentError, match="not true or false"):
        FilterRows("n + 1").fit(data)
    with pytest.raises(DataError, match="column 'x' of the fit is missing"):
        FilterRows("n > 1").fit(data).transform(data.drop(columns="x"))
    with pytest.raises(ArgumentError, match="method='mad'"):
        Outliers("mad").fit(data)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"threshold=0.5 must be at least 0 and less than 0.5"):
        Outliers("quantile", threshold=0.5).fit(data)
    with pytest.raises(DataError, match="column 'name' holds"):
        Outliers(columns=["name"]).fit(data)
    with pytest.raises(ArgumentError, match="decimal='.' and thousands='.' must differ"):
        TypeRepair(thousands=".").fit(data)
    with pytest.raises(ArgumentError, match="must be one of"):
        TypeRepair({"name": "text"}).fit(data)
    with pytest.raises(DataError, match="and not of 'FilterRows'"):
        FilterRows.from_dict({"as": "Outliers"})


@pytest.mark.parametrize("method", ["zscore", "iqr", "quantile"])
def test_infinite_values_are_outliers_that_do_not_count(method: Any) -> None:
    data = pd.DataFrame({"x": [*range(40), np.inf, np.inf, -np.inf, np.nan]})
    rule, plain = Outliers(method).fit(data), Outliers(method).fit(data[:40])
    assert (rule.lower_, rule.upper_) == (plain.lower_, plain.upper_)
    pd.testing.assert_frame_equal(rule.transform(data)[:-1], plain.transform(data[:40]))
    assert np.isnan(rule.transform(data)["x"].iloc[-1])


def test_columns_that_cannot_be_repaired_are_refused() -> None:
    data = pd.DataFrame({"day": [20240101], "price": [1.5]})
    with pytest.raises(DataError, match="column 'day' holds int64, no text; leave it out of columns=, or cast it"):
        TypeRepair({"day": "date"}).fit(data)
    assert TypeRepair({"price": "number"}).fit_transform(data)["price"].tolist() == [1.5]
