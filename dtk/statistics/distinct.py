"""The number of distinct values: exact while there are few, estimated from then on."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dtk.errors import ArgumentError, DataError
from dtk.statistics.hashing import hash_values
from dtk.statistics.kinds import plain_chunks
from dtk.statistics.serial import array_from_json, array_to_json

__all__ = ["Distinct"]

_DIVERSE_ROWS = 4096


class Distinct:
    """How many distinct values a column has.

    Exact while there are at most `max_exact` of them; an estimate of HyperLogLog from then on. The answer is the same
    for every chunking and every order of merging, also beyond the limit.

    Parameters
    ----------
    max_exact : int
        Most distinct values to count exactly, in 8 bytes each; in between up to four times as many hashes wait.
    precision : int
        Binary logarithm of the number of registers for more than that, 4 to 18; each takes a byte.

    Attributes
    ----------
    count : int
        Values that are present.
    missing : int
        Nulls and NaN.

    Raises
    ------
    ArgumentError
        If `max_exact` is less than 1, or `precision` out of range.

    Notes
    -----
    Values are told apart by a hash of 64 bits, which takes two of 100,000 texts for one with a chance of 3e-10.
    Flajolet, Fusy, Gandouet and Meunier, "HyperLogLog" (2007), with the estimator of Ertl, "New cardinality estimation
    algorithms for HyperLogLog sketches" (2017), which has no bias.

    Examples
    --------
    >>> distinct = Distinct()
    >>> distinct.update(pa.array(["UA", "AA", None, "UA"]))
    >>> distinct.num_distinct, distinct.missing, distinct.relative_error
    (2, 1, 0.0)
    """

    def __init__(self, max_exact: int = 131_072, *, precision: int = 16) -> None:
        if max_exact < 1:
            raise ArgumentError(f"max_exact={max_exact!r} must be at least 1")
        if not 4 <= precision <= 18:
            raise ArgumentError(f"precision={precision!r} must lie between 4 and 18")
        self.max_exact = max_exact
        self.precision = precision
        self.count = 0
        self.missing = 0
        self._hashes = np.empty(0, np.uint64)  # while exact
        self._pending: list[np.ndarray] = []
        self._num_pending = 0
        self._registers: np.ndarray | None = None
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
            present, num_present = self._distinct_of(chunk)
            self.count += num_present
            self.missing += len(chunk) - num_present
            self._add(hash_values(present))

    def _distinct_of(self, chunk: pa.Array) -> tuple[pa.Array, int]:
        """Return the values of a chunk, without repeats where there are many, and how many are present."""
        if pa.types.is_dictionary(chunk.type):
            return _used(chunk)
        (plain,) = plain_chunks(chunk)
        present = plain.drop_null()
        if pa.types.is_floating(plain.type):
            present = present.cast(pa.float64())
            present = present.filter(pc.invert(pc.is_nan(present)))
        if self._is_diverse:
            return present, len(present)
        try:
            distinct = pc.unique(present)
        except pa.ArrowNotImplementedError:
            raise DataError(f"values of type {chunk.type} have no categories; leave the column out") from None
        self._is_diverse = len(present) >= _DIVERSE_ROWS and len(distinct) > len(present) // 2
        return distinct, len(present)

    def _add(self, hashes: np.ndarray) -> None:
        if self._registers is not None:
            self._register(hashes)
        elif len(hashes):
            self._pending.append(hashes)
            self._num_pending += len(hashes)
            if self._num_pending > max(4 * self.max_exact, _DIVERSE_ROWS):
                self._consolidate()

    def _consolidate(self) -> None:
        """Sort out what is pending, and go over to registers beyond the limit."""
        if not self._pending:
            return
        self._hashes = pc.unique(pa.array(np.concatenate([self._hashes, *self._pending]))).to_numpy()
        self._pending, self._num_pending = [], 0
        if len(self._hashes) > self.max_exact:
            hashes, self._hashes = self._hashes, np.empty(0, np.uint64)
            self._registers = np.zeros(2**self.precision, np.uint8)
            self._register(hashes)

    def _register(self, hashes: np.ndarray) -> None:
        assert self._registers is not None
        number = (hashes >> np.uint64(64 - self.precision)).astype(np.int64)
        rest_bits = min(64 - self.precision, 52)  # those that float64 holds
        rest = hashes & np.uint64(2**rest_bits - 1)
        first_one = (rest_bits + 1 - np.frexp(rest.astype(np.float64))[1]).astype(np.uint8)
        larger = np.flatnonzero(first_one > self._registers[number])  # few, soon
        np.maximum.at(self._registers, number[larger], first_one[larger])

    def merge(self, other: Self) -> None:
        """Take in what another object has seen.

        Parameters
        ----------
        other : Distinct
            Left as it is; of the same limit and precision.

        Raises
        ------
        ArgumentError
            If limit or precision differ.
        """
        if (self.max_exact, self.precision) != (other.max_exact, other.precision):
            raise ArgumentError(
                f"other has max_exact={other.max_exact}, precision={other.precision} where this has "
                f"max_exact={self.max_exact}, precision={self.precision}; only equal ones merge"
            )
        self.count += other.count
        self.missing += other.missing
        if other._registers is not None:
            self._consolidate()
            if self._registers is None:
                hashes, self._hashes = self._hashes, np.empty(0, np.uint64)
                self._registers = other._registers.copy()
                self._register(hashes)
            else:
                self._registers = np.maximum(self._registers, other._registers)
        for hashes in (other._hashes, *other._pending):
            self._add(hashes)

    @property
    def is_exact(self) -> bool:
        """Whether the values were counted, and not estimated."""
        self._consolidate()
        return self._registers is None

    @property
    def relative_error(self) -> float:
        """The estimate's standard deviation as a share of it; 0 while exact."""
        return 0.0 if self.is_exact else 1.04 / math.sqrt(2**self.precision)

    @property
    def num_distinct(self) -> int:
        """The number of distinct values."""
        self._consolidate()
        return len(self._hashes) if self._registers is None else round(_estimate(self._registers, self.precision))

    def result(self) -> dict[str, Any]:
        """Return what it says.

        Returns
        -------
        dict
            ``count``, ``missing``, ``num_distinct``, ``is_exact`` and ``relative_error``.
        """
        return {
            "count": self.count,
            "missing": self.missing,
            "num_distinct": self.num_distinct,
            "is_exact": self.is_exact,
            "relative_error": self.relative_error,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs, as plain JSON values.

        Returns
        -------
        dict
            With the hashes or the registers in base64.
        """
        self._consolidate()
        return {
            "max_exact": self.max_exact,
            "precision": self.precision,
            "count": self.count,
            "missing": self.missing,
            "hashes": array_to_json(np.sort(self._hashes)),
            "registers": None if self._registers is None else array_to_json(self._registers),
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
        Distinct
            Equal to the first.
        """
        distinct = cls(state["max_exact"], precision=state["precision"])
        distinct.count, distinct.missing = state["count"], state["missing"]
        distinct._hashes = array_from_json(state["hashes"])
        distinct._registers = None if state["registers"] is None else array_from_json(state["registers"])
        return distinct


def _used(chunk: pa.DictionaryArray) -> tuple[pa.Array, int]:
    """Return the values of a dictionary that occur, and how many rows have one."""
    codes = chunk.indices.drop_null()
    counts = np.bincount(codes.to_numpy(), minlength=len(chunk.dictionary))
    used = np.flatnonzero(counts)
    values = chunk.dictionary.take(pa.array(used))
    present = values.is_valid()
    if pa.types.is_floating(values.type):
        present = pc.and_(present, pc.invert(pc.fill_null(pc.is_nan(values.cast(pa.float64())), True)))
    return values.filter(present), int(counts[used[present.to_numpy(zero_copy_only=False)]].sum())


def _estimate(registers: np.ndarray, precision: int) -> float:
    """Estimate how many different hashes were registered: Ertl 2017, algorithm 6."""
    rest_bits = min(64 - precision, 52)
    num_registers = len(registers)
    counts = np.bincount(registers, minlength=rest_bits + 2).tolist()
    total = num_registers * _tau(1 - counts[rest_bits + 1] / num_registers)
    for value in range(rest_bits, 0, -1):
        total = 0.5 * (total + counts[value])
    total += num_registers * _sigma(counts[0] / num_registers)
    return num_registers**2 / (2 * math.log(2)) / total if math.isfinite(total) else 0.0


def _sigma(share: float) -> float:
    if share == 1:
        return math.inf
    total, step = share, 1.0
    while True:
        share *= share
        before = total
        total += share * step
        step += step
        if total == before:
            return total


def _tau(share: float) -> float:
    if share in (0, 1):
        return 0.0
    total, step = 1 - share, 1.0
    while True:
        share = math.sqrt(share)
        before = total
        step *= 0.5
        total -= (1 - share) ** 2 * step
        if total == before:
            return total / 3
