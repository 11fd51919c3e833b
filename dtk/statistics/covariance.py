"""Means, covariances and correlations of the columns of a table, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa

from dtk.errors import ArgumentError
from dtk.statistics.kinds import to_floats
from dtk.statistics.serial import array_from_json, array_to_json

__all__ = ["Covariance"]

_BLOCK_VALUES: Final = 2**18  # of all columns together
_ROUNDING: Final = 16 * np.finfo(np.float64).eps
_SUMS: Final = ("count", "mean", "squares", "products")


class Covariance:
    """How the columns of a table vary together.

    Each pair of columns counts the rows in which both have a value, as `pandas.DataFrame.cov` and ``corr`` do: without
    missing values these are all rows. Dates, times and booleans are numbers, as in `dtk.statistics.Moments`.

    Parameters
    ----------
    columns : sequence of str
        The columns, in order.

    Attributes
    ----------
    columns : tuple of str
        As given.

    Raises
    ------
    ArgumentError
        If there are no columns, or one is given twice.

    Notes
    -----
    Holds 32 bytes for each pair of columns. Parts merge by the method of Chan, Golub and LeVeque (1979), which keeps
    its digits where means are much larger than spreads. A column with infinite values has no mean and no covariances:
    they are NaN.

    Examples
    --------
    >>> covariance = Covariance(["x", "y"])
    >>> covariance.update(pa.table({"x": [1.0, 2.0, 3.0], "y": [2.0, 4.0, 6.0]}))
    >>> covariance.correlation().round(6).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """

    def __init__(self, columns: Sequence[str]) -> None:
        if not columns or len(set(columns)) < len(columns):
            raise ArgumentError(f"columns={list(columns)!r} must name each column once, and at least one")
        self.columns = tuple(columns)
        shape = (len(columns), len(columns))
        # of each pair: rows with both; of these the mean of the first, and the sums of its squared distances from that
        # mean and of the products of both distances
        self._count = np.zeros(shape, np.int64)
        self._mean = np.zeros(shape)
        self._squares = np.zeros(shape)
        self._products = np.zeros(shape)

    def update(self, values: pa.Table, row: np.ndarray | None = None) -> None:
        """Take in some rows.

        Parameters
        ----------
        values : pyarrow.Table
            With the columns, and others that are not read.
        row : numpy.ndarray, optional
            Not used.

        Raises
        ------
        ArgumentError
            If a column is not there.
        DataError
            If the type of a column has no meaning as a number.
        """
        from dtk.sources.columns import checked_columns  # late: sources need pandas and Dask

        names = checked_columns(self.columns, values.column_names)
        size = max(1, _BLOCK_VALUES // len(names))
        for start in range(0, values.num_rows, size):
            part = values.slice(start, size)
            with np.errstate(invalid="ignore", over="ignore"):
                self._add(np.stack([to_floats(part[name]) for name in names]))

    def _add(self, floats: np.ndarray) -> None:
        """Take in ``[columns, rows]``, which is overwritten."""
        present = ~np.isnan(floats)
        counts = np.count_nonzero(present, axis=1)
        is_whole = counts.min() == floats.shape[1]
        if not is_whole:
            floats[~present] = 0.0
        center = np.add.reduce(floats, axis=1) / np.maximum(counts, 1)
        floats -= center[:, np.newaxis]
        if is_whole:
            products = floats @ floats.T
            shape = products.shape
            squares = np.broadcast_to(products.diagonal()[:, np.newaxis], shape)
            self._combine(np.full(shape, counts[0]), np.broadcast_to(center[:, np.newaxis], shape), squares, products)
            return
        floats *= present
        mask = present.astype(np.float64).T
        count = mask.T @ mask
        some = np.maximum(count, 1)
        sums = floats @ mask
        products = floats @ floats.T - sums * sums.T / some
        squares = np.maximum(np.square(floats) @ mask - sums * sums / some, 0.0)
        self._combine(count.astype(np.int64), center[:, np.newaxis] + sums / some, squares, products)

    def _combine(self, count: np.ndarray, mean: np.ndarray, squares: np.ndarray, products: np.ndarray) -> None:
        total = self._count + count
        there = count / np.maximum(total, 1)
        delta = np.where(self._count, mean - self._mean, 0.0)
        weight = self._count * there
        self._mean = np.where(self._count, self._mean + delta * there, np.where(count, mean, 0.0))
        self._squares = self._squares + squares + weight * delta * delta
        self._products = self._products + products + weight * delta * delta.T
        self._count = total

    def merge(self, other: Self) -> None:
        """Take in what another object has seen.

        Parameters
        ----------
        other : Covariance
            Left as it is; of the same columns.

        Raises
        ------
        ArgumentError
            If the columns differ.
        """
        if other.columns != self.columns:
            raise ArgumentError(f"other has columns {other.columns} where this has {self.columns}; give both the same")
        with np.errstate(invalid="ignore", over="ignore"):
            self._combine(other._count, other._mean, other._squares, other._products)

    @property
    def count(self) -> np.ndarray:
        """Rows with both values: int64 [columns, columns]."""
        return self._count.copy()

    @property
    def mean(self) -> np.ndarray:
        """The mean of each column: float64 [columns]; NaN without values, and with infinite ones."""
        mean = self._mean.diagonal()
        return np.where((self._count.diagonal() > 0) & np.isfinite(mean), mean, np.nan)

    def covariance(self, ddof: int = 0) -> np.ndarray:
        """Return the covariances.

        Parameters
        ----------
        ddof : int
            What is taken off the number of rows: 0 for the population, as all of `dtk.statistics`; 1 as in pandas.

        Returns
        -------
        numpy.ndarray
            float64 [columns, columns]; NaN where a pair has no more than `ddof` rows.
        """
        return np.asarray(self._products / np.where(self._count > ddof, self._count - ddof, np.nan))

    def correlation(self) -> np.ndarray:
        """Return Pearson's correlations.

        Returns
        -------
        numpy.ndarray
            float64 [columns, columns], between -1 and 1; NaN where one of a pair is constant.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            rounding = self._count * np.square(_ROUNDING * self._mean)  # what a rounded mean leaves of a constant
            squares = np.where(self._squares > rounding, self._squares, 0.0)
            spreads = np.sqrt(squares) * np.sqrt(squares.T)
            return np.clip(self._products / np.where(spreads > 0, spreads, np.nan), -1.0, 1.0)

    def result(self) -> dict[str, np.ndarray]:
        """Return what was found, by name.

        Returns
        -------
        dict of str to numpy.ndarray
            ``count``, ``mean``, ``covariance`` (``ddof=0``) and ``correlation``.
        """
        return {
            "count": self.count,
            "mean": self.mean,
            "covariance": self.covariance(),
            "correlation": self.correlation(),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs, as plain JSON values.

        Returns
        -------
        dict
            The columns, and the sums as arrays in base64.
        """
        return {"columns": list(self.columns), **{name: array_to_json(getattr(self, f"_{name}")) for name in _SUMS}}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Rebuild an object from `to_dict`.

        Parameters
        ----------
        state : dict
            What `to_dict` returned, also after a round trip through JSON.

        Returns
        -------
        Covariance
            Equal to the first, to the last bit.
        """
        covariance = cls(state["columns"])
        for name in _SUMS:
            setattr(covariance, f"_{name}", array_from_json(state[name]))
        return covariance
