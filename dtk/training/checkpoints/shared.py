"""Whether the workers of a gang share the directory of its checkpoints: found out before a rank starts."""

from __future__ import annotations

import asyncio
import socket
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from dtk.errors import CheckpointError
from dtk.runtime import ask_workers
from dtk.training.checkpoints.directory import TOKENS, Checkpoint, CheckpointDirectory

if TYPE_CHECKING:
    from dtk.runtime import Client
    from dtk.training.gang.planning import Gang

__all__ = ["check_shared"]

LOOK_S: Final = 10.0  # what one host has written, another may see a little later
LOOK_POLL_S: Final = 0.25
ANSWER_TIMEOUT_S: Final = 60.0


def check_shared(client: Client, checkpoint: Checkpoint, gang: Gang) -> None:
    """Let the worker of rank 0 write a file, and the others look for it.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    checkpoint : Checkpoint
        Where checkpoints shall be.
    gang : Gang
        Where the ranks will run. A worker that does not answer is another one's matter.

    Raises
    ------
    CheckpointError
        If a worker cannot write there, or sees another directory.
    """
    first, *others = dict.fromkeys(worker.address for worker in gang.workers)
    token = f"{TOKENS}{uuid.uuid4().hex}"

    try:
        written = _ask(client, _write, [first], checkpoint, token)
        for host, fault in written.values():
            if fault:
                raise CheckpointError(f"{fault} (worker {first} on host {host})")
            for address, (where, looked) in _ask(client, _look, others, checkpoint, token).items():
                if looked:
                    raise CheckpointError(
                        f"checkpoint={checkpoint.path!r} is not shared: what worker {first} on host {host} wrote "
                        f"there, worker {address} on host {where} does not find ({looked}); give a directory that all "
                        "workers share"
                    )
    finally:
        _ask(client, _remove, [first], checkpoint, token)


def _ask(
    client: Client, what: Callable[..., Any], workers: list[str], checkpoint: Checkpoint, token: str
) -> dict[str, tuple[str, str]]:
    """Give, by worker, its host's name and what is wrong there."""
    return ask_workers(client, what, workers, checkpoint, token, timeout_s=ANSWER_TIMEOUT_S)


async def _write(checkpoint: Checkpoint, token: str) -> tuple[str, str]:
    """Write the file; give this host's name, and what went wrong."""

    def write() -> str:
        try:
            directory = CheckpointDirectory(checkpoint.path, checkpoint.storage_options)
            directory.check()
            directory.shelf.make("")
            directory.shelf.write(token, b"seen")
        except CheckpointError as error:
            return str(error)
        except Exception as error:  # told to the client, whatever it is
            reason = f"{type(error).__name__}: {error}"
            return (
                f"checkpoint={checkpoint.path!r} cannot be written: {reason}; give a directory that all workers share"
            )
        return ""

    return socket.gethostname(), await asyncio.to_thread(write)


async def _look(checkpoint: Checkpoint, token: str) -> tuple[str, str]:
    """Look for the file; give this host's name, and what is wrong."""

    def look() -> str:
        try:
            shelf = CheckpointDirectory(checkpoint.path, checkpoint.storage_options).shelf
            end = time.monotonic() + LOOK_S
            while token not in shelf.names():
                if time.monotonic() >= end:
                    return "nothing is there"
                time.sleep(LOOK_POLL_S)
        except Exception as error:  # told to the client, whatever it is
            return f"{type(error).__name__}: {error}"
        return ""

    return socket.gethostname(), await asyncio.to_thread(look)


async def _remove(checkpoint: Checkpoint, token: str) -> tuple[str, str]:
    """Remove the file."""

    def remove() -> str:
        try:
            CheckpointDirectory(checkpoint.path, checkpoint.storage_options).shelf.remove(token)
        except Exception as error:
            return str(error)
        return ""

    return socket.gethostname(), await asyncio.to_thread(remove)
