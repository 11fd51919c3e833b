"""Rows chosen by the hash of their number: the same ones however the data is cut."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import pyarrow as pa

from dtk.errors import ArgumentError
from dtk.statistics.serial import array_from_json, array_to_json

__all__ = ["HashedRows", "checked_rows", "first_limit", "hash_rows", "splitmix64"]

_MASK = 2**64 - 1
_PART_ROWS = 65_536
_MANY_ROWS = 262_144
_BLOCK_ROWS = 32_768  # what stays in a core's cache


class HashedRows:
    """The rows with the smallest hash of their number, and something held of each of them.

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
    """

    def __init__(self, size: int, *, seed: int = 0, total_rows: int | None = None) -> None:
        if size < 1:
            raise ArgumentError(f"size={size!r} must be at least 1")
        self.size = size
        self.seed = seed
        self.num_rows = 0
        self._limit = _MASK if total_rows is None else first_limit(size, total_rows)  # no larger hash can enter
        self._hashes: list[np.ndarray] = []
        self._held: list[Any] = []  # of the same rows as the hashes
        self._num_held = 0
        self._is_sorted = True

    def _join(self, parts: list[Any]) -> Any:
        """Return what is held of several parts as one; the list is the callee's."""
        raise NotImplementedError

    def _take(self, part: Any, index: np.ndarray) -> Any:
        """Return what is held of some rows of a part."""
        raise NotImplementedError

    def _choose(self, num_rows: int, row: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of rows that may stay, and their hashes."""
        hashes = hash_rows(checked_rows(row, num_rows), seed=self.seed)
        self.num_rows += num_rows
        chosen = np.flatnonzero(hashes <= np.uint64(self._limit))
        return chosen, hashes if len(chosen) == num_rows else hashes[chosen]

    def _hold(self, hashes: np.ndarray, held: Any) -> None:
        if not len(hashes):
            return
        self._is_sorted = False
        self._hashes.append(hashes)
        self._held.append(held)
        self._num_held += len(hashes)
        while len(self._hashes) > 1 and len(self._hashes[-2]) < min(2 * len(self._hashes[-1]), _PART_ROWS):
            self._join_last(2)  # parts stay few, and each row is copied a few times only
        if self._num_held > 2 * self.size:
            self._prune()

    def _join_last(self, num_parts: int) -> None:
        self._hashes[-num_parts:] = [np.concatenate(self._hashes[-num_parts:])]
        parts = self._held[-num_parts:]
        del self._held[-num_parts:]
        self._held.append(self._join(parts))

    def _prune(self) -> None:
        """Keep the `size` smallest hashes."""
        if self._num_held <= self.size:
            return
        together = np.concatenate(self._hashes)
        together.partition(self.size - 1)
        self._limit = int(together[self.size - 1])
        del together
        parts = list(zip(reversed(self._hashes), reversed(self._held), strict=True))
        self._hashes, self._held = [], []
        while parts:  # each is let go of before the next one is copied
            hashes, held = parts.pop()
            index = np.flatnonzero(hashes <= np.uint64(self._limit))
            if len(index):
                is_whole = len(index) == len(hashes)
                self._hashes.append(hashes if is_whole else hashes[index])
                self._held.append(held if is_whole else self._take(held, index))
        self._num_held = sum(map(len, self._hashes))
        self._release()

    def _release(self) -> None:
        """Give back the memory of parts that were copied, or it stays between what is held."""
        if self._num_held >= _MANY_ROWS:
            pa.default_memory_pool().release_unused()

    def _gather(self) -> None:
        """Keep the `size` smallest hashes in one part."""
        self._prune()
        if len(self._hashes) > 1:
            self._join_last(len(self._hashes))
            self._release()

    def _sort(self) -> None:
        """Keep the `size` smallest hashes in one part, in their order."""
        self._gather()
        if not self._is_sorted:
            order = np.argsort(self._hashes[0])
            self._hashes, self._held = [self._hashes[0][order]], [self._take(self._held[0], order)]
            self._is_sorted = True

    def merge(self, other: Self) -> None:
        """Take in what another object has seen.

        Parameters
        ----------
        other : HashedRows
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
        for hashes, held in zip(other._hashes, other._held, strict=True):
            self._hold(hashes, held)

    @property
    def is_exact(self) -> bool:
        """Whether the sample holds every row."""
        return self._num_held == self.num_rows <= self.size

    @property
    def num_sampled(self) -> int:
        """How many rows it holds."""
        return min(self._num_held, self.size)

    def _state(self) -> dict[str, Any]:
        """Return all but what is held, as plain JSON values."""
        self._sort()
        hashes = self._hashes[0] if self._hashes else np.empty(0, np.uint64)
        return {
            "size": self.size,
            "seed": self.seed,
            "num_rows": self.num_rows,
            "limit": self._limit,
            "hashes": array_to_json(hashes),
        }

    def _restore(self, state: dict[str, Any], held: Any) -> None:
        """Take on a state, and what was held."""
        self.num_rows, self._limit = state["num_rows"], state["limit"]
        self._replace(array_from_json(state["hashes"]), held)

    def _hand_over(self, other: HashedRows, held: Any) -> None:
        """Make another one of the same rows; here they have been pruned."""
        other.num_rows, other._limit, other._is_sorted = self.num_rows, self._limit, self._is_sorted
        hashes = self._hashes if len(self._hashes) == 1 else [np.concatenate([np.empty(0, np.uint64), *self._hashes])]
        other._replace(hashes[0], held)  # never changed in place, so that both may hold them

    def _replace(self, hashes: np.ndarray, held: Any) -> None:
        self._hashes, self._held = ([hashes], [held]) if len(hashes) else ([], [])
        self._num_held = len(hashes)


def checked_rows(row: np.ndarray | None, num_rows: int) -> np.ndarray:
    """Check that rows are numbered.

    Parameters
    ----------
    row : numpy.ndarray or None
        Their numbers.
    num_rows : int
        How many they are.

    Returns
    -------
    numpy.ndarray
        int64 [rows].

    Raises
    ------
    ArgumentError
        If there are none, or not as many.
    """
    if row is None or len(row) != num_rows:
        raise ArgumentError(
            f"row={'None' if row is None else f'[{len(row)}]'} does not number the {num_rows} values; "
            "give one global row number for each"
        )
    return np.asarray(row, np.int64)


def first_limit(size: int, total_rows: int) -> int:
    """Return a hash that at least `size` of so many rows lie below, but for a chance of 1e-15.

    Parameters
    ----------
    size : int
        Rows that are wanted.
    total_rows : int
        Rows of the whole data.

    Returns
    -------
    int
        The largest hash that can matter.
    """
    wanted = size + 8 * math.sqrt(size) + 32  # the standard deviation of their number is less than sqrt(wanted)
    return _MASK if wanted >= total_rows else int(_MASK / total_rows * wanted)


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
    start = splitmix64(np.array([seed & _MASK], np.uint64))
    hashes = np.asarray(row).astype(np.uint64)
    for begin in range(0, len(hashes), _BLOCK_ROWS):
        block = hashes[begin : begin + _BLOCK_ROWS]
        block ^= start
        splitmix64(block)
    return hashes


def splitmix64(state: np.ndarray) -> np.ndarray:
    """Mix 64-bit values in place, by splitmix64 (Steele, Lea and Flood 2014): no two become the same.

    Parameters
    ----------
    state : numpy.ndarray
        uint64 [values].

    Returns
    -------
    numpy.ndarray
        The same array.
    """
    state += np.uint64(0x9E3779B97F4A7C15)
    state ^= state >> np.uint64(30)
    state *= np.uint64(0xBF58476D1CE4E5B9)
    state ^= state >> np.uint64(27)
    state *= np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return state
