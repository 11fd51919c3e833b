"""A cluster on this machine that leaves nothing behind."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass
from typing import Any

import dask
from dask.system import CPU_COUNT
from distributed import Client
from distributed.deploy.utils import nprocesses_nthreads
from distributed.system import MEMORY_LIMIT

from dtk.errors import ArgumentError
from dtk.memory import format_nbytes, parse_nbytes
from dtk.runtime.client import RANK_MEMORY_VARIABLE

__all__ = ["LocalSize", "size_local", "start_local"]

WORKER_FLOOR_NBYTES = 256 * 2**20  # a worker that has imported dask, pandas and pyarrow


@dataclass(frozen=True)
class LocalSize:
    """What a local cluster takes of the machine.

    Parameters
    ----------
    workers : int
        Processes.
    threads : int
        Of each.
    worker_nbytes : int
        Memory that a worker itself may hold.
    rank_nbytes : int
        Memory that the ranks on a worker may hold together.
    """

    workers: int
    threads: int
    worker_nbytes: int
    rank_nbytes: int


class _LocalClient(Client):
    """A client that ends its cluster, and removes the cluster's scratch directory, when it is closed."""

    def __init__(self, scratch: str, **cluster: Any) -> None:
        self._remove_scratch = weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)
        with dask.config.set({"temporary-directory": scratch}):  # the scheduler's too, which takes no argument for it
            super().__init__(**cluster)  # type: ignore[no-untyped-call]

    async def _close(self, fast: bool = False) -> None:
        await super()._close(fast)
        self._remove_scratch()


def size_local(
    workers: int | None, threads: int | None, memory: int | str | None, rank_memory: int | str | None
) -> LocalSize:
    """Fill in the arguments of `dtk.connect` for a local cluster; nothing is started.

    Parameters
    ----------
    workers, threads : int, optional
        Processes, and threads of each.
    memory, rank_memory : int or str, optional
        Bytes a worker and its ranks, and the part of it that is the ranks'.

    Returns
    -------
    LocalSize
        As given, and for the rest sized to this machine.

    Raises
    ------
    ArgumentError
        If the memory does not suffice for a worker.
    """
    if workers is None and threads is None:
        workers, threads = nprocesses_nthreads(CPU_COUNT)
    elif workers is None:
        assert threads is not None
        workers = max(1, CPU_COUNT // threads)
    elif threads is None:
        threads = max(1, CPU_COUNT // workers)
    share = int(MEMORY_LIMIT * 0.9 / workers) if memory is None else parse_nbytes(memory)
    rank_share = share // 2 if rank_memory is None else parse_nbytes(rank_memory, name="rank_memory")
    if rank_share >= share:
        raise ArgumentError(
            f"rank_memory={format_nbytes(rank_share)} must be less than memory={format_nbytes(share)}, "
            "of which it is a part"
        )
    if share - rank_share < WORKER_FLOOR_NBYTES:
        raise ArgumentError(
            f"memory={format_nbytes(share)} leaves {format_nbytes(share - rank_share)} to a worker beside "
            f"rank_memory={format_nbytes(rank_share)}; a worker needs {format_nbytes(WORKER_FLOOR_NBYTES)} to start"
        )
    return LocalSize(workers, threads, share - rank_share, rank_share)


def start_local(
    workers: int | None, threads: int | None, memory: int | str | None, rank_memory: int | str | None, dashboard: str
) -> Client:
    """Start a local cluster; the arguments are those of `dtk.connect`.

    Parameters
    ----------
    workers, threads, memory, rank_memory : object
        As for `size_local`.
    dashboard : str
        Host and port.

    Returns
    -------
    distributed.Client
        Closing it ends the cluster.

    Raises
    ------
    ArgumentError
        If the memory does not suffice for a worker.
    """
    size = size_local(workers, threads, memory, rank_memory)
    return _LocalClient(
        tempfile.mkdtemp(prefix="dtk-"),
        n_workers=size.workers,
        threads_per_worker=size.threads,
        memory_limit=size.worker_nbytes,
        dashboard_address=dashboard,
        host="127.0.0.1",
        env={RANK_MEMORY_VARIABLE: str(size.rank_nbytes)},
        preload=["dtk.runtime.worker_preload"],
    )
