"""Start a local cluster, join one, or use the one that is there."""

from __future__ import annotations

import ast
import multiprocessing
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from dtk.config import read_model
from dtk.errors import ArgumentError, ClusterError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["RANK_MEMORY_VARIABLE", "ClusterFile", "connect", "current_client"]

RANK_MEMORY_VARIABLE = "DTK_RANK_MEMORY_NBYTES"
"""Set in a worker's environment: bytes that the ranks on this worker may hold together."""

DASHBOARD = "127.0.0.1:8787"


class ClusterFile(BaseModel):
    """What a cluster file (YAML) may say: the arguments of `connect`, by name."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["local", "address", "scheduler-file"] = "local"
    address: str | None = Field(default=None, description="tcp://host:port, for kind: address")
    path: str | None = Field(default=None, description="a Dask scheduler file, for kind: scheduler-file")
    workers: int | None = Field(default=None, ge=1)
    threads: int | None = Field(default=None, ge=1)
    memory: str | int | None = None
    rank_memory: str | int | None = None
    dashboard: str = DASHBOARD


def current_client() -> Client | None:
    """Return the current Dask client, however it was made.

    Returns
    -------
    distributed.Client or None
        None where there is none.
    """
    if "distributed" not in sys.modules:
        return None
    from distributed import default_client

    try:
        client = default_client()
    except ValueError:
        return None
    return client if client.status == "running" else None


def connect(
    cluster: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
    rank_memory: int | str | None = None,
    dashboard: str = DASHBOARD,
    timeout_s: float = 30.0,
) -> Client:
    """Start a cluster on this machine, or join one.

    The client becomes the current one. dtk works as well with any other current client; this only saves typing.

    Parameters
    ----------
    cluster : str or path, optional
        None starts a local cluster sized to this machine. Otherwise the address of a scheduler, such as
        ``"tcp://host:8786"``, or the path of a cluster file (YAML).
    workers : int, optional
        Worker processes of a local cluster.
    threads : int, optional
        Threads of each worker, and of each rank that runs on it.
    memory : int or str, optional
        Bytes for a worker and its ranks together, for example ``"4 GiB"``. By default the machine's memory less a
        tenth, shared among the workers. One half is the worker's limit, the other the ranks'.
    rank_memory : int or str, optional
        The part of `memory` that is for the ranks, in bytes.
    dashboard : str
        Host and port of the dashboard; any free port is taken where this one is not free.
    timeout_s : float
        Seconds to wait for a scheduler that is joined.

    Returns
    -------
    distributed.Client
        Closing it ends a cluster that was started here and leaves one that was joined.

    Raises
    ------
    ArgumentError
        If an argument, or the cluster file, is wrong.
    ClusterError
        If no scheduler answers, or a script lacks its ``if __name__ == "__main__":`` guard.

    Examples
    --------
    >>> with connect(workers=1, threads=1, memory="1 GiB") as client:  # doctest: +SKIP
    ...     print(client.dashboard_link)
    http://127.0.0.1:8787/status
    """
    if cluster is not None:
        text = os.fspath(cluster)
        given = {"workers": workers, "threads": threads, "memory": memory, "rank_memory": rank_memory}
        surplus = [name for name, value in given.items() if value is not None]
        if surplus:
            raise ArgumentError(f"{surplus[0]}={given[surplus[0]]!r} sizes a local cluster; leave it out with {text!r}")
        if "://" in text:
            return _join(text, timeout_s)
        return _from_file(Path(text), timeout_s)
    for name, count in (("workers", workers), ("threads", threads)):
        if count is not None and count < 1:
            raise ArgumentError(f"{name}={count} must be at least 1")
    _refuse_unguarded_script()
    from dtk.runtime.local import start_local

    client = start_local(workers, threads, memory, rank_memory, _free_address(dashboard))
    print(f"dashboard: {client.dashboard_link}", file=sys.stderr, flush=True)
    return client


def _from_file(path: Path, timeout_s: float) -> Client:
    settings = read_model(path, ClusterFile)
    if settings.kind == "local":
        return connect(
            workers=settings.workers,
            threads=settings.threads,
            memory=settings.memory,
            rank_memory=settings.rank_memory,
            dashboard=settings.dashboard,
        )
    if settings.kind == "address":
        if settings.address is None:
            raise ArgumentError(f"{path}: address is missing; kind 'address' needs one such as tcp://host:8786")
        return _join(settings.address, timeout_s)
    if settings.path is None or not (path.parent / settings.path).is_file():
        raise ArgumentError(f"{path}: path={settings.path!r} is no scheduler file; start the scheduler first")
    return _join(str(path.parent / settings.path), timeout_s)


def _join(address: str, timeout_s: float) -> Client:
    from distributed import Client

    try:
        if "://" in address:
            client = Client(address, timeout=timeout_s)
        else:
            client = Client(scheduler_file=address, timeout=timeout_s)
    except (OSError, TimeoutError) as error:
        raise ClusterError(
            f"cluster={address!r} does not answer within {timeout_s:g} s; is the scheduler running there? ({error})"
        ) from None
    except ValueError as error:
        raise ArgumentError(f"cluster={address!r} is no address of a scheduler: {error}") from None
    print(f"dashboard: {client.dashboard_link}", file=sys.stderr, flush=True)
    return client


def _free_address(dashboard: str) -> str:
    """Keep the wanted address of the dashboard if it is free, else any free port of the same host."""
    host, _, port = dashboard.rpartition(":")
    if not port.isdigit():
        raise ArgumentError(f"dashboard={dashboard!r} must be host:port, for example {DASHBOARD!r}")
    host = host or "127.0.0.1"
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError:
            port = "0"
    return f"{host}:{port}"


def _refuse_unguarded_script() -> None:
    """Refuse to start processes from a script that each of them would run again.

    Worker processes import the main script. One that calls `connect` outside ``if __name__ == "__main__":`` would
    start a cluster in each worker; Python stops that with hundreds of lines of traceback.
    """
    message = (
        "dtk.connect() starts worker processes, which import this script again; "
        'put the code that calls it under `if __name__ == "__main__":`'
    )
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ClusterError(message)
    main = sys.modules.get("__main__")
    path = getattr(main, "__file__", None)
    frame = sys._getframe()
    while frame is not None and not (frame.f_code.co_name == "<module>" and frame.f_globals is vars(main)):
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None or path is None or not path.endswith(".py") or not os.path.isfile(path):
        return
    line = frame.f_lineno
    for statement in ast.parse(Path(path).read_text(encoding="utf-8")).body:
        if statement.lineno <= line <= (statement.end_lineno or line):
            names = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
            if not (isinstance(statement, ast.If) and "__name__" in names):
                raise ClusterError(f"{path}:{line}: {message}")
