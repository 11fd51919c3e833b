"""How many rows of small row groups that follow each other are read together, as one chunk of the order."""

from __future__ import annotations

from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from dtk.loader.sampling import Sampling
from dtk.sources import Source
from dtk.sources.arrays import ArraySource
from dtk.sources.joining import join
from dtk.sources.windows import WindowSource

__all__ = ["choose_join_rows", "joined_source", "pool_that_joins"]

_POOL_BLOCKS: Final = 512  # that the pool still holds: then a rank of eight mixes well alone, too
_JOINED_ROWS: Final = 8192  # with more, what a row group costs is spread no thinner

AnySource = TypeVar("AnySource", bound=Source | ArraySource | WindowSource)


def choose_join_rows(pool_rows: int, slice_rows: int) -> int | None:
    """Choose how many rows of small row groups are joined.

    Parameters
    ----------
    pool_rows : int
        Rows in the pool if nothing is joined.
    slice_rows : int
        Rows of a slice of a chunk that is too big to be decoded whole; 0 where none is. What is joined stays below.

    Returns
    -------
    int or None
        About the rows of a joined chunk; None for fewer than two.
    """
    rows = min(_JOINED_ROWS, pool_rows // _POOL_BLOCKS, slice_rows or _JOINED_ROWS)
    return rows if rows > 1 else None


def pool_that_joins(group_rows: float) -> float:
    """Return the pool in which the first row groups are joined.

    Parameters
    ----------
    group_rows : float
        Rows of a row group.

    Returns
    -------
    float
        Rows.
    """
    return 2 * group_rows * _POOL_BLOCKS


def joined_source(
    source: AnySource, join_rows: int | None, sampling: Sampling | None
) -> tuple[AnySource, NDArray[np.float64] | None]:
    """Return a source whose chunks are those of the order.

    Parameters
    ----------
    source : Source, ArraySource or WindowSource
        With known rows in its chunks.
    join_rows : int or None
        Of the order: about the rows of a joined chunk; None if none is joined.
    sampling : Sampling, optional
        How rows are drawn; each comes once if None.

    Returns
    -------
    tuple of source and numpy.ndarray or None
        The source, and what the rows of each of its chunks weigh together, float64 ``[chunks]``, if they are drawn.
    """
    weights = None if sampling is None else sampling.chunk_weights
    if join_rows is None:
        return source, weights
    assert source.chunk_rows is not None
    is_read = source.chunk_rows > 0 if weights is None else weights > 0
    joined, edges = join(source, join_rows, is_read)
    return joined, weights if weights is None or not len(weights) else np.add.reduceat(weights, edges[:-1])
