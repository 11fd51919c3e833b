"""What the process that runs a task may use: threads, memory, a directory on its disk."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass

__all__ = ["TaskPlace", "task_place"]


@dataclass(frozen=True)
class TaskPlace:
    """Where a task runs.

    Parameters
    ----------
    threads : int
        That run tasks at the same time.
    memory_nbytes : int
        What the process may hold.
    directory : str
        For files that are of no use after it.
    """

    threads: int
    memory_nbytes: int
    directory: str


def task_place() -> TaskPlace:
    """Tell what the process that runs the current task may use.

    Returns
    -------
    TaskPlace
        The worker's; outside of one, what is free of this machine's memory.
    """
    if "distributed" in sys.modules:
        from distributed import get_worker

        try:
            worker = get_worker()
        except ValueError:
            pass
        else:
            limit = worker.memory_manager.memory_limit
            return TaskPlace(worker.state.nthreads, limit or _free_nbytes(), worker.local_directory)
    return TaskPlace(os.cpu_count() or 1, _free_nbytes(), tempfile.gettempdir())


def _free_nbytes() -> int:
    import psutil

    return int(psutil.virtual_memory().available)
