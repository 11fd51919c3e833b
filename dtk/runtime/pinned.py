"""Tasks that stay on one worker: what the supervisors of ranks run in.

Measured reasons for each manner: a task that does not secede blocks its thread for everyone else; a seceded one that
is not pinned may be moved, and all ranks pile up on one worker; a cancelled task's thread runs on, so it must look.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dtk.errors import ClusterError
from dtk.runtime.events import TOPIC

if TYPE_CHECKING:
    from distributed import Client, Future, Worker

__all__ = [
    "PinnedTask",
    "WorkerInfo",
    "ask_workers",
    "is_error",
    "live_workers",
    "rank_order",
    "run_on",
    "submit_pinned",
    "workers_of",
]

LOOPBACK = "127.0.0.1"
ANSWER_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class WorkerInfo:
    """What the scheduler knows of a worker.

    Parameters
    ----------
    address : str
        Such as ``tcp://10.0.0.1:40001``.
    name : str
        Given by the deployment; ranks are numbered in its order.
    num_threads : int
        Threads for tasks.
    resources : mapping of str to float
        What it offers, as it was started with.
    """

    address: str
    name: str
    num_threads: int
    resources: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def host(self) -> str:
        """The worker's host, as other workers reach it."""
        place = urlsplit(self.address)
        return LOOPBACK if place.scheme == "inproc" else place.hostname or LOOPBACK


def workers_of(client: Client) -> list[WorkerInfo]:
    """List the cluster's workers in a stable order.

    Parameters
    ----------
    client : distributed.Client
        Connected.

    Returns
    -------
    list of WorkerInfo
        By host, then by name; numbers in names count as numbers.

    Raises
    ------
    ClusterError
        If the scheduler does not answer.
    """
    assert client.scheduler is not None  # as it is connected
    try:
        # Client.scheduler_info returns what the client's own poll, which asks for no workers, may have replaced by then
        told = client.sync(client.scheduler.identity, n_workers=-1)
    except OSError as error:
        raise ClusterError(_gone(error)) from error
    found = [
        WorkerInfo(address, str(info["name"]), info["nthreads"], info.get("resources") or {})
        for address, info in told["workers"].items()
    ]
    return sorted(found, key=rank_order)


def rank_order(worker: WorkerInfo) -> tuple[str, str, str]:
    """Give the key by which workers are sorted: the order of ranks.

    Parameters
    ----------
    worker : WorkerInfo
        A worker.

    Returns
    -------
    tuple of str
        Host, name and address.

    Examples
    --------
    >>> nine, ten = (WorkerInfo("tcp://h:1", name, 1) for name in ("node-9", "node-10"))
    >>> rank_order(nine) < rank_order(ten)
    True
    """
    name = re.sub(r"\d+", lambda number: number[0].zfill(12), worker.name)
    return worker.host, name, worker.address


def live_workers(client: Client) -> set[str]:
    """Ask the scheduler which workers it has now.

    Parameters
    ----------
    client : distributed.Client
        Connected.

    Returns
    -------
    set of str
        Addresses.

    Raises
    ------
    ClusterError
        If the scheduler does not answer.
    """
    try:
        return set(client.nthreads())
    except OSError as error:
        raise ClusterError(_gone(error)) from error


def _gone(error: OSError) -> str:
    return f"the scheduler is gone, or cannot be reached: {error}; start a cluster"


class PinnedTask:
    """The task that the calling thread runs, as seen from inside.

    Parameters
    ----------
    worker : distributed.Worker
        The worker that runs it.
    key : str
        The task's key.
    """

    def __init__(self, worker: Worker, key: str) -> None:
        self._worker = worker
        self._key = key
        self.address: str = worker.address
        self.local_directory: str = worker.local_directory

    @property
    def is_released(self) -> bool:
        """Whether nobody waits for this task any more: it was cancelled, or its client is gone."""
        task = self._worker.state.tasks.get(self._key)
        return task is None or task.state == "cancelled" or not self.is_worker_open

    @property
    def is_closing(self) -> bool:
        """Whether the worker closes in good order."""
        return self._worker.status.name in ("closing_gracefully", "closing")

    @property
    def is_worker_open(self) -> bool:
        """Whether the worker takes tasks, and is not about to close."""
        return self._worker.status.name in ("running", "paused")

    def publish(self, gang: str, message: dict[str, Any]) -> None:
        """Send a message to the clients that are `subscribed` to a gang.

        Parameters
        ----------
        gang : str
            The gang's name.
        message : dict
            Of numbers, strings, lists and dicts.
        """
        self._worker.log_event(TOPIC, {"gang": gang} | message)


def _in_place(address: str, key: str, fn: Callable[..., Any], *args: Any) -> Any:
    from distributed import get_worker, secede

    worker = get_worker()
    if worker.address != address:
        raise ClusterError(f"worker {address} is gone: its task {key} came to {worker.address}")
    task = PinnedTask(worker, key)
    secede()
    return fn(task, *args)


def submit_pinned(
    client: Client,
    fn: Callable[..., Any],
    calls: Sequence[tuple[str, tuple[Any, ...]]],
    *,
    keys: Sequence[str],
    resources: Mapping[str, float] | None = None,
) -> list[Future[Any]]:
    """Run a function on given workers, each in a task that stays there and blocks no thread of the worker.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    fn : callable
        ``fn(task, *args)`` with a `PinnedTask`. It must look at `PinnedTask.is_released` and return when that is true.
    calls : sequence of (str, tuple)
        The worker's address, and the arguments.
    keys : sequence of str
        The tasks' keys, one a call.
    resources : mapping of str to float, optional
        What each of them takes of its worker's, for as long as it runs.

    Returns
    -------
    list of distributed.Future
        In the order of the calls.
    """
    return [
        client.submit(
            _in_place,
            address,
            key,
            fn,
            *args,
            key=key,
            workers=[address],
            allow_other_workers=False,
            pure=False,
            retries=0,
            resources=dict(resources) if resources else None,
        )
        for (address, args), key in zip(calls, keys, strict=True)
    ]


def run_on(client: Client, fn: Callable[..., Any], address: str, *args: Any) -> Any:
    """Call a function on one worker at once, outside of its task queue.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    fn : callable
        Quick, or a coroutine function: it runs in the worker's event loop.
    address : str
        The worker.
    *args : object
        For `fn`.

    Returns
    -------
    object
        What `fn` returned.

    Raises
    ------
    ClusterError
        If the worker does not answer.
    """
    answers = ask_workers(client, fn, [address], *args)
    if address not in answers:
        raise ClusterError(f"worker {address} did not answer within {ANSWER_TIMEOUT_S:g} s; restart it, and run again")
    return answers[address]


def ask_workers(
    client: Client, fn: Callable[..., Any], addresses: Iterable[str], *args: Any, timeout_s: float = ANSWER_TIMEOUT_S
) -> dict[str, Any]:
    """Call a function on several workers at the same time, outside of their task queues, and wait for no silent one.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    fn : callable
        See `run_on`.
    addresses : iterable of str
        The workers.
    *args : object
        For `fn`.
    timeout_s : float
        Seconds after which a worker counts as silent.

    Returns
    -------
    dict of str to object
        What `fn` returned, by worker; without those that are gone or silent.
    """
    return client.sync(_ask, client, fn, addresses, args, timeout_s)  # type: ignore[no-any-return]


async def _ask(
    client: Client, fn: Callable[..., Any], addresses: Iterable[str], args: tuple[Any, ...], timeout_s: float
) -> dict[str, Any]:
    # one call a worker: the scheduler gives the answers to one call all together, or not at all
    asked = {asyncio.ensure_future(client.run(fn, *args, workers=[address])): address for address in addresses}
    if not asked:
        return {}
    answered, silent = await asyncio.wait(asked, timeout=timeout_s)
    for call in silent:
        call.cancel()
    heard = {asked[call]: call for call in answered if not isinstance(call.exception(), OSError)}  # its end broke
    return {address: call.result()[address] for address, call in heard.items()}


def is_error(future: Future[Any]) -> bool:
    """Tell whether a task failed, or cannot finish any more.

    Parameters
    ----------
    future : distributed.Future
        Of a task.

    Returns
    -------
    bool
        True for an error, a lost and a cancelled task.
    """
    return future.status in ("error", "lost", "cancelled")
