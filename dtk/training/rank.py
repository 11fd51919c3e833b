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
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from dtk.training.wire import FrameReader, FrameWriter

__all__ = ["Orders", "RankContext", "current_rank"]

BEAT_EVERY_S = 0.5


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
    reader = FrameReader(os.fdopen(orders_fd, "rb"))
    writer = FrameWriter(os.fdopen(frames_fd, "wb"))
    orders: Orders = reader.read()
    threading.Thread(target=_leave_with_worker, args=(reader,), name="dtk-worker-watch", daemon=True).start()
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


def _leave_with_worker(reader: FrameReader) -> None:
    """End this process, and all it started, when the worker is gone."""
    try:
        reader.read()
    except EOFError:
        os.killpg(0, signal.SIGKILL)


def _run(orders: Orders, writer: FrameWriter) -> bytes:
    global _current  # noqa: PLW0603  # one process is one rank

    import cloudpickle
    import torch

    torch.set_num_threads(orders.threads)
    device = "cuda" if orders.backend == "nccl" else "cpu"
    _current = RankContext(orders.rank, orders.ranks, device, lambda message: writer.write(("beat", message)))
    fn, args, kwargs = _load(orders.payload)
    _join_group(orders)
    try:
        return cloudpickle.dumps(fn(*args, **kwargs))  # type: ignore[no-any-return]
    finally:
        if sys.exc_info()[0] is None and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _load(payload: bytes) -> Any:
    try:
        return pickle.loads(payload)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error}: the workers cannot import module {error.name!r}; install it there, "
            "or send the file with client.upload_file(...)",
            name=error.name,
        ) from error


def _join_group(orders: Orders) -> None:
    from torch import distributed

    timeout = timedelta(seconds=orders.hang_timeout_s)
    options: dict[str, Any] = {} if orders.listen_fd is None else {"master_listen_fd": orders.listen_fd}
    store = distributed.TCPStore(
        orders.host,
        orders.port,
        orders.ranks,
        is_master=orders.rank == 0,
        timeout=timeout,
        wait_for_workers=False,
        **options,
    )
    distributed.init_process_group(
        orders.backend, store=store, rank=orders.rank, world_size=orders.ranks, timeout=timeout
    )


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
    return {
        "kind": type(error).__name__,
        "text": str(error),
        "traceback": "".join(traceback.format_exception(type(error), error, last)),
        "pickled": pickled,
        # another rank's failure shows here as a broken connection: an effect, not the cause
        "is_effect": isinstance(error, DistError) or "gloo" in str(error).lower() or "NCCL" in str(error),
    }
