"""Counts of distinct values, exact up to a limit and with a stated error beyond it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dtk.errors import ArgumentError, DataError
from dtk.statistics.kinds import category_keys

__all__ = ["Categories"]

Key = str | int | float | bool
_CONSOLIDATE_AT = 65_536


class Categories:
    """How often each value of a column occurs.

    Exact while the column has at most `max_size` distinct values. Beyond that the frequent ones stay, their counts are
    too low by at most `max_error`, and a value that is left out occurs at most `max_error` times.

    Parameters
    ----------
    max_size : int
        Most distinct values to hold; at least 2.

    Attributes
    ----------
    missing : int
        Nulls and NaN.
    max_error : int
        How much too low a count can be; 0 while exact.

    Raises
    ------
    ArgumentError
        If `max_size` is less than 2.

    Notes
    -----
    Keys are strings, integers, floats or booleans, see `dtk.statistics.category_keys`. Beyond the limit this is the
    algorithm of Misra and Gries, merged as in Agarwal et al., "Mergeable summaries" (2012): with n values seen,
    `max_error` is at most ``n / (max_size // 2)``.

    Examples
    --------
    >>> categories = Categories()
    >>> categories.update(pa.array(["UA", "AA", None, "UA"]))
    >>> categories.counts, categories.missing, categories.is_exact
    ({'UA': 2, 'AA': 1}, 1, True)
    """

    def __init__(self, max_size: int = 1_000_000) -> None:
        if max_size < 2:
            raise ArgumentError(f"max_size={max_size!r} must be at least 2")
        self.max_size = max_size
        self.count = 0
        self.missing = 0
        self.max_error = 0
        self._most_seen = 0
        self._keys: pa.Array = pa.nulls(0)
        self._counts = np.empty(0, np.int64)
        self._pending: list[tuple[pa.Array, np.ndarray]] = []

    def update(self, values: pa.Array | pa.ChunkedArray, row: np.ndarray | None = None) -> None:
        """Take in one chunk of a column.

        Parameters
        ----------
        values : pyarrow.Array or pyarrow.ChunkedArray
            Shape [rows], of any type but lists and structs.
        row : numpy.ndarray, optional
            Not used.

        Raises
        ------
        DataError
            If the type has no categories.
        """
        for chunk in values.chunks if isinstance(values, pa.ChunkedArray) else [values]:
            keys, counts = _count_chunk(chunk)
            self._add(keys, counts)
            self.missing += len(chunk) - int(counts.sum())

    def _add(self, keys: pa.Array, counts: np.ndarray) -> None:
        if len(keys):
            self.count += int(counts.sum())
            self._pending.append((keys, counts))
            if sum(len(pending) for pending, _ in self._pending) > max(_CONSOLIDATE_AT, len(self._keys)):
                self._consolidate()

    def _consolidate(self) -> None:
        """Fold what is pending into the sorted-out keys, and drop rare ones beyond the limit."""
        if not self._pending:
            return
        parts = [(self._keys, self._counts), *self._pending] if len(self._keys) else self._pending
        keys, counts = zip(*parts, strict=True)
        encoded = _concat_keys(keys).dictionary_encode()
        # weighted as float64, which is exact up to 2**53 rows
        sums = np.bincount(
            encoded.indices.to_numpy(), weights=np.concatenate(counts), minlength=len(encoded.dictionary)
        )
        self._keys, self._counts = encoded.dictionary, sums.astype(np.int64)
        self._pending = []
        self._most_seen = max(self._most_seen, len(self._keys))
        if len(self._keys) > self.max_size:
            first_dropped = len(self._counts) - self.max_size // 2 - 1
            excess = int(np.partition(self._counts, first_dropped)[first_dropped])
            stays = self._counts > excess
            self._keys, self._counts = self._keys.filter(pa.array(stays)), self._counts[stays] - excess
            self.max_error += excess

    def merge(self, other: Self) -> None:
        """Take in what another object has seen.

        Parameters
        ----------
        other : Categories
            Left as it is; of the same `max_size`.
        """
        count = self.count + other.count  # after the other dropped some, its counts add up to less
        self.missing += other.missing
        self.max_error += other.max_error
        self._most_seen = max(self._most_seen, other._most_seen)
        self._add(other._keys, other._counts)
        for keys, counts in other._pending:
            self._add(keys, counts)
        self.count = count

    def forget(self) -> None:
        """Let go of all values, where there are so many that none is of use: `num_distinct` stays, as a lower bound."""
        self._consolidate()
        self.max_error += int(self._counts.max(initial=0))
        self._keys, self._counts = pa.nulls(0), np.empty(0, np.int64)

    @property
    def is_exact(self) -> bool:
        """Whether all distinct values are there, with their true counts."""
        self._consolidate()
        return self.max_error == 0

    @property
    def num_distinct(self) -> int:
        """The number of distinct values; a lower bound unless exact."""
        self._consolidate()
        return self._most_seen

    @property
    def counts(self) -> dict[Key, int]:
        """How often each value occurs, by falling count, then by value."""
        return dict(self.top())

    def top(self, num_values: int | None = None) -> list[tuple[Key, int]]:
        """Return the most frequent values.

        Parameters
        ----------
        num_values : int, optional
            How many; all of them by default.

        Returns
        -------
        list of tuple
            (value, count), by falling count, then by value.
        """
        self._consolidate()
        if not len(self._keys):
            return []
        table = pa.table({"key": self._keys, "count": self._counts})
        order = pc.sort_indices(table, sort_keys=[("count", "descending"), ("key", "ascending")])
        chosen = table.take(order[:num_values] if num_values is not None else order)
        return list(zip(chosen["key"].to_pylist(), chosen["count"].to_pylist(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs, as plain JSON values.

        Returns
        -------
        dict
            With ``values`` and ``counts`` as lists, by falling count.
        """
        top = self.top()
        return {
            "max_size": self.max_size,
            "count": self.count,
            "missing": self.missing,
            "max_error": self.max_error,
            "num_distinct": self.num_distinct,
            "values": [value for value, _ in top],
            "counts": [count for _, count in top],
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
        Categories
            With the same results as the first.
        """
        categories = cls(state["max_size"])
        if state["values"]:
            categories._keys = category_keys(pa.array(state["values"]))
            categories._counts = np.array(state["counts"], np.int64)
        categories.count, categories.missing = state["count"], state["missing"]
        categories.max_error, categories._most_seen = state["max_error"], state["num_distinct"]
        return categories


def _count_chunk(chunk: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Count the distinct values of one chunk: (keys, int64 counts), without missing ones."""
    if isinstance(chunk, pa.ExtensionArray):
        chunk = chunk.storage
    if pa.types.is_dictionary(chunk.type):
        # by code: decoding a million rows of text to count twenty values would cost most of the pass
        counted = pc.value_counts(chunk.indices.drop_null())
        values = chunk.dictionary.take(counted.field(0))
    else:
        if pa.types.is_float16(chunk.type):
            chunk = chunk.cast(pa.float32())
        elif pa.types.is_string_view(chunk.type):
            chunk = chunk.cast(pa.large_string())
        try:
            counted = pc.value_counts(chunk)
        except pa.ArrowNotImplementedError:
            raise DataError(f"values of type {chunk.type} have no categories; leave the column out") from None
        values = counted.field(0)
    keys, counts = category_keys(values), counted.field(1).to_numpy()
    present = keys.is_valid()
    if pa.types.is_floating(keys.type):
        present = pc.and_(present, pc.invert(pc.fill_null(pc.is_nan(keys), True)))
    is_present = present.to_numpy(zero_copy_only=False)
    return (keys, counts) if is_present.all() else (keys.filter(present), counts[is_present])


def _concat_keys(parts: Sequence[pa.Array]) -> pa.Array:
    """Join keys; where chunks differ in type, numbers become floats and all else text."""
    dtypes = {part.type for part in parts}
    if len(dtypes) > 1:
        are_numbers = all(pa.types.is_integer(dtype) or pa.types.is_floating(dtype) for dtype in dtypes)
        common = pa.float64() if are_numbers else pa.large_string()
        parts = [part.cast(common, safe=False) for part in parts]
    return pa.concat_arrays(parts)
