"""Count, mean, variance, skewness, kurtosis and range in one pass."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa

from dtk.errors import ArgumentError
from dtk.statistics.central_sums import CentralSums, sums_of_block, sums_of_counts
from dtk.statistics.compiled_sums import sum_numbers
from dtk.statistics.kinds import Unit, stored_numbers
from dtk.statistics.number_blocks import as_floats, base_of, fill_absent, present_blocks, scratch

__all__ = ["Moments"]


class Moments:
    """Count, missing values, mean, variance, minimum and maximum of a column; skewness and kurtosis on request.

    Nulls and NaN are missing. Infinite values count: they make the mean infinite and the variance NaN, as in NumPy.
    Dates are nanoseconds since 1970, times and durations seconds, booleans 0 and 1.

    Parameters
    ----------
    order : {2, 4}
        The highest moment: 4 adds skewness and kurtosis.

    Attributes
    ----------
    order : int
        As given.
    missing : int
        Nulls and NaN.

    Raises
    ------
    ArgumentError
        If `order` is neither.

    Notes
    -----
    Parts merge by the method of Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing
    sample variances" (1979), which keeps its digits where the mean is much larger than the spread, and for the third
    and fourth moments by that of Pébay, "Formulas for robust, one-pass parallel computation of covariances and
    arbitrary-order statistical moments" (2008).

    Examples
    --------
    >>> moments = Moments()
    >>> moments.update(pa.array([1.0, None, 3.0]))
    >>> moments.count, moments.missing, moments.mean, moments.std
    (2, 1, 2.0, 1.0)
    >>> moments.filled(2.0).affine(10.0, 1.0).result()["mean"]
    21.0
    """

    def __init__(self, order: int = 2) -> None:
        if order not in (2, 4):
            raise ArgumentError(f"order={order!r} must be 2 or 4; skewness and kurtosis need 4")
        self.order = order
        self.missing = 0
        self._num_above = 0  # +inf
        self._num_below = 0  # -inf
        self._sums = CentralSums()  # of the finite values
        self._min: int | float = math.inf
        self._max: int | float = -math.inf

    def update(self, values: pa.Array | pa.ChunkedArray, row: np.ndarray | None = None) -> None:
        """Take in one chunk of a column.

        Parameters
        ----------
        values : pyarrow.Array or pyarrow.ChunkedArray
            Shape [rows]: numbers, booleans, dates, times, or dictionaries of them.
        row : numpy.ndarray, optional
            Not used.

        Raises
        ------
        DataError
            If the type has no meaning as a number.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            for chunk in values.chunks if isinstance(values, pa.ChunkedArray) else [values]:
                self._add_chunk(chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk)

    def _add_chunk(self, chunk: pa.Array) -> None:
        if pa.types.is_dictionary(chunk.type):
            if len(chunk.dictionary) > len(chunk):
                self._add_chunk(chunk.dictionary_decode())
            else:
                self._add_dictionary(chunk)
            return
        self.missing += chunk.null_count
        if chunk.null_count == len(chunk):
            return
        if pa.types.is_boolean(chunk.type):
            self._add_counts(np.array([0, 1]), np.array([chunk.false_count, chunk.true_count]), Unit())
            return
        numbers, unit = stored_numbers(chunk)
        if self.order == 2 and self._is_summed(numbers, chunk, unit):
            return
        for block, present in present_blocks(chunk, numbers):
            self._add_block(block, present, unit)

    def _is_summed(self, numbers: np.ndarray, chunk: pa.Array, unit: Unit) -> bool:
        """Take in all numbers of a chunk at once, if the compiled kernel does that."""
        found = sum_numbers(numbers, chunk)
        if found is None:
            return False
        count, mean, squares, low, high = found
        self.missing += len(numbers) - chunk.null_count - count  # NaN
        if count:
            if numbers.dtype.kind in "iu":
                low, high = int(low), int(high)
            self._add_sums(CentralSums(count, 0, mean, squares), 0, low, high, unit)
        return True

    def _add_dictionary(self, chunk: pa.DictionaryArray) -> None:
        """Count the codes: to look up each value would cost more."""
        counts = np.zeros(len(chunk.dictionary), np.int64)
        codes, _ = stored_numbers(chunk.indices)
        for block, present in present_blocks(chunk, codes):
            places = np.add(block, 1, out=scratch().mask[: len(block)], casting="unsafe")
            if present is not None:
                places *= present  # 0 stands for null
            counts += np.bincount(places, minlength=len(counts) + 1)[1:]
        numbers, unit = stored_numbers(chunk.dictionary)
        valid = chunk.dictionary.is_valid().to_numpy(zero_copy_only=False)
        self.missing += chunk.null_count + int(counts[~valid].sum())
        self._add_counts(numbers[valid], counts[valid], unit)

    def _add_counts(self, numbers: np.ndarray, counts: np.ndarray, unit: Unit) -> None:
        """Take in distinct values that occur several times, or not at all."""
        finite = (counts > 0) & np.isfinite(numbers)
        if numbers.dtype.kind == "f":
            self._add_unusual(numbers, counts)
        if finite.any():
            numbers, counts = numbers[finite], counts[finite]
            low, high = numbers.min().item(), numbers.max().item()
            base = base_of(low, high)
            floats = as_floats(numbers, base, np.empty(len(numbers)))
            self._add_sums(sums_of_counts(floats, counts), base, low, high, unit)

    def _add_block(self, numbers: np.ndarray, present: np.ndarray | None, unit: Unit) -> None:
        """Take in stored numbers that stay in the cache."""
        memory, is_integer = scratch(), numbers.dtype.kind in "iu"
        if present is not None or numbers.dtype == np.float16:  # which NumPy is slow to compare
            if numbers.itemsize < 8:
                numbers = as_floats(numbers, 0, memory.values)
            if present is not None:
                numbers = fill_absent(numbers, present, memory)
        low, high = np.minimum.reduce(numbers).item(), np.maximum.reduce(numbers).item()
        if not (math.isfinite(low) and math.isfinite(high)):  # NaN is both the smallest and the largest
            present = self._finite(numbers, present)
            if not present.any():
                return
            numbers = fill_absent(as_floats(numbers, 0, memory.values), present, memory)
            low, high = numbers.min().item(), numbers.max().item()
        if is_integer:
            low, high = int(low), int(high)
        base = base_of(low, high)
        if low == high:
            count = len(numbers) if present is None else int(np.count_nonzero(present))
            sums = CentralSums(count, 0, float(low - base))
        else:
            floats = as_floats(numbers, base, memory.values)
            sums = sums_of_block(floats, self.order, memory, present)
        self._add_sums(sums, base, low, high, unit)

    def _finite(self, numbers: np.ndarray, present: np.ndarray | None) -> np.ndarray:
        """Count what is not finite, and say what is."""
        finite: np.ndarray = np.isfinite(numbers)
        missing = np.isnan(numbers)
        if present is not None:
            finite, missing = finite & present, missing & present
        count, num_missing = len(numbers) if present is None else np.count_nonzero(present), np.count_nonzero(missing)
        if np.count_nonzero(finite) + num_missing < count:
            self._add_unusual(numbers if present is None else numbers[present])
        else:
            self.missing += int(num_missing)
        return finite

    def _add_sums(self, sums: CentralSums, base: int, low: int | float, high: int | float, unit: Unit) -> None:
        sums = replace(sums, base=base)
        if unit.ns_per_tick is not None:
            sums = sums.in_ticks_of(unit.ns_per_tick)
        elif unit.ticks_per_s is not None:
            sums = sums.mapped(1 / unit.ticks_per_s)
        self._sums = self._sums.merged(sums)
        self._min, self._max = min(self._min, unit.number(low)), max(self._max, unit.number(high))

    def _add_unusual(self, numbers: np.ndarray, counts: np.ndarray | None = None) -> None:
        """Count what is not finite."""
        for_each = np.ones(len(numbers), np.int64) if counts is None else counts
        self._num_above += int(for_each[numbers == np.inf].sum())
        self._num_below += int(for_each[numbers == -np.inf].sum())
        self.missing += int(for_each[np.isnan(numbers)].sum())

    def merge(self, other: Self) -> None:
        """Take in what another object has seen.

        Parameters
        ----------
        other : Moments
            Left as it is; of the same order.

        Raises
        ------
        ArgumentError
            If the orders differ.
        """
        if other.order != self.order:
            raise ArgumentError(f"other has order={other.order} where this has order={self.order}; give both the same")
        self._sums = self._sums.merged(other._sums)
        self.missing += other.missing
        self._num_above += other._num_above
        self._num_below += other._num_below
        self._min, self._max = min(self._min, other._min), max(self._max, other._max)

    def filled(self, value: int | float) -> Self:
        """Return the moments of the column with a constant in place of its missing values.

        Parameters
        ----------
        value : int or float
            The constant, in the units of the moments; NaN leaves them missing.

        Returns
        -------
        Moments
            Another object. Its range holds the constant where something was missing.
        """
        filled = copy.copy(self)
        if self.missing == 0 or math.isnan(value):
            return filled
        filled.missing = 0
        if math.isinf(value):
            filled._num_above += self.missing if value > 0 else 0
            filled._num_below += self.missing if value < 0 else 0
            return filled
        base = base_of(value, value)
        filled._sums = self._sums.merged(CentralSums(self.missing, base, float(value - base)))
        filled._min, filled._max = min(self._min, value), max(self._max, value)
        return filled

    def affine(self, scale: float, shift: float = 0.0) -> Self:
        """Return the moments of ``scale * x + shift``, as long as no value overflows.

        Parameters
        ----------
        scale, shift : float
            Finite. A scale of 0 makes infinite values missing, as ``0 * inf`` is NaN.

        Returns
        -------
        Moments
            Another object.

        Raises
        ------
        ArgumentError
            If `scale` or `shift` is not finite.
        """
        for name, number in (("scale", scale), ("shift", shift)):
            if not math.isfinite(number):
                raise ArgumentError(f"{name}={number!r} must be finite")
        mapped = copy.copy(self)
        if scale == 0:
            mapped.missing += self.num_infinite
            mapped._num_above = mapped._num_below = 0
        if scale < 0:
            mapped._num_above, mapped._num_below = self._num_below, self._num_above
        if self._sums.count:
            mapped._sums = self._sums.mapped(scale, shift)
            ends = (scale * self._min + shift, scale * self._max + shift)
            mapped._min, mapped._max = min(ends), max(ends)
        return mapped

    @property
    def count(self) -> int:
        """How many values are present."""
        return self._sums.count + self.num_infinite

    @property
    def finite(self) -> Self:
        """The same, with infinite values taken for missing ones."""
        moments = copy.copy(self)
        moments.missing += self.num_infinite
        moments._num_above = moments._num_below = 0
        return moments

    @property
    def num_infinite(self) -> int:
        """How many values are infinite."""
        return self._num_above + self._num_below

    @property
    def mean(self) -> float:
        """The mean; NaN without values."""
        if self.count == 0 or (self._num_above and self._num_below):
            return math.nan
        if self.num_infinite:
            return math.inf if self._num_above else -math.inf
        return float(self._sums.base) + self._sums.mean

    @property
    def variance(self) -> float:
        """The variance of the population (``ddof=0``); NaN without values."""
        return math.nan if self.count == 0 or self.num_infinite else self._sums.squares / self.count

    @property
    def std(self) -> float:
        """The standard deviation of the population (``ddof=0``); NaN without values."""
        return math.sqrt(self.variance)

    @property
    def skewness(self) -> float:
        """The third standardised moment of the population, for order 4; NaN without two different values."""
        std = self._spread("skewness")
        return self._sums.cubes / self.count / std / std / std if std > 0 else math.nan

    @property
    def kurtosis(self) -> float:
        """The fourth one, less the 3 of a normal distribution, for order 4; NaN without two different values."""
        std = self._spread("kurtosis")
        return self._sums.fourths / self.count / std / std / std / std - 3 if std > 0 else math.nan

    def _spread(self, name: str) -> float:
        if self.order < 4:
            raise ArgumentError(f"order={self.order} has no {name}; make it with Moments(order=4)")
        return self.std

    @property
    def min(self) -> int | float:
        """The smallest value, an int for integers and dates; NaN without values."""
        if self.count == 0:
            return math.nan
        return -math.inf if self._num_below else self._min

    @property
    def max(self) -> int | float:
        """The largest value, an int for integers and dates; NaN without values."""
        if self.count == 0:
            return math.nan
        return math.inf if self._num_above else self._max

    def result(self) -> dict[str, int | float]:
        """Return what the moments say, by name.

        Returns
        -------
        dict
            ``count``, ``missing``, ``num_infinite``, ``mean``, ``variance``, ``std``, ``min`` and ``max``; of order 4
            also ``skewness`` and ``kurtosis``.
        """
        names = ["count", "missing", "num_infinite", "mean", "variance", "std", "min", "max"]
        return {name: getattr(self, name) for name in names + (["skewness", "kurtosis"] if self.order == 4 else [])}

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs, as plain JSON values.

        Returns
        -------
        dict
            Floats that JSON cannot write are strings, such as ``"inf"``.
        """
        return {
            "order": self.order,
            "missing": self.missing,
            "num_above": self._num_above,
            "num_below": self._num_below,
            "sums": {name: _to_json(number) for name, number in asdict(self._sums).items()},
            "min": _to_json(self._min),
            "max": _to_json(self._max),
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
        Moments
            Equal to the first, to the last bit.
        """
        moments = cls(state["order"])
        moments.missing = state["missing"]
        moments._num_above, moments._num_below = state["num_above"], state["num_below"]
        sums: dict[str, Any] = {name: _from_json(number) for name, number in state["sums"].items()}
        moments._sums = CentralSums(**sums)
        moments._min, moments._max = _from_json(state["min"]), _from_json(state["max"])
        return moments


def _to_json(number: int | float) -> int | float | str:
    return number if math.isfinite(number) else str(number)


def _from_json(number: int | float | str) -> int | float:
    return float(number) if isinstance(number, str) else number
