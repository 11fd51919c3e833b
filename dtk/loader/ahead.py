"""Fetching ahead of decoding: what the next reads need of a remote source is on its way before a thread is free."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from dtk.loader.segments import Integers
from dtk.sources.remote import REQUESTS, Fetch, FetchCost

__all__ = ["HELD", "Ahead", "fetch_cost_of", "fetch_limit_nbytes", "give_up"]

HELD: Final = 2  # bytes that a byte under way takes: HTTP clients put pieces of any size together at the end
_SHARE: Final = 16
_MOST: Final = 4 * REQUESTS  # fetches under way: more would only wait for their turn
_LEAST_NBYTES: Final = 1 << 14  # of a fetch under way, however little it is for: tasks, futures, places


class Ahead:
    """Starts the fetches of reads in their order, so far ahead as a number of bytes allows, and no more than 256.

    It has no thread of its own: each read that is taken makes room for the next. Its caller holds a lock.

    Parameters
    ----------
    source : Source or ArraySource
        What is read; nothing is fetched where it has no ``fetch``, or is local.
    columns : sequence of str
        Which columns.
    chunks : numpy.ndarray
        An int64 ``[reads]``: the chunk of each read, in the order in which they are taken.
    limit_nbytes : int
        Bytes that may be under way, or there and not yet taken. A read that is larger starts when it is taken.

    Attributes
    ----------
    peak_nbytes : int
        The most bytes that were.
    """

    def __init__(self, source: Any, *, columns: Sequence[str], chunks: Integers, limit_nbytes: int) -> None:
        self._cost = fetch_cost_of(source, columns)
        self._source, self._columns, self._limit_nbytes = source, columns, limit_nbytes
        self._chunks = chunks
        self._next = 0
        self._started: deque[tuple[Fetch, int]] = deque()
        self._held_nbytes = self.peak_nbytes = 0
        self._start(0)

    def take(self) -> Fetch | None:
        """Hand over the next read's fetch, and start others in its place.

        Returns
        -------
        list of concurrent.futures.Future or None
            For the source's ``read``, which waits for it; None where nothing is fetched.
        """
        if self._cost is None:
            return None
        self._start(1)
        fetch, nbytes = self._started.popleft()
        self._held_nbytes -= nbytes
        self._start(0)
        return fetch

    def close(self) -> None:
        """Give up what was not taken."""
        self._next = len(self._chunks)
        while self._started:
            fetch, _ = self._started.popleft()
            give_up(fetch)
        self._held_nbytes = 0

    def _start(self, least: int) -> None:
        """Start fetches while there is room, and so many in any case."""
        while self._cost is not None and self._next < len(self._chunks):
            chunk = int(self._chunks[self._next])
            nbytes = int(self._cost.nbytes[chunk])
            is_full = len(self._started) == _MOST or self._held_nbytes + nbytes > self._limit_nbytes
            if is_full and len(self._started) >= least:
                return
            self._started.append((self._source.fetch(chunk, self._columns), nbytes))
            self._next += 1
            self._held_nbytes += nbytes
            self.peak_nbytes = max(self.peak_nbytes, self._held_nbytes)


def give_up(fetch: Fetch | None) -> None:
    """Cancel what a read will not need.

    Parameters
    ----------
    fetch : list of concurrent.futures.Future or None
        As `Ahead.take` gave it.
    """
    for future in fetch or ():
        if not future.cancel() and future.done() and not future.cancelled() and future.exception() is None:
            getattr(future.result(), "give_up", lambda: None)()  # it is there, and is being decoded


def fetch_cost_of(source: Any, columns: Sequence[str]) -> FetchCost | None:
    """Ask a source what fetching its chunks takes.

    Parameters
    ----------
    source : Source or ArraySource
        Any source.
    columns : sequence of str
        Which columns.

    Returns
    -------
    FetchCost or None
        With what a fetch takes beside its bytes; None where nothing is fetched.
    """
    cost: FetchCost | None = source.fetch_cost(columns) if hasattr(source, "fetch_cost") else None
    return None if cost is None else replace(cost, nbytes=np.maximum(cost.nbytes, _LEAST_NBYTES))


def fetch_limit_nbytes(nbytes: Integers, limit_nbytes: int) -> int:
    """Choose how much is fetched ahead of decoding; it does not depend on this machine.

    Parameters
    ----------
    nbytes : numpy.ndarray
        An int64 ``[chunks]``: bytes that are fetched for a chunk.
    limit_nbytes : int
        Bytes that a rank's loader may hold.

    Returns
    -------
    int
        A sixteenth of the limit, but no more than the largest chunks that may be under way together, and no less than
        the largest one.
    """
    together = np.partition(nbytes, -_MOST)[-_MOST:] if len(nbytes) > _MOST else nbytes
    return max(min(limit_nbytes // _SHARE, int(together.sum())), int(nbytes.max(initial=0)))
