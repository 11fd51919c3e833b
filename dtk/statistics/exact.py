"""Exact quantiles in bounded memory: each pass over the data narrows down where the values of some ranks lie."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
import pyarrow as pa

from dtk.errors import ArgumentError, DataError
from dtk.statistics.hashed_rows import HashedRows, hash_rows
from dtk.statistics.kinds import to_floats
from dtk.statistics.quantiles import checked_shares, interpolate, narrow, neighbour_ranks
from dtk.statistics.scan import scan

__all__ = ["ExactQuantiles", "exact_quantiles"]

_LEAST_VALUES = 1024  # of a bracket: a sample that is smaller may not narrow it
_VALUE_BYTES = 16  # of a number, and of its row's hash
_MANY_BRACKETS = 48


@dataclass(frozen=True)
class _Bracket:
    """Numbers from `low` to `high`, the ranks that these may have, and how many of those in between to hold."""

    low: float = -math.inf
    high: float = math.inf
    first: int = 0
    last: int | None = None
    size: int = _LEAST_VALUES

    @property
    def expected(self) -> int | None:
        return None if self.last is None else self.last - self.first + 1


@dataclass(frozen=True)
class ExactQuantiles:
    """Quantiles, and what they took.

    Parameters
    ----------
    values : dict of str to numpy.ndarray
        By column: float64, of the shape that was asked for; NaN for a column without values.
    num_passes : int
        How often the data was read.
    """

    values: dict[str, np.ndarray]
    num_passes: int


def exact_quantiles(
    data: Any,
    columns: Sequence[str],
    q: float | Sequence[float] | np.ndarray,
    *,
    max_bytes: int = 64 * 2**20,
    progress: bool = False,
) -> ExactQuantiles:
    """Return quantiles as `numpy.quantile` would of the whole columns, to the last bit, and without holding them.

    The first pass samples the columns, which says between which two values each quantile almost surely lies. The second
    counts what is below, and collects what is between; where that is too much, it is sampled, and there is a third.

    Parameters
    ----------
    data : dask.dataframe.DataFrame, pandas.DataFrame, pyarrow.Table, dict of arrays, str or Source
        What to read; the same in each pass.
    columns : sequence of str
        Columns of numbers, booleans, dates or times.
    q : float or sequence of float
        Shape [quantiles]: between 0 and 1.
    max_bytes : int
        Most bytes of values to hold at the end of a pass; parts on their way hold up to twice as many each, but only
        their share where the number of rows is known.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    ExactQuantiles
        Quantiles by column, missing values left out, and the number of passes: one where the columns fit into
        `max_bytes`, else mostly two.

    Raises
    ------
    ArgumentError
        If a quantile is not between 0 and 1, or `max_bytes` is too small for that many.
    DataError
        If a column has no meaning as numbers, or the data changes from one pass to the next.

    Notes
    -----
    Selection by a sample: Floyd and Rivest, "Expected time bounds for selection" (1975).

    Examples
    --------
    >>> found = exact_quantiles({"x": np.arange(101)}, ["x"], [0.25, 0.5])
    >>> found.values["x"].tolist(), found.num_passes
    ([25.0, 50.0], 1)
    """
    shares = checked_shares(q)
    # late: sources need pandas and Dask, the statistics themselves do not
    from dtk.sources import Source, readable

    source = readable(data)  # whose files are looked at once for all passes
    is_counted = isinstance(source, Source) and source.chunk_rows is not None
    total_rows = int(np.sum(source.chunk_rows)) if is_counted else None
    searches = {name: _Search(name, shares.ravel(), total_rows) for name in columns}
    num_passes = 0
    while open_columns := [name for name, search in searches.items() if not search.is_done]:
        most_values = max_bytes // (_VALUE_BYTES * len(open_columns))
        if most_values < _LEAST_VALUES:
            raise ArgumentError(
                f"max_bytes={max_bytes} is too little for {len(open_columns)} columns at once; "
                f"pass {_LEAST_VALUES * _VALUE_BYTES * len(open_columns)} or more"
            )
        make = partial(_Pass, {name: searches[name].brackets(most_values) for name in open_columns})
        label = f"quantiles, pass {num_passes + 1}"
        found = scan(source, make, columns=open_columns, progress=progress, label=label)
        num_passes += 1
        for name, counts in found.counts.items():
            searches[name].learn(counts, found.num_values[name])
    values = {name: search.quantiles().reshape(shares.shape) for name, search in searches.items()}
    return ExactQuantiles(values, num_passes)


class _Inside(HashedRows):
    """Some of the numbers in a bracket, chosen by the hash of their rows; all of them while they fit."""

    def add(self, hashes: np.ndarray, numbers: np.ndarray) -> None:
        self.num_rows += len(numbers)
        chosen = np.flatnonzero(hashes <= np.uint64(self._limit))
        self._hold(hashes[chosen], numbers[chosen])

    def _join(self, parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts)

    def _take(self, part: np.ndarray, index: np.ndarray) -> np.ndarray:
        return np.asarray(part[index])

    def numbers(self) -> np.ndarray:
        """Return the numbers in order."""
        self._gather()
        return np.sort(self._held[0]) if self._held else np.empty(0)


class _Counts:
    """How many numbers lie below a bracket, at its ends and inside, and some or all of those inside."""

    def __init__(self, bracket: _Bracket) -> None:
        self.bracket = bracket
        self.num_below = 0
        self.num_low = 0
        self.num_high = 0
        self.inside = _Inside(bracket.size, total_rows=bracket.expected)

    def update(self, numbers: np.ndarray, hashes: np.ndarray) -> None:
        low, high = self.bracket.low, self.bracket.high
        self.num_below += int(np.count_nonzero(numbers < low))
        self.num_low += int(np.count_nonzero(numbers == low))
        if low < high:
            self.num_high += int(np.count_nonzero(numbers == high))
            inside = np.flatnonzero((numbers > low) & (numbers < high))
            self.inside.add(hashes[inside], numbers[inside])

    def update_sorted(self, numbers: np.ndarray, hashes: np.ndarray) -> None:
        ends = [self.bracket.low, self.bracket.high]
        (low, high), (above_low, above_high) = (np.searchsorted(numbers, ends, side) for side in ("left", "right"))
        self.num_below += int(low)
        self.num_low += int(above_low - low)
        if ends[0] < ends[1]:
            self.num_high += int(above_high - high)
            self.inside.add(hashes[above_low:high], numbers[above_low:high])

    def merge(self, other: _Counts) -> None:
        self.num_below += other.num_below
        self.num_low += other.num_low
        self.num_high += other.num_high
        self.inside.merge(other.inside)


class _Pass:
    """What one pass finds out of all brackets, and how many numbers each column has."""

    def __init__(self, wanted: dict[str, list[_Bracket]]) -> None:
        self.counts = {name: [_Counts(bracket) for bracket in brackets] for name, brackets in wanted.items()}
        self.num_values = dict.fromkeys(wanted, 0)

    def update(self, table: pa.Table, first_row: int) -> None:
        hashes = hash_rows(np.arange(first_row, first_row + table.num_rows))
        for name, counts in self.counts.items():
            try:
                numbers = to_floats(table[name])
            except DataError as error:
                raise DataError(f"column {name!r} has no quantiles: {error}") from None
            self.num_values[name] += int(np.count_nonzero(~np.isnan(numbers)))
            if len(counts) <= _MANY_BRACKETS:
                for count in counts:
                    count.update(numbers, hashes)
            else:
                order = np.argsort(numbers)
                ordered, their_hashes = numbers[order], hashes[order]
                for count in counts:
                    count.update_sorted(ordered, their_hashes)

    def merge(self, other: Self) -> None:
        for name, counts in self.counts.items():
            self.num_values[name] += other.num_values[name]
            for mine, theirs in zip(counts, other.counts[name], strict=True):
                mine.merge(theirs)


class _Search:
    """What is known of the quantiles of one column."""

    def __init__(self, name: str, shares: np.ndarray, total_rows: int | None) -> None:
        self.name = name
        self.shares = shares
        self.total_rows = total_rows
        self.num_values: int | None = None
        self.answers: dict[int, float] = {}  # by rank
        self.targets: list[_Target] = []  # in order
        self._num_inside = 0  # of the brackets that were looked into last

    @property
    def is_done(self) -> bool:
        return self.num_values is not None and not self.targets

    def brackets(self, most_values: int) -> list[_Bracket]:
        """Return what the next pass must look into, in order and apart from each other."""
        if self.num_values is None:
            return [_Bracket(last=self.total_rows, size=most_values)]
        apart = _apart(self.targets)
        expected = _num_expected(apart)
        is_narrower = expected <= self._num_inside // 2  # so that a sample of as many values says more
        if len(apart) * _LEAST_VALUES > most_values or (expected > most_values and not is_narrower):
            apart = _apart(self.targets[: self._num_that_fit(most_values)])  # the others wait for another pass
            expected = _num_expected(apart)
        spare = max(0, most_values - len(apart) * _LEAST_VALUES)
        return [
            replace(bracket, size=_LEAST_VALUES + int(spare * ((bracket.expected or 0) + 1) / (expected + len(apart))))
            for bracket in apart
        ]

    def _num_that_fit(self, most_values: int) -> int:
        def is_too_many(number: int) -> bool:
            apart = _apart(self.targets[:number])
            return _num_expected(apart) + len(apart) * _LEAST_VALUES > most_values

        return max(1, bisect_left(range(len(self.targets) + 1), True, key=is_too_many) - 1)

    def learn(self, counts: list[_Counts], num_values: int) -> None:
        """Take in what a pass has found of the brackets."""
        if self.num_values is None:
            self.num_values = num_values
            below, above, _ = neighbour_ranks(self.shares, num_values) if num_values else (np.empty(0, int),) * 3
            self.targets = [_Target(int(rank)) for rank in np.unique(np.concatenate([below, above]))]
        if num_values != self.num_values:
            raise self._changed()
        self._num_inside = sum(count.inside.num_rows for count in counts)
        samples = [count.inside.numbers() for count in counts]
        lows = [count.bracket.low for count in counts]
        for target in list(self.targets):
            number = int(np.searchsorted(lows, target.bracket.low, "right")) - 1
            if number < 0 or target.bracket.high > counts[number].bracket.high:
                continue  # it waits
            try:
                answer = target.look(counts[number], samples[number])
            except LookupError:
                raise self._changed() from None
            if answer is not None:
                self.answers[target.rank] = answer
                self.targets.remove(target)

    def _changed(self) -> DataError:
        return DataError(f"column {self.name!r} is not the same in each pass over the data; write the data first")

    def quantiles(self) -> np.ndarray:
        """Return the quantiles, once all is found."""
        if not self.num_values:
            return np.full(self.shares.shape, np.nan)
        below, above, weight = neighbour_ranks(self.shares, self.num_values)
        low, high = (np.array([self.answers[int(rank)] for rank in ranks]) for ranks in (below, above))
        return interpolate(low, high, weight)


def _apart(targets: list[_Target]) -> list[_Bracket]:
    """Return the brackets of targets in order, as one where they overlap."""
    apart: list[_Bracket] = []
    for bracket in sorted((target.bracket for target in targets), key=lambda bracket: (bracket.low, bracket.high)):
        if apart and bracket == apart[-1]:
            continue
        if apart and bracket.low < apart[-1].high:
            last = apart.pop()
            end = None if last.last is None or bracket.last is None else max(last.last, bracket.last)
            bracket = _Bracket(last.low, max(last.high, bracket.high), last.first, end)
        apart.append(bracket)
    return apart


def _num_expected(brackets: list[_Bracket]) -> int:
    return sum(bracket.expected or 0 for bracket in brackets)


class _Target:
    """A rank, and where its number must be."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.bracket = _Bracket()
        self._least, self._most = -math.inf, math.inf

    def look(self, counts: _Counts, sample: np.ndarray) -> float | None:
        """Return the number of this rank if it is found, or narrow down the bracket."""
        low, high, inside = counts.bracket.low, counts.bracket.high, counts.inside
        place = self.rank - counts.num_below
        if place < 0:
            self._search_in(self._least, low)
            return None
        if place < counts.num_low:
            return low
        num_before = counts.num_below + counts.num_low
        place -= counts.num_low
        if place >= inside.num_rows:
            if place < inside.num_rows + counts.num_high:
                return high
            self._search_in(high, self._most)
            return None
        self._least, self._most = low, high
        if inside.is_exact:
            return float(sample[place])
        low, high = narrow(place, inside.num_rows, sample, (low, high))
        first, last = np.searchsorted(sample, [low, high]) * (inside.num_rows / max(1, len(sample)))
        self.bracket = _Bracket(low, high, num_before + int(first), num_before + math.ceil(last))
        return None

    def _search_in(self, least: float, most: float) -> None:
        """Look on one side of a bracket that the number was not in, as happens once in a billion times."""
        if least >= most:
            raise LookupError(f"no number has rank {self.rank}")
        self._least, self._most = least, most
        self.bracket = _Bracket(least, most)
