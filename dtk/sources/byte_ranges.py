"""Byte ranges of a file: merged into requests, and read back as if the whole file were there."""

from __future__ import annotations

import bisect
import io
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np

__all__ = ["GAP_NBYTES", "REQUEST_NBYTES", "PartialFile", "merged", "split"]

GAP_NBYTES: Final = 1 << 16  # not wanted, but cheaper to fetch than another request
REQUEST_NBYTES: Final = 1 << 22

Span = tuple[int, int]


def merged(
    spans: Sequence[Span], *, gap_nbytes: int = GAP_NBYTES, request_nbytes: int = REQUEST_NBYTES
) -> list[list[Span]]:
    """Put spans of a file together that one request should fetch.

    Parameters
    ----------
    spans : sequence of (int, int)
        First byte, and the one after the last; in any order.
    gap_nbytes : int
        The most bytes between two spans of a request.
    request_nbytes : int
        The most bytes of a request of several spans; a longer span is one of its own.

    Returns
    -------
    list of list of (int, int)
        The spans of each request, in order.

    Examples
    --------
    >>> merged([(0, 10), (12, 20), (90, 99)], gap_nbytes=5)
    [[(0, 10), (12, 20)], [(90, 99)]]
    """
    requests: list[list[Span]] = []
    stop = 0
    for span in sorted(spans):
        last = requests[-1] if requests else []
        if last and span[0] - stop <= gap_nbytes and max(stop, span[1]) - last[0][0] <= request_nbytes:
            last.append(span)
            stop = max(stop, span[1])
        else:
            requests.append([span])
            stop = span[1]
    return requests


def split(start: int, stop: int, *, request_nbytes: int = REQUEST_NBYTES) -> list[Span]:
    """Cut a span that is too long for one request into equal parts.

    Parameters
    ----------
    start : int
        The first byte.
    stop : int
        The one after the last.
    request_nbytes : int
        The most bytes of a request.

    Returns
    -------
    list of (int, int)
        At least one part.

    Examples
    --------
    >>> split(0, 10, request_nbytes=4)
    [(0, 3), (3, 6), (6, 10)]
    """
    parts = max(1, -(-(stop - start) // request_nbytes))
    edges = [start + (stop - start) * number // parts for number in range(parts + 1)]
    return list(pairwise(edges))


class PartialFile(io.RawIOBase):
    """A file of which only some spans are in memory, for a reader that asks for nothing else.

    Parameters
    ----------
    nbytes : int
        The size of the whole file.
    parts : sequence of (int, bytes)
        Where each span starts, and its content.
    read_missing : callable, optional
        ``read_missing(start, stop)`` gives what is not in memory; that is an error if None.
    """

    def __init__(
        self,
        nbytes: int,
        parts: Sequence[tuple[int, Any]],
        read_missing: Callable[[int, int], bytes] | None = None,
    ) -> None:
        super().__init__()
        ordered = sorted(parts, key=lambda part: part[0])
        self._starts = [start for start, _ in ordered]
        self._parts = [memoryview(content) for _, content in ordered]
        self._nbytes, self._position, self._read_missing = nbytes, 0, read_missing

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it has positions."""
        return True

    def tell(self) -> int:
        """Return the position, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position.

        Parameters
        ----------
        offset : int
            Bytes.
        whence : int
            From the start, the position or the end.

        Returns
        -------
        int
            The new position.
        """
        self._position = offset + (0, self._position, self._nbytes)[whence]
        return self._position

    def read_buffer(self, size: int = -1) -> Any:
        """Read without a copy, where that can be; Arrow asks for it.

        Parameters
        ----------
        size : int
            Bytes; all that follow if negative.

        Returns
        -------
        memoryview or bytes
            The content.
        """
        start = self._position
        stop = self._nbytes if size is None or size < 0 else min(start + size, self._nbytes)
        self._position = stop = max(start, stop)
        at = bisect.bisect_right(self._starts, start) - 1
        if at >= 0 and stop - self._starts[at] <= len(self._parts[at]):
            return self._parts[at][start - self._starts[at] : stop - self._starts[at]]
        return self._joined(start, stop, max(at, 0))

    def read(self, size: int = -1) -> bytes:
        """Read.

        Parameters
        ----------
        size : int
            Bytes; all that follow if negative.

        Returns
        -------
        bytes
            The content.
        """
        return bytes(self.read_buffer(size))

    def _joined(self, start: int, stop: int, at: int) -> Any:
        """Put together what lies in several parts, or in none."""
        whole = memoryview(np.empty(stop - start, np.uint8))  # type: ignore[arg-type]
        reached = start
        while reached < stop:
            while at < len(self._parts) and self._starts[at] + len(self._parts[at]) <= reached:
                at += 1
            begin = self._starts[at] if at < len(self._parts) else stop
            if begin > reached:
                until = min(begin, stop)
                if self._read_missing is None:
                    raise OSError(f"bytes {reached} to {until} were not fetched")
                content = memoryview(self._read_missing(reached, until))
            else:
                content = self._parts[at][reached - begin : stop - begin]
            whole[reached - start : reached - start + len(content)] = content
            reached += len(content)
        return whole
