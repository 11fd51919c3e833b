"""A random sample of rows that does not depend on how the data is cut."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa

from dtk.errors import ArgumentError, DataError
from dtk.statistics.hashed_rows import HashedRows
from dtk.statistics.kinds import plain_chunks, to_floats, without_views
from dtk.statistics.quantiles import checked_shares, select_quantiles
from dtk.statistics.serial import column_from_json, column_to_json

__all__ = ["RowSample", "rank_error"]


class RowSample(HashedRows):
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
    >>> sample.mapped(np.square).quantile(0.5).item()
    2500.0
    """

    def __init__(self, size: int = 100_000, *, seed: int = 0, total_rows: int | None = None) -> None:
        super().__init__(size, seed=seed, total_rows=total_rows)
        self._maps: tuple[Callable[[np.ndarray], np.ndarray], ...] = ()  # still to be applied to what is held

    def update(self, values: pa.Array | pa.ChunkedArray, row: np.ndarray | None = None) -> None:
        """Take in one chunk of a column.

        Parameters
        ----------
        values : pyarrow.Array or pyarrow.ChunkedArray
            Shape [rows], of any type.
        row : numpy.ndarray
            int64 [rows]: the number of each row in the whole data.

        Raises
        ------
        ArgumentError
            If `row` is not given, or has another length than `values`.
        """
        chosen, hashes = self._choose(len(values), row)
        if self._maps:
            self._settle()
        if len(chosen):
            self._hold(hashes, pa.concat_arrays(plain_chunks(without_views(values).take(pa.array(chosen)))))

    def _join(self, parts: list[pa.Array]) -> pa.Array:
        return _concat(parts)

    def _take(self, part: pa.Array, index: np.ndarray) -> pa.Array:
        return part.take(pa.array(index))

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
        if self._maps:
            self._settle()
        super().merge(copy.copy(other) if other._maps else other)  # whose values are settled

    def _numbers(self) -> np.ndarray:
        """Return the sampled values as float64, NaN where missing, in any order."""
        self._gather()
        numbers = to_floats(self._held[0]) if self._held else np.empty(0)
        for fn in self._maps:
            numbers = _mapped(numbers, fn)
        return numbers

    def _settle(self) -> None:
        """Apply what is still to be applied."""
        numbers = self._numbers()
        self._held, self._maps = [pa.array(numbers)] if self._held else [], ()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle values, not functions."""
        return (self._with(pa.array(self._numbers())) if self._maps else self).__dict__

    @property
    def values(self) -> pa.Array:
        """The sampled values, missing ones included, in the order of their hashes."""
        if self._maps:
            self._settle()
        self._sort()
        return self._held[0] if self._held else pa.nulls(0)

    @property
    def rank_error(self) -> float:
        """How far a quantile's rank can be off, with 99% confidence: 0.005 is half a percent of the rows."""
        if self.is_exact:
            return 0.0
        self._prune()
        held = [pa.array(self._numbers())] if self._maps else self._held
        return rank_error(sum(len(values) - _num_missing(values) for values in held))

    def quantile(self, q: float | Sequence[float] | np.ndarray) -> np.ndarray:
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
        return select_quantiles(self._numbers(), checked_shares(q))

    def mapped(self, fn: Callable[[np.ndarray], np.ndarray]) -> RowSample:
        """Return what the sample would be if a function had been applied to each value.

        Parameters
        ----------
        fn : callable
            ``fn(values) -> values``: float64 [rows] to [rows], each by itself; missing values are NaN.

        Returns
        -------
        RowSample
            Of the same rows; values that become NaN are missing.

        Raises
        ------
        ArgumentError
            If the function returns another number of values.
        """
        self._gather()
        held = self._held[0] if self._held else pa.nulls(0, pa.float64())
        other = self._with(held if pa.types.is_floating(held.type) else pa.array(self._numbers()))
        other._maps = (*self._maps, fn)  # applied when values are asked for: many columns held twice would be large
        _mapped(np.full(2, np.nan), fn)
        return other

    def filled(self, value: Any) -> RowSample:
        """Return what the sample would be if missing values had been replaced.

        Parameters
        ----------
        value : float or str
            What replaces them: a number unless the values are text.

        Returns
        -------
        RowSample
            Of the same rows.
        """
        self._gather()
        if isinstance(value, str):
            if self._maps:
                self._settle()
            return self._with(self._held[0].fill_null(value) if self._held else pa.nulls(0, pa.string()))
        return self.mapped(lambda numbers: np.where(np.isnan(numbers), value, numbers))

    def _with(self, values: pa.Array) -> RowSample:
        """Return a sample of the same rows with other values; what is held here has been joined."""
        other = RowSample(self.size, seed=self.seed)
        self._hand_over(other, values)
        return other

    def result(self) -> dict[str, Any]:
        """Return what the sample says.

        Returns
        -------
        dict
            ``num_rows``, ``num_sampled``, ``is_exact``, ``rank_error`` and ``values``, a pyarrow.Array.
        """
        return {
            "num_rows": self.num_rows,
            "num_sampled": self.num_sampled,
            "is_exact": self.is_exact,
            "rank_error": self.rank_error,
            "values": self.values,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs, as plain JSON values.

        Returns
        -------
        dict
            The rows in the order of their hashes.
        """
        return self._state() | {"values": column_to_json(self.values)}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Rebuild an object from `to_dict`.

        Parameters
        ----------
        state : dict
            What `to_dict` returned, also after a round trip through JSON.

        Returns
        -------
        RowSample
            Equal to the first, to the last bit.
        """
        sample = cls(state["size"], seed=state["seed"])
        sample._restore(state, column_from_json(state["values"]))
        return sample


def _mapped(numbers: np.ndarray, fn: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    values = np.asarray(fn(numbers), np.float64)
    if values.shape != numbers.shape:
        raise ArgumentError(
            f"fn={fn!r} made {list(values.shape)} of {list(numbers.shape)} values; it must map each value by itself"
        )
    return values


def _num_missing(values: pa.Array) -> int:
    num_nan = int(np.isnan(values.to_numpy(zero_copy_only=False)).sum()) if pa.types.is_floating(values.type) else 0
    return num_nan or values.null_count  # nulls become NaN in NumPy


def _concat(parts: list[pa.Array]) -> pa.Array:
    """Join values; where chunks differ in type, in the type that holds both."""
    if len(parts) == 1:
        return parts[0]
    if len({part.type for part in parts}) == 1:
        return pa.concat_arrays(parts)
    try:
        joined = pa.concat_tables([pa.table({"values": part}) for part in parts], promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"the values mix types that have no common one ({error}); cast the column first") from None
    return pa.concat_arrays(joined["values"].chunks)


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
