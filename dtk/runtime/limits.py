"""How much memory there is, here and where tasks run."""

from __future__ import annotations

from dtk.runtime.client import current_client

__all__ = ["machine_nbytes", "worker_nbytes"]


def machine_nbytes() -> int:
    """Return how much memory this process may use.

    Returns
    -------
    int
        That of this machine, or of the control group it runs in.
    """
    from distributed.system import MEMORY_LIMIT

    return int(MEMORY_LIMIT)


def worker_nbytes() -> int:
    """Return how much memory a task can count on at most.

    Returns
    -------
    int
        The largest limit of the current client's workers, and `machine_nbytes` where there is no client, or a worker
        without a limit.
    """
    client = current_client()
    workers = [] if client is None else client.scheduler_info(n_workers=-1)["workers"].values()
    limits = [int(worker["memory_limit"] or 0) for worker in workers]
    return max(limits) if limits and all(limits) else machine_nbytes()
