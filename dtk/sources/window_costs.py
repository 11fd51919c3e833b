"""What the windows of each chunk cost: the rows that are decoded for them, bytes and requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from dtk.sources.arrays import ArraySource
from dtk.sources.expression import ExpressionSource
from dtk.sources.parquet import ParquetSource
from dtk.sources.remote import FetchCost
from dtk.sources.runs import Runs
from dtk.sources.source import Source, TableSource

__all__ = ["WindowCosts"]

Integers = npt.NDArray[np.int64]

_START_NBYTES: Final = 24  # of a window: the row that it begins with, and what that is made of
_PAGE_ROWS: Final = 1 << 17  # of a column of 8 bytes: what is decoded at once of a Parquet file


@dataclass(frozen=True)
class WindowCosts:
    """The costs of windows over a source's rows.

    Parameters
    ----------
    base : Source or ArraySource
        The rows.
    runs : Runs
        Where windows begin.
    """

    base: Source | ArraySource
    runs: Runs

    @cached_property
    def chunk_nbytes(self) -> Integers:
        """Bytes on disk that the windows of each chunk need, int64 ``[chunks]``."""
        own = self.base.chunk_nbytes * (self.runs.windows > 0)
        return np.ceil(own * (self.decoded_rows / np.maximum(self.runs.rows, 1))).astype(np.int64)

    @cached_property
    def decoded_rows(self) -> Integers:
        """Rows that are decoded for the windows of each chunk, those of later chunks among them, int64 ``[chunks]``."""
        runs, first_row = self.runs, self._first_row
        needed = first_row + runs.rows + runs.after
        last = self._last_chunk
        if isinstance(self.base, ArraySource):
            size, skipped = _stored_chunk(self.base)
            stop = np.minimum(-(-(needed + skipped) // size) * size - skipped, int(runs.rows.sum()))
        elif isinstance(self.base, ParquetSource):
            stop = np.minimum(np.maximum(needed, first_row[last] + _PAGE_ROWS), first_row[last] + runs.rows[last])
        elif isinstance(self.base, TableSource):
            stop = needed
        else:
            stop = first_row[last] + runs.rows[last]
        return np.where(runs.after > 0, stop - first_row, runs.rows)

    @property
    def decodes_per_row(self) -> float:
        """Rows that are decoded by the row of a chunk that is read."""
        is_read = self.runs.windows > 0
        return float(self.decoded_rows[is_read].sum() / max(1, int(self.runs.rows[is_read].sum())))

    def in_flight_nbytes(self, of_base: Integers) -> Integers:
        """Return the bytes of each chunk while its rows are read and encoded.

        Parameters
        ----------
        of_base : numpy.ndarray
            An int64 ``[chunks]``: what they are for the rows of the chunk alone.

        Returns
        -------
        numpy.ndarray
            An int64 ``[chunks]``: with the rows of later chunks, as many as are held at a time.
        """
        runs = self.runs
        if isinstance(self.base, ParquetSource | ArraySource | TableSource):
            nbytes = of_base * (1 + runs.after / np.maximum(runs.rows, 1))
        else:  # later chunks are evaluated whole
            nbytes = self._with_later(of_base).astype(np.float64)
        index = np.ceil(nbytes + runs.windows * _START_NBYTES).astype(np.int64)
        return np.where(runs.windows > 0, index, 0)

    def fetch_cost(self, columns: Sequence[str] | None = None) -> FetchCost | None:
        """Estimate what fetching the rows of each chunk's windows takes.

        Parameters
        ----------
        columns : sequence of str, optional
            Which columns or variables; all if None.

        Returns
        -------
        FetchCost or None
            None of what is local; later row groups are fetched whole.
        """
        runs, base = self.runs, self.base
        if isinstance(base, ArraySource):
            first = base.chunk_edges[:-1]
            cost = base.fetch_cost_of_samples(first, first + runs.rows + runs.after, columns)
        elif isinstance(base, ParquetSource | ExpressionSource):
            cost = base.fetch_cost(columns)
            if cost is not None:
                cost = FetchCost(self._with_later(cost.nbytes), self._with_later(cost.requests), cost.once)
        else:
            return None
        is_read = runs.windows > 0
        return None if cost is None else FetchCost(cost.nbytes * is_read, cost.requests * is_read, cost.once)

    @cached_property
    def _first_row(self) -> Integers:
        """The number of each chunk's first row."""
        return np.cumsum(self.runs.rows) - self.runs.rows

    @cached_property
    def _last_chunk(self) -> Integers:
        """The chunk of the last row that the windows of each chunk need."""
        stops = self._first_row + self.runs.rows
        return np.searchsorted(stops, stops + self.runs.after)

    def _with_later(self, of_base: Integers) -> Integers:
        """Add up what chunks take with the later ones that their windows reach into."""
        ends, reach = np.cumsum(of_base), self.runs.after > 0
        return np.where(reach, ends[self._last_chunk] - ends + of_base, of_base)


def _stored_chunk(source: ArraySource) -> tuple[int, int]:
    """Return the samples of a chunk in the store, and how many of the first one are left out."""
    largest = max((one for one in source.variables.values() if not one.is_static), key=lambda one: one.row_nbytes)
    part = largest.read.selection[largest.axis]
    assert isinstance(part, slice)
    return largest.chunk_rows, part.start % largest.chunk_rows
