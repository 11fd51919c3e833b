"""Counts of distinct values, exact up to a limit and with a stated error beyond it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dtk.errors import ArgumentError, DataError
from dtk.statistics.keys import category_keys
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
        Most bytes to hold between two chunks, half of them for values not yet sorted into the others; at least 4,096.
        Each value takes about 16 and its text.

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
        self._keys: pa.Array = pa.nulls(0)
        self._counts = np.empty(0, np.int64)
        self._pending: list[tuple[pa.Array, np.ndarray]] = []
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
            self._pending_bytes += _num_bytes(keys)
            is_full = self._pending_bytes > self.max_bytes // 2
            if is_full or self._num_pending > max(_CONSOLIDATE_AT, 4 * len(self._keys)):
                self._consolidate()

    def _consolidate(self) -> None:
        """Fold what is pending into the sorted-out keys, and drop rare ones beyond the limits."""
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
        self._pending, self._num_pending, self._pending_bytes = [], 0, 0
        self._most_seen = max(self._most_seen, len(self._keys))
        if len(self._keys) > self.max_size:
            first_dropped = len(self._counts) - self.max_size // 2 - 1
            self._drop(int(np.partition(self._counts, first_dropped)[first_dropped]))
        most_bytes = self.max_bytes // 2
        if _num_bytes(self._keys) > most_bytes:
            falling = np.argsort(-self._counts)
            num_kept = np.searchsorted(np.cumsum(_bytes_each(self._keys)[falling]), most_bytes // 2, "right")
            self._drop(int(self._counts[falling[num_kept]]))

    def _drop(self, excess: int) -> None:
        """Lower all counts by as much, and let go of the values that have none left."""
        stays = self._counts > excess
        self._keys, self._counts = self._keys.filter(pa.array(stays)), self._counts[stays] - excess
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
        self.add(other._keys, other._counts)
        for keys, counts in other._pending:
            self.add(keys, counts)
        self.count = count

    def __getstate__(self) -> dict[str, Any]:
        """Pickle what is sorted out: pending values may be slices of a whole chunk."""
        compact = object.__new__(type(self))
        compact.__dict__ |= self.__dict__
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
        self.max_error += int(self._counts.max(initial=0))
        self._keys, self._counts = pa.nulls(0), np.empty(0, np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of the values and counts that are held."""
        return _num_bytes(self._keys) + self._pending_bytes

    @property
    def note(self) -> str:
        """What was cut, in words; empty while exact."""
        if self.is_exact:
            return ""
        left_out = self.count - int(self._counts.sum())
        return (
            f"more distinct values than max_size={self.max_size:,} and max_bytes={self.max_bytes:,} hold: "
            f"{len(self._keys):,} of at least {self._most_seen:,} were kept, their counts are too low by at most "
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
        if not len(self._keys):
            return []
        table = pa.table({"key": self._keys, "count": self._counts})
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
        is_float = pa.types.is_floating(self._keys.type)
        return {
            "max_size": self.max_size,
            "max_bytes": self.max_bytes,
            "count": self.count,
            "missing": self.missing,
            "max_error": self.max_error,
            "num_distinct": self.num_distinct,
            "dtype": str(self._keys.type),
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
        categories._keys = pa.array(values, dtype)
        categories._counts = np.array(state["counts"], np.int64)
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
    codes = chunk.indices.drop_null()
    if len(chunk.dictionary) > max(1024, len(codes)):
        counted = pc.value_counts(codes)
        return _present_keys(chunk.dictionary.take(counted.field(0)), counted.field(1).to_numpy())
    counts = np.bincount(codes.to_numpy(), minlength=len(chunk.dictionary))
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


def _concat_keys(parts: Sequence[pa.Array]) -> pa.Array:
    """Join keys; where chunks differ in type, numbers become floats and all else text."""
    dtypes = {part.type for part in parts}
    if len(dtypes) > 1:
        are_numbers = all(pa.types.is_integer(dtype) or pa.types.is_floating(dtype) for dtype in dtypes)
        common = pa.float64() if are_numbers else pa.large_string()
        parts = [part.cast(common, safe=False) for part in parts]
    return pa.concat_arrays(parts)


def _bytes_each(keys: pa.Array) -> np.ndarray:
    """Return the bytes that each key takes, with its count."""
    return 16 + (pc.binary_length(keys).to_numpy() if pa.types.is_large_string(keys.type) else np.zeros(len(keys), int))


def _num_bytes(keys: pa.Array) -> int:
    return int(keys.nbytes) + 8 * len(keys)
