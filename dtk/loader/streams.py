"""Chunks too big to be decoded whole: read in slices, each read going on where the one before ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pyarrow as pa

from dtk.errors import DataError
from dtk.sources.parquet import ParquetSource

__all__ = ["Streams"]


class Streams:
    """The slices of big row groups, for all threads of a reader.

    Parameters
    ----------
    source : ParquetSource
        Where the row groups are.
    columns : sequence of str
        What is read of them.
    slice_rows : int
        Rows of a slice.

    Notes
    -----
    A row group can only be decoded from its start, so the slices of one are read by one thread at a time, and whoever
    comes next takes over where that one stopped.
    """

    def __init__(self, source: ParquetSource, columns: Sequence[str], slice_rows: int) -> None:
        self._source, self._columns, self._slice_rows = source, list(columns), slice_rows
        self._begun: dict[int, _Stream] = {}
        self._busy: set[int] = set()
        self._changed = threading.Condition()

    def slices(self, chunk: int, first_row: int, stop_row: int) -> Iterator[tuple[int, pa.Table]]:
        """Read the slices that hold some rows.

        Parameters
        ----------
        chunk : int
            The row group.
        first_row : int
            The first row that is wanted.
        stop_row : int
            The row after the last one.

        Yields
        ------
        tuple of int and pyarrow.Table
            The number of a slice's first row in the row group, and the slice.

        Raises
        ------
        DataError
            If the row group is damaged, or has fewer rows.
        """
        with self._changed:
            self._changed.wait_for(lambda: chunk not in self._busy)
            self._busy.add(chunk)
            stream = self._begun.pop(chunk, None)
        try:
            if stream is None or stream.first_row > first_row:
                stream = _Stream(self._source.read_slices(chunk, self._slice_rows, self._columns))
            while True:
                if stream.stop_row > first_row:
                    yield stream.first_row, stream.table
                if stream.stop_row >= stop_row:
                    return
                stream.advance()
        finally:
            with self._changed:
                self._busy.remove(chunk)
                if stream is not None and stream.stop_row < self._source.chunk_rows[chunk]:
                    self._begun[chunk] = stream
                self._changed.notify_all()


class _Stream:
    """A row group that is read slice by slice, and the slice that was read last."""

    def __init__(self, slices: Iterator[pa.Table]) -> None:
        self._slices = slices
        self.table = pa.table({})
        self.first_row = self.stop_row = 0

    def advance(self) -> None:
        self.table = next(self._slices, None)
        if self.table is None:
            raise DataError(f"{self.stop_row} rows where more were planned; open it anew")
        self.first_row, self.stop_row = self.stop_row, self.stop_row + self.table.num_rows
