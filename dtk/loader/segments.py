"""Runs of rows inside chunks, and the fills that are made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Fills", "Integers", "Segments", "clip", "concat", "cut", "ranges", "sliced", "typical", "without"]

Integers = NDArray[np.int64]


class Segments(NamedTuple):
    """Runs of rows inside chunks, in the order of time.

    Parameters
    ----------
    chunk : numpy.ndarray
        An int64 ``[segments]``: the chunk of each.
    first_row : numpy.ndarray
        An int64 ``[segments]``: its first row inside that chunk.
    num_rows : numpy.ndarray
        An int64 ``[segments]``: its rows, at least one.
    """

    chunk: Integers
    first_row: Integers
    num_rows: Integers

    def take(self, index: Any) -> Segments:
        """Choose segments.

        Parameters
        ----------
        index : slice or numpy.ndarray
            Which ones.

        Returns
        -------
        Segments
            The chosen ones, in the order of `index`.
        """
        return Segments(self.chunk[index], self.first_row[index], self.num_rows[index])


@dataclass(frozen=True, eq=False)
class Fills:
    """The fills of some shards, shard by shard; the rows of each are permuted together.

    Parameters
    ----------
    shard : numpy.ndarray
        An int64 ``[fills]``: the shard of each.
    number : numpy.ndarray
        An int64 ``[fills]``: its place among the fills of its shard.
    position : numpy.ndarray
        An int64 ``[fills]``: the position in the shard of its first row.
    num_rows : numpy.ndarray
        An int64 ``[fills]``: its rows, at most the order's `fill_rows`.
    bounds : numpy.ndarray
        An int64 ``[fills + 1]``: fill ``f`` holds the segments from ``bounds[f]``, inclusive, to ``bounds[f + 1]``,
        exclusive.
    segments : Segments
        The segments of all fills.
    """

    shard: Integers
    number: Integers
    position: Integers
    num_rows: Integers
    bounds: Integers
    segments: Segments

    @classmethod
    def filled(cls, shard: int, segments: Segments, most_rows: int, first_rows: int) -> Fills:
        """Put the segments of a shard into fills, as many into each as it has room for.

        A short fill at either end would be drawn from few places on disk for as long as it lasts, so both ends avoid
        fills of less than half the most rows: two even ones stand for a short one and its neighbour.

        Parameters
        ----------
        shard : int
            The shard.
        segments : Segments
            In the order of time, none of more rows than a fill.
        most_rows : int
            The most rows of a fill.
        first_rows : int
            Where the fills begin to be full: after so many rows, or so many and one fill's.

        Returns
        -------
        Fills
            In the order of time.
        """
        edges = np.append(0, np.cumsum(segments.num_rows))
        num_segments = len(segments.num_rows)
        # Where the fill that starts at a segment ends: with the last one that it has room for.
        after = (np.searchsorted(edges, edges[:-1] + most_rows, side="right") - 1).tolist()
        is_short = 2 * first_rows < most_rows
        starting = [(first_rows + most_rows) // 2] * 2 if is_short else [first_rows]
        bounds = [0]
        for rows in starting:
            if bounds[-1] < num_segments:
                end = int(np.searchsorted(edges, edges[bounds[-1]] + rows, side="right")) - 1
                bounds.append(max(end, bounds[-1] + 1))
        while bounds[-1] < num_segments:
            bounds.append(after[bounds[-1]])
        if len(bounds) > 2:
            first, cut, last = edges[bounds[-3:]].tolist()
            middle = int(np.argmin(np.abs(2 * edges - first - last)))
            if 2 * (last - cut) < most_rows and edges[middle] > first and last - edges[middle] <= most_rows:
                bounds[-2] = middle
        num_fills = len(bounds) - 1
        positions = edges[bounds]
        return cls(
            shard=np.full(num_fills, shard, np.int64),
            number=np.arange(num_fills),
            position=positions[:-1],
            num_rows=np.diff(positions),
            bounds=np.array(bounds, np.int64),
            segments=segments,
        )

    @classmethod
    def joined(cls, parts: list[Fills]) -> Fills:
        """Put the fills of some shards behind each other.

        Parameters
        ----------
        parts : list of Fills
            The fills of each shard.

        Returns
        -------
        Fills
            All of them; empty for no parts.
        """
        segments = Segments(*(concat([getattr(part.segments, name) for part in parts]) for name in Segments._fields))
        return cls(
            shard=concat([part.shard for part in parts]),
            number=concat([part.number for part in parts]),
            position=concat([part.position for part in parts]),
            num_rows=concat([part.num_rows for part in parts]),
            bounds=np.append(0, np.cumsum(concat([np.diff(part.bounds) for part in parts]))),
            segments=segments,
        )


def concat(arrays: list[Integers]) -> Integers:
    """Concatenate, also nothing at all.

    Parameters
    ----------
    arrays : list of numpy.ndarray
        Of int64, of one dimension.

    Returns
    -------
    numpy.ndarray
        Of int64; empty for no arrays.
    """
    return np.concatenate([np.zeros(0, np.int64), *arrays])


def ranges(starts: Integers, sizes: Integers) -> Integers:
    """Count up from each start.

    Parameters
    ----------
    starts : numpy.ndarray
        An int64 ``[ranges]``.
    sizes : numpy.ndarray
        An int64 ``[ranges]``: how many numbers of each.

    Returns
    -------
    numpy.ndarray
        An int64 ``[sizes.sum()]``.

    Examples
    --------
    >>> ranges(np.array([7, 0]), np.array([2, 3])).tolist()
    [7, 8, 0, 1, 2]
    """
    ends = np.cumsum(sizes)
    return np.arange(int(sizes.sum())) + np.repeat(starts - ends + sizes, sizes)


def clip(segments: Segments, ends: Integers, start: int, stop: int) -> Segments:
    """Keep some of the rows, counted over all segments.

    Parameters
    ----------
    segments : Segments
        The segments.
    ends : numpy.ndarray
        An int64 ``[segments]``: the running total of their rows.
    start : int
        The first row that is kept.
    stop : int
        The row after the last one.

    Returns
    -------
    Segments
        None of them empty.
    """
    if stop <= start:
        return segments.take(slice(0))
    low = int(np.searchsorted(ends, start, side="right"))
    high = int(np.searchsorted(ends, stop, side="left")) + 1
    chunk, first, rows = (values.copy() for values in segments.take(slice(low, high)))
    rows[-1] -= int(ends[high - 1]) - stop
    skip = start - (int(ends[low]) - int(segments.num_rows[low]))
    first[0] += skip
    rows[0] -= skip
    return Segments(chunk, first, rows)


def without(segments: Segments, start: int, num_rows: int) -> Segments:
    """Leave out some of the rows, counted over all segments; after the last one the first one follows.

    Parameters
    ----------
    segments : Segments
        The segments.
    start : int
        The first row that is left out.
    num_rows : int
        How many are.

    Returns
    -------
    Segments
        None of them empty.
    """
    ends = np.cumsum(segments.num_rows)
    total, stop = int(ends[-1]), start + num_rows
    if stop > total:
        return clip(segments, ends, stop - total, start)
    parts = (clip(segments, ends, 0, start), clip(segments, ends, stop, total))
    return Segments(*(np.concatenate(pair) for pair in zip(*parts, strict=True)))


def cut(chunk_rows: Integers, most: Integers) -> Segments:
    """Cut chunks into runs of rows.

    Parameters
    ----------
    chunk_rows : numpy.ndarray
        An int64 ``[chunks]``.
    most : numpy.ndarray
        An int64 ``[chunks]``: the most rows of a run of each; less than 1 only where it has none.

    Returns
    -------
    Segments
        Chunk after chunk; none of those without rows.
    """
    num_runs = -(-chunk_rows // np.maximum(most, 1))
    chunk = np.repeat(np.arange(len(chunk_rows)), num_runs)
    first = ranges(np.zeros(len(chunk_rows), np.int64), num_runs) * most[chunk]
    return Segments(chunk, first, np.minimum(most[chunk], chunk_rows[chunk] - first))


def sliced(segments: Segments, most: int) -> Segments:
    """Cut segments that are too long into even slices.

    Parameters
    ----------
    segments : Segments
        The segments.
    most : int
        The most rows of a slice.

    Returns
    -------
    Segments
        In the same order, none with more rows.
    """
    parts = -(-segments.num_rows // most)
    if len(parts) == 0 or parts.max() == 1:
        return segments
    part = ranges(np.zeros(len(parts), np.int64), parts)
    chunk, first, rows = (np.repeat(values, parts) for values in segments)
    parts = np.repeat(parts, parts)
    begin, end = rows * part // parts, rows * (part + 1) // parts
    return Segments(chunk, first + begin, end - begin)


def typical(sizes: Integers) -> int:
    """Return the size of the run that holds the median row.

    Parameters
    ----------
    sizes : numpy.ndarray
        An int64 ``[runs]``: their rows.

    Returns
    -------
    int
        0 for no rows at all.

    Examples
    --------
    >>> typical(np.array([1, 1, 1, 50, 60]))
    60
    """
    ordered = np.sort(sizes)
    ends = np.cumsum(ordered)
    return int(ordered[np.searchsorted(ends, ends[-1] / 2)]) if len(ends) else 0
