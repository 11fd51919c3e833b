"""The worker's side of a rank: start it, listen to it, end it.

A supervisor is a pinned Dask task. It leaves the worker's event loop free, and it ends its rank when the rank is silent
for too long, holds more memory than its share, or when nobody waits for the task any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dtk.errors import MemoryLimitError
from dtk.memory import format_nbytes, tree_rss_nbytes
from dtk.runtime import PinnedTask
from dtk.training.rank import Orders
from dtk.training.wire import FrameReader, FrameWriter

__all__ = ["RankFailure", "RankOutcome", "RankPlace", "open_rendezvous", "supervise", "until_gone"]

POLL_S = 0.2
MEMORY_POLL_S = 0.5
TERM_GRACE_S = 2.0
LOG_LINES = 60
START_RANK = "import sys; from dtk.training.rank import main; sys.exit(main(*map(int, sys.argv[1:])))"
KEEP_MEMORY_NBYTES = 2**30  # freed memory a rank keeps: a fresh page costs more than the step that needs it

_listening: dict[str, socket.socket] = {}
_running: dict[str, set[int]] = {}


@dataclass(frozen=True)
class RankPlace:
    """Where and how one rank of a gang runs.

    Parameters
    ----------
    gang : str
        Its name, unique in the cluster.
    rank, ranks : int
        Its number, and how many there are.
    local_rank, local_ranks : int
        The same among the ranks of its host.
    threads : int
        For its operators.
    memory_nbytes : int
        The most that its process tree may hold; 0 where there is no limit.
    gpu : str or None
        The one device it sees.
    host, port : str, int
        Of rank 0's store.
    hang_timeout_s : float
        Silence after which it is ended.
    env : mapping
        Set in its environment, over everything else.
    """

    gang: str
    rank: int
    ranks: int
    local_rank: int
    local_ranks: int
    threads: int
    memory_nbytes: int
    gpu: str | None
    host: str
    port: int
    hang_timeout_s: float
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RankOutcome:
    """What a rank brought home.

    Parameters
    ----------
    result : bytes
        What its function returned, by cloudpickle.
    peak_nbytes : int
        The most memory its process tree held, as polled.
    """

    result: bytes
    peak_nbytes: int


@dataclass(frozen=True)
class RankFailure:
    """Why a rank did not finish; a result, not an exception, so that it crosses whatever its class.

    Parameters
    ----------
    rank : int
        Its number.
    worker : str
        Address.
    message : str
        One line.
    traceback : str or None
        As it was in the rank.
    pickled : bytes or None
        The exception itself, by cloudpickle.
    is_effect : bool
        Whether another rank's failure probably caused it.
    step : int
        The last step it told of.
    """

    rank: int
    worker: str
    message: str
    traceback: str | None = None
    pickled: bytes | None = None
    is_effect: bool = False
    step: int = -1


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
    while _running.get(gang) and time.monotonic() < end:
        await asyncio.sleep(0.05)
    return not _running.get(gang)


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
    listening = _listening.pop(place.gang, None) if place.rank == 0 else None
    child = _Child(task, place, payload, listening)
    try:
        return child.watch()
    finally:
        child.end()


class _Child:
    """The rank's process and its pipes, as its supervisor holds them."""

    def __init__(self, task: PinnedTask, place: RankPlace, payload: bytes, listening: socket.socket | None) -> None:
        self._task = task
        self._place = place
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._frames: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._step = -1
        self._has_result = False
        self._peak_nbytes = 0
        self._heard_at: float | None = None  # silence counts from the first beat

        orders_out, orders_in = os.pipe()
        frames_out, frames_in = os.pipe()
        inherited = [orders_out, frames_in]
        if listening is not None:
            inherited.append(listening.fileno())
        self._process = subprocess.Popen(
            [sys.executable, "-c", START_RANK, str(orders_out), str(frames_in)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=inherited,
            env=_environment(place),
            start_new_session=True,
        )
        _running.setdefault(place.gang, set()).add(self._process.pid)
        os.close(orders_out)
        os.close(frames_in)
        self._orders = FrameWriter(os.fdopen(orders_in, "wb"))
        listen_fd = None
        if listening is not None:
            listen_fd = listening.fileno()
            listening.close()
        orders = Orders(
            rank=place.rank,
            ranks=place.ranks,
            host=place.host,
            port=place.port,
            listen_fd=listen_fd,
            backend="gloo" if place.gpu is None else "nccl",
            threads=place.threads,
            hang_timeout_s=place.hang_timeout_s,
            payload=payload,
        )
        self._threads = [
            threading.Thread(target=self._hear, args=(os.fdopen(frames_out, "rb"),), name="dtk-rank-frames"),
            threading.Thread(target=self._follow_log, name="dtk-rank-log"),
        ]
        for thread in self._threads:
            thread.daemon = True
            thread.start()
        with contextlib.suppress(BrokenPipeError):  # it died at once; watch() says so
            self._orders.write(orders)

    def watch(self) -> RankOutcome | RankFailure:
        memory_at = 0.0
        while True:
            try:
                kind, content = self._frames.get(timeout=POLL_S)
            except queue.Empty:
                kind, content = "nothing", None
            if kind == "result":
                self._has_result = True
                self._look_at_memory()
                return RankOutcome(content, self._peak_nbytes)
            if kind == "error":
                return self._failure(
                    f"raised {content['kind']}: {content['text']}",
                    traceback=content["traceback"],
                    pickled=content["pickled"],
                    is_effect=content["is_effect"],
                )
            if kind == "end":
                return self._failure(f"died: {self._exit_reason()}", traceback="\n".join(self._log))
            now = time.monotonic()
            if kind == "beat":
                self._heard_at = now
                self._step = content.get("step", self._step)
                if self._place.rank == 0:
                    self._task.log_event(self._place.gang, content | {"memory_nbytes": self._peak_nbytes})
            if self._task.is_released:
                return self._failure("was stopped", is_effect=True)
            if self._heard_at is not None and now - self._heard_at > self._place.hang_timeout_s:
                return self._failure(
                    f"hung: no step for {self._place.hang_timeout_s:g} s after step {self._step}; "
                    "raise hang_timeout_s if a step may take that long",
                    traceback="\n".join(self._log),
                )
            if now - memory_at >= MEMORY_POLL_S:
                memory_at = now
                self._look_at_memory()
                if 0 < self._place.memory_nbytes < self._peak_nbytes:
                    return self._over_memory()

    def end(self) -> None:
        """End the process with everything it started, and give back what this object holds."""
        if self._has_result:  # it is on its way out, and rank 0 may still serve the others' goodbye
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=TERM_GRACE_S)
        for number, grace_s in ((signal.SIGTERM, TERM_GRACE_S), (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=grace_s)
        with contextlib.suppress(BrokenPipeError):
            self._orders.close()
        for thread in self._threads:
            thread.join(timeout=TERM_GRACE_S)
        ranks = _running[self._place.gang]
        ranks.discard(self._process.pid)
        if not ranks:
            del _running[self._place.gang]

    def _hear(self, stream: Any) -> None:
        reader = FrameReader(stream)
        with stream:
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
                print(f"[rank {self._place.rank}] {line}", flush=True)

    def _look_at_memory(self) -> None:
        self._peak_nbytes = max(self._peak_nbytes, tree_rss_nbytes(self._process.pid))

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
            hint = " (often the kernel's out-of-memory killer)" if -status == signal.SIGKILL else ""
            return f"signal {name}{hint}"
        return f"exit status {status}"

    def _failure(self, what: str, **fields: Any) -> RankFailure:
        rank = self._place.rank
        message = f"rank {rank} on worker {self._task.address} {what}"
        return RankFailure(rank, self._task.address, message, step=self._step, **fields)


def _environment(place: RankPlace) -> dict[str, str]:
    """Build a rank's environment afresh: a nanny's settings make a training process a third slower."""
    threads = str(place.threads)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "DTK_READ_THREADS": threads,
        "MALLOC_TRIM_THRESHOLD_": str(KEEP_MEMORY_NBYTES),
        "MALLOC_MMAP_THRESHOLD_": str(KEEP_MEMORY_NBYTES),
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.ranks),
        "LOCAL_RANK": str(place.local_rank if place.gpu is None else 0),  # a rank sees one GPU, number 0
        "LOCAL_WORLD_SIZE": str(place.local_ranks),
        "MASTER_ADDR": place.host,
        "MASTER_PORT": str(place.port),
        **_interface(place.host),
        **({} if place.gpu is None else {"CUDA_VISIBLE_DEVICES": place.gpu}),
        **place.env,
    }


def _interface(store_host: str) -> dict[str, str]:
    """Name the network interface through which this host reaches rank 0, for gloo and NCCL."""
    import psutil

    family = socket.AF_INET6 if ":" in store_host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((store_host, 9))  # no packet leaves: this only asks for the route
            address = ipaddress.ip_address(probe.getsockname()[0])
        except (OSError, ValueError):
            return {}
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family == family and ipaddress.ip_address(entry.address.split("%")[0]) == address:
                return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}
    return {}
