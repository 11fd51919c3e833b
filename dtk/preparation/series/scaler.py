"""Scaling of each series by itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.utils.validation import check_is_fitted

from dtk.errors import ArgumentError, DataError
from dtk.preparation.frames import FrameTransform, check_columns, is_lazy, number_columns
from dtk.preparation.values import check_type
from dtk.sources import schema_of
from dtk.statistics import infer_kind, scan

__all__ = ["GroupScaler"]


class GroupScaler(FrameTransform):
    """Shift and scale columns by the mean and the standard deviation of their own series.

    Parameters
    ----------
    by : str
        The column that tells series apart.
    with_mean : bool
        Whether to shift.
    with_std : bool
        Whether to divide; a constant series is only shifted.
    max_groups : int
        How many series there may be: more are refused, and none is left out silently.
    columns : sequence of str, optional
        Which; all of numbers by default, but `by`.

    Attributes
    ----------
    groups_ : list
        The series that were seen.
    columns_ : list of str
        The columns that are scaled.
    mean_, scale_ : numpy.ndarray
        float64 [groups, columns]. The deviation is that of the population.

    Notes
    -----
    The fit is one scan, in any order of rows. Missing values stay missing. Rows of a series that the fit did not see,
    or that had no values, become NaN.

    Examples
    --------
    >>> data = pd.DataFrame({"key": ["a", "a", "b", "b"], "x": [1.0, 3.0, 10.0, 30.0]})
    >>> GroupScaler("key").fit_transform(data)["x"].tolist()
    [-1.0, 1.0, -1.0, 1.0]
    """

    def __init__(
        self,
        by: str,
        *,
        with_mean: bool = True,
        with_std: bool = True,
        max_groups: int = 100_000,
        columns: Sequence[str] | None = None,
    ) -> None:
        self.by = by
        self.with_mean = with_mean
        self.with_std = with_std
        self.max_groups = max_groups
        self.columns = columns

    def _fit(self, data: Any) -> None:
        check_columns("by", [self.by], data)
        found = schema_of(data[[self.by]]).field(self.by).type
        check_type(self.by, found, "category")
        if infer_kind(found) == "date":
            raise DataError(
                f"column {self.by!r} holds {found}, and series are told apart by text, numbers or booleans; cast it "
                f"with data.astype({{{self.by!r}: 'str'}})"
            )
        if self.max_groups < 1:
            raise ArgumentError(f"max_groups={self.max_groups!r} must be at least 1")
        columns = number_columns(self.columns, data, leave_out=[self.by])
        make = partial(_GroupMoments, self.by, columns, self.max_groups)
        count, mean, squares = scan(data, make, columns=[self.by, *columns], label="fit").sums()
        self.columns_ = columns
        self.groups_ = count.index.tolist()
        self.mean_ = mean.to_numpy(np.float64)
        spread = np.sqrt((squares / count.where(count > 0)).to_numpy(np.float64))
        is_constant = spread <= 10 * np.finfo(np.float64).eps * np.abs(self.mean_)
        self.scale_ = np.where(is_constant, 1.0, spread)

    def _apply(self, data: Any) -> Any:
        return self._mapped(data, is_inverse=False)

    def inverse_transform(self, data: Any) -> Any:
        """Undo `transform`.

        Parameters
        ----------
        data : pandas.DataFrame or dask.dataframe.DataFrame
            With the column `by`, and some of the others.

        Returns
        -------
        pandas.DataFrame or dask.dataframe.DataFrame
            Lazy where `data` is.

        Raises
        ------
        NotFittedError
            If there was no fit.
        ArgumentError
            If the column that tells series apart is missing.
        """
        check_is_fitted(self)
        check_columns("by", [self.by], data)
        return self._mapped(data, is_inverse=True)

    def _mapped(self, data: Any, *, is_inverse: bool) -> Any:
        function = partial(self._scaled, is_inverse=is_inverse)
        return data.map_partitions(function, meta=function(data._meta)) if is_lazy(data) else function(data)

    def _scaled(self, data: pd.DataFrame, *, is_inverse: bool) -> pd.DataFrame:
        at = pd.Index(self.groups_, dtype=None if self.groups_ else data[self.by].dtype).get_indexer(data[self.by])
        found = {}
        for number, name in enumerate(self.columns_):
            if name in data.columns:
                mean = np.append(self.mean_[:, number] if self.with_mean else np.zeros(len(self.groups_)), np.nan)[at]
                scale = np.append(self.scale_[:, number] if self.with_std else np.ones(len(self.groups_)), np.nan)[at]
                values = data[name].astype("float64")
                found[name] = values * scale + mean if is_inverse else (values - mean) / scale
        return data.assign(**found)


class _GroupMoments:
    """Count, mean and the sum of squared distances from it, for each group and column."""

    def __init__(self, by: str, columns: Sequence[str], max_groups: int) -> None:
        self.by, self.columns, self.max_groups = by, list(columns), max_groups
        self.parts: list[tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]] = []

    def update(self, table: pa.Table, first_row: int) -> None:
        frame = table.to_pandas()
        values = frame[self.columns].astype("float64").replace([np.inf, -np.inf], np.nan)
        groups = values.groupby(frame[self.by], observed=True)
        count, mean = groups.count(), groups.mean()
        at = mean.index.get_indexer(frame[self.by])
        apart = (values - mean.to_numpy()[at]) if len(mean) else values
        squares = apart.pow(2).groupby(frame[self.by], observed=True).sum()
        self._take((count, mean, squares))

    def merge(self, other: Self) -> None:
        for part in other.parts:
            self._take(part)

    def sums(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """Return counts, means and squares, sorted by group."""
        count, mean, squares = (part.sort_index() for part in self.parts[0])
        return count, mean, squares

    def _take(self, part: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]) -> None:
        """Join two parts: Chan, Golub and LeVeque (1983)."""
        if self.parts and len(self.parts[0][0]):
            first = self.parts[0]
            index = first[0].index.union(part[0].index)
            (n, mean, squares), (m, other, more) = (
                [one.reindex(index, fill_value=0.0).fillna(0.0) for one in of] for of in (first, part)
            )
            total = n + m
            share = m / total.where(total > 0, 1)
            apart = other - mean
            joined = (total, mean + apart * share, squares + more + apart * apart * n * share)
            part = (total, joined[1].where(total > 0), joined[2])
        self.parts = [part]
        if len(part[0]) > self.max_groups:
            raise DataError(
                f"column {self.by!r} has more than max_groups={self.max_groups} values; pass a larger one, or group "
                "more coarsely"
            )
