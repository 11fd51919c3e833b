"""A random sample of the rows of a table: its columns as numbers, for the quantiles of many at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa

from dtk.errors import ArgumentError, DataError
from dtk.statistics.hashed_rows import HashedRows
from dtk.statistics.kinds import to_floats
from dtk.statistics.quantiles import checked_shares, select_quantiles
from dtk.statistics.sample import RowSample, rank_error
from dtk.statistics.serial import array_from_json, array_to_json

__all__ = ["TableSample"]


class TableSample(HashedRows):
    """The rows with the smallest hash of their number, and the values of some columns in them.

    The rows are those that `RowSample` chooses. Each row is hashed once, whatever the number of columns.

    Parameters
    ----------
    columns : sequence of str
        Columns of numbers, booleans, dates or times.
    size : int
        Most rows to hold; up to twice as many in between. A value takes 8 bytes, or 4 where float32 holds it exactly.
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
        If `size` is less than 1, or a column is named twice.

    Examples
    --------
    >>> sample = TableSample(["x", "y"])
    >>> sample.update(pa.table({"x": range(5), "y": [1.0, None, 3.0, 4.0, 8.0]}), np.arange(5))
    >>> {name: quantiles.tolist() for name, quantiles in sample.quantile([0.5, 1.0]).items()}
    {'x': [2.0, 4.0], 'y': [3.5, 8.0]}
    """

    def __init__(
        self, columns: Sequence[str], size: int = 1_000_000, *, seed: int = 0, total_rows: int | None = None
    ) -> None:
        super().__init__(size, seed=seed, total_rows=total_rows)
        self.columns = list(columns)
        if len(set(self.columns)) < len(self.columns):
            raise ArgumentError(f"columns={self.columns} names one twice; name each once")

    def update(self, values: pa.Table, row: np.ndarray | None = None) -> None:
        """Take in one chunk of a table.

        Parameters
        ----------
        values : pyarrow.Table
            With the columns, and perhaps others.
        row : numpy.ndarray
            int64 [rows]: the number of each row in the whole data.

        Raises
        ------
        ArgumentError
            If `row` is not given, or has another length than the table.
        DataError
            If a column has no meaning as numbers.
        """
        chosen, hashes = self._choose(values.num_rows, row)
        if not len(chosen):
            return
        index = None if len(chosen) == values.num_rows else pa.array(chosen)
        held = {}
        for name in self.columns:
            taken = values[name] if index is None else values[name].take(index)
            try:
                held[name] = to_floats(taken).astype(_held_dtype(taken.type), copy=False)
            except DataError as error:
                raise DataError(f"column {name!r} cannot be sampled as numbers: {error}") from None
        self._hold(hashes, held)

    def merge(self, other: Self) -> None:
        """Take in what another object has seen.

        Parameters
        ----------
        other : TableSample
            Left as it is; of the same columns, size and seed, and of other rows.

        Raises
        ------
        ArgumentError
            If columns, size or seed differ.
        """
        if self.columns != other.columns:
            raise ArgumentError(f"other has columns={other.columns} where this has columns={self.columns}")
        super().merge(other)

    def _join(self, parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        parts[:] = [dict(part) for part in parts]  # a column of all parts is let go of once it is joined
        return {name: np.concatenate([part.pop(name) for part in parts]) for name in self.columns}

    def _take(self, part: dict[str, np.ndarray], index: np.ndarray) -> dict[str, np.ndarray]:
        return {name: values[index] for name, values in part.items()}

    def _numbers(self, name: str, buffer: np.ndarray | None = None) -> np.ndarray:
        """Return the sampled values of a column in any order, perhaps in a buffer."""
        if name not in self.columns:
            raise ArgumentError(f"column {name!r} was not sampled; name one of {self.columns}")
        self._prune()
        parts = [part[name] for part in self._held]
        if len(parts) <= 1:
            return parts[0] if parts else np.empty(0)
        return np.concatenate(parts, out=buffer)

    @property
    def values(self) -> dict[str, np.ndarray]:
        """The sampled values by column, NaN where missing, in the order of their rows' hashes."""
        self._sort()
        return {name: self._numbers(name) for name in self.columns}

    @property
    def rank_error(self) -> dict[str, float]:
        """How far the rank of a column's quantile can be off, with 99% confidence, as a share of its values."""
        if self.is_exact:
            return dict.fromkeys(self.columns, 0.0)
        return {name: rank_error(int(np.count_nonzero(~np.isnan(self._numbers(name))))) for name in self.columns}

    def quantile(
        self, q: float | Sequence[float] | np.ndarray, columns: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Return quantiles of the sampled values, missing ones left out.

        Parameters
        ----------
        q : float or sequence of float
            Shape [quantiles]: between 0 and 1.
        columns : sequence of str, optional
            Of which columns; of all by default.

        Returns
        -------
        dict of str to numpy.ndarray
            By column: float64, of the shape of `q`; interpolated linearly as in NumPy and pandas; NaN without values.

        Raises
        ------
        ArgumentError
            If a quantile is not between 0 and 1, or a column was not sampled.
        """
        wanted = checked_shares(q)
        self._prune()
        buffer = np.empty(self._num_held)  # one for all columns: memory that is new is slow
        names = self.columns if columns is None else columns
        return {name: select_quantiles(self._numbers(name, buffer), wanted) for name in names}

    def column(self, name: str) -> RowSample:
        """Return the sample of one column, which knows what becomes of it when values are mapped or filled.

        Parameters
        ----------
        name : str
            The column.

        Returns
        -------
        RowSample
            Of float64 values, NaN where missing.

        Raises
        ------
        ArgumentError
            If the column was not sampled.
        """
        if name in self.columns:
            self._gather()
        sample = RowSample(self.size, seed=self.seed)
        self._hand_over(sample, pa.array(self._numbers(name)))
        return sample.mapped(_as_doubles)

    def result(self) -> dict[str, Any]:
        """Return what the sample says.

        Returns
        -------
        dict
            ``num_rows``, ``num_sampled``, ``is_exact``, and by column ``rank_error`` and ``values``.
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
        values = {name: array_to_json(values) for name, values in self.values.items()}
        return self._state() | {"columns": self.columns, "values": values}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Rebuild an object from `to_dict`.

        Parameters
        ----------
        state : dict
            What `to_dict` returned, also after a round trip through JSON.

        Returns
        -------
        TableSample
            Equal to the first, to the last bit.
        """
        sample = cls(state["columns"], state["size"], seed=state["seed"])
        sample._restore(state, {name: array_from_json(values) for name, values in state["values"].items()})
        return sample


def _as_doubles(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64, copy=False)


def _held_dtype(dtype: pa.DataType) -> type[np.floating[Any]]:
    """Return float32 for types whose every value it holds exactly."""
    if pa.types.is_dictionary(dtype):
        return _held_dtype(dtype.value_type)
    if pa.types.is_floating(dtype) or pa.types.is_integer(dtype):
        is_small = dtype.bit_width <= (32 if pa.types.is_floating(dtype) else 16)
    else:
        is_small = pa.types.is_boolean(dtype) or pa.types.is_null(dtype)
    return np.float32 if is_small else np.float64
