"""Start a local cluster, join one, or use the one that is there."""

from __future__ import annotations

import ast
import multiprocessing
import os
import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from dtk.config import read_model
from dtk.errors import ArgumentError, ClusterError
from dtk.memory import parse_nbytes

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["RANK_MEMORY_VARIABLE", "ClusterFile", "connect", "current_client"]

RANK_MEMORY_VARIABLE = "DTK_RANK_MEMORY_NBYTES"
"""Set in a worker's environment: bytes that the ranks on this worker may hold together."""

DASHBOARD = "127.0.0.1:8787"


SETTINGS: Final = {
    "address": ("address",),
    "scheduler-file": ("path",),
    "local": ("workers", "threads", "memory", "rank_memory", "dashboard"),
}
"""What a cluster file of each kind may say beside its kind."""


class ClusterFile(BaseModel):
    """What a cluster file (YAML) may say: the arguments of `connect`, by name."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["local", "address", "scheduler-file"] = Field(description="by default, what the settings belong to")
    address: str | None = Field(default=None, description="tcp://host:port", validate_default=True)
    path: str | None = Field(default=None, description="a Dask scheduler file", validate_default=True)
    workers: int | None = Field(default=None, ge=1)
    threads: int | None = Field(default=None, ge=1)
    memory: str | int | None = None
    rank_memory: str | int | None = None
    dashboard: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _infer_kind(cls, content: Any) -> Any:
        if not isinstance(content, dict) or "kind" in content:
            return content
        return {"kind": next((kind for kind in SETTINGS if {*SETTINGS[kind]} & {*content}), "local")} | content

    @field_validator("memory", "rank_memory", mode="before")
    @classmethod
    def _be_a_size(cls, value: Any) -> Any:
        try:
            return value if value is None else parse_nbytes(value, name="")
        except ArgumentError as error:
            raise ValueError(str(error).removeprefix(f"={value!r} ")) from None

    @field_validator("address", "path", *SETTINGS["local"], mode="before")
    @classmethod
    def _belong_to_kind(cls, value: Any, info: ValidationInfo) -> Any:
        kind = info.data.get("kind", "local")  # this check comes first: pydantic calls the last one first
        is_in_place = info.field_name in SETTINGS[kind]
        if value is None and is_in_place and kind != "local":
            raise ValueError(f"kind: {kind} needs it")
        if value is not None and not is_in_place and "kind" in info.data:
            raise ValueError(f"does not go with kind: {kind}, which takes {', '.join(SETTINGS[kind])}")
        return value


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
    dashboard: str | None = None,
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
    dashboard : str, optional
        Host and port of the dashboard, by default ``"127.0.0.1:8787"``; any free port is taken where this one is not
        free.
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
        if not isinstance(cluster, (str, os.PathLike)):
            raise ArgumentError(
                f"cluster={cluster!r} must be an address or the path of a cluster file; for a cluster that you made, "
                "make a distributed.Client(cluster): dtk uses the current client"
            )
        text = os.fspath(cluster)
        given = (workers, threads, memory, rank_memory, dashboard)
        for name, value in zip(SETTINGS["local"], given, strict=True):
            if value is not None:
                raise ArgumentError(f"{name}={value!r} is for a local cluster; leave it out with {text!r}")
        if "://" in text:
            return _join(text, timeout_s)
        if re.fullmatch(r"[\w.-]+:\d+", text) and not os.path.exists(text):
            raise ArgumentError(f"cluster={text!r} is no file; did you mean 'tcp://{text}'?")
        return _from_file(Path(text), timeout_s)
    for name, count in (("workers", workers), ("threads", threads)):
        if count is not None and count < 1:
            raise ArgumentError(f"{name}={count} must be at least 1")
    _refuse_unguarded_script()
    from dtk.runtime.local import start_local

    client = start_local(workers, threads, memory, rank_memory, _free_address(dashboard or DASHBOARD))
    print(f"dashboard: {client.dashboard_link}", file=sys.stderr, flush=True)
    return client


def _from_file(path: Path, timeout_s: float) -> Client:
    settings = read_model(path, ClusterFile)
    if settings.kind == "local":
        return connect(**settings.model_dump(include={*SETTINGS["local"]}))
    if settings.address is not None:
        return _join(settings.address, timeout_s)
    assert settings.path is not None  # the model has seen to it
    if not (path.parent / settings.path).is_file():
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
    if not port.isdigit() or int(port) > 65535:
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
