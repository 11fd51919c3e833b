"""Loaded by the workers of a local cluster before they take tasks."""

from __future__ import annotations

import signal

from distributed import Worker

__all__ = ["dask_setup"]


def dask_setup(worker: Worker) -> None:  # noqa: ARG001  # Dask calls it so
    """Leave Ctrl-C to the client, which closes its workers in order.

    A terminal sends it to the whole process group; a worker that took it too would die with a traceback.

    Parameters
    ----------
    worker : distributed.Worker
        The worker that starts.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
