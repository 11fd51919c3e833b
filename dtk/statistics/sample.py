"""A random sample of rows that does not depend on how the data is cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa

from dtk.errors import ArgumentError
from dtk.statistics.kinds import plain_chunks, to_floats

__all__ = ["RowSample", "hash_rows"]

_MASK = 2**64 - 1


class RowSample:
    """The rows with the smallest hash of their number: a uniform sample without replacement.

    The same rows are chosen for every chunking and every order of merging, and in every column of a table.

    Parameters
    ----------
    size : int
        Most rows to hold.
    seed : int
        Another seed chooses other rows.
    total_rows : int, optional
        Rows of the whole data, if that is known: each of the parts that are merged then holds its share of `size` rows
        only, and not as many as that. The sample is the same.

    Attributes
    ----------
    num_rows : int
        Rows seen, missing values included.

    Raises
    ------
    ArgumentError
        If `size` is less than 1.

    Notes
    -----
    Quantiles of the sample have, with 99% confidence, a rank error of at most ``sqrt(log(200) / (2 n))`` for n
    sampled values: 0.16% for a million, 0.5% for 100,000 (Dvoretzky, Kiefer and Wolfowitz 1956, Massart 1990).

    Examples
    --------
    >>> sample = RowSample(size=1_000)
    >>> sample.update(pa.array(range(101)), np.arange(101))
    >>> sample.quantile([0.25, 0.5]).tolist(), sample.rank_error
    ([25.0, 50.0], 0.0)
    """

    def __init__(self, size: int = 100_000, *, seed: int = 0, total_rows: int | None = None) -> None:
        if size < 1:
            raise ArgumentError(f"size={size!r} must be at least 1")
        self.size = size
        self.seed = seed
        self.num_rows = 0
        self._limit = _MASK if total_rows is None else _first_limit(size, total_rows)  # no larger hash can enter
        self._hashes: list[np.ndarray] = []
        self._values: list[pa.Array] = []
        self._num_held = 0

    def update(
        self,
        values: pa.Array | pa.ChunkedArray | pa.Table,
        row: np.ndarray | None = None,
        *,
        convert: Callable[[Any], pa.Array] | None = None,
    ) -> None:
        """Take in one chunk of a column.

        Parameters
        ----------
        values : pyarrow.Array, pyarrow.ChunkedArray or pyarrow.Table
            Shape [rows], of any type; a table needs `convert`.
        row : numpy.ndarray
            int64 [rows]: the number of each row in the whole data.
        convert : callable, optional
            ``convert(some of the values) -> pyarrow.Array``: what to hold of the rows that may stay, such as a struct
            array for whole rows of a table. The same type for every chunk.

        Raises
        ------
        ArgumentError
            If `row` is not given, or has another length than `values`.
        """
        if row is None or len(row) != len(values):
            raise ArgumentError(
                f"row={'None' if row is None else f'[{len(row)}]'} does not number the {len(values)} values; "
                "give one global row number for each"
            )
        self.num_rows += len(values)
        hashes = hash_rows(row, seed=self.seed)
        chosen = np.flatnonzero(hashes <= np.uint64(self._limit))
        if len(chosen):
            taken = values.take(pa.array(chosen))
            self._hold(hashes[chosen], convert(taken) if convert else pa.concat_arrays(plain_chunks(taken)))

    def _hold(self, hashes: np.ndarray, values: pa.Array) -> None:
        self._hashes.append(hashes)
        self._values.append(values)
        self._num_held += len(hashes)
        if self._num_held > 2 * self.size:
            self._prune()

    def _prune(self) -> None:
        """Keep the `size` smallest hashes, in their order."""
        hashes = np.concatenate(self._hashes)
        order = (
            np.argpartition(hashes, self.size - 1)[: self.size] if len(hashes) > self.size else np.arange(len(hashes))
        )
        order = order[np.argsort(hashes[order])]
        self._hashes = [hashes[order]]
        self._values = [pa.concat_arrays(self._values).take(pa.array(order))]
        self._num_held = len(order)
        if self._num_held == self.size:
            self._limit = int(self._hashes[0][-1])

    def merge(self, other: Self) -> None:
        """Take in what another object has seen.

        Parameters
        ----------
        other : RowSample
            Left as it is; of the same size and seed, and of other rows.

        Raises
        ------
        ArgumentError
            If size or seed differ.
        """
        if (self.size, self.seed) != (other.size, other.seed):
            raise ArgumentError(
                f"other has size={other.size}, seed={other.seed} where this has size={self.size}, seed={self.seed}; "
                "only samples of the same size and seed merge"
            )
        self.num_rows += other.num_rows
        for hashes, values in zip(other._hashes, other._values, strict=True):
            self._hold(hashes, values)

    @property
    def values(self) -> pa.Array:
        """The sampled values, missing ones included, in the order of their hashes."""
        if not self._values:
            return pa.nulls(0)
        self._prune()
        return self._values[0]

    @property
    def is_exact(self) -> bool:
        """Whether the sample holds every row."""
        return self._num_held == self.num_rows <= self.size

    @property
    def rank_error(self) -> float:
        """How far a quantile's rank can be off, with 99% confidence: 0.005 is half a percent of the rows."""
        if self.is_exact:
            return 0.0
        return rank_error(int(np.count_nonzero(~np.isnan(to_floats(self.values)))))

    def quantile(self, q: float | Sequence[float]) -> np.ndarray:
        """Return quantiles of the sampled values, missing ones left out.

        Parameters
        ----------
        q : float or sequence of float
            Shape [quantiles]: between 0 and 1.

        Returns
        -------
        numpy.ndarray
            float64, of the shape of `q`; interpolated linearly as in NumPy and pandas; NaN without values.

        Raises
        ------
        ArgumentError
            If a quantile is not between 0 and 1.
        """
        wanted = np.asarray(q, np.float64)
        if not ((wanted >= 0) & (wanted <= 1)).all():
            raise ArgumentError(f"q={q!r} must lie between 0 and 1")
        floats = to_floats(self.values)
        present = floats[~np.isnan(floats)]
        with np.errstate(invalid="ignore", over="ignore"):  # between infinite or huge values
            return np.asarray(np.quantile(present, wanted) if len(present) else np.full(wanted.shape, np.nan))

    def to_dict(self) -> dict[str, Any]:
        """Return what the sample is, without its rows, as plain JSON values.

        Returns
        -------
        dict
            With ``size``, ``seed``, ``num_rows`` and ``is_exact``.
        """
        return {"size": self.size, "seed": self.seed, "num_rows": self.num_rows, "is_exact": self.is_exact}


def _first_limit(size: int, total_rows: int) -> int:
    """Return a hash that at least `size` of so many rows lie below, but for a chance of 1e-15."""
    wanted = size + 8 * math.sqrt(size) + 32  # the standard deviation of their number is less than sqrt(wanted)
    return _MASK if wanted >= total_rows else int(_MASK / total_rows * wanted)


def rank_error(num_values: int) -> float:
    """Bound the error of a sampled quantile's rank, with 99% confidence.

    Parameters
    ----------
    num_values : int
        Sampled values.

    Returns
    -------
    float
        As a share of all values; 1 without any.
    """
    return min(1.0, math.sqrt(math.log(200) / (2 * num_values))) if num_values else 1.0


def hash_rows(row: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Hash row numbers: splitmix64 (Steele, Lea and Flood 2014), which gives no two numbers the same hash.

    Parameters
    ----------
    row : numpy.ndarray
        int64 [rows].
    seed : int
        Another seed gives other hashes.

    Returns
    -------
    numpy.ndarray
        uint64 [rows].
    """
    # the seed is hashed first: seeds 0 and 1 would else only swap neighbouring rows
    start = _splitmix64(np.array([seed & _MASK], np.uint64))
    return _splitmix64(np.asarray(row).astype(np.uint64) ^ start)


def _splitmix64(state: np.ndarray) -> np.ndarray:
    """Mix uint64 values in place."""
    state += np.uint64(0x9E3779B97F4A7C15)
    state ^= state >> np.uint64(30)
    state *= np.uint64(0xBF58476D1CE4E5B9)
    state ^= state >> np.uint64(27)
    state *= np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return state
