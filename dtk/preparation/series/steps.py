"""Differences, lags and rolling statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from dtk.errors import ArgumentError, DataError
from dtk.preparation.frames import is_lazy
from dtk.preparation.series.base import SeriesTransform, grouped

__all__ = ["Differencing", "Lags", "RollingStatistics"]

_STATISTICS: Final = ("mean", "std", "min", "max", "sum", "median")


class Differencing(SeriesTransform):
    """Replace values by how much they changed.

    Parameters
    ----------
    order : int
        How often the difference to the row before is taken.
    period : int, optional
        First, the difference to the row so many before it: a season.
    by : str or sequence of str, optional
        Columns that tell series apart.
    time : str, optional
        The column that orders the rows of a series; needed with `by` on Dask.
    columns : sequence of str, optional
        Which; all of numbers by default, but `by` and `time`.

    Attributes
    ----------
    columns_ : list of str
        The columns that are changed.

    Notes
    -----
    The first ``order + period`` rows of each series are NaN. Equal to ``groupby(by)[column].diff(period).diff()``.

    Examples
    --------
    >>> data = pd.DataFrame({"x": [1.0, 4.0, 9.0]})
    >>> step = Differencing().fit(data)
    >>> changes = step.transform(data)
    >>> changes["x"].tolist(), step.inverse_transform(changes[1:], last=data[:1])["x"].tolist()
    ([nan, 3.0, 5.0], [4.0, 9.0])
    """

    def __init__(
        self,
        order: int = 1,
        *,
        period: int | None = None,
        by: str | Sequence[str] | None = None,
        time: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        self.order = order
        self.period = period
        self.by = by
        self.time = time
        self.columns = columns

    def _check(self) -> None:
        if self.order < 0 or (self.period is not None and self.period < 1) or not self._num_before:
            raise ArgumentError(
                f"order={self.order!r} and period={self.period!r} must be whole numbers, one of them from 1"
            )

    @property
    def _num_before(self) -> int:
        return self.order + (self.period or 0)

    def _of_series(self, values: pd.DataFrame, keys: list[pd.Series[Any]]) -> pd.DataFrame:
        for lag in [self.period] * bool(self.period) + [1] * self.order:
            values = values - grouped(values, keys).shift(lag)
        return values

    def inverse_transform(self, data: pd.DataFrame, *, last: pd.DataFrame) -> pd.DataFrame:
        """Sum up differences again, such as a forecast of them.

        Parameters
        ----------
        data : pandas.DataFrame
            Differences that follow on `last`, with the columns `by`, in the order of `time`.
        last : pandas.DataFrame
            The values before them: at least the last ``order + period`` rows of each series that `data` has.

        Returns
        -------
        pandas.DataFrame
            `data` with values in place of differences.

        Raises
        ------
        NotFittedError
            If there was no fit.
        ArgumentError
            If `data` or `last` is not in memory.
        DataError
            If a series has not enough rows in `last`.
        """
        check_is_fitted(self)
        if is_lazy(data) or is_lazy(last):
            raise ArgumentError("data and last are sums over all rows before; compute() them first")
        names = [name for name in self.columns_ if name in data.columns]
        before = dict(self._series(last))
        parts = []
        for key, rows in self._series(data):
            start = before.get(key, last.iloc[:0])[names].tail(self._num_before).to_numpy(np.float64)
            if len(start) < self._num_before:
                raise DataError(f"last has {len(start)} rows of series {key!r}; give the last {self._num_before}")
            summed = self._summed(rows[names].to_numpy(np.float64), start)
            parts.append(pd.DataFrame(summed, index=rows["_row"], columns=names))
        found = pd.concat(parts).sort_index().set_axis(data.index, axis=0) if parts else data[names]
        return data.assign(**{name: found[name] for name in names})

    def _series(self, data: pd.DataFrame) -> list[tuple[Any, pd.DataFrame]]:
        """Split rows by series, in order of time."""
        rows = data.reset_index(drop=True).assign(_row=np.arange(len(data)))
        rows = rows if self.time is None else rows.sort_values(self.time, kind="stable")
        if not self._by:
            return [((), rows)]
        return list(rows.groupby(self._by, sort=False, dropna=False, observed=True))

    def _summed(self, differences: np.ndarray, start: np.ndarray) -> np.ndarray:
        period = self.period or 0
        levels = [start[period:] - start[:-period] if period else start]
        for _ in range(self.order):
            levels.append(np.diff(levels[-1], axis=0))
        found = differences
        for level in reversed(levels[: self.order]):
            found = level[-1] + np.cumsum(found, axis=0)
        if period:
            found = found.copy()
            for phase in range(min(period, len(found))):
                found[phase::period] = start[len(start) - period + phase] + np.cumsum(found[phase::period], axis=0)
        return found


class Lags(SeriesTransform):
    """Add what a value was some rows before, as columns such as ``"load_lag24"``.

    Parameters
    ----------
    lags : sequence of int
        How many rows before, from 1 on.
    by : str or sequence of str, optional
        Columns that tell series apart.
    time : str, optional
        The column that orders the rows of a series; needed with `by` on Dask.
    columns : sequence of str, optional
        Which; all of numbers by default, but `by` and `time`.

    Attributes
    ----------
    columns_ : list of str
        The columns that are looked at.

    Notes
    -----
    Equal to ``groupby(by)[column].shift(lag)`` in float64.

    Examples
    --------
    >>> Lags([1]).fit_transform(pd.DataFrame({"x": [1, 4, 9]}))["x_lag1"].tolist()
    [nan, 1.0, 4.0]
    """

    def __init__(
        self,
        lags: Sequence[int] = (1,),
        *,
        by: str | Sequence[str] | None = None,
        time: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        self.lags = lags
        self.by = by
        self.time = time
        self.columns = columns

    def _check(self) -> None:
        if not len(self.lags) or min(self.lags) < 1:
            raise ArgumentError(f"lags={self.lags!r} must be whole numbers from 1 on: a row may look at the past alone")
        _refuse_repeated("lags", self.lags)

    @property
    def _num_before(self) -> int:
        return max(self.lags)

    def _of_series(self, values: pd.DataFrame, keys: list[pd.Series[Any]]) -> pd.DataFrame:
        series = grouped(values, keys)
        found: pd.DataFrame = pd.concat([series.shift(lag).add_suffix(f"_lag{lag}") for lag in self.lags], axis=1)
        return found


class RollingStatistics(SeriesTransform):
    """Add statistics of the last rows, as columns such as ``"load_mean24"``.

    Parameters
    ----------
    windows : sequence of int
        How many rows, the row itself among them.
    statistics : sequence of str
        Of ``"mean"``, ``"std"``, ``"min"``, ``"max"``, ``"sum"`` and ``"median"``.
    min_periods : int, optional
        How many values a window must have; all of its rows by default.
    by : str or sequence of str, optional
        Columns that tell series apart.
    time : str, optional
        The column that orders the rows of a series; needed with `by` on Dask.
    columns : sequence of str, optional
        Which; all of numbers by default, but `by` and `time`.

    Attributes
    ----------
    columns_ : list of str
        The columns that are looked at.

    Notes
    -----
    Equal to ``groupby(by)[column].rolling(window).mean()`` and so on. A forecast that must not see the row itself takes
    `Lags` of these.

    Examples
    --------
    >>> RollingStatistics([2], ["max"]).fit_transform(pd.DataFrame({"x": [1, 4, 2]}))["x_max2"].tolist()
    [nan, 4.0, 4.0]
    """

    def __init__(
        self,
        windows: Sequence[int] = (7,),
        statistics: Sequence[str] = ("mean", "std"),
        *,
        min_periods: int | None = None,
        by: str | Sequence[str] | None = None,
        time: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        self.windows = windows
        self.statistics = statistics
        self.min_periods = min_periods
        self.by = by
        self.time = time
        self.columns = columns

    def _check(self) -> None:
        if not len(self.windows) or min(self.windows) < 1:
            raise ArgumentError(f"windows={self.windows!r} must be whole numbers from 1 on")
        unknown = [name for name in self.statistics if name not in _STATISTICS]
        if unknown or not len(self.statistics):
            raise ArgumentError(f"statistics={self.statistics!r} must be some of {_STATISTICS}")
        _refuse_repeated("windows", self.windows)
        _refuse_repeated("statistics", self.statistics)
        if self.min_periods is not None and not 0 <= self.min_periods <= min(self.windows):
            raise ArgumentError(f"min_periods={self.min_periods!r} must be from 0 to the shortest of {self.windows!r}")

    @property
    def _num_before(self) -> int:
        return max(self.windows) - 1

    def _of_series(self, values: pd.DataFrame, keys: list[pd.Series[Any]]) -> pd.DataFrame:
        found = []
        for window in self.windows:
            rolling = grouped(values, keys).rolling(window, min_periods=self.min_periods)
            found += [getattr(rolling, name)().add_suffix(f"_{name}{window}") for name in self.statistics]
        together = pd.concat(found, axis=1)
        of_rows: pd.DataFrame = together.droplevel(list(range(len(keys)))) if keys else together
        return of_rows


def _refuse_repeated(argument: str, values: Sequence[Any]) -> None:
    if len(set(values)) < len(values):
        raise ArgumentError(f"{argument}={values!r} names one of them twice; name each once")
