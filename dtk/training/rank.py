"""A rank: one training process, started by a supervisor, which calls `main` in a fresh interpreter.

Drawn::

    Dask worker                              child process
    supervisor ── orders (payload) ────────► main: join the process group, run the function
               ◄─ frames: beat, result, error ─┘
               ── (end of file) ───────────► watch thread: the worker is gone, leave

The rank lives in a session of its own, so that Ctrl-C in a terminal reaches the client alone, and a supervisor can end
the rank with everything it started.
"""

from __future__ import annotations

import faulthandler
import os
import queue
import re
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, BinaryIO

from dtk.runtime import unpack
from dtk.training.wire import FrameReader, FrameWriter

__all__ = ["STACK_SIGNAL", "Orders", "RankContext", "current_rank"]

BEAT_EVERY_S = 0.5
STACK_SIGNAL = signal.SIGUSR2
"""Makes a rank whose function runs print where it is."""


@dataclass(frozen=True)
class Orders:
    """What a supervisor tells its rank.

    Parameters
    ----------
    rank, ranks : int
        This process's number, and how many there are.
    host : str
        Host of rank 0's store.
    port : int
        Its port.
    listen_fd : int or None
        For rank 0: the listening socket, inherited.
    backend : str
        ``"gloo"`` or ``"nccl"``.
    threads : int
        For torch's operators.
    hang_timeout_s : float
        After which a collective gives up.
    join_timeout_s : float
        After which it no longer waits for the other ranks to start.
    payload : bytes
        The function and its arguments, by cloudpickle.
    """

    rank: int
    ranks: int
    host: str
    port: int
    listen_fd: int | None
    backend: str
    threads: int
    hang_timeout_s: float
    join_timeout_s: float
    payload: bytes


class RankContext:
    """What code in a rank may ask and tell.

    Parameters
    ----------
    rank, ranks : int
        This process's number, and how many there are.
    device : str
        ``"cpu"`` or ``"cuda"``.
    send : callable
        Takes a message for the client.
    """

    def __init__(self, rank: int, ranks: int, device: str, send: Callable[[dict[str, Any]], None]) -> None:
        self.rank = rank
        self.ranks = ranks
        self.device = device
        self._send = send
        self._sent = -BEAT_EVERY_S

    def report(self, message: Callable[[], dict[str, Any]], *, at_once: bool = False) -> None:
        """Tell that this rank is alive, and how far it is; at most twice a second.

        Parameters
        ----------
        message : callable
            Makes the message, called only when one is due.
        at_once : bool
            Whether to send it however recent the last one is.
        """
        now = time.monotonic()
        if at_once or now - self._sent >= BEAT_EVERY_S:
            self._sent = now
            self._send(message())


_current: RankContext | None = None


def current_rank() -> RankContext | None:
    """Return the context of the rank that this process is.

    Returns
    -------
    RankContext or None
        None in a process that is no rank.
    """
    return _current


class _RanksMissingError(Exception):
    """Other ranks did not start in time."""

    def __init__(self, awaited: tuple[int, ...]) -> None:
        super().__init__(f"rank {', '.join(map(str, awaited))} did not start")
        self.awaited = awaited


def main(orders_fd: int, frames_fd: int) -> int:
    """Run a rank to its end.

    Parameters
    ----------
    orders_fd, frames_fd : int
        Inherited ends of the two pipes.

    Returns
    -------
    int
        The exit status: 0, or 1 if the function raised.
    """
    faulthandler.enable()
    faulthandler.register(STACK_SIGNAL, all_threads=False)
    os.register_at_fork(after_in_child=lambda: _let_go(orders_fd, frames_fd))
    for fd in (orders_fd, frames_fd):
        os.set_inheritable(fd, False)
    inbox = os.fdopen(orders_fd, "rb")
    reader = FrameReader(inbox)
    writer = FrameWriter(os.fdopen(frames_fd, "wb"))
    orders: Orders = reader.read()
    threading.Thread(target=_leave_with_worker, args=(inbox,), daemon=True).start()
    try:
        result = _run(orders, writer)
    except BaseException as error:
        writer.write(("error", _describe(error)))
        status = 1
    else:
        writer.write(("result", result))
        status = 0
    writer.close()
    return status


def _let_go(*fds: int) -> None:
    """Point the pipes of a forked child to nowhere: their ends tell the supervisor that the rank itself is gone."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in fds:
        os.dup2(nowhere, fd, inheritable=False)
    os.close(nowhere)


def _leave_with_worker(inbox: BinaryIO) -> None:
    """End this process, and all it started, when the worker is gone.

    The end of the pipe tells it at once; where a fork of the worker holds the pipe, too, the parent that is gone does:
    see `START_RANK`.
    """
    orders = select.poll()
    orders.register(inbox, select.POLLIN)
    orders.poll()  # nothing but the end comes after the orders
    os.killpg(0, signal.SIGKILL)


def _run(orders: Orders, writer: FrameWriter) -> bytes:
    global _current  # noqa: PLW0603  # one process is one rank

    import cloudpickle
    import torch

    torch.set_num_threads(orders.threads)
    device = "cuda" if orders.backend == "nccl" else "cpu"
    _current = RankContext(orders.rank, orders.ranks, device, lambda message: writer.write(("beat", message)))
    fn, args, kwargs = unpack(orders.payload)
    _join_group(orders)
    writer.write(("start", None))
    try:
        return cloudpickle.dumps(fn(*args, **kwargs))  # type: ignore[no-any-return]
    finally:
        if sys.exc_info()[0] is None and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _join_group(orders: Orders) -> None:
    from torch import distributed

    timeout = timedelta(seconds=orders.hang_timeout_s)
    store = _open_store(orders)
    keys = [f"dtk/rank/{rank}" for rank in range(orders.ranks)]
    store.set(keys[orders.rank], "started")
    try:
        store.wait(keys, timedelta(seconds=orders.join_timeout_s))
    except distributed.DistStoreError as error:
        raise _RanksMissingError(tuple(rank for rank, key in enumerate(keys) if not store.check([key]))) from error
    store.set_timeout(timeout)
    distributed.init_process_group(
        orders.backend, store=store, rank=orders.rank, world_size=orders.ranks, timeout=timeout
    )


def _open_store(orders: Orders) -> Any:
    """Join rank 0's store; its socket listens before rank 0 starts, and torch would wait there without limit."""
    from torch import distributed

    opened: queue.SimpleQueue[Any] = queue.SimpleQueue()
    options: dict[str, Any] = {} if orders.listen_fd is None else {"master_listen_fd": orders.listen_fd}

    def open_store() -> None:
        try:
            store = distributed.TCPStore(
                orders.host,
                orders.port,
                orders.ranks,
                is_master=orders.rank == 0,
                timeout=timedelta(seconds=orders.join_timeout_s),
                wait_for_workers=False,
                **options,
            )
        except Exception as error:
            opened.put(error)
        else:
            opened.put(store)

    threading.Thread(target=open_store, daemon=True).start()
    try:
        store = opened.get(timeout=orders.join_timeout_s)
    except queue.Empty:
        raise _RanksMissingError((0,)) from None
    if isinstance(store, Exception):
        raise store
    return store


def _describe(error: BaseException) -> dict[str, Any]:
    """Take down an error so that it crosses to the client whatever its class."""
    import cloudpickle
    from torch.distributed import DistError

    last = error.__traceback__
    while last is not None and last.tb_frame.f_code.co_filename == __file__ and last.tb_next is not None:
        last = last.tb_next  # the user's own frames, not ours
    try:
        pickled = cloudpickle.dumps(error)
    except Exception:  # an error that holds, say, a lock: its text must do
        pickled = None
    text = str(error)
    # another rank's failure shows here as a broken connection, or as a wait that does not end
    is_effect = isinstance(error, DistError) or "gloo" in text.lower() or "NCCL" in text
    is_timeout = is_effect and re.search("timed? ?out", text, flags=re.IGNORECASE) is not None
    return {
        "kind": type(error).__name__,
        "text": text,
        "traceback": "".join(traceback.format_exception(type(error), error, last)),
        "pickled": pickled,
        "awaited": error.awaited if isinstance(error, _RanksMissingError) else (),
        "nature": "timeout" if is_timeout else "effect" if is_effect else "cause",
    }
