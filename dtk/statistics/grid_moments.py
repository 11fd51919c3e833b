"""Moments of arrays over some of their dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from dtk.errors import ArgumentError, DataError
from dtk.statistics.array_text import array_of_text, text_of_array
from dtk.statistics.grid_sums import GridSums, add_block

__all__ = ["GridMoments"]


class GridMoments:
    """Count, mean, variance, minimum and maximum of a variable of a grid, for each cell along the dimensions kept.

    NaN is missing. Infinite values count, as in `dtk.statistics.Moments`. All is float64, so that integers beyond 2**53
    are rounded.

    Parameters
    ----------
    sizes : mapping of str to int
        The dimensions of the variable, in their order, and their lengths. That of a dimension that is not kept is of no
        meaning.
    keep : sequence of str
        The dimensions to keep, in any order; none for one answer for the whole variable.

    Attributes
    ----------
    dims : tuple of str
        The dimensions kept, in the order of the variable: those of all results.
    shape : tuple of int
        The lengths of these.

    Raises
    ------
    ArgumentError
        If a dimension to keep is none of the variable's.

    Notes
    -----
    Holds 48 bytes a cell. Distances are counted from the smallest value that was seen first in the cell, which keeps
    their digits where the mean is much larger than the spread: "Algorithms for computing the sample variance" (Chan,
    Golub and LeVeque 1983), shifted data.

    Examples
    --------
    >>> moments = GridMoments({"time": 4, "level": 2, "x": 3}, keep=["level"])
    >>> moments.update(np.arange(24.0).reshape(4, 2, 3))
    >>> moments.dims, moments.mean.tolist(), moments.max.tolist()
    (('level',), [10.0, 13.0], [20.0, 23.0])
    """

    def __init__(self, sizes: Mapping[str, int], keep: Sequence[str] = ()) -> None:
        unknown = [dim for dim in keep if dim not in sizes]
        if unknown:
            raise ArgumentError(f"keep={list(keep)!r} names {unknown[0]!r}; the variable has {list(sizes)}")
        self.sizes = dict(sizes)
        self.dims = tuple(dim for dim in sizes if dim in keep)
        self.shape = tuple(sizes[dim] for dim in self.dims)
        self._sums = GridSums.empty(self.shape)
        self._is_close = True  # values to 0, so far

    def update(
        self, values: np.ndarray, row: np.ndarray | None = None, *, at: Mapping[str, slice] | None = None
    ) -> None:
        """Take in a block of the variable.

        Parameters
        ----------
        values : numpy.ndarray
            Numbers or booleans, with all dimensions of the variable in their order.
        row : numpy.ndarray, optional
            Not used.
        at : mapping of str to slice, optional
            Where along a dimension that is kept the block lies; all of it by default.

        Raises
        ------
        DataError
            If the block is of another shape, or holds no numbers.
        """
        where = tuple((at or {}).get(dim, slice(None)) for dim in self.dims)
        sums = self._sums.at(where)
        axes = tuple(axis for axis, dim in enumerate(self.sizes) if dim not in self.dims)
        kept = tuple(size for axis, size in enumerate(values.shape) if axis not in axes)
        if values.ndim != len(self.sizes) or kept != sums.count.shape:
            raise DataError(
                f"a block of shape {values.shape} does not fit dimensions {tuple(self.sizes)}, of which "
                f"{dict(zip(self.dims, sums.count.shape, strict=True))} are kept"
            )
        if values.dtype.kind not in "biuf":
            raise DataError(f"values of type {values.dtype} are no numbers; convert them first")
        self._is_close = add_block(sums, values, axes, is_close=self._is_close)

    def merge(self, other: Self) -> None:
        """Take in what another object has seen.

        Parameters
        ----------
        other : GridMoments
            Left as it is; of the same dimensions.

        Raises
        ------
        ArgumentError
            If the dimensions differ.
        """
        mine, others = (dict(zip(one.dims, one.shape, strict=True)) for one in (self, other))
        if mine != others:
            raise ArgumentError(f"other keeps {others} where this keeps {mine}; keep the same")
        with np.errstate(invalid="ignore", over="ignore"):
            self._sums.merge(other._sums)

    def fresh(self) -> Self:
        """Return an empty one of the same kind.

        Returns
        -------
        GridMoments
            Of the same dimensions.
        """
        return type(self)(self.sizes, self.dims)

    @property
    def count(self) -> np.ndarray:
        """How many values are present: int64, of `shape`."""
        return self._sums.count.copy()

    @property
    def mean(self) -> np.ndarray:
        """The means: float64, of `shape`; NaN without values."""
        with np.errstate(invalid="ignore"):
            return self._sums.mean()

    @property
    def variance(self) -> np.ndarray:
        """The variances of the population (``ddof=0``): float64, of `shape`; NaN without values."""
        with np.errstate(invalid="ignore"):
            return self._sums.variance()

    @property
    def std(self) -> np.ndarray:
        """The standard deviations of the population (``ddof=0``): float64, of `shape`; NaN without values."""
        return np.asarray(np.sqrt(self.variance))

    @property
    def min(self) -> np.ndarray:
        """The smallest values: float64, of `shape`; NaN without values."""
        return self._sums.low.copy()

    @property
    def max(self) -> np.ndarray:
        """The largest values: float64, of `shape`; NaN without values."""
        return self._sums.high.copy()

    def result(self) -> dict[str, np.ndarray]:
        """Return what the moments say, by name.

        Returns
        -------
        dict of str to numpy.ndarray
            ``count``, ``mean``, ``variance``, ``std``, ``min`` and ``max``, each of `shape`.
        """
        return {name: getattr(self, name) for name in ("count", "mean", "variance", "std", "min", "max")}

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs, as plain JSON values.

        Returns
        -------
        dict
            Arrays are strings: base64 of their little-endian bytes.
        """
        arrays = {name: text_of_array(array) for name, array in self._sums.arrays().items()}
        return {"sizes": self.sizes, "keep": list(self.dims), "sums": arrays}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Rebuild an object from `to_dict`.

        Parameters
        ----------
        state : dict
            What `to_dict` returned, also after a round trip through JSON.

        Returns
        -------
        GridMoments
            Equal to the first, to the last bit.
        """
        moments = cls(state["sizes"], state["keep"])
        for name, array in moments._sums.arrays().items():
            array[...] = array_of_text(state["sums"][name], array.dtype).reshape(array.shape)
        return moments
