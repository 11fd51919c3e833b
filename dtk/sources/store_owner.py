"""Letting one process at a time write to a place in an object store, which has no locks."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from dtk.sources.spool_place import Place

__all__ = ["OWNER", "sole_owner"]

OWNER: Final = ".owner"  # what its name ends with
BEAT_S: Final = 5.0
BEATS: Final = 12  # without a sign of life, after which a process of another host counts as dead
SETTLE_S: Final = 0.25  # two processes that saw nobody have both written by then: the last one has it


@contextmanager
def sole_owner(place: Place, directory: str) -> Iterator[bool]:
    """Own a place in an object store; another process that does is waited for, with a warning.

    Parameters
    ----------
    place : Place
        Of the result.
    directory : str
        Where parts of it are written.

    Yields
    ------
    bool
        Whether another process was waited for: it may have published the result.

    Warns
    -----
    UserWarning
        If another process is waited for.

    Notes
    -----
    An object beside the directory names the owner, who writes it again every few seconds. One that stays as it is has
    a dead owner. No clocks are compared.
    """
    path, own = f"{directory}{OWNER}", uuid.uuid4().hex
    has_waited = False
    while True:
        found = _read(place, path)
        if found is not None and not _is_dead(found):
            if not has_waited:
                warnings.warn(
                    f"path={place.path!r} is being written by process {found['pid']} on {found['host']}; waiting for"
                    " it, to take its result",
                    stacklevel=4,
                )
            has_waited = True
            if _changes(place, path, found):
                continue
        _write(place, path, own, 0)
        time.sleep(SETTLE_S)
        if _is_own(place, path, own):
            break
    ended = threading.Event()
    beats = threading.Thread(target=_beat, args=(place, path, own, ended), name="dtk-spool-owner", daemon=True)
    beats.start()
    try:
        yield has_waited
    finally:
        ended.set()
        beats.join()
        with suppress(OSError):  # a store that fails: nobody waits for long for an owner without signs of life
            if _is_own(place, path, own):
                place.call("rm_file", path)


def _beat(place: Place, path: str, own: str, ended: threading.Event) -> None:
    """Give signs of life, as long as nobody else took the place."""
    number = 0
    while not ended.wait(BEAT_S):
        number += 1
        with suppress(OSError):  # a store that fails for a while: the next beat is another chance
            if not _is_own(place, path, own):
                return
            _write(place, path, own, number)


def _changes(place: Place, path: str, found: dict[str, Any]) -> bool:
    """Wait for a sign of life, or of the owner's end."""
    for _ in range(BEATS):
        time.sleep(BEAT_S)
        if _read(place, path) != found:
            return True
    return False


def _is_dead(found: dict[str, Any]) -> bool:
    """Tell whether a process of this host has ended; of others nothing is known."""
    if found["host"] != socket.gethostname():
        return False
    try:
        os.kill(found["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # of another user
        pass
    return False


def _is_own(place: Place, path: str, own: str) -> bool:
    found = _read(place, path)
    return found is not None and found["id"] == own


def _read(place: Place, path: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(place.cat_file(path))
    except FileNotFoundError:
        return None
    return found


def _write(place: Place, path: str, own: str, beat: int) -> None:
    told = {"id": own, "host": socket.gethostname(), "pid": os.getpid(), "beat": beat}
    place.call("pipe_file", path, json.dumps(told).encode())
