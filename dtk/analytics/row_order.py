"""Whether numbers or dates rise from row to row, also across chunks that are seen in any order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dtk.analytics.numbers import Value
from dtk.analytics.values import plain_value
from dtk.statistics import to_numbers
from dtk.statistics.kinds import plain_chunks

__all__ = ["BrokenOrder", "RowOrder"]

Number = int | float


class BrokenOrder(NamedTuple):
    """How many rows break an order, and the first of them with its value."""

    num_rows: int
    row: int | None
    value: Value


@dataclass(frozen=True)
class _Run:
    """Consecutive rows: from `start` to before `stop`, and the values at their ends."""

    start: int
    stop: int
    first: Number | None = None
    first_row: int = -1
    first_value: Value = None
    last: Number | None = None


class RowOrder:
    """How many rows break the order: their value is on the wrong side of that of the row before which has one.

    Parameters
    ----------
    order : str
        ``"increasing"``, ``"strictly increasing"``, ``"decreasing"`` or ``"strictly decreasing"``.
    """

    def __init__(self, order: str) -> None:
        self.order = order
        self._broken = BrokenOrder(0, None, None)
        self._runs: list[_Run] = []

    def update(self, values: pa.ChunkedArray, first_row: int) -> None:
        """Take in one chunk.

        Parameters
        ----------
        values : pyarrow.ChunkedArray
            Shape [rows]: numbers or dates.
        first_row : int
            The number of its first row.
        """
        for chunk in plain_chunks(values):
            if len(chunk):
                self._add(self._run_of(chunk, first_row))
            first_row += len(chunk)

    def _run_of(self, chunk: pa.Array, start: int) -> _Run:
        present = np.flatnonzero(~chunk.is_null(nan_is_null=True).to_numpy(zero_copy_only=False))
        run = _Run(start, start + len(chunk))
        if not len(present):
            return run
        numbers = to_numbers(chunk if len(present) == len(chunk) else chunk.take(pa.array(present)))
        broken = np.flatnonzero(self._is_broken(numbers[:-1], numbers[1:]))
        if len(broken):
            at = int(present[broken[0] + 1])
            self._count(BrokenOrder(len(broken), start + at, plain_value(chunk.slice(at, 1))))
        at = int(present[0])
        first, last = numbers[0].item(), numbers[-1].item()
        return replace(run, first=first, first_row=start + at, first_value=plain_value(chunk.slice(at, 1)), last=last)

    def _is_broken(self, before: np.ndarray | Number, after: np.ndarray | Number) -> np.ndarray:
        if "decreasing" in self.order:
            before, after = after, before
        return np.asarray(np.less_equal(after, before) if "strictly" in self.order else np.less(after, before))

    def _count(self, found: BrokenOrder) -> None:
        mine = self._broken
        is_first = mine.row is None or (found.row is not None and found.row < mine.row)
        row, value = (found if is_first else mine)[1:]
        self._broken = BrokenOrder(mine.num_rows + found.num_rows, row, value)

    def _add(self, run: _Run) -> None:
        """Append a run, to the last one where it goes on."""
        if self._runs and self._runs[-1].stop == run.start:
            run = self._joined(self._runs.pop(), run)
        self._runs.append(run)

    def _joined(self, run: _Run, later: _Run) -> _Run:
        """Join two runs, and count where one goes over into the other."""
        if later.first is None or later.last is None:
            return replace(run, stop=later.stop)
        if run.last is None:
            return replace(later, start=run.start)
        if self._is_broken(run.last, later.first):
            self._count(BrokenOrder(1, later.first_row, later.first_value))
        return replace(run, stop=later.stop, last=later.last)

    def merge(self, other: RowOrder) -> None:
        """Take in what another object has seen.

        Parameters
        ----------
        other : RowOrder
            Of the same order and other rows; left as it is.
        """
        self._count(other._broken)
        runs = sorted([*self._runs, *other._runs], key=lambda run: run.start)
        self._runs = []
        for run in runs:
            self._add(run)

    def finish(self) -> BrokenOrder:
        """Join what is left, for no more rows will come.

        Returns
        -------
        BrokenOrder
            Of all rows.
        """
        whole = RowOrder(self.order)
        whole._count(self._broken)
        run = _Run(0, 0)
        for later in sorted(self._runs, key=lambda run: run.start):
            run = whole._joined(run, later)
        return whole._broken
