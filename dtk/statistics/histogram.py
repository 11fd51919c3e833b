"""Counts by bins: of given edges, or of bins that grow with the range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa

from dtk.errors import ArgumentError
from dtk.statistics.kinds import to_floats

__all__ = ["Histogram"]

_BLOCK_VALUES = 32_768  # what stays in a core's cache


class Histogram:
    """How many values of a column lie in each bin.

    With `edges` it is `numpy.histogram`. Without, bins are as wide as a power of two and begin at its multiples; where
    the range grows beyond `max_bins` of them, pairs become one. Which bins those are depends on the least and the
    largest value alone, so that the counts are exact, and the same for every chunking and every order of merging.

    Parameters
    ----------
    edges : sequence of float, optional
        float64 [bins + 1], rising. A bin holds its left edge but not the right one; the last bin holds both.
    max_bins : int
        Without `edges`: most bins, at least 2; between half as many and that many come out if values differ enough.

    Attributes
    ----------
    count : int
        Values in the bins.
    missing : int
        Nulls and NaN.
    num_below, num_above : int
        Values outside the edges; without edges, those that are infinite.

    Raises
    ------
    ArgumentError
        If edges do not rise or are not finite, or `max_bins` is less than 2.

    Examples
    --------
    >>> histogram = Histogram(max_bins=4)
    >>> histogram.update(pa.array([1.0, 2.5, 2.75, None, 6.0]))
    >>> histogram.edges.tolist(), histogram.counts.tolist()
    ([0.0, 2.0, 4.0, 6.0, 8.0], [1, 2, 0, 1])
    """

    def __init__(self, edges: Sequence[float] | np.ndarray | None = None, *, max_bins: int = 1024) -> None:
        self._edges = None if edges is None else _checked_edges(edges)
        self._is_even = self._edges is not None and _is_even(self._edges)
        if max_bins < 2:
            raise ArgumentError(f"max_bins={max_bins!r} must be at least 2")
        self.max_bins = max_bins
        self.missing = 0
        self.num_below = 0
        self.num_above = 0
        self._counts = np.zeros(0 if self._edges is None else len(self._edges) - 1, np.int64)
        self._exponent = 0  # of the width, without edges
        self._first = 0  # number of the first bin: it begins at so many widths
        self._min = math.inf
        self._max = -math.inf

    def update(self, values: pa.Array | pa.ChunkedArray, row: np.ndarray | None = None) -> None:
        """Take in one chunk of a column.

        Parameters
        ----------
        values : pyarrow.Array or pyarrow.ChunkedArray
            Shape [rows]: numbers, booleans, dates, times, or dictionaries of them.
        row : numpy.ndarray, optional
            Not used.

        Raises
        ------
        DataError
            If the type has no meaning as a number.
        """
        for start in range(0, len(values), _BLOCK_VALUES):
            numbers = to_floats(values.slice(start, _BLOCK_VALUES))
            missing = np.isnan(numbers)
            num_missing = int(np.count_nonzero(missing))
            self.missing += num_missing
            present = numbers[~missing] if num_missing else numbers
            if self._edges is None:
                self._add(present)
            else:
                self._add_between(present, self._edges)

    def _add_between(self, numbers: np.ndarray, edges: np.ndarray) -> None:
        num_below, num_above = int((numbers < edges[0]).sum()), int((numbers > edges[-1]).sum())
        self.num_below += num_below
        self.num_above += num_above
        if self._is_even:
            inside = numbers if not num_below + num_above else numbers[(numbers >= edges[0]) & (numbers <= edges[-1])]
            self._counts += _count_even(inside, edges)
        else:
            self._counts += np.histogram(numbers, edges)[0]

    def _add(self, numbers: np.ndarray) -> None:
        finite = np.isfinite(numbers)
        if not finite.all():
            self.num_above += int((numbers == math.inf).sum())
            self.num_below += int((numbers == -math.inf).sum())
            numbers = numbers[finite]
        if len(numbers):
            self._grow(float(numbers.min()), float(numbers.max()))
            scaled = np.ldexp(numbers, -self._exponent)
            bins = np.floor(scaled)
            if self._min < 0 and not scaled.all():
                bins[(scaled == 0) & (numbers < 0)] = -1  # too little to be told from 0 in widths
            bins -= self._first
            self._counts += np.bincount(bins.astype(np.int64), minlength=len(self._counts))

    def _grow(self, low: float, high: float) -> None:
        """Make the bins those of a range that holds another one, too."""
        if self._min <= low and high <= self._max:
            return
        before = self._first, self._counts, self._exponent
        self._min, self._max = min(self._min, low), max(self._max, high)
        self._exponent = _width_exponent(self._min, self._max, self.max_bins)
        self._first = _bin_of(self._min, self._exponent)
        self._counts = np.zeros(_bin_of(self._max, self._exponent) - self._first + 1, np.int64)
        self._put(*before)

    def _put(self, first: int, counts: np.ndarray, exponent: int) -> None:
        """Add counts of bins that are as wide as these, or less."""
        if len(counts):
            shift = self._exponent - exponent
            bins = first + np.arange(len(counts))
            # a shift by more bits than there are is not defined
            np.add.at(self._counts, (bins >> min(shift, 63)) - self._first, counts)

    def merge(self, other: Self) -> None:
        """Take in what another object has seen.

        Parameters
        ----------
        other : Histogram
            Left as it is; of the same edges or number of bins.

        Raises
        ------
        ArgumentError
            If edges or number of bins differ.
        """
        if not np.array_equal(self._all_edges(), other._all_edges()) or self.max_bins != other.max_bins:
            raise ArgumentError("other has other edges or max_bins than this; only equal histograms merge")
        self.missing += other.missing
        self.num_below += other.num_below
        self.num_above += other.num_above
        if self._edges is not None:
            self._counts = self._counts + other._counts
        elif len(other._counts):
            self._grow(other._min, other._max)
            self._put(other._first, other._counts, other._exponent)

    def _all_edges(self) -> np.ndarray:
        return np.empty(0) if self._edges is None else self._edges

    @property
    def edges(self) -> np.ndarray:
        """Edges of the bins: float64 [bins + 1], or none without values; the outermost are finite."""
        if self._edges is not None:
            return self._edges.copy()
        if not len(self._counts):
            return np.empty(0)
        largest = np.finfo(np.float64).max
        bins = self._first + np.arange(len(self._counts) + 1, dtype=np.float64)
        with np.errstate(over="ignore"):
            edges = np.ldexp(bins, self._exponent)
        return np.clip(edges, -largest, largest)

    @property
    def counts(self) -> np.ndarray:
        """Values in each bin: int64 [bins]."""
        return self._counts.copy()

    @property
    def count(self) -> int:
        """Values in the bins."""
        return int(self._counts.sum())

    def result(self) -> dict[str, Any]:
        """Return what it says.

        Returns
        -------
        dict
            ``edges`` and ``counts`` as arrays, ``count``, ``missing``, ``num_below`` and ``num_above``.
        """
        return {
            "edges": self.edges,
            "counts": self.counts,
            "count": self.count,
            "missing": self.missing,
            "num_below": self.num_below,
            "num_above": self.num_above,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs, as plain JSON values.

        Returns
        -------
        dict
            With the counts as a list.
        """
        return {
            "edges": None if self._edges is None else self._edges.tolist(),
            "max_bins": self.max_bins,
            "missing": self.missing,
            "num_below": self.num_below,
            "num_above": self.num_above,
            "counts": self._counts.tolist(),
            "exponent": self._exponent,
            "first": self._first,
            "range": None if math.isinf(self._min) else [self._min, self._max],
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Rebuild an object from `to_dict`.

        Parameters
        ----------
        state : dict
            What `to_dict` returned, also after a round trip through JSON.

        Returns
        -------
        Histogram
            Equal to the first, to the last bit.
        """
        histogram = cls(state["edges"], max_bins=state["max_bins"])
        for name in ("missing", "num_below", "num_above"):
            setattr(histogram, name, state[name])
        histogram._counts = np.array(state["counts"], np.int64)
        histogram._exponent, histogram._first = state["exponent"], state["first"]
        histogram._min, histogram._max = state["range"] or (math.inf, -math.inf)
        return histogram


def _checked_edges(edges: Sequence[float] | np.ndarray) -> np.ndarray:
    checked = np.array(edges, np.float64)
    if checked.ndim != 1 or len(checked) < 2 or not np.isfinite(checked).all() or not (np.diff(checked) > 0).all():
        raise ArgumentError(f"edges={edges!r} must be two or more finite numbers that rise")
    return checked


def _is_even(edges: np.ndarray) -> bool:
    """Say whether edges are so even that a bin's number computed from the width is off by one at most."""
    with np.errstate(over="ignore"):
        widths = np.diff(edges)
        width = (edges[-1] - edges[0]) / len(widths)
        even = edges[0] + width * np.arange(len(edges))
        return bool(1e-280 < width < math.inf and (np.abs(edges - even) < width / 4).all())


def _count_even(numbers: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Count as `numpy.histogram` does: guess the bin, then look at its edges."""
    num_bins = len(edges) - 1
    with np.errstate(over="ignore"):
        bins = ((numbers - edges[0]) * (num_bins / (edges[-1] - edges[0]))).astype(np.int64)
    np.minimum(bins, num_bins - 1, out=bins)
    bins -= numbers < edges[bins]
    bins += (numbers >= edges[bins + 1]) & (bins < num_bins - 1)
    return np.bincount(bins, minlength=num_bins)


def _width_exponent(low: float, high: float, max_bins: int) -> int:
    """Return the binary logarithm of the least width that makes so many bins of a range, and that floats tell apart."""
    finest = math.frexp(max(abs(low), abs(high)))[1] - 53  # there each value has a bin of its own
    coarsest = finest + 53 + 2
    while finest < coarsest:  # bins only become fewer
        middle = (finest + coarsest) // 2
        if _bin_of(high, middle) - _bin_of(low, middle) < max_bins:
            coarsest = middle
        else:
            finest = middle + 1
    return finest


def _bin_of(value: float, exponent: int) -> int:
    scaled = math.ldexp(value, -exponent)
    return -1 if value < 0 and scaled == 0 else math.floor(scaled)
