"""Count, mean, variance and range in one pass."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import pyarrow as pa

from dtk.statistics.kinds import plain_chunks, to_numbers

__all__ = ["Moments"]

_BLOCK_VALUES = 65_536  # what stays in a core's cache


class Moments:
    """Count, missing values, mean, variance, minimum and maximum of a column.

    Nulls and NaN are missing. Infinite values count: they make the mean infinite and the variance NaN, as in NumPy.
    Dates are nanoseconds since 1970, times and durations seconds, booleans 0 and 1.

    Attributes
    ----------
    count : int
        Values that are present.
    missing : int
        Nulls and NaN.
    num_infinite : int
        How many of `count` are infinite.

    Notes
    -----
    Parts merge by the method of Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing
    sample variances" (1979), which keeps its digits where the mean is much larger than the spread.

    Examples
    --------
    >>> moments = Moments()
    >>> moments.update(pa.array([1.0, None, 3.0]))
    >>> moments.count, moments.missing, moments.mean, moments.std
    (2, 1, 2.0, 1.0)
    """

    def __init__(self) -> None:
        self.count = 0
        self.missing = 0
        self._num_above = 0  # +inf
        self._num_below = 0  # -inf
        self._mean = 0.0  # of the finite values
        self._squares = 0.0  # sum of squared distances from that mean
        self._min: int | float = math.inf
        self._max: int | float = -math.inf

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
        for chunk in plain_chunks(values):
            present = chunk.drop_null() if chunk.null_count else chunk
            self.missing += len(chunk) - len(present)
            numbers = to_numbers(present)
            for start in range(0, len(numbers), _BLOCK_VALUES):
                self._add(numbers[start : start + _BLOCK_VALUES])

    def _add(self, numbers: np.ndarray) -> None:
        if numbers.dtype == np.float64:
            finite = np.isfinite(numbers)
            if not finite.all():
                self._add_unusual(numbers[~finite])
                numbers = numbers[finite]
        if not len(numbers):
            return
        low, high = numbers.min(), numbers.max()
        # offsets from the minimum are exact for int64 beyond 2**53, where float64 has gaps; uint64 wraps around rightly
        base = low if numbers.dtype != np.float64 else np.float64(0)
        offsets = numbers if numbers.dtype == np.float64 else numbers.view(np.uint64) - base.view(np.uint64)
        with np.errstate(over="ignore", invalid="ignore"):
            mean_offset = offsets.mean(dtype=np.float64)
            distances = offsets - mean_offset
            squares = float(np.square(distances, out=distances).sum())  # not np.dot: its threads fight for Dask's cores
        self._combine(len(numbers), float(base) + float(mean_offset), squares)
        self._min, self._max = min(self._min, low.item()), max(self._max, high.item())

    def _add_unusual(self, numbers: np.ndarray) -> None:
        num_above, num_below = int((numbers == np.inf).sum()), int((numbers == -np.inf).sum())
        self.missing += len(numbers) - num_above - num_below
        self.count += num_above + num_below
        self._num_above += num_above
        self._num_below += num_below

    def _combine(self, num_finite: int, mean: float, squares: float) -> None:
        before = self.count - self.num_infinite
        total = before + num_finite
        if total == 0:
            return
        delta = mean - self._mean
        self._mean = mean if before == 0 else self._mean + delta * (num_finite / total)
        self._squares += squares + (delta * delta * (before * num_finite / total) if before else 0.0)
        self.count += num_finite

    def merge(self, other: Self) -> None:
        """Take in what another object has seen.

        Parameters
        ----------
        other : Moments
            Left as it is.
        """
        self._combine(other.count - other.num_infinite, other._mean, other._squares)
        self.count += other.num_infinite
        self.missing += other.missing
        self._num_above += other._num_above
        self._num_below += other._num_below
        self._min, self._max = min(self._min, other._min), max(self._max, other._max)

    @property
    def num_infinite(self) -> int:
        """How many values are infinite."""
        return self._num_above + self._num_below

    @property
    def mean(self) -> float:
        """The mean; NaN without values."""
        if self.count == 0 or (self._num_above and self._num_below):
            return math.nan
        if self.num_infinite:
            return math.inf if self._num_above else -math.inf
        return self._mean

    @property
    def variance(self) -> float:
        """The variance of the population (``ddof=0``); NaN without values."""
        return math.nan if self.count == 0 or self.num_infinite else self._squares / self.count

    @property
    def std(self) -> float:
        """The standard deviation of the population (``ddof=0``); NaN without values."""
        return math.sqrt(self.variance)

    @property
    def min(self) -> int | float:
        """The smallest value, an int for integers and dates; NaN without values."""
        if self.count == 0:
            return math.nan
        return -math.inf if self._num_below else self._min

    @property
    def max(self) -> int | float:
        """The largest value, an int for integers and dates; NaN without values."""
        if self.count == 0:
            return math.nan
        return math.inf if self._num_above else self._max

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs, as plain JSON values.

        Returns
        -------
        dict
            Floats that JSON cannot write are strings, such as ``"inf"``.
        """
        return {
            "count": self.count,
            "missing": self.missing,
            "num_above": self._num_above,
            "num_below": self._num_below,
            "mean": _to_json(self._mean),
            "squares": _to_json(self._squares),
            "min": _to_json(self._min),
            "max": _to_json(self._max),
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
        Moments
            Equal to the first, to the last bit.
        """
        moments = cls()
        moments.count, moments.missing = state["count"], state["missing"]
        moments._num_above, moments._num_below = state["num_above"], state["num_below"]
        moments._mean, moments._squares = float(state["mean"]), float(state["squares"])
        moments._min, moments._max = _from_json(state["min"]), _from_json(state["max"])
        return moments


def _to_json(number: int | float) -> int | float | str:
    return number if math.isfinite(number) else str(number)


def _from_json(number: int | float | str) -> int | float:
    return float(number) if isinstance(number, str) else number
