"""Draws with replacement: how many rows of each chunk, and which rows of a chunk; exact, and in the order on disk."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dtk.loader.segments import Integers, typical

__all__ = ["drawn", "most_drawn", "rows_a_draw", "shared_out"]


def most_drawn(chunk_rows: Integers) -> Integers:
    """Return the most rows that are drawn of a chunk at a time.

    About as many as it holds: a chunk of which more are drawn is read for several blocks, which lie apart in the epoch,
    at no more decodes a row than any other. More only where a chunk is smaller than usual, so that there are not too
    many.

    Parameters
    ----------
    chunk_rows : numpy.ndarray
        An int64 ``[chunks]``.

    Returns
    -------
    numpy.ndarray
        An int64 ``[chunks]``, at least 1.
    """
    usual: Integers = np.maximum(chunk_rows, typical(chunk_rows))
    return usual + usual // 2 + 1


def rows_a_draw(num_rows: Integers, chunk_rows: Integers) -> Integers:
    """Return how many rows are drawn of each chunk at a time, in draws as even as can be.

    Parameters
    ----------
    num_rows : numpy.ndarray
        An int64 ``[chunks]``: the rows that are drawn of each in all.
    chunk_rows : numpy.ndarray
        An int64 ``[chunks]``: the rows that it holds.

    Returns
    -------
    numpy.ndarray
        An int64 ``[chunks]``, at least 1; the last draw of a chunk is of what is left.

    Examples
    --------
    >>> rows_a_draw(np.array([0, 70, 110, 320]), np.array([100, 100, 100, 100])).tolist()
    [1, 70, 110, 107]
    """
    num_draws = np.maximum(-(-num_rows // most_drawn(chunk_rows)), 1)
    size: Integers = np.maximum(-(-num_rows // num_draws), 1)
    return size


def shared_out(random: np.random.Generator, total: int, weights: NDArray[np.float64]) -> Integers:
    """Draw from a multinomial distribution: how often each of many comes in a number of draws.

    Halves share what their whole got, down to single ones. So a weight of 0 gets nothing, whatever is rounded, and the
    time is that of some array operations.

    Parameters
    ----------
    random : numpy.random.Generator
        What decides.
    total : int
        How many draws.
    weights : numpy.ndarray
        A float64 ``[n]``: the probability of each, up to a common factor.

    Returns
    -------
    numpy.ndarray
        An int64 ``[n]``.

    Examples
    --------
    >>> shared_out(np.random.default_rng(0), 100, np.array([1.0, 0.0, 3.0])).tolist()
    [26, 0, 74]
    """
    size = 1 << max(len(weights) - 1, 0).bit_length()
    levels = [np.pad(weights, (0, size - len(weights)))]
    while len(levels[-1]) > 1:
        levels.append(levels[-1][0::2] + levels[-1][1::2])
    counts = np.array([total], np.int64)
    for whole, parts in pairwise(reversed(levels)):
        share = np.divide(parts[0::2], whole, out=np.zeros(len(whole)), where=whole > 0)
        first = random.binomial(counts, share)
        counts = np.stack([first, counts - first], axis=1).ravel()
    return counts[: len(weights)]


def drawn(random: np.random.Generator, num_rows: int, weights: NDArray[np.float64]) -> Integers:
    """Draw rows with replacement, in rising order.

    Sorted uniform numbers are the running sums of exponential ones, so that nothing has to be sorted: Devroye,
    Non-Uniform Random Variate Generation (1986), V.3.

    Parameters
    ----------
    random : numpy.random.Generator
        What decides.
    num_rows : int
        How many rows are drawn.
    weights : numpy.ndarray
        A float64 ``[rows]``: the probability of each, up to a common factor; not all 0.

    Returns
    -------
    numpy.ndarray
        An int64 ``[num_rows]``.

    Examples
    --------
    >>> drawn(np.random.default_rng(0), 5, np.array([0.0, 1.0, 0.0, 4.0])).tolist()
    [1, 3, 3, 3, 3]
    """
    ends = np.cumsum(weights)
    spaced = random.standard_exponential(num_rows + 1)
    np.cumsum(spaced, out=spaced)
    spaced *= ends[-1] / spaced[-1]
    rows: Integers = np.searchsorted(ends, spaced[:-1], side="right")
    last = np.searchsorted(ends, ends[-1])  # rounding may lead beyond it
    np.minimum(rows, last, out=rows)
    return rows
