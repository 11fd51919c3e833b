"""Sums of the powers of distances from the mean: what moments are made of, and how they merge."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from dtk.statistics.number_blocks import Scratch

__all__ = ["CentralSums", "sums_of_block", "sums_of_counts"]

_ROW_VALUES: Final = 4_096  # of a product: BLAS takes threads for longer ones, which fight for Dask's cores
_CANCELS: Final = 100.0  # two digits of sixteen


@dataclass(frozen=True)
class CentralSums:
    """The mean of finite values, and the sums of the second to fourth powers of their distances from it.

    Parameters
    ----------
    count : int
        Values.
    base : int
        What `mean` is counted from: not 0 only for integers beyond 2**53, where float64 has gaps.
    mean : float
        The mean, less `base`.
    squares, cubes, fourths : float
        The sums. The last two are of no meaning where the order of the moments is 2.
    """

    count: int = 0
    base: int = 0
    mean: float = 0.0
    squares: float = 0.0
    cubes: float = 0.0
    fourths: float = 0.0

    def merged(self, other: CentralSums) -> CentralSums:
        """Join two parts: Pébay, "Formulas for robust, one-pass parallel computation of covariances" (2008).

        Parameters
        ----------
        other : CentralSums
            Of other values.

        Returns
        -------
        CentralSums
            Of all.
        """
        if not self.count or not other.count:
            return self if self.count else other
        total = self.count + other.count
        here, there = self.count / total, other.count / total
        delta = float(other.base - self.base) + (other.mean - self.mean)
        apart = delta * delta * self.count * there
        return CentralSums(
            total,
            self.base,
            self.mean + delta * there,
            self.squares + other.squares + apart,
            self.cubes
            + other.cubes
            + apart * delta * (here - there)
            + 3 * delta * (here * other.squares - there * self.squares),
            self.fourths
            + other.fourths
            + apart * delta * delta * (here * here - here * there + there * there)
            + 6 * delta * delta * (here * here * other.squares + there * there * self.squares)
            + 4 * delta * (here * other.cubes - there * self.cubes),
        )

    def mapped(self, scale: float, shift: float = 0.0) -> CentralSums:
        """Return the sums of ``scale * x + shift``.

        Parameters
        ----------
        scale, shift : float
            Finite.

        Returns
        -------
        CentralSums
            Of as many values.
        """
        squared = scale * scale
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float64 they are infinite, as sums are
            return CentralSums(
                self.count,
                0,
                scale * (float(self.base) + self.mean) + shift,
                squared * self.squares,
                squared * scale * self.cubes,
                squared * squared * self.fourths,
            )

    def in_ticks_of(self, size: int) -> CentralSums:
        """Return the sums of the values times an integer, exact where these are.

        Parameters
        ----------
        size : int
            At least 1.

        Returns
        -------
        CentralSums
            Of as many values.
        """
        mapped = self.mapped(float(size))
        return CentralSums(self.count, self.base * size, self.mean * size, mapped.squares, mapped.cubes, mapped.fourths)


def sums_of_block(values: np.ndarray, order: int, memory: Scratch, present: np.ndarray | None = None) -> CentralSums:
    """Sum up a block of finite values.

    Parameters
    ----------
    values : numpy.ndarray
        float64 [values], at least one.
    order : int
        2 or 4.
    memory : Scratch
        Its `distances` and `squares` are overwritten.
    present : numpy.ndarray, optional
        bool [values]: which are to be summed; all the others equal one of these.

    Returns
    -------
    CentralSums
        With a base of 0.
    """
    count, start, distances = len(values), 0.0, memory.distances[: len(values)]
    if present is not None:  # counted from a value that is not to be summed, all such are 0
        count, start = int(np.count_nonzero(present)), float(values[present.argmin()])
        values = np.subtract(values, start, out=distances)
    mean = _mean(values, count)
    if order == 2:
        raw = _dot(values, values)
        squares = raw - count * mean * mean
        if raw < _CANCELS * squares < np.inf:
            return CentralSums(count, 0, start + mean, squares)
    np.subtract(values, mean, out=distances)
    if present is not None:
        distances *= present
    if order == 2:
        return CentralSums(count, 0, start + mean, _dot(distances, distances))
    squared = np.multiply(distances, distances, out=memory.squares[: len(values)])
    sums = (float(squared.sum()), _dot(squared, distances), _dot(squared, squared))
    return CentralSums(count, 0, start + mean, *sums)


def sums_of_counts(values: np.ndarray, counts: np.ndarray) -> CentralSums:
    """Sum up values that occur several times.

    Parameters
    ----------
    values : numpy.ndarray
        float64 [distinct]: finite.
    counts : numpy.ndarray
        int64 [distinct]: how often each occurs; one of them at least.

    Returns
    -------
    CentralSums
        With a base of 0.
    """
    count = int(counts.sum())
    start = float(values[np.argmax(counts)])  # the mean is counted from a value, so that it is exact for one alone
    mean = start + float(((values - start) * (counts / count)).sum())
    distances = values - mean
    squares = counts * np.square(distances)
    cubes = squares * distances
    return CentralSums(count, 0, mean, float(squares.sum()), float(cubes.sum()), float((cubes * distances).sum()))


def _mean(values: np.ndarray, count: int) -> float:
    mean = float(np.add.reduce(values)) / count
    return mean if math.isfinite(mean) else float((values / count).sum())  # the sum overflowed


def _dot(left: np.ndarray, right: np.ndarray) -> float:
    """Multiply and sum, in rows that BLAS takes on one thread."""
    whole = len(left) // _ROW_VALUES * _ROW_VALUES
    rest = float(np.vdot(left[whole:], right[whole:])) if whole < len(left) else 0.0
    if not whole:
        return rest
    rows = np.vecdot(left[:whole].reshape(-1, _ROW_VALUES), right[:whole].reshape(-1, _ROW_VALUES))
    return float(np.add.reduce(rows)) + rest
