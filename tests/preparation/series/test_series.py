"""Transforms of series equal pandas' groupby, shift and rolling, however the data is cut and ordered."""

from __future__ import annotations

import json
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtk.errors import ArgumentError, DataError
from dtk.preparation.frames import FrameTransform
from dtk.preparation.series import Differencing, GroupScaler, Lags, RollingStatistics


def refuse(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("something was computed")


def frame(num_rows: int = 90) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "time": pd.date_range("2024-01-01", periods=num_rows, freq="h"),
            "key": rng.choice(["a", "b", "c"], num_rows),
            "x": np.where(rng.random(num_rows) < 0.05, np.nan, rng.normal(1e6, 1, num_rows)),
            "n": rng.integers(0, 9, num_rows),
        }
    )


TRANSFORMS = [
    Differencing(),
    Differencing(2, period=3),
    Lags([1, 4]),
    RollingStatistics([3, 5], ["mean", "std", "min", "max"], min_periods=2),
]


def expected_of(step: Any, data: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Compute the same by pandas' own words."""
    series = data.groupby(by) if by else data
    found = {}
    for name in ("x", "n"):
        column = series[name]
        if isinstance(step, Differencing):
            values = data[name].astype(float)
            for lag in [step.period] * (step.period is not None) + [1] * step.order:
                values = values - (values.groupby([data[one] for one in by]) if by else values).shift(lag)
            found[name] = values
        elif isinstance(step, Lags):
            found |= {f"{name}_lag{lag}": column.shift(lag).astype(float) for lag in step.lags}
        else:
            for window in step.windows:
                rolling = column.rolling(window, min_periods=step.min_periods)
                for one in step.statistics:
                    values = getattr(rolling, one)()
                    found[f"{name}_{one}{window}"] = values.droplevel(list(range(len(by)))) if by else values
    columns = step.fit(data).transform(data[:3]).columns
    return data.assign(**found)[list(columns)]


def round_trip(step: FrameTransform) -> FrameTransform:
    return type(step).from_dict(json.loads(json.dumps(step.to_dict())))


@pytest.mark.parametrize("step", TRANSFORMS, ids=str)
def test_groups_equal_pandas_in_any_order(step: Any) -> None:
    data = frame()
    step = type(step)(**step.get_params() | {"by": "key", "time": "time"})
    expected = expected_of(step, data, ["key"])
    pd.testing.assert_frame_equal(step.fit_transform(data), expected, atol=1e-6)
    mixed = data.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(round_trip(step).transform(mixed).sort_index(), expected, atol=1e-6)
    for npartitions in (1, 4, 30):
        lazy = dd.from_pandas(mixed, npartitions=npartitions, sort=False)
        with dask.config.set(scheduler=refuse):
            found = step.fit(lazy).transform(lazy)
        computed = found.compute(scheduler="synchronous").sort_index().astype(dict(expected.dtypes))
        pd.testing.assert_frame_equal(computed, expected, atol=1e-6)


@pytest.mark.parametrize("step", TRANSFORMS, ids=str)
def test_one_series_equals_pandas_across_partitions(step: Any) -> None:
    data = frame().set_index("time").drop(columns="key")
    expected = expected_of(step, data, [])
    pd.testing.assert_frame_equal(step.fit_transform(data), expected, check_freq=False, atol=1e-6)
    for npartitions in (1, 3, 9):
        lazy = dd.from_pandas(data, npartitions=npartitions)
        with dask.config.set(scheduler=refuse):
            found = step.fit(lazy).transform(lazy)
        pd.testing.assert_frame_equal(found.compute(scheduler="synchronous"), expected, check_freq=False, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 3), st.one_of(st.none(), st.integers(1, 5)), st.integers(1, 12), st.booleans())
def test_differences_are_summed_up_again(order: int, period: int | None, num_ahead: int, grouped: bool) -> None:
    if not order and period is None:
        order = 1
    data = frame(60).fillna(1e6).assign(key=np.arange(60) % 2)
    step = Differencing(order, period=period, by="key" if grouped else None, time="time", columns=["x", "n"]).fit(data)
    ahead = step.transform(data)[-num_ahead:].sample(frac=1, random_state=1)
    found = step.inverse_transform(ahead, last=data[:-num_ahead].sample(frac=1, random_state=2))
    np.testing.assert_allclose(found[["x", "n"]], data.loc[ahead.index, ["x", "n"]], rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("npartitions", [0, 1, 7])
@pytest.mark.parametrize("with_std", [True, False])
def test_group_scaler_equals_pandas(npartitions: int, with_std: bool) -> None:
    data = frame()
    data.loc[data["key"] == "c", "n"] = 4
    groups = data.groupby("key")[["x", "n"]]
    spread = groups.transform("std", ddof=0).where(data["key"] != "c", groups.transform("std", ddof=0).assign(n=1.0))
    expected = (data[["x", "n"]] - groups.transform("mean")) / (spread if with_std else 1)
    lazy = dd.from_pandas(data, npartitions=npartitions) if npartitions else data
    scaler = GroupScaler("key", with_std=with_std).fit(lazy)
    again = round_trip(scaler)
    with dask.config.set(scheduler=refuse):
        found = again.transform(lazy)
        back = again.inverse_transform(found)
    if npartitions:
        found, back = found.compute(scheduler="synchronous"), back.compute(scheduler="synchronous")
    np.testing.assert_allclose(found[["x", "n"]], expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(back[["x", "n"]], data[["x", "n"]], rtol=1e-12, atol=1e-12)
    unseen = again.transform(data.assign(key="new"))
    assert unseen["x"].isna().all()


def test_what_cannot_work_is_refused() -> None:
    data = frame()
    lazy = dd.from_pandas(data, npartitions=3, sort=False)
    with pytest.raises(DataError, match=r"order of the partitions is not known; make the time their index"):
        Lags().fit(lazy.clear_divisions())
    with pytest.raises(ArgumentError, match=r"time='time' is a column, and partitions follow the index"):
        Lags(time="time").fit(lazy)
    with pytest.raises(ArgumentError, match=r"time=None leaves open"):
        Lags(by="key").fit(lazy)
    with pytest.raises(ArgumentError, match=r"lags=\[0\]"):
        Lags([0]).fit(data)
    with pytest.raises(ArgumentError, match="order=0 and period=None"):
        Differencing(0).fit(data)
    with pytest.raises(ArgumentError, match="statistics="):
        RollingStatistics([3], ["mode"]).fit(data)
    with pytest.raises(ArgumentError, match="'ky' is no column"):
        Lags(by="ky").fit(data)
    with pytest.raises(DataError, match="more than max_groups=2 values"):
        GroupScaler("key", max_groups=2).fit(data)
    for step in (Lags([1, 2, 1]), RollingStatistics([3, 3]), RollingStatistics([3], ["mean", "mean"])):
        with pytest.raises(ArgumentError, match=r"(lags|windows|statistics)=\[.*\] names one of them twice"):
            step.fit(data)
    with pytest.raises(DataError, match="column 'time' holds timestamp.*told apart by text, numbers or booleans"):
        GroupScaler("time").fit(data)
    for transform in (Differencing(), GroupScaler("key")):
        with pytest.raises(
            DataError, match=r"column 0 has a name that is no text; rename all with data.columns.astype"
        ):
            transform.fit(data.rename(columns={"x": 0}))
    step = Differencing(by="key", columns=["x"]).fit(data)
    with pytest.raises(DataError, match="last has 0 rows of series"):
        step.inverse_transform(data, last=data[:0])


@pytest.mark.parametrize("npartitions", [1, 3])
def test_groups_may_be_booleans(npartitions: int) -> None:
    data = pd.DataFrame({"key": [True, False, True, False], "x": [1.0, 10.0, 3.0, 30.0]})
    scaler = GroupScaler("key").fit(dd.from_pandas(data, npartitions=npartitions))
    assert scaler.groups_ == [False, True]
    assert scaler.transform(data)["x"].tolist() == [-1.0, -1.0, 1.0, 1.0]
