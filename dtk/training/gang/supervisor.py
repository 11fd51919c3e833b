"""The worker's side of a rank: start it, listen to it, end it.

A supervisor is a pinned Dask task. It leaves the worker's event loop free, and it ends its rank when the rank is silent
for too long, holds more memory than its share, or when nobody waits for the task any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from dtk.errors import MemoryLimitError
from dtk.memory import format_nbytes, tree_held_nbytes
from dtk.runtime import PinnedTask
from dtk.training.gang.joining import Orders
from dtk.training.gang.logs import RankLog
from dtk.training.gang.place import RankPlace, rank_environment, rank_variables
from dtk.training.gang.process import RankProcess, start_process
from dtk.training.gang.rank import STACK_SIGNAL
from dtk.training.gang.spares import keep_spare, take_process
from dtk.training.gang.verdict import RankFailure
from dtk.training.gang.wire import FrameReader, FrameWriter

__all__ = ["RankOutcome", "let_leave", "open_rendezvous", "stacks_of", "supervise", "until_gone"]

POLL_S = 0.2
MEMORY_POLL_S = 0.5
MEMORY_POLL_SHARE = 0.05  # of the time at most: the kernel counts what forks share page by page
SILENCE_GRACE_S = 2.0  # a rank that waits in a collective for a silent one times out first, and is not blamed
DRAIN_S = 0.5
STACK_TIMEOUT_S = 1.0
TERM_GRACE_S = 2.0
LOG_LINES = 60
ROUSE_TIMEOUT_S = 30.0  # it may still be loading its libraries
HINTS: dict[int, str] = {
    signal.SIGKILL: " (often the kernel's out-of-memory killer)",
    signal.SIGBUS: " (often a file that was cut off while it was read)",
}

_listening: dict[str, socket.socket] = {}
_running: dict[tuple[str, int], _Child | None] = {}


@dataclass(frozen=True)
class RankOutcome:
    """What a rank brought home.

    Parameters
    ----------
    result : bytes
        What its function returned, by cloudpickle.
    """

    result: bytes


def open_rendezvous(gang: str, host: str) -> int:
    """Bind the socket of the gang's store on the worker of rank 0, and keep it until the rank is started.

    Parameters
    ----------
    gang : str
        The gang's name.
    host : str
        The address to listen on.

    Returns
    -------
    int
        The port. It is taken from now on, so no other process can come between.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.bind((host, 0))
    listening.listen(1024)
    _listening[gang] = listening
    return int(listening.getsockname()[1])


async def until_gone(gang: str, timeout_s: float) -> bool:
    """Wait until no rank of a gang runs on this worker.

    Parameters
    ----------
    gang : str
        The gang's name.
    timeout_s : float
        Seconds to wait at most.

    Returns
    -------
    bool
        Whether all are gone.
    """
    unused = _listening.pop(gang, None)
    if unused is not None:
        unused.close()
    end = time.monotonic() + timeout_s
    while (is_running := any(name == gang for name, _ in list(_running))) and time.monotonic() < end:
        await asyncio.sleep(0.05)
    return not is_running


async def let_leave(gang: str, reason: str) -> None:
    """Ask the ranks of a gang on this worker to leave with a checkpoint.

    Parameters
    ----------
    gang : str
        The gang's name.
    reason : str
        Why.
    """
    for (name, _), child in list(_running.items()):
        if name == gang and child is not None:
            await asyncio.to_thread(child.tell, reason)


async def stacks_of(gang: str) -> dict[int, str]:
    """Ask the ranks of a gang that run on this worker where they are.

    Parameters
    ----------
    gang : str
        The gang's name.

    Returns
    -------
    dict of int to str
        By rank; empty for one that does not answer.
    """
    children = {rank: child for (name, rank), child in list(_running.items()) if name == gang and child is not None}
    stacks = await asyncio.gather(*(asyncio.to_thread(child.stack) for child in children.values()))
    return dict(zip(children, stacks, strict=True))


def supervise(task: PinnedTask, place: RankPlace, payload: bytes) -> RankOutcome | RankFailure:
    """Run a rank to its end.

    Parameters
    ----------
    task : PinnedTask
        The Dask task that this is.
    place : RankPlace
        Where and how the rank runs.
    payload : bytes
        Its function and arguments, by cloudpickle.

    Returns
    -------
    RankOutcome or RankFailure
        How it ended.
    """
    key = (place.gang, place.rank)
    _running[key] = None
    try:
        child = _Child(task, place, payload)
        _running[key] = child
        try:
            ended = child.watch()
        finally:
            child.end()
    finally:
        del _running[key]
    keep_spare(task, rank_environment(place), child.modules, most=place.worker_ranks)
    return ended


def _start(task: PinnedTask, place: RankPlace) -> RankProcess:
    """Take a process that waits already, or start one."""
    listening = _listening.pop(place.gang, None) if place.rank == 0 else None
    with contextlib.nullcontext() if listening is None else listening:
        spare = take_process(task, rank_environment(place))
        if spare is not None:
            if spare.rouse(listening, timeout_s=ROUSE_TIMEOUT_S):
                return spare
            spare.discard()
        started = start_process(rank_environment(place) | rank_variables(place))
        started.rouse(listening)
        return started


class _Child:
    """The rank's process and its pipes, as its supervisor holds them."""

    def __init__(self, task: PinnedTask, place: RankPlace, payload: bytes) -> None:
        self._task = task
        self._place = place
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._frames: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._step = -1
        self._has_started = self._has_result = False
        self.modules: list[str] = []
        """Of dtk, that it has loaded, once it is at its end."""
        self._peak_nbytes = 0
        self._memory_at = self._leave_at = 0.0
        self._heard_at = self._exited_at = float("inf")
        self._started = _start(task, place)
        self._process = self._started.popen
        self._kept_log = RankLog(task.local_directory, place.gang, place.rank)
        self._orders = FrameWriter(self._started.orders.makefile("wb"))
        orders = Orders(
            rank=place.rank,
            ranks=place.ranks,
            host=place.host,
            port=place.port,
            variables=rank_variables(place),
            backend="gloo" if place.gpu is None else "nccl",
            threads=place.threads,
            hang_timeout_s=place.hang_timeout_s,
            join_timeout_s=place.join_timeout_s,
            payload=payload,
            grace_s=place.grace_s,
        )
        self._threads = [
            threading.Thread(target=self._give, args=(orders,), name="dtk-rank-orders", daemon=True),
            threading.Thread(target=self._hear, name="dtk-rank-frames", daemon=True),
            threading.Thread(target=self._follow_log, name="dtk-rank-log", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def watch(self) -> RankOutcome | RankFailure:
        while True:
            try:
                kind, content = self._frames.get(timeout=POLL_S)
            except queue.Empty:
                kind, content = self._look_at_process()
            ended = self._take(kind, content) or self._look()
            if ended is not None:
                return ended

    def _take(self, kind: str, content: Any) -> RankOutcome | RankFailure | None:
        """Act on what the rank told."""
        if kind == "result":
            self._has_result = True
            return RankOutcome(content)
        if kind == "error":
            return self._failure(
                f"raised {content['kind']}: {content['text']}",
                nature=content["nature"],
                traceback=content["traceback"],
                pickled=content["pickled"],
                awaited=content["awaited"],
            )
        if kind == "end":
            return self._failure(f"died: {self._exit_reason()}", traceback="\n".join(self._log))
        if kind == "start":
            self._has_started = True
        if kind == "modules":
            self.modules = content
        if kind == "event":
            self._task.publish(self._place.gang, content | {"memory_nbytes": self._peak_nbytes})
        if kind == "beat" and content is not None:
            self._step = content
        if kind == "beat" or (kind == "start" and self._place.tells_of_start):
            self._heard_at = time.monotonic()
        return None

    def _look_at_process(self) -> tuple[str, Any]:
        """Notice an end that the pipe does not tell, because something that the rank started holds it, too."""
        if self._process.poll() is not None:
            now = time.monotonic()
            self._exited_at = min(self._exited_at, now)
            if now - self._exited_at > DRAIN_S:
                return "end", None
        return "nothing", None

    def _look(self) -> RankFailure | None:
        """Look for what a rank does not tell: that nobody waits for it, that it is silent, that it holds too much."""
        now = time.monotonic()
        if self._task.is_released:
            if self._place.grace_s and self._task.is_closing and not self._leave_at:
                self._leave_at = now + self._place.grace_s  # for a last checkpoint
                self.tell("its worker closes")
            if now >= self._leave_at:
                return self._failure("was stopped: its task was cancelled, or its worker closes", nature="effect")
        if now - self._heard_at > self._place.hang_timeout_s + SILENCE_GRACE_S:
            since = f"step {self._step}" if self._step >= 0 else "it started"
            log = list(self._log)
            return self._failure(
                f"hung: no step for {self._place.hang_timeout_s:g} s after {since}; "
                "raise hang_timeout_s if a step may take that long",
                nature="silence",
                traceback="\n".join([*log, self.stack()]),
            )
        if now >= self._memory_at:
            self._peak_nbytes = max(self._peak_nbytes, tree_held_nbytes(self._process.pid))
            looked = time.monotonic()
            self._memory_at = looked + max(MEMORY_POLL_S, (looked - now) / MEMORY_POLL_SHARE)
            if 0 < self._place.memory_nbytes < self._peak_nbytes:
                return self._over_memory()
        return None

    def tell(self, reason: str) -> None:
        """Ask the rank to leave."""
        with contextlib.suppress(ConnectionError):
            self._orders.write(reason)

    def stack(self) -> str:
        """Let the rank print where it is; empty if it does not answer."""
        if not self._has_started:
            return ""
        self._log.clear()
        self._process.send_signal(STACK_SIGNAL)
        end = time.monotonic() + STACK_TIMEOUT_S
        while time.monotonic() < end and not any(line.startswith("  File ") for line in self._log):
            time.sleep(POLL_S)
        return "\n".join(self._log)

    def end(self) -> None:
        """End the process with everything it started, and give back what this object holds."""
        if self._has_result:  # it is on its way out, and rank 0 may still serve the others' goodbye
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=TERM_GRACE_S)
        asks = [] if self._place.grace_s else [(signal.SIGTERM, TERM_GRACE_S)]  # one that keeps checkpoints would try
        for number, grace_s in (*asks, (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=grace_s)
        for thread in self._threads:
            thread.join(timeout=TERM_GRACE_S)
        with contextlib.suppress(ConnectionError):
            self._orders.close()
        self._started.orders.close()
        self._kept_log.close()

    def _give(self, orders: Orders) -> None:
        """Write what may be large: it is read once the rank has started."""
        with contextlib.suppress(ConnectionError):  # it died at once; watch() says so
            self._orders.write(orders)

    def _hear(self) -> None:
        with os.fdopen(self._started.frames_fd, "rb") as stream:
            reader = FrameReader(stream)
            while True:
                try:
                    self._frames.put(reader.read())
                except EOFError:
                    self._process.wait()
                    self._frames.put(("end", None))
                    return

    def _follow_log(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for raw in lines:
                line = raw.decode(errors="replace").rstrip("\n")
                self._log.append(line)
                self._kept_log.write(line)
                print(f"[rank {self._place.rank}] {line}", flush=True)

    def _over_memory(self) -> RankFailure:
        import cloudpickle

        message = (
            f"held {format_nbytes(self._peak_nbytes)}, more than its share of "
            f"{format_nbytes(self._place.memory_nbytes)}; give dtk.connect more memory, or the loader less"
        )
        return self._failure(message, pickled=cloudpickle.dumps(MemoryLimitError(message)))

    def _exit_reason(self) -> str:
        status = self._process.returncode
        if status is not None and status < 0:
            name = signal.Signals(-status).name
            return f"signal {name}{HINTS.get(-status, '')}"
        return f"exit status {status}"

    def _failure(self, what: str, **fields: Any) -> RankFailure:
        log = "" if self._kept_log.is_empty else str(self._kept_log.path)
        return RankFailure(self._place.rank, what, step=self._step, log=log, **fields)
