"""Asking an adaptive cluster for workers, and for keeping them while they are needed.

What an adaptive cluster sees are tasks: a gang that waits for its workers is none. So its minimum is raised meanwhile.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["workers_wanted"]

_minimum: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
"""By adaptive scaling: its own minimum."""
_wanted: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
"""By adaptive scaling: how many are wanted now."""
_lock = threading.Lock()


@contextlib.contextmanager
def workers_wanted(client: Client, count: int) -> Iterator[int]:
    """Want so many workers more than others do; an adaptive cluster starts them, and keeps them until the end.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    count : int
        How many.

    Yields
    ------
    int
        How many there will be at least; 0 if the client was not made with a cluster that scales by itself.
    """
    adaptive = getattr(getattr(client, "cluster", None), "_adaptive", None)
    if adaptive is None:
        yield 0
        return
    try:
        yield _want(adaptive, count)
    finally:
        _want(adaptive, -count)


def _want(adaptive: Any, count: int) -> int:
    with _lock:
        own = _minimum.setdefault(adaptive, adaptive.minimum)
        _wanted[adaptive] = _wanted.get(adaptive, 0) + count
        adaptive.minimum = least = int(min(adaptive.maximum, max(own, _wanted[adaptive])))
        return least
