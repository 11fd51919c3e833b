"""Small row groups that follow each other in a file, joined: read together they cost less than one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dtk.sources.expression import ExpressionSource
from dtk.sources.parquet import ParquetSource
from dtk.sources.remote_parquet import joined_cost

__all__ = ["can_join", "join"]

Integers = npt.NDArray[np.int64]
Kind = TypeVar("Kind")


def can_join(source: Any) -> bool:
    """Tell whether a source gives the same rows if its row groups are read together.

    Parameters
    ----------
    source : Source, ArraySource or WindowSource
        Any source.

    Returns
    -------
    bool
        False where functions of the user see a partition at a time, and where nothing lies in row groups.
    """
    return isinstance(source, ParquetSource) or (isinstance(source, ExpressionSource) and source.is_rowwise)


def join(source: Kind, most_rows: int | None, is_read: npt.NDArray[np.bool_] | None = None) -> tuple[Kind, Integers]:
    """Join small row groups that follow each other in the same file.

    Parameters
    ----------
    source : Source, ArraySource or WindowSource
        Any source with known rows in its chunks.
    most_rows : int or None
        About how many rows are joined: at most one and a half times as many. Row groups of more than half of that stay
        as they are; so do all if it is None.
    is_read : numpy.ndarray, optional
        A bool ``[chunks]``: whether there is a reason to read a chunk; what is read is never joined to what is not.

    Returns
    -------
    tuple of Source and numpy.ndarray
        Of the same rows in the same order, and of the same identity; and an int64 ``[joined chunks + 1]``: the first
        chunk of `source` in each.
    """
    base = source.base if isinstance(source, ExpressionSource) else source
    num_chunks = source.num_chunks  # type: ignore[attr-defined]
    if most_rows is None or not can_join(source) or not num_chunks:
        return source, np.arange(num_chunks + 1)
    assert isinstance(base, ParquetSource)
    edges = _edges(base, most_rows, np.ones(num_chunks, np.bool_) if is_read is None else is_read)
    base = _joined(base, edges)
    if not isinstance(source, ExpressionSource):
        return base, edges  # type: ignore[return-value]
    assert source.chunk_rows is not None
    first_group = np.arange(base.num_chunks + 1)
    rows = np.add.reduceat(source.chunk_rows, edges[:-1])
    return replace(source, base=base, first_group=first_group, chunk_rows=rows), edges


def _edges(source: ParquetSource, most_rows: int, is_read: npt.NDArray[np.bool_]) -> Integers:
    """Cut each run of small row groups into parts of about the same rows; return where the parts begin."""
    rows, file, group = source.chunk_rows, source.file_of_chunk, source.row_group
    is_small = 2 * rows <= most_rows
    follows = (file[1:] == file[:-1]) & (group[1:] == group[:-1] + 1) & (is_read[1:] == is_read[:-1])
    starts = np.append(True, ~(follows & is_small[1:] & is_small[:-1]))
    run, first = np.cumsum(starts) - 1, np.flatnonzero(starts)
    total = np.add.reduceat(rows, first)
    before = np.cumsum(rows) - rows
    middle = 2 * (before - before[first][run]) + rows
    part = middle * -(-total // most_rows)[run] // (2 * total[run])
    return np.append(np.flatnonzero(starts | (np.diff(part, prepend=0) != 0)), len(rows))


def _joined(source: ParquetSource, edges: Integers) -> ParquetSource:
    first = edges[:-1]
    return replace(
        source,
        file_of_chunk=source.file_of_chunk[first],
        row_group=source.row_group[first],
        num_groups=np.diff(edges).astype(np.int32),
        chunk_rows=np.add.reduceat(source.chunk_rows, first),
        chunk_nbytes=np.add.reduceat(source.chunk_nbytes, first),
        remote_cost=None if source.remote_cost is None else joined_cost(source.remote_cost, edges),
    )
