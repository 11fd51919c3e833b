"""How many rows repeat a key that was there before: exact while the keys fit, by a sample of keys beyond."""

from __future__ import annotations

import math
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa

from dtk.errors import ArgumentError
from dtk.statistics.hashed_rows import checked_rows, first_limit, hash_rows
from dtk.statistics.hashing import hash_keys
from dtk.statistics.serial import array_from_json, array_to_json

__all__ = ["Uniqueness"]

_MASK: Final = 2**64 - 1
_NO_ROW: Final = 2**63 - 1
_CONSOLIDATE_AT: Final = 65_536
_CONFIDENCE: Final = 0.99
_NORMAL_QUANTILE: Final = 2.576  # two-sided, at that confidence
_FIELDS: Final = ("hashes", "counts", "first_rows", "second_rows")


class Uniqueness:
    """Which keys occur more than once: values of a column, or of several columns together.

    Exact while there are at most `max_keys` distinct keys. Beyond that it knows all rows of the keys with the smallest
    hashes, a sample of keys that does not depend on chunking, and says how far its answer can be off. A row in which
    a part of the key is missing has no key.

    Parameters
    ----------
    max_keys : int
        Most distinct keys to hold; each takes 32 bytes.
    total_rows : int, optional
        Rows of the whole data, if that is known: each of the parts that are merged then holds its share of the keys
        only, as if all rows had different ones. More rows than `max_keys` are then judged by a sample in any case.

    Attributes
    ----------
    count : int
        Rows that have a key.
    missing : int
        Rows that have none.

    Raises
    ------
    ArgumentError
        If `max_keys` is less than 2.

    Notes
    -----
    A key is known by a hash of 64 bits, which is one to one for integers, dates and times. Two of n different strings,
    or floats, have the same one with a probability of n**2 / 2**65: 2e-6 for 8 million. The keys with the smallest
    hashes are the sample of Bar-Yossef et al., "Counting distinct elements in a data stream" (2002).

    Examples
    --------
    >>> keys = Uniqueness()
    >>> keys.update(pa.array(["a", "b", "a", None]), np.arange(4))
    >>> keys.num_repeated, keys.first_repeat, keys.is_exact
    (1, 2, True)
    """

    def __init__(self, max_keys: int = 8_000_000, *, total_rows: int | None = None) -> None:
        if max_keys < 2:
            raise ArgumentError(f"max_keys={max_keys!r} must be at least 2")
        self.max_keys = max_keys
        self.count = 0
        self.missing = 0
        self._limit = _MASK if total_rows is None else first_limit(max_keys, total_rows)
        self._parts: list[tuple[np.ndarray, ...]] = []  # hash, rows, first and second row of each key
        self._num_held = 0
        self._num_sorted = 0

    def update(self, values: pa.Array | pa.ChunkedArray | pa.Table, row: np.ndarray | None = None) -> None:
        """Take in one chunk.

        Parameters
        ----------
        values : pyarrow.Array, pyarrow.ChunkedArray or pyarrow.Table
            Shape [rows]; the columns of a table are one key together.
        row : numpy.ndarray
            int64 [rows]: the number of each row in the whole data.

        Raises
        ------
        ArgumentError
            If `row` is not given, or has another length than `values`.
        DataError
            If the type has no keys.
        """
        row = checked_rows(row, len(values))
        columns = values.columns if isinstance(values, pa.Table) else [values]
        hashes, present = np.zeros(len(values), np.uint64), np.ones(len(values), bool)
        for column in columns:
            of_column, has_value = hash_keys(column)
            hashes = of_column if len(columns) == 1 else hash_rows((hash_rows(hashes) ^ of_column).view(np.int64))
            present &= has_value
        num_present = int(np.count_nonzero(present))
        self.count += num_present
        self.missing += len(values) - num_present
        chosen = np.flatnonzero(present & (hashes <= np.uint64(self._limit)))
        ones, none = np.ones(len(chosen), np.int64), np.full(len(chosen), _NO_ROW, np.int64)
        self._add((hashes[chosen], ones, row[chosen], none))

    def _add(self, part: tuple[np.ndarray, ...]) -> None:
        if len(part[0]):
            self._parts.append(part)
            self._num_held += len(part[0])
            if self._num_held > self._num_sorted + max(_CONSOLIDATE_AT, self._num_sorted // 2):
                self._consolidate()

    def _consolidate(self) -> None:
        """Make one entry of each key, and keep those with the smallest hashes."""
        if len(self._parts) > 1 or (self._parts and self._num_sorted == 0):
            columns = [np.concatenate(parts) for parts in zip(*self._parts, strict=True)]
            within = columns[0] <= np.uint64(self._limit)
            hashes, counts, first, second = (column[within] for column in columns)
            order = np.argsort(hashes)
            hashes, counts, first, second = _one_a_key(hashes[order], counts[order], first[order], second[order])
            if len(hashes) > self.max_keys:
                self._limit = int(hashes[self.max_keys - 1])
            self._parts = [tuple(column[: self.max_keys] for column in (hashes, counts, first, second))]
            self._num_held = self._num_sorted = min(len(hashes), self.max_keys)

    def merge(self, other: Self) -> None:
        """Take in what another object has seen.

        Parameters
        ----------
        other : Uniqueness
            Left as it is; of the same limit, and of other rows.

        Raises
        ------
        ArgumentError
            If the limits differ.
        """
        if self.max_keys != other.max_keys:
            raise ArgumentError(
                f"other has max_keys={other.max_keys} where this has {self.max_keys}; give both the same"
            )
        self.count += other.count
        self.missing += other.missing
        if other._limit < self._limit:
            self._limit, self._num_sorted = other._limit, 0
        for part in other._parts:
            self._add(part)

    @property
    def _keys(self) -> tuple[np.ndarray, ...]:
        self._consolidate()
        empty = np.empty(0, np.int64)
        return self._parts[0] if self._parts else (np.empty(0, np.uint64), empty, empty, empty)

    @property
    def share(self) -> float:
        """The share of keys that are looked at: 1 while exact."""
        self._consolidate()
        return (self._limit + 1) / 2**64

    @property
    def is_exact(self) -> bool:
        """Whether every key was looked at."""
        return self.share == 1

    @property
    def num_repeated(self) -> int:
        """Rows whose key is in an earlier row, too; an estimate unless exact."""
        repeats = int((self._keys[1] - 1).sum())
        return repeats if self.is_exact else round(repeats / self.share)

    @property
    def error(self) -> int:
        """How far `num_repeated` can be off, with 99% confidence; without any, the keys that may repeat unnoticed."""
        share = self.share
        if share == 1:
            return 0
        extra = (self._keys[1] - 1).astype(np.float64)
        if not extra.any():
            return math.floor(math.log(1 - _CONFIDENCE) / math.log1p(-share))
        return math.ceil(_NORMAL_QUANTILE * math.sqrt((1 - share) * float(np.sum(extra**2))) / share)

    @property
    def first_repeat(self) -> int | None:
        """The first row whose key is in an earlier row, too, among the keys that are looked at; None without one."""
        rows = self._keys[3]
        first = int(rows.min(initial=_NO_ROW))
        return None if first == _NO_ROW else first

    def result(self) -> dict[str, Any]:
        """Return what it says, by name.

        Returns
        -------
        dict
            ``count``, ``missing``, ``num_repeated``, ``error``, ``share`` and ``first_repeat``.
        """
        names = ("count", "missing", "num_repeated", "error", "share", "first_repeat")
        return {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs, as plain JSON values.

        Returns
        -------
        dict
            The keys in the order of their hashes.
        """
        keys = {name: array_to_json(column) for name, column in zip(_FIELDS, self._keys, strict=True)}
        return {
            "max_keys": self.max_keys,
            "count": self.count,
            "missing": self.missing,
            "limit": self._limit,
            "keys": keys,
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
        Uniqueness
            With the same results as the first.
        """
        keys = cls(state["max_keys"])
        keys.count, keys.missing, keys._limit = state["count"], state["missing"], state["limit"]
        keys._add(tuple(array_from_json(state["keys"][name]) for name in _FIELDS))
        return keys


def _one_a_key(
    hashes: np.ndarray, counts: np.ndarray, first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fold entries that are sorted by their hashes."""
    is_start = np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)]
    starts = np.flatnonzero(is_start)
    if len(starts) == len(hashes):
        return hashes, counts, first, second
    least = np.minimum.reduceat(first, starts)
    group = np.cumsum(is_start) - 1
    others = np.where(first == least[group], _NO_ROW, first)  # rows are told apart by their numbers
    second = np.minimum.reduceat(np.minimum(second, others), starts)
    return hashes[starts], np.add.reduceat(counts, starts), least, second
