"""When a rank reads which chunk: the fills of its shards, turned into reads in the order of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dtk.loader.order import Order
from dtk.loader.segments import Fills, Integers

__all__ = ["Piece", "Read", "Schedule", "make_schedule"]


class Piece(NamedTuple):
    """A run of rows of a chunk and where it belongs.

    Parameters
    ----------
    fill : int
        The fill.
    offset : int
        The place of its first row in the fill, before the fill is permuted.
    first_row : int
        Its first row in the chunk.
    num_rows : int
        Its rows.
    """

    fill: int
    offset: int
    first_row: int
    num_rows: int


class Read(NamedTuple):
    """One decode of a chunk, for one or more fills.

    Parameters
    ----------
    chunk : int
        The chunk.
    first_step : int
        The first step that needs it.
    last_step : int
        The last step that it writes to; the ring must reach so far before the read starts.
    pieces : tuple of Piece
        Where its rows go.
    """

    chunk: int
    first_step: int
    last_step: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, eq=False)
class Schedule:
    """The reads of one rank in one epoch, in the order of their first steps.

    Parameters
    ----------
    fills : Fills
        The fills of the rank's shards.
    num_pieces : numpy.ndarray
        An int64 ``[fills]``: pieces of each fill that are read; 0 for fills that are closed before the first step.
    chunk : numpy.ndarray
        An int64 ``[reads]``.
    first_step : numpy.ndarray
        An int64 ``[reads]``, rising.
    last_step : numpy.ndarray
        An int64 ``[reads]``.
    bounds : numpy.ndarray
        An int64 ``[reads, 2]``: the first of a read's rows of `pieces`, inclusive, and the last, exclusive.
    pieces : numpy.ndarray
        An int64 ``[pieces, 4]``: the fields of a `Piece`.
    """

    fills: Fills
    num_pieces: Integers
    chunk: Integers
    first_step: Integers
    last_step: Integers
    bounds: Integers
    pieces: Integers

    def __len__(self) -> int:
        return len(self.chunk)

    def __getitem__(self, number: int) -> Read:
        start, stop = self.bounds[number].tolist()
        pieces = tuple(Piece(*piece) for piece in self.pieces[start:stop].tolist())
        return Read(int(self.chunk[number]), int(self.first_step[number]), int(self.last_step[number]), pieces)


def make_schedule(
    order: Order, epoch: int, rank: int, ranks: int, *, ring_steps: int, lead_steps: int, start: int = 0
) -> Schedule:
    """Lay out the reads of one rank in one epoch.

    Parameters
    ----------
    order : Order
        The order of samples.
    epoch : int
        The epoch.
    rank : int
        The rank.
    ranks : int
        The number of ranks.
    ring_steps : int
        Steps that the ring holds: as many as a fill reaches over, or more.
    lead_steps : int
        How many of them are there to read ahead.
    start : int
        The first step. Only chunks of fills that are open then or later are read.

    Returns
    -------
    Schedule
        Whichever way its reads are spread over threads, the ring never waits for a step that waits for the ring.
    """
    fills = order.fills(epoch, order.rank_shards(rank, ranks))
    slots = np.diff(order.shard_slots)[fills.shard]
    first = np.maximum(fills.position // slots, start)
    last = (fills.position + fills.num_rows - 1) // slots
    num_pieces = np.where(last >= start, np.diff(fills.bounds), 0)

    fill = np.repeat(np.arange(len(first)), np.diff(fills.bounds))
    rows = fills.segments.num_rows
    offset = np.cumsum(rows) - rows
    offset -= (np.cumsum(fills.num_rows) - fills.num_rows)[fill]
    pieces = np.stack([fill, offset, fills.segments.first_row, rows], axis=1)
    chunk = fills.segments.chunk
    is_open = last[fill] >= start
    pieces, chunk, fill = pieces[is_open], chunk[is_open], fill[is_open]

    by_chunk = np.lexsort((fill, first[fill], chunk))
    pieces, chunk, fill = pieces[by_chunk], chunk[by_chunk], fill[by_chunk]
    # A later fill of a chunk shares the decode of an earlier one if that leaves half the lead to read ahead.
    share_steps = ring_steps - 1 - (lead_steps // 2 if ring_steps < order.num_steps else 0)
    leads = _first_of_reads(chunk, first[fill], last[fill], share_steps)
    ends = np.append(leads, len(chunk))[1:]
    bounds = np.stack([leads, ends], axis=1)
    first_step = first[fill][leads]
    last_step = np.maximum.reduceat(last[fill], leads) if len(leads) else first_step
    assert not len(leads) or int((last_step - first_step).max()) < ring_steps
    in_time = np.lexsort((fill[leads], last_step, first_step))
    return Schedule(
        fills=fills,
        num_pieces=num_pieces,
        chunk=chunk[leads][in_time],
        first_step=first_step[in_time],
        last_step=last_step[in_time],
        bounds=bounds[in_time],
        pieces=pieces,
    )


def _first_of_reads(chunk: Integers, first: Integers, last: Integers, most_steps: int) -> Integers:
    """Group pieces, sorted by chunk and first step, into reads; return the index of each read's first piece."""
    is_first = np.append(True, chunk[1:] != chunk[:-1])[: len(chunk)]
    lead = -1
    for index in np.flatnonzero(~is_first).tolist():  # few: most chunks are needed once
        if is_first[index - 1]:
            lead = index - 1
        same_fill_or_close = last[index] - first[lead] <= max(most_steps, int(last[lead] - first[lead]))
        is_first[index] = not same_fill_or_close
    return np.flatnonzero(is_first)
