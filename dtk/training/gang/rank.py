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

import atexit
import contextlib
import faulthandler
import math
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from dtk.runtime import unpack
from dtk.training.gang.agreement import Agreement
from dtk.training.gang.events import Events
from dtk.training.gang.joining import Orders, RanksMissingError, connect, join_group
from dtk.training.gang.wire import FrameReader, FrameWriter

__all__ = ["STACK_SIGNAL", "RankContext", "current_rank", "leave", "leave_orphaned", "leave_process", "main"]

BEAT_EVERY_S = 0.5
STACK_SIGNAL = signal.SIGUSR2
"""Makes a rank whose function runs print where it is."""


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
    orders : Orders, optional
        Those of the gang; None where the rank is alone, in the user's own process.
    """

    def __init__(
        self,
        rank: int,
        ranks: int,
        device: str,
        send: Callable[[dict[str, Any]], None],
        orders: Orders | None = None,
    ) -> None:
        self.rank = rank
        self.ranks = ranks
        self.device = device
        self.on_leave: Callable[[str], None] | None = None
        """Called, on any thread, with the reason when the rank shall leave; None where it cannot before its end."""
        self._send = send
        self._sent = -BEAT_EVERY_S
        self._orders = orders

    @property
    def owns_process(self) -> bool:
        """Whether the process is this rank's alone, so that its signals are for it."""
        return self._orders is not None

    def agreement(self) -> Agreement:
        """Join what the ranks agree on; every rank does so once.

        Returns
        -------
        Agreement
            To be closed.
        """
        orders = self._orders
        if orders is None:
            return Agreement(self.rank, self.ranks)
        return Agreement(self.rank, self.ranks, partial(connect, orders), hang_timeout_s=orders.hang_timeout_s)

    @property
    def grace_s(self) -> float:
        """Seconds that there are for a last checkpoint."""
        return 0.0 if self._orders is None else self._orders.grace_s

    @property
    def hang_timeout_s(self) -> float:
        """Seconds of silence after which a rank counts as hung."""
        return math.inf if self._orders is None else self._orders.hang_timeout_s

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


def main(orders_fd: int, frames_fd: int, modules: Sequence[str] = ()) -> int:
    """Run a rank to its end.

    Parameters
    ----------
    orders_fd, frames_fd : int
        Inherited: a socket that orders come from, and a pipe for what there is to tell.
    modules : sequence of str
        To be loaded before the orders come.

    Returns
    -------
    int
        The exit status: 0, or 1 if the function raised.
    """
    for name in ("torch.distributed", *modules):  # before the orders: what follows them shall be quick
        import_module(name)
    faulthandler.enable()
    faulthandler.register(STACK_SIGNAL, all_threads=False)
    os.register_at_fork(after_in_child=lambda: _let_go(orders_fd, frames_fd))
    for fd in (orders_fd, frames_fd):
        os.set_inheritable(fd, False)
    inbox = socket.socket(fileno=orders_fd)
    roused, fds, _, _ = socket.recv_fds(inbox, 1, 1)
    if not roused:
        return 0  # a spare that nobody needs any more
    inbox.sendall(b"\0")
    reader = FrameReader(inbox.makefile("rb"))
    writer = FrameWriter(os.fdopen(frames_fd, "wb"))
    orders: Orders = reader.read()
    for fd in fds:
        os.set_inheritable(fd, False)
        orders = replace(orders, listen_fd=fd)
    os.environ.update(orders.variables)
    with contextlib.suppress(OSError):  # another system than Linux: a name for `top` is no more than that
        Path("/proc/self/comm").write_text(f"dtk-rank-{orders.rank}")
    threading.Thread(target=_obey, args=(reader,), daemon=True).start()
    last: tuple[str, Any]
    try:
        last = ("result", _run(orders, writer))
    except BaseException as error:
        last = ("error", _describe(error))
    writer.write(("modules", [name for name in list(sys.modules) if name.startswith("dtk.")]))
    writer.write(last)
    writer.close()
    return int(last[0] == "error")


def leave_process(status: int) -> NoReturn:
    """Exit as Python does, but for taking its modules apart: of torch's alone that takes half a second and more.

    Parameters
    ----------
    status : int
        Of the exit.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # waits for the threads that are no daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _let_go(*fds: int) -> None:
    """Point the pipes of a forked child to nowhere: their ends tell the supervisor that the rank itself is gone."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in fds:
        os.dup2(nowhere, fd, inheritable=False)
    os.close(nowhere)


def _obey(reader: FrameReader) -> None:
    """Do what the supervisor says; where it is gone with its worker, leave, too.

    The end of the pipe tells that at once; where a fork of the worker holds the pipe, too, the parent that is gone
    does: see `START_RANK`.
    """
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            leave(reader.read())
    leave_orphaned()


def leave(reason: str) -> None:
    """Let the rank leave before a next step, if what it runs can.

    Parameters
    ----------
    reason : str
        Why.
    """
    if _current is not None and _current.on_leave is not None:
        _current.on_leave(reason)


def leave_orphaned() -> None:
    """End this process and all it started, once its function has taken a last checkpoint, if it takes any."""
    if _current is not None and _current.on_leave is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for fd in (1, 2):  # their reader is gone, too
            os.dup2(nowhere, fd)
        _current.on_leave("its worker is gone")
        time.sleep(_current.grace_s)
    os.killpg(0, signal.SIGKILL)


def _run(orders: Orders, writer: FrameWriter) -> bytes:
    global _current  # noqa: PLW0603  # one process is one rank

    import cloudpickle
    import torch

    torch.set_num_threads(orders.threads)
    device = "cuda" if orders.backend == "nccl" else "cpu"
    events = Events(orders.rank, orders.ranks, partial(_send, writer, "event"), on_gpu=device == "cuda")
    _current = RankContext(orders.rank, orders.ranks, device, partial(_report, writer, events), orders)
    fn, args, kwargs = unpack(orders.payload)
    events.open(join_group(orders))
    writer.write(("start", None))
    try:
        return cloudpickle.dumps(fn(*args, **kwargs))  # type: ignore[no-any-return]
    finally:
        has_ended_well = sys.exc_info()[0] is None
        if has_ended_well or orders.rank == 0:
            events.close()
        if has_ended_well and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _report(writer: FrameWriter, events: Events, message: dict[str, Any]) -> None:
    _send(writer, "beat", message.get("step"))
    events.tell(message)


def _send(writer: FrameWriter, kind: str, content: Any) -> None:
    with contextlib.suppress(BrokenPipeError):  # the worker is gone; `leave_orphaned` does what there is to do
        writer.write((kind, content))


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
        "awaited": (error.awaited, error.place) if isinstance(error, RanksMissingError) else ((), ""),
        "nature": "timeout" if is_timeout else "effect" if is_effect else "cause",
    }
