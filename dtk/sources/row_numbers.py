"""The number of a row, by which what was fitted to it knows it again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dtk.sources.arrays import ArraySource
from dtk.sources.expression import ExpressionSource
from dtk.sources.facts import short_digest
from dtk.sources.parquet import ParquetSource
from dtk.sources.source import Source, TableSource

__all__ = ["ROW_BITS", "RowNumbers", "first_rows", "is_numbered_through", "rows_identity"]

Integers = npt.NDArray[np.int64]

ROW_BITS: Final = 40
"""Bits of the number of a row in its chunk, where only reading tells how many rows there are in those before."""


def rows_identity(source: Any, columns: Sequence[str]) -> str | None:
    """Say which rows a source has, whatever it yields of them: the same for two that number the same rows alike.

    Parameters
    ----------
    source : object
        Any source, or what is none.
    columns : sequence of str
        By whose values rows in memory are known.

    Returns
    -------
    str or None
        Hex digits: of files and row groups, of the filters above them, or of values; None where it cannot be told.
    """
    if isinstance(source, TableSource):
        from dtk.sources.split import hash_rows

        frame = source.table.select(list(dict.fromkeys(columns))).to_pandas()
        return hashlib.blake2b(hash_rows(frame).tobytes(), digest_size=16).hexdigest()
    if isinstance(source, ParquetSource):
        told = (source.root, *source.names, *source.versions)
        chunks = (source.file_of_chunk, source.row_group, source.chunk_rows)
        return short_digest("\0".join(told), *(array.tobytes() for array in chunks))
    if isinstance(source, ExpressionSource):
        base = rows_identity(source.base, columns)
        if source.row_counter is None:
            return base
        return short_digest(str(base), source.selection, source.first_group.tobytes())
    if isinstance(source, ArraySource) or not isinstance(source, Source):
        return None
    return source.identity if source.chunk_rows is not None else None


def is_numbered_through(source: Source) -> bool:
    """Tell whether rows are numbered from 0 on, without gaps.

    Parameters
    ----------
    source : Source
        Any source.

    Returns
    -------
    bool
        False after filters, also where the rows they leave were counted: a pass that knows the counts and one that does
        not must agree.
    """
    is_filtered = isinstance(source, ExpressionSource) and source.row_counter is not None
    return not is_filtered and source.chunk_rows is not None


def first_rows(source: Source) -> Integers:
    """Number the first row of each chunk.

    Parameters
    ----------
    source : Source
        Any source.

    Returns
    -------
    numpy.ndarray
        An int64 ``[chunks]``: rows before it, or the chunk's number ``<< 40``; see `is_numbered_through`.
    """
    if not is_numbered_through(source):
        return np.arange(source.num_chunks, dtype=np.int64) << ROW_BITS
    assert source.chunk_rows is not None
    return np.asarray(np.cumsum(source.chunk_rows) - source.chunk_rows, np.int64)


@dataclass(frozen=True, eq=False)
class RowNumbers:
    """Numbers the rows of a source as a scan of it does.

    Parameters
    ----------
    edges : numpy.ndarray
        An int64 ``[chunks + 1]``: rows before each chunk, and all of them.
    first : numpy.ndarray, optional
        An int64 ``[chunks]``: the number of the first row of each; None where rows are numbered through.
    """

    edges: Integers
    first: Integers | None = None

    @classmethod
    def of(cls, source: Source) -> RowNumbers:
        """Make those of a source.

        Parameters
        ----------
        source : Source
            With known rows in its chunks, none of which are joined.

        Returns
        -------
        RowNumbers
            Its own.
        """
        assert source.chunk_rows is not None
        edges = np.append(0, np.cumsum(source.chunk_rows)).astype(np.int64)
        return cls(edges, None if is_numbered_through(source) else first_rows(source))

    def at(self, positions: Integers) -> Integers:
        """Number rows.

        Parameters
        ----------
        positions : numpy.ndarray
            An int64 ``[rows]``: how many rows of the source are before each.

        Returns
        -------
        numpy.ndarray
            An int64 ``[rows]``.

        Examples
        --------
        >>> filtered = RowNumbers(np.array([0, 3, 5]), np.array([0, 1 << 40]))
        >>> (filtered.at(np.array([2, 4])) - np.array([0, 1 << 40])).tolist()
        [2, 1]
        """
        if self.first is None:
            return positions
        chunk = np.searchsorted(self.edges, positions, side="right") - 1
        numbers: Integers = self.first[chunk] + positions - self.edges[chunk]
        return numbers
