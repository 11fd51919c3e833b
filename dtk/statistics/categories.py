"""Counts of distinct values, exact up to a limit and with a stated error beyond it."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dtk.errors import ArgumentError, DataError
from dtk.statistics.compiled_sums import count_codes
from dtk.statistics.key_counts import Counted, KeyCounts, num_bytes
from dtk.statistics.keys import category_keys
from dtk.statistics.kinds import stored_numbers
from dtk.statistics.serial import number_from_json, number_to_json

__all__ = ["Categories"]

Key = str | int | float | bool
_CONSOLIDATE_AT = 65_536
_DIVERSE_ROWS = 4096


class Categories:
    """How often each value of a column occurs.

    Exact while the column has at most `max_size` distinct values, and they and their counts fit into `max_bytes`.
    Beyond that the frequent ones stay, their counts are too low by at most `max_error`, and a value that is left out
    occurs at most `max_error` times.

    Parameters
    ----------
    max_size : int
        Most distinct values to hold; at least 2.
    max_bytes : int
        Most bytes to hold between two chunks, a quarter of them for values not yet sorted into the others; at least
        4,096. Each value takes about 16 and its text.

    Attributes
    ----------
    count : int
        Values that are present, those left out included.
    missing : int
        Nulls and NaN.
    max_error : int
        How much too low a count can be; 0 while exact.

    Raises
    ------
    ArgumentError
        If `max_size` is less than 2, or `max_bytes` less than 4,096.

    Notes
    -----
    Keys are strings, integers, floats or booleans, see `dtk.statistics.category_keys`. Beyond the limit this is the
    algorithm of Misra and Gries, merged as in Agarwal et al., "Mergeable summaries" (2012): with n values seen,
    `max_error` is at most ``n / (max_size // 2)`` as long as `max_bytes` suffices.

    Examples
    --------
    >>> categories = Categories()
    >>> categories.update(pa.array(["UA", "AA", None, "UA"]))
    >>> categories.counts, categories.missing, categories.is_exact
    ({'UA': 2, 'AA': 1}, 1, True)
    >>> categories.filled("AA").counts
    {'AA': 2, 'UA': 2}
    """

    def __init__(self, max_size: int = 1_000_000, max_bytes: int = 64 * 2**20) -> None:
        if max_size < 2:
            raise ArgumentError(f"max_size={max_size!r} must be at least 2")
        if max_bytes < 4096:
            raise ArgumentError(f"max_bytes={max_bytes!r} must be at least 4096")
        self.max_size = max_size
        self.max_bytes = max_bytes
        self.count = 0
        self.missing = 0
        self.max_error = 0
        self._most_seen = 0
        self._held = KeyCounts()
        self._pending: list[Counted] = []
        self._num_pending = 0
        self._pending_bytes = 0
        self._is_diverse = False

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
            # counting what is mostly different would only be done twice
            counting = _single_keys if self._is_diverse and _is_plain(chunk.type) else _count_chunk
            keys, counts = counting(chunk)
            self._is_diverse |= len(chunk) >= _DIVERSE_ROWS and len(keys) > len(chunk) // 2
            self.add(keys, counts)
            self.missing += len(chunk) - int(counts.sum())

    def add(self, keys: pa.Array, counts: np.ndarray) -> None:
        """Take in what was counted elsewhere.

        Parameters
        ----------
        keys : pyarrow.Array
            Shape [keys]: as `dtk.statistics.category_keys` returns them, without nulls; repeats are added up.
        counts : numpy.ndarray
            int64 [keys].
        """
        if len(keys):
            self.count += int(counts.sum())
            self._pending.append((keys, counts))
            self._num_pending += len(keys)
            self._pending_bytes += num_bytes(keys)
            is_full = self._pending_bytes > self.max_bytes // 4
            if is_full or self._num_pending > max(_CONSOLIDATE_AT, 4 * len(self._held)):
                self._consolidate()

    def _consolidate(self) -> None:
        """Fold what is pending into the sorted-out keys, and drop rare ones beyond the limits."""
        if not self._pending:
            return
        self._held.fold(self._pending)
        self._pending, self._num_pending, self._pending_bytes = [], 0, 0
        self._most_seen = max(self._most_seen, len(self._held))
        if len(self._held) > self.max_size:
            counts = self._held.counts
            first_dropped = len(counts) - self.max_size // 2 - 1
            self._drop(int(np.partition(counts, first_dropped)[first_dropped]))
        most_bytes = self.max_bytes // 2
        if self._held.nbytes > most_bytes:
            counts = self._held.counts
            falling = np.argsort(-counts)
            num_kept = np.searchsorted(np.cumsum(self._held.bytes_each[falling]), most_bytes // 2, "right")
            self._drop(int(counts[falling[num_kept]]))

    def _drop(self, excess: int) -> None:
        """Lower all counts by as much, and let go of the values that have none left."""
        self._held.lower(excess)
        self.max_error += excess

    def merge(self, other: Self) -> None:
        """Take in what another object has seen.

        Parameters
        ----------
        other : Categories
            Left as it is; of the same limits.
        """
        count = self.count + other.count  # after the other dropped some, its counts add up to less
        self.missing += other.missing
        self.max_error += other.max_error
        self._most_seen = max(self._most_seen, other._most_seen)
        if not len(self._held) and not self._pending:
            self._held.set(other._held.buckets)
        else:
            for keys, counts in other._held.buckets:
                self.add(keys, counts)
        for keys, counts in other._pending:
            self.add(keys, counts)
        self.count = count

    def __getstate__(self) -> dict[str, Any]:
        """Pickle what is sorted out: pending values may be slices of a whole chunk."""
        compact = object.__new__(type(self))
        compact.__dict__ |= self.__dict__
        compact._held = KeyCounts()
        compact._held.set(self._held.buckets)
        compact._consolidate()
        return compact.__dict__

    def filled(self, value: Key) -> Categories:
        """Return what the counts would be if missing values had been replaced.

        Parameters
        ----------
        value : str, int, float or bool
            The category that missing values become.

        Returns
        -------
        Categories
            Without missing values.
        """
        filled = Categories(self.max_size, self.max_bytes)
        filled.merge(self)
        if self.missing:
            filled.add(category_keys(pa.array([value])), np.array([self.missing], np.int64))
        filled.missing = 0
        return filled

    def forget(self) -> None:
        """Let go of all values, where there are so many that none is of use: `num_distinct` stays, as a lower bound."""
        self._consolidate()
        self.max_error += int(self._held.counts.max(initial=0))
        self._held = KeyCounts()

    @property
    def nbytes(self) -> int:
        """Bytes of the values and counts that are held."""
        return self._held.nbytes + self._pending_bytes

    @property
    def note(self) -> str:
        """What was cut, in words; empty while exact."""
        if self.is_exact:
            return ""
        left_out = self.count - int(self._held.counts.sum())
        return (
            f"more distinct values than max_size={self.max_size:,} and max_bytes={self.max_bytes:,} hold: "
            f"{len(self._held):,} of at least {self._most_seen:,} were kept, their counts are too low by at most "
            f"{self.max_error:,}, and those left out occur at most {self.max_error:,} times each; "
            f"{left_out:,} of {self.count:,} rows are not counted"
        )

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
        if not len(self._held):
            return []
        table = pa.table({"key": self._held.keys, "count": self._held.counts})
        order = pc.sort_indices(table, sort_keys=[("count", "descending"), ("key", "ascending")])
        chosen = table.take(order[:num_values] if num_values is not None else order)
        return list(zip(chosen["key"].to_pylist(), chosen["count"].to_pylist(), strict=True))

    def result(self) -> dict[str, Any]:
        """Return what the counts say.

        Returns
        -------
        dict
            ``count``, ``missing``, ``num_distinct`` (a lower bound unless ``max_error`` is 0), ``counts`` by value,
            ``max_error`` and ``note``, which says what was cut.
        """
        return {
            "count": self.count,
            "missing": self.missing,
            "num_distinct": self.num_distinct,
            "counts": self.counts,
            "max_error": self.max_error,
            "note": self.note,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs, as plain JSON values.

        Returns
        -------
        dict
            With ``values`` and ``counts`` as lists, by falling count. Floats that JSON cannot write are strings.
        """
        top = self.top()
        dtype = self._held.keys.type
        is_float = pa.types.is_floating(dtype)
        return {
            "max_size": self.max_size,
            "max_bytes": self.max_bytes,
            "count": self.count,
            "missing": self.missing,
            "max_error": self.max_error,
            "num_distinct": self.num_distinct,
            "dtype": str(dtype),
            "values": [number_to_json(value) if is_float else value for value, _ in top],  # type: ignore[arg-type]
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
        categories = cls(state["max_size"], state["max_bytes"])
        dtype = pa.type_for_alias(state["dtype"])
        values = map(number_from_json, state["values"]) if pa.types.is_floating(dtype) else state["values"]
        categories._held.set([(pa.array(values, dtype), np.array(state["counts"], np.int64))])
        categories.count, categories.missing = state["count"], state["missing"]
        categories.max_error, categories._most_seen = state["max_error"], state["num_distinct"]
        return categories


def _count_chunk(chunk: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Count the distinct values of one chunk: (keys, int64 counts), without missing ones."""
    if isinstance(chunk, pa.ExtensionArray):
        chunk = chunk.storage
    if pa.types.is_dictionary(chunk.type):
        return _count_codes(chunk)
    if pa.types.is_float16(chunk.type):
        chunk = chunk.cast(pa.float32())
    elif pa.types.is_string_view(chunk.type):
        chunk = chunk.cast(pa.large_string())
    try:
        counted = pc.value_counts(chunk)
    except pa.ArrowNotImplementedError:
        raise DataError(f"values of type {chunk.type} have no categories; leave the column out") from None
    return _present_keys(counted.field(0), counted.field(1).to_numpy())


def _is_plain(dtype: pa.DataType) -> bool:
    """Say whether making keys of such values costs next to nothing."""
    is_text = pa.types.is_string(dtype) or pa.types.is_large_string(dtype)
    return bool(is_text or pa.types.is_integer(dtype) or pa.types.is_floating(dtype))


def _single_keys(chunk: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Return each value by itself, as if counted."""
    return _present_keys(chunk, np.ones(len(chunk), np.int64))


def _count_codes(chunk: pa.DictionaryArray) -> tuple[pa.Array, np.ndarray]:
    """Count by code: decoding a million rows of text to count twenty values would cost most of the pass."""
    if len(chunk.dictionary) > max(1024, len(chunk)):
        counted = pc.value_counts(chunk.indices.drop_null())
        return _present_keys(chunk.dictionary.take(counted.field(0)), counted.field(1).to_numpy())
    counts = count_codes(stored_numbers(chunk.indices)[0], chunk.indices, len(chunk.dictionary))
    if counts is None:
        counts = np.bincount(chunk.indices.drop_null().to_numpy(), minlength=len(chunk.dictionary))
    occurs = np.flatnonzero(counts)
    return _present_keys(chunk.dictionary.take(pa.array(occurs)), counts[occurs])


def _present_keys(values: pa.Array, counts: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """Return values as keys, without missing ones, and their counts."""
    keys = category_keys(values)
    present = keys.is_valid()
    if pa.types.is_floating(keys.type):
        present = pc.and_(present, pc.invert(pc.fill_null(pc.is_nan(keys), True)))
    is_present = present.to_numpy(zero_copy_only=False)
    return (keys, counts) if is_present.all() else (keys.filter(present), counts[is_present])
