"""Transforms of series in tables: each row looks at the rows of its series before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from dtk.errors import ArgumentError, DataError
from dtk.preparation.frames import FrameTransform, check_columns, is_lazy, number_columns

__all__ = ["SeriesTransform", "grouped"]


class SeriesTransform(FrameTransform):
    """A transform of rows that come one after the other.

    Without `by` the rows are one series, in their order: of Dask's, the index must be sorted with known divisions, as
    ``set_index("time", sorted=True)`` leaves it, and rows are taken over from the partition before, which must have as
    many. With `by` each value of these columns is a series of its own; on Dask its rows are brought to one partition by
    a shuffle, and sorted by `time`.
    """

    by: str | Sequence[str] | None
    time: str | None
    columns: Sequence[str] | None

    def _check(self) -> None:
        """Refuse parameters."""

    @property
    def _num_before(self) -> int:
        """How many rows of its series before it a row looks at."""
        raise NotImplementedError

    def _of_series(self, values: pd.DataFrame, keys: list[pd.Series[Any]]) -> pd.DataFrame:
        """Compute new columns of float64 from those of series in order, which the keys tell apart."""
        raise NotImplementedError

    def _fit(self, data: Any) -> None:
        self._check()
        by = self._by
        check_columns("by", by, data)
        if self.time is not None:
            check_columns("time", [self.time], data)
        if is_lazy(data):
            self._check_order(data)
        self.columns_ = number_columns(self.columns, data, leave_out=[*by, *([self.time] if self.time else [])])

    @property
    def _by(self) -> list[str]:
        return [] if self.by is None else [self.by] if isinstance(self.by, str) else [*self.by]

    def _check_order(self, data: Any) -> None:
        if self._by and self.time is None:
            raise ArgumentError(
                f"time=None leaves open in which order the rows of a series come, as by={self.by!r} brings them "
                "together from all partitions; name the column of times"
            )
        if not self._by and self.time is not None:
            raise ArgumentError(
                f"time={self.time!r} is a column, and partitions follow the index; call "
                f"data.set_index({self.time!r}) first, and leave time= out"
            )
        if not self._by and not data.known_divisions:
            raise DataError(
                "the order of the partitions is not known; make the time their index with data.set_index(..., "
                "sorted=True), or data.set_index(...) if the rows are in no order"
            )

    def _apply(self, data: Any) -> Any:
        if not is_lazy(data):
            return self._transformed(data)
        self._check_order(data)
        meta = self._transformed(data._meta)
        if self._by:
            return data.shuffle(on=self._by).map_partitions(self._transformed, meta=meta)
        return data.map_overlap(self._transformed, self._num_before, 0, meta=meta)

    def _transformed(self, data: pd.DataFrame) -> pd.DataFrame:
        """Add the new columns; rows are sorted by time where it is named, for the computation alone."""
        ordered = data.reset_index(drop=True)
        if self.time is not None:
            ordered = ordered.sort_values(self.time, kind="stable")
        found = self._of_series(ordered[self.columns_].astype("float64"), [ordered[name] for name in self._by])
        found = found.sort_index().set_axis(data.index, axis=0)
        return data.assign(**found)


def grouped(values: pd.DataFrame, keys: list[pd.Series[Any]]) -> Any:
    """Group rows by series.

    Parameters
    ----------
    values : pandas.DataFrame
        Rows of series in order.
    keys : list of pandas.Series
        What tells them apart; none for one series.

    Returns
    -------
    pandas.DataFrame or DataFrameGroupBy
        The values themselves where they are one series.
    """
    return values.groupby(keys, sort=False, dropna=False, observed=True) if keys else values
