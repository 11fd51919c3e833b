"""Dask collections computed from within a task."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

__all__ = ["mapped_inside"]

Made = TypeVar("Made")


def mapped_inside(function: Callable[[Any], Made], parts: Sequence[Any]) -> list[Made]:
    """Compute delayed values from within a task, and apply a function to each on this machine.

    Parameters
    ----------
    function : callable
        ``function(value) -> made``, where what is made is small: it may write the value to this machine's disk.
    parts : sequence of dask.delayed.Delayed
        They may share work, such as a shuffle, which is done once.

    Returns
    -------
    list
        What was made of each part, in order. Of the values this process holds one at a time on a cluster, where they
        come from the workers that have them, and one a thread elsewhere.
    """
    if not _is_on_worker():
        import dask
        from dask.delayed import delayed

        made: tuple[Made, ...] = dask.compute(*[delayed(function)(part) for part in parts], scheduler="threads")
        return list(made)
    from distributed import worker_client

    with worker_client() as client:
        futures, found = client.compute(list(parts)), []
        while futures:
            found.append(function(futures.pop(0).result()))
        return found


def _is_on_worker() -> bool:
    if "distributed" not in sys.modules:
        return False
    from distributed import get_worker

    try:
        get_worker()
    except ValueError:
        return False
    return True
